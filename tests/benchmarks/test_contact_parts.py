"""The parts of the first contact: what each compares, counts and saves."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.kernel_files import CUDA_SOURCES, instantiations
from tests.cases.backends import usable_backend
from tests.cases.paths import BENCHMARKS
from tests.stand_ins.fake_cupy import make_fake_cupy

sys.path.append(str(BENCHMARKS))

import bench_gpu
import contact_tests
import first_contact
from compare_arrays import compare, summarize
from contact_machine import compile_everything
from contact_part import SPOILED, Part, Wrong, read_record


@pytest.fixture
def part(tmp_path):
    return Part(tmp_path / "record.json", tmp_path, 100, 0, False)


def test_each_check_is_saved_at_once(part, tmp_path, capsys):
    def look(name, **figures):
        record = read_record(tmp_path / "record.json")
        assert record["running"] == name
        part.keep(**figures)

    assert part.check("one", lambda: look("one", a=1))
    assert read_record(tmp_path / "record.json")["figures"] == {"a": 1}

    def fail():
        look("two", b=2)
        raise Wrong("by 3")

    assert not part.check("two", fail)
    checks = read_record(tmp_path / "record.json")["checks"]
    assert [(check["name"], check["ok"], check["told"]) for check in checks] == [
        ("one", True, ""),
        ("two", False, "by 3"),
    ]
    assert "BAD  two" in capsys.readouterr().out
    # The next process repeats neither check.
    after = Part(tmp_path / "record.json", tmp_path, 100, 0, False)
    assert after.check("one", fail)
    assert not after.check("two", fail)
    assert after.figures == {"a": 1, "b": 2}


def test_a_comparison_is_right_wrong_or_not_done(part, tmp_path):
    part._backend = SimpleNamespace(name="numpy", to_host=lambda array: array)
    values = np.arange(1000, dtype=np.float32) + 1
    nearly = values * np.where(np.arange(1000) < 2, np.float32(1.1), np.float32(1))
    other = SimpleNamespace(name="other", to_host=lambda array: array)

    def run(backend):
        return {"rate": nearly if backend is other else values}

    assert part.compare("not done", run, None)
    assert part.compare("rounding", run, other, tolerance=0.1)
    assert not part.compare("wrong", run, other)
    assert not part.compare("of another kind", run, other, tolerance=0.1, made_by=lambda backend: {"rate": values[1:]})
    record = read_record(tmp_path / "record.json")
    assert [check["ok"] for check in record["checks"]] == [None, True, False, False]
    assert "g++" in record["checks"][0]["told"]
    assert record["figures"]["wrong"]["beyond"] == 2
    assert record["figures"]["wrong"]["against"] == "other"


def test_grossly_wrong_products_are_found():
    """Three rows of a large product."""
    good = {"rate rate": np.ones((400, 400), np.float32), "rate dq": np.zeros((400, 400), np.uint32)}
    bad = {name: array.copy() for name, array in good.items()}
    bad["rate rate"][:3], bad["rate dq"][:3] = 1e9, 1
    assert list(bench_gpu.find_differences(compare(bad, good, bench_gpu.RATE_TOLERANCE)))
    assert not list(bench_gpu.find_differences(compare(good, good, bench_gpu.RATE_TOLERANCE)))


def test_a_comparison_without_a_place_for_libraries_is_not_done(part, tmp_path):
    def refuse(backend):
        raise OSError(30, "Read-only file system")

    assert part.compare("clipped", refuse, SimpleNamespace(name="host"))
    # NumPy needs no libraries: for it this is an error.
    assert not part.compare("saturation", refuse, SimpleNamespace(name="numpy"))
    checks = read_record(tmp_path / "record.json")["checks"]
    assert [check["ok"] for check in checks] == [None, False]
    assert all("Read-only file system" in check["told"] for check in checks)


def make_run(tmp_path, *arguments):
    run = first_contact.Run(first_contact.parse(["--output", str(tmp_path), *arguments]), tmp_path)
    run.machine |= {"device": "A device", "commit": "abc1234"}
    return run


def test_an_earlier_run_keeps_its_results(tmp_path):
    paths = []
    for _ in range(3):
        run = make_run(tmp_path)
        for wrong in (1, 2):
            run.parts["steps"] = {"wrong": wrong}
            run.write()
        paths.append(run.path)
    assert [path.stem.partition("abc1234")[2] for path in paths] == ["", "-2", "-3"]
    assert [json.loads(path.read_text())["wrong"] for path in paths] == [2, 2, 2]
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_a_full_disk_is_counted_and_ends_nothing(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path)
    write_text = Path.write_text

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    run.write()
    assert run.n_wrong == 1
    run.summarize()
    assert "No space left on device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Path, "write_text", write_text)
    run.write()
    assert run.n_wrong == 0
    assert run.path.exists()


def test_failed_checks_override_the_status(tmp_path):
    def judge(status, *oks):
        checks = [{"name": "a", "ok": ok, "told": "", "seconds": 0} for ok in oks]
        found = {"checks": checks, "figures": {}, "running": None, "status": status}
        return make_run(tmp_path)._judge(found, 0, 9, 1, [])["status"]

    assert judge("absent", True) == "absent"
    assert judge("absent", True, False) == "wrong"
    assert judge(None, None, None) == "not done"
    assert judge(None, None, True) == "ok"


def test_half_a_line_of_outcomes_takes_nothing_with_it(part, tmp_path):
    outcomes = tmp_path / "outcomes.jsonl"
    line = json.dumps({"test": "test_a.py::test_b", "outcome": "failed", "told": "E   no"})
    outcomes.write_text(f"{line}\n{line[:20]}")
    assert contact_tests.keep_outcomes(part, outcomes) == {"failed": 1}
    (check,) = read_record(tmp_path / "record.json")["checks"]
    assert (check["name"], check["ok"]) == ("test_a.py::test_b", False)


#: results like those of compute-sanitizer: it detects the named fault, except when it checks the kernels
SANITIZER = """#!/bin/sh
case "$*" in
    *{found}*) echo "Invalid __global__ write; 1 hazard"; exit 66;;
esac
"""


def test_a_sanitizer_is_believed_only_if_it_finds_a_fault(tmp_path, monkeypatch):
    sanitizer, results = tmp_path / "compute-sanitizer", []
    monkeypatch.setattr("tests.tools.sanitize_gpu.find_sanitizer", lambda: str(sanitizer))
    # Patterns of the command for which it reports a fault: both faults; one of them; everything.
    for number, found in enumerate(('"py overrun"*|*"py race"', '"py overrun"', "exercise_kernels")):
        sanitizer.write_text(SANITIZER.format(found=found))
        sanitizer.chmod(0o755)
        record = tmp_path / f"{number}.json"
        contact_tests.run_sanitizers(Part(record, tmp_path, 100, 0, False))
        results.append([check["ok"] for check in read_record(record)["checks"]])
    assert results == [[True] * 4, [True, True, False, True], [True, False, True, False]]


def test_a_sanitizer_that_is_absent_is_no_fault(part, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.tools.sanitize_gpu.find_sanitizer", lambda: None)
    monkeypatch.setattr(contact_tests, "exercise", lambda part, backend: f"on {backend}")
    contact_tests.run_sanitizers(part)
    record = read_record(tmp_path / "record.json")
    assert record["status"] == "absent"
    assert [(check["ok"], check["told"]) for check in record["checks"]] == [(True, "on cuda")]


def test_a_process_whose_device_answers_no_more_ends(part, tmp_path, monkeypatch):
    class Ended(BaseException):
        pass

    def end(status):
        raise Ended(status)

    def synchronize():
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr("contact_part.os._exit", end)
    monkeypatch.setattr(
        "gpucoron.backends.get_backend", lambda name: SimpleNamespace(name=name, synchronize=synchronize)
    )
    with pytest.raises(Ended) as ended:
        part.check("a launch", part.backend.synchronize)
    assert ended.value.args == (SPOILED,)
    (check,) = read_record(tmp_path / "record.json")["checks"]
    assert check["ok"] is False
    assert "illegal memory access" in check["told"]


def test_kernels_are_compiled_once_and_loaded_whole(tmp_path, monkeypatch):
    cupy = make_fake_cupy(monkeypatch, tmp_path)
    monkeypatch.setattr("gpucoron.backends.get_backend", lambda name: get_backend("cuda", cupy=cupy))
    results = []
    for number in range(2):
        record = tmp_path / f"{number}.json"
        compile_everything(Part(record, tmp_path, 100, 0, False))
        results.append({check["name"]: check["told"] for check in read_record(record)["checks"]})
    assert set(results[0]) == {f"{source} is loaded" for source in CUDA_SOURCES}
    assert all(words.endswith("compiled") for words in results[0].values())
    assert all(words.endswith("from the cache") for words in results[1].values())
    assert len(cupy.loaded) == 2 * len(CUDA_SOURCES)
    assert f"{len(instantiations('jump.cu'))} functions" in results[0]["jump.cu is loaded"]


@pytest.mark.slow
def test_every_part_runs_over_the_stand_in_for_cupy(tmp_path, monkeypatch, request):
    """The benchmark scripts call CuPy correctly, as far as the real CuPy can check."""
    runner = usable_backend("host", request.config, n_threads=1)
    cupy = make_fake_cupy(monkeypatch, tmp_path, runner=runner)
    backend = get_backend("cuda", cupy=cupy)
    # Threads that wait for each other are real threads here.
    device, host = backend.device, runner.device
    device.block_threads, device.frame_threads = host.block_threads, host.frame_threads
    device.choose_lanes = host.choose_lanes
    watch(cupy, monkeypatch)
    results = {}
    for name in ("machine", "compile", "operations", "steps", "kernels", "chunks", "timing", "cpu"):
        part = Part(tmp_path / f"{name}.json", tmp_path, 1000, 0, True)
        part._backend = backend
        module, _, function = first_contact.PARTS[name].function.partition(":")
        getattr(import_module(module), function)(part)
        results[name] = read_record(tmp_path / f"{name}.json")
        assert [check for check in results[name]["checks"] if not check["ok"]] == []
    assert results["machine"]["figures"]["machine"]["nvrtc"] == [13, 0]
    assert results["machine"]["figures"]["machine"]["device"] == "Fake"
    for case in results["timing"]["figures"]["cases"].values():
        assert case["peak_memory_over_ramp"] > 0
        assert min(step["seconds"] for step in case["steps"].values()) > 0
    assert all(counts["against"] == "cuda" for counts in results["chunks"]["figures"].values())


def watch(cupy, monkeypatch):
    """Add the parts that only benchmarks use to the stand-in: its memory, and its versions."""

    taken = iter(range(0, 10**9, 1000))
    pool = SimpleNamespace(total_bytes=lambda: next(taken), free_bytes=lambda: 0, free_all_blocks=lambda: None)
    properties = {"name": b"Fake", "multiProcessorCount": 132, "totalGlobalMem": 2**40}
    monkeypatch.setattr(cupy, "get_default_memory_pool", lambda: pool)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda device: properties)
    for name in ("driverGetVersion", "runtimeGetVersion"):
        monkeypatch.setattr(cupy.cuda.runtime, name, lambda: 13000, raising=False)


def test_differences_are_counted():
    expected = {"rate": np.float32([1, 2, np.nan, 0.001]), "dq": np.uint32([0, 4, 1, 0])}
    found = {"rate": expected["rate"].copy(), "dq": expected["dq"].copy()}
    counts = compare(found, expected)
    assert summarize(counts) == "the same bits in 8 values"
    found["rate"][1] = np.nextafter(found["rate"][1], np.float32(3))
    assert compare(found, expected)["beyond"] == 1
    counts = compare(found, expected, 2e-7)
    assert (counts["different_bits"], counts["beyond"], counts["where"]) == (1, 0, [])
    assert counts["largest"] == pytest.approx(2**-23)
    found["dq"][1] |= 1
    found["rate"][0] = np.nan
    found["rate"][3] = 0.002
    counts = compare(found, expected, 2e-7, {"rate": 0.1})
    assert (counts["different_flags"], counts["different_nan"], counts["beyond"]) == (1, 1, 1)
    assert counts["largest"] == pytest.approx(0.01)
    assert counts["where"] == ["dq", "rate"]
    found["rate"][3] = np.inf
    assert compare(found, expected, 1e9)["beyond"] == 1
    found = {"rate": expected["rate"].astype(np.float64)}
    assert compare(found, expected)["unlike"] == ["dq on one side only", "rate: float64(4,) for float32(4,)"]


def test_every_kernel_of_a_gpu_is_checked(monkeypatch, tmp_path):
    """A kernel without a check of its own would run on a GPU for the first time in a user's reduction."""
    contact_answers, launched = import_module("contact_answers"), set()
    backend = get_backend("host", n_threads=1)
    launch = backend.device.launch
    monkeypatch.setattr(
        backend.device, "launch", lambda name, *arguments: (launched.add(name), launch(name, *arguments))
    )
    part = SimpleNamespace(rehearse=True, scratch=tmp_path, compare=lambda name, run, *options: run(backend))
    contact_answers.check_steps(part)
    contact_answers.check_operations(part)
    of_gpu = {kernel.name for source in CUDA_SOURCES for kernel, _ in instantiations(source)}
    assert of_gpu <= launched, of_gpu - launched
