"""The stages after stage 1 accept gpucoron's products like jwst's: jwst's stages 2 and 3, and pyKLIP.

spaceKLIP is in no package index: tests/tools/run_with_spaceklip.py runs it.
"""

import gc
import json
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

from tests.cases.planets import ROLLS, measure, observe, subtract

#: a part of each subarray with the star at its centre: the results of KLIP do not depend on the size
SHAPES = {"NIRCAM": (96, 96), "MIRI": (96, 108)}
ARRAYS = ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("instrument", list(SHAPES))
def test_later_stages(instrument, tmp_path, without_network):
    """One test per instrument: each worker of pytest-xdist would have to make the products, which takes long."""
    reduced = reduce_both_ways(instrument, tmp_path)
    check_that_stage_2_gives_the_same(reduced)
    check_that_stage_3_gives_the_same(reduced)
    check_the_sky(reduced)
    check_keywords(reduced)
    check_what_jwst_data_reads(reduced)
    for mode in ("ADI+RDI", "RDI"):
        check_that_pyklip_finds_the_planet(reduced, mode, tmp_path / "klip")


def reduce_both_ways(instrument, folder):
    """Reduce two rolls and a reference with stages 1 to 3: with stage 1 of gpucoron (jwst's defaults) and of jwst."""
    from jwst.pipeline import Detector1Pipeline, Image2Pipeline

    from gpucoron.engine import reduce_file

    observation = observe(instrument, folder, shape=SHAPES[instrument], roles=("SCI", "REF"))
    raw = [path for paths in observation.paths.values() for path in paths]
    sides = {}
    # every step of jwst runs the garbage collector: half of the time of a small case, unless old objects are frozen
    gc.freeze()
    try:
        with observation.cache.activate():
            for side in ("ours", "jwst"):
                output = folder / side
                output.mkdir()
                for path in raw:
                    if side == "ours":
                        reduce_file(path, output, profile="jwst")
                    else:
                        Detector1Pipeline.call(str(path), save_results=True, output_dir=str(output))
                rateints = [output / path.name.replace("_uncal", "_rateints") for path in raw]
                for path in rateints:
                    Image2Pipeline.call(str(path), save_results=True, output_dir=str(output))
                calints = [output / path.name.replace("_uncal", "_calints") for path in raw]
                psfsub, i2d = _run_coron3(output, calints[:-1], calints[-1:])
                sides[side] = SimpleNamespace(rateints=rateints, calints=calints, psfsub=psfsub, i2d=i2d)
    finally:
        gc.unfreeze()
    return SimpleNamespace(observation=observation, **sides)


def _run_coron3(folder, science, references):
    """Run jwst's stage 3; return the subtracted exposures and the combined image."""
    from jwst.pipeline import Coron3Pipeline

    members = [{"expname": str(path), "exptype": "science"} for path in science]
    members += [{"expname": str(path), "exptype": "psf"} for path in references]
    association = {
        "asn_type": "coron3", "asn_id": "a3001", "asn_rule": "Asn_Lv3Coron", "asn_pool": "none", "program": "01386",
        "products": [{"name": "combined", "members": members}],
    }  # fmt: skip
    path = folder / "coron3_asn.json"
    path.write_text(json.dumps(association))
    # klip.truncate: at most as many modes as the reference has integrations
    Coron3Pipeline.call(str(path), steps={"klip": {"truncate": 3}}, save_results=True, output_dir=str(folder))
    return sorted(folder.glob("*_psfsub.fits")), folder / "combined_i2d.fits"


def _compare(one, other, rtol, floor):
    """Compare two products: flags and NaN equal, values to `rtol` of themselves or `floor` of their rms."""
    with fits.open(one) as ours, fits.open(other) as theirs:
        assert [hdu.name for hdu in ours if hdu.name != "ASDF"] == [hdu.name for hdu in theirs if hdu.name != "ASDF"]
        for hdu in ours:
            if hdu.name == "DQ":
                np.testing.assert_array_equal(hdu.data, theirs["DQ"].data)
            elif hdu.name in ARRAYS:
                values = theirs[hdu.name].data
                size = np.sqrt(np.nanmean(np.square(values, dtype=np.float64)))
                np.testing.assert_allclose(hdu.data, values, rtol=rtol, atol=floor * size, err_msg=hdu.name)


def check_that_stage_2_gives_the_same(reduced):
    # These keywords differ: gpucoron names itself.
    assert ["HISTORY" in fits.getheader(side.rateints[0]) for side in (reduced.ours, reduced.jwst)] == [True, False]
    assert len(reduced.ours.calints) == 3
    for ours, theirs in zip(reduced.ours.calints, reduced.jwst.calints, strict=True):
        # Stage 1 agrees to float32 rounding, which stage 2 multiplies.
        _compare(ours, theirs, rtol=2e-5, floor=2e-6)
        header = fits.getheader(ours)
        assert {header[f"S_{step}"] for step in ("WCS", "FLAT", "PHOTOM")} == {"COMPLETE"}
        assert fits.getval(ours, "BUNIT", "SCI") == "MJy/sr"


def check_that_stage_3_gives_the_same(reduced):
    assert len(reduced.ours.psfsub) == len(ROLLS)
    for ours, theirs in zip(reduced.ours.psfsub, reduced.jwst.psfsub, strict=True):
        # KLIP subtracts nearly equal images: the difference keeps their rounding, for which the floor allows.
        _compare(ours, theirs, rtol=1e-4, floor=1e-4)
    _compare(reduced.ours.i2d, reduced.jwst.i2d, rtol=1e-4, floor=1e-4)


def check_the_sky(reduced):
    """Check that stage 2's WCS has the star and the planet at their simulated positions."""
    from stdatamodels.jwst import datamodels

    observation = reduced.observation
    with datamodels.open(reduced.ours.calints[0]) as model:
        (x0, y0), (x, y) = observation.first.truth.star, observation.first.truth.companion
        star, planet = model.meta.wcs(x0, y0), model.meta.wcs(x, y)
        scale = np.sqrt(model.meta.photometry.pixelarea_arcsecsq) / 3600
    assert star == pytest.approx((65.0, -25.0), abs=1e-7)
    west = -(planet[0] - star[0]) * np.cos(np.radians(star[1])) / scale
    expected = observation.locate(fits.getheader(reduced.ours.rateints[0], "SCI"))
    # PC in the header is a pure rotation, as in archive files, although pixel scales differ by 1 % in x and y.
    assert (west, (planet[1] - star[1]) / scale) == pytest.approx(expected, abs=0.03)


def check_that_pyklip_finds_the_planet(reduced, mode, folder):
    """Check that the planet has its position and brightness, and that there is none opposite of the star."""
    observation, paths = reduced.observation, reduced.ours.calints
    image, center = subtract(paths[:-1], paths[-1:], folder, mode=mode)
    expected = observation.locate(fits.getheader(reduced.ours.rateints[0], "SCI"))
    found = measure(image, center, expected, observation.fwhm)
    # pyKLIP assumes square pixels; the scales differ by 1 %: 0.2 pixels at the planet.
    assert np.hypot(found.dx - expected[0], found.dy - expected[1]) < 0.3
    # KLIP subtracts part of the planet's light with the star; this is not corrected here.
    assert found.flux == pytest.approx(observation.flux, rel=0.1)
    assert found.signal_to_noise > 20
    opposite = measure(image, center, (-expected[0], -expected[1]), observation.fwhm)
    assert opposite.flux < 0.1 * observation.flux


def check_what_jwst_data_reads(reduced):
    from pyklip.instruments.JWST import JWSTData

    observation, paths = reduced.observation, reduced.ours.calints
    dataset = JWSTData([str(path) for path in paths[:-1]], [str(paths[-1])])
    with fits.open(paths[0]) as first:
        nints, scale = first["SCI"].data.shape[0], first["SCI"].header["PIXAR_A2"]
    # The position angle of the array's y axis: the roll, and the rotation of the aperture against V3.
    turned = {"NIRCAM": 0.0, "MIRI": 4.45}[observation.first.subarray.instrument]
    np.testing.assert_allclose(dataset.PAs, np.repeat(np.add(ROLLS, turned), nints))
    shape = np.array(dataset.input.shape[1:])
    np.testing.assert_allclose(dataset.centers, np.tile((shape[::-1] - 1) / 2, (2 * nints, 1)))
    assert 0.05 < np.sqrt(scale) < 0.12


def check_keywords(reduced):
    """Check docs/with_spaceklip.md: which keywords come from the raw file through stage 1, and which from stage 2."""
    raw, rateints, calints = reduced.observation.paths["SCI"][1], reduced.ours.rateints[1], reduced.ours.calints[1]
    for keyword in ("ROLL_REF", "V3I_YANG", "VPARITY", "CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2"):
        assert fits.getval(rateints, keyword, "SCI") == fits.getval(raw, keyword, "SCI")
    for keyword in ("TELESCOP", "INSTRUME", "EXP_TYPE", "FILTER", "XOFFSET", "YOFFSET"):
        assert fits.getval(rateints, keyword) == fits.getval(raw, keyword)
    assert "PIXAR_A2" not in fits.getheader(rateints, "SCI")
    assert fits.getval(calints, "PIXAR_A2", "SCI") > 0
    assert "STARCENX" not in fits.getheader(calints, "SCI")  # written by spaceKLIP's image tools
