"""A device that runs the CUDA kernels: what the GPU and its stand-ins on the CPU share."""

from abc import abstractmethod

import numpy as np

from gpucoron.backends.devices.device import Device
from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.devices.numpy_device import run_in_numpy


class KernelDevice(Device):
    """A device of which the heavy operations are kernels. `launch` is what a subclass adds."""

    #: threads in a block
    block_threads = 128
    #: threads that go through a frame together
    frame_threads = 256
    #: pixels that a thread takes together, frame by frame, where that is faster: on a CPU; else 0
    strip_pixels = 0
    #: counts that are read while as many are sent
    words_at_once = 2**24
    #: bytes of memory that likelihood fits may take beside the ramps; more lets more of them be under way
    scratch_bytes = 2**29

    @abstractmethod
    def launch(self, name, grid, block, values, variant=()):
        """Run a kernel of the table with arguments by name, after checking them."""

    @abstractmethod
    def choose_lanes(self, n_pixels, n_units):
        """Choose how many threads share a pixel that has ``n_units`` pieces of work."""

    def runs(self, operation, settings):
        return operation.kernels is not None and operation.has_kernels(settings)

    def execute(self, operation, arguments, settings):
        if self.runs(operation, settings):
            return operation.run(self, arguments, settings, operation.kernels)
        return run_in_numpy(self, operation, arguments, settings)

    def over_pixels(self, name, n_pixels, n_rows, variant=(), **values):
        """Launch a kernel with a thread for each pixel, ``n_rows`` times."""
        grid, block = geometry(n_pixels, self.block_threads, n_rows)
        self.launch(name, grid, block, {"n_pixels": n_pixels, **values}, variant)

    def over_frames(self, name, n_frames, **values):
        """Launch a kernel with a block for each frame."""
        self.launch(name, *geometry(1, self.frame_threads, n_frames), {"n_frames": n_frames, **values})

    def contiguous(self, array):
        """Give an array on the device in one piece; None stays None."""
        return None if array is None else self.xp.ascontiguousarray(self.to_device(array))

    def float64(self, array):
        """Give an array, of the device or the host, as float64 on the device in one piece."""
        return self.xp.ascontiguousarray(self.to_device(array), dtype=np.float64)

    def load_counts(self, shape, read, *, offset=True):
        counts = self.xp.empty(shape, np.float32)
        flat = counts.reshape(-1)
        at_once = min(flat.size, self.words_at_once)
        buffers = self._upload_buffers(at_once)
        try:
            for number, start in enumerate(range(0, flat.size, at_once)):
                piece = flat[start : start + at_once]
                raw = buffers[number % len(buffers)].fill(read, piece.size)
                self.convert_counts(raw, piece, offset=offset)
        finally:
            # Nothing may be under way to or from the buffers when they go.
            self.synchronize()
        return counts

    def convert_counts(self, raw, counts, *, offset):
        """Convert counts as FITS stores them.

        Parameters
        ----------
        raw : array of uint16
            Big-endian words, as they are in the file.
        counts : array of float32, DN
            Of as many values; filled.
        offset : bool
            The words are signed with BZERO = 32768, as FITS stores unsigned numbers.
        """
        grid, block = geometry(raw.size, self.block_threads)
        self.launch("convert_counts", grid, block, {"raw": raw, "counts": counts, "n_words": raw.size}, (bool(offset),))

    def _upload_buffers(self, n_words):
        """Make what `load_counts` sends words with, in turn: ``fill(read, n)`` gives them on the device."""
        return [_HostBuffer(n_words)]


class _HostBuffer:
    """A buffer that the kernels reach where it is."""

    def __init__(self, n_words):
        self._words = np.empty(n_words, np.uint16)

    def fill(self, read, n_words):
        words = self._words[:n_words]
        read(words)
        return words
