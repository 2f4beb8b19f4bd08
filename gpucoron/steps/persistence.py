"""persistence: flag groups in which the afterglow of a bright source may remain."""

import logging
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.dq import DO_NOT_USE, PERSISTENCE, SATURATED
from gpucoron.parameters import P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step
from gpucoron.steps.values import Number, Switch

log = logging.getLogger(__name__)

#: parameters that name files
_FILES = ("save_persistence", "persistence_array_file")
#: pixels that a CPU looks through at a time, so that masks stay in the cache
PIXELS_AT_ONCE = 2**16


def _without_time(settings):
    """Refuse files without a time window: the step then fails, and neither reads nor writes them."""
    files = [f"persistence.{name}={getattr(settings, name)}" for name in _FILES if getattr(settings, name)]
    if not files or (settings.persistence_time or 0) > 0:
        return None
    return (
        f"{', '.join(files)}: no persistence is read or written without persistence.persistence_time, the length of "
        f"the window in seconds, 1 or more; it is {settings.persistence_time}"
    )


def _reach(settings, facts):
    """Return the reach of the step: pixels are independent, but the file is for the whole frame."""
    return None if settings.persistence_array_file else 0


STEP = Step(
    name="persistence",
    title="flag persistence",
    jwst_class="PersistenceStep",
    parameters=(
        P("save_persistence", "string", None, "ASDF file for the persistence array", names=True, in_folder=True),
        P("persistence_time", "integer", None, "length of the persistence window", "s"),
        P("dn_threshold", "float", None, "signal above which pixels persist", "DN"),
        P(
            "persistence_array_file",
            "string",
            None,
            "ASDF file with the end of persistence of each pixel",
            reads=("ASDF",),
            holds="ends",
            may_be_missing=True,
        ),
        P("persistence_dnu", "boolean", False, "set DO_NOT_USE as well"),
    ),
    skipped=True,
    helpers=("start_times", "save_persistence"),
    leaves="calibrated ramp",
    keywords={"skip_persistence": "skip"},
    refuses=_without_time,
    reach=_reach,
)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place=True),
    ends=Array(IMAGE, "float64", unit="s", in_place=True),
    start_times=Array("nints", "float64", unit="s", on_host=True),
    group_time=Number("s", positive=True),
    persistence_time=Number("s", whole=True, minimum=1),
    dn_threshold=Number("DN"),
    do_not_use=Switch(),
)
def flag_persistence(
    data: ArrayLike,
    groupdq: NDArray[Any],
    ends: NDArray[np.float64],
    start_times: ArrayLike,
    group_time: float,
    persistence_time: int,
    *,
    dn_threshold: float | None = None,
    do_not_use: bool = False,
    backend: BackendLike = None,
) -> None:
    """Set PERSISTENCE in the groups of pixels that were saturated or bright shortly before, in place.

    A window of ``persistence_time`` opens for a pixel in the first saturated group of an integration, and, if there is
    none open, in a group above the threshold. If only one group of an integration is saturated, each later group of the
    integration extends the window. The groups in the window are flagged, from the group that opens it on.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    ends : (ny, nx) float64, s
        When the persistence of each pixel ends, 0 if there is none: before the exposure, and afterwards after it. A
        window that would begin after the exposure is dropped.
    start_times : (nints,) float64, s
        Start of each integration, on the same clock, that of jwst's files from 1970 on.
    group_time : float, s
    persistence_time : int, s
        Length of the window.
    dn_threshold : float, optional, DN
        By default only saturation opens windows.
    do_not_use : bool
        Set DO_NOT_USE as well.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``process_persistence_flagging``. It uses no trap references.
    """
    flag = groupdq.dtype.type(PERSISTENCE | (DO_NOT_USE if do_not_use else 0))
    threshold = None
    if dn_threshold is not None:
        with np.errstate(over="ignore"):
            threshold = data.dtype.type(dn_threshold)
    # each group's times, added up as jwst does
    times = [list(accumulate([group_time] * data.shape[1], initial=float(start)))[1:] for start in start_times]
    ramps = [array.reshape(*array.shape[:2], -1) for array in (data, groupdq)]
    ends = ends.reshape(-1)

    def flag_pixels(pixels):
        # a GPU gets all at once, because it is slow with many small operations
        step = PIXELS_AT_ONCE if backend.xp is np else pixels.stop - pixels.start
        for start in range(pixels.start, pixels.stop, step):
            block = slice(start, min(start + step, pixels.stop))
            samples, flags = (array[..., block] for array in ramps)
            for integration, ends_of_groups in enumerate(times):
                _flag_integration(
                    samples[integration], flags[integration], ends[block], ends_of_groups, persistence_time, threshold,
                    flag, backend.xp,
                )  # fmt: skip

    backend.in_parts(flag_pixels, len(ends))


def _flag_integration(data, groupdq, ends, times, persistence_time, threshold, flag, xp):
    """Flag some pixels of an integration, (ngroups, npixels); ``threshold`` has the dtype of the data, or is None."""
    where = slice(None)
    if xp is np:
        where = np.flatnonzero(_concerned(data, groupdq, ends, threshold))
        if len(where) == 0:
            return
    now_open = ends[where]
    count = xp.zeros(now_open.shape, np.uint8)
    for group, now in enumerate(times):
        flags, end = groupdq[group][where], now + persistence_time
        count = xp.minimum(count + ((flags & SATURATED) != 0), np.uint8(2))
        # not by assignments to masked pixels, before which CuPy waits
        now_open = xp.where(count == 1, end, xp.where(now_open < now, 0.0, now_open))
        if threshold is not None:
            now_open = xp.where((data[group][where] > threshold) & ~(now_open > 0.0), end, now_open)
        # from the file of an exposure that started later
        now_open = xp.where(now_open > end, 0.0, now_open)
        groupdq[group][where] = flags | (now_open > 0.0) * flag
    ends[where] = now_open


def _concerned(data, groupdq, ends, threshold):
    """Return which pixels, (npixels,), have a window, or are saturated or bright in the integration."""
    found = (np.bitwise_or.reduce(groupdq, axis=0) & SATURATED) != 0
    found |= (ends != 0) | np.signbit(ends)
    if threshold is not None:
        bright = np.empty_like(found)
        for group in data:
            np.greater(group, threshold, out=bright)
            found |= bright
    return found


def run(exposure, references, parameters, backend, *, start_times, save_persistence):
    """Run the step; see `gpucoron.steps`.

    ``start_times()`` returns the starts of the integrations in seconds since 1970, ``save_persistence(ends)`` writes
    the file. ``parameters.persistence_array_file`` is the array that the file holds.

    Notes
    -----
    Source: jwst 3.0, ``PersistenceStep``. Without ``persistence_time`` it is FAILED, as there.
    """
    if (parameters.persistence_time or 0) <= 0:
        reason = "persistence_time is not set: the length of the window in seconds, 1 or more"
        log.warning("%s", reason)
        return Outcome("FAILED", reason)
    ends = parameters.persistence_array_file
    ends = np.zeros(exposure.data.shape[2:], np.float64) if ends is None else ends.copy()
    ends = backend.to_device(ends)
    flag_persistence(
        exposure.data,
        exposure.groupdq,
        ends,
        start_times(),
        exposure.facts.group_time,
        parameters.persistence_time,
        dn_threshold=parameters.dn_threshold,
        do_not_use=parameters.persistence_dnu,
        backend=backend,
    )
    if parameters.save_persistence is not None:
        save_persistence(backend.to_host(ends))
    return Outcome()
