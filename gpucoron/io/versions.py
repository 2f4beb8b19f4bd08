"""The versions of other packages with which gpucoron works: the range of each, and what is said outside of it.

A package that is too old is refused before any work; a newer one than the tests have seen gets one warning. Only the
packages' own metadata are read: nothing is imported.
"""

import logging
import re
import shlex
import sys
from functools import lru_cache
from types import MappingProxyType

from gpucoron.errors import VersionError

log = logging.getLogger(__name__)

#: package -> (oldest version, first version that no test has seen, or None), as in pyproject.toml
RANGES = MappingProxyType(
    {
        "jwst": ("2.0", "3.1"),
        "numpy": ("1.26", "3"),
        "scipy": ("1.14.1", None),
        "astropy": ("6.1", None),
        "crds": ("12.0.3", None),
    }
)

#: the jwst whose answers our own steps give, whichever is installed
ANSWERS_AS = "3.0"


def installed(package):
    """Give the version of an installed package; None where there is none."""
    from importlib.metadata import PackageNotFoundError, version  # takes longer than all else here

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe(package):
    """Say whether a package is within its range.

    Returns
    -------
    usable : bool
        Whether gpucoron can run with it.
    remark : str
        What is wrong and the way out; empty within the range.
    """
    oldest, beyond = RANGES[package]
    found = installed(package)
    wanted = f"{package}>={oldest}" + (f",<{beyond}" if beyond else "")
    way_out = f"{shlex.quote(sys.executable)} -m pip install '{wanted}'"
    if found is None:
        return False, f"{package} is not installed, gpucoron needs {wanted}: {way_out}"
    if _numbers(found) < _numbers(oldest):
        return False, f"{package} {found} is installed, gpucoron needs {wanted}: {way_out}"
    if beyond and _numbers(found) >= _numbers(beyond):
        return True, f"{package} {found} is newer than gpucoron has been tested with ({wanted}); if in doubt: {way_out}"
    return True, ""


def is_older(package, than):
    """Tell whether the installed version of a package comes before another one."""
    return _numbers(installed(package) or "0") < _numbers(than)


@lru_cache(maxsize=1)
def check_versions():
    """Refuse packages that are too old, and warn of those that are too new; a second call does nothing.

    Raises
    ------
    VersionError
        It names every package that is missing or too old, what is needed, and the command that mends it.
    """
    remarks = [describe(package) for package in RANGES]
    wrong = [remark for usable, remark in remarks if not usable]
    if wrong:
        raise VersionError("; ".join(wrong))
    for _usable, remark in remarks:
        if remark:
            log.warning("%s", remark)


def _numbers(text):
    """Give the numbers of a release, so that they can be compared: '2.0.1rc1' -> (2, 0, 1)."""
    release = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(number) for number in release.group().split(".")] if release else []
    while numbers and numbers[-1] == 0:  # 2.0 is 2
        numbers.pop()
    return tuple(numbers)
