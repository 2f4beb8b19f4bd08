"""Describe steps for users, from their declarations: what they do, parameters, defaults, references, products."""

import inspect
import re
from dataclasses import asdict, dataclass

from gpucoron.parameters import PIPELINE, PROFILES, RUN_PRESETS, quote

#: modules of array functions without a declaration: parts of steps, and functions that steps share
WITHOUT_STEP = (
    "likelihood",
    "optional_fit",
    "group_matching",
    "combined_rate",
    "known_sources",
    "snowballs",
    "showers",
    "refpix_full_frame",
    "emicorr_sequential",
)
#: how instruments are written
INSTRUMENTS = {"NIRCAM": "NIRCam", "MIRI": "MIRI"}
#: a full frame, and any other subarray: profiles treat them differently
_FRAMES = {"subarrays": "SUB320", "full frames": "FULL"}


#: label of values that apply to every exposure
ALL = "all"


@dataclass(frozen=True)
class ParameterDescription:
    """One parameter: kind, accepted values, unit, default values, and what it means.

    ``defaults`` maps profile -> exposures -> value; the exposures are 'all', or those for which the value applies.
    """

    name: str
    kind: str
    accepted: str
    unit: str
    defaults: dict
    meaning: str
    unused: str = ""

    @property
    def default_text(self):
        """The default values with their unit, profiles and exposures, such as '6.0 sigma in jwst, 4.0 sigma in ...'."""
        texts = {profile: self._texts_of(values) for profile, values in self.defaults.items()}
        if len(set(texts.values())) == 1:
            return next(iter(texts.values()))
        return "; ".join(f"{text} in {profile}" for profile, text in texts.items())

    def _texts_of(self, values):
        unit = {of: "" if value is None else f" {self.unit}".rstrip() for of, value in values.items()}
        parts = {of: f"{value_text(value)}{unit[of]}" for of, value in values.items()}
        return ", ".join(text if of == ALL else f"{text} ({of})" for of, text in parts.items())

    def as_json(self):
        """Return the description as types of JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StepDescription:
    """One step, as its module declares it.

    Attributes
    ----------
    name, title : str
    origin : str
        The jwst step of which it is the counterpart, or spaceKLIP.
    instruments : tuple of str
        Instruments whose exposures it runs on.
    runs : dict
        profile -> 'on', 'off', or for which exposures it is on.
    references, products : tuple of str
    page : str
        Page of the documentation.
    source : str
        Module of the step, and the code whose answers it gives.
    parameters, common : tuple of ParameterDescription
        Parameters of this step, and those that every step has.
    """

    name: str
    title: str
    origin: str
    instruments: tuple
    runs: dict
    references: tuple
    products: tuple
    page: str
    source: str
    parameters: tuple
    common: tuple

    def as_json(self):
        """Return the description as types of JSON."""
        return asdict(self)


def describe_step(step, orders):
    """Describe a step.

    Parameters
    ----------
    step : Step
    orders : dict
        Instrument -> orders in which steps may run on its exposures, each a tuple of `Step`.

    Returns
    -------
    StepDescription
    """
    instruments = [name for name, several in orders.items() if any(step in order for order in several)]
    own = {parameter.name for parameter in step.parameters}
    described = {
        name: describe_parameter(
            parameter, {profile: _default(step, name, profile, instruments) for profile in PROFILES}
        )
        for name, parameter in step.known.items()
    }
    return StepDescription(
        name=step.name,
        title=step.title,
        origin="custom step of spaceKLIP" if step.custom else f"{step.jwst_class} of jwst",
        instruments=tuple(INSTRUMENTS[instrument] for instrument in instruments),
        runs={profile: describe_switch(step, profile, instruments) for profile in PROFILES},
        references=tuple(step.references),
        products=tuple(_products(step, [order for several in orders.values() for order in several])),
        page=f"docs/steps/{step.name}.md",
        source="; ".join(filter(None, (f"gpucoron/steps/{step.name}.py", _source(step)))),
        parameters=tuple(one for name, one in described.items() if name in own),
        common=tuple(one for name, one in described.items() if name not in own),
    )


def describe_parameter(parameter, defaults=None):
    """Describe a parameter.

    Parameters
    ----------
    parameter : Parameter
    defaults : dict, optional
        profile -> exposures -> value; by default the declared value for all.
    """
    if defaults is None:
        defaults = {profile: {ALL: parameter.default} for profile in PROFILES}
    return ParameterDescription(
        name=parameter.name,
        kind=parameter.kind,
        accepted=accepted_values(parameter),
        unit=parameter.unit,
        defaults=defaults,
        meaning=parameter.meaning,
        unused=parameter.unused,
    )


def describe_run_parameters():
    """Describe the parameters of the run as a whole: a tuple of ParameterDescription."""

    def defaults(parameter):
        presets = {profile: RUN_PRESETS.get(profile, {}) for profile in PROFILES}
        return {profile: {ALL: preset.get(parameter.name, parameter.default)} for profile, preset in presets.items()}

    return tuple(describe_parameter(parameter, defaults(parameter)) for parameter in PIPELINE)


def accepted_values(parameter):
    """Return which values of its kind a parameter accepts, and which kinds of files; 'any' if there is no limit."""
    if parameter.options:
        return ", ".join(map(str, parameter.options))
    parts = [f"{' or '.join(map(str, parameter.counts))} values"] if parameter.counts else []
    parts += [parameter.description] if parameter.description else []
    parts += [f"{' or '.join(parameter.reads)} file"] if parameter.reads else []
    return ", ".join(parts) or "any"


def value_text(value):
    """Return a value as ``--set`` reads it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(value_text, value)) or "[]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return quote(value) if value == "" else str(value)


def describe_switch(step, profile, instruments):
    """Return whether a profile runs a step: 'on', 'off', or for which exposures it is on."""
    skips = _default(step, "skip", profile, instruments)
    if len(skips) == 1:
        return "off" if skips[ALL] else "on"
    return "on (" + ", ".join(of for of, skip in skips.items() if not skip) + ")"


def _default(step, name, profile, instruments):
    """Return the default values of a parameter in a profile: exposures -> value."""
    values = {
        (instrument, frame): step.defaults(profile, instrument, subarray)[name]
        for instrument in instruments
        for frame, subarray in _FRAMES.items()
    }
    distinct = []
    for value in values.values():
        if value not in distinct:
            distinct.append(value)
    if len(distinct) == 1:
        return {ALL: distinct[0]}
    groups = [(value, [exposure for exposure, other in values.items() if other == value]) for value in distinct]
    return {_describe_exposures(exposures, list(values)): value for value, exposures in groups}


def _describe_exposures(exposures, every):
    """Name exposures by what distinguishes them from all others: the instrument, the frame, or both."""
    for index, names in ((0, INSTRUMENTS), (1, {frame: frame for frame in _FRAMES})):
        chosen = {exposure[index] for exposure in exposures}
        if exposures == [exposure for exposure in every if exposure[index] in chosen]:
            return ", ".join(names[name] for name in names if name in chosen)
    texts = []
    for instrument in dict.fromkeys(instrument for instrument, _ in exposures):
        of_instrument = [exposure for exposure in exposures if exposure[0] == instrument]
        is_whole = of_instrument == [exposure for exposure in every if exposure[0] == instrument]
        name = INSTRUMENTS[instrument]
        texts += [name] if is_whole else [f"{name} {frame}" for _, frame in of_instrument]
    return ", ".join(texts)


def _products(step, orders):
    """Yield the files that a step can write; x is the name of the exposure."""
    before_fit = any(step in order and not any(other.fits for other in order[: order.index(step)]) for order in orders)
    if step.fits:
        yield "x_rate.fits, x_rateints.fits"
    if step.leaves == "calibrated ramp":
        yield "x_ramp.fits with save_calibrated_ramp"
    results = [f"x_{ending.format(step.name)}.fits ({kind})" for kind, ending in step.saves.items()]
    results += [f"x_{step.name}.fits (ramp)"] if before_fit and step.leaves != "slopes" and not step.fits else []
    if results:
        yield f"{', '.join(results)} with save_results"
    for parameter in step.parameters:
        if parameter.names:
            yield f"the file named by {parameter.name}"


def _source(step):
    """Return the first sentence on the source in the docstrings of the module; that of ``run`` first."""
    from gpucoron.steps import module_of  # the package imports this module while it gathers the steps

    module = module_of(step.name)
    functions = [value for value in vars(module).values() if inspect.isfunction(value)]
    own = [function for function in functions if function.__module__ == module.__name__ and function is not module.run]
    for function in (module.run, *own):
        found = re.search(r"Source: (.*?)(?:(?<!et al)\.\s|\.$|\n\n|\Z)", inspect.getdoc(function) or "", re.DOTALL)
        if found:
            return " ".join(found[1].split()).replace("``", "").strip("`.")
    return ""
