"""Exposures that are larger than the device's memory: they stay on the host, and rows go through the device in chunks.

Light steps then run in NumPy, and so does a heavy operation that has no method here. The chunks never show in a result:
what depends on the whole image is found on the host, and growth and neighbours get the rows around a chunk as well.
"""

import logging

import numpy as np

from gpucoron.backends.base import Slopes
from gpucoron.backends.devices.numpy_device import NumpyBackend
from gpucoron.backends.memory import memory_needed
from gpucoron.backends.operations.jump.definition import (
    AFTER_CLIPPING,
    NOT_SEARCHED,
    choose_search,
    clear_groups_full_of_jumps,
)
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED

log = logging.getLogger(__name__)


class SpillingBackend(NumpyBackend):
    """Heavy operations of arrays on the host, by the kernels of another backend, some rows at a time.

    Parameters
    ----------
    inner : KernelBackend
        Runs the chunks.
    max_memory : int
        Bytes that a chunk may take on its device.
    """

    def __init__(self, inner, max_memory):
        super().__init__()
        self.inner = inner
        self.max_memory = int(max_memory)
        self.name = inner.name

    @property
    def remark(self):
        """Say how an exposure is worked on, for the log."""
        return f"stays on the host; {self.max_memory / 1e9:.3g} GB of backend {self.name!r} take it in chunks"

    def take_workers(self):
        # Whatever no chunk was sent for has been done on the host.
        names, _ = self._take_noted()
        return names or ["numpy"]

    def memory_limit(self, held=0):
        return None

    def to_device(self, array):
        # What was on the device comes home.
        return array if isinstance(array, np.ndarray) else self.inner.to_host(array)

    def linearity(self, data, groupdq, coeffs, *, inverse_coeffs=None, nframes=1):
        def correct(rows, own):
            part, *given = self._send(rows, data, groupdq, coeffs, inverse_coeffs)
            self.inner.linearity(part, given[0], given[1], inverse_coeffs=given[2], nframes=nframes)
            corrected = self.inner.to_host(part)
            self.put_rows(data, rows, corrected)

        self._in_chunks("linearity", (data, groupdq, coeffs, inverse_coeffs), correct)

    def flag_saturation(
        self, data, groupdq, threshold, checked, *, n_pix_grow_sat=1, nframes=None, bias=None, grow_diagonal=True
    ):
        # Flags grow in the first pass, are looked at in the second, and grow again.
        halo = 2 * max(n_pix_grow_sat, 0)
        flags = _FlagRows(self, groupdq, halo)
        options = {"n_pix_grow_sat": n_pix_grow_sat, "nframes": nframes, "grow_diagonal": grow_diagonal}

        def flag(rows, own):
            part = self.inner.to_device(flags.before(rows))
            ramps, threshold_rows, checked_rows, bias_rows = self._send(rows, data, threshold, checked, bias)
            self.inner.flag_saturation(ramps, part, threshold_rows, checked_rows, bias=bias_rows, **options)
            flags.replace(rows, own, self.inner.to_host(part))

        self._in_chunks("flag_saturation", (data, groupdq, threshold, checked, bias), flag, halo)

    def detect_jumps(
        self,
        data,
        groupdq,
        gain,
        readnoise,
        *,
        rejection_threshold=4.0,
        three_group_rejection_threshold=6.0,
        four_group_rejection_threshold=5.0,
        flag_4_neighbors=True,
        max_jump_to_flag_neighbors=1000.0,
        min_jump_to_flag_neighbors=10.0,
        after_jump_flag_e1=0.0,
        after_jump_flag_n1=0,
        after_jump_flag_e2=0.0,
        after_jump_flag_n2=0,
        min_diffs_single_pass=10,
        minimum_groups=3,
        minimum_sigclip_groups=100,
        only_use_ints=True,
        nframes=1,
    ):
        # Both decisions on whole frames are the image's, not the chunk's.
        dropped = _frames_dropped(groupdq)
        mode = choose_search(dropped, min_diffs_single_pass, minimum_sigclip_groups, only_use_ints, minimum_groups)
        if mode is None:
            for flags in groupdq:
                flags &= np.where(flags & (DO_NOT_USE | SATURATED), np.uint8(0xFF & ~JUMP_DET), np.uint8(0xFF))
            return NOT_SEARCHED
        if mode == AFTER_CLIPPING:
            self._clip_jumps(data, groupdq, gain, rejection_threshold, only_use_ints)
            clear_groups_full_of_jumps(groupdq)
        options = {
            "rejection_threshold": rejection_threshold,
            "three_group_rejection_threshold": three_group_rejection_threshold,
            "four_group_rejection_threshold": four_group_rejection_threshold,
            "flag_4_neighbors": flag_4_neighbors,
            "max_jump_to_flag_neighbors": max_jump_to_flag_neighbors,
            "min_jump_to_flag_neighbors": min_jump_to_flag_neighbors,
            "after_jump_flag_e1": after_jump_flag_e1,
            "after_jump_flag_n1": after_jump_flag_n1,
            "after_jump_flag_e2": after_jump_flag_e2,
            "after_jump_flag_n2": after_jump_flag_n2,
            "nframes": nframes,
        }
        halo = 1 if flag_4_neighbors else 0
        flags, counts = _FlagRows(self, groupdq, halo), []

        def search(rows, own):
            part = self.inner.to_device(flags.before(rows))
            ramps, gain_rows, noise_rows = self._send(rows, data, gain, readnoise)
            n_flagged = self.inner.search_jumps(mode, ramps, part, gain_rows, noise_rows, **options)
            # A jump in the rows around the chunk is counted by the chunk that owns it.
            count = int(n_flagged[own].sum(dtype=np.int64))
            flags.replace(rows, own, self.inner.to_host(part))
            counts.append(count)

        self._in_chunks("detect_jumps", (data, groupdq, gain, readnoise), search, halo)
        return sum(counts)

    def _clip_jumps(self, data, groupdq, gain, threshold, only_use_ints):
        def clip(rows, own):
            ramps, part, gain_rows = self._send(rows, data, groupdq, gain)
            self.inner.clip_jumps(ramps, part, gain_rows, threshold, only_use_ints)
            self.put_rows(groupdq, rows, self.inner.to_host(part))

        self._in_chunks("clip_jumps", (data, groupdq, gain), clip)

    def fit_ramps(
        self,
        data,
        groupdq,
        pixeldq,
        gain,
        readnoise,
        *,
        dark_current=None,
        zeroframe=None,
        original_groupdq=None,
        **options,
    ):
        nints, _, ny, nx = data.shape
        rate, rateints = _empty_slopes((ny, nx)), _empty_slopes((nints, ny, nx))
        given = (data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe, original_groupdq)

        def fit(rows, own):
            *arrays, dark, zero, original = self._send(rows, *given)
            products = self.inner.fit_ramps(
                *arrays, dark_current=dark, zeroframe=zero, original_groupdq=original, **options
            )
            on_host = [{name: self.inner.to_host(part) for name, part in vars(slopes).items()} for slopes in products]
            for whole, parts in zip((rate, rateints), on_host, strict=True):
                for name, part in parts.items():
                    getattr(whole, name)[..., rows, :] = part

        self._in_chunks("fit_ramps", given, fit)
        return rate, rateints

    def measure_scatter(self, data):
        nints, _, ny, nx = data.shape
        scatter = np.empty((nints, ny, nx), np.float32)

        def measure(rows, own):
            scatter[:, rows] = self.inner.to_host(self.inner.measure_scatter(*self._send(rows, data)))

        self._in_chunks("measure_scatter", (data,), measure)
        return scatter

    def subtract_wave(self, data, wave, pixel_phases, *tables):
        def subtract(rows, own):
            (part,) = self._send(rows, data)
            self.inner.subtract_wave(part, wave, pixel_phases[rows], *tables)
            corrected = self.inner.to_host(part)
            self.put_rows(data, rows, corrected)

        self._in_chunks("subtract_wave", (data, pixel_phases), subtract)

    def _send(self, rows, *arrays):
        """Copy rows of arrays to the device; None stays None."""
        return [None if array is None else self.inner.to_device(self.take_rows(array, rows)) for array in arrays]

    def take_rows(self, array, rows):
        """Copy rows of an array on the host, in one piece."""
        return np.array(array[..., rows, :], order="C")

    def put_rows(self, array, rows, values):
        """Replace rows of an array on the host."""
        array[..., rows, :] = values

    def _in_chunks(self, operation, given, act, halo=0):
        """Call ``act(rows, own)`` from the top of the image to its bottom.

        Parameters
        ----------
        operation : str
            As `memory_needed` knows it.
        given : tuple of arrays or None
            What it works on: ramps first, then anything with rows.
        act : callable
            Gets the rows of the chunk with those around it, and which of these are its own. It changes nothing on the
            host before all its work on the device is done, so that it can be called again.
        halo : int
            Rows around a chunk.
        """
        self.note_worker(self.inner.name)
        nints, ngroups, ny, nx = given[0].shape
        given_per_row = sum(array.nbytes // ny for array in given if array is not None)
        need = memory_needed(operation, nints, ngroups, nx, given_per_row)
        n_rows = max(1, need.rows_within(self.max_memory) - 2 * halo)
        start = 0
        while start < ny:
            stop = min(ny, start + n_rows)
            rows = slice(max(0, start - halo), min(ny, stop + halo))
            try:
                act(rows, slice(start - rows.start, stop - rows.start))
            except Exception as error:
                if not self.inner.is_out_of_memory(error):
                    raise
                if stop - start == 1:
                    msg = f"{operation}: the device's memory cannot hold one row of {nints} x {ngroups} x {nx} samples"
                    raise MemoryError(msg) from error
                failed = str(error)
            else:
                start = stop
                continue
            # The failed chunk's arrays are gone only here, after its exception.
            self.inner.release_memory()
            n_rows = (stop - start + 1) // 2
            log.warning("%s: out of device memory (%s); going on with %d rows at a time", operation, failed, n_rows)


class _FlagRows:
    """Flags that are replaced chunk by chunk, while the next chunk still sees those above it as they were."""

    def __init__(self, backend, groupdq, halo):
        self._backend = backend
        self._groupdq = groupdq
        self._halo = halo
        self._first = 0
        self._originals = groupdq[:, :, :0]

    def before(self, rows):
        """Give a copy of rows as they were; they may reach up to ``halo`` rows above what was replaced last."""
        replaced = self._first + self._originals.shape[2]
        originals = self._originals[:, :, rows.start - self._first :]
        if rows.start >= replaced:
            return self._backend.take_rows(self._groupdq, rows)
        below = self._backend.take_rows(self._groupdq, slice(max(replaced, rows.start), rows.stop))
        return np.concatenate([originals, below], axis=2)

    def replace(self, rows, own, flags):
        """Replace the chunk's own rows by those of ``flags``, the chunk with the rows around it."""
        start, stop = rows.start + own.start, rows.start + own.stop
        first = max(0, stop - self._halo)
        self._originals, self._first = self.before(slice(first, stop)), first
        self._backend.put_rows(self._groupdq, slice(start, stop), flags[:, :, own])


def _frames_dropped(groupdq):
    """Tell which frames are DO_NOT_USE in every pixel, one frame at a time: (nints, ngroups) bool."""
    return np.array([[bool((frame & np.uint8(DO_NOT_USE)).all()) for frame in flags] for flags in groupdq])


def _empty_slopes(shape):
    images = [np.empty(shape, np.float32) for _ in range(4)]
    return Slopes(images[0], np.empty(shape, np.uint32), *images[1:])
