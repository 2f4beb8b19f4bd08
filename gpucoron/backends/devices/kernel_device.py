"""The base class of devices that run the CUDA kernels: a GPU, and the host and native builds on the CPU."""

import threading
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from gpucoron.backends.devices.device import Device
from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.devices.numpy_device import run_in_numpy

#: fewest words that are worth a thread
LEAST_WORDS = 2**16
#: most things that are kept, see `KernelDevice.keep`
MOST_KEPT = 16


class KernelDevice(Device):
    """A device that runs heavy operations by kernels. Subclasses add `launch` and `choose_lanes`."""

    #: threads in a block
    block_threads = 128
    #: threads in a block that shares a frame
    frame_threads = 256
    #: pixels that a thread processes together, frame by frame, where that is faster (on a CPU); else 0
    strip_pixels = 0
    #: counts that are read at a time, while the previous ones are sent
    words_at_once = 2**23
    #: threads that share the reading of a piece of a file
    reading_threads = 1
    #: bytes of scratch memory for likelihood fits; more allow more fits at the same time
    scratch_bytes = 2**29

    _keeping = threading.RLock()

    @abstractmethod
    def launch(self, name, grid, block, values, variant=()):
        """Check the arguments, given by name, and run a kernel of the table."""

    @abstractmethod
    def choose_lanes(self, n_pixels, n_units, name=None, variant=()):
        """Return how many threads share a pixel that has ``n_units`` pieces of work.

        ``name`` and ``variant`` name the kernel with one thread per pixel.
        """

    def runs(self, operation, settings):
        return operation.kernels is not None

    def execute(self, operation, arguments, settings):
        if self.runs(operation, settings):
            return operation.run(self, arguments, settings, operation.kernels)
        return run_in_numpy(self, operation, arguments, settings)

    def keep(self, make, *arguments):
        """Return ``make(self, *arguments)``, for example tables on the device; it is made once and then kept."""
        with self._keeping:
            kept = vars(self).setdefault("_kept", {})
            if (make, arguments) not in kept:
                if len(kept) == MOST_KEPT:
                    self.forget()
                kept[make, arguments] = make(self, *arguments)
                # Other threads work in other streams, which do not wait for this one.
                self.synchronize()
            return kept[make, arguments]

    def forget(self):
        """Drop what was kept."""
        vars(self).get("_kept", {}).clear()

    def over_pixels(self, name, n_pixels, n_rows, variant=(), **values):
        """Launch a kernel with a thread for each pixel, ``n_rows`` times."""
        grid, block = geometry(n_pixels, self.block_threads, n_rows)
        self.launch(name, grid, block, {"n_pixels": n_pixels, **values}, variant)

    def over_frames(self, name, n_frames, **values):
        """Launch a kernel with a block for each frame."""
        self.launch(name, *geometry(1, self.frame_threads, n_frames), {"n_frames": n_frames, **values})

    def contiguous(self, array):
        """Return the array C-contiguous on the device; None for None."""
        return None if array is None else self.xp.ascontiguousarray(self.to_device(array))

    def float64(self, array):
        """Return an array of the device or the host as C-contiguous float64 on the device."""
        return self.xp.ascontiguousarray(self.to_device(array), dtype=np.float64)

    def load_counts(self, shape, read, *, offset=True):
        counts = self.xp.empty(shape, np.float32)
        flat = counts.reshape(-1)
        at_once = max(1, min(flat.size, self.words_at_once))
        pieces = [slice(start, min(flat.size, start + at_once)) for start in range(0, flat.size, at_once)]
        pool = ThreadPoolExecutor(self.reading_threads)

        def begin(number):
            """Start to read a piece; return its buffer, its place, and the work of the threads."""
            buffer, piece = buffers[number % len(buffers)], pieces[number]
            words = buffer.take(piece.stop - piece.start)
            parts = [
                pool.submit(read, words[part], piece.start + part.start)
                for part in _even_slices(words.size, self.reading_threads)
            ]
            return buffer, piece, parts

        with self._upload_buffers(at_once) as buffers:
            try:
                # The threads read the next piece while this one is sent.
                for buffer, piece, parts in _one_ahead(begin, len(pieces)):
                    for part in parts:
                        part.result()
                    self.convert_counts(buffer.send(), flat[piece], offset=offset)
            finally:
                # The buffers must not be freed while a thread or a copy uses them.
                pool.shutdown(cancel_futures=True)
                self.synchronize()
        return counts

    def convert_counts(self, raw, counts, *, offset):
        """Convert 16-bit counts of a FITS file to float32.

        Parameters
        ----------
        raw : array of uint16
            Big-endian words of the file.
        counts : array of float32, DN
            Of the same size; filled.
        offset : bool
            Whether the words are signed with BZERO = 32768, as FITS stores unsigned numbers.
        """
        grid, block = geometry(raw.size, self.block_threads)
        self.launch("convert_counts", grid, block, {"raw": raw, "counts": counts, "n_words": raw.size}, (bool(offset),))

    @contextmanager
    def _upload_buffers(self, n_words):
        """Lend the buffers that `load_counts` uses in turn.

        ``take(n)`` returns words to fill, as soon as the last ones were sent; ``send()`` returns them on the device.
        """
        yield [_HostBuffer(n_words) for _ in range(2)]


class _HostBuffer:
    """A buffer in host memory, for kernels that run on the CPU."""

    def __init__(self, n_words):
        self._words = np.empty(n_words, np.uint16)
        self._taken = None

    def take(self, n_words):
        self._taken = self._words[:n_words]
        return self._taken

    def send(self):
        return self._taken


def _one_ahead(begin, n):
    """Yield ``begin(0)`` to ``begin(n - 1)``, each after the next one has begun."""
    following = begin(0) if n else None
    for number in range(1, n + 1):
        begun, following = following, begin(number) if number < n else None
        yield begun


def _even_slices(n_words, n_threads):
    """Cut words into a slice for each thread; a slice starts at a page of memory, and is not very small."""
    each = -(-n_words // (n_threads * LEAST_WORDS)) * LEAST_WORDS
    return [slice(start, min(n_words, start + each)) for start in range(0, n_words, each)]
