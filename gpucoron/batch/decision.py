"""What a batch does with an exposure, and what it must not replace: one place for the plan and for the products.

An exposure is reduced again, without being asked for, where its products are outdated or not whole. What is somebody
else's, or was made with other parameters, is replaced where that is asked for alone: ``overwrite=True``.
"""

import os
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from gpucoron import __version__
from gpucoron.batch.asked import tell_change
from gpucoron.files import file_digest
from gpucoron.records.manifest import STARTED

#: how an exposure that is refused can be reduced all the same
WAY_OUT = "use --overwrite (overwrite=True), or another folder"


@dataclass(frozen=True)
class Decision:
    """What is done with an exposure: ``todo``, or ``refused``, or neither; and why.

    ``obstacle`` is why it may not be reduced, also where nobody wants that: another exposure may have to be followed.
    """

    todo: bool
    reason: str
    refused: bool = False
    obstacle: str = ""


def decide(planned, past, *, output_dir, context, redo="needed", overwrite=False):
    """Decide whether an exposure is to be reduced.

    Parameters
    ----------
    planned : Planned
        With its references, parameters and the names of its products; or with the error that stands against it.
    past : Past
        What the folder's manifests tell.
    output_dir : Path
    context : str
        CRDS's context.
    redo, overwrite
        See `gpucoron.batch.reduce`.

    Returns
    -------
    Decision
    """
    is_wanted, reason = _is_wanted(planned, past, output_dir, context, redo)
    # what cannot be reduced replaces nothing
    obstacle = "" if overwrite or planned.error else _obstacle(planned, past, output_dir, context)
    if is_wanted and obstacle:
        return Decision(False, obstacle, refused=True, obstacle=obstacle)
    return Decision(is_wanted, reason, obstacle=obstacle)


def _is_wanted(planned, past, output_dir, context, redo):
    record = past.last.get(planned.input.name)
    if redo == "all":
        return True, "all are wanted"
    if redo == "failed":
        failed = record is not None and record["status"] == "failed"
        return failed, "failed before" if failed else "did not fail"
    if record is None:
        return True, "new"
    if record["status"] == "failed":
        return True, "failed before"
    if record["status"] == STARTED:
        return True, "a batch ended before it was finished"
    missing = [name for name in record["outputs"].values() if not (output_dir / name).is_file()]
    if missing:
        return True, f"{missing[0]} is missing"
    change = "" if planned.error else tell_change(record, planned, context)
    if change:
        return True, f"other parameters ({change})"
    if record.get("context") != context:
        return True, f"was made with context {record.get('context')}"
    for package, ours in (("gpucoron", __version__), ("jwst", version("jwst"))):
        if record["versions"].get(package) != ours:
            return True, f"was made with {package} {record['versions'].get(package)}"
    if _is_other_input(planned.input, record):
        return True, "the input is another"
    return False, "done"


def _is_other_input(found, record):
    """Compare an input with the one that was reduced; it is read again only where its date may be another."""
    if found.n_bytes != record.get("input_bytes"):
        return True
    try:
        if _has_date_of(found.path.stat(), record):
            return False
        return file_digest(found.path) != record.get("input_sha256")
    except OSError:
        return True


def _has_date_of(stat, record):
    """Tell whether a file has the date of the one that was reduced; 0.1.0 kept only when that was."""
    if isinstance(record.get("input_date"), int):
        return stat.st_mtime_ns == record["input_date"]
    try:
        return stat.st_mtime <= datetime.fromisoformat(record["started"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return False


def _obstacle(planned, past, output_dir, context):
    """Tell why the products of an exposure may not be replaced; '' where they may."""
    made = past.made.get(planned.input.name)
    if made is not None:
        there = [name for name in made["outputs"].values() if os.path.lexists(output_dir / name)]
        change = tell_change(made, planned, context) if there else ""
        if change:
            return f"other parameters ({change})"
    return find_obstacle(planned.products, planned, past, output_dir, context)


def find_obstacle(products, planned, past, output_dir, context):
    """Tell why files may not be replaced by the products of an exposure.

    Parameters
    ----------
    products : iterable of str
        Names as `product_name` gives them.
    planned, past, output_dir, context
        As for `decide`.

    Returns
    -------
    str
        '' where none of them is there, or all were made of this exposure by batches of this folder, with the same
        parameters.
    """
    foreign, others, changes = [], {}, {}
    for name in products:
        if not os.path.lexists(output_dir / name):
            continue
        maker = past.makers.get(name)
        if maker is None:
            foreign.append(name)
        elif maker["exposure"] != planned.input.name:
            others.setdefault(maker["exposure"], name)
        else:
            change = tell_change(maker, planned, context)
            if change:
                changes.setdefault(change, name)
    if foreign:
        are, them = ("are", "them") if len(foreign) > 1 else ("is", "it")
        return f"{', '.join(foreign)} {are} there, and no manifest here knows {them}"
    if others:
        return "; ".join(f"{name} is a product of {exposure}" for exposure, name in others.items())
    return "; ".join(f"{name} was made with other parameters ({change})" for change, name in changes.items())


def product_name(path, output_dir):
    """Name a product as the manifest does: within the output folder, or by its absolute path."""
    path, output_dir = Path(os.path.abspath(path)), Path(os.path.abspath(output_dir))
    return str(path.relative_to(output_dir)) if path.is_relative_to(output_dir) else str(path)
