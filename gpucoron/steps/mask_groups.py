"""mask_groups: exclude groups, so that science and reference reach the same signal, or as the user chooses.

The slope of a ramp depends on its final signal, mainly through the brighter-fatter effect. A bright reference star is
subtracted better if its ramp is only fitted up to the signal of the target. `prepare_masks` finds the number of groups
for whole concatenations (`gpucoron.steps.group_matching`). The step itself only applies a mask or a list of groups.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucoron.dq import DO_NOT_USE
from gpucoron.parameters import P
from gpucoron.steps.arguments import RAMP, Array, BackendLike, as_backend, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped
from gpucoron.steps.group_matching import (
    Core,
    Match,
    Ramp,
    choose_groups_advanced,
    choose_groups_basic,
    keep_by_brightness,
    mask_late_groups,
    measure_core,
    prepare_masks,
    sum_ring,
)
from gpucoron.steps.values import Kind

__all__ = [
    "Core",
    "Match",
    "Ramp",
    "apply_mask",
    "choose_groups_advanced",
    "choose_groups_basic",
    "keep_by_brightness",
    "list_groups",
    "mask_late_groups",
    "measure_core",
    "prepare_masks",
    "run",
    "sum_ring",
]

_NO_SUCH_CUT = "spaceKLIP 2.2 declares it, and its code never reads it either"

#: parameters that choose groups by the brightness of other exposures
_COMPARING = ("types", "cropwidth", "edgewidth", "threshold")


def _meaningless_alone(values):
    """List parameters without effect on a single exposure, unless its groups are given; `run` refuses 'advanced'."""
    names = ("groups", "mask_array", "custom_group")
    if str(values.get("skip")).lower() == "true" or any(values.get(name) is not None for name in names):
        return []
    basic = ["mask_method"] if values.get("mask_method") == "basic" else []
    return basic + [name for name in _COMPARING if values.get(name) is not None]


def _names_groups(settings):
    """Return whether the parameters name groups of a single exposure."""
    return settings.mask_array is not None or bool(settings.groups) or settings.custom_group is not None


STEP = Step(
    name="mask_groups",
    title="exclude groups, mainly late groups of brighter references",
    parameters=(
        P("groups", "int_list", None, "groups to exclude, counted from 0; negative numbers count from the end"),
        P("mask_method", "option", "basic", "method to choose groups", options=("basic", "advanced", "custom")),
        P("types", "string_list", ["REF", "REF_BG"], "types of exposures that get a mask"),
        P("cropwidth", "integer", None, "half width of the square; None: 20 (basic) or 30", "pixels", minimum=1),
        P("edgewidth", "integer", None, "width of the ring; None: 10 (basic) or 20", "pixels", minimum=1),
        P(
            "threshold",
            "float",
            85.0,
            "percentile above which pixels are bright (advanced)",
            "percent",
            minimum=0,
            maximum=100,
        ),
        P("custom_group", "integer", None, "groups to keep (custom)", "groups", minimum=1),
        P("mask_array", "array", None, "mask of this exposure: True for groups to exclude", reads=("NPY",)),
        P("mask_sigma_med", "float", None, "accepted and not used", unused=_NO_SUCH_CUT),
        P("mask_window", "integer", None, "accepted and not used", unused=_NO_SUCH_CUT),
    ),
    alone=_meaningless_alone,
    checks=lambda settings, shape: _check_groups(settings, shape),
    reach=lambda settings, facts: None if _names_groups(settings) else 0,  # as in firstframe
)


@on_arrays(
    groupdq=Array(RAMP, "uint8", in_place=True),
    mask=Kind("an array of true and false", np.shape),
)
def apply_mask(groupdq: NDArray[Any], mask: Any, *, backend: BackendLike = None) -> int:
    """Set DO_NOT_USE where a mask is true, in place. Other flags do not change.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    mask : bool
        Mask of that shape, or of length 1 along any axis.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    int
        Number of groups of pixels that the mask excludes.
    """
    if isinstance(mask, list):
        mask = np.array(mask)
    _check_mask(mask, groupdq.shape)
    if backend.xp is np and not isinstance(mask, np.ndarray):
        mask = as_backend(None, mask).to_host(mask)
    n_groups = int(mask.sum()) * (groupdq.size // mask.size)
    flags = mask.astype(groupdq.dtype) * groupdq.dtype.type(DO_NOT_USE)
    groupdq |= backend.to_device(flags) if isinstance(flags, np.ndarray) else flags
    return n_groups


def _check_mask(mask, shape):
    kind = mask.dtype if hasattr(mask, "dtype") else type(mask).__name__
    if str(kind) != "bool":
        msg = f"mask_array must be a boolean array, not {kind}"
        raise ValueError(msg)
    fits = mask.ndim == 4 and all(ours in (1, own) for ours, own in zip(mask.shape, shape, strict=True))
    if not fits:
        msg = f"mask_array has the shape {mask.shape}; it must be that of the ramps, {shape}, or 1 along an axis"
        raise ValueError(msg)


def _check_groups(parameters, shape):
    """Refuse groups and masks that do not fit the shape of the ramps, and methods that need other exposures."""
    if parameters.mask_array is not None:
        _check_mask(parameters.mask_array, shape)
    if parameters.groups:
        list_groups(parameters.groups, shape[1])
    late = parameters.mask_method == "custom" and parameters.custom_group is not None
    if parameters.mask_array is None and not parameters.groups and not late and parameters.mask_method != "basic":
        msg = (
            f"mask_method={parameters.mask_method!r} compares the exposures of a concatenation, see "
            "gpucoron.coron1pipeline.run_obs; for a single exposure give groups, or custom_group with "
            "mask_method='custom'"
        )
        raise ValueError(msg)


def list_groups(groups, ngroups):
    """Make a mask from a list of groups.

    Parameters
    ----------
    groups : sequence of int
        Indices from 0; negative indices count from the end.
    ngroups : int
        Number of groups of the ramps.

    Returns
    -------
    (1, ngroups, 1, 1) bool
        True for groups to exclude.

    Raises
    ------
    ValueError
        A group does not exist, or no group is left.
    """
    absent = [group for group in groups if not -ngroups <= group < ngroups]
    if absent:
        msg = f"groups: there is no group {absent[0]} in ramps of {ngroups} groups, counted from 0 to {ngroups - 1}"
        raise ValueError(msg)
    mask = np.zeros((1, ngroups, 1, 1), dtype=bool)
    mask[:, list(groups)] = True
    if mask.all():
        msg = f"groups: no group is left in ramps of {ngroups} groups without {', '.join(map(str, groups))}"
        raise ValueError(msg)
    return mask


def _mask_of(parameters, ngroups, backend):
    """Make the mask of one exposure from its parameters; None if they name no groups."""
    mask = parameters.mask_array
    if mask is None and parameters.mask_method == "custom" and parameters.custom_group is not None:
        mask = mask_late_groups(parameters.custom_group, ngroups)
    if parameters.groups:
        named = list_groups(parameters.groups, ngroups)
        if mask is None:
            return named
        return mask | (named if isinstance(mask, np.ndarray) else backend.to_device(named))
    return mask


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`. ``parameters`` contain the groups or the mask.

    Notes
    -----
    Source: spaceKLIP 2.2, ``MaskGroupsStep``, which overwrites the flags of those groups with DO_NOT_USE.
    """
    _check_groups(parameters, exposure.groupdq.shape)
    mask = _mask_of(parameters, exposure.groupdq.shape[1], backend)
    if mask is None:
        return skipped("no groups are named; masks by brightness are made for whole concatenations")
    return Outcome(flagged={"groups": apply_mask(exposure.groupdq, mask, backend=backend)})
