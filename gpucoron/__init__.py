"""JWST coronagraphy stage 1, from ``*_uncal.fits`` to ``*_rateints.fits`` and ``*_rate.fits``.

Public names and subpackages are loaded when first used: importing gpucoron imports neither jwst nor cupy.
"""

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec, spec_from_loader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpucoron import backends as backends
    from gpucoron import batch as batch
    from gpucoron import coron1pipeline as coron1pipeline
    from gpucoron import database as database
    from gpucoron import dq as dq
    from gpucoron import engine as engine
    from gpucoron import errors as errors
    from gpucoron import facts as facts
    from gpucoron import io as io
    from gpucoron import parameters as parameters
    from gpucoron import pipeline as pipeline
    from gpucoron import records as records
    from gpucoron import report as report
    from gpucoron import simulate as simulate
    from gpucoron import steps as steps
    from gpucoron.backends import get_backend as get_backend
    from gpucoron.coron1pipeline import run_obs as run_obs
    from gpucoron.coron1pipeline import run_single_file as run_single_file
    from gpucoron.engine import reduce_file as reduce_file
    from gpucoron.errors import GpucoronError as GpucoronError
    from gpucoron.io.exposure import Exposure as Exposure
    from gpucoron.pipeline import Coron1Pipeline as Coron1Pipeline
    from gpucoron.pipeline import Coron1Pipeline_spaceKLIP as Coron1Pipeline_spaceKLIP
    from gpucoron.report.ramp import plot_ramp as plot_ramp
    from gpucoron.steps import stpipe_steps as stpipe_steps

__version__ = "0.2.0"

_HOME = {
    "Coron1Pipeline": "gpucoron.pipeline",
    "Coron1Pipeline_spaceKLIP": "gpucoron.pipeline",
    "Exposure": "gpucoron.io.exposure",
    "GpucoronError": "gpucoron.errors",
    "get_backend": "gpucoron.backends",
    "plot_ramp": "gpucoron.report.ramp",
    "reduce_file": "gpucoron.engine",
    "run_obs": "gpucoron.coron1pipeline",
    "run_single_file": "gpucoron.coron1pipeline",
    "stpipe_steps": "gpucoron.steps",
}

#: modules and subpackages that are attributes of the package before anything imports them
_MODULES = (
    "backends", "batch", "coron1pipeline", "database", "dq", "engine", "errors", "facts", "io", "parameters",
    "pipeline", "records", "report", "simulate", "steps",
)  # fmt: skip

#: module paths of older versions -> current paths
OLD_PATHS = {
    "gpucoron.backends.base": "gpucoron.backends.backend",
    "gpucoron.backends.operations.subtract_1overf.flicker": "gpucoron.backends.operations.subtract_1overf.definition",
    "gpucoron.batch_inputs": "gpucoron.batch.inputs",
    "gpucoron.batch_plan": "gpucoron.batch.plan",
    "gpucoron.batch_progress": "gpucoron.batch.progress",
    "gpucoron.cli.__main__": "gpucoron.__main__",
    "gpucoron.demo": "gpucoron.cli.demo",
    "gpucoron.exposure": "gpucoron.io.exposure",
    "gpucoron.manifest": "gpucoron.records.manifest",
    "gpucoron.previews": "gpucoron.records.previews",
    "gpucoron.products": "gpucoron.io.products",
    "gpucoron.references": "gpucoron.io.references",
    "gpucoron.simulated_camera": "gpucoron.simulate.camera",
    "gpucoron.simulated_crds": "gpucoron.simulate.crds",
    "gpucoron.simulated_detectors": "gpucoron.simulate.detectors",
    "gpucoron.simulated_references": "gpucoron.simulate.references",
    "gpucoron.summary": "gpucoron.cli.summary",
}

_OLD_OPERATIONS = {
    "deconvolve_coupling": "deconvolve_ipc",
    "fit_flicker": "fit_1overf",
    "fit_pedestal": "fit_ktc",
    "match_wave": "match_emicorr",
    "subtract_wave": "subtract_emicorr",
}

#: module or class -> names that older versions had in it -> where the same thing is now
OLD_NAMES = {
    "gpucoron.backends.backend.Backend": _OLD_OPERATIONS,
    "gpucoron.backends.operations": _OLD_OPERATIONS,
    "gpucoron.backends.operations.emicorr": {"match_wave": "match_emicorr", "subtract_wave": "subtract_emicorr"},
    "gpucoron.backends.operations.ipc": {"deconvolve_coupling": "deconvolve_ipc"},
    "gpucoron.backends.operations.subtract_1overf": {
        "FlickerSettings": "Subtract1OverfSettings",
        "fit_flicker": "fit_1overf",
    },
    "gpucoron.backends.operations.subtract_1overf.definition": {"fit_flicker": "fit_1overf"},
    "gpucoron.backends.operations.subtract_ktc": {
        "PedestalSettings": "SubtractKtcSettings",
        "fit_pedestal": "fit_ktc",
    },
    "gpucoron.batch.inputs.Input": {"about": "record_fields", "begun": "start", "place": "region"},
    "gpucoron.batch.plan.Plan": {"known": "earlier"},
    "gpucoron.batch.plan.Planned": {
        "asked": "request",
        "carried": "persistence_file",
        "follows": "previous_digests",
        "obstacle": "conflict",
    },
    "gpucoron.engine.Run": {"of_run": "run_parameters"},
    "gpucoron.steps.emicorr": {"subtract_interference": "apply_emicorr"},
    "gpucoron.steps.ipc": {"correct_coupling": "correct_ipc", "deconvolve_coupling": "deconvolve_ipc"},
    "gpucoron.steps.subtract_1overf": {"FlickerSettings": "Subtract1OverfSettings"},
    "gpucoron.steps.subtract_ktc": {"fit_pedestal": "fit_ktc"},
}

__all__ = ["__version__", *sorted(_HOME)]


if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name):
        if name in _HOME:
            return getattr(import_module(_HOME[name]), name)
        if name in _MODULES:
            return import_module(f"gpucoron.{name}")
        if f"gpucoron.{name}" in OLD_PATHS:
            globals()[name] = import_module(_warn(f"gpucoron.{name}"))
            return globals()[name]
        raise AttributeError(_no_attribute(name), name=name)


def _no_attribute(name):
    """Describe a missing attribute, and name the most similar one."""
    from difflib import get_close_matches

    near = get_close_matches(name, __dir__(), n=1)
    msg = f"module 'gpucoron' has no attribute {name!r}"
    return f"{msg}; did you mean {near[0]!r}?" if near else msg


def __dir__():
    return [*__all__, *_MODULES]


def lazy_package(package, path, home=None):
    """Make the ``__getattr__`` and ``__dir__`` of a subpackage whose modules are loaded when they are first used.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    path : list of str
        Its ``__path__``.
    home : dict, optional
        Name of a public object -> the module that has it.

    Returns
    -------
    (callable, callable)
    """
    home = home or {}

    def load(name):
        if name in home:
            return getattr(import_module(home[name]), name)
        if name in names():
            return import_module(f"{package}.{name}")
        msg = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(msg, name=name, obj=sys.modules[package])

    def names():
        from pkgutil import iter_modules

        return sorted([*home, *(found.name for found in iter_modules(path) if not found.name.startswith("_"))])

    return load, names


def get_by_old_name(where, name, owner=None):
    """Return an attribute of a module or object by the name that it had in older versions.

    Parameters
    ----------
    where : str
        Key in `OLD_NAMES`.
    name : str
        The old name.
    owner : object, optional
        Has the attribute under its new name; by default the module ``where``.

    Raises
    ------
    AttributeError
        It is not an old name.
    """
    new = OLD_NAMES[where].get(name)
    if new is None:
        kind = f"module {where!r}" if owner is None else f"{type(owner).__name__!r} object"
        msg = f"{kind} has no attribute {name!r}"
        raise AttributeError(msg, name=name, obj=sys.modules[where] if owner is None else owner)
    warnings.warn(f"{where}.{name} is now {new}", DeprecationWarning, stacklevel=3)
    return getattr(sys.modules[where] if owner is None else owner, new)


class _OldPaths:
    """Import hook that loads the current module under the path of an older version."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return spec_from_loader(name, _OldPaths) if name in OLD_PATHS else None

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        sys.modules[module.__name__] = import_module(_warn(module.__name__))

    @staticmethod
    def get_code(name):
        """Return the code of a module that is run as a program (``python -m gpucoron.cli``)."""
        return find_spec(_warn(name)).loader.get_code(OLD_PATHS[name])


def _warn(name):
    """Warn that an old path is deprecated, and return the new one."""
    old, new = (path.removesuffix(".__main__") for path in (name, OLD_PATHS[name]))
    # Python skips the frames of the import system when it counts stack levels.
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)
    return OLD_PATHS[name]


sys.meta_path.append(_OldPaths)
