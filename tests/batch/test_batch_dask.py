"""A batch on a Dask cluster: a scheduler and two workers in separate processes."""

import json
import os
import subprocess
import sys

import pytest

import gpucoron.batch
from gpucoron.errors import GpucoronError
from tests.cases.batches import HOME, Raw, products, records
from tests.cases.waiting import HANG, wait_for

pytest.importorskip("distributed", reason="Dask distributed is not installed: pip install 'gpucoron[dask]'")


@pytest.fixture
def cluster(tmp_path):
    """Start a scheduler and two workers; return the address of the scheduler."""
    raw = Raw(tmp_path, 4)
    file = tmp_path / "scheduler.json"
    # the workers have no CRDS settings: the jobs contain them
    common = {
        "env": {**os.environ, "PYTHONPATH": HOME},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": tmp_path,
    }
    scheduler = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        file,
    ]
    worker = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        "--scheduler-file",
        file,
        "--nthreads",
        "1",
        "--no-dashboard",
    ]
    processes = [subprocess.Popen([*map(str, scheduler), "--host", "127.0.0.1"], **common)]
    try:
        wait_for(lambda: file.exists() and file.stat().st_size)
        processes += [subprocess.Popen(list(map(str, worker)), **common) for _ in range(2)]
        yield raw, json.loads(file.read_text())["address"]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=HANG)


def test_the_same_on_dask(cluster, tmp_path):
    raw, address = cluster
    (raw.path / "jw01386099001_02101_00001_nrcalong_uncal.fits").write_bytes(raw.files[0].read_bytes()[:-30_000])
    with raw.cache.activate():
        results = list(
            gpucoron.batch.reduce(raw.path, tmp_path / "dask", backend="cpu", engine="dask", scheduler=address)
        )
        assert sorted(result.status for result in results) == ["done"] * 4 + ["failed"]
        again = gpucoron.batch.reduce(raw.path, tmp_path / "dask", backend="cpu", engine="dask", scheduler=address)
        assert [result.status for result in again] == ["failed"]
        list(gpucoron.batch.reduce(raw.path, tmp_path / "local", backend="cpu", workers=1))
    assert products(tmp_path / "dask") == products(tmp_path / "local")
    on_dask, local = ({one["exposure"]: one for one in records(tmp_path / folder)} for folder in ("dask", "local"))
    assert on_dask.keys() == local.keys()
    for exposure, record in on_dask.items():
        assert record.keys() == local[exposure].keys()
        for field in ("status", "outputs", "parameters_digest", "input_sha256", "flags", "context"):
            assert record[field] == local[exposure][field], field
    # the damaged file is refused where the batch was planned
    assert len({record["pid"] for record in on_dask.values() if record["status"] == "done"}) == 2


def test_no_scheduler_there(tmp_path, monkeypatch):
    import dask

    raw = Raw(tmp_path, 1)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        raw.cache.activate(),
        pytest.raises(GpucoronError, match="tcp://127.0.0.1:9 does not answer"),
    ):
        list(gpucoron.batch.reduce(raw.path, tmp_path / "o", engine="dask", scheduler="tcp://127.0.0.1:9"))
