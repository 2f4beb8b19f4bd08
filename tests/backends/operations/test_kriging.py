"""Kriging of 1/f noise beside dense matrices, the spectrum beside the truth, and the order of readout."""

import tracemalloc

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.kernel_files import read_kernels
from gpucoron.backends.operations import subtract_contrasts
from gpucoron.backends.operations.subtract_1overf.kriging import (
    CLIPPED,
    Sources,
    conjugate_gradients,
    krige,
    row_means,
)
from gpucoron.backends.operations.subtract_1overf.readout import (
    OVERHEAD,
    Readout,
    from_order,
    in_order,
    power_law,
    variance_of,
)
from gpucoron.backends.operations.subtract_1overf.scene import KNOTS, Blobs, Rings, Scene
from gpucoron.backends.operations.subtract_1overf.slopes import RIDGE, KrigingSettings, _System, relax
from gpucoron.backends.operations.subtract_1overf.spectrum import PowerLaw, Spectrum, SpectrumSettings
from tests.cases.kriging import make_1overf

NUMPY = get_backend("numpy", n_threads=1)
DEVICE = NUMPY.device
AXES = [(2, 1), (2, -1), (-2, 1), (-2, -1), (1, 2), (1, -2), (-1, 2), (-1, -2)]
#: (ny, nx), outputs, pixels of a sample; also rows that are not multiples of a sample
READOUTS = [
    ((6, 16), 1, 1),
    ((6, 16), 1, 4),
    ((6, 16), 4, 1),
    ((6, 16), 4, 4),
    ((5, 13), 1, 4),
    ((5, 20), 2, 4),
    ((5, 28), 4, 4),
]


@pytest.fixture
def rng():
    return np.random.default_rng(8)


# ---------------------------------------------------------------------------------------------------- order of readout


@pytest.mark.parametrize(("slowaxis", "fastaxis"), AXES)
def test_images_return_from_the_order_of_readout(slowaxis, fastaxis):
    images = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    ordered = in_order(images, slowaxis, fastaxis)
    np.testing.assert_array_equal(from_order(ordered, slowaxis, fastaxis), images)
    # the first row, along the fast axis: x from the left or the right, or y from the bottom or the top
    image = images[0]
    expected = {
        (2, 1): image[0], (2, -1): image[0, ::-1], (-2, 1): image[-1], (-2, -1): image[-1, ::-1],
        (1, 2): image[:, 0], (1, -2): image[::-1, 0], (-1, 2): image[:, -1], (-1, -2): image[::-1, -1],
    }[slowaxis, fastaxis]  # fmt: skip
    np.testing.assert_array_equal(ordered[0, 0], expected)


@pytest.mark.parametrize(("shape", "noutputs", "bin_width"), READOUTS)
def test_scatter_is_the_transpose_of_gather(rng, shape, noutputs, bin_width):
    readout = Readout(shape, noutputs, bin_width)
    images = rng.normal(size=(3, *shape)).astype(np.float32)
    series = rng.normal(size=(3, noutputs, readout.n)).astype(np.float32)
    gathered, scattered = readout.gather(images, np), readout.scatter(series, np)
    assert gathered.shape == series.shape
    assert scattered.shape == images.shape
    assert gathered.dtype == scattered.dtype == np.float32
    # float32 sums of a hundred products
    assert np.vdot(gathered, series) == pytest.approx(np.vdot(images, scattered), rel=1e-4, abs=1e-3)
    np.testing.assert_allclose(gathered.sum(axis=(1, 2)), images.sum(axis=(1, 2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "noutputs"), [((4, 12), 1), ((4, 12), 2), ((4, 28), 4)])
def test_pixels_are_at_the_times_of_their_readout(shape, noutputs):
    """Outputs are read at the same time, every second one from its end, with the overhead after each row."""
    readout = Readout(shape, noutputs, bin_width=1)
    ny, width = shape[0], shape[1] // noutputs
    series = np.broadcast_to(np.arange(readout.n, dtype=np.float32), (noutputs, readout.n))
    times = readout.scatter(series, np)
    for output in range(noutputs):
        own = times[:, output * width : (output + 1) * width]
        own = own[:, ::-1] if output % 2 else own
        np.testing.assert_array_equal(own, np.arange(ny)[:, None] * (width + OVERHEAD) + np.arange(width))


def test_samples_are_interpolated_between_their_middles():
    readout = Readout((3, 13), bin_width=4)
    series = np.zeros((1, readout.n), np.float32)
    readout._rows(series)[0, :, :4] = [0, 4, 8, 12]
    # The middle of the first sample is 1.5 pixels from the edge, before which there is nothing to interpolate.
    expected = np.clip(np.arange(13) - 1.5, 0, None)
    expected[-2:] = [9.5, 10.5]
    found = readout.interpolate(series, np)
    np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 13)), atol=1e-5)


def test_a_power_law_has_the_variance_of_its_noise(rng):
    """The power is that per sample: white noise of variance V has the power V at all frequencies."""
    for bin_width in (1, 4):
        readout = Readout((40, 60), bin_width=bin_width)
        power = power_law(readout.frequencies, 0.1, 1.0, bin_width)
        sources = Sources([power], readout, DEVICE)
        noise = sources.noise(rng.normal(size=(400, 1, sources.length)).astype(np.float32))
        # 1/f noise of 400 series: the slowest of about ten octaves varies by 10 %
        assert noise.var(axis=-1).mean() == pytest.approx(variance_of(power, readout), rel=0.05)


@pytest.mark.parametrize(("shape", "noutputs", "bin_width"), READOUTS)
def test_white_noise_is_the_transpose_of_1overf(rng, shape, noutputs, bin_width):
    readout = Readout(shape, noutputs, bin_width)
    sources = Sources([law.power(readout) for law in spectra(noutputs)], readout, DEVICE)
    series = rng.normal(size=(3, noutputs, readout.n)).astype(np.float32)
    white = sources.white(series)
    z = rng.normal(size=white.shape).astype(np.float32)
    assert white.shape == (3, sources.n, sources.length)
    noise = sources.noise(z)
    assert noise.dtype == white.dtype == np.float32
    assert np.vdot(white, z) == pytest.approx(np.vdot(series, noise), rel=1e-4, abs=1e-4)


# ------------------------------------------------------------------------------------------------- conjugate gradients


def test_conjugate_gradients_solve_systems_of_any_condition(rng):
    n, conditions = 40, np.array([1.0, 30.0, 3e3, 1e-3])
    roots = np.stack([np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in conditions])
    values = np.stack([np.geomspace(1, condition, n) for condition in conditions])
    matrices = np.einsum("sij,sj,skj->sik", roots, values, roots)
    right = rng.normal(size=(len(conditions), n)).astype(np.float32)
    right[2] *= 1e3
    diagonal = np.einsum("sii->si", matrices)

    def solve(start=None):
        return conjugate_gradients(
            lambda x: np.einsum("sij,sj->si", matrices, x).astype(np.float32),
            right,
            lambda r: (r / diagonal).astype(np.float32),
            1e-7,
            start=start,
        )

    expected = np.linalg.solve(matrices, right[..., None])[..., 0]
    before = right.copy()
    found = solve()
    assert found.dtype == np.float32
    # single precision times the condition
    np.testing.assert_allclose(found[:2], expected[:2], rtol=0, atol=1e-4)
    assert np.linalg.norm(found[2] - expected[2]) < 1e-3 * np.linalg.norm(expected[2])
    assert np.linalg.norm(found[3] - expected[3]) < 1e-3 * np.linalg.norm(expected[3])
    np.testing.assert_array_equal(right, before)
    # The solution is the best guess: nothing is changed.
    start = expected.astype(np.float32)
    np.testing.assert_allclose(solve(start)[:2], start[:2], atol=1e-4)


def test_systems_without_right_hand_sides_give_zeros():
    right = np.zeros((3, 10), np.float32)
    right[1] = 1
    found = conjugate_gradients(lambda x: 2 * x, right, lambda r: r, 1e-9)
    np.testing.assert_allclose(found, right / 2)


# ------------------------------------------------------------------------------------------------ beside dense matrices


def covariance_of_samples(powers, readout):
    """Make the covariances of all samples of all outputs, (noutputs * n, noutputs * n)."""
    n, noutputs = readout.n, readout.noutputs
    lags = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    common, *own = (np.fft.irfft(power, n)[lags] for power in powers)
    return np.kron(np.ones((noutputs, noutputs)), common) + (np.kron(np.eye(noutputs), own[0]) if own else 0)


def samples_of_pixels(readout):
    """Make the matrix that gives each pixel the value of its sample, (ny * nx, noutputs * n)."""
    units = np.eye(readout.noutputs * readout.n, dtype=np.float32)
    images = readout.scatter(units.reshape(-1, readout.noutputs, readout.n), np)
    return images.reshape(len(units), -1).T.astype(float)


def spectra(noutputs):
    return [PowerLaw(0.4, 1.1), PowerLaw(0.2, 0.8)][: 2 if noutputs > 1 else 1]


@pytest.mark.parametrize(("shape", "noutputs", "bin_width"), READOUTS)
def test_kriging_is_the_dense_solution(rng, shape, noutputs, bin_width):
    """N = C (C + V)^-1 y for an image with unknown pixels and different variances."""
    readout = Readout(shape, noutputs, bin_width)
    powers = [law.power(readout) for law in spectra(noutputs)]
    values = make_1overf(rng, (2, *shape), 0.4, 1.1, noutputs, 0.2 if noutputs > 1 else 0.0)
    variance = rng.uniform(0.3, 3, values.shape)
    values += (np.sqrt(variance) * rng.normal(size=values.shape)).astype(np.float32)
    known = rng.random(values.shape) < 0.8
    weights = np.where(known, 1 / variance, 0).astype(np.float32)
    before = values.copy(), weights.copy()
    found = krige(values, weights, powers, readout, DEVICE)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(values, before[0])
    np.testing.assert_array_equal(weights, before[1])

    samples, pixels = covariance_of_samples(powers, readout), samples_of_pixels(readout)
    of_pixels = pixels @ samples @ pixels.T
    for image, weight, noise in zip(values, weights, found, strict=True):
        there = weight.reshape(-1) > 0
        total = of_pixels[np.ix_(there, there)] + np.diag(1 / weight.reshape(-1)[there].astype(float))
        cross = samples @ pixels[there].T
        series = cross @ np.linalg.solve(total, image.reshape(-1)[there])
        left = np.diag(samples) - np.einsum("ij,ji->i", cross, np.linalg.solve(total, cross.T))
        expected = readout.interpolate(series.reshape(noutputs, -1), np)
        # The tolerance of the solver is a hundredth of the uncertainty.
        assert np.sqrt(np.mean((noise - expected) ** 2)) < 0.02 * np.sqrt(left.mean())


def test_without_known_values_nothing_is_estimated():
    readout = Readout((6, 16))
    zeros = np.zeros((6, 16), np.float32)
    assert not krige(zeros + 5, zeros, [PowerLaw(0.4, 1.1).power(readout)], readout, DEVICE).any()


@pytest.mark.parametrize("widths", [(0.98, 0.98), (3.0, 3.0), (0.98, 9.0)])
def test_blobs(rng, widths):
    blobs = Blobs((20, 28), widths, DEVICE)
    heights = rng.normal(size=blobs.size).astype(np.float32)
    image = rng.normal(size=(20, 28)).astype(np.float32)
    assert np.vdot(blobs.field(heights), image) == pytest.approx(np.vdot(heights, blobs.project(image)), rel=1e-4)
    matrix = np.stack([blobs.field(unit) for unit in np.eye(blobs.size, dtype=np.float32)])
    weights = rng.uniform(1, 2, image.shape).astype(np.float32)
    np.testing.assert_allclose(blobs.norms(weights), (matrix**2 * weights).sum(axis=(1, 2)), rtol=1e-4, atol=1e-7)
    # White noise as heights gives a field of variance 1; the lattice shows by exp(-pi^2 / 1.5^2) along each axis.
    np.testing.assert_allclose((matrix**2).sum(axis=0), 1, atol=4 * np.exp(-(np.pi**2) / 1.5**2) + 1e-3)
    assert (matrix**2).sum(axis=0).mean() == pytest.approx(1, abs=0.02)


def test_rings(rng):
    rings = Rings((24, 40), (25.3, 9.8), DEVICE)
    image, profile = rng.normal(size=(24, 40)).astype(np.float32), rng.normal(size=rings.n).astype(np.float32)
    assert np.vdot(rings.profile(profile), image) == pytest.approx(np.vdot(profile, rings.project(image)), rel=1e-4)
    radius = np.hypot(*(np.indices((24, 40))[::-1] - np.array([25.3, 9.8])[:, None, None]))
    knots = np.array(KNOTS[: rings.n], np.float32)
    np.testing.assert_allclose(rings.profile(knots), radius, atol=1e-4)
    matrix = np.stack([rings.profile(unit) for unit in np.eye(rings.n, dtype=np.float32)]).reshape(rings.n, -1)
    weights = rng.uniform(1, 2, image.shape).astype(np.float32)
    np.testing.assert_allclose(rings.gram(weights), matrix * weights.reshape(-1) @ matrix.T, atol=1e-3)
    # medians of rings around the star give a straight profile, whatever is in some of the pixels
    known = rng.random(image.shape) < 0.9
    steep = np.where(known, 100 - radius, np.nan).astype(np.float32)
    found = rings.medians(np.where(known, steep, np.float32(0)), known)
    inside = (radius > 6) & (radius < 20)
    assert abs(found - (100 - radius))[inside].max() < 1.0
    squares = (rng.normal(size=image.shape) ** 2).astype(np.float32)
    # deviates of more than 3 sigma count as 3 sigma: 0.4 % less than 1; about 150 pixels in a ring
    assert rings.clipped_means(squares, known)[inside].mean() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("noutputs", [1, 4])
def test_slopes_are_the_dense_solution_for_given_variances(rng, noutputs):
    """Profile, fields of the scene, 1/f noise and white noise: generalized least squares, with reference pixels."""
    shape, star = (12, 24), (13.0, 5.0)
    readout = Readout(shape, noutputs)
    powers = [law.power(readout) for law in spectra(noutputs)]
    rings = Rings(shape, star, DEVICE)
    scene = Scene(shape, rings, sum(powers), readout, DEVICE)
    sees = np.ones(shape, np.float32)
    sees[:2] = 0
    system = _System(Sources(powers, readout, DEVICE), rings, scene, sees)
    sigmas = [(rng.uniform(0.2, 1.5, shape) * sees).astype(np.float32) for _ in scene.blobs]
    weights = rng.uniform(0.3, 3, shape).astype(np.float32)
    weights[rng.random(shape) < 0.15] = 0
    image = rng.normal(0, 2, shape).astype(np.float32) + 5 * sees
    system.set_weights(weights, sigmas)
    model, series = system.model(system.solve(image, 1e-9 * image.size))

    pixels = samples_of_pixels(readout)
    samples = covariance_of_samples(powers, readout)
    total = pixels @ samples @ pixels.T
    for blobs, sigma in zip(scene.blobs, sigmas, strict=True):
        units = np.eye(blobs.size, dtype=np.float32)
        field = np.stack([sigma * blobs.field(unit) for unit in units]).reshape(len(units), -1).astype(float)
        total += field.T @ field
    there = weights.reshape(-1) > 0
    known = total[np.ix_(there, there)] + np.diag(1 / weights.reshape(-1)[there].astype(float))
    profiles = np.stack([(rings.profile(unit) * sees).reshape(-1) for unit in np.eye(rings.n, dtype=np.float32)]).T
    profiles = profiles[there]
    inverse = np.linalg.inv(known)
    gram = profiles.T @ inverse @ profiles
    gram += 10 * RIDGE * np.trace(gram) * np.eye(len(gram))  # rings without pixels
    values = image.reshape(-1)[there].astype(float)
    residual = values - profiles @ np.linalg.solve(gram, profiles.T @ (inverse @ values))
    expected = (samples @ pixels[there].T @ inverse @ residual).reshape(noutputs, -1)
    of_noise = expected.std()
    np.testing.assert_allclose(series, expected, atol=0.01 * of_noise)
    rest = values - np.linalg.inv(known) @ residual / weights.reshape(-1)[there]
    np.testing.assert_allclose(model.reshape(-1)[there], rest, atol=0.02 * values.std())


@pytest.mark.parametrize("noutputs", [1, 4])
def test_bits_of_slopes_do_not_depend_on_the_threads(rng, noutputs):
    shape = (64, 80)
    law = PowerLaw(0.4, 1.1)
    settings = KrigingSettings(Spectrum(law, law if noutputs > 1 else None), (38.0, 30.0), noutputs)
    image = make_1overf(rng, (1, *shape), 0.4, 1.1, noutputs, 0.2 if noutputs > 1 else 0.0)[0]
    image += rng.normal(size=shape).astype(np.float32)
    image[20:40, 30:50] += 50
    variance = np.where(rng.random(shape) < 0.95, 1, np.inf).astype(np.float32)
    found = [get_backend("numpy", n_threads=n).krige_slopes(image, variance, settings=settings) for n in (1, 2, 5)]
    assert found[0].any()
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize(("shape", "noutputs"), [((33, 43), 1), ((40, 64), 4), ((1, 24), 1), ((30, 1), 1)])
def test_kernels_give_the_bits_of_numpy(rng, shape, noutputs):
    """Slopes with reference pixels and unknown ones, differences, and the spectrum; also without known pixels."""
    own = PowerLaw(0.2, 1.1) if noutputs > 1 else None
    spectrum = Spectrum(PowerLaw(1.0, 0.9), own)
    images = (make_1overf(rng, (3, *shape), 1.0, 1.0) + rng.normal(size=(3, *shape))).astype(np.float32)
    images[0] += 40 * np.exp(-np.hypot(*(np.indices(shape) - np.array([[[9.0]], [[12.0]]]))) / 9).astype(np.float32)
    variances = rng.uniform(0.5, 2, images.shape).astype(np.float32)
    variances[rng.random(images.shape) < 0.1] = np.inf
    images[rng.random(images.shape) < 0.01] = np.nan
    images[0, 0, 0], variances[2] = -np.inf, np.nan
    masks = np.isfinite(variances) & np.isfinite(images)
    is_reference = np.zeros(shape, bool)
    is_reference[:2] = True
    host, launched = get_backend("host", n_threads=2), set()
    launch = host.device.launch
    host.device.launch = lambda name, *arguments: (launched.add(name), launch(name, *arguments))

    def estimate(backend):
        slopes = {"spectrum": spectrum, "center": (12.0, 9.0), "noutputs": noutputs}
        for image, variance in zip(images, variances, strict=True):
            yield backend.krige_slopes(image, variance, is_reference, **slopes)
        yield backend.krige_differences(images, variances, spectrum=spectrum, noutputs=noutputs)
        yield backend.measure_1overf(images, masks, noutputs=noutputs)

    for found, expected in zip(estimate(host), estimate(NUMPY), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert launched == {kernel.name for kernel in read_kernels("kriging.cu")}


def test_relaxation_removes_less():
    """Without a scene the part that is removed is max(0, 1 - a V / (C + V)); slow variations stay."""
    readout = Readout((400, 64), bin_width=1)
    frequencies, noise = readout.frequencies, 2.0
    power = power_law(frequencies, 0.05, 1.0)
    fast = frequencies * readout.period * 110 > 10
    for relaxation in (1.0, 2.0, 5.0):
        relaxed = relax(power, noise, relaxation, readout)
        removed = relaxed / (relaxed + noise)
        np.testing.assert_allclose(
            removed[fast], np.maximum(1 - relaxation * noise / (power + noise), 0)[fast], atol=1e-4
        )
    slow = frequencies * readout.period * 110 < 0.1
    assert slow.any()
    assert (relax(power, noise, 1.0, readout)[slow] < 1e-3 * power[slow] + 1e-12).all()


def test_means_of_rows_ignore_the_extremes(rng):
    values = rng.normal(size=(3, 7, 50)).astype(np.float32)
    weights = rng.uniform(1, 2, values.shape).astype(np.float32)
    weights[rng.random(values.shape) < 0.3] = 0
    weights[1, 2] = 0
    values[0, 4, 7], weights[0, 4, 7] = 1e6, 1
    means = row_means(values, weights, np)
    assert means.shape == (3, 7, 1)
    assert means.dtype == np.float32
    for row, weight, mean in zip(values.reshape(-1, 50), weights.reshape(-1, 50), means.reshape(-1), strict=True):
        order = np.argsort(np.where(weight > 0, row, np.inf))[: np.count_nonzero(weight)]
        cut = int(CLIPPED * len(order))
        order = order[cut : len(order) - cut]
        expected = np.average(row[order], weights=weight[order]) if len(order) else 0
        if row.max() < 1e5:
            assert mean == pytest.approx(expected, abs=1e-5)
    assert means[1, 2] == 0


# -------------------------------------------------------------------------------------------------------- the spectrum


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3])
def test_the_spectrum_is_measured(exponent):
    """One output, a fifth of the pixels masked: the amplitude is good to 15 %, the exponent to 0.1."""
    rng = np.random.default_rng([1, int(10 * exponent)])
    shape = (16, 96, 128)
    images = make_1overf(rng, shape, 0.1, exponent) + rng.normal(0, 1, shape).astype(np.float32)
    masks = rng.random(shape) < 0.8
    masks[:, 40:60, 50:80] = False
    before = images.copy()
    images[~masks] = np.nan
    (amplitude, alpha, white), none = NUMPY.measure_1overf(images, masks, settings=SpectrumSettings())
    # 1/f noise of exponent 1.3 is above the white noise at nearly all frequencies
    assert amplitude == pytest.approx(0.1, rel=0.15 if exponent < 1.2 else 0.3)
    assert alpha == pytest.approx(exponent, abs=0.1)
    assert white == pytest.approx(1, rel=0.1 if exponent < 1.2 else 0.25)
    assert not none.any()
    known = NUMPY.measure_1overf(images, masks, settings=SpectrumSettings(exponent=exponent))
    assert known[0, 0] == pytest.approx(0.1, rel=0.15)
    assert known[0, 1] == exponent
    np.testing.assert_array_equal(images[masks], before[masks])


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.3])
def test_the_spectra_of_four_outputs_are_measured(exponent):
    """The noise that outputs have in common, and that of each."""
    rng = np.random.default_rng([2, int(10 * exponent)])
    shape = (20, 96, 256)
    images = make_1overf(rng, shape, 0.1, exponent, 4, 0.05) + rng.normal(0, 1, shape).astype(np.float32)
    masks = rng.random(shape) < 0.9
    common, own = NUMPY.measure_1overf(images, masks, settings=SpectrumSettings(4, exponent))
    assert common[0] == pytest.approx(0.1, rel=0.15)
    assert own[0] == pytest.approx(0.05, rel=0.15)
    # white noise of the mean of four outputs, and of each; at an exponent of 1.3 the former is below the 1/f noise at
    # most frequencies
    assert common[2] == pytest.approx(0.25, rel=0.2 if exponent < 1.2 else 0.4)
    assert own[2] == pytest.approx(1, rel=0.1)
    common, own = NUMPY.measure_1overf(images, masks, settings=SpectrumSettings(4))
    assert common[1] == pytest.approx(exponent, abs=0.1)
    assert own[1] == pytest.approx(exponent, abs=0.1)


def test_a_spectrum_of_white_noise_has_no_amplitude():
    rng = np.random.default_rng(3)
    images = rng.normal(0, 3, (12, 64, 96)).astype(np.float32)
    found = NUMPY.measure_1overf(images, np.ones(images.shape, bool), settings=SpectrumSettings())
    assert found[0, 0] < 0.01
    assert found[0, 2] == pytest.approx(9, rel=0.05)


def test_images_without_usable_pixels_have_no_spectrum():
    images = np.full((4, 16, 24), np.nan, np.float32)
    found = NUMPY.measure_1overf(images, np.zeros(images.shape, bool), settings=SpectrumSettings())
    assert found[0, 0] == found[0, 2] == 0


# -------------------------------------------------------------------------------------------------------- small images


@pytest.mark.parametrize("shape", [(1, 8), (2, 2), (3, 5), (7, 64), (64, 3)])
@pytest.mark.parametrize("spectrum", [None, Spectrum(PowerLaw(0.1, 1.0))], ids=["rows", "kriging"])
def test_images_of_any_size(rng, shape, spectrum):
    image = rng.normal(size=shape).astype(np.float32)
    noise = NUMPY.krige_slopes(image, np.ones(shape, np.float32), settings=KrigingSettings(spectrum))
    assert noise.shape == shape
    assert noise.dtype == np.float32
    assert np.isfinite(noise).all()


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("noutputs", [1, 4])
@pytest.mark.parametrize("ngroups", [3, 8, 16, 120])
def test_memory_of_an_integration_is_as_the_model_says(rng, ngroups, noutputs):
    """Threads work on one integration each: a chunk needs at most what the model says for each of its integrations."""
    shape, times = (160, 160), tuple(10.0 * np.arange(1, ngroups + 1))
    data = rng.normal(1000, 8, (1, ngroups, *shape)).astype(np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    gain, readnoise = (np.full(shape, value, np.float32) for value in (2, 8))
    spectrum = Spectrum(PowerLaw(1.0, 1.0), PowerLaw(0.1, 1.0) if noutputs > 1 else None)
    peaks = []
    for _ in range(2):  # the first call imports
        tracemalloc.start()
        try:
            options = {"times": times, "spectrum": spectrum, "noutputs": noutputs}
            NUMPY.subtract_contrasts(data, groupdq, gain, readnoise, **options)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    model = subtract_contrasts.working_bytes(1, ngroups) * shape[0] * shape[1]
    assert peaks[1] == pytest.approx(model, rel=0.15, abs=2e5)
