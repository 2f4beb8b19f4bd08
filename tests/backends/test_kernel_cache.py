"""The list of native libraries that are compiled in advance has all that operations load."""

from gpucoron.backends import kernel_cache
from gpucoron.backends.devices import build, cuda_loader, native_device
from gpucoron.backends.operations import OPERATIONS
from gpucoron.engine import reduce_file
from tests.cases.backends import usable_backend


def test_every_library_that_is_loaded_is_declared(exposures, tmp_path, monkeypatch, request):
    usable_backend("native", request.config)
    loaded, load = set(), build.library

    def record(source, by_pixel):
        loaded.add((source, by_pixel))
        return load(source, by_pixel)

    monkeypatch.setattr(native_device, "library", record)
    cases = [
        exposures("NIRCAM", "SUB320A335R", "DEEP8", 10, 61, shape=(24, 32)),
        exposures("NIRCAM", "SUB320A335R", "RAPID", 70, 9, shape=(24, 32)),
    ]
    for number, case in enumerate(cases):
        with case.cache.activate():
            reduce_file(case.path, tmp_path / str(number), backend="native", use_pars=False)
    assert loaded <= set(kernel_cache.libraries())
    # all but that of emicorr, which is a step of MIRI
    strips = {f"cpu/{name}_strips.cpp" for name in ("jump", "linearity", "ramp")}
    heavy = {"ipc.cu", *strips}
    assert {source for source, _ in loaded} >= heavy
    assert all(operation.libraries for operation in OPERATIONS if operation.native is not None)


def test_damaged_code_for_a_gpu_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUCORON_CACHE", str(tmp_path))
    path = tmp_path / f"jump-sm_90-{'a' * 20}.bin"
    path.write_bytes(cuda_loader._pack(b"code", {"a": "b"}))
    (kernel,) = kernel_cache.list_kernels()
    assert (kernel.backend, kernel.source) == ("cuda", "jump.cu")
    assert kernel_cache.find_damage(kernel) == ""
    path.write_bytes(path.read_bytes() + b"!")
    assert "digest" in kernel_cache.find_damage(kernel)
