"""What clean_flicker_noise needs before it corrects anything: a draft of the rate, the flat, and the brightness."""

import logging
from dataclasses import replace

import numpy as np

from gpucoron.backends.statistics import median_of_last
from gpucoron.dq import DO_NOT_USE, NO_FLAT_FIELD, NON_SCIENCE
from gpucoron.steps.clean_flicker_noise_background import fill_flat
from gpucoron.steps.clean_flicker_noise_parameters import choose_parameters
from gpucoron.steps.ramp_fit import fit

log = logging.getLogger(__name__)


def draft_rates(exposure, references, backend):
    """Fit the ramps with the defaults of jwst; return the rate and the rateints, or None twice."""
    facts = exposure.facts
    return fit(
        exposure.data,
        backend.copy(exposure.groupdq),
        exposure.pixeldq,
        references["gain"].data,
        references["readnoise"].data,
        facts.group_time,
        frame_time=facts.frame_time,
        nframes=facts.nframes or 1,
        groupgap=facts.groupgap or 0,
        dark_current=exposure.average_dark_current,
        zeroframe=exposure.zeroframe,
        drop_flagged_groups=facts.is_miri,
        backend=backend,
    )


def read_flat(reference, backend):
    """Return the flat without gaps; its gaps are filled on the host."""
    return None if reference is None else backend.to_device(fill_flat(backend.to_host(reference.data)))


def choose(parameters, exposure, references, backend):
    """Replace the parameters that ``autoparam`` chooses; jwst has rules for images only."""
    exp_type = exposure.facts.exp_type
    if exp_type != "NRC_IMAGE":
        log.warning("autoparam has no rule for exposures of the type %s: it is ignored", exp_type)
        return parameters
    rate, _rateints = draft_rates(exposure, references, backend)
    if rate is None:
        return parameters
    flat = references["flat"]
    image = backend.to_host(rate.rate)
    if flat is not None:
        image = image / fill_flat(backend.to_host(flat.data))
    chosen = choose_parameters(image, abs(exposure.facts.slowaxis) - 1)
    chosen["apply_flat_field"] = flat is not None
    log.info("autoparam: %s", ", ".join(f"{name}={value}" for name, value in chosen.items()))
    return replace(parameters, **chosen)


def not_sky(rates, flat, xp):
    """Return where the flags of the rates or of the flat mark pixels of a MIRI image that do not see the sky."""
    hidden = (rates.dq & (DO_NOT_USE | NON_SCIENCE)) != 0
    if flat is None:
        return hidden
    is_flagged = (flat.dq & (DO_NOT_USE | NON_SCIENCE | NO_FLAT_FIELD)) != 0
    return hidden | is_flagged | xp.isnan(flat.data) | (flat.data == 0)


def relative_flux(rateints, xp):
    """Return the median of each integration relative to their median, (nints,); None if all are NaN."""
    flux = median_of_last(rateints.reshape(len(rateints), -1), xp=xp)
    flux = flux / median_of_last(flux[None], xp=xp)
    is_known = xp.isfinite(flux)
    if not bool(is_known.any()):
        return None
    n_unknown = int((~is_known).sum())
    if n_unknown:
        log.warning("%d integrations without a finite flux are scaled by the median flux", n_unknown)
    known = xp.where(is_known, flux, flux.dtype.type(np.nan))
    return xp.where(is_known, flux, median_of_last(known[None], xp=xp))
