"""Simulate one integration of a detector: the charge frame by frame, then the electronics."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage

from gpucoron import dq
from gpucoron.simulate.detectors import ROW_CLOCKS

#: a cosmic-ray hit of one pixel; ``group`` and ``frame`` are the first that contain it
COSMIC_RAY = np.dtype(
    [("integration", "i4"), ("group", "i4"), ("frame", "i4"), ("y", "i4"), ("x", "i4"), ("electrons", "f4")]
)

# MIRI: groups with a reset effect, integrations in which it differs, groups that settle after a reset (RSCD).
RESET_GROUPS = 15
RESET_INTEGRATIONS = 4
RSCD_GROUPS = 4
EMI_FREQUENCY = 390.625  # Hz
EMI_AMPLITUDE = 8.0  # DN
_RC_TIME = 30.0  # s


@dataclass(frozen=True)
class Effects:
    """The effects in a simulation; those of the other instrument are ignored.

    ``one_over_f`` and ``cosmic_rays`` are factors relative to the usual strength, the others are switches. ERR does not
    include 1/f noise: switch it off to compare scatter with ERR. kTC noise is one offset per pixel and integration, and
    cancels in every slope. ``reset``, ``rscd``, ``last_frame`` and ``emi`` apply only to MIRI.
    """

    poisson: bool = True
    dark: bool = True
    read_noise: bool = True
    one_over_f: float = 1.0
    ktc: bool = True
    superbias: bool = True
    nonlinearity: bool = True
    saturation: bool = True
    ipc: bool | None = None  # None: only in NIRCam, where jwst corrects it by default
    cosmic_rays: float = 1.0
    bad_pixels: bool = True
    reset: bool = True
    rscd: bool = True
    last_frame: bool = True
    emi: bool = False


@dataclass
class Integration:
    """The truth about one integration."""

    ktc: np.ndarray
    saturated_from: np.ndarray
    zeroframe: np.ndarray | None
    one_over_f: np.ndarray | None
    hits: np.ndarray


class Camera:
    """A detector that observes a scene; it simulates one integration at a time."""

    def __init__(self, subarray, name, pixels, effects, sky, readpatt, ngroups, nframes, groupgap, frame_time):
        self.subarray, self.pixels, self.effects = subarray, pixels, effects
        self.name, self.slow = name, readpatt == "SLOWR1"
        self.ngroups, self.nframes, self.groupgap, self.frame_time = ngroups, nframes, groupgap, frame_time
        self.miri = subarray.instrument == "MIRI"
        self.light = sky * pixels.response
        self.dark = pixels.dark if effects.dark else np.zeros_like(pixels.dark)
        self.to_linear = pixels.to_linear_coefficients()
        self.to_raw = pixels.to_raw_coefficients()
        self.noise = pixels.read_noise / pixels.gain
        self.pink = pixels.kind.pink_noise * float(effects.one_over_f)
        self.kernel = ipc_kernel(pixels.kind.coupling) if has_ipc(effects, subarray.instrument) else None

    def integrate(self, rng, number, groups):
        """Simulate integration `number`, and write its counts into `groups`, (ngroups, ny, nx) uint16."""
        pixels, effects, gain = self.pixels, self.effects, self.pixels.gain
        shape = gain.shape
        ktc = np.zeros(shape, np.float32)
        if effects.ktc:
            ktc = rng.standard_normal(shape, np.float32) * (pixels.kind.ktc / gain)
        hits = self._draw_hits(rng)
        drift = _pink_noise(self.ngroups, rng)
        pink = np.empty((self.ngroups, *shape), np.float32) if self.pink else None
        charge = np.zeros(shape, np.float32)
        saturated_from = np.full(shape, self.ngroups, np.int32)
        zeroframe = None
        previous = -1
        for group in range(self.ngroups):
            mean = np.zeros(shape, np.float32)
            extra = self._settle(number, group)
            first = group * (self.nframes + self.groupgap)
            for frame in range(first, first + self.nframes):
                self._expose(rng, charge, hits, previous, frame)
                previous = frame
                linear = charge / gain + ktc + extra
                if self.miri:
                    linear += pixels.bias
                full = linear >= pixels.full_well
                if effects.saturation:
                    np.minimum(linear, pixels.full_well, out=linear)
                    np.minimum(saturated_from, np.where(full, group, self.ngroups), out=saturated_from)
                raw = self._bend(linear)
                mean += raw
                if group == 0 and frame == 0 and not self.miri:
                    first_noise = self._read(rng, 1)
                    first_pink = self._draw_pink(rng, 1, drift[0]) if self.pink else 0
                    zeroframe = _digitize(self._couple(raw + pixels.bias) + first_noise + first_pink)
            mean /= self.nframes
            mean = self._couple(mean if self.miri else mean + pixels.bias)
            if group == 0 and zeroframe is not None:
                # The zero frame is one of the frames of the first group.
                share = np.float32(1 / self.nframes)
                rest = self.nframes - 1
                noise = first_noise * share
                flicker = first_pink * share
                if rest:
                    noise = noise + self._read(rng, rest) * (np.float32(rest) * share)
                    if self.pink:
                        flicker = flicker + self._draw_pink(rng, rest, drift[0]) * (np.float32(rest) * share)
            else:
                noise = self._read(rng, self.nframes)
                flicker = self._draw_pink(rng, self.nframes, drift[group]) if self.pink else 0
            mean += noise
            if self.pink:
                pink[group] = flicker
                mean += flicker
            if self.miri:
                self._disturb(mean, number, group)
            groups[group] = _digitize(mean)
        return Integration(ktc, saturated_from, zeroframe, pink, hits)

    def _expose(self, rng, charge, hits, previous, frame):
        """Add the light, dark current and hits between two frames to `charge`, in place."""
        expected = (self.light + self.dark) * np.float32((frame - previous) * self.frame_time)
        charge += rng.poisson(expected) if self.effects.poisson else expected
        rc = (self.pixels.dq & dq.RC) > 0
        if rc.any():
            t0, t1 = (np.exp(-self.frame_time * (k + 1) / _RC_TIME) for k in (previous, frame))
            charge[rc] = charge[rc].astype(np.float64) + 8000 * (t0 - t1)
        new = hits[np.searchsorted(hits["frame"], previous + 1) : np.searchsorted(hits["frame"], frame + 1)]
        np.add.at(charge, (new["y"], new["x"]), new["electrons"])

    def _settle(self, number, group):
        """Return the offset of a MIRI group on the linear scale, DN: settling dark in integration 1, later RSCD."""
        if not self.miri:
            return np.float32(0)
        extra = np.float32(0)
        if self.effects.dark:
            extra = settling_dark(self.pixels, number, group)
        if self.effects.rscd and number > 1 and group < RSCD_GROUPS:
            integration_time = self.frame_time * self.ngroups
            left = np.minimum(self.light / self.pixels.gain * integration_time, self.pixels.full_well)
            extra = extra - left * np.float32(0.002 * np.exp(-group / 1.5))
        return extra

    def _disturb(self, raw, number, group):
        """Add the effects of MIRI's electronics to the raw counts of a group, in place, DN."""
        if self.effects.reset:
            raw += reset_effect(self.pixels, number, group)
        if self.effects.last_frame and group == self.ngroups - 1:
            raw[::2] -= 6 + np.float32(0.002) * (raw[::2] - self.pixels.bias[::2])
        if self.effects.emi:
            rows, columns = np.indices(raw.shape)
            ny = raw.shape[0]
            row_clocks = ROW_CLOCKS.get(self.name, 271)
            frame_clocks = ny * row_clocks + (1024 - ny) * 7
            start = ((number - 1) * (self.ngroups + 1) + group) * frame_clocks
            clocks = start + rows * row_clocks + columns // 4 * (9 if self.slow else 1)
            raw += np.float32(EMI_AMPLITUDE) * np.sin(2 * np.pi * (clocks * 1e-5 * EMI_FREQUENCY % 1))

    def _bend(self, linear):
        """Convert linear to raw counts: the inverse polynomial, then one Newton step on the reference polynomial."""
        if not self.effects.nonlinearity:
            return linear
        raw = _horner(self.to_raw, linear)
        slope = np.zeros_like(raw)
        value = np.zeros_like(raw)
        for c in self.to_linear[::-1]:
            slope *= raw
            slope += value
            value *= raw
            value += c
        return raw - (value - linear) / slope

    def _couple(self, raw):
        """Distribute the counts of each science pixel over its neighbours (IPC), without pixels beyond the edges."""
        return raw if self.kernel is None else convolve_science(raw, self.kernel, self.pixels.is_reference)

    def _read(self, rng, frames):
        if not self.effects.read_noise:
            return np.float32(0)
        return rng.standard_normal(self.noise.shape, np.float32) * (self.noise / np.float32(np.sqrt(frames)))

    def _draw_pink(self, rng, frames, drift):
        """Draw the 1/f noise of the mean of `frames` frames, in the order of readout, DN."""
        kind, (ny, nx), outputs = self.pixels.kind, self.noise.shape, self.subarray.noutputs
        if nx % outputs:
            outputs = 1
        columns = nx // outputs + 12  # with the overhead of a row, in pixels
        parts = [_pink_noise(ny * columns, rng).reshape(ny, columns) for _ in range(outputs + (outputs > 1))]
        if outputs > 1:
            # The larger part is common to all outputs: 3 e- to 1 e- in Rauscher's HxRG simulator.
            parts = [np.float32(0.949) * parts[0] + np.float32(0.316) * part for part in parts[1:]]
        # neighbouring outputs are read in opposite directions
        images = [part[:, : nx // outputs][:, :: -1 if k % 2 else 1] for k, part in enumerate(parts)]
        image = np.concatenate(images, axis=1)
        image = image[:: int(np.sign(kind.slowaxis)), :: int(np.sign(kind.fastaxis))]
        # The same noise continues at lower frequencies from frame to frame.
        return (image + np.float32(0.5 * drift)) * (
            np.float32(self.pink / np.sqrt(frames)) / np.float32(self.pixels.gain)
        )

    def _draw_hits(self, rng):
        """Draw the cosmic rays of an integration: tracks of a few pixels with unequal parts of the charge."""
        kind, shape = self.pixels.kind, self.noise.shape
        frames = self.ngroups * (self.nframes + self.groupgap) - self.groupgap
        rate = kind.cosmic_ray_rate * float(self.effects.cosmic_rays)
        n = rng.poisson(rate * shape[0] * shape[1] * frames * self.frame_time)
        length = 1 + rng.poisson(kind.cosmic_ray_pixels - 1, n)
        track = np.repeat(np.arange(n), length)
        step = np.arange(track.size) - np.repeat(np.cumsum(length) - length, length)
        angle = rng.uniform(0, 2 * np.pi, n)[track]
        width = rng.normal(0, 0.4, (2, track.size))
        x = np.floor(rng.uniform(0, shape[1], n)[track] + 0.7 * step * np.cos(angle) + width[0]).astype(int)
        y = np.floor(rng.uniform(0, shape[0], n)[track] + 0.7 * step * np.sin(angle) + width[1]).astype(int)
        weight = rng.exponential(1, track.size)
        total = np.bincount(track, weight, n)
        charge = rng.lognormal(np.log(kind.cosmic_ray_charge), 0.7, n)[track] * weight / total[track]
        frame = rng.integers(0, frames, n)[track]

        cadence = self.nframes + self.groupgap
        seen = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
        seen[seen] = ~self.pixels.is_reference[y[seen], x[seen]]
        hits = np.zeros(np.count_nonzero(seen), COSMIC_RAY)
        hits["frame"], hits["y"], hits["x"] = frame[seen], y[seen], x[seen]
        hits["electrons"] = np.rint(charge[seen])
        # A hit between groups first appears in the next group.
        hits["group"] = hits["frame"] // cadence + (hits["frame"] % cadence >= self.nframes)
        return hits[np.argsort(hits["frame"], kind="stable")]


def has_ipc(effects, instrument):
    """Return whether a simulation has inter-pixel coupling, and its references a kernel to correct it."""
    return instrument == "NIRCAM" if effects.ipc is None else effects.ipc


def ipc_kernel(coupling):
    """Return the 3 x 3 kernel of inter-pixel coupling; its sum is 1."""
    return np.array(
        [[0, coupling, 0], [coupling, 1 - 4 * coupling, coupling], [0, coupling, 0]],
        np.float32,
    )


def convolve_science(image, kernel, is_reference):
    """Convolve the science pixels of an image, (ny, nx) float32, with `kernel`; all other pixels count as zero."""
    spread = scipy.ndimage.convolve(np.where(is_reference, 0, image), kernel, mode="constant")
    return np.where(is_reference, image, spread)


def settling_dark(pixels, number, group):
    """Return MIRI's settling dark current, which affects the first integration, (ny, nx) float32 DN."""
    return pixels.settling * np.float32(1 - np.exp(-(group + 1) / 6)) * (number == 1)


def reset_effect(pixels, number, group):
    """Return MIRI's reset effect in integration `number` (1-based), (ny, nx) float32 DN; 0 from RESET_GROUPS on."""
    if group >= RESET_GROUPS:
        return np.zeros_like(pixels.reset)
    strength = 1 - 0.4 ** min(number, RESET_INTEGRATIONS)
    return pixels.reset * np.float32(-strength * np.exp(-group / 3))


def _horner(coeffs, x):
    result = np.zeros_like(x)
    for c in coeffs[::-1]:
        result *= x
        result += c
    return result


def _pink_noise(n, rng):
    """Draw noise with power 1/f, mean zero and variance 1, (n,) float32."""
    if n < 2:
        return np.zeros(n, np.float32)
    fast = scipy.fft.next_fast_len(n, real=True)
    amplitude = np.arange(1, fast // 2 + 1, dtype=np.float32) ** np.float32(-0.5)
    spectrum = np.zeros(fast // 2 + 1, np.complex64)
    white = rng.standard_normal(2 * amplitude.size, np.float32).view(np.complex64)
    spectrum[1:] = white * amplitude
    scale = fast / np.sqrt(4 * np.sum(amplitude.astype(np.float64) ** 2))
    return scipy.fft.irfft(spectrum, fast)[:n] * np.float32(scale)


def _digitize(counts):
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
