"""What a batch does with existing products: refused by name, replaced on request, recognised across versions."""

import hashlib
import json
import os
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from unittest.mock import patch

import pytest

import gpucoron.batch
from gpucoron.batch import request
from gpucoron.batch.decision import decide_reduction
from gpucoron.batch.job import reduce_job
from gpucoron.batch.plan import make_plan, settle
from gpucoron.batch.progress import Silent
from gpucoron.cli import main
from gpucoron.errors import ParameterError
from gpucoron.io.exposure import Exposure
from gpucoron.io.fits_layout import is_whole
from gpucoron.parameters import P
from gpucoron.records.manifest import Manifest, read_manifests, read_past
from gpucoron.steps import STEPS
from tests.cases.batches import Raw, lines, records
from tests.cases.waiting import HANG


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return Raw(tmp_path_factory.mktemp("existing"), 2)


@pytest.fixture(scope="module", autouse=True)
def headers():
    """Read headers once for all plans, which takes most of the time of a plan."""
    with patch.object(Exposure, "read_headers", cache(Exposure.read_headers)):
        yield


@contextmanager
def working_here(raw):
    """Run a batch in this process, without starting workers."""

    def run_here(jobs, options, descriptors=(), early=()):
        while jobs:
            job = jobs.popleft()
            yield "result", job, reduce_job({**job, "backend_options": options[0]})

    with (
        raw.cache.activate(),
        patch("gpucoron.batch.processes.run_locally", run_here),
        patch("gpucoron.batch.run._start_early", lambda *args: []),
    ):
        yield


@pytest.fixture
def here(raw):
    with working_here(raw):
        yield


@pytest.fixture(scope="module")
def finished(raw, tmp_path_factory):
    """The folder of a finished batch; tests must not change it."""
    output = tmp_path_factory.mktemp("finished")
    with working_here(raw):
        assert len(list(gpucoron.batch.reduce(raw.path, output, backend="numpy", workers=1))) == 2
    return output


@pytest.fixture
def output(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def plan_of(raw, output, **options):
    """Plan, and return for each exposure what would be done, and why."""
    profile, steps, run_parameters = (
        options.pop(name, usual) for name, usual in (("profile", "jwst"), ("steps", {}), ("run_parameters", {}))
    )
    steps = settle(profile, steps, run_parameters)
    with raw.cache.activate():
        plan = make_plan([raw.path], output, profile=profile, steps=steps, run_parameters=run_parameters, **options)
    assert [planned.error for planned in plan.exposures] == [None] * 2
    return [
        ("refuse" if planned.refused else "reduce" if planned.todo else "leave", planned.reason)
        for planned in plan.exposures
    ]


def batch(raw, output, *arguments):
    return main(["batch", str(raw.path), "-o", str(output), "--backend", "numpy", "--workers", "1", *arguments])


def test_one_foreign_product_among_many(raw, here, tmp_path, capsys):
    """Only that exposure is refused by name, also by --dry-run; on request the product is replaced."""
    foreign = tmp_path / f"{raw.names[0]}_rateints.fits"
    foreign.write_text("somebody else's")
    reason = f"{foreign.name} exists, and no manifest in this folder lists it"
    assert batch(raw, tmp_path, "--dry-run") == 2
    printed = capsys.readouterr().out
    assert f"refuse  {raw.names[0]}" in printed
    assert f"({reason})" in printed
    assert "1 of 2 exposures to reduce" in printed
    assert batch(raw, tmp_path) == 2
    printed, stderr = capsys.readouterr()
    assert "1 done, 1 refused" in printed
    assert f"{reason}; use --overwrite" in stderr
    assert "1 exposure was refused" in stderr
    assert "--resume --overwrite replaces these products" in stderr
    assert foreign.read_text() == "somebody else's"
    assert not (tmp_path / f"{raw.names[0]}_rate.fits").exists()
    assert [(record["exposure"], record["status"]) for record in lines(tmp_path)] == [
        (raw.names[1], "started"),
        (raw.names[1], "done"),
    ]
    assert batch(raw, tmp_path, "--resume", "--overwrite") == 0
    assert [record["exposure"] for record in records(tmp_path)] == [raw.names[1], raw.names[0]]
    assert foreign.stat().st_size > 2880
    assert batch(raw, tmp_path) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_overwrite_alone_reduces_everything_again(raw, here, output, capsys):
    def batch_of_one(*arguments):
        return main(["batch", str(raw.files[0]), "-o", str(output), "--backend", "numpy", "--workers", "1", *arguments])

    assert batch_of_one("--set", "jump.rejection_threshold=5") == 2
    assert "other parameters (jump.rejection_threshold: default, now 5.0)" in capsys.readouterr().err
    assert len(records(output)) == 2
    assert batch_of_one("--overwrite") == 0
    assert len(records(output)) == 3
    assert batch_of_one("--set", "jump.rejection_threshold=5", "--overwrite") == 0
    refused = ("refuse", "other parameters (jump.rejection_threshold: 5.0, now default)")
    assert plan_of(raw, output) == [refused, ("leave", "done")]


class Meanwhile(Silent):
    """Write a file of another origin into the folder while the batch runs."""

    def __init__(self, path):
        self.path = path

    def planned(self, plan):
        self.path.write_text("somebody else's")


@pytest.mark.parametrize("steps", [{}, {"linearity": {"save_results": True, "search_output_file": False}}])
def test_a_product_that_is_in_the_way_only_in_the_end(raw, here, tmp_path, steps):
    """No product is moved if one would be refused. A name that depends on the header is known only at the end."""
    name = raw.names[0]
    foreign = tmp_path / (f"{name}_linearity.fits" if steps else f"{name}_rate.fits")
    results = gpucoron.batch.reduce(
        raw.files[0], tmp_path, steps=steps, backend="numpy", workers=1, progress=Meanwhile(foreign)
    )
    (result,) = results
    assert result.status == "refused"
    assert result.message.startswith(f"{foreign.name} exists, and no manifest in this folder lists it; use --overwrite")
    assert foreign.read_text() == "somebody else's"
    assert [path.name for path in tmp_path.glob("*.fits")] == [foreign.name]
    assert lines(tmp_path) == []


def test_extra_products_are_known_before(raw, finished, tmp_path):
    name, other = raw.names
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (tmp_path / f"{name}_fitopt.fits", elsewhere / f"{name}_jump.fits", tmp_path / f"{name}_ramp.fits"):
        path.write_text("somebody else's")
    asks = (
        {"steps": {"ramp_fit": {"save_opt": True}}},
        {"steps": {"jump": {"save_results": True, "output_dir": str(elsewhere)}}},
        {"run_parameters": {"save_calibrated_ramp": True}},
        {"steps": {"ramp_fit": {"skip": True}}},
    )
    for options in asks:
        first, second = plan_of(raw, tmp_path, **options)
        assert first[0] == "refuse", options
        assert second == ("reduce", "new")
    assert plan_of(raw, tmp_path) == [("reduce", "new")] * 2


@pytest.mark.parametrize("where", ["out/elsewhere", "elsewhere"])
def test_results_of_steps_in_other_folders(raw, here, tmp_path, where):
    elsewhere, output = tmp_path / where, tmp_path / "out"
    steps = {"jump": {"save_results": True, "output_dir": str(elsewhere)}}
    options = {"steps": steps, "backend": "numpy", "workers": 1}
    assert [result.status for result in gpucoron.batch.reduce(raw.files[0], output, **options)] == ["done"]
    made = elsewhere / f"{raw.names[0]}_jump.fits"
    recorded = f"elsewhere/{made.name}" if where.startswith("out") else str(made)
    assert read_manifests(output)[0][raw.names[0]]["outputs"]["jump"] == recorded
    assert list(gpucoron.batch.reduce(raw.files[0], output, **options)) == []
    made.unlink()
    assert plan_of(raw, output, steps=steps)[0] == ("reduce", f"{recorded} is missing")


def test_killed_when_a_step_has_written_elsewhere(raw, here, tmp_path, monkeypatch):
    """A product in another folder is recorded before it is written, because it bypasses the staging folder."""
    from gpucoron.batch import run

    def end(*arguments):
        raise SystemExit(1)

    steps = {"jump": {"save_results": True, "output_dir": str(tmp_path / "elsewhere")}}
    monkeypatch.setattr(run, "_put_in_place", end)
    with pytest.raises(SystemExit):
        list(gpucoron.batch.reduce(raw.files[0], tmp_path / "out", steps=steps, backend="numpy", workers=1))
    assert (tmp_path / "elsewhere" / f"{raw.names[0]}_jump.fits").exists()
    plan = plan_of(raw, tmp_path / "out", steps=steps)
    assert plan == [("reduce", "a batch ended before it was finished"), ("reduce", "new")]


def test_a_started_record_is_whose_products_are(raw, output):
    """Products that were moved before the batch was killed belong to it, even if some are missing: also in reports."""
    from gpucoron.report import write_report

    record = read_manifests(output)[0][raw.names[0]]
    text = (output / "manifest.jsonl").read_text().splitlines()
    (output / "manifest.jsonl").write_text("".join(f"{line}\n" for line in text if raw.names[0] not in line))
    assert plan_of(raw, output)[0][0] == "refuse"
    with Manifest(output) as manifest:
        manifest.start(record, record["outputs"])
    assert plan_of(raw, output)[0] == ("reduce", "a batch ended before it was finished")
    assert plan_of(raw, output, redo="failed")[0] == ("leave", "did not fail")
    assert "started" in write_report(output).read_text()


def test_an_input_of_an_earlier_date(raw, output, tmp_path):
    """A file from the archive has the archive's date, which may be older than the first reduction."""
    copy = shutil.copy2(raw.files[0], tmp_path / raw.files[0].name)
    with raw.cache.activate():
        assert [planned.reason for planned in make_plan([copy], output).exposures] == ["done"]
        content = bytearray(copy.read_bytes())
        content[-2881] ^= 1
        copy.write_bytes(content)
        os.utime(copy, (1e9, 1e9))
        assert [planned.reason for planned in make_plan([copy], output).exposures] == ["the input has changed"]
        shutil.copy(raw.files[0], copy)
        assert [planned.reason for planned in make_plan([copy], output).exposures] == ["done"]


# gpucoron 0.1.0 stored no request, but the final parameters and their digest


def as_0_1_0_wrote(record, states=None):
    """Make the record of an exposure as gpucoron 0.1.0 wrote it."""
    old = {name: value for name, value in record.items() if name not in ("asked", "input_date")}
    content = [record["profile"], record["parameters"], states or {}]
    text = json.dumps(content, sort_keys=True, default=str)
    return old | {"parameters_digest": hashlib.sha256(text.encode()).hexdigest()}


def rewrite(output, change):
    """Change each record of a finished exposure; 0.1.0 wrote no others."""
    text = "".join(json.dumps(change(record)) + "\n" for record in records(output))
    (output / "manifest.jsonl").write_text(text)


def test_folders_of_0_1_0(raw, output):
    rewrite(output, as_0_1_0_wrote)
    assert plan_of(raw, output) == [("leave", "done")] * 2
    assert plan_of(raw, output, steps={"jump": {"rejection_threshold": 4}}) == [("leave", "done")] * 2
    reason = "other parameters (jump.rejection_threshold: 4.0, now 5.0)"
    assert plan_of(raw, output, steps={"jump": {"rejection_threshold": 5}}) == [("refuse", reason)] * 2
    assert plan_of(raw, output, profile="spaceklip")[0] == ("refuse", "other parameters (profile: jwst, now spaceklip)")
    # the user set one parameter only; CRDS files, in another context, set it too
    cut = {"jump": {"rejection_threshold": 5.0}}
    rewrite(output, lambda record: as_0_1_0_wrote({**record, "parameters": cut}))
    reason = "other parameters (jump.rejection_threshold: 5.0, now 4.0)"
    assert plan_of(raw, output) == [("refuse", reason)] * 2
    rewrite(output, lambda record: {**record, "context": "jwst_0001.pmap"})
    assert plan_of(raw, output) == [("reduce", "was made with context jwst_0001.pmap")] * 2
    assert plan_of(raw, output, use_pars=False) == [("refuse", reason)] * 2


def test_files_of_parameters_then_and_now(raw, output, tmp_path):
    """The digest of 0.1.0 held the files' sizes and dates; now their contents count."""
    (gain,) = (raw.cache.path / "references").rglob("*gain*.fits")
    mine = shutil.copy(gain, tmp_path / "mine.fits")
    steps = {"ramp_fit": {"override_gain": str(mine)}}
    changed = "other parameters (the file of ramp_fit.override_gain has changed)"
    with raw.cache.activate():
        now = make_plan([raw.path], tmp_path / "none", steps=steps).exposures[0]
    rewrite(output, lambda record: record | {"parameters": steps, "asked": now.request})
    assert plan_of(raw, output, steps=steps) == [("leave", "done")] * 2
    os.utime(mine, (1e9, 1e9))
    assert plan_of(raw, output, steps=steps) == [("leave", "done")] * 2
    states = {"ramp_fit.override_gain": [mine.stat().st_size, mine.stat().st_mtime_ns]}
    new = (output / "manifest.jsonl").read_text()
    rewrite(output, lambda record: as_0_1_0_wrote(record, states))
    assert plan_of(raw, output, steps=steps) == [("leave", "done")] * 2
    mine.write_bytes(gain.read_bytes() + bytes(2880))
    assert plan_of(raw, output, steps=steps) == [("refuse", changed)] * 2
    (output / "manifest.jsonl").write_text(new)
    assert plan_of(raw, output, steps=steps) == [("refuse", changed)] * 2


@pytest.mark.parametrize("is_old", [False, True])
def test_a_later_version_has_other_parameters(raw, output, monkeypatch, is_old):
    """A new parameter, a renamed one and a new default do not make products outdated."""
    cut = {"jump": {"rejection_threshold": 5.0}}
    with raw.cache.activate():
        before = make_plan([raw.path], output, steps=cut).exposures[0]
    old_fields = {"parameters": cut, "asked": before.request, "parameters_digest": before.digest}
    rewrite(output, lambda record: as_0_1_0_wrote(record | old_fields) if is_old else record | old_fields)
    assert plan_of(raw, output, steps=cut) == [("leave", "done")] * 2
    jump = STEPS["jump"]
    known = {**jump.known, "new": P("new", "float", 1.0, "was not there before")}
    known["cut"] = replace(known.pop("rejection_threshold"), name="cut")
    known["three_group_rejection_threshold"] = replace(known["three_group_rejection_threshold"], default=6.5)
    monkeypatch.setitem(vars(jump), "known", known)
    assert jump.default_settings  # cached like its class, so that both are restored afterwards
    for cached in ("settings_class", "default_settings"):
        monkeypatch.delitem(vars(jump), cached)
    monkeypatch.setitem(request.RENAMED, "jump.rejection_threshold", "jump.cut")
    assert plan_of(raw, output, steps={"jump": {"cut": 5}}) == [("leave", "done")] * 2
    with raw.cache.activate():
        assert make_plan([raw.path], output, steps={"jump": {"cut": 5.0}}).exposures[0].digest == before.digest
    for mine in ({"cut": 7.0}, {"cut": 5.0, "new": 2.0}):
        ((verdict, reason), _) = plan_of(raw, output, steps={"jump": mine})
        assert verdict == "refuse"
        assert f"now {max(mine.values()) if 'new' not in mine else 2.0}" in reason


def test_renamed_again_and_again():
    names = {"old_jump": "jump", "jump.a": "jump.b", "jump.b": "jump.c"}
    assert [request._current_name(name, names) for name in ("old_jump.a", "jump.b", "jump.x")] == [
        "jump.c",
        "jump.c",
        "jump.x",
    ]


def test_records_that_were_edited(raw, output):
    """A decision is possible for any contents of a manifest."""
    with raw.cache.activate():
        plan = make_plan([raw.path], output)
    for odd in (None, [], "x", {"parameters": []}, {"parameters": {}, "files": {"a": 1}}):
        for field in ("asked", "parameters", "versions", "outputs", "started", "input_bytes", "seconds", "shape"):
            with (output / "manifest.jsonl").open("a") as file:
                file.write(json.dumps({**plan.past.last[raw.names[0]], field: odd}) + "\n")
            past = read_past(output)
            assert past.n_damaged == 0
            decision = decide_reduction(plan.exposures[0], past, output_dir=output, context=plan.context)
            wanted = {"outputs": "done", "asked": "done", "seconds": "done", "shape": "done", "started": "done"}
            expected = wanted.get(field, decision.reason)
            assert decision.reason == expected, (field, odd)
            assert decision.reason


def killed(work):
    """Run a function in a new process that kills itself; fail if it does not."""
    child = os.fork()
    if child == 0:
        signal.alarm(HANG)
        try:
            work()
        finally:
            os._exit(1)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("n_moved", [1, 3])
def test_killed_while_products_are_put_in_place(raw, here, output, n_moved):
    """A batch that was replacing products is killed: the same command continues without the flag, another does not."""
    cut = {"jump": {"rejection_threshold": 5.0}}
    options = {"steps": cut, "backend": "numpy", "workers": 1}
    real_move, real_append, left = os.replace, Manifest.append, [n_moved]

    def move(source, target):
        if "-stage-" not in str(target):  # otherwise it is written completely, and nothing else
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        real_move(source, target)

    def append(manifest, record):
        if record["status"] == "done":
            os.kill(os.getpid(), signal.SIGKILL)
        return real_append(manifest, record)

    def work():
        os.replace, Manifest.append = move, append
        list(gpucoron.batch.reduce(raw.path, output, overwrite=True, **options))

    before = (output / f"{raw.names[0]}_rate.fits").read_bytes()
    killed(work)
    assert [record["status"] for record in lines(output)].count("started") == 3
    assert (output / f"{raw.names[0]}_rate.fits").read_bytes() != before
    ended, refused = ("reduce", "a batch ended before it was finished"), "other parameters (jump.rejection_threshold"
    assert plan_of(raw, output, steps=cut) == [ended, ("refuse", f"{refused}: default, now 5.0)")]
    assert plan_of(raw, output)[0] == ("refuse", f"{refused}: 5.0, now default)")
    results = gpucoron.batch.reduce(raw.files[0], output, **options)
    assert [result.status for result in results] == ["done"]
    assert plan_of(raw, output, steps=cut)[0] == ("leave", "done")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_product_of_one_name_belongs_to_one_exposure(raw, here, tmp_path, overwrite):
    steps = {"jump": {"output_file": "fixed.fits"}}
    found = gpucoron.batch.reduce(raw.path, tmp_path, steps=steps, overwrite=overwrite, backend="numpy", workers=1)
    status = {result.exposure: result for result in found}
    assert [status[name].status for name in raw.names] == ["done", "failed"]
    assert f"fixed_jump.fits would replace the product of {raw.names[0]}" in status[raw.names[1]].message
    # even if the other exposure is not in this batch
    left = list(gpucoron.batch.reduce(raw.files[1], tmp_path, steps=steps, backend="numpy", workers=1))
    assert [result.status for result in left] == ["refused"]
    assert f"fixed_jump.fits is a product of {raw.names[0]}" in left[0].message


def test_a_folder_in_the_place_of_a_product(raw, here, tmp_path):
    (tmp_path / f"{raw.names[0]}_rateints.fits").mkdir()
    found = list(gpucoron.batch.reduce(raw.files[0], tmp_path, overwrite=True, backend="numpy", workers=1))
    assert [result.status for result in found] == ["failed"]
    assert "a folder has the name of a product" in found[0].message
    assert not list(tmp_path.glob("*_rate.fits"))


@pytest.mark.parametrize(
    "change",
    [{"seconds": {"total": "x"}}, {"shape": 5}, {"shape": ["a"]}, {"shape": [None]}, {"outputs": {"rate": "x" * 5000}}],
)
def test_odd_records_do_not_stop_a_plan(raw, here, output, change):
    path = output / "manifest.jsonl"
    records_there = [json.loads(line) | change for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records_there))
    assert len(make_plan(raw.path, output).exposures) == 2


def test_a_cut_file_is_known_to_the_plan(raw, here, tmp_path):
    for path in raw.files:
        shutil.copy(path, tmp_path)
    cut = tmp_path / raw.files[1].name
    cut.write_bytes(cut.read_bytes()[:-6000])
    errors = {planned.input.name: planned.error for planned in make_plan(tmp_path, tmp_path / "out").exposures}
    assert errors[raw.names[0]] is None
    assert "truncated" in str(errors[raw.names[1]])


@pytest.mark.parametrize(
    "given",
    [
        {"workers": "a"},
        {"workers": 1.5},
        {"workers": True},
        {"shard": None},
        {"shard": (1, 2)},
        {"output_dir": None},
        {"output_dir": ""},
        {"output_dir": "a\0b"},
        {"pars": 5},
        {"pars": [None]},
        {"pars": ""},
        {"profile": None},
        {"profile": 5},
        *({"steps": steps} for steps in (5, {"jump": 5}, [("jump", {})], {5: {}}, {"jump": {5: 1}})),
    ],
)
def test_invalid_arguments_are_refused_at_once(raw, tmp_path, given):
    with pytest.raises(ParameterError):
        gpucoron.batch.reduce(raw.path, **({"output_dir": tmp_path / "out"} | given))
    assert not (tmp_path / "out").exists()


def test_damaged_and_replaced_products(raw, here, output, capsys):
    """A damaged product is reduced again; another whole file in its place is refused."""
    empty, other = (output / f"{name}_rate.fits" for name in raw.names)
    empty.write_bytes(b"")
    shutil.copy(output / f"{raw.names[1]}_rateints.fits", other)
    kept = other.read_bytes()
    reasons = [
        ("reduce", f"product {empty.name} is damaged or was replaced"),
        ("refuse", f"{other.name} exists, and no manifest in this folder lists it"),
    ]
    assert plan_of(raw, output) == reasons
    assert batch(raw, output) == 2
    assert "1 done, 1 refused" in capsys.readouterr().out
    assert is_whole(empty)
    assert other.read_bytes() == kept
    assert plan_of(raw, output, overwrite=True) == [("leave", "done"), ("reduce", f"product {other.name} was replaced")]


def test_two_files_of_one_exposure_after_it_is_done(raw, here, output, tmp_path, capsys):
    """The conflict is told as in a new folder, and products and records are kept."""
    command = ["batch", str(raw.path), shutil.copy(raw.files[0], tmp_path), "-o", str(output), "--backend", "numpy"]
    before = lines(output)
    for arguments in (["--dry-run"], []):
        assert main([*command, *arguments]) == 2
        assert "would write products of the same name" in "".join(capsys.readouterr())
    assert lines(output) == before
    assert batch(raw, output) == 0
