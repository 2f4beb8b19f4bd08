"""What an observer chooses in a simulation: dither, companion, magnitude, filter and exposure time."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from gpucoron.simulate import SCENES, Effects, Scene, simulate

SHAPE = (40, 48)
TARGET = SkyCoord(65.0, -25.0, unit="deg")
QUIET = Effects(
    poisson=False, dark=False, read_noise=False, one_over_f=0, ktc=False, nonlinearity=False, ipc=False,
    cosmic_rays=0, bad_pixels=False, reset=False, rscd=False, last_frame=False,
)  # fmt: skip


def nircam(ngroups=2, nints=1, **kwargs):
    return simulate("NIRCAM", "SUB320A335R", "RAPID", ngroups, nints, **{"shape": SHAPE, "effects": QUIET, **kwargs})


def miri(ngroups=2, nints=1, **kwargs):
    return simulate("MIRI", "MASK1550", "FASTR1", ngroups, nints, **{"shape": SHAPE, "effects": QUIET, **kwargs})


def test_write_makes_its_folder(tmp_path):
    path = nircam().write(tmp_path / "new" / "raw")
    assert path.exists() and path.parent == tmp_path / "new" / "raw"


@pytest.mark.parametrize("make", [nircam, miri])
def test_a_dither_moves_the_star(make, tmp_path):
    """The light moves by the offset in pixels; the WCS still gives the target the same coordinates."""
    scene = Scene(speckle=0.0, companion_offset=(6.0, 4.0), companion_contrast=1e-3)
    still = make(scene=scene)
    xscale, yscale = (0.0620165, 0.0628319) if make is nircam else (0.1100977, 0.1109661)
    # two whole pixels to the right and one down
    moved = make(scene=scene, dither=(2, 5), offset=(2 * xscale, -yscale), roll=20.0, observation=2)
    aligned = make(scene=scene, roll=20.0)
    np.testing.assert_allclose(moved.truth.sky[2:-3, 4:-4], aligned.truth.sky[3:-2, 2:-6], rtol=1e-4)
    assert np.subtract(moved.truth.star, still.truth.star) == pytest.approx([2, -1])

    path = moved.write(tmp_path)
    primary, header = fits.getheader(path), fits.getheader(path, "SCI")
    assert (primary["PATT_NUM"], primary["NUMDTHPT"]) == (2, 5)
    assert (primary["XOFFSET"], primary["YOFFSET"]) == pytest.approx((2 * xscale, -yscale))
    assert (header["CRPIX1"], header["CRPIX2"]) == (24.5, 20.5)
    star = WCS(header, naxis=2).pixel_to_world(*moved.truth.star)
    assert star.separation(TARGET).arcsec < 1e-4


def test_speckles_move_with_the_star():
    scene = Scene(companion_contrast=0.0)
    still, moved = (nircam(scene=scene, offset=(pixels * 0.0620165, 0.0)).truth.sky for pixels in (0, 1))
    # the spline that moves the speckles is exact for whole pixels, but rings near the edges
    np.testing.assert_allclose(moved[8:-8, 9:-8], still[8:-8, 8:-9], rtol=1e-3)


@pytest.mark.parametrize("make", [nircam, miri])
@pytest.mark.parametrize("roll", [0.0, 77.0])
def test_the_companion_is_at_its_separation_and_angle(make, roll, tmp_path):
    simulation = make(companion=(0.9, 130.0), roll=roll, offset=(0.02, 0.01))
    header = fits.getheader(simulation.write(tmp_path), "SCI")
    place = WCS(header, naxis=2).pixel_to_world(*simulation.truth.companion)
    assert TARGET.separation(place).arcsec == pytest.approx(0.9, abs=1e-4)
    assert TARGET.position_angle(place).deg == pytest.approx(130.0, abs=0.01)
    y, x = np.indices(SHAPE)
    light = simulation.scene.render_companion(SHAPE, simulation.fwhm)
    found = np.sum(light * x) / np.sum(light), np.sum(light * y) / np.sum(light)
    # parts of the light of the wings are outside of the array
    assert found == pytest.approx(simulation.truth.companion, abs=0.1)


def test_five_magnitudes_are_a_factor_of_a_hundred():
    scene = replace(SCENES["NIRCAM"], background=0.0)
    bright, faint = (nircam(scene=scene, magnitude=value) for value in (4.0, 9.0))
    np.testing.assert_allclose(bright.truth.rate, 100 * faint.truth.rate, rtol=1e-5)
    assert bright.truth.companion_rate == pytest.approx(100 * faint.truth.companion_rate)


@pytest.mark.parametrize(
    ("make", "vega", "width", "throughput", "stop"),
    [(nircam, 184.0, 1.02 / 4.42, 0.5, 0.19), (miri, 17.2, 0.9 / 15.5, 0.3, 0.62)],
)
def test_the_zero_point_is_that_of_a_rectangular_bandpass(make, vega, width, throughput, stop):
    """Photons of Vega (Jy) in a band of relative width on 25.4 m2, with the mean throughput and the open part."""
    photons = vega * 1e-26 / 6.626e-34 * width * 25.4
    found = make(scene=Scene(companion_contrast=1.0), magnitude=0.0).truth.companion_rate
    # the mean throughput and the effective width are known to 10 to 20 %
    assert found == pytest.approx(photons * throughput * stop, rel=0.25)


def test_a_filter_changes_the_width_and_the_zero_point(tmp_path):
    scene = Scene(halo=0.0, background=0.0, companion_offset=(4.0, 3.0))
    usual, blue = (nircam(scene=scene, magnitude=5.0, filter=name) for name in (None, "f335m"))
    assert fits.getheader(blue.write(tmp_path))["FILTER"] == "F335M"
    assert blue.fwhm / usual.fwhm == pytest.approx(3.355 / 4.359)
    assert usual.truth.sky.max() / usual.truth.sky.sum() < blue.truth.sky.max() / blue.truth.sky.sum()
    assert blue.truth.companion_rate / usual.truth.companion_rate == pytest.approx(1.02e9 / 1.67e9)


@pytest.mark.parametrize(
    ("arguments", "wanted", "expected"),
    [
        (("NIRCAM", "SUB320A335R", "DEEP8", 5, None), 500.0, (5, 6)),  # an integration takes 94.1 s
        (("NIRCAM", "SUB320A335R", "DEEP8", None, 2), 500.0, (13, 2)),
        (("MIRI", "MASK1550", "FASTR1", None, 3), 60.0, (84, 3)),
        (("NIRCAM", "SUB320A335R", "RAPID", 4, None), 1.0, (4, 1)),
    ],
)
def test_the_exposure_time_is_reached(arguments, wanted, expected, tmp_path):
    simulation = simulate(*arguments, exposure_time=wanted, shape=(8, 8), effects=QUIET)
    assert (simulation.data.shape[1], simulation.data.shape[0]) == expected
    header = fits.getheader(simulation.write(tmp_path))
    assert header["EFFEXPTM"] >= wanted
    # the last group or integration is needed
    group, gap = header["TGROUP"], header["TFRAME"] * header["GROUPGAP"]
    ngroups, nints = expected
    shorter = (group * (ngroups - 1) - gap) * nints if arguments[3] is None else (group * ngroups - gap) * (nints - 1)
    assert shorter < wanted
    again = simulate(*arguments, exposure_time=header["EFFEXPTM"], shape=(8, 8), effects=QUIET)
    assert again.data.shape == simulation.data.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exposure_time": 10.0}, "exposure_time: give ngroups or nints"),
        ({"exposure_time": -1.0, "nints": None}, "exposure_time: expected seconds"),
        ({"exposure_time": 10.0, "nints": None, "total_nints": 3}, "exposure_time: .* whole exposure"),
        ({"nints": None}, "ngroups, nints: give both"),
        ({"filter": "F200W"}, "filter: NRCALONG .* F444W"),
        ({"filter": "F356W", "role": "TA"}, "filter: a target acquisition"),
        ({"magnitude": 5.0, "role": "TA"}, "magnitude: a target acquisition"),
        ({"magnitude": 5.0, "role": "BG"}, "magnitude: a background"),
        ({"magnitude": 5.0, "scene": 3.0}, "magnitude: the scene is an array"),
        ({"companion": (1.0, 0.0), "scene": 3.0}, "companion: the scene is an array"),
        ({"dither": (6, 5)}, "dither: position 6 of 5"),
        ({"dither": (0, 5)}, "dither: position 0 of 5"),
        ({"roll": float("nan")}, "roll: expected a number from -360"),
    ],
)
def test_contradictions_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        nircam(**arguments)


def test_unknown_instruments_and_subarrays_are_named():
    with pytest.raises(ValueError, match="instrument: no 'NIRISS'; known: MIRI, NIRCAM"):
        simulate("NIRISS", "FULL", "RAPID", 2, 1)
    with pytest.raises(ValueError, match="subarray: no 'SUB64' of MIRI .*MASK1550"):
        simulate("MIRI", "SUB64", "FASTR1", 2, 1)
