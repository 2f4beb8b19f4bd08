"""Workers that start while a batch is planned: who uses them, and that none is left without work."""

import json
import os
import subprocess
import sys

import pytest

import gpucoron.batch
from gpucoron.batch import pool, processes
from gpucoron.errors import InputError, ReferenceFileError
from tests.cases.batches import Raw, records


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    raw = Raw(tmp_path_factory.mktemp("start"), 3)
    with raw.cache.activate():
        yield raw


@pytest.fixture
def early(monkeypatch):
    """The workers that were started early."""
    workers = []
    original = processes.start_workers

    def start(options, descriptors):
        made = original(options, descriptors)
        workers.extend(made)
        return made

    monkeypatch.setattr(processes, "start_workers", start)
    return workers


def reduce(raw, output, **options):
    return list(gpucoron.batch.reduce(raw.path, output, backend="cpu", **options))


def pids(output):
    return {record["pid"] for record in records(output)}


def test_they_do_the_work(raw, early, tmp_path):
    assert [result.status for result in reduce(raw, tmp_path, workers=2)] == ["done"] * 3
    assert len(early) == 2
    assert pids(tmp_path) <= {worker.process.pid for worker in early}
    assert all(worker.process.returncode is not None for worker in early)
    assert reduce(raw, tmp_path, workers=2) == []
    assert len(early) == 2, "there was nothing to do"
    # one exposure is new: it needs one process, even if more are allowed
    manifest = tmp_path / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(line for line in lines if raw.names[0] not in line))
    for product in tmp_path.glob(f"{raw.names[0]}_*.fits"):
        product.unlink()
    assert len(reduce(raw, tmp_path, workers=2)) == 1
    assert len(early) == 3


def test_a_plan_that_fails_leaves_none(raw, early, tmp_path, monkeypatch):
    import gpucoron.engine  # now, because imported while the context is replaced, it would keep the replacement

    def fail():
        msg = "no context"
        raise ReferenceFileError(msg)

    with monkeypatch.context() as patch, pytest.raises(ReferenceFileError, match="no context"):
        patch.setattr("gpucoron.io.crds_lookup.crds_context", fail)
        reduce(raw, tmp_path, workers=2)
    assert len(early) == 2
    assert all(worker.process.returncode is not None for worker in early)
    with pytest.raises(InputError):
        list(gpucoron.batch.reduce(tmp_path / "absent", tmp_path, workers=2))
    assert len(early) == 2
    # and none of them keeps the lock
    assert [result.status for result in reduce(raw, tmp_path, workers=1)] == ["done"] * 3


def test_those_with_other_threads_are_not_taken(raw, early, tmp_path, monkeypatch):
    """One worker with all cores was expected; the plan needs two that share them."""
    monkeypatch.setattr("gpucoron.backends.tiles.available_cores", lambda: 2)
    monkeypatch.setattr("gpucoron.backends.process_memory.free_memory", lambda: 4e9)
    monkeypatch.setattr(pool, "guess_memory", lambda files: 3e9)
    assert [result.status for result in reduce(raw, tmp_path)] == ["done"] * 3
    assert [worker.n_threads for worker in early] == [2]
    assert early[0].process.returncode is not None
    assert early[0].process.pid not in pids(tmp_path)


SCRIPT = """
import json, os, sys
from gpucoron.batch.job import reduce_job
import gpucoron.engine
from gpucoron.io.warm_up import warm_up

warm_up()

print(reduce_job(json.loads(sys.argv[1]))["status"])
"""


def test_a_warm_worker_uses_the_cache_of_its_job(raw, tmp_path):
    """CRDS was imported while its variables pointed elsewhere."""
    job = {
        "path": str(raw.files[0]), "stage": str(tmp_path / "stage"), "log": str(tmp_path / "log"), "attempt": 1,
        "record_fields": {"exposure": "one"}, "profile": "jwst", "steps": {}, "run_parameters": {}, "backend": "cpu",
        "backend_options": {}, "environment": raw.cache.environment,
    }  # fmt: skip
    elsewhere = {
        "CRDS_PATH": str(tmp_path / "empty"),
        "CRDS_SERVER_URL": "https://localhost:9",
        "CRDS_CONTEXT": "jwst_0001.pmap",
        "CRDS_READONLY_CACHE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(job)],
        env={**raw.environment(), **elsewhere},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "done\n", done.stderr + (tmp_path / "log").read_text()
    assert not os.path.exists(tmp_path / "empty")
