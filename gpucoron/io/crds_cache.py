"""Files of the CRDS cache: find damaged ones, and make the workers of a batch look references up offline."""

import logging
import os
from pathlib import Path

from gpucoron.files import file_digest, first_line
from gpucoron.io.fits_layout import check_sums, read_layout

log = logging.getLogger(__name__)

#: with this address CRDS opens no connection
NO_SERVER = "https://jwst-serverless.stsci.edu"


def offline_environment(context):
    """Return the environment variables that restrict CRDS in other processes to this cache and context."""
    environment = {"CRDS_SERVER_URL": NO_SERVER, "CRDS_CONTEXT": context, "CRDS_READONLY_CACHE": "1"}
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


def find_damaged(paths, *, thorough=False, checks=None):
    """Find damaged reference files.

    Size and SHA-1 are compared with those of the CRDS server. Without a connection, the size of a FITS file is compared
    with its own headers.

    Parameters
    ----------
    paths : iterable of str
    thorough : bool
        Without a connection, also read each file to the end: compare the data of a FITS file with its DATASUM, those of
        an ASDF file with its checksums, and parse a JSON file.
    checks : dict, optional
        Filled with path -> what it was checked by.

    Returns
    -------
    dict
        path -> message with the damage and the way out.
    """
    paths = sorted({str(path) for path in paths})
    by_name = _file_info_from_server([Path(path).name for path in paths])
    damaged, checks = {}, {} if checks is None else checks
    for path in paths:
        damage, checks[path] = _find_damage(path, by_name.get(Path(path).name), thorough)
        if damage:
            damaged[path] = (
                f"{path}: the reference is damaged: {damage}; delete it (gpucoron cache clear --references "
                f"{Path(path).name} --yes), so that CRDS downloads it again"
            )
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


def _find_damage(path, info, thorough):
    """Return the damage of a reference file, '' if there is none, and by what it was checked."""
    check = "size and SHA-1 in CRDS"
    try:
        size = os.path.getsize(path)
        if info:
            if int(info["size"]) != size:
                return f"it has {size} bytes, but {info['size']} in CRDS", check
            sha1 = info.get("sha1sum", "none")
            if sha1 not in ("", "none") and file_digest(path, "sha1") != sha1:
                return f"its SHA-1 differs from that in CRDS, {sha1}", check
        elif path.endswith(".fits"):
            check = "headers"
            layout = read_layout(Path(path), strict=False, summed=lambda part: thorough and "DATASUM" in part.cards)
            summed = [part for part in layout.parts if part.found_sum is not None]
            for part in summed:
                check = "headers and checksums"
                check_sums(Path(path), part, part.found_sum)
        elif thorough:
            check = _check_contents(path)
        else:
            check = "presence"
    except Exception as error:  # a damaged file can raise almost anything
        return first_line(error), check
    return "", check


def _check_contents(path):
    """Read a file that is not FITS to the end; return by what it was checked."""
    if path.endswith(".asdf"):
        import warnings

        import asdf

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that only other packages read
            asdf.open(path, validate_checksums=True, lazy_load=False, memmap=False).close()
        return "tree and checksums"
    content = Path(path).read_bytes()
    if path.endswith(".json"):
        import json

        json.loads(content)
        return "syntax"
    if not content:
        msg = "it is empty"
        raise ValueError(msg)
    return "presence"
