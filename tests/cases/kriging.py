"""Simulated 1/f noise, ramps and scenes for the tests of kriging."""

from types import SimpleNamespace

import numpy as np

from gpucoron.backends.devices.numpy_device import NumpyDevice

#: time between two rows, in pixels
OVERHEAD = 12


def make_1overf(rng, shape, amplitude, exponent, noutputs=1, own=0.0):
    """Simulate frames with the power ``amplitude f^-exponent``, f in cycles per pixel of the readout.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (..., ny, nx)
    amplitude, exponent : float
        Of the noise that all outputs have in common.
    noutputs : int
        Outputs side by side; every second one is read from its end.
    own : float
        Amplitude of the noise of each output.

    Returns
    -------
    (..., ny, nx) float32
        In the order of readout.
    """
    *leading, ny, nx = shape
    width = nx // noutputs
    n = 2 * ny * (width + OVERHEAD)  # twice as long: the noise is not periodic in a frame
    frequencies = np.fft.rfftfreq(n)
    frequencies[0] = np.inf

    def draw(number, strength):
        spectrum = np.fft.rfft(rng.normal(size=(*leading, number, n))) * np.sqrt(strength * frequencies**-exponent)
        rows = np.fft.irfft(spectrum, n)[..., : n // 2].reshape(*leading, number, ny, width + OVERHEAD)
        return rows[..., :width]

    outputs = draw(1, amplitude) + draw(noutputs, own)
    parts = [outputs[..., k, :, :: -1 if k % 2 else 1] for k in range(noutputs)]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def make_scene(shape, star, companions=(), halo=1.0, ring=40.0):
    """Make count rates, DN/s: a halo around a star that falls with the radius, and companions (x, y, flux)."""
    y, x = np.indices(shape)
    radius = np.hypot(x - star[0], y - star[1])
    scene = halo * ring / (1 + (radius / 3) ** 2)
    for at_x, at_y, flux in companions:
        scene = scene + flux * make_psf(shape, at_x, at_y)
    return scene


def make_psf(shape, x, y, sigma=0.98):
    """Make a PSF with flux 1: a Gaussian."""
    rows, columns = np.indices(shape)
    psf = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return psf / psf.sum()


def make_ramps(rng, scene, times, *, nints=1, gain=2.0, readnoise=8.0, noise=None):
    """Simulate linear ramps with photon noise, read noise and, optionally, frames of other noise.

    Parameters
    ----------
    rng : numpy.random.Generator
    scene : (ny, nx), DN/s
    times : (ngroups,) float, s
    nints : int
    gain : float, e-/DN
    readnoise : float, DN
        Of the difference of two groups.
    noise : (nints, ngroups, ny, nx), optional

    Returns
    -------
    namespace with ``data``, ``groupdq``, ``gain``, ``readnoise``
    """
    steps = np.diff(times, prepend=0.0)[:, None, None]
    electrons = rng.poisson(np.broadcast_to(scene * gain * steps, (nints, len(times), *scene.shape)))
    data = electrons.cumsum(axis=1) / gain + rng.normal(0, readnoise / np.sqrt(2), electrons.shape)
    data += 1000 + rng.normal(0, 20, (nints, 1, 1, 1))
    if noise is not None:
        data += noise
    images = (np.full(scene.shape, value, np.float32) for value in (gain, readnoise))
    return SimpleNamespace(
        data=data.astype(np.float32), groupdq=np.zeros(data.shape, np.uint8),
        gain=next(images), readnoise=next(images),
    )  # fmt: skip


def on_threads(n_threads):
    """Return a host device with a number of threads."""
    return NumpyDevice(n_threads)
