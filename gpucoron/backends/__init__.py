"""Backends: where the heavy operations run. Ask ``get_backend`` for one; nothing is imported before that."""

import logging

from gpucoron.errors import BackendUnavailableError

log = logging.getLogger(__name__)

#: what a user may ask for
NAMES = ("auto", "cpu", "numpy", "native", "cuda", "host")


def get_backend(name="auto", **options):
    """Return a backend.

    Parameters
    ----------
    name : {'auto', 'cpu', 'numpy', 'native', 'cuda', 'host'} or Backend
        'numpy' is the definition. 'native' is NumPy with the kernels compiled for this CPU where they are faster; the
        bits are the same. 'cpu' takes 'native' where there is a compiler, else 'numpy', and says so in the log. 'cuda'
        is CuPy with raw kernels. 'auto' takes 'cuda' where it can run, else 'cpu', and says so in the log. 'host' runs
        the CUDA kernels compiled for the CPU: for tests. A Backend is returned as it is.
    **options
        For the backend's class: ``n_threads`` and ``scratch_dir`` (on the CPU), ``device`` ('cuda'), ``max_memory``
        (bytes).

    Returns
    -------
    Backend

    Raises
    ------
    BackendUnavailableError
        The named backend cannot run here; the message says why.
    """
    if not isinstance(name, str):
        return name
    if name == "auto":
        usable, reason = _cuda_status()
        if usable:
            return _cuda(**options)
        log.info("backend 'cpu': %s", reason)
        return _cpu(**options)
    if name == "cpu":
        return _cpu(**options)
    if name == "numpy":
        return _numpy(**options)
    if name == "native":
        usable, reason = _native_status()
        if not usable:
            msg = f"backend 'native' cannot run here: {reason}; use backend='numpy'"
            raise BackendUnavailableError(msg)
        return _native(**options)
    if name == "cuda":
        usable, reason = _cuda_status()
        if not usable:
            msg = f"backend 'cuda' cannot run here: {reason}; use backend='cpu'"
            raise BackendUnavailableError(msg)
        return _cuda(**options)
    if name == "host":
        usable, reason = _host_status()
        if not usable:
            msg = f"backend 'host' cannot run here: {reason}; use backend='cpu'"
            raise BackendUnavailableError(msg)
        from gpucoron.backends.devices.host_device import HostBackend

        options.pop("scratch_dir", None)
        return HostBackend(**options)
    msg = f"there is no backend {name!r}; known: {', '.join(NAMES)}"
    raise BackendUnavailableError(msg)


def fit_to_memory(backend, shape, *, has_zeroframe=False, held=0):
    """Choose how a backend works on an exposure: as it is, or in chunks of rows where its memory is too small.

    Parameters
    ----------
    backend : Backend
    shape : (nints, ngroups, ny, nx)
    has_zeroframe : bool
    held : int
        Bytes that the exposure's arrays take on the device already.

    Returns
    -------
    Backend
        The same, or over it a `gpucoron.backends.spilling.SpillingBackend` (a device) or a
        `gpucoron.backends.host_memory.ScratchBackend` (the CPU).
    """
    limit = backend.memory_limit(held)
    if limit is None:
        return backend
    from gpucoron.backends.memory import exposure_memory

    if exposure_memory(shape, has_zeroframe=has_zeroframe) <= limit:
        return backend
    return backend.spilling(limit)


def backend_status():
    """Tell which backends can run here: name -> (usable, reason)."""
    usable, reason = _native_status()
    return {
        "cpu": (True, f"native: {reason}" if usable else f"numpy: {reason}"),
        "numpy": (True, "NumPy"),
        "native": (usable, reason),
        "cuda": _cuda_status(),
        "host": _host_status(),
    }


def _cpu(**options):
    usable, reason = _native_status()
    if usable:
        return _native(**options)
    log.info("backend 'cpu' is 'numpy': %s", reason)
    return _numpy(**options)


def _native(n_threads=None, device=None, max_memory=None, scratch_dir=None):
    from gpucoron.backends.devices.native_device import NativeBackend

    return NativeBackend(n_threads=n_threads, max_memory=max_memory, scratch_dir=scratch_dir)


def _numpy(n_threads=None, device=None, max_memory=None, scratch_dir=None):
    from gpucoron.backends.devices.numpy_device import NumpyBackend

    return NumpyBackend(n_threads=n_threads, max_memory=max_memory, scratch_dir=scratch_dir)


def _cuda(n_threads=None, device=0, max_memory=None, scratch_dir=None):
    from gpucoron.backends.devices.cuda_device import CudaBackend

    return CudaBackend(device=device, max_memory=max_memory)


def _cuda_status():
    from gpucoron.backends.devices.cuda_device import available

    return available()


def _native_status():
    from gpucoron.backends.devices.build import native_available

    return native_available()


def _host_status():
    from gpucoron.backends.devices.build import host_available

    return host_available()
