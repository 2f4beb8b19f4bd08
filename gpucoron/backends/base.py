"""The contract of the heavy operations: what every backend answers, and nothing else.

A backend owns arrays of one device. Ramps are ``(nints, ngroups, ny, nx)``, C-contiguous: data float32, groupdq uint8;
images are ``(ny, nx)``: pixeldq uint32, everything else float32. Operations work in place on what they are given unless
their docstring says that they return something new. They neither log nor check parameters: the step has done that.
"""

import logging
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucoron.backends.operations.emicorr.contract import InterferenceOperations

log = logging.getLogger(__name__)

#: counts that pass through the host's cache together
WORDS_AT_ONCE = 2**18

#: who else has worked on a thread's step: an exposure stays in its thread, a backend may be in several
_noted = threading.local()


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


@dataclass(frozen=True)
class LikelihoodFit:
    """Ramps fitted by likelihood, one value each.

    ``countrate`` and its standard deviation ``uncert`` are counts per second, ``var_poisson`` and ``var_rdnoise`` the
    square's two parts; ``chisq`` has no unit. ``diffs2use`` is uint8, 1 for each resultant difference that the fit
    has used; None where the jumps are flagged in the ramp instead.
    """

    countrate: Any
    uncert: Any
    chisq: Any
    var_poisson: Any
    var_rdnoise: Any
    diffs2use: Any


class Backend(InterferenceOperations, ABC):
    """One device's array namespace and its heavy operations."""

    #: 'numpy', 'native', 'host' or 'cuda'
    name: str
    #: the arrays stay in the CPU's memory, which is not to be asked for twice
    on_host = False
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
    def deconvolve_coupling(self, data, kernel, edges):
        """Convolve every group with a deconvolution kernel, in place; reference pixels neither change nor contribute.

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
        kernel : (ky, kx) or, one per pixel, (ky, kx, ny, nx) float32
        edges : gpucoron.steps.ipc.ReferenceEdges
        """

    def note_worker(self, name, *, alone=False):
        """Note that another one works on this thread's step: a backend, or 'jwst'; ``alone``: this backend does not."""
        _noted.names = [*getattr(_noted, "names", []), name]
        _noted.alone = alone or getattr(_noted, "alone", False)

    def take_workers(self):
        """Tell who has worked on this thread's step since this was asked last: names, this backend's own first."""
        names, alone = self._take_noted()
        return names if alone else list(dict.fromkeys([self.name, *names]))

    @staticmethod
    def _take_noted():
        noted = list(dict.fromkeys(getattr(_noted, "names", []))), getattr(_noted, "alone", False)
        _noted.names, _noted.alone = [], False
        return noted

    def is_out_of_memory(self, error):
        """Tell whether an exception says that the device's memory is full."""
        return isinstance(error, MemoryError)

    def memory_limit(self, held=0):
        """Tell how many bytes an exposure may take on the device, ``held`` there already among them; None: no limit."""

    def spilling(self, limit):
        """Give the backend for an exposure that needs more memory than ``limit`` bytes."""
        from gpucoron.backends.spilling import SpillingBackend

        return SpillingBackend(self, limit)

    def settle(self, shape, *, cleans_groups=False):
        """Divide the memory for the steps of an exposure, when its references are there.

        Parameters
        ----------
        shape : (nints, ngroups, ny, nx)
        cleans_groups : bool
            1/f noise is removed from groups.
        """

    def release_memory(self):
        """Give memory back to the device that is kept for later arrays."""

    def zeros(self, shape, dtype):
        """Make an array of zeros on the device."""
        return self.xp.zeros(shape, dtype)

    def empty(self, shape, dtype):
        """Make an array without values on the device."""
        return self.xp.empty(shape, dtype)

    def copy(self, array):
        """Copy an array on the device."""
        return array.copy()

    def load_counts(self, shape, read, *, offset=True):
        """Read counts as FITS stores them, 16-bit and big-endian, into float32 on the device.

        The ramp is never held twice: words pass through a buffer, and a device's backend sends one piece while the next
        is read.

        Parameters
        ----------
        shape : tuple of int
            Of the counts.
        read : callable
            ``read(words)`` fills a flat uint16 array with the next words of the file, as they stand there.
        offset : bool
            The words are signed, with BZERO = 32768, the way in which FITS holds unsigned numbers; else unsigned.

        Returns
        -------
        array of float32, DN
        """
        counts = self.empty(shape, np.float32)
        flat = counts.reshape(-1)
        buffer = np.empty(min(flat.size, WORDS_AT_ONCE), np.uint16)
        for start in range(0, flat.size, WORDS_AT_ONCE):
            piece = flat[start : start + WORDS_AT_ONCE]
            words = buffer[: piece.size]
            read(words)
            if offset:
                np.add(words.view(">i2"), np.float32(32768), out=piece)
            else:
                piece[...] = words.view(">u2")
        return counts

    def load_parts(self, shape, dtype, parts):
        """Make an array of the items of its first axis, which come one after the other.

        The host never holds two copies of the array; where a device has memory of its own, not even one.

        Parameters
        ----------
        shape : tuple of int
        dtype : dtype
        parts : iterable of host arrays
            As many as the first axis is long, of the shape of the other axes; cast to ``dtype``.

        Returns
        -------
        array
        """
        array = self.empty(shape, dtype)
        for index, part in zip(range(len(array)), parts, strict=True):
            array[index] = part
        return array

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
        minimum_groups : int
            Nothing is searched where an integration has fewer usable groups, unless by clipping; at least 3.
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

    def fit_pedestal(self, data, groupdq, limit, *, group_time):
        """Fit each ramp's pedestal and slope by an unweighted straight line through its early groups.

        The line goes through all groups up to the last one that is below ``limit`` and not lost; from its first group
        that is DO_NOT_USE or NaN on, a ramp is lost. Group k (from 0) is read at ``(k + 1) group_time``.

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
        groupdq : (nints, ngroups, ny, nx) uint8
        limit : (ny, nx) float, DN
            Where NaN, no group counts.
        group_time : float, s

        Returns
        -------
        pedestal : (nints, ny, nx) float64, DN
            The line's value at time zero; 0 where fewer than two groups are left.
        slope : (nints, ny, nx) float64, DN/s
            Likewise 0.

        Notes
        -----
        Source: spaceKLIP 2.2, ``cube_fit``. Unless a kernel takes its place, it runs in NumPy.
        """
        return self._run_in_numpy("fit_pedestal", data, groupdq, limit, group_time=group_time)

    def fit_mean_slope(self, data, groupdq, pedestal, limit, *, group_time):
        """Fit one slope to the ramps of all integrations, averaged group by group without their pedestals.

        Lost groups, as in `fit_pedestal`, do not count in the average; a group lost in all integrations ends the ramp.

        Parameters
        ----------
        data, groupdq, limit, group_time
            As in `fit_pedestal`; ``limit`` for ramps without pedestal.
        pedestal : (nints, ny, nx) float64, DN

        Returns
        -------
        (ny, nx) float64, DN/s
            0 where fewer than two groups are left.

        Notes
        -----
        Source: spaceKLIP 2.2, ``fit_slopes_to_ramp_data`` with ``combine_ints``. Unless a kernel takes its place, it
        runs in NumPy.
        """
        return self._run_in_numpy("fit_mean_slope", data, groupdq, pedestal, limit, group_time=group_time)

    def background_mask(self, images, bad, *, nsigma=3, niter=3):
        """Find the background pixels of each image: what is near the median and part of no source.

        1. Centre c: the median of the good pixels; sigma: the median distance of those below c, over 0.6745.
        2. Pixels further than ``nsigma`` sigma from c are out.
        3. Pixels are out that belong to 7 or more neighbours (over edges) above 2 sigma in the image smoothed by a
           Gaussian of sigma 2 on 5 x 5 pixels, without NaN, with zeros around, after the median of what is left is
           subtracted.
        4. Again from 1 with what is left (and always 3 sigma), ``niter`` times in all or until nothing changes.

        Parameters
        ----------
        images : (n, ny, nx) float
            NaN and infinite pixels are never background.
        bad : (n, ny, nx) bool or None
            True where a pixel is out from the start; in an image of which all pixels are, none is.
        nsigma : float
        niter : int

        Returns
        -------
        (n, ny, nx) bool
            True = background.

        Notes
        -----
        Source: spaceKLIP 2.2, ``create_bkg_mask``. Unless a kernel takes its place, it runs in NumPy.
        """
        return self._run_in_numpy("background_mask", images, bad, nsigma=nsigma, niter=niter)

    def fit_flicker(
        self,
        images,
        masks,
        *,
        model_type="savgol",
        vertical_corr=False,
        flatten_model=False,
        noutputs=1,
        channel_averaging=False,
    ):
        """Fit the 1/f noise of each image, whose rows are the fast axis.

        Pixels count where ``masks`` says so and they are within 3 median deviations of the image's median, over 0.6745,
        as are their four neighbours. The median of these is subtracted. Then, by ``model_type``:

        - 'savgol': the image as one line, row after row; holes are bridged linearly between values smoothed by a cubic
          over 33 good samples; a cubic in a window of 127 samples gives the model. Samples at which the model is more
          than 3 standard deviations from the median of their row are left out, up to five times, and the model is
          fitted again.
        - 'median': each row's median.
        - 'mean': each row's mean within 3 sigma of its median (``resistant_mean`` of the IDL Astronomy User's Library).
        - 'fft': cosines of periods longer than about 100 pixels, fitted to each row by least squares (Rauscher 2024).

        A row without a pixel that counts is 0 with the last three.

        Parameters
        ----------
        images : (n, ny, nx) float
        masks : (n, ny, nx) bool
            True where a pixel is background.
        model_type : {'savgol', 'median', 'mean', 'fft'}
        vertical_corr : bool
            Fit columns to what is left, likewise; the window is then a third of a column, for several outputs 127.
        flatten_model : bool
            Take out of the model what is broad along columns: a cubic in a window of up to 255 rows.
        noutputs : int
            Amplifiers, side by side along the rows; each is fitted by itself, odd ones read the other way round.
        channel_averaging : bool
            Fit first what the outputs have in common.

        Returns
        -------
        (n, ny, nx) float32
            The model; its constant is arbitrary.

        Notes
        -----
        Source: spaceKLIP 2.2, ``CleanSubarray`` and ``CleanFullFrame``. Unless a kernel takes its place, it runs in
        NumPy.
        """
        return self._run_in_numpy(
            "fit_flicker",
            images,
            masks,
            model_type=model_type,
            vertical_corr=vertical_corr,
            flatten_model=flatten_model,
            noutputs=noutputs,
            channel_averaging=channel_averaging,
        )

    def _run_in_numpy(self, operation, *arrays, **options):
        """Run an operation that has no kernel on the host, and bring its answer back."""
        from gpucoron.backends.devices.numpy_device import NumpyBackend

        self.note_worker("numpy")
        on_host = [None if array is None else self.to_host(array) for array in arrays]
        answer = getattr(NumpyBackend(), operation)(*on_host, **options)
        if isinstance(answer, tuple):
            return tuple(self.to_device(array) for array in answer)
        return self.to_device(answer)

    def fit_likelihood(
        self,
        diffs,
        read_times,
        sig,
        *,
        diffs2use=None,
        reject_jumps=True,
        threshold_oneomit=20.25,
        threshold_twoomit=23.8,
        rules="spaceklip",
    ):
        """Fit resultant differences by likelihood, and reject jumps before.

        The covariance of the differences, photon and read noise, is taken at a guess of the rate: the median difference
        for the search of jumps, the rate that it leaves for the fit; without a search, the mean of the differences in
        use. NaN in any difference, in use or not, makes the ramp NaN, and so does a ramp of which no difference is in
        use. Unless a kernel takes its place, it runs in NumPy.

        Parameters
        ----------
        diffs : (ngroups - 1, ...) float, electrons per second
            Differences of resultants over the differences of their mean times.
        read_times : sequence of float, or of sequences of float, s
            The time of each resultant, or of the reads that it is the mean of.
        sig : (...) float, electrons
            Noise of a single read.
        diffs2use : (ngroups - 1, ...) bool or uint8, optional
            Which differences to use; all by default. Not changed.
        reject_jumps : bool
        threshold_oneomit, threshold_twoomit : float
            Least drop of chi-square for leaving out one difference, or two neighbours.
        rules : {'spaceklip', 'stcal', 'sound'}
            Whose choices: see `gpucoron.backends.operations.likelihood.jumps.Rules`.

        Returns
        -------
        LikelihoodFit
            Float64, (...); ``diffs2use`` of the shape of ``diffs``.

        Notes
        -----
        Source: Brandt 2024, PASP 136, 045004 (fit) and 045005 (jumps).
        """
        return self._fit_in_numpy(
            "fit_likelihood",
            {"diffs": diffs, "sig": sig, "diffs2use": diffs2use},
            read_times=read_times,
            reject_jumps=reject_jumps,
            threshold_oneomit=threshold_oneomit,
            threshold_twoomit=threshold_twoomit,
            rules=rules,
        )

    def fit_likelihood_ramps(
        self,
        data,
        groupdq,
        gain,
        readnoise,
        read_times,
        *,
        dark_current=None,
        zeroframe=None,
        unusable=0xFF,
        threshold_oneomit=20.25,
        threshold_twoomit=23.8,
        rules="stcal",
    ):
        """Fit ramps by likelihood, integration by integration, and flag the jumps that were found.

        As `fit_likelihood`, for the differences of neighbouring groups that are both usable. JUMP_DET is set, in place,
        in the group after a rejected difference. Unless a kernel takes its place, it runs in NumPy.

        Parameters
        ----------
        data : (nints, ngroups, ny, nx) float32, DN
        groupdq : (nints, ngroups, ny, nx) uint8
            Edited in place.
        gain : (ny, nx) float32, e-/DN
        readnoise : (ny, nx) float32, DN
            CDS noise, as in the reference file.
        read_times : sequence of float, or of sequences of float, s
            As for `fit_likelihood`; with ``zeroframe`` the first entry is its time, and the second has the other reads
            of the first group.
        dark_current : (ny, nx) float32, DN/s, optional
            Dark current that is gone from ``data`` but not its noise: added to the guess for the fit.
        zeroframe : (nints, ny, nx) float32, DN, optional
            The first read, which then stands alone, with the flags of the first group.
        unusable : int
            Flags of which each makes a group unusable.
        threshold_oneomit, threshold_twoomit, rules
            As for `fit_likelihood`.

        Returns
        -------
        LikelihoodFit
            Float32, (nints, ny, nx), DN/s and (DN/s)^2; without ``diffs2use``.

        Notes
        -----
        Source: stcal 1.20, ``LIKELY``; Brandt 2024, PASP 136, 045004 and 045005.
        """
        return self._fit_in_numpy(
            "fit_likelihood_ramps",
            {
                "data": data,
                "groupdq": groupdq,
                "gain": gain,
                "readnoise": readnoise,
                "dark_current": dark_current,
                "zeroframe": zeroframe,
            },
            read_times=read_times,
            unusable=unusable,
            threshold_oneomit=threshold_oneomit,
            threshold_twoomit=threshold_twoomit,
            rules=rules,
        )

    def _fit_in_numpy(self, operation, arrays, **options):
        """Run a fit by likelihood on the host, with arrays by name, and bring back what it returns and flags."""
        from gpucoron.backends.devices.numpy_device import NumpyBackend

        self.note_worker("numpy")
        log.info("backend %r: %s runs in NumPy on the host, one round trip", self.name, operation)
        on_host = {name: self.to_host(array) for name, array in arrays.items() if array is not None}
        fit = getattr(NumpyBackend(), operation)(**on_host, **options)
        if "groupdq" in arrays:
            arrays["groupdq"][...] = self.to_device(on_host["groupdq"])
        return LikelihoodFit(
            **{name: None if values is None else self.to_device(values) for name, values in vars(fit).items()}
        )
