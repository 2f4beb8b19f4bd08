"""Choose the number of workers of a batch, and the threads and memory of each."""

import os

from gpucoron.errors import BackendUnavailableError

#: One exposure is computed while another is read or written. These are processes, not threads with a stream each:
#: headers, products and previews take about 0.3 s of Python per exposure, which one process does one after the other.
WORKERS_PER_GPU = 2
#: fraction of the GPU memory that its workers share
_USABLE = 0.85
#: memory of an exposure of about twenty integrations, relative to the size of its file
_MEMORY_PER_FILE_BYTE = 6


def worker_options(pool, memory):
    """Return the options of each worker.

    Parameters
    ----------
    pool : dict
        ``backend``, ``workers``, ``devices``; ``max_memory``, bytes for each worker, and ``scratch_dir``, or None.
    memory : int
        Bytes that one worker needs without a limit.

    Returns
    -------
    list of dict
        The backend options of each worker.

    Raises
    ------
    BackendUnavailableError
        The backend, or one of the devices, cannot be used.
    """
    from gpucoron.backends import backend_status
    from gpucoron.backends.process_memory import free_memory
    from gpucoron.backends.tiles import available_cores

    backend = pool["backend"]
    usable, reason = backend_status().get("cpu" if backend == "auto" else backend, (True, ""))
    if not usable:
        msg = f"backend {backend!r} cannot run here: {reason}; use --backend cpu"
        raise BackendUnavailableError(msg)
    if backend == "cuda" or (backend == "auto" and backend_status()["cuda"][0]):
        return _on_gpus(pool)
    cores = available_cores()
    free, limit = free_memory(), pool["max_memory"]
    n_workers = pool["workers"] or max(1, min(cores, int(free // max(1, min(memory, limit or memory)))))
    if limit is None and n_workers * memory > free:
        # The memory is too small for all workers together: limit each to its share.
        limit = int(free / n_workers)
    return [
        {"n_threads": max(1, cores // n_workers), **shared_options({**pool, "max_memory": limit})}
        for _ in range(n_workers)
    ]


def shared_options(pool):
    """Return the backend options that are the same for every worker on every engine."""
    return {name: pool[name] for name in ("max_memory", "scratch_dir") if pool[name] is not None}


def _on_gpus(pool):
    from gpucoron.backends.devices.cuda_device import available, device_memory

    devices = pool["devices"]
    if devices is None:
        devices = []
        while available(len(devices))[0]:
            devices.append(len(devices))
    for device in devices:
        usable, reason = available(device)
        if not usable:
            msg = f"device {device}: {reason}"
            raise BackendUnavailableError(msg)
    n_workers = pool["workers"] or WORKERS_PER_GPU * len(devices)
    chosen = [devices[number % len(devices)] for number in range(n_workers)]

    def share(device):
        return pool["max_memory"] or int(_USABLE * device_memory(device) / chosen.count(device))

    return [{"device": device, "max_memory": share(device)} for device in chosen]


def guess_memory(files):
    """Estimate the memory for the largest file from the file sizes, bytes."""
    from gpucoron.batch.plan import PROCESS_BYTES

    sizes = [os.path.getsize(path) for path in files if os.path.exists(path)]
    return PROCESS_BYTES + _MEMORY_PER_FILE_BYTE * max(sizes, default=0)
