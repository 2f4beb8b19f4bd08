"""Look-ups in CRDS: the context, and the files that its rules name for an exposure.

CRDS logs a failed look-up and prints its tracebacks, thousands of lines where a context does not exist. Here the rules
are loaded before CRDS is asked for anything, so that every failure is one error that holds its cause.
"""

import logging
import os
from contextlib import contextmanager
from pathlib import Path

from gpucoron.errors import ReferenceFileError
from gpucoron.files import first_line

#: how many of the cache's contexts a message lists
_LISTED = 3


def crds_context():
    """Return (context, CRDS software version) that look-ups use; its rules are in the cache, or are fetched now.

    Raises
    ------
    ReferenceFileError
        CRDS has neither a server nor a cache to take a context from, or there is no such context.
    """
    import crds
    from crds.core import heavy_client

    with _errors_told_once():
        try:
            mode, context = heavy_client.get_processing_mode("jwst")
        except (Exception, SystemExit) as error:  # CRDS itself leaves the process when it finds no configuration
            reason = "it finds neither a server nor a cache" if isinstance(error, SystemExit) else first_line(error)
            msg = f"CRDS cannot tell its context: {reason}; {_advice()}"
            raise ReferenceFileError(msg) from None
        if mode != "remote":  # then the server holds the rules
            _load_context(context)
    return context, crds.__version__


def look_up(about, reftypes, owner):
    """Find the files that CRDS's rules name for an exposure; what the cache lacks is fetched.

    Parameters
    ----------
    about : dict
        The exposure's metadata, as ``get_crds_parameters`` of a datamodel gives them.
    reftypes : iterable of str
    owner : str
        The exposure's name, for messages.

    Returns
    -------
    paths : dict
        reference type -> path, or 'N/A' where the rules say that there is no file.
    unmatched : dict
        reference type -> why the rules say nothing: the context does not know the type, or no rule matches.

    Raises
    ------
    ReferenceFileError
        The rules cannot be read, or name a file that is not in the cache and cannot be fetched.
    """
    reftypes = sorted(set(reftypes))
    if not reftypes:
        return {}, {}
    import crds

    context, _version = crds_context()
    with _errors_told_once():
        try:
            _load_rules(context, about, reftypes)
            names = crds.getrecommendations(about, reftypes=reftypes, observatory="jwst")
        except ReferenceFileError:
            raise
        except _MissingRulesError as error:
            msg = f"{owner}: {error}; {_advice()}"
            raise ReferenceFileError(msg) from None
        except Exception as error:  # CRDS raises OSError, KeyError and errors of its own for one and the same cause
            msg = f"{owner}: CRDS cannot name the references {', '.join(reftypes)} ({first_line(error)}); {_advice()}"
            raise ReferenceFileError(msg) from None
    paths, unmatched, named = {}, {}, {}
    for reftype in reftypes:
        name = names.get(reftype, "N/A")  # a type that the rules omit is not among the answers
        if "N/A" in name.upper():
            paths[reftype] = "N/A"
        elif name.startswith("NOT FOUND"):
            unmatched[reftype] = name.removeprefix("NOT FOUND").strip()
        else:
            named[reftype] = name
            paths[reftype] = crds.locate_file(name, "jwst")
    absent = [reftype for reftype in named if not os.path.exists(paths[reftype])]
    if absent:
        paths |= _fetch(about, {reftype: named[reftype] for reftype in absent}, owner, context)
    return paths, unmatched


def _fetch(about, named, owner, context):
    """Let CRDS fetch the files that its rules name: reference type -> path."""
    import crds

    with _errors_told_once():
        try:
            paths = crds.getreferences(about, reftypes=list(named), observatory="jwst")
            cause = None
        except Exception as error:
            paths, cause = {}, error
    absent = [
        name
        for reftype, name in named.items()
        if not ("://" in paths.get(reftype, "") or os.path.exists(paths.get(reftype, "")))
    ]
    if absent:
        reason = f" ({first_line(cause)})" if cause else ""
        msg = (
            f"{owner}: the context {context} names {', '.join(absent)}, not in the cache and cannot be "
            f"fetched{reason}; {_advice()}"
        )
        if any(reftype.startswith("pars-") for reftype in named):
            msg += "; or leave CRDS's parameter files out with --no-pars (use_pars=False)"
        raise ReferenceFileError(msg) from None
    return paths


def _load_context(context):
    """Give the rules of a context, from the cache or fetched into it."""
    from crds.core import heavy_client

    try:
        return _or_fetched(context, lambda: heavy_client.get_symbolic_mapping(context))
    except Exception as error:
        folder = _mappings_folder()
        there = sorted(path.name for path in folder.glob("*.pmap"))
        held = f"{folder} holds {', '.join(there[-_LISTED:])}" if there else f"{folder} holds none"
        msg = f"CRDS's context {context} cannot be read: {first_line(error)}; {held}; {_advice()}"
        raise ReferenceFileError(msg) from None


def _load_rules(context, about, reftypes):
    """Load the rules of an instrument for some types: CRDS takes missing ones for types that it does not know."""
    from crds.core import heavy_client
    from crds.core.exceptions import CrdsUnknownReftypeError, IrrelevantReferenceTypeError, OmitReferenceTypeError

    if heavy_client.get_processing_mode("jwst")[0] == "remote":
        return
    instrument = {key.lower(): value for key, value in about.items()}["meta.instrument.name"]
    rules = _or_fetched(context, lambda: _load_context(context).get_imap(instrument))
    for reftype in reftypes:
        try:
            _or_fetched(context, lambda reftype=reftype: rules.get_rmap(reftype))
        except (CrdsUnknownReftypeError, IrrelevantReferenceTypeError, OmitReferenceTypeError):
            continue


class _MissingRulesError(Exception):
    """Rules that a context consists of are neither in the cache nor on a server."""


def _or_fetched(context, load):
    """Load rules; where they are not in the cache, fetch those of the whole context, as CRDS itself would."""
    from crds.client import api

    try:
        return load()
    except OSError as error:
        missing = Path(getattr(error, "filename", None) or str(error)).name
    try:
        api.dump_mappings(context)
        return load()
    except Exception as error:
        what = "it is" if missing == context else f"the rules {missing} of the context {context} are"
        msg = f"{what} not in the cache and cannot be fetched ({first_line(error)})"
        raise _MissingRulesError(msg) from error


def _mappings_folder():
    from crds.core import config

    return Path(config.locate_mapping("jwst_0000.pmap")).parent


@contextmanager
def _errors_told_once():
    """Keep CRDS's own reports of errors out of the log: the exception holds them."""
    crds_log = logging.getLogger("CRDS")

    def is_no_error(record):
        return record.levelno < logging.ERROR

    crds_log.addFilter(is_no_error)
    try:
        yield
    finally:
        crds_log.removeFilter(is_no_error)


def _advice():
    path = os.environ.get("CRDS_PATH")
    server = os.environ.get("CRDS_SERVER_URL")
    if not path:
        return "set CRDS_PATH to a cache folder and CRDS_SERVER_URL to https://jwst-crds.stsci.edu"
    what = path if os.path.isdir(path) else f"{path}, which does not exist"
    if not server:
        return f"set CRDS_SERVER_URL to https://jwst-crds.stsci.edu, or check the cache CRDS_PATH={what}"
    context = os.environ.get("CRDS_CONTEXT", "the default one")
    return f"check CRDS_PATH ({what}), CRDS_SERVER_URL ({server}) and CRDS_CONTEXT ({context})"
