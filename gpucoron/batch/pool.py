"""How many workers a batch has, and what each of them may use."""

import os

from gpucoron.errors import BackendUnavailableError

#: reading and writing of one exposure hide behind the computing of another
WORKERS_PER_GPU = 2
#: the part of a GPU's memory that its workers share
_USABLE = 0.85
#: an exposure of some twenty integrations takes so much more than its file
_MEMORY_PER_FILE_BYTE = 6


def worker_options(pool, memory):
    """Decide on the workers.

    Parameters
    ----------
    pool : dict
        ``backend``, ``workers``, ``devices``; ``max_memory``, bytes for each worker, and ``scratch_dir``, or None.
    memory : int
        Bytes that one worker takes, if it is not limited.

    Returns
    -------
    list of dict
        One per worker: the options of its backend.

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
    there, limit = free_memory(), pool["max_memory"]
    n_workers = pool["workers"] or max(1, min(cores, int(there // max(1, min(memory, limit or memory)))))
    if limit is None and n_workers * memory > there:
        # More than fits: none may believe that all of the memory is its own.
        limit = int(there / n_workers)
    return [
        {"n_threads": max(1, cores // n_workers), **shared_options({**pool, "max_memory": limit})}
        for _ in range(n_workers)
    ]


def shared_options(pool):
    """List what every worker's backend is told, wherever it runs."""
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
    """Guess, from the files' sizes alone, what a worker will take for the largest of them, bytes."""
    from gpucoron.batch.plan import PROCESS_BYTES

    sizes = [os.path.getsize(path) for path in files if os.path.exists(path)]
    return PROCESS_BYTES + _MEMORY_PER_FILE_BYTE * max(sizes, default=0)
