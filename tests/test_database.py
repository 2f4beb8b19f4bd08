"""Databases without spaceKLIP: its concatenations, types and columns, from headers alone; updated, written, refused.

Keys, types, names of columns and their order were compared with those that spaceKLIP 2.2's own Database gave for these
files; where they differ, the test says so.
"""

import gzip
import io
import random
import shutil
from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table

import gpucoron
from gpucoron.database import STAGES, TYPES, Database, as_database, create_database
from gpucoron.errors import InputError, OutputError, ParameterError
from gpucoron.io.observations import _find_aperture, _find_mask, find_stage, read_observation
from gpucoron.simulate import simulate, write_references

#: instrument -> subarray, read pattern, detector in the file's name, key
MODES = {
    "NIRCAM": ("SUB320A335R", "RAPID", "JWST_NIRCAM_NRCALONG_F444W_MASKRND_MASK335R_SUB320A335R"),
    "MIRI": ("MASK1550", "FASTR1", "JWST_MIRI_MIRIMAGE_F1550C_NONE_4QPM_1550_MASK1550"),
}
LYOT = "JWST_MIRI_MIRIMAGE_F2300C_NONE_LYOT_2300_MASKLYOT"
#: spaceKLIP 2.2's columns, in its order: text in columns of objects
COLUMNS = [
    "TYPE", "EXP_TYPE", "DATAMODL", "TELESCOP", "TARGPROP", "TARG_RA", "TARG_DEC", "INSTRUME", "DETECTOR", "FILTER",
    "CWAVEL", "DWAVEL", "PUPIL", "CORONMSK", "EXPSTART", "NINTS", "EFFINTTM", "SUBARRAY", "NUMDTHPT", "XOFFSET",
    "YOFFSET", "APERNAME", "PPS_APER", "PIXSCALE", "PIXAR_SR", "BUNIT", "CRPIX1", "CRPIX2", "MASKCENX", "MASKCENY",
    "STARCENX", "STARCENY", "CROP_SHIFTX", "CROP_SHIFTY", "ALIGN_SHIFT", "CENTER_SHIFT", "ALIGN_MASK", "CENTER_MASK",
    "RA_REF", "DEC_REF", "ROLL_REF", "BLURFWHM", "FITSFILE", "MASKFILE",
]  # fmt: skip
OBJECTS = [
    "TYPE", "EXP_TYPE", "DATAMODL", "TELESCOP", "TARGPROP", "INSTRUME", "DETECTOR", "FILTER", "PUPIL", "CORONMSK",
    "SUBARRAY", "APERNAME", "PPS_APER", "BUNIT", "ALIGN_SHIFT", "CENTER_SHIFT", "ALIGN_MASK", "CENTER_MASK",
    "FITSFILE", "MASKFILE",
]  # fmt: skip
#: (observation, exposure, role, target, integrations, roll, dither) of what is observed, and its type, in the table's
#: order. spaceKLIP calls the reference's acquisition SCI_TA, for HD-1 is in HD-12; all else it calls the same.
OBSERVED = [
    ((1, 1, "TA", "HD-1", 2, 100.0, (1, 1)), "SCI_TA"),
    ((1, 2, "SCI", "HD-1", 2, 100.0, (1, 1)), "SCI"),
    ((2, 1, "TA", "HD-1", 2, 110.0, (1, 1)), "SCI_TA"),
    ((2, 2, "SCI", "HD-1", 2, 110.0, (1, 1)), "SCI"),
    ((3, 1, "TA", "HD-12", 2, 105.0, (1, 1)), "REF_TA"),
    ((4, 1, "BG", "HD-1-BACKGROUND", 2, 100.0, (1, 1)), "SCI_BG"),
    ((5, 1, "BG", "HD-12-BG", 3, 105.0, (1, 1)), "REF_BG"),
    ((3, 2, "REF", "HD-12", 3, 105.0, (1, 3)), "REF"),
    ((3, 3, "REF", "HD-12", 3, 105.0, (2, 3)), "REF"),
    ((3, 4, "REF", "HD-12", 3, 105.0, (3, 3)), "REF"),
]
RIGHT = [type_ for _what, type_ in OBSERVED]


def observe(folder, instrument, subarray=None, only=None):
    """Simulate what is observed, and write it."""
    subarray, readpatt = subarray or MODES[instrument][0], MODES[instrument][1]
    simulations = []
    for (observation, exposure, role, target, nints, roll, dither), _type in (
        OBSERVED if only is None else [OBSERVED[row] for row in only]
    ):
        simulations.append(
            simulate(
                instrument, subarray, readpatt, 2, nints, shape=(16, 20), seed=observation, observation=observation,
                exposure=exposure, role=role, target=target, roll=roll, dither=dither,
                offset=(0.01 * (dither[0] - 1), -0.02 * (dither[0] - 1)),
            )
        )  # fmt: skip
        simulations[-1].write(folder)
    return simulations


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """One folder with raw exposures of both instruments."""
    folder = tmp_path_factory.mktemp("raw")
    for instrument in MODES:
        observe(folder, instrument)
    return folder


def make(paths, **options):
    return create_database("reduced", input_dir=paths, verbose=False, **options)


def names_of(table):
    return [path.rpartition("/")[2] for path in table["FITSFILE"]]


def assert_equal(one, other):
    """Compare databases: keys, columns, types, values, masks."""
    assert list(one.obs) == list(other.obs)
    for key, table in one.obs.items():
        assert table.colnames == other.obs[key].colnames
        for name in table.colnames:
            mine, its = table[name], other.obs[key][name]
            assert mine.dtype == its.dtype, name
            assert mine.unit == its.unit
            assert isinstance(mine, MaskedColumn) == isinstance(its, MaskedColumn)
            for a, b in zip(mine, its, strict=True):
                assert np.ma.is_masked(a) == np.ma.is_masked(b)
                if not np.ma.is_masked(a):
                    np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("instrument", MODES)
def test_types_and_columns(raw, instrument):
    database = make(raw)
    assert list(database.obs) == sorted(key for *_how, key in MODES.values())
    table = database.obs[MODES[instrument][2]]
    assert table.colnames == COLUMNS
    assert [name for name in COLUMNS if table[name].dtype == object] == OBJECTS
    assert [name for name in COLUMNS if table[name].dtype == int] == ["NINTS", "NUMDTHPT"]
    assert list(table["TYPE"]) == RIGHT
    detector = table["DETECTOR"][0].lower()
    assert names_of(table) == [
        f"jw01386{observation:03d}001_02101_{exposure:05d}_{detector}_uncal.fits"
        for (observation, exposure, *_rest), _type in OBSERVED
    ]
    expected = {
        "TARGPROP": [what[3] for what, _type in OBSERVED],
        "NINTS": [what[4] for what, _type in OBSERVED],
        # V3 of the aperture's y axis is 4.45 degrees for MIRI
        "ROLL_REF": [what[5] + (4.45 if instrument == "MIRI" else 0) for what, _type in OBSERVED],
        "NUMDTHPT": [what[6][1] for what, _type in OBSERVED],
        "XOFFSET": [0.01 * (what[6][0] - 1) for what, _type in OBSERVED],
        "YOFFSET": [-0.02 * (what[6][0] - 1) for what, _type in OBSERVED],
        "DATAMODL": ["STAGE0"] * len(OBSERVED),
        "MASKFILE": ["NONE"] * len(OBSERVED),
    }
    for name, values in expected.items():
        assert list(table[name]) == pytest.approx(values) if table[name].dtype == float else list(table[name]) == values
    # SIAF's mean scale of the aperture at the mask, as spaceKLIP has it
    science = table[table["TYPE"] == "SCI"][0]
    assert science["PIXSCALE"] == pytest.approx({"NIRCAM": 0.062424185, "MIRI": 0.110531925}[instrument], rel=1e-6)
    assert science["CWAVEL"] == pytest.approx({"NIRCAM": 4.4394, "MIRI": 15.5220}[instrument], abs=1e-4)
    assert science["ALIGN_SHIFT"].shape == (2, 2)
    assert (science["MASKCENX"], science["STARCENY"]) == (science["CRPIX1"], science["CRPIX2"]) == (10.5, 8.5)


def test_acquisitions_of_the_lyot_mask(tmp_path):
    """spaceKLIP 2.2 raises 'Could not associate TA files': it looks for 2300 in MASKLYOT."""
    observe(tmp_path, "MIRI", "MASKLYOT")
    database = make(tmp_path)
    assert list(database.obs) == [LYOT]
    assert list(database.obs[LYOT]["TYPE"]) == RIGHT


def test_order_of_files_does_not_matter(raw):
    files = sorted(raw.glob("*.fits"))
    expected = make(raw)
    for seed in range(3):
        random.Random(seed).shuffle(files)
        assert_equal(make(files), expected)
    assert_equal(make(str(raw / "*_uncal.fits")), expected)
    assert_equal(make([raw, files[0]]), expected)


def test_any_name_and_compression(raw, tmp_path):
    """The content tells what a file is; what is no raw exposure is left alone in a folder, and refused if named."""
    expected = make(raw)
    names = {}
    for number, path in enumerate(sorted(raw.glob("*.fits"))):
        new = tmp_path / (f"{path.name}.gz" if number % 3 == 0 else f"uncal_mine{number}.fits" if number % 3 else "")
        new.write_bytes(gzip.compress(path.read_bytes()) if number % 3 == 0 else path.read_bytes())
        names[str(new)] = str(path)
    fits.writeto(tmp_path / "image.fits", np.zeros((2, 2)))
    rate = write_like(tmp_path / "x_rate.fits", next(iter(names)), "DN/s", np.zeros((4, 4), np.float32))
    (tmp_path / "notes.txt").write_text("no")
    found = make(tmp_path)
    assert sum(len(table) for table in found.obs.values()) == len(names)
    for key, table in found.obs.items():
        types = dict(zip(expected.obs[key]["FITSFILE"], expected.obs[key]["TYPE"], strict=True))
        assert {names[path]: type_ for path, type_ in zip(table["FITSFILE"], table["TYPE"], strict=True)} == types
    with pytest.raises(InputError, match="image.fits: no exposure of stages 0 to 2"):
        make([tmp_path / "image.fits"])
    (table,) = make([rate]).obs.values()
    assert list(table["DATAMODL"]) == ["STAGE1"]


def write_like(path, raw_file, unit, data, **keywords):
    """Write a product with the keywords of a raw exposure."""
    with fits.open(raw_file) as hdus:
        primary, science = fits.PrimaryHDU(header=hdus[0].header), fits.ImageHDU(data, name="SCI")
        primary.header.update(keywords)
        if unit:
            science.header["BUNIT"] = unit
        fits.HDUList([primary, science]).writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize(
    ("unit", "axes", "keywords", "stage"),
    [
        ("DN", 4, {}, "STAGE0"),
        (None, 4, {}, "STAGE0"),
        ("DN", 4, {"S_DQINIT": "COMPLETE"}, None),  # a ramp
        ("DN", 4, {"REFTYPE": "DARK"}, None),
        ("DN/s", 3, {}, "STAGE1"),
        ("DN/s", 2, {}, "STAGE1"),
        ("MJy/sr", 3, {}, "STAGE2"),
        ("mJy/arcsec2", 3, {}, None),
        (None, 3, {}, None),
    ],
)
def test_content_tells_the_stage(raw, tmp_path, unit, axes, keywords, stage):
    file = next(raw.glob("*.fits"))
    path = write_like(tmp_path / "x.fits", file, unit, np.zeros((2, 2, 2, 2)[:axes], np.float32), **keywords)
    with fits.open(path) as hdus:
        assert find_stage(hdus[0].header, hdus["SCI"].header) == stage


def test_segments_count_their_own_integrations(tmp_path):
    path = simulate("MIRI", "MASK1550", "FASTR1", 2, 3, first_integration=4, total_nints=6, shape=(8, 8)).write(
        tmp_path
    )
    assert fits.getval(path, "NINTS") == 6
    (table,) = make(path).obs.values()
    assert list(table["NINTS"]) == [3]


def test_acquisition_joins_its_own_observation(tmp_path):
    """Two filters behind one mask, each with an acquisition: the filter comes first that was observed with it."""
    for observation, filter_ in ((1, "F444W"), (2, "F356W")):
        for exposure, role in enumerate(("TA", "SCI"), 1):
            options = {} if role == "TA" else {"filter": filter_}
            simulate(
                "NIRCAM", "SUB320A335R", "RAPID", 2, 1, shape=(8, 8), observation=observation, exposure=exposure,
                role=role, **options,
            ).write(tmp_path)  # fmt: skip
    for key, table in make(tmp_path).obs.items():
        assert list(table["TYPE"]) == ["SCI_TA", "SCI"]
        assert len({name[:10] for name in names_of(table)}) == 1, key


def test_acquisition_without_science_stands_alone(raw, caplog):
    (path,) = raw.glob("jw01386001001_02101_00001_nrcalong*")
    database = make(path)
    assert list(database.obs) == ["JWST_NIRCAM_NRCALONG_F335M_MASKRND_MASK335R_SUBNDA335R"]  # spaceKLIP's key
    assert "no exposure behind the mask" in caplog.text


def test_lists_of_references_and_backgrounds(raw):
    files = [path for path in sorted(raw.glob("*nrcalong*")) if "_00001_" not in path.name]
    library = [path for path in files if "386002" in path.name]
    (table,) = make(files, psflibpaths=library).obs.values()
    assert list(table["TYPE"]) == ["SCI"] * 4 + ["REF"]
    assert "386002" in names_of(table)[-1]
    (table,) = make([path for path in files if path not in library], psflibpaths=library).obs.values()
    assert list(table["TYPE"]) == ["SCI"] * 4 + ["REF"]
    (table,) = make(files, psflibpaths=[]).obs.values()
    assert set(table["TYPE"]) == {"SCI"}
    (table,) = make(files, bgpaths=library[0], assoc_using_targname=False).obs.values()
    assert list(table["TYPE"]) == ["SCI", "SCI_BG", "REF", "REF", "REF"]
    with pytest.raises(ParameterError, match="bgpaths: .*386002.* is not among the other files"):
        make([path for path in files if path not in library], bgpaths=library)


def test_without_names_lengths_decide(raw):
    """All acquisitions are then the science target's, and backgrounds go to those that were exposed alike."""
    types = [list(table["TYPE"]) for table in make(raw, assoc_using_targname=False).obs.values()]
    assert types == [[type_.replace("REF_TA", "SCI_TA") for type_ in RIGHT]] * 2


@pytest.fixture
def changed(raw, tmp_path):
    """A function that copies MIRI's exposures with changed keywords: None removes one."""

    def change(**keywords):
        for path in raw.glob("*mirimage*"):
            shutil.copy(path, tmp_path)
            for keyword, value in keywords.items():
                with fits.open(tmp_path / path.name, mode="update") as hdus:
                    hdu = hdus[0] if keyword in hdus[0].header else hdus["SCI"]
                    if value is None:
                        del hdu.header[keyword]
                    else:
                        hdu.header[keyword] = value
        return tmp_path

    return change


def test_dithers_tell_references_where_the_header_does_not(changed):
    (table,) = make(changed(IS_PSF=None)).obs.values()
    assert list(table["TYPE"]) == RIGHT


def test_headers_that_do_not_tell(changed):
    folder = changed(IS_PSF=None, NUMDTHPT=1)
    with pytest.raises(InputError, match="IS_PSF is missing.*psflibpaths"):
        make(folder)
    library = list(folder.glob("jw01386003001_02101_0000[234]*"))
    (table,) = make(folder, psflibpaths=library).obs.values()
    assert list(table["TYPE"]) == RIGHT


def test_background_without_partner_is_kept(changed, caplog):
    (table,) = make(changed(BKGDTARG=True, TARGPROP="SKY")).obs.values()
    assert set(table["TYPE"]) == {"SCI_TA", "SCI_BG", "REF_BG"}
    assert "no exposure is as long" in caplog.text


@pytest.mark.parametrize("keyword", ["INSTRUME", "DETECTOR", "FILTER", "SUBARRAY", "EXP_TYPE"])
def test_keyword_that_is_needed(changed, keyword):
    with pytest.raises(InputError, match=rf"_uncal.fits: keyword {keyword} is missing"):
        make(changed(**{keyword: None}))


def test_keywords_that_are_not_needed(changed):
    """spaceKLIP's own defaults."""
    absent = (
        "TARGPROP",
        "PPS_APER",
        "NUMDTHPT",
        "XOFFSET",
        "EFFINTTM",
        "ROLL_REF",
        "VPARITY",
        "CDELT1",
        "CRPIX1",
        "BUNIT",
    )
    (table,) = make(changed(**dict.fromkeys(absent))).obs.values()
    row = table[0]
    assert [row[name] for name in ("TARGPROP", "PPS_APER", "NUMDTHPT", "XOFFSET", "BUNIT")] == [
        "UNKNOWN", "UNKNOWN", 1, 0.0, "NONE",
    ]  # fmt: skip
    assert np.isnan([row["EFFINTTM"], row["CRPIX1"], row["STARCENX"]]).all()
    assert (row["ROLL_REF"], row["PIXSCALE"]) == (4.45, 0.11)


def test_selection(raw):
    def numbers(**selection):
        return sorted({name[7:10] for table in make(raw, **selection).obs.values() for name in names_of(table)})

    assert numbers(pid=1386, obsids=[1, 3]) == ["001", "003"]
    assert numbers(pid="1386", obsids=4) == ["004"]
    assert list(make(raw, filt="F444W").obs) == [MODES["NIRCAM"][2]]
    assert list(make(raw, sca="along").obs) == list(make(raw, sca="A5").obs) == [MODES["NIRCAM"][2]]
    assert numbers(exp_type="MIR_TACQ") == ["001", "002", "003"]
    assert numbers(apername="MIRIM_MASK1550") == numbers(apername_pps="MIRIM_MASK1550") == numbers(vst_grp_act="02101")
    assert numbers(file_type="uncal.fits") == numbers(file_type="_uncal.fits") == numbers()
    with pytest.raises(InputError, match="no exposure there"):
        make(raw, pid=1387)


def test_folder_of_the_archive(raw, tmp_path, monkeypatch):
    (tmp_path / "01386").symlink_to(raw)
    monkeypatch.setenv("JWSTDOWNLOAD_OUTDIR", str(tmp_path))
    assert len(create_database("reduced", 1386, obsids=[4], verbose=False).obs) == 2
    monkeypatch.delenv("JWSTDOWNLOAD_OUTDIR")
    with pytest.raises(ParameterError, match="input_dir: name the folder"):
        create_database(raw)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"readlevel": 3}, "readlevel"),
        ({"cr_from_siaf": True}, "cr_from_siaf"),
        ({"filter": "F444W"}, "filter.*did you mean 'filt'"),
        ({"pid": "x"}, "pid: expected a number, got 'x'"),
        ({"output_dir": ["a_uncal.fits"]}, "input_dir="),
    ],
)
def test_options_without_a_meaning(raw, options, told):
    with pytest.raises(ParameterError, match=told):
        create_database(**{"output_dir": "reduced", "input_dir": raw, **options})


def test_files_that_cannot_be_taken(raw, tmp_path):
    with pytest.raises(InputError, match="absent: no such file or folder"):
        make(tmp_path / "absent")
    with pytest.raises(InputError, match="no exposure there"):
        make(tmp_path)
    with pytest.raises(InputError, match="an empty list"):
        make([])
    file = next(raw.glob("*.fits"))
    shutil.copy(file, tmp_path / file.name)
    with pytest.raises(InputError, match="products of the same name"):
        make([file, tmp_path / file.name])
    (tmp_path / "bad.fits").write_text("no")
    with pytest.raises(InputError, match="bad.fits: not a FITS file"):
        make(tmp_path)
    other = write_like(tmp_path / "n.fits", file, "DN", np.zeros((2, 2, 2, 2), np.float32), INSTRUME="NIRSPEC")
    with pytest.raises(InputError, match="n.fits: from JWST NIRSPEC"):
        make(other)


def test_summary(raw, capsys):
    database = create_database("reduced", input_dir=raw)
    printed = capsys.readouterr().out
    stream = io.StringIO()
    text = database.summary(stream)
    assert stream.getvalue() == printed == f"{text}\n"
    lines = text.splitlines()
    for *_how, key in MODES.values():
        start = lines.index(key)
        assert lines[start + 1] == "  STAGE0: 10 files: 2 SCI, 2 SCI_TA, 1 SCI_BG, 3 REF, 1 REF_TA, 1 REF_BG"
        assert "ROLL_REF" in lines[start + 2]
        last = lines[start + 13].split()
        assert last[:2] == ["9", "REF"]
        assert last[-3:-1] == ["20.0", "-40.0"]  # mas
        assert last[-1].endswith("_00004_nrcalong_uncal.fits" if "NIRCAM" in key else "_00004_mirimage_uncal.fits")
    assert repr(database) == "<Database: 2 concatenations, 20 exposures, output_dir='reduced'>"
    assert Database().summary() == "no concatenations"


def test_update(raw, tmp_path):
    database = make(raw)
    key = MODES["MIRI"][2]
    table = database.obs[key]
    # a folder's name says nothing: spaceKLIP takes this one for STAGE0
    folder = tmp_path / "from_uncal"
    folder.mkdir()
    product = write_like(folder / "x.fits", table["FITSFILE"][1], "DN/s", np.zeros((2, 3, 3), np.float32))
    fits.setval(product, "PIXAR_SR", value=2e-13, ext=1)
    before = table.copy()
    database.update_obs(key, 1, product, nints=5, effinttm=None, xoffset=1.5, align_shift=np.ones((5, 2)))
    assert database.obs[key] is table
    expected = {"DATAMODL": "STAGE1", "BUNIT": "DN/s", "FITSFILE": str(product), "NINTS": 5, "XOFFSET": 1.5}
    assert {name: table[name][1] for name in expected} == expected
    assert table["ALIGN_SHIFT"][1].shape == (5, 2)
    assert np.isnan(table["PIXAR_SR"][1])
    same = [name for name in COLUMNS if name not in (*expected, "ALIGN_SHIFT")]
    assert [str(table[name][1]) for name in same] == [str(before[name][1]) for name in same]
    assert [str(row) for row in table[[0, 2, 3]]] == [str(row) for row in before[[0, 2, 3]]]
    database.update_obs(key, -1, str(product), "mask.fits", update_pxar=True)
    assert (table["MASKFILE"][9], table["PIXAR_SR"][9]) == ("mask.fits", 2e-13)
    assert "STAGE1: 2 files: 1 SCI, 1 REF" in database.summary()


def test_updates_that_are_refused(raw, tmp_path):
    database = make(raw)
    key = MODES["MIRI"][2]
    file = database.obs[key]["FITSFILE"][0]
    ramp = write_like(tmp_path / "x_ramp.fits", file, "DN", np.zeros((2, 2, 2, 2), np.float32), S_DQINIT="COMPLETE")
    for arguments, options, error, told in (
        ((key[:-1], 0, file), {}, ParameterError, f"did you mean '{key}'"),
        ((key, 10, file), {}, ParameterError, "no row 10; it has 10 rows"),
        ((key, 0, file), {"nint": 3}, ParameterError, "did you mean 'nints'"),
        ((key, 0, tmp_path / "absent.fits"), {}, InputError, "absent.fits: no such file"),
        ((key, 0, ramp), {}, InputError, "x_ramp.fits: neither"),
    ):
        before = str(database.obs[key])
        with pytest.raises(error, match=told):
            database.update_obs(*arguments, **options)
        assert str(database.obs[key]) == before
    database.obs[key].remove_column("NINTS")
    with pytest.raises(ParameterError, match="no column NINTS"):
        database.update_obs(key, 0, file, nints=3)


def test_round_trip(raw, tmp_path):
    database = make(raw)
    path = tmp_path / "new" / "database.ecsv"
    database.write(path)
    again = Database.read(path)
    assert_equal(again, database)
    assert again.output_dir == "reduced"
    first = path.read_bytes()
    again.write(path)  # replaces it
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["database.ecsv"]
    # anybody can read it
    table = Table.read(path, format="ascii.ecsv")
    assert list(table["CONCATENATION"]) == sorted([key for *_how, key in MODES.values()] * 10)
    again.update_obs(MODES["MIRI"][2], 1, table["FITSFILE"][0], crpix1=3.0)


def test_round_trip_of_any_tables(tmp_path):
    """Other columns and types in each, masked values, units, odd names."""
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros((3, 2)), (1, 2.5)]
    first = Table(
        {
            "TYPE": np.array(["SCI", "REF"], "U9"),
            "DATAMODL": np.array([b"STAGE0", b"STAGE1"], "S8"),
            "FITSFILE": ['/a b/ä, "x".fits', "#y.fits"],
            "SINGLE": np.array([1.1, np.nan], np.float32),
            "PAIR": [[1, 2], [3, 4]],
            "FLAG": [True, False],
            "ANY": ragged,
            "EMPTY": ["", " "],
            "MASKED": MaskedColumn([1, 2], mask=[False, True]),
            "TEXT": MaskedColumn(["x", "y"], mask=[True, False]),
            "ROLL": Column([10.5, -np.inf], unit="deg"),
        }
    )
    second = Table({"ROLL": np.array([], int), "TYPE": np.array([], object)})
    third = Table({"FITSFILE": ["z"], "MASKED": [np.int16(7)], "PIXEL": MaskedColumn([0.5], mask=[True])})
    database = Database(tmp_path, {"one": first, "two: 'x'": second, "": third})
    database.write(tmp_path / "x.ecsv")
    again = Database.read(tmp_path / "x.ecsv")
    first["ANY"][1] = np.array([1, 2.5])  # lists become arrays
    assert_equal(again, database)
    assert again.output_dir == str(tmp_path)
    Database().write(tmp_path / "none.ecsv")
    assert Database.read(tmp_path / "none.ecsv").obs == {}


def test_files_that_are_no_database(raw, tmp_path):
    with pytest.raises(InputError, match=r"absent.ecsv: cannot be read \(No such file"):
        Database.read(tmp_path / "absent.ecsv")
    (tmp_path / "text").write_text("one line")
    Table({"a": [1]}).write(tmp_path / "other.ecsv")
    for path in (tmp_path / "text", tmp_path / "other.ecsv", next(raw.glob("*.fits"))):
        with pytest.raises(InputError, match="not written by Database.write"):
            Database.read(path)
    with pytest.raises(InputError, match="cannot be read"):
        Database.read(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="could not be written"):
        make(raw).write(tmp_path / "folder")


# -- what run_obs takes --


def small(raw, **columns):
    files = sorted(map(str, raw.glob("*mirimage*")))[:2]
    return Table({"TYPE": ["SCI", "REF"], "DATAMODL": ["STAGE0", "STAGE0"], "FITSFILE": files} | columns)


def test_what_can_serve(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database = make(raw)
    assert as_database(database) is database
    foreign = SimpleNamespace(obs={"a": small(raw)}, output_dir="x", update_obs=print)
    assert as_database(foreign) is foreign
    tables = {"a": small(raw)}
    assert as_database(tables).output_dir == "."
    assert as_database(tables, tmp_path).output_dir == str(tmp_path)
    assert as_database(tables).obs["a"] is tables["a"]
    assert list(as_database(UserDict(tables)).obs) == ["a"]
    # nobody looks for what will not be reduced, nor for files of databases: the run reports them one by one
    as_database({"a": small(raw, DATAMODL=["STAGE0", "STAGE1"], FITSFILE=[tables["a"]["FITSFILE"][0], "gone"])})
    as_database(SimpleNamespace(obs={"a": small(raw, FITSFILE=["gone", "too"])}, output_dir="x", update_obs=print))
    with pytest.raises(ParameterError, match="output_dir: the database has its own, reduced"):
        as_database(database, tmp_path)


@pytest.mark.parametrize("kind", [str, bytes, object, "masked", "quantity", "path"])
def test_tables_of_any_make_are_updated(raw, tmp_path, kind):
    table = small(raw)
    if kind is bytes:
        table.convert_unicode_to_bytestring()
    elif kind == "masked":
        table = Table(table, masked=True)
    elif kind == "quantity":
        table = QTable(table)
        table["XOFFSET"] = Column([0.0, 0.0], unit="arcsec")
    elif kind == "path":
        table["FITSFILE"] = np.array([raw / path for path in table["FITSFILE"]], object)
    elif kind is object:
        table["FITSFILE"] = table["FITSFILE"].astype(object)
    columns = table.colnames
    database = as_database({"a": table})
    long = tmp_path / ("x" * 120 + ".fits")
    write_like(long, next(raw.glob("*.fits")), "DN/s", np.zeros((2, 3, 3), np.float32))
    database.update_obs("a", 1, long, **({"xoffset": 0.5} if kind == "quantity" else {}))
    assert database.obs["a"] is table
    assert table.colnames == columns
    assert [str(path) for path in table["FITSFILE"]] == [str(small(raw)["FITSFILE"][0]), str(long)]
    assert [str(stage) for stage in table["DATAMODL"]] == ["STAGE0", "STAGE1"]
    if kind == "quantity":
        assert table["XOFFSET"].value.tolist() == [0.0, 0.5]


class DataFrame:
    """What pandas calls its own."""

    __module__ = "pandas.core.frame"


WRONG = {
    "a list of files": (lambda raw: ["a_uncal.fits"], "list is no database, it lacks obs, output_dir, update_obs"),
    "None": (lambda raw: None, "NoneType is no database"),
    "a folder": (lambda raw: str(raw), r"a path is no database.*create_database.*Database\.read"),
    "a path": (lambda raw: raw / "absent.ecsv", "absent.ecsv: a path is no database"),
    "one table": (small, "one table is no database; give it a name"),
    "a DataFrame": (lambda raw: DataFrame(), r"pandas\.core\.frame\.DataFrame is no database"),
    "no update_obs": (lambda raw: SimpleNamespace(obs={}, output_dir="x"), "it lacks update_obs"),
    "obs is a list": (
        lambda raw: SimpleNamespace(obs=[small(raw)], output_dir="x", update_obs=print),
        "database.obs: expected a dict of astropy Tables, got list",
    ),
    "an empty dict": (lambda raw: {}, r"no concatenations; gpucoron.database.create_database"),
    "an empty Database": (lambda raw: Database(), "no concatenations"),
    "a dict of lists": (
        lambda raw: {"one": ["x_uncal.fits"]},
        "concatenation one: expected an astropy Table, got list",
    ),
    "a dict of DataFrames": (lambda raw: {"one": DataFrame()}, r"concatenation one: .*make it one, Table\.from_pandas"),
    "a spaceKLIP Database of lists": (
        lambda raw: SimpleNamespace(obs={"one": [1]}, output_dir="x", update_obs=print),
        "concatenation one: expected an astropy Table",
    ),
    "an unknown type": (
        lambda raw: {"one": small(raw, TYPE=["SCI", "PSF"])},
        r"concatenation one, column TYPE, row 1: .*'PSF'.*expected .* SCI, SCI_TA, SCI_BG, REF, REF_TA, REF_BG",
    ),
    "an unknown stage": (
        lambda raw: {"one": small(raw, DATAMODL=["stage0", "STAGE0"])},
        "concatenation one, column DATAMODL, row 0: .*'stage0'.*expected its stage.*raw exposures are STAGE0",
    ),
    "a number": (
        lambda raw: {"one": small(raw, TYPE=[1.0, 2.0])},
        "concatenation one, column TYPE, row 0: .*1.0.*expected",
    ),
    "an empty path": (
        lambda raw: {"one": small(raw, FITSFILE=["", "x"])},
        "concatenation one, column FITSFILE, row 0: .*''.*expected its path",
    ),
    "a missing file": (
        lambda raw: {"good": small(raw), "one": small(raw, FITSFILE=[small(raw)["FITSFILE"][0], "gone.fits"])},
        "concatenation one, column FITSFILE, row 1: gone.fits: no such file",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_serve(raw, what):
    given, told = WRONG[what]
    with pytest.raises(ParameterError, match=told):
        as_database(given(raw))


@pytest.mark.parametrize("name", ["TYPE", "DATAMODL", "FITSFILE"])
def test_columns_that_are_needed(raw, name):
    table = small(raw)
    table[name] = MaskedColumn(table[name], mask=[False, True])
    with pytest.raises(ParameterError, match=f"concatenation one, column {name}, row 1: masked; expected"):
        as_database({"one": table})
    table.remove_column(name)
    with pytest.raises(ParameterError, match=f"concatenation one: there is no column {name}; add it: .* It has"):
        as_database({"one": table})


def test_words_are_spaceklips():
    assert TYPES == ("SCI", "SCI_TA", "SCI_BG", "REF", "REF_TA", "REF_BG")
    assert STAGES == ("STAGE0", "STAGE1", "STAGE2", "STAGE3")


# -- NIRCam's apertures: right values from webbpsf_ext's get_coron_apname and spaceKLIP's get_nrcmask_from_apname --


@pytest.mark.parametrize(
    ("aperture", "pointing", "subarray", "expected"),
    [
        ("NRCA5_MASK335R", "NRCA5_MASK335R", "SUB320A335R", "NRCA5_MASK335R"),
        ("NRCA5_MASKLWB", "NRCA5_MASKLWB_F444W", "SUB320ALWB", "NRCA5_MASKLWB_F444W"),
        ("NRCA5_MASKLWB", "NRCA5_MASKLWB_F444W", "SUB400X256ALWB", "NRCA5_400X256_MASKLWB_F444W"),
        ("NRCA5_MASKLWB", "NRCA5_MASKLWB", "SUB400X256ALWB", "NRCA5_400X256_MASKLWB"),
        ("NRCA5_FULL", "NRCA5_FULL_MASK430R", "FULL", "NRCA5_FULL_MASK430R"),
        ("NRCA2_FULL_MASK210R", "NRCA5_MASK335R", "SUB320A335R", "NRCA2_MASK335R"),
        ("NRCA4_MASKSWB", "NRCA5_MASK335R", "SUB320A335R", "NRCA4_MASKSWB"),
        ("NRCA4_FULL", "NRCA4_MASKSWB_NARROW", "SUB640ASWB", "NRCA4_MASKSWB_NARROW"),
        ("NRCA5_FULL", "NRCA5_FULL", "FULL", "NRCA5_FULL"),
        ("NRCA5_TAMASK335R", "NRCA5_TAMASK335R", "SUBNDA335R", "NRCA5_TAMASK335R"),
    ],
)
def test_aperture(aperture, pointing, subarray, expected):
    assert _find_aperture({"APERNAME": aperture, "PPS_APER": pointing, "SUBARRAY": subarray}) == expected


@pytest.mark.parametrize(
    ("pointing", "expected"),
    [
        ("NRCA5_MASK335R", "MASK335R"),
        ("NRCA2_FULL_TAMASK210R", "MASK210R"),
        ("NRCA5_FSTAMASK430R", "MASK430R"),
        ("NRCA5_TAMASKLWBL", "MASKLWB"),
        ("NRCA4_TAMASKSWBS", "MASKSWB"),
        ("NRCA5_400X256_MASKLWB_F444W", "MASKLWB"),
        ("NRCA5_FULL", "NONE"),
    ],
)
def test_mask(pointing, expected):
    assert _find_mask({"PPS_APER": pointing}) == expected


def test_mask_without_aperture():
    assert _find_mask({"CORONMSK": "MASKA335R"}) == "MASK335R"


# -- from raw exposures to products --


@pytest.mark.parametrize("instrument", MODES)
def test_database_is_reduced(instrument, tmp_path):
    cache = write_references(observe(tmp_path, instrument, only=(1, 4, 6, 7)), tmp_path / "crds")
    database = create_database(tmp_path / "reduced", input_dir=tmp_path, verbose=False)
    key = MODES[instrument][2]
    assert list(database.obs) == [key]  # the references below are no exposures
    with cache.activate():
        gpucoron.run_obs(database, backend="cpu")
    assert set(database.obs[key]["DATAMODL"]) == {"STAGE1"}
    assert set(database.obs[key]["BUNIT"]) == {"DN/s"}
    assert list(database.obs[key]["TYPE"]) == ["SCI", "REF_TA", "REF_BG", "REF"]
    # the products, found by their headers, are the same database
    again = create_database(tmp_path / "reduced", input_dir=tmp_path / "reduced" / "stage1", file_type="rateints.fits")
    for name in ("TYPE", "DATAMODL", "FITSFILE", "NINTS", "ROLL_REF", "PIXSCALE"):
        assert list(again.obs[key][name]) == list(database.obs[key][name]), name
    assert read_observation(database.obs[key]["FITSFILE"][1]).key != key  # an acquisition's own filter
