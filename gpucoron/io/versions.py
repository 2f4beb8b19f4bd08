"""The versions of other packages that gpucoron supports.

A package that is too old is refused before any work. A version newer than the tested ones causes one warning. Only the
metadata of the packages are read; nothing is imported.
"""

import logging
import re
import shlex
import sys
from functools import cache, lru_cache
from types import MappingProxyType

from gpucoron.errors import VersionError

log = logging.getLogger(__name__)

#: package -> (oldest version, first untested version or None), as in pyproject.toml
RANGES = MappingProxyType(
    {
        "jwst": ("2.0", "3.1"),
        "numpy": ("1.26", "3"),
        "scipy": ("1.14.1", None),
        "astropy": ("6.1", None),
        "crds": ("12.0.3", None),
    }
)

#: the version of jwst that the steps reproduce, independent of the installed one
REPRODUCED_JWST = "3.0"


@cache
def installed(package):
    """Return the version of an installed package; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # imported late because it is slow

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe(package):
    """Check whether the version of a package is supported.

    Returns
    -------
    usable : bool
        Whether gpucoron can run with it.
    remark : str
        The problem and the way out; empty if there is none.
    """
    oldest, beyond = RANGES[package]
    found = installed(package)
    supported = f"{package}>={oldest}" + (f",<{beyond}" if beyond else "")
    way_out = f"{shlex.quote(sys.executable)} -m pip install '{supported}'"
    if found is None:
        return False, f"{package} is not installed, gpucoron needs {supported}: {way_out}"
    if _numbers(found) < _numbers(oldest):
        return False, f"{package} {found} is installed, gpucoron needs {supported}: {way_out}"
    if beyond and _numbers(found) >= _numbers(beyond):
        return True, f"{package} {found} is newer than the tested versions ({supported}); if in doubt: {way_out}"
    return True, ""


@lru_cache(maxsize=1)
def check_versions():
    """Refuse packages that are too old, and warn of those that are too new; only the first call has an effect.

    Raises
    ------
    VersionError
        It names every package that is missing or too old, the supported versions, and the command to install them.
    """
    remarks = [describe(package) for package in RANGES]
    refused = [remark for usable, remark in remarks if not usable]
    if refused:
        raise VersionError("; ".join(refused))
    for _usable, remark in remarks:
        if remark:
            log.warning("%s", remark)


def _numbers(text):
    """Return the numbers of a version for comparison: '2.0.1rc1' -> (2, 0, 1)."""
    release = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(number) for number in release.group().split(".")] if release else []
    while numbers and numbers[-1] == 0:  # 2.0 is 2
        numbers.pop()
    return tuple(numbers)
