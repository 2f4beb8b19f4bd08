"""One exposure: its arrays on one device, and the frozen facts about it.

The science arrays are read once, in pieces, straight into float32 where they are wanted; everything else in the file
(header keywords, tables, history) goes through stdatamodels and is kept for the products.
"""

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.errors import InputError
from gpucoron.facts import Facts
from gpucoron.files import fits_bytes_due

log = logging.getLogger(__name__)

#: extensions that are read here and not by stdatamodels
_ARRAYS = ("SCI", "ERR", "PIXELDQ", "GROUPDQ", "ZEROFRAME", "REFOUT")
#: attributes that live where the steps run
_ON_DEVICE = ("data", "groupdq", "pixeldq", "zeroframe")
_INSTRUMENTS = ("NIRCAM", "MIRI", "NIRISS", "FGS", "NIRSPEC")
_CORONAGRAPHS = ("NRC_CORON", "MIR_4QPM", "MIR_LYOT")
#: what stage 1 starts from, for messages
_ACCEPTED = "the path of one *_uncal.fits or *_ramp.fits (str or Path)"
_GUIDING = ("FGS_ACQ1", "FGS_ACQ2", "FGS_FINEGUIDE", "FGS_ID-IMAGE", "FGS_ID-STACK", "FGS_TRACK")


def check_path(given, also=""):
    """Refuse what is no path of a file that stage 1 can start from, before it is opened.

    Parameters
    ----------
    given : object
    also : str, optional
        What is accepted beside a path.

    Returns
    -------
    Path

    Raises
    ------
    InputError
    """
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        kind = {None: "missing", "": "an empty text"}.get(given if isinstance(given, str | None) else 0)
        kind = kind or f"of the type {type(given).__name__}"
        several = isinstance(given, (list, tuple)) or type(given).__name__ in ("ModelContainer", "ModelLibrary")
        way_out = "; call it once for each exposure, or reduce many with gpucoron.batch.reduce" if several else ""
        msg = f"the input is {kind}; expected {_ACCEPTED}{also}{way_out}"
        raise InputError(msg)
    path = Path(given)
    if path.suffix.lower() == ".json":
        msg = f"{path}: an association; stage 1 takes its exposures one by one: expected {_ACCEPTED}{also}"
        raise InputError(msg)
    return path


@dataclass
class Exposure:
    """The arrays of one exposure on one device.

    Attributes
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    zeroframe : (nints, ny, nx) float32 or None, DN
    facts : Facts
    meta : stdatamodels RampModel without arrays
        Everything else that the file holds.
    path : Path or None
    average_dark_current : (ny, nx) float32 or None, e-/s
        Set by dark_current, read by ramp_fit.
    matched_dark : array or None, DN
        The dark as it was subtracted, where ``dark_output`` asks for it.
    dark_error : DarkError or None
        Set by dark_current where it continues the dark with a known error, read by the fits.
    rate, rateints : Slopes or None
        Set by ramp_fit.
    removed_1overf : (ny, nx) float32 or None
        Mean over all images of what subtract_1overf removed: DN at stage 'groups', DN/s at stage 'ints'.
    home : Backend or None
        The backend that must work on the arrays, where the CPU's memory does not hold them.
    """

    data: Any
    groupdq: Any
    pixeldq: Any
    zeroframe: Any
    facts: Facts
    meta: Any
    path: Path | None = None
    average_dark_current: Any = None
    matched_dark: Any = None
    dark_error: Any = None
    rate: Any = None
    rateints: Any = None
    removed_1overf: Any = None
    home: Any = None

    @property
    def name(self):
        """The file's name, for messages."""
        return self.path.name if self.path else str(self.meta.meta.filename)

    @classmethod
    def read(cls, path, backend=None):
        """Read ``*_uncal.fits`` or ``*_ramp.fits``.

        Parameters
        ----------
        path : str or Path
        backend : Backend, optional
            Where the arrays are wanted. Raw counts of an uncompressed file go there as they stand in the file, and are
            converted there; anything else goes there integration by integration. An exposure that the backend's memory
            would not hold stays on the host.

        Returns
        -------
        Exposure
            Where it is wanted, or on the host.

        Raises
        ------
        InputError
            The file is missing, damaged or not an exposure that stage 1 knows; the message says what to do.
        """
        path = check_path(path)
        with _opened(path) as (hdus, meta):
            shape = hdus["SCI"].shape
            facts = facts_of(path, meta, shape)
            backend = backend or get_backend("cpu")
            chosen = backend.fitting(shape, has_zeroframe=facts.zero_frame)
            exposure = cls(
                data=_read_samples(path, hdus["SCI"], chosen),
                groupdq=_read_or_zeros(hdus, "GROUPDQ", shape, np.uint8, chosen),
                pixeldq=_read_or_zeros(hdus, "PIXELDQ", shape[-2:], np.uint32, chosen),
                zeroframe=_read_samples(path, hdus["ZEROFRAME"], chosen) if facts.zero_frame else None,
                facts=facts,
                meta=meta,
                path=path,
                home=chosen if chosen is not backend else None,
            )
        _note_what_is_unusual(exposure.name, facts, shape)
        return exposure

    @classmethod
    def read_headers(cls, path):
        """Read what ``engine.plan`` needs to know of a file, and no pixels.

        Returns
        -------
        Exposure
            Its arrays have the file's shape, hold zeros and take no memory.

        Raises
        ------
        InputError
            As `read`.
        """
        path = check_path(path)
        with _opened(path) as (hdus, meta):
            shape = hdus["SCI"].shape
        return cls(
            data=np.broadcast_to(np.float32(0), shape),
            groupdq=np.broadcast_to(np.uint8(0), shape),
            pixeldq=np.broadcast_to(np.uint32(0), shape[-2:]),
            zeroframe=None,
            facts=facts_of(path, meta, shape),
            meta=meta,
            path=path,
        )

    @classmethod
    def from_model(cls, model):
        """Take the arrays of an open ``RampModel`` or ``Level1bModel``; they are copied, the model is left alone."""
        from stdatamodels.jwst import datamodels

        if not isinstance(model, datamodels.JwstDataModel):
            check_path(model, also=", or one open RampModel or Level1bModel")
        name = model.meta.filename or "the model"
        check_keywords(name, model.meta.instrument.name, model.meta.exposure.type, model.meta.exposure.readpatt)
        shape = model.data.shape
        if len(shape) != 4:
            raise InputError(_not_four_axes(name, shape))
        facts = facts_of(name, model, shape)
        ramp = datamodels.RampModel()
        ramp.update(model, extra_fits=True)
        ramp.int_times = model.int_times
        ramp.group = model.group
        zeroframe = model.zeroframe if facts.zero_frame else None
        _check_zeroframe(name, zeroframe is not None and zeroframe.shape, shape)
        exposure = cls(
            data=np.array(model.data, dtype=np.float32),
            groupdq=_copied_or_zeros(getattr(model, "groupdq", None), shape, np.uint8),
            pixeldq=_copied_or_zeros(getattr(model, "pixeldq", None), shape[-2:], np.uint32),
            zeroframe=None if zeroframe is None else np.array(zeroframe, dtype=np.float32),
            facts=facts,
            meta=ramp,
        )
        _note_what_is_unusual(exposure.name, facts, shape)
        return exposure

    @property
    def device_bytes(self):
        """Bytes that the arrays take on a device; 0 on the host."""
        arrays = [getattr(self, name) for name in _ON_DEVICE]
        return sum(array.nbytes for array in arrays if array is not None and not isinstance(array, np.ndarray))

    def settle_on(self, backend):
        """Put the arrays where a backend works on them, in place.

        Returns
        -------
        Backend
            The same, or that for chunks of rows where its device's memory is too small. An exposure that is in the
            host's memory already stays there for the CPU.
        """
        if self.home is not None:
            return self.home
        if not backend.on_host:
            sizes = {"has_zeroframe": self.zeroframe is not None, "held": self.device_bytes}
            backend = backend.fitting(self.data.shape, **sizes)
        self.move_to(backend)
        return backend

    def move_to(self, backend):
        """Put the arrays on a backend's device, in place."""
        for name in _ON_DEVICE:
            array = getattr(self, name)
            if array is not None:
                setattr(self, name, backend.to_device(array))
        return self

    def take(self, model, backend):
        """Take arrays and metadata of a ``RampModel`` that was made of this exposure, in place.

        Parameters
        ----------
        model : RampModel
            Integrations and groups may be other ones than before.
        backend : Backend
            Where the arrays are wanted.

        Raises
        ------
        InputError
            It is no exposure that stage 1 knows, or its flags have other shapes than its ramps.
        """
        shape = model.data.shape
        if len(shape) != 4:
            raise InputError(_not_four_axes(self.name, shape))
        if model.groupdq.shape != shape or model.pixeldq.shape != shape[-2:]:
            flags = f"GROUPDQ {model.groupdq.shape} and PIXELDQ {model.pixeldq.shape}"
            msg = f"{self.name}: the ramp has the shape {shape}, and the flags have others: {flags}; change them alike"
            raise InputError(msg)
        self.facts = facts_of(self.name, model, shape)
        self.meta.update(model, extra_fits=True)
        self.meta.int_times, self.meta.group = model.int_times, model.group
        for name in (*_ON_DEVICE, "average_dark_current"):
            array, held = getattr(model, name, None), getattr(self, name)
            if array is None or held is None or array is held:
                continue
            if isinstance(held, np.ndarray) and held.shape == array.shape:
                held[...] = array  # where it lies: it may be on a disk, because memory does not hold it
            else:
                setattr(self, name, backend.to_device(np.ascontiguousarray(array, held.dtype)))


@contextmanager
def _opened(path):
    """Open a file that stage 1 can start from: its extensions, and all but the arrays as a model."""
    from astropy.io import fits
    from stdatamodels.jwst import datamodels

    if not path.is_file():
        msg = f"{path}: {'a folder; name its files' if path.is_dir() else 'no such file'}"
        raise InputError(msg)
    try:
        hdus = fits.open(path, memmap=False, lazy_load_hdus=False)
    except OSError as error:
        msg = f"{path}: not a FITS file, or a damaged one ({error}); download it again"
        raise InputError(msg) from None
    with hdus:
        _check_complete(path, hdus)
        _check_kind(path, hdus)
        meta = datamodels.RampModel(_without_arrays(hdus))
        meta.meta.filename = path.name
        yield hdus, meta


def _check_complete(path, hdus):
    """Refuse a file that ends before its last extension does: astropy would only warn."""
    size, due = path.stat().st_size, fits_bytes_due(hdus)
    if path.suffix == ".fits" and due > size:
        msg = f"{path}: truncated: {size} bytes where {due} are due; download it again"
        raise InputError(msg)


def _check_kind(path, hdus):
    header = hdus[0].header
    if "SCI" not in hdus:
        msg = f"{path}: no SCI extension; stage 1 starts from *_uncal.fits or *_ramp.fits"
        raise InputError(msg)
    check_keywords(path, header.get("INSTRUME"), header.get("EXP_TYPE"), header.get("READPATT"))
    if len(hdus["SCI"].shape) != 4:
        raise InputError(_not_four_axes(path, hdus["SCI"].shape))
    if header.get("ZEROFRAM") and "ZEROFRAME" not in hdus:
        msg = f"{path}: truncated: ZEROFRAM is set, but there is no ZEROFRAME extension; download it again"
        raise InputError(msg)
    _check_zeroframe(path, header.get("ZEROFRAM") and hdus["ZEROFRAME"].shape, hdus["SCI"].shape)
    if header.get("NSPRSTRP"):
        msg = f"{path}: superstripe readout (NSPRSTRP); use jwst's own pipeline"
        raise InputError(msg)


def _check_zeroframe(name, shape, shape_of_ramp):
    if shape and tuple(shape) != (shape_of_ramp[0], *shape_of_ramp[2:]):
        msg = f"{name}: ZEROFRAME has the shape {tuple(shape)}, but SCI {tuple(shape_of_ramp)}; cut both alike"
        raise InputError(msg)


def _not_four_axes(name, shape):
    return f"{name}: SCI has {len(shape)} axes, a ramp has 4 (integrations, groups, rows, columns)"


def check_keywords(name, instrument, exp_type, readpatt):
    if instrument not in _INSTRUMENTS:
        msg = f"{name}: INSTRUME is {instrument!r}; expected one of {', '.join(_INSTRUMENTS)}"
        raise InputError(msg)
    if instrument == "NIRSPEC" and "IRS2" in (readpatt or ""):
        msg = f"{name}: NIRSpec IRS2 readout (READPATT {readpatt}) is not supported; use jwst's own pipeline"
        raise InputError(msg)
    if str(exp_type).upper() in _GUIDING:
        msg = f"{name}: EXP_TYPE {exp_type} is a guider product, no ramp; use jwst's guider_cds"
        raise InputError(msg)


def facts_of(name, model, shape):
    meta = model.meta
    needed = {
        "DETECTOR": meta.instrument.detector,
        "SUBARRAY": meta.subarray.name,
        "NGROUPS": meta.exposure.ngroups,
        "TGROUP": meta.exposure.group_time,
    }
    if meta.instrument.name != "MIRI":
        needed |= {"FASTAXIS": meta.subarray.fastaxis, "SLOWAXIS": meta.subarray.slowaxis}
    for keyword, value in needed.items():
        if value is None:
            msg = f"{name}: keyword {keyword} is missing; download the file again, or set it"
            raise InputError(msg)
    if 0 in shape:
        msg = f"{name}: no data: SCI has the shape {tuple(shape)}"
        raise InputError(msg)
    _check_numbers(name, meta.exposure, shape)
    return Facts(
        instrument=meta.instrument.name,
        detector=meta.instrument.detector,
        exp_type=meta.exposure.type,
        subarray=meta.subarray.name,
        xstart=meta.subarray.xstart,
        ystart=meta.subarray.ystart,
        xsize=meta.subarray.xsize,
        ysize=meta.subarray.ysize,
        fastaxis=meta.subarray.fastaxis,
        slowaxis=meta.subarray.slowaxis,
        readpatt=meta.exposure.readpatt,
        nints=meta.exposure.nints,
        ngroups=meta.exposure.ngroups,
        nframes=meta.exposure.nframes,
        groupgap=meta.exposure.groupgap,
        frame_divisor=meta.exposure.frame_divisor,
        frame_time=meta.exposure.frame_time,
        group_time=meta.exposure.group_time,
        integration_start=meta.exposure.integration_start,
        integration_end=meta.exposure.integration_end,
        zero_frame=bool(meta.exposure.zero_frame),
        noutputs=meta.exposure.noutputs,
        drop_frames1=meta.exposure.drop_frames1,
        gain_factor=meta.exposure.gain_factor,
        nsamples=meta.exposure.nsamples,
    )


def _check_numbers(name, exposure, shape):
    """Refuse more groups than the keywords tell of, which have no times; the arrays' own numbers count otherwise."""
    if exposure.ngroups < shape[1]:
        msg = (
            f"{name}: NGROUPS is {exposure.ngroups}, but SCI holds {shape[1]} groups; correct the keyword, or cut SCI "
            "(and GROUPDQ)"
        )
        raise InputError(msg)


def _note_what_is_unusual(name, facts, shape):
    nints, ngroups = shape[:2]
    if facts.ngroups != ngroups:
        log.warning("%s: NGROUPS is %d, but SCI holds %d groups: these count", name, facts.ngroups, ngroups)
    first, last = facts.integration_start, facts.integration_end
    told = facts.nints if None in (first, last) else last - first + 1
    if told is not None and told != nints:
        log.warning("%s: the keywords tell of %d integrations, but SCI holds %d: these count", name, told, nints)
    if facts.instrument not in ("NIRCAM", "MIRI"):
        log.warning("%s: %s is no coronagraph; it takes the near-infrared order", name, facts.instrument)
    elif facts.exp_type not in _CORONAGRAPHS:
        log.warning("%s: EXP_TYPE %s is no coronagraphy; the same steps apply", name, facts.exp_type)


def _without_arrays(hdus):
    """Give stdatamodels every header and table, and no image."""
    from astropy.io import fits

    kept = fits.HDUList()
    for hdu in hdus:
        if hdu.name in _ARRAYS:
            kept.append(fits.ImageHDU(header=hdu.header.copy(), name=hdu.name))
        else:
            kept.append(hdu)
    return kept


def _read_samples(path, hdu, backend):
    """Read samples into float32: raw counts straight to the backend, anything else on the host."""
    if not _holds_raw_counts(hdu):
        return _read_planes(hdu, np.float32, backend)
    with path.open("rb") as file:
        file.seek(hdu.fileinfo()["datLoc"])

        def read(words):
            if file.readinto(words.view(np.uint8)) != words.nbytes:
                msg = f"{path}: truncated within {hdu.name}; download it again"
                raise InputError(msg)

        return backend.load_counts(hdu.shape, read)


def _holds_raw_counts(hdu):
    """Tell whether an image is unsigned 16-bit words, as they are, at a known place of the file."""
    from astropy.io import fits

    header = hdu.header
    is_unsigned = header["BITPIX"] == 16 and header.get("BZERO") == 32768 and header.get("BSCALE", 1) == 1
    is_plain = not isinstance(hdu, fits.CompImageHDU) and hdu.fileinfo()["file"].compression is None
    return is_unsigned and is_plain and "BLANK" not in header


def _read_planes(hdu, dtype, backend):
    """Read an image, a ramp by its integrations: no second copy of a whole ramp ever exists."""
    if len(hdu.shape) < 3:
        return backend.to_device(np.array(hdu.section[:], dtype))
    return backend.load_parts(hdu.shape, dtype, (hdu.section[index] for index in range(hdu.shape[0])))


def _read_or_zeros(hdus, name, shape, dtype, backend):
    """Read flags; jwst starts afresh where they are missing or of another shape."""
    if name in hdus and tuple(hdus[name].shape) == tuple(shape):
        return _read_planes(hdus[name], dtype, backend)
    return backend.zeros(shape, dtype)


def _copied_or_zeros(flags, shape, dtype):
    """Copy a model's flags, under the same rule."""
    if flags is not None and tuple(np.shape(flags)) == tuple(shape):
        return np.array(flags, dtype=dtype)
    return np.zeros(shape, dtype)
