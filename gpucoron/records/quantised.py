"""Images of a report at full resolution: quantised, compressed, and decoded by the page when it shows them."""

import base64
import zlib
from dataclasses import dataclass

import numpy as np

from gpucoron.backends.statistics import MAD_TO_SIGMA

#: step of the levels: a value is stored to 0.5 % where it is large, and to 1/200 of the noise where it is small
STEP = 0.01
#: largest step of an image whose noise is small compared with that of another one
COARSEST = 0.1
#: the highest level; 0 is NaN
HIGHEST = 65535
#: float32 above this are converted to float64
_LARGEST = 1e30
#: at most so many flags fit into an image of flags
MOST_FLAGS = 16


@dataclass(frozen=True, eq=False)
class QuantisedImage:
    """An image as levels of an asinh scale: ``value = centre + soft * sinh((level - zero) * step)``.

    Level 0 is a pixel without a value. The levels are kept compressed.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    packed : bytes
        The levels, uint16, as `pack` compresses them.
    centre, soft : float
        Median and noise of the image, in its unit.
    zero, step : float
    unit : str
    binning : int
        Side of the blocks of pixels that were averaged.
    """

    shape: tuple
    packed: bytes
    centre: float
    soft: float
    zero: float
    step: float
    unit: str = "DN/s"
    binning: int = 1

    @classmethod
    def of(cls, image, unit="DN/s", step=STEP, binning=1, noise=0.0, repeats=False):
        """Quantise an image.

        Parameters
        ----------
        image : (ny, nx) float
            NaN and infinite pixels have no value.
        unit : str
        step : float
            Larger where the levels do not suffice for the range of the image.
        binning : int
        noise : float
            Noise of another image to which this one is added or compared: near the centre, half a percent of it is
            precise enough. A step of at most a tenth is used.
        repeats : bool
            Whether rows or parts of them repeat, as in 1/f noise: it compresses better, but three times as slowly.

        Notes
        -----
        A value is stored within ``step / 2 * (abs(value - centre) + soft)``. The noise ``soft`` is the median absolute
        deviation as a standard deviation; where it is zero, a hundredth of the range of the image.
        """
        image = np.asarray(image)
        image = image.astype(image.dtype.newbyteorder("="), copy=False)  # a FITS file is big-endian
        is_finite, levels = np.isfinite(image), np.zeros(image.shape, np.uint16)
        finite = image[is_finite]
        if not finite.size:
            return cls(image.shape, pack(levels), 0.0, 1.0, 1.0, step, unit, binning)
        # float32 is precise enough, but its largest numbers have no differences
        if finite.dtype != np.float32 or np.abs(finite).max() > _LARGEST:
            finite = finite.astype(np.float64)
        centre = float(np.median(finite))
        soft = MAD_TO_SIGMA * float(np.median(np.abs(finite - centre))) or float(np.ptp(finite)) / 100 or 1.0
        step = max(step, min(step * noise / soft, COARSEST))
        scaled = np.arcsinh((finite - centre) / soft)
        low, high = float(scaled.min()), float(scaled.max())
        step = max(step, (high - low) / (HIGHEST - 258))
        # the centre in the middle of a high byte, so that most pixels share it: it compresses better
        zero = float(128 + 256 * np.ceil((1 - np.floor(low / step) - 128) / 256))
        levels[is_finite] = np.clip(np.rint(scaled / step + zero), 1, HIGHEST)
        return cls(image.shape, pack(levels, repeats), centre, soft, zero, float(step), unit, binning)

    @property
    def levels(self):
        """The levels: (ny, nx) uint16."""
        return unpack(self.packed, self.shape)

    def values(self):
        """Return the image: (ny, nx) float32, NaN for pixels without a value."""
        levels = self.levels
        values = self.centre + self.soft * np.sinh((levels - self.zero) * self.step)
        return np.where(levels > 0, values, np.nan).astype(np.float32)

    def header(self):
        """Return everything except the levels, as in the page."""
        names = ("centre", "soft", "zero", "step", "unit")
        header = {"w": self.shape[1], "h": self.shape[0], **{name: getattr(self, name) for name in names}}
        return header | ({"binning": self.binning} if self.binning > 1 else {})

    @classmethod
    def from_header(cls, header, packed):
        """Undo `header`."""
        names = ("centre", "soft", "zero", "step", "unit")
        numbers = [header[name] for name in names]
        return cls((header["h"], header["w"]), packed, *numbers, header.get("binning", 1))

    def to_json(self):
        """Return the image for the page; row 0 is the first row of the array."""
        return {**self.header(), "data": base64.b64encode(self.packed).decode()}


@dataclass(frozen=True, eq=False)
class FlagImage:
    """The flags of an image without the bits that no pixel has.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    packed : bytes
        The bits, uint16, as `pack` compresses them; bit ``i`` is the flag ``names[i]``.
    names : tuple of str
        At most `MOST_FLAGS`: those of the most pixels are kept.
    binning : int
        Side of the blocks of pixels that were combined; a block has the flags of all its pixels.
    """

    shape: tuple
    packed: bytes
    names: tuple
    binning: int = 1

    @classmethod
    def of(cls, dq, flags):
        """Keep the flags that occur.

        Parameters
        ----------
        dq : (ny, nx) uint32
        flags : dict
            Name -> value of the flags to keep.
        """
        seen = int(np.bitwise_or.reduce(dq, axis=None)) if dq.size else 0
        counts = {name: np.count_nonzero(dq & np.uint32(flag)) for name, flag in flags.items() if seen & flag}
        kept = sorted(counts, key=lambda name: -counts[name])[:MOST_FLAGS]
        names = tuple(name for name in flags if name in kept)
        bits = np.zeros(dq.shape, np.uint16)
        for number, name in enumerate(names):
            bits |= ((dq & np.uint32(flags[name])) != 0).astype(np.uint16) << np.uint16(number)
        return cls(dq.shape, pack(bits), names)

    @property
    def bits(self):
        """The bits: (ny, nx) uint16."""
        return unpack(self.packed, self.shape)

    def mask(self, name):
        """Mark the pixels with a flag: (ny, nx) bool."""
        if name not in self.names:
            return np.zeros(self.shape, bool)
        return (self.bits >> np.uint16(self.names.index(name)) & 1).astype(bool)

    def binned(self, binning):
        """Combine the flags of square blocks of ``binning`` pixels a side."""
        starts = [np.arange(0, size, binning) for size in self.shape]
        rows = np.bitwise_or.reduceat(self.bits, starts[0], axis=0)
        bits = np.bitwise_or.reduceat(rows, starts[1], axis=1)
        return FlagImage(bits.shape, pack(bits), self.names, binning)

    def header(self):
        """Return everything except the bits, as in the page."""
        header = {"w": self.shape[1], "h": self.shape[0], "names": list(self.names)}
        return header | ({"binning": self.binning} if self.binning > 1 else {})

    @classmethod
    def from_header(cls, header, packed):
        """Undo `header`."""
        return cls((header["h"], header["w"]), packed, tuple(header["names"]), header.get("binning", 1))

    def to_json(self):
        """Return the flags for the page; row 0 is the first row of the array."""
        return {**self.header(), "data": base64.b64encode(self.packed).decode()}


def pack(levels, repeats=False):
    """Compress (zlib) the low bytes of all pixels, then the high bytes; search for repeated parts if there are any."""
    words = np.ascontiguousarray(levels, "<u2").reshape(-1, 1).view(np.uint8)
    strategy = zlib.Z_DEFAULT_STRATEGY if repeats else zlib.Z_RLE
    packer = zlib.compressobj(6, zlib.DEFLATED, 15, 9, strategy)
    return packer.compress(words.T.tobytes()) + packer.flush()


def unpack(packed, shape):
    """Undo `pack`: (ny, nx) uint16."""
    planes = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, -1)
    return (planes[0] | planes[1].astype(np.uint16) << np.uint16(8)).reshape(shape)
