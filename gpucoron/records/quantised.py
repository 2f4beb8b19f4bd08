"""Images of a report at full resolution: quantised, compressed, and decoded by the page when it shows them."""

import base64
import zlib
from dataclasses import dataclass

import numpy as np

from gpucoron.backends.statistics import MAD_TO_SIGMA

#: step of the levels: a value is stored to 1 % where it is large, and to a hundredth of the noise where it is small
STEP = 0.01
#: the highest level; 0 is NaN
HIGHEST = 65535
#: at most so many flags fit into an image of flags
MOST_FLAGS = 16


@dataclass(frozen=True, eq=False)
class QuantisedImage:
    """An image as levels of an asinh scale: ``value = centre + soft * sinh((level - zero) * step)``.

    Attributes
    ----------
    levels : (ny, nx) uint16
        0 for pixels without a value.
    centre, soft : float
        Median and noise of the image, in its unit.
    zero, step : float
    unit : str
    """

    levels: np.ndarray
    centre: float
    soft: float
    zero: float
    step: float
    unit: str = "DN/s"

    @classmethod
    def of(cls, image, unit="DN/s", step=STEP):
        """Quantise an image.

        Parameters
        ----------
        image : (ny, nx) float
            NaN and infinite pixels have no value.
        unit : str
        step : float
            Larger where the levels do not suffice for the range of the image.
        """
        image = np.asarray(image, np.float64)
        is_finite = np.isfinite(image)
        finite = image[is_finite]
        if not finite.size:
            return cls(np.zeros(image.shape, np.uint16), 0.0, 1.0, 1.0, step, unit)
        centre = float(np.median(finite))
        extent = float(np.ptp(finite))
        soft = MAD_TO_SIGMA * float(np.median(np.abs(finite - centre))) or extent / 100 or 1.0
        scaled = np.arcsinh((finite - centre) / soft)
        low, high = scaled.min(), scaled.max()
        step = max(step, (high - low) / (HIGHEST - 1))
        zero = 1 - np.floor(low / step)
        levels = np.zeros(image.shape, np.uint16)
        levels[is_finite] = np.clip(np.rint(scaled / step + zero), 1, HIGHEST)
        return cls(levels, centre, soft, float(zero), float(step), unit)

    def values(self):
        """Return the image: (ny, nx) float32, NaN for pixels without a value."""
        values = self.centre + self.soft * np.sinh((self.levels - self.zero) * self.step)
        return np.where(self.levels > 0, values, np.nan).astype(np.float32)

    def to_json(self):
        """Return the image for the page; row 0 is the first row of the array."""
        ny, nx = self.levels.shape
        numbers = {name: getattr(self, name) for name in ("centre", "soft", "zero", "step", "unit")}
        return {"w": nx, "h": ny, **numbers, "data": pack(self.levels)}


@dataclass(frozen=True, eq=False)
class FlagImage:
    """The flags of an image without the bits that no pixel has.

    Attributes
    ----------
    bits : (ny, nx) uint16
        Bit ``i`` is the flag ``names[i]``.
    names : tuple of str
        At most `MOST_FLAGS`: those of the most pixels are kept.
    """

    bits: np.ndarray
    names: tuple

    @classmethod
    def of(cls, dq, flags):
        """Keep the flags that occur.

        Parameters
        ----------
        dq : (ny, nx) uint32
        flags : dict
            Name -> value of the flags to keep.
        """
        counts = {name: np.count_nonzero(dq & np.uint32(value)) for name, value in flags.items()}
        kept = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])[:MOST_FLAGS]
        names = tuple(name for name in flags if name in kept)
        bits = np.zeros(dq.shape, np.uint16)
        for number, name in enumerate(names):
            bits |= ((dq & np.uint32(flags[name])) != 0).astype(np.uint16) << np.uint16(number)
        return cls(bits, names)

    def to_json(self):
        """Return the flags for the page; row 0 is the first row of the array."""
        ny, nx = self.bits.shape
        return {"w": nx, "h": ny, "names": list(self.names), "data": pack(self.bits)}


def pack(levels):
    """Compress (zlib) the low bytes of all pixels, then the high bytes, and encode them as base64."""
    words = np.ascontiguousarray(levels, "<u2").view(np.uint8).reshape(-1, 2)
    return base64.b64encode(zlib.compress(words.T.tobytes(), 6)).decode()


def unpack(data, shape):
    """Undo `pack`: (ny, nx) uint16."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(data)), np.uint8).reshape(2, -1)
    return (planes[0] | planes[1].astype(np.uint16) << np.uint16(8)).reshape(shape)
