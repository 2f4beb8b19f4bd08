"""The names of products: the name of the input with another suffix, as in jwst's pipelines."""

import re
from functools import cache
from pathlib import Path

from gpucoron.steps import STEPS


def split_name(name):
    """Split the name of an exposure from the suffix of its processing stage.

    Parameters
    ----------
    name : str or Path
        ``x_uncal.fits``, ``x_jump.fits``, ``x_uncal.fits.gz``, ...; its folder is ignored.

    Returns
    -------
    stem : str
        ``x``.
    separator : str
        The character before the suffix, '_' or '-', also used in the names of the products.

    Notes
    -----
    Source: jwst 3.0, ``lib.suffix`` and stpipe's ``_make_output_path``. In addition, ``.gz`` is removed, and the
    names of our own steps are also suffixes.
    """
    path = Path(name)
    if path.suffix in (".gz", ".bz2", ".xz"):
        path = path.with_suffix("")
    return remove_suffix(path.stem)


def remove_suffix(stem):
    """Remove a known suffix from a name without extension; return the rest and the separator."""
    found = _suffix().fullmatch(stem)
    return (stem, "_") if found is None else (found["root"], found["separator"])


@cache
def _suffix():
    from jwst.lib.suffix import KNOW_SUFFIXES

    known = {*KNOW_SUFFIXES, *STEPS}
    return re.compile(rf"(?P<root>.+?)(?P<separator>[_-])(?:{'|'.join(map(re.escape, known))})", re.DOTALL)
