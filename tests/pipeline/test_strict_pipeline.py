"""The whole package on the strict stand-in for CuPy: all steps, products and previews have the same bits.

`strict_cupy` defines what is refused. Each case first runs on the CPU: on the NumPy backend, or on the host build where
NumPy sums in another order than the kernels.
"""

import os
from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.devices import cuda_device
from gpucoron.backends.devices.cuda_device import CudaDevice
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.backends.results import Slopes
from gpucoron.io import references
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import STORE, Reference
from gpucoron.report.ramp import trace_ramp
from tests.cases.arrays import FUNCTIONS, call, flat, make_arguments
from tests.cases.pipelines import run_ours
from tests.pipeline.strict_cases import (
    CASES,
    DEFAULTS,
    EXPOSURES,
    NIRCAM,
    StrictCase,
    late_groups,
    on,
)
from tests.stand_ins.fake_cupy import make_fake_cupy
from tests.stand_ins.real_cupy import judge_or_skip
from tests.stand_ins.strict_coverage import collect_asked, names_in_source, note_asked

#: path -> reference on the host
READ = {}

#: cases that also run with a device that is too small
SPILLED = (
    "averaged groups", "likely", "MIRI with emicorr", "MIRI with emicorr, measured", "spaceKLIP, rates",
    "spaceKLIP, groups", "1/f in groups, kriging", "1/f, kriging", "1/f in groups, weighted rows",
)  # fmt: skip


@pytest.fixture
def cupy(request, monkeypatch, tmp_path, tmp_path_factory):
    """The stand-in; all but the smallest arrays are copied through pinned memory of a few hundred bytes."""
    monkeypatch.setattr(cuda_device, "LARGE", 1000)
    monkeypatch.setattr(CudaDevice, "words_at_once", 5000)
    # On the host, threads that wait for each other are real threads: use few.
    monkeypatch.setattr(CudaDevice, "choose_lanes", lambda self, *work: 1)
    monkeypatch.setattr(CudaDevice, "block_threads", HostDevice.block_threads)
    monkeypatch.setattr(CudaDevice, "frame_threads", HostDevice.frame_threads)
    fake = make_fake_cupy(monkeypatch, tmp_path, runner=HostDevice(1), judge=judge_or_skip())
    # References stay on the device between exposures, but this device is new. They are read once.
    STORE.clear()
    read = references.read_reference

    def read_once(reftype, path, exposure):
        if path not in READ:
            READ[path] = read(reftype, path, exposure)
        return READ[path]

    monkeypatch.setattr(references, "read_reference", read_once)
    yield fake
    STORE.clear()
    note_asked(tmp_path_factory, request.node, fake.asked)
    assert not fake.queue
    assert max(fake.whole_copies, default=0) < 1000
    assert set(fake.pinned) <= {10000}


def make(exposures, case, monkeypatch):
    arguments, options = EXPOSURES[case.exposure]
    made = exposures(*arguments, **{**DEFAULTS, **options})
    if case.facts:
        import gpucoron.io.exposure

        read = gpucoron.io.exposure.facts_of
        monkeypatch.setattr(gpucoron.io.exposure, "facts_of", lambda *given: replace(read(*given), **case.facts))
    return made


def run(made, case, backend):
    profile = {"profile": case.run["profile"]} if "profile" in case.run else {}
    pipeline = {name: value for name, value in case.run.items() if name != "profile"}
    return run_ours(made.path, case.steps, backend=backend, pipeline=pipeline, **profile)


def assert_same(found, expected):
    assert list(found.ramps) == list(expected.ramps)
    for step, arrays in expected.ramps.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(found.ramps[step][key], array, err_msg=f"{step} {key}")
    for product in ("rate", "rateints"):
        for key, array in (getattr(expected, product) or {}).items():
            np.testing.assert_array_equal(getattr(found, product)[key], array, err_msg=f"{product} {key}")
    for ours, theirs in zip(found.run.records, expected.run.records, strict=True):
        assert (ours.status, ours.reason, ours.flagged) == (theirs.status, theirs.reason, theirs.flagged), ours.name


def of_cpu(case, **options):
    return get_backend("host", n_threads=1, **options) if case.against == "host" else get_backend("numpy")


def test_a_traced_pixel(exposures, cupy):
    """The frame is on the device, the pixels around the traced one on the host."""
    made = exposures(*NIRCAM, "SHALLOW4", 6, 3, **DEFAULTS)
    with made.cache.activate():
        on_cpu, on_gpu = (
            trace_ramp(made.path, 17, 20, profile="spaceklip", backend=backend)
            for backend in (get_backend("host", n_threads=1), get_backend("cuda", device=1, cupy=cupy))
        )
    assert on_gpu.steps[0].on_frame
    for ours, theirs in zip(on_gpu.steps, on_cpu.steps, strict=True):
        np.testing.assert_array_equal(ours.after.data, theirs.after.data, ours.name)
        np.testing.assert_array_equal(ours.after.groupdq, theirs.after.groupdq, ours.name)
        assert ours.causes == theirs.causes
    np.testing.assert_array_equal(on_gpu.corrected.rateints["rate"], on_cpu.corrected.rateints["rate"])


@pytest.mark.parametrize("name", CASES)
def test_every_step_over_strict_arrays(name, exposures, cupy, monkeypatch):
    case = CASES[name]
    made = make(exposures, case, monkeypatch)
    with made.cache.activate():
        expected = run(made, case, of_cpu(case))
        found = run(made, case, get_backend("cuda", device=1, cupy=cupy))
    assert_same(found, expected)
    assert isinstance(found.run.exposure.data, cupy.ndarray)
    status = {record.name: record.status for record in found.run.records}
    assert all(status[step] == "COMPLETE" for step in case.ran), status


@pytest.mark.parametrize("name", SPILLED)
def test_every_step_of_exposures_that_are_too_large(name, exposures, cupy, monkeypatch, caplog):
    case = CASES[name]
    made = make(exposures, case, monkeypatch)
    with made.cache.activate():
        # The same parts run in NumPy on both backends.
        expected = run(made, case, of_cpu(case, max_memory=100_000))
        found = run(made, case, get_backend("cuda", device=1, cupy=cupy, max_memory=100_000))
    assert "in chunks" in caplog.text
    assert_same(found, expected)
    assert cupy.launches


# ------------------------------------------------------------------------------------- products, previews and manifest

PRODUCTS = {
    "NIRCam": StrictCase(
        "averaged",
        {"dark_current": {"dark_output": "dark.fits"}, "ramp_fit": {"algorithm": "LIKELY", "save_opt": True}},
        {"save_calibrated_ramp": True, "save_intermediates": True}, against="host",
    ),
    "NIRCam, spaceKLIP": StrictCase(
        "many", on("mask_groups", mask_array=late_groups(6)), {"profile": "spaceklip", "rate_int_outliers": True},
        against="host",
    ),
    "MIRI": StrictCase(
        "miri", {"ramp_fit": {"save_opt": True}, "jump": {"save_results": True}, "dark_current": {"dark_output": "d"}},
        {"save_calibrated_ramp": True},
    ),
    "a ramp with flags": StrictCase("flagged"),
    "no fit": StrictCase("one", {"ramp_fit": {"skip": True}}),
}  # fmt: skip


def reduce(made, case, backend, folder, monkeypatch):
    """Reduce an exposure as in a batch: return its record, its preview, and the arrays of all its files."""
    from astropy.io import fits

    from gpucoron.batch.job import reduce_job
    from gpucoron.records.previews import preview_path

    monkeypatch.setattr("gpucoron.batch.job._backend", lambda name, options: backend)
    profile = case.run.get("profile", "jwst")
    run_parameters = {name: value for name, value in case.run.items() if name != "profile"}
    job = {
        "path": str(made.path), "stage": str(folder), "log": str(folder) + ".log", "attempt": 1,
        "record_fields": {"exposure": "x"}, "profile": profile, "steps": case.steps, "run_parameters": run_parameters,
        "backend": "cuda", "backend_options": {}, "environment": {},
    }  # fmt: skip
    record = reduce_job(job)
    assert record["status"] in ("done", "no rate"), record["error"]["traceback"]
    arrays = {}
    for path in folder.glob("*.fits"):
        with fits.open(path) as hdus:
            arrays |= {(path.name, hdu.name): hdu.data for hdu in hdus if hdu.is_image and hdu.data is not None}
    with np.load(preview_path(folder, "x")) as preview:
        return record, dict(preview), arrays


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_previews_and_records(name, exposures, cupy, monkeypatch, tmp_path):
    case = PRODUCTS[name]
    made = make(exposures, case, monkeypatch)
    monkeypatch.setattr("gpucoron.records.measures._INTEGRATIONS_AT_ONCE", 5)
    with made.cache.activate():
        expected = reduce(made, case, of_cpu(case), tmp_path / "cpu", monkeypatch)
        found = reduce(made, case, get_backend("cuda", cupy=cupy), tmp_path / "cuda", monkeypatch)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert set(ours) == set(theirs)
        for key, value in theirs.items():
            np.testing.assert_array_equal(ours[key], value, err_msg=str(key))
    (ours, *_), (theirs, *_) = found, expected
    assert ours["flags"] == theirs["flags"]
    assert ours["outputs"] == theirs["outputs"]
    for mine, its in zip(ours["steps"], theirs["steps"], strict=True):
        assert [mine[key] for key in ("name", "status", "reason", "flagged")] == [
            its[key] for key in ("name", "status", "reason", "flagged")
        ]
    assert ours["flags"]


# ------------------------------------------------------------------------------------ functions that take device arrays


def copies(backend, *arrays):
    """Copy arrays to a backend's device; also on the CPU."""
    return [backend.to_device(np.array(array)) for array in arrays]


def assert_functions_agree(cupy, act, *arrays):
    """Run ``act(backend, *arrays)`` on both; it returns the arrays to compare."""
    on_host, on_device = get_backend("host", n_threads=1), get_backend("cuda", device=1, cupy=cupy)
    expected = act(on_host, *copies(on_host, *arrays))
    found = act(on_device, *copies(on_device, *arrays))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(on_device.to_host(ours), theirs)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(3, 3), (5, 5), (4, 6), (7, 7), (3, 3, 20, 32), (7, 5, 20, 32)])
def test_ipc(cupy, rng, shape):
    from gpucoron.steps.ipc import ReferenceEdges

    def deconvolve(backend, data, kernel):
        backend.deconvolve_ipc(data, kernel, ReferenceEdges(4, 0, 4, 3))
        return [data]

    data = rng.normal(1000, 100, (2, 3, 20, 32)).astype(np.float32)
    assert_functions_agree(cupy, deconvolve, data, rng.normal(0, 0.01, shape).astype(np.float32))


@pytest.mark.parametrize("odd_even_rows", [True, False])
def test_reference_pixels_of_miris_full_frame(cupy, rng, odd_even_rows):
    from gpucoron.steps.refpix import correct_miri_frames

    def correct(backend, data, pixeldq):
        assert correct_miri_frames(data, pixeldq, odd_even_rows=odd_even_rows, backend=backend)
        return [data]

    data = rng.normal(1000, 100, (2, 3, 16, 1032)).astype(np.float32)
    pixeldq = rng.choice(np.array([0, 1], np.uint32), p=[0.9, 0.1], size=(16, 1032))
    assert_functions_agree(cupy, correct, data, pixeldq)


def test_side_columns_with_missing_values(cupy, rng):
    from gpucoron.steps.refpix import PseudoReference, correct_sides

    def correct(backend, data, pixeldq, missing):
        correct_sides(data, pixeldq, PseudoReference(nleft=3, nright=4), missing=missing, backend=backend)
        return [data]

    data = rng.normal(1000, 100, (2, 3, 20, 32)).astype(np.float32)
    pixeldq = rng.choice(np.array([0, 1], np.uint32), p=[0.8, 0.2], size=(20, 32))
    assert_functions_agree(cupy, correct, data, pixeldq, rng.random(data.shape) < 0.2)


@pytest.mark.parametrize(
    "changed", [{}, {"use_side_ref_pixels": False}, {"fastaxis": 2, "slowaxis": -1, "side_smoothing_length": 6}]
)
def test_reference_pixels_of_four_outputs(cupy, rng, changed):
    from gpucoron.facts import Facts
    from gpucoron.steps.refpix_full_frame import correct_nir_frames

    changed = dict(changed)
    axes = {"fastaxis": changed.pop("fastaxis", -1), "slowaxis": changed.pop("slowaxis", 2)}
    facts = Facts("NIRCAM", xstart=1, ystart=1, **axes)

    def correct(backend, data, pixeldq, zeroframe):
        assert correct_nir_frames(data, pixeldq, facts, zeroframe=zeroframe, backend=backend, **changed)
        return [data, zeroframe]

    data = rng.normal(1000, 100, (2, 3, 20, 32)).astype(np.float32)
    data[1, 1, 2, 3] = np.nan
    zeroframe = np.where(rng.random((2, 20, 32)) < 0.1, 0, data[:, 0])
    pixeldq = rng.choice(np.array([0, 1], np.uint32), p=[0.8, 0.2], size=(20, 32))
    assert_functions_agree(cupy, correct, data, pixeldq, zeroframe)


def test_reference_pixels_by_sirs(cupy, rng):
    from gpucoron.facts import Facts
    from gpucoron.steps.refpix_full_frame import correct_nir_frames

    def correct(backend, data):
        kernels = np.linspace(0.1, 1, 2 * 4 * 5).reshape(2, 4, 5)
        correct_nir_frames(data, 0, Facts("NIRCAM", fastaxis=-1, slowaxis=2), kernels=kernels, backend=backend)
        return [data]

    assert_functions_agree(cupy, correct, rng.normal(0, 9, (1, 2, 2048, 2048)).astype(np.float32))


def test_running_medians_in_parts(cupy, rng, monkeypatch):
    from gpucoron.steps import reference_pixels

    def smooth(backend, columns, windows, spoilt):
        return [reference_pixels.running_median(columns, windows, spoilt, xp=backend.xp)]

    monkeypatch.setattr(reference_pixels, "_WINDOW_VALUES", 100)
    windows = np.arange(10)[:, None] + np.arange(3)
    assert_functions_agree(cupy, smooth, rng.normal(size=(2, 12, 4)), windows, rng.random((2, 12)) < 0.1)


def test_showers_among_clipped_differences(cupy, rng):
    from gpucoron.steps.showers import flag_showers

    def flag(backend, data, groupdq, pixeldq):
        flag_showers(data, groupdq, pixeldq, 2.0, 7.0, minimum_sigclip_groups=20, backend=backend)
        return [groupdq]

    data = rng.normal(0, 5, (40, 3, 12, 16)).astype(np.float32)
    data[7, 1:, 3] += 1000
    assert_functions_agree(cupy, flag, data, np.zeros(data.shape, np.uint8), np.zeros((12, 16), np.uint32))


@pytest.mark.parametrize("user_dtype", [np.uint32, ">i4", np.int64])
def test_flags_of_the_users(cupy, rng, user_dtype):
    from gpucoron.steps import dq_init

    user_dq = rng.integers(0, 2, (20, 32)).astype(user_dtype)

    def start(backend, groupdq, pixeldq, mask):
        exposure = Exposure(groupdq=groupdq, pixeldq=pixeldq)
        parameters = dq_init.STEP.settings(user_supplied_dq=user_dq)
        dq_init.run(exposure, {"mask": Reference(dq=mask)}, parameters, backend)
        return [groupdq, pixeldq]

    flags = np.zeros((2, 3, 20, 32), np.uint8), np.zeros((20, 32), np.uint32)
    assert_functions_agree(cupy, start, *flags, rng.integers(0, 2, (20, 32)).astype(np.uint32))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("width", [32, 13])
def test_counts_of_flags(cupy, rng, width, first):
    """Also of ramps that are cut along the groups, and of frames that do not start on whole words."""

    def count(backend, groupdq, pixeldq):
        cut = groupdq[:, first:]
        counts = backend.count_flags(cut, in_samples=0xFF, in_groups=0xFF, in_pixels=0xFF, everywhere=0xFF)
        joined = backend.join_group_flags(cut, pixeldq)
        return [counts.total, counts.groups, counts.pixels, counts.everywhere, joined]

    groupdq = rng.choice(np.array([0, 1, 2, 4, 0x85], np.uint8), size=(3, 4, 5, width))
    groupdq[1, 2] |= 2
    assert_functions_agree(cupy, count, groupdq, rng.integers(0, 2**32, (5, width)).astype(np.uint32))


@pytest.mark.parametrize("reject_jumps", [True, False])
@pytest.mark.parametrize("used", [True, False])
def test_likelihood_of_differences(cupy, rng, reject_jumps, used):
    from gpucoron.steps.likelihood import fit_likelihood

    times = 2.0 * np.arange(1, 8)

    def fit(backend, diffs, sig, usable):
        options = {"diffs2use": usable if used else None, "reject_jumps": reject_jumps, "backend": backend}
        return vars(fit_likelihood(diffs, times, sig, **options)).values()

    diffs = rng.normal(20, 2, (6, 12, 16))
    diffs[2, ::3] += 200
    usable = rng.random(diffs.shape) < 0.8
    assert_functions_agree(cupy, fit, diffs, np.full((12, 16), 5.0, np.float32), usable)


@pytest.mark.parametrize("options", [{}, {"combine_ints": False, "noutputs": 2}, {"slowaxis": 1, "model_type": "mean"}])
def test_noise_of_ramps(cupy, rng, options):
    from gpucoron.steps.subtract_1overf import noise_of_ramp

    def find(backend, data, groupdq, saturation):
        return [noise_of_ramp(data, groupdq, saturation, 10.0, backend=backend, **options)]

    data = rng.normal(1000, 10, (3, 4, 24, 32)).astype(np.float32)
    groupdq = rng.choice(np.array([0, 1], np.uint8), p=[0.97, 0.03], size=data.shape)
    assert_functions_agree(cupy, find, data, groupdq, np.full((24, 32), 6e4, np.float32))


@pytest.mark.parametrize("known", ["all", "some", "none", "other integrations"])
def test_noise_of_faint_slopes(cupy, rng, known):
    """Integrations in which the noise can be measured, and images with four pixels or none."""
    from gpucoron.steps.kriging_1overf import noise_of_slopes, spectrum_of_integrations

    def find(backend, rate, dq, poisson, read):
        rateints = Slopes(rate, dq, poisson, read, read)
        spectrum = spectrum_of_integrations(rateints, None, -2, 1, 1, backend)
        noise, error = noise_of_slopes(rateints, spectrum=spectrum, backend=backend)
        return [noise, *map(np.array, (error.rateints, error.rate))]

    shape = (4 if known == "other integrations" else 2, 16, 24)
    rate, read = rng.normal(size=shape).astype(np.float32), np.ones(shape, np.float32)
    dq = np.full(shape, 0 if known == "all" else 1, np.uint32)
    dq[::2] = 0 if known == "other integrations" else dq[::2]
    if known == "some":
        dq[:, 3:5, 3:5] = 0
    assert_functions_agree(cupy, find, rate, dq, read / 4, read)


def test_contrasts_without_a_group_that_is_lost_everywhere(cupy, rng):
    from gpucoron.backends.operations.subtract_1overf.spectrum import PowerLaw, Spectrum
    from gpucoron.steps.kriging_1overf import subtract_contrasts

    def correct(backend, data, groupdq, gain, readnoise):
        times = 10.0 * np.arange(1, 7)
        options = {"spectrum": Spectrum(PowerLaw(1.0, 1.0)), "backend": backend}
        subtract_contrasts(data, groupdq, gain, readnoise, times, **options)
        return [data]

    data = rng.normal(100, 5, (2, 6, 16, 24)).astype(np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    groupdq[:, 2] = 1
    assert_functions_agree(cupy, correct, data, groupdq, *np.full((2, 16, 24), 3.0, np.float32))


def test_a_quiet_scene_and_quiet_integrations(cupy, rng):
    """More than half of the values are equal: the mean deviation replaces the median one."""
    from gpucoron.steps.apply_rateints_outliers import find_outliers
    from gpucoron.steps.subtract_1overf import noise_of_ramp

    def find(backend, cube, data, groupdq, saturation):
        noise = noise_of_ramp(data, groupdq, saturation, 10.0, backend=backend)
        cubes = cube, (4 * cube).astype(np.int32)
        return [noise, *(find_outliers(values, sigma_cut=2.0, backend=backend) for values in cubes)]

    cube = np.where(rng.random((12, 6, 7)) < 0.3, rng.normal(size=(12, 6, 7)), 1).astype(np.float32)
    data = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None], (2, 4, 24, 32))
    assert_functions_agree(cupy, find, cube, data, np.zeros(data.shape, np.uint8), np.full((24, 32), 6e4, np.float32))


#: fits of 1/f noise are slow with real threads that wait for each other: see test_noise_of_ramps, and the cases above
SLOW = ("subtract_1overf.noise_of_ramp", "subtract_1overf.noise_of_rateints")


def works_on_host(name):
    return any(getattr(kind, "on_host", False) for kind in FUNCTIONS[name].declared.values())


def on_device(value, backend):
    """Copy arrays to the device, also those of Slopes and of an exposure."""
    if isinstance(value, np.ndarray):
        return backend.to_device(value)
    if isinstance(value, Slopes):
        return Slopes(**{key: backend.to_device(array) for key, array in vars(value).items()})
    if hasattr(value, "groupdq"):
        return replace(value, **{key: on_device(array, backend) for key, array in vars(value).items()})
    return value


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in SLOW])
def test_array_functions(cupy, name):
    """Device arrays give the same as host arrays, and stay on the device; changed host arrays are changed in place."""
    on_cpu, on_gpu = get_backend("host", n_threads=1), get_backend("cuda", device=1, cupy=cupy)
    arguments = make_arguments(name)
    expected = flat(call(name, arguments, backend=on_cpu))
    sent = {key: on_device(value, on_gpu) for key, value in make_arguments(name).items()}
    here = make_arguments(name)
    for given in (sent, here):
        found = flat(call(name, given, backend=on_gpu))
        for ours, theirs in zip(found, expected, strict=True):
            # The amplitudes of interference are computed on the host.
            if isinstance(theirs, np.ndarray) and not works_on_host(name) and not name.startswith("emicorr"):
                assert isinstance(ours, cupy.ndarray)
            np.testing.assert_array_equal(on_gpu.to_host(ours) if hasattr(ours, "get") else ours, theirs)
    for key, kind in FUNCTIONS[name].declared.items():
        if getattr(kind, "in_place", False) is True:
            for given in (sent, here):
                after = (given[key], arguments[key])
                if isinstance(arguments[key], Slopes):
                    after = after[0].rate, after[1].rate
                np.testing.assert_array_equal(on_gpu.to_host(after[0]), after[1])


def test_device_arrays_of_any_kind(cupy, monkeypatch):
    """Images used as ramps, gaps, other dtypes; a mix of host and device arrays without a backend is refused."""
    from gpucoron.errors import ArgumentError
    from gpucoron.steps import arguments, saturation

    backend = get_backend("cuda", device=1, cupy=cupy)
    given = make_arguments("saturation.flag_saturated")
    names = "data", "groupdq", "pixeldq", "threshold", "dq"
    arrays = {key: given[key] for key in names}
    arrays["groupdq"] = arrays["groupdq"][0, 0]
    expected = saturation.flag_saturated(**{**arrays, "groupdq": np.tile(arrays["groupdq"], (2, 6, 1, 1))})
    sent = {key: backend.to_device(array) for key, array in arrays.items()}
    sent["data"] = backend.to_device(arrays["data"].astype(np.float64))
    sent["threshold"] = backend.to_device(np.repeat(arrays["threshold"], 2, axis=-1))[:, ::2]
    found = backend.to_host(saturation.flag_saturated(**sent, backend=backend))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    def make(name, **options):
        asked.append((name, options))
        return backend if name == "cuda" else get_backend(name, **options)

    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(arguments, "get_backend", make)
        assert isinstance(saturation.flag_saturated(**sent)[0], cupy.ndarray)
        assert asked[0] == ("cuda", {"device": 1})
        for ours, theirs in zip(saturation.flag_saturated(**sent, backend="numpy"), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ArgumentError, match="flag_saturated: some arrays are on a GPU and some are not"):
        saturation.flag_saturated(**{**sent, "dq": arrays["dq"]})
    with pytest.raises(ArgumentError, match="groupdq: is on a GPU, where backend 'numpy' cannot"):
        saturation.flag_rc_pixels(sent["groupdq"][None, None], given["dq"] > 2, backend="numpy")
    other = get_backend("cuda", device=0, cupy=cupy)
    with pytest.raises(ArgumentError, match="data: is on GPU 1, but the backend works on GPU 0"):
        saturation.flag_saturated(**sent, backend=other)


# ------------------------------------------------------------------------------------------------------------- coverage

#: names and files that the stand-in does not see, or that are not used here, and why
NOT_ASKED = {
    "cuda": "devices, streams and pinned memory are the stand-in's own: test_upload.py",
    "ndarray": "the type of the arrays",
    "get_default_memory_pool": "test_upload.py, test_spilling.py",
    "get_default_pinned_memory_pool": "test_upload.py",
    "base.py": "what it asks for itself, kernels or the CUDA backend do in another way",
}


@pytest.mark.after_its_module
def test_every_name_of_cupy_has_been_asked_for(request, tmp_path_factory):
    """Each use of ``xp`` or ``ndimage`` in the source is run by this module."""
    judge_or_skip()
    own = [item for item in request.session.items if item.path == request.node.path and item is not request.node]
    asked = collect_asked(tmp_path_factory, [item for item in own if "cupy" in item.fixturenames])
    missing = {
        (path, line, name)
        for path, line, name in names_in_source() - asked
        if name not in NOT_ASKED and os.path.basename(path) not in NOT_ASKED
    }
    assert not missing, "\n".join(f"{path}:{line}: {name}" for path, line, name in sorted(missing))
