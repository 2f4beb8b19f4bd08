"""The scene of an image as a random field whose variance is estimated from the image: what 1/f noise is not.

The scene is a radial profile around the star and three fields of blobs: of the size of the PSF, and 3 and 9 times as
large. Each field has its own variance at every pixel.
"""

import numpy as np

#: radii at which the radial profile is free, pixels
KNOTS = (0, 3, 6, 9, 12, 16, 21, 28, 37, 50, 66, 88, 117, 156, 208, 300, 430, 600, 850, 1200, 1700, 2900)
#: widths (sigma) of the blobs, pixels; the first is that of the PSF of NIRCam's long-wavelength channel
WIDTHS = (0.98, 3.0, 9.0)
#: distance of two blobs, relative to their width: the variance of their sum is the same everywhere to 0.1 %
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
#: fewest pixels of a ring with a median of its own
FEWEST = 5
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
        xp = self.xp = device.xp
        y, x = np.indices(shape)
        radius = np.hypot(x - center[0], y - center[1])
        knots = np.array(KNOTS, float)
        last = np.searchsorted(knots, radius.max())
        knots = knots[: last + 1]
        self.n = len(knots)
        ring = np.clip(np.searchsorted(knots, radius, side="right") - 1, 0, self.n - 2)
        order = np.argsort(ring, axis=None, kind="stable")
        counts = np.bincount(ring.reshape(-1), minlength=self.n - 1)
        # the pixels of each ring in a row, which ends with copies of the first pixel
        place = np.arange(counts.max())
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        is_there = place < counts[:, None]
        self._members = xp.asarray(order[np.where(is_there, first[:, None] + place, 0)].astype(np.int32))
        self._is_there = xp.asarray(is_there)
        middles = (radius.reshape(-1)[order].cumsum()[np.cumsum(counts) - 1], counts)
        self._middles = np.diff(np.concatenate([[0], middles[0]])) / np.maximum(counts, 1)
        self._radius = radius.astype(np.float32)
        self._ring = xp.asarray(ring.reshape(-1))
        self._share = xp.asarray(((radius - knots[ring]) / (knots[ring + 1] - knots[ring])).astype(np.float32))
        self._index = xp.asarray(ring)
        self._on_device_radius = xp.asarray(self._radius)
        self._device = device

    def profile(self, values):
        """Return the image (ny, nx) of a profile with given values at the knots, (n,) float32."""
        return values[self._index] * (1 - self._share) + values[self._index + 1] * self._share

    def project(self, image):
        """Return the transpose of `profile`: (n,) float32."""
        low = self._sum(image * (1 - self._share))
        high = self._sum(image * self._share)
        low[1:] += high[:-1]
        return low.astype(np.float32)

    def gram(self, weights):
        """Return the products of all pairs of profiles, (n, n) float64 on the host, with weights (ny, nx)."""
        to_host, share = self._device.to_host, self._share
        both = to_host(self._sum(weights * share * (1 - share)))[:-1]
        same = to_host(self._sum(weights * (1 - share) ** 2))
        same[1:] += to_host(self._sum(weights * share**2))[:-1]
        return np.diag(same) + np.diag(both, 1) + np.diag(both, -1)

    def _sum(self, image):
        return self.xp.bincount(self._ring, weights=image.reshape(-1), minlength=self.n)

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
        values, count = self._device.to_host(values), self._device.to_host(count)
        enough = count >= FEWEST
        if not enough.any():
            return self.xp.zeros(self._radius.shape, np.float32)
        middles = self.xp.asarray(self._middles[enough]), self.xp.asarray(values[enough].astype(np.float64))
        return self.xp.interp(self._on_device_radius, *middles).astype(np.float32)


class Blobs:
    """A field of Gaussian blobs on a lattice; with white noise as their heights its variance is 1.

    Parameters
    ----------
    shape : (ny, nx)
    width : float
        Sigma, pixels.
    xp : module
    """

    def __init__(self, shape, width, xp):
        spacing = max(SPACING * width, 1.0)
        rows, columns = (_gaussians(n, width, spacing) for n in shape)
        self._rows, self._columns = xp.asarray(rows), xp.asarray(columns)
        self._rows_squared, self._columns_squared = self._rows**2, self._columns**2
        self.shape = rows.shape[1], columns.shape[1]
        self.size = self.shape[0] * self.shape[1]

    def field(self, heights):
        """Return the image (ny, nx) of blobs with given heights, (size,)."""
        return self._rows @ heights.reshape(self.shape) @ self._columns.T

    def project(self, image):
        """Return the transpose of `field`: (size,)."""
        return (self._rows.T @ image @ self._columns).reshape(-1)

    def norms(self, weights):
        """Return the squared norm of each blob with weights (ny, nx): (size,)."""
        return (self._rows_squared.T @ weights @ self._columns_squared).reshape(-1)


def _gaussians(n, width, spacing):
    """Return Gaussians on a lattice that reaches beyond both ends, (n, m) float32, with a mean sum of squares of 1."""
    m = int(np.ceil(n / spacing)) + 2
    middles = (n - 1) / 2 + (np.arange(m) - (m - 1) / 2) * spacing
    values = np.exp(-((np.arange(n)[:, None] - middles) ** 2) / (2 * width**2))
    return (values * np.sqrt(spacing / (width * np.sqrt(np.pi)))).astype(np.float32)


def smooth(image, sigma, device, axis=None):
    """Smooth an image by a Gaussian, or along one axis, with zeros outside."""
    sigma = sigma if axis is None else tuple(sigma if k == axis else 0 for k in range(2))
    return device.ndimage.gaussian_filter(image, sigma, mode="constant", truncate=TRUNCATE)


class Scene:
    """Estimates the variances of the three fields.

    Parameters
    ----------
    shape : (ny, nx)
    rings : Rings
    device : Device
    """

    def __init__(self, shape, rings, device):
        self.shape, self.rings, self.device = shape, rings, device
        self.blobs = [Blobs(shape, width, device.xp) for width in WIDTHS]
        # smoothing that keeps a blob's height, as the noise around it is small
        self._levels = [width / np.sqrt(2) for width in WIDTHS]
        self._white = [_white_noise(*pair) for pair in self._pairs()]

    def _pairs(self):
        return [
            (level, self._levels[j + 1] if j + 1 < len(self._levels) else None) for j, level in enumerate(self._levels)
        ]

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

        Notes
        -----
        A band of the residual is the difference of two smoothed images. In it, white noise has a known variance, and
        that of a field is a known share. The variance of a field is what its band has more than white noise and the
        fields of smaller blobs: on average over a ring, and beyond it in places where that is significant. What remains
        of 1/f noise must not count as scene: the averages over rings are those of a residual without its smooth part
        along rows, and local excesses are those over the average of the full residual.
        """
        device, xp, rings = self.device, self.device.xp, self.rings
        known = weights > 0
        bands = self._bands(residual, weights)
        bands_without_rows = self._bands(residual - self._along_rows(residual, noise, known), weights)
        found = []
        for j, width in enumerate(WIDTHS):
            below = (NOISE[j] * self._white[j]) * noise
            for k in range(j):
                below = below + found[k] * self._share(WIDTHS[k], j)
            base = rings.clipped_means(bands_without_rows[j] ** 2, known) - rings.means(below, known)
            base = xp.maximum(base, 0)
            squares = bands[j] ** 2
            usual = xp.maximum(below + base, rings.clipped_means(squares, known))
            # the local mean of n independent squares scatters by sqrt(2 / n) of them
            n = max(2 * WINDOW**2, 1)
            local = smooth(squares, WINDOW * width, device)
            local = xp.where(local > usual * (1 + SIGNIFICANT * np.sqrt(2 / n)), local - usual, 0)
            spots = 2 * smooth(xp.where(squares > SIGNIFICANT**2 * usual, squares, 0), width, device)
            spots = xp.maximum(spots - usual, 0)
            found.append(((base + xp.maximum(local, spots)) / self._share(width, j)).astype(np.float32))
        return found

    def _along_rows(self, residual, noise, known):
        """Return the smooth part of the residual along rows, to which bright pixels contribute little."""
        brightness = _mean(residual, known.astype(np.float32), 1.0, self.device)
        weights = self.device.xp.where(known, 1 / (noise + (brightness / 2) ** 2), 0).astype(np.float32)
        return _mean(residual, weights, ALONG_ROWS, self.device, axis=1)

    def _bands(self, residual, weights):
        levels = [_mean(residual, weights, level, self.device) for level in self._levels]
        return [level - after for level, after in zip(levels, [*levels[1:], 0], strict=True)]

    def _share(self, width, j):
        """Return the variance of a field in a band, of a field with variance 1."""
        level, following = self._pairs()[j]

        def part(sigma):
            return width**2 / (width**2 + sigma**2)

        if following is None:
            return part(level)
        return part(level) + part(following) - 2 * part(np.sqrt((level**2 + following**2) / 2))


def _mean(image, weights, sigma, device, axis=None):
    """Return the weighted local mean of an image."""
    total = smooth(weights, sigma, device, axis)
    return smooth(weights * image, sigma, device, axis) / device.xp.maximum(total, np.float32(1e-30))


def _white_noise(level, following):
    """Return the variance of white noise of variance 1 in the band between two smoothed images."""
    first = _kernel(level)
    if following is None:
        return (first**2).sum() ** 2
    second = _kernel(following)
    edge = (len(second) - len(first)) // 2
    common = (second[edge : edge + len(first)] * first).sum()
    return (first**2).sum() ** 2 + (second**2).sum() ** 2 - 2 * common**2


def _kernel(sigma):
    reach = int(TRUNCATE * sigma + 0.5)
    values = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return values / values.sum()
