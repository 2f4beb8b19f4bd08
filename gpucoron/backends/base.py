"""The contract of the heavy operations: what every backend answers, and nothing else.

A backend owns arrays of one device. Ramps are ``(nints, ngroups, ny, nx)``, C-contiguous: data float32, groupdq uint8;
images are ``(ny, nx)``: pixeldq uint32, everything else float32. Operations work in place on what they are given unless
their docstring says that they return something new. They neither log nor check parameters: the step has done that.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Slopes:
    """Count rates of one product: ``(ny, nx)`` for the rate, ``(nints, ny, nx)`` for the rateints.

    ``rate`` and ``err`` are float32 DN/s, the variances float32 (DN/s)^2, ``dq`` uint32 with jwst's pixel flags.
    """

    rate: Any
    dq: Any
    var_poisson: Any
    var_rnoise: Any
    err: Any


class Backend(ABC):
    """One device's array namespace and its heavy operations."""

    #: 'numpy', 'host' or 'cuda'
    name: str
    #: array namespace: numpy or cupy
    xp: Any
    #: scipy.ndimage or cupyx.scipy.ndimage
    ndimage: Any

    @abstractmethod
    def to_device(self, array):
        """Copy a host array to the device (the same array where the device is the host)."""

    @abstractmethod
    def to_host(self, array):
        """Copy a device array to the host (the same array where the device is the host)."""

    def synchronize(self):
        """Wait until the device is done (it always is, where the device is the host)."""

    @abstractmethod
    def linearity(self, data, groupdq, coeffs, *, inverse_coeffs=None, nframes=1):
        """Correct the detector's non-linearity, in place.

        A group without the SATURATED bit becomes ``c0 + c1 x + c2 x^2 + ...`` (Horner's scheme, float32); a saturated
        one is left alone. With ``inverse_coeffs``, each group is taken as the mean of ``nframes`` reads: the reads are
        predicted from the first and the last unsaturated group, made non-linear, shifted to the group's value,
        corrected one by one and averaged again (float64, as stcal 1.20 does it). NaN propagates.

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
        groupdq : (nints, ngroups, ny, nx) uint8
        coeffs, inverse_coeffs : (ncoeffs, ny, nx) float32
            Benign (0, 1, 0, ...) where no correction is known.
        nframes : int
            Reads averaged into a group; only used with ``inverse_coeffs``.

        Notes
        -----
        Source: stcal ``linearity_correction`` (WFC3 Data Handbook, section 6.5).
        """

    @abstractmethod
    def flag_saturation(
        self, data, groupdq, threshold, checked, *, n_pix_grow_sat=1, nframes=None, bias=None, grow_diagonal=True
    ):
        """Flag saturation and the A/D floor through the groups, in place.

        1. From the first group at or above ``threshold`` on: SATURATED; a group at or below zero: AD_FLOOR and
           DO_NOT_USE; SATURATED then grows by a square of ``n_pix_grow_sat`` pixels within its group.
        2. With ``nframes`` (the read-pattern pass), backward through the groups: a group that is not yet flagged,
           precedes a saturated one and reaches the threshold diluted by the averaging becomes DO_NOT_USE, and grows.
        3. With ``nframes`` and more than two groups: a second group that jumps towards a third, saturated one becomes
           DO_NOT_USE, where the first group foretold no saturation.

        Without ``grow_diagonal`` nothing grows in these passes. At the end SATURATED, and it alone, grows within its
        group by ``n_pix_grow_sat`` steps up, down, left or right (spaceKLIP's growth).

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
        groupdq : (nints, ngroups, ny, nx) uint8
        threshold : (ny, nx) float32, DN
            Above the A/D range where ``checked`` is False.
        checked : (ny, nx) bool
            False where the reference knows no threshold.
        n_pix_grow_sat : int
        nframes : int or None
            Frames averaged into a group; None switches the read-pattern passes off.
        bias : (ny, nx) float32 or None
            Superbias for pass 3, DN; None counts as zero.
        grow_diagonal : bool

        Notes
        -----
        Source: stcal ``flag_saturated_pixels``; spaceKLIP 2.2, ``do_saturation``.
        """

    @abstractmethod
    def detect_jumps(
        self,
        data,
        groupdq,
        gain,
        readnoise,
        *,
        rejection_threshold=4.0,
        three_group_rejection_threshold=6.0,
        four_group_rejection_threshold=5.0,
        flag_4_neighbors=True,
        max_jump_to_flag_neighbors=1000.0,
        min_jump_to_flag_neighbors=10.0,
        after_jump_flag_e1=0.0,
        after_jump_flag_n1=0,
        after_jump_flag_e2=0.0,
        after_jump_flag_n2=0,
        min_diffs_single_pass=10,
        minimum_groups=3,
        minimum_sigclip_groups=100,
        only_use_ints=True,
        nframes=1,
    ):
        """Flag jumps by two-point differences; sets JUMP_DET in ``groupdq``, in place.

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
        groupdq : (nints, ngroups, ny, nx) uint8
        gain : (ny, nx) float32, e-/DN
        readnoise : (ny, nx) float32, DN
            CDS noise, as in the reference file.
        rejection_threshold, three_group_rejection_threshold, four_group_rejection_threshold : float, sigma
        max_jump_to_flag_neighbors, min_jump_to_flag_neighbors : float, sigma
        after_jump_flag_e1, after_jump_flag_e2 : float, electrons
        after_jump_flag_n1, after_jump_flag_n2 : int, groups
        nframes : int
            Reads averaged into a group.

        Returns
        -------
        int
            The number of primary cosmic rays, as stcal counts them.

        Notes
        -----
        Source: stcal ``detect_jumps_data`` without snowballs and showers (Anderson & Gordon 2011, PASP 123, 1237).
        """

    @abstractmethod
    def fit_ramps(
        self,
        data,
        groupdq,
        pixeldq,
        gain,
        readnoise,
        *,
        group_time,
        frame_time,
        nframes=1,
        groupgap=0,
        dark_current=None,
        zeroframe=None,
        original_groupdq=None,
        suppress_one_group=False,
    ):
        """Fit every ramp by segments of optimally weighted least squares (``OLS_C``).

        Neither ``data`` nor the flags are changed. Both may be cut along the groups (views).

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
        groupdq : (nints, ngroups, ny, nx) uint8
        pixeldq : (ny, nx) uint32
        gain : (ny, nx) float32, e-/DN
        readnoise : (ny, nx) float32, DN
            CDS noise, as in the reference file.
        group_time, frame_time : float, s
        nframes, groupgap : int
        dark_current : (ny, nx) float32 or None
            Average dark current, DN/s, for the Poisson variance.
        zeroframe : (nints, ny, nx) float32 or None
            Replaces the first group of ramps without a good group, where it is not 0.
        original_groupdq : (nints, ngroups, ny, nx) uint8 or None
            Flags that count for the read-noise variance when groups were lost to charge migration.
        suppress_one_group : bool
            Such ramps are flagged already: no group has a timing of its own, and ``zeroframe`` is not used.

        Returns
        -------
        rate, rateints : Slopes

        Notes
        -----
        Source: stcal ``OLS_C`` (Robberto 2008, JWST-STScI-0001490; Fixsen et al. 2000, PASP 112, 1350).
        """
