"""The contract of the operations on periodic interference (emicorr), which every backend answers.

MIRI's four outputs are read at once: four pixels side by side, a *quad*, share the time at which they are read. A
*wave* is one period of a function, in cubic pieces: ``(4, n_bins + 1)`` float64. With ``u = n_bins x + 1/2``, ``m`` its
whole and ``f`` its fractional part, its value at the phase ``x`` in [0, 1) is
``w[0, m] + f (w[1, m] + f (w[2, m] + f w[3, m]))``.
Group phases ``d_j`` and the like are fractions of a period; they may be larger than 1.
"""

from abc import ABC, abstractmethod


class InterferenceOperations(ABC):
    """What `gpucoron.backends.base.Backend` has for emicorr."""

    @abstractmethod
    def measure_scatter(self, data):
        """Measure the standard deviation of each ramp's groups, in float32, one group after the other (as numpy.std).

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN

        Returns
        -------
        (nints, ny, nx) float32, DN
            NaN where a group is NaN or infinite.
        """

    @abstractmethod
    def sum_by_phase(self, data, good, bins, n_bins):
        """Sum the good pixels of each frame by the phase at which they are read.

        Within a quad ``(p0 + p1) + (p2 + p3)``, then quad after quad, all in float64.

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
            Finite.
        good : (nints, ny, nx) bool
            The pixels that count.
        bins : (ny, nx / 4) int32
            The bin of each quad's phase in the first group; below zero where it never counts.
        n_bins : int

        Returns
        -------
        sums : (nints, ngroups, n_bins) float64, DN
        counts : (nints, n_bins) float64
            Pixels in the sums.
        """

    @abstractmethod
    def match_wave(self, sums, counts, wave, group_phases, n_trials):
        """Work out how chi-square depends on a wave's amplitude, at each of its trial phases ``k / n_trials``.

        A straight line and ``c`` times the wave are fitted to each bin's ramp. What is left of chi-square without the
        lines, less its value at c = 0, is ``A c^2 + B c`` with, over the bins p (n pixels) and groups g = 0, 1, ...,

            A = sum_p n / D (-S_tt S_z^2 + 2 S_t S_z S_tz - G S_tz^2 + D S_zz)
            B = 2 sum_p ((S_tt S_z S_y - S_t S_tz S_y - S_t S_z S_ty + G S_tz S_ty) / D - S_yz)

        where the S are sums over the G groups, t = g, D = G S_tt - S_t^2, y are the bin's sums and z is the wave at
        ``((p + 1/2) / n_bins + d_g) mod 1 + k / n_trials``. Backends sum in orders of their own, each in one for any
        number of threads: they differ by rounding in float64.

        Parameters
        ----------
        sums, counts
            As from `sum_by_phase`.
        wave : (4, n_bins + 1) float64
            On the host.
        group_phases : (ngroups,) float64
            d_g, on the host.
        n_trials : int

        Returns
        -------
        quadratic, linear : (nints, n_trials) float64
            A and B; on the host.
        """

    @abstractmethod
    def subtract_wave(self, data, wave, pixel_phases, group_phases, integration_phases, amplitudes):
        """Subtract ``a_i wave((x + d_g + e_i) mod 1)`` from every sample, in place; float64, then rounded to float32.

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
        wave : (4, n_bins + 1) float64, DN
        pixel_phases : (ny, nx / 4) float64
            x, each quad's phase in the first group.
        group_phases : (ngroups,) float64
            d_g.
        integration_phases, amplitudes : (nints,) float64
            e_i and a_i.

        Notes
        -----
        All but ``data`` are on the host.
        """
