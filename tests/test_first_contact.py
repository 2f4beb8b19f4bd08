"""The first contact with a GPU, rehearsed as on a bare machine; what is wrong there is counted, whatever it does."""

import json
import re
import shutil
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bare_machine import make_environment, run_script
from conftest import usable_backend
from fake_cupy import make_fake_cupy

import gpucoron
from gpucoron.backends.cuda_backend import CudaBackend
from gpucoron.backends.kernel_sources import SOURCES, instantiations

ROOT = Path(gpucoron.__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"

sys.path.append(str(BENCHMARKS))

import contact_tests  # noqa: E402
import first_contact  # noqa: E402
from compare_arrays import compare, tell  # noqa: E402
from contact_machine import compile_everything  # noqa: E402
from contact_part import SPOILED, Part, Wrong, read_record  # noqa: E402


def rehearse(tmp_path, root, *options):
    """Rehearse on a bare machine; return the exit status, what was printed, and the one JSON file's content."""
    environment = make_environment(tmp_path / "site") | {"GPUCORON_COMMIT": "abc1234"}
    output = tmp_path / "output"
    status, printed = run_script(
        environment, root / "benchmarks" / "first_contact.py", "--rehearse", "--output", output, *options
    )
    (path,) = output.iterdir()
    return status, printed, path, json.loads(path.read_text())


# --------------------------------------------------------------------------------------------------------- everything


@pytest.mark.slow
def test_a_rehearsal_finds_nothing_wrong_and_measures_everything(tmp_path, request):
    usable_backend("host", request.config)
    status, printed, path, told = rehearse(tmp_path, ROOT)
    assert status == 0, printed[-6000:]
    assert told["wrong"] == 0
    assert list(told["parts"]) == list(first_contact.PARTS)
    assert {part["status"] for part in told["parts"].values()} == {"ok"}
    for name, part in told["parts"].items():
        assert part["budget"] > part["seconds"] > 0
        assert part["checks"], name
        assert all({"name", "ok", "told", "seconds"} == set(check) for check in part["checks"])
        assert f"\n== {name}: " in printed

    machine, figures = told["machine"], {name: part["figures"] for name, part in told["parts"].items()}
    assert machine["backend"] == "host"
    assert re.fullmatch(rf"{machine['date'][:10]}-first-contact-host-{machine['commit']}\.json", path.name)
    here = figures["machine"]["here"]
    assert {name for name, is_here in here.items() if is_here} - {"compute-sanitizer"} == {"pytest", "g++"}

    sources = {check["name"].removesuffix(" is loaded") for check in told["parts"]["compile"]["checks"]}
    assert sources == set(SOURCES)
    assert figures["operations"]["microseconds"]
    for name in ("operations", "steps", "kernels", "chunks"):
        for check in told["parts"][name]["checks"]:
            if check["name"] != "the cost of an operation":
                counts = figures[name][check["name"]]
                assert counts["values"] > 0
                assert counts["different_flags"] == counts["different_nan"] == counts["beyond"] == 0
    assert figures["steps"]["default steps, 105 integrations"]["against"] == "host"
    assert figures["kernels"]["jumps, clipped over all groups"]["against"] == "host"
    for name, case in figures["timing"]["cases"].items():
        assert figures["timing"]["copy_bytes_per_second"] > 0
        for step in ("saturation", "linearity", "jump", "ramp_fit"):
            assert case["steps"][step]["seconds"] > 0
            assert case["steps"][step]["wall_seconds"] > 0
            floor = case["steps"][step]["bytes"] / figures["timing"]["copy_bytes_per_second"]
            assert case["steps"][step]["floor_seconds"] == pytest.approx(floor)
        assert case["kernels"]["search_jumps"]["launches"] == 1
        assert min(case[way]["bytes_per_second"] for way in ("read_alone", "upload", "download")) > 0
        cpu = figures["cpu"]["cases"][name]
        assert set(cpu["steps"]) == set(case["steps"])
        assert cpu["differences"]["different_bits"] == 0
    outcomes = figures["tests"]["outcomes"]
    assert set(outcomes) == {"passed", "skipped"}
    assert outcomes["passed"] > 200
    assert "hypothesis is not installed on this machine" in figures["tests"]["skipped"]
    assert all(reason.endswith("is not installed on this machine") for reason in figures["tests"]["skipped"])


# ------------------------------------------------------------------------------------------------- what must be counted


def copy_tree(folder):
    """Copy what the script needs, to break it."""
    for name in ("gpucoron", "kernels", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results", "data"))
    return folder


def edit(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name}: {before!r}"
    path.write_text(text.replace(before, after))


@pytest.mark.slow
def test_whatever_goes_wrong_is_counted_and_the_rest_goes_on(tmp_path, request):
    """A kernel that is wrong, one that kills its process, one that does not compile, and a part that hangs."""
    usable_backend("host", request.config)
    root = copy_tree(tmp_path / "tree")
    break_kernels(root / "kernels")
    edit(
        root / "benchmarks" / "contact_machine.py",
        'part.check("the cost of an operation", ',
        'part.check("a check that hangs", lambda: time.sleep(1000))\n    part.check("the cost of an operation", ',
    )
    parts = ("machine", "compile", "operations", "kernels", "chunks")
    status, printed, _, told = rehearse(tmp_path, root, "--parts", *parts, "--budget", "operations=12")
    assert list(told["parts"]) == list(parts)
    wrong = {
        name: {check["name"]: check["told"] for check in part["checks"] if check["ok"] is False}
        for name, part in told["parts"].items()
    }

    assert set(wrong["compile"]) == {"flicker.cu is loaded"}
    assert "flicker.cu" in wrong["compile"]["flicker.cu is loaded"]
    assert len(told["parts"]["compile"]["checks"]) == len(SOURCES)

    operations = told["parts"]["operations"]
    assert operations["status"] == "cut after 12 s, in 'a check that hangs'"
    assert operations["wrong"] == 1
    # What was measured before is there, and where it hung was printed.
    assert operations["figures"]["medians"]["values"] > 0
    assert any("contact_machine.py" in line for line in operations["printed"])

    kernels = told["parts"]["kernels"]
    assert kernels["status"] == "wrong"
    assert {name for name in wrong["kernels"] if not name.startswith("1/f")} == {"emicorr", "kTC: pedestals and slopes"}
    assert "SIGSEGV" in wrong["kernels"]["emicorr"]
    assert "beyond the tolerance (in mean slope, pedestal)" in wrong["kernels"]["kTC: pedestals and slopes"]
    # The process that died was followed by another, which did not begin anew.
    names = [check["name"] for check in kernels["checks"]]
    assert names.index("emicorr") < names.index("likelihood, sound")
    assert len(names) == len(set(names))
    assert kernels["figures"]["likelihood, sound"]["values"] > 0

    assert told["parts"]["chunks"]["status"] == "ok"
    assert status == told["wrong"] == sum(map(len, wrong.values())) + 1
    for name in ("emicorr", "flicker.cu is loaded", "kTC: pedestals and slopes"):
        assert name in printed[printed.index(" wrong in ") :]


def break_kernels(folder):
    edit(folder / "pedestal.cu", "line.at_zero(per_group);", "line.at_zero(per_group) * 1.001;")
    edit(folder / "emicorr.cu", "float mean = ramp[0];", "float mean = ramp[int64(1) << 45];")
    edit(folder / "flicker.cu", "namespace gpucoron {", "namespace gpucoron { int no_semicolon")


def test_without_a_device_nothing_is_tried(tmp_path):
    environment = make_environment(tmp_path / "site") | {"CUDA_VISIBLE_DEVICES": ""}
    status, printed = run_script(environment, BENCHMARKS / "first_contact.py", "--output", tmp_path / "output")
    assert status == 1, printed
    (path,) = (tmp_path / "output").iterdir()
    told = json.loads(path.read_text())
    assert list(told["parts"]) == ["machine"]
    (check,) = told["parts"]["machine"]["checks"]
    assert "backend 'cuda' cannot run here" in check["told"]
    assert "no other part can run" in printed


def test_options_that_cannot_be_meant_are_refused(tmp_path, capsys):
    for arguments, words in (
        (["--rehearse"], "needs --output"),
        (["--budget", "everything=3"], "no part 'everything'"),
        (["--parts", "everything"], "invalid choice"),
    ):
        with pytest.raises(SystemExit) as ended:
            first_contact.parse(arguments)
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
    options = first_contact.parse(["--parts", "timing", "machine", "--output", str(tmp_path)])
    assert options.parts == ["machine", "timing"]


def test_budgets_fill_the_time_and_long_parts_take_what_is_left(monkeypatch, tmp_path):
    assert sum(plan.budget for plan in first_contact.PARTS.values()) == first_contact.DEADLINE < 540
    now = 1000.0
    monkeypatch.setattr(first_contact.time, "time", lambda: now)
    run = first_contact.Run(first_contact.parse(["--output", str(tmp_path), "--budget", "cpu=7"]), tmp_path)
    budgets = {name: plan.budget for name, plan in first_contact.PARTS.items()}
    assert run.seconds_for("timing") == budgets["timing"]
    assert run.seconds_for("cpu") == 7
    # All later parts keep theirs.
    assert run.seconds_for("tests") == first_contact.DEADLINE - budgets["sanitizers"]
    now += first_contact.DEADLINE - 20
    assert run.seconds_for("timing") == run.seconds_for("tests") == 20


# ------------------------------------------------------------------------------------------------------------- one part


@pytest.fixture
def part(tmp_path):
    return Part(tmp_path / "record.json", tmp_path, 100, 0, False)


def test_each_check_is_kept_as_soon_as_it_is_made(part, tmp_path, capsys):
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
    # The process that comes after this one makes neither again.
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
    assert part.compare("two of a thousand", run, other, ties=2e-3)
    assert not part.compare("wrong", run, other, ties=1e-3)
    assert not part.compare("of another kind", run, other, tolerance=0.1, made_by=lambda backend: {"rate": values[1:]})
    record = read_record(tmp_path / "record.json")
    assert [check["ok"] for check in record["checks"]] == [None, True, True, False, False]
    assert "g++" in record["checks"][0]["told"]
    assert record["figures"]["wrong"]["beyond"] == 2
    assert record["figures"]["wrong"]["against"] == "other"


#: answers as compute-sanitizer does: it finds the fault that is named, unless it is asked about the kernels
SANITIZER = """#!/bin/sh
case "$*" in
    *{found}*) echo "Invalid __global__ write; 1 hazard"; exit 66;;
esac
"""


def test_a_sanitizer_is_believed_only_if_it_finds_a_fault(tmp_path, monkeypatch):
    sanitizer, told = tmp_path / "compute-sanitizer", []
    monkeypatch.setattr("sanitize_gpu.find_sanitizer", lambda: str(sanitizer))
    # Patterns of the command in which it finds a fault: both faults; one of them; everything.
    for number, found in enumerate(('"py overrun"*|*"py race"', '"py overrun"', "exercise_kernels")):
        sanitizer.write_text(SANITIZER.format(found=found))
        sanitizer.chmod(0o755)
        record = tmp_path / f"{number}.json"
        contact_tests.run_sanitizers(Part(record, tmp_path, 100, 0, False))
        told.append([check["ok"] for check in read_record(record)["checks"]])
    assert told == [[True] * 4, [True, True, False, True], [True, False, True, False]]


def test_a_sanitizer_that_is_absent_is_no_fault(part, tmp_path, monkeypatch):
    monkeypatch.setattr("sanitize_gpu.find_sanitizer", lambda: None)
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
    monkeypatch.setattr("gpucoron.backends.get_backend", lambda name: CudaBackend(cupy=cupy))
    told = []
    for number in range(2):
        record = tmp_path / f"{number}.json"
        compile_everything(Part(record, tmp_path, 100, 0, False))
        told.append({check["name"]: check["told"] for check in read_record(record)["checks"]})
    assert set(told[0]) == {f"{source} is loaded" for source in SOURCES}
    assert all(words.endswith("compiled") for words in told[0].values())
    assert all(words.endswith("from the cache") for words in told[1].values())
    assert len(cupy.loaded) == 2 * len(SOURCES)
    assert f"{len(instantiations('jump.cu'))} functions" in told[0]["jump.cu is loaded"]


@pytest.mark.slow
def test_every_part_runs_over_the_stand_in_for_cupy(tmp_path, monkeypatch, request):
    """What the scripts themselves do with a device is what CuPy does, as far as the real CuPy can tell."""
    runner = usable_backend("host", request.config, n_threads=1)
    cupy = make_fake_cupy(monkeypatch, tmp_path, runner=runner)
    backend = CudaBackend(cupy=cupy)
    # Threads that wait for each other are real ones here.
    backend.block_threads, backend.frame_threads = runner.block_threads, runner.frame_threads
    backend.choose_lanes = runner.choose_lanes
    watch(cupy, monkeypatch)
    told = {}
    for name in ("machine", "compile", "operations", "steps", "kernels", "chunks", "timing", "cpu"):
        part = Part(tmp_path / f"{name}.json", tmp_path, 1000, 0, True)
        part._backend = backend
        module, _, function = first_contact.PARTS[name].function.partition(":")
        getattr(import_module(module), function)(part)
        told[name] = read_record(tmp_path / f"{name}.json")
        assert [check for check in told[name]["checks"] if not check["ok"]] == []
    assert told["machine"]["figures"]["machine"]["nvrtc"] == [13, 0]
    assert told["machine"]["figures"]["machine"]["device"] == "Fake"
    for case in told["timing"]["figures"]["cases"].values():
        assert case["peak_memory_over_ramp"] > 0
        assert min(step["seconds"] for step in case["steps"].values()) > 0
    assert all(counts["against"] == "cuda" for counts in told["chunks"]["figures"].values())


def watch(cupy, monkeypatch):
    """Add to the stand-in what only benchmarks ask of a device: its clock, and how much memory is taken."""

    class Event:
        def record(self):
            cupy.finish()
            self.time = time.perf_counter()

        def synchronize(self):
            cupy.finish()

    taken = iter(range(0, 10**9, 1000))
    pool = SimpleNamespace(total_bytes=lambda: next(taken), free_bytes=lambda: 0, free_all_blocks=lambda: None)
    properties = {"name": b"Fake", "multiProcessorCount": 132, "totalGlobalMem": 2**40}
    monkeypatch.setattr(cupy.cuda, "Event", Event)
    monkeypatch.setattr(
        cupy.cuda, "get_elapsed_time", lambda start, stop: 1e3 * (stop.time - start.time), raising=False
    )
    monkeypatch.setattr(cupy, "get_default_memory_pool", lambda: pool)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda device: properties)
    for name in ("driverGetVersion", "runtimeGetVersion"):
        monkeypatch.setattr(cupy.cuda.runtime, name, lambda: 13000, raising=False)


def test_differences_are_counted():
    expected = {"rate": np.float32([1, 2, np.nan, 0.001]), "dq": np.uint32([0, 4, 1, 0])}
    found = {"rate": expected["rate"].copy(), "dq": expected["dq"].copy()}
    counts = compare(found, expected)
    assert tell(counts) == "the same bits in 8 values"
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


# ---------------------------------------------------------------------------------------------- the tests for a device


def test_a_bare_machine_collects_the_tests_that_need_its_device(tmp_path):
    environment = make_environment(tmp_path / "site")
    environment["PYTHONPATH"] += f":{ROOT}"
    command = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "--require-gpu", ROOT / "tests"]
    chosen = {}
    for device in ("cuda", "host"):
        status, printed = run_script(environment, *command, f"--device={device}")
        assert status == 0, printed[-3000:]
        chosen[device] = re.findall(r"^tests/(test_\w+)\.py::(\S.*)$", printed, re.MULTILINE)
        assert len(chosen[device]) > 300
        assert "astropy is not installed on this machine" in printed
    # Beside the parameter of a backend there is the fixture of a real device.
    for device, others in (("cuda", {"test_gpu"}), ("host", set())):
        assert {module for module, name in chosen[device] if device not in name.partition("[")[2]} == others
    renamed = {(module, name.replace("host", "cuda")) for module, name in chosen["host"]}
    assert renamed == {(module, name) for module, name in chosen["cuda"] if module != "test_gpu"}
    assert {"test_kernels", "test_spilling", "test_custom_kernels"} < {module for module, _ in chosen["cuda"]}


def test_without_its_device_a_test_fails_and_its_outcome_is_kept(tmp_path):
    environment = make_environment(tmp_path / "site") | {"CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] += f":{ROOT}"
    outcomes = tmp_path / "outcomes.jsonl"
    status, printed = run_script(
        environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--require-gpu", f"--outcomes={outcomes}",
        ROOT / "tests" / "test_gpu.py",
    )  # fmt: skip
    assert status == 1, printed
    ended = [json.loads(line) for line in outcomes.read_text().splitlines()]
    assert len(ended) > 3
    assert {one["outcome"] for one in ended} == {"failed"}
    assert all("backend 'cuda'" in one["told"] for one in ended)
