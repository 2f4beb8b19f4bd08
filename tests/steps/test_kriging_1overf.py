"""Models 'kriging' and 'rows' of subtract_1overf: ramps, slopes, orientations and threads, beside the truth."""

from dataclasses import fields, replace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.operations.subtract_1overf.readout import Readout, from_order, variance_of
from gpucoron.backends.operations.subtract_1overf.spectrum import PowerLaw, Spectrum, usual_spectrum
from gpucoron.backends.results import Slopes
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.steps.kriging_1overf import (
    measure_spectrum,
    noise_of_slopes,
    spectrum_of_integrations,
    subtract_contrasts,
)
from gpucoron.steps.linear_1overf import group_times, slope_factor
from tests.cases.kriging import make_1overf, make_psf, make_ramps, make_scene

SHAPE = 48, 64
STAR = 30.3, 25.8
TIMES = 10.0 * np.arange(1, 9)
#: DN^2: 1/f noise of a group, three times the usual one
AMPLITUDE, EXPONENT = 1.26, 1.0
STRONG = Spectrum(PowerLaw(AMPLITUDE, EXPONENT))
NUMPY = get_backend("numpy", n_threads=1)
AXES = [(2, -1), (-2, 1), (-2, -1), (1, 2), (1, -2), (-1, 2), (-1, -2)]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def observe(rng, *, nints=1, noise=1.0, scene=None, shape=SHAPE, times=TIMES):
    """Simulate ramps of a coronagraph and their 1/f noise."""
    scene = make_scene(shape, STAR) if scene is None else scene
    frames = make_1overf(rng, (nints, len(times), *shape), noise * AMPLITUDE, EXPONENT) if noise else None
    return make_ramps(rng, scene, times, nints=nints, noise=frames), frames


def arrays_of(ramps):
    return ramps.data, ramps.groupdq, ramps.gain, ramps.readnoise, TIMES[: ramps.data.shape[1]]


def correct(ramps, spectrum=STRONG, backend=NUMPY, **options):
    """Return the corrected data."""
    data, *others = arrays_of(ramps)
    data = data.copy()
    subtract_contrasts(data, *others, spectrum=spectrum, backend=backend, **options)
    return data


# --------------------------------------------------------------------------------------------------------------- ramps


@pytest.mark.parametrize("spectrum", [STRONG, None], ids=["kriging", "rows"])
def test_constants_and_slopes_are_unchanged(rng, spectrum):
    """Whatever the scene and the noise are, also in pixels that have lost groups."""
    scene = 50 * rng.random(SHAPE) ** 8 * make_scene(SHAPE, STAR)
    ramps, _ = observe(rng, nints=2, scene=scene)
    ramps.data[0, 3, 10] += 4000
    ramps.groupdq[0, 3, 10] = JUMP_DET
    ramps.groupdq[1, 5:, 20:24, 30:40] = SATURATED
    before, after = ramps.data.astype(float), correct(ramps, spectrum).astype(float)
    assert abs(after - before).max() > 1
    line = np.stack([np.ones(len(TIMES)), TIMES - TIMES.mean()])
    for weights in line / (line**2).sum(axis=1, keepdims=True):
        was, now = (np.einsum("g,igyx->iyx", weights, data) for data in (before, after))
        # rounding of values of up to 10000 DN to float32
        np.testing.assert_allclose(now, was, atol=1e-3)


def second_differences(data):
    return np.diff(data.astype(float), 2, axis=1)


def test_noise_in_second_differences_is_removed(rng):
    """With 1/f noise, little more than the other noise is left; without it, little is changed."""
    quiet = make_scene(SHAPE, STAR, halo=0.02)
    ramps, frames = observe(rng, scene=quiet)
    clean = replace_data(ramps, ramps.data - frames)
    noise = {name: second_differences(data).std() for name, data in (
        ("before", ramps.data), ("after", correct(ramps)), ("rows", correct(ramps, None)), ("clean", clean.data),
    )}  # fmt: skip
    assert noise["before"] > 1.15 * noise["clean"]
    assert noise["after"] < 1.06 * noise["clean"]
    assert noise["after"] < noise["rows"] < noise["before"]
    found = measure_spectrum(*arrays_of(clean), backend=NUMPY)
    assert found.common.amplitude < 0.02 * AMPLITUDE
    changed = second_differences(correct(clean, found) - clean.data)
    assert changed.std() < 0.1 * noise["clean"]


def replace_data(ramps, data):
    return type(ramps)(**{**vars(ramps), "data": data.astype(np.float32)})


@pytest.mark.parametrize("flag", [DO_NOT_USE, SATURATED, JUMP_DET])
@pytest.mark.parametrize("spectrum", [STRONG, None], ids=["kriging", "rows"])
def test_lost_groups_do_not_contribute(rng, flag, spectrum):
    ramps, _ = observe(rng)
    ramps.groupdq[0, 4, 5:9, 7:20] = flag
    lost = (ramps.groupdq != 0).any(axis=1)[0]
    wild = replace_data(ramps, ramps.data)
    wild.data[0, 4, 5:9, 7:20] = np.nan if flag == DO_NOT_USE else 6e4
    expected, found = correct(ramps, spectrum), correct(wild, spectrum)
    np.testing.assert_array_equal(found[..., ~lost], expected[..., ~lost])
    # They are corrected like their neighbours.
    others = np.delete(np.arange(len(TIMES)), 4)
    np.testing.assert_array_equal(found[:, others], expected[:, others])
    taken = (ramps.data - found)[0, others][:, lost]
    assert (abs(taken) > 0).mean() > 0.9


@pytest.mark.parametrize("ngroups", [1, 2])
def test_a_ramp_needs_three_groups(rng, ngroups):
    ramps, _ = observe(rng, times=TIMES[:ngroups])
    np.testing.assert_array_equal(correct(ramps), ramps.data)
    np.testing.assert_array_equal(correct(ramps, None), ramps.data)
    assert measure_spectrum(*arrays_of(ramps), backend=NUMPY) is None


def test_many_groups(rng):
    """Contrasts of higher order are left."""
    times = 10.0 * np.arange(1, 31)
    ramps, frames = observe(rng, scene=make_scene((16, 32), (20, 8), halo=0.02), shape=(16, 32), times=times)
    data = ramps.data.copy()
    subtract_contrasts(data, *arrays_of(ramps)[1:4], times, spectrum=STRONG, backend=NUMPY)
    for degree in (2, 6, 12):
        weights = np.linalg.qr(np.vander(times / times.max(), 14, increasing=True))[0][:, degree]
        assert (
            np.einsum("g,igyx->iyx", weights, data).std() < 0.97 * np.einsum("g,igyx->iyx", weights, ramps.data).std()
        )


@pytest.mark.parametrize("exponent", [None, 1.0])
@pytest.mark.parametrize("nints", [1, 3])
def test_the_spectrum_of_ramps_is_measured(rng, nints, exponent):
    """In spite of a bright scene, whose pixels are ignored, and of lost pixels."""
    shape = 64, 96
    ramps, _ = observe(rng, nints=nints, scene=make_scene(shape, STAR, halo=0.3), shape=shape)
    ramps.data[:, 3:, 40:44, 50:54] += 3000
    ramps.groupdq[:, 3, 40:44, 50:54] = JUMP_DET
    found = measure_spectrum(*arrays_of(ramps), exponent=exponent, backend=NUMPY)
    assert found.own is None
    # few samples: with ten times the pixels it is good to 10 %
    assert found.common.amplitude == pytest.approx(AMPLITUDE, rel=0.25)
    assert found.common.exponent == pytest.approx(EXPONENT, abs=0.1 if exponent is None else 0)


def test_the_spectrum_of_bright_images_is_that_of_their_fainter_half(rng):
    ramps, _ = observe(rng, nints=2, scene=np.full(SHAPE, 50.0))
    found = measure_spectrum(*arrays_of(ramps), exponent=EXPONENT, backend=NUMPY)
    # less than the photon noise at nearly all frequencies
    assert found.common.amplitude == pytest.approx(AMPLITUDE, rel=0.4)
    ramps.groupdq[:, 3] = DO_NOT_USE
    ramps.groupdq[:, 4] = JUMP_DET
    assert np.isfinite(correct(ramps)).all()
    ramps.groupdq[:] = SATURATED
    assert measure_spectrum(*arrays_of(ramps), backend=NUMPY) is None
    np.testing.assert_array_equal(correct(ramps), ramps.data)


# -------------------------------------------------------------------------------------------------------------- slopes

#: (DN/s)^2: of a slope, relative to the white noise of variance 1
OF_SLOPE = Spectrum(PowerLaw(0.09, EXPONENT))
COMPANION = 10, 12


def make_slopes(rng, *, nints=1, scene=None, amplitude=0.09, shape=SHAPE):
    """Make slopes with photon noise of the scene, white noise of variance 1, and 1/f noise."""
    scene = make_scene(shape, STAR) if scene is None else scene
    noise = make_1overf(rng, (nints, *shape), amplitude, EXPONENT)
    poisson = np.broadcast_to(scene / 20, noise.shape).astype(np.float32)
    rate = scene + rng.normal(size=noise.shape) * np.sqrt(1 + poisson) + noise
    ones = np.ones(noise.shape, np.float32)
    slopes = Slopes(
        rate.astype(np.float32), np.zeros(noise.shape, np.uint32), poisson.copy(), ones, np.sqrt(1 + poisson)
    )
    return slopes, noise


def copy_of(slopes):
    return Slopes(*(getattr(slopes, each.name).copy() for each in fields(slopes)))


def estimate(slopes, spectrum=OF_SLOPE, center=STAR, backend=NUMPY, **options):
    return noise_of_slopes(slopes, spectrum=spectrum, center=center, backend=backend, **options)[0]


def far_from_star():
    y, x = np.indices(SHAPE)
    return np.hypot(x - STAR[0], y - STAR[1]) > 15


def measure_rows(images):
    """Measure the rms of the means of rows beyond the star."""
    rows = np.ma.masked_array(images, np.broadcast_to(~far_from_star(), images.shape)).mean(axis=-1)
    return float(np.sqrt(((rows - rows.mean(axis=-1, keepdims=True)) ** 2).mean()))


@pytest.mark.parametrize("nints", [1, 3])
def test_noise_is_removed_from_slopes(nints):
    """1/f noise of three times the usual amplitude: kriging leaves less than rows, and these less than nothing."""
    left = {"none": [], "rows": [], "kriging": [], "shifted": []}
    for seed in range(6):
        slopes, noise = make_slopes(np.random.default_rng([7, seed]), nints=nints)
        before = copy_of(slopes)
        left["none"].append(noise)
        left["rows"].append(noise - estimate(slopes, None))
        left["kriging"].append(noise - estimate(slopes))
        left["shifted"].append(noise - estimate(slopes, center=(STAR[0] - 1.5, STAR[1] + 1.3)))
        for each in fields(slopes):
            np.testing.assert_array_equal(getattr(slopes, each.name), getattr(before, each.name))
    rows = {name: np.mean([measure_rows(each) for each in images]) for name, images in left.items()}
    assert rows["kriging"] < rows["rows"] < 0.5 * rows["none"]
    spread = {name: np.mean([each[:, far_from_star()].std() for each in images]) for name, images in left.items()}
    assert spread["kriging"] < 0.9 * spread["rows"] < 0.9 * spread["none"]
    # the place of the star hardly matters
    assert spread["shifted"] == pytest.approx(spread["kriging"], rel=0.02)


@pytest.mark.parametrize("flux", [60.0, 1000.0])
@pytest.mark.parametrize("spectrum", [OF_SLOPE, None], ids=["kriging", "rows"])
def test_a_bright_companion_is_kept(flux, spectrum):
    psf, kept = make_psf(SHAPE, *COMPANION), []
    for seed in range(4):
        slopes, _ = make_slopes(np.random.default_rng([9, seed]))
        with_companion = copy_of(slopes)
        with_companion.rate[:] += (flux * psf).astype(np.float32)
        with_companion.var_poisson[:] += (flux * psf / 20).astype(np.float32)
        taken = (estimate(with_companion, spectrum) - estimate(slopes, spectrum))[0]
        kept.append(1 - (taken * psf).sum() / (psf**2).sum() / flux)
    # The mean of a row of 64 pixels holds 5 % of a companion that is not an outlier in it.
    assert np.mean(kept) > (0.98 if spectrum or flux > 100 else 0.94)


def test_unknown_pixels_do_not_contribute(rng):
    """NaN and flagged pixels get a value like their neighbours."""
    slopes, _ = make_slopes(rng, nints=2)
    slopes.rate[0, 5:8, 10:20] = np.nan
    slopes.dq[:, 30, 40:60] = DO_NOT_USE
    slopes.var_poisson[1, 33, 7] = np.nan
    slopes.var_rnoise[0, 40, 3:5] = np.inf, np.nan
    other = copy_of(slopes)
    other.rate[:, 30, 40:60] = 1e6
    other.rate[0, 40, 3:5] = -1e6
    for spectrum in (OF_SLOPE, None):
        expected, found = estimate(slopes, spectrum), estimate(other, spectrum)
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, expected)
    smooth = estimate(slopes)
    assert abs(smooth[:, 30, 40:60] - smooth[:, 30, 36:37]).max() < 6 * smooth.std()


@pytest.mark.parametrize("spectrum", [OF_SLOPE, None], ids=["kriging", "rows"])
def test_protected_pixels_do_not_contribute(rng, spectrum):
    slopes, _ = make_slopes(rng, nints=2)
    protected = np.zeros(SHAPE, bool)
    protected[8:17, 6:15] = True
    other = copy_of(slopes)
    other.rate[:, protected] += 50
    expected, found = (estimate(each, spectrum, protected=protected) for each in (slopes, other))
    np.testing.assert_array_equal(found, expected)
    assert (estimate(other, spectrum) != expected).any()
    assert np.isfinite(found[:, protected]).all()


@pytest.mark.parametrize("spectrum", [OF_SLOPE, None], ids=["kriging", "rows"])
@pytest.mark.parametrize("nints", [1, 2])
def test_images_without_anything_do_no_harm(rng, spectrum, nints):
    slopes, _ = make_slopes(rng, nints=nints)
    constant, lost, zero = copy_of(slopes), copy_of(slopes), copy_of(slopes)
    constant.rate[:] = 7
    lost.dq[:] = DO_NOT_USE
    zero.rate[:] = 0
    zero.var_poisson[:] = 0
    # The solver stops at about a hundredth of the uncertainty, which is up to 1 here.
    found = estimate(constant, spectrum)
    assert (found - found.mean(axis=(1, 2), keepdims=True)).std() < 0.02
    assert not estimate(lost, spectrum).any()
    assert not estimate(zero, spectrum).any()
    _, error = noise_of_slopes(lost, spectrum=spectrum, backend=NUMPY)
    # all of the noise is left
    full = Readout(SHAPE, bin_width=1)
    variance = 0.0 if spectrum is None else variance_of(spectrum.common.power(full), full)
    assert error.rate == pytest.approx(variance / nints)
    assert error.rateints == pytest.approx([variance] * nints)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("amplitude", [0.0, 1e-300, 1e6])
@pytest.mark.parametrize("exponent", [0.0, 3.0])
@pytest.mark.parametrize("relaxation", [1.0, 1e300])
def test_extreme_parameters_give_finite_images(rng, amplitude, exponent, relaxation):
    """The bounds of the step's parameters."""
    slopes, _ = make_slopes(rng, nints=2)
    ramps, _ = observe(rng)
    spectrum = Spectrum(PowerLaw(amplitude, exponent))
    noise, error = noise_of_slopes(slopes, spectrum=spectrum, relaxation=relaxation, backend=NUMPY)
    assert np.isfinite(noise).all()
    assert np.isfinite([error.rate, *error.rateints]).all()
    assert np.isfinite(correct(ramps, spectrum)).all()


def test_one_lost_integration_leaves_the_others(rng):
    slopes, noise = make_slopes(rng, nints=3)
    slopes.rate[1] = np.nan
    found = estimate(slopes)
    assert np.isfinite(found).all()
    assert measure_rows((noise - found)[::2]) < 0.5 * measure_rows(noise[::2])


def test_reference_pixels_see_no_scene(rng):
    """A halo in all other pixels does not reach them, and they show the noise of their rows."""
    is_reference = np.zeros(SHAPE, bool)
    is_reference[:4] = is_reference[-4:] = is_reference[:, :4] = is_reference[:, -4:] = True
    scene = np.where(is_reference, 0, 30 + make_scene(SHAPE, STAR))
    slopes, noise = make_slopes(rng, scene=scene)
    found = estimate(slopes, is_reference=is_reference)
    left = (noise - found)[0]
    assert left[is_reference].std() < 0.9 * noise[0][is_reference].std()
    # Without this knowledge, the border between them and the scene is noise, or a scene.
    unaware = (noise - estimate(slopes))[0]
    assert left.std() < unaware.std()


@pytest.mark.parametrize("spectrum", [OF_SLOPE, None], ids=["kriging", "rows"])
def test_each_integration_has_its_own_noise(rng, spectrum):
    """The mean of the estimates is that of the mean image; the differences are from those of the integrations."""
    slopes, noise = make_slopes(rng, nints=4)
    found = estimate(slopes, spectrum)
    own, true = found - found.mean(axis=0), noise - noise.mean(axis=0)
    own, true = (each - each.mean(axis=(1, 2), keepdims=True) for each in (own, true))
    assert (true - own).std() < 0.75 * true.std()
    assert np.corrcoef(own.reshape(-1), true.reshape(-1))[0, 1] > 0.6


def test_outputs_have_their_own_noise():
    """Four outputs, of which every second one is read in the opposite direction."""
    left, before = [], []
    for seed in range(3):
        rng = np.random.default_rng([3, seed])
        slopes, _ = make_slopes(rng, amplitude=0)
        noise = make_1overf(rng, (1, *SHAPE), 0.09, EXPONENT, 4, 0.09)
        slopes.rate[:] += noise
        both = Spectrum(PowerLaw(0.09, EXPONENT), PowerLaw(0.09, EXPONENT))
        left.append([(noise - estimate(slopes, both, noutputs=4)).std(), (noise - estimate(slopes)).std()])
        before.append(noise.std())
    of_four, of_one = np.mean(left, axis=0)
    assert of_four < 0.8 * np.mean(before)
    assert of_four < of_one
    with pytest.raises(ValueError, match="64 pixels along the fast axis cannot be divided among 5 outputs"):
        estimate(slopes, noutputs=5)


# ------------------------------------------------------------------------------------- orientations, threads, backends


@pytest.mark.parametrize(("slowaxis", "fastaxis"), AXES)
@pytest.mark.parametrize("spectrum", [STRONG, None], ids=["kriging", "rows"])
def test_turned_exposures_give_the_turned_result(rng, slowaxis, fastaxis, spectrum):
    """Rows of the detector along any axis of the file, read from any end."""

    def turn(array):
        return np.ascontiguousarray(from_order(array, slowaxis, fastaxis))

    readout = {"slowaxis": slowaxis, "fastaxis": fastaxis}
    ramps, _ = observe(rng, nints=2)
    ramps.groupdq[0, 4, 5:9, 7:20] = JUMP_DET
    turned = type(ramps)(**{name: turn(array) for name, array in vars(ramps).items()})
    # rounding of values of 1000 DN, whose differences the solver sees
    np.testing.assert_allclose(correct(turned, spectrum, **readout), turn(correct(ramps, spectrum)), atol=2e-2)
    measured = (
        measure_spectrum(*arrays_of(each), backend=NUMPY, **how) for each, how in ((ramps, {}), (turned, readout))
    )
    straight, other = (found.common for found in measured)
    assert (other.amplitude, other.exponent) == pytest.approx((straight.amplitude, straight.exponent), rel=1e-4)

    slopes, _ = make_slopes(rng, nints=2)
    reference = np.zeros(SHAPE, bool)
    reference[:4] = True
    used = spectrum and OF_SLOPE
    places = turn(np.hypot(*(np.indices(SHAPE) - np.array([12, 40])[:, None, None])))
    y, x = np.unravel_index(places.argmin(), places.shape)
    turned = Slopes(*(turn(getattr(slopes, each.name)) for each in fields(slopes)))
    found = estimate(turned, used, (float(x), float(y)), is_reference=turn(reference), **readout)
    expected = estimate(slopes, used, (40.0, 12.0), is_reference=reference)
    # the noise is of the order of 1
    np.testing.assert_allclose(found, turn(expected), atol=1e-3)


def test_any_number_of_threads_gives_the_same_bits(rng):
    ramps, _ = observe(rng, nints=3)
    slopes, _ = make_slopes(rng, nints=3)
    results = []
    for n_threads in (1, 2, 4):
        backend = get_backend("numpy", n_threads=n_threads)
        measured = measure_spectrum(*arrays_of(ramps), backend=backend).common
        numbers = np.array([measured.amplitude, measured.exponent])
        kinds = [(STRONG, OF_SLOPE), (None, None)]
        arrays = [[correct(ramps, one, backend), estimate(slopes, other, backend=backend)] for one, other in kinds]
        results.append([numbers, *sum(arrays, [])])
    for found in results[1:]:
        for ours, theirs in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_every_backend_gives_the_same_bits(rng, backend):
    """There is one definition; on a GPU the order of sums differs."""
    ramps, _ = observe(rng, nints=2)
    slopes, _ = make_slopes(rng, nints=2)
    tolerance = {"rtol": 1e-4, "atol": 2e-2} if backend.name == "cuda" else {"rtol": 0, "atol": 0}
    for spectrum, of_slope in ((STRONG, OF_SLOPE), (None, None)):
        np.testing.assert_allclose(correct(ramps, spectrum, backend), correct(ramps, spectrum), **tolerance)
        found = backend.to_host(estimate(slopes, of_slope, backend=backend))
        np.testing.assert_allclose(found, estimate(slopes, of_slope), **tolerance)


def test_chunks_give_the_same_bits(rng):
    ramps, _ = observe(rng, nints=3)
    slopes, _ = make_slopes(rng, nints=3)
    small = get_backend("host", n_threads=1).in_chunks(1)
    np.testing.assert_array_equal(correct(ramps, backend=small), correct(ramps))
    np.testing.assert_array_equal(estimate(slopes, backend=small), estimate(slopes))


# ---------------------------------------------------------------------------------------------------------- small parts


def test_times_of_groups_are_the_means_of_their_frames():
    from gpucoron.facts import Facts

    facts = Facts("NIRCAM", nframes=4, groupgap=1, frame_time=2.0, group_time=10.0)
    np.testing.assert_allclose(group_times(facts, 3), [5, 15, 25])
    np.testing.assert_allclose(group_times(replace(facts, frame_time=None), 3), [5, 15, 25])
    # the variance of a fitted slope
    rng = np.random.default_rng(2)
    times = group_times(facts, 5)
    assert np.polyfit(times, rng.normal(size=(5, 20000)), 1)[0].var() == pytest.approx(slope_factor(times), rel=0.03)
    assert slope_factor(times[:1]) == pytest.approx(1 / 25)


def test_the_usual_spectrum_is_shared_among_outputs():
    one, four = usual_spectrum(), usual_spectrum(4)
    assert four.common.amplitude + four.own.amplitude == pytest.approx(one.common.amplitude)
    assert one.own is None
    assert four.scaled(3).own.amplitude == pytest.approx(3 * four.own.amplitude)


def test_a_group_that_is_lost_everywhere_may_be_nan(rng):
    """The other groups are corrected as if it were not there."""
    groups, ny, nx = 7, 24, 32
    times = 10.0 * np.arange(1, groups + 1)
    stripes = rng.normal(0, 5, (1, groups, ny, 1)).astype(np.float32)
    data = np.broadcast_to(stripes, (1, groups, ny, nx)) + rng.normal(0, 1, (1, groups, ny, nx)).astype(np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    groupdq[:, 3] = 1
    lost = data.copy()
    lost[:, 3] = np.nan
    kept = [0, 1, 2, 4, 5, 6]
    small = data[:, kept].copy()
    spectrum = Spectrum(PowerLaw(1.0, 1.0))
    for ramp, flags, of_groups in ((lost, groupdq, times), (small, groupdq[:, kept], times[kept])):
        subtract_contrasts(ramp, flags, 2.0, 3.0, of_groups, spectrum=spectrum, backend="cpu")
    assert np.isnan(lost[:, 3]).all()
    np.testing.assert_allclose(lost[:, kept], small, atol=1e-3)
    assert np.diff(small, 2, axis=1).std() < 0.7 * np.diff(data[:, kept], 2, axis=1).std()


def test_too_few_pixels_tell_nothing_of_the_spectrum(rng):
    """One or two pixels, or none that varies."""
    ramps, _ = observe(rng, nints=2)
    data, groupdq, *others = arrays_of(ramps)
    few = np.ones_like(groupdq)
    few[..., 10, 10:12] = 0
    assert measure_spectrum(data, few, *others, backend=NUMPY) is None
    assert measure_spectrum(np.ones_like(data), groupdq, *others, backend=NUMPY) is None
    with pytest.raises(ValueError, match="8 groups, not 7"):
        measure_spectrum(ramps.data, 0, 2.0, 9.0, TIMES[:7], backend=NUMPY)
    with pytest.raises(ValueError, match="64 pixels.*cannot be divided among 3 outputs"):
        measure_spectrum(*arrays_of(ramps), noutputs=3, backend=NUMPY)
    slopes, _ = make_slopes(rng)
    with pytest.raises(ValueError, match="spectrum.own"):
        noise_of_slopes(slopes, spectrum=STRONG, noutputs=4, backend=NUMPY)


def test_one_lost_integration_does_not_hide_the_spectrum(rng):
    slopes, _ = make_slopes(rng, nints=6)
    lost = copy_of(slopes)
    lost.rate[2], lost.dq[2] = np.nan, DO_NOT_USE
    found = [spectrum_of_integrations(each, 1.0, 2, 1, 1, NUMPY).common.amplitude for each in (slopes, lost)]
    assert found[1] == pytest.approx(found[0], rel=0.4)
    lost.dq[:, 1:] = DO_NOT_USE
    assert spectrum_of_integrations(lost, 1.0, 2, 1, 1, NUMPY) is None
