"""A batch in real processes survives kills, a full disk and damaged files, and continues from there."""

import random
import shutil
import signal
import subprocess

import psutil
import pytest

import gpucoron.batch
import gpucoron.batch.progress
from gpucoron.errors import OutputError
from gpucoron.records.manifest import Manifest
from tests.cases.batches import Raw, count_lines, leftovers, products, records, wait_for_lines
from tests.cases.waiting import HANG, wait_for


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return Raw(tmp_path_factory.mktemp("faults"), 8)


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    """The products of a batch without faults."""
    output = tmp_path_factory.mktemp("undisturbed")
    raw.run(output, "--workers", "2")
    made = products(output)
    assert len(made) == 2 * len(raw.files)
    return made


def check_complete(raw, output, undisturbed):
    """Check that the results are as without faults, and that no exposure was reduced twice."""
    assert products(output) == undisturbed
    assert leftovers(output) == []
    done = [record["exposure"] for record in records(output) if record["status"] == "done"]
    assert sorted(done) == raw.names


def workers_of(process):
    try:
        return [child for child in psutil.Process(process.pid).children() if "gpucoron.batch.job" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def draw_moment(rng):
    """Draw the moment at which a batch of eight exposures is killed, as a function of its process and folder."""
    kind, number = rng.choice(["workers", "placing", "ended"]), rng.randint(1, 7)
    if kind == "workers":
        return lambda process, output: workers_of(process)
    return lambda process, output: count_lines(output, kind) >= number


def test_killed_at_any_moment(raw, undisturbed, tmp_path, request):
    rng = random.Random(7)
    for number in range(request.config.getoption("--batch-kills")):
        output = tmp_path / str(number)
        process = raw.start(output, "--workers", "2")
        has_come = draw_moment(rng)
        wait_for(lambda: has_come(process, output) or process.poll() is not None)  # noqa: B023 - called at once
        workers = workers_of(process)
        process.kill()
        process.communicate()
        before = [record["exposure"] for record in records(output)] if output.exists() else []
        raw.run(output, "--workers", "2")
        assert not psutil.wait_procs(workers, timeout=HANG)[1], "a worker outlives its batch"
        check_complete(raw, output, undisturbed)
        assert [record["exposure"] for record in records(output)][: len(before)] == before
        shutil.rmtree(output)


#: a module that every Python process imports at its start: workers call `before` with the name of each exposure
STARTUP = """
import os, signal, sys
from pathlib import Path

{before}

if "gpucoron.batch.job" in sys.orig_argv:
    import gpucoron.engine
    reduce_file = gpucoron.engine.reduce_file

    def reduce_after(path, *arguments, **options):
        before(Path(path).name.removesuffix("_uncal.fits"))
        return reduce_file(path, *arguments, **options)

    gpucoron.engine.reduce_file = reduce_after
"""
HOLD = """
def before(name):
    if name in {held!r}:
        signal.pause()
"""
DIE = """
def before(name):
    deaths = Path({log!r}).read_text().split()
    if name == {always!r} or (name == {once!r} and name not in deaths):
        Path({log!r}).write_text(" ".join([*deaths, name]))
        os.kill(os.getpid(), signal.SIGKILL)
"""


def write_startup(folder, before):
    """Write the code that workers run before each exposure into a folder of modules; return the folder."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(STARTUP.format(before=before))
    return folder


def test_interrupted(raw, undisturbed, tmp_path):
    """A batch that is interrupted ends at once, whatever its workers do; the next one continues."""
    output, folder = tmp_path / "out", write_startup(tmp_path / "startup", HOLD.format(held=raw.names[3:]))
    process = raw.start(output, "--workers", "2", folders=[folder])
    wait_for_lines(output, process, 3)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert leftovers(output) == []
    assert sorted(record["exposure"] for record in records(output)) == raw.names[:3]
    raw.run(output, "--workers", "1")
    check_complete(raw, output, undisturbed)


def test_killed_workers(raw, undisturbed, tmp_path):
    """One exposure loses its worker once, another one on every attempt."""
    once, always = raw.names[2], raw.names[5]
    output, log = tmp_path / "out", tmp_path / "deaths"
    log.write_text("")
    folder = write_startup(tmp_path / "startup", DIE.format(once=once, always=always, log=str(log)))
    process = raw.start(output, "--workers", "1", folders=[folder])
    _out, err = process.communicate(timeout=HANG)
    assert log.read_text().split() == [once, always, always]
    assert process.returncode == 2
    found = {record["exposure"]: record for record in records(output)}
    assert sorted(found) == raw.names
    assert (found[once]["status"], found[once]["attempt"]) == ("done", 2)
    assert (found[always]["status"], found[always]["attempt"]) == ("failed", 2)
    assert found[always]["error"]["type"] == "WorkerDied"
    assert "SIGKILL, perhaps because memory ran out" in found[always]["error"]["message"]
    assert always in err
    assert "SIGKILL" in err
    raw.run(output, "--workers", "1", "--retry-failed")
    check_complete(raw, output, undisturbed)


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
    assert "free disk space" in printed
    assert leftovers(small_disk) == []
    whole = products(small_disk)
    done = [record for record in records(small_disk) if record["status"] == "done"]
    assert 0 < len(done) < len(raw.files)
    assert sorted(whole) == sorted(name for record in done for name in record["outputs"].values())
    assert all(undisturbed[name] == content for name, content in whole.items())
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    raw.run(small_disk, "--workers", "1")
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
    wait_for_lines(tmp_path, first, 1)
    second = raw.start(tmp_path, "--workers", "2")
    printed = second.communicate(timeout=HANG)
    first.communicate(timeout=HANG)
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
    with Manifest(tmp_path), pytest.raises(OutputError, match="is running"), Manifest(tmp_path, (1, 2), patience=0.2):
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
