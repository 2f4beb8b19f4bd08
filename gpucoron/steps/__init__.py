"""The steps of stage 1, one module each, named as jwst and spaceKLIP name them.

A step module holds

- ``STEP``, what it says of itself: title, parameters, references and whatever else the engine must know
  (`gpucoron.steps.declaration.Step`);
- one or more documented array functions, over NumPy or CuPy arrays;
- ``run(exposure, references, parameters, backend, **helpers) -> Outcome``: the step as the engine runs it. It works in
  place on the exposure's arrays, takes its numbers from ``exposure.facts``, and finds its references by type in
  ``references`` (None where CRDS says N/A).

Steps see arrays and parameters: no FITS, no CRDS, no datamodels. The table of all steps gathers itself from the
modules.
"""

from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from gpucoron.parameters import known_parameters
from gpucoron.steps.arguments import unnamed
from gpucoron.steps.declaration import Outcome, skipped

__all__ = ["STEPS", "Outcome", "declared", "run_step", "skipped", "stpipe_steps"]

#: as pages, products and messages list the steps: roughly as they run; one that is not named here comes last
_LISTED = (
    "group_scale", "dq_init", "emicorr", "saturation", "ipc", "firstframe", "lastframe", "reset", "superbias", "refpix",
    "linearity", "rscd", "dark_current", "charge_migration", "jump", "picture_frame", "clean_flicker_noise",
    "persistence", "mask_groups", "subtract_ktc", "subtract_1overf", "ramp_fit", "experimental_jumpramp",
    "apply_rateints_outliers", "gain_scale",
)  # fmt: skip


def _gather():
    """Import the modules beside this one: name -> module, for those that declare a step."""
    modules = {found.name: import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)}
    rank = {name: number for number, name in enumerate(_LISTED)}
    names = [name for name in sorted(modules) if hasattr(modules[name], "STEP")]
    return {name: modules[name] for name in sorted(names, key=lambda name: rank.get(name, len(rank)))}


_MODULES = _gather()

#: name -> Step, for every step that exists
STEPS = MappingProxyType({name: module.STEP for name, module in _MODULES.items()})


def declared(step_name):
    """Return name -> Parameter of a step, those that every step has included.

    Raises
    ------
    ParameterError
        If there is no such step; the message names the nearest one.
    """
    return known_parameters(STEPS, step_name)


def run_step(step_name, exposure, references, parameters, backend, **helpers):
    """Run a step by its name; see above."""
    with unnamed():  # the engine names the step
        return _MODULES[step_name].run(exposure, references, parameters, backend, **helpers)


def __getattr__(name):
    """Give the jwst Step of a step by its class's name, as ``strun gpucoron.steps.SaturationStep`` looks for it."""
    if name in {step.class_name for step in STEPS.values()}:
        # only for who asks: what stands here knows nothing of jwst
        return getattr(import_module("gpucoron.pipeline"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def stpipe_steps():
    """List what ``strun`` finds: (class, alias, whether it is a pipeline); ``gpucoron_jump`` is our jump."""
    steps = [(f"gpucoron.pipeline.{step.class_name}", f"gpucoron_{name}", False) for name, step in STEPS.items()]
    return [("gpucoron.pipeline.Coron1Pipeline", "calwebb_coron1", True), *steps]
