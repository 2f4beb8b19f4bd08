"""What an exposure is of: as spaceKLIP's tables have it, from headers, products and runs alike."""

import pytest
from astropy.io import fits

from gpucoron.batch import reduce
from gpucoron.io.observations import read_observation
from gpucoron.records.headers import read_observed, read_product
from gpucoron.records.manifest import read_manifests
from gpucoron.records.observed import describe_observation, find_star, references_of_header

HEADER = {
    "DATE-BEG": "2022-07-25T01:02:03.000", "PROGRAM": "01386", "OBSERVTN": "002", "IS_PSF": False, "BKGDTARG": False,
    "EXP_TYPE": "NRC_CORON", "TARGPROP": "HIP-65426", "PATT_NUM": 2, "NUMDTHPT": 9, "EFFEXPTM": 213.8,
    "SUBSTRT1": 492, "SUBSTRT2": 1502,
}  # fmt: skip


@pytest.mark.parametrize(("changes", "role"), [
    ({}, "science"), ({"IS_PSF": True}, "reference"), ({"BKGDTARG": True}, "background"),
    ({"TARGPROP": "hip-bg"}, "background"), ({"EXP_TYPE": "NRC_TACQ"}, "acquisition"), ({"IS_PSF": None}, ""),
])  # fmt: skip
def test_roles(changes, role):
    assert describe_observation(HEADER | changes, {})["role"] == role


def test_an_exposure_of_a_dither():
    found = describe_observation(HEADER, {"ROLL_REF": 100.0, "V3I_YANG": 4.5, "VPARITY": -1})
    assert found == {
        "start": "2022-07-25T01:02:03.000", "program": "01386", "observation": "002", "roll": 104.5, "role": "science",
        "dither": "2 of 9", "exptime": 213.8, "corner": [492, 1502],
    }  # fmt: skip


def test_without_keywords():
    found = describe_observation({}, {"ROLL_REF": "east"})
    assert found == dict.fromkeys(("start", "program", "observation", "role", "dither"), "") | dict.fromkeys(
        ("roll", "exptime", "corner")
    )
    assert (
        describe_observation({"DATE-OBS": "2022-07-25", "TIME-OBS": "01:02:03"}, {})["start"] == "2022-07-25T01:02:03"
    )
    assert describe_observation({"NUMDTHPT": 1, "PATT_NUM": 1}, {})["dither"] == ""


@pytest.mark.parametrize(("keywords", "expected"), [
    ({"CRPIX1": 30.0, "CRPIX2": 20.0}, (29.0, 19.0)),
    ({"CRPIX1": 30.0, "CRPIX2": 20.0, "MASKCENX": 31.5, "MASKCENY": 21.0}, (30.5, 20.0)),
    ({"MASKCENX": 31.5, "MASKCENY": 21.0, "STARCENX": 33.0, "STARCENY": 22.0}, (32.0, 21.0)),
    ({"CRPIX1": 0.0, "CRPIX2": 0.0}, (39.5, 24.5)),
    ({"CRPIX1": 30.0, "CRPIX2": 1000.0}, (39.5, 24.5)),
    ({"STARCENX": float("nan"), "STARCENY": 2.0, "CRPIX1": 30.0, "CRPIX2": 20.0}, (29.0, 19.0)),
    ({}, (39.5, 24.5)),
])  # fmt: skip
def test_the_star(keywords, expected):
    assert find_star(keywords, (50, 80)) == expected


def test_references_of_a_header():
    header = fits.Header()
    header["R_GAIN"] = ("crds://jwst_nircam_gain_0097.fits", "Gain reference file name")
    header["R_READNO"] = ("/my/own/readnoise.fits", "Read noise reference file name")
    header["R_DARK"] = ("N/A", "Dark reference file name")
    header["R_MASK"] = "crds://jwst_nircam_mask_0076.fits"
    assert references_of_header(header) == {
        "gain": "jwst_nircam_gain_0097.fits", "readnoise": "readnoise.fits", "mask": "jwst_nircam_mask_0076.fits",
    }  # fmt: skip


def test_a_record_has_what_the_product_says(exposures, tmp_path):
    case = exposures(
        "NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(48, 64), role="REF", roll=12.5, dither=(3, 9), observation=7
    )
    with case.cache.activate():
        list(reduce([case.path], tmp_path, backend="cpu", workers=1))
    (record,) = read_manifests(tmp_path)[0].values()
    product = tmp_path / record["outputs"]["rate"]
    assert record["input_path"] == str(case.path)
    found = read_observed(product)
    assert record["observed"] == found["observed"] == read_product(product)["observed"]
    assert record["references"] == found["references"]
    assert "jwst_nircam_gain_9001.fits" in record["references"].values()
    ours, theirs = record["observed"], read_observation(product)
    assert (ours["program"], ours["observation"]) == theirs.visit
    assert ours["roll"] == pytest.approx(theirs.row["ROLL_REF"])
    assert (ours["role"], theirs.is_psf, ours["dither"]) == ("reference", True, "3 of 9")
    assert find_star(fits.getheader(product, "SCI"), (48, 64)) == (
        theirs.row["STARCENX"] - 1, theirs.row["STARCENY"] - 1,
    )  # fmt: skip
