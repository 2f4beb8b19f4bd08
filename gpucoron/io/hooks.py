"""Hooks: code of the user that runs on jwst's models before or after a step, as in jwst.

A hook is a jwst Step (class or instance), a function, the full name of one of these, or a shell command. It receives a
model and may return another one; None means the model that it received. The result replaces the arrays of the exposure.
"""

import logging
import shutil
import warnings

from gpucoron.errors import GpucoronError, InputError, ParameterError
from gpucoron.files import first_line
from gpucoron.io.products import name_of_hook, ramp_without_signature
from gpucoron.io.slopes import model_of_slopes, take_slopes
from gpucoron.steps import STEPS

log = logging.getLogger(__name__)


def run_hooks(run, step, when):
    """Run the hooks of one step on the exposure of a run, in place.

    As in jwst, hooks also run for a step that is switched off, but not for a step that the instrument does not have.
    Before the fit, they receive the ramp; directly after it, rate and rateints as one tuple; later, the rate and then
    the rateints. No hook runs after the fit if no ramp could be fitted.

    Parameters
    ----------
    run : Run
    step : Step
    when : {'pre', 'post'}

    Raises
    ------
    ParameterError
        The hook does not exist.
    InputError
        A hook failed, or its result does not fit; the message names file, step and hook.

    Notes
    -----
    Source: stpipe, ``Step.run``.
    """
    commands = getattr(run.parameters[step.name], f"{when}_hooks")
    if not commands:
        return
    from stdatamodels.jwst import datamodels

    exposure, backend = run.exposure, run.backend
    place = {"output_dir": str(run.output_dir) if run.output_dir else None}
    made = make_hooks(commands, f"{when}_hooks", step.name, **place, output_ext=run.parameters[step.name].output_ext)
    for hook in made:
        hook.set_primary_input(str(exposure.path or exposure.name))
    names = [command if isinstance(command, str) else name_of_hook(command) for command in commands]
    hooks = list(zip(names, made, strict=True))
    has_slopes = exposure.rateints is not None
    if not has_slopes and _has_been_fitted(run, step, when):
        return
    if not has_slopes:
        before = ramp_without_signature(exposure, backend)
        after = _pass_through(hooks, before, f"{exposure.name}: {step.name}")
        after = _of_kind(after, datamodels.RampModel, exposure, step)
        try:
            exposure.take(after, backend)
        except InputError as error:
            msg = f"{exposure.name}: {step.name}: the result of its hook: {error}"
            raise InputError(msg) from error
        _keep_history(run, after)
        return
    kinds = {"rate": datamodels.ImageModel, "rateints": datamodels.CubeModel}
    models = {
        name: model_of_slopes(exposure, getattr(exposure, name), kind, backend)
        for name, kind in kinds.items()
        if getattr(exposure, name) is not None
    }
    label = f"{exposure.name}: {step.name}"
    if step.fits and when == "post":
        both = _pass_through(hooks, tuple(models.values()), label)
        if not isinstance(both, (tuple, list)) or len(both) != len(models):
            msg = f"{label}: the last post_hook returned {_kind(both)}; it must return rate and rateints"
            raise InputError(msg)
        models = dict(zip(models, both, strict=True))
    else:
        models = {name: _pass_through(hooks, model, label) for name, model in models.items()}
    for name, model in models.items():
        take_slopes(exposure, name, _of_kind(model, kinds[name], exposure, step), backend)
        _keep_history(run, model)


def check_hooks(parameters):
    """Refuse hooks that cannot be created, before any work.

    Parameters
    ----------
    parameters : mapping
        step -> its resolved parameters.

    Raises
    ------
    ParameterError
    """
    for step_name, settings in parameters.items():
        for name in ("pre_hooks", "post_hooks"):
            if getattr(settings, name):
                make_hooks(getattr(settings, name), name, step_name)


def make_hooks(commands, name, owner, **place):
    """Create hooks, objects with a method ``run``, from their names, as stpipe does.

    Parameters
    ----------
    commands : list
        Steps, functions or names.
    name : {'pre_hooks', 'post_hooks'}
    owner : str
        Name of the step, for messages.
    **place
        ``output_dir`` and ``output_ext`` of files that hooks save.

    Returns
    -------
    list

    Raises
    ------
    ParameterError
    """
    from jwst.stpipe import Step as JwstStep

    steps = [as_step(command) for command in commands]
    try:
        made = JwstStep(owner, **{name: steps}, **place)
    except Exception as error:  # importing a user's module can raise anything
        msg = f"{owner}.{name}: {', '.join(map(str, commands))}: {first_line(error)}"
        raise ParameterError(msg) from error
    hooks = getattr(made, f"_{name}")  # stpipe offers no public access
    refuse_missing(hooks, f"{owner}.{name}")
    return hooks


def refuse_missing(hooks, owner):
    """Refuse names that cannot be imported; stpipe would run them as shell commands."""
    for command in filter(None, (getattr(hook, "command", None) for hook in hooks)):
        parts = command.partition("(")[0].strip().split(".")
        if all(part.isidentifier() for part in parts) and shutil.which(command) is None:
            msg = f"{owner}: {command!r} does not exist: its module cannot be imported, or does not define it"
            raise ParameterError(msg)


def as_step(command):
    """Wrap a function in a jwst Step, because stpipe takes functions only by name; return other hooks unchanged."""
    from jwst.stpipe import Step as JwstStep

    is_step = isinstance(command, (str, JwstStep)) or (isinstance(command, type) and issubclass(command, JwstStep))
    if is_step or not callable(command):
        return command

    class FunctionStep(JwstStep):
        """Call a function."""

        spec = ""

        def process(self, *models):
            return command(*models)

    return FunctionStep(getattr(command, "__name__", type(command).__name__))


def _has_been_fitted(run, step, when):
    """Return whether the fit has run, successfully or not."""
    over = any(STEPS[record.name].fits and record.reason != "switched off" for record in run.records)
    return over or (when == "post" and step.fits and not run.parameters[step.name].skip)


def _pass_through(hooks, model, label):
    for name, hook in hooks:
        try:
            result = hook.run(model)
        except GpucoronError:
            raise
        except Exception as error:  # a hook can raise anything
            msg = f"{label}: the hook {name} failed ({type(error).__name__}: {first_line(error)})"
            raise InputError(msg) from error
        if result is not None:
            model = result
    return model


def _of_kind(model, kind, exposure, step):
    if isinstance(model, kind):
        return model
    msg = f"{exposure.name}: {step.name}: its hook returned {_kind(model)}; it must return a {kind.__name__} or None"
    raise InputError(msg)


def _kind(value):
    return f"a {type(value).__name__}"


def _keep_history(run, model):
    """Keep the history entries that a hook added to a model, for the products."""
    with warnings.catch_warnings(action="ignore"):  # reading the history always warns
        entries = [entry["description"] for entry in model.history]
    run.notes += [entry for entry in entries if entry not in run.notes]
