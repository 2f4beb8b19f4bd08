"""Showers: drawn ramps with drawn parameters have the flags and the number of stcal's own code, on every backend.

`test_large_events` runs the whole step beside jwst's.
"""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.devices.compilations import are_ready
from gpucoron.backends.operations.showers import ShowerSettings, clip_differences, definition, find_excess
from gpucoron.backends.operations.showers.ring import make_ring, ring_sums, sums_margin
from gpucoron.dq import AD_FLOOR, DO_NOT_USE, JUMP_DET, PERSISTENCE, REFERENCE_PIXEL, SATURATED
from gpucoron.facts import Facts
from gpucoron.parameters import resolve
from gpucoron.steps import STEPS
from gpucoron.steps.showers import flag_showers, settle
from gpucoron.steps.snowballs import SnowballSettings, flag_snowballs

HOST = get_backend("numpy", n_threads=1)


def flag_with_stcal(ramps, settings, unusable=None):
    """Flag showers in copies with stcal's code; return groupdq and the number."""
    from stcal.jump.jump import find_faint_extended

    data, groupdq, pixeldq, gain, readnoise = (array.copy() for array in ramps)
    names = ("extend_snr_threshold", "extend_min_area", "extend_inner_radius", "extend_outer_radius", "nframes")
    jump_data = SimpleNamespace(
        **{name: getattr(settings, name) for name in (*names, "extend_ellipse_expand_ratio", "minimum_sigclip_groups")},
        max_extended_width=2 * settings.max_extended_radius,
        grps_masked_after_shower=settings.n_groups_after,
        max_shower_amplitude=settings.max_amplitude * (gain if settings.amplitude_in_dn else 1),
        fl_jump=JUMP_DET, fl_sat=SATURATED, fl_dnu=DO_NOT_USE, fl_ref=REFERENCE_PIXEL,
    )  # fmt: skip
    electrons = data * gain
    if settings.searched:
        electrons[(groupdq & (DO_NOT_USE | SATURATED)) != 0 if unusable is None else unusable] = np.nan
    return find_faint_extended(electrons, groupdq, pixeldq, readnoise * gain, jump_data)


def flag(ramps, settings, backend=HOST, **options):
    """Flag showers in copies on a backend; return groupdq on the host, and the number."""
    arrays = [backend.to_device(array.copy()) for array in ramps]
    number = flag_showers(*arrays, settings=settings, backend=backend, **options)
    return backend.to_host(arrays[1]), number


def make_ramps(rng, shape, *, n_showers, step=None):
    """Make ramps with showers of all sizes and strengths, also at the edges, in the first and in the last groups."""
    nints, ngroups, ny, nx = shape
    gain = rng.uniform(1.9, 2.1, (ny, nx)).astype(np.float32)
    data = np.cumsum(rng.poisson(20.0, shape), axis=1) / gain + rng.normal(1000, 3, shape)
    groupdq = np.zeros(shape, np.uint8)
    rows, columns = np.indices((ny, nx))
    for _ in range(n_showers):
        integration, group = rng.integers(nints), rng.integers(ngroups)
        y, x, radius = rng.uniform(-3, ny + 3), rng.uniform(-3, nx + 3), rng.choice([2, 5, 9, 15])
        where = (rows - y) ** 2 + rng.choice([0.3, 1, 3]) * (columns - x) ** 2 <= radius**2
        data[integration, group:, where] += rng.choice([12, 25, 40, 400])
        if rng.random() < 0.2:
            groupdq[integration, group + rng.integers(3) :, where & (rng.random((ny, nx)) < 0.5)] |= SATURATED
    if step:
        data = np.round(data / step) * step
    return data.astype(np.float32), groupdq, np.zeros((ny, nx), np.uint32), gain, np.full((ny, nx), 8, np.float32)


def add_flags(rng, ramps):
    """Add flags of all kinds, NaN, infinite values, and pixels without gain or noise."""
    data, groupdq, pixeldq, gain, readnoise = ramps
    for value in (DO_NOT_USE, SATURATED, AD_FLOOR | DO_NOT_USE, SATURATED | PERSISTENCE, JUMP_DET, PERSISTENCE):
        groupdq[rng.random(data.shape) < 0.01] = value
    groupdq[rng.random(data.shape) < 0.003] = JUMP_DET | PERSISTENCE
    for value in (np.nan, np.inf, -np.inf, 3e38):
        data[rng.random(data.shape) < 0.001] = value
    for image in (gain, readnoise):
        image[rng.random(gain.shape) < 0.01] = np.nan
        image[rng.random(gain.shape) < 0.01] = 0
    pixeldq[rng.random(gain.shape) < 0.02] |= DO_NOT_USE
    pixeldq[rng.random(gain.shape) < 0.01] |= AD_FLOOR
    pixeldq[:, :2] = REFERENCE_PIXEL
    pixeldq[0] |= REFERENCE_PIXEL
    if rng.random() < 0.5:
        groupdq[:, 0] |= DO_NOT_USE
        groupdq[:, -1] |= DO_NOT_USE
    if rng.random() < 0.2:
        groupdq[rng.integers(len(data))] |= DO_NOT_USE


def draw_case(rng):
    """Draw ramps and settings."""
    n_integrations, n_groups = int(rng.choice([2, 3, 9])), int(rng.choice([3, 7, 7, 12]))
    image = rng.integers(1, (60, 80)) if rng.random() < 0.3 else rng.integers(40, (60, 80))
    n_showers, step = int(rng.integers(1, 7)), rng.choice([None, None, 1.0])
    ramps = make_ramps(rng, (n_integrations, n_groups, *image), n_showers=n_showers, step=step)
    if rng.random() < 0.7:
        add_flags(rng, ramps)
    settings = ShowerSettings(
        extend_snr_threshold=float(
            rng.choice([1.2, 1.2, 1.0, 1.0, 1.5, -1, np.inf], p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.05, 0.05])
        ),
        extend_min_area=int(rng.choice([90, 20, 20, 5, 1, 0])),
        extend_inner_radius=float(rng.choice([1, 1, 0, 2, 0.5])),
        extend_outer_radius=float(rng.choice([2.6, 2.6, 2.6, 0.6, 5, 40])),
        extend_ellipse_expand_ratio=float(rng.choice([1.1, 1.1, 1, 1.5, 0, 2.5])),
        max_extended_radius=int(rng.choice([200, 200, 200, 5, 5, 0])),
        n_groups_after=int(rng.choice([0, 1, 1, 5, 5, 100, -1, -3])),
        max_amplitude=float(rng.choice([16, 1, 100, 100, np.inf])),
        amplitude_in_dn=bool(rng.random() < 0.3),
        minimum_sigclip_groups=int(rng.choice([100, 100, 2])),
        nframes=int(rng.choice([1, 4])),
        searched=bool(rng.random() < 0.8),
    )
    return ramps, settings


@pytest.mark.parity
def test_drawn_showers_have_stcals_flags_and_number(pytestconfig):
    """A few cases, and many with ``--full-parity``; NumPy and the kernels for a CPU."""
    rng, changed, counted = np.random.default_rng(3), 0, 0
    n_cases = 1000 if pytestconfig.getoption("--full-parity") else 16
    backends = HOST, get_backend("native", n_threads=1)
    for number in range(n_cases):
        ramps, settings = draw_case(rng)
        with np.errstate(all="ignore"):
            expected, n_expected = flag_with_stcal(ramps, settings)
        for backend in backends:
            found, n_found = flag(ramps, settings, backend)
            which = f"{number}, {backend.name}: {ramps[0].shape} {settings}"
            np.testing.assert_array_equal(found, expected, err_msg=which)
            assert n_found == n_expected, which
        changed += (expected != ramps[1]).any()
        counted += n_expected > 0
    assert changed > n_cases / 5
    assert counted > n_cases / 4


def test_every_backend_has_the_same_flags(backend):
    rng, n_flagged = np.random.default_rng(2), 0
    for _ in range(8):
        ramps, settings = draw_case(rng)
        expected, number = flag(ramps, settings)
        found, count = flag(ramps, settings, backend)
        np.testing.assert_array_equal(found, expected)
        assert count == number
        n_flagged += np.count_nonzero(found != ramps[1])
    assert n_flagged


@pytest.mark.parametrize("name", ["numpy", "native"])
@pytest.mark.parametrize("sigclip", [100, 2], ids=["median", "clipped"])
def test_threads_chunks_and_tiles_give_the_same_flags(name, sigclip, tmp_path):
    ramps = make_ramps(np.random.default_rng(3), (3, 9, 45, 50), n_showers=6)
    settings = ShowerSettings(extend_min_area=20, minimum_sigclip_groups=sigclip)
    expected, number = flag(ramps, settings)
    assert number
    for options in (
        {"n_threads": 3},
        {"n_threads": 2, "max_memory": 1, "scratch_dir": tmp_path},
        {"n_threads": 1, "tile_bytes": 1},
    ):
        backend = get_backend(name, **{key: value for key, value in options.items() if key != "tile_bytes"})
        if "tile_bytes" in options:
            backend.device.tile_bytes = options["tile_bytes"]
        found, count = flag(ramps, settings, backend.fitting(ramps[0].shape))
        np.testing.assert_array_equal(found, expected)
        assert count == number


# ------------------------------------------------------------------------------------------------- the ring, the ratios


@pytest.mark.parametrize(
    ("inner", "width"), [(1, 2.6), (0, 1.0), (0, 0.5), (2, 4.0), (0.5, 0.3), (3.3, 0.01), (10, 7.7), (1e-300, 1.5)]
)
def test_the_ring_is_astropys(inner, width):
    from astropy.convolution import Ring2DKernel

    with warnings.catch_warnings():
        # a ring without pixels
        warnings.simplefilter("ignore")
        expected = Ring2DKernel(inner, width).array
    ring = make_ring(inner, width)
    np.testing.assert_array_equal(ring.kernel, expected)
    covered = np.zeros(expected.shape, bool)
    for row, first, after in ring.runs:
        covered[row, first:after] = True
    np.testing.assert_array_equal(covered, expected > 0)
    assert ring.n_pixels == covered.sum()


def test_ring_sums_are_convolutions():
    from scipy.signal import convolve2d

    rng = np.random.default_rng(4)
    values = rng.integers(0, 9, (2, 17, 23))
    for radii in ((1, 2.6), (0, 0.5), (4, 9.0)):
        ring = make_ring(*radii)
        for outside in (0, 1):
            found = ring_sums(np, values, ring, outside)
            for frame, sums in zip(values, found, strict=True):
                expected = convolve2d(frame, (ring.kernel > 0).astype(int), mode="same", fillvalue=outside)
                np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize("shape", [(120, 130), (30, 90), (20, 20), (1, 90), (5, 3)])
def test_rounding_of_the_convolutions_is_bounded(shape):
    """A tenth of the bound is never reached, for noise, bright pixels, steps and patterns."""
    from scipy.signal import oaconvolve

    rng = np.random.default_rng(5)
    noise = abs(rng.normal(size=shape))
    checks = np.indices(shape).sum(axis=0) % 2
    frames = noise, np.where(rng.random(shape) < 0.01, 1e4 * noise, noise), 1.3 * checks, np.full(shape, 1.7)
    for radii in ((1, 2.6), (0, 1.0), (3, 5.0)):
        ring = make_ring(*radii)
        for frame in frames:
            single = frame.astype(np.float32)
            exact = oaconvolve(single.astype(np.float64), ring.kernel, mode="same")
            error = abs(oaconvolve(single, ring.kernel, mode="same") - exact) * ring.n_pixels
            assert (error < sums_margin(single, ring) / 5).all()


@pytest.mark.parametrize("name", ["numpy", "native"])
def test_averages_at_the_threshold_are_decided_as_in_stcal(name, monkeypatch):
    """The threshold is the average of a pixel in stcal, or a neighbouring number."""
    from stcal.jump.jump import convolve_fast

    settled = []
    oaconvolve = definition.settle_doubtful

    def settle_doubtful(found, doubtful, *others):
        settled.append(doubtful.sum())
        return oaconvolve(found, doubtful, *others)

    monkeypatch.setattr(definition, "settle_doubtful", settle_doubtful)
    rng = np.random.default_rng(6)
    device = get_backend(name, n_threads=1).device
    assert name == "numpy" or are_ready(find_excess.libraries)
    for shape in ((70, 83), (12, 31)):
        data = np.cumsum(rng.normal(50, 9, (3, *shape)), axis=0).astype(np.float32)
        groupdq, excluded = np.zeros(data.shape, np.uint8), rng.random(shape) < 0.03
        gain, noise = np.ones(shape, np.float32), np.full(shape, 9, np.float32)
        middle = np.full(shape, 50, np.float32)
        arrays = data, groupdq, excluded, gain, middle, noise
        ratio = abs(np.diff(data, axis=0)[0] - middle) / noise
        ratio[excluded] = np.nan
        ring = make_ring(1, 2.6)
        with np.errstate(invalid="ignore"):
            average = convolve_fast(ratio.copy(), ring.kernel)
        for value in rng.choice(average[np.isfinite(average)], 5):
            for threshold in (value, np.nextafter(value, 0), np.nextafter(value, 9)):
                settings = ShowerSettings(extend_snr_threshold=float(threshold))
                found = device.execute(find_excess, arrays, settings)
                np.testing.assert_array_equal(found[1], average > threshold)
    assert sum(settled) >= 30


def test_only_averages_at_the_threshold_may_differ_on_a_gpu():
    """A namespace other than NumPy, and several frames at once: no transforms in float32."""
    namespace = SimpleNamespace(**{name: getattr(np, name) for name in dir(np)})
    in_threes = lambda n, n_bytes: [slice(start, min(n, start + 3)) for start in range(0, n, 3)]  # noqa: E731
    gpu = SimpleNamespace(xp=namespace, in_parts=HOST.device.in_parts, batches=in_threes)
    rng = np.random.default_rng(10)
    data, groupdq, _, gain, _ = make_ramps(rng, (1, 9, 60, 70), n_showers=4)
    image = np.ones(gain.shape, np.float32)
    arrays = data[0], groupdq[0], rng.random(gain.shape) < 0.03, gain, 20 * image, 14 * image
    n_doubtful = n_different = 0
    for threshold in (0.8, 1.0):
        settings = ShowerSettings(extend_snr_threshold=threshold)
        expected = HOST.device.execute(find_excess, arrays, settings)
        assert expected.any()
        np.testing.assert_array_equal(definition.find_excess(gpu, *arrays, settings=settings), expected)
        for group in range(1, 9):
            which = slice(group, group + 1)
            (ratio,), (good,) = definition._ratios(np, which, *arrays, True)
            ring = make_ring(1, 2.6)
            count = ring_sums(np, good.astype(np.int32), ring, 1)
            average = ring_sums(np, ratio.astype(np.float64), ring, 0) / count
            exact = float(rng.choice(average[good]))
            settings = ShowerSettings(extend_snr_threshold=exact)
            found, expected = (
                definition.find_excess(device, *arrays, settings=settings)[group] for device in (gpu, HOST.device)
            )
            different = found != expected
            n_doubtful += np.count_nonzero(abs(average - exact)[good] < 1e-6)
            n_different += np.count_nonzero(different)
            assert (abs(average - exact)[different] < 1e-6).all()
    assert n_doubtful >= 16
    assert n_different <= n_doubtful


@pytest.mark.parametrize("name", ["numpy", "native", "host"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (7, 4, 3, 21), (40, 3, 5, 70), (1, 3, 1, 1)])
def test_statistics_are_those_of_numpy_and_astropy(name, shape):
    from astropy.stats import sigma_clipped_stats

    rng = np.random.default_rng(7)
    backend = get_backend(name, n_threads=1)
    for step in (None, 1.0):
        data = rng.normal(100, 10, shape)
        data[rng.random(shape) < 0.1] *= 30
        data[rng.random(shape) < 0.03] = rng.choice([np.nan, np.inf, -np.inf, -0.0])
        data[..., 0] = 7
        data = (data if step is None else np.round(data / step) * step).astype(np.float32)
        groupdq = rng.choice(np.uint8([0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 16, 20, 66]), shape)
        groupdq[..., -1] = SATURATED
        gain = rng.uniform(1, 2, shape[2:]).astype(np.float32)
        for searched in (True, False):
            ignored = np.isin(groupdq, [1, 2, 3, 4, 5]) | (searched & (groupdq & 3 != 0))
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                differences = np.diff(np.where(ignored, np.float32(np.nan), data * gain), axis=1)
                expected = np.nanmedian(differences, axis=(0, 1))
                _, *clipped = sigma_clipped_stats(differences, sigma=5, axis=0)
            settings = ShowerSettings(searched=searched)
            found = backend.median_differences(data, groupdq, gain, settings=settings)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected)
            for ours, theirs in zip(
                backend.clip_differences(data, groupdq, gain, settings=settings), clipped, strict=True
            ):
                assert ours.dtype == theirs.dtype == np.float32
                np.testing.assert_array_equal(ours, theirs)
    assert name != "native" or are_ready(clip_differences.libraries)


# ------------------------------------------------------------------------------------------------------ what is flagged


def one_shower(shape=(2, 12, 60, 64), *, group=5, y=30, x=31, radius=9):
    """Make quiet ramps with a round shower in the first integration; return them and where it is."""
    ramps = make_ramps(np.random.default_rng(8), shape, n_showers=0)
    rows, columns = np.indices(shape[2:])
    where = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    ramps[0][0, group:, where] += 20
    return ramps, where


def test_a_shower(backend):
    """Its group and the later ones are flagged, not before the amplitude is exceeded."""
    ramps, where = one_shower()
    found, number = flag(ramps, ShowerSettings(n_groups_after=2), backend)
    assert number == 1
    assert (found[0, 5:8, where] == JUMP_DET).mean() > 0.9
    assert not found[0, [4, 8]].any()
    assert not found[1].any()
    found, number = flag(ramps, ShowerSettings(n_groups_after=2, max_amplitude=0.1), backend)
    assert number == 1
    assert (found[0, 5, where] == JUMP_DET).mean() < 0.2


def test_saturated_pixels_end_a_shower():
    ramps, _ = one_shower()
    ramps[1][0, 7, 30, 31] |= SATURATED
    found, _ = flag(ramps, ShowerSettings(n_groups_after=4, max_amplitude=100))
    np.testing.assert_array_equal(found[0, 5:11, 30, 31], [4, 4, 2, 0, 0, 0])
    np.testing.assert_array_equal(found[0, 5:11, 30, 33], [4, 4, 4, 4, 4, 0])


def test_few_differences_are_not_searched(caplog):
    for n_groups, number in ((9, 0), (12, 1)):
        ramps, _ = one_shower((1, n_groups, 60, 64))
        found, count = flag(ramps, ShowerSettings())
        assert count == number
        assert found.any() == bool(number)
    assert "fewer than 10 differences" in caplog.text


@pytest.mark.parity
def test_where_stcal_fails(backend):
    """A ring of one pixel does not average; an infinite growth of a line flags nothing."""
    ramps, where = one_shower()
    ramps[0][0, 5:, where] += 200
    single = ShowerSettings(
        extend_inner_radius=0.0, extend_outer_radius=0.5, extend_snr_threshold=4.0, max_amplitude=np.inf
    )
    with pytest.raises(ValueError, match="broadcast"):
        flag_with_stcal(ramps, single)
    found, number = flag(ramps, single, backend)
    assert number == 1
    assert (found[0, 5, where] == JUMP_DET).mean() > 0.9
    ramps, _ = one_shower(radius=-1)
    ramps[0][0, 5:, 30, 10:20] += 200
    # a ring of the pixel itself, in a larger kernel
    line = replace(single, extend_outer_radius=0.6, extend_min_area=10, extend_ellipse_expand_ratio=np.inf)
    with pytest.raises(OverflowError):
        flag_with_stcal(ramps, line)
    found, number = flag(ramps, line, backend)
    assert number == 1
    np.testing.assert_array_equal(found, ramps[1])


@pytest.mark.parity
def test_showers_after_snowballs_are_stcals():
    """Samples that a snowball and the core of the one before cover are not ignored, if they were usable before."""
    rng, hidden, counted = np.random.default_rng(9), 0, 0
    for _ in range(4):
        ramps = make_ramps(rng, (3, 8, 50, 52), n_showers=4)
        rows, columns = np.indices((50, 52))
        for integration in range(3):
            distance = np.hypot(rows - 25, columns - 24 - rng.integers(4))
            group = rng.integers(2, 4)
            ramps[1][integration, group, distance < 8] |= JUMP_DET
            ramps[1][integration, group:, distance < 4] = SATURATED
        unusable = (ramps[1] & (DO_NOT_USE | SATURATED)) != 0
        covered = []
        how = SnowballSettings(n_groups_next_int=8, sat_expand=6)
        flag_snowballs(ramps[1], settings=how, covered=covered, backend=HOST)
        hidden += np.count_nonzero((ramps[1] == SATURATED | JUMP_DET) & ~unusable)
        settings = ShowerSettings(extend_min_area=20)
        expected, number = flag_with_stcal(ramps, settings, unusable)
        for backend in (HOST, get_backend("native", n_threads=1)):
            found, count = flag(ramps, settings, backend, covered=covered)
            np.testing.assert_array_equal(found, expected)
            assert count == number
        counted += number
    assert hidden
    assert counted


def test_settings_are_made_from_the_parameters():
    facts = Facts("MIRI", group_time=2.5, nframes=4)
    parameters = resolve(STEPS, "jwst", steps={"jump": {"time_masked_after_shower": 9.9, "max_shower_amplitude": 3.0}})
    settings = settle(parameters["jump"], facts, searched=False)
    assert (settings.n_groups_after, settings.nframes, settings.searched) == (3, 4, False)
    assert (settings.max_amplitude, settings.amplitude_in_dn) == (15.0, False)
    settings = settle(replace(parameters["jump"], apply_max_shower_amplitude=True), facts, searched=True)
    assert (settings.max_amplitude, settings.amplitude_in_dn) == (7.5, True)
