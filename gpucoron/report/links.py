"""The files of an exposure that a report links to: its log and its products."""

import os
from pathlib import Path
from urllib.parse import quote

#: below the address of a served report: the files that its page links to
SERVED = "files"


def find_products(folder, record):
    """Return the products of an exposure that exist in a folder: kind -> path.

    The folders of their names are ignored, so that a manifest cannot refer to files elsewhere.
    """
    outputs = record.get("outputs")
    names = {kind: Path(str(name)).name for kind, name in outputs.items()} if isinstance(outputs, dict) else {}
    if record.get("status") == "product":
        names["rateints"] = f"{Path(record['exposure']).name}_rateints.fits"
    return {kind: folder / name for kind, name in names.items() if name and (folder / name).is_file()}


def linked_files(folder, record):
    """List the log and the products of an exposure that exist.

    Parameters
    ----------
    folder : Path
        Folder of the products.
    record : dict
        A record of a manifest; any field except ``exposure`` may be missing.

    Returns
    -------
    list of (str, str)
        Label ('log', or the kind of the product) and path relative to the folder.
    """
    log = f"logs/{Path(record['exposure']).name}.log"
    found = [("log", log)] if (folder / log).is_file() else []
    return [*found, *((kind, path.name) for kind, path in find_products(folder, record).items())]


def links_of(folder, record, page, serve=""):
    """List the links of an exposure, as the page shows them.

    Parameters
    ----------
    folder, record
        As for `linked_files`.
    page : Path
        Path of the page, to which the addresses are relative.
    serve : str, optional
        Address below which the report is served: then the addresses are absolute.

    Returns
    -------
    list of [str, str]
        Label and address.
    """
    links = []
    for label, name in linked_files(folder, record):
        if serve:
            links.append([label, f"{serve}/{SERVED}/{quote(name)}"])
        else:
            relative = Path(os.path.relpath(folder / name, page.parent)).as_posix()
            # a colon in a name must not end a scheme
            links.append([label, quote(relative if relative.startswith("../") else f"./{relative}")])
    return links
