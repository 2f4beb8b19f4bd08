"""The CRDS cache of a batch: find damaged reference files, and make workers look references up offline."""

import logging
import os
from pathlib import Path

from gpucoron.files import file_digest, first_line
from gpucoron.io.fits_layout import read_layout

log = logging.getLogger(__name__)

#: with this address CRDS opens no connection
_NO_SERVER = "https://jwst-serverless.stsci.edu"


def offline_environment(context):
    """Return the environment variables that restrict CRDS in other processes to this cache and context."""
    environment = {"CRDS_SERVER_URL": _NO_SERVER, "CRDS_CONTEXT": context, "CRDS_READONLY_CACHE": "1"}
    if "CRDS_PATH" in os.environ:
        environment["CRDS_PATH"] = os.environ["CRDS_PATH"]
    return environment


def use_environment(environment):
    """Apply these environment variables to CRDS in this process, even if it was used before."""
    if all(os.environ.get(name) == value for name, value in environment.items()):
        return
    os.environ.update(environment)
    from crds.client import api
    from crds.core import config, utils

    config.CRDS_REF_SUBDIR_MODE = "None"  # makes CRDS read the setting again
    api.set_crds_server(environment["CRDS_SERVER_URL"])
    utils.clear_function_caches()


def find_damaged(paths):
    """Find damaged reference files.

    Size and SHA-1 are compared with those of the CRDS server. Without a connection, the size of a FITS file is compared
    with its own headers.

    Parameters
    ----------
    paths : iterable of str

    Returns
    -------
    dict
        path -> message with the damage and the way out.
    """
    paths = sorted({str(path) for path in paths})
    by_name = _file_info_from_server([Path(path).name for path in paths])
    damaged = {}
    for path in paths:
        damage = _find_damage(path, by_name.get(Path(path).name))
        if damage:
            damaged[path] = f"{path}: the reference is damaged: {damage}; delete it, so that CRDS downloads it again"
    return damaged


def _file_info_from_server(names):
    """Return name -> size and checksum from the CRDS server; empty without a connection."""
    if not names:
        return {}
    from crds.client import api
    from crds.core import heavy_client

    try:
        if not heavy_client.get_config_info("jwst").connected:
            return {}
        answers = api.get_file_info_map("jwst", files=names, fields=["size", "sha1sum"])
    except Exception as error:  # the look-up has worked, so the references exist
        log.warning("the CRDS server returns no checksums (%s); references are checked by their headers", error)
        return {}
    return {name: answer for name, answer in answers.items() if isinstance(answer, dict)}


def _find_damage(path, info):
    """Describe the damage of a reference file; '' if there is none."""
    try:
        size = os.path.getsize(path)
        if info:
            if int(info["size"]) != size:
                return f"it has {size} bytes, but {info['size']} in CRDS"
            sha1 = info.get("sha1sum", "none")
            if sha1 not in ("", "none") and file_digest(path, "sha1") != sha1:
                return f"its SHA-1 differs from that in CRDS, {sha1}"
        elif path.endswith(".fits"):
            read_layout(Path(path), strict=False)
    except Exception as error:  # a damaged file can raise almost anything
        return first_line(error)
    return ""
