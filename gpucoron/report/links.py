"""The files that a report links to: the log and the products of each exposure."""

import os
from pathlib import Path
from urllib.parse import quote

#: below the address of a served report: the files that its page links to
SERVED = "files"


def linked_files(record, folder):
    """List the log and the products of an exposure that exist in the folder of its record.

    Parameters
    ----------
    record : dict
        A record of a manifest; any field may be missing.
    folder : str or Path

    Returns
    -------
    list of (str, str)
        Label ('log', or the kind of the product) and path relative to the folder. Products elsewhere are left out, so
        that a manifest cannot refer to other files.
    """
    names = {"log": f"logs/{Path(str(record.get('exposure'))).name}.log"}
    outputs = record.get("outputs")
    if isinstance(outputs, dict):
        names |= {str(kind): name for kind, name in outputs.items() if _is_inside(name)}
    return [(label, name) for label, name in names.items() if (Path(folder) / name).is_file()]


def links_of(record, folder, page, serve=""):
    """List the links of an exposure, as the page shows them.

    Parameters
    ----------
    record : dict
        A record of a manifest; any field may be missing.
    folder : str or Path
        Folder of the products.
    page : str or Path
        Path of the page, to which the addresses are relative.
    serve : str, optional
        Address below which the report is served: then the addresses are absolute.

    Returns
    -------
    list of [str, str]
        Label and address.
    """
    start = Path(page).absolute().parent
    links = []
    for label, name in linked_files(record, folder):
        if serve:
            links.append([label, f"{serve}/{SERVED}/{quote(name)}"])
        else:
            # "./" so that a colon in a name does not end a scheme
            relative = Path(os.path.relpath(Path(folder).absolute() / name, start)).as_posix()
            links.append([label, quote(relative if relative.startswith("../") else f"./{relative}")])
    return links


def _is_inside(name):
    """Return whether a name is a path below the folder, without a way out."""
    if not isinstance(name, str) or not name or "\0" in name or os.path.isabs(name):
        return False
    return ".." not in Path(name).parts
