"""One exposure: its arrays on one device, and the frozen facts about it.

The science arrays are read once, in pieces, straight into float32 where they are wanted; everything else in the file
(header keywords, tables, history) goes through stdatamodels and is kept for the products.
"""

import logging
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.errors import InputError
from gpucoron.facts import Facts
from gpucoron.files import first_line
from gpucoron.io.boundary import told_of
from gpucoron.io.fits_layout import CheckSum, Layout, check_sums, read_layout
from gpucoron.io.keywords import check_keywords, facts_of, note_what_is_unusual

log = logging.getLogger(__name__)

#: extensions that are read here and not by stdatamodels
_ARRAYS = ("SCI", "ERR", "PIXELDQ", "GROUPDQ", "ZEROFRAME", "REFOUT")
_TABLES = ("GROUP", "INT_TIMES", "ASDF")
#: how stdatamodels says that an extension is missing which the ASDF extension names
_LOST = re.compile(r"Extension \(\W*(\w+)\W*, \d+\) not found")
#: attributes that live where the steps run
_ON_DEVICE = ("data", "groupdq", "pixeldq", "zeroframe")
#: what stage 1 starts from, for messages
_ACCEPTED = "the path of one *_uncal.fits or *_ramp.fits (str or Path)"


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
    meta : stdatamodels RampModel without arrays, or None
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
    likelihood_chisq : (ny, nx) float32 or None
        Chi-square of the LIKELY fit, summed over integrations; set by ramp_fit.
    optional_fit : RampFitOutputModel or None
        jwst's optional product of the segmented fit; set by ramp_fit.
    removed_1overf : (ny, nx) float32 or None
        Mean over all images of what subtract_1overf removed: DN at stage 'groups', DN/s at stage 'ints'.
    home : Backend or None
        The backend that must work on the arrays, where the CPU's memory does not hold them.
    """

    data: Any = None
    groupdq: Any = None
    pixeldq: Any = None
    zeroframe: Any = None
    facts: Facts | None = None
    meta: Any = None
    path: Path | None = None
    average_dark_current: Any = None
    matched_dark: Any = None
    dark_error: Any = None
    rate: Any = None
    rateints: Any = None
    likelihood_chisq: Any = None
    optional_fit: Any = None
    removed_1overf: Any = None
    home: Any = None

    @property
    def name(self):
        """The file's name, for messages."""
        if self.path:
            return self.path.name
        return "the exposure" if self.meta is None else str(self.meta.meta.filename)

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
        backend = backend or get_backend("cpu")
        with told_of(path, reading=True, spared=backend.is_out_of_memory):
            # counts are summed while they are read
            layout = read_layout(path, summed=lambda part: _has_sums(part) and not part.holds_counts)
            for part in layout.parts:
                if part.found_sum is not None:
                    _check_sums(path, part, part.found_sum)
            with _opened(path, layout) as (hdus, meta):
                shape = layout.find("SCI").shape
                facts = facts_of(path, meta, shape)
                _check_end(path, layout, facts)
                _note_what_is_odd(path, layout, facts)
                chosen = backend.fitting(shape, has_zeroframe=facts.zero_frame)
                file = _File(path, layout, hdus, chosen)
                exposure = cls(
                    data=file.read_samples("SCI"),
                    groupdq=file.read_flags("GROUPDQ", shape, np.uint8),
                    pixeldq=file.read_flags("PIXELDQ", shape[-2:], np.uint32),
                    zeroframe=file.read_samples("ZEROFRAME") if facts.zero_frame else None,
                    facts=facts,
                    meta=meta,
                    path=path,
                    home=chosen if chosen is not backend else None,
                )
        note_what_is_unusual(exposure.name, facts, shape)
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
        with told_of(path, reading=True):
            layout = read_layout(path)
            shape = layout.find("SCI").shape if layout.find("SCI") else ()
            with _opened(path, layout) as (_hdus, meta):
                facts = facts_of(path, meta, shape)
                _check_end(path, layout, facts)
        return cls(
            data=np.broadcast_to(np.float32(0), shape),
            groupdq=np.broadcast_to(np.uint8(0), shape),
            pixeldq=np.broadcast_to(np.uint32(0), shape[-2:]),
            zeroframe=None,
            facts=facts,
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
        note_what_is_unusual(exposure.name, facts, shape)
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
def _opened(path, layout):
    """Open a file that stage 1 can start from: its extensions, and all but the arrays as a model."""
    from astropy.io import fits
    from stdatamodels.jwst import datamodels

    _check_extensions(path, layout)
    with fits.open(path, memmap=False, lazy_load_hdus=False) as hdus:
        meta = None
        try:
            meta = datamodels.RampModel(_without_arrays(hdus))
        except Exception as error:  # a damaged file shows as almost any error
            lost = _LOST.search(str(error))
            what = f"its ASDF extension or a table cannot be read ({first_line(error)})"
            what = f"its extension {lost[1]} is missing" if lost else what
            msg = f"{path}: damaged: {what}; download it again"
            raise InputError(msg) from error
        meta.meta.filename = path.name
        yield hdus, meta


def _check_extensions(path, layout):
    """Refuse a file that lacks what stage 1 needs, or has it in another kind of extension."""
    primary, sci = layout.parts[0], layout.find("SCI")
    if sci is None:
        msg = f"{path}: no SCI extension; stage 1 starts from *_uncal.fits or *_ramp.fits"
        raise InputError(msg)
    check_keywords(path, *(primary.value(keyword) for keyword in ("INSTRUME", "EXP_TYPE", "READPATT")))
    for part in layout.parts:
        wanted = "table" if part.name in _TABLES else "image" if part.name in _ARRAYS else None
        if wanted is not None and part.kind.removeprefix("compressed ") != wanted:
            msg = f"{path}: {part.name} is no {wanted}, but of the kind {part.kind}; download it again"
            raise InputError(msg)
        if part.name in ("GROUP", "INT_TIMES"):
            absent = [name for name in _columns_due(part.name) if name not in part.columns]
            if absent:
                msg = f"{path}: {part.name} lacks the columns {', '.join(absent)}; download it again"
                raise InputError(msg)
    if len(sci.shape) != 4:
        raise InputError(_not_four_axes(path, sci.shape))
    if primary.value("NSPRSTRP"):
        msg = f"{path}: superstripe readout (NSPRSTRP); use jwst's own pipeline"
        raise InputError(msg)


@cache
def _columns_due(name):
    """Name the columns that jwst's tables have, in capitals."""
    from stdatamodels.jwst import datamodels

    return [column.upper() for column in datamodels.RampModel().get_dtype(name.lower()).names]


def _check_end(path, layout, facts):
    """Refuse a file that lacks an extension of which its headers tell: it was cut just before one."""
    primary, zeroframe = layout.parts[0], layout.find("ZEROFRAME")
    if facts.zero_frame and zeroframe is None:
        msg = f"{path}: truncated: ZEROFRAM is set, but there is no ZEROFRAME extension; download it again"
        raise InputError(msg)
    if facts.zero_frame:
        _check_zeroframe(path, zeroframe.shape, layout.find("SCI").shape)
    if primary.value("DATAMODL") and layout.find("ASDF") is None:
        msg = (
            f"{path}: truncated: jwst's data models (DATAMODL is {primary.value('DATAMODL')}) end each file with an "
            "ASDF extension, and there is none; download it again, or remove DATAMODL if the extension was left out "
            "on purpose"
        )
        raise InputError(msg)


def _note_what_is_odd(path, layout, facts):
    """Warn of extensions that will not be used."""
    seen, shape = set(), layout.find("SCI").shape
    for part in layout.parts:
        name = (part.name, part.version)
        if part.name and name in seen:
            log.warning("%s: %s stands there twice: the first one counts", path.name, part.name)
        seen.add(name)
        for keyword in part.repeated:
            log.warning(
                "%s: %s stands twice in the header of %s, with two values: the first one counts",
                path.name, keyword, part.name,
            )  # fmt: skip
        due = {"GROUPDQ": shape, "PIXELDQ": shape[-2:]}.get(part.name)
        if due is not None and part.shape != due:
            log.warning(
                "%s: %s has the shape %s, not %s: its flags are not used", path.name, part.name, part.shape, due
            )
        if part.name == "ZEROFRAME" and not facts.zero_frame:
            log.warning("%s: ZEROFRAM is not set: the ZEROFRAME extension is not used", path.name)


def _check_sums(path, part, found):
    wrong = check_sums(path, part, found)
    if wrong:
        log.warning("%s", wrong)


def _has_sums(part):
    return "DATASUM" in part.cards or "CHECKSUM" in part.cards


def _check_zeroframe(name, shape, shape_of_ramp):
    if shape and tuple(shape) != (shape_of_ramp[0], *shape_of_ramp[2:]):
        msg = f"{name}: ZEROFRAME has the shape {tuple(shape)}, but SCI {tuple(shape_of_ramp)}; cut both alike"
        raise InputError(msg)


def _not_four_axes(name, shape):
    return f"{name}: SCI has {len(shape)} axes, a ramp has 4 (integrations, groups, rows, columns)"


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


@dataclass
class _File:
    """An open file, and where its arrays are wanted."""

    path: Path
    layout: Layout
    hdus: Any
    backend: Any

    def read_samples(self, name):
        """Read samples into float32: raw counts straight to the backend, anything else on the host."""
        part = self.layout.find(name)
        if not part.holds_counts:
            return _read_planes(self.hdus[part.number], np.float32, self.backend)
        is_summed, total = _has_sums(part), CheckSum()
        with self.path.open("rb") as file:
            file.seek(part.start)

            def read(words):
                if file.readinto(words.view(np.uint8)) != words.nbytes:
                    msg = f"{self.path}: truncated within {name}; download it again"
                    raise InputError(msg)
                if is_summed:
                    total.add(words)

            samples = self.backend.load_counts(part.shape, read)
        if is_summed:
            _check_sums(self.path, part, total.value)
        return samples

    def read_flags(self, name, shape, dtype):
        """Read flags; jwst starts afresh where they are missing or of another shape."""
        part = self.layout.find(name)
        if part is not None and part.shape == tuple(shape):
            return _read_planes(self.hdus[part.number], dtype, self.backend)
        return self.backend.zeros(shape, dtype)


def _read_planes(hdu, dtype, backend):
    """Read an image, a ramp by its integrations: no second copy of a whole ramp ever exists."""
    if len(hdu.shape) < 3:
        return backend.to_device(np.array(hdu.section[:], dtype))
    return backend.load_parts(hdu.shape, dtype, (hdu.section[index] for index in range(hdu.shape[0])))


def _copied_or_zeros(flags, shape, dtype):
    """Copy a model's flags, under the same rule."""
    if flags is not None and tuple(np.shape(flags)) == tuple(shape):
        return np.array(flags, dtype=dtype)
    return np.zeros(shape, dtype)
