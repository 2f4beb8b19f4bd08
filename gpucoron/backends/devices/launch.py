"""What every launch goes through, on a device or on the host: checks of the arguments, and the geometry.

Raw kernels look at neither strides nor dtypes: a wrong array would give wrong numbers without a word.
"""

import numpy as np

#: CUDA's limit on blocks along y; kernels stride over what is beyond
MAX_BLOCKS_Y = 65535

#: groups whose flags travel in one word, as in types.cuh
WORD_GROUPS = 32


def checked_arguments(kernel, values, is_on_device):
    """Check and cast a launch's arguments.

    Parameters
    ----------
    kernel : gpucoron.backends.kernel_files.Kernel
    values : dict
        Argument name -> array, number or (for arrays that may be null) None.
    is_on_device : callable
        Tells whether an array lies where the kernel runs.

    Returns
    -------
    list
        In the kernel's order: arrays as they came, NumPy scalars of the declared types, None.

    Raises
    ------
    TypeError, ValueError
        An argument is missing or unknown, or an array is of another dtype, not C-contiguous, or elsewhere.
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
        msg = f"{where}: a {type(value).__name__} that is not on the kernel's device"
        raise TypeError(msg)
    if value.dtype != argument.dtype:
        msg = f"{where}: dtype {value.dtype}, but {argument.dtype} is needed"
        raise TypeError(msg)
    # Read-only references may be read; CuPy's flags have no "writeable".
    if not argument.is_read_only and not getattr(value.flags, "writeable", True):
        msg = f"{where}: a read-only array, which the kernel would change"
        raise ValueError(msg)
    apart = argument.may_be_apart and frames_apart(value) is not None
    if not value.flags.c_contiguous and not apart:
        msg = f"{where}: not C-contiguous (strides {value.strides}, shape {value.shape})"
        raise ValueError(msg)
    return value


def frames_apart(array):
    """Count the frames from one integration's start to the next in a ramp; None where there is no such number.

    A ramp of which the first or last groups were cut off still has whole frames side by side.
    """
    if array.ndim != 4 or not array[:1].flags.c_contiguous:
        return None
    frame_bytes = array.itemsize * array.shape[2] * array.shape[3]
    if array.shape[0] == 1:
        return array.shape[1]
    n_frames, rest = divmod(array.strides[0], frame_bytes)
    return n_frames if rest == 0 and n_frames >= array.shape[1] else None


def geometry(n_threads, block_threads, n_rows=1):
    """Lay out a launch over ``n_threads`` side by side and ``n_rows`` along y.

    Returns
    -------
    (blocks_x, blocks_y, 1), (block_threads, 1, 1)
    """
    blocks = max(1, -(-int(n_threads) // block_threads))
    if blocks > np.iinfo(np.int32).max:
        msg = f"a launch of {n_threads} threads is beyond CUDA's limits"
        raise ValueError(msg)
    return (blocks, min(max(1, int(n_rows)), MAX_BLOCKS_Y), 1), (block_threads, 1, 1)


def words_of(ngroups):
    """Count the words that hold a flag of ``ngroups`` groups."""
    return -(-ngroups // WORD_GROUPS)
