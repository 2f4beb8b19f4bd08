"""The products are complete, and accepted by jwst's next stage."""

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.errors import OutputError
from gpucoron.io import products, slopes
from gpucoron.steps import STEPS


@pytest.fixture(scope="module")
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 3, shape=(40, 48))


@pytest.fixture(scope="module")
def reduced(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage1")
    with case.cache.activate():
        return gpucoron.reduce_file(case.path, folder, backend="cpu", save_intermediates=True)


def test_metadata_is_kept(case, reduced):
    uncal = fits.getheader(case.path)
    for path in (paths := reduced[2]).values():
        header = fits.getheader(path)
        changed = {"FILENAME", "DATE", "DATAMODL", "NEXTEND", "CAL_VER", "CAL_VCS", "CRDS_VER", "CRDS_CTX"}
        missing = {
            key
            for key in uncal
            if key not in changed | {"COMMENT", "HISTORY", ""} and uncal[key] != header.get(key, "absent")
        }
        assert not missing
        assert header["FILENAME"] == path.name
    assert set(paths) >= {path.stem for path in paths.values()}


def test_int_times_and_arrays(reduced):
    _run, _models, paths = reduced
    cube = next(path for path in paths.values() if path.name.endswith("_rateints.fits"))
    with fits.open(cube) as hdus:
        assert hdus["SCI"].data.shape == (3, 40, 48)
        assert hdus["SCI"].header["BUNIT"] == hdus["ERR"].header["BUNIT"] == "DN/s"
        assert len(hdus["INT_TIMES"].data) == 3
        assert {"SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"} <= {hdu.name for hdu in hdus}


def test_intermediates_and_the_ramp(case, reduced):
    run, _models, paths = reduced
    suffixes = {path.stem.split("nrcalong_")[1] for path in paths.values()}
    # jwst also saves the results of its own steps that did nothing
    done = {record.name for record in run.records if record.reason != "switched off"}
    done -= {record.name for record in run.records if STEPS[record.name].custom and record.status != "COMPLETE"}
    assert suffixes == (done - {"ramp_fit", "gain_scale"}) | {"ramp", "rate", "rateints"}


def test_a_saved_ramp_can_be_reduced_again(case, reduced, tmp_path):
    """A calibrated ramp needs only the fit: the rate is the same."""
    run, models, paths = reduced
    ramp = next(path for path in paths.values() if path.name.endswith("_ramp.fits"))
    before_fit = {
        record.name: {"skip": True} for record in run.records if record.name not in ("ramp_fit", "gain_scale")
    }
    with case.cache.activate():
        _again, remade, _paths = gpucoron.reduce_file(ramp, tmp_path, backend="cpu", steps=before_fit)
    np.testing.assert_array_equal(remade["rate"].data, models["rate"].data)
    np.testing.assert_array_equal(remade["rate"].dq, models["rate"].dq)


@pytest.mark.parity
def test_jwsts_next_stage_opens_it_without_complaint(reduced, recwarn):
    from stdatamodels.jwst import datamodels

    _run, _models, paths = reduced
    for suffix, model_class in (("rate", datamodels.ImageModel), ("rateints", datamodels.CubeModel)):
        path = next(path for path in paths.values() if path.name.endswith(f"_{suffix}.fits"))
        recwarn.clear()
        with datamodels.open(path) as model:
            assert type(model) is model_class
            model.validate()
        assert not [str(warning.message) for warning in recwarn if "alid" in str(warning.message)]


def test_nothing_is_half_written(reduced, tmp_path, monkeypatch):
    run, models, _paths = reduced
    calls = []

    def disk_full(self, path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        open(path, "w").close()

    monkeypatch.setattr(type(models["rate"]).__mro__[1], "save", disk_full)
    with pytest.raises(OutputError, match="No space left"):
        products.save({tmp_path / "a_rate.fits": models["rate"], tmp_path / "a_rateints.fits": models["rateints"]})
    assert len(calls) == 2
    assert not list(tmp_path.iterdir())


def test_names():
    assert products.product_path("/x/jw1_nrcalong_uncal.fits", "out", "rate").as_posix() == "out/jw1_nrcalong_rate.fits"
    assert products.product_path("a_ramp.fits.gz", "out", "rateints").name == "a_rateints.fits"
    assert products.product_path("mine.fits", "out", "rate").name == "mine_rate.fits"
    assert products.product_path("a_jump.fits", "out", "rate").name == "a_rate.fits"
    assert products.product_path("a-uncal.fits", "out", "rate").name == "a-rate.fits"


def test_without_a_fit_the_ramp_is_the_product(case, tmp_path):
    with case.cache.activate():
        _run, models, paths = gpucoron.reduce_file(
            case.path, tmp_path, backend="cpu", steps={"ramp_fit": {"skip": True}, "gain_scale": {"skip": True}}
        )
    assert models["rate"] is None
    assert [path.name.rsplit("_", 1)[1] for path in paths.values()] == ["ramp.fits"]


def test_the_dark_as_it_was_subtracted(case, tmp_path):
    with case.cache.activate():
        steps = {"dark_current": {"dark_output": "subtracted_dark.fits"}}
        gpucoron.reduce_file(case.path, tmp_path, backend="cpu", steps=steps)
    assert fits.getdata(tmp_path / "subtracted_dark.fits", "SCI").shape == (5, 40, 48)


@pytest.mark.parametrize("product", ["rate", "rateints"])
def test_unvalidated_products_equal_validated_ones(reduced, tmp_path, product):
    """Products made without jwst's check of each assignment have the same keywords, tables and arrays."""
    from stdatamodels.jwst import datamodels

    run, _models, paths = reduced
    written = next(path for path in paths.values() if path.name.endswith(f"_{product}.fits"))
    checked = {"rate": datamodels.ImageModel, "rateints": datamodels.CubeModel}[product]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datamodels, checked.__name__, lambda validate_on_assignment, schema: checked())
        patch.setattr(slopes, "schema_of", lambda model_class: None)
        model = {"rate": products.rate_model, "rateints": products.rateints_model}[product](run)
    products.save({tmp_path / written.name: model})
    with fits.open(tmp_path / written.name) as expected, fits.open(written) as found:
        assert [hdu.name for hdu in found] == [hdu.name for hdu in expected]
        for ours, theirs in zip(found, expected, strict=True):
            # the log, which has grown, is in the tree
            other = ("NAXIS1", "TFORM1") if ours.name == "ASDF" else ("DATE",)
            cards = [[card for card in hdu.header.cards if card.keyword not in other] for hdu in (ours, theirs)]
            assert [tuple(card) for card in cards[0]] == [tuple(card) for card in cards[1]], ours.name
            if ours.name not in ("PRIMARY", "ASDF"):
                np.testing.assert_array_equal(ours.data, theirs.data, err_msg=ours.name)
    with (
        datamodels.open(tmp_path / written.name) as expected,
        datamodels.open(written, strict_validation=True) as found,
    ):
        found.validate()
        trees = [dict(one.to_flat_dict(include_arrays=False)) for one in (found, expected)]
        for tree in trees:
            # the date, and the log, which has grown; the HISTORY cards are compared above
            later = ("meta.date", "_fits_hash", "history", "cal_logs")
            for key in [key for key in tree if key.startswith(later)]:
                del tree[key]
        assert trees[0] == trees[1]
