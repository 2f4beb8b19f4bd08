"""The persistence file in a batch: exposures in order of time with any workers, and nothing reduced twice."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from stdatamodels.jwst.datamodels import dqflags

import gpucoron
import gpucoron.batch
from gpucoron import cli
from gpucoron.batch.plan import make_plan, settle
from gpucoron.engine import settle as settle_all
from gpucoron.errors import ParameterError
from gpucoron.io.persistence_file import entry_digest, read_entries, write_entries, written_path
from gpucoron.simulate import simulate
from gpucoron.simulate.references import write_references
from tests.cases.batches import records

#: seconds between the starts of two exposures
APART = 400.0
#: pixels that the first exposure of each detector saturates
BRIGHT = (slice(4, 9), slice(6, 16))
PERSISTENCE = dqflags.pixel["PERSISTENCE"]


class Haunted:
    """Three exposures of one detector, two of another; the first by name is the last in time, and saturates pixels."""

    def __init__(self, folder):
        self.path = folder / "raw"
        self.path.mkdir(parents=True)
        made = []
        for detector, subarray, count in (("NRCALONG", "SUB320A335R", 3), ("NRCA2", "SUB640A210R", 2)):
            for turn in range(count):
                simulation = simulate(
                    "NIRCAM",
                    subarray,
                    "RAPID",
                    4,
                    2,
                    shape=(24, 24),
                    observation=9 - turn,
                    detector=detector,
                    seed=turn,
                )
                made.append(simulation)
        self.cache = write_references(made, folder / "crds")
        self.files = [simulation.write(self.path) for simulation in made]
        for number, path in enumerate(self.files):
            shift_start(path, APART * (number % 3))
            if number % 3 == 0:
                with fits.open(path, mode="update") as hdus:
                    hdus["SCI"].data[(..., *BRIGHT)] = 65535
        self.names = [path.name.removesuffix("_uncal.fits") for path in self.files]


def shift_start(path, seconds):
    """Delay the start of an exposure, in its keywords and its table of integrations."""
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["EXPSTART"] += seconds / 86400
        table = hdus["INT_TIMES"].data
        for name in table.names:
            if "MJD" in name or "BJD" in name:
                table[name] += seconds / 86400


@pytest.fixture(scope="module")
def haunted(tmp_path_factory):
    """The exposures, and their references."""
    return Haunted(tmp_path_factory.mktemp("haunted"))


def steps(file, read=None):
    """Parameters with which the persistence step reads and writes one file."""
    return {
        "persistence": {
            "skip": False,
            "persistence_time": 1000,
            "save_persistence": str(file),
            "persistence_array_file": str(read or file),
        }
    }


def reduce_all(haunted, output, file, paths=None, **options):
    """Run a batch; return exposure -> status, in the order in which they ended."""
    with haunted.cache.activate():
        results = gpucoron.batch.reduce(
            paths or [haunted.path], output, steps=steps(file, options.pop("read", None)), backend="cpu", **options
        )
        return {result.exposure: result.status for result in results}


def plan_of(haunted, output, file):
    with haunted.cache.activate():
        return make_plan([haunted.path], output, steps=settle("jwst", steps(file), {}))


def products(output):
    """Read the contents of all products, bit for bit; HISTORY names the user's file, which is omitted."""
    found = {}
    for path in sorted(output.glob("*.fits")):
        with fits.open(path) as hdus:
            for hdu in hdus:
                if hdu.name != "ASDF" and hdu.data is not None:
                    found[path.name, hdu.name] = hdu.data.tobytes()
    return found


def remembered(file):
    """Return the digest of a persistence file's entry for each detector."""
    return {name: entry_digest(entry) for name, entry in read_entries(file).items()}


def warned(caplog):
    """List the warnings of a batch about persistence."""
    ours = [record for record in caplog.records if record.name == "gpucoron.batch.persistence"]
    return "\n".join(record.getMessage() for record in ours)


def flagged(output, name):
    return int((fits.getdata(output / f"{name}_rate.fits", "DQ") & PERSISTENCE != 0).sum())


@pytest.fixture
def here(monkeypatch):
    """Run a batch in this process, without starting workers: exposures start in the same order."""
    from gpucoron.batch import processes, run
    from gpucoron.batch.job import reduce_job

    def run_here(jobs, options, descriptors=(), early=()):
        while jobs:
            job = jobs.popleft()
            yield "result", job, reduce_job({**job, "backend_options": options[0]})

    monkeypatch.setattr(processes, "run_locally", run_here)
    monkeypatch.setattr(run, "_start_early", lambda *args: [])


@pytest.fixture(scope="module")
def clean(haunted, tmp_path_factory):
    """The folder of one complete batch with one worker."""
    folder = tmp_path_factory.mktemp("clean")
    assert set(reduce_all(haunted, folder / "out", folder / "memory.asdf", workers=1).values()) == {"done"}
    return folder


def test_persistence_is_flagged_in_all_later_exposures(haunted, clean):
    with_neighbours = 7 * 12  # saturation grows by one pixel
    assert [flagged(clean / "out", name) for name in haunted.names] == [with_neighbours] * 5


@pytest.mark.parity
def test_batch_gives_jwsts_answer_in_the_order_of_time(haunted, clean, tmp_path):
    from jwst.pipeline import Detector1Pipeline

    file = tmp_path / "memory.asdf"
    with haunted.cache.activate():
        for path in haunted.files[:2]:
            theirs = Detector1Pipeline.call(str(path), steps=steps(file))
            ours = fits.getdata(clean / "out" / path.name.replace("_uncal", "_rate"), "DQ")
            np.testing.assert_array_equal(ours, theirs.dq)
    expected = remembered(file)
    assert set(expected) == {"NRCALONG"}
    assert remembered(clean / "out" / "persistence" / f"{haunted.names[1]}.asdf") == expected
    assert set(remembered(clean / "memory.asdf")) == {"NRCALONG", "NRCA2"}


def test_nothing_depends_on_the_number_of_workers(haunted, clean, tmp_path):
    paths = [haunted.files[number] for number in (2, 0, 4, 1, 3)]
    ended = list(reduce_all(haunted, tmp_path / "out", tmp_path / "memory.asdf", paths, workers=2))
    for chain in (haunted.names[:3], haunted.names[3:]):
        assert [name for name in ended if name in chain] == chain
    assert products(tmp_path / "out") == products(clean / "out")
    assert remembered(tmp_path / "memory.asdf") == remembered(clean / "memory.asdf")


def test_a_finished_batch_is_not_done_again(haunted, clean):
    before = (clean / "memory.asdf").stat()
    assert reduce_all(haunted, clean / "out", clean / "memory.asdf") == {}
    after = (clean / "memory.asdf").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def damaged(path):
    """Truncate a file; return a function that restores it."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return lambda: path.write_bytes(whole)


def test_a_failure_in_the_middle_costs_no_bit(haunted, clean, here, tmp_path):
    """Exposures after the failed one are reduced again if their persistence changes, and only then."""
    output, file = tmp_path / "out", tmp_path / "memory.asdf"
    first, middle, last = haunted.names[:3]
    restore = damaged(haunted.files[0])
    try:
        done = reduce_all(haunted, output, file, haunted.files[:3], workers=2)
        assert done == {first: "failed", middle: "done", last: "done"}
        assert flagged(output, last) == 0
        # while it fails, the others read the same persistence
        assert reduce_all(haunted, output, file, haunted.files[:3]) == {first: "failed"}
    finally:
        restore()
    assert reduce_all(haunted, output, file, haunted.files[:3]) == dict.fromkeys(haunted.names[:3], "done")
    expected = products(clean / "out")
    assert products(output) == {key: expected[key] for key in expected if "nrcalong" in key[0]}
    assert remembered(file) == {"NRCALONG": remembered(clean / "memory.asdf")["NRCALONG"]}
    assert reduce_all(haunted, output, file, haunted.files[:3]) == {}


def test_an_interrupted_batch_continues(haunted, clean, here, tmp_path):
    output, file = tmp_path / "out", tmp_path / "memory.asdf"
    with haunted.cache.activate():
        results = gpucoron.batch.reduce(haunted.files[:3], output, steps=steps(file), backend="cpu", workers=1)
        stopped = next(results).exposure
        results.close()
    assert remembered(file) == remembered(output / "persistence" / f"{stopped}.asdf")
    assert list(reduce_all(haunted, output, file, haunted.files[:3])) == haunted.names[1:3]
    expected = products(clean / "out")
    assert products(output) == {key: expected[key] for key in expected if "nrcalong" in key[0]}


def test_dask_gives_the_same(haunted, clean, tmp_path):
    distributed = pytest.importorskip("distributed", reason="Dask distributed is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        dask = {"engine": "dask", "scheduler": cluster.scheduler_address}
        ended = list(reduce_all(haunted, tmp_path / "out", tmp_path / "memory.asdf", haunted.files[2::-1], **dask))
    assert ended == haunted.names[:3]
    expected = products(clean / "out")
    assert products(tmp_path / "out") == {key: expected[key] for key in expected if "nrcalong" in key[0]}


def test_run_takes_files_in_the_order_of_time(haunted, clean, tmp_path, caplog):
    command = ["run", *map(str, haunted.files[1::-1]), "-o", str(tmp_path / "out"), "-q", "--backend", "cpu"]
    for name, value in steps(tmp_path / "memory.asdf")["persistence"].items():
        command += ["--set", f"persistence.{name}={value}"]
    with haunted.cache.activate():
        assert cli.main(command) == 0
    assert "reduced in order of time" in caplog.text
    expected = products(clean / "out")
    found = products(tmp_path / "out")
    assert found == {key: expected[key] for key in found}
    assert remembered(tmp_path / "memory.asdf") == remembered(
        clean / "out" / "persistence" / f"{haunted.names[1]}.asdf"
    )


@pytest.fixture
def copied(clean, tmp_path):
    """A copy of the clean batch's folder that may be changed; its persistence file has the same path."""
    shutil.copytree(clean / "out", tmp_path / "out")
    kept = (clean / "memory.asdf").read_bytes()
    yield tmp_path / "out", clean / "memory.asdf"
    (clean / "memory.asdf").write_bytes(kept)


def reasons(haunted, output, file):
    return {planned.input.name: planned.reason for planned in plan_of(haunted, output, file).todo}


def test_the_plan_lists_exposures_to_reduce_again(haunted, copied):
    output, file = copied
    first, middle, last = haunted.names[:3]
    assert reasons(haunted, output, file) == {}
    (output / f"{middle}_rate.fits").unlink()
    assert reasons(haunted, output, file) == {
        middle: f"{middle}_rate.fits is missing",
        last: f"follows {middle}",
    }
    state = output / "persistence" / f"{first}.asdf"
    state.unlink()
    found = reasons(haunted, output, file)
    assert found[first] == f"persistence/{first}.asdf is missing"
    assert set(found) == {first, middle, last}


def test_a_file_that_others_have_changed_is_a_new_beginning(haunted, copied):
    output, file = copied
    entries = read_entries(file)
    entry = {**entries["NRCALONG"], "rows": np.array([20]), "cols": np.array([20]), "vals": np.array([4e9])}
    write_entries(file, {**entries, "NRCALONG": entry})
    found = reasons(haunted, output, file)
    assert set(found) == set(haunted.names[:3])  # not those of the other detector
    assert found[haunted.names[0]] == "the persistence before it has changed"
    # removed, as before the first batch
    file.unlink()
    assert reasons(haunted, output, file) == {}


def test_a_batch_with_nothing_to_do_restores_its_file(haunted, copied):
    output, file = copied
    after = remembered(file)
    file.unlink()  # as before the first batch
    assert reduce_all(haunted, output, file) == {}
    assert remembered(file) == after


def test_a_damaged_file_of_a_finished_batch_is_told(haunted, copied):
    output, file = copied
    before = products(output)
    damaged(file)
    assert set(reduce_all(haunted, output, file).values()) == {"failed"}
    assert products(output) == before


def test_refused_exposures_leave_the_file_of_another_request(haunted, copied, tmp_path):
    output, file = copied
    entries = read_entries(file)
    other = tmp_path / "other.asdf"
    write_entries(other, {"NRCALONG": {**entries["NRCALONG"], "rows": np.array([20]), "cols": np.array([20])}})
    before = other.read_bytes()
    assert set(reduce_all(haunted, output, other).values()) == {"refused"}
    assert other.read_bytes() == before


def test_a_link_to_the_file_stays_a_link(tmp_path):
    target, link = tmp_path / "target.asdf", tmp_path / "link.asdf"
    write_entries(target, {"NRCA1": {"rows": np.array([1])}})
    link.symlink_to(target)
    write_entries(link, {"NRCA2": {"rows": np.array([2])}})
    assert link.is_symlink()
    assert set(read_entries(target)) == {"NRCA2"}


def test_a_later_batch_of_other_exposures_continues_the_chain(haunted, clean, here, tmp_path, caplog):
    """One batch per night into one folder gives the same as one batch; reducing again reads the same persistence."""
    output, file = tmp_path / "out", tmp_path / "memory.asdf"
    nights, expected = haunted.files[:3], remembered(clean / "memory.asdf")["NRCALONG"]
    for path in nights:
        assert list(reduce_all(haunted, output, file, [path]).values()) == ["done"]
    assert products(output) == {key: bits for key, bits in products(clean / "out").items() if "nrcalong" in key[0]}
    assert remembered(file) == {"NRCALONG": expected}
    assert not warned(caplog)
    # only the middle one: the file still holds the persistence after the last one
    assert reduce_all(haunted, output, file, [nights[1]]) == {}
    assert list(reduce_all(haunted, output, file, [nights[1]], redo="all")) == [haunted.names[1]]
    assert warned(caplog).startswith(f"persistence: {haunted.names[2]} started after")
    assert products(output) == {key: bits for key, bits in products(clean / "out").items() if "nrcalong" in key[0]}
    assert remembered(file) == {"NRCALONG": expected}
    assert reduce_all(haunted, output, file, nights) == {}


def test_an_earlier_exposure_that_comes_later_is_no_secret(haunted, clean, here, tmp_path, caplog):
    output, file = tmp_path / "out", tmp_path / "memory.asdf"
    first, middle, last = haunted.names[:3]
    reduce_all(haunted, output, file, haunted.files[1:3])
    assert flagged(output, last) == 0
    assert reduce_all(haunted, output, file, haunted.files[:1]) == {first: "done"}
    assert f"{middle}, {last} started after exposures of this batch" in warned(caplog)
    assert reduce_all(haunted, output, file, haunted.files[:3]) == {middle: "done", last: "done"}
    assert products(output) == {key: bits for key, bits in products(clean / "out").items() if "nrcalong" in key[0]}
    assert remembered(file)["NRCALONG"] == remembered(clean / "memory.asdf")["NRCALONG"]


def test_persistence_added_by_another_folder_is_kept(haunted, clean, here, tmp_path):
    """The second night is reduced elsewhere: the third starts from the file, and so does its rerun."""
    file = tmp_path / "memory.asdf"
    for path, folder in zip(haunted.files[:3], ("out", "elsewhere", "out"), strict=True):
        assert list(reduce_all(haunted, tmp_path / folder, file, [path]).values()) == ["done"]
    expected = remembered(clean / "out" / "persistence" / f"{haunted.names[2]}.asdf")
    assert remembered(file) == expected
    assert reduce_all(haunted, tmp_path / "out", file, [haunted.files[2]]) == {}
    assert reduce_all(haunted, tmp_path / "out", file, [haunted.files[2]], redo="all") == {haunted.names[2]: "done"}
    assert remembered(file) == expected


def test_two_files_of_a_folder_have_separate_beginnings(haunted, here, tmp_path):
    output, chain = tmp_path / "out", haunted.files[:2]
    reduce_all(haunted, output, tmp_path / "a.asdf", chain[:1])
    reduce_all(haunted, output, tmp_path / "b.asdf", chain[1:])
    assert flagged(output, haunted.names[1]) == 0
    assert reduce_all(haunted, output, tmp_path / "a.asdf", chain[:1]) == {}


def test_shards_are_refused_with_the_reason(haunted, tmp_path):
    with pytest.raises(ParameterError, match="cannot be used with --shard: every shard would write that file"):
        reduce_all(haunted, tmp_path / "out", tmp_path / "memory.asdf", shard="1/2")


@pytest.fixture
def moved(haunted, tmp_path):
    """The last exposure of the first detector, moved to another subarray with the same number of pixels."""
    path = Path(shutil.copy(haunted.files[2], tmp_path))
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["SUBSTRT1"] += 4
    return path


def test_subarrays_that_share_a_file_are_refused_by_name(haunted, moved, copied):
    """In one batch, and across batches in the folder; jwst's file would flag wrong pixels silently."""
    output, file = copied
    for paths, folder in (([*haunted.files[:2], moved], output.with_name("new")), ([moved], output)):
        with haunted.cache.activate(), pytest.raises(ParameterError, match="different subarrays") as caught:
            make_plan(paths, folder, steps=settle("jwst", steps(file), {}))
        for words in (str(file), haunted.names[0], haunted.names[2], "24 x 24 pixels from", "with a separate file"):
            assert words in str(caught.value)
    with haunted.cache.activate():  # each may have a separate file
        plan = make_plan([moved], output, steps=settle("jwst", steps(file.with_name("other.asdf")), {}))
    assert [planned.error for planned in plan.exposures] == [None]


def test_run_warns_of_subarrays_that_share_a_file(haunted, moved, tmp_path, caplog):
    from gpucoron.cli.run import _sort_by_start

    parameters = settle_all(steps=steps(tmp_path / "memory.asdf"))[0]
    paths = [str(path) for path in (haunted.files[0], haunted.files[4])]
    assert _sort_by_start(paths, parameters) == paths
    assert not caplog.records  # detectors share no pixels
    assert _sort_by_start([*paths, str(moved)], parameters)[-1] == str(moved)
    assert f"{haunted.names[0]} (24 x 24 pixels from" in caplog.text
    assert "different subarrays" in caplog.text


@pytest.mark.parametrize("name", ["save_persistence", "persistence_array_file"])
@pytest.mark.parametrize("seconds", [None, 0, -5])
def test_files_without_a_window_are_refused_before_the_work(name, seconds, haunted, tmp_path):
    """jwst's step would fail, and write no file."""
    from jwst.persistence.persistence_step import PersistenceStep

    assert PersistenceStep(persistence_time=seconds).process_persistence_options(None) == "Failed"
    settings = {"skip": False, "persistence_time": seconds, name: str(tmp_path / "memory.asdf")}
    for reduce in (
        lambda: settle_all(steps={"persistence": settings}),
        lambda: gpucoron.batch.reduce([haunted.path], tmp_path / "out", steps={"persistence": settings}),
        lambda: gpucoron.reduce_file(haunted.files[0], tmp_path / "out", steps={"persistence": settings}),
    ):
        with haunted.cache.activate(), pytest.raises(ParameterError, match=f"persistence.{name}=.*memory.*") as caught:
            reduce()
        assert f"persistence.persistence_time, the length of the window in seconds, 1 or more; it is {seconds}" in str(
            caught.value
        )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    settle_all(steps={"persistence": {**settings, "skip": True}})
    settle_all(steps={"persistence": {"skip": False, "persistence_time": seconds}})


def test_a_file_that_is_no_asdf_is_the_error_of_each_exposure(haunted, here, tmp_path):
    file = tmp_path / "memory.asdf"
    file.write_text("nothing of the kind")
    with pytest.raises(ParameterError, match="persistence_array_file: .*it is not in ASDF format"):
        reduce_all(haunted, tmp_path / "out", file)
    assert not (tmp_path / "out").exists()
    file.write_text("#ASDF 1.0.0, and nothing of the kind")
    assert set(reduce_all(haunted, tmp_path / "out", file).values()) == {"failed"}
    errors = [record["error"] for record in records(tmp_path / "out")]
    assert {error["type"] for error in errors} == {"ParameterError"}
    assert all("cannot be read as ASDF" in error["message"] for error in errors)
    assert file.read_text() == "#ASDF 1.0.0, and nothing of the kind"


def test_without_a_common_file_exposures_do_not_wait(haunted, here, tmp_path):
    """Each exposure reads the original file; the result of the last one in time is written at the end."""
    read = tmp_path / "before.asdf"
    plan_steps = settle("jwst", steps(tmp_path / "after", read), {})
    with haunted.cache.activate():
        plan = make_plan([haunted.path], tmp_path / "out", steps=plan_steps)
    assert {planned.persistence_file.chained for planned in plan.exposures} == {False}
    assert {str(planned.persistence_file.path) for planned in plan.exposures} == {str(tmp_path / "after.asdf")}
    done = reduce_all(haunted, tmp_path / "out", tmp_path / "after", haunted.files[:2], read=read, workers=2)
    assert set(done.values()) == {"done"}
    first, second = haunted.names[:2]
    assert flagged(tmp_path / "out", first) > flagged(tmp_path / "out", second) == 0
    assert remembered(tmp_path / "after.asdf") == remembered(tmp_path / "out" / "persistence" / f"{second}.asdf")


@pytest.mark.parametrize("name", ["a", "a.b", "a.asdf", "a.b.asdf", "folder/a.fits"])
def test_the_name_of_the_file_is_jwsts(name, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from jwst.persistence.persistence_step import PersistenceStep

    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    step = PersistenceStep()
    step.persistence_array = np.eye(3)
    instrument = SimpleNamespace(detector="NRCALONG")
    step.write_persistence_array(SimpleNamespace(meta=SimpleNamespace(instrument=instrument, filename="x")), name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [written_path(name)]
