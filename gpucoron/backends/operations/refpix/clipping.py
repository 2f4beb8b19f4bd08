"""Clipped means of reference pixels in NumPy."""

import numpy as np


def means_by_clipping(values, siglimit):
    """Compute the means of `gpucoron.steps.refpix.clipped_means` of an array (n, k) on the host."""
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


def clip_levels(device, frames, pixels, n_first, siglimit):
    """Compute the mean of the reference pixels of each frame after sigma clipping, for one or two kinds of them.

    Parameters
    ----------
    device : Device
    frames : (n, ny, nx) float32, DN
        C-contiguous.
    pixels : (k,) int32
        Indices of the pixels in a flat frame, on the host. Sums of float32 depend on their order.
    n_first : int
        Number of pixels of the first kind; the others are of the second kind.
    siglimit : float, standard deviations

    Returns
    -------
    (n, 1 or 2) float32
        For each kind. NaN if no values remain.

    Notes
    -----
    Source: jwst 3.0, ``Dataset.sigma_clip``; `scipy.stats.sigmaclip`.
    """
    flat = frames.reshape(len(frames), -1)
    kinds = [each for each in (pixels[:n_first], pixels[n_first:]) if each.size]
    return np.stack([means_by_clipping(flat[:, each], siglimit)[0] for each in kinds], axis=1)
