"""Hooks of single steps: the user's own code before a step and after it, on jwst's models, as in jwst.

A hook is a jwst Step (a class, an instance), a function, or text: the full name of one of these or a command. It gets a
model and may return another; None stands for the one that it got. The arrays of what it returns are the exposure's.
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
    """Run the hooks of one step, in place on a run's exposure.

    As in jwst, they run for a step that is switched off too, but not for one that the instrument does not have. Before
    the fit they get the ramp, right after it the rate and the rateints as one tuple, later first the rate and then the
    rateints. Nothing runs where no ramp could be fitted.

    Parameters
    ----------
    run : Run
    step : Step
    when : {'pre', 'post'}

    Raises
    ------
    ParameterError
        There is no such hook.
    InputError
        A hook has failed, or what it returned does not fit; the message names file, step and hook.

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
            msg = f"{exposure.name}: {step.name}: what its hook returned: {error}"
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
    """Refuse hooks that cannot be made, before any work.

    Parameters
    ----------
    parameters : mapping
        step -> its parameters, settled.

    Raises
    ------
    ParameterError
    """
    for step_name, settings in parameters.items():
        for name in ("pre_hooks", "post_hooks"):
            if getattr(settings, name):
                make_hooks(getattr(settings, name), name, step_name)


def make_hooks(commands, name, owner, **place):
    """Make objects with ``run`` of what names them, as stpipe does.

    Parameters
    ----------
    commands : list
        Steps, functions, texts.
    name : {'pre_hooks', 'post_hooks'}
    owner : str
        Of what, for messages.
    **place
        ``output_dir``, ``output_ext``: where hooks save what they are asked to save.

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
    except Exception as error:  # importing a user's module may raise anything
        msg = f"{owner}.{name}: {', '.join(map(str, commands))}: {first_line(error)}"
        raise ParameterError(msg) from error
    hooks = getattr(made, f"_{name}")  # stpipe has no other way to them
    refuse_missing(hooks, f"{owner}.{name}")
    return hooks


def refuse_missing(hooks, owner):
    """Refuse names that cannot be imported, which stpipe would run as commands of the shell."""
    for command in filter(None, (getattr(hook, "command", None) for hook in hooks)):
        words = command.partition("(")[0].strip().split(".")
        if all(word.isidentifier() for word in words) and shutil.which(command) is None:
            msg = f"{owner}: there is no {command!r}: its module cannot be imported, or does not have it"
            raise ParameterError(msg)


def as_step(command):
    """Make a jwst Step of a plain function, which stpipe takes by name alone; leave all else as it is."""
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
    """Tell whether the fit is over, whatever came of it."""
    over = any(STEPS[record.name].fits and record.reason != "switched off" for record in run.records)
    return over or (when == "post" and step.fits and not run.parameters[step.name].skip)


def _pass_through(hooks, model, label):
    for name, hook in hooks:
        try:
            result = hook.run(model)
        except GpucoronError:
            raise
        except Exception as error:  # a hook is the user's own code
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


def _kind(thing):
    return f"a {type(thing).__name__}"


def _keep_history(run, model):
    """Keep what a hook has written into a model's history, for the products."""
    with warnings.catch_warnings(action="ignore"):  # there is no other way to read it
        entries = [entry["description"] for entry in model.history]
    run.notes += [entry for entry in entries if entry not in run.notes]
