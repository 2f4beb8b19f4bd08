"""The scene of an image as a random field whose variance is estimated from the image: what 1/f noise is not.

The scene is a radial profile around the star and fields of blobs: round ones of the size of the PSF, and 3 and 9 times
as large; and blobs along rows, for spikes and bars. Each field has its own variance at every pixel.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpucoron.backends.operations.subtract_1overf.frames import one_by_one
from gpucoron.backends.operations.subtract_1overf.iterations import has_kernels, spread_rings, sum_rings

#: radii at which the radial profile is free, pixels
KNOTS = (0, 3, 6, 9, 12, 16, 21, 28, 37, 50, 66, 88, 117, 156, 208, 300, 430, 600, 850, 1200, 1700, 2900)
#: widths (sigma) of the round blobs, pixels; the first is that of the PSF of NIRCam's long-wavelength channel
WIDTHS = (0.98, 3.0, 9.0)
#: widths of the blobs along rows, across and along them
LONG = (0.98, 9.0)
#: distance of two blobs, relative to their width: the variance of their sum is the same everywhere to 5 %
SPACING = 1.5
#: noise that is subtracted from the variance of each field, relative to the white noise: more for large blobs, because
#: the remaining 1/f noise resembles them
NOISE = (1.2, 1.5, 2.0)
#: a ring's variance is that of the values within 3 sigma; 0.455 is the median of a squared normal deviate
CLIP, MEDIAN_SQUARE = 9, 0.455
#: local excesses of the variance below so many sigma are ignored
SIGNIFICANT = 3
#: window (sigma) of the local variance, relative to the width of the blobs
WINDOW = 1.5
#: width (sigma) of the smoothing along rows that separates remaining 1/f noise from the scene, pixels
ALONG_ROWS = 12
#: fewest pixels of a ring with a median of its own, and most pixels of a ring that are used for it
FEWEST, MOST = 5, 2**16
TRUNCATE = 4.0


class Rings:
    """Rings around the star: a radial profile that is linear between `KNOTS`, and statistics between them.

    Parameters
    ----------
    shape : (ny, nx)
    center : (x, y)
        The star, pixels from 0.
    device : Device
    """

    def __init__(self, shape, center, device):
        self.xp, to_device = device.xp, device.to_device
        y, x = np.indices(shape)
        radius = np.hypot(x - center[0], y - center[1])
        knots = np.array(KNOTS, float)
        last = np.searchsorted(knots, radius.max())
        knots = knots[: last + 1]
        self.n = len(knots)
        ring = np.clip(np.searchsorted(knots, radius, side="right") - 1, 0, self.n - 2)
        order = np.argsort(ring, axis=None, kind="stable")
        counts = np.bincount(ring.reshape(-1), minlength=self.n - 1)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._middles = np.bincount(ring.reshape(-1), radius.reshape(-1), self.n - 1) / np.maximum(counts, 1)
        # the pixels of each ring in a row, every n-th one if there are many; the row ends with copies of any pixel
        steps = -(-counts // MOST)
        counts = -(-counts // np.maximum(steps, 1))
        place = np.arange(counts.max())
        is_there = place < counts[:, None]
        places = np.where(is_there, first[:, None] + place * steps[:, None], 0)
        self._members, self._is_there = to_device(order[places].astype(np.int32)), to_device(is_there)
        self._radius = radius.astype(np.float32)
        self.share = to_device(((radius - knots[ring]) / (knots[ring + 1] - knots[ring])).astype(np.float32))
        self.ring = to_device(ring.astype(np.int32))
        # the sums of each row are numbered
        self._of_rows = None if has_kernels(device) else (ring + self.n * np.arange(shape[0])[:, None]).reshape(-1)
        self._on_device_radius = to_device(self._radius)
        self._on_device_middles = to_device(self._middles)
        self._device = device

    def profile(self, values):
        """Return the image (ny, nx) of a profile with given values at the knots, (n,) float32."""
        return values[self.ring] * (1 - self.share) + values[self.ring + 1] * self.share

    def project(self, image):
        """Return the transpose of `profile`: (n,) float32."""
        low, high = self._sum(image * (1 - self.share), image * self.share)
        low[1:] += high[:-1]
        return low.astype(np.float32)

    def gram(self, weights):
        """Return the products of all pairs of profiles, (n, n) float64 on the host, with weights (ny, nx)."""
        share = self.share
        sums = self._sum(weights * share * (1 - share), weights * (1 - share) ** 2, weights * share**2)
        both, same, next_ = self._device.to_host(sums)
        same[1:] += next_[:-1]
        return np.diag(same) + np.diag(both[:-1], 1) + np.diag(both[:-1], -1)

    def _sum(self, *images):
        """Return the sums of images over each ring, (n_images, n) float64: those of its rows, added row by row."""
        ny, nx = self.share.shape
        if self._of_rows is None:
            sums = sum_rings(self._device, self.xp.stack(images), self.ring, self.n)
        else:
            options = {"minlength": ny * self.n}
            sums = np.stack([np.bincount(self._of_rows, image.reshape(-1), **options) for image in images])
        return sums.reshape(len(images), ny, self.n).sum(axis=1)

    def medians(self, image, known):
        """Return the median of each ring at its mean radius, interpolated to all pixels: (ny, nx) float32."""
        values, count = self._sort(image, known)
        return self._spread(self._middle(values, count), count)

    def means(self, image, known):
        """Return the means like `medians`."""
        values, there = self._take(image, known)
        count = there.sum(axis=1)
        return self._spread(self.xp.where(there, values, 0).sum(axis=1) / self.xp.maximum(count, 1), count)

    def clipped_means(self, squares, known):
        """Return the means of squared deviates, of which large ones count as deviates of 3 sigma, like `medians`."""
        xp = self.xp
        values, count = self._sort(squares, known)
        limit = (CLIP / MEDIAN_SQUARE) * self._middle(values, count)
        there = xp.arange(values.shape[1]) < count[:, None]
        clipped = xp.where(there, xp.minimum(values, limit[:, None]), 0)
        return self._spread(clipped.sum(axis=1) / xp.maximum(count, 1), count)

    def _take(self, image, known):
        there = known.reshape(-1)[self._members] & self._is_there
        return image.reshape(-1)[self._members], there

    def _sort(self, image, known):
        values, there = self._take(image, known)
        return self.xp.sort(self.xp.where(there, values, np.float32(np.inf)), axis=1), there.sum(axis=1)

    def _middle(self, ordered, count):
        pair = self.xp.stack([self.xp.maximum(count - 1, 0) // 2, self.xp.maximum(count, 1) // 2], axis=1)
        return self.xp.take_along_axis(ordered, pair, axis=1).mean(axis=1)

    def _spread(self, values, count):
        """Interpolate values of rings to all pixels, from the rings with enough pixels."""
        if has_kernels(self._device):
            return spread_rings(self._device, self._on_device_radius, self._on_device_middles, values, count, FEWEST)
        enough = count >= FEWEST
        if not enough.any():
            return np.zeros(self._radius.shape, np.float32)
        return np.interp(self._radius, self._middles[enough], values[enough].astype(np.float64)).astype(np.float32)


class Blobs:
    """A field of Gaussian blobs on a lattice; with white noise as their heights its variance is 1.

    Parameters
    ----------
    shape : (ny, nx)
    widths : (float, float)
        Sigma across and along rows, pixels.
    device : Device
    """

    def __init__(self, shape, widths, device):
        rows, columns = (_gaussians(n, width, SPACING * width) for n, width in zip(shape, widths, strict=True))
        self._xp, self._rows, self._columns = device.xp, device.to_device(rows), device.to_device(columns)
        self._rows_squared, self._columns_squared = self._rows**2, self._columns**2
        self.shape = rows.shape[1], columns.shape[1]
        self.size = self.shape[0] * self.shape[1]

    def field(self, heights, out=None):
        """Return the image (ny, nx) of blobs with given heights, (size,)."""
        return self._xp.matmul(self._rows @ heights.reshape(self.shape), self._columns.T, out=out)

    def project(self, image, out=None):
        """Return the transpose of `field`: (size,)."""
        out = None if out is None else out.reshape(self.shape)
        return self._xp.matmul(self._rows.T @ image, self._columns, out=out).reshape(-1)

    def norms(self, weights):
        """Return the squared norm of each blob with weights (ny, nx): (size,)."""
        return (self._rows_squared.T @ weights @ self._columns_squared).reshape(-1)


def _gaussians(n, width, spacing):
    """Return Gaussians on a lattice that reaches beyond both ends, (n, m) float32, with a mean sum of squares of 1."""
    m = int(np.ceil(n / spacing)) + 2
    middles = (n - 1) / 2 + (np.arange(m) - (m - 1) / 2) * spacing
    values = np.exp(-((np.arange(n)[:, None] - middles) ** 2) / (2 * width**2))
    return (values * np.sqrt(spacing / (width * np.sqrt(np.pi)))).astype(np.float32)


def smooth(image, sigma, device):
    """Smooth an image by a Gaussian of a width, or of widths across and along rows, with zeros outside."""
    return device.ndimage.gaussian_filter(image, sigma, mode="constant", truncate=TRUNCATE)


@dataclass(frozen=True)
class Band:
    """The difference of an image that is smoothed by a Gaussian and one that is smoothed more.

    Attributes
    ----------
    less, more : (float, float)
        Widths (sigma) across and along rows, pixels; ``more`` is None for a difference from 0.
    """

    less: tuple
    more: tuple | None

    def of(self, image, weights, device):
        """Return the band of an image with weights."""
        band = _mean(image, weights, self.less, device)
        return band if self.more is None else band - _mean(image, weights, self.more, device)

    @cached_property
    def white(self):
        """Variance of white noise of variance 1 in the band."""
        first = [_kernel(sigma) for sigma in self.less]
        variance = np.prod([(kernel**2).sum() for kernel in first])
        if self.more is None:
            return variance
        second = [_kernel(sigma) for sigma in self.more]
        common = 1.0
        for one, other in zip(first, second, strict=True):
            edge = (len(other) - len(one)) // 2
            common *= (other[edge : edge + len(one)] * one).sum()
        return variance + np.prod([(kernel**2).sum() for kernel in second]) - 2 * common

    def share(self, widths):
        """Return the variance in the band of a field of blobs with variance 1."""

        def part(sigmas):
            return np.prod([w / np.hypot(w, s) for w, s in zip(widths, sigmas, strict=True)])

        if self.more is None:
            return part(self.less)
        mixed = tuple(np.sqrt((one**2 + other**2) / 2) for one, other in zip(self.less, self.more, strict=True))
        return part(self.less) + part(self.more) - 2 * part(mixed)

    def of_readout(self, power, readout):
        """Return the variance of 1/f noise in the band: its part that differs from row to row."""
        across, along = self.less[0], self.less[1]
        seen = np.exp(-((2 * np.pi * readout.frequencies * along) ** 2))
        per_row = readout.frequencies * readout.period * readout.bin_width
        seen *= np.minimum(per_row, 1)
        total = float(2 * (power * seen).sum() / readout.n) * readout.bin_width
        return total * (_kernel(across) ** 2).sum()


class Scene:
    """Estimates the variances of the fields.

    Parameters
    ----------
    shape : (ny, nx)
    rings : Rings
    power : (n // 2 + 1,) float64
        Power of the samples of 1/f noise.
    readout : Readout
    device : Device
    share : callable
        See `gpucoron.backends.operations.subtract_1overf.frames.sharing`.
    """

    def __init__(self, shape, rings, power, readout, device, share=one_by_one):
        self.shape, self.rings, self.device, self._share = shape, rings, device, share
        self._widths = [(width, width) for width in WIDTHS]
        self.blobs = [Blobs(shape, widths, device) for widths in (*self._widths, LONG)]
        # smoothing that keeps a blob's height, as the noise around it is small
        levels = [(width / np.sqrt(2),) * 2 for width in WIDTHS]
        self._bands = [Band(less, more) for less, more in zip(levels, [*levels[1:], None], strict=True)]
        across, along = LONG[0] / np.sqrt(2), LONG[1] / np.sqrt(2)
        self._long = Band((across, along), (levels[1][0], along))
        self._of_readout = np.float32(self._long.of_readout(power, readout))

    def variances(self, residual, weights, noise):
        """Estimate the variance of each field at each pixel.

        Parameters
        ----------
        residual : (ny, nx) float32
            The image without its radial profile and 1/f noise, as far as they are known; any value at weight 0.
        weights : (ny, nx) float32
            Inverse variances; 0 where the value is unknown.
        noise : (ny, nx) float32
            The variances, with plausible values where they are unknown.

        Returns
        -------
        list of (ny, nx) float32
            In the order of `blobs`.

        Notes
        -----
        A band of the residual is the difference of two smoothed images. In it, white noise has a known variance, and
        that of a field is a known share. The variance of a field of round blobs is what its band has more than white
        noise and the fields of smaller blobs: on average over a ring, and beyond it in places where that is
        significant. What remains of 1/f noise must not count as scene: the averages over rings are those of a residual
        without its smooth part along rows, and local excesses are those over the average of the full residual. Blobs
        along rows are only where their band is significantly above all of that and the full 1/f noise.
        """
        xp, rings = self.device.xp, self.rings
        known = weights > 0
        without_rows = residual - self._along_rows(residual, noise, known)
        bands = [(band, image) for image in (without_rows, residual) for band in self._bands]
        bands = self._share(lambda pair: pair[0].of(pair[1], weights, self.device), [*bands, (self._long, residual)])
        of_bases, of_bands, of_long = bands[: len(self._bands)], bands[len(self._bands) : -1], bands[-1]
        found = []
        for j, (band, widths) in enumerate(zip(self._bands, self._widths, strict=True)):
            below = (NOISE[j] * band.white) * noise
            for smaller, variance in zip(self._widths, found, strict=False):
                below = below + variance * band.share(smaller)
            base = rings.clipped_means(of_bases[j] ** 2, known)
            base = xp.maximum(base - rings.means(below, known), 0)
            squares = of_bands[j] ** 2
            usual = xp.maximum(below + base, rings.clipped_means(squares, known))
            excess = xp.maximum(self._local_excess(squares, usual, widths), self._spots(squares, usual, widths))
            found.append(((base + excess) / band.share(widths)).astype(np.float32))
        usual = (NOISE[0] * self._long.white) * noise + self._of_readout
        for widths, variance in zip(self._widths, found, strict=True):
            usual = usual + variance * self._long.share(widths)
        squares = of_long**2
        found.append((self._local_excess(squares, usual, LONG) / self._long.share(LONG)).astype(np.float32))
        return found

    def _local_excess(self, squares, usual, widths):
        """Return how much the local mean of squares is above the usual one, where that is significant."""
        n = max(2 * WINDOW**2, 1)  # independent values in the window
        local = smooth(squares, tuple(WINDOW * width for width in widths), self.device)
        limit = usual * np.float32(1 + SIGNIFICANT * np.sqrt(2 / n))
        return self.device.xp.where(local > limit, local - usual, 0)

    def _spots(self, squares, usual, widths):
        """Return the same for single places that are significant."""
        xp = self.device.xp
        spots = xp.where(squares > SIGNIFICANT**2 * usual, squares, np.float32(0))
        return xp.maximum(2 * smooth(spots, widths, self.device) - usual, 0)

    def _along_rows(self, residual, noise, known):
        """Return the smooth part of the residual along rows, to which bright pixels contribute little."""
        brightness = _mean(residual, known.astype(np.float32), (1.0, 1.0), self.device)
        weights = self.device.xp.where(known, 1 / (noise + (brightness / 2) ** 2), 0).astype(np.float32)
        return _mean(residual, weights, (0, ALONG_ROWS), self.device)


def _mean(image, weights, sigma, device):
    """Return the weighted local mean of an image."""
    total = smooth(weights, sigma, device)
    return smooth(weights * image, sigma, device) / device.xp.maximum(total, np.float32(1e-30))


def _kernel(sigma):
    reach = int(TRUNCATE * sigma + 0.5)
    values = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return values / values.sum()
