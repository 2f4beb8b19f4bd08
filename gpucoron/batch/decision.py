"""Decide what a batch does with an exposure, and which files it must not replace.

An exposure is reduced again if its products are outdated or incomplete. Products of another origin, or made with other
parameters, are replaced only with ``overwrite=True``.
"""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gpucoron import __version__
from gpucoron.batch.outputs import is_damaged, is_replaced
from gpucoron.batch.request import describe_changes
from gpucoron.files import file_digest
from gpucoron.io.versions import installed
from gpucoron.records.manifest import STARTED

#: the reason if an exposure needs no reduction
DONE = "done"
#: advice to the user when an exposure is refused
HOW_TO_OVERWRITE = "use --overwrite (overwrite=True), or another folder"


@dataclass(frozen=True)
class Decision:
    """Whether an exposure is reduced (``todo``), ``refused``, or kept as it is, and the ``reason``.

    ``conflict`` says why its products may not be replaced. It is also set if the exposure is up to date, because the
    persistence step may require another reduction later.
    """

    todo: bool
    reason: str
    refused: bool = False
    conflict: str = ""


def decide_reduction(planned, past, *, output_dir, context, redo="needed", overwrite=False):
    """Decide whether an exposure will be reduced.

    Parameters
    ----------
    planned : Planned
        The exposure with its references, parameters and product names, or with its error.
    past : Past
        Contents of the manifests in the folder.
    output_dir : Path
    context : str
        The CRDS context.
    redo, overwrite
        See `gpucoron.batch.reduce`.

    Returns
    -------
    Decision
    """
    is_needed, reason = _needs_reduction(planned, past, output_dir, context, redo)
    # an exposure with an error has no products that could replace others
    conflict = "" if overwrite or planned.error else _conflict(planned, past, output_dir, context)
    if is_needed and conflict:
        return Decision(False, conflict, refused=True, conflict=conflict)
    return Decision(is_needed, reason, conflict=conflict)


def _needs_reduction(planned, past, output_dir, context, redo):
    record = past.last.get(planned.input.name)
    if redo == "all":
        return True, "all are reduced"
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
    damaged = [name for name in record["outputs"].values() if is_damaged(record, name, output_dir)]
    if damaged:
        return True, f"product {damaged[0]} is damaged or was replaced"
    replaced = [name for name in record["outputs"].values() if is_replaced(record, name, output_dir)]
    if replaced:
        return True, f"product {replaced[0]} was replaced"
    change = "" if planned.error else describe_changes(record, planned, context)
    if change:
        return True, f"other parameters ({change})"
    if record.get("context") != context:
        return True, f"was made with context {record.get('context')}"
    other_version = describe_other_version(record)
    if other_version:
        return True, other_version
    if has_input_changed(planned.input.path, record):
        return True, "the input has changed"
    return False, DONE


def describe_other_version(record):
    """Say which other version of gpucoron or jwst made the products; '' if they are from the current ones."""
    for package, current in (("gpucoron", __version__), ("jwst", installed("jwst"))):
        if record["versions"].get(package) != current:
            return f"was made with {package} {record['versions'].get(package)}"
    return ""


def has_input_changed(path, record):
    """Return whether an input file differs from the one in the record; it is read only if its date has changed."""
    try:
        stat = path.stat()
        if stat.st_size != record.get("input_bytes"):
            return True
        return not _has_same_date(stat, record) and file_digest(path) != record.get("input_sha256")
    except OSError:
        return True


def _has_same_date(stat, record):
    """Return whether a file has the date in the record; gpucoron 0.1.0 stored only the time of the reduction."""
    if isinstance(record.get("input_date"), int):
        return stat.st_mtime_ns == record["input_date"]
    try:
        return stat.st_mtime <= datetime.fromisoformat(record["started"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return False


def _conflict(planned, past, output_dir, context):
    """Return why the products of an exposure may not be replaced; '' if they may."""
    made = past.made.get(planned.input.name)
    if made is not None:
        existing = [name for name in made["outputs"].values() if os.path.lexists(output_dir / name)]
        change = describe_changes(made, planned, context) if existing else ""
        if change:
            return f"other parameters ({change})"
    return find_conflict(planned.products, planned, past, output_dir, context)


def find_conflict(products, planned, past, output_dir, context):
    """Return why the products of an exposure may not replace existing files.

    Parameters
    ----------
    products : iterable of str
        Names as returned by `product_name`.
    planned, past, output_dir, context
        As for `decide_reduction`.

    Returns
    -------
    str
        '' if no such file exists, or if all were made from this exposure by batches in this folder with the same
        parameters.
    """
    unknown, others, changes = [], {}, {}
    for name in products:
        if not os.path.lexists(output_dir / name):
            continue
        maker = past.makers.get(name)
        if maker is None or is_replaced(maker, name, output_dir):
            unknown.append(name)
        elif maker["exposure"] != planned.input.name:
            others.setdefault(maker["exposure"], name)
        else:
            change = describe_changes(maker, planned, context)
            if change:
                changes.setdefault(change, name)
    if unknown:
        exist, them = ("exist", "them") if len(unknown) > 1 else ("exists", "it")
        return f"{', '.join(unknown)} {exist}, and no manifest in this folder lists {them}"
    if others:
        return "; ".join(f"{name} is a product of {exposure}" for exposure, name in others.items())
    return "; ".join(f"{name} was made with other parameters ({change})" for change, name in changes.items())


def product_name(path, output_dir):
    """Return a product's name in the manifest: relative to the output folder, or the absolute path outside of it."""
    path, output_dir = Path(os.path.abspath(path)), Path(os.path.abspath(output_dir))
    return str(path.relative_to(output_dir)) if path.is_relative_to(output_dir) else str(path)
