"""The 1/f noise of an image of count rates, which also shows the scene: kriging with a random field for the scene."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.blas import one_blas_thread
from gpucoron.backends.operations.subtract_1overf.frames import one_by_one, sharing
from gpucoron.backends.operations.subtract_1overf.iterations import SlopeSystem, has_kernels, solve_by_kernels
from gpucoron.backends.operations.subtract_1overf.kriging import TOLERANCE, Sources, conjugate_gradients, means_of_rows
from gpucoron.backends.operations.subtract_1overf.readout import Readout
from gpucoron.backends.operations.subtract_1overf.scene import Rings, Scene, smooth
from gpucoron.backends.operations.subtract_1overf.spectrum import Spectrum

#: tolerances of the rounds, relative to the final one: only the last result is returned
ROUNDS = (10, 10, 1)
#: uncertainty of the scene's model, relative to the brightness
IMPERFECT = 0.02
#: slower variations, in rows, are left in the image
SLOW = 110
#: residuals beyond so many sigma are left out of the next round
OUTLYING = 6
#: the typical white noise is that of the quiet pixels: this percentile
QUIET = 25
#: fraction of the trace that makes the matrix of the radial profile invertible in rings without pixels
RIDGE = 1e-9


@dataclass(frozen=True)
class KrigingSettings:
    """Parameters of the kriging of count rates.

    Attributes
    ----------
    spectrum : Spectrum or None
        Power of the 1/f noise, in the square of the unit of the image. None: weighted means of the rows.
    center : (x, y) of float
        The star, pixels from 0.
    noutputs : int
        Outputs side by side along the rows.
    relaxation : float
        The residual may have this factor times the variance that it has with the smallest error; larger values remove
        less 1/f noise and less of the scene.
    """

    spectrum: Spectrum | None = None
    center: tuple = (0.0, 0.0)
    noutputs: int = 1
    relaxation: float = 2.0


def relax(power, noise, relaxation, readout):
    """Return the power of the part of the 1/f noise that is estimated: max(0, (C + V) / a - V), without slow noise.

    Without a scene, the part that is removed of a frequency becomes max(0, 1 - a V / (C + V)), instead of C / (C + V).
    No field of the scene is as large as variations over more than `SLOW` rows, which are left: discs would be lost.

    Parameters
    ----------
    power : (n // 2 + 1,) float64
        C, of the samples.
    noise : float
        V, the variance of the white noise of a pixel.
    relaxation : float
        a.
    readout : Readout

    Returns
    -------
    (n // 2 + 1,) float64
    """
    noise = noise / readout.bin_width
    periods = (readout.frequencies * readout.period * readout.bin_width * SLOW) ** 4
    return np.maximum((power + noise) / relaxation - noise, 0) * (periods / (1 + periods))


def krige_slopes(device, image, variance, is_reference=None, *, settings):
    """Estimate the 1/f noise of an image of count rates.

    The image is y = m(r) + s_1 + s_2 + s_3 + N + w: a radial profile around the star without constraints, random fields
    of the scene (`gpucoron.backends.operations.subtract_1overf.scene`), 1/f noise N of known power, and white noise w.
    N is its best linear estimate (kriging) for given variances of the fields. These are estimated from the residual
    y - m - N in three rounds, in which m are the medians of rings and not the solution, which would absorb the noise.
    Without a spectrum, N is the mean of each row of y - m, with little weight where m is bright.

    Parameters
    ----------
    device : Device
    image : (ny, nx) float32
        Rates, in the order of readout: rows along the fast axis, the first pixel read first.
    variance : (ny, nx) float32
        Variances without 1/f noise; infinite or NaN where the rate is unknown.
    is_reference : (ny, nx) bool, optional
        True for reference pixels, which see no scene.
    settings : KrigingSettings

    Returns
    -------
    (ny, nx) float32
        The noise also of unknown pixels; its constant is arbitrary.

    Notes
    -----
    New in gpucoron. The relaxation is that of Wiener filters with a constraint on the variance of the residual.
    """
    xp = device.xp
    image, variance = xp.asarray(image, np.float32), xp.asarray(variance, np.float32)
    with one_blas_thread(), sharing(device) as share:
        return _krige(device, image, variance, is_reference, settings, share)


def _krige(device, image, variance, is_reference, settings, share):
    xp = device.xp
    known = xp.isfinite(variance) & xp.isfinite(image) & (variance > 0)
    if not bool(known.any()):
        return xp.zeros(image.shape, np.float32)
    image = xp.where(known, image, np.float32(0))
    quiet = float(xp.percentile(variance[known], QUIET))
    variance = xp.where(known, variance, np.float32(quiet))
    sees = xp.ones(image.shape, np.float32)
    if is_reference is not None:
        sees[is_reference] = 0
    rings = _rings(image.shape, tuple(settings.center), device)
    profile = rings.medians(image, known & (sees > 0)) * sees
    weights = (known / (variance + (profile / 2) ** 2)).astype(np.float32)
    noise = means_of_rows(image - profile, weights, settings.noutputs, xp)
    if settings.spectrum is None:
        return noise
    readout = Readout(image.shape, settings.noutputs)
    powers = settings.spectrum.powers(readout)
    relaxed = [relax(power, quiet, settings.relaxation, readout) for power in powers]
    scene = Scene(image.shape, rings, sum(powers), readout, device, share)
    system = _System(Sources(relaxed, readout, device), rings, scene, sees, share)

    solution = None
    for tolerance in ROUNDS:
        profile = rings.medians(image - noise, known & (sees > 0)) * sees
        residual = image - noise - profile
        brightness = xp.maximum(abs(profile), abs(profile + _local_mean(residual, known, device)))
        total = variance + (IMPERFECT * brightness * sees) ** 2
        weights = xp.where(known, 1 / total, np.float32(0)).astype(np.float32)
        fields = scene.variances(residual, weights * sees, total)
        system.set_weights(weights, [xp.sqrt(field) * sees for field in fields])
        solution = system.solve(image, TOLERANCE * tolerance * image.size, solution)
        model, series = system.model(solution)
        noise = readout.scatter(series, xp)
        known = known & (abs(image - model) <= OUTLYING * xp.sqrt(total))
    return readout.interpolate(series, xp)


def _rings(shape, center, device):
    """Return the rings; on a GPU they are kept for the next image."""
    return device.keep(_make_rings, shape, center) if has_kernels(device) else Rings(shape, center, device)


def _make_rings(device, shape, center):
    return Rings(shape, center, device)


def _local_mean(residual, known, device):
    """Smooth the residual over about the size of the PSF."""
    there = known.astype(np.float32)
    return smooth(residual * there, 1.0, device) / device.xp.maximum(smooth(there, 1.0, device), np.float32(1e-6))


class _System:
    """The linear system (1 + B^T W B) z = B^T W y: z is white noise of the 1/f noise and the fields, and the profile.

    The parts of z are, one after the other, the amplitudes of 1/f noise, the heights of the blobs of each field, and
    the profile at its knots, which has no prior variance.
    """

    def __init__(self, sources, rings, scene, sees, share=one_by_one):
        self._share, self._device = share, scene.device
        self.sources, self.rings, self.blobs, self.sees = sources, rings, scene.blobs, sees
        self.readout, self.xp = sources.readout, sources.xp
        sizes = [sources.n * sources.length, *(blobs.size for blobs in self.blobs), rings.n]
        ends = np.cumsum(sizes)
        self.parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._size, self._with_prior = ends[-1], ends[-2]

    def set_weights(self, weights, sigmas):
        """Set the inverse variances (ny, nx) and the standard deviations of the fields, a list of (ny, nx)."""
        xp = self.xp
        self.weights, self.sigmas = weights, sigmas
        self.of_sources = self.sources.response(self.readout.gather(weights, xp))
        # neighbouring blobs overlap: the largest factor for smooth heights is about twice the diagonal
        self.of_blobs = [
            1 / (1 + 2 * blobs.norms(sigma**2 * weights)) for blobs, sigma in zip(self.blobs, sigmas, strict=True)
        ]
        gram = self.rings.gram(weights * self.sees)
        gram[np.diag_indices(len(gram))] += RIDGE * np.trace(gram) + np.finfo(np.float32).tiny
        self.of_profile = xp.asarray(np.linalg.inv(gram).astype(np.float32))

    def model(self, z):
        """Return the model (ny, nx) of an image and the series (noutputs, n) of its 1/f noise."""
        n_fields = len(self.blobs)

        def make(part):
            """Make the image of a field, or else of the profile, or the series."""
            values = z[self.parts[part + 1]]
            if part < 0:
                return self.sources.noise(values.reshape(self.sources.n, self.sources.length))
            if part < n_fields:
                return self.sigmas[part] * self.blobs[part].field(values)
            return self.rings.profile(values) * self.sees

        series, *fields, profile = self._share(make, range(-1, n_fields + 1))
        image = self.readout.scatter(series, self.xp)
        image = image + profile
        for field in fields:
            image += field
        return image, series

    def _project(self, image):
        """Return B^T of an image."""
        n_fields = len(self.blobs)
        z = self.xp.empty(self._size, np.float32)

        def project(part):
            """Find the part of a field, or else of the profile or the series."""
            if part < 0:
                values = self.sources.white(self.readout.gather(image, self.xp)).reshape(-1)
            elif part < n_fields:
                values = self.blobs[part].project(self.sigmas[part] * image)
            else:
                values = self.rings.project(image * self.sees)
            z[self.parts[part + 1]] = values

        self._share(project, range(-1, n_fields + 1))
        return z

    def _apply(self, z):
        product = self._project(self.weights * self.model(z)[0])
        product[: self._with_prior] += z[: self._with_prior]
        return product

    def _precondition(self, r):
        z = self.xp.empty_like(r)
        first = r[self.parts[0]].reshape(self.sources.n, self.sources.length)
        z[self.parts[0]] = (first * self.of_sources).reshape(-1)
        for diagonal, part in zip(self.of_blobs, self.parts[1:-1], strict=True):
            z[part] = diagonal * r[part]
        z[self.parts[-1]] = self.of_profile @ r[self.parts[-1]]
        return z

    def solve(self, image, limit, start=None):
        """Return z for an image (ny, nx), from a first guess."""
        right = self._project(self.weights * image)
        if not has_kernels(self._device):
            return conjugate_gradients(self._apply, right, self._precondition, limit, start=start)
        rest = None if start is None else right - self._apply(start)
        z = self._precondition(right if rest is None else rest)
        system = SlopeSystem(self, self._device)
        return solve_by_kernels(system, right, z, limit, start=start if start is None else start.copy(), rest=rest)
