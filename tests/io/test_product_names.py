"""Products have jwst's names, for every kind of input file and every entry point."""

import gzip
import re

import pytest
from astropy.io import fits

import gpucoron
from gpucoron.batch.inputs import Input, exposure_name, find_files, refuse_duplicates
from gpucoron.batch.run import _move_products
from gpucoron.errors import OutputError
from gpucoron.io.products import product_path
from gpucoron.steps import STEPS

NAMES = (
    "x_uncal.fits", "x_jump.fits", "x_ramp.fits", "x_rate_uncal.fits", "x.fits", "x_jump_uncal.fits", "X_UNCAL.FITS",
    "a.b_uncal.fits", "x-uncal.fits", "uncal.fits", "_uncal.fits", "x_dq_init.fits", "x_dark_current.fits",
    "x_jumps.fits", "jw01386001001_02101_00001-seg001_nrcalong_uncal.fits", "x_mine.fits", "x_.fits",
)  # fmt: skip


def names_by(pipeline, name):
    """Get the names of the products of a file from the pipeline class itself."""
    pipeline.set_primary_input(f"raw/{name}")
    return [pipeline.make_output_path(suffix=suffix) for suffix in ("rate", "rateints", "jump")]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_jwsts(name):
    from jwst.pipeline import Detector1Pipeline

    ours = [product_path(f"raw/{name}", "", suffix).name for suffix in ("rate", "rateints", "jump")]
    assert ours == names_by(Detector1Pipeline(), name)
    assert ours == names_by(gpucoron.Coron1Pipeline(), name)
    assert ours[0].startswith(exposure_name(name))


@pytest.mark.parametrize("name", ["x_uncal.fits.gz", *(f"x_{step}.fits" for step in STEPS)])
def test_further_names_that_all_ways_know(name):
    """A compressed file is named after its contents, and gpucoron's own steps are known, too."""
    ours = [product_path(name, "", suffix).name for suffix in ("rate", "rateints", "jump")]
    assert ours == ["x_rate.fits", "x_rateints.fits", "x_jump.fits"]
    assert ours == names_by(gpucoron.Coron1Pipeline(), name)
    assert exposure_name(name) == "x"


def test_a_reduction_continues_from_a_step(exposures, tmp_path):
    case = exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2, shape=(32, 40))
    given = {name: tmp_path / name for name in ("x_jump.fits", "y_uncal.fits.gz")}
    given["x_jump.fits"].write_bytes(case.path.read_bytes())
    given["y_uncal.fits.gz"].write_bytes(gzip.compress(case.path.read_bytes(), 1))
    with case.cache.activate():
        for path in given.values():
            gpucoron.reduce_file(path, tmp_path / "file", backend="cpu")
            gpucoron.Coron1Pipeline.call(path, output_dir=str(tmp_path / "call"), save_results=True, backend="cpu")
    due = {"x_rate.fits", "x_rateints.fits", "y_rate.fits", "y_rateints.fits"}
    for way in ("file", "call"):
        assert {path.name for path in (tmp_path / way).iterdir()} == due
    with case.cache.activate(), pytest.raises(OutputError, match="would replace the input itself"):
        gpucoron.reduce_file(given["x_jump.fits"], tmp_path, backend="cpu", save_intermediates=True)
    assert fits.getheader(given["x_jump.fits"]).get("S_JUMP") is None


def test_a_batch_refuses_products_of_one_name(tmp_path):
    for name in ("x_uncal.fits", "x_jump.fits"):
        (tmp_path / name).touch()
    inputs = [Input("x", "x", path, 0) for path in find_files([tmp_path / "x_uncal.fits", tmp_path / "x_jump.fits"])]
    refuse_duplicates(inputs)
    for found in inputs:
        assert re.search(r"x_jump.fits and .*x_uncal.fits would write products of the same name", str(found.error))


def test_a_batch_spares_its_input(tmp_path):
    """If one product would replace the input, none is written."""
    (tmp_path / "stage").mkdir()
    for name in ("x_dq_init.fits", "x_jump.fits"):
        (tmp_path / "stage" / name).write_text("new")
    raw = tmp_path / "x_jump.fits"
    raw.write_text("raw")
    with pytest.raises(OutputError, match="would replace the input itself"):
        _move_products(tmp_path / "stage", tmp_path, str(raw))
    assert raw.read_text() == "raw"
    assert not (tmp_path / "x_dq_init.fits").exists()
