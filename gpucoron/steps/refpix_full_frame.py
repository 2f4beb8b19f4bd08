"""refpix of near-infrared full frames, and of subarrays that are read through four outputs.

Each output of the detector has its own reference pixels at the top and bottom. Reference pixels on the left and on the
right, which the first and the last output read, follow the drift from row to row.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.refpix.clipping import means_by_clipping
from gpucoron.dq import DO_NOT_USE
from gpucoron.facts import Facts
from gpucoron.steps.arguments import CUBE, IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.pseudo_reference import BORDER, NIR_SIZE
from gpucoron.steps.reference_pixels import (
    average_of_sides,
    in_detector_frame,
    mirrored_windows,
    running_median,
)
from gpucoron.steps.values import Choice, Having, Number, Switch

log = logging.getLogger(__name__)

#: outputs of a near-infrared detector; each reads a quarter of the columns
OUTPUTS = 4

#: frames that are corrected together, and that a thread measures together
_FRAMES_TOGETHER, _FRAMES_AT_ONCE = 256, 16

_AXIS = Choice(1, 2, -1, -2)
_START = Number("pixels", whole=True, minimum=1, optional=True)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    zeroframe=Array(CUBE, unit="DN", in_place=True),
    kernels=Array("sides outputs taps", "float64", on_host=True),
    facts=Having("facts of the exposure", fastaxis=_AXIS, slowaxis=_AXIS, xstart=_START, ystart=_START),
    odd_even_columns=Switch(),
    use_side_ref_pixels=Switch(),
    side_smoothing_length=Number("rows", whole=True, minimum=1),
    side_gain=Number(finite=True),
    siglimit=Number("standard deviations", minimum=0),
    sigreject=Number("standard deviations", minimum=0),
)
def correct_nir_frames(
    data: NDArray[Any],
    pixeldq: ArrayLike,
    facts: Facts,
    *,
    zeroframe: NDArray[Any] | None = None,
    odd_even_columns: bool = True,
    use_side_ref_pixels: bool = True,
    side_smoothing_length: int = 11,
    side_gain: float = 1.0,
    siglimit: float = 3.0,
    kernels: ArrayLike | None = None,
    sigreject: float = 4.0,
    backend: BackendLike = None,
) -> bool:
    """Subtract the signal of the reference pixels from each frame of a detector with four outputs, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        Full frames of 2048 x 2048 pixels, or a subarray.
    pixeldq : (ny, nx) uint32
        Reference pixels with DO_NOT_USE are ignored, except with ``kernels``. The four rows and columns at each edge of
        the detector are reference pixels, whether they have REFERENCE_PIXEL or not.
    facts : Facts
        fastaxis and slowaxis are used; for a subarray also xstart and ystart, where None is 1.
    zeroframe : (nints, ny, nx) float32 or None, DN
        Zeros mark bad data and stay zero. The zeros of reference pixels are included in the means, as in jwst.
    odd_even_columns : bool
        Treat odd and even columns of an output separately. If one kind has no good reference pixels, the output is not
        corrected.
    use_side_ref_pixels : bool
        Also correct each row with the columns at both sides.
    side_smoothing_length : int, rows
        Length of their running median. Rows are mirrored at the edges of the detector. An even window has one row more
        before than after its row.
    side_gain : float
        Factor on the running median.
    siglimit : float, standard deviations
        For the means of rows.
    kernels : (2, outputs, taps) float64, optional
        Kernels for the columns on the left and on the right, which `sirs_kernels` makes: the columns are convolved with
        them instead of the running median. For full frames only.
    sigreject : float, standard deviations
        Pixels of the sides that differ by more from their median are excluded from the convolution.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    bool
        False if no reference pixel could be used and nothing changes.

    Notes
    -----
    Source: jwst 3.0, ``NIRDataset.do_fullframe_corrections`` and ``apply_conv_kernel``. As there, the first frame of
    ``data`` is rounded to float32 before the columns are used, and its means are float32; all other frames are float64
    until the result is rounded. Without ``use_side_ref_pixels`` all means are float32.
    """
    frames = _Frames.of(pixeldq, facts, side_smoothing_length, backend)
    if kernels is not None:
        frames.check_kernels(kernels)
    has_sides = use_side_ref_pixels and (kernels is not None or frames.has_sides)
    levels = frames.sections(odd_even_columns)
    if not levels and not has_sides:
        return False

    n_outputs = 1 if kernels is None else OUTPUTS

    def measure(images, level, side, rounded):
        """Measure the levels of some frames."""
        with np.errstate(all="ignore"):
            level[...] = frames.measure_levels(images, levels, siglimit, rounded)
            if has_sides and kernels is not None:
                side[...] = frames.convolve_sides(images, level, kernels, sigreject, rounded)
            elif has_sides:
                side[..., 0] = side_gain * frames.smooth_sides(images, level, rounded)

    def correct(images, rounded, *, keeps_zeros=False):
        n, (n_rows, n_columns) = len(images), frames.good.shape
        level = np.empty((n, n_columns))
        side = backend.empty((n, n_rows, n_outputs), np.float64) if has_sides else None

        def measure_part(part):
            for start in range(part.start, part.stop, _FRAMES_AT_ONCE):
                some = slice(start, min(start + _FRAMES_AT_ONCE, part.stop))
                measure(images[some], level[some], None if side is None else side[some], rounded[some])

        backend.in_parts(measure_part, n)
        frames.subtract(images, level, side, rounded, keeps_zeros=keeps_zeros)

    def correct_all(images, n_rounded, **options):
        for start in range(0, len(images), _FRAMES_TOGETHER):
            some = images[start : start + _FRAMES_TOGETHER]
            correct(some, np.arange(start, start + len(some)) < n_rounded, **options)

    everything = data.reshape(-1, *data.shape[2:])
    correct_all(everything, 1 if use_side_ref_pixels else len(everything))
    if zeroframe is not None:
        correct_all(zeroframe, 0 if use_side_ref_pixels else len(zeroframe), keeps_zeros=True)
    return True


@dataclass(frozen=True)
class _Section:
    """Columns of one output, and its reference pixels: flat indices into the rows at an edge, or None without any."""

    columns: slice
    pixels: tuple


@dataclass(frozen=True, eq=False)
class _Frames:
    """The place of the frames on the detector. All rows and columns are those of the detector, as it is read.

    Attributes
    ----------
    good : (rows, columns) bool
        On the host.
    first_row, first_column : int
        Place of the frames on the detector.
    windows : (rows, length) int
        For each row the rows of its window; rows outside the frame have the index ``rows``. On the device.
    """

    facts: Any
    good: Any
    first_row: int
    first_column: int
    windows: Any
    backend: Any

    @classmethod
    def of(cls, pixeldq, facts, side_smoothing_length, backend):
        """Find the place of frames."""
        if side_smoothing_length // 2 >= NIR_SIZE:
            msg = f"side_smoothing_length must be less than twice the detector's {NIR_SIZE} rows"
            raise ValueError(msg)
        good = backend.to_host(in_detector_frame((pixeldq & DO_NOT_USE) == 0, facts))
        starts = (facts.ystart, facts.xstart)[:: 1 if abs(facts.fastaxis) == 1 else -1]
        first = []
        for start, size, axis in zip(starts, good.shape, (facts.slowaxis, facts.fastaxis), strict=True):
            before = (start or 1) - 1 if size < NIR_SIZE else 0
            if before + size > NIR_SIZE:
                msg = f"{size} pixels from {before + 1} extend beyond the detector, which has {NIR_SIZE}"
                raise ValueError(msg)
            first.append(before if axis > 0 else NIR_SIZE - before - size)
        n_rows = len(good)
        windows = mirrored_windows(NIR_SIZE, side_smoothing_length)[first[0] : first[0] + n_rows] - first[0]
        windows[(windows < 0) | (windows >= n_rows)] = n_rows
        return cls(facts, good, *first, backend.to_device(windows), backend)

    def check_kernels(self, kernels):
        """Refuse kernels that cannot be used."""
        if self.good.shape != (NIR_SIZE, NIR_SIZE):
            msg = "kernels: they are for full frames only"
            raise ValueError(msg)
        if kernels.shape[:2] != (2, OUTPUTS) or kernels.shape[2] > NIR_SIZE:
            msg = f"kernels: expected (2, {OUTPUTS}, taps) with at most {NIR_SIZE} taps, got {kernels.shape}"
            raise ValueError(msg)

    @property
    def edges(self):
        """The rows of the frame among the first four and the last four of the detector: two slices."""
        return tuple(self._within(start, self.first_row, len(self.good)) for start in (0, NIR_SIZE - BORDER))

    @property
    def sides(self):
        """The columns of the frame among the first four and the last four of the detector: two slices."""
        n_columns = self.good.shape[1]
        return tuple(self._within(start, self.first_column, n_columns) for start in (0, NIR_SIZE - BORDER))

    @staticmethod
    def _within(start, first, size):
        lower, upper = (min(max(each - first, 0), size) for each in (start, start + BORDER))
        return slice(lower, upper)

    @property
    def has_sides(self):
        """Whether a side has a good reference pixel."""
        return any(self.good[:, side].any() for side in self.sides)

    def sections(self, odd_even_columns):
        """List the outputs, and separately their odd and even columns, with their reference pixels."""
        n_columns = self.good.shape[1]
        found = []
        for output in range(OUTPUTS):
            bounds = [output * NIR_SIZE // OUTPUTS, (output + 1) * NIR_SIZE // OUTPUTS]
            start, stop = (min(max(each - self.first_column, 0), n_columns) for each in bounds)
            if start == stop:
                continue
            # the first column of the detector counts as odd
            parities = [(start + self.first_column + kind) % 2 for kind in (0, 1)]
            targets = [slice(start + kind, stop, 2) for kind in parities] if odd_even_columns else [slice(start, stop)]
            of_output = [_Section(columns, tuple(self._pixels(columns))) for columns in targets]
            if all(any(pixels is not None for pixels in section.pixels) for section in of_output):
                found += of_output
        return found

    def _pixels(self, columns):
        """Find the good reference pixels of some columns at both edges, in the order of reading."""
        for rows in self.edges:
            chosen = np.zeros(self.good[rows].shape, bool)
            chosen[:, columns] = self.good[rows, columns]
            indices = np.flatnonzero(chosen)
            yield indices if indices.size else None

    def measure_levels(self, images, sections, siglimit, rounded):
        """Measure the mean level of each column in each frame: (n, columns) float64 on the host."""
        frames = in_detector_frame(images, self.facts)
        borders = [self.backend.to_host(frames[:, rows]).reshape(len(images), -1) for rows in self.edges]
        levels = np.zeros((len(images), self.good.shape[1]))
        for is_rounded in (True, False):
            chosen = np.flatnonzero(rounded == is_rounded)
            if chosen.size:
                dtype = np.float32 if is_rounded else np.float64
                edges = [border[chosen].astype(dtype) for border in borders]
                for section, level in _levels_of_sections(edges, sections, siglimit):
                    levels[chosen, section.columns] = level[:, None]
        return levels

    def _side_values(self, images, level, columns, rounded):
        """Return the columns of one side without the level of their output: (n, rows, k) float64 on the device."""
        xp = self.backend.xp
        values = in_detector_frame(images, self.facts)[..., columns] - self.backend.to_device(level[:, None, columns])
        n = int(rounded.sum())
        if n:
            values[:n] = values[:n].astype(xp.float32)
        return values

    def smooth_sides(self, images, level, rounded):
        """Return the running median of the columns at both sides: (n, rows) float64 on the device."""
        xp = self.backend.xp
        medians = []
        for columns in self.sides:
            good = self.good[:, columns]
            if not good.any():
                continue
            good = self.backend.to_device(good)
            n, (n_rows, k) = len(images), good.shape
            # the last row is for rows outside the frame
            padded = xp.full((n, n_rows + 1, k), xp.nan)
            values = self._side_values(images, level, columns, rounded)
            padded[:, :n_rows] = xp.where(good, values, xp.nan)
            # a good pixel that is NaN makes the medians of its windows NaN
            spoilt = xp.zeros((n, n_rows + 1), bool)
            spoilt[:, :n_rows] = (xp.isnan(values) & good).any(axis=2)
            median = running_median(padded, self.windows, spoilt if bool(spoilt.any()) else None, xp=xp)
            n_rounded = int(rounded.sum())
            median[:n_rounded] = median[:n_rounded].astype(xp.float32)
            medians.append(median)
        return average_of_sides(medians[0], medians[-1], xp=xp)

    def convolve_sides(self, images, level, kernels, sigreject, rounded):
        """Return the convolved columns of both sides for each output: (n, rows, outputs) float64 on the device."""
        left, right = (
            self.backend.to_host(self._side_values(images, level, columns, rounded)) for columns in self.sides
        )
        ones = np.ones(len(self.good))
        weights = [[np.convolve(ones, kernel, mode="same") for kernel in side] for side in kernels]
        templates = np.array(
            [_convolve_frame(*sides, kernels, weights, sigreject) for sides in zip(left, right, strict=True)]
        )
        return self.backend.to_device(templates)

    def subtract(self, images, level, side, rounded, *, keeps_zeros):
        """Subtract the levels of columns and of rows from each frame, in place."""
        xp, to_device = self.backend.xp, self.backend.to_device
        rows, columns = (
            slice(None, None, 1 if axis > 0 else -1) for axis in (self.facts.slowaxis, self.facts.fastaxis)
        )
        self.backend.subtract_levels(
            images,
            to_device(np.ascontiguousarray(level[:, columns])),
            None if side is None else xp.ascontiguousarray(side[:, rows, columns]),
            to_device(rounded.astype(np.uint8)),
            along_y=abs(self.facts.fastaxis) == 2,
            keeps_zeros=keeps_zeros,
        )


def _levels_of_sections(edges, sections, siglimit):
    """Yield each section with its mean level in each frame, the average of both edges: (n,) array.

    As in jwst, it is float32 for float32 values, or float64 if all values at an edge are equal.
    """
    by_count = defaultdict(list)
    for number, section in enumerate(sections):
        for edge, pixels in enumerate(section.pixels):
            if pixels is not None:
                by_count[len(pixels)].append((number, edge, pixels))
    found = defaultdict(dict)
    for alike in by_count.values():
        values = np.concatenate([edges[edge][:, pixels] for _, edge, pixels in alike])
        means, constant = (each.reshape(len(alike), -1) for each in means_by_clipping(values, siglimit))
        for (number, edge, _), mean, equal in zip(alike, means, constant, strict=True):
            found[number][edge] = mean, equal
    for number, section in enumerate(sections):
        of_edges = list(found[number].values())
        if len(of_edges) == 1:
            yield section, of_edges[0][0]
            continue
        (bottom, bottom_equal), (top, top_equal) = of_edges
        exact = 0.5 * (bottom.astype(np.float64) + top)
        yield section, np.where(bottom_equal | top_equal, exact, 0.5 * (bottom + top))


def _convolve_frame(left, right, kernels, weights, sigreject):
    """Convolve the columns (rows, 4) at both sides of a frame with a kernel for each output: (rows, outputs).

    ``weights`` are the kernels convolved with ones.
    """
    sums = []
    for values in (left, right):
        middle = np.median(values)
        # 1.48 as in jwst
        sigma = 1.48 * np.median(np.abs(values - middle))
        good = 1 * (np.abs(values - middle) <= sigreject * sigma)
        sums.append((np.sum(values * good, axis=1) / BORDER, np.sum(good, axis=1) / BORDER))
    templates = []
    for of_output, all_good in zip(zip(*kernels, strict=True), zip(*weights, strict=True), strict=True):
        template = 0.0
        for (values, count), kernel, weight in zip(sums, of_output, all_good, strict=True):
            weight = weight / np.convolve(count, kernel, mode="same")
            template = template + np.convolve(values, kernel, mode="same") * weight
        templates.append(template)
    return np.stack(templates, axis=1)


def sirs_kernels(coefficients, gaussmooth, halfwidth):
    """Make kernels for the columns at both sides, of Simple Improved Reference Subtraction (SIRS).

    Parameters
    ----------
    coefficients : (gamma, zeta)
        Fourier coefficients of the kernels on the left and on the right, (outputs, n) each.
    gaussmooth : float, pixels
        Width of the Gaussian with which the kernels are smoothed.
    halfwidth : int, pixels
        Half width of the kernels.

    Returns
    -------
    (2, outputs, taps) float64

    Raises
    ------
    ValueError
        The coefficients are too few for this half width.

    Notes
    -----
    Source: jwst 3.0, ``make_kernels``.
    """
    at = np.arange(-halfwidth, halfwidth + 1)
    window = np.exp(-(at**2) / (2 * gaussmooth**2))
    window /= window.sum()

    def kernel(of_output):
        middle = len(of_output) - 1
        if halfwidth > middle:
            msg = f"halfwidth is {halfwidth}, but the sirskernel reference has kernels of at most {middle} pixels"
            raise ValueError(msg)
        whole = np.fft.fftshift(np.fft.irfft(of_output))
        return np.convolve(whole[middle - halfwidth : middle + halfwidth + 1], window, mode="same")

    return np.array([[kernel(of_output) for of_output in side] for side in coefficients])


def correct_four_outputs(exposure, reference, parameters, backend, *, is_full):
    """Correct an exposure that was read through four outputs, in place.

    Parameters
    ----------
    exposure : Exposure
    reference : Reference or None
        The sirskernel reference, for the algorithm 'sirs'.
    parameters
        Parameters of refpix.
    backend : Backend
    is_full : bool
        Whether it has full frames; only these have the algorithm 'sirs'.

    Returns
    -------
    bool
        False if there are no good reference pixels and nothing changes.
    """
    facts, kernels = exposure.facts, None
    if parameters.refpix_algorithm == "sirs" and parameters.use_side_ref_pixels:
        lack = ""
        if not is_full:
            lack = "kernels are only for full frames"
        elif reference is None:
            lack = "there is no sirskernel reference for it"
        elif facts.detector.lower() not in reference.facts["coefficients"]:
            lack = f"{reference.path} lacks {facts.detector}"
        if lack:
            log.warning("%s: refpix: %s: the running median is used instead of sirs", exposure.name, lack)
        else:
            coefficients = reference.facts["coefficients"][facts.detector.lower()]
            kernels = sirs_kernels(coefficients, parameters.gaussmooth, parameters.halfwidth)
    return correct_nir_frames(
        exposure.data,
        exposure.pixeldq,
        facts,
        zeroframe=exposure.zeroframe if facts.zero_frame else None,
        odd_even_columns=parameters.odd_even_columns,
        use_side_ref_pixels=parameters.use_side_ref_pixels,
        side_smoothing_length=parameters.side_smoothing_length,
        side_gain=parameters.side_gain,
        siglimit=parameters.siglimit,
        kernels=kernels,
        sigreject=parameters.sigreject,
        backend=backend,
    )
