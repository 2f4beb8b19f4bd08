"""What a step says of itself, and what it answers when it has run. Every module of a step stands on this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from gpucoron.parameters import Parameter, settings_class

#: why what jwst's steps have, and do not use in stage 1, has no effect
_NOT_IN_STAGE_1 = "jwst's steps of stage 1 do not read it either"

#: what every step has as jwst's steps have it, beside ``skip`` and ``save_results``
COMMON = (
    Parameter("suffix", "string", None, "what its result's file name ends with; None: the step's name"),
    Parameter("output_dir", "string", None, "folder for its result; None: that of the products", names=True),
    Parameter(
        "output_file", "string", None, "name for its result in place of the exposure's; saves the result", names=True
    ),
    Parameter("output_ext", "string", ".fits", "what kind of file its result is: .fits or .asdf"),
    Parameter("output_use_model", "boolean", False, "name its result after the exposure, whatever output_file says"),
    Parameter("search_output_file", "boolean", True, "name its result as the pipeline's output_file says"),
    Parameter("pre_hooks", "hooks", [], "steps, functions or commands that the data pass before it"),
    Parameter("post_hooks", "hooks", [], "steps, functions or commands that its result passes"),
    Parameter("output_use_index", "boolean", True, "accepted and not used", unused=_NOT_IN_STAGE_1),
    Parameter("input_dir", "string", None, "accepted and not used", unused=_NOT_IN_STAGE_1),
)


@dataclass
class Outcome:
    """What a step did.

    ``status`` is what jwst writes into ``meta.cal_step``: 'COMPLETE', 'SKIPPED' or 'FAILED'. ``reason`` says why a
    step was skipped; ``flagged`` counts what it flagged (name -> number); ``meta`` holds further metadata that jwst's
    step writes (dotted name -> value). ``opened`` names the references that the products are to name (type -> name; the
    engine knows better names of those that it found itself); None: all that the step declares for the exposure.
    """

    status: str = "COMPLETE"
    reason: str = ""
    flagged: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)
    opened: dict | None = None


def skipped(reason, *, opened=None, **meta):
    """Make the outcome of a step that did not run."""
    return Outcome("SKIPPED", reason, meta=meta, opened=opened)


@dataclass(frozen=True)
class Preset:
    """What a profile sets for a step, where it differs from jwst's default.

    ``instruments`` names those that it is for, all of them if it is empty; ``subarrays_only`` leaves full frames out.
    """

    values: Mapping
    instruments: tuple = ()
    subarrays_only: bool = False

    def applies(self, instrument, subarray):
        """Tell whether an exposure gets these values."""
        is_for_it = not self.instruments or instrument in self.instruments
        return is_for_it and not (self.subarrays_only and "FULL" in (subarray or ""))


@dataclass(frozen=True)
class Extra:
    """A further product of a step, described: the writer makes a model and a file of it.

    ``kind`` is 'ramp' (the exposure as it stands), 'rate' or 'rateints' (its slopes as they stand), 'image', 'dark'
    (like the step's own dark reference) or 'optional fit' (``array`` is jwst's own model). The file is called
    ``file_name``; without one, after ``stem``, or else after the products, and after ``suffix``. It goes to ``folder``,
    or else to where the products go. ``ext`` is what kind of file it is.
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
        The module's name, and what it does in a few words.
    jwst_class : str
        jwst's step class, whose ``pars-*`` file from CRDS applies; '' for a custom step.
    references : tuple of str
        Types that it understands, each with its ``override_<type>``.
    parameters : tuple of Parameter
        Its own; see `known`.
    cal_step : str
        Keyword under ``meta.cal_step`` that holds its status; by default its name.
    skipped : bool
        Whether it is switched off by default.
    opens : callable, optional
        ``opens(settings, facts)`` lists those ``references`` that it opens for an exposure; by default all.
    indirect : callable
        ``indirect(settings)`` lists further types that the jwst code which it borrows looks up by itself, and that it
        cannot do without: they are asked for before any work.
    checks : callable, optional
        ``checks(settings, shape)`` raises a ValueError where the arrays among its parameters do not go with ramps of
        that shape: it is asked before any work.
    helpers : tuple of str
        Keyword arguments of ``run`` that a step cannot know or do by itself; the engine provides them by name.
    borrows : str
        Module of jwst that holds ``jwst_class``, where that code is run in part or always.
    borrows_since : str
        The first jwst that has this step: before, another one had the name. '' where any jwst that we admit has it.
    hints : tuple of (str, type, str)
        A parameter that names a file, the kind of error that jwst's code raises if the file is another than it needs,
        and which file it needs.
    profiles : mapping of str to Preset
        What profiles set differently; `gpucoron.parameters.SPACEKLIP_CLASS` names one that is none of the users'.
    keywords : mapping of str to str
        spaceKLIP's keyword arguments for its parameters; 'not ' before the parameter where a true value means off.
    leaves : {'ramp', 'calibrated ramp', 'slopes'}
        What stands when it is done: a ramp can be saved as its result, a calibrated one also for itself.
    saves : mapping of str to str
        What is saved as its result where there are slopes already: 'rate' or 'rateints' -> how the file's name ends,
        with {} for the step's suffix.
    extras : callable, optional
        ``extras(exposure, settings)`` lists the `Extra` products that it has left and that were asked for.
    fits : bool
        Whether it fits the ramps.
    switch : str
        Its own parameter that switches it on, and off the steps that it ``replaces``.
    replaces : tuple of str
    takes_over : tuple of str
        Parameters of those steps that it goes by: 'step.parameter'. It gets all of them through the helper 'replaced'.
    alone : callable, optional
        ``alone(values)`` lists those of a user's parameters that mean nothing to an exposure that is reduced by itself.
    refuses : callable, optional
        ``refuses(settings)`` says what is wrong with parameters that cannot go together, or gives None: it is asked
        before any work, where the step is not skipped.
    run_switch : str
        Parameter of the run as a whole that switches it on.
    for_run : tuple of str
        Its own parameters that stand for the run's of the same name: true here is true there.
    cleans_groups : callable, optional
        ``cleans_groups(of_run)`` tells whether it works on all groups of an integration at once, by the parameters of
        the run: the plan of memory asks.
    """

    name: str
    title: str
    jwst_class: str = ""
    references: tuple = ()
    parameters: tuple = ()
    cal_step: str = ""
    skipped: bool = False
    opens: Callable | None = None
    indirect: Callable = lambda settings: ()
    checks: Callable | None = None
    helpers: tuple = ()
    borrows: str = ""
    borrows_since: str = ""
    hints: tuple = ()
    profiles: Mapping = field(default_factory=dict)
    keywords: Mapping = field(default_factory=dict)
    leaves: str = "ramp"
    saves: Mapping = field(default_factory=dict)
    extras: Callable | None = None
    fits: bool = False
    switch: str = ""
    replaces: tuple = ()
    takes_over: tuple = ()
    alone: Callable | None = None
    refuses: Callable | None = None
    run_switch: str = ""
    for_run: tuple = ()
    cleans_groups: Callable | None = None

    def __post_init__(self):
        object.__setattr__(self, "cal_step", self.cal_step or self.name)

    @property
    def custom(self):
        """True for a step that jwst does not have."""
        return not self.jwst_class

    @property
    def class_name(self):
        """What its jwst Step is called, in `gpucoron.pipeline`: as jwst's own."""
        return self.jwst_class or "".join(part.title() for part in self.name.split("_")) + "Step"

    @property
    def pars_type(self):
        """The CRDS type of the step's parameter file, as jwst's own class would ask for it."""
        return f"pars-{self.jwst_class.lower()}"

    @cached_property
    def known(self):
        """name -> Parameter of all that it understands: its own parameters, and those of every step."""
        common = (
            Parameter("skip", "boolean", self.skipped, "do not run this step"),
            Parameter("save_results", "boolean", False, "save the result of this step"),
            *COMMON,
            *(
                Parameter(
                    f"override_{reftype}",
                    "string",
                    None,
                    f"a {reftype} file to take instead of CRDS's",
                    reads=("FITS", "ASDF"),
                )
                for reftype in self.references
            ),
        )
        return MappingProxyType({parameter.name: parameter for parameter in (*self.parameters, *common)})

    @cached_property
    def settings_class(self):
        """The frozen dataclass of its parameters: one field for each in `known`."""
        return settings_class(f"{self.class_name.removesuffix('Step')}Parameters", self.known.values())

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
        """List the reference types that it opens for an exposure."""
        return self.references if self.opens is None else tuple(self.opens(settings, facts))
