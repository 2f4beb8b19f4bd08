"""Files as a whole: written whole or not at all, found whole, told by their digest."""

import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from gpucoron.errors import OutputError


@contextmanager
def appearing(*paths):
    """Let files of one folder appear together under their names, at the end of the block, or none of them.

    Parameters
    ----------
    *paths : str or Path
        Their folder is made if it does not exist.

    Yields
    ------
    list of Path
        Where to write them meanwhile.

    Raises
    ------
    OSError
        The folder cannot be made or written to.
    """
    paths = [Path(path) for path in paths]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".gpucoron-") as folder:
        drafts = [Path(folder) / path.name for path in paths]
        yield drafts
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)


def write_whole(path, write):
    """Write a file so that it appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        Its folder is made if it does not exist.
    write : callable
        Called as ``write(file)`` with a binary file.

    Raises
    ------
    OutputError
        The folder cannot be made or written to, or the disk is full.
    """
    try:
        with appearing(path) as (draft,), draft.open("wb") as file:
            write(file)
    except OSError as error:
        msg = f"{path}: could not be written ({error.strerror or error}); choose another folder, or make room"
        raise OutputError(msg) from error


def file_digest(path, algorithm="sha256"):
    """Digest a file: hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def first_line(error):
    """Give the first line of what an exception says, or its kind."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def on_one_line(text):
    """Write a text so that it stays one line of a terminal: names of files may hold anything."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))
