"""Damaged files and contradictory headers, one of each kind: refused by name, without effect on other files."""

import gzip
import logging
import os
import re
from itertools import pairwise

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron import engine
from gpucoron.batch.inputs import read_input
from gpucoron.batch.plan import make_plan
from gpucoron.cli import main
from gpucoron.errors import (
    GpucoronError,
    InputError,
    InternalError,
    OutputError,
    ParameterError,
    ReferenceFileError,
    TooLittleMemoryError,
)
from gpucoron.io.boundary import converted_errors
from gpucoron.io.exposure import Exposure
from gpucoron.io.fits_layout import CheckSum, read_layout
from gpucoron.io.names import split_name
from tests.cases.waiting import no_hang

CARD = 80


@pytest.fixture(scope="module")
def nircam(exposures):
    return exposures("NIRCAM", "SUB320A335R", "MEDIUM8", 4, 2, shape=(16, 20))


@pytest.fixture(scope="module")
def miri(exposures):
    return exposures("MIRI", "MASK1550", "FASTR1", 6, 2, shape=(16, 20))


def places(path):
    """Return where each extension of a file begins, and where its data begin."""
    with fits.open(path) as hdus:
        return {hdu.name: hdu.fileinfo() for hdu in hdus}


def with_card(path, folder, keyword, value, extension="PRIMARY"):
    """Copy a file with one card changed, or removed if there is no value."""
    content = bytearray(path.read_bytes())
    at = content.index(f"{keyword:8}=".encode(), places(path)[extension]["hdrLoc"])
    content[at : at + CARD] = (f"{keyword:8}= {value}" if value else "").ljust(CARD)[:CARD].encode("latin1")
    copy = folder / "x_uncal.fits"
    copy.write_bytes(content)
    return copy


def edited(path, folder, edit):
    copy = folder / "x_uncal.fits"
    with fits.open(path) as hdus:
        edit(hdus)
        hdus.writeto(copy)
    return copy


#: keyword, value, extension, part of the error message; all are refused before any data are read
STRUCTURE = [
    ("NAXIS1", "-20", "SCI", "NAXIS1 is -20"),
    ("NAXIS1", "1000000000", "SCI", "SCI: truncated"),
    ("NAXIS4", "1", "SCI", "no header at its start|more data than its header"),
    ("BITPIX", "17", "SCI", "BITPIX is 17"),
    ("NAXIS", "'four'", "SCI", "NAXIS is 'four'"),
    ("GCOUNT", "2", "SCI", "GCOUNT 2"),
    ("PCOUNT", "", "SCI", "PCOUNT is missing"),
    ("BSCALE", "'one'", "SCI", "BSCALE is 'one'"),
    ("BZERO", "1E999", "SCI", "BZERO is inf"),
    ("TFORM1", "'7J'", "GROUP", "its columns add up to"),
    ("XTENSION", "'BINTABLE'", "SCI", "BINTABLE|TFIELDS is missing"),
    ("TARGNAME", "'a\x07b'", "PRIMARY", "TARGNAME in its header is not printable ASCII"),
    ("TIME-OBS", "'a\nb'", "PRIMARY", "TIME-OBS in its header"),
    ("TGROUP", "NaN", "PRIMARY", "TGROUP is NaN, not a FITS value"),
    ("SIMPLE", "T\x00", "PRIMARY", "SIMPLE in its header"),
]


@pytest.mark.parametrize(("keyword", "value", "extension", "words"), STRUCTURE)
def test_a_header_that_lies_is_refused_before_it_is_believed(nircam, tmp_path, keyword, value, extension, words):
    path = with_card(nircam.path, tmp_path, keyword, value, extension)
    with pytest.raises(InputError, match=words) as caught:
        read_layout(path)
    assert str(path) in str(caught.value)
    assert "download it again" in str(caught.value)


NUMBERS = [
    ("TGROUP", "0.0", "TGROUP is 0.0; expected a number from"),
    ("TGROUP", "1E999", "TGROUP is inf"),
    ("TFRAME", "-1.0", "TFRAME is -1.0"),
    ("NFRAMES", "0", "NFRAMES is 0; expected a whole number from 1 to 1000"),
    ("NFRAMES", "1000000000", "NFRAMES is 1000000000"),
    ("GROUPGAP", "-1", "GROUPGAP is -1"),
    ("SUBSIZE1", "4000", "SUBSIZE1 is 4000"),
    ("SUBSIZE2", "15", "SUBSIZE2 is 15, but SCI has 16 rows"),
    ("SUBSTRT1", "2040", "SUBSTRT1 is 2040, but 20 pixels from there extend beyond the detector"),
    ("FASTAXIS", "0", "FASTAXIS is 0"),
    ("FASTAXIS", "2", "FASTAXIS is 2 and SLOWAXIS 2"),
    ("INSTRUME", "5", "INSTRUME is 5"),
]


@pytest.mark.parametrize(("keyword", "value", "words"), NUMBERS)
def test_numbers_that_no_exposure_has(nircam, tmp_path, keyword, value, words):
    path = with_card(nircam.path, tmp_path, keyword, value)
    with pytest.raises(InputError, match=words) as caught:
        Exposure.read_headers(path)
    assert path.name in str(caught.value)


def set_keywords(without=(), **values):
    def edit(hdus):
        hdus[0].header.update(values)
        for keyword in without:
            del hdus[0].header[keyword]
            # the second copy of the metadata, and the keyword that names it
            if "ASDF" in hdus:
                del hdus["ASDF"], hdus[0].header["DATAMODL"]

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_keywords(INTSTART=-1), "INTSTART is -1"),
        (set_keywords(INTSTART=2, INTEND=1), "INTSTART is 2, INTEND 1 .*they describe no integrations"),
        (set_keywords(NINTS=1), "NINTS 1, but SCI holds 2 integrations"),
        (set_keywords(INTSTART=2, INTEND=2), "INTEND 2 .*but SCI holds 2 integrations"),
        (set_keywords(without=["SUBSIZE1"]), "SUBSIZE1 is missing"),
        (set_keywords(without=["SUBSTRT2"]), "SUBSTRT2 is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keywords_that_contradict_the_arrays(miri, tmp_path, edit, words):
    with pytest.raises(InputError, match=words):
        Exposure.read_headers(edited(miri.path, tmp_path, edit))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_keywords(NFRAMES=4), "READPATT is MEDIUM8, but NFRAMES and GROUPGAP are 4 and 2 instead of 8 and 2"),
        (set_keywords(TFRAME=5.0), "TGROUP is 10.6904 s, but NFRAMES and GROUPGAP mean 10 frames of 5 s"),
        (set_keywords(INTEND=3), "INTEND is 3, but NINTS is 2"),
        (set_keywords(ZEROFRAM=False), "ZEROFRAM is not set: the ZEROFRAME extension is not used"),
        (
            lambda hdus: hdus[0].header.append(("TGROUP", 5.0, "another"), end=True),
            "TGROUP occurs twice in the header of PRIMARY, with different values: the first one is used",
        ),
        (lambda hdus: hdus.append(hdus["SCI"].copy()), "SCI occurs twice: the first one is used"),
        (
            lambda hdus: hdus.insert(2, fits.ImageHDU(np.zeros((3, 4), np.int32), name="PIXELDQ")),
            r"PIXELDQ has the shape \(3, 4\), not \(16, 20\): its flags are not used",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contradictions_resolved_as_in_jwst_are_logged(nircam, tmp_path, caplog, edit, words):
    Exposure.read(edited(nircam.path, tmp_path, edit))
    assert [record for record in caplog.records if re.search(words, record.getMessage())]


def _image(name):
    return lambda hdus: hdus.__setitem__(name, fits.ImageHDU(np.zeros((3, 4), np.float32), name=name))


def _table(name):
    return lambda hdus: hdus.append(fits.BinTableHDU(np.zeros(2, [("a", "i4")]), name=name))


def _without_column(name, column):
    def edit(hdus):
        kept = [one for one in hdus[name].columns if one.name != column]
        hdus[name] = fits.BinTableHDU.from_columns(kept, name=name)

    return edit


def _flat_zeroframe(hdus):
    hdus["ZEROFRAME"] = fits.ImageHDU(np.zeros((16, 20), np.uint16), name="ZEROFRAME")


EXTENSIONS = {
    "GROUP is an image": (_image("GROUP"), "GROUP is not a FITS table"),
    "ASDF is an image": (_image("ASDF"), "ASDF is not a FITS table"),
    "PIXELDQ is a table": (_table("PIXELDQ"), "PIXELDQ is not a FITS image"),
    "INT_TIMES lacks a column": (
        _without_column("INT_TIMES", "int_mid_MJD_UTC"),
        "INT_TIMES lacks the columns INT_MID_MJD_UTC",
    ),
    "INT_TIMES is lost": (lambda hdus: hdus.__delitem__("INT_TIMES"), "its extension INT_TIMES is missing"),
    "ZEROFRAME has two axes": (_flat_zeroframe, r"ZEROFRAME has the shape \(16, 20\)"),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_of_another_kind(nircam, tmp_path, name):
    edit, words = EXTENSIONS[name]
    path = edited(nircam.path, tmp_path, edit)
    with pytest.raises(InputError, match=words):
        Exposure.read_headers(path)


def test_a_damaged_asdf_extension(nircam, tmp_path):
    path, content = tmp_path / "x_uncal.fits", bytearray(nircam.path.read_bytes())
    at = places(nircam.path)["ASDF"]["datLoc"]
    content[at + 40 : at + 400] = bytes(360)
    path.write_bytes(content)
    with pytest.raises(InputError, match="x_uncal.fits: damaged: its ASDF extension or a table cannot be read"):
        Exposure.read(path)


def test_every_cut_and_every_tail_is_seen(nircam, tmp_path):
    """In and before headers, in data and their padding; bytes after the last extension are zeros."""
    path, content = tmp_path / "x_uncal.fits", nircam.path.read_bytes()
    edges = [place[where] for place in places(nircam.path).values() for where in ("hdrLoc", "datLoc")]
    cuts = {edge + more for edge in edges for more in (0, 80, 500)}
    for end in sorted({*cuts, len(content) - 1} - {0, len(content)}):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match="truncated|not a FITS file|no SCI"):
            Exposure.read_headers(path)
    for tail in (b" " * 99, bytes(4000)):
        path.write_bytes(content + tail)
        assert len(read_layout(path).parts) == 6
    for tail in (b"x", bytes(9000) + b"x", content):
        path.write_bytes(content + tail)
        with pytest.raises(InputError, match="followed by data that are not FITS|no header at its start"):
            read_layout(path)


def test_a_compressed_file_is_read_to_its_end(nircam, tmp_path):
    path, packed = tmp_path / "x_uncal.fits.gz", bytearray(gzip.compress(nircam.path.read_bytes(), 1))
    path.write_bytes(packed)
    np.testing.assert_array_equal(Exposure.read(path).data, Exposure.read(nircam.path).data)
    for at in (-6, len(packed) // 2):  # the checksum, and its data
        packed[at] ^= 1
        path.write_bytes(packed)
        packed[at] ^= 1
        with pytest.raises(InputError, match=r"x_uncal.fits.gz: .*download it again"):
            Exposure.read(path)
    path.write_bytes(packed[:-4000])
    with pytest.raises(InputError, match="cut short or damaged"):
        Exposure.read(path)
    assert split_name("x_uncal.fits.bz2") == ("x", "_")


@pytest.mark.parametrize("name", ["SCI", "ZEROFRAME", "INT_TIMES", "ASDF"])
def test_wrong_sums_of_the_data_are_refused(nircam, tmp_path, name):
    path = tmp_path / "x_uncal.fits"
    with fits.open(nircam.path) as hdus:
        hdus.writeto(path, checksum=True)
    content = bytearray(path.read_bytes())
    content[places(path)[name]["datLoc"] + 3] ^= 2
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: damaged data: DATASUM is [0-9]+, but their checksum is"):
        Exposure.read(path)


def test_a_header_changed_later_is_logged(nircam, tmp_path, caplog):
    path = tmp_path / "x_uncal.fits"
    with fits.open(nircam.path) as hdus:
        hdus.writeto(path, checksum=True)
    Exposure.read(path)
    assert "CHECKSUM" not in caplog.text
    content = path.read_bytes().replace(b"BUNIT   = 'DN", b"BUNIT   = 'dn", 1)
    path.write_bytes(content)
    Exposure.read(path)
    assert "SCI: CHECKSUM does not match" in caplog.text


@pytest.mark.parity
def test_headers_as_astropy_writes_them(nircam, tmp_path):
    """Comments may look like values, and long strings continue in further cards."""
    from jwst.pipeline import Detector1Pipeline

    copy = tmp_path / "x_uncal.fits"
    with fits.open(nircam.path) as hdus:
        header = hdus[0].header
        header.add_comment("= it's a comment")
        header.add_blank("= blank'")
        header["TITLE"] = "'" * 120
        header["ABSTRACT"] = "it's " * 40
        header["HIERARCH a long keyword"] = 1
        hdus["SCI"].header.add_history("= see [1]")
        hdus.writeto(copy, checksum=True)
    with nircam.cache.activate():
        _run, models, _paths = gpucoron.reduce_file(copy, tmp_path, save_results=False, backend="numpy")
        theirs = Detector1Pipeline.call(str(copy))
    np.testing.assert_array_equal(models["rate"].data, theirs.data)


def test_the_sum_is_astropys():
    rng = np.random.default_rng(3)
    content = rng.bytes(100_003)
    total = CheckSum()
    for piece in np.split(np.frombuffer(content, np.uint8), [1, 7, 7, 4096, 50_001]):
        total.add(np.ascontiguousarray(piece))
    padded = np.frombuffer(content.ljust(100_004, b"\0"), np.uint8)
    assert total.value == fits.PrimaryHDU()._compute_checksum(padded)


def test_the_sum_of_pieces_in_any_order():
    content = np.frombuffer(np.random.default_rng(3).bytes(4001), np.uint8)
    whole, total = CheckSum(), CheckSum()
    whole.add(content)
    edges = [0, 1, 2, 3, 6, 11, 100, 102, 1003, 2000, 4000, 4001]
    for start, stop in reversed(list(pairwise(edges))):
        total.add(content[start:stop], start)
    assert total.value == whole.value


# ------------------------------------------------------------------------------------------------------- the boundary


def test_only_regular_files_are_opened(nircam, tmp_path, capsys):
    """A pipe would block forever, and /dev/zero never ends."""
    os.mkfifo(tmp_path / "a_uncal.fits")
    (tmp_path / "b_uncal.fits").symlink_to("/dev/zero")
    (tmp_path / "c_uncal.fits").mkdir()
    with_card(nircam.path, tmp_path, "DATE-OBS", "'2022\x1b'").rename(tmp_path / "d_uncal.fits")
    (tmp_path / "e_uncal.fits").symlink_to(nircam.path)
    for name in "abc":
        with no_hang(), pytest.raises(InputError, match=f"{name}_uncal.fits: (not a regular file|a folder)"):
            Exposure.read(tmp_path / f"{name}_uncal.fits")
    with no_hang(), nircam.cache.activate():
        planned = {one.input.name: one.error for one in make_plan(tmp_path, tmp_path / "out").exposures}
        run = ["run", "-o", str(tmp_path / "out"), "--backend", "cpu", "-q"]
        assert main([*run, str(tmp_path / "c_uncal.fits"), str(tmp_path / "e_uncal.fits")]) == 2
        assert "c_uncal.fits is a folder; use gpucoron batch" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        assert main([*run, *(str(tmp_path / f"{name}_uncal.fits") for name in "abde")]) == 2
    assert [name for name, error in planned.items() if error is None] == ["e"]
    assert "is not printable ASCII" in str(planned["d"])
    stderr = capsys.readouterr().err
    assert all(f"{name}_uncal.fits" in stderr for name in "abd")
    assert "3 of 4 files failed" in stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*.fits")) == ["e_rate.fits", "e_rateints.fits"]


def test_a_file_that_a_batch_cannot_read_is_kept_with_its_reason(nircam, tmp_path):
    found = read_input(with_card(nircam.path, tmp_path, "EXPSTART", "'never'"))
    assert found.error is None
    assert found.start is not None  # from DATE-OBS
    found = read_input(with_card(nircam.path, tmp_path, "NAXIS2", "-1", "SCI"))
    assert isinstance(found.error, InputError)
    assert found.record_fields["exposure"] == "x"


def test_a_date_that_the_header_lacks_is_found_where_jwst_finds_it(nircam, tmp_path):
    """In the ASDF extension; the plan of a batch selects the same references as the reduction."""
    with_card(nircam.path, tmp_path, "DATE-OBS", "")
    (tmp_path / "y_uncal.fits").symlink_to("nowhere")
    with nircam.cache.activate():
        plan = make_plan([tmp_path / f"{name}_uncal.fits" for name in "xy"], tmp_path / "out")
    planned = {one.input.name: one for one in plan.exposures}
    assert "no such file" in str(planned["y"].error)
    assert planned["x"].error is None
    assert "dark" in planned["x"].references


def test_names_of_files(nircam, tmp_path, capsys):
    """Names that FITS headers cannot hold are refused in one line; folders may have any name."""
    folder = tmp_path / "Stern\u00e9 und\nStaub"
    folder.mkdir()
    names = {"a\nb_uncal.fits": 2, "\u661f_uncal.fits": 2, "with blank_uncal.fits": 0}
    for name, due in names.items():
        (folder / name).write_bytes(nircam.path.read_bytes())
        with nircam.cache.activate():
            assert main(["run", str(folder / name), "-o", str(folder / "out"), "--backend", "cpu", "-q"]) == due
        stderr = capsys.readouterr().err
        assert stderr.count("\n") == (1 if due else 0), stderr
        assert not due or "rename the input" in stderr


def test_an_error_of_ours_ends_no_command(nircam, miri, tmp_path, monkeypatch, capsys, caplog):
    original = engine.run_step

    def run_step(name, exposure, *args, **kwargs):
        if name == "saturation" and not exposure.facts.is_miri:
            raise AttributeError("of a kind of its own")
        return original(name, exposure, *args, **kwargs)

    monkeypatch.setattr(engine, "run_step", run_step)
    for case, due in ((nircam, 2), (miri, 0)):
        with case.cache.activate():
            assert main(["run", str(case.path), "-o", str(tmp_path), "--backend", "cpu", "-q"]) == due
    stderr = capsys.readouterr().err
    assert f"{nircam.path.name}: saturation: an internal error of gpucoron (AttributeError: of a kind" in stderr
    assert "please report it with the log" in stderr
    assert "Traceback" in caplog.text
    with nircam.cache.activate(), pytest.raises(InternalError) as caught:
        gpucoron.Coron1Pipeline.call(str(nircam.path), backend="cpu")
    assert isinstance(caught.value.__cause__, AttributeError)


@pytest.mark.parametrize(
    ("error", "reading", "kind", "words"),
    [
        (KeyError("SCI"), True, InputError, "x: jump: damaged, or not a JWST exposure .KeyError"),
        (KeyError("SCI"), False, InternalError, "x: jump: an internal error"),
        (ValueError("no such pixel"), False, InputError, "x: jump: no such pixel"),
        (ZeroDivisionError("by zero"), False, InputError, "these data cannot be processed .*check the file"),
        (MemoryError("1 TB"), True, TooLittleMemoryError, "too little memory .1 TB.*max_memory"),
        (OSError(28, "No space left"), False, OutputError, "the disk is full"),
        (OSError("Not enough space on disk: requested 8, available 0. "), True, OutputError, "the disk is full"),
        (OSError("4096 requested and 3136 written"), False, OutputError, "the disk is full"),
        (OutputError("named already"), True, OutputError, "^named already$"),
    ],
)
def test_every_error_has_a_kind(error, reading, kind, words, caplog):
    with (
        caplog.at_level(logging.DEBUG, "gpucoron"),
        pytest.raises(GpucoronError, match=words) as caught,
        converted_errors("x", "jump", reading=reading),
    ):
        raise error
    assert type(caught.value) is kind
    assert caught.value is error or caught.value.__cause__ is error
    assert any(record.levelno >= logging.ERROR for record in caplog.records) == (kind is InternalError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exceptions_that_end_the_program_are_not_caught(error):
    with pytest.raises(error), converted_errors("x"):
        raise error


def test_a_damaged_file_through_jwsts_call(nircam, tmp_path):
    path = with_card(nircam.path, tmp_path, "NAXIS2", "-16", "SCI")
    with nircam.cache.activate():
        for reduce in (
            lambda: gpucoron.Coron1Pipeline.call(str(path), backend="cpu"),
            lambda: gpucoron.Coron1Pipeline(backend="cpu").run(str(path)),
            lambda: gpucoron.run_single_file(path, tmp_path / "out", backend="cpu"),
        ):
            with pytest.raises(InputError, match="x_uncal.fits: extension 1: NAXIS2 is -16"):
                reduce()


def test_files_named_by_parameters_are_checked_first(nircam, tmp_path):
    """Each of these would be read forever."""
    pipe, lie = tmp_path / "pipe", tmp_path / "lie.fits"
    os.mkfifo(pipe)
    gain = next((nircam.cache.path / "references").rglob("*gain*.fits"))
    with_card(gain, tmp_path, "NAXIS1", "-20", "SCI").rename(lie)
    faults = {
        ("dq_init", "user_supplied_dq"): (lie, ParameterError, "NAXIS1 is -20"),
        ("mask_groups", "mask_array"): (pipe, ParameterError, "not a regular file"),
        ("clean_flicker_noise", "user_mask"): (
            pipe,
            ParameterError,
            "clean_flicker_noise.user_mask: .*not a regular file",
        ),
        ("jump", "override_gain"): (lie, ReferenceFileError, "gain reference of .* is damaged .*NAXIS1 is -20"),
    }
    for (step, name), (path, kind, words) in faults.items():
        steps = {step: {"skip": False, name: str(path)}}
        with nircam.cache.activate(), pytest.raises(kind, match=words):
            gpucoron.reduce_file(nircam.path, tmp_path / "out", backend="cpu", steps=steps)


def test_a_missing_product_is_reported_even_with_quiet(miri, tmp_path, capsys):
    """Every group is saturated: the file is valid, but there is nothing to fit."""
    copy = with_card(miri.path, tmp_path, "BSCALE", f"{65536:>20}", "SCI")
    with miri.cache.activate():
        assert main(["run", str(copy), "-o", str(tmp_path / "out"), "--backend", "numpy", "-q"]) == 0
    assert "x_uncal.fits: no product: no ramp could be fitted" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.fits"))
