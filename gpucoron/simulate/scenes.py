"""The light on a simulated detector: a star behind a mask, its speckles, a companion and the background."""

from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage


@dataclass(frozen=True)
class Scene:
    """The light on the detector, in electrons.

    Attributes
    ----------
    star : float
        Electrons per second of the star without the mask.
    halo : float
        Peak of the residual halo per pixel, relative to the star.
    slope : float
        The halo decreases as 1/r**slope.
    speckle : float
        rms of the speckles, relative to the mean halo.
    companion_contrast : float
        Flux of the companion, relative to the star.
    companion_offset : tuple of float
        (dx, dy) from the star, pixels.
    background : float
        e-/s/pixel
    center : tuple of float or None
        Position of the mask, 0-based (x, y); by default the centre of the array.
    seed : int
        Seed of the speckles; part of the scene, so that all segments of an exposure have the same speckles.
    shift : tuple of float
        (dx, dy) of the star from the centre of the mask, pixels. The halo, the speckles and the companion move with it.
    """

    star: float = 1e7
    halo: float = 3e-5
    slope: float = 2.5
    speckle: float = 0.4
    companion_contrast: float = 1e-4
    companion_offset: tuple = (20.0, 12.0)
    background: float = 0.5
    center: tuple | None = None
    seed: int = 0
    shift: tuple = (0.0, 0.0)

    def locate(self, shape):
        """Return the positions of the star and its companion, 0-based: ``((x, y), (x, y))``."""
        ny, nx = shape
        x, y = self.center or ((nx - 1) / 2, (ny - 1) / 2)
        x, y = x + self.shift[0], y + self.shift[1]
        return (x, y), (x + self.companion_offset[0], y + self.companion_offset[1])

    def turned(self, roll):
        """Return the scene for a telescope rolled by `roll` degrees, on square pixels."""
        angle = np.radians(roll)
        (x, y), cosine, sine = self.companion_offset, np.cos(angle), np.sin(angle)
        return replace(self, companion_offset=(float(x * cosine + y * sine), float(y * cosine - x * sine)))

    def render(self, shape, fwhm):
        """Render the scene, (ny, nx) float32 e-/s; `fwhm` is that of the companion and of speckles, in pixels."""
        (x0, y0), _companion = self.locate(shape)
        y, x = np.indices(shape, dtype=np.float32)
        r = np.hypot(x - x0, y - y0) / (3 * fwhm)
        # Dark behind the mask, brightest at its edge (three fwhm from the star), a power law beyond.
        halo = r**2 / (1 + r ** (2 + self.slope)) * 2
        rng = np.random.default_rng([self.seed, 57])
        speckles = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), fwhm / 2.355)
        rms = speckles.std() or 1.0  # a single pixel has no speckles
        if any(self.shift):
            speckles = scipy.ndimage.shift(speckles, self.shift[::-1], mode="nearest")
        halo *= np.maximum(1 + self.speckle * speckles / rms, 0.05)
        companion = self.render_companion(shape, fwhm)
        return (self.star * self.halo * halo + companion + self.background).astype(np.float32)

    def render_companion(self, shape, fwhm):
        """Render the companion alone, (ny, nx) float32 e-/s."""
        _star, (xc, yc) = self.locate(shape)
        y, x = np.indices(shape, dtype=np.float32)
        sigma = fwhm / 2.355
        spread = np.exp(-((x - xc) ** 2 + (y - yc) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        return self.star * self.companion_contrast * spread


#: MIRI has a bright background and short exposures, so its star is brighter
SCENES = {"NIRCAM": Scene(), "MIRI": Scene(star=3e7, halo=1e-4, background=100.0)}

#: role of an exposure -> default name of its target in the proposal
ROLES = {"SCI": "SIMULATED", "REF": "REFERENCE", "TA": "SIMULATED", "BG": "SIMULATED-BG"}


def usual_scene(instrument, role="SCI"):
    """Return the default scene of an instrument and a role: no companion in a REF or BG, and no star in a BG."""
    without = {"REF": {"companion_contrast": 0.0}, "BG": {"companion_contrast": 0.0, "star": 0.0}}
    return replace(SCENES[instrument], **without.get(role, {}))
