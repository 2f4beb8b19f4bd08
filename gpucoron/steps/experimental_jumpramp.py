"""experimental_jumpramp: jump rejection and ramp fit by likelihood in one step, instead of jump and ramp_fit."""

import logging
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.likelihood import LikelihoodRampSettings
from gpucoron.backends.results import Slopes
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.parameters import OWN_THREADS, P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.dark_line import add_dark_error
from gpucoron.steps.declaration import Outcome, Step, skipped
from gpucoron.steps.jump import flag_missing_gain
from gpucoron.steps.likelihood import combine_integrations, fit_integrations, list_read_times
from gpucoron.steps.noise_error import add_noise_error
from gpucoron.steps.ramp_fit import select_groups
from gpucoron.steps.values import Number, Switch

log = logging.getLogger(__name__)

#: a cosmic ray within an averaged group affects two differences: with four, half of them are bad
MAX_DIFFS_ONE_SIDED = 4

STEP = Step(
    name="experimental_jumpramp",
    title="reject jumps and fit ramps by likelihood",
    references=("gain", "readnoise"),
    parameters=(
        P("use", "boolean", False, "run this step instead of jump and ramp_fit"),
        P("noise_scale", "float", 1.0, "factor on the read noise", above=0, finite=True),
        P("nan_dnu", "boolean", True, "set rates with DO_NOT_USE to NaN"),
        P("nproc", "integer", None, "accepted and not used", unused=OWN_THREADS),
        P(
            "max_diffs_one_sided",
            "integer",
            MAX_DIFFS_ONE_SIDED,
            "reject only upward jumps if a ramp has at most this number of differences; 0: both directions",
            minimum=0,
            maximum=65535,
        ),
    ),
    skipped=True,
    saves={"rate": "{}0", "rateints": "{}1"},
    fits=True,
    helpers=("replaced",),
    switch="use",
    replaces=("jump", "ramp_fit"),
    takes_over=("ramp_fit.firstgroup", "ramp_fit.lastgroup"),
)

#: a rate needs one difference
FEWEST_GROUPS = 2


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    frame_time=Number("s", positive=True),
    group_time=Number("s", positive=True),
    nframes=Number(whole=True, minimum=1),
    noise_scale=Number(minimum=0, finite=True),
    nan_dnu=Switch(),
    max_diffs_one_sided=Number(whole=True, minimum=0),
)
def fit_without_jumps(
    data: ArrayLike,
    groupdq: NDArray[Any],
    pixeldq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    *,
    frame_time: float,
    group_time: float,
    nframes: int = 1,
    noise_scale: float = 1.0,
    nan_dnu: bool = True,
    max_diffs_one_sided: int = MAX_DIFFS_ONE_SIDED,
    backend: BackendLike = None,
) -> tuple[Slopes, Slopes]:
    """Reject jumps by likelihood, fit the remaining groups of each ramp, and combine the integrations.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        Groups with DO_NOT_USE or SATURATED are ignored. JUMP_DET is set, in place, in the first group after a jump.
    pixeldq : (ny, nx) uint32
    gain : (ny, nx) float32, e-/DN
        If it is NaN or not positive, the products get NO_GAIN_VALUE and DO_NOT_USE.
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file.
    frame_time, group_time : float, s
        Times from frame to frame, and from group to group.
    nframes : int
        Number of frames averaged into a group.
    noise_scale : float
        Factor on the read noise.
    nan_dnu : bool
        Set rates, errors and variances of an integration to NaN if its flags have DO_NOT_USE.
    max_diffs_one_sided : int
        Reject only upward jumps in ramps with at most this number of usable differences; 0 rejects jumps in both
        directions, as in spaceKLIP and stcal.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    rate, rateints : Slopes
        Images (ny, nx) and cubes (nints, ny, nx), DN/s and (DN/s)^2.

    Notes
    -----
    Source: spaceKLIP 2.2, ``ExperimentalJumpRampStep``, with corrections, which docs/steps/ lists.
    """
    read_times = list_read_times(data.shape[1], nframes, frame_time, group_time / frame_time)
    pixeldq = pixeldq.copy()
    flag_missing_gain(pixeldq, gain, backend=backend)
    noise = readnoise * readnoise.dtype.type(noise_scale)
    settings = LikelihoodRampSettings(
        unusable=DO_NOT_USE | SATURATED, rules="sound", max_diffs_one_sided=max_diffs_one_sided
    )
    ramps = data, groupdq, pixeldq, gain, noise, read_times
    rateints, _ = fit_integrations(*ramps, settings=settings, backend=backend)
    # a rate needs two adjacent good groups
    dq = rateints.dq
    dq |= backend.xp.isnan(rateints.rate).astype(dq.dtype)
    if nan_dnu:
        unusable = dq & DO_NOT_USE != 0
        for values in (rateints.rate, rateints.var_poisson, rateints.var_rnoise, rateints.err):
            values[unusable] = np.nan
    return combine_integrations(rateints, backend), rateints


def run(exposure, references, parameters, backend, *, replaced=None):
    """Run the step; see `gpucoron.steps`. Sets ``exposure.rate`` and ``exposure.rateints``.

    Parameters
    ----------
    exposure, references, parameters, backend
        See `gpucoron.steps`.
    replaced : mapping, optional
        step -> its parameters, for the replaced steps. ``firstgroup`` and ``lastgroup`` of ramp_fit apply; groups
        outside are also ignored in the search for jumps.

    Notes
    -----
    As in ramp_fit, the gain factor is written to the metadata, for gain_scale.
    """
    if not parameters.use:
        return skipped("'use' is False")
    exposure.rate = exposure.rateints = None
    for name in ("gain", "readnoise"):
        if references[name] is None:
            return skipped(f"there is no {name} reference")
    if exposure.data.shape[1] < FEWEST_GROUPS:
        return skipped(f"fewer than {FEWEST_GROUPS} groups: there is nothing to fit")
    facts = exposure.facts
    if exposure.data.shape[1] == FEWEST_GROUPS + 1 and (facts.nframes or 1) > 1:
        log.warning(
            "experimental_jumpramp: a cosmic ray within the second of three averaged groups changes both differences "
            "of a ramp, which then gets a wrong rate without a flag; jump and ramp_fit also compare the integrations"
        )
    ramp_fit = (replaced or {}).get("ramp_fit")
    if ramp_fit is not None and (ramp_fit.firstgroup is not None or ramp_fit.lastgroup is not None):
        select_groups(exposure.groupdq, ramp_fit.firstgroup, ramp_fit.lastgroup)
    meta = {}
    gain_factor = references["gain"].facts.get("gain_factor")
    if gain_factor is not None:
        meta["exposure.gain_factor"] = gain_factor
    exposure.rate, exposure.rateints = fit_without_jumps(
        exposure.data,
        exposure.groupdq,
        exposure.pixeldq,
        references["gain"].data,
        references["readnoise"].data,
        frame_time=facts.frame_time,
        group_time=facts.group_time,
        nframes=facts.nframes or 1,
        noise_scale=parameters.noise_scale,
        nan_dnu=parameters.nan_dnu,
        max_diffs_one_sided=parameters.max_diffs_one_sided,
        backend=backend,
    )
    add_dark_error(exposure, xp=backend.xp)
    add_noise_error(exposure, xp=backend.xp)
    jumps = backend.count_flags(exposure.groupdq, in_samples=JUMP_DET).samples_with(JUMP_DET)
    return Outcome(flagged={"jumps": jumps}, meta=meta)
