"""The steps of stage 1, one module each, named as jwst and spaceKLIP name them.

A step module holds

- ``STEP``, its declaration: title, parameters, references and more (`gpucoron.steps.declaration.Step`);
- one or more documented array functions for NumPy or CuPy arrays;
- ``run(exposure, references, parameters, backend, **helpers) -> Outcome``, which the engine calls. It changes the
  arrays of the exposure in place, reads ``exposure.facts``, and gets its references by type from ``references`` (None
  if CRDS returns N/A).

Steps only use arrays and parameters: no FITS, no CRDS, no datamodels. The table of all steps is made from the modules.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from gpucoron.parameters import Parameter, known_parameters
from gpucoron.steps.arguments import unnamed
from gpucoron.steps.declaration import Outcome, skipped

__all__ = ["STEPS", "Outcome", "declared", "run_step", "skipped", "stpipe_steps"]

#: order of the steps in pages, products and messages, roughly as they run; steps that are not listed here come last
_LISTED = (
    "group_scale", "dq_init", "emicorr", "saturation", "ipc", "firstframe", "lastframe", "reset", "superbias", "refpix",
    "linearity", "rscd", "dark_current", "charge_migration", "jump", "picture_frame", "clean_flicker_noise",
    "persistence", "mask_groups", "subtract_ktc", "subtract_1overf", "ramp_fit", "experimental_jumpramp",
    "apply_rateints_outliers", "gain_scale",
)  # fmt: skip


def _gather():
    """Import the modules of this package; return name -> module for those that declare a step."""
    modules = {found.name: import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)}
    rank = {name: number for number, name in enumerate(_LISTED)}
    names = [name for name in sorted(modules) if hasattr(modules[name], "STEP")]
    return {name: modules[name] for name in sorted(names, key=lambda name: rank.get(name, len(rank)))}


_MODULES = _gather()

#: name -> Step, for every step that exists
STEPS = MappingProxyType({name: module.STEP for name, module in _MODULES.items()})


def declared(step_name: str) -> Mapping[str, Parameter]:
    """Return name -> Parameter of a step, including the parameters that all steps have.

    Raises
    ------
    ParameterError
        There is no such step; the message names the most similar one.
    """
    return known_parameters(STEPS, step_name)


def module_of(step_name):
    """Return the module that declares a step."""
    return _MODULES[step_name]


def run_step(step_name, exposure, references, parameters, backend, **helpers):
    """Run a step by its name, and return its Outcome."""
    with unnamed():  # the engine adds the name of the step to errors
        return _MODULES[step_name].run(exposure, references, parameters, backend, **helpers)


def __getattr__(name):
    """Return a jwst Step, for ``strun gpucoron.steps.SaturationStep``, or the class of a step's parameters."""
    for step in STEPS.values():
        if name == step.settings_name:
            return step.settings_class
    if name in {step.class_name for step in STEPS.values()}:
        # import lazily: the steps themselves must not import jwst
        return getattr(import_module("gpucoron.pipeline"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def stpipe_steps() -> list[tuple[str, str, bool]]:
    """List the classes for ``strun``: (class, alias, whether it is a pipeline); ``gpucoron_jump`` is our jump."""
    steps = [(f"gpucoron.pipeline.{step.class_name}", f"gpucoron_{name}", False) for name, step in STEPS.items()]
    return [("gpucoron.pipeline.Coron1Pipeline", "calwebb_coron1", True), *steps]
