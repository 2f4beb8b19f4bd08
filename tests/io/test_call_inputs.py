"""Types of input that a reduction accepts; and ramps whose arrays disagree with their keywords."""

import json
import logging

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron import batch
from gpucoron.errors import ArgumentError, InputError
from tests.cases.pipelines import SLOPE_ARRAYS


@pytest.fixture(scope="module")
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 6, 2, shape=(32, 40))


def association(case, tmp_path):
    """Write an association of one raw exposure."""
    path = tmp_path / "mine_asn.json"
    members = [{"expname": str(case.path), "exptype": "science"}]
    about = {"asn_type": "None", "asn_rule": "DMS", "asn_pool": "none", "asn_id": "a3001", "program": "1386"}
    path.write_text(json.dumps({**about, "products": [{"name": "mine", "members": members}]}))
    return path


def library(case, tmp_path):
    from jwst.datamodels import ModelLibrary

    return ModelLibrary(association(case, tmp_path))


def container(case, tmp_path):
    from jwst.datamodels import ModelContainer
    from stdatamodels.jwst import datamodels

    return ModelContainer([datamodels.RampModel(str(case.path))])


#: input -> part of the error message
STRANGE = {
    "a list of one": (lambda case, tmp_path: [str(case.path)], "of the type list.*call it once for each exposure"),
    "a list of two": (lambda case, tmp_path: [case.path, case.path], "of the type list.*call it once"),
    "a tuple": (lambda case, tmp_path: (str(case.path),), "of the type tuple"),
    "an open FITS file": (lambda case, tmp_path: fits.open(case.path), "of the type HDUList"),
    "an association": (association, "mine_asn.json: an association; stage 1 processes one exposure at a time"),
    "a library": (library, "of the type ModelLibrary.*call it once"),
    "a container": (container, "of the type ModelContainer.*call it once"),
    "bytes": (lambda case, tmp_path: str(case.path).encode(), "of the type bytes"),
    "an array": (lambda case, tmp_path: np.zeros((2, 5, 8, 8)), "of the type ndarray"),
    "nothing": (lambda case, tmp_path: None, "is missing"),
    "an empty string": (lambda case, tmp_path: "", "an empty string"),
    "a folder": (lambda case, tmp_path: tmp_path, "a folder; give its files"),
    "no such file": (lambda case, tmp_path: "no_uncal.fits", "no such file"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_other_inputs_are_refused_with_the_accepted_ones(what, case, tmp_path):
    """jwst accepts none of these either: it raises TypeError, ValueError or AttributeError."""
    make, words = STRANGE[what]
    given = make(case, tmp_path)
    if "type" in words:
        words += r".*expected the path of one \*_uncal.fits" if "call it" not in words else ""
    reduces = [
        lambda: gpucoron.Coron1Pipeline.call(given),
        lambda: gpucoron.Coron1Pipeline().run(given),
        lambda: gpucoron.reduce_file(given, tmp_path / "out"),
    ]
    if given is not None:
        reduces.append(lambda: gpucoron.run_single_file(given, tmp_path / "out"))
    with case.cache.activate():
        for reduce in reduces:
            with pytest.raises(InputError, match=words):
                reduce()


@pytest.mark.parametrize("given", [None, 3, [b"x_uncal.fits"], [["x_uncal.fits"]]])
def test_other_inputs_of_a_batch_are_refused(given, tmp_path):
    with pytest.raises(InputError, match="expected one or several files, folders, patterns or @list"):
        list(batch.reduce(given, tmp_path))


def test_a_call_without_input(case):
    with case.cache.activate(), pytest.raises(InputError, match=r"missing; expected the path.*or one open RampModel"):
        gpucoron.Coron1Pipeline.call()


def test_an_output_folder_that_is_no_path_is_named(case):
    with case.cache.activate(), pytest.raises(ArgumentError, match="output_dir: expected the path of a folder, got 5"):
        gpucoron.run_single_file(case.path, 5)


def edited(path, tmp_path, edit):
    """Copy an exposure, and change its extensions."""
    copy = tmp_path / "x_uncal.fits"
    with fits.open(path) as hdus:
        edit(hdus)
        hdus.writeto(copy)
    return copy


def cut(groups=0, ints=0, **keywords):
    """Make an edit that removes groups and integrations at the end, and sets keywords."""

    def edit(hdus):
        nints, ngroups = hdus["SCI"].data.shape[:2]
        hdus["SCI"].data = hdus["SCI"].data[: nints - ints, : ngroups - groups]
        if "ZEROFRAME" in hdus:
            hdus["ZEROFRAME"].data = hdus["ZEROFRAME"].data[: nints - ints]
        hdus[0].header.update(keywords)

    return edit


@pytest.mark.parity
@pytest.mark.parametrize(
    ("edit", "warning"),
    [
        (cut(groups=2), "NGROUPS is 6, but SCI holds 4 groups"),
        (cut(ints=1), "the keywords specify 2 integrations, but SCI holds 1"),
        (cut(NINTS=1), "the keywords specify 1 integrations, but SCI holds 2"),
    ],
    ids=["fewer groups", "fewer integrations", "more integrations"],
)
def test_arrays_that_disagree_with_the_keywords(edit, warning, case, tmp_path, caplog):
    """jwst uses the arrays as they are, and so does gpucoron, with a warning."""
    from jwst.pipeline import Detector1Pipeline

    path = edited(case.path, tmp_path, edit)
    with case.cache.activate():
        theirs = Detector1Pipeline.call(str(path), save_results=True, output_dir=str(tmp_path / "theirs"))
        caplog.clear()
        _run, models, _paths = gpucoron.reduce_file(path, tmp_path / "ours", backend="cpu")
    assert caplog.text.count(warning) == 1
    for key in SLOPE_ARRAYS:
        np.testing.assert_allclose(getattr(models["rate"], key), getattr(theirs, key), rtol=2e-6, err_msg=key)
    np.testing.assert_array_equal(models["rate"].dq, theirs.dq)
    for product in ("x_rate.fits", "x_rateints.fits"):
        ours, theirs = (fits.getheader(tmp_path / way / product) for way in ("ours", "theirs"))
        assert [ours[key] for key in ("NGROUPS", "NINTS")] == [theirs[key] for key in ("NGROUPS", "NINTS")]


def test_a_miri_ramp_that_was_cut(exposures, tmp_path, caplog):
    """jwst's reset step fails, because it uses the keyword; gpucoron uses the number of groups in the data."""
    case = exposures("MIRI", "MASK1550", "FASTR1", 8, 2, shape=(32, 40))
    path = edited(case.path, tmp_path, cut(groups=1, ints=1))
    with case.cache.activate(), caplog.at_level(logging.WARNING, "gpucoron"):
        _run, models, _paths = gpucoron.reduce_file(path, tmp_path / "ours", backend="cpu")
        _run, whole, _paths = gpucoron.reduce_file(case.path, tmp_path / "whole", backend="cpu")
    assert caplog.text.count("SCI is used") == 2
    assert models["rateints"].data.shape == (1, 32, 40)
    good = (models["rate"].dq == 0) & (whole["rateints"].dq[0] == 0)
    assert good.mean() > 0.5
    difference = (models["rate"].data - whole["rateints"].data[0])[good] / models["rate"].err[good]
    assert np.median(np.abs(difference)) < 1  # one group less


def _cut_without_zeroframe(hdus):
    hdus["SCI"].data = hdus["SCI"].data[:1]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (cut(NGROUPS=5), "NGROUPS is 5, but SCI holds 6 groups; correct the keyword, or cut SCI"),
        (
            lambda hdus: hdus.__setitem__("SCI", fits.ImageHDU(hdus["SCI"].data[:1], hdus["SCI"].header)),
            "ZEROFRAME has",
        ),
    ],
    ids=["more groups", "ZEROFRAME"],
)
def test_contradictory_arrays_are_refused(edit, words, case, tmp_path):
    path = edited(case.path, tmp_path, edit)
    with case.cache.activate(), pytest.raises(InputError, match=words):
        gpucoron.reduce_file(path, tmp_path / "out", backend="cpu")


def test_flags_of_another_shape_begin_afresh(case):
    """New flags are made, as for a file."""
    from stdatamodels.jwst import datamodels

    from gpucoron.io.exposure import Exposure

    with datamodels.RampModel(str(case.path)) as model:
        model.groupdq = np.ones((2, 3, 32, 40), np.uint8)
        exposure = Exposure.from_model(model)
    assert exposure.groupdq.shape == (2, 6, 32, 40)
    assert not exposure.groupdq.any()
