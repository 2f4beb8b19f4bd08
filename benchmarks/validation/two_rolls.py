"""What is measured in the difference of two rolls, and the comparison of choices with a base on the same seeds.

Each candidate changes one setting of its base. Besides the noise in rings, which is robust, the false peaks show the
outliers that survive, and the pulls show whether ERR describes the noise.
"""

from dataclasses import dataclass

import numpy as np
import scenes
from common import over_seeds, width
from scipy.ndimage import gaussian_filter, maximum_filter

#: significance of a companion, in the noise of its ring
SIGNIFICANT = 5.0
#: rings within this separation are the inner ones, arcsec
INNER = 1.5


@dataclass(frozen=True)
class View:
    """The geometry of an image: ``shape`` (ny, nx), ``scale`` in arcsec, ``fwhm`` in pixels, edges of the rings."""

    shape: tuple
    scale: float
    fwhm: float
    rings: tuple

    @property
    def sigma(self):
        return self.fwhm / 2.355

    def radius(self):
        """Compute the distance of each pixel from the centre, arcsec."""
        y, x = np.indices(self.shape)
        return np.hypot(x - (self.shape[1] - 1) / 2, y - (self.shape[0] - 1) / 2) * self.scale

    def annuli(self):
        """List the rings, each (ny, nx) bool."""
        r = self.radius()
        return [(r >= low) & (r < high) for low, high in zip(self.rings[:-1], self.rings[1:], strict=True)]

    def is_inner(self):
        return np.array(self.rings[1:]) <= INNER

    def companion(self, flux, separation, angle):
        """Make a point source at a separation (arcsec) and an angle (degrees), (ny, nx) float32."""
        y, x = np.indices(self.shape)
        r, phi = separation / self.scale, np.deg2rad(angle)
        dx = x - (self.shape[1] - 1) / 2 - r * np.cos(phi)
        dy = y - (self.shape[0] - 1) / 2 - r * np.sin(phi)
        spread = np.exp(-(dx**2 + dy**2) / (2 * self.sigma**2)) / (2 * np.pi * self.sigma**2)
        return (flux * spread).astype(np.float32)


def filter_difference(difference, view):
    """Apply the matched filter of a companion, normalised to its flux; NaN is ignored."""
    known = np.isfinite(difference)
    weight = gaussian_filter(known.astype(float), view.sigma)
    filtered = gaussian_filter(np.where(known, difference, 0.0), view.sigma) / np.maximum(weight, 0.3)
    return filtered * (4 * np.pi * view.sigma**2)


def is_clean(signal, view):
    """Return where the light of the companion in the difference is negligible, (ny, nx) bool."""
    return gaussian_filter(abs(signal), 2 * view.sigma) < 1e-3 * abs(signal).max()


def measure(rates, errors, signal, star, view):
    """Measure the difference of two rolls.

    Parameters
    ----------
    rates, errors : pairs of (ny, nx) float, e-/s
        NaN for pixels without a rate.
    signal : (ny, nx) float, e-/s
        The companion's light in the difference.
    star : float, e-/s
    view : View

    Returns
    -------
    dict
        ``contrast``: 5-sigma noise of each ring relative to the star. ``scatter``: noise of single pixels in each ring,
        e-/s, more precise where pixels are independent. ``kept``: fraction of the companion's flux.
        ``pull_width``: width of difference / ERR. ``far``: differences beyond 5 ERR, per million. ``false_peaks``:
        peaks beyond 5 times the noise of their ring. ``lost``: pixels without a rate, per million.
    """
    difference = rates[0].astype(float) - rates[1]
    filtered, clean = filter_difference(difference, view), is_clean(signal, view)
    peak = maximum_filter(abs(filtered), size=2 * round(view.fwhm) + 1) == abs(filtered)
    rings = [ring & clean for ring in view.annuli()]
    noise = np.array([width(filtered[ring]) for ring in rings])
    for ring in rings:
        # a common offset makes no peaks
        filtered[ring] -= np.median(filtered[ring])
    false = sum(
        int((peak & ring & (abs(filtered) > SIGNIFICANT * sigma)).sum())
        for ring, sigma in zip(rings, noise, strict=True)
    )
    used = np.any(rings, axis=0)
    pull = ((difference - np.nanmedian(difference[used])) / np.hypot(*errors))[used]
    known = np.isfinite(pull)
    return {
        "contrast": SIGNIFICANT * noise / star,
        "scatter": np.array([width(difference[ring]) for ring in rings]),
        "kept": scenes.share_kept(difference, signal),
        "pull_width": width(pull),
        "far": 1e6 * (abs(pull[known]) > SIGNIFICANT).mean(),
        "false_peaks": false,
        "lost": 1e6 * (~known).mean(),
    }


def compare(samples, bases, view):
    """Average the measurements over the seeds, and compare the noise with that of a base on the same seeds.

    Parameters
    ----------
    samples : dict
        choice -> for each seed the result of `measure`.
    bases : dict
        choice -> the choice with which it is compared.
    view : View

    Returns
    -------
    dict
        choice -> figure -> ``mean`` and ``error``, and ``base``. ``inner`` and ``outer`` are ratios of noise, averaged
        over rings; ``pixels_inner`` and ``pixels_outer`` those of the noise of single pixels; ``contrast`` is that of
        the first choice only.
    """
    inner = view.is_inner()
    result = {}
    for choice, of_seeds in samples.items():
        of_base = samples[bases[choice]]
        ratio = _all(of_seeds, "contrast") / _all(of_base, "contrast")
        of_pixels = _all(of_seeds, "scatter") / _all(of_base, "scatter")
        result[choice] = {"base": bases[choice], "ratio": over_seeds(ratio)}
        for name, where in (("inner", inner), ("outer", ~inner)):
            result[choice][name] = over_seeds(ratio[:, where].mean(axis=1))
            result[choice][f"pixels_{name}"] = over_seeds(of_pixels[:, where].mean(axis=1))
        for name in ("kept", "pull_width", "far", "false_peaks", "lost"):
            result[choice][name] = over_seeds([sample[name] for sample in of_seeds])
    first = next(iter(samples))
    result[first]["contrast"] = over_seeds(_all(samples[first], "contrast"))
    return result


def _all(of_seeds, name):
    return np.array([sample[name] for sample in of_seeds])
