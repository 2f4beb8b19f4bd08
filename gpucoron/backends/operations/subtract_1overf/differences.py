"""The 1/f noise of the differences of integrations from their mean, which show no scene."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.operations.subtract_1overf.frames import for_each_block
from gpucoron.backends.operations.subtract_1overf.kriging import krige, means_of_rows
from gpucoron.backends.operations.subtract_1overf.readout import Readout, variance_of
from gpucoron.backends.operations.subtract_1overf.spectrum import Spectrum

#: differences beyond so many sigma, also of 1/f noise, are left out
OUTLYING = 5
#: bytes per pixel of an image while it is kriged
_KRIGED = 60


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

    def estimate(part):
        noise[part] = _estimate(images[part], variances[part], powers, readout, device)

    for_each_block(estimate, len(images), device, _KRIGED * images[0].size)
    return noise


def _estimate(images, variances, powers, readout, device):
    xp = device.xp
    known = xp.isfinite(images) & xp.isfinite(variances) & (variances > 0)
    images, variances = xp.where(known, images, np.float32(0)), xp.where(known, variances, np.float32(1))
    weights = xp.where(known, 1 / variances, np.float32(0)).astype(np.float32)
    total = weights.sum(axis=(1, 2), keepdims=True)
    offsets = (weights * images).sum(axis=(1, 2), keepdims=True) / xp.maximum(total, np.float32(1e-30))
    images = images - offsets
    if powers is None:
        return offsets + means_of_rows(images, weights, readout.noutputs, xp)
    of_noise = sum(variance_of(power, readout) for power in powers)
    usual = images**2 <= OUTLYING**2 * (variances + np.float32(of_noise))
    return offsets + krige(images, weights * usual, powers, readout, device)
