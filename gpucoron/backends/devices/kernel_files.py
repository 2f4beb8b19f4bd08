"""The CUDA kernels as Python sees them: where their sources are, and every instantiation that may be asked for.

`KERNELS` is the one table. The launchers take argument types and template arguments from it; the compile step makes its
instantiations from it, and the compilers check the declared types against the functions.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from gpucoron.backends.operations.jump.definition import AFTER_CLIPPING, ITERATIVE, ONE_PASS

#: C++ type -> dtype of an array's elements or of a scalar
DTYPES = {
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "int": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
}

#: options of every compilation for a device; the answers rest on them. Without ``-default-device``, NVRTC before 13.2
#: takes generic lambdas for functions of the host.
DEVICE_OPTIONS = (
    "-std=c++17",
    "-default-device",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
)


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel, as declared; ``may_be_apart`` allows space between the integrations of a ramp."""

    name: str
    dtype: np.dtype
    is_array: bool
    is_read_only: bool
    may_be_null: bool
    may_be_apart: bool
    declaration: str


@dataclass(frozen=True)
class Kernel:
    """A ``__global__`` function: its file, its arguments, and the template arguments that it is compiled for.

    ``waits`` tells, per variant, whether threads of a block wait for each other; ``by_pixel`` that a thread keeps to
    its own pixel, which is the last axis of every array.
    """

    name: str
    source: str
    arguments: tuple[Argument, ...]
    variants: tuple[tuple, ...]
    waits: tuple[bool, ...]
    by_pixel: bool = False

    def expression(self, variant=()):
        """Spell the C++ name of an instantiation.

        Raises
        ------
        ValueError
            It is not in the table, so nobody compiled it.
        """
        if tuple(variant) not in self.variants:
            msg = f"kernel {self.name} has no variant {tuple(variant)}; it has {list(self.variants)}"
            raise ValueError(msg)
        if not variant:
            return f"gpucoron::{self.name}"
        return f"gpucoron::{self.name}<{', '.join(_spell(value) for value in variant)}>"

    @property
    def signature(self):
        """The C++ type of a pointer to the kernel."""
        return f"void (*)({', '.join(argument.declaration for argument in self.arguments)})"


def _spell(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kernel(source, name, arguments, variants=((),), waits=lambda variant: False, by_pixel=False):
    """Read a declaration of arguments: ``type name`` or ``[const] type* name``.

    ``?`` after it tells that an array may be null, ``~`` that its integrations may lie apart.
    """
    parsed = []
    for text in arguments.split(","):
        match = re.fullmatch(r"\s*(const )?(\w+)(\*?) (\w+)([?~]*)\s*", text)
        const, type_name, star, argument, marks = match.groups()
        qualified = type_name if type_name in ("int", "float", "double") else f"gpucoron::{type_name}"
        declaration = f"{const or ''}{qualified}{star}"
        parsed.append(
            Argument(argument, DTYPES[type_name], bool(star), bool(const), "?" in marks, "~" in marks, declaration)
        )
    variants = tuple(variants)
    waiting = tuple(bool(waits(variant)) for variant in variants)
    return Kernel(name, source, tuple(parsed), variants, waiting, by_pixel)


#: numbers of coefficients with a kernel of their own; 0 stands for any other
POLYNOMIAL_LENGTHS = (0, 2, 3, 4, 5, 6, 7, 8)

#: pixels of the longest row that ``deconvolve_coupling`` takes, as in ipc.cu, and the sides of its convolution kernels
MOST_COLUMNS, SIDES = 2048, (3, 5)

#: threads of a warp that may share a pixel
LANES = (1, 4)

#: integrations whose products with a wave one thread sums
MATCHED_TOGETHER = 4

#: threads that may share a row of a frame
ROW_LANES = (1, 32)

_FLAGS = (False, True)

KERNELS = {
    kernel.name: kernel
    for kernel in (
        _kernel(
            "raw_counts.cu",
            "convert_counts",
            "const uint16* raw, float* counts, int64 n_words",
            [(f,) for f in _FLAGS],
        ),
        _kernel(
            "linearity.cu",
            "correct_polynomial",
            "float* data, const uint8* groupdq, const float* coeffs, int n_coeffs, int64 n_frames, int64 n_pixels",
            [(n,) for n in POLYNOMIAL_LENGTHS],
            by_pixel=True,
        ),
        _kernel(
            "linearity.cu",
            "correct_strips",
            "float* data, const uint8* groupdq, const float* coeffs, int n_coeffs, int64 n_frames, int64 n_pixels,"
            "int64 strip",
            [(n,) for n in POLYNOMIAL_LENGTHS],
        ),
        _kernel(
            "linearity.cu",
            "correct_reads",
            "float* data, const uint8* groupdq, const float* coeffs, const float* inverse_coeffs, int n_coeffs,"
            "int n_inverse, int n_ints, int n_groups, int64 n_pixels, int n_frames",
            [(n,) for n in POLYNOMIAL_LENGTHS],
            by_pixel=True,
        ),
        _kernel(
            "ipc.cu",
            "deconvolve_coupling",
            "float* data, const float* kernel, int n_frames, int ny, int nx, int bottom, int top, int left, int right",
            [(side, f) for side in SIDES for f in _FLAGS],
            waits=lambda variant: True,
        ),
        _kernel(
            "emicorr.cu",
            "measure_scatter",
            "const float* data, float* scatter, int n_ints, int n_groups, int64 n_pixels",
        ),
        _kernel(
            "emicorr.cu",
            "sum_quads",
            "const float* data, const uint8* good, const int* order, const int* starts, double* sums, double* counts,"
            "int n_ints, int n_groups, int64 n_pixels, int n_bins",
        ),
        _kernel(
            "emicorr.cu",
            "match_bins",
            "const double* sums, const double* counts, const double* wave, const double* bin_phases, double* squared,"
            "double* mixed, int n_ints, int n_groups, int n_bins, int n_trials, double s_t, double s_tt, double delta",
            [(MATCHED_TOGETHER,)],
        ),
        _kernel(
            "emicorr.cu",
            "sum_bins",
            "const double* squared, const double* mixed, double* quadratic, double* linear, int64 n_rows, int n_bins",
        ),
        _kernel(
            "emicorr.cu",
            "subtract_wave",
            "float* data, const double* wave, const double* pixel_phases, const double* group_phases,"
            "const double* integration_phases, const double* amplitudes, int n_ints, int n_groups, int64 n_quads,"
            "int n_bins",
        ),
        _kernel(
            "saturation.cu",
            "mark_saturation",
            "const float* data, uint8* groupdq, const float* threshold, uint32* words, int n_ints, int n_groups,"
            "int64 n_pixels",
            by_pixel=True,
        ),
        _kernel(
            "saturation.cu",
            "mark_dilution",
            "const float* data, uint8* groupdq, const float* threshold, const uint8* checked, const float* bias?,"
            "uint32* words?, int n_ints, int n_groups, int64 n_pixels, int n_frames",
            [(True, True), (True, False), (False, True)],
            by_pixel=True,
        ),
        _kernel(
            "saturation.cu",
            "grow_flags",
            "uint8* groupdq, const uint32* words, int flag, int radius, int n_ints, int n_groups, int ny, int nx",
            [(f,) for f in _FLAGS],
        ),
        _kernel(
            "jump.cu",
            "search_jumps",
            "const float* data, uint8* groupdq, const float* gain, const float* readnoise, uint32* reaching?,"
            "double* medians?, int* n_flagged, int n_ints, int n_groups, int64 n_pixels, int n_frames,"
            "double threshold, double three_groups, double four_groups, double smallest, double largest",
            [*((mode, lanes) for mode in (ONE_PASS, ITERATIVE) for lanes in LANES), (AFTER_CLIPPING, 1)],
            waits=lambda variant: variant[1] > 1,
            by_pixel=True,
        ),
        _kernel(
            "jump.cu",
            "clip_jumps",
            "const float* data, uint8* groupdq, const float* gain, int n_ints, int n_groups, int64 n_pixels,"
            "double threshold",
            [(f,) for f in _FLAGS],
            by_pixel=True,
        ),
        _kernel(
            "jump.cu",
            "planes_all_flagged",
            "const uint8* groupdq, int mask, int* all_flagged, int64 n_frames, int64 n_pixels",
            waits=lambda variant: True,
        ),
        _kernel(
            "jump.cu",
            "clear_lone_jumps",
            "uint8* groupdq, const int* all_flagged, int64 n_frames, int64 n_pixels",
        ),
        _kernel(
            "jump.cu",
            "flag_neighbors",
            "uint8* groupdq, const uint32* reaching, int n_ints, int n_groups, int ny, int nx",
        ),
        _kernel(
            "jump.cu",
            "flag_after_jumps",
            "const float* data, uint8* groupdq, const float* gain, const double* medians, int n_ints, int n_groups,"
            "int64 n_pixels, double e1, int n1, double e2, int n2",
            by_pixel=True,
        ),
        _kernel("jump.cu", "drop_redundant_jumps", "uint8* groupdq, int64 n_samples"),
        _kernel(
            "ramp_fit.cu",
            "fit_integrations",
            "const float* data~, const uint8* groupdq~, const uint32* pixeldq, const float* gain,"
            "const float* readnoise, const float* zeroframe?, double* median_rates, double* slope_sums,"
            "double* read_weights, uint32* states, uint32* dq, int n_ints, int n_groups, int64 frames_apart,"
            "int64 n_pixels, double group_time, double frame_time,"
            "double one_group_time, double noise_divisor, int suppress_one_group",
            by_pixel=True,
        ),
        _kernel(
            "ramp_fit.cu",
            "average_median_rates",
            "const double* median_rates, double* signal, int n_ints, int64 n_pixels",
            by_pixel=True,
        ),
        _kernel(
            "ramp_fit.cu",
            "weigh_integrations",
            "const uint8* groupdq~, const uint8* original_groupdq?~, const float* gain, const float* readnoise,"
            "const float* dark_current?, const double* signal, const double* slope_sums, const double* read_weights,"
            "double* poisson_weights, double* restored_weights?, uint32* states, float* rate, uint32* dq,"
            "float* var_poisson, float* var_rnoise, float* err, int n_ints, int n_groups, int64 frames_apart,"
            "int64 n_pixels, double group_time, double frame_time, double one_group_time, double noise_divisor",
            by_pixel=True,
        ),
        _kernel(
            "ramp_fit.cu",
            "combine_integrations",
            "const uint32* pixeldq, const float* gain, const double* slope_sums, const double* read_weights,"
            "const double* poisson_weights, const double* restored_weights?, const uint32* states,"
            "const uint32* dq_ints, float* rate, uint32* dq, float* var_poisson, float* var_rnoise, float* err,"
            "int n_ints, int64 n_pixels",
            by_pixel=True,
        ),
        _kernel(
            "whole_ramps.cu",
            "fit_whole_ramps",
            "const double* samples, const double* gain, const double* readnoise, const double* weights,"
            "const int* comparisons, double* slopes, double* medians, int n_groups, int first, int n_comparisons,"
            "int n_ints, int64 n_pixels, double group_time",
            # It has shared memory, though nobody waits.
            waits=lambda variant: True,
        ),
        _kernel(
            "pedestal.cu",
            "fit_pedestals",
            "const float* data, const uint8* groupdq, const double* limit, double* pedestal, double* slope, int n_ints,"
            "int n_groups, int64 n_pixels, double group_time",
            by_pixel=True,
        ),
        _kernel(
            "pedestal.cu",
            "count_usable_groups",
            "const float* data, const uint8* groupdq, int* n_usable, int n_ints, int n_groups, int64 n_pixels",
            by_pixel=True,
        ),
        _kernel(
            "pedestal.cu",
            "fit_mean_slopes",
            "const float* data, const int* n_usable, const double* pedestal, const double* limit, double* slope,"
            "int n_ints, int n_groups, int64 n_pixels, double group_time",
            by_pixel=True,
        ),
        _kernel(
            "likelihood.cu",
            "fit_differences",
            "const double* diffs, const uint8* diffs2use?, const double* sig, const double* coefficients,"
            "double* scratch, uint32* words, double* countrate, double* uncert, double* chisq, double* var_poisson,"
            "double* var_rdnoise, uint8* used, int n_diffs, int64 n_ramps, double threshold_one, double threshold_two,"
            "int rules",
        ),
        _kernel(
            "likelihood.cu",
            "fit_groups",
            "const float* data, uint8* groupdq, const float* gain, const float* readnoise, const float* dark_current?,"
            "const float* zeroframe?, const double* coefficients, double* scratch, uint32* words, float* countrate,"
            "float* uncert, float* chisq, float* var_poisson, float* var_rdnoise, int n_ints, int n_groups,"
            "int64 n_pixels, int n_reads, int unusable, double threshold_one, double threshold_two, int rules",
        ),
        _kernel(
            "flicker.cu",
            "find_frame_medians",
            "const float* frames, const uint8* good?, const float* centres?, float* medians, float* means,"
            "int64 n_frames, int64 n_pixels",
            waits=lambda variant: True,
        ),
        _kernel(
            "flicker.cu",
            "mark_good",
            "const float* frames, const uint8* masks, const float* medians, const float* reaches, uint8* good,"
            "int64 n_frames, int ny, int nx",
        ),
        _kernel(
            "flicker.cu",
            "summarize_rows",
            "const float* frames, const uint8* good, const int* active?, float* results, int64 n_rows, int ny, int nx,"
            "float mad_to_sigma, double narrowing",
            [(mean, lanes) for mean in _FLAGS for lanes in ROW_LANES],
            waits=lambda variant: variant[1] > 1,
        ),
        _kernel(
            "flicker.cu",
            "pack_good",
            "const float* lines, const uint8* good, const int* n_before, const int* active, float* packed, int* places,"
            "int64 n_lines, int length",
        ),
        _kernel(
            "flicker.cu",
            "bridge_holes",
            "const float* lines, const uint8* good, const int* n_before, const int* active, const float* packed,"
            "const int* places, const double* projections, float* filled, int64 n_lines, int length",
        ),
        _kernel(
            "flicker.cu",
            "smooth_lines",
            "const float* lines, const int* active?, const double* projection, float* smooth, int64 n_lines,"
            "int length, int window",
        ),
        _kernel(
            "flicker.cu",
            "leave_out_strays",
            "const float* models, const float* medians, uint8* good, int* active, int64 n_frames, int ny, int nx",
            waits=lambda variant: True,
        ),
    )
}

SOURCES = tuple(dict.fromkeys(kernel.source for kernel in KERNELS.values()))


def instantiations(source):
    """List what a source file is compiled to.

    Returns
    -------
    list of (Kernel, tuple)
        Kernel and template arguments.
    """
    return [(kernel, variant) for kernel in KERNELS.values() if kernel.source == source for variant in kernel.variants]


def kernel_folder():
    """Find the kernels: inside the installed package, else in the repository around it.

    Raises
    ------
    FileNotFoundError
        They are in neither place.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "_kernels", package.parent / "kernels"):
        if (folder / "include").is_dir():
            return folder
    msg = f"the CUDA kernels are missing: neither {package / '_kernels'} nor {package.parent / 'kernels'} has them"
    raise FileNotFoundError(msg)


def read_source(source):
    """Read a kernel file, with a ``#line`` by which the compiler's messages point at it."""
    path = kernel_folder() / source
    return f'#line 1 "{path.as_posix()}"\n{path.read_text(encoding="utf-8")}'


def read_headers():
    """Read the headers of the kernels: name as in ``#include`` -> text."""
    folder = kernel_folder() / "include"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.cuh"))}


@cache
def source_digest(source):
    """Digest what a kernel file is compiled from: itself, every header, and its rows of the table.

    A changed header is thus never served stale.
    """
    folder = kernel_folder()
    rows = [kernel for kernel in KERNELS.values() if kernel.source == source]
    digest = hashlib.sha256(repr((DEVICE_OPTIONS, rows)).encode())
    headers = sorted(path for path in folder.rglob("*") if path.suffix in (".cuh", ".hpp"))
    for path in (folder / source, *headers):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def cache_folder():
    """Name the folder of compiled kernels: ``GPUCORON_CACHE``, else the user's cache."""
    if "GPUCORON_CACHE" in os.environ:
        return Path(os.environ["GPUCORON_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpucoron"
