"""What to expect of a simulated exposure: saturation, and the noise of the rate.

The predictions use the light, the dark current, the full wells and the read noise of each pixel, but no random numbers.
"""

from dataclasses import dataclass
from math import isfinite, nan, sqrt

import numpy as np

from gpucoron import dq
from gpucoron.interactive import Shown
from gpucoron.simulate.camera import RSCD_GROUPS


@dataclass(frozen=True, repr=False)
class Saturation(Shown):
    """When the pixels of a simulated exposure are expected to saturate. Cosmic rays and kTC noise are left out.

    Attributes
    ----------
    seconds : (ny, nx) float64
        Seconds after the reset until the pixel reaches its full well; inf without light and dark current.
    group : (ny, nx) int32
        First group (from 0) with a frame at the full well; `ngroups` if there is none.
    ngroups : int
    good : (ny, nx) bool
        Pixels with light and without DO_NOT_USE.
    companion : (int, int) or None
        Pixel (x, y) of the companion, if there is one in the array.
    """

    seconds: np.ndarray
    group: np.ndarray
    ngroups: int
    good: np.ndarray
    companion: tuple[int, int] | None

    def _summary(self):
        x, y = self.brightest
        first = f"the first after {self.first_seconds:.4g} s at ({x}, {y})"
        return f"{self.count:,} pixels within {self.ngroups} groups, {first}"

    @property
    def brightest(self) -> tuple[int, int]:
        """The good pixel that saturates first: (x, y)."""
        y, x = np.unravel_index(np.argmin(np.where(self.good, self.seconds, np.inf)), self.good.shape)
        return int(x), int(y)

    @property
    def first_seconds(self) -> float:
        """Seconds until the brightest pixel saturates."""
        x, y = self.brightest
        return float(self.seconds[y, x])

    @property
    def first_group(self) -> int:
        """The group (from 0) in which the brightest pixel saturates; `ngroups` if it does not."""
        x, y = self.brightest
        return int(self.group[y, x])

    @property
    def companion_seconds(self) -> float | None:
        """Seconds until the pixel of the companion saturates; None without companion."""
        return None if self.companion is None else float(self.seconds[self.companion[::-1]])

    @property
    def companion_group(self) -> int | None:
        """The group (from 0) in which the pixel of the companion saturates; None without companion."""
        return None if self.companion is None else int(self.group[self.companion[::-1]])

    @property
    def count(self) -> int:
        """The number of good pixels that saturate."""
        return int(np.count_nonzero((self.group < self.ngroups) & self.good))


@dataclass(frozen=True)
class PixelNoise:
    """The expected noise of the rate of one pixel, DN/s."""

    read: float
    photon: float

    @property
    def total(self) -> float:
        """Read noise and photon noise together."""
        return sqrt(self.read**2 + self.photon**2)


@dataclass(frozen=True, repr=False)
class Noise(Shown):
    """The expected noise of the rate of all integrations of a file.

    It is that of ERR after jwst's default steps: an uncorrelated read noise and the photon noise of light and dark
    current. 1/f noise, cosmic rays, and what a PSF subtraction leaves are not included.

    Attributes
    ----------
    read, photon : (ny, nx) float64
        DN/s; NaN in pixels with fewer than two groups.
    good : (ny, nx) bool
        Pixels with light and without DO_NOT_USE.
    background : PixelNoise
        Median of the half of the good pixels that has less light; NaN if all of them have fewer than two groups.
    companion : PixelNoise or None
        In the pixel of the companion.
    radius : float
        Radius of the aperture on the companion, pixels: one FWHM.
    aperture : (ny, nx) bool
        The good pixels in the aperture.
    signal : float
        Light of the companion in the aperture, DN/s; 0 without companion.
    signal_noise : float
        Noise of the sum of the aperture, DN/s.
    """

    read: np.ndarray
    photon: np.ndarray
    good: np.ndarray
    background: PixelNoise
    companion: PixelNoise | None
    radius: float
    aperture: np.ndarray
    signal: float
    signal_noise: float

    def _summary(self):
        ratio = self.signal_to_noise
        companion = "no companion" if self.companion is None else "no estimate for the companion"
        if ratio is not None:
            companion = f"companion with S/N {ratio:.3g}"
        background = self.background.total
        return f"{f'{background:.3g} DN/s' if isfinite(background) else 'no estimate'} in the background, {companion}"

    @property
    def total(self):
        """Read noise and photon noise of each pixel together, (ny, nx) DN/s."""
        return np.hypot(self.read, self.photon)

    @property
    def signal_to_noise(self) -> float | None:
        """S/N of the companion in the aperture; None without companion, or with fewer than two groups in all pixels."""
        return self.signal / self.signal_noise if self.companion is not None and self.signal_noise else None


def expect_saturation(simulation):
    """Predict the saturation of a simulated exposure."""
    pixels = simulation.pixels
    rate = _electron_rate(simulation)
    bias = pixels.bias if simulation.subarray.instrument == "MIRI" else np.float32(0)
    charge = ((pixels.full_well - bias) * pixels.gain).astype(np.float64)
    with np.errstate(divide="ignore"):
        seconds = np.where(rate > 0, charge / rate, np.inf)
    ngroups, cadence = simulation.data.shape[1], simulation.nframes + simulation.groupgap
    # The first frame that ends with a full well; one that is dropped shows in the next group.
    frame = np.ceil(np.minimum(seconds / simulation.frame_time, 1e9) - 1e-9).astype(np.int64) - 1
    frame = np.maximum(frame, 0)
    group = frame // cadence + (frame % cadence >= simulation.nframes)
    if not simulation.effects.saturation:
        group = np.full_like(group, ngroups)
    group = np.minimum(group, ngroups).astype(np.int32)
    return Saturation(seconds, group, ngroups, _good(simulation), _companion_pixel(simulation))


def expect_noise(simulation):
    """Predict the noise of the rate of a simulated exposure."""
    pixels, effects = simulation.pixels, simulation.effects
    good = _good(simulation)
    gain = pixels.gain.astype(np.float64)
    one_read = pixels.read_noise / gain / sqrt(simulation.nframes) if effects.read_noise else np.zeros_like(gain)
    light = _electron_rate(simulation) if effects.poisson else np.zeros_like(gain)
    until = expect_saturation(simulation).group
    weights, read_part, photon_part = (np.zeros_like(gain) for _ in range(3))
    for number in range(simulation.data.shape[0]):
        groups = _count_used(simulation, until, simulation.first_integration + number)
        read, photon = _variances(groups, one_read, light, gain, simulation.group_time)
        weight = np.where(groups > 1, 1 / np.maximum(read + photon, 1e-30), 0)
        # integrations are weighted by their inverse variance
        weights += weight
        read_part += weight**2 * read
        photon_part += weight**2 * photon
    with np.errstate(invalid="ignore", divide="ignore"):
        read, photon = (np.sqrt(part) / weights for part in (read_part, photon_part))

    rate = simulation.truth.rate
    dark_half = good & np.isfinite(read)
    dark_half[dark_half] = rate[dark_half] <= np.median(rate[good])
    background = PixelNoise(nan, nan)
    if dark_half.any():
        background = PixelNoise(*(float(np.median(part[dark_half])) for part in (read, photon)))
    place, companion = _companion_pixel(simulation), None
    aperture, signal, signal_noise = np.zeros_like(good), 0.0, 0.0
    if place is not None:
        companion = PixelNoise(*(float(part[place[::-1]]) for part in (read, photon)))
        y, x = np.indices(good.shape)
        xc, yc = simulation.truth.companion
        aperture = good & np.isfinite(read) & (np.hypot(x - xc, y - yc) <= simulation.fwhm)
        light = simulation.scene.render_companion(good.shape, simulation.fwhm)
        signal = float(np.sum((light * pixels.response / gain)[aperture]))
        signal_noise = float(np.sqrt(np.sum(read[aperture] ** 2 + photon[aperture] ** 2)))
    return Noise(read, photon, good, background, companion, simulation.fwhm, aperture, signal, signal_noise)


def _variances(groups, one_read, light, gain, group_time):
    """Return the variances of a slope by read and photon noise, (DN/s)^2 (jwst's ramp fit, eq. for VAR)."""
    n = np.maximum(groups, 2).astype(np.float64)
    read = 12 * (one_read / group_time) ** 2 / (n**3 - n)
    photon = light / gain**2 / (group_time * (n - 1))
    return read, photon


def _count_used(simulation, until, number):
    """Count the groups of integration `number` that jwst's default steps leave to the fit, (ny, nx)."""
    if simulation.subarray.instrument != "MIRI":
        return until
    ngroups = simulation.data.shape[1]
    first = 1 if number == 1 or ngroups <= 5 else RSCD_GROUPS
    first = min(first, max(0, ngroups - 3))  # rscd leaves three groups
    last = 1 if ngroups > 2 else 0  # lastframe
    return np.minimum(until, ngroups - last) - first


def _electron_rate(simulation):
    """Return the electrons per second of light and dark current, (ny, nx) float64."""
    truth = simulation.truth
    return (truth.rate.astype(np.float64) + truth.dark_rate) * simulation.pixels.gain


def _good(simulation):
    return ((simulation.pixels.dq & dq.DO_NOT_USE) == 0) & ~simulation.pixels.is_reference


def _companion_pixel(simulation):
    """Return the pixel (x, y) of the companion, or None."""
    if simulation.scene is None or simulation.truth.companion_rate <= 0:
        return None
    x, y = (int(round(value)) for value in simulation.truth.companion)
    ny, nx = simulation.data.shape[2:]
    return (x, y) if 0 <= x < nx and 0 <= y < ny else None
