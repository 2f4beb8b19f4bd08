"""Each exposure on a GPU works in a stream of its own; nothing is shared between streams without an order."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpucoron
from gpucoron import engine
from gpucoron.backends import get_backend
from gpucoron.backends.devices.cuda_device import CudaDevice
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.errors import InternalError
from gpucoron.io import references
from gpucoron.io.references import STORE
from tests.stand_ins.fake_cupy import CUDARuntimeError
from tests.stand_ins.fake_streams import Unordered

# ----------------------------------------------------------------------------------------------------- the stand-in


def pinned(late, values):
    memory = np.frombuffer(late.cuda.alloc_pinned_memory(4 * len(values)), np.float32)
    memory[:] = values
    return memory


def start_copy(late, array, values):
    """Start to copy values to an array in a new stream; return the stream, and the memory."""
    stream, memory = late.cuda.Stream(non_blocking=True), pinned(late, values)
    late.cuda.Device(0).synchronize()
    array.data.copy_from_host_async(memory.ctypes.data, memory.nbytes, stream)
    return stream, memory


def test_a_stream_does_not_wait_for_another_one(late_cupy):
    array = late_cupy.zeros(3, np.float32)
    stream, memory = start_copy(late_cupy, array, [1, 2, 3])
    with pytest.raises(Unordered, match="another stream writes"):
        array.get()
    late_cupy.cuda.get_current_stream().synchronize()
    assert array.raw.tolist() == [0, 0, 0]
    stream.synchronize()
    assert array.get().tolist() == [1, 2, 3]
    assert memory.tolist() == [1, 2, 3]


def test_an_event_orders_two_streams(late_cupy):
    array = late_cupy.zeros(3, np.float32)
    stream, memory = start_copy(late_cupy, array, [1, 2, 3])
    late_cupy.cuda.get_current_stream().wait_event(stream.record())
    memory[2] = 5  # the copy has not run yet
    assert (array + array).get().tolist() == [2, 4, 10]


def test_an_event_does_not_order_later_work(late_cupy):
    array = late_cupy.zeros(3, np.float32)
    stream, memory = start_copy(late_cupy, array, [1, 2, 3])
    event = stream.record()
    array.data.copy_from_host_async(memory.ctypes.data, memory.nbytes, stream)
    late_cupy.cuda.get_current_stream().wait_event(event)
    with pytest.raises(Unordered):
        array.get()
    event.synchronize()
    with pytest.raises(Unordered):
        array += 1
    late_cupy.cuda.Device(0).synchronize()
    array += 1


def test_memory_that_is_read_elsewhere_is_not_overwritten(late_cupy):
    array, memory = late_cupy.ones(3, np.float32), pinned(late_cupy, [0, 0, 0])
    late_cupy.cuda.Device(0).synchronize()
    stream = late_cupy.cuda.Stream(non_blocking=True)
    array[1:].data.copy_to_host_async(memory[1:].ctypes.data, 8, stream)
    assert array.sum().item() == 3  # both may read
    with pytest.raises(Unordered, match="before another stream has read it"):
        array[...] = 2
    late_cupy.cuda.get_current_stream().wait_event(stream.record())
    array[...] = 2
    stream.synchronize()
    assert memory.tolist() == [0, 1, 1]


def test_streams_belong_to_a_device(late_cupy):
    stream = late_cupy.cuda.Stream(non_blocking=True)
    with late_cupy.cuda.Device(1), pytest.raises(RuntimeError, match="a stream of device 0"):
        stream.use()


def test_times_of_events_are_known_when_they_are_reached(late_cupy):
    start = late_cupy.cuda.get_current_stream().record()
    array = late_cupy.zeros(3)
    array += 1
    stop = late_cupy.cuda.get_current_stream().record()
    with pytest.raises(RuntimeError, match="NotReady"):
        late_cupy.cuda.get_elapsed_time(start, stop)
    stop.synchronize()
    assert late_cupy.cuda.get_elapsed_time(start, stop) >= 2000


# ----------------------------------------------------------------------------------------------------------- the device


def test_own_streams(late_cupy):
    backend = get_backend("cuda", device=1, cupy=late_cupy)
    current, default = late_cupy.cuda.get_current_stream, late_cupy.cuda.get_current_stream()
    used = []
    for error in (None, ValueError, None):
        try:
            with backend.own_stream():
                used.append(current())
                if error is not None:
                    raise error
        except ValueError:
            pass
        assert current() is default
    assert used[0] is not default
    assert used == used[:1] * 3  # the memory pool keeps memory for each stream
    with backend.own_stream(), ThreadPoolExecutor(1) as pool:

        def enter():
            with backend.own_stream():
                return current()

        assert pool.submit(enter).result() is not used[0]
    assert not get_backend("numpy").own_stream().__enter__()


def test_arrays_enter_and_leave_a_stream(late_cupy):
    backend = CudaDevice(cupy=late_cupy)
    given = backend.to_device(np.arange(2**19, dtype=np.float32))
    assert late_cupy.queue
    with backend.own_stream():
        made = given + 1
        sent = backend.to_device(np.ones(2**19, np.float32))
    np.testing.assert_array_equal(backend.to_host(made + sent), np.arange(2**19) + 2)


def test_only_the_work_of_the_thread_is_waited_for(late_cupy):
    backend = CudaDevice(cupy=late_cupy)
    array = backend.zeros(3, np.float32)
    stream, _memory = start_copy(late_cupy, array, [1, 2, 3])
    with backend.own_stream():
        backend.synchronize()
    assert stream._queue


# --------------------------------------------------------------------------------------------------- whole reductions


@pytest.fixture
def cupy(late_cupy, monkeypatch):
    # On the host, threads that wait for each other are real threads: use few.
    monkeypatch.setattr(CudaDevice, "choose_lanes", lambda self, *work: 1)
    monkeypatch.setattr(CudaDevice, "block_threads", HostDevice.block_threads)
    monkeypatch.setattr(CudaDevice, "frame_threads", HostDevice.frame_threads)
    STORE.clear()
    yield late_cupy
    STORE.clear()


def case(exposures, seed=0):
    return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 4, 2 + seed, shape=(24, 32))


def arrays_of(models):
    return [getattr(models[kind], name) for kind in ("rate", "rateints") for name in ("data", "dq", "err")]


def reduce(path, backend, **options):
    _run, models, _paths = gpucoron.reduce_file(path, ".", backend=backend, save_results=False, **options)
    return arrays_of(models)


#: those that use tables which stay on the device
REQUESTS = {
    "one GPU": {},
    "two GPUs": {},
    "savgol": {"profile": "spaceklip", "stage_1overf": "groups"},
    "fft": {"steps": {"subtract_1overf": {"skip": False, "model_type": "fft"}}},
    "kriging": {"profile": "recommended"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_exposures_in_two_threads(exposures, cupy, monkeypatch, name):
    """They share the references and tables of a GPU, which one of them has copied there, and its pinned buffers."""
    request, devices = REQUESTS[name], (0, 1) if name == "two GPUs" else (0, 0)
    made = [case(exposures), case(exposures, 1)]
    backends = {device: get_backend("cuda", device=device, cupy=cupy) for device in devices}
    streams, together = set(), threading.Barrier(2)
    run_steps = engine.run_steps

    def observed(run, **options):
        together.wait(60)
        streams.add(cupy.cuda.get_current_stream())
        return run_steps(run, **options)

    with made[0].cache.activate(), made[1].cache.activate():
        expected = [reduce(each.path, get_backend("host", n_threads=1), **request) for each in made]
        monkeypatch.setattr(engine, "run_steps", observed)
        with ThreadPoolExecutor(2) as pool:
            tasks = [
                pool.submit(reduce, each.path, backends[device], **request)
                for each, device in zip(made, devices, strict=True)
            ]
            found = [task.result() for task in tasks]
    assert len(streams) == 2
    assert {stream.device_id for stream in streams} == set(devices)
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_references_are_complete_before_others_use_them(exposures, cupy, monkeypatch):
    """Without the wait, another stream would use them too early."""
    made, backend = case(exposures), get_backend("cuda", cupy=cupy)
    with made.cache.activate():
        reduce(made.path, backend)
        other = cupy.cuda.Stream(non_blocking=True)
        other.use()
        for reference in STORE._kept.values():
            for array in vars(reference).values():
                if isinstance(array, cupy.ndarray):
                    array.get()
        STORE.clear()
        monkeypatch.setattr(references, "read_reference", lambda *given: _Unfinished(cupy))
        reference = STORE.get("gain", made.path, engine.Exposure.read_headers(made.path), backend)
        cupy.cuda.Stream(non_blocking=True).use()
        assert reference.data.get().tolist() == [1, 2]


class _Unfinished:
    """A reference whose copy to the device has begun."""

    nbytes = 8

    def __init__(self, cupy):
        self._cupy, self._memory = cupy, pinned(cupy, [1, 2])

    def on(self, backend):
        self.data = self._cupy.empty(2, np.float32)
        self.data.data.copy_from_host_async(self._memory.ctypes.data, 8)
        return self


# -------------------------------------------------------------------------------------------------------- times, errors

#: steps that need no result of the device on the host
WITHOUT_WAITS = ("dq_init", "linearity")


def plan_some(made, backend, names=WITHOUT_WAITS):
    exposure = engine.Exposure.read(made.path, backend)
    steps = {name: {"skip": name not in names} for name in engine.order_of(exposure.facts)}
    return engine.plan(exposure, steps=steps, backend=backend)


def test_steps_are_timed_without_waiting(exposures, cupy, caplog):
    made, backend = case(exposures), get_backend("cuda", cupy=cupy)
    caplog.set_level(logging.INFO)
    with made.cache.activate():
        engine.run_steps(plan_some(made, backend))  # reads the references
        run = plan_some(made, backend)
        caplog.clear()
        before, waiting, first = cupy.counts["syncs"], [], []

        def after_step(run, record):
            waiting.append(len(cupy.queue))
            first.append(record.seconds)

        engine.run_steps(run, after_step=after_step)
    assert cupy.counts["syncs"] - before == 1
    assert max(waiting) > 0
    # The clock of the stand-in counts seconds for each operation; that of the process only the calls.
    ran = [record for record in run.records if record.status == "COMPLETE"]
    assert [record.name for record in ran] == list(WITHOUT_WAITS)
    assert all(record.seconds >= 1 and record.seconds.is_integer() for record in ran)
    assert all(each < 60 and not each.is_integer() for each in first)
    times = ", ".join(f"{record.name} {record.seconds:.4f}" for record in ran)
    messages = [record.getMessage() for record in caplog.records]
    assert f"Seconds on the GPU: {times}" in messages
    assert "Step linearity done on cuda" in messages
    assert run.seconds == sum(record.seconds for record in run.records)


def test_steps_in_chunks_and_on_a_cpu_are_timed_at_once(exposures, cupy, caplog):
    made = case(exposures)
    caplog.set_level(logging.INFO)
    for backend in (get_backend("cuda", cupy=cupy, max_memory=50_000), get_backend("numpy")):
        caplog.clear()
        with made.cache.activate():
            run = engine.run_steps(plan_some(made, backend))
        assert all(0 < record.seconds < 60 for record in run.records)
        assert "Step linearity done in" in caplog.text
        assert "Seconds on the GPU" not in caplog.text


@pytest.mark.parametrize(("failing", "told"), [("dq_init", "linearity"), ("gain_scale", "gain_scale")])
def test_late_errors_say_so(exposures, cupy, failing, told):
    """A kernel fails when it runs, after its step has returned."""
    made, backend = case(exposures), get_backend("cuda", cupy=cupy)

    def fail():
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    def after_step(run, record):
        if record.name == failing:
            cupy.cuda.get_current_stream()._add(fail)

    with made.cache.activate(), pytest.raises(InternalError) as caught:
        engine.run_steps(plan_some(made, backend), after_step=after_step)
    text = str(caught.value)
    assert text.startswith(f"{made.path.name}: {told} or a step before it")
    assert "CUDA_LAUNCH_BLOCKING=1" in text
    assert "cudaErrorIllegalAddress" in text


def test_a_late_error_in_a_product(exposures, cupy, tmp_path):
    made, backend = case(exposures), get_backend("cuda", cupy=cupy)

    def fail():
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    def after_step(run, record):
        if record.name == "linearity":
            cupy.cuda.get_current_stream()._add(fail)
            run.backend.to_host(run.exposure.pixeldq)

    with made.cache.activate(), pytest.raises(InternalError, match="uncal.fits: a product or a step before it"):
        gpucoron.reduce_file(made.path, tmp_path, backend=backend, after_step=after_step)


def test_an_error_of_the_device_is_not_one_of_the_file(exposures, cupy, monkeypatch):
    from tests.stand_ins import fake_cupy

    made, backend = case(exposures), get_backend("cuda", cupy=cupy)

    def fail(*arguments):
        raise CUDARuntimeError("cudaErrorLaunchFailure: unspecified launch failure")

    monkeypatch.setattr(fake_cupy, "run_on_host", fail)
    with pytest.raises(InternalError, match="reading or a step before it, because a GPU reports errors late"):
        engine.Exposure.read(made.path, backend)
