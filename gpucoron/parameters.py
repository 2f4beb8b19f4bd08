"""Every step's parameters, declared once: name, kind, default, unit, meaning.

From this table come the checks of what a user asks for, the ``spec`` of the jwst Pipeline class, the command line's
help and the table in the documentation. Names and ``jwst`` defaults are those of jwst 3.0; a test holds them against
the installed specs. The ``spaceklip`` profile holds only what spaceKLIP's ``run_single_file`` sets differently.
"""

import difflib
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

from gpucoron.errors import ParameterError

PROFILES = ("jwst", "spaceklip")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a step.

    ``kind`` is 'float', 'integer', 'boolean', 'string', 'option', 'float_list', 'int_list', 'string_list' or 'array'
    (an array, or the path of a ``.npy`` file); None is accepted where it is the default or one of the ``options``, and
    where the parameter is ``optional``.
    ``minimum`` is the least value that is accepted.
    """

    name: str
    kind: str
    default: object
    meaning: str
    unit: str = ""
    options: tuple = ()
    minimum: float | None = None
    optional: bool = False


@dataclass(frozen=True)
class Step:
    """One step: its parameters, the references it needs, and what jwst calls it.

    ``jwst_class`` names the step class whose ``pars-*`` file from CRDS applies ('' for a custom step); ``cal_step`` is
    the keyword under ``meta.cal_step`` that holds its status.
    """

    name: str
    title: str
    jwst_class: str
    references: tuple = ()
    parameters: tuple = ()
    cal_step: str = ""
    skipped: bool = False

    @property
    def custom(self):
        """True for a step that jwst does not have."""
        return not self.jwst_class

    @property
    def pars_type(self):
        """The CRDS type of the step's parameter file, as jwst's own class would ask for it."""
        return f"pars-{self.jwst_class.lower()}"


def _step(name, title, jwst_class, references=(), parameters=(), cal_step="", skipped=False):
    return Step(name, title, jwst_class, tuple(references), tuple(parameters), cal_step or name, skipped)


P = Parameter

_PSEUDO = "pseudo-reference {}; -1: as many as touch the detector's border, else 4"

_DECLARED = (
    _step("group_scale", "undo a wrong on-board division of averaged frames", "GroupScaleStep"),
    _step(
        "dq_init",
        "start the data-quality flags from the mask reference",
        "DQInitStep",
        ["mask"],
        [P("user_supplied_dq", "string", None, "FITS file with further flags for every pixel")],
    ),
    _step(
        "emicorr",
        "remove electromagnetic interference (MIRI)",
        "EmiCorrStep",
        ["emicorr"],
        [
            P(
                "algorithm",
                "option",
                "joint",
                "how the interference is fitted",
                options=("sequential", "joint"),
            ),
            P("nints_to_phase", "integer", None, "integrations that are phased"),
            P("nbins", "integer", None, "bins in one phased wave"),
            P("scale_reference", "boolean", True, "scale the reference wave to the data's amplitude"),
            P("onthefly_corr_freq", "float_list", None, "frequencies to correct for", "Hz"),
            P("use_n_cycles", "integer", 3, "cycles that determine the phase; None: all integrations", optional=True),
            P("fit_ints_separately", "boolean", False, "fit each integration by itself ('joint')"),
            P("user_supplied_reffile", "string", None, "deprecated: use override_emicorr"),
            P("save_intermediate_results", "boolean", False, "save a reference made on the fly"),
        ],
        skipped=True,
    ),
    _step(
        "saturation",
        "flag saturated groups and the A/D floor",
        "SaturationStep",
        ["saturation", "superbias"],
        [
            P("n_pix_grow_sat", "integer", 1, "how far saturation grows into its neighbours", "pixels"),
            P("use_readpatt", "boolean", True, "look for saturation hidden by averaged frames"),
            P("grow_diagonal", "boolean", True, "grow over corners too"),
            P("flag_rcsat", "boolean", False, "count RC pixels as saturated in all groups"),
        ],
    ),
    _step("ipc", "deconvolve the coupling between pixels", "IPCStep", ["ipc"]),
    _step(
        "firstframe",
        "leave out the first group (MIRI; deprecated in jwst)",
        "FirstFrameStep",
        [],
        [P("bright_use_group1", "boolean", True, "keep group 1 where group 3 is saturated")],
        skipped=True,
    ),
    _step("lastframe", "leave out the last group (MIRI)", "LastFrameStep"),
    _step("reset", "subtract the reset anomaly (MIRI)", "ResetStep", ["reset"]),
    _step("superbias", "subtract the superbias (near infrared)", "SuperBiasStep", ["superbias"]),
    _step(
        "refpix",
        "correct bias drifts with reference pixels",
        "RefPixStep",
        ["refpix", "sirskernel"],
        [
            P("odd_even_columns", "boolean", True, "treat odd and even columns apart"),
            P("use_side_ref_pixels", "boolean", True, "use the reference columns for each row"),
            P("side_smoothing_length", "integer", 11, "running median along the side", "rows"),
            P("side_gain", "float", 1.0, "factor on the side signal"),
            P("odd_even_rows", "boolean", True, "treat odd and even rows apart"),
            P("ovr_corr_mitigation_ftr", "float", 3.0, "protection from overcorrection (IRS2)"),
            P("preserve_irs2_refpix", "boolean", False, "keep reference pixels (IRS2)"),
            P("irs2_mean_subtraction", "boolean", False, "subtract a mean offset first (IRS2)"),
            P(
                "refpix_algorithm",
                "option",
                "median",
                "side pixels of full frames",
                options=("median", "sirs"),
            ),
            P("sigreject", "float", 4.0, "outlier rejection (sirs)", "sigma"),
            P("gaussmooth", "float", 1.0, "width of the low-pass filter (sirs)", "pixels"),
            P("halfwidth", "integer", 30, "half width of the kernel (sirs)", "pixels"),
            P("siglimit", "float", 3.0, "clipping of reference pixels", "sigma"),
            P("nlower", "integer", None, _PSEUDO.format("rows at the bottom"), "rows", minimum=-1),
            P("nupper", "integer", None, _PSEUDO.format("rows at the top"), "rows", minimum=-1),
            P("nleft", "integer", None, _PSEUDO.format("columns at the left"), "columns", minimum=-1),
            P("nright", "integer", None, _PSEUDO.format("columns at the right"), "columns", minimum=-1),
            P("nrow_off", "integer", None, "offset of those rows from the edge", "rows", minimum=0),
            P("ncol_off", "integer", None, "offset of those columns from the edge", "columns", minimum=0),
        ],
    ),
    _step("linearity", "correct the non-linear response", "LinearityStep", ["linearity"]),
    _step("rscd", "leave out groups after a reset (MIRI)", "RscdStep", ["rscd"]),
    _step(
        "dark_current",
        "subtract the dark",
        "DarkCurrentStep",
        ["dark"],
        [
            P("dark_output", "string", None, "save the dark as it was subtracted"),
            P("average_dark_current", "float", None, "average dark current, for the noise", "e-/s"),
            P("dark_by_integration", "boolean", False, "later segments take the dark of their own integrations (MIRI)"),
            P("apply_average_dark_image", "boolean", False, "take the reference's image of it, as jwst means to"),
        ],
        cal_step="dark_sub",
    ),
    _step(
        "charge_migration",
        "leave out groups that lose charge to their neighbours",
        "ChargeMigrationStep",
        [],
        [P("signal_threshold", "float", 25000, "signal above which charge migrates", "DN")],
        skipped=True,
    ),
    _step(
        "jump",
        "flag cosmic rays",
        "JumpStep",
        ["gain", "readnoise"],
        [
            P("rejection_threshold", "float", 4.0, "cut for five and more groups", "sigma", minimum=0),
            P("three_group_rejection_threshold", "float", 6.0, "cut for three groups", "sigma", minimum=0),
            P("four_group_rejection_threshold", "float", 5.0, "cut for four groups", "sigma", minimum=0),
            P("maximum_cores", "string", "1", "accepted and not used: threads follow the cores given"),
            P("flag_4_neighbors", "boolean", True, "flag the four neighbours of a jump"),
            P("max_jump_to_flag_neighbors", "float", 1000, "no neighbours above this jump", "sigma"),
            P("min_jump_to_flag_neighbors", "float", 10, "no neighbours below this jump", "sigma"),
            P("after_jump_flag_dn1", "float", 0, "first threshold for groups after a jump", "DN"),
            P("after_jump_flag_time1", "float", 0, "how long they are flagged", "s"),
            P("after_jump_flag_dn2", "float", 0, "second threshold for groups after a jump", "DN"),
            P("after_jump_flag_time2", "float", 0, "how long they are flagged", "s"),
            P("expand_large_events", "boolean", False, "look for snowballs"),
            P("min_sat_area", "float", 1.0, "least area of a snowball's saturated core", "pixels"),
            P("min_jump_area", "float", 5.0, "least area of a large event", "pixels"),
            P("expand_factor", "float", 2.0, "how far a large event is expanded"),
            P("use_ellipses", "boolean", False, "deprecated"),
            P("sat_required_snowball", "boolean", True, "a snowball must have a saturated core"),
            P("min_sat_radius_extend", "float", 2.5, "least core radius to be extended", "pixels"),
            P("sat_expand", "integer", 2, "growth of a snowball's core", "pixels"),
            P("edge_size", "integer", 25, "no core is required this near to the edge", "pixels"),
            P("mask_snowball_core_next_int", "boolean", True, "flag the core in the next integration"),
            P("snowball_time_masked_next_int", "integer", 4000, "for this long", "s"),
            P("find_showers", "boolean", False, "look for showers (MIRI)"),
            P("max_shower_amplitude", "float", 4, "largest amplitude of a shower (jwst ignores it)", "DN/s"),
            P("extend_snr_threshold", "float", 1.2, "detection threshold of showers", "sigma"),
            P("extend_min_area", "integer", 90, "least area of a shower", "pixels"),
            P("extend_inner_radius", "float", 1, "inner radius of the smoothing ring", "pixels"),
            P("extend_outer_radius", "float", 2.6, "outer radius of the smoothing ring", "pixels"),
            P("extend_ellipse_expand_ratio", "float", 1.1, "growth of the fitted ellipse"),
            P("time_masked_after_shower", "float", 15, "flagged after a shower", "s"),
            P("min_diffs_single_pass", "integer", 10, "differences from which one pass is enough"),
            P("max_extended_radius", "integer", 200, "largest radius of a large event", "pixels"),
            P("apply_max_shower_amplitude", "boolean", False, "apply it, in DN/s"),
            P("minimum_groups", "integer", 3, "least groups for a detection (jwst always takes 3)"),
            P("apply_minimum_groups", "boolean", False, "apply it where it is more than 3"),
            P("minimum_sigclip_groups", "integer", 100, "groups from which sigma clipping is used"),
            P("only_use_ints", "boolean", True, "clip over integrations, group by group"),
        ],
    ),
    _step(
        "picture_frame",
        "remove the thermal picture frame",
        "PictureFrameStep",
        ["pictureframe"],
        [
            P("mask_science_regions", "boolean", True, "mask known science regions"),
            P("n_sigma", "float", 2.0, "clipping of the background", "sigma"),
            P("save_mask", "boolean", False, "save the background mask"),
            P("save_correction", "boolean", False, "save the correction"),
        ],
        skipped=True,
    ),
    _step(
        "clean_flicker_noise",
        "remove 1/f noise as jwst does",
        "CleanFlickerNoiseStep",
        ["flat", "pastasoss"],
        [
            P("autoparam", "boolean", False, "choose some parameters from the data"),
            P("fit_method", "option", "median", "how noise is fitted", options=("fft", "median")),
            P("fit_by_channel", "boolean", False, "fit each amplifier by itself"),
            P(
                "background_method",
                "option",
                "median",
                "how the background is fitted",
                options=("median", "model", "median_image", None),
            ),
            P("background_box_size", "int_list", None, "box of the background fit", "pixels"),
            P("mask_science_regions", "boolean", False, "mask known science regions"),
            P("apply_flat_field", "boolean", False, "divide by the flat before the fit"),
            P("n_sigma", "float", 2.0, "clipping of the background", "sigma"),
            P("fit_histogram", "boolean", False, "sigma from a histogram of values"),
            P("single_mask", "boolean", True, "one mask for all integrations"),
            P("user_mask", "string", None, "file with a mask"),
            P("save_mask", "boolean", False, "save the mask"),
            P("save_background", "boolean", False, "save the background"),
            P("save_noise", "boolean", False, "save the noise"),
        ],
        skipped=True,
    ),
    _step(
        "persistence",
        "flag persistence",
        "PersistenceStep",
        [],
        [
            P("save_persistence", "string", None, "ASDF file for the persistence array"),
            P("persistence_time", "integer", None, "length of the persistence window", "s"),
            P("dn_threshold", "float", None, "signal above which pixels persist", "DN"),
            P("persistence_array_file", "string", None, "ASDF file with a persistence time for each pixel"),
            P("persistence_dnu", "boolean", False, "set DO_NOT_USE as well"),
        ],
        skipped=True,
    ),
    _step(
        "mask_groups",
        "leave out late groups of brighter references",
        "",
        [],
        [
            P("mask_method", "option", "basic", "how groups are chosen", options=("basic", "advanced", "custom")),
            P("types", "string_list", ["REF", "REF_BG"], "types of exposures that are given a mask"),
            P("cropwidth", "integer", None, "half width of the square; None: 20 (basic) or 30", "pixels"),
            P("edgewidth", "integer", None, "width of the ring; None: 10 (basic) or 20", "pixels"),
            P("threshold", "float", 85.0, "bright above this percentile (advanced)", "percent"),
            P("custom_group", "integer", None, "groups to keep (custom)", "groups", minimum=1),
            P("mask_array", "array", None, "the groups of this exposure to leave out: True"),
        ],
        skipped=True,
    ),
    _step(
        "subtract_ktc",
        "remove each pixel's pedestal",
        "",
        ["saturation"],
        [P("sat_frac", "float", 0.5, "fraction of the saturation level up to which groups are fitted")],
        skipped=True,
    ),
    _step(
        "subtract_1overf",
        "remove 1/f noise",
        "",
        ["saturation"],
        [
            P("model_type", "option", "savgol", "how rows are fitted", options=("savgol", "median", "mean", "fft")),
            P("sat_frac", "float", 0.5, "fraction of the saturation level up to which groups are fitted"),
            P("combine_ints", "boolean", True, "one source mask for all integrations"),
            P("vertical_corr", "boolean", True, "columns after rows"),
            P("channel_averaging", "boolean", False, "one model for all four outputs of a full frame"),
            P(
                "rate_combination",
                "option",
                "weighted",
                "how the rate follows the corrected integrations",
                options=("weighted", "nanmean"),
            ),
            P("companions", "float_list", None, "known companions, x, y, x, y, ..., from 0", "pixels"),
            P("companion_radius", "float", 5.0, "circle around each that the fit leaves alone", "pixels"),
            P("user_mask", "array", None, "pixels that the fit leaves alone: True"),
            P("nproc", "integer", 4, "accepted and not used: threads follow the cores given"),
        ],
        skipped=True,
    ),
    _step(
        "ramp_fit",
        "fit the ramps",
        "RampFitStep",
        ["readnoise", "gain"],
        [
            P("algorithm", "option", "OLS_C", "how ramps are fitted", options=("OLS_C", "LIKELY")),
            P("int_name", "string", "", "name of the rateints file"),
            P("save_opt", "boolean", False, "save the optional product"),
            P("opt_name", "string", "", "name of the optional product"),
            P("suppress_one_group", "boolean", True, "no rate from a ramp with a single good group"),
            P("firstgroup", "integer", None, "ignore groups before this one, from 0"),
            P("lastgroup", "integer", None, "ignore groups after this one, from 0"),
            P("maximum_cores", "string", "1", "accepted and not used: threads follow the cores given"),
            P("convert_average_dark", "boolean", False, "turn the average dark current into DN/s first"),
        ],
    ),
    _step(
        "experimental_jumpramp",
        "likelihood jump rejection and fit",
        "",
        ["gain", "readnoise"],
        [
            P("use", "boolean", False, "instead of jump and ramp_fit"),
            P("noise_scale", "float", 1.0, "factor on the read noise"),
            P("nan_dnu", "boolean", True, "NaN where a pixel is not to be used"),
        ],
        skipped=True,
    ),
    _step(
        "apply_rateints_outliers",
        "look for outliers over the integrations, and fit them again",
        "",
        ["gain", "readnoise"],
        [
            P("sigma_cut", "float", 10.0, "distance from a pixel's median that makes an outlier", "sigma"),
            P("nint_min", "integer", 10, "fewer integrations are not compared", "integrations"),
        ],
        skipped=True,
    ),
    _step("gain_scale", "undo a non-standard gain", "GainScaleStep", ["gain"]),
)

#: name -> Step, for every step that exists
STEPS = MappingProxyType({step.name: step for step in _DECLARED})

#: parameters of the run as a whole
PIPELINE = (
    P("save_calibrated_ramp", "boolean", False, "save the ramp as ramp_fit sees it"),
    P("save_intermediates", "boolean", False, "save the result of every step"),
    P("return_rateints", "boolean", False, "return the rateints instead of the rate"),
    P("stage_1overf", "option", "ints", "where 1/f noise is removed", options=("groups", "ints")),
    P("rate_int_outliers", "boolean", False, "look for outliers over the integrations, and fit them again"),
)

#: what spaceKLIP's run_single_file sets, where it differs from jwst's default
SPACEKLIP = MappingProxyType(
    {
        "saturation": {"grow_diagonal": False},
        "refpix": {"nlower": -1, "nupper": -1, "nrow_off": 0},
        "dark_current": {"skip": "subarray"},
        "charge_migration": {"skip": False},
        "jump": {
            "rejection_threshold": 4.0,
            "three_group_rejection_threshold": 4.0,
            "four_group_rejection_threshold": 4.0,
        },
        "subtract_ktc": {"skip": False},
        "subtract_1overf": {"skip": False},
        "ramp_fit": {"suppress_one_group": False},
    }
)

#: in the spaceklip profile these apply to NIRCam alone: spaceKLIP does not run them on MIRI
NIRCAM_ONLY = ("saturation", "refpix", "charge_migration", "subtract_ktc", "subtract_1overf")


def _common(step):
    """List what every step understands beside its own parameters."""
    yield P("skip", "boolean", step.skipped, "do not run this step")
    yield P("save_results", "boolean", False, "save the result of this step")
    for reference in step.references:
        yield P(f"override_{reference}", "string", None, f"a {reference} file to take instead of CRDS's")


def declared(step_name):
    """Return name -> Parameter of a step, the common ones included.

    Raises
    ------
    ParameterError
        If there is no such step; the message names the nearest one.
    """
    if step_name not in STEPS:
        refuse_unknown("step", step_name, STEPS)
    step = STEPS[step_name]
    return {parameter.name: parameter for parameter in (*step.parameters, *_common(step))}


def _unknown(what, name, known):
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"there is no {what} {name!r}; {hint}"


def refuse_unknown(what, name, known):
    """Raise the ParameterError for a name that does not exist; its message holds the nearest one that does."""
    raise ParameterError(_unknown(what, name, known))


def convert(parameter, value, owner):
    """Convert a value (also from a command line's text) to the parameter's kind, or say why it cannot be."""
    if isinstance(value, str) and value.strip().lower() == "none" and parameter.kind != "string":
        value = None
    if value is None:
        if parameter.optional or parameter.default is None or None in parameter.options:
            return None
        msg = f"{owner}.{parameter.name}: needs a value of kind {parameter.kind}, got None"
        raise ParameterError(msg)
    try:
        converted = _CONVERTERS[parameter.kind](value)
    except (TypeError, ValueError):
        msg = f"{owner}.{parameter.name}: expected {parameter.kind}, got {value!r}"
        raise ParameterError(msg) from None
    if parameter.options and converted not in parameter.options:
        msg = f"{owner}.{parameter.name}: expected one of {parameter.options}, got {value!r}"
        raise ParameterError(msg)
    if parameter.minimum is not None and converted < parameter.minimum:
        msg = f"{owner}.{parameter.name}: expected at least {parameter.minimum}, got {value!r}"
        raise ParameterError(msg)
    return converted


def _boolean(value):
    if isinstance(value, str):
        words = {"true": True, "yes": True, "on": True, "1": True}
        words |= {"false": False, "no": False, "off": False, "0": False}
        return words[value.strip().lower()] if value.strip().lower() in words else _fail(value)
    if value in (0, 1):
        return bool(value)
    return _fail(value)


def _fail(value):
    raise ValueError(value)


def _integer(value):
    number = float(value)
    return int(number) if number == int(number) else _fail(value)


def _list_of(kind):
    def convert_list(value):
        items = value.strip("[]() ").split(",") if isinstance(value, str) else value
        return [kind(item) for item in items]

    return convert_list


_CONVERTERS = {
    "float": float,
    "integer": _integer,
    "boolean": _boolean,
    "string": lambda value: value if not isinstance(value, (int, float)) else str(value),
    "option": str,
    "array": lambda value: value,
    "string_list": lambda value: [item.strip() for item in value.split(",")] if isinstance(value, str) else list(value),
    "float_list": _list_of(float),
    "int_list": _list_of(_integer),
}


def resolve(profile="jwst", *, from_crds=None, steps=None, instrument="NIRCAM", subarray=""):
    """Settle every parameter: defaults, then CRDS's parameter files, then what the user asks for.

    Parameters
    ----------
    profile : 'jwst' or 'spaceklip'
    from_crds : dict of dicts, optional
        step -> parameter -> value, as ``references.parameters_from_crds`` found them; for the ``jwst`` profile alone.
    steps : dict of dicts, optional
        step -> parameter -> value, as the user gave them. Never changed.
    instrument, subarray : str
        The spaceklip profile depends on them.

    Returns
    -------
    dict of SimpleNamespace
        step -> its parameters.

    Raises
    ------
    ParameterError
        Unknown profile, step or parameter, or a value that cannot be.
    """
    if profile not in PROFILES:
        refuse_unknown("profile", profile, PROFILES)
    layers = [_spaceklip(instrument, subarray) if profile == "spaceklip" else from_crds or {}, steps or {}]
    settled = {}
    for step_name in STEPS:
        settled[step_name] = {name: parameter.default for name, parameter in declared(step_name).items()}
    for layer in layers:
        for step_name, wanted in layer.items():
            known = declared(step_name)
            for name, value in dict(wanted or {}).items():
                if name not in known:
                    refuse_unknown(f"parameter of {step_name}", name, known)
                settled[step_name][name] = convert(known[name], value, step_name)
    return {name: SimpleNamespace(**values) for name, values in settled.items()}


def _spaceklip(instrument, subarray):
    values = {name: dict(wanted) for name, wanted in SPACEKLIP.items()}
    values["dark_current"]["skip"] = "FULL" not in (subarray or "")
    if instrument != "NIRCAM":
        for name in NIRCAM_ONLY:
            del values[name]
    if instrument == "MIRI":
        values["ipc"] = {"skip": True}
    return values


def settle_run(settled, wanted):
    """Settle the parameters of the run as a whole, and what they say of the steps.

    Parameters
    ----------
    settled : dict of SimpleNamespace
        From ``resolve``; steps are switched on and off in it.
    wanted : dict
        Parameters of the run, by name.

    Returns
    -------
    SimpleNamespace
    """
    known = {parameter.name: parameter for parameter in PIPELINE}
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in wanted.items():
        if name not in known:
            refuse_unknown("parameter", name, known)
        values[name] = convert(known[name], value, "run")
    if values["rate_int_outliers"]:
        settled["apply_rateints_outliers"].skip = False
    if settled["experimental_jumpramp"].use:
        settled["experimental_jumpramp"].skip = False
        settled["jump"].skip = settled["ramp_fit"].skip = True
    return SimpleNamespace(**values)


def changed(settled):
    """List what differs from jwst's defaults: step -> parameter -> value."""
    differences = {}
    for step_name, values in settled.items():
        known = declared(step_name)
        different = {name: value for name, value in vars(values).items() if value is not known[name].default}
        different = {name: value for name, value in different.items() if _differs(value, known[name].default)}
        if different:
            differences[step_name] = different
    return differences


def _differs(value, default):
    """Compare a value with its default; an array has none."""
    return hasattr(value, "shape") or value != default
