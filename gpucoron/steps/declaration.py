"""The declaration of a step, and the outcome of a step that has run. The modules of all steps use them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from gpucoron.parameters import Parameter, settings_class

#: why parameters that jwst's steps have, but do not use in stage 1, have no effect
_NOT_IN_STAGE_1 = "jwst's steps of stage 1 do not read it either"


def whole_frame(settings, facts):
    """Return the reach of a step whose result for a pixel depends on the whole frame."""
    return None


#: parameters that every step has, as in jwst, besides ``skip`` and ``save_results``
COMMON = (
    Parameter("suffix", "string", None, "end of the file name of the result; None: the name of the step"),
    Parameter("output_dir", "string", None, "folder for the result; None: the folder of the products", names=True),
    Parameter(
        "output_file",
        "string",
        None,
        "file name for the result instead of the exposure's; saves the result",
        names=True,
    ),
    Parameter("output_ext", "string", ".fits", "file type of the result: .fits or .asdf"),
    Parameter("output_use_model", "boolean", False, "name the result after the exposure and ignore output_file"),
    Parameter("search_output_file", "boolean", True, "name the result after output_file of the pipeline"),
    Parameter("pre_hooks", "hooks", [], "steps, functions or commands to run before the step"),
    Parameter("post_hooks", "hooks", [], "steps, functions or commands to run on the result"),
    Parameter("output_use_index", "boolean", True, "accepted and not used", unused=_NOT_IN_STAGE_1),
    Parameter("input_dir", "string", None, "accepted and not used", unused=_NOT_IN_STAGE_1),
)


@dataclass
class Outcome:
    """The outcome of a step.

    Attributes
    ----------
    status : {'COMPLETE', 'SKIPPED', 'FAILED'}
        Written to ``meta.cal_step``, as in jwst.
    reason : str
        Why the step was skipped.
    flagged : dict
        Numbers of flagged groups or pixels, by name.
    meta : dict
        Further metadata that jwst's step writes: dotted name -> value.
    opened : dict or None
        Reference type -> name, for the references that the products name. The engine replaces the names of references
        that it has looked up. None means all references that the step declares for the exposure.
    keywords : dict
        What the step has measured, for the primary header of the products: keyword -> (value, comment).
    """

    status: str = "COMPLETE"
    reason: str = ""
    flagged: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    opened: dict | None = None
    keywords: dict = field(default_factory=dict)


def skipped(reason, *, opened=None, **meta):
    """Make the outcome of a step that did not run."""
    return Outcome("SKIPPED", reason, meta=meta, opened=opened)


@dataclass(frozen=True)
class Preset:
    """Values of a profile for a step that differ from jwst's defaults.

    They apply to ``instruments`` (all if it is empty), and with ``subarrays_only`` not to full frames.
    """

    values: Mapping
    instruments: tuple = ()
    subarrays_only: bool = False

    def applies(self, instrument, subarray):
        """Return whether the values apply to an exposure."""
        is_for_instrument = not self.instruments or instrument in self.instruments
        return is_for_instrument and not (self.subarrays_only and "FULL" in (subarray or ""))


@dataclass(frozen=True)
class Extra:
    """The description of an extra product of a step, from which a model and a file are made.

    ``kind`` is 'ramp', 'rate' or 'rateints' (the current data of the exposure), 'image', 'array' (an image, a cube or a
    ramp by its axes), 'dark' (like the dark reference of the step), 'measured reference' (``array`` is its contents) or
    'optional fit' (``array`` is a SegmentFit).
    The name of the file is ``file_name``, or ``stem`` or the name of the products followed by ``suffix``. It is written
    to ``folder``, or to the folder of the products. ``ext`` is the type of file.
    """

    kind: str
    array: Any = None
    suffix: str = ""
    stem: str = ""
    file_name: str = ""
    folder: str = ""
    ext: str = ".fits"


@dataclass(frozen=True)
class Step:
    """One step, as its module declares it.

    Attributes
    ----------
    name, title : str
        The name of the module, and a short description.
    jwst_class : str
        jwst's step class, whose ``pars-*`` file from CRDS applies; '' for a custom step.
    references : tuple of str
        Types of references, each with a parameter ``override_<type>``.
    parameters : tuple of Parameter
        Parameters of this step; `known` adds those common to all steps.
    cal_step : str
        Keyword under ``meta.cal_step`` for its status; by default its name.
    skipped : bool
        Whether it is skipped by default.
    opens : callable, optional
        ``opens(settings, facts)`` lists the ``references`` that it opens for an exposure; by default all.
    indirect : callable
        ``indirect(settings, facts)`` lists further types of references that the step requires, without parameters to
        override them; products do not name them. They are checked before any work.
    checks : callable, optional
        ``checks(settings, shape)`` raises a ValueError if an array among its parameters does not fit ramps of that
        shape. It is called before any work.
    helpers : tuple of str
        Names of keyword arguments of ``run`` that the engine provides.
    hints : mapping of str to str
        Parameter that names a file for jwst's models -> advice if they cannot read it.
    profiles : mapping of str to Preset
        Values of profiles; the key `gpucoron.parameters.SPACEKLIP_CLASS` is for internal use.
    keywords : mapping of str to str
        spaceKLIP's keyword argument -> parameter, with 'not ' before the parameter if true switches it off.
    leaves : {'ramp', 'calibrated ramp', 'slopes'}
        The state of the data after the step: a ramp can be saved as its result, a calibrated ramp also as a product.
    saves : mapping of str to str
        Results that can be saved if slopes exist: 'rate' or 'rateints' -> end of the file name, with {} for the suffix.
    extras : callable, optional
        ``extras(exposure, settings)`` lists the `Extra` products that the settings request.
    fits : bool
        Whether it fits the ramps.
    follows_fit : bool
        Whether it needs ramps and their fit, so that it cannot run alone.
    switch : str
        Its parameter that switches it on, and switches off the steps that it ``replaces``.
    replaces : tuple of str
    takes_over : tuple of str
        Parameters of the replaced steps that it uses: 'step.parameter'. The helper 'replaced' provides all of them.
    alone : callable, optional
        ``alone(values)`` lists the user's parameters that have no effect if each exposure is reduced on its own.
    refuses : callable, optional
        ``refuses(settings)`` returns a message if parameters contradict each other, or None. It is called before any
        work, unless the step is skipped.
    reach : callable
        ``reach(settings, facts)`` returns from how many pixels around a pixel its result depends, 0 for the pixel alone
        and None for the whole frame, so that a ramp can be traced on a small part of the frame.
    run_switch : str
        Parameter of the run as a whole that switches it on.
    for_run : tuple of str
        Its parameters that, if true, set the parameter of the run with the same name.
    scratch_bytes : callable
        ``scratch_bytes(settings, run_parameters)`` returns the bytes per sample of one integration that its light work
        needs, beyond those of flags and masks that every step may need; used to plan memory.
    """

    name: str
    title: str
    jwst_class: str = ""
    references: tuple = ()
    parameters: tuple = ()
    cal_step: str = ""
    skipped: bool = False
    opens: Callable | None = None
    indirect: Callable = lambda settings, facts: ()
    checks: Callable | None = None
    helpers: tuple = ()
    hints: Mapping = field(default_factory=dict)
    profiles: Mapping = field(default_factory=dict)
    keywords: Mapping = field(default_factory=dict)
    leaves: str = "ramp"
    saves: Mapping = field(default_factory=dict)
    extras: Callable | None = None
    fits: bool = False
    follows_fit: bool = False
    switch: str = ""
    replaces: tuple = ()
    takes_over: tuple = ()
    alone: Callable | None = None
    refuses: Callable | None = None
    reach: Callable = lambda settings, facts: 0
    run_switch: str = ""
    for_run: tuple = ()
    scratch_bytes: Callable = lambda settings, run_parameters: 0

    def __post_init__(self):
        object.__setattr__(self, "cal_step", self.cal_step or self.name)

    @property
    def custom(self):
        """True for a step that jwst does not have."""
        return not self.jwst_class

    @property
    def class_name(self):
        """The name of its jwst Step in `gpucoron.pipeline`, the same as in jwst."""
        return self.jwst_class or "".join(part.title() for part in self.name.split("_")) + "Step"

    @property
    def pars_type(self):
        """The CRDS type of the parameter file of the step, as in jwst."""
        return f"pars-{self.jwst_class.lower()}"

    @cached_property
    def known(self):
        """name -> Parameter, for its own parameters and those common to all steps."""
        common = (
            Parameter("skip", "boolean", self.skipped, "do not run this step"),
            Parameter("save_results", "boolean", False, "save the result of this step"),
            *COMMON,
            *(
                Parameter(
                    f"override_{reftype}",
                    "string",
                    None,
                    f"a {reftype} file to use instead of the one from CRDS",
                    reads=("FITS", "ASDF"),
                )
                for reftype in self.references
            ),
        )
        return MappingProxyType({parameter.name: parameter for parameter in (*self.parameters, *common)})

    @cached_property
    def settings_class(self):
        """The frozen dataclass of its parameters: one field for each in `known`."""
        return settings_class(self.settings_name, self.known.values(), "gpucoron.steps")

    @property
    def settings_name(self):
        """Name of `settings_class`, in `gpucoron.steps`."""
        return f"{self.class_name.removesuffix('Step')}Parameters"

    @cached_property
    def default_settings(self):
        """Its parameters with their default values; shared, since they are frozen."""
        return self.settings_class()

    def settings(self, **values):
        """Make its parameters from some values; all others have their defaults."""
        return self.settings_class(**values)

    def preset_values(self, profile, instrument="NIRCAM", subarray=""):
        """Return parameter -> value for the parameters that a profile sets for an exposure."""
        preset = self.profiles.get(profile)
        return preset.values if preset is not None and preset.applies(instrument, subarray) else {}

    def defaults(self, profile, instrument="NIRCAM", subarray=""):
        """Return parameter -> value of all parameters, as a profile sets them for an exposure."""
        values = {name: parameter.default for name, parameter in self.known.items()}
        return values | dict(self.preset_values(profile, instrument, subarray))

    def references_of(self, settings, facts):
        """List the types of references that it opens for an exposure."""
        return self.references if self.opens is None else tuple(self.opens(settings, facts))
