"""Parameter files (``pars-*``): those that CRDS holds for an exposure, and those that a user gives.

They are read as stpipe reads them, and checked against what the steps know. The engine takes them as dictionaries,
``.call()`` and ``strun`` as stpipe's configuration.
"""

import difflib
import logging
import os
from functools import lru_cache
from pathlib import Path

from gpucoron.errors import ParameterError, ReferenceFileError
from gpucoron.files import first_line
from gpucoron.io.crds_lookup import look_up
from gpucoron.parameters import PIPELINE, convert
from gpucoron.steps import STEPS
from gpucoron.steps.declaration import COMMON

log = logging.getLogger(__name__)

#: the variable by which stpipe leaves CRDS's parameter files out
DISABLED_BY = "STPIPE_DISABLE_CRDS_STEPPARS"

#: what the file of a pipeline may hold that is for ``.call`` and ``strun`` alone
_PIPELINE_ONLY = {"skip", "save_results", "backend", "max_memory", *(parameter.name for parameter in COMMON)}
#: of this, what would change a run, unless it has this value
_UNUSED_UNLESS = {
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

#: pipelines whose files apply, by the class's name
_PIPELINES = ("Detector1Pipeline", "Coron1Pipeline", "Coron1Pipeline_spaceKLIP")

#: what stpipe itself writes beside the parameters
_HEAD = ("class", "name", "steps")

_ADVICE_ON_CRDS = (
    "the file may be for a newer jwst: update gpucoron, take an older context (CRDS_CONTEXT), or leave CRDS's "
    f"parameter files out (--no-pars, use_pars=False, {DISABLED_BY}=true) and give a copy of this one without it "
    "(--pars FILE, pars=FILE; for .call and strun a configuration file)"
)
_ADVICE_ON_OWN = "take it out of the file"


def crds_pars_disabled():
    """Tell whether the environment leaves CRDS's parameter files out, as stpipe reads it."""
    value = os.environ.get(DISABLED_BY, "")
    if not value:
        return False
    from stpipe.step import get_disable_crds_steppars

    disabled = get_disable_crds_steppars()
    if not disabled and value.lower() not in ("false", "f", "no", "n", "0"):
        log.warning("%s=%s has no effect, as in stpipe: it takes true, True, t, yes and y", DISABLED_BY, value)
    return disabled


def takes_crds_pars(profile, use_pars=None):
    """Tell whether CRDS's parameter files apply: unless it is said, in the ``jwst`` profile, as in jwst's .call()."""
    return profile == "jwst" and not crds_pars_disabled() if use_pars is None else bool(use_pars)


def as_paths(pars):
    """List the parameter files that a user gives: None, a path, or a sequence of paths -> absolute paths."""
    given = [] if pars is None else [pars] if isinstance(pars, (str, Path)) else pars
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, (str, Path)) and str(one) for one in given):
        msg = f"pars: expected the path of a parameter file, or a list of paths, got {pars!r}"
        raise ParameterError(msg)
    return [os.path.abspath(path) for path in given]


def parameters_from_crds(exposure):
    """Read the parameter files that CRDS holds for an exposure, as jwst's ``.call()`` applies them.

    jwst asks for ``pars-<class>`` of each step and of the pipeline, and lets the pipeline's file overrule the steps'.

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
        A file that CRDS names is damaged, or is not in the cache and cannot be fetched.
    """
    types = {step.name: step.pars_type for step in STEPS.values() if not step.custom}
    found = _find_all(exposure.meta.get_crds_parameters(), {**types, None: "pars-detector1pipeline"}, exposure.name)
    steps, of_run = {}, {}
    for step_name, path in found.items():
        _add(steps, of_run, _read(path), Path(path).name, step_name, _ADVICE_ON_CRDS)
        log.info("%s: parameter file applied: %s", exposure.name, path)
    return steps, of_run, [Path(path).name for path in found.values()]


def parameters_from_files(pars):
    """Read parameter files of the user's, of single steps or of pipelines; a later one overrules.

    Parameters
    ----------
    pars : str, Path, sequence of them or None
        ASDF files as CRDS has them or as ``strun --save-parameters`` writes them; stpipe's older ``.cfg``, too.

    Returns
    -------
    steps, of_run, files
        As from `parameters_from_crds`; the files' absolute paths.

    Raises
    ------
    ParameterError
        A file does not exist, is no parameter file or none of stage 1, or sets what does not exist.
    """
    steps, of_run, paths = {}, {}, as_paths(pars)
    for path in paths:
        if not os.path.isfile(path):
            msg = f"{path}: there is no such parameter file"
            raise ParameterError(msg)
        try:
            config = _read(path)
        except ReferenceFileError as error:
            raise ParameterError(str(error)) from error
        _add(steps, of_run, config, path, _step_of(config, path), _ADVICE_ON_OWN)
    return steps, of_run, paths


def merge(*layers):
    """Merge step -> parameter -> value; later layers decide."""
    merged = {}
    for layer in layers:
        for step_name, values in layer.items():
            merged[step_name] = {**merged.get(step_name, {}), **values}
    return merged


def config_from_crds(stpipe_class, about):
    """Make the configuration that stpipe's ``.call()`` and ``strun`` take from CRDS's files for an exposure.

    stpipe goes on with defaults where CRDS fails; here a file that CRDS names and that cannot be had is an error.

    Parameters
    ----------
    stpipe_class : type
        A pipeline or a step.
    about : dict or None
        What CRDS looks references up by; None asks for nothing.

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
    types = {name: pars_type for name, pars_type in types.items() if pars_type != "pars-"}  # a custom step has none
    types[None] = stpipe_class.get_config_reftype()
    config = ConfigObj()
    if parts:
        merge_config(config, {"steps": {name: ConfigObj() for name in parts}})
    if about is None or types[None] == "pars-":
        return config, []
    found = _find_all(about, types, about.get("meta.filename", "exposure"))
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


def _find_all(about, types, owner):
    """Ask CRDS for parameter files: step (None: the pipeline) -> path, for those that there are.

    A type that the context does not know, or has no rule for this exposure, is no fault, as in jwst.
    """
    paths, unmatched = look_up(about, types.values(), owner)
    for pars_type, reason in unmatched.items():
        log.debug("%s: no %s (%s)", owner, pars_type, reason)
    return {name: paths[pars_type] for name, pars_type in types.items() if paths.get(pars_type, "N/A") != "N/A"}


def _read(path):
    """Read a parameter file into stpipe's configuration."""
    from stpipe.config_parser import load_config_file

    try:
        config = load_config_file(str(path))
        if "class" not in config:
            msg = "it names no class"
            raise ValueError(msg)
    except Exception as error:  # a damaged file shows as almost any error
        msg = (
            f"{path}: damaged, or no parameter file ({first_line(error)}); it must be as CRDS's pars-jumpstep, or as "
            "strun --save-parameters writes it"
        )
        raise ReferenceFileError(msg) from error
    return config


def _step_of(config, path):
    """Tell which step a file is for; None for a pipeline."""
    class_name, name = config["class"].rpartition(".")[2], config.get("name", "")
    if class_name in _PIPELINES:
        return None
    for step in STEPS.values():
        if class_name.removesuffix("_spaceKLIP") == step.class_name:
            return step.name
    if name in STEPS:
        return name
    msg = f"{path}: holds parameters of {config['class']}, which is no step of stage 1"
    raise ParameterError(msg)


def _add(steps, of_run, config, file_name, step_name, advice):
    """Add what a file sets to step -> parameter -> value, or to the parameters of the run."""
    if step_name is not None:
        steps.setdefault(step_name, {}).update(_known(file_name, step_name, _values(config), advice))
        return
    of_run.update(_known_of_run(file_name, _values(config), advice))
    for name, section in config.get("steps", {}).items():
        steps.setdefault(name, {}).update(_known(file_name, name, _values(section), advice))


def _values(config):
    return {name: value for name, value in config.items() if name not in _HEAD}


def _known(file_name, step_name, values, advice):
    known = _check_known(file_name, step_name, values, STEPS, advice)
    # skip: null in a pars file means "as the step's default"
    kept = {name: value for name, value in values.items() if not (name == "skip" and value is None)}
    return _converted(file_name, step_name, kept, known)


def _check_known(file_name, step_name, names, table, advice):
    """Refuse a step, or parameters of it, that do not exist; the known parameters of the step."""
    if step_name not in table:
        _refuse(file_name, step_name, table, advice)
    known = STEPS[step_name].known
    for name in sorted(set(names) - set(known)):
        _refuse(file_name, name, known, advice, owner=f"{step_name}.")
    return known


def _refuse(file_name, name, known, advice, owner=""):
    """Refuse a name; a new one of a newer jwst is like no other, so that only a near one is suggested."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    msg = f"{file_name}: sets {owner}{name}, which does not exist{hint}; {advice}"
    raise ParameterError(msg)


def _known_of_run(file_name, values, advice):
    known = {parameter.name: parameter for parameter in PIPELINE}
    for name, value in values.items():
        if name not in known and name not in _PIPELINE_ONLY:
            _refuse(file_name, name, known, advice)
        if name in _UNUSED_UNLESS and value not in (_UNUSED_UNLESS[name], None):
            _say_unused(file_name, name, repr(value))
    return _converted(file_name, "run", {name: value for name, value in values.items() if name in known}, known)


@lru_cache
def _say_unused(file_name, name, value):
    """Warn of what has no effect, once for a file: each exposure of a run reads it."""
    log.warning("%s: %s=%s of a pipeline has no effect here: it is for .call and strun", file_name, name, value)


def _converted(file_name, owner, values, known):
    """Convert values to the kinds of their parameters; what cannot be is told with the file's name."""
    try:
        return {name: convert(known[name], value, owner) for name, value in values.items()}
    except ParameterError as error:
        msg = f"{file_name}: {error}"
        raise ParameterError(msg) from None


def _check_spec(config, file_name, stpipe_class, owner):
    """Refuse what a stpipe class does not know; stpipe would, without the file's name."""
    known = set(stpipe_class.load_spec_file())
    for name in _values(config):
        if name not in known:
            _refuse(file_name, name, known, _ADVICE_ON_CRDS, owner=f"{owner}.")
