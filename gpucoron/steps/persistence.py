"""persistence: flag groups in which the afterglow of a bright source may remain."""

import logging
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
#: pixels that a CPU processes at a time, so that the ends of their persistence stay in the cache
PIXELS_AT_ONCE = 2**15


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
            holds="persistence",
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
    persistence_time=Number("s", above=0, finite=True),
    dn_threshold=Number("DN"),
    do_not_use=Switch(),
)
def flag_persistence(
    data: ArrayLike,
    groupdq: NDArray[Any],
    ends: NDArray[np.float64],
    start_times: ArrayLike,
    group_time: float,
    persistence_time: float,
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
    persistence_time : float, s
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
    starts = [float(start) for start in start_times]
    columns = data.shape[3]

    def flag_rows(rows):
        # a GPU gets the whole frame, because it is slow with many small operations
        step = max(1, PIXELS_AT_ONCE // columns) if backend.xp is np else rows.stop - rows.start
        for start in range(rows.start, rows.stop, step):
            block = slice(start, min(start + step, rows.stop))
            _flag_block(
                data[:, :, block], groupdq[:, :, block], ends[block], starts, group_time, persistence_time, threshold,
                flag, backend.xp,
            )  # fmt: skip

    backend.in_parts(flag_rows, data.shape[2])


def _flag_block(data, groupdq, ends, starts, group_time, persistence_time, threshold, flag, xp):
    """Flag some rows of a frame; ``threshold`` has the dtype of the data, or is None."""
    windows = _Windows(ends, xp)
    for integration, now in enumerate(starts):
        windows.begin_integration()
        for group in range(data.shape[1]):
            now = now + group_time
            flags = groupdq[integration, group]
            bright = None if threshold is None else data[integration, group] > threshold
            windows.update(now, now + persistence_time, (flags & SATURATED) != 0, bright)
            windows.flag(flags, flag)


class _Windows:
    """The ends of the windows of some pixels, changed in place group by group.

    On the CPU, where asking is cheap, groups without windows are passed over.
    """

    def __init__(self, ends, xp):
        self.ends, self.xp = ends, xp
        self.are_open = self._may_be(ends != 0)
        self.count = None

    def _may_be(self, mask):
        """Return whether a mask may be true somewhere; a GPU does not wait for the answer."""
        return self.xp is not np or bool(mask.any())

    def begin_integration(self):
        """Forget which pixels were saturated."""
        self.count = None

    def update(self, now, end, saturated, bright):
        """Close and open windows; ``bright`` is None without a threshold."""
        if self.are_open:
            self.ends[self.ends < now] = 0.0
        changed = self.are_open
        changed |= self._open_saturated(saturated, end)
        if bright is not None and self._may_be(bright):
            self.ends[bright & ~(self.ends > 0.0)] = end
            changed = True
        if changed:
            # from the file of an exposure that started later
            self.ends[self.ends > end] = 0.0
            self.are_open = self._may_be(self.ends != 0)

    def _open_saturated(self, saturated, end):
        """Open windows where one group of the integration is saturated so far; return whether there are any."""
        if self.count is None:
            if not self._may_be(saturated):
                return False
            self.count = saturated.astype(np.uint8)
        else:
            self.count = self.xp.minimum(self.count + saturated, np.uint8(2))
        self.ends[self.count == 1] = end
        return True

    def flag(self, flags, flag):
        """Set a flag where a window is open."""
        if self.are_open:
            flags |= (self.ends > 0.0) * flag


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
