"""One exposure: its arrays on one device, and the frozen facts about it.

The science arrays are read once, in pieces, and converted to float32 on the device that needs them. stdatamodels reads
everything else (keywords, tables, history), which is kept for the products.
"""

import logging
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.backends.backend import Backend
from gpucoron.errors import InputError
from gpucoron.facts import Facts
from gpucoron.files import AnyPath, first_line, read_at
from gpucoron.interactive import Shown, public
from gpucoron.io.boundary import converted_errors
from gpucoron.io.fits_layout import CheckSum, Layout, check_sums, read_layout
from gpucoron.io.kept import kept, schema_of
from gpucoron.io.keywords import check_keywords, facts_of, warn_of_contradictions

log = logging.getLogger(__name__)

#: extensions that this module reads instead of stdatamodels
_ARRAYS = ("SCI", "ERR", "PIXELDQ", "GROUPDQ", "ZEROFRAME", "REFOUT")
_TABLES = ("GROUP", "INT_TIMES", "ASDF")
#: the error of stdatamodels if the ASDF extension refers to a missing extension
_LOST = re.compile(r"Extension \(\W*(\w+)\W*, \d+\) not found")
#: attributes on the device of the backend
_ON_DEVICE = ("data", "groupdq", "pixeldq", "zeroframe")
#: accepted input, for messages
_ACCEPTED = "the path of one *_uncal.fits or *_ramp.fits (str or Path)"


def check_path(given: Any, also: str = "") -> Path:
    """Check that the input is the path of one exposure, before it is opened.

    Parameters
    ----------
    given : object
    also : str, optional
        Other accepted input, for the message.

    Returns
    -------
    Path

    Raises
    ------
    InputError
    """
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        of_type = type(given).__name__
        kind = {"NoneType": "missing", "str": "an empty string"}.get(of_type, f"of the type {of_type}")
        several = isinstance(given, (list, tuple)) or of_type in ("ModelContainer", "ModelLibrary")
        way_out = "; call it once for each exposure, or reduce many with gpucoron.batch.reduce" if several else ""
        msg = f"the input is {kind}; expected {_ACCEPTED}{also}{way_out}"
        raise InputError(msg)
    path = Path(given)
    if path.suffix.lower() == ".json":
        msg = f"{path}: an association; stage 1 processes one exposure at a time: expected {_ACCEPTED}{also}"
        raise InputError(msg)
    return path


@dataclass(repr=False)
class Exposure(Shown):
    """The arrays of one exposure on one device.

    Attributes
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    zeroframe : (nints, ny, nx) float32 or None, DN
    facts : Facts
    meta : stdatamodels RampModel without arrays, or None
        All keywords and tables of the file.
    path : Path or None
    emicorr_waves : dict or None
        The reference with the waves that emicorr measured, kept only if it is saved.
    average_dark_current : (ny, nx) float32 or None, e-/s
        Set by dark_current, read by ramp_fit.
    matched_dark : array or None, DN
        The subtracted dark, kept only if ``dark_output`` is set.
    dark_error, noise_error : DarkError, NoiseError or None
        Of an extrapolated dark, and of 1/f noise that subtract_1overf left at stage 'groups'; read by the fits.
    rate, rateints : Slopes or None
        Set by ramp_fit.
    likelihood_chisq : (ny, nx) float32 or None
        Chi-square of the LIKELY fit, summed over integrations; set by ramp_fit.
    optional_fit : SegmentFit or None
        The segments of the fit, for the optional product; set by ramp_fit.
    flicker_mask, flicker_background, flicker_noise, picture_frame_mask, picture_frame_correction : float32 or None
        What clean_flicker_noise and picture_frame save: masks (ny, nx) or (nints, ny, nx), the others as data, DN.
    removed_1overf : (ny, nx) float32 or None
        Mean of the 1/f noise that subtract_1overf removed: DN at stage 'groups', DN/s at stage 'ints'.
    home : Backend or None
        The backend that must process the arrays because they do not fit into memory.
    """

    data: Any = None
    groupdq: Any = None
    pixeldq: Any = None
    zeroframe: Any = None
    facts: Facts = None  # type: ignore[assignment]  # all readers set it
    meta: Any = None
    path: Path | None = None
    emicorr_waves: Any = None
    average_dark_current: Any = None
    matched_dark: Any = None
    dark_error: Any = None
    rate: Any = None
    rateints: Any = None
    likelihood_chisq: Any = None
    optional_fit: Any = None
    flicker_mask: Any = None
    flicker_background: Any = None
    flicker_noise: Any = None
    picture_frame_mask: Any = None
    picture_frame_correction: Any = None
    removed_1overf: Any = None
    noise_error: Any = None
    home: Any = None

    @property
    def name(self) -> str:
        """The name of the file, for messages."""
        of_model = "the exposure" if self.meta is None else str(self.meta.meta.filename)
        return self.path.name if self.path else of_model

    def _summary(self) -> str:
        """Return the name, the instrument, the subarray, the read pattern and the size, for messages."""
        facts, shape = self.facts, () if self.data is None else self.data.shape
        of = "" if facts is None else f" {facts.instrument} {facts.subarray} {facts.readpatt},"
        size = "{} integrations x {} groups x {} x {}".format(*shape) if len(shape) == 4 else "no ramps"
        return f"{self.name}:{of} {size}"

    def _fields(self):
        values = {**vars(self), **({} if self.facts is None else vars(self.facts)), "facts": None, "meta": None}
        return [(name, value) for name, value in values.items() if value is not None]

    @classmethod
    @public
    def read(cls, path: AnyPath, backend: Backend | None = None) -> Self:
        """Read ``*_uncal.fits`` or ``*_ramp.fits``.

        Parameters
        ----------
        path : str or Path
        backend : Backend, optional
            Where the arrays are needed. Raw counts of an uncompressed file are copied to its device and converted
            there; all other arrays are copied one integration at a time. An exposure that does not fit into the memory
            of the device stays on the host.

        Returns
        -------
        Exposure
            On the device of the backend, or on the host.

        Raises
        ------
        InputError
            The file is missing, damaged or not an exposure that stage 1 can process; the message says what to do.
        """
        path, backend = check_path(path), backend or get_backend("cpu")
        late = {"passed_on": backend.is_out_of_memory, "late": backend.is_late_error}
        with converted_errors(path, reading=True, **late):
            # checksums of raw counts are computed while they are read
            layout = read_layout(path, summed=lambda part: _has_sums(part) and not part.holds_counts)
            for part in layout.parts:
                if part.found_sum is not None:
                    _check_sums(path, part, part.found_sum)
            with _opened(path, layout) as (hdus, meta):
                shape = layout.find("SCI").shape
                facts = facts_of(path, meta, shape)
                _check_end(path, layout, facts)
                _warn_of_unused(path, layout, facts)
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
        warn_of_contradictions(exposure.name, facts, shape)
        return exposure

    @classmethod
    @public
    def read_headers(cls, path: AnyPath) -> Self:
        """Read only the headers and tables, which ``engine.plan`` needs.

        Returns
        -------
        Exposure
            Its arrays have the right shapes, but hold zeros and use no memory.

        Raises
        ------
        InputError
            As `read`.
        """
        path = check_path(path)
        with converted_errors(path, reading=True):
            layout = read_layout(path)
            shape = layout.find("SCI").shape if layout.find("SCI") else ()
            with _opened(path, layout) as (_hdus, meta):
                facts = facts_of(path, meta, shape)
                _check_end(path, layout, facts)
        return cls.without_pixels(shape, facts, meta, path=path)

    @classmethod
    def without_pixels(cls, shape: tuple[int, ...], facts: Facts, meta: Any, **attributes: Any) -> Self:
        """Make an exposure whose ramps hold zeros and use no memory."""
        return cls(
            data=np.broadcast_to(np.float32(0), shape),
            groupdq=np.broadcast_to(np.uint8(0), shape),
            pixeldq=np.broadcast_to(np.uint32(0), shape[-2:]),
            facts=facts,
            meta=meta,
            **attributes,
        )

    @classmethod
    @public
    def from_model(cls, model: Any) -> Self:
        """Copy the arrays of an open ``RampModel`` or ``Level1bModel``, which is not changed."""
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
        ramp.int_times, ramp.group = model.int_times, model.group
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
        warn_of_contradictions(exposure.name, facts, shape)
        return exposure

    @property
    def device_bytes(self) -> int:
        """Bytes of the arrays on a device; 0 on the host."""
        arrays = [getattr(self, name) for name in _ON_DEVICE]
        return sum(array.nbytes for array in arrays if array is not None and not isinstance(array, np.ndarray))

    def settle_on(self, backend: Backend) -> Backend:
        """Move the arrays to the device of a backend, in place, and return the backend that will process them.

        Returns
        -------
        Backend
            The same backend, or one that processes chunks of rows if the memory of the device is too small. For a CPU
            backend, arrays in host memory stay there.
        """
        if self.home is not None:
            return self.home
        if not backend.on_host:
            backend = backend.fitting(self.data.shape, has_zeroframe=self.zeroframe is not None, held=self.device_bytes)
        self.move_to(backend)
        return backend

    def move_to(self, backend: Backend) -> Self:
        """Move the arrays to the device of a backend, in place."""
        for name in _ON_DEVICE:
            array = getattr(self, name)
            if array is not None:
                setattr(self, name, backend.to_device(array))
        return self

    def take(self, model: Any, backend: Backend) -> None:
        """Replace the arrays and metadata by those of a ``RampModel`` that was made from this exposure.

        Parameters
        ----------
        model : RampModel
            The number of integrations and groups may have changed.
        backend : Backend
            Where the arrays are needed.

        Raises
        ------
        InputError
            Stage 1 cannot process it, or the shapes of its flags and ramps do not match.
        """
        shape = model.data.shape
        if len(shape) != 4:
            raise InputError(_not_four_axes(self.name, shape))
        if model.groupdq.shape != shape or model.pixeldq.shape != shape[-2:]:
            flags = f"GROUPDQ {model.groupdq.shape} and PIXELDQ {model.pixeldq.shape}"
            msg = f"{self.name}: the ramp has the shape {shape}, but {flags}; change all of them together"
            raise InputError(msg)
        self.facts = facts_of(self.name, model, shape)
        self.meta.update(model, extra_fits=True)
        self.meta.int_times, self.meta.group = model.int_times, model.group
        for name in (*_ON_DEVICE, "average_dark_current"):
            array, held = getattr(model, name, None), getattr(self, name)
            if array is None or held is None or array is held:
                continue
            if isinstance(held, np.ndarray) and held.shape == array.shape:
                held[...] = array  # in place: the array may be a scratch file
            else:
                setattr(self, name, backend.to_device(np.ascontiguousarray(array, held.dtype)))


@contextmanager
def _opened(path, layout):
    """Open an exposure: yield its extensions, and a model with everything except the arrays."""
    from astropy.io import fits
    from stdatamodels.jwst import datamodels

    _check_extensions(path, layout)
    with kept(), fits.open(path, memmap=False, lazy_load_hdus=False) as hdus:
        try:
            meta = datamodels.RampModel(_without_arrays(hdus), schema=schema_of(datamodels.RampModel))
        except Exception as error:  # a damaged file can raise almost anything
            lost = _LOST.search(str(error))
            problem = f"its ASDF extension or a table cannot be read ({first_line(error)})"
            problem = f"its extension {lost[1]} is missing" if lost else problem
            msg = f"{path}: damaged: {problem}; download it again"
            raise InputError(msg) from error
        meta.meta.filename = path.name
        yield hdus, meta


def _check_extensions(path, layout):
    """Refuse a file whose extensions are missing, or of the wrong kind."""
    primary, sci = layout.parts[0], layout.find("SCI")
    if sci is None:
        msg = f"{path}: no SCI extension; stage 1 starts from *_uncal.fits or *_ramp.fits"
        raise InputError(msg)
    check_keywords(path, *(primary.value(keyword) for keyword in ("INSTRUME", "EXP_TYPE", "READPATT")))
    for part in layout.parts:
        kind = "table" if part.name in _TABLES else "image" if part.name in _ARRAYS else None
        if kind is not None and part.kind.removeprefix("compressed ") != kind:
            msg = f"{path}: {part.name} is not a FITS {kind} ({part.kind}); download it again"
            raise InputError(msg)
        if part.name in ("GROUP", "INT_TIMES"):
            absent = [name for name in _required_columns(part.name) if name not in part.columns]
            if absent:
                msg = f"{path}: {part.name} lacks the columns {', '.join(absent)}; download it again"
                raise InputError(msg)
    if len(sci.shape) != 4:
        raise InputError(_not_four_axes(path, sci.shape))
    if primary.value("NSPRSTRP"):
        msg = f"{path}: superstripe readout (NSPRSTRP); use jwst's own pipeline"
        raise InputError(msg)


@cache
def _required_columns(name):
    """Return the columns of a jwst table, in upper case."""
    from stdatamodels.jwst import datamodels

    return [column.upper() for column in datamodels.RampModel().get_dtype(name.lower()).names]


def _check_end(path, layout, facts):
    """Refuse a file that was truncated just before an extension."""
    primary, zeroframe = layout.parts[0], layout.find("ZEROFRAME")
    if facts.zero_frame and zeroframe is None:
        msg = f"{path}: truncated: ZEROFRAM is set, but there is no ZEROFRAME extension; download it again"
        raise InputError(msg)
    if facts.zero_frame:
        _check_zeroframe(path, zeroframe.shape, layout.find("SCI").shape)
    if primary.value("DATAMODL") and layout.find("ASDF") is None:
        msg = (
            f"{path}: truncated: the ASDF extension at the end of every jwst data model is missing "
            f"(DATAMODL is {primary.value('DATAMODL')}); download it again, or remove DATAMODL if the extension was "
            "removed on purpose"
        )
        raise InputError(msg)


def _warn_of_unused(path, layout, facts):
    """Warn of extensions and keywords that will not be used."""
    seen, shape = set(), layout.find("SCI").shape
    for part in layout.parts:
        name = (part.name, part.version)
        if part.name and name in seen:
            log.warning("%s: %s occurs twice: the first one is used", path.name, part.name)
        seen.add(name)
        for keyword in part.repeated:
            log.warning(
                "%s: %s occurs twice in the header of %s, with different values: the first one is used",
                path.name, keyword, part.name,
            )  # fmt: skip
        expected = {"GROUPDQ": shape, "PIXELDQ": shape[-2:]}.get(part.name)
        if expected is not None and part.shape != expected:
            log.warning(
                "%s: %s has the shape %s, not %s: its flags are not used", path.name, part.name, part.shape, expected
            )
        if part.name == "ZEROFRAME" and not facts.zero_frame:
            log.warning("%s: ZEROFRAM is not set: the ZEROFRAME extension is not used", path.name)


def _check_sums(path, part, found):
    warning = check_sums(path, part, found)
    if warning:
        log.warning("%s", warning)


def _has_sums(part):
    return "DATASUM" in part.cards or "CHECKSUM" in part.cards


def _check_zeroframe(name, shape, shape_of_ramp):
    if shape and tuple(shape) != (shape_of_ramp[0], *shape_of_ramp[2:]):
        shapes = f"ZEROFRAME has the shape {tuple(shape)}, but SCI has {tuple(shape_of_ramp)}"
        msg = f"{name}: {shapes}; cut both to the same integrations"
        raise InputError(msg)


def _not_four_axes(name, shape):
    return f"{name}: SCI has {len(shape)} axes, a ramp has 4 (integrations, groups, rows, columns)"


def _without_arrays(hdus):
    """Copy all headers and tables for stdatamodels, without the images."""
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
    """An open file, and the backend that needs its arrays."""

    path: Path
    layout: Layout
    hdus: Any
    backend: Any

    def read_samples(self, name):
        """Read samples as float32: the backend converts raw counts, the host all other types."""
        part = self.layout.find(name)
        if not part.holds_counts:
            return _read_planes(self.hdus[part.number], np.float32, self.backend)
        is_summed, total = _has_sums(part), CheckSum()
        with self.path.open("rb") as file:

            def read(words, first):
                if read_at(file, words, part.start + 2 * first) != words.nbytes:
                    msg = f"{self.path}: truncated within {name}; download it again"
                    raise InputError(msg)
                if is_summed:
                    total.add(words, 2 * first)

            samples = self.backend.load_counts(part.shape, read)
        if is_summed:
            _check_sums(self.path, part, total.value)
        return samples

    def read_flags(self, name, shape, dtype):
        """Read flags; return zeros if they are missing or have another shape, as jwst does."""
        part = self.layout.find(name)
        if part is not None and part.shape == tuple(shape):
            return _read_planes(self.hdus[part.number], dtype, self.backend)
        return self.backend.zeros(shape, dtype)


def _read_planes(hdu, dtype, backend):
    """Read an image, or a ramp one integration at a time, so that memory never holds a second copy."""
    if len(hdu.shape) < 3:
        return backend.to_device(np.array(hdu.section[:], dtype))
    return backend.load_parts(hdu.shape, dtype, (hdu.section[index] for index in range(hdu.shape[0])))


def _copied_or_zeros(flags, shape, dtype):
    """Copy the flags of a model, or make zeros if they are missing or have another shape."""
    if flags is not None and tuple(np.shape(flags)) == tuple(shape):
        return np.array(flags, dtype=dtype)
    return np.zeros(shape, dtype)
