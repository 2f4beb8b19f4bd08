"""Calibration references: look them up in CRDS, read them with jwst's models, cut them to the subarray, cache them.

CRDS selects references by the keywords of the exposure. It uses its server, and downloads files into the cache of the
user, or works offline with the cache. References stay in memory for the next exposure.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from gpucoron.errors import ReferenceFileError
from gpucoron.files import first_line
from gpucoron.io.asdf_trees import copy_tree
from gpucoron.io.crds_lookup import look_up
from gpucoron.io.fits_layout import read_layout
from gpucoron.io.kept import kept
from gpucoron.io.older_jwst import read_array

#: reference type -> (stdatamodels class, names of its arrays, whether to cut it to the subarray)
_READERS = {
    "mask": ("MaskModel", ("dq",), True),
    "saturation": ("SaturationModel", ("data", "dq"), True),
    "superbias": ("SuperBiasModel", ("data", "dq"), True),
    "linearity": ("LinearityModel", ("coeffs", "dq", "inv_coeffs"), True),
    "gain": ("GainModel", ("data",), True),
    "readnoise": ("ReadnoiseModel", ("data",), True),
    "ipc": ("IPCModel", ("data",), False),
    "dark": ("DarkModel", ("data", "dq", "average_dark_current"), False),
    "reset": ("ResetModel", ("data", "dq"), False),
    "rscd": ("RSCDModel", (), False),
    "flat": ("FlatModel", ("data", "dq"), True),
    "pictureframe": ("PictureFrameModel", ("data",), False),
}
_DARK_CLASS = {"MIRI": "DarkMIRIModel", "NIRSPEC": "DarkNirspecModel"}

#: names of all arrays of references
_ARRAYS = ("data", "dq", "coeffs", "inv_coeffs", "average_dark_current", "table")

#: types of which no step reads the contents: only their names are written to products
_NAMED_ONLY = ("refpix", "pastasoss")

#: types that jwst requires
_INDISPENSABLE = ("gain", "readnoise")


@dataclass(frozen=True, eq=False)
class Reference:
    """One reference file: read-only arrays, and facts from its metadata.

    Attributes
    ----------
    reftype : str
    path : Path
    data, dq, coeffs, inv_coeffs, average_dark_current : array or None
        The arrays that the type has, cut to the subarray of the exposure.
    table : structured array or None
        The RSCD table.
    facts : dict
        nints, ngroups, nframes, groupgap, gain_factor and average_dark_current; None where the metadata lack them.
        For emicorr the waves and clocks, for sirskernel the coefficients of each detector.
    """

    reftype: str = ""
    path: Path | None = None
    data: Any = None
    dq: Any = None
    coeffs: Any = None
    inv_coeffs: Any = None
    average_dark_current: Any = None
    table: Any = None
    facts: dict = field(default_factory=dict)

    @property
    def arrays(self):
        """Arrays of the reference, including the table: name -> array."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def nbytes(self):
        """Size of the arrays in bytes."""
        return sum(array.nbytes for array in self.arrays.values())

    def on(self, backend):
        """Return the same reference on a backend's device; a table stays on the host."""
        if backend.xp is np:
            return self
        numeric = {name: array for name, array in self.arrays.items() if name != "table"}
        return replace(self, **{name: backend.to_device(array) for name, array in numeric.items()})


class ReferenceStore:
    """A cache of references by subarray and device; the oldest are removed if it exceeds ``max_bytes``."""

    def __init__(self, max_bytes=2 * 2**30):
        self.max_bytes = max_bytes
        self._kept = OrderedDict()
        self._lock = Lock()  # exposures may be reduced in parallel threads

    def get(self, reftype, path, exposure, backend):
        """Return a reference from the cache, or read it."""
        try:
            stat = os.stat(path)
        except OSError as error:
            msg = f"{path}: the {reftype} reference of {exposure.name} cannot be read ({error.strerror})"
            raise ReferenceFileError(msg) from None
        facts = exposure.facts
        window = (facts.xstart, facts.ystart, facts.xsize, facts.ysize, exposure.data.shape[-2:])
        key = (reftype, str(path), stat.st_mtime_ns, stat.st_size, window, facts.instrument, backend.home.key)
        with self._lock:
            reference = self._kept.get(key)
        if reference is None:
            reference = read_reference(reftype, path, exposure).on(backend)
            backend.synchronize()  # exposures in other threads may use it at once
        with self._lock:
            self._kept[key] = reference
            self._kept.move_to_end(key)
            self._shrink()
        return reference

    def _shrink(self):
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self.max_bytes:
            self._kept.popitem(last=False)

    def clear(self):
        """Empty the cache."""
        with self._lock:
            self._kept.clear()


#: the cache of this process
STORE = ReferenceStore()


def find_references(exposure, reftypes, overrides=None):
    """Look up the references of an exposure in CRDS.

    Parameters
    ----------
    exposure : Exposure
    reftypes : iterable of str
    overrides : dict, optional
        'step.type' -> path or 'N/A': the reference of one step that replaces the one of CRDS.

    Returns
    -------
    dict
        reference type -> path or 'N/A', and the overrides.

    Raises
    ------
    ReferenceFileError
        CRDS has no context, no rule for the exposure, or neither a connection nor a cache.
    """
    overrides = {key: str(path) for key, path in (overrides or {}).items()}
    paths, unmatched = look_up(exposure.meta.get_crds_parameters(), reftypes, exposure.name)
    if unmatched:
        reasons = "; ".join(f"{reftype}: {reason}" for reftype, reason in unmatched.items())
        msg = (
            f"{exposure.name}: the CRDS rules select no reference for it ({reasons}); give one with "
            f"override_{min(unmatched)}, skip the step, or use another context (CRDS_CONTEXT)"
        )
        raise ReferenceFileError(msg)
    return {**paths, **overrides}


def check_indirect(steps, parameters, references, exposure):
    """Refuse steps that need a further reference which CRDS does not have for the exposure.

    Parameters
    ----------
    steps : iterable of Step
    parameters : mapping
        step -> its parameters, settled.
    references : dict
        From `find_references`.
    exposure : Exposure

    Raises
    ------
    ReferenceFileError
    """
    for step in steps:
        settings = parameters[step.name]
        needed = () if settings.skip else step.indirect(settings, exposure.facts)
        missing = [name for name in needed if references[name] == "N/A"]
        if missing:
            msg = (
                f"{exposure.name}: {step.name}: CRDS has no {' and no '.join(missing)} reference for it; the step "
                f"needs it to make a draft of the rate; skip the step: {step.name}.skip=True"
            )
            raise ReferenceFileError(msg)


def load_references(exposure, paths, backend, store=None):
    """Read the references that `find_references` found.

    Returns
    -------
    dict
        The same keys -> Reference, or None if the path is 'N/A'.
    """
    store = STORE if store is None else store
    loaded = {}
    for key, path in paths.items():
        reftype = key.rpartition(".")[2]
        if path == "N/A":
            if reftype in _INDISPENSABLE:
                msg = (
                    f"{exposure.name}: CRDS has no {reftype} reference for it, and jump and ramp_fit require one; give "
                    f"one with override_{reftype}, or skip those steps"
                )
                raise ReferenceFileError(msg)
            loaded[key] = None
        elif reftype in _NAMED_ONLY:
            loaded[key] = Reference(reftype, Path(path))
        else:
            loaded[key] = store.get(reftype, Path(path), exposure, backend)
    return loaded


def read_reference(reftype, path, exposure):
    """Read one reference with jwst's model, and cut it to the subarray of the exposure.

    Raises
    ------
    ReferenceFileError
        The file is damaged, is all NaN, or does not fit the exposure.
    """
    try:
        if str(path).endswith(".fits"):
            read_layout(Path(path), strict=False)  # refuses damaged files before jwst allocates memory
        with kept():
            return _read_reference(reftype, path, exposure)
    except (ReferenceFileError, MemoryError):
        raise
    except Exception as error:  # a damaged file can raise almost anything
        msg = f"{path}: the {reftype} reference of {exposure.name} is damaged ({first_line(error)}); download it again"
        raise ReferenceFileError(msg) from error


def _read_reference(reftype, path, exposure):
    from stdatamodels.jwst import datamodels

    if reftype == "emicorr":
        return _read_emicorr(path, exposure)
    if reftype == "sirskernel":
        return _read_sirskernel(path, exposure)
    class_name, names, is_cut = _READERS[reftype]
    if reftype == "dark":
        class_name = _DARK_CLASS.get(exposure.facts.instrument, class_name)
    with getattr(datamodels, class_name)(str(path)) as model:
        arrays = {name: _native(read_array(model, name), name) for name in names}
        if reftype == "rscd":
            arrays["table"] = np.array(model.rscd_group_skip_table)
        # the schemas of some types have no exposure, or not all of its keywords
        exposure_meta = getattr(model.meta, "exposure", None)
        facts = {
            name: getattr(exposure_meta, name, None)  # not in every schema
            for name in ("nints", "ngroups", "nframes", "groupgap", "gain_factor", "average_dark_current")
        }
        main = names[0] if names else "table"
        if arrays[main] is None:
            msg = f"{path}: the {reftype} reference of {exposure.name} holds no {main} array; download it again"
            raise ReferenceFileError(msg)
        if arrays[main].dtype.kind == "f" and all(np.isnan(row).all() for row in _rows(arrays[main])):
            msg = (
                f"{path}: the {reftype} reference of {exposure.name} is NaN everywhere; "
                f"give another with override_{reftype}"
            )
            raise ReferenceFileError(msg)
        if is_cut:
            window = _window(path, reftype, model, arrays[main].shape, exposure)
            arrays = {name: _cut(array, window) for name, array in arrays.items()}
        elif reftype == "ipc" and arrays["data"].ndim == 4:
            arrays["data"] = _cut(arrays["data"], _kernel_window(exposure))
    _check_shapes(path, reftype, arrays, exposure)
    for array in arrays.values():
        if array is not None:
            array.flags.writeable = False
    return Reference(reftype, Path(path), facts=facts, **arrays)


def _read_emicorr(path, exposure):
    """Read the waves and clocks into the facts of the reference; it has no arrays per pixel."""
    from stdatamodels.jwst import datamodels

    try:
        with datamodels.EmiModel(str(path)) as model:
            frequencies = {
                name: {
                    "frequency": float(entry["frequency"]),
                    "phase_amplitudes": _phase_amplitudes(entry["phase_amplitudes"]),
                }
                for name, entry in model.frequencies.instance.items()
            }
            cases = copy_tree(model.subarray_cases.instance)
    except Exception as error:  # a damaged file can raise almost anything
        msg = f"{path}: the emicorr reference of {exposure.name} is damaged ({first_line(error)}); download it again"
        raise ReferenceFileError(msg) from error
    for name, entry in frequencies.items():
        wave = entry["phase_amplitudes"]
        if wave.ndim != 1 or len(wave) < 2 or not np.isfinite(wave).all() or not entry["frequency"] > 0:
            msg = (
                f"{path}: the emicorr reference of {exposure.name} holds no finite wave for {name}; "
                "give another with override_emicorr"
            )
            raise ReferenceFileError(msg)
        wave.flags.writeable = False
    return Reference("emicorr", Path(path), facts={"frequencies": frequencies, "subarray_cases": cases})


def _read_sirskernel(path, exposure):
    """Read the Fourier coefficients of the kernels of all detectors into the facts of the reference."""
    from stdatamodels.jwst import datamodels

    with datamodels.SIRSKernelModel(str(path)) as model:
        coefficients = {
            name.lower(): (np.array(entry["gamma"]), np.array(entry["zeta"]))
            for name, entry in model.instance.items()
            if hasattr(entry, "keys") and {"gamma", "zeta"} <= set(entry.keys())
        }
    of_detector = coefficients.get((exposure.facts.detector or "").lower(), ())
    for array in of_detector:
        if array.ndim != 2 or array.shape[1] < 2 or array.shape != of_detector[0].shape:
            msg = f"{path}: the sirskernel reference of {exposure.name} holds no coefficients (gamma, zeta) for outputs"
            raise ReferenceFileError(msg)
    return Reference("sirskernel", Path(path), facts={"coefficients": coefficients})


def _phase_amplitudes(values):
    """Return a wave as float64; a float32 array keeps its dtype, which decides jwst's rounding."""
    values = np.asarray(values)
    return np.array(values, dtype=np.float32 if values.dtype.newbyteorder("=") == np.float32 else np.float64)


def _native(array, name):
    """Convert an array to native byte order and the dtype of the steps; this may change the array of the model."""
    if array is None or np.size(array) == 0:
        return None
    dtype = np.dtype(np.uint32 if name == "dq" else np.float32)
    if array.dtype == dtype.newbyteorder() and array.flags.writeable and array.flags.c_contiguous:
        # In place, because a dark may be as large as the exposure.
        return array.byteswap(inplace=True).view(dtype)
    return np.array(array, dtype=dtype, order="C")


def _rows(array):
    return array.reshape(-1, array.shape[-1])


def _cut(array, window):
    if array is None:
        return None
    return np.ascontiguousarray(array[(..., *window)])


def _window(path, reftype, model, shape, exposure):
    """Return the rows and columns of the exposure in a reference, by the rule of ``jwst.lib.reffile_utils``.

    A reference without corner keywords must be a full frame. The actual size of its arrays overrides SUBSIZE.
    """
    facts = exposure.facts
    ny, nx = exposure.data.shape[-2:]
    xstart, ystart = model.meta.subarray.xstart, model.meta.subarray.ystart
    missing = None in (xstart, ystart, model.meta.subarray.xsize, model.meta.subarray.ysize)
    if missing:
        if shape[-2:] != facts.full_frame:
            msg = f"{path}: the {reftype} reference lacks SUBSTRT1/2 or SUBSIZE1/2 and is not a full frame"
            raise ReferenceFileError(msg)
        xstart = ystart = 1
    if None in (facts.xstart, facts.ystart):
        msg = f"{exposure.name}: SUBSTRT1 or SUBSTRT2 is missing, so that {path} cannot be cut to its subarray"
        raise ReferenceFileError(msg)
    x, y = facts.xstart - xstart, facts.ystart - ystart
    if x < 0 or y < 0 or x + nx > shape[-1] or y + ny > shape[-2]:
        msg = (
            f"{path}: the {reftype} reference covers {shape[-1]} x {shape[-2]} pixels from ({xstart}, {ystart}), "
            f"but not the {nx} x {ny} pixels from ({facts.xstart}, {facts.ystart}) of {exposure.name}"
        )
        raise ReferenceFileError(msg)
    return slice(y, y + ny), slice(x, x + nx)


def _kernel_window(exposure):
    facts = exposure.facts
    ny, nx = exposure.data.shape[-2:]
    y, x = facts.ystart - 1, facts.xstart - 1
    return slice(y, y + ny), slice(x, x + nx)


def _check_shapes(path, reftype, arrays, exposure):
    """Refuse a reference with another number of pixels than the exposure."""
    expected = exposure.data.shape[-2:]
    for name, array in arrays.items():
        small = name == "table" or (reftype == "ipc" and array is not None and array.ndim == 2)
        # the step ignores an average dark current of another shape, with a warning, and most exposures need no frame
        if array is None or small or name == "average_dark_current" or reftype == "pictureframe":
            continue
        if array.shape[-2:] != expected:
            msg = (
                f"{path}: the {reftype} reference has {array.shape[-1]} x {array.shape[-2]} pixels ({name}), "
                f"{exposure.name} has {expected[1]} x {expected[0]}; give another with override_{reftype}"
            )
            raise ReferenceFileError(msg)
