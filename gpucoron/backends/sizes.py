"""The parser of memory sizes, for Python and the command line."""

import numbers
import re

from gpucoron.errors import ArgumentError

_UNITS = {"": 1, **{letter: 1000**power for power, letter in enumerate("KMGT", start=1)}}
_UNITS |= {f"{letter}I": 1024**power for power, letter in enumerate("KMGT", start=1)}
_TEXT = re.compile(r"\s*([\d.]+(?:E[+-]?\d+)?)\s*([KMGT]?I?)(?:B|BYTES)?\s*", re.IGNORECASE)
#: larger sizes are refused as mistakes
_LIMIT = 10**18


def memory_size(size, name="max_memory"):
    """Convert a size of memory to bytes.

    Parameters
    ----------
    size : str, int, float or None
        '4G', '4GB', '500M', '4 GiB', '4e9', or a number of bytes. K, M, G and T are powers of 1000, KiB, MiB, GiB and
        TiB of 1024, in upper or lower case. None, for no limit, is returned unchanged.
    name : str
        Name of the parameter in the error message.

    Returns
    -------
    int or None

    Raises
    ------
    ArgumentError
        It is not a size, or not between 1 byte and 10^18.
    """
    if size is None:
        return None
    n_bytes = None
    if isinstance(size, str):
        match = _TEXT.fullmatch(size)
        if match and match[2].upper() in _UNITS:
            n_bytes = _number(match[1], _UNITS[match[2].upper()])
    # bool is a Real too
    elif isinstance(size, numbers.Real) and not isinstance(size, bool):
        n_bytes = size
    if n_bytes is None or not 1 <= n_bytes < _LIMIT:  # also refuses NaN
        msg = f"{name}: expected a size such as '4G', '500M', '4 GiB' or a positive number of bytes, got {size!r}"
        raise ArgumentError(msg)
    return int(n_bytes)


def _number(text, factor):
    try:
        return float(text) * factor
    except ValueError:
        return None
