"""The tables of a database: updated, written and read, and accepted from other programs or refused by name."""

from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table

from gpucoron.database import STAGES, TYPES, Database, as_database
from gpucoron.errors import InputError, OutputError, ParameterError
from tests.cases.observations import COLUMNS, MODES, assert_equal, make, write_like


def test_update(raw, tmp_path):
    database = make(raw)
    key = MODES["MIRI"][2]
    table = database.obs[key]
    # the folder's name must not matter: spaceKLIP takes this one for STAGE0
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
    for arguments, options, error, message in (
        ((key[:-1], 0, file), {}, ParameterError, f"did you mean '{key}'"),
        ((key, 10, file), {}, ParameterError, "no row 10; it has 10 rows"),
        ((key, 0, file), {"nint": 3}, ParameterError, "did you mean 'nints'"),
        ((key, 0, tmp_path / "absent.fits"), {}, InputError, "absent.fits: no such file"),
        ((key, 0, ramp), {}, InputError, "x_ramp.fits: neither"),
    ):
        before = str(database.obs[key])
        with pytest.raises(error, match=message):
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
    assert {type(cell) for table in again.obs.values() for cell in table["FITSFILE"]} == {str}  # plain Python objects
    first = path.read_bytes()
    again.write(path)  # replaces the file
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["database.ecsv"]
    # readable for everyone
    table = Table.read(path, format="ascii.ecsv")
    assert list(table["CONCATENATION"]) == sorted([key for *_how, key in MODES.values()] * 10)
    again.update_obs(MODES["MIRI"][2], 1, table["FITSFILE"][0], crpix1=3.0)


def test_round_trip_of_any_tables(tmp_path):
    """Tables with different columns and types, masked values, units, unusual names."""
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


def test_accepted_databases(raw, tmp_path, monkeypatch):
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
    # not checked: files that will not be reduced, and files of database objects, which run_obs reports one by one
    as_database({"a": small(raw, DATAMODL=["STAGE0", "STAGE1"], FITSFILE=[tables["a"]["FITSFILE"][0], "gone"])})
    as_database(SimpleNamespace(obs={"a": small(raw, FITSFILE=["gone", "too"])}, output_dir="x", update_obs=print))
    with pytest.raises(ParameterError, match="output_dir: the database already has one, reduced"):
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
    """A table with the interface of pandas."""

    __module__ = "pandas.core.frame"


WRONG = {
    "a list of files": (lambda raw: ["a_uncal.fits"], "list is not a database, it lacks obs, output_dir, update_obs"),
    "None": (lambda raw: None, "NoneType is not a database"),
    "a folder": (lambda raw: str(raw), r"a path is not a database.*create_database.*Database\.read"),
    "a path": (lambda raw: raw / "absent.ecsv", "absent.ecsv: a path is not a database"),
    "one table": (small, "one table is not a database; give it a name"),
    "a DataFrame": (lambda raw: DataFrame(), r"pandas\.core\.frame\.DataFrame is not a database"),
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
    "a dict of DataFrames": (lambda raw: {"one": DataFrame()}, r"concatenation one: .*convert it: Table\.from_pandas"),
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
        "concatenation one, column DATAMODL, row 0: .*'stage0'.*expected the stage of the file.*raw .* STAGE0",
    ),
    "a number": (
        lambda raw: {"one": small(raw, TYPE=[1.0, 2.0])},
        "concatenation one, column TYPE, row 0: .*1.0.*expected",
    ),
    "an empty path": (
        lambda raw: {"one": small(raw, FITSFILE=["", "x"])},
        "concatenation one, column FITSFILE, row 0: .*''.*expected the path of the file",
    ),
    "a missing file": (
        lambda raw: {"good": small(raw), "one": small(raw, FITSFILE=[small(raw)["FITSFILE"][0], "gone.fits"])},
        "concatenation one, column FITSFILE, row 1: gone.fits: no such file",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_refused_databases(raw, what):
    given, message = WRONG[what]
    with pytest.raises(ParameterError, match=message):
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
