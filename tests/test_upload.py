"""Raw counts of a file go to the backend as they stand there: the same bits as astropy's reading, on every backend."""

import gzip
import io

import numpy as np
import pytest

from gpucoron.backends.cuda_backend import CudaBackend

SHAPE = (3, 4, 5, 37)


def as_in_file(counts, offset):
    """Give the big-endian words of counts, as FITS or a plain file would hold them."""
    return ((counts.astype(np.int32) - 32768).astype(">i2") if offset else counts.astype(">u2")).tobytes()


def reader(content):
    """Make a ``read`` for `load_counts`, which must be asked for every word once."""
    stream = io.BytesIO(content)

    def read(words):
        assert words.dtype == np.uint16
        assert words.ndim == 1
        assert stream.readinto(words.view(np.uint8)) == words.nbytes

    return read, stream


def load(backend, counts, offset):
    content = as_in_file(counts, offset)
    read, stream = reader(content)
    loaded = backend.load_counts(counts.shape, read, offset=offset)
    assert stream.tell() == len(content)
    return loaded


@pytest.mark.parametrize("offset", [True, False])
def test_every_count_on_every_backend(backend, offset):
    counts = np.arange(65536, dtype=np.uint16).reshape(2, 4, 64, 128)
    loaded = backend.to_host(load(backend, counts, offset))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, counts)


def test_many_pieces(backend, monkeypatch):
    """More counts than pass at once, and a rest."""
    monkeypatch.setattr("gpucoron.backends.base.WORDS_AT_ONCE", 100)
    if backend.name != "numpy":
        monkeypatch.setattr(backend, "words_at_once", 100)
    counts = np.random.default_rng(1).integers(0, 65536, SHAPE).astype(np.uint16)
    np.testing.assert_array_equal(backend.to_host(load(backend, counts, True)), counts)


@pytest.mark.parametrize("words_at_once", [100, 1111, 2220, 10**6])
def test_two_pinned_buffers_take_turns(late_cupy, monkeypatch, words_at_once):
    monkeypatch.setattr(CudaBackend, "words_at_once", words_at_once)
    backend = CudaBackend(cupy=late_cupy)
    counts = np.random.default_rng(2).integers(0, 65536, SHAPE).astype(np.uint16)
    loaded = load(backend, counts, True)
    assert not late_cupy.queue
    np.testing.assert_array_equal(backend.to_host(loaded), counts)
    assert late_cupy.pinned == 2 * [2 * min(words_at_once, counts.size)]


def test_the_next_piece_is_read_before_the_last_one_is_converted(late_cupy, monkeypatch):
    monkeypatch.setattr(CudaBackend, "words_at_once", 500)
    counts = np.zeros(SHAPE, np.uint16)
    read, _ = reader(as_in_file(counts, True))
    waiting = []

    def observed(words):
        waiting.append(len(late_cupy.queue))
        read(words)

    CudaBackend(cupy=late_cupy).load_counts(SHAPE, observed)
    # A copy and a launch of the piece before wait while a piece is read, and no more than that.
    assert waiting[0] == 0
    assert set(waiting[1:]) == {2, 3}


def test_a_failing_read_leaves_nothing_under_way(late_cupy, monkeypatch):
    monkeypatch.setattr(CudaBackend, "words_at_once", 500)
    calls = []

    def read(words):
        calls.append(words.size)
        if len(calls) == 3:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        CudaBackend(cupy=late_cupy).load_counts(SHAPE, read)
    assert not late_cupy.queue


# ---------------------------------------------------------------------------------------------------------- from files


@pytest.fixture
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 4, 2, shape=(24, 32))


def as_astropy_reads(path):
    from astropy.io import fits

    with fits.open(path) as hdus:
        return {name: hdus[name].data.astype(np.float32) for name in ("SCI", "ZEROFRAME") if name in hdus}


def assert_read(path, backend):
    from gpucoron.exposure import Exposure

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
    monkeypatch.setattr("gpucoron.exposure._read_planes", None)
    exposure = assert_read(case.path, backend)
    assert exposure.zeroframe is not None
    assert isinstance(exposure.groupdq, backend.xp.ndarray)


def test_a_file_goes_to_a_device(case, late_cupy):
    backend = CudaBackend(1, cupy=late_cupy)
    exposure = assert_read(case.path, backend)
    for array in (exposure.data, exposure.groupdq, exposure.pixeldq, exposure.zeroframe):
        assert array.device.id == 1


def other_files(case, folder):
    """Write the exposure in other ways: each must be read through astropy."""
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


def test_files_of_another_kind_take_the_other_way(case, tmp_path, monkeypatch):
    from gpucoron.backends import get_backend

    backend = get_backend("cpu")
    asked = []
    monkeypatch.setattr(backend, "load_counts", lambda shape, read, **options: asked.append(shape))
    for path in other_files(case, tmp_path):
        from gpucoron.exposure import Exposure

        exposure = Exposure.read(path, backend)
        np.testing.assert_array_equal(exposure.data, as_astropy_reads(path)["SCI"], err_msg=path.name)
    # the ZEROFRAMEs of all but the compressed file
    assert asked == 4 * [(2, 24, 32)]
