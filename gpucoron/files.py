"""Write files atomically and compute their digests."""

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from gpucoron.errors import ArgumentError, OutputError

#: the path of one file or folder; and of one or several
AnyPath: TypeAlias = str | Path
Paths: TypeAlias = AnyPath | Sequence[AnyPath]
#: messages of astropy and NumPy about a full disk, which have no errno
_FULL = re.compile(r"Not enough space on disk|\d+ requested and \d+ written")


@contextmanager
def appearing(*paths, replace=True):
    """Create several files of one folder together at the end of the block, or none of them.

    Parameters
    ----------
    *paths : str or Path
        Final paths; their folder is created if it does not exist.
    replace : bool
        Replace existing files. Otherwise, if one of the files exists at the end of the block, none is created.

    Yields
    ------
    list of Path
        Temporary paths to write to.

    Raises
    ------
    OSError
        The folder cannot be created or written to.
    FileExistsError
        A file exists and must not be replaced; its ``filename`` is the path.
    """
    paths = [Path(path) for path in paths]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".gpucoron-") as folder:
        drafts = [Path(folder) / path.name for path in paths]
        yield drafts
        if not replace:
            _link(drafts, paths)
            return
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)


def _link(drafts, paths):
    """Give files their final names, or none of them if one exists. Other processes may do the same."""
    done = []
    try:
        for draft, path in zip(drafts, paths, strict=True):
            _link_one(draft, path)
            done.append(path)
    except OSError:
        for path in done:
            path.unlink()
        raise


def _link_one(draft, path):
    try:
        os.link(draft, path)
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(draft, path)  # the file system has no hard links


def list_tree(folder):
    """Yield the paths of all files below a folder, sorted; linked folders are followed, hidden ones are not.

    Parameters
    ----------
    folder : str or Path

    Yields
    ------
    str
    """
    seen = set()
    for where, subfolders, names in os.walk(folder, followlinks=True):
        # a link may point to a folder above itself
        if os.path.realpath(where) in seen:
            subfolders[:] = []
            continue
        seen.add(os.path.realpath(where))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (os.path.join(where, name) for name in sorted(names))


def check_is_path(folder):
    """Raise an ArgumentError if the argument ``output_dir`` is not a path. Nothing is written."""
    if not isinstance(folder, str | os.PathLike):
        msg = f"output_dir: expected the path of a folder, got {folder!r}"
        raise ArgumentError(msg)


def check_folder(folder):
    """Check that files can be written to a folder, or that it can be created. Nothing is created.

    Parameters
    ----------
    folder : str or Path

    Raises
    ------
    OutputError
    """
    nearest = Path(os.path.abspath(folder))
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = "it is a file" if nearest == Path(os.path.abspath(folder)) and nearest.is_file() else error.strerror
        msg = f"{folder}: cannot write in this folder ({reason}); choose another output folder"
        raise OutputError(msg) from None


def write_whole(path, write):
    """Write a file atomically: completely or not at all.

    Parameters
    ----------
    path : str or Path
        Its folder is created if it does not exist.
    write : callable
        Called as ``write(file)`` with a binary file.

    Raises
    ------
    OutputError
        The folder cannot be created or written to, or the disk is full.
    """
    with writing(path), appearing(path) as (draft,), draft.open("wb") as file:
        write(file)


@contextmanager
def writing(path):
    """Convert an OSError of the block, which writes a file, into an OutputError that names the file.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    OutputError
        The folder cannot be created or written to, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            msg = f"{path}: the disk is full ({first_line(error)}); free disk space, or choose another folder"
        else:
            msg = f"{path}: could not be written ({error.strerror or error}); choose another folder"
        raise OutputError(msg) from error


def is_disk_full(error):
    """Return whether an exception means that the disk is full: by its number, or by the words of astropy or NumPy."""
    while isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(error)):
            return True
        # astropy raises another OSError while it handles the first one
        error = error.__cause__ or error.__context__
    return False


def file_digest(path, algorithm="sha256"):
    """Return the digest of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def first_line(error):
    """Return the first line of an exception's message, or its class name if it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def on_one_line(text):
    """Escape control characters and line breaks of a text, for example in file names, so that it prints as one line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def read_at(file, into, start):
    """Fill an array with the bytes of an open file from ``start`` on; threads may share the file.

    Returns
    -------
    int
        Bytes that were read: fewer than those of the array only if the file ends.
    """
    view, done = memoryview(into).cast("B"), 0
    while done < len(view):
        n_bytes = os.preadv(file.fileno(), [view[done:]], start + done)
        if n_bytes == 0:
            break
        done += n_bytes
    return done
