"""Jump detection: every group flag equal to stcal's, for any tile and thread; and the step."""

import tracemalloc

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.operations.jump import NOT_SEARCHED
from gpucoron.backends.tiles import TILE_BYTES
from gpucoron.dq import DO_NOT_USE, JUMP_DET, NO_GAIN_VALUE, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps.jump import STEP, electron_thresholds, flag_jumps, flag_missing_gain, run
from tests.cases.jump import DEFAULTS, OPTIONS, SHAPES, after_round_trip, detect_with_stcal, run_jwst_step, simulate


def detect_jumps(*arrays, n_threads=1, tile_bytes=TILE_BYTES, **options):
    """Detect jumps in NumPy."""
    return get_backend("numpy", n_threads=n_threads, tile_bytes=tile_bytes).detect_jumps(*arrays, **options)


def assert_equal_to_stcal(ramps, **options):
    """Compare every byte of groupdq and the count; return the newly flagged groups."""
    expected, _, expected_number = detect_with_stcal(*ramps, **options)
    data, groupdq, gain, readnoise = ramps
    found = groupdq.copy()
    number = detect_jumps(data, found, gain, readnoise, **after_round_trip(options, gain))
    np.testing.assert_array_equal(found, expected)
    assert number == expected_number
    return np.count_nonzero(found & ~groupdq & JUMP_DET)


@pytest.mark.parity
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flags_equal_stcals(shape, options):
    """Eleven kinds of search on nine shapes, each on smooth values and on coarse ones with ties."""
    rng = np.random.default_rng([*shape, len(options)])
    new = assert_equal_to_stcal(simulate(rng, shape), **options)
    assert new > 0 or options is OPTIONS["clip over integrations"]
    assert_equal_to_stcal(simulate(rng, shape, step=16, gain_scatter=0), **options)


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, OPTIONS["clip all"], OPTIONS["one pass"]], ids=["default", "clip", "one pass"])
@pytest.mark.parametrize("lost", [[0], [-1], [0, -1], [2, 3], range(1, 7), range(8)], ids=str)
def test_groups_lost_for_all_pixels(lost, options):
    """As in stcal, groups that are DO_NOT_USE everywhere determine the search, or prevent it."""
    rng = np.random.default_rng(len(lost))
    data, groupdq, gain, readnoise = simulate(rng, (3, 9, 8, 9))
    groupdq[:, list(lost)] |= DO_NOT_USE
    groupdq[0, 4] |= DO_NOT_USE
    assert_equal_to_stcal((data, groupdq, gain, readnoise), **options)


@pytest.mark.parity
@pytest.mark.parametrize("flag", [JUMP_DET, SATURATED | JUMP_DET])
def test_clipping_clears_groups_full_of_jumps(flag):
    """A group in which all pixels have jumps loses these flags, but only where they are the only flag."""
    rng = np.random.default_rng(6)
    data, groupdq, gain, readnoise = simulate(rng, (12, 5, 6, 6))
    groupdq[3, 2] |= JUMP_DET
    groupdq[3, 2, :3] |= flag
    ramps = data, groupdq, gain, readnoise
    assert_equal_to_stcal(ramps, minimum_sigclip_groups=12)
    cleared = groupdq.copy()
    detect_jumps(data, cleared, gain, readnoise, minimum_sigclip_groups=12, flag_4_neighbors=False)
    assert not (cleared[3, 2] & JUMP_DET).all()


@pytest.mark.parity
def test_two_groups_are_enough_for_clipping_only():
    """Two groups are too few to search, unless there are integrations to clip over."""
    ramps = simulate(np.random.default_rng(2), (20, 2, 6, 7))
    assert_equal_to_stcal(ramps)
    assert assert_equal_to_stcal(ramps, minimum_sigclip_groups=20, rejection_threshold=3.0) > 0


@pytest.mark.parity
def test_infinite_values():
    """Infinite data as in stcal: jumps in the iterative search, never in one pass."""
    rng = np.random.default_rng(5)
    data, groupdq, gain, readnoise = simulate(rng, (2, 6, 8, 9))
    data[rng.random(data.shape) < 0.1] = np.inf
    data[rng.random(data.shape) < 0.05] = -np.inf
    for options in ({}, {"min_diffs_single_pass": 1}, {"min_jump_to_flag_neighbors": 2.0}):
        assert_equal_to_stcal((data, groupdq, gain, readnoise), **options)


@pytest.mark.parity
@pytest.mark.parametrize(
    "threshold, at_least, options",
    [
        ("rejection_threshold", 1, {}),
        ("rejection_threshold", 2, {}),
        ("rejection_threshold", 3, {}),
        ("rejection_threshold", 1, {"min_diffs_single_pass": 1}),
        ("min_jump_to_flag_neighbors", 2, {"rejection_threshold": 0.5, "max_jump_to_flag_neighbors": 1e9}),
        ("max_jump_to_flag_neighbors", 2, {"rejection_threshold": 0.5, "min_jump_to_flag_neighbors": 0.0}),
    ],
    ids=["first jump", "second jump", "third jump", "one pass", "smallest neighbour", "largest neighbour"],
)
def test_thresholds_cut_at_the_same_float64(threshold, at_least, options):
    """Every rounding is as in stcal: the flags change between the same two adjacent float64 thresholds."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        # Steps larger than the values have mantissas that fill float32; odd and even numbers have different medians.
        data = rng.normal(0, 9, size=(1, 8 + seed % 2, 1, 2)).astype(np.float32)
        gain, readnoise = rng.uniform(1, 3, size=(2, 1, 2)).astype(np.float32)
        data[..., 1] = 0
        options = {"flag_4_neighbors": "neighbors" in threshold, **options}
        ramps = data, np.zeros(data.shape, np.uint8), gain, readnoise

        def is_reached(value, ramps=ramps, options=options):
            flags = ramps[1].copy()
            detect_jumps(ramps[0], flags, *ramps[2:], **options, **{threshold: value})
            return np.count_nonzero(flags[..., int(options["flag_4_neighbors"])]) >= at_least

        low, high = 0.0, 100.0
        at_low = is_reached(low)
        assert at_low != is_reached(high)
        while np.nextafter(low, high) < high:
            middle = (low + high) / 2
            low, high = (middle, high) if is_reached(middle) == at_low else (low, middle)
        for value in (low, high):
            assert_equal_to_stcal(ramps, **options, **{threshold: value})


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_tiles_and_threads_change_nothing(options):
    """One tile, one row, a few columns; one thread or three: the same bytes."""
    ramps = simulate(np.random.default_rng(8), (5, 12, 13, 17), hits=0.05)
    answers = set()
    for n_threads, tile_bytes in ((1, 2**30), (1, 5 * 12 * 17 * 4), (3, 5 * 12 * 17 * 4 * 3), (3, 1), (2, 1000)):
        flags = ramps[1].copy()
        number = detect_jumps(ramps[0], flags, *ramps[2:], n_threads=n_threads, tile_bytes=tile_bytes, **options)
        answers.add((number, flags.tobytes()))
    assert len(answers) == 1


def quiet_ramps(shape):
    """Make ramps without noise, 10 DN a group, with a gain of 2 and a read noise of 5 DN (10 electrons)."""
    data = np.broadcast_to(10 * np.arange(shape[1], dtype=np.float32)[:, None, None], shape).copy()
    gain, readnoise = np.full(shape[2:], 2, np.float32), np.full(shape[2:], 5, np.float32)
    return data, np.zeros(shape, np.uint8), gain, readnoise


@pytest.mark.parametrize("y, x, neighbors", [(2, 2, 4), (0, 0, 2), (4, 2, 3), (2, 5, 3)])
def test_a_jump_and_its_neighbors(y, x, neighbors):
    """One jump of 36 sigma is flagged in its group, and so are its neighbours in the image, even at the edges."""
    data, groupdq, gain, readnoise = quiet_ramps((2, 8, 5, 6))
    data[1, 3:, y, x] += 200
    assert detect_jumps(data, groupdq, gain, readnoise) == 1
    assert groupdq[1, 3, y, x] == JUMP_DET
    assert np.count_nonzero(groupdq) == np.count_nonzero(groupdq[1, 3]) == 1 + neighbors


@pytest.mark.parametrize("flag", [DO_NOT_USE, SATURATED])
def test_unusable_neighbors_are_left_alone(flag):
    """A neighbour that is DO_NOT_USE or SATURATED keeps its flag, and gets no other."""
    data, groupdq, gain, readnoise = quiet_ramps((1, 8, 5, 5))
    data[0, 3:, 2, 2] += 200
    groupdq[0, 3, 2, 1] = flag
    detect_jumps(data, groupdq, gain, readnoise)
    assert groupdq[0, 3, 2, 1] == flag
    assert groupdq[0, 3, 2, 3] == JUMP_DET


def test_groups_after_a_jump():
    """The groups after a large jump are flagged, up to the end of the ramp and not beyond."""
    data, groupdq, gain, readnoise = quiet_ramps((2, 8, 5, 5))
    data[0, 3:, 2, 2] += 200
    data[0, 6:, 0, 0] += 200
    options = {"after_jump_flag_e1": 300.0, "after_jump_flag_n1": 2, "flag_4_neighbors": False}
    detect_jumps(data, groupdq, gain, readnoise, **options)
    np.testing.assert_array_equal(groupdq[0, :, 2, 2], [0, 0, 0, 4, 4, 4, 0, 0])
    np.testing.assert_array_equal(groupdq[0, :, 0, 0], [0, 0, 0, 0, 0, 0, 4, 4])
    assert not groupdq[1].any()


def test_too_few_groups_are_counted_as_stcal_does():
    """With two usable groups nothing is searched, but a redundant jump flag is cleared."""
    data, groupdq, gain, readnoise = quiet_ramps((1, 4, 3, 3))
    data[0, 2:] += 500
    groupdq[0, :2] = DO_NOT_USE
    groupdq[0, 0, 1, 1] |= JUMP_DET
    assert detect_jumps(data, groupdq, gain, readnoise) == NOT_SEARCHED
    np.testing.assert_array_equal(np.unique(groupdq), [0, DO_NOT_USE])


def test_memory_stays_with_the_tiles():
    """A search over 6 MB of data needs less than 1.5 MB more in small tiles."""
    ramps = simulate(np.random.default_rng(1), (4, 10, 200, 200), bad=False, hits=0.001)
    tracemalloc.start()
    try:
        detect_jumps(*ramps, tile_bytes=2**16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5e6


def test_inputs_stay_as_they_were():
    """Only groupdq may change: everything else is read-only."""
    data, groupdq, gain, readnoise = simulate(np.random.default_rng(3), (2, 8, 6, 6))
    for array in (data, gain, readnoise):
        array.flags.writeable = False
    assert flag_jumps(data, groupdq, gain, readnoise) > 0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: (r[0].astype(complex), *r[1:]), "data: expected real numbers, got complex128"),
        (lambda r: (r[0], r[1].astype(np.float32), *r[2:]), "groupdq: expected whole numbers"),
        (lambda r: (*r[:2], r[2][:-1], r[3]), r"gain: expected \(ny, nx\) = \(4, 4\) or a scalar, got \(3, 4\)"),
        (lambda r: (r[0], np.broadcast_to(r[1][:, :1], r[1].shape), *r[2:]), "groupdq: is read-only"),
        (lambda r: (r[0][0], r[1][0], *r[2:]), "nints, ngroups, ny, nx"),
    ],
)
def test_wrong_arrays_are_named(change, message):
    """A wrong shape or dtype is an error that names the array, not a wrong result."""
    with pytest.raises(ValueError, match=message):
        flag_jumps(*change(quiet_ramps((1, 5, 4, 4))), backend=get_backend("numpy", n_threads=1))


# ----------------------------------------------------------------------------------------------------------- the step

STEP_DEFAULTS = {name: value for name, value in DEFAULTS.items() if "after" not in name and name != "nframes"} | {
    "after_jump_flag_dn1": 0.0,
    "after_jump_flag_time1": 0.0,
    "after_jump_flag_dn2": 0.0,
    "after_jump_flag_time2": 0.0,
    "expand_large_events": False,
    "find_showers": False,
    "apply_minimum_groups": False,
}


def run_step(ramps, *, nframes=1, group_time=5.3452, missing=(), **parameters):
    """Run the step on arrays; return the outcome and the exposure."""
    data, groupdq, gain, readnoise = ramps
    exposure = Exposure(
        data=data,
        groupdq=groupdq.copy(),
        pixeldq=np.zeros(gain.shape, np.uint32),
        facts=Facts("NIRCAM", nframes=nframes, group_time=group_time),
    )
    references = {"gain": Reference(data=gain), "readnoise": Reference(data=readnoise)}
    references.update(dict.fromkeys(missing))
    parameters = STEP.settings(**STEP_DEFAULTS | parameters)
    return run(exposure, references, parameters, get_backend("numpy", n_threads=1)), exposure


@pytest.mark.parity
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"after_jump_flag_dn1": 30.0, "after_jump_flag_time1": 11.0, "after_jump_flag_time2": 5.0, "nframes": 4},
        {"min_diffs_single_pass": 3, "minimum_groups": 12, "rejection_threshold": 3.0},
    ],
    ids=["default", "after jumps", "one pass"],
)
def test_step_equals_jwsts(tmp_path, parameters):
    """Group flags, pixel flags and the numbers in the metadata are those of JumpStep."""
    ramps = simulate(np.random.default_rng(11), (3, 9, 14, 15))
    ramps[1][1, 4] |= DO_NOT_USE
    expected = run_jwst_step(tmp_path, ramps, **parameters)
    outcome, exposure = run_step(ramps, **parameters)
    assert outcome.status == expected.meta.cal_step.jump == "COMPLETE"
    np.testing.assert_array_equal(exposure.groupdq, expected.groupdq)
    np.testing.assert_array_equal(exposure.pixeldq, expected.pixeldq)
    assert outcome.meta["exposure.primary_cosmic_rays"] == pytest.approx(
        expected.meta.exposure.primary_cosmic_rays, rel=1e-12
    )
    assert outcome.meta["exposure.extended_emission_events"] == expected.meta.exposure.extended_emission_events
    assert outcome.flagged["jumps"] == np.count_nonzero(exposure.groupdq & JUMP_DET) > 0


def test_step_skips_short_ramps_and_missing_references():
    """Two groups, no gain, no read noise: skipped with the reason, and nothing is flagged."""
    for ngroups, missing, reason in ((2, (), "2 groups"), (5, ("gain",), "gain"), (5, ("readnoise",), "readnoise")):
        outcome, exposure = run_step(quiet_ramps((1, ngroups, 4, 4)), missing=missing)
        assert outcome.status == "SKIPPED"
        assert reason in outcome.reason
        assert not exposure.groupdq.any()
        assert not exposure.pixeldq.any()


def test_missing_gain_is_flagged():
    """NaN, zero and negative gains make the pixel unusable, as in jwst."""
    pixeldq = np.full((1, 4), 8, np.uint32)
    flag_missing_gain(pixeldq, np.array([[2, np.nan, 0, -1]], np.float32))
    np.testing.assert_array_equal(pixeldq, [[8] + 3 * [8 | NO_GAIN_VALUE | DO_NOT_USE]])


def test_thresholds_in_electrons():
    """The median gain scales thresholds, in float32; without any gain nothing exceeds them."""
    gain = np.array([[2.1, 1.9, np.nan, 2.2]], np.float32)
    assert electron_thresholds(gain, 10.0, 0) == [float(np.float32(10) * np.float32(2.1)), 0.0]
    assert np.isnan(electron_thresholds(np.full((1, 2), np.nan, np.float32), 10.0))
