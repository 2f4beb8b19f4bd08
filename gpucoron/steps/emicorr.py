"""emicorr: subtract periodic electromagnetic interference from MIRI ramps, by fitting a known wave.

The default algorithm, 'joint', is here, and 'sequential' in `gpucoron.steps.emicorr_sequential`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron import get_by_old_name
from gpucoron.parameters import P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Extra, Outcome, Step, skipped, whole_frame
from gpucoron.steps.emicorr_sequential import RECOMMENDED_GROUPS, apply_sequential, count_integrations
from gpucoron.steps.emicorr_times import CLOCKS, READ_TIMES, ReadTimes, last_delay
from gpucoron.steps.values import Kind, Number, Switch, check_numbers

log = logging.getLogger(__name__)


def _measured_reference(exposure, settings):
    """List the reference with the waves that were measured, if the user wants it saved."""
    if not settings.save_intermediate_results or exposure.emicorr_waves is None:
        return []
    name = settings.output_file if settings.search_output_file and settings.output_file else ""
    place = {"stem": Path(name).name, "folder": settings.output_dir or "", "ext": ".asdf"}
    return [Extra("measured reference", exposure.emicorr_waves, suffix="emi_ref_waves", **place)]


STEP = Step(
    name="emicorr",
    title="remove electromagnetic interference (MIRI)",
    jwst_class="EmiCorrStep",
    references=("emicorr",),
    opens=lambda settings, facts: ("emicorr",) if facts.is_miri else (),
    parameters=(
        P(
            "algorithm",
            "option",
            "joint",
            "method of the fit",
            options=("sequential", "joint"),
        ),
        P("nints_to_phase", "integer", None, "number of integrations for the phased wave", minimum=1),
        P("nbins", "integer", None, "number of bins of the phased wave", minimum=1),
        P("scale_reference", "boolean", True, "scale the reference wave to the data's amplitude"),
        P("onthefly_corr_freq", "float_list", None, "frequencies to correct for", "Hz", minimum=0.01, maximum=50000),
        P(
            "use_n_cycles",
            "integer",
            3,
            "cycles for the phase; None: all integrations",
            optional=True,
            minimum=1,
        ),
        P("fit_ints_separately", "boolean", False, "fit each integration separately ('joint')"),
        P(
            "user_supplied_reffile",
            "string",
            None,
            "deprecated: use override_emicorr",
            reads=("ASDF",),
            reference="emicorr",
        ),
        P("save_intermediate_results", "boolean", False, "save a reference made on the fly"),
    ),
    skipped=True,
    extras=_measured_reference,
    reach=whole_frame,
)

#: number of phases at which chi-square is computed
N_TRIALS = 500
#: a wave can only be fitted beside a line with three groups or more
MINIMUM_GROUPS = 3

_READ_PATTERNS = ("FAST", "FASTR1", "SLOW", "SLOWR1")
#: read patterns with an extra frame for the reset between integrations
_WITH_RESET_FRAME = ("FASTR1", "SLOWR1")
#: groups of four columns that are not fitted: bad reference columns
_LEFT_OUT = (1, 2)


def _check_waves(waves):
    for frequency, values in waves:
        Number("Hz", positive=True).take("frequency", frequency)
        check_numbers(values)


_WAVES = Kind("a list of (frequency in Hz, one period of the wave)", _check_waves)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    waves=_WAVES,
    times=READ_TIMES,
    fit_ints_separately=Switch(),
)
def apply_emicorr(
    data: NDArray[Any],
    pixeldq: ArrayLike,
    waves: Sequence[tuple[float, ArrayLike]],
    times: ReadTimes,
    *,
    fit_ints_separately: bool = False,
    backend: BackendLike = None,
) -> list[NDArray[np.float64]]:
    """Fit the amplitude and phase of one wave after the other, together with straight ramps, and subtract it in place.

    The fit uses pixels without flags whose standard deviation over the groups is below twice the median.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        At least three groups; nx is a multiple of four.
    pixeldq : (ny, nx) uint32
    waves : list of (float, (n_bins,) array)
        Frequency in Hz, and one period of the wave at equally spaced phases, DN.
    times : ReadTimes
    fit_ints_separately : bool
        Fit an amplitude and a phase for each integration. By default the exposure has one amplitude and one phase.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    list of (nints,) float64
        The amplitudes that were subtracted, for each wave and integration; 0 if the fit was impossible.

    Notes
    -----
    Source: jwst 3.0, ``emicorr_refwave``.
    """
    xp, (nints, ngroups, _, nx) = backend.xp, data.shape
    if ngroups < MINIMUM_GROUPS:
        msg = f"{ngroups} groups are too few to fit interference: three are needed"
        raise ValueError(msg)
    if nx % 4:
        msg = f"rows of {nx} pixels: MIRI reads four pixels at once; give a multiple of 4"
        raise ValueError(msg)
    subtracted = []
    for frequency, values in waves:
        wave = cubic_pieces(values)
        n_bins = wave.shape[1] - 1
        pixels, groups, per_integration = times.phases(data.shape, frequency)
        amplitudes = np.zeros(nints)
        subtracted.append(amplitudes)
        scatter = backend.measure_scatter(data)
        # CuPy's median may ignore NaN
        median = xp.where(xp.isnan(scatter).any(), np.float32(np.nan), xp.median(scatter))
        limit = 2 * np.float32(float(median))
        if not np.isfinite(limit):
            log.warning("the data contain NaN: no interference at %g Hz can be fitted", frequency)
            continue
        good = (scatter < limit) & (pixeldq == 0)
        bins = (pixels * n_bins).astype(np.int32)
        bins[:, _LEFT_OUT] = -1
        sums, counts = backend.sum_by_phase(data, good, bins, n_bins)
        terms = backend.match_emicorr(sums, counts, wave, groups, N_TRIALS)
        advances = per_integration * np.arange(nints)
        if fit_ints_separately:
            phases = np.empty(nints)
            for i in range(nints):
                phase, amplitudes[i] = fit_phase(*(term[i : i + 1] for term in terms), advances[i : i + 1])
                phases[i] = phase + i * per_integration
        else:
            phase, amplitudes[:] = fit_phase(*terms, advances)
            phases = (phase + advances) % 1
        if amplitudes.any():
            backend.subtract_emicorr(data, wave, pixels, groups, phases, amplitudes)
    return subtracted


@on_arrays(values=Array("n_bins", "float64", unit="DN", on_host=True))
def cubic_pieces(values: ArrayLike, *, backend: BackendLike = None) -> NDArray[np.float64]:
    """Interpolate one period of a wave, extended by one value at both ends, with a cubic spline.

    Parameters
    ----------
    values : (n_bins,) array
        Values at the phases (0.5, 1.5, ...) / n_bins.
    backend : str or Backend, optional
        Ignored: the spline is computed on the host.

    Returns
    -------
    (4, n_bins + 1) float64
        Pieces as in `gpucoron.backends.operations.emicorr`.

    Notes
    -----
    Source: jwst 3.0, ``emicorr_refwave``. The spline has 'not-a-knot' ends, so it is not exactly periodic.
    """
    from scipy.interpolate import make_interp_spline

    n = len(values)
    knots = (np.arange(n + 2) - 0.5) / n
    spline = make_interp_spline(knots, np.concatenate([values[-1:], values, values[:1]]), k=3)
    factorials = (1, 1, 2, 6)
    return np.array([spline.derivative(k)(knots[:-1]) / (factorials[k] * float(n) ** k) for k in range(4)])


@on_arrays(
    quadratic=Array("nints n_trials", "float64", on_host=True),
    linear=Array("nints n_trials", "float64", on_host=True),
    advances=Array("nints", "float64", on_host=True),
)
def fit_phase(
    quadratic: ArrayLike, linear: ArrayLike, advances: ArrayLike, *, backend: BackendLike = None
) -> tuple[float, float]:
    """Find the phase of the minimum of chi-square, and the amplitude of the wave there.

    Parameters
    ----------
    quadratic, linear : (nints, n_trials) float64
        Chi-square's terms, as from `gpucoron.backends.backend.Backend.match_emicorr`.
    advances : (nints,) float64
        Phase of the start of each integration.
    backend : str or Backend, optional
        Ignored: the phase is computed on the host.

    Returns
    -------
    phase : float
        0 if chi-square is NaN at all phases.
    amplitude : float
        Amplitude at the next trial phase; 0 in the same case.

    Notes
    -----
    Source: jwst 3.0, ``calc_chisq_amplitudes`` and ``get_best_phase``. As there, the parabola through the minimum and
    its neighbours does not treat the phases 0 and 1 - 1 / n_trials as neighbours.
    """
    if not np.isfinite(advances).all():
        msg = "advances: expected finite numbers"
        raise ValueError(msg)
    trials = np.arange(quadratic.shape[1]) / quadratic.shape[1]
    chisq, _ = _fit_amplitudes(quadratic, linear, advances, trials)
    phase = _best_phase(trials, chisq)
    _, (amplitude,) = _fit_amplitudes(quadratic, linear, advances, np.array([phase]))
    return phase, amplitude


def _fit_amplitudes(quadratic, linear, advances, phases):
    """Return chi-square and amplitude at phases, from all integrations together."""
    n_trials = quadratic.shape[1]
    a, b = np.zeros(len(phases)), np.zeros(len(phases))
    for i, advance in enumerate(advances):
        at = _next_trial(phases, advance, n_trials)
        a, b = a + quadratic[i, at], b + linear[i, at]
    with np.errstate(divide="ignore", invalid="ignore"):
        known = (np.abs(a) > 1e-8) & np.isfinite(a) & np.isfinite(b)
        amplitudes = np.where(known, -b / (2 * a), 0.0)
        return np.where(known, a * amplitudes**2 + b * amplitudes, np.nan), amplitudes


def _next_trial(phases, advance, n_trials):
    """Find the first trial phase at or after each phase, with jwst's arithmetic, so that ties are rounded alike."""
    around = np.ceil((phases + advance) * n_trials)[:, None] + np.arange(-1, 2)
    around = np.sort((around % n_trials).astype(np.intp), axis=1)
    distances = (around / n_trials - phases[:, None] - advance) % 1
    return np.take_along_axis(around, distances.argmin(axis=1)[:, None], axis=1)[:, 0]


def _best_phase(trials, chisq):
    if np.isnan(chisq).all():
        log.warning("chi-square is NaN at every phase of the interference")
        return trials[0]
    best = int(np.nanargmin(chisq))
    three = [best - 1, best, (best + 1) % len(trials)]
    if np.isnan(chisq[three]).any() or np.std(chisq[three]) == 0:
        log.warning("chi-square is flat or NaN near its minimum")
        return trials[best]
    a, b, _ = np.polyfit(trials[three], chisq[three], 2)
    return -b / (2 * a)


def find_waves(reference, facts):
    """Look up the waves that disturb an exposure, and the clocks of its readout.

    Parameters
    ----------
    reference : Reference
        Its facts hold ``frequencies`` and ``subarray_cases`` of the file.
    facts : Facts

    Returns
    -------
    waves : list of (float, array)
    row_clocks, frame_clocks : int
        None if the reference has no entry or no frequency for the subarray and the read pattern.

    Raises
    ------
    ValueError
        The reference names a frequency without a wave.

    Notes
    -----
    Source: jwst 3.0, ``get_subarcase``.
    """
    speed = "SLOW" if "SLOW" in facts.readpatt.upper() else "FAST"
    name = f"{facts.subarray}_{speed}" if "FULL" in facts.subarray else facts.subarray
    case = reference.facts["subarray_cases"].get(name) or {}
    names = (case.get("freqs") or {}).get(speed)
    if speed == "SLOW":
        names = (names or {}).get(facts.detector)
    if not names or case.get("rowclocks") is None:
        return [], None, None
    known = reference.facts["frequencies"]
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = f"the reference lists the frequency {unknown[0]} for {name}, but has no wave for it"
        raise ValueError(msg)
    return (
        [(known[name]["frequency"], known[name]["phase_amplitudes"]) for name in names],
        case["rowclocks"],
        case["frameclocks"],
    )


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`. Flags of groups have no effect."""
    facts = exposure.facts
    if not facts.is_miri:
        return skipped(f"it is for MIRI, not for {facts.instrument}", opened={})
    pattern = str(facts.readpatt).upper()
    if pattern not in _READ_PATTERNS:
        return skipped(f"it does not support the read pattern {facts.readpatt}", opened={})
    on_the_fly, reference, opened = parameters.onthefly_corr_freq is not None, references["emicorr"], {}
    if not on_the_fly:
        if parameters.user_supplied_reffile is not None:
            log.warning("user_supplied_reffile is deprecated; use override_emicorr instead")
            reference = parameters.user_supplied_reffile
        else:
            opened = None
        if reference is None:
            return skipped("there is no emicorr reference")
    ngroups = exposure.data.shape[1]
    if ngroups < MINIMUM_GROUPS:
        return skipped(f"{ngroups} groups are too few: three are needed", opened=opened)
    if on_the_fly:
        waves, row_clocks, frame_clocks = list_frequencies(parameters.onthefly_corr_freq, facts)
    else:
        waves, row_clocks, frame_clocks = find_waves(reference, facts)
    if not waves:
        what = "clocks" if on_the_fly else "interference in the reference"
        return skipped(f"there are no {what} for {facts.subarray}, {facts.readpatt}", opened=opened)
    if facts.nsamples is None:
        msg = "keyword NSAMPLES is missing, without which the times of the pixels are unknown; set it (1 fast, 9 slow)"
        raise ValueError(msg)
    reset_clocks = frame_clocks if pattern in _WITH_RESET_FRAME else 0
    if on_the_fly or parameters.algorithm == "sequential":
        times = ReadTimes(facts.nsamples, row_clocks, reset_clocks, last_delay(facts))
        measured = _run_sequential(exposure, waves, times, frame_clocks, parameters, backend)
        if on_the_fly and parameters.save_intermediate_results:
            exposure.emicorr_waves = _describe(waves, measured, row_clocks, frame_clocks, facts)
    else:
        times = ReadTimes(facts.nsamples, row_clocks, reset_clocks)
        _run_joint(exposure, waves, times, parameters, backend)
    return Outcome(opened=opened)


def _run_joint(exposure, waves, times, parameters, backend):
    amplitudes = apply_emicorr(
        exposure.data,
        exposure.pixeldq,
        waves,
        times,
        fit_ints_separately=parameters.fit_ints_separately,
        backend=backend,
    )
    for (frequency, _), amplitude in zip(waves, amplitudes, strict=True):
        log.info("%s: interference at %g Hz: amplitude %.4g", exposure.name, frequency, np.mean(np.abs(amplitude)))


def _run_sequential(exposure, waves, times, frame_clocks, parameters, backend):
    nints, ngroups = exposure.data.shape[:2]
    if ngroups < RECOMMENDED_GROUPS:
        log.warning(
            "%s: emicorr measures waves in %d groups; algorithm 'joint' is better for fewer than %d",
            exposure.name, ngroups, RECOMMENDED_GROUPS,
        )  # fmt: skip
    n_measured = count_integrations(
        nints,
        ngroups,
        waves[0][0],
        frame_clocks,
        nints_to_phase=parameters.nints_to_phase,
        use_n_cycles=parameters.use_n_cycles,
    )
    measured = apply_sequential(
        exposure.data,
        waves,
        times,
        nbins=parameters.nbins,
        nints_to_phase=n_measured,
        scale_reference=parameters.scale_reference,
        backend=backend,
    )
    for (frequency, _), values in zip(waves, measured, strict=True):
        if np.isfinite(values).all():
            log.info("%s: interference at %g Hz: %.4g DN rms", exposure.name, frequency, values.std())
        else:
            log.warning("%s: too few values to measure interference at %g Hz", exposure.name, frequency)
    return measured


def list_frequencies(frequencies, facts):
    """Return what `find_waves` returns, without waves, for frequencies that the user gives."""
    name = str(facts.subarray)
    if name == "FULL":
        name += "_SLOW" if "SLOW" in facts.readpatt.upper() else "_FAST"
    if name not in CLOCKS:
        return [], None, None
    return [(float(frequency), None) for frequency in frequencies], *CLOCKS[name]


def _describe(waves, measured, row_clocks, frame_clocks, facts):
    """Return the contents of a reference with measured waves.

    As in jwst, the frequencies are listed under the read pattern, where `find_waves` does not look for them.
    """
    names = [repr(frequency) for frequency, _ in waves]
    of_waves = {
        name: {"frequency": frequency, "phase_amplitudes": values}
        for name, (frequency, _), values in zip(names, waves, measured, strict=True)
    }
    freqs = {facts.readpatt: names if "FAST" in facts.readpatt else {facts.detector: names}}
    case = {"rowclocks": row_clocks, "frameclocks": frame_clocks, "freqs": freqs}
    return {"frequencies": of_waves, "subarray_cases": {facts.subarray: case}}


def __getattr__(name):
    return get_by_old_name(__name__, name)
