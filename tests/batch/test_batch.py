"""A batch: files found, the plan, exposures not reduced again, and records; from Python and from the command line."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

import gpucoron.batch
from gpucoron.batch.inputs import find_files, group_name, read_input, refuse_duplicates
from gpucoron.batch.plan import make_plan, parse_shard, settle
from gpucoron.batch.progress import Bar, PlainLines
from gpucoron.errors import InputError, ParameterError
from gpucoron.io.crds_cache import find_damaged
from gpucoron.records.manifest import FIELDS, Manifest, read_manifests
from gpucoron.simulate import simulate
from tests.cases.batches import Raw, leftovers, products, records
from tests.cases.waiting import HANG


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Four exposures in a tree, one of them in two segments, and a target acquisition."""
    raw = Raw(tmp_path_factory.mktemp("batch"), 3)
    deeper = raw.path / "more" / "deeper"
    deeper.mkdir(parents=True)
    for first in (1, 3):
        segment = simulate(
            "NIRCAM", "SUB320A335R", "MEDIUM8", 4, 2, shape=(32, 32), observation=9, first_integration=first,
            total_nints=4,
        )  # fmt: skip
        segment.write(deeper)
    acquisition = deeper / "jw01386008001_02101_00001_nrcalong_uncal.fits"
    shutil.copy(raw.files[0], acquisition)
    fits.setval(acquisition, "EXP_TYPE", value="NRC_TACQ")
    return raw


SCRIPT = """
import sys
import gpucoron.batch

print("top level")
for result in gpucoron.batch.reduce(sys.argv[1], sys.argv[2], backend="cpu", workers=2):
    print(result.exposure, result.status, sorted(result.outputs))
"""


@pytest.fixture(scope="module")
def reduced(raw, tmp_path_factory):
    """A batch run by a script without a ``__main__`` guard: (its folder, the script's output)."""
    folder = tmp_path_factory.mktemp("reduced")
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", str(raw.path), "out"],
        capture_output=True, text=True, cwd=folder, env=raw.environment(), timeout=HANG,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def plan_of(raw, output, **options):
    with raw.cache.activate():
        return make_plan([raw.path], output, **options)


def test_a_script_needs_no_guard(raw, reduced):
    output, printed = reduced
    assert printed.count("top level") == 1
    assert printed.count(" done ['rate', 'rateints']") == 5
    assert leftovers(output) == []
    assert len(products(output)) == 10
    found = records(output)
    assert len({record["pid"] for record in found}) == 2
    assert {path.name for path in (output / "logs").iterdir()} == {f"{record['exposure']}.log" for record in found}
    assert "Step ramp_fit done in" in (output / "logs" / f"{found[0]['exposure']}.log").read_text()


def test_manifest_line(raw, reduced):
    output, _said = reduced
    record = next(record for record in records(output) if record["exposure"] == raw.names[0])
    assert tuple(record) == FIELDS
    done = subprocess.run(["sha256sum", raw.files[0]], capture_output=True, text=True)
    assert record["input_sha256"] == done.stdout.split()[0]
    assert record["outputs"] == {kind: f"{raw.names[0]}_{kind}.fits" for kind in ("rate", "rateints")}
    assert record["context"] == raw.cache.context
    assert record["shape"] == [2, 4, 32, 32]
    assert (record["instrument"], record["coronmsk"], record["attempt"]) == ("NIRCAM", "MASKA335R", 1)
    assert set(record["versions"]) == {"gpucoron", "jwst", "numpy", "crds"}
    assert [step["name"] for step in record["steps"]][:3] == ["group_scale", "dq_init", "saturation"]
    seconds = record["seconds"]
    parts = sum(seconds[name] for name in ("read", "plan", "steps", "write"))
    assert 0 < parts <= seconds["total"] + 1e-3
    assert 50e6 < record["peak_memory"] < 2e9
    rate = fits.getdata(output / record["outputs"]["rate"], "DQ")
    assert record["flags"]["HOT"] == pytest.approx(((rate & 2**11) != 0).mean(), rel=1e-5)
    assert record["error"] is None


def test_same_bytes_as_one_file_alone(raw, reduced, tmp_path):
    output, _said = reduced
    with raw.cache.activate():
        gpucoron.reduce_file(raw.files[1], tmp_path, backend="cpu")
    alone = products(tmp_path)
    assert len(alone) == 2
    assert all(products(output)[name] == content for name, content in alone.items())


def test_workers_with_little_memory(raw, reduced, tmp_path):
    """--max-memory applies to the workers: their ramps are in a file next to the products."""
    output = tmp_path / "out"
    raw.run(output, "--max-memory", "10M", "--workers", "1", paths=[raw.files[1]])
    alone = products(output)
    assert len(alone) == 2
    assert all(products(reduced[0])[name] == content for name, content in alone.items())
    (log,) = (output / "logs").iterdir()
    assert f"scratch file in {output}" in log.read_text()
    assert leftovers(output) == []


def test_finished_exposures_are_not_reduced_again(raw, reduced):
    output, _said = reduced
    before = records(output)
    plan = plan_of(raw, output)
    assert [planned.reason for planned in plan.exposures] == ["done"] * 5
    ((skipped, reason),) = plan.left_out
    assert skipped.name == "jw01386008001_02101_00001_nrcalong"
    assert "NRC_TACQ" in reason
    assert len(plan_of(raw, output, include_all=True).todo) == 1
    assert "nothing to do" in raw.run(output)
    assert records(output) == before


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"steps": {"jump": {"rejection_threshold": 5.0}}}, "jump.rejection_threshold: default, now 5.0"),
        ({"profile": "spaceklip"}, "profile: jwst, now spaceklip"),
        ({"run_parameters": {"save_calibrated_ramp": True}}, "run.save_calibrated_ramp: default, now True"),
    ],
)
def test_products_of_other_parameters_are_replaced_on_request_alone(raw, reduced, change, what):
    plan = plan_of(raw, reduced[0], redo="all", **change)
    assert {planned.reason for planned in plan.refused} == {f"other parameters ({what})"}
    assert (len(plan.refused), plan.todo) == (5, [])
    plan = plan_of(raw, reduced[0], overwrite=True, **change)
    assert {planned.reason for planned in plan.todo} == {f"other parameters ({what})"}
    assert (len(plan.todo), plan.refused) == (5, [])


def test_all_are_done_again_on_request(raw, reduced):
    assert [planned.reason for planned in plan_of(raw, reduced[0], redo="all").todo] == ["all are reduced"] * 5


def test_missing_or_outdated_products_are_made_again(raw, reduced, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(reduced[0], output)
    changed = records(output)
    changed[0]["context"] = "jwst_0001.pmap"
    changed[1]["versions"]["jwst"] = "1.0.0"
    changed[2]["status"] = "failed"
    changed[3]["input_bytes"] += 1
    (output / changed[4]["outputs"]["rate"]).unlink()
    torn = '{"exposure": "jw0138'
    (output / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed) + torn)
    reasons = {planned.input.name: planned.reason for planned in plan_of(raw, output).todo}
    expected = ["was made with context jwst_0001.pmap", "was made with jwst 1.0.0", "failed before"]
    expected += ["the input has changed", f"{changed[4]['outputs']['rate']} is missing"]
    assert [reasons[record["exposure"]] for record in changed] == expected
    only = plan_of(raw, output, redo="failed").todo
    assert [planned.input.name for planned in only] == [changed[2]["exposure"]]
    with Manifest(output) as manifest:
        manifest.append(changed[0])
    assert len(records(output)) == 6


def test_an_input_of_the_same_size_is_compared(raw, reduced, tmp_path):
    copy = tmp_path / raw.files[0].name
    content = bytearray(raw.files[0].read_bytes())
    copy.write_bytes(content)
    with raw.cache.activate():
        assert not make_plan([copy], reduced[0]).todo
        with fits.open(copy) as hdus:
            content[hdus["SCI"].fileinfo()["datLoc"] + 100] ^= 1
        copy.write_bytes(content)
        assert [planned.reason for planned in make_plan([copy], reduced[0]).todo] == ["the input has changed"]


def test_shards_share_a_folder(raw, reduced, tmp_path):
    shards = [raw.start(tmp_path, "--workers", "1", "--shard", f"{index}/2") for index in (1, 2)]
    printed = [process.communicate(timeout=HANG) for process in shards]
    assert [process.returncode for process in shards] == [0, 0], printed
    assert {path.name for path in tmp_path.glob("*.jsonl")} >= {"manifest-1-of-2.jsonl", "manifest-2-of-2.jsonl"}
    assert sorted(record["exposure"] for record in records(tmp_path)) == sorted(read_manifests(reduced[0])[0])
    assert products(tmp_path) == products(reduced[0])
    assert leftovers(tmp_path) == []
    assert not plan_of(raw, tmp_path).todo


def test_dry_run(raw, tmp_path):
    printed = raw.run(tmp_path / "none", "--dry-run")
    assert not (tmp_path / "none").exists()
    assert "5 of 5 exposures to reduce, 1 skipped" in printed
    assert "8 references" in printed
    assert "jwst_nircam_linearity_9001.fits" in printed
    assert re.search(r"memory up to 0\.2\d GB per worker", printed)
    assert re.search(r"expected time about \d+ s", printed)
    group = printed.index("jw01386009001_02101_00001\n")
    assert printed.index("jw01386009001_02101_00001-seg002_nrcalong") > group


def test_find_files(raw, tmp_path):
    assert [len(find_files(paths)) for paths in (raw.path, raw.files[0], [raw.path, raw.files[0]])] == [6, 1, 6]
    assert len(find_files(str(raw.path / "*2001_*.fits"))) == 1
    listed = tmp_path / "list.txt"
    listed.write_text(f"# two\n{raw.files[0]}\n\n{raw.path}/more\n")
    assert len(find_files(f"@{listed}")) == 4
    link = tmp_path / "link_uncal.fits"
    link.symlink_to(raw.files[0])
    assert len(find_files([link, raw.files[0]])) == 1
    link.unlink()
    shutil.copy(raw.files[0], tmp_path)
    inputs = [read_input(path) for path in find_files([tmp_path, raw.path])]
    refuse_duplicates(inputs)
    assert [found.path.name for found in inputs if found.error] == [raw.files[0].name] * 2
    assert all("products of the same name" in str(found.error) for found in inputs if found.error)
    (tmp_path / "more").symlink_to(raw.path / "more")
    (tmp_path / "round").symlink_to(tmp_path)
    assert len(find_files(tmp_path)) == 4
    listed.write_text(f"@{listed}\n")
    with pytest.raises(InputError, match="the list contains itself"):
        find_files(f"@{listed}")
    with pytest.raises(InputError, match="not a list"):
        find_files(f"@{raw.files[0]}")
    for nothing in (tmp_path / "absent", "@absent"):
        with pytest.raises(InputError, match="absent"):
            find_files(nothing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \*_uncal.fits"):
        find_files(tmp_path / "empty")


def test_groups():
    names = ["jw01386001001_0310a_00001-seg002_nrca2", "jw01386001001_0310a_00001_nrcalong", "other"]
    assert list(map(group_name, names)) == ["jw01386001001_0310a_00001"] * 2 + ["other"]


def test_mistakes_are_refused_at_once(raw, tmp_path):
    for wrong in (
        {"steps": {"jump": {"rejection_treshold": 5}}},
        {"shard": "3/2"},
        {"workers": 0},
        {"redo": "some"},
        {"engine": "dask"},
        {"no_such_parameter": 1},
    ):
        with pytest.raises(ParameterError):
            gpucoron.batch.reduce(raw.path, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
    array = np.zeros((1, 4, 1, 1), bool)
    with pytest.raises(ParameterError, match=r"numpy\.save"):
        settle("jwst", {"mask_groups": {"mask_array": array}}, {})
    assert parse_shard("2/3") == (2, 3)


def test_a_changed_file_is_another_parameter(raw, tmp_path, monkeypatch):
    (gain,) = (raw.cache.path / "references").rglob("*gain*.fits")
    mine = tmp_path / "mine.fits"
    shutil.copy(gain, mine)
    monkeypatch.chdir(tmp_path)
    steps = settle("jwst", {"ramp_fit": {"override_gain": "mine.fits"}}, {})
    assert steps == {"ramp_fit": {"override_gain": str(mine)}}
    digests = []
    for content in (gain.read_bytes(), gain.read_bytes(), gain.read_bytes() + bytes(2880)):
        mine.write_bytes(content)
        digests.append(plan_of(raw, tmp_path / "out", steps=steps).exposures[0].digest)
    assert digests[0] == digests[1] != digests[2]


def test_references_are_read_once_per_worker(raw, tmp_path, monkeypatch):
    from gpucoron.batch.job import reduce_job
    from gpucoron.io import references

    read = []
    original = references.read_reference
    monkeypatch.setattr(references, "STORE", references.ReferenceStore())
    monkeypatch.setattr(references, "read_reference", lambda *args: read.append(args[0]) or original(*args))
    with raw.cache.activate():
        for path in raw.files[:2]:
            record = reduce_job(
                {
                    "path": str(path), "stage": str(tmp_path / path.name), "log": str(tmp_path / "log"), "attempt": 1,
                    "record_fields": {"exposure": path.name.removesuffix("_uncal.fits")}, "profile": "jwst",
                    "steps": {}, "run_parameters": {}, "backend": "cpu", "backend_options": {}, "environment": {},
                }
            )  # fmt: skip
            assert record["status"] == "done"
    assert len(read) == len(set(read)) == 8


def test_damaged_references_are_named(raw, tmp_path, monkeypatch):
    good, bad = tmp_path / "good.fits", tmp_path / "bad.fits"
    (gain,) = (raw.cache.path / "references").rglob("*gain*.fits")
    shutil.copy(gain, good)
    bad.write_bytes(gain.read_bytes()[:-3000])
    with raw.cache.activate():
        assert list(find_damaged([good, bad])) == [str(bad)]
        # with a server that reports sizes and checksums
        from crds.client import api
        from crds.core import heavy_client

        size = os.path.getsize(good)
        file_info = {"good.fits": {"size": size, "sha1sum": "0" * 40}, "bad.fits": {"size": size, "sha1sum": "none"}}
        monkeypatch.setattr(heavy_client, "get_config_info", lambda observatory: SimpleNamespace(connected=True))
        monkeypatch.setattr(api, "get_file_info_map", lambda observatory, files, fields: file_info)
        damaged = find_damaged([good, bad])
    assert "SHA-1" in damaged[str(good)]
    assert f"{size - 3000} bytes" in damaged[str(bad)]


def test_an_exposure_is_not_reduced_with_a_damaged_reference(tmp_path):
    raw = Raw(tmp_path, 1)
    (gain,) = (raw.cache.path / "references").rglob("*gain*.fits")
    gain.write_bytes(gain.read_bytes()[:-3000])
    with raw.cache.activate():
        (result,) = gpucoron.batch.reduce(raw.path, tmp_path / "out", backend="cpu", workers=1)
    assert result.status == "failed"
    assert gain.name in result.message
    assert "delete it" in result.message


def test_workers_share_cores_and_memory(monkeypatch):
    from gpucoron.backends import tiles
    from gpucoron.backends.devices import cuda_device
    from gpucoron.batch.pool import worker_options

    monkeypatch.setattr(tiles, "available_cores", lambda: 8)
    monkeypatch.setattr("gpucoron.backends.process_memory.free_memory", lambda: 10e9)

    def options(memory=1e9, **pool):
        unset = dict.fromkeys(("workers", "devices", "max_memory", "scratch_dir"))
        return worker_options({"backend": "cpu", **unset, **pool}, memory)

    assert options() == [{"n_threads": 1}] * 8
    assert options(memory=4e9) == [{"n_threads": 4}] * 2
    # The exposures need more than the memory: each worker gets a share, even a single one.
    assert options(memory=4e9, workers=3, scratch_dir="out") == [
        {"n_threads": 2, "max_memory": 3_333_333_333, "scratch_dir": "out"}
    ] * 3  # fmt: skip
    assert options(memory=11e9) == [{"n_threads": 8, "max_memory": 10_000_000_000}]
    # With a smaller limit, more workers fit.
    assert options(memory=4e9, max_memory=2_000_000_000) == [{"n_threads": 1, "max_memory": 2_000_000_000}] * 5
    assert options(memory=1e9, max_memory=2_000_000_000) == [{"n_threads": 1, "max_memory": 2_000_000_000}] * 8
    monkeypatch.setattr("gpucoron.backends.backend_status", lambda: {"cuda": (True, "two GPUs")})
    monkeypatch.setattr(cuda_device, "available", lambda device: (device < 2, "no such device"))
    monkeypatch.setattr(cuda_device, "device_memory", lambda device: 100)
    assert [(one["device"], one["max_memory"]) for one in options(backend="cuda")] == [(0, 42), (1, 42)] * 2
    assert [one["device"] for one in options(backend="cuda", workers=3, devices=[1])] == [1, 1, 1]
    assert [one["max_memory"] for one in options(backend="cuda", workers=1, max_memory=7)] == [7]
    with pytest.raises(gpucoron.errors.BackendUnavailableError, match="device 5"):
        options(backend="cuda", devices=[5])


def test_output_of_a_batch(capsys):
    record = {"seconds": {"total": 1.5}}
    good = gpucoron.batch.Result("one", None, "done", {}, "", record)
    bad = gpucoron.batch.Result("two", None, "failed", {}, "damaged; download it again\nmore", record)
    plan = SimpleNamespace(todo=[good, bad], exposures=[good, bad], context="jwst_9001.pmap")
    stream = io.StringIO()
    for progress in (PlainLines(stream), Bar()):
        progress.planning(1, 2)
        progress.planned(plan)
        progress.begin_step("one", "jump", 9, 16)
        progress.step("one", "jump")
        progress.result(good)
        progress.result(bad)
        progress.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "2 exposures, 2 to reduce; context jwst_9001.pmap"
    assert lines[2].startswith("[2/2, 1 failed, 0 s left] failed")
    assert lines[2].endswith("damaged; download it again")
    assert "damaged; download it again" in capsys.readouterr().err
