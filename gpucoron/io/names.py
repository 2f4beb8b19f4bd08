"""How products are called: after their input, whose own suffix goes, as jwst's pipelines name theirs."""

import re
from functools import cache
from pathlib import Path

from gpucoron.steps import STEPS


def split_name(name):
    """Split the name of an exposure's file from the suffix by which it tells what was done to it.

    Parameters
    ----------
    name : str or Path
        ``x_uncal.fits``, ``x_jump.fits``, ``x_uncal.fits.gz``, ...; its folder does not count.

    Returns
    -------
    stem : str
        ``x``.
    separator : str
        What stood before the suffix, '_' or '-': products are named alike.

    Notes
    -----
    Source: jwst 3.0, ``lib.suffix`` and stpipe's ``_make_output_path``. Beyond that, ``.gz`` goes before ``.fits``, and
    the names of our own steps are suffixes too.
    """
    path = Path(name)
    if path.suffix in (".gz", ".bz2", ".xz"):
        path = path.with_suffix("")
    return remove_suffix(path.stem)


def remove_suffix(stem):
    """Take a known suffix off a name without an ending: the rest, and what stood between them."""
    found = _suffix().fullmatch(stem)
    return (stem, "_") if found is None else (found["root"], found["separator"])


@cache
def _suffix():
    from jwst.lib.suffix import KNOW_SUFFIXES

    known = {*KNOW_SUFFIXES, *STEPS}
    return re.compile(rf"(?P<root>.+?)(?P<separator>[_-])(?:{'|'.join(map(re.escape, known))})", re.DOTALL)
