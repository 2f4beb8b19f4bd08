"""A report shows products, previews and records of one reduction together, and says what it leaves out."""

import json

import pytest
from astropy.io import fits

from gpucoron.cli import main
from gpucoron.engine import reduce_file
from gpucoron.report import write_report
from tests.cases.parsed_page import Page

SHAPE = (32, 40)


@pytest.fixture
def case(exposures):
    made = exposures("NIRCAM", "SUB320A335R", "RAPID", 8, 3, seed=4, shape=SHAPE)
    with made.cache.activate():
        yield made


@pytest.fixture
def folder(case, tmp_path):
    """Products of a single run with its record and its preview."""
    assert main(["run", str(case.path), "-o", str(tmp_path), "-q"]) == 0
    return tmp_path


def share(folder):
    """Return the fraction of jumps in the rate of the folder, and in the report: row and details."""
    (product,) = folder.glob("*_rate.fits")
    with fits.open(product) as hdus:
        true = float(((hdus["DQ"].data & 4) != 0).mean())
    page = Page(write_report(folder))
    (row,) = page.rows.values()
    return true, row, page.detail(row["exposure"])


def test_a_record_of_its_products_is_used(folder):
    true, row, detail = share(folder)
    assert row["jump"] == pytest.approx(true)
    assert row["status"] == "done"
    assert detail["note"] == ""


def test_products_that_were_written_again(case, folder):
    reduce_file(case.path, folder, overwrite=True, steps={"jump": {"rejection_threshold": 2.0}})
    true, row, detail = share(folder)
    assert row["jump"] == pytest.approx(true)
    assert row["status"] == "product"
    assert detail["parameters"]["jump"]["rejection_threshold"] == 2.0
    assert "written again" in detail["note"]
    assert "preview is of an earlier product" in detail["note"]


def test_a_preview_that_could_not_be_replaced(case, folder):
    (stored,) = (folder / "previews").glob("*.npz")
    old = stored.read_bytes()
    assert (
        main(["run", str(case.path), "-o", str(folder), "-q", "--overwrite", "--set", "jump.rejection_threshold=2"])
        == 0
    )
    stored.write_bytes(old)
    true, row, detail = share(folder)
    assert row["jump"] == pytest.approx(true)
    assert row["status"] == "done"
    assert detail["parameters"]["jump"]["rejection_threshold"] == 2.0
    assert "preview is of an earlier product" in detail["note"]


def test_a_failure_keeps_the_products_before_it(case, folder, tmp_path_factory):
    bad = tmp_path_factory.mktemp("bad") / "gain.fits"
    fits.PrimaryHDU().writeto(bad)
    arguments = ["run", str(case.path), "-o", str(folder), "-q", "--overwrite", "--set", f"jump.override_gain={bad}"]
    assert main(arguments) == 2
    true, row, detail = share(folder)
    assert row["status"] == "failed"
    assert row["jump"] == pytest.approx(true)
    assert detail["error"]["message"]
    assert "products, images and numbers are of the reduction of" in detail["note"]
    assert {label for label, _ in detail["links"]} == {"log", "rate", "rateints"}
    assert "override_gain" not in detail["commands"]["again"]


def test_records_that_cannot_be_read(folder, caplog):
    (folder / "runs.jsonl").unlink()
    (folder / "runs.jsonl").mkdir()
    true, row, _detail = share(folder)
    assert row["jump"] == pytest.approx(true)
    page = Page(folder / "report.html")
    assert any("runs.jsonl: cannot be read" in note for note in page.table["notes"])
    assert "runs.jsonl: cannot be read" in caplog.text


def test_a_batch_that_begins_during_a_run(case, tmp_path, monkeypatch, capsys):
    """The second file is refused: the lock is looked for before each one."""
    import fcntl

    from gpucoron.batch import single

    second = tmp_path / "second_uncal.fits"
    second.write_bytes(case.path.read_bytes())
    out = tmp_path / "out"
    held, reduce_and_record = [], single.reduce_and_record

    def reduce_then_lock(path, output_dir, **options):
        done = reduce_and_record(path, output_dir, **options)
        held.append((out / "manifest.jsonl").open("a"))
        fcntl.flock(held[-1], fcntl.LOCK_EX)
        return done

    monkeypatch.setattr(single, "reduce_and_record", reduce_then_lock)
    assert main(["run", str(case.path), str(second), "-o", str(out), "-q"]) == 2
    assert "a batch is running in this folder" in capsys.readouterr().err
    assert len(list(out.glob("*_rate.fits"))) == 1
    assert len((out / "runs.jsonl").read_text().splitlines()) == 1
    assert json.loads((out / "runs.jsonl").read_text())["status"] == "done"
    held[0].close()
