"""Images behind a coronagraph for validation, e-/s, and the place of the star; all are independent of the noise.

Each scene is ``(image, center)``: (ny, nx) float32, and the 0-based (x, y) of the star. Those that are drawn here have
``scenes.SHAPE`` and the star in the centre.
"""

import numpy as np
import scenes
from common import PIXEL_SCALE
from scipy.ndimage import gaussian_filter

from gpucoron.simulate import Scene

SEED = 20
HALO = 1e-5
FAINT_STAR = 1e6
#: half width of the bar, pixels, and its transmission
BAR = 6.0, 0.02
#: position angles of the diffraction spikes and of the struts, degrees from x
SPIKES = (0.0, 60.0, 120.0)
STRUTS = (90.0,)
#: (separation in arcsec, angle in degrees): two in each ring; no two share a row or a column
COMPANIONS = (
    (0.6, 38), (0.75, 185), (1.25, 332), (1.5, 258), (2.0, 209), (2.3, 238), (2.9, 148), (3.5, 44),
)  # fmt: skip


def make_scenes(path=None):
    """Make all scenes: name -> (image, center); with a path, also the images of its npz file."""
    made = {
        "halo": halo(scenes.STAR),
        "faint": halo(FAINT_STAR),
        "stars": halo(scenes.STAR) + field_of_stars(),
        "spikes": spikes(),
        "bar": bar(),
    }
    found = {name: (image.astype(np.float32), scenes.center()) for name, image in made.items()}
    return found | (read_scenes(path) if path else {})


def read_scenes(path):
    """Read the images of an npz file, e-/s, as ``real 1``, ...: each NAME beside NAME_center, the star's (y, x).

    The whole image is used. The star is so far from its edges that it contains all companions. Negative values, which
    are noise, become 0.
    """
    farthest = max(separation for separation, _ in COMPANIONS) / PIXEL_SCALE["NIRCAM"] + 2 * scenes.FWHM
    found = {}
    with np.load(path) as file:
        for name in file.files:
            if f"{name}_center" not in file.files:
                continue
            image, place = np.nan_to_num(file[name]), file[f"{name}_center"].astype(float)
            if min(*place, *(np.array(image.shape) - 1 - place)) < farthest:
                msg = f"{name}: expected a star at least {farthest:.0f} pixels from the edges, got {place.tolist()}"
                raise ValueError(f"{msg} in {image.shape}")
            y, x = place
            found[f"real {len(found) + 1}"] = (np.maximum(image, 0).astype(np.float32), (float(x), float(y)))
    return found


def halo(star):
    """Render the speckled halo of a star, (ny, nx) e-/s, as in subtract_1overf.py."""
    return Scene(star=star, halo=HALO, companion_contrast=0.0).render(scenes.SHAPE, scenes.FWHM)


def field_of_stars(n_stars=15, n_galaxies=8):
    """Render stars of 3 to 3000 e-/s and exponential galaxies with half-light radii of 2 to 8 pixels, (ny, nx) e-/s."""
    rng = np.random.default_rng([SEED, 1])
    y, x = np.indices(scenes.SHAPE)
    sigma = scenes.FWHM / 2.355
    image = np.zeros(scenes.SHAPE)
    for flux in np.geomspace(3, 3000, n_stars):
        x0, y0 = rng.uniform(5, scenes.SHAPE[1] - 5, 2)
        image += flux * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    for half_light, flux in zip(np.linspace(2, 8, n_galaxies), np.geomspace(30, 1000, n_galaxies), strict=True):
        x0, y0 = rng.uniform(10, scenes.SHAPE[1] - 10, 2)
        angle, flattening = rng.uniform(0, np.pi), rng.uniform(0.3, 1)
        along, across = rotate(x - x0, y - y0, angle)
        # an exponential disc has half of its light within 1.678 scale lengths
        profile = np.exp(-1.678 * np.hypot(along, across / flattening) / half_light)
        image += flux * gaussian_filter(profile / profile.sum(), sigma)
    return image


def rotate(dx, dy, angle):
    """Return the offsets along and across an axis at `angle`, rad."""
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def spikes():
    """Render a bright star behind a round mask, (ny, nx) e-/s: radial speckles, six diffraction spikes and two struts.

    Within 30 pixels, bright speckles reach some hundred e-/s, and beyond them the light decreases as 1/r**3 with radial
    streaks; this resembles AU Mic behind MASK335R.
    """
    rng = np.random.default_rng([SEED, 2])
    y, x = np.indices(scenes.SHAPE)
    x0, y0 = scenes.center()
    r = np.hypot(x - x0, y - y0)
    phi = np.arctan2(y - y0, x - x0)
    speckles = gaussian_filter(rng.standard_normal(scenes.SHAPE), 1.5)
    speckles = np.exp(1.2 * speckles / speckles.std())
    # streaks: smooth noise of the angle alone
    angles = np.linspace(-np.pi, np.pi, 721)
    streak = gaussian_filter(rng.standard_normal(angles.size), 4, mode="wrap")
    streaks = np.exp(0.6 * np.interp(phi, angles, streak / streak.std()))
    inner = 40 * speckles / (1 + (r / 28) ** 8)
    outer = 12 * streaks / (1 + (r / 28) ** 3)
    image = inner + outer
    for angle in (*SPIKES, *STRUTS):
        width = 2.5 if angle in SPIKES else 1.2
        _, across = rotate(x - x0, y - y0, np.deg2rad(angle))
        # 1/r**1.5 along a spike that spans the star
        image += 250 * np.exp(-((across / width) ** 2)) / (1 + r / 6) ** 1.5
    # behind the mask the star is dark
    return image * (0.1 + 0.9 * (1 - np.exp(-((r / 6) ** 2)))) + 0.5


def bar():
    """Render a star behind a horizontal bar, (ny, nx) e-/s: a halo with bright lobes above and below it."""
    y, x = np.indices(scenes.SHAPE)
    x0, y0 = scenes.center()
    half_width, transmission = BAR
    lobes = sum(
        300 * np.exp(-(((x - x0) / 5) ** 2) - (((y - y0 - side * (half_width + 3)) / 2.5) ** 2)) for side in (-1, 1)
    )
    behind = 1 / (1 + np.exp((abs(y - y0) - half_width) / 0.5))
    return (halo(scenes.STAR) + lobes) * (1 - (1 - transmission) * behind)


def companions(contrast, center, shape=scenes.SHAPE, places=COMPANIONS):
    """Render companions of the bright star one by one, (n, ny, nx) e-/s; `places` are as in ``COMPANIONS``."""
    y, x = np.indices(shape)
    sigma = scenes.FWHM / 2.355
    made = []
    for separation, angle in places:
        r, phi = separation / PIXEL_SCALE["NIRCAM"], np.deg2rad(angle)
        distance = (x - center[0] - r * np.cos(phi)) ** 2 + (y - center[1] - r * np.sin(phi)) ** 2
        made.append(scenes.STAR * contrast * np.exp(-distance / (2 * sigma**2)) / (2 * np.pi * sigma**2))
    return np.array(made, np.float32)


def extended_disc(peak, center, shape=scenes.SHAPE):
    """Render a disc inclined by 70 degrees with an exponential profile to the edge of the image, (ny, nx) e-/s."""
    y, x = np.indices(shape)
    along, across = rotate(x - center[0], y - center[1], np.deg2rad(30))
    r = np.hypot(along, across / np.cos(np.deg2rad(70)))
    return (peak * np.exp(-r / 30)).astype(np.float32)
