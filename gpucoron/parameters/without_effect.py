"""Settings of the user that have no effect: they are found, reported with the reason, and left out."""

import logging

from gpucoron.parameters import BASED_ON_JWST, RunParameters, convert, known_parameters

log = logging.getLogger(__name__)


def unused(table, steps):
    """List the user's settings that have no effect: ``step.parameter`` -> reason.

    A parameter may be unused, or its step may be replaced by another one.

    Parameters
    ----------
    table : mapping
        name -> Step.
    steps : dict of dicts
        step -> parameter -> value from the user; all names must exist.
    """
    reasons = {}
    for step_name, values in steps.items():
        for name, value in dict(values or {}).items():
            parameter = known_parameters(table, step_name)[name]
            # 'none' is spaceKLIP's default; it means 1 core
            if parameter.unused and value not in (None, "none", parameter.default):
                reasons[f"{step_name}.{name}"] = parameter.unused
    for step in table.values():
        if _is_switched_on(step, steps):
            why = f"{step.name} replaces {' and '.join(step.replaces)}"
            reasons |= dict.fromkeys(_not_taken_over(table, step, steps), why)
    return reasons


def _is_switched_on(step, steps):
    value = dict(steps.get(step.name) or {}).get(step.switch) if step.switch else None
    return value is not None and bool(convert(step.known[step.switch], value, step.name))


def _not_taken_over(table, step, steps):
    """List the user's parameters of replaced steps that the replacing step does not use."""
    for replaced in step.replaces:
        owner = table[replaced]
        for name, value in dict(steps.get(replaced) or {}).items():
            # values that spaceKLIP's dictionaries repeat
            presets = [preset for profile, preset in owner.profiles.items() if profile not in BASED_ON_JWST]
            usual = [owner.known[name].default, *(preset.values.get(name) for preset in presets)]
            is_set = hasattr(value, "shape") or convert(owner.known[name], value, replaced) not in (None, *usual)
            has_effect = name in ("skip", *_hooks_and(owner.for_run))
            if is_set and not has_effect and f"{replaced}.{name}" not in step.takes_over:
                yield f"{replaced}.{name}"


def tell_unused(table, steps):
    """Warn about settings without effect; one message names all parameters of a replaced step."""
    grouped = {}
    for name, reason in unused(table, steps).items():
        key = reason if " replaces " in reason else name
        grouped.setdefault(key, ([], reason))[0].append(name)
    for names, reason in grouped.values():
        log.warning("%s %s accepted and not used: %s", ", ".join(names), "are" if len(names) > 1 else "is", reason)


def tell_unused_of_skipped(table, settled, run_parameters, steps, exposure):
    """Warn about the user's settings of steps that are switched off for an exposure.

    Not named are settings of steps whose switch the user has set, and of those that another step replaces (`unused`).

    Parameters
    ----------
    table : mapping
        name -> Step.
    settled : dict
        step -> its parameters, of the steps of this exposure, as they will run.
    run_parameters : dict
        Parameters of the run as a whole that the user has set.
    steps : dict of dicts
        step -> parameter -> value from the user.
    exposure : str
        Its name.
    """
    in_use = (table[name] for name, values in settled.items() if not values.skip)
    replaced = {name for step in in_use if step.switch for name in step.replaces}
    for name, values in settled.items():
        step, given = table[name], dict(steps.get(name) or {})
        kept = _hooks_and(step.for_run)
        unused = [f"{name}.{key}" for key, value in given.items() if value is not None and key not in kept]
        if "stage" in step.helpers and run_parameters.get("stage_1overf") not in (None, RunParameters().stage_1overf):
            unused.append("stage_1overf")
        if values.skip and unused and given.keys().isdisjoint(("skip", step.switch)) and name not in replaced:
            log.warning(
                "%s: %s: not used, because %s is switched off; %s switches it on",
                exposure, ", ".join(unused), name, _switch_of(step),
            )  # fmt: skip


def _hooks_and(names):
    # the hooks of a skipped step run too
    return "pre_hooks", "post_hooks", *names


def _switch_of(step):
    """Return the setting that switches a step on, as text."""
    if step.run_switch:
        return f"{step.run_switch}=True"
    return f"{step.name}.{step.switch}=True" if step.switch else f"{step.name}.skip=False"


def without_comparisons(table, steps):
    """Remove the settings that compare exposures with each other, with a warning.

    They have no effect where each exposure is reduced on its own.

    Parameters
    ----------
    table : mapping
        name -> Step.
    steps : dict of dicts or None
        step -> parameter -> value from the user; not changed.

    Returns
    -------
    dict of dicts
        A copy without these parameters.
    """
    kept = {step: dict(values or {}) for step, values in (steps or {}).items()}
    names = []
    for step in table.values():
        if step.alone is not None and kept.get(step.name):
            for name in step.alone(kept[step.name]):
                del kept[step.name][name]
                names.append(f"{step.name}.{name}")
    if names:
        log.warning(
            "%s: not used, because each exposure is reduced on its own; gpucoron.coron1pipeline.run_obs compares the "
            "exposures of a database. Name the groups of an exposure with mask_groups.groups, or with "
            "mask_groups.mask_method='custom' and custom_group",
            ", ".join(names),
        )
    return kept


def without_unused(table, steps):
    """Copy step -> parameter -> value without the parameters that `unused` lists."""
    without_effect = unused(table, steps)
    return {
        step_name: {
            name: value for name, value in dict(values or {}).items() if f"{step_name}.{name}" not in without_effect
        }
        for step_name, values in steps.items()
    }
