"""The 1/f noise of the differences of integrations from their mean, which show no scene."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.blas import one_blas_thread
from gpucoron.backends.operations.subtract_1overf.frames import for_each_frame
from gpucoron.backends.operations.subtract_1overf.kriging import krige, row_means
from gpucoron.backends.operations.subtract_1overf.readout import Readout, variance_of
from gpucoron.backends.operations.subtract_1overf.spectrum import Spectrum

#: differences beyond so many sigma, also of 1/f noise, are left out
OUTLYING = 5


@dataclass(frozen=True)
class DifferenceSettings:
    """Parameters of the kriging of differences.

    Attributes
    ----------
    spectrum : Spectrum or None
        Power of their 1/f noise, in the square of their unit. None: weighted means of the rows.
    noutputs : int
        Outputs side by side along the rows.
    """

    spectrum: Spectrum | None = None
    noutputs: int = 1


def krige_differences(device, images, variances, *, settings):
    """Estimate the 1/f noise of images without a scene.

    Parameters
    ----------
    device : Device
    images : (n, ny, nx) float32
        In the order of readout: rows along the fast axis, the first pixel read first.
    variances : (n, ny, nx) float32
        Without 1/f noise; infinite or NaN where the value is unknown.
    settings : DifferenceSettings

    Returns
    -------
    (n, ny, nx) float32
    """
    xp = device.xp
    noise = xp.empty(images.shape, np.float32)
    readout = Readout(images.shape[1:], settings.noutputs)
    powers = None if settings.spectrum is None else settings.spectrum.powers(readout)

    def estimate(index):
        noise[index] = _estimate(images[index], variances[index], powers, readout, device)

    with one_blas_thread():
        for_each_frame(estimate, len(images), device.n_threads if device.on_host else 1)
    return noise


def _estimate(image, variance, powers, readout, device):
    xp = device.xp
    known = xp.isfinite(image) & xp.isfinite(variance) & (variance > 0)
    image, variance = xp.where(known, image, np.float32(0)), xp.where(known, variance, np.float32(1))
    weights = xp.where(known, 1 / variance, np.float32(0)).astype(np.float32)
    offset = (weights * image).sum() / xp.maximum(weights.sum(), np.float32(1e-30))
    image = image - offset
    if powers is None:
        outputs = (readout.ny, readout.noutputs, readout.width)
        means = row_means(image.reshape(outputs), weights.reshape(outputs), xp)
        return offset + xp.broadcast_to(means, outputs).reshape(image.shape)
    of_noise = sum(variance_of(power, readout) for power in powers)
    usual = image**2 <= OUTLYING**2 * (variance + np.float32(of_noise))
    return offset + krige(image, weights * usual, powers, readout, device)
