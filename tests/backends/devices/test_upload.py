"""Raw counts are copied from the file to the backend unchanged: the same bits as astropy reads, on every backend.

Large arrays are copied to and from a device in chunks of bounded size, through two buffers of pinned memory.
"""

import gzip
import os
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.devices import cuda_device, kernel_device
from gpucoron.backends.devices.cuda_device import LARGE, CudaDevice
from gpucoron.files import read_at
from tests.cases.paths import ROOT

SHAPE = (3, 4, 5, 37)


def as_in_file(counts, offset):
    """Return the big-endian words of counts, as in a FITS or plain file."""
    return ((counts.astype(np.int32) - 32768).astype(">i2") if offset else counts.astype(">u2")).tobytes()


def reader(content):
    """Make a ``read`` function for `load_counts`, and a list of the slices that it was asked for."""
    words_of_file, asked = np.frombuffer(content, np.uint16), []

    def read(words, first):
        assert words.dtype == np.uint16
        assert words.ndim == 1
        words[...] = words_of_file[first : first + words.size]
        asked.append((first, words.size))

    return read, asked


def load(backend, counts, offset):
    read, asked = reader(as_in_file(counts, offset))
    loaded = backend.load_counts(counts.shape, read, offset=offset)
    # Each word is read exactly once.
    ends = [0, *(first + size for first, size in sorted(asked))]
    assert [first for first, _ in sorted(asked)] == ends[:-1]
    assert ends[-1] == counts.size
    return loaded


@pytest.mark.parametrize("offset", [True, False])
def test_every_count_on_every_backend(backend, offset):
    counts = np.arange(65536, dtype=np.uint16).reshape(2, 4, 64, 128)
    loaded = backend.to_host(load(backend, counts, offset))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, counts)


def test_many_pieces(backend, monkeypatch):
    """More counts than one chunk, and a remainder."""
    monkeypatch.setattr("gpucoron.backends.devices.device.WORDS_AT_ONCE", 100)
    if backend.name != "numpy":
        monkeypatch.setattr(backend.device, "words_at_once", 100)
    counts = np.random.default_rng(1).integers(0, 65536, SHAPE).astype(np.uint16)
    np.testing.assert_array_equal(backend.to_host(load(backend, counts, True)), counts)


@pytest.mark.parametrize("words_at_once", [100, 1111, 2220, 10**6])
def test_two_pinned_buffers_take_turns(late_cupy, monkeypatch, words_at_once):
    monkeypatch.setattr(CudaDevice, "words_at_once", words_at_once)
    backend = CudaDevice(cupy=late_cupy)
    counts = np.random.default_rng(2).integers(0, 65536, SHAPE).astype(np.uint16)
    loaded = load(backend, counts, True)
    assert not late_cupy.queue
    np.testing.assert_array_equal(backend.to_host(loaded), counts)
    # The buffers have the maximum size at once, because they are reused.
    assert late_cupy.pinned == 2 * [2 * words_at_once]


@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_threads_share_the_reading_of_a_piece(backend, monkeypatch, n_threads):
    monkeypatch.setattr(kernel_device, "LEAST_WORDS", 64)
    monkeypatch.setattr("gpucoron.backends.devices.device.WORDS_AT_ONCE", 100)
    if backend.name != "numpy":
        monkeypatch.setattr(backend.device, "words_at_once", 1111)
        monkeypatch.setattr(backend.device, "reading_threads", n_threads, raising=False)
    counts = np.random.default_rng(4).integers(0, 65536, SHAPE).astype(np.uint16)
    np.testing.assert_array_equal(backend.to_host(load(backend, counts, True)), counts)


def test_pieces_and_slices_on_a_device(late_cupy, monkeypatch):
    monkeypatch.setattr(kernel_device, "LEAST_WORDS", 64)
    monkeypatch.setattr(CudaDevice, "words_at_once", 640)
    backend = CudaDevice(cupy=late_cupy)
    backend.reading_threads = 3
    counts = np.random.default_rng(4).integers(0, 65536, (1500,)).astype(np.uint16)
    read, asked = reader(as_in_file(counts, True))
    np.testing.assert_array_equal(backend.to_host(backend.load_counts(counts.shape, read)), counts)
    expected = [(0, 256), (256, 256), (512, 128), (640, 256), (896, 256), (1152, 128), (1280, 128), (1408, 92)]
    assert sorted(asked) == expected


def test_the_next_piece_is_read_while_one_is_sent(late_cupy, monkeypatch):
    """A piece is sent only when a thread has already begun to read the next one."""
    monkeypatch.setattr(CudaDevice, "words_at_once", 500)
    n_pieces = -(-np.prod(SHAPE) // 500)
    read, _ = reader(as_in_file(np.zeros(SHAPE, np.uint16), True))
    begun, sent = [threading.Event() for _ in range(n_pieces + 1)], []
    begun[n_pieces].set()  # after the last piece

    def observed(words, first):
        begun[first // 500].set()
        read(words, first)

    def convert(self, raw, counts, *, offset):
        assert begun[len(sent) + 1].wait(60)
        sent.append(raw.size)

    monkeypatch.setattr(CudaDevice, "convert_counts", convert)
    CudaDevice(cupy=late_cupy).load_counts(SHAPE, observed)
    assert sum(sent) == np.prod(SHAPE)


def test_a_failing_read_ends_the_others(backend, monkeypatch):
    """No thread writes into a buffer afterwards."""
    monkeypatch.setattr("gpucoron.backends.devices.device.WORDS_AT_ONCE", 100)
    if backend.name != "numpy":
        monkeypatch.setattr(backend.device, "words_at_once", 100)
    running, slow = [], threading.Event()

    def read(words, first):
        running.append(first)
        if first == 500:
            slow.set()
            raise OSError("gone")
        if first == 600:
            assert slow.wait(60)
        words[...] = 0
        running.remove(first)

    with pytest.raises(OSError, match="gone"):
        backend.load_counts(SHAPE, read)
    assert running == [500]


def test_a_failing_read_leaves_nothing_under_way(late_cupy, monkeypatch):
    monkeypatch.setattr(CudaDevice, "words_at_once", 500)

    def read(words, first):
        if first == 1000:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        CudaDevice(cupy=late_cupy).load_counts(SHAPE, read)
    assert not late_cupy.queue


# ------------------------------------------------------------------------------------------------------- large arrays


def large_arrays():
    """Return arrays of at least `LARGE` bytes, of all types that are copied."""
    rng = np.random.default_rng(3)
    floats = rng.normal(size=(5, 100, 701)).astype(np.float32)
    yield "floats", floats
    yield "flags", rng.integers(0, 256, (3, 700, 701), dtype=np.uint8)
    yield "mask", rng.integers(0, 2, (3, 700, 701)).astype(bool)
    yield "big-endian", floats.astype(">f8")
    yield "every second column", rng.normal(size=(5, 100, 1402)).astype(np.float32)[..., ::2]
    yield "turned", floats.swapaxes(0, 2)
    yield "just large", np.arange(LARGE // 8, dtype=np.int64)


@pytest.mark.parametrize("array", [pytest.param(array, id=kind) for kind, array in large_arrays()])
@pytest.mark.parametrize("words_at_once", [999, 2**17, 2**22])
def test_large_arrays_travel_in_pieces(late_cupy, monkeypatch, array, words_at_once):
    monkeypatch.setattr(CudaDevice, "words_at_once", words_at_once)
    backend = get_backend("cuda", device=1, cupy=late_cupy)
    there = backend.to_device(array)
    assert (there.device.id, there.dtype) == (1, array.dtype.newbyteorder("="))
    back = backend.to_host(there)
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(backend.to_host(there[..., ::3]), array[..., ::3])
    assert late_cupy.pinned == 2 * [2 * words_at_once]
    assert max(late_cupy.whole_copies, default=0) < LARGE
    assert late_cupy.counts["bytes up"] == array.nbytes


def test_the_source_may_change_after_the_copy_up(late_cupy):
    backend = CudaDevice(cupy=late_cupy)
    array = np.ones(LARGE, np.float32)
    there = backend.to_device(array)
    assert late_cupy.queue
    array[:] = 2
    assert (backend.to_host(there) == 1).all()


def test_every_kind_of_array_there_and_back(backend, monkeypatch):
    """On every backend, also a real device: in many chunks, whole, and of parts."""
    if isinstance(backend, CudaDevice):
        backend.release_memory()
        monkeypatch.setattr(backend, "words_at_once", 2**17)
    for kind, array in large_arrays():
        there = backend.to_device(array.copy())
        np.testing.assert_array_equal(backend.to_host(there), array, err_msg=kind)
        np.testing.assert_array_equal(backend.to_host(there[..., ::3]), array[..., ::3], err_msg=kind)
        if array.ndim == 3:
            dtype = array.dtype.newbyteorder("=")
            loaded = backend.load_parts(array.shape, dtype, iter(array))
            assert isinstance(loaded, backend.xp.ndarray)
            assert loaded.dtype == dtype
            np.testing.assert_array_equal(backend.to_host(loaded), array, err_msg=kind)


def test_parts_are_cast_and_must_fit(backend):
    check_parts(backend)


def test_parts_are_cast_and_must_fit_on_the_way_to_a_device(late_cupy):
    check_parts(CudaDevice(cupy=late_cupy))


def check_parts(backend):
    parts = [np.arange(6, dtype=">i2").reshape(2, 3), np.ones((2, 3), bool)]
    loaded = backend.to_host(backend.load_parts((2, 2, 3), np.float32, parts))
    np.testing.assert_array_equal(loaded, [[[0, 1, 2], [3, 4, 5]], [[1, 1, 1], [1, 1, 1]]])
    for wrong in ([parts[0].T, parts[0]], parts[:1], [*parts, parts[0]]):
        with pytest.raises(ValueError, match="broadcast|zip"):
            backend.load_parts((2, 2, 3), np.float32, wrong)


def test_gaps_need_no_copy_of_the_whole(late_cupy):
    """An array with gaps is copied item by item if the items are large."""
    backend = CudaDevice(cupy=late_cupy)
    array = np.zeros((8, LARGE, 2), np.uint8)[..., 0]
    backend.to_host(backend.to_device(np.ones(LARGE, np.uint8)))
    tracemalloc.start()
    there = backend.to_device(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert there.nbytes == 8 * LARGE
    # Besides the copied array, memory is needed only for the copy of one item.
    assert peak < 9.5 * LARGE


def test_threads_have_buffers_of_their_own(late_cupy, monkeypatch):
    monkeypatch.setattr(CudaDevice, "words_at_once", 2**17)
    backend = CudaDevice(cupy=late_cupy)
    counts = np.random.default_rng(2).integers(0, 65536, SHAPE).astype(np.uint16)

    def travel(number):
        for _ in range(10):
            there = backend.to_device(np.full((3, LARGE), number, np.uint8))
            assert (backend.to_host(there) == number).all()
            np.testing.assert_array_equal(backend.to_host(load(backend, counts, True)), counts)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(travel, range(4)))
    # They are used again.
    assert 2 <= len(late_cupy.pinned) <= 8


def test_a_transfer_does_not_wait_for_a_file(late_cupy):
    """While one thread waits for the disk, another one copies arrays."""
    backend, reading, copied = CudaDevice(cupy=late_cupy), threading.Event(), threading.Event()

    def read(words, first):
        reading.set()
        assert copied.wait(60)
        words[...] = 0

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(backend.load_counts, SHAPE, read)
        assert reading.wait(60)
        there = backend.to_device(np.ones(LARGE, np.uint8))
        assert backend.to_host(there).all()
        copied.set()
        assert (backend.to_host(loading.result()) == 32768).all()


def test_a_backend_may_go_while_its_copies_are_under_way(late_cupy):
    there = CudaDevice(cupy=late_cupy).to_device(np.ones(LARGE, np.uint8))
    assert not late_cupy.queue
    assert (CudaDevice(cupy=late_cupy).to_host(there) == 1).all()


def test_buffers_may_outlive_the_modules():
    """Nothing is printed when the interpreter ends, although the buffers of a backend still exist."""
    code = """
        from gpucoron.backends.devices import cuda_device
        from tests.stand_ins.fake_cupy import FakeCupy
        cuda_device.kept = cuda_device._PinnedBuffer(FakeCupy(judge=None), 100)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert not done.stderr


def test_small_arrays_travel_whole(late_cupy):
    backend = CudaDevice(cupy=late_cupy)
    array = np.arange(LARGE - 1, dtype=np.uint8)
    np.testing.assert_array_equal(backend.to_host(backend.to_device(array)), array)
    assert late_cupy.whole_copies == 2 * [LARGE - 1]
    assert not late_cupy.pinned


def test_memory_is_given_back_when_nothing_is_under_way(late_cupy):
    backend = CudaDevice(cupy=late_cupy)
    there = backend.to_device(np.ones(LARGE, np.uint8))
    assert late_cupy.queue
    backend.release_memory()
    assert not late_cupy.queue
    assert (late_cupy.releases, late_cupy.pinned_releases) == (1, 1)
    assert not late_cupy.live_pinned_bytes()
    # The next large array uses new buffers.
    assert (backend.to_host(there) == 1).all()
    assert len(late_cupy.pinned) == 4


# ---------------------------------------------------------------------------------------------------------- from files


@pytest.fixture
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 4, 2, shape=(24, 32))


def as_astropy_reads(path):
    from astropy.io import fits

    with fits.open(path) as hdus:
        return {name: hdus[name].data.astype(np.float32) for name in ("SCI", "ZEROFRAME") if name in hdus}


def assert_read(path, backend):
    from gpucoron.io.exposure import Exposure

    exposure = Exposure.read(path, backend)
    expected = as_astropy_reads(path)
    np.testing.assert_array_equal(backend.to_host(exposure.data), expected["SCI"])
    assert exposure.data.dtype == np.float32
    assert not backend.to_host(exposure.groupdq).any()
    assert exposure.groupdq.dtype == np.uint8
    assert exposure.pixeldq.dtype == np.uint32
    if exposure.zeroframe is not None:
        np.testing.assert_array_equal(backend.to_host(exposure.zeroframe), expected["ZEROFRAME"])
    return exposure


def test_a_file_is_read_as_astropy_reads_it(case, backend, monkeypatch):
    monkeypatch.setattr("gpucoron.io.exposure._read_planes", None)
    exposure = assert_read(case.path, backend)
    assert exposure.zeroframe is not None
    assert isinstance(exposure.groupdq, backend.xp.ndarray)


def test_a_file_goes_to_a_device(case, late_cupy):
    backend = get_backend("cuda", device=1, cupy=late_cupy)
    exposure = assert_read(case.path, backend)
    for array in (exposure.data, exposure.groupdq, exposure.pixeldq, exposure.zeroframe):
        assert array.device.id == 1


def other_files(case, folder):
    """Write the exposure in other forms, each of which must be read with astropy."""
    from astropy.io import fits

    zipped = folder / "x_uncal.fits.gz"
    zipped.write_bytes(gzip.compress(case.path.read_bytes(), 1))
    yield zipped
    for name, edit in (
        ("floats", lambda data: data.astype(np.float32)),
        ("signed", lambda data: (data // 2).astype(np.int16)),
        ("long", lambda data: data.astype(np.int32)),
    ):
        path = folder / f"{name}_uncal.fits"
        with fits.open(case.path) as hdus:
            hdus["SCI"].data = edit(hdus["SCI"].data)
            hdus.writeto(path)
        yield path
    path = folder / "tiled_uncal.fits"
    with fits.open(case.path) as hdus:
        place = hdus.index_of("SCI")
        sci = fits.CompImageHDU(hdus[place].data, hdus[place].header, name="SCI", tile_shape=(1, 1, 24, 32))
        fits.HDUList([*hdus[:place], sci, *hdus[place + 1 :]]).writeto(path)
    yield path


def open_model(path):
    from stdatamodels.jwst.datamodels import RampModel

    return RampModel(path)


def flag_nothing(groupdq, pixeldq):
    """Make a ramp file without flags."""


def test_nothing_large_passes_cupys_own_staging(case, exposures, late_cupy, tmp_path, monkeypatch):
    """Ramps of floats, compressed files and models: up in chunks, and down again."""
    from gpucoron.io.exposure import Exposure

    ramp = exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 4, 2, shape=(24, 32), mark=flag_nothing)
    assert ramp.path.name.endswith("_ramp.fits")

    monkeypatch.setattr(cuda_device, "LARGE", 1000)
    monkeypatch.setattr(CudaDevice, "words_at_once", 700)
    backend = get_backend("cuda", cupy=late_cupy)
    for path in (case.path, ramp.path, *other_files(case, tmp_path)):
        assert_read(path, backend)
    with open_model(case.path) as model:
        exposure = Exposure.from_model(model).move_to(backend)
    expected = as_astropy_reads(case.path)
    np.testing.assert_array_equal(backend.to_host(exposure.data), expected["SCI"])
    np.testing.assert_array_equal(backend.to_host(exposure.zeroframe), expected["ZEROFRAME"])
    assert late_cupy.pinned == 2 * [1400]
    assert max(late_cupy.whole_copies, default=0) < 1000
    ramps = 8 * exposure.data.nbytes
    assert late_cupy.counts["bytes down"] > ramps
    assert late_cupy.counts["bytes up"] > ramps / 2


def test_files_of_another_kind_take_the_other_way(case, tmp_path, monkeypatch):
    from gpucoron.backends import get_backend

    backend = get_backend("cpu")
    asked = []
    monkeypatch.setattr(backend, "load_counts", lambda shape, read, **options: asked.append(shape))
    for path in other_files(case, tmp_path):
        from gpucoron.io.exposure import Exposure

        exposure = Exposure.read(path, backend)
        np.testing.assert_array_equal(exposure.data, as_astropy_reads(path)["SCI"], err_msg=path.name)
    # the ZEROFRAMEs of all except the compressed file
    assert asked == 4 * [(2, 24, 32)]


def test_a_file_that_shrinks_while_it_is_read(case, tmp_path, monkeypatch):
    from gpucoron.errors import InputError
    from gpucoron.io import exposure
    from gpucoron.io.fits_layout import read_layout

    copy = tmp_path / case.path.name
    copy.write_bytes(case.path.read_bytes())
    layout = read_layout(copy)

    def shrink(*arguments, **options):
        os.truncate(copy, layout.find("SCI").start + 1001)
        return layout

    opened = exposure._opened

    @contextmanager
    def opened_before(path, layout):
        with opened(case.path, layout) as found:
            yield found

    monkeypatch.setattr(exposure, "read_layout", shrink)
    monkeypatch.setattr(exposure, "_opened", opened_before)
    for backend in (get_backend("numpy"), get_backend("host", n_threads=2)):
        with pytest.raises(InputError, match=r"truncated within SCI; download it again"):
            exposure.Exposure.read(copy, backend)


@pytest.mark.parametrize("most", [1, 700, 10**6])
def test_bytes_at_a_place(tmp_path, monkeypatch, most):
    """The system may return fewer bytes than it was asked for."""
    content = np.random.default_rng(6).bytes(3000)
    (tmp_path / "x").write_bytes(content)
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda number, views, at: preadv(number, [views[0][:most]], at))
    with (tmp_path / "x").open("rb") as file:
        into = np.zeros(1000, np.uint16)
        assert read_at(file, into, 100) == 2000
        assert into.tobytes() == content[100:2100]
        assert read_at(file, into, 2500) == 500
        assert read_at(file, into, 3000) == 0
