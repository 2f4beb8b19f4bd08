"""What spaceKLIP needs of other packages and newer ones no longer have: put back where it is absent, told where not.

spaceKLIP 2.2 was read name by name against its dependencies of 2026 (jwst 2.0.1 and 3.0, NumPy 1.26 and 2.3, pysiaf
0.25 and 0.29). Three names are gone; they are all in `REPAIRS`. Data that its dependencies download when they are
imported is never made up: `find_missing` tells what is not there, and how to get it.
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

log = logging.getLogger(__name__)

#: where stpsf looks for its data without STPSF_PATH
_STPSF_DEFAULT = Path("data", "stpsf-data")
_VEGA = Path("calspec", "alpha_lyr_stis_011.fits")


@dataclass(frozen=True)
class Preparation:
    """What `prepare_spaceklip` did.

    Attributes
    ----------
    restored : tuple of str
        The names that were put back, now or by an earlier call, and why.
    missing : tuple of str
        What spaceKLIP will not run without, and the way to get it. Empty: everything is there.
    """

    restored: tuple = ()
    missing: tuple = ()

    def __str__(self):
        restored = [f"restored: {line}" for line in self.restored] or ["nothing had to be restored"]
        return "\n".join([*restored, *(f"missing: {line}" for line in self.missing)])


def prepare_spaceklip():
    """Set right what keeps spaceKLIP 2.2 from running with today's packages.

    Call it before ``import spaceKLIP``. What is there is never changed, a second call does nothing, and spaceKLIP
    itself is neither changed nor imported. Put back are

    - ``stpipe.log``: stpipe made it private in its 1.0, which jwst 2.0 and 3.0 come with. spaceKLIP's
      ``create_database`` calls ``stpipe.log.load_configuration`` for every NIRCam coronagraph and fails with an
      AttributeError. In the last releases that had it, the call returned an object and changed nothing; so does this
      one.
    - ``numpy.alltrue``: NumPy 2.0 dropped it for ``numpy.all``. spaceKLIP calls it in ``fnoise_clean``.
    - ``pysiaf.prd_list``: pysiaf makes it from a page of GitHub while it is imported, and has none where the page
      could not be read or has changed. ``ImageTools.update_nircam_centers`` needs it. It becomes the list of the
      versions that the installed pysiaf holds.

    Returns
    -------
    Preparation
        What was restored, and what is missing: packages that do not go together, and data that spaceKLIP's
        dependencies would download when they are imported. Both are logged, the missing as warnings.
    """
    restored = tuple(f"{name}: {why}" for name, why, repair in REPAIRS if repair())
    preparation = Preparation(restored, tuple(find_missing()))
    for line in preparation.restored:
        log.info("spaceKLIP: restored %s", line)
    for line in preparation.missing:
        log.warning("spaceKLIP: missing: %s", line)
    return preparation


def find_missing():
    """List what spaceKLIP will not run without and is not here, each with the way to get it.

    Nothing is imported that downloads.
    """
    yield from _missing_packages()
    yield from _missing_data()


def _missing_packages():
    for name, advice in _PACKAGES.items():
        if not _is_there(name):
            yield f"the package {name}: {advice}"
    spec = importlib.util.find_spec("spaceKLIP")
    if spec is not None and spec.origin and not Path(spec.origin).with_name("xara").is_dir():
        yield (
            f"spaceKLIP.xara, a folder that 'pip install' of spaceKLIP 2.2 leaves out ({spec.origin}): install it from "
            "a checkout with 'pip install --no-deps -e CHECKOUT'"
        )
    numpy, pyklip = (_version(name) for name in ("numpy", "pyklip"))
    if pyklip >= (2, 10, 1) and numpy < (2, 1):
        yield (
            "a pyKLIP that goes with this NumPy: 2.10.1 calls numpy.reshape(copy=...), which came with NumPy 2.1: "
            "pip install 'pyklip<2.10.1' or, where spaceKLIP is not held to NumPy 1, 'numpy>=2.1'"
        )
    if _is_there("pyarrow"):
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            yield f"a pyarrow that goes with this NumPy ({error}): pip install 'pyarrow<24'"


_PACKAGES = {
    "spaceKLIP": "git clone https://github.com/spacetelescope/spaceKLIP, then pip install --no-deps -e spaceKLIP",
    "mocapy": "pip install --no-deps git+https://github.com/jgagneastro/mocapy.git (spaceKLIP.psflib imports it)",
    "webbpsf_ext": "pip install webbpsf_ext",
    "stpsf": "pip install stpsf",
    "pyklip": "pip install pyklip",
}


def _missing_data():
    """List the data that spaceKLIP's dependencies try to download on import."""
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
    """Give the numbers of an installed package's version; empty where it is not installed."""
    try:
        parts = metadata.version(package).split(".")
    except metadata.PackageNotFoundError:
        return ()
    return tuple(int(part) for part in parts if part.isdigit())


def _is_there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _restore_stpipe_log():
    import stpipe

    if hasattr(stpipe, "log"):
        return getattr(stpipe.log, "restored_by", None) == "gpucoron"
    if _is_there("stpipe.log"):
        return False

    def load_configuration(config_file=None, **_settings):
        """Change nothing, as the last releases of stpipe that had it did."""

    def _find_logging_config_file():
        """Give stpipe's default configuration."""
        return io.BytesIO(b"[*]\nhandler = stderr\nlevel = INFO\n")

    module = ModuleType("stpipe.log", "The part of stpipe.log that spaceKLIP calls.")
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
    if not _is_there("pysiaf"):
        return False
    import pysiaf

    folder = Path(pysiaf.JWST_PRD_DATA_ROOT).parents[2]
    versions = sorted(path.name for path in folder.glob("PRDOPSSOC-*"))
    if not getattr(pysiaf, "prd_list", None):
        pysiaf.prd_list = versions
        return True
    return pysiaf.prd_list == versions


#: name, why it is gone, and what puts it back: true if it is now ours
REPAIRS = (
    ("stpipe.log", "private since stpipe 1.0; create_database calls it", _restore_stpipe_log),
    ("numpy.alltrue", "dropped by NumPy 2.0; fnoise_clean calls it", _restore_alltrue),
    ("pysiaf.prd_list", "not made without GitHub; update_nircam_centers reads it", _restore_prd_list),
)
