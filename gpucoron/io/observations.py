"""Read the role of an exposure in an observation from its headers: target, roll, dither, aperture, type.

The names of the columns are those of spaceKLIP's tables.
"""

import os
import re
from dataclasses import dataclass

import numpy as np

from gpucoron.errors import InputError
from gpucoron.files import AnyPath
from gpucoron.interactive import public

# Mean wavelength and width in micron. Sources: WavelengthMean and (MIRI) WidthEff of the SVO Filter Profile Service;
# for NIRCam the bandwidths of JDox, "NIRCam Filters".
_FILTERS = {
    "NIRCAM": {
        "F070W": (0.70883, 0.128), "F090W": (0.90834, 0.194), "F115W": (1.16239, 0.225), "F140M": (1.40745, 0.142),
        "F150W": (1.51042, 0.318), "F162M": (1.62966, 0.168), "F164N": (1.64460, 0.020), "F150W2": (1.78656, 1.227),
        "F182M": (1.84943, 0.238), "F187N": (1.87397, 0.024), "F200W": (2.00282, 0.461), "F210M": (2.09822, 0.205),
        "F212N": (2.12140, 0.027), "F250M": (2.50494, 0.181), "F277W": (2.78446, 0.672), "F300M": (2.99404, 0.318),
        "F322W2": (3.33350, 1.339), "F323N": (3.23693, 0.038), "F335M": (3.36752, 0.347), "F356W": (3.59345, 0.787),
        "F360M": (3.62981, 0.372), "F405N": (4.05174, 0.046), "F410M": (4.08866, 0.436), "F430M": (4.28294, 0.228),
        "F444W": (4.43935, 1.024), "F460M": (4.63156, 0.228), "F466N": (4.65453, 0.054), "F470N": (4.70788, 0.051),
        "F480M": (4.82133, 0.303),
    },
    "MIRI": {
        "F560W": (5.66513, 0.94614), "F770W": (7.71114, 1.82781), "F1000W": (9.99811, 1.70367),
        "F1130W": (11.31594, 0.72291), "F1280W": (12.87383, 2.43377), "F1500W": (15.14691, 2.94262),
        "F1800W": (18.05083, 2.91456), "F2100W": (20.93732, 4.40457), "F2550W": (25.49942, 3.87599),
        "F1065C": (10.56815, 0.56472), "F1140C": (11.31565, 0.60365), "F1550C": (15.52197, 0.70380),
        "F2300C": (22.76305, 4.30326),
    },
}  # fmt: skip
#: start of the detector name -> arcsec per pixel, for headers without CDELT
_NOMINAL_SCALES = (("NRCALONG", 0.063), ("NRCBLONG", 0.063), ("NRC", 0.031), ("MIR", 0.11), ("NIS", 0.065))
_INSTRUMENTS = ("NIRCAM", "MIRI", "NIRISS")
#: keywords that the key of a concatenation and TYPE require
_NEEDED = ("INSTRUME", "DETECTOR", "FILTER", "SUBARRAY", "EXP_TYPE")
#: the masks that a detector of module A sees: round (R), bar (B)
_MASKS_BEFORE = {"NRCA2": "R", "NRCA4": "B", "NRCA5": "RB"}
#: keywords of the steps that every calibrated ramp has passed
_FIRST_STEPS = ("S_DQINIT", "S_SATURA", "S_LINEAR", "S_JUMP")


@dataclass(frozen=True, eq=False)
class Observation:
    """One file of an observation.

    Attributes
    ----------
    path : str
        Absolute.
    row : dict
        Column of spaceKLIP's tables -> value, except TYPE.
    visit : (str, str)
        Program and observation.
    activity : str
        Visit group, sequence and activity, as in the file name.
    is_psf : bool or None
        IS_PSF; None if it is missing.
    is_background : bool
        BKGDTARG is set, or the name of the target in the proposal contains BG or BACK.
    """

    path: str
    row: dict
    visit: tuple
    activity: str
    is_psf: bool | None
    is_background: bool

    @property
    def is_acquisition(self):
        """Whether the exposure is a target acquisition or its confirmation image."""
        return "TA" in self.row["EXP_TYPE"]

    @property
    def key(self):
        """The name of the concatenation, as in spaceKLIP."""
        parts = ("TELESCOP", "INSTRUME", "DETECTOR", "FILTER", "PUPIL", "CORONMSK", "SUBARRAY")
        return "_".join(self.row[part] for part in parts)


def read_headers(path):
    """Return the primary header of a file, and the header of its SCI extension or None.

    Raises
    ------
    InputError
        The file does not exist, or is not a FITS file.
    """
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            return hdus[0].header, hdus["SCI"].header if "SCI" in hdus else None
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise InputError(msg) from None
    except Exception as error:  # a damaged file can raise almost anything
        msg = f"{path}: not a FITS file, or a damaged one ({error}); download it again, or leave it out"
        raise InputError(msg) from error


def find_stage(primary, science):
    """Determine the stage of a file from its content: 'STAGE0', 'STAGE1', 'STAGE2', or None for anything else.

    Ramps (four axes) without completed steps are raw; images in DN/s are from stage 1, in MJy/sr from stage 2.
    """
    if science is None or "REFTYPE" in primary:
        return None
    axes = science["NAXIS"]
    if axes == 4:
        is_calibrated = any(primary.get(step) == "COMPLETE" for step in _FIRST_STEPS)
        return None if is_calibrated else "STAGE0"
    unit = _text(science, "BUNIT", "").replace(" ", "").upper()
    if axes in (2, 3) and unit in ("DN/S", "ELECTRON/S"):
        return "STAGE1"
    return "STAGE2" if axes in (2, 3) and unit in ("MJY/SR", "MJY", "JY") else None


@public
def read_observation(path: AnyPath) -> Observation | None:
    """Read the headers of a file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Observation, or None
        None if the file is not an exposure of stages 0 to 2.

    Raises
    ------
    InputError
        The file cannot be read, or lacks a required keyword.
    """
    path = os.path.abspath(path)
    primary, science = read_headers(path)
    stage = find_stage(primary, science)
    if stage is None:
        return None
    for keyword in _NEEDED:
        if not _text(primary, keyword, ""):
            msg = f"{path}: keyword {keyword} is missing; download the file again, set it, or leave the file out"
            raise InputError(msg)
    instrument = _text(primary, "INSTRUME")
    if _text(primary, "TELESCOP", "JWST") != "JWST" or instrument not in _INSTRUMENTS:
        supported = ", ".join(_INSTRUMENTS)
        msg = f"{path}: it is from {_text(primary, 'TELESCOP', 'JWST')} {instrument}, not JWST {supported}; omit it"
        raise InputError(msg)
    target = _text(primary, "TARGPROP")
    is_named_background = "BG" in target.upper() or "BACK" in target.upper()
    return Observation(
        path=path,
        row=_row(path, primary, science, stage),
        visit=(_text(primary, "PROGRAM", ""), _text(primary, "OBSERVTN", "")),
        activity="".join(_text(primary, keyword, "") for keyword in ("VISITGRP", "SEQ_ID", "ACT_ID")),
        is_psf=primary["IS_PSF"] if isinstance(primary.get("IS_PSF"), bool) else None,
        is_background=primary.get("BKGDTARG") is True or is_named_background,
    )


def _row(path, primary, science, stage):
    instrument, detector = _text(primary, "INSTRUME"), _text(primary, "DETECTOR")
    filter_, pupil = _text(primary, "FILTER"), _text(primary, "PUPIL", "NONE")
    filters = _FILTERS.get(instrument, {})
    wavelength, width = filters.get(pupil, filters.get(filter_, (np.nan, np.nan)))
    nints = _count_integrations(primary, science)
    crpix = [_number(science, keyword) for keyword in ("CRPIX1", "CRPIX2")]
    mask = [_number(science, keyword, of) for keyword, of in zip(("MASKCENX", "MASKCENY"), crpix, strict=True)]
    star = [_number(science, keyword, of) for keyword, of in zip(("STARCENX", "STARCENY"), mask, strict=True)]
    aperture = _find_aperture(primary) if instrument == "NIRCAM" else _text(primary, "APERNAME")
    mask_file = re.sub(r"\.fits(\.gz)?$", "_psfmask.fits", path)
    roll = _number(science, "ROLL_REF", 0.0) - _number(science, "V3I_YANG", 0.0) * _number(science, "VPARITY", -1.0)
    return {
        "EXP_TYPE": _text(primary, "EXP_TYPE"),
        "DATAMODL": stage,
        "TELESCOP": "JWST",
        "TARGPROP": _text(primary, "TARGPROP"),
        "TARG_RA": _number(primary, "TARG_RA"),
        "TARG_DEC": _number(primary, "TARG_DEC"),
        "INSTRUME": instrument,
        "DETECTOR": detector,
        "FILTER": filter_,
        "CWAVEL": wavelength,
        "DWAVEL": width,
        "PUPIL": pupil,
        "CORONMSK": _find_mask(primary) if instrument == "NIRCAM" else _text(primary, "CORONMSK", "NONE"),
        "EXPSTART": _number(primary, "EXPSTART"),
        "NINTS": nints,
        "EFFINTTM": _number(primary, "EFFINTTM"),
        "SUBARRAY": _text(primary, "SUBARRAY"),
        "NUMDTHPT": int(_number(primary, "NUMDTHPT", 1)),
        "XOFFSET": _number(primary, "XOFFSET", 0.0),
        "YOFFSET": _number(primary, "YOFFSET", 0.0),
        "APERNAME": aperture,
        "PPS_APER": _text(primary, "PPS_APER"),
        "PIXSCALE": _find_scale(science, detector),
        "PIXAR_SR": _number(science, "PIXAR_SR"),
        "BUNIT": _text(science, "BUNIT", "NONE"),
        "CRPIX1": crpix[0],
        "CRPIX2": crpix[1],
        "MASKCENX": mask[0],
        "MASKCENY": mask[1],
        "STARCENX": star[0],
        "STARCENY": star[1],
        "CROP_SHIFTX": _number(science, "CROP_SHIFTX"),
        "CROP_SHIFTY": _number(science, "CROP_SHIFTY"),
        "ALIGN_SHIFT": np.zeros((nints, 2)),
        "CENTER_SHIFT": np.zeros((nints, 2)),
        "ALIGN_MASK": np.zeros((1, 2)),
        "CENTER_MASK": np.zeros((1, 2)),
        "RA_REF": _number(science, "RA_REF"),
        "DEC_REF": _number(science, "DEC_REF"),
        "ROLL_REF": roll,
        "BLURFWHM": _number(primary, "BLURFWHM"),
        "FITSFILE": path,
        "MASKFILE": mask_file if os.path.exists(mask_file) else "NONE",
    }


def _text(header, keyword, default="UNKNOWN"):
    """Return a keyword with text; a keyword without a value counts as missing."""
    value = header.get(keyword)
    return value.strip() or default if isinstance(value, str) else default


def _number(header, keyword, default=np.nan):
    """Return a keyword with a number; anything else counts as missing."""
    value = header.get(keyword)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else float(default)


def _count_integrations(primary, science):
    """Count the integrations of this file (a segment has fewer than NINTS); for a rate, those that were averaged."""
    if science["NAXIS"] > 2:
        return science[f"NAXIS{science['NAXIS']}"]
    return int(_number(primary, "NINTS", 1))


def _find_scale(science, detector):
    """Return the mean pixel scale in x and y, arcsec, from the header, or else the nominal one."""
    scale = (abs(_number(science, "CDELT1")) + abs(_number(science, "CDELT2"))) / 2 * 3600
    if np.isfinite(scale) and scale > 0:
        return scale
    return next((nominal for start, nominal in _NOMINAL_SCALES if detector.startswith(start)), np.nan)


def _find_mask(primary):
    """Return the name of the NIRCam mask as in its aperture, e.g. MASK335R, also for acquisitions, (FS)TAMASK335R."""
    for aperture in (_text(primary, "PPS_APER"), _text(primary, "APERNAME")):
        for part in aperture.split("_"):
            if "MASK" in part:
                is_acquisition = "TA" in part
                name = part[part.index("MASK") :]
                # TAMASKLWBL and TAMASKSWBS are at the ends of the bars
                return name[:-1] if is_acquisition and "WB" in name and name[-1] in "LS" else name
    return re.sub("^MASKA", "MASK", _text(primary, "CORONMSK", "NONE"))


def _find_aperture(primary):
    """Return the aperture of this detector at the mask in the pointing; APERNAME may lack the mask or a bar's filter.

    Source: webbpsf_ext, ``get_coron_apname``, and SIAF for the apertures that exist.
    """
    aperture, pointing = _text(primary, "APERNAME"), _text(primary, "PPS_APER")
    is_wide = "400X256" in pointing or "400X256" in _text(primary, "SUBARRAY")
    if "MASK" not in pointing or "TAMASK" in pointing or (aperture == pointing and not is_wide):
        return aperture
    detector, rest = aperture.split("_")[0], pointing.split("_")[1:]
    is_full = "FULL" in rest and not is_wide
    rest = [part for part in rest if part not in ("FULL", "400X256")]
    mask = rest[0]
    exists = mask[-1] in _MASKS_BEFORE.get(detector, "")
    if is_wide or (detector, mask) == ("NRCA4", "MASKLWB"):
        exists = exists and mask == "MASKLWB" and (is_wide or is_full)
    return "_".join([detector, *["400X256"] * is_wide, *["FULL"] * is_full, *rest]) if exists else aperture
