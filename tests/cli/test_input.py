"""Bad input: a specific error in one line, exit code 2, and no files written."""

import shutil

import numpy as np
import pytest
from astropy.io import fits

from gpucoron.cli import main
from gpucoron.errors import GpucoronError, InputError, OutputError, ParameterError, ReferenceFileError
from gpucoron.io.exposure import Exposure


@pytest.fixture
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(24, 32))


@pytest.fixture
def change(case, tmp_path):
    """Write a modified copy of a good exposure: ``change(edit) -> path``, with ``edit(hdus)`` in place."""

    def write(edit):
        path = tmp_path / case.path.name
        with fits.open(case.path) as hdus:
            changed = edit(hdus)
            (hdus if changed is None else changed).writeto(path)
        return path

    return write


def _set(keyword, value):
    def edit(hdus):
        if value is None:
            del hdus[0].header[keyword]
            # the second copy of the metadata
            del hdus["ASDF"]
        else:
            hdus[0].header[keyword] = value

    return edit


def _reshape(shape):
    def edit(hdus):
        hdus["SCI"].data = hdus["SCI"].data.reshape(shape)

    return edit


def _without_sci(hdus):
    del hdus["SCI"]
    del hdus["ASDF"]


def _without_groups(hdus):
    hdus["SCI"] = fits.ImageHDU(np.zeros((2, 0, 24, 32), np.uint16), name="SCI")
    hdus[0].header["NGROUPS"] = 0


BAD_EXPOSURES = {
    "no SCI": (_without_sci, "no SCI extension"),
    "3-D SCI": (_reshape((8, 24, 32)), "3 axes"),
    "instrument unknown": (_set("INSTRUME", "HARMONI"), "INSTRUME is 'HARMONI'"),
    "no group": (_without_groups, "no data"),
    "no SUBARRAY": (_set("SUBARRAY", None), "SUBARRAY is missing"),
    "no NGROUPS": (_set("NGROUPS", None), "NGROUPS is missing"),
    "no TGROUP": (_set("TGROUP", None), "TGROUP is missing"),
    "no DETECTOR": (_set("DETECTOR", None), "DETECTOR is missing"),
    "NGROUPS contradicts": (_set("NGROUPS", 3), "NGROUPS is 3, but SCI holds 4"),
    "guider product": (_set("EXP_TYPE", "FGS_ACQ1"), "guider"),
    "superstripe": (_set("NSPRSTRP", 4), "superstripe"),
    "multistripe": (_set("MSTR_RD1", 40), "multistripe"),
}


@pytest.mark.parametrize("name", BAD_EXPOSURES)
def test_a_bad_exposure_is_refused_with_its_name(name, change, case, tmp_path, capsys):
    edit, words = BAD_EXPOSURES[name]
    path = change(edit)
    output = tmp_path / "out"
    with case.cache.activate():
        assert main(["run", str(path), "-o", str(output), "--backend", "cpu"]) == 2
    message = capsys.readouterr().err
    assert path.name in message
    assert words in message
    assert not list(output.glob("*.fits"))


def test_irs2_is_refused(change):
    def edit(hdus):
        hdus[0].header["INSTRUME"] = "NIRSPEC"
        hdus[0].header["READPATT"] = "NRSIRS2RAPID"

    with pytest.raises(InputError, match="IRS2"):
        Exposure.read(change(edit))


def test_a_file_that_is_not_fits_is_refused(tmp_path):
    path = tmp_path / "x_uncal.fits"
    path.write_text("not an exposure\n" * 100)
    with pytest.raises(InputError, match=r"x_uncal.fits: not a FITS file"):
        Exposure.read(path)
    with pytest.raises(InputError, match="no such file"):
        Exposure.read(tmp_path / "y_uncal.fits")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
def test_a_truncated_file_is_refused(case, tmp_path, share):
    path = tmp_path / "x_uncal.fits"
    whole = case.path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match="x_uncal.fits"):
        Exposure.read(path)


def test_other_exposure_types_work_with_a_warning(change, caplog):
    Exposure.read(change(_set("EXP_TYPE", "NRC_TSIMAGE")))
    assert "NRC_TSIMAGE is not coronagraphy" in caplog.text


def _damage(path, edit):
    with fits.open(path) as hdus:
        edit(hdus)
        hdus.writeto(path, overwrite=True)


def test_references_that_cannot_be(case, tmp_path, capsys):
    reference = tmp_path / "mine.fits"
    output = tmp_path / "out"

    def reduce(reftype, step, edit, source):
        with fits.open(source) as hdus:
            edit(hdus)
            hdus.writeto(reference, overwrite=True)
        with case.cache.activate():
            code = main(["run", str(case.path), "-o", str(output), "--set", f"{step}.override_{reftype}={reference}"])
        assert code == 2
        assert not list(output.glob("*.fits"))
        return capsys.readouterr().err

    found = {path.name.split("_")[2]: path for path in (case.cache.path / "references").rglob("*.fits")}

    def all_nan(hdus):
        hdus["SCI"].data[...] = np.nan

    def wrong_shape(hdus):
        hdus["SCI"].data = hdus["SCI"].data[..., :-5]
        hdus["DQ"].data = hdus["DQ"].data[..., :-5]

    def no_array(hdus):
        del hdus["SCI"]

    assert "NaN everywhere" in reduce("gain", "jump", all_nan, found["gain"])
    message = reduce("dark", "dark_current", wrong_shape, found["dark"])
    assert "mine.fits" in message
    assert "27 x 24 pixels" in message
    assert "holds no data" in reduce("gain", "jump", no_array, found["gain"])
    reference.write_text("nothing")
    with case.cache.activate():
        assert main(["run", str(case.path), "-o", str(output), "--set", f"jump.override_gain={reference}"]) == 2
    assert "it is not in FITS or ASDF format" in capsys.readouterr().err


@pytest.mark.parametrize("reftype", ["gain", "readnoise"])
def test_gain_and_read_noise_are_indispensable(case, tmp_path, capsys, reftype):
    arguments = ["run", str(case.path), "-o", str(tmp_path), "--set", f"jump.override_{reftype}=N/A"]
    with case.cache.activate():
        assert main(arguments) == 2
    assert f"no {reftype} reference" in capsys.readouterr().err


def test_a_missing_reference_file_is_named(exposures, tmp_path, capsys):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(24, 32), seed=77)
    victim = next((case.cache.path / "references").rglob("*_linearity_*.fits"))
    victim.unlink()
    with case.cache.activate():
        assert main(["run", str(case.path), "-o", str(tmp_path / "out")]) == 2
    assert victim.name in capsys.readouterr().err


def test_without_a_crds_context_the_error_names_the_settings(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("CRDS_SERVER_URL", "https://jwst-serverless.stsci.edu")
    monkeypatch.delenv("CRDS_CONTEXT", raising=False)
    assert main(["run", str(case.path), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "CRDS" in message
    assert str(tmp_path / "empty") in message


def test_an_output_folder_that_cannot_be(case, tmp_path):
    from gpucoron.io.products import prepare_output

    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(OutputError, match="cannot write in this folder"):
        prepare_output(occupied / "below", [], overwrite=False)


def test_existing_products_are_kept_without_overwrite(case, tmp_path, capsys):
    arguments = ["run", str(case.path), "-o", str(tmp_path), "--backend", "cpu", "-q"]
    with case.cache.activate():
        assert main(arguments) == 0
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
        assert sorted(path.name.rsplit("_", 1)[1] for path in tmp_path.glob("*.fits")) == [
            "rate.fits",
            "rateints.fits",
        ]
        assert main(arguments) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
        assert main([*arguments, "--overwrite"]) == 0
    assert before != {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}


@pytest.mark.parametrize(
    ("settings", "ending"),
    [
        (["ramp_fit.save_opt=True"], "_fitopt.fits"),
        (["jump.save_results=True"], "_jump.fits"),
        (["ramp_fit.save_opt=True", "ramp_fit.opt_name=my.fits"], "my_fitopt.fits"),
    ],
)
def test_other_results_are_kept_without_overwrite(case, tmp_path, capsys, settings, ending):
    name = ending if ending.startswith("my") else case.path.name.replace("_uncal.fits", ending)
    (tmp_path / name).write_text("precious")
    arguments = ["run", str(case.path), "-o", str(tmp_path), "--backend", "cpu", "-q"]
    for setting in settings:
        arguments += ["--set", setting]
    with case.cache.activate():
        assert main(arguments) == 2
        assert f"{name}: exists already; use --overwrite" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "precious"
        assert not list(tmp_path.glob("*_rate.fits"))
        assert main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / name).read_bytes().startswith(b"SIMPLE")


def test_two_results_of_one_name_are_refused(case, tmp_path, capsys):
    settings = ("ramp_fit.save_opt=True", "jump.save_results=True", "jump.suffix=fitopt")
    arguments = ["run", str(case.path), "-o", str(tmp_path), "--backend", "cpu", "-q"]
    with case.cache.activate():
        assert main([*arguments, *(f"--set={setting}" for setting in settings)]) == 2
    assert "two results would be named" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.fits"))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (("ramp_fit.save_opt=True", "ramp_fit.opt_name=my.fits"), "ramp_fit.opt_name"),
        (("jump.output_file=my.fits",), "jump.output_file"),
    ],
)
def test_names_that_all_files_would_share_are_refused(case, tmp_path, capsys, settings, name):
    files = [str(case.path), str(tmp_path / "other_uncal.fits")]
    shutil.copy(*files)
    assert main(["run", *files, "-o", str(tmp_path / "out"), "-q", *(f"--set={setting}" for setting in settings)]) == 2
    assert f"{name}: the product of each file would replace" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.fits"))


def test_unknown_names_are_refused_with_the_nearest(case, tmp_path, capsys):
    assert main(["run", str(case.path), "-o", str(tmp_path), "--set", "jump.rejection_treshold=5"]) == 2
    assert "did you mean 'rejection_threshold'" in capsys.readouterr().err
    assert main(["run", str(case.path), "-o", str(tmp_path), "--skip", "linearty"]) == 2
    assert "did you mean 'linearity'" in capsys.readouterr().err
    assert main(["run", str(case.path), "-o", str(tmp_path), "--set", "jump"]) == 2
    assert "STEP.PARAMETER=VALUE" in capsys.readouterr().err


def test_every_named_error_is_a_gpucoron_error():
    for error in (InputError, OutputError, ParameterError, ReferenceFileError):
        assert issubclass(error, GpucoronError)
