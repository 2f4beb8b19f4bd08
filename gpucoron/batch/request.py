"""The user's request to a batch, and whether existing products were made with the same request.

A request holds the user's settings: the profile, the given parameters, the contents of the files that they name, and
whether CRDS parameter files apply. Defaults, profiles and CRDS files change with versions and contexts, which are
compared separately. So a new parameter or a new default makes no product outdated.
"""

import hashlib
import json
import os
from functools import lru_cache

from gpucoron import __version__
from gpucoron.batch import persistence
from gpucoron.files import file_digest
from gpucoron.parameters import PIPELINE, changed, convert
from gpucoron.records.commands import find_parameter
from gpucoron.steps import STEPS

#: old names of steps ('step') and parameters ('step.parameter') -> their current names
RENAMED: dict[str, str] = {}

_RUN_PARAMETERS = {parameter.name: parameter for parameter in PIPELINE}
_MISSING = object()
_MOST_NAMED = 4


def changed_parameters(run):
    """Return a run's parameters that differ from the jwst defaults, as JSON types: step -> parameter -> value.

    Parameters of the whole run have the key ``run``.
    """
    parameters = changed(STEPS, run.parameters)
    run_parameters = {
        name: value for name, value in vars(run.run_parameters).items() if value != _RUN_PARAMETERS[name].default
    }
    if run_parameters:
        parameters["run"] = run_parameters
    return _as_json(parameters)


def user_request(run, *, profile, steps, run_parameters, use_pars, from_files=({}, {})):
    """Return the user's request, as the manifest stores it.

    Parameters
    ----------
    run : Run or None
        The planned run of an exposure; its parameters may name files. None leaves these files out, for an exposure
        that failed before it was planned.
    profile, steps, run_parameters
        As the user gave them, see `gpucoron.batch.reduce`.
    use_pars : bool
        Whether CRDS parameter files apply.
    from_files : (dict, dict)
        Parameters from the user's parameter files: of the steps, and of the whole run.

    Returns
    -------
    dict
        ``profile``; ``use_pars``; ``parameters``, 'step.parameter' -> value; ``files``, 'step.parameter' -> size, date
        and SHA-256 of the file named by that parameter.
    """
    given = {**_flat({**from_files[0], "run": from_files[1]}), **_flat({**steps, "run": run_parameters or {}})}
    parameters = {}
    for name, value in given.items():
        parameter = find_parameter(name)
        if parameter is not None and not parameter.unused:
            parameters[name] = convert(parameter, value, name.partition(".")[0])
    files = {}
    if run is not None:
        files = _files_of(changed_parameters(run), leave_out=persistence.parameters_of_batch_files(run.parameters))
    return {"profile": profile, "use_pars": bool(use_pars), "parameters": _as_json(parameters), "files": files}


def request_digest(request):
    """Return the digest of a request. New or renamed parameters and changed defaults do not change it."""
    first_names = {current: old for old, current in RENAMED.items()}
    return _digest(_rename(_without_dates(request), first_names))


def describe_changes(record, planned, context):
    """Describe how the user's request differs from the one in a record.

    Parameters
    ----------
    record : dict
    planned : Planned
        The exposure, with its ``request`` and ``parameters``.
    context : str
        The current CRDS context.

    Returns
    -------
    str
        The changed parameters with their values; '' if nothing changed.
    """
    was, now = _flat(record["parameters"]), _flat(planned.parameters)
    was = {_current_name(name, RENAMED): value for name, value in was.items()}
    old = record.get("asked")
    if not _is_complete(old):
        return _describe_changes_since_0_1_0(record, planned, context, was, now)
    old, new = _rename(_without_dates(old), RENAMED), _without_dates(planned.request)
    if _digest(old) == _digest(new) or (_is_same(was, now) and _is_same(old.get("files"), new["files"])):
        return ""
    changes = []
    for part in ("parameters", "files"):
        before, after = old.get(part) or {}, new[part]
        names = [name for name in {**before, **after} if not _is_same(before.get(name), after.get(name))]
        for name in names:
            if part == "parameters":
                changes.append(_describe_change(name, before.get(name, _MISSING), after.get(name, _MISSING)))
            elif name in before and name in after:
                changes.append(f"the file of {name} has changed")
    if old.get("profile") != new["profile"]:
        changes.insert(0, _describe_change("profile", old.get("profile"), new["profile"]))
    if old.get("use_pars") != new["use_pars"] and not changes:
        changes.append(f"CRDS parameter files {'apply now' if new['use_pars'] else 'no longer apply'}")
    return _join_changes(changes) or "files of parameters"


def _is_complete(request):
    """Return whether a record holds the whole request: gpucoron 0.1.0 stored none, and users may edit a manifest."""
    if not isinstance(request, dict) or not isinstance(request.get("parameters"), dict):
        return False
    files = request.get("files")
    return isinstance(files, dict) and all(isinstance(state, list) and len(state) == 3 for state in files.values())


def _describe_change(name, before, after):
    texts = ["default" if value is _MISSING else str(value) for value in (before, after)]
    return f"{name}: {texts[0]}, now {texts[1]}"


def _describe_changes_since_0_1_0(record, planned, context, was, now):
    """Compare with a record of gpucoron 0.1.0, which holds the final parameters but not the request.

    A difference counts, unless the user did not set it and another version or context may have caused it.
    """
    request, changes = planned.request, []
    is_other_profile = record.get("profile") != request["profile"] and not _is_same(was, now)
    if is_other_profile:
        changes.append(_describe_change("profile", record.get("profile"), request["profile"]))
    for name in sorted({**was, **now}):
        parameter = find_parameter(name)
        if parameter is None or parameter.unused:
            continue
        default = _as_json(parameter.default)
        before, after = was.get(name, default), now.get(name, default)
        if _is_same(before, after):
            continue
        is_given = name in request["parameters"]
        is_removed = name in was and not is_other_profile and not _may_be_a_default(name, record, request, context)
        if is_given or is_removed:
            changes.append(_describe_change(name, before, after))
    if not changes:
        changes = [f"the file of {name} has changed" for name in _changed_files(record, was, planned)]
    return _join_changes(changes)


def _join_changes(changes):
    """Join the changes; only the first few if there are many."""
    left = len(changes) - _MOST_NAMED
    return ", ".join([*changes[:_MOST_NAMED], *([f"and {left} more"] if left > 0 else [])])


def _may_be_a_default(name, record, request, context):
    """Return whether a recorded value may have come from CRDS parameter files or the profile instead of the user."""
    step, _, parameter = name.partition(".")
    may_be_in_crds = step == "run" or not STEPS[step].custom
    if may_be_in_crds and request["use_pars"] and record.get("context") != context:
        return True
    preset = STEPS[step].profiles.get(request["profile"]) if step in STEPS else None
    is_other_version = record["versions"].get("gpucoron") != __version__
    return is_other_version and preset is not None and parameter in preset.values


def _changed_files(record, was, planned):
    """List the parameters whose files have changed; the digest of gpucoron 0.1.0 held their sizes and dates."""
    files = planned.request["files"]
    named = [name for name in files if was.get(name) == _flat(planned.parameters).get(name)]
    if not named:
        return []
    states = {name: files[name][:2] for name in named}
    profile, parameters = record.get("profile"), record["parameters"]
    for from_files in ({}, planned.own_files):
        content = [profile, parameters, states, *([from_files] if from_files else [])]
        if _digest(content) == record.get("parameters_digest"):
            return []
    return named


def is_same_request(record, request):
    """Return whether a record was surely made with a request, without reading the files that its parameters name.

    Parameters
    ----------
    record : dict
    request : dict
        See `user_request`; its ``files`` are ignored.

    Returns
    -------
    bool
        False if the request may differ: `describe_changes` decides then. Files are compared by size and date.
    """
    old = record.get("asked")
    if not _is_complete(old):
        return False
    found = {
        name: list(_size_and_date(path)) for name, path in _named_files(record["parameters"], persistence.FILES[:1])
    }
    is_same = all(_is_same(old.get(part), request[part]) for part in ("profile", "use_pars", "parameters"))
    return is_same and found == {name: state[:2] for name, state in old["files"].items()}


def _files_of(parameters, leave_out):
    """Return size, date and SHA-256 of the files that parameters name; ``leave_out`` names parameters to ignore."""
    files = {}
    for name, path in _named_files(parameters, leave_out):
        size, date = _size_and_date(path)
        files[name] = [size, date, _file_digest(path, size, date)]
    return files


def _named_files(parameters, leave_out):
    """Yield the parameters that name existing files, with the files: ('step.parameter', path)."""
    for name, value in _flat(parameters).items():
        if isinstance(value, str) and os.path.isabs(value) and os.path.isfile(value) and name not in leave_out:
            yield name, value


def _size_and_date(path):
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _file_digest(path, size, date):
    """Return the digest of a file, cached by size and date."""
    return file_digest(path)


def _flat(parameters):
    """Turn step -> parameter -> value into 'step.parameter' -> value."""
    return {
        f"{step}.{name}": value
        for step, values in parameters.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }


def _without_dates(request):
    files = request.get("files") or {}
    return {**request, "files": {name: state[-1] for name, state in files.items()}}


def _rename(request, names):
    renamed = {
        part: {_current_name(name, names): value for name, value in (request.get(part) or {}).items()}
        for part in ("parameters", "files")
    }
    return {**request, **renamed}


def _current_name(name, names):
    """Return the current name of 'step.parameter', following several renames."""
    for _ in range(len(names) + 1):
        step, _dot, parameter = name.partition(".")
        step = names.get(step, step)
        renamed = names.get(f"{step}.{parameter}", f"{step}.{parameter}")
        if renamed == name:
            break
        name = renamed
    return name


def _as_json(value):
    return json.loads(json.dumps(value, default=str))


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _is_same(one, other):
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
