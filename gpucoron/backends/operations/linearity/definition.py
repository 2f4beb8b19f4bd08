"""Linearity correction: a polynomial per pixel, in place and in tiles of rows.

All operations are single ufunc calls in the order of stcal, so that results are bit-identical.
"""

import numpy as np

from gpucoron.backends.tiles import even_tile_bytes, for_each_tile
from gpucoron.dq import SATURATED

#: Bytes of working arrays per thread; with smaller ones threads wait for the interpreter lock.
SCRATCH_BYTES = 2**21
#: Bytes of a tile; scratch arrays are allocated once per tile.
TILE_BYTES = 2**24


def linearity(device, data, groupdq, coeffs, inverse_coeffs=None, *, settings):
    """Correct the detector's non-linearity, in place.

    A group without SATURATED becomes ``c0 + c1 x + c2 x^2 + ...`` (Horner's scheme, float32); saturated groups are not
    changed. With ``inverse_coeffs``, each group is the mean of ``nframes`` reads. These are predicted from the first
    and the last unsaturated group, made non-linear, shifted to the group's value, corrected and averaged (float64, as
    in stcal). NaN propagates.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    coeffs, inverse_coeffs : (ncoeffs, ny, nx) float32
        (0, 1, 0, ...) for pixels without a correction.
    settings : LinearitySettings

    Notes
    -----
    Source: stcal 1.20, ``linearity_correction`` (WFC3 Data Handbook, section 6.5). With a single group
    there is no rate to predict reads (stcal fails); the plain polynomial is used.
    """
    nints, ngroups, _, nx = data.shape
    nframes, averaged = settings.nframes, inverse_coeffs is not None and ngroups > 1
    read_bytes = (8 * nframes if averaged else 4 * ngroups) * nx
    rows_at_once = max(1, SCRATCH_BYTES // read_bytes)

    def correct(rows):
        # One scratch array for all bands: allocating one for each would take longer than the arithmetic.
        n_rows = min(rows_at_once, rows.stop - rows.start)
        n_ints = 1 if averaged else max(1, min(nints, rows_at_once // n_rows))
        shape = (2, nframes, n_rows, nx) if averaged else (n_ints, ngroups, n_rows, nx)
        scratch = np.empty(shape, dtype=np.float64 if averaged else np.float32)
        for start in range(rows.start, rows.stop, n_rows):
            band = slice(start, min(start + n_rows, rows.stop))
            work = scratch[:, :, : band.stop - band.start]
            with np.errstate(all="ignore"):
                for first in range(0, nints, n_ints):
                    ramps, flags = data[first : first + n_ints, :, band], groupdq[first : first + n_ints, :, band]
                    if averaged:
                        _correct_reads(ramps[0], flags[0], coeffs[:, band], inverse_coeffs[:, band], nframes, work)
                    else:
                        corrected = _polynomial(ramps, coeffs[:, band], work[: len(ramps)])
                        np.copyto(ramps, corrected, where=(flags & np.uint8(SATURATED)) == 0)

    for_each_tile(correct, data.shape, device.n_threads, even_tile_bytes(data.shape, device.n_threads, TILE_BYTES))


def _polynomial(values, coeffs, result=None):
    """Evaluate ``c0 + c1 x + c2 x^2 + ...`` by Horner's scheme, in the dtype of the values, into ``result``."""
    result = np.multiply(coeffs[-1], values, out=result)
    for coefficient in coeffs[-2:0:-1]:
        result += coefficient
        result *= values
    result += coeffs[0]
    return result


def _correct_reads(ramp, flags, coeffs, inverse_coeffs, nframes, work):
    """Correct the groups of one integration, each as the mean of ``nframes`` predicted reads (float64)."""
    ngroups = ramp.shape[0]
    saturated = (flags & np.uint8(SATURATED)) != 0
    reads = 1 + np.arange(ngroups * nframes).reshape(ngroups, nframes)
    mean_read = reads.mean(axis=1)

    # The last unsaturated group may be partially saturated, so the ramp ends one group earlier.
    last = np.maximum(ngroups - saturated.sum(axis=0, dtype=np.int32) - 1, 2) - 1
    first_signal = _linearised(ramp[0], saturated[0], coeffs)
    last_signal = _linearised(
        np.take_along_axis(ramp, last[np.newaxis], axis=0)[0],
        np.take_along_axis(saturated, last[np.newaxis], axis=0)[0],
        coeffs,
    )
    # DN per read: a float32 difference divided by a float64 number of reads.
    rate = (last_signal - first_signal) / (mean_read[last] - mean_read[0])

    read_signals, corrected_reads = work
    for group in range(ngroups):
        np.multiply(rate, (reads[group] - mean_read[0])[:, np.newaxis, np.newaxis], out=read_signals)
        read_signals += first_signal
        raw_reads = _polynomial(read_signals, inverse_coeffs, corrected_reads)
        raw_reads += ramp[group] - raw_reads.mean(axis=0)
        corrected = _polynomial(raw_reads, coeffs, read_signals).mean(axis=0)
        np.copyto(ramp[group], corrected, where=~saturated[group], casting="same_kind")


def _linearised(plane, saturated, coeffs):
    """Correct one plane, except where it is saturated (float32)."""
    return np.where(saturated, plane, _polynomial(plane, coeffs))
