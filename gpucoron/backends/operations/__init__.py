"""The heavy operations, one package for each subject: definition in NumPy, kernels, and how the work may be divided."""

from gpucoron import get_by_old_name
from gpucoron.backends.operations.dark_current import subtract_frames
from gpucoron.backends.operations.emicorr import match_emicorr, measure_scatter, subtract_emicorr, sum_by_phase
from gpucoron.backends.operations.flags import (
    add_flags,
    count_flags,
    find_lost_groups,
    flag_first_groups,
    join_group_flags,
    join_integration_flags,
    suppress_single_groups,
)
from gpucoron.backends.operations.ipc import deconvolve_frames, deconvolve_ipc
from gpucoron.backends.operations.jump import (
    clear_groups_full_of_jumps,
    clip_jumps,
    detect_jumps,
    drop_redundant_jumps,
    search_jumps,
)
from gpucoron.backends.operations.likelihood import fit_likelihood, fit_likelihood_ramps
from gpucoron.backends.operations.linearity import linearity
from gpucoron.backends.operations.persistence import open_windows
from gpucoron.backends.operations.ramp_fit import fit_ramps, fit_segments
from gpucoron.backends.operations.refpix import clip_levels, subtract_levels
from gpucoron.backends.operations.saturation import flag_saturation
from gpucoron.backends.operations.showers import clip_differences, find_excess, median_differences
from gpucoron.backends.operations.subtract_1overf import (
    background_mask,
    fit_1overf,
    gather_contrasts,
    krige_differences,
    krige_slopes,
    measure_1overf,
    subtract_contrasts,
)
from gpucoron.backends.operations.subtract_ktc import fit_ktc, fit_mean_slope

__all__ = [
    "OPERATIONS",
    "add_flags",
    "background_mask",
    "clear_groups_full_of_jumps",
    "clip_differences",
    "clip_jumps",
    "count_flags",
    "clip_levels",
    "deconvolve_frames",
    "deconvolve_ipc",
    "detect_jumps",
    "drop_redundant_jumps",
    "find_excess",
    "find_lost_groups",
    "fit_1overf",
    "fit_ktc",
    "fit_likelihood",
    "fit_likelihood_ramps",
    "fit_mean_slope",
    "fit_ramps",
    "fit_segments",
    "flag_first_groups",
    "flag_saturation",
    "gather_contrasts",
    "join_group_flags",
    "join_integration_flags",
    "krige_differences",
    "krige_slopes",
    "linearity",
    "match_emicorr",
    "measure_1overf",
    "measure_scatter",
    "median_differences",
    "open_windows",
    "search_jumps",
    "subtract_contrasts",
    "subtract_emicorr",
    "subtract_frames",
    "subtract_levels",
    "sum_by_phase",
    "suppress_single_groups",
]

#: all operations
OPERATIONS = (
    add_flags,
    background_mask,
    clear_groups_full_of_jumps,
    clip_differences,
    clip_jumps,
    count_flags,
    clip_levels,
    deconvolve_ipc,
    deconvolve_frames,
    detect_jumps,
    drop_redundant_jumps,
    find_excess,
    find_lost_groups,
    fit_1overf,
    fit_likelihood,
    fit_likelihood_ramps,
    fit_mean_slope,
    fit_ktc,
    fit_ramps,
    fit_segments,
    flag_first_groups,
    flag_saturation,
    gather_contrasts,
    join_group_flags,
    join_integration_flags,
    krige_differences,
    krige_slopes,
    linearity,
    match_emicorr,
    measure_1overf,
    measure_scatter,
    median_differences,
    open_windows,
    search_jumps,
    subtract_contrasts,
    subtract_emicorr,
    subtract_frames,
    subtract_levels,
    sum_by_phase,
    suppress_single_groups,
)


def __getattr__(name):
    return get_by_old_name(__name__, name)
