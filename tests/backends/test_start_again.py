"""A device that runs out of memory during an exposure: it is restarted in chunks, and the log names what ran where."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.backends import get_backend
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.engine import plan, run_steps
from gpucoron.io.exposure import Exposure
from gpucoron.io.products import history_of
from tests.cases.backends import usable_backend
from tests.stand_ins.fake_cupy import OutOfMemoryError

#: a kernel, flags while the file is read, a custom operation that runs in NumPy in chunks, the transfer of references
FULL_AT = ("fit_ramps", "zeros", "fit_ktc", "to_device")


@pytest.fixture
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2, shape=(16, 20))


@pytest.fixture
def host(request):
    """The kernels on the host instead of a device, with a memory limit as on a device."""
    return usable_backend("host", request.config, max_memory=10**9)


def fill_up_once(monkeypatch, method, error=None):
    """Raise MemoryError at the first call of an operation, or of one of its methods."""
    return fill_up(monkeypatch, HostDevice, method, lambda calls: len(calls) == 1, error)


def fill_up(monkeypatch, device, name, is_now, error=None):
    """Raise MemoryError at the given calls of an operation; return the list of calls."""
    method = name if hasattr(device, name) else "execute"
    original, calls = getattr(device, method), []

    def full(self, *arguments):
        if method == name or arguments[0].name == name:
            calls.append(name)
            if is_now(calls):
                raise error or MemoryError("Out of memory allocating 1 bytes")
        return original(self, *arguments)

    monkeypatch.setattr(device, method, full)
    return calls


def assert_same_products(found, expected):
    for product, model in expected.items():
        for name in ("data", "dq", "err", "var_poisson", "var_rnoise"):
            np.testing.assert_array_equal(getattr(found[product], name), getattr(model, name), err_msg=name)


@pytest.mark.parametrize("method", FULL_AT)
def test_the_exposure_starts_again(case, host, tmp_path, monkeypatch, caplog, method):
    with case.cache.activate():
        _, expected, _ = gpucoron.reduce_file(case.path, tmp_path / "a", profile="spaceklip", backend="host")
        calls = fill_up_once(monkeypatch, method)
        run, models, paths = gpucoron.reduce_file(case.path, tmp_path / "b", profile="spaceklip", backend=host)
    assert calls
    assert "reduced again, in chunks of rows" in caplog.text
    assert_same_products(models, expected)
    assert len(paths) == 2
    # Each step is logged once, with the backend that ran it.
    assert len({record.name for record in run.records}) == len(run.records)
    workers = {record.name: record.workers for record in run.records if record.status == "COMPLETE"}
    assert workers["linearity"] == workers["jump"] == workers["ipc"] == workers["subtract_ktc"] == ("host",)
    assert workers["superbias"] == ("numpy",)
    history = "".join(fits.getheader(tmp_path / "b" / f"{case.path.name[:-11]}_rate.fits")["HISTORY"])
    assert "backend numpy+host," in history
    assert "subtract_ktc host" in history
    assert "jump host" in history


def test_in_a_batch(case, host, tmp_path, monkeypatch):
    from gpucoron.batch.job import reduce_job

    fill_up_once(monkeypatch, "search_jumps")
    monkeypatch.setattr("gpucoron.batch.job._backend", lambda name, options: host)
    job = {
        "path": str(case.path), "stage": str(tmp_path), "log": str(tmp_path / "log.txt"), "attempt": 1,
        "record_fields": {"exposure": "x"}, "profile": "jwst", "steps": {}, "run_parameters": {}, "backend": "host",
        "backend_options": {}, "environment": {},
    }  # fmt: skip
    with case.cache.activate():
        record = reduce_job(job)
    assert record["status"] == "done", record.get("error")
    assert record["backend"] == "numpy+host"
    steps = {step["name"]: step["backend"] for step in record["steps"]}
    assert (steps["linearity"], steps["superbias"], steps["persistence"]) == ("host", "numpy", "")
    assert "reduced again" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("from_model", [False, True])
def test_through_jwsts_call(case, host, monkeypatch, from_model):
    from stdatamodels.jwst import datamodels

    from gpucoron import pipeline

    monkeypatch.setattr(pipeline, "get_backend", lambda name, max_memory: host)
    with case.cache.activate():
        expected = gpucoron.Coron1Pipeline.call(str(case.path))
        calls = fill_up_once(monkeypatch, "fit_ramps")
        given = datamodels.open(case.path) if from_model else str(case.path)
        found = gpucoron.Coron1Pipeline.call(given)
    assert len(calls) > 1
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_array_equal(found.dq, expected.dq)


def test_a_row_too_large_for_chunks_is_no_reason_to_start_again(case, request, tmp_path, monkeypatch):
    small = usable_backend("host", request.config, max_memory=1)
    calls = fill_up(monkeypatch, HostDevice, "fit_ramps", lambda calls: True)
    with case.cache.activate(), pytest.raises(MemoryError, match="cannot hold one row"):
        gpucoron.reduce_file(case.path, tmp_path, backend=small)
    assert len(calls) == 1


def test_products_of_the_first_attempt_are_replaced(case, host, tmp_path, monkeypatch):
    """Products of steps that had finished are made again; the folder keeps nothing of the first attempt."""
    asked = {"save_intermediates": True, "steps": {"group_scale": {"save_results": True}}}
    with case.cache.activate():
        _, expected, names = gpucoron.reduce_file(case.path, tmp_path / "a", backend="numpy", **asked)
        fill_up_once(monkeypatch, "fit_ramps")
        gpucoron.reduce_file(case.path, tmp_path / "b", backend=host, **asked)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {path.name for path in names.values()}
    for path in names.values():
        with fits.open(path) as one, fits.open(tmp_path / "b" / path.name) as other:
            for hdu in one:
                if hdu.name in ("SCI", "ERR", "DQ", "PIXELDQ", "GROUPDQ"):
                    np.testing.assert_array_equal(other[hdu.name].data, hdu.data, err_msg=f"{path.name} {hdu.name}")
            history = "".join(other[0].header["HISTORY"])
            # Nothing was copied to the device before the first heavy step.
            assert ("backend numpy+host," if "linearity" in history else "backend numpy") in history


def test_no_other_error_starts_it_again(case, host, tmp_path, monkeypatch):
    calls = fill_up_once(monkeypatch, "fit_ramps", RuntimeError("cudaErrorIllegalAddress"))
    with case.cache.activate(), pytest.raises(RuntimeError, match="IllegalAddress"):
        gpucoron.reduce_file(case.path, tmp_path, backend=host)
    assert len(calls) == 1
    assert not list(tmp_path.iterdir())


def test_the_cpu_has_nothing_else_to_try(case, tmp_path, monkeypatch):
    fill_up(monkeypatch, NumpyDevice, "fit_ramps", lambda calls: True, MemoryError("no room"))
    with case.cache.activate(), pytest.raises(MemoryError, match="no room"):
        gpucoron.reduce_file(case.path, tmp_path, backend="numpy")


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OutOfMemoryError("Out of memory allocating 512 bytes"), True),
        (MemoryError("Unable to allocate 1.00 PiB for an array"), False),
        (RuntimeError("cudaErrorMemoryAllocation: out of memory"), True),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered"), False),
    ],
)
def test_errors_of_cuda_that_mean_out_of_memory(late_cupy, error, is_full):
    assert get_backend("cuda", cupy=late_cupy).is_out_of_memory(error) == is_full


# -------------------------------------------------------------------------------------------------- who did what


def run_with(case, backend, **options):
    with case.cache.activate():
        return run_steps(plan(Exposure.read(case.path, backend), backend=backend, **options))


def test_a_single_backend_is_named_once(case):
    run = run_with(case, gpucoron.get_backend("numpy"))
    assert run.workers == ["numpy"]
    (first, *others) = history_of(run)
    assert "backend numpy, profile jwst" in first
    assert not any("where each step ran" in line for line in others)


@pytest.fixture
def without_kernels(host, monkeypatch):
    """A device without kernels for one model of 1/f noise."""

    def runs(self, operation, settings):
        return getattr(settings, "model_type", None) != "fft"

    monkeypatch.setattr(type(host.device), "runs", runs)


@pytest.mark.usefixtures("without_kernels")
def test_a_backend_records_its_threads_separately(case, host):
    def run(model_type):
        steps = {"subtract_1overf": {"skip": False, "model_type": model_type}}
        return {record.name: record.workers for record in run_with(case, host, steps=steps).records}

    with case.cache.activate(), ThreadPoolExecutor(3) as pool:
        backends_of_steps = list(pool.map(run, ["fft", "median", "fft"]))
    assert [where["jump"] for where in backends_of_steps] == 3 * [("host",)]
    assert backends_of_steps[0] == backends_of_steps[2]
    assert backends_of_steps[0]["subtract_1overf"] == ("host", "numpy")


@pytest.mark.usefixtures("without_kernels")
def test_a_round_trip_is_recorded(case, host):
    run = run_with(case, host, profile="spaceklip", steps={"subtract_1overf": {"model_type": "fft"}})
    where = {record.name: record.workers for record in run.records if record.status == "COMPLETE"}
    assert where["subtract_1overf"] == ("host", "numpy")
    assert where["jump"] == ("host",)
    assert "subtract_1overf host+numpy" in history_of(run)[1]


def test_chunks_give_the_devices_own_bits(case, host, tmp_path, monkeypatch):
    """The bits are equal except for 1/f noise, for which NumPy sums in another order."""
    for profile, tolerance in (("jwst", 0), ("spaceklip", 2e-4)):
        with case.cache.activate(), monkeypatch.context() as patch:
            _, expected, _ = gpucoron.reduce_file(
                case.path, tmp_path / "a", profile=profile, backend=host, overwrite=True
            )
            calls = fill_up_once(patch, "fit_ramps")
            _, found, _ = gpucoron.reduce_file(case.path, tmp_path / "b", profile=profile, backend=host, overwrite=True)
        assert len(calls) > 1
        for product, model in expected.items():
            np.testing.assert_array_equal(found[product].dq, model.dq)
            scatter = np.nanstd(model.data) if tolerance else 1
            np.testing.assert_allclose(found[product].data, model.data, rtol=0, atol=tolerance * scatter)
