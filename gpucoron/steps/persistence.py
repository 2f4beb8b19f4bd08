"""persistence: flag groups in which the afterglow of a bright source may remain."""

import logging
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.persistence import PersistenceSettings
from gpucoron.parameters import P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step
from gpucoron.steps.values import Number, Switch

log = logging.getLogger(__name__)

#: parameters that name files
_FILES = ("save_persistence", "persistence_array_file")


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
    # each group's times, added up as jwst does
    times = [list(accumulate([group_time] * data.shape[1], initial=float(start)))[1:] for start in start_times]
    settings = PersistenceSettings(persistence_time, dn_threshold, do_not_use)
    backend.open_windows(data, groupdq, ends, np.array(times).reshape(data.shape[:2]), settings=settings)


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
