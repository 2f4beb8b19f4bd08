"""experimental_jumpramp: likelihood jump rejection and ramp fit in one, in place of jump and ramp_fit."""

import numpy as np

from gpucoron.backends.operations.likelihood import LikelihoodRampSettings
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.parameters import OWN_THREADS, P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, on_arrays
from gpucoron.steps.dark_line import add_dark_error
from gpucoron.steps.declaration import Outcome, Step, skipped
from gpucoron.steps.jump import flag_missing_gain
from gpucoron.steps.likelihood import combine_integrations, fit_integrations, list_read_times
from gpucoron.steps.ramp_fit import select_groups
from gpucoron.steps.values import Number, Switch

#: A hit within an averaged group spoils two differences: of four there are as many spoiled as good.
MAX_DIFFS_ONE_SIDED = 4

STEP = Step(
    name="experimental_jumpramp",
    title="likelihood jump rejection and fit",
    references=("gain", "readnoise"),
    parameters=(
        P("use", "boolean", False, "instead of jump and ramp_fit"),
        P("noise_scale", "float", 1.0, "factor on the read noise", above=0, finite=True),
        P("nan_dnu", "boolean", True, "NaN where a pixel is not to be used"),
        P("nproc", "integer", None, "accepted and not used", unused=OWN_THREADS),
        P(
            "max_diffs_one_sided",
            "integer",
            MAX_DIFFS_ONE_SIDED,
            "where so few differences are left, jumps are only upward; 0: either way",
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

#: A rate takes one difference.
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
    data,
    groupdq,
    pixeldq,
    gain,
    readnoise,
    *,
    frame_time,
    group_time,
    nframes=1,
    noise_scale=1.0,
    nan_dnu=True,
    max_diffs_one_sided=MAX_DIFFS_ONE_SIDED,
    backend=None,
):
    """Reject jumps by likelihood, fit what is left of each ramp, and combine the integrations.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        Groups with DO_NOT_USE or SATURATED take no part. JUMP_DET is set, in place, in groups into which a ramp jumps.
    pixeldq : (ny, nx) uint32
    gain : (ny, nx) float32, e-/DN
        Where it is NaN or not positive, the products get NO_GAIN_VALUE and DO_NOT_USE.
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file.
    frame_time, group_time : float, s
        From frame to frame, and from group to group.
    nframes : int
        Frames averaged into a group.
    noise_scale : float
        Factor on the read noise.
    nan_dnu : bool
        Rates, errors and variances of an integration are NaN where its flags have DO_NOT_USE.
    max_diffs_one_sided : int
        Where a ramp has so many usable differences or fewer, a difference is rejected only as an upward jump; 0 for
        jumps either way, as in spaceKLIP and stcal.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    rate, rateints : Slopes
        Images (ny, nx) and cubes (nints, ny, nx), DN/s and (DN/s)^2.

    Notes
    -----
    Source: spaceKLIP 2.2, ``ExperimentalJumpRampStep``, corrected where it is wrong; docs/steps/ has the list.
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
    # Without two good groups in a row there is no rate.
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
        The parameters of the steps that this one replaces: ramp_fit's ``firstgroup`` and ``lastgroup`` apply, as
        there; the groups outside take no part in the search for jumps either.

    Notes
    -----
    The gain factor goes into the metadata, as ramp_fit has it, for gain_scale.
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
    of_fit = (replaced or {}).get("ramp_fit")
    if of_fit is not None and (of_fit.firstgroup is not None or of_fit.lastgroup is not None):
        select_groups(exposure.groupdq, of_fit.firstgroup, of_fit.lastgroup)
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
    jumps = sum(int(((flags & JUMP_DET) != 0).sum()) for flags in exposure.groupdq)
    return Outcome(flagged={"jumps": jumps}, meta=meta)
