"""A finished batch is recognized without opening exposures, and every change is found; what a batch prints and logs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import gpucoron.batch.plan
from gpucoron.batch.plan import make_plan, settle
from gpucoron.batch.progress import Silent
from gpucoron.cli import main
from tests.cases.batches import Raw, records
from tests.cases.waiting import HANG


class Steps(Silent):
    """Collect the steps that an exposure begins and completes."""

    def __init__(self):
        self.begun, self.completed = [], []

    def begin_step(self, exposure, step, number, count):
        self.begun.append((exposure, step, number, count))

    def step(self, exposure, step):
        self.completed.append((exposure, step))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A batch of one shard that is done: (raw, folder, mask file, arguments, what it printed, its steps)."""
    folder = tmp_path_factory.mktemp("finished")
    raw, mask, steps = Raw(folder, 1), folder / "mask.npy", Steps()
    np.save(mask, np.zeros((32, 32), bool))
    arguments = ["batch", str(raw.path), "-o", str(folder / "out"), "--shard", "1/1"]
    arguments += ["--set", f"subtract_1overf.user_mask={mask}", "--set", "subtract_1overf.skip=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpucoron.batch.progress.choose_progress", lambda quiet: steps)
        with raw.cache.activate():
            assert main([*arguments, "--backend", "cpu"]) == 0
    return raw, folder / "out", mask, arguments, steps


def test_the_steps_are_told_when_they_begin(finished):
    raw, folder, _mask, _arguments, steps = finished
    (record,) = records(folder)
    names = [step["name"] for step in record["steps"] if step["reason"] != "switched off"]
    expected = [(raw.names[0], name, number, len(names)) for number, name in enumerate(names, 1)]
    assert steps.begun == expected
    assert steps.completed == [(raw.names[0], step["name"]) for step in record["steps"]]


def test_the_log_is_complete_and_its_paths_exist(finished):
    raw, folder, _mask, _arguments, _steps = finished
    log = (folder / "logs" / f"{raw.names[0]}.log").read_text()
    for words in (
        f"gpucoron {gpucoron.__version__} with jwst",
        '"rejection_threshold": 4.0',
        f"CRDS context {raw.cache.context}",
        "Using MASK reference file",
    ):
        assert words in log
    assert re.search(r"Flagged \d+ jumps", log)
    named = re.findall(r"(?<=[ \"'])/[^\s\"',)]+", log)
    assert {f"{folder}/{raw.names[0]}_{kind}.fits" for kind in ("rate", "rateints")} <= set(named)
    assert [path for path in named if not Path(path).exists()] == []


def test_a_finished_batch_loads_no_data_models(finished):
    raw, folder, _mask, arguments, _steps = finished
    code = (
        "import sys\nfrom gpucoron.cli import main\ncode = main(sys.argv[1:])\n"
        "print(code, {'stdatamodels', 'rich', 'matplotlib', 'jwst.pipeline'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=raw.environment(),
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    first, last = done.stdout.splitlines()
    assert last == "0 set()", done.stderr
    assert re.fullmatch(rf"nothing to do; \d+\.\d s; see {folder}/manifest.jsonl", first)
    assert done.stderr.startswith("1 exposure, 0 to reduce")


def test_a_quiet_batch_prints_nothing(finished, capfd):
    with finished[0].cache.activate():
        assert main([*finished[3], "-q"]) == 0
    assert capfd.readouterr() == ("", "")


def touch(finished, patch):
    path = finished[0].files[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def remove_product(finished, patch):
    next(finished[1].glob("*_rateints.fits")).unlink()


def cut_product(finished, patch):
    path = next(finished[1].glob("*_rateints.fits"))
    path.write_bytes(path.read_bytes()[:-2880])


def write_product_again(finished, patch):
    fits.setval(next(finished[1].glob("*_rate.fits")), "DATE", value="2026-01-01T00:00:00.000")


def copy_folder(finished, patch):
    for path in finished[1].glob("*.fits"):
        os.utime(path)


def other_context(finished, patch):
    patch.setattr("gpucoron.io.crds_lookup.crds_context", lambda: ("jwst_1.pmap", "1"))
    patch.setattr("gpucoron.engine.crds_context", lambda: ("jwst_1.pmap", "1"))


def other_version(finished, patch):
    patch.setattr("gpucoron.batch.decision.__version__", "1000")


def other_mask(finished, patch):
    np.save(finished[2], np.eye(32, dtype=bool))


def add_exposure(finished, patch):
    path = finished[0].files[0]
    path.with_name(f"more_{path.name}").write_bytes(path.read_bytes())


def damage_record(finished, patch):
    path = finished[1] / "manifest.jsonl"
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps(json.loads(last) | {"status": "failed"})]) + "\n")


CHANGES = {
    "nothing": (None, {}, False),
    "the input": (touch, {}, True),
    "a product is missing": (remove_product, {}, True),
    "a product is cut": (cut_product, {}, True),
    "a product is another": (write_product_again, {}, True),
    "products have other dates": (copy_folder, {}, False),
    "the context": (other_context, {}, True),
    "the version": (other_version, {}, True),
    "the contents of a file": (other_mask, {}, True),
    "one exposure more": (add_exposure, {}, True),
    "it failed": (damage_record, {}, True),
    "a parameter": (None, {"steps": {"jump": {"rejection_threshold": 5}}}, True),
    "the profile": (None, {"profile": "spaceklip"}, True),
    "a parameter of the run": (None, {"run_parameters": {"save_intermediates": True}}, True),
    "no parameter files of CRDS": (None, {"use_pars": False}, False),
    "another default written out": (None, {"steps": {"jump": {"rejection_threshold": 4.0}}}, False),
    "all again": (None, {"redo": "all"}, True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found(finished, monkeypatch, change):
    """The plan is that of a batch that looks up everything."""
    raw, folder, mask, *_ = finished
    edit, request, is_change = CHANGES[change]
    steps = {"subtract_1overf": {"user_mask": str(mask), "skip": False}, **request.get("steps", {})}
    kept = {path: (path.read_bytes(), path.stat()) for path in (*raw.files, mask, *folder.glob("*.*"))}
    try:
        with raw.cache.activate():
            if edit:
                edit(finished, monkeypatch)
            options = {"overwrite": True, **request, "steps": settle("jwst", steps, {})}
            quick = make_plan([raw.path], folder, **options)
            monkeypatch.setattr(gpucoron.batch.plan, "find_finished", lambda *arguments, **keywords: None)
            whole = make_plan([raw.path], folder, **options)
    finally:
        restore(raw, kept)
    assert [decided(one) for one in quick.exposures] == [decided(one) for one in whole.exposures]
    assert any(one.todo for one in quick.exposures) == is_change
    assert quick.context == whole.context


def decided(planned):
    return planned.input.name, planned.todo, planned.refused, planned.reason, planned.parameters, planned.digest


def restore(raw, kept):
    """Restore files with their contents and dates."""
    for path in set(raw.path.iterdir()) - set(raw.files):
        path.unlink()
    for path, (content, stat) in kept.items():
        path.write_bytes(content)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
