"""charge_migration: flag groups that are bright enough to lose charge to their neighbours."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.masks import carry_on, grow_cross
from gpucoron.dq import CHARGELOSS, DO_NOT_USE
from gpucoron.parameters import P
from gpucoron.steps.arguments import RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped
from gpucoron.steps.values import Number

STEP = Step(
    name="charge_migration",
    title="flag groups that lose charge to their neighbours",
    jwst_class="ChargeMigrationStep",
    parameters=(P("signal_threshold", "float", 25000, "signal above which charge migrates", "DN"),),
    skipped=True,
    profiles={"spaceklip": Preset({"skip": False}, instruments=("NIRCAM",))},
    keywords={"skip_charge": "skip"},
    reach=lambda settings, facts: 1,
)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place=True),
    signal_threshold=Number("DN"),
)
def flag_charge_migration(
    data: ArrayLike, groupdq: NDArray[Any], signal_threshold: float, *, backend: BackendLike = None
) -> None:
    """Set CHARGELOSS and DO_NOT_USE in a bright group and all later ones, also in the four neighbours, in place.

    A group above the threshold is ignored if its only flag is DO_NOT_USE.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    signal_threshold : float, DN
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``charge_migration`` (Goudfrooij et al. 2024, PASP 136, 014503). jwst tests all groups before it
    sets any flag. Group by group the result is the same, because a group is flagged only after it was tested.
    """
    flags = groupdq.dtype.type(CHARGELOSS | DO_NOT_USE)
    if backend.xp is np:
        # masks of a single group stay in the cache
        for ramp, ramp_flags in zip(data, groupdq, strict=True):
            reached = np.zeros(ramp.shape[1:], bool)
            for plane, plane_flags in zip(ramp, ramp_flags, strict=True):
                reached |= (plane > signal_threshold) & (plane_flags != DO_NOT_USE)
                plane_flags |= grow_cross(reached) * flags
        return
    # four masks, and flags
    for part in backend.batches(data.shape[0], 6 * math.prod(data.shape[1:])):
        some = groupdq[part]
        reached = (data[part] > signal_threshold) & (some != DO_NOT_USE)
        carry_on(reached)
        some |= grow_cross(reached) * flags


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    if exposure.data.shape[1] < 3:
        return skipped("it needs at least 3 groups")
    flag_charge_migration(exposure.data, exposure.groupdq, parameters.signal_threshold, backend=backend)
    return Outcome()
