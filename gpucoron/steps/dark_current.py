"""dark_current: subtract the dark, matched to the exposure's read pattern and integrations."""

import logging
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.dark_current import DarkCurrentSettings, MatchedDark
from gpucoron.backends.operations.dark_current import ReadPattern as ReadPattern
from gpucoron.parameters import P
from gpucoron.steps.arguments import RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.dark_line import FEWEST_VALUES, DarkError, count_without_line, fit_line, groups_of_line
from gpucoron.steps.declaration import Extra, Outcome, Preset, Step, skipped
from gpucoron.steps.values import Having, Kind, Number, Switch

log = logging.getLogger(__name__)

#: bytes of the groups of a dark that are computed together for the product
_BYTES_AT_ONCE = 2**25


def _matched_dark(exposure, settings):
    """List the dark as it was subtracted, if the user wants it saved."""
    if settings.dark_output is None or exposure.matched_dark is None:
        return []
    name = Path(settings.dark_output).with_suffix(".fits").name
    return [Extra("dark", exposure.matched_dark, file_name=name)]


STEP = Step(
    name="dark_current",
    title="subtract the dark",
    jwst_class="DarkCurrentStep",
    references=("dark",),
    parameters=(
        P("dark_output", "string", None, "save the dark as it was subtracted", names=True),
        P("average_dark_current", "float", None, "average dark current, for the noise", "e-/s", minimum=0, finite=True),
        P(
            "dark_by_integration",
            "boolean",
            False,
            "later segments use the dark of their own integrations (MIRI)",
            ours=True,
        ),
        P(
            "apply_average_dark_image",
            "boolean",
            False,
            "use the image of the average dark current in the reference, as intended in jwst",
            ours=True,
        ),
        P(
            "continue_by_line",
            "boolean",
            False,
            "extend a dark that is too short by a line through its last quarter, and add its error to ERR",
            ours=True,
        ),
    ),
    cal_step="dark_sub",
    profiles={"spaceklip": Preset({"skip": True}, subarrays_only=True)},
    keywords={"skip_dark": "skip"},
    extras=_matched_dark,
)


def share_dark(nints, dark_nints, first_integration=1, *, by_integration=False):
    """List the integration of the dark for each integration of an exposure; see `subtract_dark`.

    Returns
    -------
    list of int
        Indices from 0.
    """
    if first_integration > 1 and not by_integration:
        first_integration = dark_nints
    return [min(first_integration - 1 + index, dark_nints - 1) for index in range(nints)]


def integrations_alike(shares):
    """Yield (index, slice of integrations) for each run of equal indices in a list."""
    start = 0
    for index, alike in groupby(shares):
        stop = start + len(list(alike))
        yield index, slice(start, stop)
        start = stop


def _check_lines(lines):
    for line in lines:
        Having("a Line", "at", "mean", "slope", "center").take("line", line)


_LINES = Kind("a Line for each integration of the dark", _check_lines)
_READ_PATTERN = Having(
    "a ReadPattern", "total_frames", nframes=Number(whole=True, minimum=1), groupgap=Number(whole=True, minimum=0)
)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    dark=Array("dark_ngroups ny nx | dark_nints dark_ngroups ny nx", unit="DN"),
    dark_pattern=_READ_PATTERN,
    pattern=_READ_PATTERN,
    first_integration=Number(whole=True, minimum=1),
    by_integration=Switch(),
    lines=_LINES,
)
def subtract_dark(
    data: NDArray[Any],
    dark: ArrayLike,
    dark_pattern: ReadPattern,
    pattern: ReadPattern,
    *,
    first_integration: int = 1,
    by_integration: bool = False,
    lines: Any = None,
    backend: BackendLike = None,
) -> int:
    """Subtract a dark from every group, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    dark : (dark_ngroups, ny, nx) or (dark_nints, dark_ngroups, ny, nx) float32, DN
        With four axes (MIRI), integrations beyond the last one of the dark use that one. As in stcal, all integrations
        of later segments use it too, unless ``by_integration``.
    dark_pattern, pattern : ReadPattern
        Read patterns of the dark and of the exposure.
    first_integration : int
        Number of the first integration within the exposure, from one (INTSTART).
    by_integration : bool
        Each integration of a later segment uses the integration of the dark with the same number.
    lines : sequence of Line, optional
        Lines along which the integrations of a short dark are extended; by default along the last two groups.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    int
        Number of groups by which the dark was extended.

    Notes
    -----
    Source: stcal 1.20, ``dark_sub``. If stcal averages a MIRI dark for a segment with fewer integrations than the dark,
    the last integration of the average stays zero and nothing is subtracted; gpucoron subtracts the last integration of
    the dark.
    """
    nints, ngroups = data.shape[:2]
    if dark.ndim == 3:
        dark = dark[None]
    shares = share_dark(nints, dark.shape[0], first_integration, by_integration=by_integration)
    settings = DarkCurrentSettings(dark_pattern, pattern)
    for index, integrations in integrations_alike(shares):
        line = None if lines is None else lines[index]
        backend.subtract_frames(data[integrations], dark[index], line, settings=settings)
    return settings.match(dark[0], ngroups, xp=backend.xp).extrapolated


@on_arrays(dq=Array("ny nx | dark_nints one ny nx", "uint32"))
def combine_dark_flags(dq: ArrayLike, *, backend: BackendLike = None) -> NDArray[np.uint32]:
    """Combine the flags of a dark.

    Parameters
    ----------
    dq : (ny, nx) or, for MIRI, (dark_nints, 1, ny, nx) uint32
        The result has the flags of all integrations.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (ny, nx) uint32
    """
    if dq.ndim == 2:
        return dq
    flags = dq[0, 0].copy()
    for integration in dq[1:]:
        flags |= integration[0]
    return flags


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    It sets ``exposure.average_dark_current`` ((ny, nx) float32, e-/s), which ramp_fit adds to the Poisson variance.
    With ``parameters.dark_output`` it sets ``exposure.matched_dark``, the dark as it was subtracted. If
    ``continue_by_line`` has extended the dark, it sets ``exposure.dark_error`` for the fits.
    """
    reference = references["dark"]
    if reference is None:
        return skipped("there is no dark reference")
    facts, xp, dark = exposure.facts, backend.xp, reference.data
    if dark.ndim not in (3, 4):
        msg = f"a dark has the axes ([integrations,] groups, y, x); this one has the shape {dark.shape}"
        raise ValueError(msg)
    _set_average_dark_current(exposure, reference, parameters, xp)

    pattern = ReadPattern(facts.nframes, facts.groupgap)
    dark_pattern = ReadPattern(reference.facts.get("nframes"), reference.facts.get("groupgap"))
    for name, known in (("exposure", pattern), ("dark reference", dark_pattern)):
        if known.nframes is None or known.groupgap is None:
            msg = f"the {name} lacks NFRAMES or GROUPGAP, without which the dark cannot be matched"
            raise ValueError(msg)
    if dark_pattern.nframes > pattern.nframes or dark_pattern.groupgap > pattern.groupgap:
        return skipped(
            f"the dark has NFRAMES={dark_pattern.nframes}, GROUPGAP={dark_pattern.groupgap}, "
            f"more than the exposure's {pattern.nframes}, {pattern.groupgap}"
        )

    numbers = {
        "first_integration": facts.integration_start or 1,
        "by_integration": parameters.dark_by_integration,
    }
    lines = None
    if parameters.continue_by_line:
        lines = _fit_lines(exposure, dark, dark_pattern, pattern, numbers, xp)
    extrapolated = subtract_dark(exposure.data, dark, dark_pattern, pattern, **numbers, lines=lines, backend=backend)
    if extrapolated:
        n_used = len(groups_of_line(dark.shape[-3]))
        is_line = lines is not None and n_used >= FEWEST_VALUES
        path = f"a line through its last {n_used}" if is_line else "its last two"
        log.warning("the dark is too short: continued by %d groups along %s", extrapolated, path)
        if lines is not None:
            _warn_without_line(dark, is_line, xp)
    exposure.pixeldq |= combine_dark_flags(reference.dq, backend=backend)
    if parameters.dark_output is not None:
        exposure.matched_dark = _collect_dark(dark, dark_pattern, pattern, exposure.data.shape[1], lines, xp)
    return Outcome()


def _warn_without_line(dark, is_line, xp):
    """Warn if `continue_by_line` has no effect, or not in all pixels."""
    if not is_line:
        log.warning(
            "continue_by_line: no line can be fitted to the %d groups of the dark; %d or more are needed; "
            "ERR lacks the error of the continued dark",
            dark.shape[-3],
            FEWEST_VALUES,
        )
        return
    integrations = dark if dark.ndim == 4 else dark[None]
    count = max(count_without_line(one, xp=xp) for one in integrations)
    if count:
        log.warning(
            "continue_by_line: no line can be fitted to %d pixels of the dark, which have fewer than %d finite values "
            "in its last %d groups: they are continued along the last two; ERR lacks the error of their continued dark",
            count,
            FEWEST_VALUES,
            len(groups_of_line(dark.shape[-3])),
        )


def _fit_lines(exposure, dark, dark_pattern, pattern, numbers, xp):
    """Fit lines to a dark that is too short, and store their error in the exposure."""
    nints, ngroups = exposure.data.shape[:2]
    integrations = dark if dark.ndim == 4 else dark[None]
    matched = MatchedDark(integrations[0], dark_pattern, pattern, ngroups, xp=xp)
    if not matched.extrapolated:
        return None
    lines = [fit_line(one, xp=xp) for one in integrations]
    shares = share_dark(nints, len(lines), numbers["first_integration"], by_integration=numbers["by_integration"])
    parts, indices = zip(*(matched.continued(group) for group in range(ngroups)), strict=True)
    exposure.dark_error = DarkError(tuple(lines), tuple(shares), parts, indices)
    return lines


def _set_average_dark_current(exposure, reference, parameters, xp):
    """Set the average dark current from the parameter, or else from the header of the dark."""
    value = parameters.average_dark_current
    if value is None:
        image = reference.average_dark_current
        if image is not None and not bool(xp.sum(image) == 0):
            applies = parameters.apply_average_dark_image
            if applies and image.shape == exposure.data.shape[2:]:
                exposure.average_dark_current = image.astype("float32")
            elif applies:
                log.warning(
                    "the dark reference's average dark current has the shape %s and is not applied", image.shape
                )
            else:
                # jwst 3.0 compares the shape of the image with an attribute that is not set yet, and never uses it
                log.warning("the average dark current of the dark reference is an image, which jwst 3.0 does not apply")
            return
        value = reference.facts.get("average_dark_current") or 0.0
    exposure.average_dark_current = xp.full(exposure.data.shape[2:], value, dtype="float32")


def _collect_dark(dark, dark_pattern, pattern, ngroups, lines, xp):
    """Return all groups of a dark in the read pattern of an exposure."""
    integrations = dark if dark.ndim == 4 else dark[None]
    lines = lines or [None] * len(integrations)
    collected = xp.empty((len(integrations), ngroups, *dark.shape[-2:]), dark.dtype)
    for one, line, whole in zip(integrations, lines, collected, strict=True):
        matched = MatchedDark(one, dark_pattern, pattern, ngroups, line=line, xp=xp)
        at_once = max(1, _BYTES_AT_ONCE // one[0].nbytes)
        for start in range(0, ngroups, at_once):
            block = slice(start, min(start + at_once, ngroups))
            whole[block] = matched.groups(block)
    return collected if dark.ndim == 4 else collected[0]
