"""The optional product of the segmented fit: the values of each segment of each ramp."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.ramp_fit import SEGMENT_FIELDS, by_field
from gpucoron.backends.results import SegmentFit
from gpucoron.dq import JUMP_DET, PERSISTENCE, SATURATED
from gpucoron.steps.arguments import CUBE, RAMP, Array, BackendLike, on_arrays

__all__ = ["count_segments"]

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
            any_flags = flags[0].copy()
            for group in flags[1:]:
                any_flags |= group
            flagged = xp.flatnonzero(any_flags)
            if len(flagged) < n_pixels:
                # a ramp without flags is one segment
                most[0] = xp.maximum(most[0], 1)
            at_once = max(1, _FLAGS_AT_ONCE // len(flags))
            for start in range(0, len(flagged), at_once):
                some = flagged[start : start + at_once]
                first = None if zeroframe is None else zeroframe[integration].reshape(-1)[some]
                n_segments, n_jumps = _count_of_ramps(flags[:, some], first, xp)
                most[0] = xp.maximum(most[0], n_segments.max())
                most[1] = xp.maximum(most[1], n_jumps.max())
        return most

    most = xp.stack(backend.in_parts(count, len(groupdq))).max(axis=0)
    return int(most[0]), int(most[1])


def _count_of_ramps(flags, zeroframe, xp):
    """Return the numbers of segments and jumps, (nramps,); flags are (ngroups, nramps), and may be changed."""
    n_jumps = xp.zeros(flags.shape[1:], "int64")
    for group in flags[1:]:
        n_jumps += group & JUMP_DET != 0
    if zeroframe is not None:
        n_good = xp.zeros(flags.shape[1:], "int64")
        for group in flags:
            n_good += group == 0
        flags[0][(n_good == 0) & (zeroframe != 0)] = 0
    n_long, n_all = xp.zeros((2, *flags.shape[1:]), "int64")
    was_good, was_jump = xp.zeros((2, *flags.shape[1:]), "bool")
    for number, group in enumerate(flags):
        others = group & (0xFF & ~PERSISTENCE)
        is_good = others == 0
        begins = is_good & ~was_good
        n_all += begins
        # with the jump before it, or with the next group
        is_long = begins & was_jump
        if number + 1 < len(flags):
            is_long |= begins & (flags[number + 1] & (0xFF & ~PERSISTENCE) == 0)
        n_long += is_long
        was_good, was_jump = is_good, others == JUMP_DET
    n_segments = xp.where(n_long > 0, n_long, n_all)
    n_segments[flags[0] & SATURATED != 0] = 0
    return n_segments, n_jumps


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
        In files, like ramps, if the exposure does not fit into memory.
    """
    data, groupdq, pixeldq, gain, readnoise, *others = ramps
    zeroframe = None if settings.suppress_one_group else others[1]
    n_segments, n_jumps = _count_segments(groupdq, zeroframe, backend)
    nints, _, *image = data.shape
    # arrays without a segment or jump would be empty
    segments = backend.zeros((len(SEGMENT_FIELDS) * nints, max(1, n_segments), *image), "float32")
    crmag = backend.zeros((nints, max(1, n_jumps), *image), "float32")
    pedestal = backend.zeros((nints, *image), "float32")
    arrays = data, groupdq, pixeldq, gain, readnoise, segments, pedestal, crmag, *others
    rate, rateints = backend.fit_segments(*arrays, settings=settings)
    values = dict(zip(SEGMENT_FIELDS, by_field(segments)[:, :, :n_segments], strict=True))
    return rate, rateints, SegmentFit(pedestal=pedestal, crmag=crmag[:, :n_jumps], **values)
