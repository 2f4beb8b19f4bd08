"""Flags of the user: cut to the subarray like jwst's references."""

import logging

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.errors import InputError, ParameterError
from gpucoron.io.user_files import with_files_read
from gpucoron.steps import STEPS

MIRI = ("MIRI", "MASK1550", "FASTR1", 4, 1)
NIRCAM = ("NIRCAM", "SUB320A335R", "RAPID", 4, 1)
CASES = {"MIRI": (MIRI, (16, 24), (1024, 1032)), "NIRCAM": (NIRCAM, (24, 16), (2048, 2048))}
KINDS = ("full frame", "full frame with keywords", "larger subarray", "its own")


def written(folder, flags, extension=False, **keywords):
    """Write flags like a user: into the primary HDU, or into an extension."""
    path = folder / "flags.fits"
    header = fits.Header(keywords)
    hdus = (
        [fits.PrimaryHDU(header=header), fits.ImageHDU(flags)] if extension else [fits.PrimaryHDU(flags, header=header)]
    )
    fits.HDUList(hdus).writeto(path)
    return str(path)


def read(exposure, path):
    step = STEPS["dq_init"]
    return with_files_read(step, step.settings(user_supplied_dq=path), exposure).user_supplied_dq


@pytest.mark.parity
@pytest.mark.parametrize("extension", [False, True])
@pytest.mark.parametrize("instrument", CASES)
def test_a_full_frame_is_cut_as_jwst_cuts_its_mask(instrument, extension, exposures, tmp_path):
    from jwst.lib.reffile_utils import get_subarray_model, ref_matches_sci
    from stdatamodels.jwst.datamodels import MaskModel, RampModel

    case, shape, full = CASES[instrument]
    case = exposures(*case, shape=shape)
    flags = np.random.default_rng(1).integers(0, 2**20, full).astype(np.int32)
    path = written(tmp_path, flags, extension)
    with case.cache.activate():
        run, _models, _paths = gpucoron.reduce_file(
            case.path,
            tmp_path,
            backend="numpy",
            save_results=False,
            steps={"dq_init": {"user_supplied_dq": path}, "ramp_fit": {"skip": True}},
        )
        without, _models, _paths = gpucoron.reduce_file(
            case.path, tmp_path, backend="numpy", save_results=False, steps={"ramp_fit": {"skip": True}}
        )
    mask = MaskModel(dq=flags.astype(np.uint32))
    mask.meta.instrument.name = instrument
    for name, value in zip(("xstart", "ystart", "ysize", "xsize"), (1, 1, *full), strict=True):
        setattr(mask.meta.subarray, name, value)
    with RampModel(case.path) as model:
        assert not ref_matches_sci(model, mask)
        cut = get_subarray_model(model, mask).dq
    assert cut.shape == shape
    np.testing.assert_array_equal(run.exposure.pixeldq, without.exposure.pixeldq | cut)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("instrument", CASES)
def test_each_way_to_say_where_they_begin(instrument, kind, exposures, tmp_path):
    case, (ny, nx), full = CASES[instrument]
    exposure = gpucoron.Exposure.read(exposures(*case, shape=(ny, nx)).path)
    x, y = exposure.facts.xstart, exposure.facts.ystart
    shape = {"larger subarray": (ny + 9, nx + 7), "its own": (ny, nx)}.get(kind, full)
    flags = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    first = {"full frame with keywords": (1, 1), "larger subarray": (x - 3, y - 5)}.get(kind)
    keywords = {} if first is None else {"SUBSTRT1": first[0], "SUBSTRT2": first[1]}
    corner = {"larger subarray": (3, 5), "its own": (0, 0)}.get(kind, (x - 1, y - 1))
    expected = flags[corner[1] : corner[1] + ny, corner[0] : corner[0] + nx]
    found = read(exposure, written(tmp_path, flags, **keywords))
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "keywords", "message"),
    [
        ((30, 30), {}, r"\(30, 30\).*\(24, 16\).*SUBSTRT1 and SUBSTRT2 are missing"),
        ((30, 30), {"SUBSTRT1": 1, "SUBSTRT2": 1}, r"\(30, 30\) from \(1, 1\).*does not cover the \(24, 16\)"),
        ((2, 24, 16), {}, r"\(2, 24, 16\)"),
        ((1024, 1032), {}, r"full frame, 2048 x 2048"),
    ],
)
def test_flags_that_do_not_cover_the_exposure_are_refused(shape, keywords, message, exposures, tmp_path):
    case = exposures(*NIRCAM, shape=(24, 16))
    path = written(tmp_path, np.ones(shape, np.int32), **keywords)
    with case.cache.activate(), pytest.raises(InputError, match=message) as caught:
        gpucoron.reduce_file(case.path, tmp_path / "out", steps={"dq_init": {"user_supplied_dq": path}})
    assert path in str(caught.value)
    assert case.path.name in str(caught.value)


def _text(path):
    path.write_text("no FITS")


def _table(path):
    fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])]).writeto(path)


def _image(value, dtype, start=None):
    def write(path):
        shape = (24, 16) if start is None else (40, 40)
        flags = np.zeros(shape, dtype)
        flags[3, 2] = value
        header = fits.Header() if start is None else fits.Header({"SUBSTRT1": start, "SUBSTRT2": 1})
        fits.PrimaryHDU(flags, header=header).writeto(path)

    return write


#: contents of the file, and part of the error message
FAULTS = {
    "missing": (lambda path: None, "no such file.*give a FITS file with an image of DQ flags"),
    "no FITS": (_text, "cannot be read .*give a FITS file with an image of DQ flags"),
    "a table": (_table, "is not an image"),
    "NaN": (_image(np.nan, np.float32), "from 0 to 4294967295, but 1 pixels have other values, first nan;"),
    "infinite": (_image(np.inf, np.float32), "whole numbers"),
    "a half": (_image(1.5, np.float32), "whole numbers.* 1.5;"),
    "negative": (_image(-1, np.int32), "whole numbers.* -1;"),
    "too large": (_image(2**40, np.int64), "whole numbers.* 1099511627776;"),
    "text for a corner": (_image(1, np.int32, start="a"), r"SUBSTRT1, SUBSTRT2 are \('a', 1\); set them"),
    "a fraction for a corner": (_image(1, np.int32, start=1.5), r"are \(1.5, 1\)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_holds_no_flags_is_refused(name, exposures, tmp_path):
    exposure = gpucoron.Exposure.read(exposures(*NIRCAM, shape=(24, 16)).path)
    write, message = FAULTS[name]
    path = tmp_path / "flags.fits"
    write(path)
    with pytest.raises(ParameterError, match=f"{path}.*dq_init.user_supplied_dq.*{message}"):
        read(exposure, str(path))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
def test_whole_numbers_are_flags_in_any_kind_of_image(dtype, exposures, tmp_path):
    exposure = gpucoron.Exposure.read(exposures(*NIRCAM, shape=(24, 16)).path)
    flags = np.arange(24 * 16).reshape(24, 16) % 128
    flags[0, 0] = 2**31 if dtype == np.uint32 else 1
    found = read(exposure, written(tmp_path, flags.astype(dtype)))
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, flags)


def test_flags_of_another_subarray_of_this_shape_are_taken_with_a_warning(exposures, tmp_path, caplog):
    exposure = gpucoron.Exposure.read(exposures(*NIRCAM, shape=(24, 16)).path)
    flags = np.ones((24, 16), np.int32)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read(exposure, written(tmp_path, flags, SUBSTRT1=1, SUBSTRT2=1)), flags)
    assert "another subarray" in caplog.text
