"""The detectors of ``gpucoron.simulate``: subarrays, detector properties, and the properties of each pixel.

The gain, bias, dark current etc. of a pixel depend only on the detector, the row and a seed. So a pixel has the same
properties in every subarray, every segment and every reference file.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from gpucoron import dq
from gpucoron.errors import ArgumentError
from gpucoron.interactive import Shown


@dataclass(frozen=True)
class Subarray:
    """A subarray of a detector; its corner is 1-based, in the science frame."""

    instrument: str
    detector: str
    xstart: int
    ystart: int
    nx: int
    ny: int
    frame_time: float
    filter: str
    pupil: str | None
    coronagraph: str | None
    aperture: str
    exp_type: str
    noutputs: int = 1


def _nircam(detector, xstart, ystart, nx, ny, filter_, mask, noutputs=1):
    # A pixel takes 10 us. A row has 12 pixels of overhead; a frame two rows, or one row and one pixel in stripe mode.
    columns = nx // noutputs + 12
    clocks = columns * (ny + 2) if noutputs == 1 else columns * (ny + 1) + 1
    number = detector[4:].replace("LONG", "5")
    pupil = "MASKBAR" if mask.endswith("B") else "MASKRND"
    aperture = f"NRCA{number}_{mask.replace('MASKA', 'MASK')}"
    if noutputs > 1:
        aperture = aperture.replace("_", "_FULL_")
    return Subarray(
        "NIRCAM", detector, xstart, ystart, nx, ny, clocks * 1e-5, filter_, pupil, mask, aperture, "NRC_CORON",
        noutputs,
    )  # fmt: skip


def _miri(name, xstart, ystart, nx, ny, frame_time, filter_, mask, noutputs=1):
    exp_type = "MIR_LYOT" if mask.startswith("LYOT") else "MIR_4QPM"
    return Subarray(
        "MIRI", "MIRIMAGE", xstart, ystart, nx, ny, frame_time, filter_, None, mask, f"MIRIM_{name}", exp_type,
        noutputs,
    )  # fmt: skip


#: (instrument, subarray) -> Subarray; keys of full frames also have the detector
SUBARRAYS = {
    ("NIRCAM", "SUB320A335R"): _nircam("NRCALONG", 492, 1502, 320, 320, "F444W", "MASKA335R"),
    ("NIRCAM", "SUB320A430R"): _nircam("NRCALONG", 814, 1502, 320, 320, "F460M", "MASKA430R"),
    ("NIRCAM", "SUB320ALWB"): _nircam("NRCALONG", 1455, 1508, 320, 320, "F444W", "MASKALWB"),
    ("NIRCAM", "SUB400X256ALWB"): _nircam("NRCALONG", 1475, 1540, 400, 256, "F444W", "MASKALWB"),
    ("NIRCAM", "SUB640A210R"): _nircam("NRCA2", 392, 1186, 640, 640, "F200W", "MASKA210R"),
    ("NIRCAM", "SUB640ASWB"): _nircam("NRCA4", 171, 1174, 640, 640, "F182M", "MASKASWB"),
    ("NIRCAM", "FULL", "NRCALONG"): _nircam("NRCALONG", 1, 1, 2048, 2048, "F444W", "MASKA335R", 4),
    ("NIRCAM", "FULL", "NRCA2"): _nircam("NRCA2", 1, 1, 2048, 2048, "F200W", "MASKA210R", 4),
    ("MIRI", "MASK1065"): _miri("MASK1065", 1, 21, 288, 224, 0.23968, "F1065C", "4QPM_1065"),
    ("MIRI", "MASK1140"): _miri("MASK1140", 1, 243, 288, 224, 0.23968, "F1140C", "4QPM_1140"),
    ("MIRI", "MASK1550"): _miri("MASK1550", 1, 463, 288, 224, 0.23968, "F1550C", "4QPM_1550"),
    ("MIRI", "MASKLYOT"): _miri("MASKLYOT", 1, 719, 320, 304, 0.324, "F2300C", "LYOT_2300"),
    ("MIRI", "FULL", "MIRIMAGE"): _miri("FULL", 1, 1, 1032, 1024, 2.77504, "F1550C", "4QPM_1550", 4),
}

#: NIRCam's mask -> (subarray, xstart, ystart, size, filter, aperture) of the target acquisition
_ACQUISITIONS = {
    "MASKA210R": ("SUBNDA210R", 405, 1212, 128, "F210M", "NRCA2_TAMASK210R"),
    "MASKA335R": ("SUBNDA335R", 459, 1519, 64, "F335M", "NRCA5_TAMASK335R"),
    "MASKA430R": ("SUBNDA430R", 782, 1519, 64, "F335M", "NRCA5_TAMASK430R"),
    "MASKALWB": ("SUBNDALWBL", 1424, 1527, 64, "F335M", "NRCA5_TAMASKLWBL"),
    "MASKASWB": ("SUBNDASWBS", 103, 1199, 128, "F210M", "NRCA4_TAMASKSWBS"),
}

# Ratio of the frame times of SLOWR1 and FASTR1: 23.88992 s and 2.77504 s at full frame.
SLOW_OVER_FAST = 23.88992 / 2.77504

#: MIRI pixel clocks from one row to the next, as in emicorr
ROW_CLOCKS = {"MASK1065": 82, "MASK1140": 82, "MASK1550": 82, "MASKLYOT": 90}


@dataclass(frozen=True)
class DetectorKind:
    """The average properties of a detector, in e- unless noted."""

    columns: int
    rows: int
    fastaxis: int
    slowaxis: int
    gain: float  # e-/DN
    read_noise: float  # one read
    ktc: float
    dark: float  # e-/s
    well: float
    coupling: float  # fraction of the charge of a pixel that appears in each of its four neighbours
    bias: float  # DN
    pink_noise: float  # rms of 1/f noise within a frame, one read
    cosmic_ray_rate: float  # hits / pixel / s
    cosmic_ray_pixels: float  # mean pixels of a hit
    cosmic_ray_charge: float  # median charge of a hit
    fwhm: float  # pixels

    @property
    def saturation(self):
        """The average full well on the linear scale of the polynomials, DN."""
        return self.well / self.gain


def _h2rg(fastaxis, slowaxis, gain, read_noise, ktc, dark, well, coupling):
    return DetectorKind(
        2048, 2048, fastaxis, slowaxis, gain, read_noise, ktc, dark, well, coupling, 9000.0, 3.2, 1e-5, 7.0, 5200.0, 2.3
    )  # fmt: skip


#: sources: pynrc for NIRCam, JDox and MiriTE for MIRI; kTC noise is not known for MIRI
DETECTORS = {
    "NRCA2": _h2rg(1, -2, 2.17, 11.5, 37.6, 0.002, 105e3, 0.0054),
    "NRCA4": _h2rg(1, -2, 2.08, 11.5, 37.6, 0.002, 105e3, 0.0054),
    "NRCALONG": _h2rg(-1, 2, 1.88, 10.0, 36.8, 0.034, 83e3, 0.0060),
    "MIRIMAGE": DetectorKind(
        1032, 1024, 1, 2, 4.0, 24.0, 0.0, 0.2, 210e3, 0.0307, 7000.0, 0.0, 5.2e-5, 14.0, 5200.0, 4.5
    ),
}  # fmt: skip

# S = x (1 + s (a1 u + a2 u^2 + a3 u^3)) with u = x / full well: 5 % at full well, s is the strength of each pixel.
NONLINEARITY = (0.010, 0.015, 0.025)
_INVERSE_TERMS = 6


def find_subarray(instrument, subarray, detector=None):
    """Return a subarray by name and, for full frames, by detector (by default the first one)."""
    instrument, subarray = instrument.upper(), subarray.upper()
    for key, found in SUBARRAYS.items():
        if key[:2] == (instrument, subarray) and detector in (None, found.detector):
            return found
    names = sorted({key[1] for key in SUBARRAYS if key[0] == instrument}) or sorted({k[0] for k in SUBARRAYS})
    if not any(key[0] == instrument for key in SUBARRAYS):
        msg = f"instrument: no {instrument!r}; known: {', '.join(names)}"
    else:
        msg = f"subarray: no {subarray!r} of {instrument} (detector {detector or 'any'}); known: {', '.join(names)}"
    raise ArgumentError(msg)


def find_mask(instrument, mask, detector=None):
    """Return the name of the subarray of a mask (the first, if there are several), or of a subarray.

    Parameters
    ----------
    instrument : str
    mask : str
        A coronagraph as in CORONMSK, also without the module ('MASKA335R', 'MASK335R', '4QPM_1550'), or a subarray.
    detector : str or None
    """
    name = mask.upper()
    for key, found in SUBARRAYS.items():
        names = (found.coronagraph, found.coronagraph.replace("MASKA", "MASK"))
        if key[0] == instrument.upper() and detector in (None, found.detector) and name in names and key[1] != "FULL":
            return key[1]
    find_subarray(instrument, name, detector)
    return name


def find_acquisition(name, subarray):
    """Return the subarray of the target acquisition for a mask: ``(name, Subarray)``.

    For NIRCam it is a small subarray beside the mask; for MIRI the subarray of the mask, with the filter FND and
    no mask in the header. Source: SIAF (PRDOPSSOC-075) and the APT templates.
    """
    if subarray.instrument == "MIRI":
        return name, replace(subarray, filter="FND", coronagraph=None, exp_type="MIR_TACQ")
    name, xstart, ystart, size, filter_, aperture = _ACQUISITIONS[subarray.coronagraph]
    found = _nircam(subarray.detector, xstart, ystart, size, size, filter_, subarray.coronagraph)
    return name, replace(found, aperture=aperture, exp_type="NRC_TACQ")


@dataclass(frozen=True, repr=False)
class Pixels(Shown):
    """The properties of a box of pixels, each (ny, nx) float32 unless noted.

    ``gain`` e-/DN; ``read_noise`` e- (one read); ``bias`` DN; ``dark`` e-/s; ``full_well`` DN on the linear scale of
    the raw counts; ``nonlinearity`` the strength s of ``NONLINEARITY``; ``response`` electrons per electron;
    ``reset`` and ``settling`` DN, the amplitudes of MIRI's reset effect and settling dark; ``dq`` uint32 with the bits
    of a mask reference; ``lottery`` uniform random numbers from 0 to 1, for flags that only references have.
    """

    kind: DetectorKind
    xstart: int
    ystart: int
    gain: np.ndarray
    read_noise: np.ndarray
    bias: np.ndarray
    dark: np.ndarray
    full_well: np.ndarray
    nonlinearity: np.ndarray
    response: np.ndarray
    reset: np.ndarray
    settling: np.ndarray
    dq: np.ndarray
    lottery: np.ndarray

    def _summary(self):
        ny, nx = self.gain.shape
        return f"{ny} x {nx} from ({self.xstart}, {self.ystart}), {int((self.dq > 0).sum()):,} with flags"

    @property
    def is_reference(self):
        """Reference pixels, without light and dark current: (ny, nx) bool."""
        return (self.dq & dq.REFERENCE_PIXEL) > 0

    @property
    def scale(self):
        """The counts at which u of ``NONLINEARITY`` is 1, DN."""
        return self.kind.saturation + (self.kind.bias if self.kind.columns == 1032 else 0.0)

    def to_linear_coefficients(self):
        """Return the polynomial from raw to linear counts, (5, ny, nx) float32."""
        coeffs = np.zeros((2 + len(NONLINEARITY), *self.gain.shape), np.float32)
        coeffs[1] = 1
        for power, a in enumerate(NONLINEARITY, 1):
            coeffs[power + 1] = self.nonlinearity * a / self.scale**power
        return coeffs

    def to_raw_coefficients(self):
        """Return the polynomial from linear to raw counts, (8, ny, nx) float32, accurate to about 0.01 DN."""
        coeffs = np.zeros((2 + _INVERSE_TERMS, *self.gain.shape), np.float32)
        coeffs[1] = 1
        for power, in_strength in enumerate(_fit_inverse(), 1):
            coeffs[power + 1] = np.polyval(in_strength, self.nonlinearity) / self.scale**power
        return coeffs


@lru_cache(1)
def _fit_inverse():
    """Fit u = t (1 + sum b_j(s) t^j); each b_j is a polynomial in the strength s, see ``NONLINEARITY``."""
    strengths = np.linspace(0, 1.6, 9)
    u = np.linspace(0.005, 1.15, 120)
    shares = []
    for s in strengths:
        t = u * (1 + s * sum(a * u**k for k, a in enumerate(NONLINEARITY, 1)))
        design = np.stack([t ** (k + 1) for k in range(1, _INVERSE_TERMS + 1)], axis=1)
        shares.append(np.linalg.lstsq(design, u - t, rcond=None)[0])
    return [np.polyfit(strengths, b, 5) for b in np.transpose(shares)]


def make_pixels(detector, xstart, ystart, nx, ny, *, seed=0, bad_pixels=True, nonlinearity=True, superbias=True):
    """Draw the properties of a box of pixels of a detector.

    Parameters
    ----------
    detector : str
    xstart, ystart, nx, ny : int
        1-based corner in the science frame, and size.
    seed : int
        Another seed is another detector of the same kind.
    bad_pixels, nonlinearity, superbias : bool
        False means no bad pixels; a linear detector; the same bias everywhere.

    Returns
    -------
    Pixels
    """
    kind = DETECTORS[detector]
    columns = slice(xstart - 1, xstart - 1 + nx)
    normal = np.empty((7, ny, nx), np.float32)
    uniform = np.empty((3, ny, nx), np.float32)
    for row in range(ny):
        # One random stream per row: a pixel is the same in all subarrays, and only its row must be drawn.
        rng = np.random.default_rng([seed, sorted(DETECTORS).index(detector), ystart - 1 + row])
        normal[:, row] = rng.standard_normal((7, kind.columns), np.float32)[:, columns]
        uniform[:, row] = rng.random((3, kind.columns), np.float32)[:, columns]

    x = np.arange(xstart, xstart + nx)
    y = np.arange(ystart, ystart + ny)[:, None]
    reference = np.broadcast_to((x <= 4) | (x > kind.columns - 4), (ny, nx))
    if kind.rows == kind.columns:  # MIRI has reference columns only
        reference = reference | (y <= 4) | (y > kind.rows - 4)

    flags = np.zeros((ny, nx), np.uint32)
    dark = kind.dark * np.exp(0.3 * normal[3])
    response = np.ones((ny, nx), np.float32)
    if bad_pixels:
        # A pixel has at most one defect, selected by ranges of a uniform random number.
        edge = 0.0
        for share, bits in (
            (0.0010, dq.DEAD | dq.DO_NOT_USE),
            (0.0020, dq.HOT | dq.DO_NOT_USE),
            (0.0020, dq.WARM),
            (0.0005, dq.RC | dq.DO_NOT_USE),
            (0.0005, dq.LOW_QE),
            (0.0005, dq.NO_GAIN_VALUE),
            (0.0005, dq.OTHER_BAD_PIXEL | dq.DO_NOT_USE),
        ):
            flags[(uniform[0] >= edge) & (uniform[0] < edge + share)] = bits
            edge += share
        flags[reference] = 0
        dark[(flags & dq.HOT) > 0] = 30 + 3000 * uniform[1][(flags & dq.HOT) > 0] ** 3
        dark[(flags & dq.WARM) > 0] = 2 + 20 * uniform[1][(flags & dq.WARM) > 0]
        response[(flags & dq.DEAD) > 0] = 0
        response[(flags & dq.LOW_QE) > 0] = 0.5
    flags[reference] = dq.REFERENCE_PIXEL
    dark[reference] = 0
    response[reference] = 0

    strength = np.clip(1 + 0.1 * normal[4], 0.6, 1.4) if nonlinearity else np.zeros((ny, nx), np.float32)
    bias = kind.bias + (0.02 * kind.bias * normal[2] if superbias else np.zeros((ny, nx), np.float32))
    miri = kind.columns == 1032
    return Pixels(
        kind=kind,
        xstart=xstart,
        ystart=ystart,
        gain=kind.gain * (1 + 0.02 * normal[0]),
        read_noise=kind.read_noise * np.exp(0.08 * normal[1]),
        bias=bias,
        dark=dark,
        full_well=kind.saturation * (1 + 0.02 * normal[5]) + (bias if miri else 0),
        nonlinearity=strength,
        response=response,
        reset=np.where(reference, 0, 30 + 5 * normal[6]) * miri,
        settling=np.where(reference, 0, 8 - 2 * normal[6]) * miri,
        dq=flags,
        lottery=uniform[2],
    )
