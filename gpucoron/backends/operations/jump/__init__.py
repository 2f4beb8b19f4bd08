"""Jump detection by two-point differences."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.devices.launch import words_of
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.flags import find_lost_groups
from gpucoron.backends.operations.jump import definition, kernels

#: With fewer groups there is no second difference to compare with.
MINIMUM_GROUPS = 3

#: stcal's count of jumps if there are too few groups to search.
NOT_SEARCHED = -99


@dataclass(frozen=True)
class JumpSettings:
    """Parameters of jump detection.

    Attributes
    ----------
    rejection_threshold, three_group_rejection_threshold, four_group_rejection_threshold : float, sigma
    flag_4_neighbors : bool
    max_jump_to_flag_neighbors, min_jump_to_flag_neighbors : float, sigma
    after_jump_flag_e1, after_jump_flag_e2 : float, electrons
    after_jump_flag_n1, after_jump_flag_n2 : int, groups
    min_diffs_single_pass : int
        Differences per integration from which on the search makes a single pass.
    minimum_groups : int
        There is no search, except by clipping, if an integration has fewer usable groups; at least 3, because stcal
        uses 3 whatever its parameter is.
    minimum_sigclip_groups : int
        Integrations, or differences, from which on outliers are found by sigma clipping.
    only_use_ints : bool
        Clip over the integrations, for each group separately.
    nframes : int
        Reads averaged into a group.
    """

    rejection_threshold: float = 4.0
    three_group_rejection_threshold: float = 6.0
    four_group_rejection_threshold: float = 5.0
    flag_4_neighbors: bool = True
    max_jump_to_flag_neighbors: float = 1000.0
    min_jump_to_flag_neighbors: float = 10.0
    after_jump_flag_e1: float = 0.0
    after_jump_flag_n1: int = 0
    after_jump_flag_e2: float = 0.0
    after_jump_flag_n2: int = 0
    min_diffs_single_pass: int = 10
    minimum_groups: int = MINIMUM_GROUPS
    minimum_sigclip_groups: int = 100
    only_use_ints: bool = True
    nframes: int = 1

    @property
    def after(self):
        """Pairs: the smallest jump in electrons after which groups are flagged, and the number of groups."""
        return (
            (self.after_jump_flag_e1, self.after_jump_flag_n1),
            (self.after_jump_flag_e2, self.after_jump_flag_n2),
        )

    @property
    def flags_later_groups(self):
        """Whether groups after jumps are flagged."""
        return any(n_groups > 0 for _, n_groups in self.after)


_IN_STRIPS = ("cpu/jump_strips.cpp", False)


def _native_search(settings, data, groupdq, *others):
    """Return the native library if the ramps are contiguous."""
    return [_IN_STRIPS] if data.flags.c_contiguous and groupdq.flags.c_contiguous else []


def _searching_bytes(nints, ngroups):
    # flags of jumps with neighbours to flag, the median, the count
    return 4 * nints * words_of(ngroups) + 8 + 4


search_jumps = Operation(
    definition.search_jumps,
    kernels.search_jumps,
    settings=JumpSettings,
    written=("groupdq",),
    whole=("mode", "lost"),
    halo=lambda settings: 1 if settings.flag_4_neighbors else 0,
    working_bytes=_searching_bytes,
    native=_native_search,
    libraries=(_IN_STRIPS,),
)
# A CPU uses NumPy: the last bit of a standard deviation depends on the order in which astropy sums.
clip_jumps = Operation(
    definition.clip_jumps,
    kernels.clip_jumps,
    settings=JumpSettings,
    written=("groupdq",),
)
drop_redundant_jumps = Operation(
    definition.drop_redundant_jumps, kernels.drop_redundant_jumps, written=("groupdq",), at_home=True
)
clear_groups_full_of_jumps = Operation(
    definition.clear_groups_full_of_jumps, kernels.clear_groups_full_of_jumps, written=("groupdq",), at_home=True
)


def detect_jumps(backend, data, groupdq, gain, readnoise, *, settings):
    """Flag jumps by two-point differences; set JUMP_DET in ``groupdq``, in place.

    If there are enough integrations (or differences), outliers are found by sigma clipping, otherwise by
    `search_jumps`. The choice is the same for the whole image.

    Parameters
    ----------
    backend : Backend
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        C-contiguous.
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file.
    settings : JumpSettings

    Returns
    -------
    int
        Number of primary cosmic rays, counted as in stcal: groups with JUMP_DET before neighbours are flagged; -99 if
        there are too few usable groups to search.

    Notes
    -----
    Source: stcal 1.20 ``detect_jumps_data`` and ``find_crs`` without snowballs and showers (Anderson & Gordon 2011,
    PASP 123, 1237).
    """
    lost = find_lost_groups(backend, groupdq)
    mode = definition.choose_search(lost, settings)
    if mode is None:
        drop_redundant_jumps(backend, groupdq)
        return NOT_SEARCHED
    if mode == definition.AFTER_CLIPPING:
        backend.clip_jumps(data, groupdq, gain, settings=settings)
        clear_groups_full_of_jumps(backend, groupdq)
    n_flagged = backend.search_jumps(data, groupdq, gain, readnoise, mode, lost, settings=settings)
    return int(n_flagged.sum(dtype=np.int64))


detect_jumps = Operation(detect_jumps, settings=JumpSettings, of_others=True)
