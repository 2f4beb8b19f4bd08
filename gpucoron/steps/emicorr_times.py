"""The times at which MIRI reads its pixels, relative to the period of an interference, for `gpucoron.steps.emicorr`."""

from dataclasses import dataclass

import numpy as np

from gpucoron.steps.values import Having, Number

#: seconds between two reads
PIXEL_CLOCK = 10.0e-6
#: pixel clocks by which jwst's sequential algorithm delays the last quad of a row that ends with a reference pixel;
#: 2^32 comes from an unsigned constant that it adds to the 3 clocks
REFERENCE_PIXEL_DELAY = 3 + 2**32
#: quads of such a row, from SUBSTRT1 and SUBSIZE1
_LAST_QUAD = 258
#: subarray -> pixel clocks from row to row, and in the reset frame, where no reference lists them
CLOCKS = {
    "SLITLESSPRISM": (28, 15904),
    "MASKLYOT": (90, 32400),
    "SUB64": (28, 8512),
    "SUB128": (44, 11904),
    "MASK1140": (82, 23968),
    "MASK1550": (82, 23968),
    "MASK1065": (82, 23968),
    "FULL_FAST": (271, 277504),
    "FULL_SLOW": (2333, 2388992),
    "BRIGHTSKY": (162, 86528),
    "SUB256": (96, 29952),
}


@dataclass(frozen=True)
class ReadTimes:
    """The times at which MIRI reads its pixels, in pixel clocks of 10 us.

    ``nsamples`` is the number of samples per pixel (1 in fast mode, 9 in slow mode), ``row_clocks`` the time from one
    row to the next, ``reset_clocks`` the time between integrations. ``last_delay`` is added to the last quad of each
    row by the sequential algorithm.
    """

    nsamples: int
    row_clocks: int
    reset_clocks: int
    last_delay: int = 0

    def phases(self, shape, frequency):
        """Return the phases of an interference at the times of the pixels.

        Parameters
        ----------
        shape : (nints, ngroups, ny, nx)
        frequency : float, Hz

        Returns
        -------
        pixels : (ny, nx / 4) float64
            Phases in the first group, in [0, 1). Four neighbouring pixels are read at the same time.
        groups : (ngroups,) float64
            Phase of the start of each group.
        per_integration : float
            Phase between the starts of two integrations.
        """
        _, ngroups, ny, nx = shape
        period = period_of(frequency)
        per_group = (self.frame_clocks(ny) / period) % 1
        groups = np.arange(ngroups) * per_group
        return (self._clocks(ny, nx) / period) % 1, groups, per_group * ngroups + self.reset_clocks / period

    def quad_clocks(self, ny, nx):
        """Return when the quads are read after the start of their group, with ``last_delay``: (ny, nx / 4) float64."""
        clocks = self._clocks(ny, nx)
        clocks[:, -1] += self.last_delay
        return clocks

    def group_starts(self, shape):
        """Return when the groups start after the start of the exposure: (nints, ngroups) float64."""
        nints, ngroups, ny, _ = shape
        of_integration = ngroups * self.frame_clocks(ny) + self.reset_clocks
        return np.arange(nints)[:, None] * of_integration + np.arange(ngroups) * self.frame_clocks(ny)

    def frame_clocks(self, ny):
        """Return the time from one group to the next."""
        # the detector skips rows outside the subarray in seven clocks each
        return ny * self.row_clocks + (1024.0 - ny) * 7.0

    def _clocks(self, ny, nx):
        return np.arange(ny)[:, None] * self.row_clocks + np.arange(nx // 4) * float(self.nsamples)


#: the kind of an argument ``times``
READ_TIMES = Having(
    "ReadTimes",
    "phases",
    "quad_clocks",
    "group_starts",
    nsamples=Number(whole=True, minimum=1),
    row_clocks=Number(above=0, finite=True),
    reset_clocks=Number(minimum=0, finite=True),
)


def period_of(frequency):
    """Return the period of a frequency in Hz, in pixel clocks."""
    return (1.0 / frequency) / PIXEL_CLOCK


def last_delay(facts):
    """Return ``ReadTimes.last_delay`` for an exposure.

    Raises
    ------
    ValueError
        SUBSTRT1 or SUBSIZE1 is missing.

    Notes
    -----
    Source: jwst 3.0, ``_run_sequential_algorithm``.
    """
    if None in (facts.xsize, facts.xstart):
        msg = "keyword SUBSTRT1 or SUBSIZE1 is missing, without which the times of the pixels are unknown"
        raise ValueError(msg)
    return REFERENCE_PIXEL_DELAY if int(facts.xsize / 4 + facts.xstart - 1) == _LAST_QUAD else 0
