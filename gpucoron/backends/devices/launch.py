"""Checks of arguments and the geometry of kernel launches, on a GPU and on the host.

Raw kernels ignore strides and dtypes: a wrong array would produce wrong numbers without an error.
"""

import numpy as np

#: CUDA's limit on blocks along y; kernels loop over the rest
MAX_BLOCKS_Y = 65535

#: threads that fill any device several times
MANY_THREADS = 2**20

#: groups whose flags share one word, as in types.cuh
WORD_GROUPS = 32


def checked_arguments(kernel, values, is_on_device):
    """Check and cast a launch's arguments.

    Parameters
    ----------
    kernel : gpucoron.backends.kernel_files.Kernel
    values : dict
        Argument name -> array, number or (for arrays that may be null) None.
    is_on_device : callable
        Returns whether an array is in the memory of the kernel.

    Returns
    -------
    list
        In the kernel's order: unchanged arrays, NumPy scalars of the declared types, None.

    Raises
    ------
    TypeError, ValueError
        An argument is missing or unknown, or an array has a wrong dtype or memory, or is not C-contiguous.
    """
    expected = [argument.name for argument in kernel.arguments]
    if set(values) != set(expected):
        missing, unknown = set(expected) - set(values), set(values) - set(expected)
        msg = f"kernel {kernel.name}: arguments missing {sorted(missing)}, unknown {sorted(unknown)}"
        raise TypeError(msg)
    return [_checked(kernel, argument, values[argument.name], is_on_device) for argument in kernel.arguments]


def _checked(kernel, argument, value, is_on_device):
    where = f"kernel {kernel.name}, argument {argument.name}"
    if not argument.is_array:
        # A count beyond the declared type must not wrap around.
        if argument.dtype.kind != "f" and not (np.iinfo(argument.dtype).min <= value <= np.iinfo(argument.dtype).max):
            msg = f"{where}: {value} does not fit {argument.dtype}"
            raise ValueError(msg)
        cast = argument.dtype.type(value)
        if argument.dtype.kind != "f" and cast != value:
            msg = f"{where}: {value} is not a whole number"
            raise ValueError(msg)
        return cast
    if value is None:
        if argument.may_be_null:
            return None
        msg = f"{where}: an array is needed"
        raise TypeError(msg)
    if not is_on_device(value):
        msg = f"{where}: the {type(value).__name__} is not on the kernel's device"
        raise TypeError(msg)
    if value.dtype != argument.dtype:
        msg = f"{where}: dtype {value.dtype}, but {argument.dtype} is needed"
        raise TypeError(msg)
    # Kernels may read read-only arrays; the flags of CuPy arrays have no "writeable".
    if not argument.is_read_only and not getattr(value.flags, "writeable", True):
        msg = f"{where}: the array is read-only, but the kernel changes it"
        raise ValueError(msg)
    apart = argument.may_be_apart and frames_apart(value) is not None
    if not value.flags.c_contiguous and not apart:
        msg = f"{where}: not C-contiguous (strides {value.strides}, shape {value.shape})"
        raise ValueError(msg)
    return value


def frames_apart(array):
    """Return the number of frames between the starts of two integrations in memory; None if it is not whole.

    A ramp without its first or last groups still consists of contiguous frames.
    """
    if array.ndim != 4 or not array[:1].flags.c_contiguous:
        return None
    frame_bytes = array.itemsize * array.shape[2] * array.shape[3]
    if array.shape[0] == 1:
        return array.shape[1]
    n_frames, rest = divmod(array.strides[0], frame_bytes)
    return n_frames if rest == 0 and n_frames >= array.shape[1] else None


def geometry(n_threads, block_threads, n_rows=1):
    """Return the grid and the block of a launch with ``n_threads`` along x and ``n_rows`` along y.

    Returns
    -------
    (blocks_x, blocks_y, 1), (block_threads, 1, 1)
    """
    blocks = max(1, -(-int(n_threads) // block_threads))
    if blocks > np.iinfo(np.int32).max:
        msg = f"a launch of {n_threads} threads is beyond CUDA's limits"
        raise ValueError(msg)
    return (blocks, min(max(1, int(n_rows)), MAX_BLOCKS_Y), 1), (block_threads, 1, 1)


def count_parts(n_pixels, n_items, fewest):
    """Return into how many parts the items of each pixel are divided, one for each thread.

    As few as still fill a device, because a thread loads what its items share once; but with ``fewest`` items or more.
    """
    return max(1, min(-(-MANY_THREADS // n_pixels), n_items // fewest))


def words_of(ngroups):
    """Return the number of words that hold one flag of ``ngroups`` groups."""
    return -(-ngroups // WORD_GROUPS)


def is_in_words(flags, n_pixels):
    """Return 1 if all frames of ``n_pixels`` C-contiguous bytes start on words of four bytes, else 0."""
    # CuPy has the address in another attribute
    address = flags.ctypes.data if isinstance(flags, np.ndarray) else flags.data.ptr
    return int(address % 4 == 0 and n_pixels % 4 == 0)
