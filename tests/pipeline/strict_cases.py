"""The cases of `test_strict_pipeline`: exposures, parameters, and which steps must have run."""

from dataclasses import dataclass, field

import numpy as np

from gpucoron.simulate import Effects
from tests.cases import parity_edits as edits

SHAPE = 32, 40


def reference_rows(groupdq, pixeldq):
    pixeldq[:4] = pixeldq[-4:] = 1 << 31


#: exposure -> arguments of the maker
IMPERFECT = {"nan_fraction": 0.02, "no_lin_corr_fraction": 0.02, "no_sat_check_fraction": 0.02}
IMPERFECT |= {"negative_gain_fraction": 0.02, "unreliable_fraction": 0.02, "gain_factor": 2.0}
NIRCAM = ("NIRCAM", "SUB320A335R")
EXPOSURES = {
    "averaged": (
        (*NIRCAM, "SHALLOW4", 6, 3),
        {"options": {**IMPERFECT, "inverse_linearity": True, "average_dark_current": "image", "dark_groups": 20}},
    ),
    "many": ((*NIRCAM, "RAPID", 6, 12), {"options": {"average_dark_current": "scalar"}}),
    "one": ((*NIRCAM, "BRIGHT1", 5, 1), {"edit": edits.saturate_at_borders}),
    "bright": (("MIRI", "MASK1550", "FASTR1", 9, 3), {"edit": edits.saturate_at_borders}),
    "flagged": ((*NIRCAM, "BRIGHT2", 8, 2), {"mark": edits.charge_loss}),
    "with reference pixels": ((*NIRCAM, "BRIGHT2", 6, 2), {"mark": reference_rows}),
    "discarded": (("MIRI", "MASK1550", "FASTR1", 10, 2), {"mark": edits.whole_groups}),
    "snowballs": ((*NIRCAM, "RAPID", 9, 3), {"edit": edits.snowballs, "shape": (96, 112)}),
    "short dark": (("MIRI", "MASK1550", "FASTR1", 16, 13), {"options": {**IMPERFECT, "dark_groups": 8}}),
    "with a flat": (("MIRI", "MASK1550", "FASTR1", 8, 2), {"later": True}),
    "with a frame": ((*NIRCAM, "RAPID", 6, 2), {"options": {"picture_frame": True}, "shape": (96, 112)}),
    "four groups": (("MIRI", "MASK1550", "FASTR1", 4, 2), {}),
    "wide": (("MIRI", "MASK1550", "FASTR1", 8, 2), {"effects": Effects(emi=True), "shape": (40, 288)}),
    "showers": (("MIRI", "MASK1550", "FASTR1", 20, 2), {"edit": edits.showers, "shape": (96, 112)}),
    "miri": (
        ("MIRI", "MASK1550", "FASTR1", 8, 13),
        {"options": {**IMPERFECT, "average_dark_current": "scalar"}, "effects": Effects(emi=True)},
    ),
}
DEFAULTS = {"shape": SHAPE, "edit": edits.several_jumps}


@dataclass
class StrictCase:
    """An exposure, parameters of the steps and of the run, and facts as from a file."""

    exposure: str
    steps: dict = field(default_factory=dict)
    run: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    #: 'numpy', or 'host' (with kernels) where NumPy sums in another order
    against: str = "numpy"
    #: steps that must have run
    ran: tuple = ()


def on(step, **parameters):
    return {step: {"skip": False, **parameters}}


def late_groups(ngroups):
    mask = np.zeros((1, ngroups, 1, 1), bool)
    mask[:, -2:] = True
    return mask


SUBTRACT_1OVERF = {"jump": {"skip": False}, **on("subtract_1overf")}
CUSTOM = {
    "saturation": {"flag_rcsat": True, "grow_diagonal": False, "n_pix_grow_sat": 2},
    "refpix": {"nlower": 4, "nupper": 4, "nleft": 4, "nright": 3, "nrow_off": 1, "side_smoothing_length": 10},
    **on("mask_groups", mask_array=late_groups(6)),
    **on("apply_rateints_outliers", sigma_cut=4.0),
}
AFTER = {"after_jump_flag_dn1": 500.0, "after_jump_flag_time1": 2.5, "after_jump_flag_dn2": 2000.0}
AFTER |= {"after_jump_flag_time2": 6.0}


def subtract_1overf(stage, model_type, exposure="many", facts=None, **parameters):
    return StrictCase(
        exposure, on("subtract_1overf", model_type=model_type, **parameters), {"stage_1overf": stage},
        against="host", ran=("subtract_1overf",), facts=facts or {},
    )  # fmt: skip


FOUR = {"noutputs": 4}
CASES = {
    # the default steps of the near infrared
    "a short dark along a line": StrictCase("averaged", {"dark_current": {"continue_by_line": True}}),
    "averaged groups": StrictCase("averaged", ran=("saturation", "superbias", "refpix", "linearity", "dark_current")),
    "read pattern off": StrictCase("averaged", {"saturation": {"use_readpatt": False, "n_pix_grow_sat": 3}}),
    "one integration": StrictCase("one", {"ramp_fit": {"suppress_one_group": False}}),
    "iterative jumps": StrictCase("many", {"jump": {"min_diffs_single_pass": 50}}),
    "jumps in a single pass": StrictCase("many", {"jump": {"min_diffs_single_pass": 3, **AFTER}}),
    "clipped integrations": StrictCase("many", {"jump": {"minimum_sigclip_groups": 12, "rejection_threshold": 3.0}}),
    "clipped groups": StrictCase(
        "many", {"jump": {"minimum_sigclip_groups": 50, "only_use_ints": False, "flag_4_neighbors": False}}
    ),
    "too few groups for jumps": StrictCase("many", {"jump": {"minimum_groups": 10, "apply_minimum_groups": True}}),
    "groups after jumps": StrictCase("many", {"jump": AFTER}),
    "charge migration": StrictCase(
        "averaged", {**on("charge_migration", signal_threshold=9000.0), "ramp_fit": {"suppress_one_group": False}},
        ran=("charge_migration",),
    ),
    "charge loss": StrictCase("flagged", ran=("ramp_fit",)),
    "selected groups": StrictCase("many", {"ramp_fit": {"firstgroup": 1, "lastgroup": 4}}),
    "group scale, and the dark's average": StrictCase(
        "averaged", {"ramp_fit": {"convert_average_dark": True}, "dark_current": {"apply_average_dark_image": True}},
        facts={"frame_divisor": 8, "gain_factor": 1.5}, ran=("group_scale", "gain_scale"),
    ),
    "likely": StrictCase(
        "averaged", {"ramp_fit": {"algorithm": "LIKELY", "convert_average_dark": True, "max_diffs_one_sided": 4}},
        against="host",
    ),
    "recommended": StrictCase(
        "averaged", {}, {"profile": "recommended"}, against="host", ran=("refpix", "subtract_1overf")
    ),
    "likely, sound rules": StrictCase(
        "many", {"ramp_fit": {"algorithm": "LIKELY", "jump_rules": "sound"}}, against="host"
    ),
    "clean_flicker_noise": StrictCase("one", on("clean_flicker_noise"), ran=("clean_flicker_noise",)),
    "clean_flicker_noise, a model": StrictCase(
        "many", on("clean_flicker_noise", background_method="model", single_mask=False, fit_by_channel=True),
        ran=("clean_flicker_noise",),
    ),
    "clean_flicker_noise, a histogram": StrictCase(
        "averaged", on("clean_flicker_noise", background_method=None, fit_histogram=True, save_noise=True),
        ran=("clean_flicker_noise",),
    ),
    "clean_flicker_noise, the median image": StrictCase(
        "many", on("clean_flicker_noise", background_method="median_image", save_background=True, save_mask=True),
        ran=("clean_flicker_noise",),
    ),
    "clean_flicker_noise along columns": StrictCase(
        "one", on("clean_flicker_noise", autoparam=True), ran=("clean_flicker_noise",),
        facts={"slowaxis": -1, "fastaxis": 2, "exp_type": "NRC_IMAGE"},
    ),
    "clean_flicker_noise of a MIRI image": StrictCase(
        "with a flat", on("clean_flicker_noise", mask_science_regions=True, apply_flat_field=True),
        facts={"exp_type": "MIR_IMAGE"}, ran=("clean_flicker_noise",),
    ),
    "persistence": StrictCase(
        "many", on("persistence", persistence_time=100, dn_threshold=2000.0), ran=("persistence",)
    ),
    "the frame of full frames": StrictCase(
        "with a frame", on("picture_frame", mask_science_regions=False, save_mask=True, save_correction=True),
        facts={"instrument": "NIRSPEC", "subarray": "FULL"}, ran=("picture_frame",),
    ),
    "snowballs": StrictCase("snowballs", {"jump": {"expand_large_events": True}}),
    # and of MIRI
    "MIRI": StrictCase("miri", ran=("reset", "rscd", "lastframe", "linearity", "dark_current", "jump", "ramp_fit")),
    "MIRI with emicorr": StrictCase(
        "miri", {**on("emicorr"), **on("firstframe")}, against="host", ran=("emicorr", "firstframe")
    ),
    "MIRI with emicorr in each integration": StrictCase(
        "miri", {**on("emicorr", fit_ints_separately=True), **on("firstframe", bright_use_group1=False)},
        against="host", ran=("emicorr", "firstframe"),
    ),
    "MIRI with emicorr, sequential": StrictCase("wide", on("emicorr", algorithm="sequential"), ran=("emicorr",)),
    "MIRI with emicorr, measured": StrictCase(
        "wide", on("emicorr", onthefly_corr_freq=[390.625], nbins=12, use_n_cycles=None), ran=("emicorr",)
    ),
    "MIRI with emicorr, measured in two groups": StrictCase(
        "four groups", on("emicorr", onthefly_corr_freq=[390.625], nbins=4), ran=("emicorr",)
    ),
    "MIRI, a later segment": StrictCase(
        "miri", {"dark_current": {"dark_by_integration": True}, "ramp_fit": {"algorithm": "LIKELY"}}, against="host",
        facts={"integration_start": 2, "integration_end": 14, "nints": 20},
    ),
    "MIRI's discarded groups": StrictCase("discarded"),
    "MIRI, a short dark along a line": StrictCase(
        "short dark", {"dark_current": {"continue_by_line": True}, **on("apply_rateints_outliers", sigma_cut=4.0)},
        ran=("dark_current", "apply_rateints_outliers"),
    ),
    "MIRI, early saturation": StrictCase("bright"),
    "showers": StrictCase("showers", {"jump": {"find_showers": True, "extend_min_area": 20}}),
    "showers, clipped, of limited amplitude": StrictCase(
        "showers", {"jump": {
            "find_showers": True, "extend_min_area": 20, "minimum_sigclip_groups": 2,
            "apply_max_shower_amplitude": True,
        }},
    ),
    "showers after snowballs": StrictCase(
        "snowballs", {"jump": {"expand_large_events": True, "find_showers": True, "extend_min_area": 20}}
    ),
    # spaceKLIP's
    "spaceKLIP, rates": StrictCase(
        "many", CUSTOM, {"profile": "spaceklip", "stage_1overf": "ints"}, against="host",
        ran=("mask_groups", "subtract_ktc", "subtract_1overf", "apply_rateints_outliers", "charge_migration"),
    ),
    "spaceKLIP, groups": StrictCase(
        "many", CUSTOM, {"profile": "spaceklip", "stage_1overf": "groups"}, against="host", ran=("subtract_1overf",)
    ),
    "spaceKLIP, averaged groups": StrictCase(
        "averaged", {"refpix": {"nlower": -1, "nleft": -1}, "saturation": {"flag_rcsat": True}},
        {"profile": "spaceklip"}, against="host",
    ),
    "spaceKLIP, one integration": StrictCase("one", {}, {"profile": "spaceklip"}, against="host"),
    "experimental_jumpramp": StrictCase(
        "many", {**on("experimental_jumpramp", use=True), **on("apply_rateints_outliers", sigma_cut=4.0)},
        against="host", ran=("experimental_jumpramp", "apply_rateints_outliers"),
    ),
    "outliers in most pixels": StrictCase(
        "many", on("apply_rateints_outliers", sigma_cut=1.0), ran=("apply_rateints_outliers",)
    ),
    "MIRI, spaceKLIP": StrictCase(
        "miri", on("mask_groups", mask_array=late_groups(8)),
        {"profile": "spaceklip", "rate_int_outliers": True}, ran=("mask_groups", "apply_rateints_outliers"),
    ),
    "1/f, medians": subtract_1overf("ints", "median", companions=[10.0, 12.0], companion_radius=4.0),
    "1/f, means": subtract_1overf("ints", "mean", rate_combination="nanmean", vertical_corr=False),
    "1/f, cosines": subtract_1overf("ints", "fft", user_mask=np.eye(*SHAPE, dtype=bool)),
    "1/f in groups, medians": subtract_1overf("groups", "median", combine_ints=False),
    "1/f in groups, means": subtract_1overf("groups", "mean", "averaged"),
    "1/f in groups, cosines": subtract_1overf("groups", "fft", "one"),
    "1/f along columns": subtract_1overf("ints", "savgol", facts={"slowaxis": -1, "fastaxis": 2}),
    "1/f, kriging": subtract_1overf("ints", "kriging", "averaged"),
    "1/f, kriging of one integration": subtract_1overf("ints", "kriging", "one", exponent=1.2),
    "1/f, kriging of columns": subtract_1overf("ints", "kriging", "averaged", facts={"slowaxis": -1, "fastaxis": 2}),
    "1/f, kriging of four outputs": subtract_1overf("ints", "kriging", "averaged", facts=FOUR),
    "1/f, weighted rows": subtract_1overf("ints", "rows", rate_combination="nanmean"),
    "1/f in groups, kriging": subtract_1overf("groups", "kriging", "averaged"),
    "1/f in groups, kriging of one integration": subtract_1overf("groups", "kriging", "one", amplitude=0.2),
    "1/f in groups, kriging of four outputs": subtract_1overf("groups", "kriging", "averaged", facts=FOUR),
    "1/f in groups, kriging and reference pixels": subtract_1overf("groups", "kriging", "with reference pixels"),
    "1/f in groups, weighted rows": subtract_1overf("groups", "rows", facts=FOUR),
    "1/f, four outputs": subtract_1overf("ints", "savgol", facts=FOUR, channel_averaging=True),
    "1/f in groups, four outputs": subtract_1overf("groups", "median", "averaged", facts=FOUR, channel_averaging=True),
}  # fmt: skip
