"""How our jwst Steps and Pipelines differ from those of jwst: accepted values, logging, names of products.

stpipe checks only strings and numbers, so arrays, functions and backends bypass it. Values that stpipe would refuse, or
ignore silently, raise a GpucoronError that names the step and the parameter.
"""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jwst.stpipe import Step as JwstStep
from stdatamodels.jwst import datamodels
from stpipe.config_parser import Section, ValidationError

from gpucoron.backends.backend import Backend
from gpucoron.errors import ParameterError
from gpucoron.files import check_folder, first_line
from gpucoron.interactive import public
from gpucoron.io import logs
from gpucoron.io.exposure import check_path
from gpucoron.io.hooks import as_step, make_hooks, refuse_missing
from gpucoron.io.names import remove_suffix
from gpucoron.io.products import name_of_hook
from gpucoron.parameters import PIPELINE, convert, refuse_unknown
from gpucoron.steps.declaration import COMMON

_HOOKS = {parameter.name: parameter for parameter in COMMON if parameter.kind == "hooks"}
#: attributes that stpipe sets on every step
_OF_EVERY_STEP = {"name", "class", "qualified_name", "parent", "config_file", "input_dir"}
#: arguments of stpipe that are not parameters
_TAKEN_BY_STPIPE = {"name", "class", "parent", "config_file", "logcfg", "configure_log", "steps", "_validate_kwds"}


def check_input(given=None):
    """Refuse input that cannot be reduced, before stpipe opens it. Return its path, or None for an open model."""
    if isinstance(given, datamodels.JwstDataModel):
        return None
    return check_path(given, also=", or one open RampModel or Level1bModel")


class _Wrapped:
    """An array hidden from stpipe, which compares values and cannot compare arrays."""

    def __init__(self, array):
        self.array = array


def wrap(values, owner):
    """Convert parameters for stpipe: arrays are wrapped, functions become Steps, and paths become strings.

    Parameters
    ----------
    values : dict
        Parameter -> value; the parameters of steps may be nested in ``steps``.
    owner : str
        Name of the step or pipeline, for messages.

    Raises
    ------
    ParameterError
        The values are not a dictionary, or a hook is invalid.
    """
    return {name: _wrap(name, value, owner) for name, value in _dictionary(values, owner).items()}


def _dictionary(values, owner):
    """Check that values are a dictionary; None becomes an empty one."""
    if values is not None and not isinstance(values, dict):
        msg = f"{owner}: expected a dictionary of parameters, got {values!r}"
        raise ParameterError(msg)
    return values or {}


def _wrap(name, value, owner):
    if name == "steps" and not isinstance(value, Section):  # stpipe has already checked a Section
        return {step: wrap(given, step) for step, given in _dictionary(value, owner).items()}
    if name in _HOOKS:
        return _as_hooks(name, value, owner)
    value = _plain(value)
    return _Wrapped(value) if hasattr(value, "shape") else value


def _plain(value):
    """Convert a path to a string and a NumPy scalar to a number, the types that stpipe accepts."""
    if isinstance(value, Path):
        return str(value)
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _as_hooks(name, value, owner):
    hooks = [] if value is None else convert(_HOOKS[name], value, owner)
    return [as_step(hook) for hook in hooks]


@contextmanager
def _stpipe_errors_of(owner):
    """Convert stpipe's validation errors into ParameterErrors that name the owner."""
    try:
        yield
    except ValidationError as error:
        msg = f"{owner}: {first_line(error)}"
        raise ParameterError(msg) from error


def _printable(value):
    """Convert a value so that it can be written to a parameter file or a log."""
    if hasattr(value, "shape"):
        return f"array of shape {value.shape}"
    if isinstance(value, Backend):
        return value.name
    if isinstance(value, list) and any(callable(item) or hasattr(item, "run") for item in value):
        return [item if isinstance(item, str) else name_of_hook(item) for item in value]
    return value


class StepMixin:
    """Our part of a jwst Step or Pipeline; a mixin that precedes jwst's class."""

    @public
    def __init__(self, *args: Any, **values: Any) -> None:
        _check_names(type(self), values)
        with _stpipe_errors_of(self.class_alias):
            super().__init__(*args, **wrap(values, self.class_alias))
        for name, value in list(vars(self).items()):
            if isinstance(value, _Wrapped):
                setattr(self, name, value.array)
        self._made_with = {name: list(getattr(self, name)) for name in _HOOKS}
        self._made_with["steps"] = getattr(self, "steps", None)
        for when in ("pre", "post"):
            refuse_missing(getattr(self, f"_{when}_hooks"), f"{self.class_alias}.{when}_hooks")

    @classmethod
    @public
    def call(cls, *args: Any, **values: Any) -> Any:
        """Run on a file or a model, with the parameter files of CRDS; see ``stpipe.Step.call``."""
        check_input(*args[:1])
        _check_names(cls, values)
        config_file = values.get("config_file")
        if config_file is not None and not os.path.isfile(config_file):
            msg = f"{config_file}: no such parameter file"
            raise ParameterError(msg)
        with _stpipe_errors_of(f"{config_file}: {cls.class_alias}" if config_file else cls.class_alias):
            return super().call(*args, **wrap(values, cls.class_alias))

    @public
    @logs.recorded()
    def run(self, *args: Any) -> Any:
        """Run on a file or a model; see ``stpipe.Step.run``. The log in the products contains only this run."""
        self.settle_attributes()
        folder = os.path.expandvars(os.path.expanduser(self.output_dir or ""))
        if folder and (self.save_results or not os.path.isdir(folder)):
            check_folder(folder)  # stpipe makes the folder even if nothing is saved
        with _stpipe_errors_of(self.class_alias):
            return super().run(*args)

    def settle_attributes(self):
        """Apply the attributes that were set on an instance; raise ParameterError for those that do not exist."""
        # A subclass of the user may have other attributes.
        if type(self).__module__.partition(".")[0] == __name__.partition(".")[0]:
            known = {*self.load_spec_file(), *getattr(self, "step_defs", ())}
            for name in vars(self):
                if not name.startswith("_") and name not in known | _OF_EVERY_STEP:
                    refuse_unknown(f"attribute of {self.class_alias}", name, known - {"steps"})
        if getattr(self, "steps", None) is not self._made_with["steps"]:
            msg = (
                f"{self.class_alias}.steps: used only when a pipeline is created; set the attributes of its steps "
                "(pipeline.jump.skip = True)"
            )
            raise ParameterError(msg)
        for name, value in list(vars(self).items()):
            plain = _plain(value)
            if plain is not value and not name.startswith("_"):
                setattr(self, name, plain)
        for name in _HOOKS:
            self._settle_hooks(name)
        step = getattr(self, "step", None)
        for parameter in (*PIPELINE, *COMMON) if step is None else step.known.values():
            convert(parameter, getattr(self, parameter.name, parameter.default), step.name if step else "run")
        for name, step_class in getattr(self, "step_defs", {}).items():
            step = getattr(self, name)
            if not isinstance(step, StepMixin) or getattr(step, "step", None) is not getattr(step_class, "step", None):
                msg = (
                    f"{name}: a pipeline of gpucoron runs its own step, not {_kind(step)}; set its attributes "
                    f"(pipeline.{name}.skip = True), or give your own step as a hook: {name}.post_hooks"
                )
                raise ParameterError(msg)
            step.settle_attributes()

    def _settle_hooks(self, name):
        """Create hooks that were set later; stpipe creates hooks only together with the step."""
        hooks = _as_hooks(name, getattr(self, name), self.class_alias)
        setattr(self, name, hooks)
        if hooks != self._made_with[name]:
            place = {"output_dir": self.output_dir, "output_ext": self.output_ext}
            setattr(self, f"_{name}", make_hooks(hooks, name, self.class_alias, **place))
            self._made_with[name] = list(hooks)

    @staticmethod
    def get_stpipe_loggers():
        """Return the loggers whose messages stpipe shows and records: those of jwst's pipelines, and ours."""
        return (*JwstStep.get_stpipe_loggers(), "gpucoron")

    def set_primary_input(self, obj, exclusive=True):
        """Set the file after which products are named; the suffix .gz of a compressed file is removed."""
        super().set_primary_input(obj, exclusive)
        self._input_filename = self._input_filename and self._input_filename.removesuffix(".gz")

    def get_pars(self, full_spec=True):
        """Return the parameters in printable form: hooks and backends by name, arrays by shape."""
        printable = {name: _printable(value) for name, value in vars(self).items() if not name.startswith("_")}
        originals = {name: getattr(self, name) for name, value in printable.items() if value is not getattr(self, name)}
        vars(self).update({name: printable[name] for name in originals})
        try:
            with _stpipe_errors_of(self.class_alias):
                return super().get_pars(full_spec=full_spec)
        finally:
            vars(self).update(originals)

    def remove_suffix(self, name):
        """Remove a known suffix from a name, including those of our own steps."""
        return remove_suffix(name)


def _check_names(step_class, values):
    """Refuse parameters that do not exist in a step, a pipeline or the steps of a pipeline."""
    parts = getattr(step_class, "step_defs", {})
    known = {*step_class.load_spec_file(), *parts} - {"steps"}
    for name in values:
        if name not in known | _TAKEN_BY_STPIPE:
            refuse_unknown(f"parameter of {step_class.class_alias}", name, known)
    if isinstance(values.get("steps"), Section):  # stpipe has already checked it
        return
    for name, given in _dictionary(values.get("steps"), step_class.class_alias).items():
        if name not in parts:
            refuse_unknown("step", name, parts)
        _check_names(parts[name], _dictionary(given, name))


def _kind(value):
    return f"a {type(value).__name__}"
