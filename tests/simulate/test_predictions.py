"""The predicted saturation and noise of a simulation, compared with its data and with their reduction."""

from dataclasses import replace

import numpy as np
import pytest

import gpucoron
from gpucoron.simulate import SCENES, Effects, Scene, simulate, write_references

QUIET = Effects(
    poisson=False, dark=False, read_noise=False, one_over_f=0, ktc=False, nonlinearity=False, ipc=False,
    cosmic_rays=0, bad_pixels=False, reset=False, rscd=False, last_frame=False,
)  # fmt: skip
#: photon and read noise, and what the references correct
NOISE = Effects(one_over_f=0, cosmic_rays=0)


@pytest.mark.parametrize("readpatt", ["RAPID", "SHALLOW4", "DEEP8"])
def test_quiet_ramps_saturate_in_the_predicted_group(readpatt):
    scene = replace(SCENES["NIRCAM"], star=3e9)
    simulation = simulate("NIRCAM", "SUB320A335R", readpatt, 12, 1, scene=scene, shape=(40, 48), effects=QUIET)
    predicted, first = simulation.saturation, simulation.truth.saturated_from[0]
    assert 0 < predicted.count < predicted.good.sum()
    # the simulator adds its electrons in single precision
    assert np.mean(predicted.group != first) < 0.002
    assert abs(predicted.group - first).max() <= 1
    assert predicted.first_group == first[predicted.good].min()
    x, y = predicted.brightest
    assert first[y, x] == predicted.first_group
    assert f"{predicted.count:,} pixels within 12 groups" in repr(predicted)
    assert predicted.companion_group == first[predicted.companion[::-1]]


def test_noisy_miri_ramps_saturate_in_the_predicted_group():
    scene = replace(SCENES["MIRI"], star=6e8)
    simulation = simulate("MIRI", "MASK1550", "FASTR1", 60, 2, scene=scene, shape=(60, 60))
    predicted, first = simulation.saturation, simulation.truth.saturated_from
    unhit = np.ones(first.shape, bool)
    hits = simulation.truth.cosmic_rays
    unhit[hits["integration"], hits["y"], hits["x"]] = False
    off = abs(first - predicted.group)[unhit & predicted.good]
    assert 100 < predicted.count < predicted.good.sum()
    # photon noise at the full well is 0.2 % of it, less than one of 60 groups
    assert off.max() <= 1 and np.mean(off) < 0.15


def test_seconds_are_those_of_the_full_well():
    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", 3, 1, scene=20_000.0, shape=(8, 8), effects=QUIET)
    expected = simulation.pixels.full_well * simulation.pixels.gain / 20_000
    np.testing.assert_allclose(simulation.saturation.seconds, expected, rtol=1e-5)
    assert simulation.saturation.first_seconds == pytest.approx(expected.min(), rel=1e-5)
    assert simulation.saturation.companion is None and simulation.saturation.companion_seconds is None
    never = simulate(
        "NIRCAM", "SUB320A335R", "RAPID", 3, 1, scene=90_000.0, shape=(8, 8), effects=replace(QUIET, saturation=False)
    )
    assert never.saturation.count == 0 == np.count_nonzero(never.truth.saturated_from < 3)


CASES = {
    "NIRCam": (("NIRCAM", "SUB320A335R", "SHALLOW4", 6, 60), Scene(star=3e6, companion_offset=(9.0, 6.0))),
    "MIRI": (
        ("MIRI", "MASK1550", "FASTR1", 20, 60),
        replace(SCENES["MIRI"], companion_offset=(12.0, 8.0), companion_contrast=1e-3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_measured_scatter_is_the_predicted_noise(case, tmp_path):
    arguments, scene = CASES[case]
    simulation = simulate(*arguments, scene=scene, shape=(40, 48), effects=NOISE, seed=5)
    nints = arguments[4]
    path, cache = simulation.write(tmp_path), write_references(simulation, tmp_path / "crds")
    with cache.activate():
        _run, models, _paths = gpucoron.reduce_file(
            path, tmp_path, backend="cpu", save_results=False, steps={"jump": {"skip": True}}
        )
    rates, noise = models["rateints"].data[1:], simulation.noise
    scatter = rates.std(axis=0, ddof=1)
    predicted = noise.total * np.sqrt(nints)
    ratio = (scatter / predicted)[noise.good & np.isfinite(scatter)]
    # each scatter has an error of 9 %, their median of 0.3 %; the formula of VAR is good to a few per cent
    assert np.median(ratio) == pytest.approx(1, abs=0.05)
    assert np.mean(abs(ratio - 1) < 0.35) > 0.99
    assert noise.background.total == pytest.approx(np.hypot(noise.background.read, noise.background.photon))
    assert noise.companion.photon > noise.background.photon

    aperture = np.nansum(np.where(noise.aperture, rates, 0), axis=(1, 2))
    # 59 sums: the scatter is known to 9 %
    assert aperture.std(ddof=1) == pytest.approx(noise.signal_noise * np.sqrt(nints), rel=0.3)
    star_alone = replace(simulation.scene, companion_contrast=0.0).render((40, 48), simulation.fwhm)
    rest = np.sum((star_alone * simulation.pixels.response / simulation.pixels.gain)[noise.aperture])
    measured = aperture.mean() - rest
    assert measured == pytest.approx(noise.signal, abs=5 * noise.signal_noise)
    assert noise.signal_to_noise == pytest.approx(noise.signal / noise.signal_noise)
    assert f"S/N {noise.signal_to_noise:.3g}" in repr(noise)


def test_more_integrations_have_less_noise():
    few, many = (simulate("MIRI", "MASK1550", "FASTR1", 12, nints, shape=(24, 24), effects=NOISE) for nints in (2, 8))
    assert few.noise.signal_to_noise is None  # the companion is outside of this small array
    ratio = few.noise.background.total / many.noise.background.total
    # more than 2, because the first integration of MIRI, with more groups, has a larger share in the shorter exposure
    assert 1.7 < ratio <= 2.05
