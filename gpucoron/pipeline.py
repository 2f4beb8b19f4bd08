"""``Coron1Pipeline``: a jwst Pipeline class for ``strun`` and ``.call()``, a thin coat over the engine.

The coat gives what users of jwst expect: parameters in jwst's notation, CRDS's parameter files (asked for under jwst's
own class names), output naming, the log in the product. The steps below carry parameters; the engine does the work.
"""

from dataclasses import replace
from pathlib import Path

from jwst.stpipe import Pipeline
from jwst.stpipe import Step as JwstStep
from stpipe.config_parser import ConfigObj

from gpucoron.backends import NAMES, get_backend
from gpucoron.backends.sizes import memory_size
from gpucoron.engine import plan, run_or_start_again, saving_extras
from gpucoron.io import products
from gpucoron.io.exposure import Exposure
from gpucoron.parameters import FROM_FILES, PIPELINE, SPACEKLIP_CLASS, Parameter, refuse_unknown
from gpucoron.steps import STEPS, declared

__all__ = ["Coron1Pipeline", "Coron1Pipeline_spaceKLIP"]


def _spec_line(parameter):
    """Write a parameter in the notation of ``configobj``."""
    kind, default = parameter.kind, repr(parameter.default)
    if kind in FROM_FILES:
        kind = "string"  # the path
    if isinstance(parameter.default, list):
        default = f"list({', '.join(map(repr, parameter.default))})"
    arguments = [repr(option) for option in parameter.options]
    if parameter.minimum is not None:
        arguments.append(f"min={parameter.minimum}")
    arguments.append(f"default={default}")
    return f"{parameter.name} = {kind}({', '.join(arguments)})  # {parameter.meaning}"


def _spec(parameters):
    return "\n".join(_spec_line(parameter) for parameter in parameters)


def _step_class(step, preset="jwst"):
    """Make the class that carries a step's parameters, and asks CRDS for jwst's parameter file of that step."""
    defaults = step.defaults(preset)
    parameters = [
        replace(parameter, default=defaults[parameter.name]) for parameter in (*step.parameters, step.known["skip"])
    ]

    def get_config_reftype(cls):
        return step.pars_type

    def no_parameter_file(cls, crds_parameters, crds_observatory):
        return ConfigObj()

    members = {
        "__doc__": f"Parameters of {step.name}: {step.title}.",
        "class_alias": step.name,
        "spec": _spec(parameters),
        "reference_file_types": list(step.references),
        "get_config_reftype": classmethod(get_config_reftype),
    }
    if step.custom:
        members["_get_config_from_parameters"] = classmethod(no_parameter_file)
    return type("".join(part.title() for part in step.name.split("_")) + "Step", (JwstStep,), members)


class Coron1Pipeline(Pipeline):
    """JWST coronagraphy stage 1, from ``uncal`` to ``rateints`` and ``rate``.

    ``Coron1Pipeline.call(path, steps={"jump": {"rejection_threshold": 5}}, backend="cpu")`` applies CRDS's parameter
    files as jwst's own ``.call()`` does; ``.run()`` of an instance does not. ``strun calwebb_coron1 FILE`` is the same
    from the command line.

    Parameters
    ----------
    backend : str
        Where the heavy operations run: a name of `gpucoron.backends.get_backend`.
    max_memory : str or int, optional
        See `gpucoron.engine.reduce_file`.
    save_calibrated_ramp, save_intermediates, return_rateints : bool
        As in spaceKLIP's pipeline.
    """

    class_alias = "calwebb_coron1"

    spec = _spec(
        [
            *PIPELINE,
            Parameter("backend", "string", "auto", f"where the heavy operations run: {', '.join(NAMES)}"),
            Parameter("max_memory", "string", None, "memory that it may take, such as 4G; None: what is free"),
        ]
    )

    #: whose presets the steps' defaults hold, beside jwst's own
    preset = "jwst"

    step_defs = {step.name: _step_class(step) for step in STEPS.values()}

    #: the file that is being reduced, if it is one
    _input = None

    # the engine looks its references up itself, and fewer of them
    prefetch_references = False

    @classmethod
    def get_config_reftype(cls):
        """Ask CRDS for the parameter file of the pipeline that this one stands for."""
        return "pars-detector1pipeline"

    @classmethod
    def call(cls, *args, **kwargs):
        """Run on a file or a model, with CRDS's parameter files applied; see ``stpipe.Step.call``."""
        # as None, stpipe takes neither
        kwargs["steps"] = {name: values or {} for name, values in (kwargs.get("steps") or {}).items()}
        for step_name, values in kwargs["steps"].items():
            known = declared(step_name)
            for name in values:
                if name not in known and name not in _STPIPE_PARAMETERS:
                    refuse_unknown(f"parameter of {step_name}", name, known)
        if kwargs.get("max_memory") is not None:
            kwargs["max_memory"] = str(memory_size(kwargs["max_memory"]))  # parameters of stpipe are texts
        return super().call(*args, **kwargs)

    def process(self, step_input):
        """Run the engine on a file's path or an open model.

        Returns
        -------
        ImageModel, CubeModel (``return_rateints``) or RampModel (``ramp_fit`` skipped); None where nothing was fitted
        """
        is_path = isinstance(step_input, (str, Path))
        self._input = Path(step_input) if is_path else None
        of_the_run = {parameter.name: getattr(self, parameter.name) for parameter in PIPELINE}

        def start(backend):
            exposure = Exposure.read(step_input, backend) if is_path else Exposure.from_model(step_input)
            run = plan(
                exposure, steps=self._settings(exposure.facts), pipeline=of_the_run, backend=backend, use_pars=False
            )
            run.output_dir = self.output_dir
            return run

        run = run_or_start_again(
            start, get_backend(self.backend, max_memory=self.max_memory), after_step=saving_extras(self._path_of)
        )
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
        """Collect every step's parameters from the configured steps, as an exposure takes them."""
        settings = {}
        for name, step in STEPS.items():
            shown, due = step.defaults(self.preset), step.defaults(self.preset, facts.instrument, facts.subarray)
            values = {key: getattr(getattr(self, name), key, None) for key in declared(name)}
            # A preset may be for other exposures; what the user has set is for this one.
            for key in shown:
                if shown[key] != due[key] and values[key] == shown[key]:
                    values[key] = due[key]
            settings[name] = values
        return settings

    def _path_of(self, extra):
        """Say where a further product goes, under jwst's name for it."""
        name = extra.file_name or extra.stem or self.output_file
        return self._output_path(extra.suffix or False, name, extra.folder)

    def _output_path(self, suffix, output_file, folder="", **components):
        path = Path(self.make_output_path(basepath=output_file, suffix=suffix, **components))
        if folder:
            path = Path(folder) / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        products.spare_input(path, self._input)
        return path

    def save_model(self, model, suffix=None, idx=None, output_file=None, force=False, **components):
        """Save a product under jwst's name for it, whole or not at all."""
        output_file = output_file or self.output_file
        if not (force or self.save_results or output_file):
            return None
        path = self._output_path(suffix, output_file, **components)
        products.save({path: model})
        return str(path)


class Coron1Pipeline_spaceKLIP(Coron1Pipeline):
    """`Coron1Pipeline` with the defaults of spaceKLIP's class of this name, and without parameter files from CRDS.

    `gpucoron.coron1pipeline.run_single_file` sets more, as spaceKLIP's function of that name does: ``dark_current``,
    ``charge_migration``, ``ramp_fit.suppress_one_group``. What only the near infrared has there has no effect on MIRI.

    Notes
    -----
    Source of the interface: spaceKLIP 2.2, ``coron1pipeline.Coron1Pipeline_spaceKLIP``.
    """

    preset = SPACEKLIP_CLASS

    step_defs = {step.name: _step_class(step, SPACEKLIP_CLASS) for step in STEPS.values()}

    @classmethod
    def _get_config_from_parameters(cls, crds_parameters, crds_observatory):
        return cls._empty_config()


#: what every stpipe step understands, and the engine does not need
_STPIPE_PARAMETERS = set(JwstStep.load_spec_file())
