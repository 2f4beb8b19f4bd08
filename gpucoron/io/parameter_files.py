"""Read parameter files (``pars-*``) from CRDS or from the user.

stpipe reads the files, and their contents are checked against the parameters of the steps. The engine uses them as
dictionaries, ``.call()`` and ``strun`` as a configuration of stpipe.
"""

import difflib
import logging
import os
from functools import lru_cache
from pathlib import Path

from gpucoron.errors import ParameterError, ReferenceFileError
from gpucoron.files import first_line
from gpucoron.io.crds_lookup import look_up
from gpucoron.parameters import BASED_ON_JWST, PIPELINE, convert
from gpucoron.steps import STEPS
from gpucoron.steps.declaration import COMMON

log = logging.getLogger(__name__)

#: environment variable that disables CRDS parameter files in stpipe
DISABLED_BY = "STPIPE_DISABLE_CRDS_STEPPARS"

#: parameters in the file of a pipeline that only ``.call`` and ``strun`` use
_PIPELINE_ONLY = {"skip", "save_results", "backend", "max_memory", *(parameter.name for parameter in COMMON)}
#: parameter of a pipeline that would change a run -> its value without an effect
_UNUSED_UNLESS: dict[str, object] = {
    "pre_hooks": [],
    "post_hooks": [],
    "output_file": None,
    "output_dir": None,
    "output_ext": ".fits",
    "suffix": None,
    "output_use_model": False,
    "search_output_file": True,
    "skip": False,
    "backend": "auto",
    "max_memory": None,
}

#: class names of the pipelines whose files apply
_PIPELINES = ("Detector1Pipeline", "Coron1Pipeline", "Coron1Pipeline_spaceKLIP")

#: entries that stpipe adds to the parameters
_HEAD = ("class", "name", "steps")

_ADVICE_ON_CRDS = (
    "the file may be for a newer jwst: update gpucoron, use an older context (CRDS_CONTEXT), or disable CRDS "
    f"parameter files (--no-pars, use_pars=False, {DISABLED_BY}=true) and give a copy of the file without it "
    "(--pars FILE, pars=FILE; for .call and strun a configuration file)"
)
_ADVICE_ON_OWN = "remove it from the file"


def crds_pars_disabled():
    """Return whether the environment disables CRDS parameter files, by the rules of stpipe."""
    value = os.environ.get(DISABLED_BY, "")
    if not value:
        return False
    from stpipe.step import get_disable_crds_steppars

    disabled = get_disable_crds_steppars()
    if not disabled and value.lower() not in ("false", "f", "no", "n", "0"):
        log.warning("%s=%s has no effect, as in stpipe: only true, True, t, yes and y are accepted", DISABLED_BY, value)
    return disabled


def takes_crds_pars(profile, use_pars=None):
    """Return whether CRDS parameter files apply; by default in profiles based on jwst, as in jwst's .call()."""
    return profile in BASED_ON_JWST and not crds_pars_disabled() if use_pars is None else bool(use_pars)


def as_paths(pars):
    """Return the absolute paths of the parameter files of a user (None, a path, or a sequence of paths)."""
    given = [] if pars is None else [pars] if isinstance(pars, (str, Path)) else pars
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, (str, Path)) and str(one) for one in given):
        msg = f"pars: expected the path of a parameter file, or a list of paths, got {pars!r}"
        raise ParameterError(msg)
    return [os.path.abspath(path) for path in given]


def parameters_from_crds(exposure):
    """Read the CRDS parameter files for an exposure, and combine them as jwst's ``.call()`` does.

    jwst looks up ``pars-<class>`` of each step and of the pipeline. The file of the pipeline overrides those of steps.

    Returns
    -------
    steps : dict of dicts
        step -> parameter -> value.
    pipeline : dict
        Parameters of the run as a whole.
    files : list of str
        Names of the files that were applied.

    Raises
    ------
    ParameterError
        A file sets a step or a parameter that does not exist.
    ReferenceFileError
        A file that CRDS selects is damaged, or is not in the cache and cannot be downloaded.
    """
    types = {step.name: step.pars_type for step in STEPS.values() if not step.custom}
    found = _find_all(exposure.meta.get_crds_parameters(), {**types, None: "pars-detector1pipeline"}, exposure.name)
    steps, run_parameters = {}, {}
    for step_name, path in found.items():
        _add(steps, run_parameters, _read(path), Path(path).name, step_name, _ADVICE_ON_CRDS)
        log.info("%s: parameter file applied: %s", exposure.name, path)
    return steps, run_parameters, [Path(path).name for path in found.values()]


def parameters_from_files(pars):
    """Read parameter files given by the user, of steps or pipelines; later files override earlier ones.

    Parameters
    ----------
    pars : str, Path, sequence of them or None
        ASDF files from CRDS or from ``strun --save-parameters``, or ``.cfg`` files of older stpipe.

    Returns
    -------
    steps, pipeline, files
        As `parameters_from_crds`, but with absolute paths.

    Raises
    ------
    ParameterError
        A file does not exist, is not a parameter file of stage 1, or sets a parameter that does not exist.
    """
    steps, run_parameters, paths = {}, {}, as_paths(pars)
    for path in paths:
        if not os.path.isfile(path):
            msg = f"{path}: no such parameter file"
            raise ParameterError(msg)
        try:
            config = _read(path)
        except ReferenceFileError as error:
            raise ParameterError(str(error)) from error
        _add(steps, run_parameters, config, path, _step_of(config, path), _ADVICE_ON_OWN)
    return steps, run_parameters, paths


def config_from_crds(stpipe_class, metadata):
    """Make the configuration of stpipe's ``.call()`` and ``strun`` from the CRDS parameter files for an exposure.

    If CRDS fails, stpipe continues with defaults; here, a file that CRDS selects and cannot deliver is an error.

    Parameters
    ----------
    stpipe_class : type
        A pipeline or a step.
    metadata : dict or None
        The metadata of the exposure for the look-up; None applies no files.

    Returns
    -------
    config : ConfigObj
    files : list of str
        Names of the files that were applied.

    Raises
    ------
    ParameterError, ReferenceFileError
        As for `parameters_from_crds`.
    """
    from stpipe.config_parser import ConfigObj, merge_config

    parts = dict(getattr(stpipe_class, "step_defs", {}))
    types = {name: part.get_config_reftype() for name, part in parts.items()}
    # custom steps have no files in CRDS
    types = {name: pars_type for name, pars_type in types.items() if pars_type != "pars-"}
    types[None] = stpipe_class.get_config_reftype()
    config = ConfigObj()
    if parts:
        merge_config(config, {"steps": {name: ConfigObj() for name in parts}})
    if metadata is None or types[None] == "pars-":
        return config, []
    found = _find_all(metadata, types, metadata.get("meta.filename", "exposure"))
    for step_name, path in found.items():
        read, name = _read(path), Path(path).name
        if step_name is None:
            _check_spec(read, name, stpipe_class, stpipe_class.__name__ if parts else stpipe_class.class_alias)
            for part, section in read.get("steps", {}).items():
                _check_known(name, part, [], parts, _ADVICE_ON_CRDS)
                _check_spec(section, name, parts[part], part)
            merge_config(config, read)
        else:
            _check_spec(read, name, parts[step_name], step_name)
            merge_config(config["steps"][step_name], read)
        log.info("%s parameters found: %s", types[step_name].upper(), path)
    return config, [Path(path).name for path in found.values()]


def _find_all(metadata, types, owner):
    """Look parameter files up in CRDS: step (None: the pipeline) -> path, for those that exist.

    As in jwst, it is no error if the context does not have the type, or no rule for this exposure.
    """
    paths, unmatched = look_up(metadata, types.values(), owner)
    for pars_type, reason in unmatched.items():
        log.debug("%s: no %s (%s)", owner, pars_type, reason)
    return {name: paths[pars_type] for name, pars_type in types.items() if paths.get(pars_type, "N/A") != "N/A"}


def _read(path):
    """Read a parameter file as a configuration of stpipe."""
    from stpipe.config_parser import load_config_file

    try:
        config = load_config_file(str(path))
        if "class" not in config:
            msg = "it has no entry class"
            raise ValueError(msg)
    except Exception as error:  # a damaged file can raise almost anything
        msg = (
            f"{path}: damaged, or not a parameter file ({first_line(error)}); give a file such as CRDS's "
            "pars-jumpstep, or one written by strun --save-parameters"
        )
        raise ReferenceFileError(msg) from error
    return config


def _step_of(config, path):
    """Return the name of the step that a file is for; None for a pipeline."""
    class_name, name = config["class"].rpartition(".")[2], config.get("name", "")
    if class_name in _PIPELINES:
        return None
    for step in STEPS.values():
        if class_name.removesuffix("_spaceKLIP") == step.class_name:
            return step.name
    if name in STEPS:
        return name
    msg = f"{path}: holds parameters of {config['class']}, which is not a step of stage 1"
    raise ParameterError(msg)


def _add(steps, run_parameters, config, file_name, step_name, advice):
    """Add the parameters of a file to step -> parameter -> value, or to the parameters of the run."""
    if step_name is not None:
        steps.setdefault(step_name, {}).update(_checked(file_name, step_name, _values(config), advice))
        return
    run_parameters.update(_checked_run_parameters(file_name, _values(config), advice))
    for name, section in config.get("steps", {}).items():
        steps.setdefault(name, {}).update(_checked(file_name, name, _values(section), advice))


def _values(config):
    return {name: value for name, value in config.items() if name not in _HEAD}


def _checked(file_name, step_name, values, advice):
    known = _check_known(file_name, step_name, values, STEPS, advice)
    # skip: null in a pars file means "as the step's default"
    kept = {name: value for name, value in values.items() if not (name == "skip" and value is None)}
    return _converted(file_name, step_name, kept, known)


def _check_known(file_name, step_name, names, table, advice):
    """Refuse a step or parameters that do not exist; return the parameters of the step."""
    if step_name not in table:
        _refuse(file_name, step_name, table, advice)
    known = STEPS[step_name].known
    for name in sorted(set(names) - set(known)):
        _refuse(file_name, name, known, advice, owner=f"{step_name}.")
    return known


def _refuse(file_name, name, known, advice, owner=""):
    """Refuse a name, and suggest a similar one if there is any."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    msg = f"{file_name}: sets {owner}{name}, which does not exist{hint}; {advice}"
    raise ParameterError(msg)


def _checked_run_parameters(file_name, values, advice):
    known = {parameter.name: parameter for parameter in PIPELINE}
    for name, value in values.items():
        if name not in known and name not in _PIPELINE_ONLY:
            _refuse(file_name, name, known, advice)
        if name in _UNUSED_UNLESS and value not in (_UNUSED_UNLESS[name], None):
            _warn_of_unused(file_name, name, repr(value))
    return _converted(file_name, "run", {name: value for name, value in values.items() if name in known}, known)


@lru_cache
def _warn_of_unused(file_name, name, value):
    """Warn of a parameter without effect, once per file, because each exposure reads it."""
    log.warning("%s: %s=%s of a pipeline has no effect here, only in .call and strun", file_name, name, value)


def _converted(file_name, owner, values, known):
    """Convert values to the kinds of their parameters; errors name the file."""
    try:
        return {name: convert(known[name], value, owner) for name, value in values.items()}
    except ParameterError as error:
        msg = f"{file_name}: {error}"
        raise ParameterError(msg) from None


def _check_spec(config, file_name, stpipe_class, owner):
    """Refuse parameters that a stpipe class does not have; the message names the file, unlike that of stpipe."""
    known = set(stpipe_class.load_spec_file())
    for name in _values(config):
        if name not in known:
            _refuse(file_name, name, known, _ADVICE_ON_CRDS, owner=f"{owner}.")
