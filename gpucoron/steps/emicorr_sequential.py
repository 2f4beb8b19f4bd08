"""emicorr by the sequential algorithm: straight ramps are fitted first, then the wave is measured in what remains.

For each frequency, a wave is measured in the first integrations: the ramps' slopes and biases are subtracted, the four
outputs are averaged, and the quads are sorted into bins of the phase at which they were read. The mean of each bin,
with outliers clipped, is one period of the wave. It is subtracted from all groups, or the reference wave in its phase
and amplitude. jwst 3.0 is the source, with all roundings of its arithmetic, so that the results have the same bits.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.blas import one_blas_thread
from gpucoron.backends.statistics import add_in_order, median_of_last, median_of_sorted
from gpucoron.backends.tiles import TILE_BYTES, row_tiles
from gpucoron.steps.arguments import RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.emicorr_times import READ_TIMES, period_of
from gpucoron.steps.values import Kind, Number, Switch, check_numbers

#: fewer groups than this are fitted, but jwst advises against it
RECOMMENDED_GROUPS = 10
#: straight lines need two groups between the first and the last
_FEWEST_GROUPS, _FEWEST_COLUMNS = 3, 16
#: jwst reduces more bins than the first number to the second
_TOO_MANY_BINS, _MOST_BINS = 501, 500
#: cut in standard deviations, and number of iterations, of the mean of a bin
_CUT, _ITERATIONS = 3.0, 5
#: quads whose phases are computed together, on the host and on a GPU; bytes of the samples of a tile on a GPU
_QUADS_AT_ONCE, _QUADS_ON_GPU, _TILE_BYTES_ON_GPU = 2**16, 2**22, 2**27


def _check_waves(waves):
    for frequency, values in waves:
        Number("Hz", positive=True).take("frequency", frequency)
        if values is not None:
            check_numbers(values)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    waves=Kind("a list of (frequency in Hz, one period of the reference wave or None)", _check_waves),
    times=READ_TIMES,
    nbins=Number(whole=True, minimum=1),
    nints_to_phase=Number(whole=True, minimum=1),
    scale_reference=Switch(),
)
def apply_sequential(
    data: NDArray[Any],
    waves: Sequence[tuple[float, ArrayLike | None]],
    times: Any,
    *,
    nbins: int | None = None,
    nints_to_phase: int | None = None,
    scale_reference: bool = True,
    backend: BackendLike = None,
) -> list[NDArray[np.float64]]:
    """Measure one wave after the other in ramps without their straight lines, and subtract it in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        At least three groups; nx is a multiple of four, at least 16. Nothing is measured in an integration with NaN;
        NaN in the first or the last group only excludes that group.
    waves : list of (float, (n,) array or None)
        Frequency in Hz, and one period of the reference wave, which is shifted to the phase of the measured one. None:
        the measured wave itself is subtracted.
    times : ReadTimes
    nbins : int, optional
        Number of values of a measured wave. The default is half the period in pixel clocks; at most 500.
    nints_to_phase : int, optional
        Number of integrations in which the wave is measured, from the first; the default is all.
    scale_reference : bool
        Scale the reference wave to the amplitude of the measured one.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    list of (n_bins,) float64, DN
        The measured wave of each frequency; all NaN, and not subtracted, if a bin holds no value. A reference that is
        not scaled is then subtracted without a shift, as in jwst.

    Notes
    -----
    Source: jwst 3.0, ``_run_sequential_algorithm``.
    """
    nints, ngroups, _, nx = data.shape
    if ngroups < _FEWEST_GROUPS:
        msg = f"{ngroups} groups are too few to measure interference: three are needed"
        raise ValueError(msg)
    if nx % 4 or nx < _FEWEST_COLUMNS:
        msg = f"rows of {nx} pixels: MIRI reads four pixels at once; give a multiple of 4, at least {_FEWEST_COLUMNS}"
        raise ValueError(msg)
    n_measured = nints if nints_to_phase is None else min(nints, nints_to_phase)
    counts = [_count_bins(frequency, nbins) for frequency, _ in waves]
    measured = []
    for (frequency, reference), n_bins in zip(waves, counts, strict=True):
        means = _measure(data, n_measured, frequency, times, n_bins, backend)
        measured.append(means)
        table = _table(means, reference, period_of(frequency), scale_reference=scale_reference)
        if table.any():
            _subtract(data, table, times, period_of(frequency), backend)
    return measured


def _count_bins(frequency, nbins):
    n_bins = int(period_of(frequency) / 2.0) if nbins is None else nbins
    if n_bins < 1:
        msg = f"{frequency} Hz: the period is shorter than two pixel clocks of 10 us; give nbins, or leave it out"
        raise ValueError(msg)
    return _MOST_BINS if n_bins > _TOO_MANY_BINS else n_bins


def count_integrations(nints, ngroups, frequency, frame_clocks, *, nints_to_phase, use_n_cycles):
    """Return in how many integrations the waves are measured, by the rules of jwst 3.0.

    Parameters
    ----------
    nints, ngroups : int
    frequency : float, Hz
        The first frequency that is corrected; as in jwst it decides for all.
    frame_clocks : int
        Pixel clocks of the reset frame.
    nints_to_phase, use_n_cycles : int or None
        The parameters of the step.

    Raises
    ------
    ValueError
        The reset frame has no pixel clocks.
    """
    if nints_to_phase is not None:
        return min(nints, nints_to_phase)
    if use_n_cycles is None:
        return nints
    if not frame_clocks > 0:
        msg = (
            f"the reference gives the reset frame {frame_clocks} clocks (frameclocks), so that cycles cannot be counted"
        )
        raise ValueError(msg)
    return min(nints, ceil((use_n_cycles * period_of(frequency)) / (frame_clocks * ngroups)))


def _measure(data, n_measured, frequency, times, n_bins, backend):
    """Measure one period of a wave in the first integrations: (n_bins,) float64, DN, on the host."""
    _, ngroups, ny, nx = shape = data.shape
    labels = _Labels(times, shape, period_of(frequency), n_bins)
    counts = np.zeros(n_bins + 1, np.int64)
    for integration in range(n_measured):
        for groups in labels.parts:
            counts += np.bincount(labels.of(integration, groups).ravel(), minlength=n_bins + 1)
    ends = np.cumsum(counts)
    free = ends - counts
    # The values of each bin, one bin after the other; with the ramps in scratch files these are in one, too.
    make = backend.empty if backend.xp is np else np.empty
    values = make((1, 1, 1, int(ends[-1])), np.float32).reshape(-1)
    quads = backend.empty((1, ngroups, ny, nx // 4), np.float32)[0]
    for integration in range(n_measured):
        _average_outputs(data[integration], quads, backend)
        for groups in labels.parts:
            some = backend.to_host(quads[groups]).reshape(groups.stop - groups.start, -1)
            some = some - np.median(some, axis=1, keepdims=True)
            _put(values, free, some.ravel(), labels.of(integration, groups).ravel())
    starts = ends - counts

    def average(bins):
        return [_clipped_mean(values[starts[number + 1] : ends[number + 1]]) for number in range(bins.start, bins.stop)]

    means = np.array([mean for part in backend.in_parts(average, n_bins) for mean in part])
    means -= np.median(means)
    return means


class _Labels:
    """Sorts the quads of frames into bins of their phase: 1 to n_bins, and 0 for the phase 0, which jwst leaves out."""

    def __init__(self, times, shape, period, n_bins):
        _, ngroups, ny, nx = shape
        self.starts, self.clocks, self.period = times.group_starts(shape), times.quad_clocks(ny, nx), period
        # Bin b holds the phases above edges[b], up to edges[b + 1]; these are the limits of jwst, in its rounding.
        self.edges = np.concatenate([[-1.0], np.arange(n_bins + 1) / n_bins])
        at_once = max(1, _QUADS_AT_ONCE // self.clocks.size)
        self.parts = [slice(first, min(first + at_once, ngroups)) for first in range(0, ngroups, at_once)]

    def of(self, integration, groups):
        """Return the bins of some groups: (groups, ny, nx / 4) uint16."""
        phases = (self.clocks + self.starts[integration, groups, None, None]) / self.period
        phases -= np.floor(phases)
        bins = np.ceil(phases * (len(self.edges) - 2)).astype(np.intp)
        # The product is rounded, so the phase may be in a neighbouring bin.
        bins += phases > self.edges[bins + 1]
        bins -= phases <= self.edges[bins]
        return bins.astype(np.uint16)


def _put(values, free, some, bins):
    """Append values to their bins, in order; ``free``, the next free place of each bin, advances in place."""
    order = np.argsort(bins, kind="stable")
    counts = np.bincount(bins, minlength=len(free))
    places = np.arange(len(some)) + np.repeat(free - (np.cumsum(counts) - counts), counts)
    values[places] = some[order]
    free += counts


def _average_outputs(ramp, quads, backend):
    """Subtract from each ramp of an integration its slope and its bias, and average the four outputs.

    Parameters
    ----------
    ramp : (ngroups, ny, nx) float32, DN
    quads : (ngroups, ny, nx / 4) float32, DN
        Filled.
    """
    xp = backend.xp
    ngroups, _, nx = ramp.shape
    tile_bytes = TILE_BYTES if xp is np else _TILE_BYTES_ON_GPU

    def average(part):
        for tile in row_tiles((ngroups, part.stop - part.start, nx), tile_bytes):
            rows = slice(part.start + tile.start, part.start + tile.stop)
            residual = _residual(ramp[:, rows], xp)
            of_outputs = residual.reshape(ngroups, -1, nx // 4, 4)
            mean = of_outputs[..., 0] + of_outputs[..., 1]
            mean += of_outputs[..., 2]
            mean += of_outputs[..., 3]
            mean /= np.float32(4)
            # bad reference columns
            mean[..., 1] = (mean[..., 0] + mean[..., 3]) / np.float32(2)
            mean[..., 2] = mean[..., 1]
            quads[:, rows] = mean

    backend.in_parts(average, ramp.shape[1])


def _residual(ramp, xp):
    """Return ramps without their slopes and biases, measured without the first and the last group.

    Slopes are float64, the rest is float32. With three groups the slope is 0 / 0, and everything is NaN.
    """
    n_inner = len(ramp) - 2
    times = np.arange(n_inner, dtype=np.float64)
    s_t, s_tt = float(times.sum()), float((times**2).sum())
    s_y, s_ty = (xp.zeros(ramp.shape[1:], np.float64) for _ in range(2))
    at_once = 1 if xp is np else len(ramp)
    for first in range(0, n_inner, at_once):
        groups = ramp[1:-1][first : first + at_once].astype(np.float64)
        add_in_order(s_y, groups, xp=xp)
        groups *= _numbers(first, len(groups), xp)
        add_in_order(s_ty, groups, xp=xp)
    residual = xp.empty(ramp.shape, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (n_inner * s_ty - s_t * s_y) / (n_inner * s_tt - s_t * s_t)
        for first in range(0, len(ramp), at_once):
            groups = ramp[first : first + at_once]
            residual[first : first + at_once] = groups - slope * _numbers(first, len(groups), xp)
        inner = residual[1:-1]
        bias = xp.fmin(inner[0], inner[-1]) if n_inner <= 2 else _median_of_groups(inner, xp)
        residual -= bias
    return residual


def _numbers(first, n, xp):
    """Return the numbers of groups, (n, 1, 1) float64."""
    return xp.arange(first, first + n, dtype=np.float64)[:, None, None]


def _median_of_groups(groups, xp):
    return median_of_last(xp.ascontiguousarray(xp.moveaxis(groups, 0, -1)), xp=xp)


def _clipped_mean(values):
    """Return the mean of values near their median, after repeated clipping; NaN without values.

    Source: astropy, ``sigma_clipped_stats`` with its defaults, bit for bit.
    """
    values = values[np.isfinite(values)]
    # Medians come from the sorted values, sums from the values in their order, which decides the last bits.
    ordered, values = np.sort(values).astype(np.float64), values.astype(np.float64)
    for _ in range(_ITERATIONS):
        if not len(values):
            return np.nan
        middle, width = median_of_sorted(ordered), values.std() * _CUT
        low, high = middle - width, middle + width
        n, ordered = len(ordered), ordered[np.searchsorted(ordered, low) : np.searchsorted(ordered, high, "right")]
        if len(ordered) == n:
            break
        values = values[(values >= low) & (values <= high)]
    return values.mean() if len(values) else np.nan


def _table(measured, reference, period, *, scale_reference):
    """Return the values to subtract at each pixel clock of a period, DN, finite, on the host.

    Parameters
    ----------
    measured : (n_bins,) float64, DN
    reference : (n,) array or None
        It is shifted to where it correlates best with the measured wave; where that is NaN, it is not shifted.
    period : float
        In pixel clocks.
    scale_reference : bool
    """
    table = _resample(measured, period)
    if reference is not None:
        reference = np.asarray(reference)
        n = len(reference)
        # A rounded step may make one value more, with which jwst fails.
        other = _resample(measured, n)[:n]
        with one_blas_thread(), np.errstate(divide="ignore", invalid="ignore"):
            likeness = [np.corrcoef(np.roll(reference, shift), other)[0, 1] for shift in range(n)]
            shifted = _resample(np.roll(reference, np.argmax(likeness)), period)
            n = min(len(shifted), len(table))
            # full=True: no warning for a constant wave
            scale = np.polyfit(shifted[:n], table[:n], 1, full=True)[0][0] if scale_reference else 1
        table = shifted.astype(np.float64) * scale
    return np.where(np.isfinite(table), table, 0).astype(np.float64)


def _resample(values, size):
    """Return values at ``size`` equal steps, each the one before or at the step (``congrid`` of IDL)."""
    step = float(len(values)) / size
    places = (np.arange(ceil(len(values) / step)) * step).astype(np.int32)
    return values[np.minimum(places, len(values) - 1)]


def _subtract(data, table, times, period, backend):
    """Subtract the table from every sample at its clock in the period, in place; float64, then rounded to float32."""
    xp, (nints, ngroups, ny, nx) = backend.xp, data.shape
    table, clocks = (backend.to_device(each) for each in (table, times.quad_clocks(ny, nx).ravel()))
    starts = backend.to_device(times.group_starts(data.shape).reshape(-1, 1))
    frames = data.reshape(nints * ngroups, clocks.size, 4)
    at_once = max(1, (_QUADS_AT_ONCE if xp is np else _QUADS_ON_GPU) // clocks.size)

    def subtract(numbers):
        for first in range(numbers.start, numbers.stop, at_once):
            some = slice(first, min(first + at_once, numbers.stop))
            phases = (clocks + starts[some]) / period
            phases -= xp.floor(phases)
            phases *= period
            wide = xp.empty((*phases.shape, 4), np.float64)
            wide[...] = table[phases.astype(np.intp)][..., None]
            frames[some] -= wide

    backend.in_parts(subtract, nints * ngroups)
