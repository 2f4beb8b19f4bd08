"""An exposure larger than the memory: its ramps are in a file, peak memory is bounded, and results are the same."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpucoron
from gpucoron.backends import chunks, get_backend, process_memory
from gpucoron.backends.devices.numpy_device import ScratchFiles
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations import OPERATIONS
from gpucoron.backends.process_memory import anonymous_memory, free_memory
from gpucoron.dq import JUMP_DET, SATURATED
from gpucoron.errors import OutputError
from gpucoron.simulate import Effects
from tests.cases.batches import HOME
from tests.cases.jump import simulate as simulate_jumps
from tests.cases.parity_edits import saturate_at_borders, several_jumps
from tests.cases.pipelines import SLOPE_ARRAYS

#: arguments of simulated exposures whose ramps exceed the memory limit, and how they are reduced
PEAKS = {
    "MIRI": (
        ("MIRI", "MASK1550", "FASTR1", 30, 12),
        {"effects": Effects(emi=True)},
        {"steps": {"emicorr": {"skip": False}, "ramp_fit": {"save_opt": True}}},
    ),
    "NIRCam": (
        ("NIRCAM", "SUB320A335R", "RAPID", 20, 12),
        {},
        {"profile": "spaceklip", "stage_1overf": "groups", "steps": {"subtract_1overf": {"model_type": "median"}}},
    ),
    "NIRCam with kriging": (
        ("NIRCAM", "SUB320A335R", "RAPID", 20, 12),
        {},
        {"profile": "spaceklip", "stage_1overf": "groups", "steps": {"subtract_1overf": {"model_type": "kriging"}}},
    ),
}
#: bytes in addition to the loaded libraries: references, products and the smallest chunks need about 110 MB of these
ROOM = 125_000_000


def measure(exposures, folder, name):
    """Reduce a case under a limit in a new process; see measure_memory.py."""
    arguments, more, options = PEAKS[name]
    small = exposures(*arguments[:3], 10, 3, **more)
    large = exposures(*arguments, **more)
    command = [sys.executable, Path(__file__).with_name("measure_memory.py"), small.path, large.path, folder]
    done = subprocess.run(
        [*map(str, command), str(ROOM), json.dumps(options)],
        env={**os.environ, "PYTHONPATH": HOME},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(anonymous_memory() == 0, reason="the system does not tell anonymous memory")
@pytest.mark.parametrize("name", PEAKS)
def test_the_peak_stays_within_the_limit(exposures, tmp_path, name):
    measured = measure(exposures, tmp_path, name)
    assert measured["in_chunks"] == [True, False]
    assert measured["different"] == []
    assert measured["peak"] <= 1.1 * measured["limit"], measured
    assert not any("at least" in words for words in measured["words"]), measured["words"]
    # Otherwise there was nothing to limit.
    assert measured["unlimited_peak"] > 1.1 * measured["limit"], measured


def test_a_limit_that_is_too_small_is_reported_and_does_not_change_the_result(exposures, tmp_path, caplog):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 40))
    with case.cache.activate():
        _run, whole, _ = gpucoron.reduce_file(case.path, tmp_path / "a", backend="cpu")
        run, limited, _ = gpucoron.reduce_file(case.path, tmp_path / "b", backend="cpu", max_memory=10_000_000)
    assert isinstance(run.backend.home, ScratchFiles)
    for product in ("rate", "rateints"):
        for name in SLOPE_ARRAYS:
            np.testing.assert_array_equal(getattr(limited[product], name), getattr(whole[product], name), err_msg=name)
    assert not [path for path in (tmp_path / "b").iterdir() if path.name.startswith(".")]
    match = re.search(r"max_memory \(--max-memory\) is 10 MB, but this exposure needs at least (\d+) MB", caplog.text)
    assert match
    assert int(match[1]) > 30


def test_a_sufficient_limit_is_not_mentioned(exposures, tmp_path, caplog):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 40))
    with case.cache.activate():
        gpucoron.reduce_file(case.path, tmp_path, backend="cpu", max_memory=10_000_000_000)
    assert "max_memory" not in caplog.text


def saturating_jumps(simulation):
    several_jumps(simulation)
    saturate_at_borders(simulation)


#: operation that needs neighbouring rows -> the step's parameter with which it needs none
NO_HALO = {"flag_saturation": ("saturation", "n_pix_grow_sat", 0), "search_jumps": ("jump", "flag_4_neighbors", False)}


def test_all_that_look_at_rows_around_a_chunk_are_known():
    usual = Operation.__dataclass_fields__["halo"].default
    assert {each.name for each in OPERATIONS if each.halo is not usual} == set(NO_HALO)


@pytest.mark.parametrize("rows", [1, 3])
def test_no_rows_around_a_chunk(exposures, tmp_path, monkeypatch, rows):
    """The ramps are in a scratch file."""
    case = exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2, shape=(12, 16), edit=saturating_jumps)
    monkeypatch.setattr(chunks.Loop, "fitting", lambda self, budget: rows)
    monkeypatch.setattr(chunks, "works_in_place", lambda *_: False)
    steps, found = {step: {name: value} for step, name, value in NO_HALO.values()}, {}
    with case.cache.activate():
        for limit in (None, 1_000_000):
            backend = get_backend("numpy", max_memory=limit, scratch_dir=tmp_path)
            run, found[limit], _ = gpucoron.reduce_file(
                case.path, tmp_path, steps=steps, backend=backend, save_results=False
            )
            assert run.backend.is_in_chunks is (limit is not None)
    for product, model in found[None].items():
        for name in SLOPE_ARRAYS:
            limited = getattr(found[1_000_000][product], name)
            np.testing.assert_array_equal(limited, getattr(model, name), err_msg=f"{product} {name}")
        assert (model.dq & JUMP_DET).any() and (model.dq & SATURATED).any()


@pytest.mark.parametrize("name", ["numpy", "native"])
@pytest.mark.parametrize("mode", ["one after the other", "in one pass", "by clipping"])
@pytest.mark.parametrize("in_place", [True, False])
def test_operations_on_a_file(tmp_path, monkeypatch, name, mode, in_place):
    """In place, if the memory is enough for everything but the ramps, otherwise in chunks that are copied."""
    loops, init = [], chunks.Loop.__init__
    monkeypatch.setattr(chunks.Loop, "__init__", lambda self, *given: [loops.append(given), init(self, *given)][1])
    options = {"one after the other": {"min_diffs_single_pass": 99}, "by clipping": {"minimum_sigclip_groups": 3}}
    data, groupdq, gain, readnoise = simulate_jumps(np.random.default_rng(4), (3, 34, 23, 12))
    expected = groupdq.copy()
    whole = get_backend(name, n_threads=2, scratch_dir=tmp_path)
    count = whole.detect_jumps(data, expected, gain, readnoise, **options.get(mode, {}))
    backend = whole.in_chunks(10**9)
    backend.budget = 10**7 if in_place else 10_000
    ramps = backend.empty(data.shape, np.float32), backend.empty(data.shape, np.uint8)
    ramps[0][...], ramps[1][...] = data, groupdq
    assert backend.detect_jumps(*ramps, gain, readnoise, **options.get(mode, {})) == count > 0
    np.testing.assert_array_equal(ramps[1], expected)
    wanted = whole.fit_ktc(data, expected, gain * 1e4, group_time=2.0)
    for ours, theirs in zip(backend.fit_ktc(*ramps, gain * 1e4, group_time=2.0), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert bool(loops) is not in_place
    assert not list(tmp_path.iterdir())


def test_ramps_in_files_are_plain_arrays_of_unlinked_files(tmp_path):
    files = ScratchFiles(scratch_dir=tmp_path)
    ramp, image = files.zeros((5, 7, 64, 100), np.float32), files.zeros((64, 100), np.float32)
    assert type(ramp) is np.ndarray
    assert ramp.flags.writeable and ramp.flags.c_contiguous
    assert not ramp.any() and not image.any()
    ramp += np.random.default_rng(1).normal(size=ramp.shape)
    copied = files.copy(ramp)
    copied[2] -= 1
    np.testing.assert_array_equal(copied[1], ramp[1])
    assert (copied[2] < ramp[2]).all()
    assert not list(tmp_path.iterdir())
    before = anonymous_memory()
    large = files.zeros((4, 20, 512, 512), np.float32)
    large += 1
    assert anonymous_memory() - before < large.nbytes / 4


def test_a_full_disk_is_reported(tmp_path):
    with pytest.raises(OutputError, match="no room for a scratch file of .* GB"):
        ScratchFiles(scratch_dir=tmp_path).empty((10**6, 10**4, 64, 100), np.float32)


def test_free_memory():
    import psutil

    assert 0 < free_memory() <= psutil.virtual_memory().total


def test_without_psutil_memory_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(process_memory, "_CGROUPS", ())
    assert free_memory() is None
    assert anonymous_memory() == 0


def test_the_memory_of_an_ended_process_is_unknown():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert anonymous_memory(process.pid) == 0


def test_the_limit_of_a_cgroup_counts(monkeypatch, tmp_path):
    """Pages of files are reclaimable, so they do not count as used."""
    files = {"max": "1000", "current": "700", "stat": "anon 500\nactive_file 150\ninactive_file 50\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    group = (*(str(tmp_path / name) for name in ("max", "current", "stat")), "")
    monkeypatch.setattr(process_memory, "_CGROUPS", (group,))
    assert free_memory() == 500
    (tmp_path / "max").write_text("max\n")
    assert free_memory() > 1000


def test_the_peak_can_be_reset():
    process_memory.reset_peak_memory()
    before = process_memory.peak_memory()
    block = np.ones(50_000_000, np.uint8)
    assert process_memory.peak_memory() > before + 40_000_000
    del block
    if Path("/proc/self/clear_refs").exists():
        process_memory.reset_peak_memory()
        assert process_memory.peak_memory() < before + 40_000_000
