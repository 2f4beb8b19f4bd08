"""emicorr, sequential: jwst's result for every parameter, on every backend, and the reference that it measures."""

from types import SimpleNamespace

import asdf
import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.backends import get_backend
from gpucoron.errors import ParameterError
from gpucoron.facts import Facts
from gpucoron.io.emicorr_file import emicorr_model
from gpucoron.simulate import Effects
from gpucoron.steps import emicorr
from gpucoron.steps.emicorr_sequential import apply_sequential, count_integrations
from gpucoron.steps.emicorr_times import CLOCKS, ReadTimes, last_delay
from tests.cases.emicorr import run_step

DEFINITION = get_backend("numpy", n_threads=1)
SUBARRAYS = ("MASK1065", "MASK1140", "MASK1550", "MASKLYOT", "FULL")
FREQUENCIES = (390.625, 218.52055, 164.9305, 10.039216, 5000.3, 50000.0)


def draw_case(seed):
    """Draw ramps, the facts of their exposure, frequencies with their waves, and the parameters of the step."""
    rng = np.random.default_rng(seed)
    subarray, pattern = SUBARRAYS[seed % 5], ("FASTR1", "SLOWR1", "FAST")[seed // 5 % 3]
    ny, nx = (int(rng.integers(2, 8)), 1032) if subarray == "FULL" else 4 * rng.integers((1, 4), (10, 24))
    nints, ngroups = int(rng.integers(1, 4)), int(rng.choice([3, 4, 5, 6, 9, 20]))
    shape = nints, ngroups, ny, nx
    data = rng.normal(1e4, 100, (ny, nx)) + rng.gamma(1, 30, (ny, nx)) * np.arange(ngroups)[:, None, None]
    data = np.rint(data + rng.normal(0, 6, shape)).astype(np.float32)
    data += np.float32(0.1) * (rng.random() < 0.3)
    data[rng.random(shape) < rng.choice([0, 0.01])] = 65535
    data[rng.random(shape) < rng.choice([0, 0, 0, 5 / data.size])] = np.nan
    if rng.random() < 0.1:
        data[:] = 100
    waves = []
    for frequency in rng.choice(FREQUENCIES, rng.integers(1, 4)):
        n = int(rng.choice([3, 20, 64, 255]))
        # a wave with two equal periods correlates equally well at two shifts
        wave = np.sin(2 * np.pi * np.arange(n) / n * rng.choice([1, 2])) + rng.normal(0, rng.choice([0, 0.1]), n)
        waves.append((float(frequency), wave.astype(rng.choice([np.float32, np.float64]))))
    settings = {
        "nbins": rng.choice([None, 1, 2, 20, 500, 501, 502]),
        "nints_to_phase": rng.choice([None, None, 1, 5]),
        "scale_reference": bool(rng.integers(2)),
        "use_n_cycles": rng.choice([None, 1, 3, 3, 50, 1000]),
    }
    facts = Facts("MIRI", "MIRIMAGE", subarray=subarray, readpatt=pattern, xstart=1, xsize=nx)
    return data, facts, waves, settings


def clocks_of(facts):
    slow = "SLOW" in facts.readpatt
    return CLOCKS[facts.subarray + ("_SLOW" if slow else "_FAST") * (facts.subarray == "FULL")], 9 if slow else 1


def run_ours(data, facts, waves, settings, backend=DEFINITION):
    """Run our functions; return the measured waves."""
    (row_clocks, frame_clocks), nsamples = clocks_of(facts)
    reset = frame_clocks if facts.readpatt.endswith("R1") else 0
    times = ReadTimes(nsamples, row_clocks, reset, last_delay(facts))
    settings = dict(settings)
    rule = {"nints_to_phase": settings.pop("nints_to_phase"), "use_n_cycles": settings.pop("use_n_cycles")}
    n_measured = count_integrations(*data.shape[:2], waves[0][0], frame_clocks, **rule)
    return apply_sequential(data, waves, times, nints_to_phase=n_measured, backend=backend, **settings)


def run_jwst(monkeypatch, data, facts, waves, settings):
    """Run jwst's function on a stand-in for a model, in place; return the measured waves."""
    from jwst.emicorr import emicorr as theirs

    (row_clocks, frame_clocks), nsamples = clocks_of(facts)
    meta = SimpleNamespace(
        subarray=SimpleNamespace(xsize=facts.xsize, xstart=facts.xstart, name=facts.subarray),
        instrument=SimpleNamespace(detector=facts.detector),
        exposure=SimpleNamespace(readpatt=facts.readpatt),
    )
    saved = {}
    monkeypatch.setattr(theirs, "mk_reffile", lambda contents, _path: saved.update(contents))
    theirs._run_sequential_algorithm(
        SimpleNamespace(data=data, meta=meta), [f"number {number}" for number in range(len(waves))],
        [frequency for frequency, _ in waves], [wave for _, wave in waves if wave is not None],
        nsamples, row_clocks, frame_clocks, save_onthefly_reffile="x", **settings,
    )  # fmt: skip
    return [each["phase_amplitudes"] for each in saved["frequencies"].values()]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("on_the_fly", [False, True], ids=["reference", "measured"])
@pytest.mark.parametrize("seed", range(15))
def test_the_bits_are_jwsts(seed, on_the_fly, monkeypatch):
    data, facts, waves, settings = draw_case(seed + 15 * on_the_fly)
    waves = [(frequency, None) for frequency, _ in waves] if on_the_fly else waves
    expected, found = data.copy(), data.copy()
    of_jwst = run_jwst(monkeypatch, expected, facts, waves, settings)
    for ours, theirs in zip(run_ours(found, facts, waves, settings), of_jwst, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found, expected)


def test_the_drawn_cases_hold_what_they_should():
    cases = [draw_case(seed) for seed in range(30)]
    changed = 0
    for data, *others in cases:
        found = data.copy()
        run_ours(found, *others)
        changed += not np.array_equal(found, data, equal_nan=True)
    assert changed > 12
    assert any(np.isnan(data).any() for data, *_ in cases)
    assert {data.shape[1] for data, *_ in cases} >= {3, 4, 5, 20}
    assert {settings["use_n_cycles"] for *_, settings in cases} >= {None, 1, 3}


def longer_case(nints=3):
    """Return a case with waves in all integrations, in which every bin has values."""
    rng = np.random.default_rng(1)
    shape = nints, 12, 16, 64
    data = (1e4 + 30 * np.arange(12)[:, None, None] + rng.normal(0, 6, shape)).astype(np.float32)
    pixels, groups, per_integration = ReadTimes(1, 82, 23968).phases(shape, 390.625)
    phases = pixels + groups[:, None, None] + np.arange(nints)[:, None, None, None] * per_integration
    data += np.float32(8) * np.repeat(np.sin(2 * np.pi * phases), 4, axis=-1).astype(np.float32)
    wave = np.sin(2 * np.pi * (np.arange(32) + 0.5) / 32)
    settings = {"nbins": 16, "nints_to_phase": None, "use_n_cycles": None, "scale_reference": True}
    facts = Facts("MIRI", "MIRIMAGE", subarray="MASK1550", readpatt="FASTR1", xstart=1, xsize=64)
    return data, facts, [(390.625, wave), (218.5, None)], settings


def test_the_bits_are_the_same_everywhere(kernel_backend, tmp_path):
    """On threads, on devices and in scratch files."""
    data, *others = longer_case()
    expected = data.copy()
    measured = run_ours(expected, *others)
    assert np.abs(expected - data).max() > 6
    on_files = get_backend("numpy", n_threads=2, scratch_dir=tmp_path).in_chunks(10**6)
    for backend in (kernel_backend, get_backend("numpy", n_threads=3), on_files):
        found = backend.copy(backend.to_device(data.copy()))
        for ours, theirs in zip(run_ours(found, *others, backend=backend), measured, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(backend.to_host(found), expected)


def test_nothing_but_noise_is_left():
    data, facts, waves, settings = longer_case()
    before = data.std(axis=(2, 3)).mean()
    (measured,) = run_ours(data, facts, [(390.625, None)], settings)
    assert np.ptp(measured) == pytest.approx(16, rel=0.1)
    # noise of 6 DN is left
    assert data.std(axis=(2, 3)).mean() < 6.3 < 7.5 < before
    data, *_ = longer_case()
    run_ours(data, facts, waves[:1], settings)
    assert data.std(axis=(2, 3)).mean() < 6.3


def test_a_rounded_step_does_not_fail():
    """jwst 3.0 fails if a measured wave of 228 values is compared with a reference of 100."""
    data, facts, _, settings = longer_case()
    wave = np.sin(2 * np.pi * (np.arange(100) + 0.5) / 100)
    found = data.copy()
    (measured,) = run_ours(found, facts, [(218.52055, wave)], settings | {"nbins": None})
    assert len(measured) == 228
    assert not np.array_equal(found, data)


@pytest.mark.parametrize(
    ("shape", "frequency", "message"),
    [
        ((1, 2, 4, 16), 390.6, "three are needed"),
        ((1, 5, 4, 18), 390.6, "multiple of 4, at least 16"),
        ((1, 5, 4, 12), 390.6, "multiple of 4, at least 16"),
        ((1, 5, 4, 16), 60000.0, "shorter than two pixel clocks"),
    ],
)
def test_what_is_refused(shape, frequency, message):
    with pytest.raises(ValueError, match=message):
        apply_sequential(np.ones(shape, np.float32), [(frequency, None)], ReadTimes(1, 82, 0), backend=DEFINITION)


# --------------------------------------------------------------------------------------------------------- the step

MEASURED = {"onthefly_corr_freq": [390.625]}


def test_when_the_step_runs(caplog):
    there = {"xstart": 1, "xsize": 16}
    for settings in ({"algorithm": "sequential"}, MEASURED):
        assert run_step(True, settings=settings, **there).status == "COMPLETE"
    assert "5 groups; algorithm 'joint' is better for fewer than 10" in caplog.text
    assert "too few values" in caplog.text
    assert run_step(False, settings=MEASURED, **there).opened == {}
    assert run_step(False, settings=MEASURED, readpatt="SLOWR1", **there).status == "COMPLETE"
    for changes in ({"subarray": "SUB32"}, {"subarray": "FULL", "readpatt": "FASTGRPAVG"}, {"ngroups": 2}):
        assert run_step(False, settings=MEASURED, **changes).status == "SKIPPED"
    assert run_step(False, settings={"onthefly_corr_freq": []}).status == "SKIPPED"
    with pytest.raises(ValueError, match="SUBSTRT1 or SUBSIZE1"):
        run_step(True, settings=MEASURED)
    with pytest.raises(ValueError, match="NSAMPLES"):
        run_step(True, settings=MEASURED, nsamples=None, **there)


def test_the_last_column_of_a_full_frame_is_late():
    """By jwst's number, 2^32 clocks more than the description of its code says."""
    assert last_delay(Facts("MIRI", xstart=1, xsize=1032)) == 2**32 + 3
    assert last_delay(Facts("MIRI", xstart=1, xsize=288)) == 0
    assert emicorr.list_frequencies([1.0], Facts("MIRI", subarray="FULL", readpatt="SLOWR1"))[1:] == (2333, 2388992)


def drop_dates(tree):
    return {key: value for key, value in tree.items() if key not in ("date", "useafter")}


@pytest.mark.parity
def test_the_measured_reference_is_jwsts(exposures, tmp_path):
    from jwst.pipeline import Detector1Pipeline

    case = exposures("MIRI", "MASK1550", "FASTR1", 20, 2, shape=(24, 64), effects=Effects(emi=True))
    on = {"skip": False, "onthefly_corr_freq": [390.625, 218.5], "save_intermediate_results": True}
    off = {name: {"skip": True} for name in ("saturation", "reset", "linearity", "rscd", "dark_current", "jump")}
    with case.cache.activate():
        Detector1Pipeline.call(
            str(case.path), steps={"emicorr": dict(on), **off}, save_results=True, output_dir=str(tmp_path / "theirs")
        )
        gpucoron.reduce_file(case.path, tmp_path / "ours", backend="numpy", steps={"emicorr": on, **off})
        elsewhere = {"output_file": "mine.fits", "output_dir": str(tmp_path / "ours")}
        gpucoron.reduce_file(case.path, tmp_path / "again", backend="numpy", steps={"emicorr": on | elsewhere, **off})
    name = case.path.name.replace("_uncal.fits", "_emi_ref_waves.asdf")
    assert (tmp_path / "ours" / "mine_emi_ref_waves.asdf").exists()
    with asdf.open(tmp_path / "ours" / name) as ours, asdf.open(tmp_path / "theirs" / name) as theirs:
        assert drop_dates(ours.tree["meta"]) == drop_dates(theirs.tree["meta"])
        assert ours.tree["subarray_cases"] == theirs.tree["subarray_cases"]
        found, expected = ours.tree["frequencies"], theirs.tree["frequencies"]
        assert found.keys() == expected.keys() == {"390.625", "218.5"}
        for key, wave in expected.items():
            assert found[key]["frequency"] == wave["frequency"]
            np.testing.assert_array_equal(found[key]["phase_amplitudes"], wave["phase_amplitudes"])
            assert np.ptp(wave["phase_amplitudes"]) > 1


def write_reference(path):
    """Write a reference for MASK1550 with one wave."""
    wave = np.sin(2 * np.pi * (np.arange(50) + 0.5) / 50).astype(np.float32)
    frequencies = {"Hz390": {"frequency": 390.625, "phase_amplitudes": wave}}
    case = {"rowclocks": 82, "frameclocks": 23968, "freqs": {"FAST": ["Hz390"]}}
    emicorr_model({"frequencies": frequencies, "subarray_cases": {"MASK1550": case}}).save(str(path))
    return str(path)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:The 'user_supplied_reffile'")
@pytest.mark.parametrize("algorithm", ["joint", "sequential"])
def test_a_reference_of_the_user_gives_jwsts_result(algorithm, exposures, tmp_path, caplog):
    from jwst.pipeline import Detector1Pipeline

    case = exposures("MIRI", "MASK1550", "FASTR1", 20, 2, shape=(24, 64), effects=Effects(emi=True))
    mine = write_reference(tmp_path / "mine.asdf")
    on = {"skip": False, "algorithm": algorithm, "user_supplied_reffile": mine, "save_results": True}
    off = {name: {"skip": True} for name in ("saturation", "reset", "linearity", "rscd", "dark_current", "jump")}
    with case.cache.activate():
        Detector1Pipeline.call(
            str(case.path), steps={"emicorr": dict(on), **off}, save_results=True, output_dir=str(tmp_path / "theirs")
        )
        gpucoron.reduce_file(case.path, tmp_path / "ours", backend="numpy", steps={"emicorr": on, **off})
    name = case.path.name.replace("_uncal", "_emicorr")
    found, expected = (fits.getdata(tmp_path / side / name) for side in ("ours", "theirs"))
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, fits.getdata(case.path))
    ours, theirs = (fits.getheader(tmp_path / side / name) for side in ("ours", "theirs"))
    assert ours.get("R_EMICOR") == theirs.get("R_EMICOR")
    assert "user_supplied_reffile is deprecated" in caplog.text


def test_a_damaged_reference_of_the_user_is_named(exposures, tmp_path):
    case = exposures("MIRI", "MASK1550", "FASTR1", 20, 2, shape=(24, 64), effects=Effects(emi=True))
    (tmp_path / "mine.asdf").write_bytes(b"#ASDF 1.0.0\nnothing else")
    on = {"skip": False, "user_supplied_reffile": str(tmp_path / "mine.asdf")}
    with case.cache.activate(), pytest.raises(ParameterError, match=r"emicorr.user_supplied_reffile: .*mine.asdf"):
        gpucoron.reduce_file(case.path, tmp_path / "ours", backend="numpy", steps={"emicorr": on})


def test_a_reset_frame_without_clocks_is_refused():
    with pytest.raises(ValueError, match="frameclocks"):
        count_integrations(3, 5, 390.0, 0, nints_to_phase=None, use_n_cycles=3)
    assert count_integrations(3, 5, 390.0, 0, nints_to_phase=None, use_n_cycles=None) == 3
