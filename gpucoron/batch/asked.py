"""What a user asked of a batch, and whether that is what products were made with.

What is compared is the user's own: the profile, the parameters that were given, the contents of files that they name,
and whether CRDS's parameter files apply. Defaults, profiles and CRDS's files change with versions and contexts, which
are compared by themselves; so a parameter that is new, or has another default, makes no product outdated.
"""

import hashlib
import json
import os
from functools import lru_cache

from gpucoron import __version__
from gpucoron.batch import persistence
from gpucoron.files import file_digest
from gpucoron.parameters import PIPELINE, changed, convert
from gpucoron.steps import STEPS

#: steps ('step') and parameters ('step.parameter') that an earlier version called otherwise -> their names of today
RENAMED = {}

_OF_RUN = {parameter.name: parameter for parameter in PIPELINE}
_MISSING = object()
_MOST_NAMED = 4


def known_parameter(name):
    """Give the Parameter that ``step.parameter`` means, ``run.parameter`` for the run as a whole; None if none."""
    step, _, parameter = name.partition(".")
    known = _OF_RUN if step == "run" else STEPS[step].known if step in STEPS else {}
    return known.get(parameter)


def parameters_of(run):
    """List what a run's parameters differ in from jwst's defaults: step -> parameter -> value, fit for JSON.

    ``run`` stands for the parameters of the run as a whole.
    """
    parameters = changed(STEPS, run.parameters)
    of_run = {name: value for name, value in vars(run.run_parameters).items() if value != _OF_RUN[name].default}
    if of_run:
        parameters["run"] = of_run
    return _as_json(parameters)


def what_is_asked(run, *, profile, steps, of_run, use_pars, own=({}, {})):
    """Tell what a user asks for, as the manifest keeps it.

    Parameters
    ----------
    run : Run
        As it was planned for an exposure: its parameters name files.
    profile, steps, of_run
        As the user gave them, see `gpucoron.batch.reduce`.
    use_pars : bool
        Whether CRDS's parameter files apply.
    own : (dict, dict)
        What the user's own parameter files hold: for steps, and for the run as a whole.

    Returns
    -------
    dict
        ``profile``; ``use_pars``; ``parameters``, 'step.parameter' -> value; ``files``, 'step.parameter' -> size, date
        and SHA-256 of the file that it names.
    """
    given = {**_flat({**own[0], "run": own[1]}), **_flat({**steps, "run": of_run or {}})}
    parameters = {}
    for name, value in given.items():
        parameter = known_parameter(name)
        if parameter is not None and not parameter.unused:
            parameters[name] = convert(parameter, value, name.partition(".")[0])
    files = _files_of(parameters_of(run), leave_out=persistence.files_of_batch(run.parameters))
    return {"profile": profile, "use_pars": bool(use_pars), "parameters": _as_json(parameters), "files": files}


def digest_of(asked):
    """Digest what was asked; it stays the same when parameters are added, renamed, or get other defaults."""
    first_names = {today: name for name, today in RENAMED.items()}
    return _digest(_with_names(_without_dates(asked), first_names))


def tell_change(record, planned, context):
    """Tell what the user asks for otherwise than when a record was made.

    Parameters
    ----------
    record : dict
    planned : Planned
        Of an exposure: ``asked`` and ``parameters``.
    context : str
        CRDS's context of today.

    Returns
    -------
    str
        The parameters by name, with their values; '' where it is the same.
    """
    was, now = _flat(record["parameters"]), _flat(planned.parameters)
    was = {_todays_name(name, RENAMED): value for name, value in was.items()}
    asked = record.get("asked")
    if not _is_whole(asked):
        return _tell_change_since_0_1_0(record, planned, context, was, now)
    asked, asks = _with_names(_without_dates(asked), RENAMED), _without_dates(planned.asked)
    if _digest(asked) == _digest(asks) or (_is_same(was, now) and _is_same(asked.get("files"), asks["files"])):
        return ""
    changes = []
    for part in ("parameters", "files"):
        before, after = asked.get(part) or {}, asks[part]
        names = [name for name in {**before, **after} if not _is_same(before.get(name), after.get(name))]
        for name in names:
            if part == "parameters":
                changes.append(_told(name, before.get(name, _MISSING), after.get(name, _MISSING)))
            elif name in before and name in after:
                changes.append(f"the file of {name} is another")
    if asked.get("profile") != asks["profile"]:
        changes.insert(0, _told("profile", asked.get("profile"), asks["profile"]))
    if asked.get("use_pars") != asks["use_pars"] and not changes:
        changes.append(f"CRDS's parameter files {'apply now' if asks['use_pars'] else 'no longer apply'}")
    return _list(changes) or "files of parameters"


def _is_whole(asked):
    """Tell whether a record tells what was asked: those of 0.1.0 do not, and a manifest may have been edited."""
    if not isinstance(asked, dict) or not isinstance(asked.get("parameters"), dict):
        return False
    files = asked.get("files")
    return isinstance(files, dict) and all(isinstance(state, list) and len(state) == 3 for state in files.values())


def _told(name, before, after):
    texts = ["default" if value is _MISSING else str(value) for value in (before, after)]
    return f"{name}: {texts[0]}, now {texts[1]}"


def _tell_change_since_0_1_0(record, planned, context, was, now):
    """Compare with a record that tells settled parameters alone, as gpucoron 0.1.0 wrote it.

    What differs counts unless the user has not asked for it, and it may come from another version or context.
    """
    asks, changes = planned.asked, []
    is_other_profile = record.get("profile") != asks["profile"] and not _is_same(was, now)
    if is_other_profile:
        changes.append(_told("profile", record.get("profile"), asks["profile"]))
    for name in sorted({**was, **now}):
        parameter = known_parameter(name)
        if parameter is None or parameter.unused:
            continue
        default = _as_json(parameter.default)
        before, after = was.get(name, default), now.get(name, default)
        if _is_same(before, after):
            continue
        is_asked = name in asks["parameters"]
        is_gone = name in was and not is_other_profile and not _may_have_come(name, record, asks, context)
        if is_asked or is_gone:
            changes.append(_told(name, before, after))
    if not changes:
        changes = [f"the file of {name} is another" for name in _changed_files(record, was, planned)]
    return _list(changes)


def _list(changes):
    """Name what has changed, or the first few."""
    left = len(changes) - _MOST_NAMED
    return ", ".join([*changes[:_MOST_NAMED], *([f"and {left} more"] if left > 0 else [])])


def _may_have_come(name, record, asks, context):
    """Tell whether a value that is gone, and that nobody asks for, may have come from CRDS's files or the profile."""
    step, _, parameter = name.partition(".")
    is_of_crds = step == "run" or not STEPS[step].custom
    if is_of_crds and asks["use_pars"] and record.get("context") != context:
        return True
    preset = STEPS[step].profiles.get(asks["profile"]) if step in STEPS else None
    is_other_version = record["versions"].get("gpucoron") != __version__
    return is_other_version and preset is not None and parameter in preset.values


def _changed_files(record, was, planned):
    """List the parameters whose files are not as they were: the digest of 0.1.0 held their sizes and dates."""
    named = [name for name in planned.asked["files"] if was.get(name) == _flat(planned.parameters).get(name)]
    if not named:
        return []
    states = {name: planned.asked["files"][name][:2] for name in named}
    profile, parameters = record.get("profile"), record["parameters"]
    for own in ({}, planned.own_files):
        told = [profile, parameters, states, *([own] if own else [])]
        if _digest(told) == record.get("parameters_digest"):
            return []
    return named


def _files_of(parameters, leave_out):
    """Tell size, date and SHA-256 of the files that parameters name; what a batch itself writes, ``leave_out``, not."""
    files = {}
    for name, value in _flat(parameters).items():
        if isinstance(value, str) and os.path.isabs(value) and os.path.isfile(value) and name not in leave_out:
            stat = os.stat(value)
            files[name] = [stat.st_size, stat.st_mtime_ns, _file_digest(value, stat.st_size, stat.st_mtime_ns)]
    return files


@lru_cache(maxsize=64)
def _file_digest(path, size, date):
    """Digest a file, once as long as it has this size and date."""
    return file_digest(path)


def _flat(parameters):
    """Turn step -> parameter -> value into 'step.parameter' -> value."""
    return {
        f"{step}.{name}": value
        for step, values in parameters.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }


def _without_dates(asked):
    files = asked.get("files") or {}
    return {**asked, "files": {name: state[-1] for name, state in files.items()}}


def _with_names(asked, names):
    renamed = {
        part: {_todays_name(name, names): value for name, value in (asked.get(part) or {}).items()}
        for part in ("parameters", "files")
    }
    return {**asked, **renamed}


def _todays_name(name, names):
    """Rename 'step.parameter', as often as it was renamed."""
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
