"""What a batch reduces again, refuses and keeps: random histories compared with a model of the documented rules.

No exposure is reduced: a replacement writes the files that it would have made. Plan, decisions, manifest, lock and
moving of products are the real ones.
"""

import json
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

stateful = pytest.importorskip("hypothesis.stateful", reason="hypothesis is not installed on this machine")
from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import gpucoron.batch  # noqa: E402
from gpucoron.batch.inputs import Input  # noqa: E402
from gpucoron.batch.plan import make_plan, settle  # noqa: E402
from gpucoron.facts import Facts  # noqa: E402

NAMES = ("a", "b", "c")
#: possible requests: name -> (arguments, what the products depend on, the products)
USUAL = ("rate", "rateints")
ASKED = {
    "nothing": ({}, "usual", USUAL),
    "the default": ({"steps": {"jump": {"rejection_threshold": 4.0}}}, "usual", USUAL),
    "a cut": ({"steps": {"jump": {"rejection_threshold": 5}}}, "5", USUAL),
    "the cut as text": ({"steps": {"jump": {"rejection_threshold": "5.0"}}}, "5", USUAL),
    "the ramp": ({"save_calibrated_ramp": True}, "ramp", (*USUAL, "ramp")),
    "the fit": ({"steps": {"ramp_fit": {"save_opt": True}}}, "fitopt", (*USUAL, "fitopt")),
    "a step's result": ({"steps": {"linearity": {"save_results": True}}}, "linearity", (*USUAL, "linearity")),
    "another profile": ({"profile": "spaceklip"}, "spaceklip", USUAL),
}


class Killed(BaseException):
    """Ends the batch at this point."""


@lru_cache
def settled(profile, steps, run_parameters):
    """Resolve parameters as the engine does for an exposure, without one."""
    from gpucoron.engine import settle as settle_all

    parameters, run_parameters, _pars = settle_all(
        profile=profile, steps=json.loads(steps), pipeline=json.loads(run_parameters)
    )
    return parameters, run_parameters


def planned_run(look_up):
    """The part of the result of `gpucoron.engine.plan` that a batch reads."""
    from gpucoron.engine import order_of

    asked = look_up._options
    parameters, run_parameters = settled(asked["profile"], json.dumps(asked["steps"]), json.dumps(asked["pipeline"]))
    exposure = SimpleNamespace(meta=SimpleNamespace(meta=SimpleNamespace(filename="header.fits")))
    order = order_of(Facts("NIRCAM"))
    return SimpleNamespace(
        exposure=exposure,
        parameters=parameters,
        run_parameters=run_parameters,
        references={},
        pars_files=[],
        order=order,
        fits=True,
    )


def read_input(path):
    name = path.name.removesuffix("_uncal.fits")
    about = {"exposure": name, "input": str(path), "input_bytes": path.stat().st_size, "exp_type": "NRC_CORON"}
    about |= {"instrument": "NIRCAM", "detector": "NRCALONG", "shape": [2, 4, 8, 8]}
    return Input(
        name, name, path, path.stat().st_size, about, (2, 4, 8, 8), deciding=(name,), date=("2026-01-01", "00:00")
    )


class World:
    """A folder of raw exposures, one of products, the CRDS context, versions; and events during batches."""

    def __init__(self, folder):
        self.raw, self.output = folder / "raw", folder / "out"
        self.raw.mkdir()
        self.output.mkdir()
        self.context, self.version = 1, 1
        self.failing, self.surprising, self.moves_left = set(), set(), None

    @contextmanager
    def standing_in(self):
        """Replace CRDS, headers and workers by test doubles."""
        from gpucoron.batch.plan import _ReferenceLookUp

        real_look_up, moved = _ReferenceLookUp._look_up, __import__("os").replace

        def ask(look_up, found):
            with patch("gpucoron.engine.plan", lambda exposure, **options: planned_run(look_up)):
                return real_look_up(look_up, found)

        def move(source, target):
            if self.moves_left is not None:
                if self.moves_left == 0:
                    raise Killed
                self.moves_left -= 1
            moved(source, target)

        exposure = SimpleNamespace(meta=SimpleNamespace(meta=SimpleNamespace(observation=SimpleNamespace())))
        changes = {
            "gpucoron.batch.plan.read_input": read_input,
            "gpucoron.batch.plan._ReferenceLookUp._look_up": ask,
            "gpucoron.io.exposure.Exposure.read_headers": lambda path: exposure,
            "gpucoron.io.crds_lookup.crds_context": lambda: (f"jwst_{self.context:04}.pmap", "14"),
            "gpucoron.io.crds_cache.find_damaged": lambda paths: {},
            "gpucoron.io.crds_cache.offline_environment": lambda context: {},
            "gpucoron.batch.decision.__version__": f"0.{self.version}",
            "gpucoron.batch.run._start_early": lambda *arguments: [],
            "gpucoron.batch.pool.worker_options": lambda *arguments: [{}],
            "gpucoron.batch.processes.run_locally": self.run_here,
            "gpucoron.batch.run.os.replace": move,
        }
        with ExitStack() as stack:
            for name, stand_in in changes.items():
                stack.enter_context(patch(name, stand_in))
            yield

    def run_here(self, jobs, options, descriptors=(), early=()):
        while jobs:
            job = jobs.popleft()
            yield "result", job, self.reduce_job(job)

    def reduce_job(self, job):
        """Write the products of an exposure; their contents show what they depend on."""
        from gpucoron.batch.job import process_info, utc_now
        from gpucoron.files import file_digest

        name, stage, path = job["record_fields"]["exposure"], Path(job["stage"]), Path(job["path"])
        versions = {**process_info()["versions"], "gpucoron": f"0.{self.version}"}
        record = {
            **job["record_fields"],
            **process_info(),
            "versions": versions,
            "attempt": 1,
            "started": utc_now(),
            "outputs": {},
        }
        record |= {"input_sha256": file_digest(path), "seconds": {"total": 1.0}}
        if name in self.failing:
            return {**record, "status": "failed", "error": {"type": "X", "message": "no"}, "finished": utc_now()}
        kinds = next(kinds for given, _key, kinds in ASKED.values() if as_asked(given) == asked_of(job))
        kinds = [*kinds, *(["surprise"] if name in self.surprising else [])]
        (stage / "previews").mkdir(parents=True)
        (stage / "previews" / f"{name}.npz").write_text("preview")
        for kind in kinds:
            (stage / f"{name}_{kind}.fits").write_text(f"batch {path.read_text()}")
        outputs = {kind: f"{name}_{kind}.fits" for kind in kinds}
        return {**record, "status": "done", "outputs": outputs, "finished": utc_now()}


def as_asked(given):
    given = dict(given)
    profile, steps = given.pop("profile", "jwst"), given.pop("steps", {})
    return [profile, settle(profile, steps, given), given]


def asked_of(job):
    return [job["profile"], job["steps"], job["run_parameters"]]


class Resuming(stateful.RuleBasedStateMachine):
    """The rules of docs/batch.md, implemented independently: they must decide like the batch."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder)
        self.standing_in = self.world.standing_in()
        self.standing_in.__enter__()
        # exposure -> how often its input has changed; result of the last attempt; what made each file
        self.inputs, self.last, self.files, self.known = dict.fromkeys(NAMES, 0), {}, {}, {}
        self.asked = "nothing"
        for name in NAMES:
            self.write_input(name)

    def teardown(self):
        self.standing_in.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    def write_input(self, name):
        (self.world.raw / f"{name}_uncal.fits").write_text(f"{name} {self.inputs[name]:05}")

    def stamp(self, name):
        return {"context": self.world.context, "version": self.world.version, "input": self.inputs[name]}

    # decisions by the rules

    def expected(self, name, asked, redo="needed", overwrite=False, kinds=None):
        """Return 'reduce', 'refuse' or 'leave', and part of the reason."""
        _given, key, usual = ASKED[asked]
        last = self.last.get(name)
        if redo == "all":
            wanted = "all are reduced"
        elif redo == "failed":
            wanted = "failed before" if last and last["status"] == "failed" else None
        elif last is None:
            wanted = "new"
        elif last["status"] == "failed":
            wanted = "failed before"
        elif last["status"] == "started":
            wanted = "ended before"
        elif any(file not in self.files for file in last["files"]):
            wanted = "is missing"
        elif last["key"] != key:
            wanted = "other parameters"
        elif last["context"] != self.world.context:
            wanted = "made with context"
        elif last["version"] != self.world.version:
            wanted = "made with gpucoron"
        elif last["input"] != self.inputs[name]:
            wanted = "input has changed"
        else:
            wanted = None
        if wanted is None:
            return "leave", "did not fail" if redo == "failed" else "done"
        obstacle = None if overwrite else self.obstacle(name, key, kinds or usual)
        return ("refuse", obstacle) if obstacle else ("reduce", wanted)

    def obstacle(self, name, key, kinds):
        made = self.known.get(name)
        if made and made["key"] != key and any(file in self.files for file in made["files"]):
            return "other parameters"
        there = [f"{name}_{kind}.fits" for kind in kinds]
        there = [file for file in there if file in self.files]
        makers = [self.known.get(file) for file in there]
        if None in makers:
            return "no manifest in this folder lists"
        return "other parameters" if any(maker["key"] != key for maker in makers) else None

    # events in the folder

    @stateful.rule(name=st.sampled_from(NAMES))
    def change_input(self, name):
        self.inputs[name] += 1
        self.write_input(name)

    @stateful.rule(name=st.sampled_from(NAMES), kind=st.sampled_from(["rate", "rateints", "fitopt", "linearity"]))
    def remove_product(self, name, kind):
        file = f"{name}_{kind}.fits"
        (self.world.output / file).unlink(missing_ok=True)
        self.files.pop(file, None)

    @stateful.rule(
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(["rate", "rateints", "ramp", "fitopt", "linearity", "surprise"]),
    )
    def put_a_product_of_somebody_else(self, name, kind):
        file = f"{name}_{kind}.fits"
        if file not in self.files and file not in self.known:
            (self.world.output / file).write_text("somebody else's")
            self.files[file] = "foreign"

    @stateful.rule()
    def new_context(self):
        self.world.context += 1

    @stateful.rule()
    def new_version(self):
        self.world.version += 1
        self.standing_in.__exit__(None, None, None)
        self.standing_in = self.world.standing_in()
        self.standing_in.__enter__()

    @stateful.rule()
    def lose_the_manifests(self):
        for path in self.world.output.glob("manifest*"):
            path.unlink()
        self.last, self.known = {}, {}
        self.files = dict.fromkeys(self.files, "foreign")

    @stateful.rule(asked=st.sampled_from(sorted(ASKED)))
    def ask_otherwise(self, asked):
        self.asked = asked

    @stateful.rule(
        redo=st.sampled_from(["needed", "needed", "all", "failed"]),
        overwrite=st.booleans(),
        shard=st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 2)]),
        failing=st.sets(st.sampled_from(NAMES), max_size=1),
        surprising=st.sets(st.sampled_from(NAMES), max_size=1),
        moves=st.one_of(st.none(), st.none(), st.integers(0, 8)),
    )
    def run(self, redo, overwrite, shard, failing, surprising, moves):
        world = self.world
        world.failing, world.surprising, world.moves_left = failing, surprising, moves
        names = NAMES[shard[0] - 1 :: shard[1]]
        before = {file: (world.output / file).read_text() for file in self.files}
        expected = {name: self.expected(name, self.asked, redo, overwrite) for name in names}
        given, key, kinds = ASKED[self.asked]
        results, killed = {}, False
        try:
            for result in gpucoron.batch.reduce(
                world.raw, world.output, redo=redo, overwrite=overwrite, shard=f"{shard[0]}/{shard[1]}", workers=1,
                **given,
            ):  # fmt: skip
                results[result.exposure] = result
        except Killed:
            killed = True
        world.moves_left = None
        for name in names:
            verdict, why = expected[name]
            if verdict == "reduce":
                self.after_reducing(name, key, kinds, results.get(name), overwrite, killed)
            elif verdict == "refuse":
                assert results[name].status == "refused"
                assert why in results[name].message
                assert "--overwrite" in results[name].message
            else:
                assert name not in results
        if not overwrite:
            for file, made in self.files.items():
                if made == "foreign":
                    assert (world.output / file).read_text() == before[file], "somebody else's product was replaced"
        assert not [path for path in world.output.iterdir() if path.name.startswith(".")]

    def after_reducing(self, name, key, kinds, result, overwrite, killed):
        """Update the model with the result of an exposure that was started."""
        stamp = {"key": key, **self.stamp(name)}
        kinds = [*kinds, *(["surprise"] if name in self.world.surprising else [])]
        files = [f"{name}_{kind}.fits" for kind in kinds]
        there = {file for file in files if (self.world.output / file).exists()}
        if result is None:
            assert killed
            started = self.last_line(name)
            if started is None or started["status"] != "started":
                return  # it had not been started
            made = {"status": "started", "files": files, **stamp}
            self.last[name] = self.known[name] = made
            self.known |= dict.fromkeys(files, made)
            self.files |= dict.fromkeys(there, "ours")
        elif name in self.world.failing:
            assert result.status == "failed"
            self.last[name] = {"status": "failed"}
        elif not overwrite and self.obstacle(name, key, kinds):
            # its products were known only at the end
            assert result.status == "refused"
            assert self.obstacle(name, key, kinds) in result.message
        else:
            assert result.status == "done"
            assert there == set(files)
            assert {path.name for path in result.outputs.values()} == there
            made = {"status": "done", "files": files, **stamp}
            self.last[name] = self.known[name] = made
            self.known |= dict.fromkeys(files, made)
            self.files |= dict.fromkeys(files, "ours")
            for file in files:
                assert (self.world.output / file).read_text().endswith(f"{self.inputs[name]:05}")

    def last_line(self, name):
        """Read the last manifest record of an exposure, only to know whether a killed batch had reached it."""
        from gpucoron.records.manifest import read_manifests

        record = read_manifests(self.world.output)[0].get(name)
        is_of_now = record and record["versions"]["gpucoron"] == f"0.{self.world.version}"
        return record if is_of_now else None

    @stateful.invariant()
    def plan_says_what_the_rules_say(self):
        for redo, overwrite in (("needed", False), ("needed", True), ("all", False), ("failed", False)):
            plan = plan_of(self.world, self.asked, redo, overwrite)
            for planned in plan.exposures:
                assert planned.error is None
                verdict, why = self.expected(planned.input.name, self.asked, redo, overwrite)
                verdict_of_plan = "refuse" if planned.refused else "reduce" if planned.todo else "leave"
                assert (verdict_of_plan, why in planned.reason) == (verdict, True), (planned.reason, verdict, why)

    @stateful.rule()
    def what_is_done_stays_done(self):
        """After a batch without limits, the next one has nothing to do."""
        self.run("needed", True, (1, 1), set(), set(), None)
        given = ASKED[self.asked][0]
        assert list(gpucoron.batch.reduce(self.world.raw, self.world.output, workers=1, **given)) == []


def plan_of(world, asked, redo="needed", overwrite=False):
    given = dict(ASKED[asked][0])
    profile, steps = given.pop("profile", "jwst"), given.pop("steps", {})
    steps = settle(profile, steps, given)
    return make_plan(
        [world.raw], world.output, profile=profile, steps=steps, run_parameters=given, redo=redo, overwrite=overwrite
    )


Resuming.TestCase.settings = settings(
    max_examples=max(1, settings.default.max_examples // 25), stateful_step_count=12, deadline=None
)
test_a_batch_goes_by_the_rules = Resuming.TestCase
