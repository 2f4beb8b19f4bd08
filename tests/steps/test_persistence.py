"""persistence beside jwst's step: flags and the ends of persistence to the bit, on drawn ramps; the file, both ways."""

from types import SimpleNamespace

import asdf
import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.backends import get_backend
from gpucoron.backends.operations.persistence import definition
from gpucoron.dq import DO_NOT_USE, JUMP_DET, PERSISTENCE, SATURATED
from gpucoron.engine import plan, run_steps
from gpucoron.errors import InputError, ParameterError
from gpucoron.io.exposure import Exposure
from gpucoron.io.persistence_file import read_ends, read_entries, standing_in, write_entries
from gpucoron.io.start_times import start_times
from gpucoron.steps.persistence import STEP, flag_persistence

#: MJD of the first integration, and the same in seconds since 1970
MJD = 59821.25
EPOCH = (MJD - 40587.0) * 86400.0
GROUP_TIME = 1.07
EXPOSURE = ("NIRCAM", "SUB320A335R", "RAPID", 6, 2)
HAUNTED = {"skip": False, "persistence_time": 100, "dn_threshold": 2e4}


def draw(seed, nints, ngroups, ny, nx):
    """Draw ramps with odd values, saturation that begins, ends or blinks, and ends of persistence around the start."""
    rng = np.random.default_rng(seed)
    shape = nints, ngroups, ny, nx
    data = rng.normal(1000, 300, shape).cumsum(axis=1).astype(np.float32)
    for value in (np.nan, np.inf, -np.inf, -0.0, 2000.0, 1e4):
        data[rng.random(shape) < 0.01] = value
    groupdq = rng.choice([0, DO_NOT_USE, JUMP_DET, 0xFF & ~SATURATED], size=shape, p=[0.9, 0.04, 0.04, 0.02])
    first = rng.integers(0, 3 * ngroups, (nints, 1, ny, nx))
    saturated = np.arange(ngroups)[None, :, None, None] >= first
    saturated ^= rng.random(shape) < 0.02
    groupdq = (groupdq | saturated * SATURATED).astype(np.uint8)
    ends = EPOCH + rng.uniform(-5, 60, (ny, nx))
    for value in (0.0, -0.0, 0.0, -3.0, np.nan, np.inf, 1e300, EPOCH + GROUP_TIME):
        ends[rng.random((ny, nx)) < 0.12] = value
    return data, groupdq, ends


def jwsts_own(data, groupdq, ends, starts, settings):
    """Run jwst's code on copies; return the flags, and the ends of persistence."""
    from jwst.persistence.persistence import DataSet

    exposure = SimpleNamespace(start_time=MJD, integration_time=9.5, group_time=GROUP_TIME)
    int_times = None if starts is None else [{"int_start_MJD_UTC": start} for start in starts]
    model = SimpleNamespace(
        data=data.copy(), groupdq=groupdq.copy(), int_times=int_times, meta=SimpleNamespace(exposure=exposure)
    )
    step = DataSet(model, None, persistence_array=ends.copy(), **settings)
    with np.errstate(all="ignore"):
        step.do_all()
    return model.groupdq, step.persistence_array


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 3, 5), (2, 9, 17, 23), (3, 5, 40, 31), (1, 12, 8, 64)])
@pytest.mark.parametrize("threshold", [None, 4000.0, 1e300, -np.inf, 10000.0])
@pytest.mark.parametrize("window", [1, 6, 10**6])
def test_flags_and_ends_are_jwsts(shape, threshold, window):
    settings = {"persistence_time": window, "dn_threshold": threshold, "persistence_dnu": window == 6}
    for seed, odd in ((1, False), (2, True)):
        data, groupdq, ends = draw(seed, *shape)
        rng = np.random.default_rng(seed)
        starts = MJD + np.cumsum(rng.uniform(1, 30, shape[0])) / 86400
        if odd:
            starts = rng.choice([MJD, MJD - 1, MJD + 1, 0.0, np.nan], shape[0])
        due_flags, due_ends = jwsts_own(data, groupdq, ends, starts, settings)
        for name, threads in (("numpy", 1), ("numpy", 3), ("host", 2)):
            flags, found = groupdq.copy(), ends.copy()
            flag_persistence(
                data, flags, found, (starts - 40587.0) * 86400.0, GROUP_TIME, window, dn_threshold=threshold,
                do_not_use=window == 6, backend=get_backend(name, n_threads=threads),
            )  # fmt: skip
            np.testing.assert_array_equal(flags, due_flags)
            np.testing.assert_array_equal(found, due_ends)
            np.testing.assert_array_equal(np.signbit(found), np.signbit(due_ends))


@pytest.mark.parametrize("at_once", [1, 64, 2**20])
def test_blocks_do_not_matter(at_once, monkeypatch):
    data, groupdq, ends = draw(3, 2, 6, 40, 31)
    arguments = [EPOCH, EPOCH + 20], GROUP_TIME, 4
    expected = groupdq.copy(), ends.copy()
    flag_persistence(data, *expected, *arguments, dn_threshold=4000.0, backend="numpy")
    assert ((expected[0] ^ groupdq) & PERSISTENCE).any()
    monkeypatch.setattr(definition, "PIXELS_AT_ONCE", at_once)
    flag_persistence(data, groupdq, ends, *arguments, dn_threshold=4000.0, backend=get_backend("cpu", n_threads=2))
    np.testing.assert_array_equal(groupdq, expected[0])
    np.testing.assert_array_equal(ends, expected[1])


def saturate(simulation):
    """Saturate some pixels from different groups on, and brighten others."""
    data = simulation.data
    data[0, 2:, 4:9, 6:16] = 65535
    data[1, 5:, 12, 3:9] = 65535
    data[0, 3:, 18, :] += 30000


@pytest.fixture(scope="module")
def case(exposures):
    return exposures(*EXPOSURE, shape=(24, 32), edit=saturate)


def entry_of(rows, cols, vals, pers_time=100, **more):
    return {"filename": "x", "rows": np.array(rows), "cols": np.array(cols), "vals": np.array(vals), **more} | {
        "pers_time": pers_time
    }


def same_entries(ours, theirs):
    """Compare two files, entry by entry."""
    assert ours.keys() == theirs.keys()
    for detector, entry in theirs.items():
        assert ours[detector].keys() == entry.keys()
        for name, value in entry.items():
            np.testing.assert_array_equal(ours[detector][name], value, err_msg=name)
            assert np.asarray(ours[detector][name]).dtype == np.asarray(value).dtype
    return True


@pytest.fixture(scope="module")
def ramp(case):
    from stdatamodels.jwst import datamodels

    from gpucoron import Coron1Pipeline

    off = {name: {"skip": True} for name in ("ramp_fit", "gain_scale", "linearity", "dark_current", "refpix")}
    with case.cache.activate():
        made = Coron1Pipeline.call(str(case.path), backend="numpy", steps=off)
    made.meta.cal_step.persistence = None
    assert isinstance(made, datamodels.RampModel)
    return made


@pytest.mark.parity
class TestFile:
    """Our file in jwst's step, and jwst's file in ours."""

    @pytest.fixture
    def run_both(self, case, ramp, tmp_path):
        """Run jwst's step and ours, each with its own copy of a file; return both results and both files."""

        def run(settings, before=None, first_seconds=0.0, change=lambda model: None):
            from jwst.persistence import PersistenceStep

            from gpucoron.pipeline import PersistenceStep as OurStep

            results, files = [], []
            for made in (PersistenceStep, OurStep):
                file = tmp_path / f"{made.__module__.partition('.')[0]}.asdf"
                if before is not None:
                    asdf.AsdfFile(before).write_to(file)
                model = ramp.copy()
                model.int_times["int_start_MJD_UTC"] += first_seconds / 86400
                change(model)
                names = {key: str(file) for key in ("save_persistence", "persistence_array_file")}
                with case.cache.activate():
                    step = made(**{"skip": False} | {key: names.get(value, value) for key, value in settings.items()})
                    results.append(step.run(model))
                files.append(read_entries(file))
            theirs, ours = results
            np.testing.assert_array_equal(ours.groupdq, theirs.groupdq)
            np.testing.assert_array_equal(ours.data, theirs.data)
            assert ours.meta.cal_step.persistence == theirs.meta.cal_step.persistence
            assert same_entries(files[1], files[0])
            return ours, files[1]

        return run

    BOTH = {"save_persistence": "save_persistence", "persistence_array_file": "persistence_array_file"}

    def test_written_and_read_again(self, run_both):
        ours, file = run_both({**HAUNTED, **self.BOTH})
        (entry,) = file.values()
        assert len(entry["rows"]) > 50
        before = (ours.groupdq & PERSISTENCE != 0).sum()
        # 40 s later the windows of the first exposure are still open; 300 s later they are not
        later, _ = run_both({**HAUNTED, **self.BOTH}, before=file, first_seconds=40)
        assert (later.groupdq & PERSISTENCE != 0).sum() > before
        after, _ = run_both({**HAUNTED, **self.BOTH}, before=file, first_seconds=300)
        assert (after.groupdq & PERSISTENCE != 0).sum() == before

    def test_the_file_of_a_later_exposure_is_dropped(self, run_both):
        _ours, file = run_both({**HAUNTED, **self.BOTH}, first_seconds=5000)
        ours, again = run_both({**HAUNTED, **self.BOTH, "dn_threshold": None}, before=file)
        assert len(next(iter(again.values()))["rows"]) < len(next(iter(file.values()))["rows"])
        assert (ours.groupdq & PERSISTENCE).any()

    def test_other_detectors_are_kept_and_other_windows_are_not_used(self, run_both, caplog):
        now = 5e9
        before = {"NRCA2": entry_of([1], [2], [now]), "NRCALONG": entry_of([20], [20], [now], pers_time=99)}
        ours, file = run_both({**HAUNTED, **self.BOTH}, before=before)
        assert same_entries({"NRCA2": file["NRCA2"]}, {"NRCA2": before["NRCA2"]})
        assert not (ours.groupdq[:, :, 20, 20] & PERSISTENCE).any()
        assert "made with persistence_time=99, not 100: not used" in caplog.text
        without = {"NRCA2": before["NRCA2"]}
        run_both({**HAUNTED, **self.BOTH}, before=without)

    def test_repeated_and_negative_places(self, run_both):
        _ours, file = run_both({**HAUNTED, **self.BOTH})
        end = float(next(iter(file.values()))["vals"].min()) - 10
        before = {"NRCALONG": entry_of([1, 1, -1, 3], [2, 2, -1, 3], [0.0, end, end - 1, np.nan])}
        ours, _file = run_both({**HAUNTED, **self.BOTH}, before=before)
        for y, x, is_flagged in ((1, 2, True), (23, 31, True), (3, 3, False)):
            assert bool((ours.groupdq[:, :, y, x] & PERSISTENCE).any()) == is_flagged

    @pytest.mark.parametrize("settings", [{}, {"persistence_time": 0}, {"persistence_time": -3, "dn_threshold": 5.0}])
    def test_without_a_window_it_fails(self, settings, run_both):
        ours, file = run_both(settings)
        assert ours.meta.cal_step.persistence == "FAILED"
        assert not file

    @pytest.mark.parametrize("n_listed", [0, 1])
    def test_without_the_table_the_keywords_tell_the_time(self, n_listed, run_both):
        def cut(model):
            model.int_times = model.int_times[:n_listed] if n_listed else None

        _ours, file = run_both({**HAUNTED, **self.BOTH}, change=cut)
        assert file


class TestFaults:
    def run(self, case, file, entry, tmp_path):
        write_entries(file, {"NRCALONG": entry})
        steps = {"persistence": {**HAUNTED, "persistence_array_file": str(file)}}
        with case.cache.activate():
            gpucoron.reduce_file(case.path, tmp_path / "out", backend="cpu", steps=steps)

    @pytest.mark.parametrize(
        ("entry", "kind", "words"),
        [
            (entry_of([500], [5], [1.7e9]), InputError, "may be those of a larger subarray"),
            ({"filename": "x", "rows": np.array([5])}, ParameterError, "incomplete or damaged .*pers_time"),
            (entry_of([5], [5], ["word"]), ParameterError, "incomplete or damaged"),
            (entry_of([5, 6], [5, 6], [1.0, 2.0, 3.0]), ParameterError, "incomplete or damaged"),
            (entry_of(np.array([5.0]), [5], [1.7e9]), ParameterError, "incomplete or damaged .*not integers"),
            ("no entry", ParameterError, "incomplete or damaged"),
        ],
    )
    def test_errors_name_the_exposure_and_the_file(self, entry, kind, words, case, tmp_path):
        file = tmp_path / "memory.asdf"
        with pytest.raises(kind, match=words) as caught:
            self.run(case, file, entry, tmp_path)
        assert f"{case.path.name}: persistence.persistence_array_file: {file}" in str(caught.value)
        assert not list(tmp_path.glob("out/*.fits"))

    def test_the_other_files_of_a_command_go_on(self, exposures, tmp_path, capsys):
        from gpucoron import cli

        small = exposures(*EXPOSURE, shape=(24, 32))
        large = exposures(*EXPOSURE, shape=(64, 64), observation=2)
        memory = tmp_path / "memory.asdf"
        write_entries(memory, {"NRCALONG": entry_of([50], [5], [1.7e9])})
        command = ["run", str(small.path), str(large.path), "-o", str(tmp_path / "out"), "--backend", "cpu"]
        for name, value in {**HAUNTED, "persistence_array_file": memory}.items():
            command += ["--set", f"persistence.{name}={value}"]
        with large.cache.activate():
            assert cli.main(command) == 2
        stderr = capsys.readouterr().err
        assert small.path.name in stderr
        assert "Traceback" not in stderr
        assert [path.name for path in (tmp_path / "out").glob("*_rate.fits")] == [
            large.path.name.replace("_uncal", "_rate")
        ]

    def test_a_damaged_file_is_not_replaced(self, case, tmp_path):
        file = tmp_path / "memory.asdf"
        file.write_text("nothing of the kind")
        steps = {"persistence": {**HAUNTED, "save_persistence": str(file)}}
        with case.cache.activate(), pytest.raises(ParameterError, match="cannot be read as ASDF"):
            gpucoron.reduce_file(case.path, tmp_path / "out", backend="cpu", steps=steps)
        assert file.read_text() == "nothing of the kind"

    def test_an_exposure_that_fails_later_writes_nothing(self, case, tmp_path, monkeypatch):
        def fail(*args, **kwargs):
            raise ValueError("no rate")

        file = tmp_path / "memory.asdf"
        steps = {"persistence": {**HAUNTED, "save_persistence": str(file)}}
        with case.cache.activate():
            with monkeypatch.context() as patch, pytest.raises(InputError, match="no rate"):
                patch.setattr("gpucoron.steps.ramp_fit.run", fail)
                gpucoron.reduce_file(case.path, tmp_path / "out", backend="cpu", steps=steps)
            assert not file.exists()
            gpucoron.reduce_file(case.path, tmp_path / "out", backend="cpu", steps=steps)
        assert file.exists()

    def test_without_any_time(self, case):
        exposure = Exposure.read(case.path)
        exposure.meta.int_times = None
        exposure.meta.meta.exposure.integration_time = None
        with pytest.raises(InputError, match=r"INT_TIMES lists 0 of 2, and there is no EFFINTTM"):
            start_times(exposure)

    def test_the_table_is_enough(self, case):
        exposure = Exposure.read(case.path)
        due = start_times(exposure)
        assert len(due) == 2
        exposure.meta.meta.exposure.start_time = exposure.meta.meta.exposure.integration_time = None
        assert start_times(exposure) == due


def test_a_batch_may_use_other_files(tmp_path):
    """The files that stand in are read, whatever the parameters name."""
    write_entries(tmp_path / "other.asdf", {"NRCALONG": entry_of([1], [2], [7.0])})
    settings = STEP.settings(persistence_time=100, persistence_array_file="of the user.asdf")
    facts = SimpleNamespace(detector="NRCALONG")
    assert not read_ends(settings, facts, (3, 4), "x").any()
    with standing_in({"persistence_array_file": str(tmp_path / "other.asdf")}):
        assert read_ends(settings, facts, (3, 4), "x")[1, 2] == 7
    assert not read_ends(settings, facts, (3, 4), "x").any()


def test_ramps_in_a_scratch_file(case, tmp_path):
    found = []
    for chunked in (False, True):
        backend = get_backend("cpu", n_threads=2)
        backend = backend.in_chunks(10**8) if chunked else backend
        file = tmp_path / f"{chunked}.asdf"
        steps = {"persistence": {**HAUNTED, "save_persistence": str(file)}}
        with case.cache.activate():
            exposure = Exposure.read(case.path, backend)
            exposure.home = backend if chunked else None
            run = run_steps(plan(exposure, backend=backend, steps=steps), until="ramp_fit")
        found.append((run.exposure.groupdq, read_entries(file)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert (found[0][0] & PERSISTENCE).any()
    assert same_entries(found[0][1], found[1][1])


def test_products_name_the_status(case, tmp_path):
    with case.cache.activate():
        _run, _models, paths = gpucoron.reduce_file(
            case.path, tmp_path, backend="cpu", steps={"persistence": {**HAUNTED, "persistence_dnu": True}}
        )
    rate = next(path for path in paths.values() if path.name.endswith("_rate.fits"))
    assert fits.getheader(rate)["S_PERSIS"] == "COMPLETE"
