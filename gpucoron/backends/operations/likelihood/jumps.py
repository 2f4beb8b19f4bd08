"""Likelihood jump rejection: choose the resultant differences of a ramp to leave out.

The recursions of Brandt's papers, with the operations in the order of his code. The order matters: if two choices are
equally likely, or the fit of a pair is degenerate, rounding decides which differences stcal and spaceKLIP reject. Only
few ramps are searched here: `definition` selects them in a faster way.
"""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.operations.likelihood.roots import root

#: The determinant is rescaled to one after this many differences, to avoid overflow.
SCALED_EVERY = 10
#: A ramp with so few remaining differences is not searched again, because they do not show which one is wrong, unless
#: only upward jumps are rejected.
TOO_FEW_TO_SEARCH = 3
#: A determinant below this fraction of its terms counts as zero.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Rules:
    """Differences between the implementations of this algorithm.

    Attributes
    ----------
    guess_from_used : bool
        The first guess of the rate is the median of the used differences, otherwise of all.
    scale_from_used : bool
        Determinants are scaled by those of the used differences, otherwise of all. This changes rounding only.
    pairs_need_gain : bool
        A pair is rejected only if this is better than rejecting a single difference. Otherwise a single difference next
        to an unused one also counts as a pair, and twice if it is between two unused ones: the rate is then doubled.
    settles_ties : bool
        A degenerate pair does not affect the others; of two equal decreases the first is rejected first; if only one
        difference would remain, which always fits, the smallest one is kept, because cosmic rays add charge.
        Otherwise NaN ends the search of the ramp, differences with equal decreases are rejected together and their
        rates added, and rounding decides which one is kept.
    """

    guess_from_used: bool
    scale_from_used: bool
    pairs_need_gain: bool
    settles_ties: bool


RULES = {
    "stcal": Rules(False, False, True, False),
    "spaceklip": Rules(False, True, False, False),
    "sound": Rules(True, True, True, True),
}


@dataclass(frozen=True)
class Solution:
    """A fit by determinants, with the paper's symbols; sums are (npixels,), other arrays about (ndiffs, npixels).

    ``theta`` and ``phi`` are the determinants of the leading and trailing blocks of the scaled covariance matrix,
    ``dB`` and ``dC`` its inverse times the differences and times ones; ``A``, ``B`` and ``C`` the sums of chi-square,
    which is ``(A - 2 a B + a^2 C) / scale`` at rate a.
    """

    theta: np.ndarray
    phi: np.ndarray
    beta: np.ndarray
    dB: np.ndarray
    dC: np.ndarray
    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    scale: np.ndarray

    @property
    def rate(self):
        """The best rate."""
        return self.B / self.C

    @property
    def chisq(self):
        """Chi-square at the best rate."""
        return (self.A - self.B**2 / self.C) / self.scale


def reject_jumps(diffs, used, guess, gain, sig, covariance, thresholds, rules, max_diffs_one_sided=0):
    """Reject differences, one or two neighbours at a time, while chi-square decreases by more than a threshold.

    Cosmic rays only add charge. If few differences are used, half of them or more may be contaminated, because a hit
    within an averaged group affects two. In such ramps a difference is rejected only if its fitted jump is positive
    (for a pair: both jumps), and the smallest difference is always kept.

    Parameters
    ----------
    diffs : (ndiffs, npixels) float64
        Differences of resultants divided by their distance in time: counts per second.
    used : (ndiffs, npixels) bool
        Edited in place.
    guess : (npixels,) float64
        Rate for the photon noise in the covariance.
    gain : (npixels,) float or 1.0
        Electrons per count.
    sig : (npixels,) float64
        Noise of a single read, counts.
    covariance : Covariance
    thresholds : tuple of float
        Minimum decrease of chi-square for one difference, and for two neighbours.
    rules : Rules
    max_diffs_one_sided : int
        With this many used differences or fewer, only upward jumps are rejected; 0 for both directions always.

    Returns
    -------
    (npixels,) float64
        The rate without the rejected differences, with the covariance of ``guess``.

    Notes
    -----
    Source: Brandt 2024, PASP 136, 045005, sections 3 and 4. Pairs are tried only around a resultant of several reads,
    because a jump within it affects both differences. The papers allow jumps of either sign. Maximizing the same
    likelihood over non-negative jumps gives the rule for few differences.
    """
    ndiffs, npixels = diffs.shape
    if ndiffs == 1:
        return solve(diffs, used, guess, gain, sig, covariance, rules).rate
    pair_is_spoiled = covariance.reads[1:-1] > 1
    rate = np.empty(npixels)
    ramps = np.arange(npixels)
    for search in range(ndiffs):
        at = (slice(None), ramps)
        now = used[at]
        gains = gain if np.ndim(gain) == 0 else gain[ramps]
        solution = solve(diffs[at], now, guess[ramps], gains, sig[ramps], covariance, rules)
        is_few = np.count_nonzero(now, axis=0) <= max_diffs_one_sided
        drop_one, drop_two, rate_one, rate_two = _omit(solution, diffs[at], now, rules, is_few)
        one, two = _choose(drop_one, drop_two, pair_is_spoiled, thresholds, rules, is_few)
        is_hit = one.any(axis=0) | two.any(axis=0)

        if search == 0:
            rate[...] = solution.rate
        for chosen, rates in ((one, rate_one), (two, rate_two)):
            hit = chosen.any(axis=0)
            rate[ramps[hit]] = add_up(np.where(chosen[:, hit], rates[:, hit], 0))
        now &= ~one
        now[:-1] &= ~two
        now[1:] &= ~two
        used[at] = now
        left = np.count_nonzero(now, axis=0)
        ramps = ramps[is_hit & ((left > TOO_FEW_TO_SEARCH) | ((left > 1) & (left <= max_diffs_one_sided)))]
        if not ramps.size:
            break
    return rate


def fit(diffs, used, guess, gain, sig, covariance, rules):
    """Fit ramps by determinants; also works for negative photon noise, from pixels without a valid gain.

    Parameters
    ----------
    diffs, used, guess, gain, sig, covariance, rules
        As for `reject_jumps`.

    Returns
    -------
    dict
        countrate, uncert, chisq, var_poisson, var_rdnoise: (npixels,) float64.
    """
    solution = solve(diffs, used, guess, gain, sig, covariance, rules)
    weights = solution.dC / solution.C
    squares, products = weights**2, weights[1:] * weights[:-1]
    variance = []
    for term, alpha, beta in (
        (guess / gain, covariance.alpha_photon, covariance.beta_photon),
        (sig**2, covariance.alpha_read, covariance.beta_read),
    ):
        variance.append(add_up(squares * (term * alpha[:, None])) + 2 * add_up(products * (term * beta[:, None])))
    return {
        "countrate": solution.rate,
        "uncert": np.sqrt(solution.scale / solution.C),
        "chisq": solution.chisq,
        "var_poisson": variance[0],
        "var_rdnoise": variance[1],
    }


def solve(diffs, used, guess, gain, sig, covariance, rules):
    """Solve for the sums of chi-square by determinants of blocks.

    Parameters
    ----------
    diffs, used, guess, gain, sig, covariance, rules
        As for `reject_jumps`.

    Returns
    -------
    Solution

    Notes
    -----
    Source: Brandt 2024, PASP 136, 045004, equations 38 to 48, 61 to 63, 71 and 75.
    """
    ndiffs, npixels = diffs.shape
    photons, noise = guess / gain, sig**2
    alpha = photons * covariance.alpha_photon[:, None] + noise * covariance.alpha_read[:, None]
    beta = photons * covariance.beta_photon[:, None] + noise * covariance.beta_read[:, None]
    d = diffs * used
    coupled = beta * used[1:] * used[:-1]
    scale = _scale(alpha, coupled if rules.scale_from_used else beta)
    alpha, beta = alpha / scale, coupled / scale

    theta = np.ones((ndiffs + 1, npixels))
    phi = np.ones((ndiffs + 1, npixels))
    theta[1], phi[-2] = alpha[0], alpha[-1]
    for i in range(2, ndiffs + 1):
        theta[i] = alpha[i - 1] * theta[i - 1] - beta[i - 2] ** 2 * theta[i - 2]
    for i in range(ndiffs - 2, -1, -1):
        phi[i] = alpha[i] * phi[i + 1] - beta[i] ** 2 * phi[i + 2]

    sign = np.ones((ndiffs, 1))
    sign[::2] = -1
    # Capital letters of the paper; names with D use the differences instead of ones.
    Theta, ThetaD = np.empty((ndiffs, npixels)), np.zeros((ndiffs + 1, npixels))
    Phi, PhiD = np.zeros((ndiffs, npixels)), np.zeros((ndiffs, npixels))
    Theta[0], ThetaD[1] = -theta[0], -d[0] * theta[0]
    for i in range(1, ndiffs):
        Theta[i] = Theta[i - 1] * beta[i - 1] + sign[i] * theta[i]
        ThetaD[i + 1] = beta[i - 1] * ThetaD[i] + sign[i] * d[i] * theta[i]
    for i in range(ndiffs - 2, -1, -1):
        Phi[i] = Phi[i + 1] * beta[i] + sign[i + 1] * beta[i] * phi[i + 2]
        PhiD[i] = (PhiD[i + 1] + sign[i + 1] * d[i + 1] * phi[i + 2]) * beta[i]

    determinant = theta[-1]
    dC = sign / determinant * (phi[1:] * Theta + theta[:-1] * Phi) * used
    dB = sign / determinant * (phi[1:] * ThetaD[1:] + theta[:-1] * PhiD)
    terms = d * sign / determinant
    terms[1:] *= beta
    A = 2 * add_up(terms * phi[1:] * ThetaD[:-1])
    A += add_up(d**2 * theta[:-1] * phi[1:] / determinant)
    return Solution(theta, phi, beta, dB, dC, A, add_up(d * dC), add_up(dC), scale)


def _scale(alpha, beta):
    """Return the factor by which to divide the covariance so that its determinant is one, (npixels,)."""
    ndiffs, npixels = alpha.shape
    before, theta, scale = np.ones(npixels), alpha[0], np.ones(npixels)
    for i in range(2, ndiffs + 1):
        before, theta = theta, alpha[i - 1] / scale * theta - beta[i - 2] ** 2 / scale**2 * before
        if i % SCALED_EVERY == 0 or i == ndiffs:
            factor = root(theta, i)
            scale = scale * factor
            before = before / (theta / factor)
            theta = np.ones(npixels)
    return scale


def _omit(solution, diffs, used, rules, is_few):
    """Compute the fits without each difference, and each pair, by the rules; if few are used, only upward jumps count.

    Parameters
    ----------
    solution : Solution
    diffs, used : (ndiffs, npixels)
    rules : Rules
    is_few : (npixels,) bool

    Returns
    -------
    drop_one, drop_two, rate_one, rate_two
        As from `_omit_as_published`.
    """
    if not (rules.settles_ties or is_few.any()):
        return _omit_as_published(solution, used)
    omitted = _omit_by_residuals(solution, used, is_few)
    _keep_the_smallest(*omitted[:2], diffs, used, is_few)
    if rules.settles_ties:
        return omitted
    published = _omit_as_published(solution, used)
    return [np.where(is_few, few, many) for few, many in zip(omitted, published, strict=True)]


def _omit_as_published(solution, used):
    """Compute the decrease of chi-square, and the rate, without each difference and each pair of neighbours.

    The result is rounding noise or NaN if the pair is the whole ramp, and for some pairs without photon noise, where
    ``shared`` is 0.

    Returns
    -------
    drop_one : (ndiffs, npixels) float64
    drop_two : (ndiffs - 1, npixels) float64
    rate_one, rate_two : of the same shapes
        For unused differences the decrease is 0; a pair with an unused difference gets the value of the other one.
    """
    s, A, B, C, dB, dC = solution, solution.A, solution.B, solution.C, solution.dB, solution.dC
    chisq = s.chisq
    # Diagonal and first off-diagonal of the inverse covariance.
    inverse = s.theta[:-1] * s.phi[1:] / s.theta[-1] * used
    beside = -s.beta * s.theta[:-2] * s.phi[2:] / s.theta[-1]

    a = (inverse * B - dB * dC) / (C * inverse - dC**2)
    b = (dB - a * dC) / inverse
    chisq_one = (A + a**2 * C - 2 * a * B + b**2 * inverse - 2 * b * dB + 2 * a * b * dC) / s.scale
    rate_one = a

    first, second = slice(None, -1), slice(1, None)
    own = dC[first] ** 2 - C * inverse[first]
    shared = dC[first] * dC[second] - C * beside
    signal = B * dC[first] - dB[first] * C
    c = signal / own - (B * dC[second] - dB[second] * C) / shared
    c /= shared / own - (dC[second] ** 2 - C * inverse[second]) / shared
    b = (signal - c * shared) / own
    a = (B - b * dC[first] - c * dC[second]) / C
    chisq_two = A + a**2 * C + b**2 * inverse[first] + c**2 * inverse[second]
    chisq_two -= 2 * a * B + 2 * b * dB[first] + 2 * c * dB[second]
    chisq_two += 2 * a * b * dC[first] + 2 * a * c * dC[second] + 2 * b * c * beside
    chisq_two /= s.scale
    rate_two = a

    for one, two, whole in ((chisq_one, chisq_two, chisq), (rate_one, rate_two, s.rate)):
        np.copyto(one, whole, where=~used)
        np.copyto(two, one[first], where=~used[second])
        np.copyto(two, one[second], where=~used[first])
    return chisq - chisq_one, chisq - chisq_two, rate_one, rate_two


def _omit_by_residuals(solution, used, is_few=False):
    """As `_omit_as_published`, by formulas that hold for all pairs except the whole ramp, where the decrease is 0.

    With the residual ``r = C^-1 (d - a)`` and its covariance ``M`` for the best rate a, chi-square decreases by
    r M^-1 r, and the fitted jump is M^-1 r. Where ``is_few``, (npixels,) bool, the decrease is 0 unless the jump is
    positive.
    """
    s, B, C, dB, dC = solution, solution.B, solution.C, solution.dB, solution.dC
    first, second = slice(None, -1), slice(1, None)
    inverse = s.theta[:-1] * s.phi[1:] / s.theta[-1]
    beside = -s.beta * s.theta[:-2] * s.phi[2:] / s.theta[-1] - dC[first] * dC[second] / C
    residual, own = dB - B / C * dC, inverse - dC**2 / C
    jump = residual / own
    determinant = own[first] * own[second] - beside**2
    # A determinant that is 0 within rounding counts as 0.
    determinant[determinant < ROUNDING * own[first] * own[second]] = np.nan
    jumps = (
        (residual[first] * own[second] - residual[second] * beside) / determinant,
        (residual[second] * own[first] - residual[first] * beside) / determinant,
    )
    drop_one = residual * jump / s.scale
    drop_two = (residual[first] * jumps[0] + residual[second] * jumps[1]) / s.scale
    rate_one = s.rate - jump * dC / C
    rate_two = s.rate - (jumps[0] * dC[first] + jumps[1] * dC[second]) / C
    drop_one[~used | (np.count_nonzero(used, axis=0) < 2)] = 0
    drop_two[np.isnan(drop_two)] = 0
    drop_one[is_few & ~(jump > 0)] = 0
    drop_two[is_few & ~((jumps[0] > 0) & (jumps[1] > 0))] = 0
    return drop_one, drop_two, rate_one, rate_two


def _keep_the_smallest(drop_one, drop_two, diffs, used, is_few):
    """Set decreases to 0, in place, for rejections of the smallest difference if few are used or one would remain."""
    number = np.count_nonzero(used, axis=0)
    smallest = np.argmin(np.where(used, diffs, np.inf), axis=0) == np.arange(len(diffs))[:, None]
    drop_one[smallest & (is_few | (number == 2))] = 0
    drop_two[(smallest[1:] | smallest[:-1]) & (is_few | (number == 3))] = 0


def _choose(drop_one, drop_two, pair_is_spoiled, thresholds, rules, is_few):
    """Return which differences and pairs to reject, as bool with the shapes of the decreases; pairs by first member."""
    # A product, so that NaN ends the search also where pairs are not tried.
    best_one = drop_one.max(axis=0)
    best_two = (drop_two * pair_is_spoiled[:, None]).max(axis=0)
    one_is_better = best_one - thresholds[0] > best_two - thresholds[1]
    best = best_one * (best_one > thresholds[0]) * one_is_better
    best += best_two * (best_two > thresholds[1]) * ~one_is_better
    best[best == 0] = np.nan
    one, two = drop_one == best, drop_two == best
    pairs_need_gain, one_at_a_time = rules.pairs_need_gain | is_few, rules.settles_ties | is_few
    one &= one_is_better | ~pairs_need_gain
    two &= ~(one_is_better & pairs_need_gain)
    for chosen in (one, two):
        chosen[1:] &= ~(np.logical_or.accumulate(chosen, axis=0)[:-1] & one_at_a_time)
    return one, two


def add_up(values):
    """Sum over the first axis in order; the order of NumPy's sum depends on the shape."""
    total = values[0].copy() if len(values) else np.zeros(values.shape[1:])
    for value in values[1:]:
        total += value
    return total
