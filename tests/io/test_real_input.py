"""A real exposure: the FGS acquisition from the installed jwst, labelled as an image."""

import warnings
from pathlib import Path

import jwst
import numpy as np
import pytest
from astropy.io import fits

from gpucoron import dq
from gpucoron.cli import main
from gpucoron.simulate.crds import MATCH_KEYS, CrdsCache, next_name, write_mappings
from tests.cases.pipelines import SLOPE_ARRAYS, assert_same_flags, assert_same_values, run_jwst, run_ours

ON_ORBIT = Path(jwst.__file__).parent / "lib/tests/data/add_wcs_default_acq1.fits"
SHAPE = (128, 128)


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    """Label a copy as FGS_IMAGE, and make references for it."""
    from stdatamodels.jwst import datamodels

    folder = tmp_path_factory.mktemp("fgs")
    path = folder / "jw01019001001_gs-acq1_2022117003102_uncal.fits"
    with fits.open(ON_ORBIT) as hdus:
        hdus[0].header["EXP_TYPE"] = "FGS_IMAGE"
        header = hdus[0].header
        # pixels without light: their level is the bias
        bias = float(np.percentile(hdus["SCI"].data[:, 0], 20))
        hdus.writeto(path)

    crds = folder / "crds"
    manifest = {"serial": 9001, "references": {"FGS": {}}, "files": {}}

    def write(reftype, model):
        about = model.meta
        about.telescope, about.instrument.name, about.instrument.detector = "JWST", "FGS", "GUIDER2"
        about.author = about.description = "gpucoron"
        about.pedigree, about.useafter = "DUMMY", "2021-01-01T00:00:00"
        about.subarray.name = header["SUBARRAY"]
        about.subarray.xstart, about.subarray.ystart = header["SUBSTRT1"], header["SUBSTRT2"]
        about.subarray.ysize, about.subarray.xsize = SHAPE
        about.subarray.fastaxis, about.subarray.slowaxis = header["FASTAXIS"], header["SLOWAXIS"]
        name = next_name(crds, manifest, "FGS", reftype, "fits")
        model.save(name)
        manifest["references"]["FGS"][reftype] = [{"match": [], "file": name.name}]

    rng = np.random.default_rng(5)
    flags = np.zeros(SHAPE, np.uint32)
    flags[3, 5] = dq.DO_NOT_USE | dq.HOT
    known = [(0, dq.DO_NOT_USE, b"DO_NOT_USE", b""), (11, dq.HOT, b"HOT", b""), (14, dq.RC, b"RC", b"")]
    definition = np.array(known, [("BIT", "<i4"), ("VALUE", "<u4"), ("NAME", "S40"), ("DESCRIPTION", "S80")])
    write("mask", datamodels.MaskModel(dq_def=definition, dq=flags))
    write("gain", datamodels.GainModel(rng.normal(1.8, 0.05, SHAPE).astype(np.float32)))
    write("readnoise", datamodels.ReadnoiseModel(rng.normal(14, 1, SHAPE).astype(np.float32)))
    none = np.zeros(SHAPE, np.uint32)
    pattern = rng.normal(bias, 3, SHAPE).astype(np.float32)
    write("superbias", datamodels.SuperBiasModel(data=pattern, err=pattern * 0, dq=none))
    write("saturation", datamodels.SaturationModel(data=np.full(SHAPE, 60000, np.float32), dq=none))
    coeffs = np.zeros((4, *SHAPE), np.float32)
    coeffs[1] = 1
    coeffs[2] = rng.normal(4e-7, 2e-8, SHAPE)
    write("linearity", datamodels.LinearityModel(coeffs=coeffs, dq=none))
    dark = datamodels.DarkModel(data=np.cumsum(rng.normal(0.05, 0.02, (4, *SHAPE)), axis=0).astype(np.float32), dq=none)
    dark.meta.exposure.nframes, dark.meta.exposure.groupgap, dark.meta.exposure.ngroups = 1, 0, 4
    write("dark", dark)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpucoron.simulate.crds.MATCH_KEYS", {**MATCH_KEYS, "FGS": {}})
        context = write_mappings(crds, manifest)
    return path, CrdsCache(crds.resolve(), context)


@pytest.mark.parity
def test_a_real_exposure_gives_jwsts_answer(exposure):
    path, cache = exposure
    with cache.activate(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = run_jwst(path), run_ours(path)
    for name, arrays in theirs.ramps.items():
        for key in ("groupdq", "pixeldq"):
            assert_same_flags(ours.ramps[name][key], arrays[key], f"{name} {key}")
        assert_same_values(ours.ramps[name]["data"], arrays["data"], 2e-6, name)
    for product in ("rate", "rateints"):
        for key in SLOPE_ARRAYS:
            one, other = getattr(ours, product)[key], getattr(theirs, product)[key]
            assert_same_values(one, other, 2e-6, f"{product} {key}") if key != "dq" else assert_same_flags(
                one, other, key
            )
    assert (ours.rate["dq"] & dq.SATURATED).any() or (ours.ramps["saturation"]["groupdq"] & dq.SATURATED).any()


def test_the_star_stays_where_it_is(exposure, tmp_path, capsys):
    path, cache = exposure
    with cache.activate():
        assert main(["run", str(path), "-o", str(tmp_path), "--backend", "cpu"]) == 0
    with fits.open(next(tmp_path.glob("*_rateints.fits"))) as hdus:
        cube, flags = hdus["SCI"].data, hdus["DQ"].data
    assert cube.shape == (6, *SHAPE)
    rate = np.nanmedian(cube, axis=0)
    y0, x0 = np.unravel_index(np.nanargmax(rate), SHAPE)
    box = np.s_[y0 - 4 : y0 + 5, x0 - 4 : x0 + 5]
    y, x = np.mgrid[box]
    places = []
    for image, flag in zip(cube, flags, strict=True):
        weight = np.where((flag[box] & dq.DO_NOT_USE) == 0, np.nan_to_num(image[box]) - np.nanmedian(image), 0).clip(0)
        places.append(((x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()))
    spread = np.ptp(places, axis=0)
    assert (spread < 0.5).all()
