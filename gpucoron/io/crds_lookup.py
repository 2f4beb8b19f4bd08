"""Look up the CRDS context, and the reference files that its rules select for an exposure.

CRDS prints tracebacks for failed look-ups, thousands of lines if the context does not exist. Therefore this module
loads the rules before each look-up, and raises one error with the cause if that fails.
"""

import logging
import os
from contextlib import contextmanager
from pathlib import Path

from gpucoron.errors import ReferenceFileError
from gpucoron.files import first_line

#: number of contexts that a message lists
_LISTED = 3


def crds_context():
    """Return the CRDS context and the CRDS software version of look-ups; download its rules if necessary.

    Raises
    ------
    ReferenceFileError
        CRDS has neither a server nor a cache, or the context does not exist.
    """
    import crds
    from crds.core import heavy_client

    with _muted_crds_errors():
        try:
            mode, context = heavy_client.get_processing_mode("jwst")
        except (Exception, SystemExit) as error:  # CRDS exits if it finds no configuration
            reason = "it finds neither a server nor a cache" if isinstance(error, SystemExit) else first_line(error)
            msg = f"CRDS cannot determine its context: {reason}; {_advice()}"
            raise ReferenceFileError(msg) from None
        if mode != "remote":  # a remote server evaluates the rules itself
            _load_context(context)
    return context, crds.__version__


def look_up(parameters, reftypes, owner):
    """Find the files that the CRDS rules select for an exposure; download those missing in the cache.

    Parameters
    ----------
    parameters : dict
        The metadata of the exposure, from ``get_crds_parameters`` of a datamodel.
    reftypes : iterable of str
    owner : str
        Name of the exposure, for messages.

    Returns
    -------
    paths : dict
        reference type -> path, or 'N/A' if the rules exclude the exposure.
    unmatched : dict
        reference type -> reason: the context does not have the type, or no rule matches.

    Raises
    ------
    ReferenceFileError
        The rules cannot be read, or select a file that is not in the cache and cannot be downloaded.
    """
    reftypes = sorted(set(reftypes))
    if not reftypes:
        return {}, {}
    import crds

    context, _version = crds_context()
    with _muted_crds_errors():
        try:
            _load_rules(context, parameters, reftypes)
            names = crds.getrecommendations(parameters, reftypes=reftypes, observatory="jwst")
        except ReferenceFileError:
            raise
        except _MissingRulesError as error:
            msg = f"{owner}: {error}; {_advice()}"
            raise ReferenceFileError(msg) from None
        except Exception as error:  # CRDS raises various errors for the same cause
            msg = f"{owner}: CRDS cannot select the references {', '.join(reftypes)} ({first_line(error)}); {_advice()}"
            raise ReferenceFileError(msg) from None
    paths, unmatched, selected = {}, {}, {}
    for reftype in reftypes:
        name = names.get(reftype, "N/A")  # CRDS omits types that the rules exclude
        if "N/A" in name.upper():
            paths[reftype] = "N/A"
        elif name.startswith("NOT FOUND"):
            unmatched[reftype] = name.removeprefix("NOT FOUND").strip()
        else:
            selected[reftype] = name
            paths[reftype] = crds.locate_file(name, "jwst")
    absent = [reftype for reftype in selected if not os.path.exists(paths[reftype])]
    if absent:
        paths |= _fetch(parameters, {reftype: selected[reftype] for reftype in absent}, owner, context)
    return paths, unmatched


def _fetch(parameters, selected, owner, context):
    """Download the selected files (reference type -> name); return reference type -> path."""
    import crds

    with _muted_crds_errors():
        try:
            paths = crds.getreferences(parameters, reftypes=list(selected), observatory="jwst")
            cause = None
        except Exception as error:
            paths, cause = {}, error
    absent = [
        name
        for reftype, name in selected.items()
        if not ("://" in paths.get(reftype, "") or os.path.exists(paths.get(reftype, "")))
    ]
    if absent:
        reason = f" ({first_line(cause)})" if cause else ""
        msg = (
            f"{owner}: {', '.join(absent)} of the context {context}: not in the cache, and the download "
            f"failed{reason}; {_advice()}"
        )
        if any(reftype.startswith("pars-") for reftype in selected):
            msg += "; or disable CRDS parameter files: --no-pars (use_pars=False)"
        raise ReferenceFileError(msg) from None
    return paths


def _load_context(context):
    """Return the rules of a context; download them if necessary."""
    from crds.core import heavy_client

    try:
        return _or_fetched(context, lambda: heavy_client.get_symbolic_mapping(context))
    except Exception as error:
        folder = _mappings_folder()
        cached = sorted(path.name for path in folder.glob("*.pmap"))
        listed = f"{folder} holds {', '.join(cached[-_LISTED:])}" if cached else f"{folder} holds no context"
        msg = f"CRDS context {context} cannot be read: {first_line(error)}; {listed}; {_advice()}"
        raise ReferenceFileError(msg) from None


def _load_rules(context, parameters, reftypes):
    """Load the rules of an instrument for some types; CRDS would treat missing rules as unknown types."""
    from crds.core import heavy_client
    from crds.core.exceptions import CrdsUnknownReftypeError, IrrelevantReferenceTypeError, OmitReferenceTypeError

    if heavy_client.get_processing_mode("jwst")[0] == "remote":
        return
    instrument = {key.lower(): value for key, value in parameters.items()}["meta.instrument.name"]
    rules = _or_fetched(context, lambda: _load_context(context).get_imap(instrument))
    for reftype in reftypes:
        try:
            _or_fetched(context, lambda reftype=reftype: rules.get_rmap(reftype))
        except (CrdsUnknownReftypeError, IrrelevantReferenceTypeError, OmitReferenceTypeError):
            continue


class _MissingRulesError(Exception):
    """Rules of a context are neither in the cache nor on the server."""


def _or_fetched(context, load):
    """Load rules; if they are not in the cache, download all rules of the context, as CRDS does."""
    from crds.client import api

    try:
        return load()
    except OSError as error:
        missing = Path(getattr(error, "filename", None) or str(error)).name
    try:
        api.dump_mappings(context)
        return load()
    except Exception as error:
        subject = "it is" if missing == context else f"the rules {missing} of the context {context} are"
        msg = f"{subject} not in the cache and cannot be downloaded ({first_line(error)})"
        raise _MissingRulesError(msg) from error


def _mappings_folder():
    from crds.core import config

    return Path(config.locate_mapping("jwst_0000.pmap")).parent


@contextmanager
def _muted_crds_errors():
    """Keep the error messages of CRDS out of the log, because the exception contains them."""
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
    cache = path if os.path.isdir(path) else f"{path}, which does not exist"
    if not server:
        return f"set CRDS_SERVER_URL to https://jwst-crds.stsci.edu, or check the cache CRDS_PATH={cache}"
    context = os.environ.get("CRDS_CONTEXT", "the default one")
    return f"check CRDS_PATH ({cache}), CRDS_SERVER_URL ({server}) and CRDS_CONTEXT ({context})"
