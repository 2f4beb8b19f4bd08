"""Simulate a coronagraphic observation of a star with a planet, and measure the planet after PSF subtraction.

The observation has two rolls of the star, a reference star, target acquisitions and, for MIRI, backgrounds. It is for
tests of the stages after stage 1.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpucoron.simulate import Scene, simulate, write_later_references, write_references
from gpucoron.simulate.detectors import DETECTORS
from gpucoron.simulate.later_references import PHOTMJSR

#: instrument -> (subarray, read pattern, groups, integrations, scene)
SETTINGS = {
    "NIRCAM": ("SUB320A335R", "SHALLOW4", 5, 4, Scene(star=1e7, companion_contrast=1e-4, background=0.5)),
    "MIRI": (
        "MASK1550",
        "FASTR1",
        25,
        4,
        Scene(star=3e7, halo=1e-4, companion_contrast=6e-4, companion_offset=(24.0, 14.0), background=100.0),
    ),
}
ROLLS = (0.0, 12.0)


@dataclass(frozen=True)
class Observation:
    """The simulated files: paths of the exposures by role, the CRDS cache, and the exposure at roll 0."""

    paths: dict
    cache: object
    first: object

    @property
    def fwhm(self):
        """Width of the simulated planet, pixels."""
        return DETECTORS[self.first.subarray.detector].fwhm

    @property
    def flux(self):
        """Flux of the planet in stage-2 units: MJy/sr, summed over its pixels."""
        sub = self.first.subarray
        return self.first.truth.companion_rate / DETECTORS[sub.detector].gain * PHOTMJSR[sub.instrument]

    def locate(self, header):
        """Return the planet's offset from the star with north up, east left, pixels, from the WCS of a rate at roll 0.

        Parameters
        ----------
        header : astropy.io.fits.Header
            Of the SCI extension.
        """
        (x0, y0), (x, y) = self.first.truth.star, self.first.truth.companion
        matrix = np.array([[header[f"PC{i}_{j}"] * header[f"CDELT{i}"] for j in (1, 2)] for i in (1, 2)])
        east, north = matrix @ (x - x0, y - y0) * 3600
        scale = np.sqrt(abs(np.linalg.det(matrix))) * 3600
        return -east / scale, north / scale


def observe(instrument, folder, *, shape=None, roles=("SCI", "REF", "TA", "BG")):
    """Simulate an observation into `folder`/raw, and its references of all stages into `folder`/crds.

    Parameters
    ----------
    instrument : {'NIRCAM', 'MIRI'}
    folder : path
    shape : (ny, nx) or None
        A part of the subarray.
    roles : tuple of str
        BG only for MIRI.

    Returns
    -------
    Observation
    """
    folder = Path(folder)
    subarray, pattern, ngroups, nints, scene = SETTINGS[instrument]
    # The reference star is brighter and has no planet.
    other = replace(scene, companion_contrast=0.0, star=1.3 * scene.star)
    empty = replace(scene, companion_contrast=0.0, star=0.0)
    acquisition = replace(scene, companion_contrast=0.0, star=1e-2 * scene.star)
    expected = [("SCI", scene, {"roll": roll}) for roll in ROLLS]
    expected += [("REF", other, {})]
    expected += [("TA", acquisition, {}), ("TA", acquisition, {"target": "REFERENCE"})]
    if instrument == "MIRI":
        expected += [("BG", empty, {}), ("BG", empty, {"target": "REFERENCE-BG"})]
    simulations, paths = [], {}
    for number, (role, sky, settings) in enumerate(expected, 1):
        if role not in roles:
            continue
        simulation = simulate(
            instrument, subarray, pattern, ngroups, 1 if role == "TA" else nints,
            scene=sky, seed=number, observation=number, role=role, shape=None if role == "TA" else shape, **settings,
        )  # fmt: skip
        paths.setdefault(role, []).append(simulation.write(folder_of(folder)))
        simulations.append(simulation)
    write_references(simulations, folder / "crds")
    cache = write_later_references(simulations, folder / "crds")
    return Observation(paths, cache, simulations[0])


def folder_of(folder):
    """Return the folder of the raw files."""
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    return raw


@dataclass(frozen=True)
class Found:
    """A measured planet: offset from the star with north up (pixels), flux, and peak over the surrounding scatter."""

    dx: float
    dy: float
    flux: float
    signal_to_noise: float


def measure(image, center, expected, fwhm):
    """Measure the planet: fit a Gaussian of known width to the pixels around the brightest one near `expected`.

    Parameters
    ----------
    image : (ny, nx)
        After PSF subtraction, north up; NaN where there are no data.
    center : (float, float)
        Position of the star, 0-based (x, y).
    expected : (float, float)
        Expected position of the planet, pixels from the star; it is searched within two fwhm.
    fwhm : float

    Returns
    -------
    Found
    """
    from scipy.optimize import least_squares

    y, x = np.indices(image.shape)
    x, y = x - center[0], y - center[1]
    near = np.hypot(x - expected[0], y - expected[1]) < 2 * fwhm
    peak = np.nanargmax(np.where(near, image, np.nan))
    start = x.flat[peak], y.flat[peak]
    stamp = (np.hypot(x - start[0], y - start[1]) < 1.5 * fwhm) & np.isfinite(image)
    sigma = fwhm / 2.355

    def residual(values):
        amplitude, dx, dy, floor = values
        model = amplitude * np.exp(-((x[stamp] - dx) ** 2 + (y[stamp] - dy) ** 2) / (2 * sigma**2)) + floor
        return model - image[stamp]

    amplitude, dx, dy, _floor = least_squares(residual, [image.flat[peak], *start, 0.0]).x
    # Scatter in a ring at the radius of the planet, excluding the planet.
    ring = abs(np.hypot(x, y) - np.hypot(*expected)) < fwhm
    ring &= (np.hypot(x - dx, y - dy) > 3 * fwhm) & np.isfinite(image)
    scatter = 1.4826 * np.median(abs(image[ring] - np.median(image[ring])))
    return Found(float(dx), float(dy), float(2 * np.pi * sigma**2 * amplitude), float(amplitude / scatter))


def subtract(science, references, folder, *, mode="ADI+RDI", numbasis=3, **options):
    """Subtract the star with pyKLIP; return the image with north up and the position of the star in it.

    Parameters
    ----------
    science, references : list of path
        Stage-2 products.
    folder : path
        Output folder of pyKLIP.
    mode : str
    numbasis : int
        Number of KL modes.
    **options
        For ``JWSTData``.

    Returns
    -------
    image : (ny, nx)
    center : (float, float)
    """
    from pyklip import parallelized
    from pyklip.instruments.JWST import JWSTData

    Path(folder).mkdir(parents=True, exist_ok=True)
    dataset = JWSTData([str(path) for path in science], [str(path) for path in references], **options)
    parallelized.klip_dataset(
        dataset, mode=mode, outputdir=str(folder), fileprefix=mode, annuli=1, subsections=1, numbasis=[numbasis],
        movement=1.0, calibrate_flux=False, psf_library=dataset.psflib, aligned_center=dataset.psflib.aligned_center,
        highpass=False, numthreads=1, verbose=False,
    )  # fmt: skip
    from astropy.io import fits

    path = Path(folder) / f"{mode}-KLmodes-all.fits"
    header = fits.getheader(path)
    return fits.getdata(path)[0], (header["PSFCENTX"], header["PSFCENTY"])
