"""``Coron1Pipeline``: a jwst Pipeline class for ``strun`` and ``.call()``, a thin wrapper around the engine.

The wrapper provides what users of jwst expect: parameters in jwst's notation, CRDS parameter files (requested under
jwst's class names), names of products, the log in the product. Its steps only hold parameters; the engine runs them.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jwst.stpipe import Pipeline
from jwst.stpipe import Step as JwstStep
from stdatamodels.jwst import datamodels

from gpucoron.backends import NAMES, get_backend
from gpucoron.backends.sizes import memory_size
from gpucoron.engine import plan, run_or_start_again
from gpucoron.errors import InputError
from gpucoron.interactive import public, text_of
from gpucoron.io import logs, products
from gpucoron.io.boundary import converted_errors
from gpucoron.io.exposure import Exposure
from gpucoron.io.fits_layout import read_layout
from gpucoron.io.parameter_files import config_from_crds, crds_pars_disabled
from gpucoron.io.slopes import exposure_of_slopes
from gpucoron.io.stpipe_base import StepMixin, check_input
from gpucoron.parameters import (
    FROM_FILES,
    PIPELINE,
    SPACEKLIP_CLASS,
    Parameter,
    differs,
)
from gpucoron.parameters.without_effect import without_comparisons
from gpucoron.steps import STEPS, declared

log = logging.getLogger(__name__)

__all__ = ["Coron1Pipeline", "Coron1Pipeline_spaceKLIP"]


#: kind of a parameter that stpipe must not check, because it supports only strings and numbers
_CHECKED_LATER = "anything"


def _spec_line(parameter):
    """Return a parameter in the notation of ``configobj``; only `gpucoron.parameters.convert` checks bounds."""
    kind, default = parameter.kind, repr(parameter.default)
    if kind in (*FROM_FILES, _CHECKED_LATER):
        kind = "pass"  # a path, or the contents of the file
    if isinstance(parameter.default, list):
        default = f"list({', '.join(map(repr, parameter.default))})"
    arguments = [repr(option) for option in parameter.options]
    arguments.append(f"default={default}")
    return f"{parameter.name} = {kind}({', '.join(arguments)})  # {parameter.meaning}"


def _spec(parameters):
    return "\n".join(_spec_line(parameter) for parameter in parameters)


def _config_from_reference(cls, dataset, disable=None, crds_observatory=None):
    """Return parameters from CRDS, like ``stpipe.Step.get_config_from_reference``; raise if one is unknown."""
    if disable is None:
        disable = crds_pars_disabled()
    if not isinstance(dataset, dict):
        if isinstance(dataset, (str, Path)) and Path(dataset).suffix != ".asdf":
            read_layout(Path(dataset))  # checks the file before jwst reads its headers
        try:
            dataset = cls._get_crds_parameters(dataset)[0]
        except Exception:  # reading the file later reports the error
            log.warning("%s is not an exposure: no parameter files are requested from CRDS", dataset)
            disable = True
    config, files = config_from_crds(cls, None if disable else dataset)
    config.pars_files = files
    return config


class _SingleStep(StepMixin, JwstStep):
    """A step of `gpucoron.steps` as a jwst Step: it holds parameters for a pipeline and can run alone."""

    step = None
    spec = ""
    prefetch_references = False

    def __repr__(self):
        return f"<{type(self).__name__}: {', '.join(_changes(self)) or 'defaults'}>"

    @classmethod
    def get_config_reftype(cls):
        """Return the CRDS type of jwst's parameter file for the step."""
        return cls.step.pars_type

    get_config_from_reference = classmethod(_config_from_reference)

    def process(self, step_input=None):
        """Run this step alone.

        Parameters
        ----------
        step_input : str, Path or model
            A ramp; for `gain_scale` an ``ImageModel`` or a ``CubeModel``. A model is not modified.

        Returns
        -------
        RampModel; rate and rateints as a tuple for a fit; a model like the input for a step that works on slopes
        """
        return run_alone(self, step_input)


def _step_class(step, preset="jwst"):
    """Make the class of a step, with jwst's class name and the defaults of a preset."""
    defaults = step.defaults(preset)
    parameters = [
        replace(parameter, default=defaults[parameter.name]) for parameter in (*step.parameters, step.known["skip"])
    ]
    members = {
        "__doc__": f"{step.name}: {step.title}. Alone, or as part of a pipeline; see `gpucoron.steps.{step.name}`.",
        "__module__": __name__,
        "step": step,
        "class_alias": step.name,
        "spec": _spec(parameters),
        "reference_file_types": list(step.references),
    }
    name = step.class_name if preset == "jwst" else f"{step.class_name}_spaceKLIP"
    return type(name, (_SingleStep,), members)


#: step -> its class, for example ``gpucoron.pipeline.SaturationStep``
_STEP_CLASSES = {name: _step_class(step) for name, step in STEPS.items()}
_STEP_CLASSES_OF_SPACEKLIP = {name: _step_class(step, SPACEKLIP_CLASS) for name, step in STEPS.items()}
for _classes in (_STEP_CLASSES, _STEP_CLASSES_OF_SPACEKLIP):
    globals().update({step_class.__name__: step_class for step_class in _classes.values()})


class Coron1Pipeline(StepMixin, Pipeline):
    """JWST coronagraphy stage 1, from ``uncal`` to ``rateints`` and ``rate``.

    ``Coron1Pipeline.call(path, steps={"jump": {"rejection_threshold": 5}}, backend="cpu")`` applies CRDS parameter
    files like ``.call()`` of jwst, and like ``strun calwebb_coron1 FILE``; ``.run()`` of an instance does not.

    Parameters
    ----------
    backend : str or Backend
        Backend of the heavy operations: see `gpucoron.backends.get_backend`.
    max_memory : str or int, optional
        See `gpucoron.engine.reduce_file`.
    save_calibrated_ramp, save_intermediates, return_rateints : bool
        As in spaceKLIP's pipeline.
    """

    class_alias = "calwebb_coron1"

    spec = _spec(
        [
            *PIPELINE,
            Parameter("backend", _CHECKED_LATER, "auto", f"backend of the heavy operations: {', '.join(NAMES)}"),
            Parameter("max_memory", _CHECKED_LATER, None, "memory limit, for example 4G; None: the free memory"),
        ]
    )

    #: preset of the steps' defaults
    preset = "jwst"

    step_defs = dict(_STEP_CLASSES)

    #: path of the input; None for a model
    _input = None

    #: parameter files from which the pipeline was configured
    _pars_files = ()

    # the engine looks up references itself, and fewer of them
    prefetch_references = False

    def __repr__(self):
        backend = getattr(self.backend, "name", self.backend)
        of_run = [
            f"{one.name}={getattr(self, one.name)!r}" for one in PIPELINE if getattr(self, one.name) != one.default
        ]
        of_steps = [f"{name}.{text}" for name in STEPS for text in _changes(getattr(self, name), self.preset)]
        return f"<{type(self).__name__}: {', '.join([f'backend={backend!r}', *of_run, *of_steps])}>"

    @classmethod
    def get_config_reftype(cls):
        """Return the CRDS type of jwst's parameter file for Detector1Pipeline."""
        return "pars-detector1pipeline"

    get_config_from_reference = classmethod(_config_from_reference)

    @classmethod
    def from_config_section(cls, section, *args, **kwargs):
        """Configure a pipeline and store the names of its parameter files."""
        pipeline = super().from_config_section(section, *args, **kwargs)
        own = [str(Path(pipeline.config_file).resolve())] if pipeline.config_file else []
        pipeline._pars_files = [*getattr(section, "pars_files", []), *own]
        return pipeline

    @classmethod
    @public
    def call(cls, *args: Any, **kwargs: Any) -> Any:
        """Run on a file or a model with CRDS parameter files; see ``stpipe.Step.call``."""
        memory_size(kwargs.get("max_memory"))  # fail before CRDS is queried
        return super().call(*args, **kwargs)

    def process(self, step_input: Any = None) -> Any:
        """Run the engine on a path or an open model.

        Returns
        -------
        ImageModel, CubeModel (``return_rateints``) or RampModel (``ramp_fit`` skipped); None if nothing was fitted
        """
        self._input = check_input(step_input)
        with converted_errors(self._input or step_input.meta.filename or "the model"):
            return self._process(step_input)

    def _process(self, step_input):
        is_path = self._input is not None
        self._log_records = logs.lines_so_far()
        run_parameters = {parameter.name: getattr(self, parameter.name) for parameter in PIPELINE}

        def start(backend):
            exposure = Exposure.read(step_input, backend) if is_path else Exposure.from_model(step_input)
            run = plan(
                exposure, steps=self._settings(exposure.facts), pipeline=run_parameters, backend=backend, use_pars=False
            )
            run.output_dir = self.output_dir
            run.pars_files = list(self._pars_files)
            return run

        backend = get_backend(self.backend, max_memory=self.max_memory)
        with backend.own_stream():
            run = run_or_start_again(start, backend, after_step=products.saving_extras(self._path_of))
            if not run.fits:
                self.suffix = "ramp"
                return products.ramp_model(run)
            rate, rateints = products.rate_model(run), products.rateints_model(run)
        if self.return_rateints:
            self.suffix = "rateints"
            rate, rateints = rateints, rate
        else:
            self.suffix = "rate"
        if rateints is not None:
            self.save_model(rateints, suffix="rate" if self.return_rateints else "rateints")
        return rate

    def _settings(self, facts):
        """Return the parameters of all steps for an exposure, from the configured steps."""
        settings, changed = {}, {}
        for name, step in STEPS.items():
            defaults, own_defaults = (
                step.defaults(self.preset),
                step.defaults(self.preset, facts.instrument, facts.subarray),
            )
            values = _values_of(getattr(self, name))
            # Replace defaults that do not apply to this exposure; keep values that the user has set.
            for key in defaults:
                if defaults[key] != own_defaults[key] and not differs(values[key], defaults[key]):
                    values[key] = own_defaults[key]
            settings[name] = values
            changed[name] = {key: value for key, value in values.items() if differs(value, defaults[key])}
        without_comparisons(STEPS, changed)  # called for its warning only
        return settings

    def _path_of(self, extra):
        """Return the path of an additional product, with jwst's name for it."""
        name = extra.file_name or extra.stem or self.output_file
        return self._output_path(extra.suffix or False, name, extra.folder, ext=extra.ext)

    def _output_path(self, suffix, output_file, folder="", **components):
        path = Path(self.make_output_path(basepath=output_file, suffix=suffix, **components))
        if folder:
            path = Path(os.path.expandvars(os.path.expanduser(folder))) / path.name
        products.prepare_output(path.parent, [], overwrite=True)
        products.spare_input(path, self._input)
        return path

    def save_model(self, model, suffix=None, idx=None, output_file=None, force=False, **components):
        """Save a product atomically, with jwst's name for it."""
        output_file = output_file or self.output_file
        if not (force or self.save_results or output_file):
            return None
        if self.output_use_model or not (output_file or self.search_output_file):
            output_file = model.meta.filename
        path = self._output_path(suffix, output_file, **components)
        products.save({path: model})
        return str(path)


class Coron1Pipeline_spaceKLIP(Coron1Pipeline):
    """`Coron1Pipeline` with the defaults of spaceKLIP's class of this name, and without parameter files from CRDS.

    `gpucoron.coron1pipeline.run_single_file` sets more parameters, like spaceKLIP's function of that name:
    ``dark_current``, ``charge_migration``, ``ramp_fit.suppress_one_group``. Parameters that spaceKLIP has only for the
    near infrared have no effect on MIRI.

    Notes
    -----
    Source of the interface: spaceKLIP 2.2, ``coron1pipeline.Coron1Pipeline_spaceKLIP``.
    """

    preset = SPACEKLIP_CLASS

    step_defs = dict(_STEP_CLASSES_OF_SPACEKLIP)

    @classmethod
    def get_config_from_reference(cls, dataset, disable=None, crds_observatory=None):
        """Return an empty configuration, because spaceKLIP uses no CRDS parameter files."""
        return config_from_crds(cls, None)[0]


def run_alone(owner, step_input):
    """Run one step with the parameters of its jwst Step, and return the same kind of result as jwst's step.

    Parameters
    ----------
    owner : _SingleStep
    step_input : str, Path or model

    Returns
    -------
    model or tuple of models

    Raises
    ------
    GpucoronError
        One of its subclasses.
    """
    path = check_input(step_input)
    with converted_errors(path or step_input.meta.filename or "the model"):
        return _run_alone(owner, step_input)


def _run_alone(owner, step_input):
    step = owner.step
    # stpipe calls the hooks and saves the result.
    values = {key: value for key, value in _values_of(owner).items() if key not in _HANDLED_BY_STPIPE} | {"skip": False}
    if step.switch:
        values[step.switch] = True
    run_parameters = {step.run_switch: True} if step.run_switch else {}

    def start(backend):
        exposure = _open_for(step, step_input, backend)
        if "stage" in step.helpers:
            run_parameters["stage_1overf"] = "groups" if exposure.rateints is None else "ints"
        run = plan(
            exposure,
            steps={step.name: values},
            pipeline=run_parameters,
            backend=backend,
            use_pars=False,
            only=step.name,
        )
        run.output_dir = owner.search_attr("output_dir")
        return run

    def path_of(extra):
        return products.extra_path(extra, run_name, owner.search_attr("output_dir") or "")

    run_name = step_input if isinstance(step_input, (str, Path)) else step_input.meta.filename or owner.name
    backend = get_backend(getattr(owner.parent, "backend", "auto"))
    with backend.own_stream():
        run = run_or_start_again(start, backend, after_step=products.saving_extras(path_of))
        rate, rateints = products.rate_model(run), products.rateints_model(run)
        if step.fits:
            return rate, rateints
        return products.ramp_model(run) if rate is None and rateints is None else rate or rateints


def _open_for(step, step_input, backend):
    """Read the input of a step: a ramp, or count rates if the step works on these."""
    on_slopes, on_ramps = "rateints" in step.saves and not step.fits, step.leaves == "ramp"
    is_path = isinstance(step_input, (str, Path))
    on_rates = "rate" in step.saves
    if not on_slopes:
        return Exposure.read(step_input, backend) if is_path else Exposure.from_model(step_input)
    with datamodels.open(step_input) as model:
        n_axes = np.ndim(model.data)
        if (n_axes == 3 or (n_axes == 2 and on_rates)) and not step.follows_fit:
            return exposure_of_slopes(model)
    needs = ""
    if step.follows_fit:
        needs = "ramps and their fit, so run it in a pipeline"
    elif not on_ramps:
        needs = "a rate or rateints model"
    elif n_axes < 4:
        needs = "a ramp or a rateints model"
    if needs:
        msg = f"{step.name}: needs {needs}; {step_input} has {n_axes} axes"
        raise InputError(msg)
    return Exposure.read(step_input, backend) if is_path else Exposure.from_model(step_input)


def _changes(owner, preset="jwst"):
    """List the parameters of a step that differ from its defaults, as 'name=value'."""
    defaults = owner.step.defaults(preset)
    values = {name: value for name, value in _values_of(owner).items() if name in defaults}
    return [f"{name}={text_of(value)}" for name, value in values.items() if differs(value, defaults[name])]


def _values_of(owner):
    """Return the parameters of a step from its jwst Step, with the hooks that stpipe has made and their folder."""
    values = {key: getattr(owner, key) for key in declared(owner.step.name) if hasattr(owner, key)}
    values["input_dir"] = owner._input_dir  # the public attribute returns the pipeline's folder
    return values | {"pre_hooks": owner._pre_hooks, "post_hooks": owner._post_hooks}


#: parameters that stpipe handles for a step that runs alone
_HANDLED_BY_STPIPE = ("save_results", "suffix", "output_file", "pre_hooks", "post_hooks")
