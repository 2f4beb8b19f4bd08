"""The table of kernels: their source files, arguments and template instantiations.

`KERNELS` maps names to kernels. Names, types and template parameters are read from the files: CUDA in ``.cu``, and in
``cpu/*.cpp`` what is faster on a CPU. `TABLE` adds what is not in the C++ code. Launches check their
arguments against the table, and the compilers read the instantiations.
"""

import hashlib
import os
import re
from collections import UserDict
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

#: C++ type -> dtype of an array's elements or of a scalar; `OWN_TYPES` are named in types.cuh
OWN_TYPES = ("uint8", "uint16", "uint32", "int64")
DTYPES = {"int": np.dtype("int32"), "float": np.dtype("float32"), "double": np.dtype("float64")}
DTYPES |= {name: np.dtype(name) for name in OWN_TYPES}

#: options of every compilation for a device; results depend on them. NVRTC before 13.2 needs ``-default-device``, or
#: it treats generic lambdas as host functions.
DEVICE_OPTIONS = ("-std=c++17", "-default-device", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")

#: numbers of coefficients with a specialized kernel; 0 means any other number
POLYNOMIAL_LENGTHS = (0, 2, 3, 4, 5, 6, 7, 8)

#: longest row in pixels that ``deconvolve_ipc`` supports, as in ipc.cu, and the sides of its convolution kernels
MOST_COLUMNS, SIDES = 2048, (3, 5)

#: threads of a warp that may share a pixel
LANES = (1, 4)

#: words of shared memory for the differences that ``clip_jumps`` keeps
CLIPPED_WORDS = (8192, 12288)

#: integrations that one thread of ``match_bins`` processes
MATCHED_TOGETHER = 4

#: threads that may share a row of a frame, or a piece of its flags
ROW_LANES = (1, 32)


@dataclass(frozen=True)
class Row:
    """Properties of a kernel that are not in its C++ code."""

    variants: tuple[tuple, ...] = ((),)  # template arguments to compile it for
    nulls: str = ""  # names of arrays that may be null
    apart: str = ""  # names of arrays that may have gaps between integrations
    shared: str = ""  # with by_pixel: names of arrays that are the same for all pixels
    waits: bool = False  # threads of a block wait for each other, or share memory
    by_pixel: bool = False  # a thread accesses only its own pixel, on the last axis of every array not in `shared`
    lanes: int | None = None  # index in a variant of the threads that share a pixel or row; several wait for each other


_FLAGS = (False, True)
_EITHER = tuple((f,) for f in _FLAGS)
_LENGTHS = tuple((n,) for n in POLYNOMIAL_LENGTHS)
# The first number is ONE_PASS, ITERATIVE or AFTER_CLIPPING, as jump.cuh and operations/jump/definition.py number them.
_SEARCHES = tuple((mode, lanes) for mode in (0, 1, 2) for lanes in LANES)

#: kernel file -> kernel -> row; kernels without special properties need no row
TABLE = {
    "raw_counts.cu": {"convert_counts": Row(_EITHER)},
    "linearity.cu": {
        "correct_polynomial": Row(_LENGTHS, by_pixel=True),
        "correct_reads": Row(_LENGTHS, by_pixel=True),
    },
    "dark_current.cu": {"subtract_frames": Row(_EITHER, nulls="mean slope center", apart="data")},
    "ipc.cu": {"deconvolve_ipc": Row(tuple((side, f) for side in SIDES for f in _FLAGS), waits=True)},
    "refpix.cu": {"subtract_levels": Row(tuple((y, zeros) for y in _FLAGS for zeros in _FLAGS), nulls="sides")},
    "persistence.cu": {"open_windows": Row(shared="times", by_pixel=True)},
    "emicorr.cu": {"match_bins": Row(((MATCHED_TOGETHER,),))},
    "flags.cu": {
        "count_flags": Row(tuple((lanes,) for lanes in ROW_LANES), nulls="counts collected", lanes=0),
        "find_full_frames": Row(waits=True),
    },
    "saturation.cu": {
        "mark_saturation": Row(by_pixel=True),
        "mark_dilution": Row(((True, True), (True, False), (False, True)), nulls="bias words", by_pixel=True),
        "grow_flags": Row(_EITHER),
    },
    "jump.cu": {
        "search_jumps": Row(_SEARCHES, nulls="medians", by_pixel=True, lanes=1),
        "clip_jumps": Row((*((False, words) for words in CLIPPED_WORDS), (True, CLIPPED_WORDS[0])), by_pixel=True),
        "clear_lone_jumps": Row(waits=True),
        "flag_after_jumps": Row(by_pixel=True),
    },
    "ramp_fit.cu": {
        "fit_integrations": Row(_EITHER, apart="data groupdq", shared="weights"),
        "fit_listed": Row(nulls="zeroframe", apart="data groupdq", shared="weights"),
        "finish_products": Row(
            nulls="original_groupdq dark_current signal", apart="groupdq original_groupdq", by_pixel=True
        ),
        "write_optional": Row(nulls="dark_current zeroframe", apart="data groupdq", shared="weights", by_pixel=True),
    },
    "subtract_ktc.cu": {
        "fit_ktc": Row(by_pixel=True),
        "count_usable_groups": Row(by_pixel=True),
        "fit_mean_slopes": Row(by_pixel=True),
    },
    "likelihood.cu": {
        "fit_differences": Row(nulls="diffs2use"),
        "fit_groups": Row(nulls="dark_current zeroframe"),
    },
    "subtract_1overf.cu": {
        "find_frame_medians": Row(nulls="good centres", waits=True),
        "summarize_rows": Row(tuple((f, lanes) for f in _FLAGS for lanes in ROW_LANES), nulls="active", lanes=1),
        "smooth_lines": Row(nulls="active"),
        "leave_out_strays": Row(waits=True),
    },
    "kriging.cu": {"finish_product": Row(nulls="sums")},
    "cpu/jump_strips.cpp": {"search_strips": Row(tuple((mode,) for mode in range(3)), nulls="reaching medians")},
    "cpu/linearity_strips.cpp": {"correct_strips": Row(_LENGTHS)},
    "cpu/ramp_strips.cpp": {
        "fit_strips": Row(
            nulls="original_groupdq dark_current zeroframe segments pedestal jumps",
            apart="data groupdq original_groupdq",
        )
    },
    "cpu/emicorr_strips.cpp": {},
    "cpu/saturation_strips.cpp": {"grow_saturation": Row(_EITHER)},
    "cpu/showers_strips.cpp": {},
    "cpu/likelihood_strips.cpp": {
        "fit_difference_strips": Row(nulls="diffs2use"),
        "fit_group_strips": Row(nulls="dark_current zeroframe"),
    },
    "cpu/subtract_1overf_frames.cpp": {"find_backgrounds": Row(nulls="bad")},
}

SOURCES = tuple(TABLE)

#: those for a GPU; the others are for a CPU only
CUDA_SOURCES = tuple(source for source in SOURCES if source.endswith(".cu"))


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel, as declared.

    ``may_be_apart`` allows gaps between the integrations of a ramp; ``is_shared`` means the same for all pixels.
    """

    name: str
    dtype: np.dtype
    is_array: bool
    is_read_only: bool
    may_be_null: bool
    may_be_apart: bool
    is_shared: bool
    declaration: str


@dataclass(frozen=True)
class Kernel:
    """A ``__global__`` function: its file, its arguments, and the template arguments to compile it for.

    ``waits`` says for each variant whether threads of a block wait for each other; `Row` describes the rest.
    """

    name: str
    source: str
    arguments: tuple[Argument, ...]
    variants: tuple[tuple, ...]
    waits: tuple[bool, ...]
    by_pixel: bool = False
    lanes: int | None = None

    def expression(self, variant=()):
        """Return the C++ name of an instantiation.

        Raises
        ------
        ValueError
            It is not in the table, so it is not compiled.
        """
        if tuple(variant) not in self.variants:
            msg = f"kernel {self.name} has no variant {tuple(variant)}; it has {list(self.variants)}"
            raise ValueError(msg)
        arguments = ", ".join(str(value).lower() for value in variant)
        return f"gpucoron::{self.name}<{arguments}>" if variant else f"gpucoron::{self.name}"

    @property
    def signature(self):
        """The C++ type of a pointer to the kernel."""
        return f"void (*)({', '.join(argument.declaration for argument in self.arguments)})"


#: template parameters, name and arguments of a kernel; name and arguments are None for another form of declaration
_KERNEL = re.compile(r"(?:template\s*<(.*)>\s*)?\b__global__\b\s*(?:void\s+(\w+)\s*\(([^()]*)\))?")
_ARGUMENT = re.compile(r"(const\s+)?(\w+)(\s*\*\s*|\s+)(?:__restrict__\s+)?(\w+)")


def read_kernels(source):
    """Read the kernels of a file, and add the properties from the table.

    Returns
    -------
    list of Kernel
        In the order of the file.

    Raises
    ------
    ValueError
        The parser cannot read a kernel, or the table contradicts it; the message names file and kernel.
    """
    rows, text = TABLE[source], (kernel_folder() / source).read_text(encoding="utf-8")
    code = re.sub(r"//.*", "", text)
    kernels = [_read_kernel(source, code, match, rows) for match in _KERNEL.finditer(code)]
    for name in rows.keys() - {kernel.name for kernel in kernels}:
        _refuse(source, name, "the table has a row for it, but it is not in the file")
    return kernels


def _read_kernel(source, code, match, rows):
    template, name, arguments = match.groups()
    if name is None:
        _refuse(source, code[match.end() :].partition("{")[0].strip(), "it is not '__global__ void name(arguments)'")
    row, n_parameters = rows.get(name, Row()), len(template.split(",")) if template else 0
    if any(len(variant) != n_parameters for variant in row.variants):
        _refuse(source, name, f"it has {n_parameters} template parameters, and in the table variants {row.variants}")
    arguments = tuple(_read_argument(source, name, text.strip(), row) for text in arguments.split(","))
    named = {*row.nulls.split(), *row.apart.split(), *row.shared.split()}
    unknown = named - {argument.name for argument in arguments if argument.is_array}
    if unknown:
        _refuse(source, name, f"the table names {sorted(unknown)}, but there are no such arrays")
    waits = tuple(row.waits or (row.lanes is not None and variant[row.lanes] > 1) for variant in row.variants)
    return Kernel(name, source, arguments, row.variants, waits, row.by_pixel, row.lanes)


def _read_argument(source, kernel, text, row):
    match = _ARGUMENT.fullmatch(text)
    if match is None or match[2] not in DTYPES:
        _refuse(source, kernel, f"argument '{text}' is not '[const] type [*] name' with a type of {list(DTYPES)}")
    const, type_name, star, name = match[1] or "", match[2], match[3].strip(), match[4]
    declaration = f"{const and 'const '}{'gpucoron::' if type_name in OWN_TYPES else ''}{type_name}{star}"
    may = (name in row.nulls.split(), name in row.apart.split(), name in row.shared.split())
    return Argument(name, DTYPES[type_name], bool(star), bool(const), *may, declaration)


def _refuse(source, kernel, reason):
    msg = f"{source}, kernel {kernel}: {reason}"
    raise ValueError(msg)


class _Kernels(UserDict):
    """Kernels by name, read from their files at first use, because importing must not need the files."""

    def __init__(self):
        """Do nothing: `data` is read at first use."""

    @cached_property
    def data(self):
        return {kernel.name: kernel for source in SOURCES for kernel in read_kernels(source)}


KERNELS = _Kernels()


def instantiations(source):
    """List the instantiations of a source file.

    Returns
    -------
    list of (Kernel, tuple)
        Kernel and template arguments.
    """
    return [(kernel, variant) for kernel in KERNELS.values() if kernel.source == source for variant in kernel.variants]


def kernel_folder():
    """Return the folder of the kernels: in the installed package, or in the repository.

    Raises
    ------
    FileNotFoundError
        Neither folder exists.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_kernels", package.parent / "kernels"):
        if (folder / "include").is_dir():
            return folder
    msg = f"the CUDA kernels are missing: neither {package / '_kernels'} nor {package.parent / 'kernels'} has them"
    raise FileNotFoundError(msg)


def read_source(source):
    """Return the text of a kernel file, with a ``#line`` directive for the compiler's messages."""
    path = kernel_folder() / source
    return f'#line 1 "{path.as_posix()}"\n{path.read_text(encoding="utf-8")}'


def read_headers():
    """Return the headers of the kernels: name as in ``#include`` -> text."""
    folder = kernel_folder() / "include"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.cuh"))}


@cache
def source_digest(source):
    """Return a digest of a kernel file, all headers, and its rows of the table: the cached code depends on them."""
    folder = kernel_folder()
    rows = [kernel for kernel in KERNELS.values() if kernel.source == source]
    digest = hashlib.sha256(repr((DEVICE_OPTIONS, rows)).encode())
    headers = sorted(path for path in folder.rglob("*") if path.suffix in (".cuh", ".hpp"))
    for path in (folder / source, *headers):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def cache_folder():
    """Return the folder of compiled kernels: ``GPUCORON_CACHE``, or a folder in the user's cache."""
    if "GPUCORON_CACHE" in os.environ:
        return Path(os.environ["GPUCORON_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpucoron"
