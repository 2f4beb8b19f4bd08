"""The records of single runs: appended by several runs at once, read by reports, and not read by batches."""

import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest

from gpucoron.errors import OutputError
from gpucoron.records.manifest import FIELDS, Manifest, read_manifests, read_past, refuse_in_use
from gpucoron.records.runs import append_run
from tests.cases.batches import HOME
from tests.cases.records import make_record, write_manifest


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_records_of_many_runs_at_once_are_all_whole(tmp_path):
    def work(number):
        for turn in range(10):
            append_run(tmp_path, make_record(number, exposure=f"{number}-{turn}", target="x" * 5000), patience=60)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert all(list(line) == list(FIELDS) for line in lines)
    assert {line["exposure"] for line in lines} == {f"{number}-{turn}" for number in range(6) for turn in range(10)}
    assert len(lines) == 60
    assert names(tmp_path) == ["runs.jsonl"]


def test_a_line_that_a_crash_cut_off_is_removed(tmp_path):
    append_run(tmp_path, make_record(0))
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"exposure": "cut o')
    append_run(tmp_path, make_record(1))
    records, n_damaged = read_manifests(tmp_path)
    assert set(records) == {make_record(0)["exposure"], make_record(1)["exposure"]}
    assert n_damaged == 0


def test_a_file_that_another_run_keeps_locked(tmp_path):
    with (tmp_path / "runs.jsonl").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="runs.jsonl: another run has been writing for 0 s"):
            append_run(tmp_path, make_record(0), patience=0)


def test_the_report_takes_the_later_record_and_a_batch_only_its_own(tmp_path):
    early, late = "2026-03-01T11:00:00.000+00:00", "2026-03-01T12:00:00.000+00:00"
    of_batch = [make_record(0, finished=early), make_record(1, finished=late)]
    of_runs = [make_record(0, finished=late), make_record(1, finished=early), make_record(2, finished=early)]
    for record in of_runs:
        record["host"] = "of a run"
    write_manifest(tmp_path, of_batch)
    alone = read_past(tmp_path)
    write_manifest(tmp_path, of_runs, "runs.jsonl", ending="no record\n")
    assert read_past(tmp_path) == alone
    records, n_damaged = read_manifests(tmp_path)
    assert [records[record["exposure"]]["host"] for record in of_runs] == ["of a run", "node7", "of a run"]
    assert n_damaged == 1


HOLDER = """
import sys
from gpucoron.records.manifest import Manifest

with Manifest(sys.argv[1], (int(sys.argv[2]), int(sys.argv[3]))) as manifest:
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("shard", [(1, 1), (2, 3)])
def test_a_folder_in_use_is_refused_until_the_batch_ends(tmp_path, shard):
    command = [sys.executable, "-c", HOLDER, str(tmp_path), *map(str, shard)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONPATH": HOME}) as holder:
        try:
            assert holder.stdout.readline() == b"in\n"
            with pytest.raises(OutputError, match=f"{tmp_path}: a batch is running.*choose another output folder"):
                refuse_in_use(tmp_path)
        finally:
            holder.kill()
    before = sorted(names(tmp_path))
    refuse_in_use(tmp_path)
    assert sorted(names(tmp_path)) == before  # the manifests of the holder
    with Manifest(tmp_path, patience=0):  # no lock is left
        pass


def test_asking_creates_nothing(tmp_path):
    refuse_in_use(tmp_path)
    refuse_in_use(tmp_path / "none")
    assert names(tmp_path) == []
