"""rscd: flag the first groups of MIRI ramps, which the preceding reset disturbs.

Ramps that saturate early keep some of these groups, so that a slope can still be fitted.
"""

import logging
from itertools import zip_longest
from typing import Any

from numpy.typing import NDArray

from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped, whole_frame
from gpucoron.steps.values import Number

log = logging.getLogger(__name__)

STEP = Step(
    name="rscd",
    title="flag groups after a reset (MIRI)",
    jwst_class="RscdStep",
    references=("rscd",),
    opens=lambda settings, facts: ("rscd",) if facts.is_miri else (),
    reach=whole_frame,  # as in firstframe
)


def find_skips(table, subarray, readpatt):
    """Read the numbers of groups to flag from the reference.

    Parameters
    ----------
    table : structured array
        Columns subarray, readpatt, group_skip1 and group_skip, as in the reference.
    subarray, readpatt : str

    Returns
    -------
    (int, int) or None
        Groups in the first and in later integrations, from the first matching row; None if no row matches.
    """
    # SUBPRISM is an older name of this subarray
    subarray = "SLITLESSPRISM" if subarray.upper() == "SUBPRISM" else subarray
    for row in table:
        if _text(row["subarray"]) == subarray and _text(row["readpatt"]) == readpatt:
            return int(row["group_skip1"]), int(row["group_skip"])
    return None


def limit_skips(skip_first, skip_later, ngroups):
    """Keep at least three groups of each integration, as lastframe flags one; of five or fewer groups, flag one."""
    if ngroups <= 5:
        skip_first = skip_later = 1
    most = max(0, ngroups - 3)
    return min(skip_first, most), min(skip_later, most)


@on_arrays(
    groupdq=Array(RAMP, "uint8", in_place=True),
    pixeldq=Array(IMAGE, "uint32", in_place=True),
    skip=Number("groups", whole=True, minimum=0),
)
def flag_first_groups(
    groupdq: NDArray[Any], pixeldq: NDArray[Any], skip: int, *, backend: BackendLike = None
) -> tuple[int, int]:
    """Set DO_NOT_USE in the first ``skip`` groups, or in fewer groups of ramps that saturate early, in place.

    If the second group after the skipped ones is saturated and the first group of the ramp is not, the number is
    lowered step by step until that group is not saturated. Such pixels get FLUX_ESTIMATED in ``pixeldq``.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
        The integrations that share ``skip``.
    pixeldq : (ny, nx) uint32
    skip : int
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    n_lowered, n_first_kept : int
        Numbers of pixels that keep some of the groups, and that keep all of them.

    Notes
    -----
    Source: jwst 3.0, ``rscd_sub``.
    """
    if skip + 2 > groupdq.shape[1]:
        msg = f"skip: skipping {skip} groups needs at least {skip + 2} groups, not {groupdq.shape[1]}"
        raise ValueError(msg)
    return backend.flag_first_groups(groupdq, pixeldq, [(slice(None), skip)])[0]


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    facts = exposure.facts
    if not facts.detector.startswith("MIR"):
        return skipped("it is for MIRI only")
    reference = references["rscd"]
    if reference is None:
        return skipped("there is no rscd reference")
    skips = find_skips(reference.table, facts.subarray, facts.readpatt)
    if skips is None:
        return skipped(f"the reference has no row for {facts.subarray}, {facts.readpatt}")
    if skips[0] < 0:
        log.warning("the rscd reference is old and has no values for the first integration: 1 group is skipped")
        skips = 1, skips[1]
    groupdq, pixeldq = exposure.groupdq, exposure.pixeldq
    nints, ngroups = groupdq.shape[:2]
    if ngroups < 3:
        return skipped("it needs at least 3 groups")
    skip_first, skip_later = limit_skips(*skips, ngroups)

    starts = (facts.integration_start or 1) == 1
    parts = {"int1": (slice(0, 1), skip_first)} if starts else {}
    # NINTS counts the integrations of the whole exposure, also in a segment
    if (facts.nints or nints) > 1 or nints > 1 or not starts:
        parts["int2p"] = slice(1 if starts else 0, nints), skip_later
    counts = backend.flag_first_groups(groupdq, pixeldq, [part for part in parts.values() if part[0].start < nints])
    meta = {}
    for (which, (_, skip)), (n_lowered, n_kept) in zip_longest(parts.items(), counts, fillvalue=(0, 0)):
        meta |= _meta(which, skip, n_lowered, n_kept)
    return Outcome(meta=meta)


def _meta(which, skip, n_lowered, n_kept):
    return {
        f"rscd.keep_bright_firstgroup_{which}": n_kept,
        f"rscd.keep_groups_saturation_{which}": n_lowered,
        f"rscd.ngroups_skip_{which}": skip,
    }


def _text(value):
    """Convert a string of a table, which may be bytes with trailing blanks, to plain text."""
    if isinstance(value, bytes):
        value = value.decode("ascii")
    return str(value).strip()
