"""CRDS's parameter files (``pars-*``): looked up for an exposure, read, and checked against what the steps know."""

import logging
from pathlib import Path

from gpucoron.errors import ParameterError, ReferenceFileError
from gpucoron.files import first_line
from gpucoron.io.references import _ask_crds
from gpucoron.parameters import PIPELINE
from gpucoron.steps import STEPS, declared

log = logging.getLogger(__name__)

#: what a pars file from CRDS may carry for stpipe alone
_STPIPE_ONLY = {
    "pre_hooks",
    "post_hooks",
    "output_file",
    "output_dir",
    "output_ext",
    "output_use_model",
    "output_use_index",
    "suffix",
    "search_output_file",
    "input_dir",
}


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
    """
    steps, files = {}, []
    own = [step for step in STEPS.values() if not step.custom]
    paths = _pars_paths(exposure, [step.pars_type for step in own] + ["pars-detector1pipeline"])
    for step in own:
        tree, name = _pars_file(exposure, step.pars_type, paths)
        if tree:
            steps[step.name] = _known(name, step.name, tree.get("parameters", {}))
            files.append(name)
    tree, name = _pars_file(exposure, "pars-detector1pipeline", paths)
    pipeline = {}
    if tree:
        files.append(name)
        known = {parameter.name for parameter in PIPELINE}
        pipeline = {key: value for key, value in tree.get("parameters", {}).items() if key in known}
        for entry in tree.get("steps", []):
            steps.setdefault(entry["name"], {}).update(_known(name, entry["name"], entry.get("parameters", {})))
    return steps, pipeline, files


def _pars_paths(exposure, pars_types):
    """Ask CRDS for parameter files in one call; where that fails, one by one: type -> path or 'N/A'."""
    try:
        return _ask_crds(exposure, pars_types)
    except ReferenceFileError:
        paths = {}
    for pars_type in pars_types:
        try:
            paths |= _ask_crds(exposure, [pars_type])
        except ReferenceFileError as error:
            # a context without this type is no fault: jwst goes on with its defaults
            log.debug("%s: no %s (%s)", exposure.name, pars_type, error.__cause__)
    return paths


def _pars_file(exposure, pars_type, paths):
    path = paths.get(pars_type, "N/A")
    if path == "N/A":
        return None, ""
    import asdf

    try:
        with asdf.open(path) as file:
            tree = {"parameters": dict(file.tree.get("parameters", {}))}
            tree["steps"] = [
                {"name": entry["name"], "parameters": dict(entry.get("parameters", {}))}
                for entry in file.tree.get("steps", [])
            ]
    except Exception as error:  # a damaged file shows as almost any error
        msg = f"{path}: the {pars_type} file of {exposure.name} is damaged ({first_line(error)}); fetch it again"
        raise ReferenceFileError(msg) from error
    log.info("%s: %s applied: %s", exposure.name, pars_type, path)
    return tree, Path(path).name


def _known(file_name, step_name, values):
    try:
        known = declared(step_name)
    except ParameterError as error:
        msg = f"{file_name}: {error}"
        raise ParameterError(msg) from None
    unknown = set(values) - set(known) - _STPIPE_ONLY
    if unknown:
        msg = f"{file_name}: sets {step_name}.{min(unknown)}, which does not exist; gpucoron may be older than the file"
        raise ParameterError(msg)
    # skip: null in a pars file means "as the step's default"
    return {
        name: value
        for name, value in values.items()
        if name not in _STPIPE_ONLY and not (name == "skip" and value is None)
    }
