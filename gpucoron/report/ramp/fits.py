"""Fit one pixel with both algorithms, OLS_C and LIKELY, and compare them by chi-square."""

from dataclasses import dataclass, replace

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.backends.operations.likelihood.covariance import Covariance
from gpucoron.backends.operations.ramp_fit.segments import find_segments
from gpucoron.dq import JUMP_DET
from gpucoron.steps import run_step
from gpucoron.steps.likelihood import list_read_times
from gpucoron.steps.ramp_fit import FEWEST_LIKELY_GROUPS, find_usable_groups

ALGORITHMS = ("OLS_C", "LIKELY")


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a ramp between two jumps: its groups, and a line through them."""

    first: int
    last: int
    #: DN/s
    slope: float
    #: DN, at group ``first``
    level: float


@dataclass(frozen=True, eq=False)
class Fit:
    """The fit of one integration by one algorithm.

    Attributes
    ----------
    algorithm : {'OLS_C', 'LIKELY'}
    integration : int
    rate, err : float, DN/s
        NaN without a fit.
    dq : int
        Flags of the rate of the integration.
    chisq : float
        Of the differences of groups that the fit uses, about the rate, with the covariance of Brandt (2024) for this
        rate. NaN without a rate.
    ndof : int
        Number of these differences, less one.
    segments : tuple of Segment
    groupdq : (ngroups,) uint8
        Flags after the fit; LIKELY sets JUMP_DET.
    """

    algorithm: str
    integration: int
    rate: float
    err: float
    dq: int
    chisq: float
    ndof: int
    segments: tuple
    groupdq: np.ndarray

    def expected(self, times):
        """Return the ramp with the rate of the fit, level by segment: (ngroups,) DN, NaN outside the segments.

        Parameters
        ----------
        times : (ngroups,) float, s
        """
        ramp = np.full(len(times), np.nan)
        for segment in self.segments:
            at = slice(segment.first, segment.last + 1)
            middle = times[at].mean()
            ramp[at] = (
                segment.level + (segment.slope * (middle - times[segment.first])) + self.rate * (times[at] - middle)
            )
        return ramp


def fit_both(exposure, references, settings, row, column):
    """Fit the ramps of a cut exposure with both algorithms.

    Parameters
    ----------
    exposure : Exposure
        On the host, before the fit; its arrays are not changed.
    references : dict
        'gain' and 'readnoise' -> Reference of the same pixels.
    settings
        Parameters of ramp_fit.
    row, column : int
        The pixel.

    Returns
    -------
    tuple of Fit
        OLS_C of all integrations, then LIKELY, which needs four groups. An algorithm that cannot fit is left out.
    """
    fits, backend = [], get_backend("numpy")
    gain, readnoise = (float(references[name].data[row, column]) for name in ("gain", "readnoise"))
    for algorithm in ALGORITHMS:
        nints, ngroups = exposure.data.shape[:2]
        if algorithm == "LIKELY" and ngroups < FEWEST_LIKELY_GROUPS:
            continue
        trial = replace(exposure, data=exposure.data.copy(), groupdq=exposure.groupdq.copy())
        if algorithm == "LIKELY" and (exposure.facts.nframes or 1) == 1:
            trial.zeroframe = None  # it is the first group: LIKELY would warn that it is not used
        before = exposure.groupdq[:, :, row, column]
        of_trial = replace(settings, algorithm=algorithm, skip=False, save_opt=False)
        run_step("ramp_fit", trial, references, of_trial, backend)
        if trial.rateints is None:
            continue
        data, after = exposure.data[:, :, row, column], trial.groupdq[:, :, row, column]
        used_groups = _fitted_groups(trial, algorithm)
        dark = _dark_rate(exposure, row, column)
        for integration in range(nints):
            rate, err = (float(getattr(trial.rateints, name)[integration, row, column]) for name in ("rate", "err"))
            flags = before[integration] if algorithm == "LIKELY" else after[integration]
            used = _used_differences(flags, after[integration], algorithm, used_groups)
            chisq = _chisq(data[integration], used, rate, dark, gain, readnoise, exposure.facts)
            fits.append(
                Fit(
                    algorithm,
                    integration,
                    rate,
                    err,
                    int(trial.rateints.dq[integration, row, column]),
                    chisq,
                    max(0, int(used.sum()) - 1),
                    _segments(data[integration], after[integration], algorithm, used, used_groups, exposure.facts),
                    after[integration].copy(),
                )
            )
    return tuple(fits)


def _dark_rate(exposure, row, column):
    average = exposure.average_dark_current
    return float(average[row, column]) if np.ndim(average) == 2 else 0.0


def _fitted_groups(exposure, algorithm):
    """Return the slice of groups that OLS_C fits: for MIRI without those that are lost in the whole frame."""
    if algorithm == "OLS_C" and exposure.facts.is_miri and exposure.data.shape[1] > 1:
        return find_usable_groups(exposure.groupdq, backend="numpy") or slice(0)
    return slice(0, exposure.data.shape[1])


def _used_differences(flags, after, algorithm, groups):
    """Return which differences of neighbouring groups a fit uses: (ngroups - 1,) bool.

    OLS_C uses those inside its segments. LIKELY uses those of unflagged groups, without the ones that it rejects; these
    have JUMP_DET in the later group afterwards.
    """
    used = np.zeros(len(flags) - 1, bool)
    if algorithm == "LIKELY":
        good = flags == 0
        rejected = ((after & JUMP_DET) != 0) & ((flags & JUMP_DET) == 0)
        return good[1:] & good[:-1] & ~rejected[1:]
    for first, length in _runs(flags, groups):
        used[first : first + length - 1] = True
    return used


def _runs(flags, groups):
    """List the segments of OLS_C: (first group, number of groups)."""
    column = np.ascontiguousarray(flags[groups])[:, np.newaxis]
    if not column.size or column[0, 0] & 2:  # saturated from the start
        return []
    found = find_segments(column)
    return [
        (int(start) + (groups.start or 0), int(length)) for start, length in zip(found.start, found.length, strict=True)
    ]


def _segments(data, after, algorithm, used, groups, facts):
    """Return the segments with a straight line through each, by least squares."""
    if algorithm == "LIKELY":
        runs, first = [], None
        for index, is_used in enumerate([*used, False]):
            if is_used and first is None:
                first = index
            elif not is_used and first is not None:
                runs.append((first, index - first + 1))
                first = None
    else:
        runs = _runs(after, groups)
    segments = []
    for first, length in runs:
        values = data[first : first + length].astype(np.float64)
        times = np.arange(length) * facts.group_time
        slope, level = np.polyfit(times, values, 1) if length > 1 else (np.nan, values[0])
        if length > 1 and not np.isfinite(slope):
            continue
        segments.append(Segment(first, first + length - 1, float(slope), float(level)))
    return tuple(segments)


def _chisq(data, used, rate, dark, gain, readnoise, facts):
    """Compute chi-square of the used differences about a rate.

    Source: Brandt 2024, PASP 136, 045004, equations 4, 28 and 29, with the rate, at least 0, and the dark current in
    the photon noise.
    """
    if not used.any() or not np.isfinite(rate) or not gain > 0:
        return float("nan")
    nframes = facts.nframes or 1
    read_times = facts.read_times
    if read_times is None:
        read_times = list_read_times(len(data), nframes, facts.frame_time, nframes + (facts.groupgap or 0))
    known = Covariance.of(read_times)
    photons, noise = (max(rate, 0.0) + dark) / gain, readnoise**2 / 2
    covariance = np.diag(photons * known.alpha_photon + noise * known.alpha_read)
    beside = photons * known.beta_photon + noise * known.beta_read
    covariance += np.diag(beside, 1) + np.diag(beside, -1)
    residual = (np.diff(data.astype(np.float64)) / known.delta_t - rate)[used]
    if not np.isfinite(residual).all():
        return float("nan")
    return float(residual @ np.linalg.solve(covariance[np.ix_(used, used)], residual))
