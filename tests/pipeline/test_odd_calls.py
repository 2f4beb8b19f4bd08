"""Mistaken calls of run_obs and run_single_file: nothing is lost, and nothing is misinterpreted."""

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron import coron1pipeline
from gpucoron.errors import OutputError, ParameterError
from tests.cases.observations import tables_of


@pytest.fixture(scope="module")
def nircam(exposures):
    return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2, shape=(48, 64))


@pytest.mark.parametrize("steps", [["jump"], "jump", {"jump": ["skip"]}, {"jump": True}, {1: {}}], ids=str)
def test_steps_that_are_no_dictionaries(steps, nircam, tmp_path):
    with nircam.cache.activate():
        with pytest.raises(ParameterError, match="expected step -> parameter -> value"):
            coron1pipeline.run_single_file(nircam.path, tmp_path, steps=steps)
        with pytest.raises(ParameterError, match="expected step -> parameter -> value"):
            coron1pipeline.run_obs(tables_of(nircam.path, types=["REF"]), steps=steps, output_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_truth_as_text(nircam, tmp_path):
    with nircam.cache.activate():
        model = coron1pipeline.run_single_file(
            nircam.path, tmp_path, save_results="False", return_rateints="False", skip_fnoise_vert="False"
        )
        plain = coron1pipeline.run_single_file(nircam.path, tmp_path, save_results=False)
        with pytest.raises(ParameterError, match="skip_fnoise_vert"):
            coron1pipeline.run_single_file(nircam.path, tmp_path, skip_fnoise_vert="maybe")
    assert not list(tmp_path.glob("*.fits"))
    np.testing.assert_array_equal(model.data, plain.data)


@pytest.mark.parametrize("suffix", ["uncal", "ramp", "rate", "rateints", "../mine", "sub/mine"])
def test_results_of_steps_replace_nothing(suffix, nircam, tmp_path):
    raw = tmp_path / nircam.path.name
    raw.write_bytes(nircam.path.read_bytes())
    steps = {"jump": {"save_results": True, "suffix": suffix}}
    with nircam.cache.activate():
        with pytest.raises(ParameterError, match="jump.suffix"):
            coron1pipeline.run_single_file(raw, tmp_path, steps=steps)
        with pytest.raises(ParameterError, match="jump.suffix"):
            gpucoron.Coron1Pipeline.call(str(raw), steps=steps, output_dir=str(tmp_path), backend="cpu")
    assert raw.read_bytes() == nircam.path.read_bytes()
    assert [path.name for path in tmp_path.glob("**/*.fits")] == [raw.name]


def test_a_name_that_no_header_takes(nircam, tmp_path):
    raw = tmp_path / "über_uncal.fits"
    raw.write_bytes(nircam.path.read_bytes())
    with nircam.cache.activate(), pytest.raises(OutputError, match=r"über_uncal\.fits: .*ASCII; rename the input"):
        coron1pipeline.run_single_file(raw, tmp_path / "out")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no FITS"])
def test_damaged_products_are_made_again(damage, nircam, tmp_path):
    with nircam.cache.activate():
        coron1pipeline.run_obs(tables_of(nircam.path, types=["REF"]), output_dir=tmp_path)
        (product,) = tmp_path.glob("stage1/*_rateints.fits")
        science, whole = fits.getdata(product, "SCI", memmap=False), product.read_bytes()
        product.write_bytes(damage(whole))
        tables = tables_of(nircam.path, types=["REF"])
        coron1pipeline.run_obs(tables, output_dir=tmp_path, overwrite=False)
    assert tables["K"]["DATAMODL"][0] == "STAGE1"
    assert product.stat().st_size == len(whole)
    np.testing.assert_array_equal(fits.getdata(product, "SCI"), science)


def test_no_groups_are_no_groups(nircam, tmp_path):
    """An empty list does not request masks by brightness, which need a science exposure."""
    tables = tables_of(nircam.path, types=["REF"])
    with nircam.cache.activate():
        coron1pipeline.run_obs(tables, steps={"mask_groups": {"groups": []}}, output_dir=tmp_path)
    assert tables["K"]["DATAMODL"][0] == "STAGE1"


@pytest.mark.parametrize(
    ("masking", "message"),
    [({"types": ["REFERENCE"]}, "'REF'"), ({"mask_method": "custom"}, "custom_group")],
)
def test_masks_that_cannot_be(masking, message, nircam, tmp_path):
    with nircam.cache.activate(), pytest.raises(ParameterError, match=message):
        coron1pipeline.run_obs(
            tables_of(nircam.path, types=["REF"]), steps={"mask_groups": masking}, output_dir=tmp_path
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("saved", [{"save_results": True}, {"save_calibrated_ramp": True}], ids=str)
def test_a_folder_that_cannot_be_made(saved, nircam, tmp_path):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "out")
    with nircam.cache.activate(), pytest.raises(OutputError, match=f"^{folder}: cannot write in this folder") as error:
        gpucoron.Coron1Pipeline.call(str(nircam.path), output_dir=folder, backend="cpu", **saved)
    assert len(error.traceback) == 2  # this test and call


def test_nothing_for_a_step_in_call(nircam):
    with nircam.cache.activate():
        model = gpucoron.Coron1Pipeline.call(str(nircam.path), steps={"jump": None}, backend="cpu")
        plain = gpucoron.Coron1Pipeline.call(str(nircam.path), steps=None, backend="cpu")
    np.testing.assert_array_equal(model.data, plain.data)


def test_an_input_is_not_replaced(nircam, tmp_path):
    with nircam.cache.activate():
        coron1pipeline.run_single_file(nircam.path, tmp_path, save_calibrated_ramp=True)
        (ramp,) = tmp_path.glob("*_ramp.fits")
        content = ramp.read_bytes()
        for options in ({"save_calibrated_ramp": True}, {"steps": {"ramp_fit": {"skip": True}}}):
            with pytest.raises(OutputError, match="replace the input"):
                coron1pipeline.run_single_file(ramp, tmp_path, **options)
        with pytest.raises(OutputError, match="replace the input"):
            gpucoron.Coron1Pipeline.call(str(ramp), save_calibrated_ramp=True, output_dir=str(tmp_path), backend="cpu")
    assert ramp.read_bytes() == content


@pytest.mark.parametrize("types", [("REF", "SCI"), ("REF", "REF")])
def test_a_reference_of_two_concatenations(types, nircam, tmp_path):
    """A shared reference is reduced once if both have the same mask; otherwise the second is refused."""
    obs = {key: tables_of(nircam.path, types=[type_])["K"] for key, type_ in zip("AB", types, strict=True)}
    masking = {"mask_groups": {"mask_method": "custom", "custom_group": 3}}
    with nircam.cache.activate():
        alone = {"A": tables_of(nircam.path, types=["REF"])["K"]}
        coron1pipeline.run_obs(alone, steps=masking, subdir="alone", output_dir=tmp_path)
        if len(set(types)) == 1:
            coron1pipeline.run_obs(obs, steps=masking, output_dir=tmp_path)
        else:
            with pytest.raises(ExceptionGroup) as raised:
                coron1pipeline.run_obs(obs, steps=masking, output_dir=tmp_path)
            (error,) = raised.value.exceptions
            assert isinstance(error, OutputError)
            assert "concatenation A" in str(error)
    assert [obs[key]["DATAMODL"][0] for key in "AB"] == ["STAGE1", "STAGE1" if len(set(types)) == 1 else "STAGE0"]
    expected, found = (fits.getdata(one["A"]["FITSFILE"][0], "SCI") for one in (alone, obs))
    np.testing.assert_array_equal(found, expected)
