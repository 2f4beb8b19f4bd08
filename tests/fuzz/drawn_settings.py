"""Random parameters from the declarations of the steps: kinds, bounds and options, so that new ones are included."""

from dataclasses import dataclass, field

from gpucoron.errors import ParameterError
from gpucoron.parameters import convert
from gpucoron.simulate.crds import STEP_CLASSES
from gpucoron.steps import STEPS

#: placeholder for the folder of the running side, in file names
OUT = "<out>"

#: text of this parameter -> possible values; {} is the folder of the case. Any other text is a word.
_TEXTS = {
    ("dq_init", "user_supplied_dq"): (*["{}/user_dq.fits"] * 9, "{}/nowhere.fits"),
    ("dark_current", "dark_output"): (f"{OUT}/drawn_dark.fits",),
    ("clean_flicker_noise", "user_mask"): ("{}/user_mask.fits",),
    ("persistence", "save_persistence"): (f"{OUT}/drawn_persistence.asdf",),
    ("persistence", "persistence_array_file"): ("{}/persistence.asdf",),
    ("emicorr", "user_supplied_reffile"): (*[None] * 2, "{}/emicorr.asdf"),
    # jwst's result in several processes is not always that in one
    ("jump", "maximum_cores"): ("1", "none"),
    ("ramp_fit", "maximum_cores"): ("1", "none"),
    # "advanced" compares exposures
    ("mask_groups", "mask_method"): ("basic", "custom"),
}
#: parameter -> what is usually set with it
_NEEDED = {
    "save_persistence": {"persistence_time": 20, "skip": False},
    "persistence_array_file": {"persistence_time": 20, "skip": False},
    "mask_method": {"custom_group": 2},
}
#: parameters common to all steps that also change jwst's products; file names have separate tests
_COMMON = ("save_results", "suffix")
#: parameters without effect unless another is set, which is then set in half of the cases
_OPENED_BY = {"expand_large_events": 6, "find_showers": 6}


@dataclass
class Drawn:
    """Settings as a user gives them: of the steps, in CRDS parameter files, and of the whole run."""

    steps: dict = field(default_factory=dict)
    pars: dict = field(default_factory=dict)
    run_parameters: dict = field(default_factory=dict)


def draw_settings(rng, order, folder, *, custom, with_pars, writes):
    """Draw the settings of a run.

    Parameters
    ----------
    rng : numpy.random.Generator
    order : sequence of str
        The steps of the exposure.
    folder : str
        Folder of the files that parameters name.
    custom : bool
        Also of spaceKLIP's steps, and of parameters that only gpucoron has in jwst's steps.
    with_pars : bool
        Some of them in CRDS parameter files.
    writes : bool
        Sometimes save the results of steps.
    """
    drawn = Drawn()
    for name in order:
        step = STEPS[name]
        if step.custom and not custom:
            continue
        values = _draw_step(rng, step, folder, custom=custom)
        if writes and not step.custom and rng.random() < 0.1:
            values |= {"save_results": True}
            if step.leaves == "ramp" and rng.random() < 0.5:
                values["suffix"] = f"of_{name.replace('_', '')}"
        in_file = {key for key in values if with_pars and not step.custom and key not in _COMMON and rng.random() < 0.5}
        own = {key: value for key, value in values.items() if key not in in_file or rng.random() < 0.2}
        _put_away(rng, drawn, name, own, {key: values[key] for key in in_file})
    if custom:
        drawn.run_parameters = {
            "stage_1overf": str(rng.choice(["groups", "ints"])),
            "rate_int_outliers": rng.random() < 0.3,
        }
    return drawn


def _put_away(rng, drawn, name, own, in_file):
    if own:
        drawn.steps[name] = own
    if not in_file or any(isinstance(value, str) and OUT in value for value in in_file.values()):
        drawn.steps.setdefault(name, {}).update(in_file)
        if not drawn.steps[name]:
            del drawn.steps[name]
        return
    if rng.random() < 0.5:
        drawn.pars[f"pars-{STEP_CLASSES[name].rpartition('.')[2].lower()}"] = in_file
    else:
        of_pipeline = drawn.pars.setdefault("pars-detector1pipeline", {"steps": {}})
        of_pipeline["steps"][name] = in_file


def _draw_step(rng, step, folder, *, custom):
    """Draw which parameters of a step are set, and their values."""
    values = {}
    if rng.random() < (0.35 if step.skipped else 0.06):
        values["skip"] = not step.skipped
    own = [parameter for parameter in step.parameters if custom or not parameter.ours]
    if not own or rng.random() < 0.5:
        return values
    share = min(0.5, 4 / len(own))
    for parameter in own:
        if rng.random() < share / (_OPENED_BY.get(parameter.name, 1) if parameter.default is not True else 1):
            kept = _draw_value(rng, step.name, parameter, folder)
            if kept is not parameter.default:
                values[parameter.name] = kept
                values |= _NEEDED.get(parameter.name, {}) if rng.random() < 0.9 else {}
    for parameter in step.references:
        if rng.random() < 0.02:
            values[f"override_{parameter}"] = "N/A"
    return values


def _draw_value(rng, step_name, parameter, folder):
    """Draw a value that the declaration accepts; one in thirty may be invalid."""
    is_free = rng.random() < 1 / 30
    for _ in range(20):
        value = _any_value(rng, step_name, parameter, folder)
        try:
            convert(parameter, value, step_name)
        except ParameterError:
            if not is_free:
                continue
        return value
    return parameter.default


def _any_value(rng, step_name, parameter, folder):
    texts = _TEXTS.get((step_name, parameter.name))
    if texts is not None:
        text = texts[rng.integers(len(texts))]
        return text if text is None else text.replace("{}", str(folder))
    if parameter.options:
        options = (*parameter.options, "none of these") if rng.random() < 1 / 30 else parameter.options
        return options[rng.integers(len(options))]
    if parameter.default is None and rng.random() < 0.2:
        return None
    if parameter.kind in ("float_list", "int_list"):
        counts = parameter.counts or (1, 2, 2, 2, 3)
        draw_one = _draw_float if parameter.kind == "float_list" else _draw_integer
        return [draw_one(rng, None) for _ in range(counts[rng.integers(len(counts))])]
    return _BY_KIND[parameter.kind](rng, parameter.default)


def _draw_integer(rng, default):
    usual = 3 if default is None else default
    near = [0, 1, 2, 3, 5, usual - 1, usual, usual + 1, 2 * usual, -1, 20]
    return int(near[rng.integers(len(near))])


def _draw_float(rng, default):
    usual = default or 10.0 ** rng.uniform(-1, 4)
    kind = rng.integers(8)
    if kind < 5:
        return round(float(usual * 10 ** rng.uniform(-0.8, 0.8)), 3)
    return (0.0, 1.0, -float(usual))[kind - 5]


_BY_KIND = {
    "boolean": lambda rng, default: bool(rng.integers(2)),
    "integer": _draw_integer,
    "float": _draw_float,
    "string": lambda rng, default: "drawn",
    "string_list": lambda rng, default: ["REF", "SCI"][: rng.integers(1, 3)],
    "array": lambda rng, default: None,
    "flags": lambda rng, default: None,
    "option": lambda rng, default: default,
    "hooks": lambda rng, default: default,
}
