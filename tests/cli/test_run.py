"""`gpucoron run` leaves what a batch leaves: a record, a preview and a log; and keeps out of a batch's folder."""

import json
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from gpucoron.batch.single import reduce_and_record
from gpucoron.cli import main
from gpucoron.errors import ProductExistsError
from gpucoron.records.manifest import Manifest, read_manifests, read_past
from gpucoron.records.previews import preview_path
from tests.cases.batches import Raw, records
from tests.cases.full_disk import fill_disk
from tests.cases.waiting import HANG

OPTIONS = ("--set", "subtract_1overf.skip=false", "--set", "jump.rejection_threshold=5", "--profile", "spaceklip")
#: fields that differ between two reductions of the same file
OF_THE_OCCASION = {"product_date", "output_files", "started", "finished", "seconds", "peak_memory", "pid"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return Raw(tmp_path_factory.mktemp("raw"), 2)


@pytest.fixture
def cut(raw, tmp_path):
    """An exposure whose file is truncated."""
    path = tmp_path / f"cut-{raw.files[0].name}"
    path.write_bytes(raw.files[0].read_bytes()[:30_000])
    return path


def start(raw, *arguments):
    command = [sys.executable, "-m", "gpucoron", "run", *map(str, arguments), "--backend", "cpu"]
    return subprocess.Popen(command, env=raw.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(raw, *arguments, expect=0):
    process = start(raw, *arguments)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == expect, out + err
    return out, err


def runs(folder):
    path = folder / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def by_name(found):
    return {record["exposure"]: record for record in found}


def load_preview(folder, name):
    """Return the parts of a preview without the date of its product."""
    with np.load(preview_path(folder, name)) as stored:
        return {part: stored[part].tobytes() for part in stored.files if part != "product_date"}


def test_the_records_are_those_of_a_batch(raw, cut, tmp_path):
    _, printed = run(raw, *raw.files, cut, "-o", tmp_path / "run", *OPTIONS, expect=2)
    assert "INFO" not in printed  # the log file has these messages
    assert len([line for line in printed.splitlines() if cut.name in line]) == 1
    raw.run(tmp_path / "batch", *OPTIONS, paths=[*raw.files, cut], expect=2)
    of_runs, of_batch = by_name(runs(tmp_path / "run")), by_name(records(tmp_path / "batch"))
    assert set(of_runs) == set(of_batch) == {*raw.names, cut.name.removesuffix("_uncal.fits")}
    for name in raw.names:
        ours, theirs = of_runs[name], of_batch[name]
        for step in (*ours["steps"], *theirs["steps"]):
            del step["seconds"]
        differing = {field for field in ours if ours[field] != theirs[field]}
        assert differing <= OF_THE_OCCASION
        assert ours["product_date"] == fits.getheader(tmp_path / "run" / f"{name}_rate.fits")["DATE"]
        assert set(ours["seconds"]) == set(theirs["seconds"])
        assert load_preview(tmp_path / "run", name) == load_preview(tmp_path / "batch", name)
        log = (tmp_path / "run" / "logs" / f"{name}.log").read_text()
        assert "INFO gpucoron.steps.jump: Step jump done" in log
    ours, theirs = (found[cut.name.removesuffix("_uncal.fits")] for found in (of_runs, of_batch))
    assert ours["status"] == theirs["status"] == "failed"
    assert ours["asked"]["parameters"] == of_runs[raw.names[0]]["asked"]["parameters"]
    for part in ("type", "message"):
        assert ours["error"][part] == theirs["error"][part]
    assert "Traceback" in ours["error"]["traceback"]
    assert "failed: " in (tmp_path / "run" / "logs" / f"{ours['exposure']}.log").read_text()


def test_files_of_parameters_are_recorded_by_their_whole_path(raw, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("my mask.npy", np.zeros((32, 32), bool))
    with raw.cache.activate():
        mask = "subtract_1overf.user_mask=my mask.npy"
        assert main(["run", str(raw.files[0]), "-o", "out", "-q", "--set", mask]) == 0
    (record,) = runs(tmp_path / "out")
    assert record["asked"]["parameters"] == {"subtract_1overf.user_mask": str(tmp_path / "my mask.npy")}


def test_a_batch_does_not_know_the_products_of_runs(raw, tmp_path):
    """A batch in the folder of runs decides as it would without their records."""
    output = tmp_path / "out"
    run(raw, raw.files[0], "-o", output)
    assert read_past(output).last == {}
    with_records = raw.run(output, "--dry-run", expect=2)
    (output / "runs.jsonl").unlink()
    assert raw.run(output, "--dry-run", expect=2) == with_records
    assert "no manifest in this folder lists" in with_records


def test_what_was_not_tried_is_not_recorded(raw, tmp_path):
    """The record of existing products stays the last one of their exposure."""
    output = tmp_path / "out"
    with raw.cache.activate():
        assert main(["run", str(tmp_path / "none_uncal.fits"), "-o", str(output), "-q"]) == 2
        assert runs(output) == []
        assert main(["run", str(raw.files[0]), "-o", str(output), "-q"]) == 0
        assert main(["run", str(raw.files[0]), "-o", str(output), "-q"]) == 2
        assert len(runs(output)) == 1
        assert main(["run", str(raw.files[0]), "-o", str(output), "-q", "--overwrite"]) == 0
    assert [record["status"] for record in runs(output)] == ["done", "done"]
    assert read_manifests(output)[0][raw.names[0]] == runs(output)[1]


@pytest.mark.parametrize("obstacle", ["runs.jsonl", "previews", "logs"])
def test_what_cannot_be_recorded_fails_no_reduction(raw, tmp_path, caplog, obstacle):
    if obstacle == "runs.jsonl":
        (tmp_path / obstacle).mkdir()
    else:
        (tmp_path / obstacle).write_text("a file, not a folder")
    with raw.cache.activate():
        assert main(["run", str(raw.files[0]), "-o", str(tmp_path), "-q"]) == 0
    assert obstacle in caplog.text
    assert len(list(tmp_path.glob("*_rate.fits"))) == 1
    others = {"runs.jsonl", "previews", "logs"} - {obstacle}
    assert all((tmp_path / other).exists() for other in others)


def test_several_runs_write_into_one_folder_at_once(raw, tmp_path):
    running = [start(raw, file, "-o", tmp_path) for file in raw.files]
    for process in running:
        _, err = process.communicate(timeout=HANG)
        assert process.returncode == 0, err
    assert sorted(record["exposure"] for record in runs(tmp_path)) == raw.names


def test_the_folder_of_a_running_batch_is_refused_before_anything_is_read(raw, tmp_path, capsys):
    with Manifest(tmp_path):
        with raw.cache.activate():
            assert main(["run", str(tmp_path / "none_uncal.fits"), "-o", str(tmp_path)]) == 2
        message = capsys.readouterr().err
    assert str(tmp_path) in message
    assert "a batch is running in this folder" in message
    assert "choose another output folder" in message
    assert "none_uncal.fits" not in message


def test_a_full_disk_is_told(raw, tmp_path, monkeypatch, capsys):
    fill_disk(monkeypatch, 2, "_rateints.fits")
    with raw.cache.activate():
        assert main(["run", str(raw.files[0]), "-o", str(tmp_path), "--backend", "numpy"]) == 2
    assert f"{tmp_path}: the disk is full (Not enough space on disk" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.fits")] == []
    assert [record["status"] for record in runs(tmp_path)] == ["failed"]


def test_products_that_appear_meanwhile_are_kept(raw, tmp_path):
    """Another process reduces the same file into the same folder, and is faster."""
    theirs = tmp_path / f"{raw.names[0]}_rateints.fits"

    def write_theirs(run, name):
        theirs.write_text("of the other process")

    request = {"profile": "jwst", "steps": {}, "use_pars": None, "pars": None}
    with raw.cache.activate():
        with pytest.raises(ProductExistsError, match=f"{theirs}: exists already; use --overwrite"):
            reduce_and_record(raw.files[0], tmp_path, backend="numpy", before_step=write_theirs, **request)
        assert theirs.read_text() == "of the other process"
        assert [path.name for path in tmp_path.glob("*.fits")] == [theirs.name]
        assert runs(tmp_path) == []
        reduce_and_record(raw.files[0], tmp_path, backend="numpy", overwrite=True, before_step=write_theirs, **request)
    assert theirs.stat().st_size > 2880
