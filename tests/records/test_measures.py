"""The numbers of an exposure: against their definitions written out plainly, and against the truth of simulations."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends.statistics import median
from gpucoron.dq import DO_NOT_USE, HOT, JUMP_DET, REFERENCE_PIXEL, SATURATED
from gpucoron.engine import plan, run_steps
from gpucoron.io.exposure import Exposure
from gpucoron.records import measures
from gpucoron.records.measures import (
    Integrations,
    find_outside,
    histogram_of,
    jump_rate,
    measure_exposure,
    measure_integrations,
    read_noise_of_ramps,
    robust_width,
    saturated_radius,
)
from gpucoron.records.previews import preview_of_run
from gpucoron.records.shifts import gradients, measure_shift
from gpucoron.simulate import SCENES, Effects, simulate

SHAPE = (80, 96)
STAR = (47.5, 39.5)


def draw(nints, shape=SHAPE, seed=0, rows=0.0, sigma=0.3):
    """Draw integrations of a constant image with noise of pixels and of rows, and some unusable pixels."""
    rng = np.random.default_rng(seed)
    rate = 2 + rng.normal(0, sigma, (nints, *shape)) + rng.normal(0, rows, (nints, shape[0], 1))
    dq = np.where(rng.random(rate.shape) < 0.02, DO_NOT_USE, 0).astype(np.uint32)
    dq[:, :, :4] |= REFERENCE_PIXEL
    dq[:, 3, 3:] |= HOT
    rate[dq & DO_NOT_USE != 0] = 1e6
    rate[:, 5, 7] = np.nan
    return Integrations(rate.astype(np.float32), np.full(rate.shape, sigma, np.float32), dq)


def without_bad(integrations):
    bad = (integrations.dq & (DO_NOT_USE | REFERENCE_PIXEL)) != 0
    return np.where(bad, np.nan, integrations.rate.astype(float))


@pytest.mark.filterwarnings("ignore:All-NaN slice")
@pytest.mark.parametrize("nints", [2, 3, 4, 7])
def test_median_of_the_others(nints):
    integrations = draw(nints)
    rate = without_bad(integrations)
    middle = integrations.middle()
    for number in range(nints):
        expected = np.nanmedian(np.delete(rate, number, axis=0), axis=0)
        known = np.isfinite(rate[number])
        found = middle.without(integrations.image(number))
        np.testing.assert_allclose(found[known], expected[known], rtol=1e-6)  # float32


def test_middle_is_the_same_in_blocks_of_rows(monkeypatch):
    integrations = draw(5)
    whole = integrations.middle()
    monkeypatch.setattr("gpucoron.records.measures._MOST_PIXELS", 5 * SHAPE[1] * 7)
    for name, plane in vars(integrations.middle()).items():
        np.testing.assert_array_equal(plane, getattr(whole, name))


@pytest.mark.filterwarnings("ignore:All-NaN slice")
def test_numbers_of_integrations_by_their_definition():
    integrations = draw(4, rows=0.2)
    rate = without_bad(integrations)
    found = measure_integrations(integrations, STAR)
    y, x = np.indices(SHAPE)
    outside = np.sqrt((x - STAR[0]) ** 2 + (y - STAR[1]) ** 2) > 0.75 * min(SHAPE) / 2
    np.testing.assert_array_equal(find_outside(SHAPE, STAR), outside)
    for number, image in enumerate(rate):
        others = np.nanmedian(np.delete(rate, number, axis=0), axis=0)
        medians = np.nanmedian(image - others, axis=1)
        width = 1.4826 * np.median(np.abs(medians - np.median(medians))) * np.sqrt(3 / 4)
        # float32
        assert found["median"][number] == pytest.approx(np.nanmedian(image), rel=1e-6)
        assert found["background"][number] == pytest.approx(np.nanmedian(image[outside]), rel=1e-6)
        assert found["row_noise"][number] == pytest.approx(width, rel=1e-4)
    assert all(map(np.isnan, found["read_noise"]))


@pytest.mark.parametrize("nints", [2, 5, 20])
def test_row_noise_is_found(nints):
    """800 rows determine a robust width to 1.4826 * 0.79 / sqrt(800) = 4 %; medians of several integrations to 7 %."""
    found = measure_integrations(draw(nints, (800, 60), rows=0.3, sigma=0.2), STAR)["row_noise"]
    pixels = 1.25 * 0.2 / np.sqrt(56)
    assert np.median(found) == pytest.approx(np.hypot(0.3, pixels), rel=0.07)
    assert measure_integrations(draw(1), STAR)["row_noise"] == [pytest.approx(np.nan, nan_ok=True)]


def stars(instrument, shape, fwhm, nints, shift, seed):
    """Draw integrations of a star without speckles, the third one of which is shifted."""
    x, y = (shape[1] - 1) / 2, (shape[0] - 1) / 2
    scene = replace(SCENES[instrument], speckle=0.0)
    still = scene.render(shape, fwhm)
    moved = replace(scene, center=(x + shift[0], y + shift[1])).render(shape, fwhm)
    rng = np.random.default_rng(seed)
    truth = np.array([moved if number == 2 else still for number in range(nints)])
    err = np.sqrt(truth * 10 + 10**2) / 10  # 10 s, 10 electrons of read noise
    rate = rng.normal(truth, err)
    # undetected cosmic rays
    rate[rng.random(rate.shape) < 0.0005] += 1000
    dq = np.where(rng.random(rate.shape) < 0.01, DO_NOT_USE, 0)
    return Integrations(rate.astype(np.float32), err.astype(np.float32), dq.astype(np.uint32)), (x, y)


@pytest.mark.parametrize(
    ("instrument", "shape", "fwhm"), [("NIRCAM", (320, 320), 2.3), ("MIRI", (224, 288), 4.5)], ids=["NIRCam", "MIRI"]
)
def test_a_shifted_star_is_found(instrument, shape, fwhm):
    """Of normal errors, 99.7 % are below 3; the median of |error| is 0.67."""
    deviations = []
    for seed in range(6):
        integrations, star = stars(instrument, shape, fwhm, 6, (0.1, -0.1), seed)
        found = measure_integrations(integrations, star)
        for axis, true in (("x", 0.1), ("y", -0.1)):
            deviations.append((found[f"shift_{axis}"][2] - true) / found[f"shift_{axis}_error"][2])
            assert found[f"shift_{axis}_error"][2] < 0.01
            # the shifted one is one of the five others of each
            others = np.nan_to_num(np.delete(found[f"shift_{axis}"], 2))
            assert np.all(np.abs(others + true / 5) < 0.02 + 4 * found[f"shift_{axis}_error"][2])
    assert np.max(np.abs(deviations)) < 3.5
    assert np.median(np.abs(deviations)) < 1.2


def test_errors_of_shifts_are_true():
    """Each of 8 integrations is as far from the others as its error says: 15 % of the scatter with 48 numbers."""
    deviations = []
    for seed in range(3):
        integrations, star = stars("MIRI", (112, 144), 4.5, 8, (0, 0), seed)
        middle = integrations.middle()
        for number in range(8):
            image = integrations.image(number)
            shift = measure_shift(image, integrations.err[number], middle.without(image), star)
            deviations += [shift.x / shift.x_error, shift.y / shift.y_error]
    assert 0.7 < np.std(deviations) < 1.4


def test_shifts_are_blank_where_they_cannot_be_known():
    nothing = np.full(SHAPE, np.nan, np.float32)
    ones = np.ones(SHAPE, np.float32)
    for image, reference in ((nothing, ones), (ones, nothing), (ones, ones)):
        shift = measure_shift(image, ones, reference, STAR)
        assert not shift.is_significant_x
        assert not shift.is_significant_y


def test_gradients_of_an_undersampled_star():
    """Central differences are wrong by a quarter of the steepest slope, the spline by less than a tenth."""
    y, x = np.indices((41, 41), float)
    spread = np.exp(-((x - 20.3) ** 2 + (y - 19.8) ** 2) / 2)
    by_y, by_x, is_known = gradients(spread)
    steepest = np.exp(-0.5)
    for found, true, axis in ((by_x, (20.3 - x) * spread, 1), (by_y, (19.8 - y) * spread, 0)):
        assert np.abs(found - true)[is_known].max() < 0.1 * steepest
        assert np.abs(np.gradient(spread, axis=axis) - true).max() > 0.2 * steepest
    spread[20, 21] = np.nan
    assert np.count_nonzero(is_known) - np.count_nonzero(gradients(spread)[2]) == 5


@pytest.mark.parametrize(("instrument", "subarray", "readpatt"), [
    ("NIRCAM", "SUB320A335R", "RAPID"), ("MIRI", "MASK1550", "FASTR1"),
])  # fmt: skip
def test_read_noise_of_a_run(exposures, instrument, subarray, readpatt):
    effects = Effects(one_over_f=0.0)
    case = exposures(instrument, subarray, readpatt, 12, 2, shape=(96, 128), effects=effects)
    with case.cache.activate():
        run = run_steps(plan(Exposure.read(case.path), backend="cpu"))
    preview = preview_of_run(run)
    pixels = case.simulation.pixels
    true = np.median(pixels.read_noise[find_outside((96, 128), (63.5, 47.5))]) / pixels.kind.gain
    # the photon noise of MIRI's background, and pixels of different read noise, are part of it
    assert preview.integrations["read_noise"] == pytest.approx([true] * 2, rel=0.1)
    assert preview.exposure["read_noise"] == pytest.approx(true, rel=0.1)


def ramps(nints=2, ngroups=6, sigma=7.0):
    rng = np.random.default_rng(4)
    slope = 100 * np.arange(ngroups)[:, None, None]
    data = slope + rng.normal(0, sigma, (nints, ngroups, *SHAPE)) + rng.normal(0, 50, (nints, ngroups, 1, 1))
    return data.astype(np.float32), np.zeros(data.shape, np.uint8), np.zeros(SHAPE, np.uint32)


def test_read_noise_is_that_of_unflagged_groups():
    data, groupdq, pixeldq = ramps()
    expected = read_noise_of_ramps(data, groupdq, pixeldq, STAR)
    assert expected == pytest.approx([7.0] * 2, rel=0.03)  # of 20000 differences, with noise of the frame removed
    rng = np.random.default_rng(1)
    flagged = rng.random(data.shape) < 0.3
    data[flagged] = rng.normal(0, 1e4, np.count_nonzero(flagged))
    groupdq[flagged] = np.where(rng.random(np.count_nonzero(flagged)) < 0.5, JUMP_DET, SATURATED)
    pixeldq[:, 90:] = DO_NOT_USE
    data[..., 90:] = rng.normal(0, 1e4, data[..., 90:].shape)
    assert read_noise_of_ramps(data, groupdq, pixeldq, STAR) == pytest.approx([7.0] * 2, rel=0.05)


def test_read_noise_by_its_definition(monkeypatch):
    data, groupdq, pixeldq = ramps(1, 5)
    monkeypatch.setattr("gpucoron.records.measures._ENOUGH_SAMPLES", 10**9)
    outside = find_outside(SHAPE, STAR)
    second = np.diff(data[0].astype(float), n=2, axis=0)[:, outside]
    second -= np.median(second, axis=1, keepdims=True)
    width = 1.4826 * np.median(np.abs(second - np.median(second))) / np.sqrt(6)
    assert read_noise_of_ramps(data, groupdq, pixeldq, STAR) == pytest.approx([width], rel=1e-4)


def test_read_noise_needs_three_groups():
    data, groupdq, pixeldq = ramps(2, 2)
    assert np.isnan(read_noise_of_ramps(data, groupdq, pixeldq, STAR)).all()
    data, groupdq, pixeldq = ramps(2, 6)
    groupdq[0, ::3] = DO_NOT_USE
    found = read_noise_of_ramps(data, groupdq, pixeldq, STAR)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(7.0, rel=0.03)


def test_saturated_radius():
    y, x = np.indices(SHAPE)
    distance = np.hypot(x - STAR[0], y - STAR[1])
    dq = np.where(distance < 9, SATURATED, 0).astype(np.uint32)
    dq[5:20, 5:20] = SATURATED  # another star
    assert saturated_radius(dq, STAR) == pytest.approx(np.sqrt(np.count_nonzero(distance < 9) / np.pi))
    # the star is behind a mask
    ring = np.where((distance > 5) & (distance < 8), SATURATED, 0).astype(np.uint32)
    assert saturated_radius(ring, STAR) == pytest.approx(np.sqrt(np.count_nonzero(ring) / np.pi))
    assert saturated_radius(np.where(distance > 20, SATURATED, 0).astype(np.uint32) * (x < 20), STAR) == 0
    assert saturated_radius(np.zeros(SHAPE, np.uint32), STAR) == 0


def test_numbers_of_an_exposure():
    integrations = draw(1, sigma=0.5)
    rate, err, dq = integrations.rate[0], integrations.err[0], integrations.dq[0]
    found = measure_exposure(rate, err, dq, STAR)
    image = without_bad(integrations)[0]
    assert found["background"] == pytest.approx(np.nanmedian(image[find_outside(SHAPE, STAR)]), rel=1e-6)
    edges, counts = (np.array(found["histogram"][key]) for key in ("edges", "counts"))
    ratio = (image / 0.5)[np.isfinite(image)]
    assert len(edges) == len(counts) + 1
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0], rtol=1e-3)
    for number in (5, 20, 40):
        inside = np.count_nonzero((ratio >= edges[number]) & (ratio < edges[number + 1]))
        assert abs(inside - counts[number]) <= 1  # edges are rounded
    assert counts.sum() > 0.985 * ratio.size


def test_images_without_values():
    nothing = np.full(SHAPE, np.nan, np.float32)
    found = measure_exposure(nothing, nothing, np.zeros(SHAPE, np.uint32), STAR)
    assert np.isnan(found["background"])
    assert found["histogram"] is None
    constant = histogram_of(np.ones(SHAPE), np.ones(SHAPE))
    assert sum(constant["counts"]) == SHAPE[0] * SHAPE[1]
    assert np.isnan(robust_width(nothing))
    cube = np.stack([nothing] * 3)
    measured = measure_integrations(Integrations(cube, cube, np.zeros(cube.shape, np.uint32)), STAR)
    assert all(np.isnan(value) for values in measured.values() for value in values)


def test_jump_rate():
    """jwst counts hits per 1000 pixels and second; pixels are 18 um wide in NIRCam and 25 um in MIRI."""
    per_cm2 = {"NIRCAM": 1e8 / 18**2, "MIRI": 1e8 / 25**2}
    for instrument, pixels in per_cm2.items():
        assert jump_rate(2.0, instrument) == pytest.approx(2e-3 * pixels)
    assert np.isnan(jump_rate(None, "MIRI"))
    assert np.isnan(jump_rate(2.0, "NIRISS"))


def test_raw_ramps_have_the_simulated_read_noise():
    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", 8, 1, seed=3, effects=Effects(one_over_f=0.0))
    pixels, shape = simulation.pixels, simulation.data.shape[-2:]
    star = simulation.truth.star
    data = simulation.data.astype(np.float32)
    found = read_noise_of_ramps(data, np.zeros(data.shape, np.uint8), simulation.truth.dq, star)
    true = np.median(pixels.read_noise[find_outside(shape, star)]) / pixels.kind.gain
    assert found == pytest.approx([true], rel=0.05)


#: arrays of many values: noise, a star, ties, two heaps with nothing between, constants, few and odd numbers, huge ones
MANY = {
    "noise": lambda rng: rng.normal(0, 1, 100_000),
    "odd": lambda rng: rng.normal(0, 1, 54_321),
    "star": lambda rng: rng.pareto(0.5, 70_000),
    "ties": lambda rng: rng.integers(0, 3, 60_000),
    "heaps": lambda rng: np.where(
        np.arange(50_000) < 25_000, rng.normal(-1, 0.01, 50_000), rng.normal(1, 0.01, 50_000)
    ),
    "sorted": lambda rng: np.arange(40_001),
    "constant": lambda rng: np.full(30_000, 2.5),
    # the sample meets one kind only
    "misleading": lambda rng: np.where(np.arange(90_000) % 91 == 0, 5.0, rng.normal(0, 1, 90_000)),
    "infinite": lambda rng: np.where(rng.random(30_000) < 0.3, np.inf, rng.normal(0, 1, 30_000)),
    "few": lambda rng: rng.normal(0, 1, 101),
    "one": lambda rng: np.ones(1),
    "none": lambda rng: np.empty(0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", MANY)
def test_the_median_of_many_is_exact(kind, dtype):
    values = MANY[kind](np.random.default_rng(1)).astype(dtype)
    found = measures.quick_median(values)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, median(values))


def test_values_near_edges_are_counted_as_by_numpy():
    rng = np.random.default_rng(2)
    for width in (0.1, 0.3, 7.0, 1e-3):
        edges = np.floor(rng.normal(0, 50)) * width + width * np.arange(70)
        around = np.concatenate([np.nextafter(edges, -np.inf), edges, np.nextafter(edges, np.inf)])
        values = np.concatenate([around, rng.uniform(edges[0] - width, edges[-1] + width, 3000)])
        np.testing.assert_array_equal(measures._count_between(values, edges, width), np.histogram(values, edges)[0])


def test_values_are_chosen_by_their_bits():
    rng = np.random.default_rng(3)
    first, second = rng.choice(np.float32([0.0, -0.0, 1.5, np.nan, np.inf, -np.inf, 1e-42]), (2, 9, 70))
    is_first = rng.random((9, 70)) < 0.5
    expected = np.where(is_first, first, second)
    np.testing.assert_array_equal(measures._choose(is_first, first, second).view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("nints", [2, 3, 4, 7])
def test_the_median_of_the_other_integrations(nints):
    rng = np.random.default_rng(nints)
    cube = np.where(rng.random((nints, 6, 40)) < 0.2, np.nan, rng.integers(0, 4, (nints, 6, 40))).astype(np.float32)
    integrations = Integrations(cube, np.ones_like(cube), np.zeros(cube.shape, np.uint32))
    middle = integrations.middle()
    for number, image in enumerate(cube):
        found, others = middle.without(image), np.delete(cube, number, axis=0)
        for at in np.ndindex(image.shape):
            values = others[(slice(None), *at)]
            values = values[np.isfinite(values)]
            if np.isfinite(image[at]):
                np.testing.assert_array_equal(found[at], np.median(values) if values.size else np.nan)
