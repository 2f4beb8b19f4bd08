"""Rehearsal of the first contact with a GPU, as on a bare machine; every error is counted."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpucoron.backends.kernel_files import CUDA_SOURCES
from tests.cases.backends import usable_backend
from tests.cases.paths import BENCHMARKS, ROOT
from tests.cases.waiting import HANG
from tests.stand_ins.bare_machine import make_environment, run_script

sys.path.append(str(BENCHMARKS))

import first_contact


def rehearse(tmp_path, root, *options):
    """Rehearse on a bare machine; return the exit status, the output, and the contents of the JSON file."""
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
    status, printed, path, results = rehearse(tmp_path, ROOT)
    assert status == 0, printed[-6000:]
    assert results["wrong"] == 0
    assert list(results["parts"]) == list(first_contact.PARTS)
    # Only a device has memory that runs out.
    assert {name for name, part in results["parts"].items() if part["status"] != "ok"} == {"memory-tests"}
    assert results["parts"]["memory-tests"]["status"] == "not done"
    for name, part in results["parts"].items():
        assert part["budget"] > part["seconds"] > 0
        assert part["checks"], name
        assert all({"name", "ok", "told", "seconds"} == set(check) for check in part["checks"])
        assert f"\n== {name}: " in printed

    machine, figures = results["machine"], {name: part["figures"] for name, part in results["parts"].items()}
    assert machine["backend"] == "host"
    assert re.fullmatch(rf"{machine['date'][:10]}-first-contact-host-{machine['commit']}\.json", path.name)
    here = figures["machine"]["here"]
    assert {name for name, is_here in here.items() if is_here} - {"compute-sanitizer"} == {"pytest", "g++"}

    sources = {check["name"].removesuffix(" is loaded") for check in results["parts"]["compile"]["checks"]}
    assert sources == set(CUDA_SOURCES)
    assert figures["operations"]["microseconds"]
    for name in ("operations", "steps", "kernels", "chunks"):
        for check in results["parts"][name]["checks"]:
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
    """Copy the files that the script needs, to modify them."""
    for name in ("gpucoron", "kernels", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results", "data"))
    return folder


def edit(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name}: {before!r}"
    path.write_text(text.replace(before, after))


@pytest.mark.slow
def test_every_error_is_counted_and_the_other_parts_run(tmp_path, request):
    """A wrong kernel, one that kills its process, one that does not compile, and a part that hangs."""
    usable_backend("host", request.config)
    root = copy_tree(tmp_path / "tree")
    break_kernels(root / "kernels")
    edit(
        root / "benchmarks" / "contact_machine.py",
        'part.check("the cost of an operation", ',
        'part.check("a check that hangs", lambda: time.sleep(1000))\n    part.check("the cost of an operation", ',
    )
    parts = ("machine", "compile", "operations", "kernels", "chunks")
    # The part ends when its time is over. The checks before the hanging one need much less time.
    status, printed, _, results = rehearse(tmp_path, root, "--parts", *parts, "--budget", "operations=30")
    assert list(results["parts"]) == list(parts)
    wrong = {
        name: {check["name"]: check["told"] for check in part["checks"] if check["ok"] is False}
        for name, part in results["parts"].items()
    }

    assert set(wrong["compile"]) == {"subtract_1overf.cu is loaded"}
    assert "subtract_1overf.cu" in wrong["compile"]["subtract_1overf.cu is loaded"]
    assert len(results["parts"]["compile"]["checks"]) == len(CUDA_SOURCES)

    operations = results["parts"]["operations"]
    assert operations["status"] == "cut after 30 s, in 'a check that hangs'"
    assert operations["wrong"] == 1
    # Earlier results are kept, and the position where it hung was printed.
    assert operations["figures"]["medians"]["values"] > 0
    assert any("contact_machine.py" in line for line in operations["printed"])

    kernels = results["parts"]["kernels"]
    assert kernels["status"] == "wrong"
    of_1overf = ("subtract_1overf", "background mask")
    assert {name for name in wrong["kernels"] if not name.startswith(of_1overf)} == {"emicorr", "subtract_ktc"}
    assert "SIGSEGV" in wrong["kernels"]["emicorr"]
    assert "beyond the tolerance (in mean slope, pedestal)" in wrong["kernels"]["subtract_ktc"]
    # A new process continued after the one that died, without repeating checks.
    names = [check["name"] for check in kernels["checks"]]
    assert names.index("emicorr") < names.index("likelihood, sound")
    assert len(names) == len(set(names))
    assert kernels["figures"]["likelihood, sound"]["values"] > 0

    assert results["parts"]["chunks"]["status"] == "ok"
    assert status == results["wrong"] == sum(map(len, wrong.values())) + 1
    for name in ("emicorr", "subtract_1overf.cu is loaded", "subtract_ktc"):
        assert name in printed[printed.index(" wrong in ") :]


def break_kernels(folder):
    edit(folder / "subtract_ktc.cu", "line.at_zero(per_group);", "line.at_zero(per_group) * 1.001;")
    edit(folder / "emicorr.cu", "float mean = ramp[0];", "float mean = ramp[int64(1) << 45];")
    edit(folder / "subtract_1overf.cu", "namespace gpucoron {", "namespace gpucoron { int no_semicolon")


def test_without_a_device_nothing_is_tried(tmp_path):
    environment = make_environment(tmp_path / "site") | {"CUDA_VISIBLE_DEVICES": ""}
    status, printed = run_script(environment, BENCHMARKS / "first_contact.py", "--output", tmp_path / "output")
    assert status == 1, printed
    (path,) = (tmp_path / "output").iterdir()
    results = json.loads(path.read_text())
    assert list(results["parts"]) == ["machine"]
    (check,) = results["parts"]["machine"]["checks"]
    assert "backend 'cuda' cannot run here" in check["told"]
    assert "no other part can run" in printed


def test_options_that_cannot_be_meant_are_refused(tmp_path, capsys):
    for arguments, words in (
        (["--rehearse"], "needs --output"),
        (["--budget", "everything=3"], "no part 'everything'"),
        (["--budget", "compile=long"], "'long' is not a number of seconds"),
        (["--parts", "everything"], "invalid choice"),
    ):
        with pytest.raises(SystemExit) as ended:
            first_contact.parse(arguments)
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
    for named in (["timing", "machine"], ["timing"]):
        options = first_contact.parse(["--parts", *named, "--output", str(tmp_path)])
        assert options.parts == ["machine", "timing"]


def test_long_parts_get_the_remaining_time(monkeypatch, tmp_path):
    assert sum(plan.budget for plan in first_contact.PARTS.values()) == first_contact.DEADLINE < 540
    now = 1000.0
    monkeypatch.setattr(first_contact.time, "time", lambda: now)
    run = first_contact.Run(first_contact.parse(["--output", str(tmp_path), "--budget", "cpu=7"]), tmp_path)
    budgets = {name: plan.budget for name, plan in first_contact.PARTS.items()}
    assert run.seconds_for("timing") == budgets["timing"]
    assert run.seconds_for("cpu") == 7
    # All later parts keep their budgets.
    assert run.seconds_for("tests") == first_contact.DEADLINE - budgets["sanitizers"]
    now += first_contact.DEADLINE - 20
    assert run.seconds_for("timing") == run.seconds_for("tests") == 20


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_ending_the_run_ends_its_part(tmp_path, how):
    """A part that hangs would keep the device."""
    root = copy_tree(tmp_path / "tree")
    edit(
        root / "benchmarks" / "contact_machine.py",
        'part.check("the cost of an operation", ',
        'part.check("a check that hangs", lambda: time.sleep(1000))\n    part.check("the cost of an operation", ',
    )
    command = [sys.executable, root / "benchmarks" / "first_contact.py", "--rehearse", "--output", tmp_path]
    process = subprocess.Popen(
        [*map(str, command), "--parts", "operations"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in process.stdout:
        if "medians" in line:
            break
    assert children_of(process.pid)
    (child,) = children_of(process.pid)
    process.send_signal(how)
    assert process.wait(HANG) != 0
    assert not Path(f"/proc/{child}").exists()
    process.stdout.close()


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


# ---------------------------------------------------------------------------------------------- the tests for a device


def test_a_bare_machine_collects_the_tests_that_need_its_device(tmp_path):
    environment = make_environment(tmp_path / "site")
    environment["PYTHONPATH"] += f":{ROOT}"
    command = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "--require-gpu", ROOT / "tests"]
    chosen = {}
    for device in ("cuda", "host"):
        status, printed = run_script(environment, *command, f"--device={device}")
        assert status == 0, printed[-3000:]
        chosen[device] = re.findall(r"^tests/(?:\w+/)*(test_\w+)\.py::(\S.*)$", printed, re.MULTILINE)
        assert len(chosen[device]) > 300
        assert "astropy is not installed on this machine" in printed
        assert all(device in name.partition("[")[2] for _, name in chosen[device])
    renamed = {(module, name.replace("host", "cuda")) for module, name in chosen["host"]}
    on_device = {(module, name) for module, name in chosen["cuda"] if module != "test_gpu"}
    assert on_device < renamed
    # these tests need host arrays, as do kernels for a CPU
    of_host = {(module, name) for module, name in renamed - on_device if not module.endswith("strips")}
    assert {name.partition("[")[0] for _, name in of_host} == {
        "test_memory_is_as_the_model_says",
        "test_read_only_references_may_be_read_but_not_changed",
    }
    assert {"test_kernels", "test_spilling", "test_custom_kernels"} < {module for module, _ in chosen["cuda"]}


def test_without_its_device_a_test_fails_and_its_outcome_is_kept(tmp_path):
    environment = make_environment(tmp_path / "site") | {"CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] += f":{ROOT}"
    outcomes = tmp_path / "outcomes.jsonl"
    status, printed = run_script(
        environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--require-gpu", f"--outcomes={outcomes}",
        ROOT / "tests" / "backends" / "devices" / "test_gpu.py",
    )  # fmt: skip
    assert status == 1, printed
    ended = [json.loads(line) for line in outcomes.read_text().splitlines()]
    assert len(ended) > 3
    assert {one["outcome"] for one in ended} == {"failed"}
    assert all("backend 'cuda'" in one["told"] for one in ended)
