"""The files of a CRDS cache: list and check them, and remove references that the user names.

The cache is shared with jwst and other tools. Only files below ``references/jwst`` are ever removed; rules (mappings)
and the configuration stay.
"""

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from gpucoron.errors import OutputError, ParameterError, ReferenceFileError
from gpucoron.files import first_line, list_tree

#: instrument and type in the name of a reference, such as jwst_nircam_dark_0123.fits
_REFERENCE = re.compile(r"jwst_([a-z0-9]+)_([a-z0-9-]+)_\w+\.[a-z0-9]+")
_RULES = (".pmap", ".imap", ".rmap")


@dataclass(frozen=True)
class CachedFile:
    """A file of the CRDS cache.

    Attributes
    ----------
    path : Path
    kind : {'reference', 'rules', 'configuration'}
    instrument, reftype : str
        From the name of a reference; 'other' if it is no name of CRDS.
    n_bytes : int
    """

    path: Path
    kind: str
    instrument: str
    reftype: str
    n_bytes: int


def cache_folders():
    """Return the folders of the cache by the settings of CRDS: kind of file -> Path, whether they exist or not."""
    from crds.core import config

    return {
        "reference": Path(config.get_crds_refpath("jwst")),
        "rules": Path(config.get_crds_mappath("jwst")),
        "configuration": Path(config.get_crds_cfgpath("jwst")),
    }


def list_files():
    """List the files of the cache.

    Returns
    -------
    tuple of CachedFile
        Sorted by kind, instrument, type and name.
    """
    found = []
    for kind, folder in cache_folders().items():
        for path in map(Path, list_tree(folder)):
            if kind == "rules" and path.suffix not in _RULES:
                continue
            named = _REFERENCE.fullmatch(path.name) if kind == "reference" else None
            instrument, reftype = ("other", "other") if named is None else named.groups()
            try:
                n_bytes = path.stat().st_size
            except OSError:  # a broken link, or a file that another process has removed
                n_bytes = 0
            found.append(CachedFile(path, kind, instrument, reftype, n_bytes))
    return tuple(sorted(found, key=lambda file: (file.kind, file.instrument, file.reftype, file.path.name)))


def find_damaged_rules(files):
    """Find damaged rules: each file holds the SHA-1 of its other lines.

    Parameters
    ----------
    files : iterable of CachedFile

    Returns
    -------
    dict
        path -> message with the damage and the way out.
    """
    from crds.core import rmap

    damaged = {}
    for file in files:
        try:
            rmap.Mapping.from_file(str(file.path))
        except Exception as error:  # a damaged file can raise almost anything
            damaged[str(file.path)] = (
                f"{file.path}: the rules are damaged: {first_line(error)}; delete the file, so that CRDS "
                "downloads it again"
            )
    return damaged


def choose_references(files, chosen):
    """Choose references by name, pattern, type or instrument.

    Parameters
    ----------
    files : iterable of CachedFile
    chosen : sequence of str
        Names of files ('jwst_nircam_dark_0123.fits'), patterns of names ('jwst_nircam_*'), types of an instrument
        ('nircam/dark'), or instruments ('nircam').

    Returns
    -------
    tuple of CachedFile

    Raises
    ------
    ParameterError
        One of them fits no reference in the cache.
    """
    references = [file for file in files if file.kind == "reference"]
    kept = {}
    for text in chosen:
        fitting = [file for file in references if _fits(file, text)]
        if not fitting:
            known = sorted({f"{file.instrument}/{file.reftype}" for file in references})
            listed = f"the cache holds {', '.join(known)}" if known else "the cache holds no references"
            forms = "give a name, a pattern, INSTRUMENT or INSTRUMENT/TYPE"
            msg = f"{text}: fits no reference in the cache; {forms}; {listed}"
            raise ParameterError(msg)
        kept |= {file.path: file for file in fitting}
    return tuple(kept.values())


def _fits(file, text):
    labels = (file.path.name, file.instrument, f"{file.instrument}/{file.reftype}")
    return text.lower() in labels[1:] or fnmatchcase(file.path.name, text)


def check_removable(files):
    """Refuse to remove references that are links or lie outside of the cache, or that this user must not remove.

    Raises
    ------
    ReferenceFileError
        A file is a link, or in a linked folder.
    OutputError
        The cache is read-only, or the folder of a file is not writable.
    """
    folder = cache_folders()["reference"]
    # the folder of the cache itself may be a link
    inside = Path(os.path.realpath(folder))
    linked = [file for file in files if Path(os.path.realpath(file.path)) != inside / file.path.relative_to(folder)]
    if linked:
        first = linked[0].path
        msg = (
            f"{first}: a link to {os.path.realpath(first)}, outside of this place in the cache; nothing was removed: "
            "remove it yourself, or name other files"
        )
        raise ReferenceFileError(msg)
    if os.environ.get("CRDS_READONLY_CACHE", "0").lower() in ("1", "true", "yes"):
        msg = f"{folder}: CRDS_READONLY_CACHE protects the cache; nothing was removed: unset it to remove references"
        raise OutputError(msg)
    for parent in {file.path.parent for file in files}:
        if not os.access(parent, os.W_OK | os.X_OK):
            msg = f"{parent}: not writable; nothing was removed: ask its owner, or use your own CRDS_PATH"
            raise OutputError(msg)


def remove_references(files):
    """Remove references, each as a whole. A process that is reading one keeps it until it closes it.

    Parameters
    ----------
    files : sequence of CachedFile
        See `choose_references`.

    Returns
    -------
    (int, int)
        Number and bytes of the files that were removed.

    Raises
    ------
    ReferenceFileError, OutputError
        See `check_removable`; nothing was removed. Or a file could not be removed, and the message names it.
    """
    check_removable(files)
    count = n_bytes = 0
    for file in files:
        try:
            file.path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
        except OSError as error:
            msg = f"{file.path}: could not be removed ({error.strerror}); {count} other files were removed before"
            raise OutputError(msg) from error
        count, n_bytes = count + 1, n_bytes + file.n_bytes
    return count, n_bytes
