"""The whole package over the stand-in that refuses what CuPy refuses: all steps, products and previews; the same bits.

`strict_cupy` says what is refused. Each case runs on the CPU first: on the NumPy backend, or on the host build where
NumPy sums in another order than the kernels.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import parity_edits as edits
import pytest
from fake_cupy import make_fake_cupy
from jwst_side import run_ours
from real_cupy import judge_or_skip

from gpucoron.backends import cuda_backend
from gpucoron.backends.cuda_backend import CudaBackend
from gpucoron.backends.host_backend import HostBackend
from gpucoron.backends.numpy_backend import NumpyBackend
from gpucoron.references import STORE
from gpucoron.simulate import Effects

#: an exposure -> arguments of the maker
IMPERFECT = {"nan_fraction": 0.02, "no_lin_corr_fraction": 0.02, "no_sat_check_fraction": 0.02}
IMPERFECT |= {"negative_gain_fraction": 0.02, "unreliable_fraction": 0.02, "gain_factor": 2.0}
NIRCAM = ("NIRCAM", "SUB320A335R")
EXPOSURES = {
    "averaged": (
        (*NIRCAM, "SHALLOW4", 6, 3),
        {"options": {**IMPERFECT, "inverse_linearity": True, "average_dark_current": "image", "dark_groups": 20}},
    ),
    "many": ((*NIRCAM, "RAPID", 6, 12), {"options": {"average_dark_current": "scalar"}}),
    "one": ((*NIRCAM, "BRIGHT1", 5, 1), {}),
    "flagged": ((*NIRCAM, "BRIGHT2", 8, 2), {"mark": edits.charge_loss}),
    "discarded": (("MIRI", "MASK1550", "FASTR1", 10, 2), {"mark": edits.whole_groups}),
    "snowballs": ((*NIRCAM, "RAPID", 9, 3), {"edit": edits.snowballs, "shape": (96, 112)}),
    "showers": (("MIRI", "MASK1550", "FASTR1", 20, 2), {"edit": edits.showers, "shape": (96, 112)}),
    "miri": (
        ("MIRI", "MASK1550", "FASTR1", 8, 13),
        {"options": {**IMPERFECT, "average_dark_current": "scalar"}, "effects": Effects(emi=True)},
    ),
}
DEFAULTS = {"shape": (40, 48), "edit": edits.several_jumps}


@dataclass
class StrictCase:
    """An exposure, parameters of the steps and of the run, and facts that the file would have had."""

    exposure: str
    steps: dict = field(default_factory=dict)
    run: dict = field(default_factory=dict)
    facts: dict = field(default_factory=dict)
    #: 'numpy', or 'host': with the kernels, for what NumPy sums in another order
    against: str = "numpy"
    #: steps that must have run
    ran: tuple = ()


def on(step, **parameters):
    return {step: {"skip": False, **parameters}}


def late_groups(ngroups):
    mask = np.zeros((1, ngroups, 1, 1), bool)
    mask[:, -2:] = True
    return mask


FLICKER = {"jump": {"skip": False}, **on("subtract_1overf")}
CUSTOM = {
    "saturation": {"flag_rcsat": True, "grow_diagonal": False, "n_pix_grow_sat": 2},
    "refpix": {"nlower": 4, "nupper": 4, "nleft": 4, "nright": 3, "nrow_off": 1, "side_smoothing_length": 10},
    **on("mask_groups", mask_array=late_groups(6)),
    **on("apply_rateints_outliers", sigma_cut=4.0),
}
AFTER = {"after_jump_flag_dn1": 500.0, "after_jump_flag_time1": 2.5, "after_jump_flag_dn2": 2000.0}
AFTER |= {"after_jump_flag_time2": 6.0}


def one_over_f(stage, model_type, exposure="many", facts=None, **parameters):
    return StrictCase(
        exposure, on("subtract_1overf", model_type=model_type, **parameters), {"stage_1overf": stage},
        against="host", ran=("subtract_1overf",), facts=facts or {},
    )  # fmt: skip


FOUR = {"noutputs": 4}
NO_REFPIX = {"refpix": {"skip": True}}
CASES = {
    # the default steps of the near infrared
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
        "averaged", {"ramp_fit": {"algorithm": "LIKELY", "convert_average_dark": True}}, against="host"
    ),
    "clean_flicker_noise": StrictCase("one", on("clean_flicker_noise"), ran=("clean_flicker_noise",)),
    "persistence": StrictCase("many", on("persistence", persistence_time=100, dn_threshold=20000.0)),
    "snowballs": StrictCase("snowballs", {"jump": {"expand_large_events": True}}),
    # and of MIRI
    "MIRI": StrictCase("miri", ran=("reset", "rscd", "lastframe", "linearity", "dark_current", "jump", "ramp_fit")),
    "MIRI with interference": StrictCase(
        "miri", {**on("emicorr"), **on("firstframe")}, against="host", ran=("emicorr", "firstframe")
    ),
    "MIRI with interference in each integration": StrictCase(
        "miri", {**on("emicorr", fit_ints_separately=True), **on("firstframe", bright_use_group1=False)},
        against="host", ran=("emicorr", "firstframe"),
    ),
    "MIRI, a later segment": StrictCase(
        "miri", {"dark_current": {"dark_by_integration": True}, "ramp_fit": {"algorithm": "LIKELY"}}, against="host",
        facts={"integration_start": 2, "integration_end": 14, "nints": 20},
    ),
    "MIRI's discarded groups": StrictCase("discarded"),
    "showers": StrictCase("showers", {"jump": {"find_showers": True, "extend_min_area": 20}}),
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
    "1/f, medians": one_over_f("ints", "median", companions=[10.0, 12.0], companion_radius=4.0),
    "1/f, means": one_over_f("ints", "mean", rate_combination="nanmean", vertical_corr=False),
    "1/f, cosines": one_over_f("ints", "fft", user_mask=np.eye(40, 48, dtype=bool)),
    "1/f in groups, medians": one_over_f("groups", "median", combine_ints=False),
    "1/f in groups, means": one_over_f("groups", "mean", "averaged"),
    "1/f in groups, cosines": one_over_f("groups", "fft", "one"),
    "1/f along columns": one_over_f("ints", "savgol", facts={"slowaxis": -1, "fastaxis": 2}),
    "1/f, four outputs": one_over_f("ints", "savgol", facts=FOUR, channel_averaging=True),
    "1/f in groups, four outputs": one_over_f("groups", "median", "averaged", facts=FOUR, channel_averaging=True),
}  # fmt: skip
for _case in CASES.values():
    if _case.facts.get("noutputs") or _case.facts.get("fastaxis"):
        _case.steps |= NO_REFPIX

#: cases that also run with a device that is too small for them
SPILLED = ("averaged groups", "likely", "MIRI with interference", "spaceKLIP, rates", "spaceKLIP, groups")


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    """The stand-in; all but the smallest arrays go through pinned memory of a few hundred bytes."""
    monkeypatch.setattr(cuda_backend, "LARGE", 1000)
    monkeypatch.setattr(CudaBackend, "words_at_once", 5000)
    # On the host, threads that wait for each other are real ones: few of them.
    monkeypatch.setattr(CudaBackend, "choose_lanes", lambda self, n_pixels, n_units: 1)
    monkeypatch.setattr(CudaBackend, "block_threads", HostBackend.block_threads)
    monkeypatch.setattr(CudaBackend, "frame_threads", HostBackend.frame_threads)
    fake = make_fake_cupy(monkeypatch, tmp_path, runner=HostBackend(1), judge=judge_or_skip())
    # References stay on the device from one exposure to the next, but this device is new.
    STORE.clear()
    yield fake
    STORE.clear()
    assert not fake.queue
    assert max(fake.whole_copies, default=0) < 1000
    assert set(fake.pinned) <= {10000}


def make(exposures, case, monkeypatch):
    arguments, options = EXPOSURES[case.exposure]
    made = exposures(*arguments, **{**DEFAULTS, **options})
    if case.facts:
        import gpucoron.exposure

        read = gpucoron.exposure._facts
        monkeypatch.setattr(gpucoron.exposure, "_facts", lambda *given: replace(read(*given), **case.facts))
    return made


def run(made, case, backend):
    profile = {"profile": case.run["profile"]} if "profile" in case.run else {}
    pipeline = {name: value for name, value in case.run.items() if name != "profile"}
    return run_ours(made.path, case.steps, backend=backend, pipeline=pipeline, **profile)


def assert_same(found, expected):
    assert list(found.ramps) == list(expected.ramps)
    for step, arrays in expected.ramps.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(found.ramps[step][key], array, err_msg=f"{step} {key}")
    for product in ("rate", "rateints"):
        for key, array in (getattr(expected, product) or {}).items():
            np.testing.assert_array_equal(getattr(found, product)[key], array, err_msg=f"{product} {key}")
    for ours, theirs in zip(found.run.records, expected.run.records, strict=True):
        assert (ours.status, ours.reason, ours.flagged) == (theirs.status, theirs.reason, theirs.flagged), ours.name


def of_cpu(case, **options):
    return HostBackend(1, **options) if case.against == "host" else NumpyBackend()


@pytest.mark.parametrize("name", CASES)
def test_every_step_over_strict_arrays(name, exposures, cupy, monkeypatch):
    case = CASES[name]
    made = make(exposures, case, monkeypatch)
    with made.cache.activate():
        expected = run(made, case, of_cpu(case))
        found = run(made, case, CudaBackend(1, cupy=cupy))
    assert_same(found, expected)
    assert isinstance(found.run.exposure.data, cupy.ndarray)
    status = {record.name: record.status for record in found.run.records}
    assert all(status[step] == "COMPLETE" for step in case.ran), status


@pytest.mark.parametrize("name", SPILLED)
def test_every_step_of_exposures_that_are_too_large(name, exposures, cupy, monkeypatch, caplog):
    case = CASES[name]
    made = make(exposures, case, monkeypatch)
    with made.cache.activate():
        # What runs in NumPy there does so here.
        expected = run(made, case, of_cpu(case, max_memory=100_000))
        found = run(made, case, CudaBackend(1, cupy=cupy, max_memory=100_000))
    assert "in chunks" in caplog.text
    assert_same(found, expected)
    assert cupy.launches
