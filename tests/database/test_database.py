"""Databases without spaceKLIP: its concatenations, types and columns, from headers only.

Keys, types, column names and their order were compared with those of spaceKLIP 2.2's Database for these files; the
tests name the differences.
"""

import gzip
import io
import random
import shutil

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.database import Database, create_database
from gpucoron.errors import InputError, ParameterError
from gpucoron.io.observations import _find_aperture, _find_mask, find_stage, read_observation
from gpucoron.simulate import simulate, write_references
from tests.cases.observations import (
    COLUMNS,
    LYOT,
    MODES,
    OBJECTS,
    OBSERVED,
    RIGHT,
    assert_equal,
    make,
    names_of,
    observe,
    write_like,
)


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
        # V3IdlYAngle of the aperture is 4.45 degrees for MIRI
        "ROLL_REF": [what[5] + (4.45 if instrument == "MIRI" else 0) for what, _type in OBSERVED],
        "NUMDTHPT": [what[6][1] for what, _type in OBSERVED],
        "XOFFSET": [0.01 * (what[6][0] - 1) for what, _type in OBSERVED],
        "YOFFSET": [-0.02 * (what[6][0] - 1) for what, _type in OBSERVED],
        "DATAMODL": ["STAGE0"] * len(OBSERVED),
        "MASKFILE": ["NONE"] * len(OBSERVED),
    }
    for name, values in expected.items():
        assert list(table[name]) == pytest.approx(values) if table[name].dtype == float else list(table[name]) == values
    # SIAF's mean pixel scale of the aperture at the mask, as in spaceKLIP
    science = table[table["TYPE"] == "SCI"][0]
    assert science["PIXSCALE"] == pytest.approx({"NIRCAM": 0.062424185, "MIRI": 0.110531925}[instrument], rel=1e-6)
    assert science["CWAVEL"] == pytest.approx({"NIRCAM": 4.4394, "MIRI": 15.5220}[instrument], abs=1e-4)
    assert science["ALIGN_SHIFT"].shape == (2, 2)
    assert (science["MASKCENX"], science["STARCENY"]) == (science["CRPIX1"], science["CRPIX2"]) == (10.5, 8.5)


def test_acquisitions_of_the_lyot_mask(tmp_path):
    """spaceKLIP 2.2 raises 'Could not associate TA files', because it searches for 2300 in MASKLYOT."""
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
    """The contents of a file determine its type; a file that is not a raw exposure is skipped, or refused if named."""
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
    with pytest.raises(InputError, match="image.fits: not an exposure of stages 0 to 2"):
        make([tmp_path / "image.fits"])
    (table,) = make([rate]).obs.values()
    assert list(table["DATAMODL"]) == ["STAGE1"]


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
def test_the_stage_follows_from_the_contents(raw, tmp_path, unit, axes, keywords, stage):
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
    """Two filters behind one mask, each with an acquisition: the filter of the same observation is first."""
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


def test_acquisition_without_science_is_a_separate_concatenation(raw, caplog):
    (path,) = raw.glob("jw01386001001_02101_00001_nrcalong*")
    database = make(path)
    assert list(database.obs) == ["JWST_NIRCAM_NRCALONG_F335M_MASKRND_MASK335R_SUBNDA335R"]  # key in spaceKLIP
    assert "no exposure with the mask" in caplog.text


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
    """All acquisitions are then those of the science target, and backgrounds are matched by exposure settings."""
    types = [list(table["TYPE"]) for table in make(raw, assoc_using_targname=False).obs.values()]
    assert types == [[type_.replace("REF_TA", "SCI_TA") for type_ in RIGHT]] * 2


@pytest.fixture
def changed(raw, tmp_path):
    """A function that copies MIRI's exposures with changed keywords; None removes a keyword."""

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


def test_dithers_identify_references_without_the_keyword(changed):
    (table,) = make(changed(IS_PSF=None)).obs.values()
    assert list(table["TYPE"]) == RIGHT


def test_headers_without_the_keywords(changed):
    folder = changed(IS_PSF=None, NUMDTHPT=1)
    with pytest.raises(InputError, match="IS_PSF is missing.*psflibpaths"):
        make(folder)
    library = list(folder.glob("jw01386003001_02101_0000[234]*"))
    (table,) = make(folder, psflibpaths=library).obs.values()
    assert list(table["TYPE"]) == RIGHT


def test_background_without_partner_is_kept(changed, caplog):
    (table,) = make(changed(BKGDTARG=True, TARGPROP="SKY")).obs.values()
    assert set(table["TYPE"]) == {"SCI_TA", "SCI_BG", "REF_BG"}
    assert "no exposure has the duration" in caplog.text


@pytest.mark.parametrize("keyword", ["INSTRUME", "DETECTOR", "FILTER", "SUBARRAY", "EXP_TYPE"])
def test_keyword_that_is_needed(changed, keyword):
    with pytest.raises(InputError, match=rf"_uncal.fits: keyword {keyword} is missing"):
        make(changed(**{keyword: None}))


def test_keywords_that_are_not_needed(changed):
    """Missing keywords get spaceKLIP's defaults."""
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
    with pytest.raises(InputError, match="found no matching exposure"):
        make(raw, pid=1387)


def test_folder_of_the_archive(raw, tmp_path, monkeypatch):
    (tmp_path / "01386").symlink_to(raw)
    monkeypatch.setenv("JWSTDOWNLOAD_OUTDIR", str(tmp_path))
    assert len(create_database("reduced", 1386, obsids=[4], verbose=False).obs) == 2
    monkeypatch.delenv("JWSTDOWNLOAD_OUTDIR")
    with pytest.raises(ParameterError, match="input_dir: give the folder"):
        create_database(raw)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"readlevel": 3}, "readlevel"),
        ({"cr_from_siaf": True}, "cr_from_siaf"),
        ({"filter": "F444W"}, "filter.*did you mean 'filt'"),
        ({"pid": "x"}, "pid: expected a number, got 'x'"),
        ({"output_dir": ["a_uncal.fits"]}, "input_dir="),
    ],
)
def test_options_without_a_meaning(raw, options, message):
    with pytest.raises(ParameterError, match=message):
        create_database(**{"output_dir": "reduced", "input_dir": raw, **options})


def test_files_that_cannot_be_taken(raw, tmp_path):
    with pytest.raises(InputError, match="absent: no such file or folder"):
        make(tmp_path / "absent")
    with pytest.raises(InputError, match="found no matching exposure"):
        make(tmp_path)
    with pytest.raises(InputError, match="an empty list"):
        make([])
    file = next(raw.glob("*.fits"))
    shutil.copy(file, tmp_path / file.name)
    with pytest.raises(InputError, match="products would have the same name"):
        make([file, tmp_path / file.name])
    (tmp_path / "bad.fits").write_text("no")
    with pytest.raises(InputError, match="bad.fits: not a FITS file"):
        make(tmp_path)
    other = write_like(tmp_path / "n.fits", file, "DN", np.zeros((2, 2, 2, 2), np.float32), INSTRUME="NIRSPEC")
    with pytest.raises(InputError, match="n.fits: it is from JWST NIRSPEC"):
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


# -- from raw exposures to products


@pytest.mark.parametrize("instrument", MODES)
def test_database_is_reduced(instrument, tmp_path):
    cache = write_references(observe(tmp_path, instrument, only=(1, 4, 6, 7)), tmp_path / "crds")
    database = create_database(tmp_path / "reduced", input_dir=tmp_path, verbose=False)
    key = MODES[instrument][2]
    assert list(database.obs) == [key]  # the references below are not exposures
    with cache.activate():
        gpucoron.run_obs(database, backend="cpu")
    assert set(database.obs[key]["DATAMODL"]) == {"STAGE1"}
    assert set(database.obs[key]["BUNIT"]) == {"DN/s"}
    assert list(database.obs[key]["TYPE"]) == ["SCI", "REF_TA", "REF_BG", "REF"]
    # the products, identified by their headers, give the same database
    again = create_database(tmp_path / "reduced", input_dir=tmp_path / "reduced" / "stage1", file_type="rateints.fits")
    for name in ("TYPE", "DATAMODL", "FITSFILE", "NINTS", "ROLL_REF", "PIXSCALE"):
        assert list(again.obs[key][name]) == list(database.obs[key][name]), name
    assert read_observation(database.obs[key]["FITSFILE"][1]).key != key  # filter of an acquisition
