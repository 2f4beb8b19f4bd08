"""The launcher of the CUDA backend, with a stand-in for CuPy: checks, casts, geometry, caches, error messages."""

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.devices import cuda_loader
from gpucoron.backends.devices.cuda_device import available
from gpucoron.backends.devices.launch import MAX_BLOCKS_Y, checked_arguments, frames_apart, geometry
from gpucoron.backends.kernel_files import KERNELS, SOURCES
from gpucoron.backends.operations.jump.definition import ONE_PASS
from gpucoron.errors import BackendUnavailableError
from tests.stand_ins.fake_cupy import FakeArray, make_fake_cupy, on_device


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    return make_fake_cupy(monkeypatch, tmp_path)


def ramp_arguments(**changes):
    values = {
        "data": on_device(np.zeros((2, 3, 4, 5), np.float32)),
        "groupdq": on_device(np.zeros((2, 3, 4, 5), np.uint8)),
        "coeffs": on_device(np.zeros((5, 4, 5), np.float32)),
        "n_coeffs": 5,
        "n_frames": 6,
        "n_pixels": 20,
    }
    return values | changes


def check(values):
    return checked_arguments(
        KERNELS["correct_polynomial"], values, lambda a: isinstance(a, FakeArray) and a.device.id == 0
    )


def test_scalars_are_cast_as_declared():
    data, groupdq, coeffs, n_coeffs, n_frames, n_pixels = check(ramp_arguments(n_pixels=np.int32(20)))
    # Python's integers would be passed as 64 bits, and the next argument read at the wrong position.
    assert [type(value) for value in (n_coeffs, n_frames, n_pixels)] == [np.int32, np.int64, np.int64]
    assert data.dtype == np.float32
    kernel = KERNELS["clip_jumps"]
    declared = {argument.name: argument.dtype for argument in kernel.arguments if not argument.is_array}
    assert declared["threshold"] == np.float64


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": on_device(np.zeros((2, 3, 4, 5)))}, TypeError, "float64.*float32 is needed"),
        ({"groupdq": on_device(np.zeros((2, 3, 4, 5), bool))}, TypeError, "groupdq: dtype bool"),
        ({"data": on_device(np.zeros((2, 3, 4, 10), np.float32)[..., ::2])}, ValueError, "not C-contiguous"),
        ({"data": on_device(np.zeros((2, 5, 4, 5), np.float32)[:, 1:-1])}, ValueError, "not C-contiguous"),
        ({"data": np.zeros((2, 3, 4, 5), np.float32)}, TypeError, "not on the kernel's device"),
        ({"data": on_device(np.zeros((2, 3, 4, 5), np.float32), 1)}, TypeError, "not on the kernel's device"),
        ({"data": None}, TypeError, "an array is needed"),
        ({"n_coeffs": 2**31}, ValueError, "does not fit int32"),
        ({"n_coeffs": 2.5}, ValueError, "whole number"),
        ({"nframes": 1}, TypeError, "unknown.*nframes"),
    ],
)
def test_wrong_arguments_are_refused(changes, error, words):
    with pytest.raises(error, match=words):
        check(ramp_arguments(**changes))


def test_missing_argument_is_refused():
    values = ramp_arguments()
    del values["n_pixels"]
    with pytest.raises(TypeError, match=r"missing \['n_pixels'\]"):
        check(values)


def test_unknown_instantiation_is_refused():
    with pytest.raises(ValueError, match="no variant"):
        KERNELS["correct_polynomial"].expression((99,))
    assert KERNELS["mark_dilution"].expression((True, False)) == "gpucoron::mark_dilution<true, false>"


@pytest.mark.parametrize(("n_threads", "n_rows"), [(1, 1), (128, 1), (129, 7), (102400, 65536), (10**9, 3)])
def test_geometry_covers_everything_once(n_threads, n_rows):
    (x, y, z), block = geometry(n_threads, 128, n_rows)
    assert block == (128, 1, 1)
    assert (x - 1) * 128 < n_threads <= x * 128
    assert y == min(n_rows, MAX_BLOCKS_Y)
    assert z == 1


def test_geometry_beyond_cuda_is_refused():
    with pytest.raises(ValueError, match="beyond"):
        geometry(2**40, 128)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (np.s_[:, :], 8),
        (np.s_[:, 1:-1], 8),
        (np.s_[1:, 2:], 8),
        (np.s_[::2], 16),
        (np.s_[:, ::2], None),
        (np.s_[:, :, 1:], None),
        (np.s_[:, :, :, :3], None),
        (np.s_[::-1], None),
        (np.s_[0], None),
    ],
)
def test_frames_apart(cut, expected):
    ramp = np.zeros((3, 8, 4, 5), np.float32)
    assert frames_apart(ramp[cut]) == expected


def test_backend_launches_through_the_table(cupy):
    backend = get_backend("cuda", device=1, cupy=cupy)
    values = {
        name: on_device(value, 1) if isinstance(value, FakeArray) else value for name, value in ramp_arguments().items()
    }
    backend.linearity(values["data"], values["groupdq"], values["coeffs"])
    (launch,) = cupy.launches
    assert launch.name == "correct_polynomial(5,)"
    assert (launch.grid, launch.block) == ((1, 1, 1), (128, 1, 1))
    assert [type(value) for value in launch.arguments[3:]] == [np.int32, np.int64, np.int64]
    assert cupy.loaded == [(1, b"\x7fELF\ncode\n")]


def test_null_arrays_travel_as_eight_zero_bytes(cupy):
    backend = get_backend("cuda", cupy=cupy)
    shape = (1, 5, 4, 5)
    backend.flag_saturation(
        on_device(np.zeros(shape, np.float32)),
        on_device(np.zeros(shape, np.uint8)),
        on_device(np.zeros(shape[2:], np.float32)),
        on_device(np.zeros(shape[2:], bool)),
        nframes=1,
    )
    second = cupy.launches[-1]
    assert second.name == "mark_dilution(False, True)"
    assert second.arguments[4] == 0
    assert second.arguments[4].dtype == np.uint64


def test_kernels_are_compiled_once_per_device_and_machine(cupy):
    values = [on_device(np.zeros((1, 2, 4, 5), dtype)) for dtype in (np.float32, np.uint8)]
    coeffs = on_device(np.zeros((4, 4, 5), np.float32))
    backend = get_backend("cuda", cupy=cupy)
    for _ in range(3):
        backend.linearity(*values, coeffs)
    assert cupy.compiled == [("linearity.cu", "sm_90")]
    # Another process finds the compiled code in the cache folder.
    get_backend("cuda", cupy=cupy).linearity(*values, coeffs)
    assert cupy.compiled == [("linearity.cu", "sm_90")]
    assert len(cupy.loaded) == 2
    assert cupy.loaded[0] == cupy.loaded[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"half a fi",
        lambda content: b"",
        lambda content: content[:-3],
        lambda content: content[:-4] + b"\0" + content[-3:],
        lambda content: content.replace(b"correct", b"corrupt", 1),
    ],
)
def test_a_damaged_cache_file_is_made_again(cupy, tmp_path, damage):
    values = [on_device(np.zeros((1, 2, 4, 5), dtype)) for dtype in (np.float32, np.uint8)]
    coeffs = on_device(np.zeros((4, 4, 5), np.float32))
    get_backend("cuda", cupy=cupy).linearity(*values, coeffs)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    get_backend("cuda", cupy=cupy).linearity(*values, coeffs)
    assert len(cupy.compiled) == 2
    assert file.read_bytes() == whole


def test_a_cache_folder_that_cannot_be_written_is_no_error(cupy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cuda_loader, "cache_folder", lambda: tmp_path / "file" / "cache")
    values = [on_device(np.zeros((1, 2, 4, 5), dtype)) for dtype in (np.float32, np.uint8)]
    get_backend("cuda", cupy=cupy).linearity(*values, on_device(np.zeros((4, 4, 5), np.float32)))
    assert len(cupy.launches) == 1


def test_lanes_fill_a_large_device(cupy):
    device = get_backend("cuda", cupy=cupy).device
    search = "search_jumps", (ONE_PASS, 1)
    assert device.choose_lanes(224 * 288, 60 * 8, *search) == 4
    assert device.choose_lanes(2048 * 2048, 10, *search) == 1
    # One task is not shared among threads.
    assert device.choose_lanes(320 * 320, 1, *search) == 1
    # 132 multiprocessors hold 512 threads of the search each, limited by its registers, or 2048 of a small kernel.
    assert device.choose_lanes(500_000, 9, *search) == 1
    assert device.choose_lanes(500_000, 9) == 4


def test_to_device_takes_fits_byte_order(cupy):
    backend = get_backend("cuda", cupy=cupy)
    array = backend.to_device(np.arange(6, dtype=">f4").reshape(2, 3)[:, ::2])
    assert array.dtype == np.dtype("=f4")
    assert array.flags.c_contiguous
    assert array.tolist() == [[0, 2], [3, 5]]


def failing(error):
    def call(*arguments):
        raise error

    return call


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (
            {"runtime": SimpleNamespace(getDeviceCount=failing(RuntimeError("insufficient driver")))},
            "insufficient driver",
        ),
        ({"runtime": SimpleNamespace(getDeviceCount=failing(OSError("libcuda.so.1")))}, "libcuda"),
        ({"runtime": SimpleNamespace(getDeviceCount=lambda: 0)}, "no CUDA device 0"),
        ({"nvrtc": SimpleNamespace(getVersion=failing(ImportError("libnvrtc.so.13")))}, "libnvrtc"),
    ],
)
def test_a_broken_driver_is_a_reason(cupy, broken, words):
    vars(cupy.cuda).update(broken)
    usable, reason = available(0, cupy)
    assert not usable
    assert words in reason
    with pytest.raises(BackendUnavailableError, match=words):
        get_backend("cuda", cupy=cupy)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "not installed"),
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart"),
        ("raise RuntimeError('numpy too old')", "numpy too old"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
    ],
)
def test_without_a_working_cupy_the_cpu_backend_works(tmp_path, module, words):
    """In a new process: CuPy is missing, or its import fails in different ways."""
    if module is not None:
        (tmp_path / "cupy.py").write_text(module)
    code = f"""
        import sys
        if {module is None}:
            sys.modules["cupy"] = None
        sys.path.insert(0, {str(tmp_path)!r})
        import gpucoron
        from gpucoron.backends import backend_status, get_backend
        assert get_backend("auto").name == get_backend("cpu").name
        usable, reason = backend_status()["cuda"]
        assert not usable
        print(reason)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert words in result.stdout


def test_all_sources_are_asked_for():
    assert set(SOURCES) == {kernel.source for kernel in KERNELS.values()}
