"""CRDS's cache as a batch needs it: files that are what they should be, and look-ups that open no connection."""

import logging
import os
from pathlib import Path

from gpucoron.files import file_digest, first_line
from gpucoron.io.fits_layout import read_layout

log = logging.getLogger(__name__)

#: "serverless": CRDS opens no connection
_NO_SERVER = "https://jwst-serverless.stsci.edu"


def offline_environment(context):
    """List the variables by which other processes look references up in this cache and context, and nowhere else."""
    environment = {"CRDS_SERVER_URL": _NO_SERVER, "CRDS_CONTEXT": context, "CRDS_READONLY_CACHE": "1"}
    if "CRDS_PATH" in os.environ:
        environment["CRDS_PATH"] = os.environ["CRDS_PATH"]
    return environment


def use_environment(environment):
    """Make this process's CRDS follow such variables, also where it has been used before."""
    if all(os.environ.get(name) == value for name, value in environment.items()):
        return
    os.environ.update(environment)
    from crds.client import api
    from crds.core import config, utils

    config.CRDS_REF_SUBDIR_MODE = "None"  # CRDS's word for: look again
    api.set_crds_server(environment["CRDS_SERVER_URL"])
    utils.clear_function_caches()


def find_damaged(paths):
    """Look for reference files that are not what CRDS delivered.

    Size and SHA-1 are compared where CRDS's server tells them; without it, a FITS file must be as long as its own
    headers say.

    Parameters
    ----------
    paths : iterable of str

    Returns
    -------
    dict
        path -> what is wrong with it and what to do.
    """
    paths = sorted({str(path) for path in paths})
    known = _known_to_server([Path(path).name for path in paths])
    damaged = {}
    for path in paths:
        wrong = _what_is_wrong(path, known.get(Path(path).name))
        if wrong:
            damaged[path] = f"{path}: the reference is damaged: {wrong}; delete it, so that CRDS fetches it again"
    return damaged


def _known_to_server(names):
    """Ask CRDS's server for sizes and checksums: name -> dict; nothing where there is no connection."""
    if not names:
        return {}
    from crds.client import api
    from crds.core import heavy_client

    try:
        if not heavy_client.get_config_info("jwst").connected:
            return {}
        answers = api.get_file_info_map("jwst", files=names, fields=["size", "sha1sum"])
    except Exception as error:  # the look-up itself went well: the check is all that is lost
        log.warning("CRDS's server tells no checksums (%s); references are checked by their headers", error)
        return {}
    return {name: answer for name, answer in answers.items() if isinstance(answer, dict)}


def _what_is_wrong(path, known):
    try:
        size = os.path.getsize(path)
        if known:
            if int(known["size"]) != size:
                return f"it has {size} bytes, CRDS's has {known['size']}"
            sha1 = known.get("sha1sum", "none")
            if sha1 not in ("", "none") and file_digest(path, "sha1") != sha1:
                return f"its SHA-1 is not {sha1}, as CRDS says"
        elif path.endswith(".fits"):
            read_layout(Path(path), strict=False)
    except Exception as error:  # a damaged file shows as almost any error
        return first_line(error)
    return ""
