"""Make spaceKLIP 2.2 run with current packages: restore names that they removed, and report missing requirements.

All names that spaceKLIP uses were checked against its dependencies in 2026 (jwst 2.0.1 and 3.0, NumPy 1.26 and 2.3,
pysiaf 0.25 and 0.29). Three no longer exist; `REPAIRS` restores them. Data that its dependencies download on import
cannot be restored: `find_missing` lists them, and says how to get them.
"""

import importlib.util
import io
import logging
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from gpucoron.interactive import public

log = logging.getLogger(__name__)

#: default location of the data of stpsf, without STPSF_PATH
_STPSF_DEFAULT = Path("data", "stpsf-data")
_VEGA = Path("calspec", "alpha_lyr_stis_011.fits")


@dataclass(frozen=True)
class Preparation:
    """The result of `prepare_spaceklip`.

    Attributes
    ----------
    restored : tuple of str
        The names that were restored, now or by an earlier call, and the reasons.
    missing : tuple of str
        Requirements of spaceKLIP that are missing, and how to get them.
    """

    restored: tuple = ()
    missing: tuple = ()

    def __str__(self):
        restored = [f"restored: {line}" for line in self.restored] or ["nothing had to be restored"]
        return "\n".join([*restored, *(f"missing: {line}" for line in self.missing)])


@public
def prepare_spaceklip() -> Preparation:
    """Restore names of other packages that spaceKLIP 2.2 needs, and report missing requirements.

    Call this before ``import spaceKLIP``. Existing names are never changed, a second call has no effect, and spaceKLIP
    itself is neither changed nor imported. These names are restored:

    - ``stpipe.log``: private since stpipe 1.0, which jwst 2.0 and 3.0 require. spaceKLIP's ``create_database`` calls
      ``stpipe.log.load_configuration`` for every NIRCam coronagraph, and fails with an AttributeError. In the last
      releases with this function, it returned an object and changed nothing; so does the restored one.
    - ``numpy.alltrue``: removed in NumPy 2.0 in favour of ``numpy.all``. spaceKLIP calls it in ``fnoise_clean``.
    - ``pysiaf.prd_list``: pysiaf creates it on import from a page on GitHub, unless the page cannot be read or has
      changed. ``ImageTools.update_nircam_centers`` needs it. The restored list holds the versions in the installed
      pysiaf.

    Returns
    -------
    Preparation
        The restored names, and the missing requirements: incompatible packages, and data that the dependencies of
        spaceKLIP would download on import. Both are logged, missing requirements as warnings.
    """
    restored = tuple(f"{name}: {why}" for name, why, repair in REPAIRS if repair())
    preparation = Preparation(restored, tuple(find_missing()))
    for line in preparation.restored:
        log.info("spaceKLIP: restored %s", line)
    for line in preparation.missing:
        log.warning("spaceKLIP: missing: %s", line)
    return preparation


def find_missing():
    """Yield the missing requirements of spaceKLIP, and how to get them; import nothing that downloads data."""
    yield from _missing_packages()
    yield from _missing_data()


def _missing_packages():
    for name, advice in _PACKAGES.items():
        if not _is_installed(name):
            yield f"the package {name}: {advice}"
    spec = importlib.util.find_spec("spaceKLIP")
    if spec is not None and spec.origin and not Path(spec.origin).with_name("xara").is_dir():
        yield (
            f"spaceKLIP.xara, a folder that 'pip install' of spaceKLIP 2.2 omits ({spec.origin}): install it from "
            "a checkout with 'pip install --no-deps -e CHECKOUT'"
        )
    numpy, pyklip = (_version(name) for name in ("numpy", "pyklip"))
    if pyklip >= (2, 10, 1) and numpy < (2, 1):
        yield (
            "a pyKLIP that is compatible with this NumPy: 2.10.1 calls numpy.reshape(copy=...), new in NumPy 2.1: "
            "pip install 'pyklip<2.10.1' or, unless spaceKLIP requires NumPy 1, 'numpy>=2.1'"
        )
    if _is_installed("pyarrow"):
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            yield f"a pyarrow that is compatible with this NumPy ({error}): pip install 'pyarrow<24'"


_PACKAGES = {
    "spaceKLIP": "git clone https://github.com/spacetelescope/spaceKLIP, then pip install --no-deps -e spaceKLIP",
    "mocapy": "pip install --no-deps git+https://github.com/jgagneastro/mocapy.git (spaceKLIP.psflib imports it)",
    "webbpsf_ext": "pip install webbpsf_ext",
    "stpsf": "pip install stpsf",
    "pyklip": "pip install pyklip",
}


def _missing_data():
    """Yield missing data that the dependencies of spaceKLIP would try to download on import."""
    stpsf = os.environ.get("STPSF_PATH")
    if stpsf is None and (Path.home() / _STPSF_DEFAULT).is_dir():
        stpsf = Path.home() / _STPSF_DEFAULT
    if stpsf is None or not (Path(stpsf) / "version.txt").is_file():
        yield (
            f"STPSF's data ({'STPSF_PATH is not set' if stpsf is None else f'no version.txt in {stpsf}'}): get "
            "stpsf-data from https://stpsf.readthedocs.io/en/stable/installation.html, unpack it and set STPSF_PATH to "
            "the folder; without STPSF_PATH, stpsf downloads it to ~/data/stpsf-data when it is imported"
        )
    extension = os.environ.get("WEBBPSF_EXT_PATH")
    cdbs = os.environ.get("PYSYN_CDBS") or (extension and str(Path(extension) / "cdbs"))
    if not cdbs:
        yield (
            "WEBBPSF_EXT_PATH and PYSYN_CDBS: webbpsf_ext fails on import with a TypeError if neither is set; set "
            "WEBBPSF_EXT_PATH to a folder for its coefficients and PYSYN_CDBS to one for the spectra of synphot"
        )
    elif not (Path(cdbs) / _VEGA).is_file():
        yield (
            f"the spectrum of Vega, {Path(cdbs) / _VEGA}: webbpsf_ext downloads it on import; without a network, put "
            f"https://ssb.stsci.edu/trds/{_VEGA.as_posix()} there"
        )


def _version(package):
    """Return the numbers of the version of a package; empty if it is not installed."""
    try:
        parts = metadata.version(package).split(".")
    except metadata.PackageNotFoundError:
        return ()
    return tuple(int(part) for part in parts if part.isdigit())


def _is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _restore_stpipe_log():
    import stpipe

    if hasattr(stpipe, "log"):
        return getattr(stpipe.log, "restored_by", None) == "gpucoron"
    if _is_installed("stpipe.log"):
        return False

    def load_configuration(config_file=None, **_settings):
        """Do nothing, as in the last releases of stpipe with this function."""

    def _find_logging_config_file():
        """Return the default configuration of stpipe."""
        return io.BytesIO(b"[*]\nhandler = stderr\nlevel = INFO\n")

    module = ModuleType("stpipe.log", "The functions of stpipe.log that spaceKLIP calls.")
    module.load_configuration = load_configuration
    module._find_logging_config_file = _find_logging_config_file
    module.restored_by = "gpucoron"
    sys.modules[module.__name__] = stpipe.log = module
    return True


def _restore_alltrue():
    import numpy as np

    name = "alltrue"
    if not hasattr(np, name):
        setattr(np, name, np.all)
    return getattr(np, name) is np.all


def _restore_prd_list():
    if not _is_installed("pysiaf"):
        return False
    import pysiaf

    folder = Path(pysiaf.JWST_PRD_DATA_ROOT).parents[2]
    versions = sorted(path.name for path in folder.glob("PRDOPSSOC-*"))
    if not getattr(pysiaf, "prd_list", None):
        pysiaf.prd_list = versions
        return True
    return pysiaf.prd_list == versions


#: name, why it is missing, function that restores it, and returns whether the name is the restored one
REPAIRS = (
    ("stpipe.log", "private since stpipe 1.0; create_database calls it", _restore_stpipe_log),
    ("numpy.alltrue", "removed in NumPy 2.0; fnoise_clean calls it", _restore_alltrue),
    ("pysiaf.prd_list", "not created without GitHub; update_nircam_centers reads it", _restore_prd_list),
)
