"""refpix: correct bias drifts with reference pixels.

NIRCam subarrays read through one output and MIRI full frames are corrected here. NIRCam full frames, and subarrays read
through four outputs, go to a function that the caller hands in.
"""

import numpy as np

from gpucoron.dq import DO_NOT_USE, REFERENCE_PIXEL
from gpucoron.steps import Outcome, skipped

#: MIRI's columns belong to its four amplifiers in turn; so do its four reference columns on either side.
MIRI_AMPLIFIERS = 4


def clipped_means(values, siglimit):
    """Compute the mean of each row after clipping it, until nothing is clipped any more.

    Rows with as many values left are treated together, each with the float32 sums that it would have by itself.

    Parameters
    ----------
    values : (n, k) float32 NumPy array
    siglimit : float, standard deviations

    Returns
    -------
    means : (n,) float32
        NaN where nothing is left.
    constant : (n,) bool
        True where all values of a row are equal.

    Notes
    -----
    Source: jwst 3.0, ``Dataset.sigma_clip``; `scipy.stats.sigmaclip`. jwst takes the mean of equal values in float64:
    the same number, but what is computed from it stays float64 there.
    """
    constant = values.std(axis=1, dtype=np.float64) == 0
    means = np.where(constant, values[:, 0], values.dtype.type(np.nan))
    siglimit = float(siglimit)
    varied = np.flatnonzero(~constant)
    pending = [(varied, values[varied])]
    while pending:
        rows, samples = pending.pop()
        mean, reach = samples.mean(axis=1), samples.std(axis=1) * siglimit
        keep = (samples >= (mean - reach)[:, None]) & (samples <= (mean + reach)[:, None])
        left = keep.sum(axis=1)
        done = left == samples.shape[1]
        means[rows[done]] = mean[done]
        for count in np.unique(left[~done & (left > 0)]):
            chosen = ~done & (left == count)
            pending.append((rows[chosen], samples[chosen][keep[chosen]].reshape(-1, count)))
    return means, constant


def correct_nir_subarray(data, pixeldq, facts, *, odd_even_columns=True, siglimit=3.0, backend):
    """Subtract the clipped mean of a subarray's own reference pixels from each of its groups, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    pixeldq : (ny, nx) uint32
        Pixels with REFERENCE_PIXEL and without DO_NOT_USE count.
    facts
        fastaxis (+-1) and slowaxis (+-2) of the exposure.
    odd_even_columns : bool
        Treat odd and even columns apart. Where one kind has no reference pixels, all columns are treated alike (jwst
        fails).
    siglimit : float, standard deviations
    backend : gpucoron.backends.base.Backend

    Returns
    -------
    int
        Reference pixels used; with none of them nothing changes.

    Notes
    -----
    Source: jwst 3.0, ``NIRDataset.do_subarray_corrections``. The pixels are collected in the detector's order, on which
    the float32 sums depend.
    """
    good = ((pixeldq & REFERENCE_PIXEL) != 0) & ((pixeldq & DO_NOT_USE) == 0)
    flip = (Ellipsis, slice(None, None, 1 if facts.slowaxis > 0 else -1), slice(None, None, facts.fastaxis))
    rows, columns = backend.xp.nonzero(good[flip])
    if rows.size == 0:
        return 0
    signals = backend.to_host(data[flip][:, :, rows, columns]).reshape(-1, rows.size)
    # Which kind is called odd does not matter, so the subarray's own columns are counted.
    odd = backend.to_host(columns % 2 == 1)

    def subtract(signal, target):
        shape = (*data.shape[:2], 1, 1)
        means, _ = clipped_means(signal, siglimit)
        target -= backend.to_device(means.reshape(shape))

    if odd_even_columns and odd.any() and not odd.all():
        for kind in (0, 1):
            subtract(signals[:, odd == bool(kind)], data[flip][..., kind::2])
    else:
        subtract(signals, data)
    return int(rows.size)


def correct_miri_frames(data, pixeldq, *, odd_even_rows=True, siglimit=3.0, backend):
    """Subtract from MIRI full frames the drift of the reference columns since the first group, in place.

    The drift is the mean of the clipped means on the left and the right, for each amplifier and, with
    ``odd_even_rows``, for odd and even rows apart.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        ``ny`` even, ``nx`` a multiple of four.
    pixeldq : (ny, nx) uint32
        Pixels with DO_NOT_USE do not count.
    odd_even_rows : bool
    siglimit : float, standard deviations
    backend : gpucoron.backends.base.Backend

    Returns
    -------
    bool
        False where some mean has no good pixel: then no drift is subtracted.

    Notes
    -----
    Source: jwst 3.0, ``MIRIDataset.do_fullframe_corrections``. The first group is subtracted before and added back
    after, which rounds, whether or not there is a drift to subtract.
    """
    drift = _miri_drift(data, pixeldq, odd_even_rows, siglimit, backend)
    ny, nx = data.shape[2:]
    for integration in range(data.shape[0]):
        first = data[integration, 0].copy()
        for group in range(data.shape[1]):
            plane = data[integration, group]
            plane -= first
            if group and drift is not None:
                # Two rows in one: all combinations of parity and amplifier lie along one axis.
                pairs = plane.reshape(ny // 2, 2 * nx)
                pairs -= backend.to_device(np.tile(drift[integration, group - 1], (1, nx // MIRI_AMPLIFIERS)).ravel())
            plane += first
    return drift is not None


def _miri_drift(data, pixeldq, odd_even_rows, siglimit, backend):
    """Measure the drift: (nints, ngroups - 1, 2, 4) for row parity and amplifier, or None if pixels are missing.

    float32, or float64 where the values of a reference column are all equal, as in jwst.
    """
    n = MIRI_AMPLIFIERS
    nints, ngroups = data.shape[:2]
    good = (pixeldq & DO_NOT_USE) == 0
    parities = (slice(0, None, 2), slice(1, None, 2)) if odd_even_rows else (slice(None),)
    sides = []
    for columns in (slice(0, n), slice(-n, None)):
        border = backend.to_host(data[..., columns])
        border = border[:, 1:] - border[:, :1]
        border_good = backend.to_host(good[:, columns])
        means = np.empty((nints, ngroups - 1, 2, n), dtype=data.dtype)
        constant = np.empty(means.shape, dtype=bool)
        for parity, rows in enumerate(parities):
            for amplifier in range(n):
                usable = border_good[rows, amplifier]
                if not usable.any():
                    return None
                values = border[:, :, rows, amplifier][:, :, usable]
                target = (slice(None), slice(None), parity if odd_even_rows else slice(None), amplifier)
                shape = (nints, ngroups - 1) if odd_even_rows else (nints, ngroups - 1, 1)
                clipped, equal = clipped_means(values.reshape(-1, values.shape[2]), siglimit)
                means[target], constant[target] = clipped.reshape(shape), equal.reshape(shape)
        sides.append((means, constant))
    (left, left_constant), (right, right_constant) = sides
    drift = 0.5 * (left + right)
    exact = left_constant | right_constant
    if exact.any():
        drift = np.where(exact, 0.5 * (left.astype(np.float64) + right), drift)
    return drift


def run(exposure, references, parameters, backend, *, full_frame=None):
    """Run the step; see `gpucoron.steps`.

    ``full_frame(exposure, references, parameters)`` corrects what is not corrected here, in place, and returns the
    status.
    """
    facts = exposure.facts
    ny, nx = exposure.data.shape[2:]
    if facts.instrument == "MIRI":
        if nx < 1032 or ny < 1024:
            return skipped("MIRI subarrays are not corrected")
        corrected = correct_miri_frames(
            exposure.data,
            exposure.pixeldq,
            odd_even_rows=parameters.odd_even_rows,
            siglimit=parameters.siglimit,
            backend=backend,
        )
        return Outcome(reason="" if corrected else "no good reference pixels: no drift was subtracted")

    is_subarray = nx < 2048 or ny < 2048
    x, y = facts.xstart - 1, facts.ystart - 1
    if is_subarray and (x < 0 or y < 0 or x + nx > 2048 or y + ny > 2048):
        return skipped("the subarray does not fit into the detector")
    if not is_subarray or facts.noutputs == 4 or facts.fastaxis not in (1, -1):
        if full_frame is None:
            msg = "refpix of near-infrared full frames and of four outputs needs full_frame, a function that does it"
            raise ValueError(msg)
        return Outcome(full_frame(exposure, references, parameters))

    options = {
        "odd_even_columns": parameters.odd_even_columns,
        "siglimit": parameters.siglimit,
        "backend": backend,
    }
    n_used = correct_nir_subarray(exposure.data, exposure.pixeldq, facts, **options)
    if n_used and exposure.zeroframe is not None and facts.zero_frame:
        # Zeros of the ZEROFRAME mean bad data and stay zero.
        bad = exposure.zeroframe == 0
        correct_nir_subarray(exposure.zeroframe[:, None], exposure.pixeldq, facts, **options)
        exposure.zeroframe[bad] = 0
    return Outcome(reason="" if n_used else "no valid reference pixels: nothing was changed")
