"""refpix: correct bias drifts with reference pixels.

This module corrects subarrays with one output and MIRI full frames; `gpucoron.steps.refpix_full_frame` corrects
near-infrared full frames and subarrays with four outputs. Pseudo-reference pixels, as in spaceKLIP, are rows and
columns at the edges of a subarray that receive little light.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.refpix.clipping import means_by_clipping
from gpucoron.dq import DO_NOT_USE, REFERENCE_PIXEL
from gpucoron.facts import Facts
from gpucoron.parameters import SPACEKLIP_CLASS, P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped, whole_frame
from gpucoron.steps.pseudo_reference import AUTOMATIC as AUTOMATIC
from gpucoron.steps.pseudo_reference import BORDER
from gpucoron.steps.pseudo_reference import PseudoReference as PseudoReference
from gpucoron.steps.pseudo_reference import choose_pseudo_reference as choose_pseudo_reference
from gpucoron.steps.pseudo_reference import default_pseudo_reference as default_pseudo_reference
from gpucoron.steps.reference_pixels import (
    average_of_sides,
    in_detector_frame,
    mirrored_windows,
    running_median,
)
from gpucoron.steps.refpix_full_frame import correct_four_outputs
from gpucoron.steps.values import Choice, Having, Number, Switch

_PSEUDO = "pseudo-reference {}; -1: as many as on the border of the detector, 4 if none is"
_OFFSET = "offset of pseudo-reference {} from the edge"


def _opened(settings, facts):
    """List the reference that the step opens: 'sirs' filters near-infrared full frames only."""
    is_sirs = settings.refpix_algorithm == "sirs" and not facts.is_miri and "FULL" in facts.subarray
    return ["sirskernel"] if is_sirs else []


STEP = Step(
    name="refpix",
    title="correct bias drifts with reference pixels",
    jwst_class="RefPixStep",
    references=("refpix", "sirskernel"),
    parameters=(
        P("odd_even_columns", "boolean", True, "treat odd and even columns separately"),
        P("use_side_ref_pixels", "boolean", True, "correct each row with reference columns"),
        P("side_smoothing_length", "integer", 11, "running median along the side", "rows", minimum=2, maximum=4095),
        P("side_gain", "float", 1.0, "factor on the side signal", finite=True),
        P("odd_even_rows", "boolean", True, "treat odd and even rows separately"),
        P("ovr_corr_mitigation_ftr", "float", 3.0, "protection from overcorrection (IRS2)"),
        P("preserve_irs2_refpix", "boolean", False, "keep reference pixels (IRS2)"),
        P("irs2_mean_subtraction", "boolean", False, "subtract a mean offset first (IRS2)"),
        P(
            "refpix_algorithm",
            "option",
            "median",
            "algorithm for side pixels of full frames",
            options=("median", "sirs"),
        ),
        P("sigreject", "float", 4.0, "outlier rejection (sirs)", "sigma", minimum=0),
        P("gaussmooth", "float", 1.0, "width of the low-pass filter (sirs)", "pixels", minimum=0.01, maximum=1e6),
        P("halfwidth", "integer", 30, "half width of the kernel (sirs)", "pixels", minimum=0, maximum=1023),
        P("siglimit", "float", 3.0, "sigma clipping of reference pixels", "sigma", minimum=0),
        P("nlower", "integer", None, _PSEUDO.format("rows at the bottom"), "rows", minimum=-1, ours=True),
        P("nupper", "integer", None, _PSEUDO.format("rows at the top"), "rows", minimum=-1, ours=True),
        P("nleft", "integer", None, _PSEUDO.format("columns at the left"), "columns", minimum=-1, ours=True),
        P("nright", "integer", None, _PSEUDO.format("columns at the right"), "columns", minimum=-1, ours=True),
        P("nrow_off", "integer", None, _OFFSET.format("rows"), "rows", minimum=0, ours=True),
        P("ncol_off", "integer", None, _OFFSET.format("columns"), "columns", minimum=0, ours=True),
        P(
            "keep_light",
            "boolean",
            False,
            "subtract from subarrays only the changes of the reference rows about their mean straight ramp: their "
            "light stays in the data",
            ours=True,
        ),
    ),
    opens=_opened,
    profiles={
        "spaceklip": Preset({"nlower": -1, "nupper": -1, "nrow_off": 0}, instruments=("NIRCAM",)),
        SPACEKLIP_CLASS: Preset(
            {"nlower": 4, "nupper": 4, "nleft": 0, "nright": 0, "nrow_off": 0, "ncol_off": 0}, instruments=("NIRCAM",)
        ),
        "recommended": Preset(
            {"nlower": -1, "nupper": -1, "keep_light": True}, instruments=("NIRCAM",), subarrays_only=True
        ),
    },
    keywords={name: name for name in ("nlower", "nupper", "nrow_off", "nleft", "nright", "ncol_off")},
    reach=whole_frame,
)

#: subarrays of NIRSpec whose first and last four columns count as reference pixels, as in jwst
_WITHOUT_REFERENCE = ("SUB512", "SUB512S", "SUB32")

#: values in the windows of the frames whose sides a device corrects together
_WINDOW_VALUES = 2**24

_UNCHANGED = "no valid reference pixels: nothing was changed"

#: MIRI reads columns, including the four reference columns on each side, with four amplifiers in turn
MIRI_AMPLIFIERS = 4


_AXIS = Choice(1, 2, -1, -2)
_COUNT, _SIGLIMIT = Number(whole=True, minimum=0), Number("standard deviations", minimum=0)


@on_arrays(values=Array("n k", "float", on_host=True), siglimit=_SIGLIMIT)
def clipped_means(
    values: ArrayLike, siglimit: float, *, backend: BackendLike = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Compute the mean of each row after iterative sigma clipping.

    Rows with the same number of remaining values are processed together, without changing their float32 sums.

    Parameters
    ----------
    values : (n, k) float32
    siglimit : float, standard deviations
    backend : str or Backend, optional
        Ignored: the means are computed on the host.

    Returns
    -------
    means : (n,) float32
        NaN if no values remain.
    constant : (n,) bool
        True where all values of a row are equal.

    Notes
    -----
    Source: jwst 3.0, ``Dataset.sigma_clip``; `scipy.stats.sigmaclip`. jwst computes the mean of equal values in
    float64: the same number, but later results in jwst are float64.
    """
    return means_by_clipping(values, siglimit)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    facts=Having("facts of the exposure", fastaxis=_AXIS, slowaxis=_AXIS),
    odd_even_columns=Switch(),
    siglimit=_SIGLIMIT,
    keep_light=Switch(),
)
def correct_nir_subarray(
    data: NDArray[Any],
    pixeldq: ArrayLike,
    facts: Facts,
    *,
    odd_even_columns: bool = True,
    siglimit: float = 3.0,
    keep_light: bool = False,
    backend: BackendLike = None,
) -> int:
    """Subtract the clipped mean of the reference pixels of a subarray from each of its groups, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    pixeldq : (ny, nx) uint32
        Pixels with REFERENCE_PIXEL and without DO_NOT_USE are used.
    facts : Facts
        fastaxis and slowaxis are used.
    odd_even_columns : bool
        Treat odd and even columns separately. If one kind has no reference pixels, all columns are treated together
        (jwst fails).
    siglimit : float, standard deviations
    keep_light : bool
        Subtract only the departure of these means from one straight line through the groups, fitted to their average
        over the integrations, so that light on the reference pixels is not subtracted.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    int
        Number of reference pixels used; 0 if there are none and nothing changes.

    Notes
    -----
    Source: jwst 3.0, ``NIRDataset.do_subarray_corrections``. The pixels are summed in the order of the detector,
    because float32 sums depend on the order.
    """
    light = _Light(np.arange(data.shape[1])) if keep_light else None
    chosen = _choose_pixels(pixeldq, facts, odd_even_columns, backend)
    _subtract_means(data, chosen, facts, siglimit, light, backend)
    return len(chosen[0])


class _Light:
    """The light on reference pixels: for each kind of column a straight line through the means of the groups.

    All integrations have the same line, because light is constant and drifts are not.
    """

    def __init__(self, times):
        self.times, self.lines = np.asarray(times, np.float64), {}

    def without(self, kind, means, times=None):
        """Return the means (nints, ntimes) without the line, which is fitted to the first means of a kind."""
        if kind not in self.lines:
            average = means.mean(axis=0, dtype=np.float64)
            self.lines[kind] = np.polynomial.polynomial.polyfit(self.times, average, 1)
        at = self.times if times is None else np.asarray(times, np.float64)
        constant, slope = self.lines[kind]
        return (means - (constant + slope * at)).astype(means.dtype)


def _choose_pixels(pixeldq, facts, odd_even_columns, backend):
    """Return the indices of the reference pixels in a flat image, on the host, and the number of the first kind.

    The kinds are even and odd columns, if there are both; within a kind, the pixels are in the order of the detector.
    """
    # one copy to the host: it would have to wait for the number of pixels anyway
    pixeldq = backend.to_host(pixeldq)
    good = ((pixeldq & REFERENCE_PIXEL) != 0) & ((pixeldq & DO_NOT_USE) == 0)
    rows, columns = np.nonzero(in_detector_frame(good, facts))
    indices = np.arange(pixeldq.size, dtype=np.int32).reshape(pixeldq.shape)
    pixels = in_detector_frame(indices, facts)[rows, columns]
    # Both kinds are treated alike, so columns may be counted from the edge of the subarray.
    odd = columns % 2 == 1
    if odd_even_columns and odd.any() and not odd.all():
        return np.concatenate([pixels[~odd], pixels[odd]]), int((~odd).sum())
    return pixels, len(pixels)


def _subtract_means(data, chosen, facts, siglimit, light, backend, times=None):
    """Subtract the means of `correct_nir_subarray`, without their ``light`` if it is not None."""
    pixels, n_first = chosen
    if not len(pixels):
        return
    nints, ngroups, ny, nx = data.shape
    frames = data.reshape(-1, ny, nx)
    means = backend.clip_levels(frames, pixels, n_first, siglimit)
    if light is not None:
        kinds = np.moveaxis(backend.to_host(means).reshape(nints, ngroups, -1), -1, 0)
        kinds = [light.without(kind, means, times) for kind, means in enumerate(kinds)]
        means = backend.to_device(np.stack(kinds, axis=-1).reshape(len(frames), -1))
    along_y = abs(facts.fastaxis) == 2
    levels = backend.empty((len(frames), ny if along_y else nx), np.float64)
    of_columns = levels[:, :: 1 if facts.fastaxis > 0 else -1]
    of_columns[:, ::2], of_columns[:, 1::2] = means[:, :1], means[:, -1:]
    rounded = backend.zeros((len(frames),), np.uint8)
    backend.subtract_levels(frames, levels, None, rounded, along_y=along_y)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    missing=Array(RAMP, "bool"),
    pseudo=Having("a PseudoReference", "columns", **dict.fromkeys(("nleft", "nright", "ncol_off"), _COUNT)),
    side_smoothing_length=Number("rows", whole=True, minimum=1),
    side_gain=Number(finite=True),
)
def correct_sides(
    data: NDArray[Any],
    pixeldq: ArrayLike,
    pseudo: PseudoReference,
    *,
    side_smoothing_length: int = 11,
    side_gain: float = 1.0,
    missing: ArrayLike | None = None,
    backend: BackendLike = None,
) -> None:
    """Subtract the running median of pseudo-reference columns at both ends from each row, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    pixeldq : (ny, nx) uint32
        Pixels with DO_NOT_USE are ignored.
    pseudo : PseudoReference
        nleft, nright and ncol_off are used.
    side_smoothing_length : int, rows
        Length of the running median; even lengths are increased by one. Rows are mirrored at the edges.
    side_gain : float
        Factor on the correction.
    missing : (nints, ngroups, ny, nx) bool, optional
        True for values to ignore, such as zeros of a ZEROFRAME.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``NIRDataset.do_side_correction``: the median of all pixels of a side within the window; left and
    right are averaged if both have a good pixel. The float64 result is rounded to float32 once.
    """
    xp = backend.xp
    good = ((pixeldq & DO_NOT_USE) == 0)[None]
    length = side_smoothing_length + 1 - side_smoothing_length % 2
    ny = data.shape[2]
    if length // 2 >= ny:
        msg = f"side_smoothing_length must be less than twice the subarray's {ny} rows"
        raise ValueError(msg)
    windows = backend.to_device(mirrored_windows(ny, length))
    frames = data.reshape(-1, ny, data.shape[3])
    missing = None if missing is None else missing.reshape(frames.shape)
    # a device is faster with few, large operations; a CPU keeps an integration in its caches
    at_once = data.shape[1] if xp is np else max(1, _WINDOW_VALUES // (ny * length * max(pseudo.nleft, pseudo.nright)))
    levels = backend.zeros((min(at_once, len(frames)), frames.shape[2]), np.float64)
    rounded = backend.zeros(levels.shape[:1], np.uint8)
    for start in range(0, len(frames), at_once):
        some = frames[start : start + at_once]
        usable = good if missing is None else good & ~missing[start : start + at_once]
        sides = [
            running_median(
                xp.where(usable[:, :, columns], some[:, :, columns], some.dtype.type(xp.nan)), windows, xp=xp
            ).astype(xp.float64)
            for columns in pseudo.columns(frames.shape[2])
            if columns.stop > columns.start
        ]
        signal = side_gain * average_of_sides(sides[0], sides[-1], xp=xp)
        n = len(some)
        backend.subtract_levels(some, levels[:n], signal[:, :, None], rounded[:n])


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    odd_even_rows=Switch(),
    siglimit=_SIGLIMIT,
)
def correct_miri_frames(
    data: NDArray[Any],
    pixeldq: ArrayLike,
    *,
    odd_even_rows: bool = True,
    siglimit: float = 3.0,
    backend: BackendLike = None,
) -> bool:
    """Subtract the drift of the reference columns since the first group from MIRI full frames, in place.

    The drift is the mean of the clipped means on the left and on the right, for each amplifier and, with
    ``odd_even_rows``, separately for odd and even rows.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        ``ny`` even, ``nx`` a multiple of four.
    pixeldq : (ny, nx) uint32
        Pixels with DO_NOT_USE are ignored.
    odd_even_rows : bool
    siglimit : float, standard deviations
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    bool
        False if one of the means has no good pixels; then no drift is subtracted.

    Notes
    -----
    Source: jwst 3.0, ``MIRIDataset.do_fullframe_corrections``. As there, the first group is subtracted before and added
    back after the correction; this rounds the data even if no drift is subtracted.
    """
    drift = _miri_drift(data, pixeldq, odd_even_rows, siglimit, backend)
    ny, nx = data.shape[2:]
    for integration in range(data.shape[0]):
        first = data[integration, 0].copy()
        for group in range(data.shape[1]):
            plane = data[integration, group]
            plane -= first
            if group and drift is not None:
                # Join two rows, so that all combinations of parity and amplifier are along one axis.
                pairs = plane.reshape(ny // 2, 2 * nx)
                pairs -= backend.to_device(np.tile(drift[integration, group - 1], (1, nx // MIRI_AMPLIFIERS)).ravel())
            plane += first
    return drift is not None


def _miri_drift(data, pixeldq, odd_even_rows, siglimit, backend):
    """Measure the drift: (nints, ngroups - 1, 2, 4) for row parity and amplifier, or None if pixels are missing.

    As in jwst, it is float32, or float64 if all values of a reference column are equal.
    """
    n = MIRI_AMPLIFIERS
    nints, ngroups = data.shape[:2]
    if ngroups == 1:
        return np.zeros((nints, 0, 2, n), dtype=data.dtype)
    good = (pixeldq & DO_NOT_USE) == 0
    parities = (slice(0, None, 2), slice(1, None, 2)) if odd_even_rows else (slice(None),)
    sides = []
    for columns in (slice(0, n), slice(-n, None)):
        border = backend.to_host(data[..., columns])
        border = border[:, 1:] - border[:, :1]
        border_good = backend.to_host(good[:, columns])
        means = np.empty((nints, ngroups - 1, 2, n), dtype=data.dtype)
        constant = np.empty(means.shape, dtype=bool)
        for parity, rows in enumerate(parities):
            for amplifier in range(n):
                usable = border_good[rows, amplifier]
                if not usable.any():
                    return None
                values = border[:, :, rows, amplifier][:, :, usable]
                target = (slice(None), slice(None), parity if odd_even_rows else slice(None), amplifier)
                shape = (nints, ngroups - 1) if odd_even_rows else (nints, ngroups - 1, 1)
                clipped, equal = clipped_means(values.reshape(-1, values.shape[2]), siglimit, backend=backend)
                means[target], constant[target] = clipped.reshape(shape), equal.reshape(shape)
        sides.append((means, constant))
    (left, left_constant), (right, right_constant) = sides
    drift = 0.5 * (left + right)
    exact = left_constant | right_constant
    if exact.any():
        drift = np.where(exact, 0.5 * (left.astype(np.float64) + right), drift)
    return drift


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    Notes
    -----
    Source: jwst 3.0, ``refpix``; spaceKLIP 2.2, ``do_pseudo_refpix``, for the pseudo-reference rows. Pseudo-reference
    columns are a separate correction here; spaceKLIP averages them together with the rows. Pseudo-reference pixels are
    only used for subarrays with one output.
    """
    facts = exposure.facts
    ny, nx = exposure.data.shape[2:]
    if facts.is_miri:
        if nx < 1032 or ny < 1024:
            return skipped("MIRI subarrays are not corrected")
        corrected = correct_miri_frames(
            exposure.data,
            exposure.pixeldq,
            odd_even_rows=parameters.odd_even_rows,
            siglimit=parameters.siglimit,
            backend=backend,
        )
        return Outcome(reason="" if corrected else "no good reference pixels: no drift was subtracted")

    is_subarray = nx < 2048 or ny < 2048
    x, y = facts.xstart - 1, facts.ystart - 1
    if is_subarray and (x < 0 or y < 0 or x + nx > 2048 or y + ny > 2048):
        return skipped("the subarray does not fit into the detector")
    if not is_subarray or facts.noutputs == 4:
        kernel = references.get("sirskernel")
        corrected = correct_four_outputs(exposure, kernel, parameters, backend, is_full=not is_subarray)
        return Outcome(reason="" if corrected else _UNCHANGED)

    # rows and columns at the edges of a subarray that is read along x
    pseudo = choose_pseudo_reference(parameters, facts) if facts.fastaxis in (1, -1) else PseudoReference()
    pixeldq = exposure.pixeldq
    if facts.subarray in _WITHOUT_REFERENCE:
        pixeldq = pixeldq.copy()
        for columns in (slice(0, BORDER), slice(-BORDER, None)):
            pixeldq[:, columns] |= pixeldq.dtype.type(REFERENCE_PIXEL)
    for rows in pseudo.rows(ny):
        if rows.stop > rows.start:
            # Copy: the flags of the exposure must not change.
            pixeldq = pixeldq.copy()
            pixeldq[rows] |= pixeldq.dtype.type(REFERENCE_PIXEL)
    has_sides = parameters.use_side_ref_pixels and pseudo.nleft + pseudo.nright > 0

    light = None
    if parameters.keep_light and exposure.data.shape[1] > 1:
        nframes, groupgap = facts.nframes or 1, facts.groupgap or 0
        light = _Light(np.arange(exposure.data.shape[1]) * (nframes + groupgap) + (nframes - 1) / 2)

    chosen = _choose_pixels(pixeldq, facts, parameters.odd_even_columns, backend)

    def correct(data, missing=None, times=None):
        _subtract_means(data, chosen, facts, parameters.siglimit, light, backend, times)
        if has_sides:
            correct_sides(
                data,
                exposure.pixeldq,
                pseudo,
                side_smoothing_length=parameters.side_smoothing_length,
                side_gain=parameters.side_gain,
                missing=missing,
                backend=backend,
            )

    corrected = len(chosen[0]) > 0 or has_sides
    correct(exposure.data)
    if corrected and exposure.zeroframe is not None and facts.zero_frame:
        # Zeros of the ZEROFRAME mark bad data and stay zero.
        bad = exposure.zeroframe == 0
        correct(exposure.zeroframe[:, None], bad[:, None], times=[0.0])
        exposure.zeroframe[bad] = 0
    return Outcome(reason="" if corrected else _UNCHANGED)
