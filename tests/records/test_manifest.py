"""The manifest and its lock compared with a model: incomplete lines, several files, other versions, kills."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.cases.batches import HOME
from tests.cases.waiting import HANG

stateful = pytest.importorskip("hypothesis.stateful", reason="hypothesis is not installed on this machine")
from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from gpucoron.errors import OutputError  # noqa: E402
from gpucoron.records.manifest import FIELDS, Manifest, manifest_name, read_manifests, read_past  # noqa: E402

SHARDS = ((1, 1), (1, 2), (2, 2))
NAMES = ("a", "b", "c")
#: lines that are not records: other text, and incomplete records in the middle of a file
RUBBISH = (
    "{}",
    "[]",
    "null",
    "no JSON",
    '{"exposure": "a", "sta',
    '{"exposure": 1}',
    "[" * 100_000,
    "\xff\xfe",
    "[1e999",
)
FEWER = settings(max_examples=max(1, settings.default.max_examples // 20), stateful_step_count=20, deadline=None)


class Recording(stateful.RuleBasedStateMachine):
    """Batches append to the manifests of a folder, which is read at any time; crashes leave incomplete last lines."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = 0
        # manifest -> its records in order; and number of damaged lines
        self.written, self.n_damaged = {shard: [] for shard in SHARDS}, 0

    def teardown(self):
        shutil.rmtree(self.folder)

    def path(self, shard):
        return self.folder / manifest_name(shard)

    def make_record(self, name, status, kinds):
        self.clock += 1
        outputs = {kind: f"{name}_{kind}.fits" for kind in kinds} if status != "failed" else {}
        return {"exposure": name, "status": status, "outputs": outputs, "finished": f"2026-01-01T{self.clock:09}"}

    @stateful.rule(
        shard=st.sampled_from(SHARDS),
        name=st.sampled_from(NAMES),
        status=st.sampled_from(["done", "failed", "no rate"]),
        kinds=st.sets(st.sampled_from(["rate", "rateints", "ramp"])),
        is_started=st.booleans(),
        cut=st.floats(0, 1),
    )
    def append(self, shard, name, status, kinds, is_started, cut):
        record = self.make_record(name, status, kinds)
        with Manifest(self.folder, shard, patience=0) as manifest:
            size = self.path(shard).stat().st_size
            if is_started and kinds:
                begun = manifest.start({**record, "started": record["finished"], "steps": [1]}, record["outputs"])
                assert begun["status"] == "started"
                assert "steps" not in begun
                self.written[shard].append({**record, "status": "started"})
            manifest.append(record)
        self.written[shard].append(record)
        # reading during a write returns the complete lines
        content = self.path(shard).read_bytes()
        assert content[size:].count(b"\n") == 1 + (is_started and bool(kinds))
        assert list(json.loads(content.splitlines()[-1])) == list(FIELDS)
        self.path(shard).write_bytes(content[: size + int(cut * (len(content) - size - 2))])
        # a line that lacks only its end is still a record
        has_first = self.path(shard).read_bytes()[size:].startswith(content[size:].splitlines()[0])
        whole = {**self.written, shard: self.written[shard][: -1 - (is_started and bool(kinds))]}
        if has_first:
            whole[shard] = [*whole[shard], self.written[shard][-2]]
        self.compare(whole)
        self.path(shard).write_bytes(content)

    @stateful.rule(shard=st.sampled_from(SHARDS), n_bytes=st.integers(1, 60))
    def crash(self, shard, n_bytes):
        """The machine crashes while a line is written: the next batch removes the incomplete line."""
        with self.path(shard).open("ab") as file:
            file.write(json.dumps(self.make_record("a", "done", ["rate"])).encode()[:n_bytes])
        with Manifest(self.folder, shard, patience=0):
            pass

    @stateful.rule(shard=st.sampled_from(SHARDS))
    def edit(self, shard):
        """Some editors omit the last line's end; it is still a record, also for the next batch."""
        record = self.make_record("b", "done", ["rate"])
        with self.path(shard).open("a") as file:
            file.write(json.dumps(record))
        self.written[shard].append(record)
        self.compare(self.written)
        with Manifest(self.folder, shard, patience=0):
            pass

    @stateful.rule(shard=st.sampled_from(SHARDS), line=st.sampled_from(RUBBISH))
    def damage(self, shard, line):
        with self.path(shard).open("a", encoding="latin-1") as file:
            file.write(line + "\n\n")
        self.n_damaged += 1

    @stateful.rule(shard=st.sampled_from(SHARDS), name=st.sampled_from(NAMES), odd=st.sampled_from([None, 1, [], "x"]))
    def write_as_another_version(self, shard, name, odd):
        """Fields that are new, missing, or of another type."""
        record = self.make_record(name, "done", [])
        line = {**record, "outputs": odd, "versions": odd, "parameters": odd, "of_another_version": {"x": 1}}
        with self.path(shard).open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.written[shard].append(record)

    @stateful.invariant()
    def is_read_as_written(self):
        self.compare(self.written)

    def compare(self, written):
        """Compare the records read with the model: the last record of an exposure counts."""
        past = read_past(self.folder)
        everything = sorted((record for records in written.values() for record in records), key=_moment)
        last = {record["exposure"]: record for record in everything}
        assert {name: _essence(record) for name, record in past.last.items()} == _essences(last)
        made = {record["exposure"]: record for record in everything if record["status"] != "failed"}
        assert {name: _essence(record) for name, record in past.made.items()} == _essences(made)
        makers = {file: record for record in everything for file in record["outputs"].values()}
        assert {file: _essence(record) for file, record in past.makers.items()} == _essences(makers)
        assert past.n_damaged == self.n_damaged
        assert read_manifests(self.folder) == (past.last, past.n_damaged)


def _moment(record):
    return record["finished"], record["status"] != "started"


def _essence(record):
    return record["status"], record["outputs"]


def _essences(records):
    return {key: _essence(record) for key, record in records.items()}


Recording.TestCase.settings = FEWER
test_records_are_read_as_they_were_written = Recording.TestCase


class Locking(stateful.RuleBasedStateMachine):
    """Three batches need a folder, whole or a shard of it; each may end in any way, or leave child processes."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.holders, self.children = {}, []

    def teardown(self):
        for manifest, _shard in self.holders.values():
            manifest.close()
        for descriptors, _shard in self.children:
            self.end(descriptors)
        shutil.rmtree(self.folder)

    @staticmethod
    def end(descriptors):
        for descriptor in descriptors:
            os.close(descriptor)

    def held(self):
        return [shard for _holder, shard in [*self.holders.values(), *self.children]]

    @stateful.rule(batch=st.integers(0, 2), shard=st.sampled_from(SHARDS))
    def enter(self, batch, shard):
        if batch in self.holders:
            return
        others = self.held()
        is_free = shard not in others and (1, 1) not in others and (not others or shard != (1, 1))
        manifest = Manifest(self.folder, shard, patience=0)
        if is_free:
            assert manifest.__enter__() is manifest
            manifest.append({"exposure": "x", "status": "failed"})
            self.holders[batch] = manifest, shard
        else:
            with pytest.raises(OutputError, match="another batch is running"):
                manifest.__enter__()
            assert manifest.descriptors == ()

    @stateful.precondition(lambda self: self.holders)
    @stateful.rule(batch=st.integers(0, 2), how=st.sampled_from(["end", "error", "leave a child"]))
    def leave(self, batch, how):
        if batch not in self.holders:
            return
        manifest, shard = self.holders.pop(batch)
        if how == "leave a child":  # a worker that has not yet noticed holds the lock
            self.children.append(([os.dup(descriptor) for descriptor in manifest.descriptors], shard))
        if how == "error":
            with pytest.raises(KeyboardInterrupt), _leaving(manifest):
                raise KeyboardInterrupt
        else:
            manifest.__exit__(None, None, None)
        assert manifest.descriptors == ()

    @stateful.precondition(lambda self: self.children)
    @stateful.rule()
    def last_child_ends(self):
        self.end(self.children.pop()[0])

    @stateful.precondition(lambda self: not (self.holders or self.children))
    @stateful.rule(shard=st.sampled_from(SHARDS), is_there=st.booleans())
    def change_the_files(self, shard, is_there):
        """A file of earlier batches is not a lock, and neither is its absence."""
        path = self.folder / manifest_name(shard)
        path.touch()
        if not is_there:
            path.unlink()

    @stateful.invariant()
    def locks_agree_with_the_model(self):
        """A lock attempt by another process gives the result of the model."""
        for shard in SHARDS:
            path = self.folder / manifest_name(shard)
            if path.exists():
                with path.open() as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        is_free = True
                    except BlockingIOError:
                        is_free = False
                assert is_free == (shard not in self.held() and not (shard == (1, 1) and self.held()))


class _leaving:
    """Enter without work, and leave a manifest."""

    def __init__(self, manifest):
        self.manifest = manifest

    def __enter__(self):
        return self.manifest

    def __exit__(self, *exception):
        return self.manifest.__exit__(*exception)


Locking.TestCase.settings = FEWER
test_one_batch_at_a_time = Locking.TestCase


def test_three_contenders_take_turns(tmp_path):
    """No record is lost, and no two batches hold the folder at once."""
    inside, most, errors = [], [], []

    def work(number):
        try:
            for turn in range(4):
                with Manifest(tmp_path, patience=30) as manifest:
                    inside.append(number)
                    most.append(len(inside))
                    manifest.append({"exposure": f"{number} {turn}", "status": "done"})
                    inside.remove(number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert most == [1] * 12
    assert len(read_manifests(tmp_path)[0]) == 12


HOLDER = """
import sys
from gpucoron.records.manifest import Manifest

with Manifest(sys.argv[1]) as manifest:
    manifest.append({"exposure": "held", "status": "done"})
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_killed_holder_holds_no_longer(tmp_path, monkeypatch):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONPATH": HOME}) as holder:

        def kill_and_sleep(seconds, sleep=time.sleep):
            holder.kill()
            sleep(seconds)

        try:
            assert holder.stdout.readline() == b"in\n"
            with pytest.raises(OutputError, match="another batch is running"), Manifest(tmp_path, patience=0):
                pass
            # The next batch waits before it tries again: then the holder is killed.
            monkeypatch.setattr("gpucoron.records.manifest.time.sleep", kill_and_sleep)
            with Manifest(tmp_path, patience=HANG) as manifest:
                manifest.append({"exposure": "next", "status": "done"})
            assert holder.poll() is not None
        finally:
            holder.kill()
    assert set(read_manifests(tmp_path)[0]) == {"held", "next"}


def test_a_manifest_that_is_taken_away_is_no_lock(tmp_path):
    """The process that creates the file anew holds the folder; the old holder gets an error when it writes."""
    with Manifest(tmp_path) as first:
        (tmp_path / "manifest.jsonl").unlink()
        with Manifest(tmp_path, patience=0) as second:
            with pytest.raises(OutputError, match="was removed or replaced"):
                first.append({"exposure": "lost", "status": "done"})
            second.append({"exposure": "kept", "status": "done"})
    assert set(read_manifests(tmp_path)[0]) == {"kept"}


def test_a_file_that_changes_while_it_is_locked_is_locked_again(tmp_path, monkeypatch):
    real, path = fcntl.flock, tmp_path / "manifest.jsonl"

    def flock_late(descriptor, kind):
        monkeypatch.setattr(fcntl, "flock", real)
        real(descriptor, kind)
        path.unlink()  # between opening and locking

    monkeypatch.setattr(fcntl, "flock", flock_late)
    with Manifest(tmp_path, patience=0) as manifest:
        manifest.append({"exposure": "kept", "status": "done"})
    assert set(read_manifests(tmp_path)[0]) == {"kept"}


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError(37, "No locks available"), "cannot be locked"), (KeyboardInterrupt(), None)],
)
def test_a_lock_that_fails_leaves_nothing_open(tmp_path, monkeypatch, error, words):
    def fail(descriptor, kind):
        raise error

    manifest = Manifest(tmp_path, (1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", fail)
        with pytest.raises(OutputError if words else KeyboardInterrupt, match=words):
            manifest.__enter__()
    assert manifest.descriptors == ()
    with Manifest(tmp_path, patience=0):
        pass


def test_folders_that_cannot_be_written_to(tmp_path):
    for folder in (Path("/proc/self"), tmp_path / "none"):  # not even by root
        with pytest.raises(OutputError, match="cannot be written.*choose another output folder"):
            Manifest(folder).__enter__()
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(OutputError, match="manifest.jsonl: cannot be written"):
        Manifest(tmp_path).__enter__()
    with pytest.raises(OutputError, match="manifest.jsonl: cannot be read"):
        read_manifests(tmp_path)


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    with Manifest(tmp_path) as manifest:
        manifest.append({"exposure": "a", "status": "done"})
        before = (tmp_path / "manifest.jsonl").read_bytes()
        real = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:10]))
            with pytest.raises(OutputError, match="b cannot be recorded .*free disk space"):
                manifest.append({"exposure": "b", "status": "done"})
        assert (tmp_path / "manifest.jsonl").read_bytes() == before
        manifest.append({"exposure": "c", "status": "done"})
    assert set(read_manifests(tmp_path)[0]) == {"a", "c"}
