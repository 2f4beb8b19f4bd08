"""The models of subtract_1overf that estimate the noise linearly, 'rows' and 'kriging', on whole exposures."""

import logging
from dataclasses import replace
from functools import partial

import numpy as np

from gpucoron.backends.operations.subtract_1overf.contrasts import contrasts_of
from gpucoron.backends.operations.subtract_1overf.spectrum import PowerLaw, Spectrum, usual_spectrum
from gpucoron.backends.results import Slopes
from gpucoron.dq import DO_NOT_USE, REFERENCE_PIXEL
from gpucoron.steps.combined_rate import combine_rateints
from gpucoron.steps.declaration import Outcome, skipped
from gpucoron.steps.known_sources import protect_sources
from gpucoron.steps.kriging_1overf import (
    measure_spectrum,
    noise_of_slopes,
    spectrum_of_integrations,
    subtract_contrasts,
    used_groups,
)
from gpucoron.steps.noise_error import add_noise_error

log = logging.getLogger(__name__)


def run_linear(exposure, references, parameters, backend, stage, fit):
    """Run the step subtract_1overf with the models 'rows' and 'kriging'; see `gpucoron.steps.subtract_1overf.run`."""
    if stage == "ints":
        if exposure.rateints is None:
            return skipped("there are no rateints")
        fitted = exposure.rateints
        exposure.rateints, exposure.removed_1overf, error, found = clean_rateints(exposure, parameters, backend)
        if exposure.rate is not None:
            options = {"combination": parameters.rate_combination, "backend": backend}
            exposure.rate = combine_rateints(exposure.rate, exposure.rateints, fitted=fitted, **options)
        exposure.noise_error = error
        add_noise_error(exposure, xp=backend.xp)
        return Outcome(keywords=_keywords(found, error, stage))
    for name in ("gain", "readnoise"):
        if references[name] is None:
            return skipped(f"there is no {name} reference")
    gain, readnoise = (references[name].data for name in ("gain", "readnoise"))
    fit_again = partial(fit, references=references)
    found = clean_groups(exposure, gain, readnoise, parameters, backend, fit_again)
    return Outcome(keywords=_keywords(found, exposure.noise_error, stage))


def _keywords(found, error, stage):
    """Describe the noise for the header."""
    spectrum, is_measured = found
    if spectrum is None or error is None:
        return {}
    laws = {"": spectrum.common} | ({"O": spectrum.own} if spectrum.own else {})
    keywords = {}
    for end, law in laws.items():
        keywords["FNAMP" + end] = float(f"{law.amplitude:.4g}"), "[DN^2] 1/f power of a group at 1 cycle/pix"
        keywords["FNEXP" + end] = round(law.exponent, 3), "exponent of this power"
    keywords["FNMEAS"] = is_measured, "this power was measured in the exposure"
    keywords["FNLEFT"] = float(f"{np.sqrt(error.rate):.4g}"), "[DN/s] added to ERR of the rate for 1/f noise"
    keywords["FNSTAGE"] = stage, "where 1/f noise was removed"
    return keywords


def clean_groups(exposure, gain, readnoise, parameters, backend, fit):
    """Subtract 1/f noise from the ramps of an exposure in two stages, in place.

    Parameters
    ----------
    exposure : Exposure
        ``data`` is changed, ``removed_1overf`` and ``noise_error`` are set.
    gain, readnoise : (ny, nx) float32
        As in `measure_spectrum`.
    parameters : Parameters of subtract_1overf
    backend : Backend
    fit : callable
        ``fit(exposure)`` fits the ramps of an exposure and sets its rates.

    Returns
    -------
    spectrum : Spectrum or None
        That was used, DN^2.
    is_measured : bool
    """
    facts = exposure.facts
    readout = _readout(facts)
    times = group_times(facts, exposure.data.shape[1])
    readnoise = readnoise / np.float32(np.sqrt(facts.nframes or 1))
    is_reference = (exposure.pixeldq & REFERENCE_PIXEL) != 0
    # no photons
    gain = backend.xp.where(is_reference, backend.xp.float32(np.inf), gain)
    arrays = (exposure.data, exposure.groupdq, gain, readnoise, times)
    used, is_measured = None, False
    if parameters.model_type == "kriging":
        measured = None
        if parameters.amplitude is None:
            measured = measure_spectrum(*arrays, exponent=parameters.exponent, backend=backend, **readout)
        used, is_measured = _choose(measured, parameters, facts)
    groups = list(used_groups(exposure.groupdq, backend)) or slice(None)
    subtract_contrasts(*arrays, spectrum=used, backend=backend, **readout)
    trial = replace(exposure, groupdq=backend.copy(exposure.groupdq), pixeldq=backend.copy(exposure.pixeldq))
    fit(trial)
    if trial.rateints is None:
        return used, is_measured
    noise, exposure.noise_error = noise_of_slopes(
        _with_reference_pixels(trial.rateints, exposure.data, is_reference, readnoise, times, groups, backend),
        spectrum=used and used.scaled(slope_factor(times[groups])),
        relaxation=parameters.relaxation,
        center=star(facts, exposure.data.shape[-2:]),
        is_reference=is_reference,
        protected=_protected(exposure, parameters, backend),
        backend=backend,
        **readout,
    )
    data, steps = exposure.data, backend.xp.asarray(times.astype(np.float32))[:, None, None]
    for part in backend.batches(len(noise), 4 * data[0].size):
        # a CPU subtracts one group at a time
        for some in backend.batches(len(times), 0):
            data[part, some] -= noise[part, None] * steps[some]
    exposure.removed_1overf = noise.mean(axis=0) * np.float32(np.mean(times))
    return used, is_measured


def _with_reference_pixels(rateints, data, is_reference, readnoise, times, groups, backend):
    """Return slopes also of reference pixels, which the fit may leave out: those of unweighted fits."""
    if not bool(is_reference.any()):
        return rateints
    xp = backend.xp
    weights = np.zeros(len(times))
    _, weights[groups] = contrasts_of(times[groups])
    variance = readnoise**2 / 2 * np.float32((weights**2).sum())
    slope = sum(np.float32(weight) * data[:, group] for group, weight in enumerate(weights) if weight)
    rate = xp.where(is_reference, slope, rateints.rate)
    dq = rateints.dq & xp.where(is_reference, np.uint32(~np.uint32(DO_NOT_USE)), np.uint32(0xFFFFFFFF))
    var_poisson = xp.where(is_reference, np.float32(0), rateints.var_poisson)
    var_rnoise = xp.where(is_reference, variance, rateints.var_rnoise)
    return Slopes(rate, dq, var_poisson, var_rnoise, xp.sqrt(var_poisson + var_rnoise))


def clean_rateints(exposure, parameters, backend):
    """Return rateints without 1/f noise, the mean of what was removed, and the spectrum of one group that was used.

    Parameters
    ----------
    exposure : Exposure
        With ``rateints``.
    parameters : Parameters of subtract_1overf
    backend : Backend

    Returns
    -------
    rateints : Slopes
    noise : (ny, nx) float32, DN/s
    error : NoiseError
    found : (Spectrum or None, bool)
        DN^2, and whether it was measured.
    """
    facts, rateints = exposure.facts, exposure.rateints
    readout = _readout(facts)
    times = group_times(facts, facts.ngroups or exposure.data.shape[1])
    if exposure.groupdq is not None and exposure.groupdq.shape[1] == len(times):
        times = times[list(used_groups(exposure.groupdq, backend)) or slice(None)]
    factor = slope_factor(times)
    spectrum, is_measured = None, False
    if parameters.model_type == "kriging":
        measured = None
        if parameters.amplitude is None:
            measured = spectrum_of_integrations(rateints, parameters.exponent, backend=backend, **readout)
        spectrum, is_measured = _choose(measured and measured.scaled(1 / factor), parameters, facts)
    noise, error = noise_of_slopes(
        rateints,
        spectrum=spectrum and spectrum.scaled(factor),
        relaxation=parameters.relaxation,
        center=star(facts, rateints.rate.shape[-2:]),
        is_reference=None if exposure.pixeldq is None else (exposure.pixeldq & REFERENCE_PIXEL) != 0,
        protected=_protected(exposure, parameters, backend),
        backend=backend,
        **readout,
    )
    return replace(rateints, rate=rateints.rate - noise), noise.mean(axis=0), error, (spectrum, is_measured)


def group_times(facts, ngroups):
    """Return the mean time of each group since the reset, (ngroups,) float64, s."""
    frames = facts.nframes or 1
    frame_time = facts.frame_time or facts.group_time / (frames + (facts.groupgap or 0))
    return facts.group_time * np.arange(ngroups) + frame_time * (frames + 1) / 2


def slope_factor(times):
    """Return the power of the 1/f noise of slopes relative to that of groups: 1 / sum (t - mean t)^2, 1/s^2."""
    spread = float(((times - times.mean()) ** 2).sum())
    return 1 / spread if spread > 0 else 1 / float(times[0]) ** 2


def star(facts, shape):
    """Return the star's place, (x, y) in pixels from 0: the reference point of the image, or else its centre."""
    ny, nx = shape
    x, y = facts.crpix1, facts.crpix2
    if x is not None and y is not None and 0.5 <= x <= nx + 0.5 and 0.5 <= y <= ny + 0.5:
        return x - 1, y - 1
    return (nx - 1) / 2, (ny - 1) / 2


def _readout(facts):
    slowaxis = facts.slowaxis or 2
    fastaxis = facts.fastaxis or 1
    if abs(fastaxis) == abs(slowaxis):
        fastaxis = 3 - abs(slowaxis)
    return {"slowaxis": slowaxis, "fastaxis": fastaxis, "noutputs": facts.noutputs or 1}


def _protected(exposure, parameters, backend):
    """Return the mask of the user's sources, or None."""
    shape, companions = exposure.data.shape[-2:], parameters.companions or ()
    return protect_sources(shape, companions, parameters.companion_radius, parameters.user_mask, backend=backend)


def _choose(measured, parameters, facts):
    """Return the spectrum of a group, and whether it was measured: measured, of the parameters, or the usual one."""
    if measured is not None:
        return measured, True
    noutputs = facts.noutputs or 1
    usual = usual_spectrum(noutputs)
    exponent = usual.common.exponent if parameters.exponent is None else parameters.exponent
    # the usual noise is that of one frame
    factor = 1 / (facts.nframes or 1)
    if parameters.amplitude is None:
        log.warning("the power of the 1/f noise cannot be measured; the usual one is assumed")
    else:
        factor = parameters.amplitude / usual_spectrum().common.amplitude
    laws = (usual.common, usual.own)
    return Spectrum(*(law and PowerLaw(law.amplitude * factor, exponent) for law in laws)), False
