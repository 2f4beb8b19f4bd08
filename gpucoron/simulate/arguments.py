"""Check the arguments of ``simulate`` that depend on each other."""

import math

from gpucoron.errors import ArgumentError
from gpucoron.simulate.keywords import integration_time


def count_groups(exposure_time, ngroups, nints, nframes, groupgap, frame_time):
    """Return the numbers of groups and integrations: as given, or those that reach an effective exposure time.

    Raises
    ------
    ArgumentError
        A number is missing, or all three are given.
    """
    if exposure_time is None:
        if ngroups is None or nints is None:
            msg = "ngroups, nints: give both, or one of them and exposure_time"
            raise ArgumentError(msg)
        return ngroups, nints
    if (ngroups is None) == (nints is None):
        msg = f"exposure_time: give ngroups or nints with it, not {'both' if nints else 'neither'}"
        raise ArgumentError(msg)
    if not 0 < exposure_time < math.inf:
        msg = f"exposure_time: expected seconds above 0, got {exposure_time}"
        raise ArgumentError(msg)
    slack = 1e-6  # a time that was printed with fewer digits does not need one more
    if nints is None:
        one = integration_time(max(ngroups, 1), nframes, groupgap, frame_time)
        return ngroups, math.ceil(exposure_time / one - slack)
    frames = exposure_time / max(nints, 1) / frame_time
    return max(math.ceil((frames + groupgap) / (nframes + groupgap) - slack), 1), nints


def refuse_in_acquisition(**given):
    """Refuse arguments that a target acquisition does not have."""
    for name, value in given.items():
        if value is not None:
            msg = f"{name}: a target acquisition has its own filter and no zero point; give its star in a Scene"
            raise ArgumentError(msg)


def refuse_in_background(scene, **given):
    """Refuse a star in a background, unless there is a scene."""
    for name, value in given.items():
        if value is not None and scene is None:
            msg = f"{name}: a background has no star"
            raise ArgumentError(msg)


def refuse_with_array(**given):
    """Refuse arguments that change a Scene, if the sky is an array."""
    for name, value in given.items():
        if value is not None:
            msg = f"{name}: the scene is an array, which is not changed; give a Scene"
            raise ArgumentError(msg)
