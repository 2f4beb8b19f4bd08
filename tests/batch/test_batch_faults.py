"""A batch in real processes survives kills, a full disk and damaged files, and continues from there."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time

import psutil
import pytest

import gpucoron.batch
import gpucoron.batch.progress
from gpucoron.errors import OutputError
from gpucoron.records.manifest import Manifest
from tests.cases.batches import Raw, leftovers, products, records, wait_for_lines


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return Raw(tmp_path_factory.mktemp("faults"), 8)


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    """The products of a batch without faults, and its duration."""
    output = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    raw.run(output, "--workers", "2")
    seconds = time.monotonic() - start
    made = products(output)
    assert len(made) == 2 * len(raw.files)
    return made, seconds


def check_complete(raw, output, undisturbed):
    """Check that the results are as without faults, and that no exposure was reduced twice."""
    assert products(output) == undisturbed[0]
    assert leftovers(output) == []
    done = [record["exposure"] for record in records(output) if record["status"] == "done"]
    assert sorted(done) == raw.names


def workers_of(process):
    try:
        return [child for child in psutil.Process(process.pid).children() if "gpucoron.batch.job" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def test_killed_at_any_moment(raw, undisturbed, tmp_path, request):
    moments = random.Random(7)
    for number in range(request.config.getoption("--batch-kills")):
        output = tmp_path / str(number)
        process = raw.start(output, "--workers", "2")
        time.sleep(moments.uniform(0.1, 1.0) * undisturbed[1])
        workers = workers_of(process)
        process.kill()
        process.communicate()
        before = [record["exposure"] for record in records(output)] if output.exists() else []
        raw.run(output, "--workers", "2")
        assert not psutil.wait_procs(workers, timeout=5)[1], "a worker outlives its batch"
        check_complete(raw, output, undisturbed)
        assert [record["exposure"] for record in records(output)][: len(before)] == before
        shutil.rmtree(output)


def test_interrupted(raw, undisturbed, tmp_path):
    process = raw.start(tmp_path, "--workers", "2")
    wait_for_lines(tmp_path, 2, process)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=5)
    assert time.monotonic() - start < 5
    assert process.returncode == 130
    assert "Traceback" not in err
    assert leftovers(tmp_path) == []
    assert 2 <= len(records(tmp_path)) < len(raw.files)
    raw.run(tmp_path, "--workers", "2")
    check_complete(raw, tmp_path, undisturbed)


def test_killed_workers(raw, undisturbed, tmp_path):
    """One exposure loses its worker once, another one on every attempt."""
    once, always = raw.names[2], raw.names[5]
    killed = []

    def kill(process):
        while process.poll() is None:
            for worker in workers_of(process):
                try:
                    open_logs = {os.path.basename(file.path) for file in worker.open_files()}
                except psutil.Error:
                    continue
                for name in (once, always):
                    hit = f"{name}.log" in open_logs and worker.pid not in [pid for _name, pid in killed]
                    if hit and not (name == once and once in [other for other, _pid in killed]):
                        worker.kill()
                        killed.append((name, worker.pid))
            time.sleep(0.002)

    process = raw.start(tmp_path, "--workers", "1")
    killer = threading.Thread(target=kill, args=(process,))
    killer.start()
    _out, err = process.communicate(timeout=120)
    killer.join()
    assert [name for name, _pid in killed] == [once, always, always]
    assert process.returncode == 2
    found = {record["exposure"]: record for record in records(tmp_path)}
    assert sorted(found) == raw.names
    assert (found[once]["status"], found[once]["attempt"]) == ("done", 2)
    assert (found[always]["status"], found[always]["attempt"]) == ("failed", 2)
    assert found[always]["error"]["type"] == "WorkerDied"
    assert "SIGKILL" in found[always]["error"]["message"]
    assert always in err
    assert "SIGKILL" in err
    raw.run(tmp_path, "--workers", "1", "--retry-failed")
    check_complete(raw, tmp_path, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=480k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk(raw, undisturbed, small_disk):
    printed = raw.run(small_disk, "--workers", "2", expect=2)
    assert "the disk is full" in printed
    assert "make room" in printed
    assert leftovers(small_disk) == []
    whole = products(small_disk)
    done = [record for record in records(small_disk) if record["status"] == "done"]
    assert 0 < len(done) < len(raw.files)
    assert sorted(whole) == sorted(name for record in done for name in record["outputs"].values())
    assert all(undisturbed[0][name] == content for name, content in whole.items())
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    raw.run(small_disk, "--workers", "2")
    check_complete(raw, small_disk, undisturbed)


def test_damaged_inputs_among_good_ones(raw, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for path in raw.files[:3]:
        shutil.copy(path, folder)
    truncated = folder / raw.files[3].name
    truncated.write_bytes(raw.files[3].read_bytes()[:-30_000])
    (folder / "jw01386099001_02101_00001_nrcalong_uncal.fits").write_text("this is no FITS file")
    output = tmp_path / "out"
    printed = raw.run(output, "--workers", "1", paths=[folder], expect=2)
    found = {record["exposure"]: record for record in records(output)}
    assert sorted(record["status"] for record in found.values()) == ["done"] * 3 + ["failed"] * 2
    of_truncated = found[raw.files[3].name.removesuffix("_uncal.fits")]
    assert of_truncated["error"]["type"] == "InputError"
    assert "truncated" in of_truncated["error"]["message"]
    assert "download it again" in of_truncated["error"]["message"]
    assert "Traceback" in of_truncated["error"]["traceback"]
    assert "jw01386099001_02101_00001_nrcalong" in printed
    # once the file has been downloaded again
    shutil.copy(raw.files[3], truncated)
    raw.run(output, "--workers", "1", paths=[folder], expect=2)
    assert len(products(output)) == 8


def test_a_reference_that_vanishes_after_the_plan(tmp_path):
    """Workers look up references again, without a connection: each exposure reports its missing reference."""
    raw = Raw(tmp_path, 2)
    (gain,) = (raw.cache.path / "references").rglob("*gain*.fits")
    hidden = tmp_path / "gain.fits"

    class Thief(gpucoron.batch.progress.Silent):
        def planned(self, plan):
            shutil.move(gain, hidden)

    with raw.cache.activate():
        results = list(gpucoron.batch.reduce(raw.path, tmp_path / "out", backend="cpu", workers=1, progress=Thief()))
        assert [result.status for result in results] == ["failed", "failed"]
        assert all(gain.name in result.message for result in results)
        assert not products(tmp_path / "out")
        shutil.move(hidden, gain)
        results = list(gpucoron.batch.reduce(raw.path, tmp_path / "out", backend="cpu", workers=1))
    assert [result.status for result in results] == ["done", "done"]
    assert all(path.is_file() for result in results for path in result.outputs.values())


def test_a_second_batch_waits_for_the_first(raw, undisturbed, tmp_path):
    first = raw.start(tmp_path, "--workers", "2")
    wait_for_lines(tmp_path, 1, first)
    second = raw.start(tmp_path, "--workers", "2")
    printed = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert first.returncode == 0
    if second.returncode:  # the first batch was still running
        assert "another batch is running" in "".join(printed)
    check_complete(raw, tmp_path, undisturbed)


def test_a_batch_that_stays_is_not_waited_for(tmp_path):
    with (
        Manifest(tmp_path),
        pytest.raises(OutputError, match="another batch is running.*--shard"),
        Manifest(tmp_path, patience=0.2),
    ):
        pass
    with Manifest(tmp_path), pytest.raises(OutputError, match="at work"), Manifest(tmp_path, (1, 2), patience=0.2):
        pass
    with Manifest(tmp_path, (1, 2)), Manifest(tmp_path, (2, 2), patience=0.2):
        pass


def test_memory_stays_flat(tmp_path, request):
    count = request.config.getoption("--batch-many")
    raw = Raw(tmp_path, count)
    raw.run(tmp_path / "out", "--workers", "1")
    found = records(tmp_path / "out")
    assert len(found) == count
    assert len({record["pid"] for record in found}) == 1
    peaks = [record["peak_memory"] for record in found]
    early, late = max(peaks[5:15]), max(peaks[-10:])
    assert late <= 1.05 * early
