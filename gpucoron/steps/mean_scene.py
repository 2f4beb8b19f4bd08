"""The scene of several integrations, which subtract_1overf removes before it smooths the residuals."""

from gpucoron.backends.statistics import CUT, medians_where, sigma_from_mad


def reads_columns(slowaxis):
    if abs(slowaxis) not in (1, 2):
        msg = f"slowaxis must be 1, 2, -1 or -2, not {slowaxis}"
        raise ValueError(msg)
    return abs(slowaxis) == 1


def grow(mask, backend):
    """Grow a mask by one pixel, also diagonally."""
    return backend.ndimage.binary_dilation(mask, structure=backend.xp.ones((3, 3), bool))


def subtract_backgrounds(data, slowaxis, noutputs, backend):
    """Return a copy without the median of the background of each integration and output."""
    xp = backend.xp
    data = data.astype(xp.float32)
    turned = data.swapaxes(1, 2) if reads_columns(slowaxis) else data
    width = turned.shape[2] // noutputs
    for output in range(noutputs):
        images = turned[:, :, output * width : (output + 1) * width]
        masks = backend.background_mask(images, None)
        medians = medians_where(images, masks, xp=xp)
        images -= xp.where(xp.isnan(medians), xp.float32(0), medians)[:, None, None]
    return data


def mean_of_integrations(data, xp):
    """Average the integrations without NaN, (ny, nx) float32; the mean is NaN if all are NaN."""
    known = ~xp.isnan(data)
    count = known.sum(axis=0)
    total = xp.where(known, data, xp.float32(0)).sum(axis=0)
    return xp.where(count > 0, total / xp.maximum(count, 1).astype(xp.float32), xp.float32(xp.nan))


def near_median(image, xp):
    """Mark pixels within the first cut of the resistant mean, 3 median deviations over 0.6745."""
    deviation = abs(image - xp.median(image))
    return deviation <= CUT * sigma_from_mad(xp.median(deviation), deviation.mean)
