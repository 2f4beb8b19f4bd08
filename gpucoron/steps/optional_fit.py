"""The optional product of the segmented fit: the values of each segment of each ramp."""

import logging
import math
from typing import Any

from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.ramp_fit import SEGMENT_FIELDS, by_field
from gpucoron.backends.results import SegmentFit
from gpucoron.dq import JUMP_DET, PERSISTENCE, SATURATED
from gpucoron.steps.arguments import CUBE, RAMP, Array, BackendLike, on_arrays

__all__ = ["count_segments"]

log = logging.getLogger(__name__)

#: all flags but PERSISTENCE
NOT_PERSISTENCE = 0xFF & ~PERSISTENCE

#: flags that are counted at a time
_FLAGS_AT_ONCE = 2**22


@on_arrays(groupdq=Array(RAMP, "uint8"), zeroframe=Array(CUBE, unit="DN"))
def count_segments(
    groupdq: NDArray[Any], *, zeroframe: ArrayLike | None = None, backend: BackendLike = None
) -> tuple[int, int]:
    """Count the segments and the jumps of the ramps that have most of them.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    zeroframe : (nints, ny, nx) float32, DN, optional
        Where it is not 0, it is the first group of ramps without a good group.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    n_segments, n_jumps : int
        Segments of one group only count in ramps without longer ones. Jumps do not count in the first group.

    Notes
    -----
    Source: stcal 1.20. It fits only the first of several segments of one group, but counts all of them.
    """
    return _count_segments(groupdq, zeroframe, backend)


def _count_segments(groupdq, zeroframe, backend):
    """Do the work of `count_segments`; the flags may be a view of some groups."""
    xp = backend.xp
    n_pixels = groupdq.shape[2] * groupdq.shape[3]

    def count(integrations):
        most = xp.zeros(2, "int64")
        for integration in range(integrations.start, integrations.stop):
            flags = groupdq[integration].reshape(groupdq.shape[1], n_pixels)
            first_frame = None if zeroframe is None else zeroframe[integration].reshape(n_pixels)
            for ramps in _flagged_ramps(flags, xp):
                if ramps is None:
                    # a ramp without flags is one segment
                    most[0] = xp.maximum(most[0], 1)
                    continue
                of_ramps = None if first_frame is None else first_frame[ramps]
                for place, numbers in enumerate(_count_of_ramps(flags[:, ramps], of_ramps, xp)):
                    most[place] = xp.maximum(most[place], numbers.max())
        return most

    most = xp.stack(backend.in_parts(count, len(groupdq))).max(axis=0)
    return int(most[0]), int(most[1])


def _flagged_ramps(flags, xp):
    """Yield indices or slices that together cover the ramps with flags, and None if there are others."""
    any_flags = flags[0].copy()
    for group in flags[1:]:
        any_flags |= group
    flagged = xp.flatnonzero(any_flags)
    if len(flagged) < any_flags.size:
        yield None
    at_once = max(1, _FLAGS_AT_ONCE // len(flags))
    if 2 * len(flagged) > any_flags.size:
        # all ramps are faster than a selection of most of them
        yield from (slice(start, start + at_once) for start in range(0, any_flags.size, at_once))
    else:
        yield from (flagged[start : start + at_once] for start in range(0, len(flagged), at_once))


def _count_of_ramps(flags, zeroframe, xp):
    """Return the numbers of segments and of jumps, (nramps,) each; flags are (ngroups, nramps)."""
    # sums of bytes are the fastest
    counts = "uint8" if len(flags) < 256 else "uint32"
    n_jumps, n_long, n_all = xp.zeros((3, flags.shape[1]), counts)
    first = flags[0]
    if zeroframe is not None:
        has_good = first == 0
        for group in flags[1:]:
            has_good |= group == 0
        first = first.copy()
        first[~has_good & (zeroframe != 0)] = 0
    others = first & NOT_PERSISTENCE
    was_good, was_jump = xp.zeros((2, flags.shape[1]), "bool")
    is_good = others == 0
    for number in range(len(flags)):
        begins = is_good > was_good
        n_all += begins.view("uint8")
        # with the jump before it, or with the next group
        is_long = was_jump
        was_good, was_jump = is_good, others == JUMP_DET
        if number + 1 < len(flags):
            others = flags[number + 1] & NOT_PERSISTENCE
            is_good = others == 0
            is_long = is_long | is_good
            n_jumps += (others & JUMP_DET != 0).view("uint8")
        n_long += (begins & is_long).view("uint8")
    n_segments = xp.where(n_long > 0, n_long, n_all)
    n_segments[first & SATURATED != 0] = 0
    return n_segments, n_jumps


def _choose_place(n_bytes, backend):
    """Return the backend for arrays of so many bytes: with scratch files if they exceed the memory of the host."""
    limit = backend.memory_limit()
    if not backend.on_host or limit is None or n_bytes <= limit:
        return backend
    log.warning("the optional product needs %.3g GB: it is in a scratch file", n_bytes / 1e9)
    return backend.in_chunks(limit)


def fit_prepared(ramps, settings, backend):
    """Fit prepared ramps, and make their optional product.

    Parameters
    ----------
    ramps : tuple
        The arguments of the operation ``fit_ramps``.
    settings : RampFitSettings
    backend : Backend

    Returns
    -------
    rate, rateints : Slopes
    segments : SegmentFit
        In scratch files if the exposure or the product does not fit into the memory of the host.
    """
    data, groupdq, pixeldq, gain, readnoise, *others = ramps
    zeroframe = None if settings.suppress_one_group else others[1]
    n_segments, n_jumps = _count_segments(groupdq, zeroframe, backend)
    nints, _, *image = data.shape
    # arrays without a segment or jump would be empty
    shapes = (len(SEGMENT_FIELDS) * nints, max(1, n_segments), *image), (nints, max(1, n_jumps), *image)
    place = _choose_place(4 * sum(map(math.prod, shapes)), backend)
    segments, crmag = (place.zeros(shape, "float32") for shape in shapes)
    pedestal = backend.zeros((nints, *image), "float32")
    arrays = data, groupdq, pixeldq, gain, readnoise, segments, pedestal, crmag, *others
    rate, rateints = backend.fit_segments(*arrays, settings=settings)
    values = dict(zip(SEGMENT_FIELDS, by_field(segments)[:, :, :n_segments], strict=True))
    return rate, rateints, SegmentFit(pedestal=pedestal, crmag=crmag[:, :n_jumps], **values)
