"""The covariance of a ramp's resultant differences, from the times of its reads."""

from dataclasses import dataclass

import numpy as np

#: Coefficients with a smaller relative difference belong to the same pattern of reads.
SAME_PATTERN = 1e-12


@dataclass(frozen=True)
class Covariance:
    """The covariance of resultant differences, per unit of photon noise and of read noise, float64.

    Attributes
    ----------
    reads : (ngroups,) int
        Reads averaged into each resultant.
    delta_t : (ngroups - 1,) s
        Differences of the resultants' mean times.
    alpha_photon, beta_photon : (ngroups - 1,) and (ngroups - 2,), 1/s
        Diagonal and off-diagonal for a rate of one per second.
    alpha_read, beta_read : (ngroups - 1,) and (ngroups - 2,), 1/s^2
        The same for a noise of one per read.

    Notes
    -----
    Source: Brandt 2024, PASP 136, 045004, equations 4, 11, 28 and 29.
    """

    reads: np.ndarray
    delta_t: np.ndarray
    alpha_photon: np.ndarray
    beta_photon: np.ndarray
    alpha_read: np.ndarray
    beta_read: np.ndarray

    @classmethod
    def of(cls, read_times):
        """Return the covariance for one time (s) per resultant, or one list of the times of its reads."""
        resultants = [np.atleast_1d(np.asarray(times, np.float64)) for times in read_times]
        n = np.array([len(times) for times in resultants])
        mean = np.array([np.mean(times) for times in resultants])
        # Effective time of a resultant for its photon variance.
        tau = np.array([np.sum((2 * len(t) + 1 - 2 * np.arange(1, len(t) + 1)) * t) / len(t) ** 2 for t in resultants])
        delta = mean[1:] - mean[:-1]
        return cls(
            reads=n,
            delta_t=delta,
            alpha_photon=(tau[:-1] + tau[1:] - 2 * mean[:-1]) / delta**2,
            beta_photon=(mean[1:-1] - tau[1:-1]) / (delta[1:] * delta[:-1]),
            alpha_read=(1 / n[:-1] + 1 / n[1:]) / delta**2,
            beta_read=-1 / (n[1:-1] * delta[1:] * delta[:-1]),
        )

    def kinds(self):
        """Return the distinct coefficients (photon, read), and the index among them of each, for alpha and for beta."""
        return (
            _distinct(np.column_stack([self.alpha_photon, self.alpha_read])),
            _distinct(np.column_stack([self.beta_photon, self.beta_read])),
        )


def _distinct(pairs):
    found, which = [], []
    for pair in pairs:
        same = [kind for kind, known in enumerate(found) if np.allclose(pair, known, rtol=SAME_PATTERN, atol=0)]
        which.append(same[0] if same else len(found))
        if not same:
            found.append(pair)
    return found, which
