"""``gpucoron report``: write an HTML page about a batch or a single exposure; it works without a network.

The page shows the contents of manifests and previews. If they are missing, it shows the headers, history and flags of
the ``rate`` products instead.
"""

import base64
import hashlib
import html
import json
import logging
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template

from gpucoron import __version__, dq
from gpucoron.errors import InputError
from gpucoron.files import write_whole
from gpucoron.records.headers import read_product
from gpucoron.records.manifest import read_manifests
from gpucoron.records.previews import Preview, load_preview, preview_of_product, preview_path
from gpucoron.report.images import images_of

log = logging.getLogger(__name__)

_PRODUCTS = ("_rate", "_rateints")
#: column of the table -> DQ flag
_COLUMNS = {"jump": "JUMP_DET", "saturated": "SATURATED", "unusable": "DO_NOT_USE"}
#: lower flags fit into the 8 bits of GROUPDQ
_FIRST_OF_PIXELS = dq.RESERVED


def write_report(folder, path=None, *, serve=""):
    """Write the report of a folder or of a single product.

    Parameters
    ----------
    folder : str or Path
        Folder with products, with or without manifests; or the path of one ``*_rate.fits`` or ``*_rateints.fits``.
    path : str or Path, optional
        Path of the page; by default ``report.html`` in the folder, or ``<exposure>_report.html`` beside the product.
    serve : str, optional
        Address below which `gpucoron.report.serve` serves the page; without it, the page needs no server.

    Returns
    -------
    Path
        Path of the page, which is written completely or not at all.

    Raises
    ------
    InputError
        There are no products to report on.
    OutputError
        The page cannot be written.
    """
    found = find_records(folder)
    path = Path(path) if path is not None else found.page
    write_whole(path, lambda file: _write_page(file, found, serve))
    return path


@dataclass(frozen=True)
class Found:
    """What a report is about: its title, the folder of the products, and the records of the exposures.

    Attributes
    ----------
    title : str
    folder : Path
    page : Path
        Where the page is written by default.
    records : dict
        Exposure -> its record, from a manifest or from the header of its product.
    n_damaged : int
        Number of lines of the manifests that are not records.
    """

    title: str
    folder: Path
    page: Path
    records: dict
    n_damaged: int = 0


def find_records(path):
    """Find the exposures of a report.

    Parameters
    ----------
    path : str or Path
        Folder with products, or one ``*_rate.fits`` or ``*_rateints.fits``.

    Returns
    -------
    Found

    Raises
    ------
    InputError
        There are no products to report on.
    """
    path = Path(path)
    if path.is_dir():
        title = path.resolve().name or str(path)
        return Found(title, path, path / "report.html", *_records_of_folder(path))
    if path.is_file():
        exposure, folder = _stem(path), path.parent
        return Found(exposure, folder, folder / f"{exposure}_report.html", _record_of_product(folder, exposure))
    msg = f"{path}: no such file or folder; give a folder of products, or one *_rate.fits"
    raise InputError(msg)


def _records_of_folder(folder):
    """Return the records of all exposures in the manifests, and of products without a record."""
    records, n_damaged = read_manifests(folder)
    for product in sorted(folder.glob("*_rate.fits")):
        if _stem(product) not in records:
            try:
                records[_stem(product)] = read_product(product)
            except InputError as error:
                log.warning("%s", error)
                records[_stem(product)] = {
                    "exposure": _stem(product),
                    "status": "failed",
                    "error": {"type": "damaged product", "message": str(error)},
                }
    if not records:
        msg = f"{folder}: neither manifest.jsonl nor *_rate.fits in this folder; give the folder with the products"
        raise InputError(msg)
    return records, n_damaged


def _record_of_product(folder, exposure):
    records, _ = read_manifests(folder)
    rate = folder / f"{exposure}_rate.fits"
    if exposure in records:
        return {exposure: records[exposure]}
    return {exposure: read_product(rate)}


def _stem(path):
    """Return the name of the exposure of a product."""
    stem = path.name.removesuffix(".fits")
    for suffix in _PRODUCTS:
        if stem.endswith(suffix) and path.suffix == ".fits":
            return stem.removesuffix(suffix)
    msg = f"{path}: not a *_rate.fits or *_rateints.fits; give products, or the folder with the products"
    raise InputError(msg)


def _write_page(file, found, serve=""):
    """Write the page one exposure at a time, to save memory."""
    page = files("gpucoron") / "report" / "assets"
    style, script = ((page / name).read_text("utf-8") for name in ("style.css", "script.js"))
    values = {
        "title": html.escape(found.title),
        "serve": f' data-serve="{html.escape(serve)}"' if serve else "",
        "served_policy": "; frame-src 'self'" if serve else "",
        "footer": html.escape(f"Written by gpucoron {__version__} at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }

    def write(text):
        file.write(text.encode("utf-8"))

    before, after = map(Template, (page / "page.html").read_text("utf-8").split("$data"))
    write(before.substitute(values))
    rows = []
    for index, record in enumerate(found.records.values()):
        row, detail = describe(record, *_find_preview(found.folder, record))
        rows.append({"id": index, **row})
        write(_json_block(f"exposure-{index}", detail))
    table = {"rows": rows, "summary": summarize(found.records.values()), "notes": _notes(found.n_damaged)}
    write(_json_block("table", table))
    write(after.substitute(values))


def _hash(text):
    """Return the hash by which the content security policy of the page allows a script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _json_block(name, value):
    """Write a value as a JSON block; ``<`` is escaped, so that no text can end the block."""
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _plain(value):
    """Convert a value to types of JSON, with None for NaN and infinity, which browsers refuse."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _notes(n_damaged):
    if not n_damaged:
        return []
    lines = "1 line" if n_damaged == 1 else f"{n_damaged} lines"
    return [f"{lines} of the manifest could not be read and are ignored."]


def _find_preview(folder, record):
    """Load the preview of an exposure, or make one from its product; return it with a note on unreadable files."""
    stored = preview_path(folder, Path(record["exposure"]).name)
    note = ""
    if stored.is_file():
        try:
            return load_preview(stored), note
        except InputError as error:
            note = str(error)
    # Ignore its folder, so that a manifest cannot refer to files elsewhere.
    name = Path(_text(_dict(record, "outputs").get("rate"))).name
    if name and (folder / name).is_file():
        try:
            return preview_of_product(folder / name), note
        except InputError as error:
            note = str(error)
    return Preview(), note


def describe(record, preview, note=""):
    """Collect the contents of the page for one exposure.

    Parameters
    ----------
    record : dict
        A record of a manifest; any field may be missing.
    preview : Preview
    note : str, optional
        Shown beside the images.

    Returns
    -------
    row : dict
        Strings, numbers or None: the row of the table, for sorting and searching too.
    detail : dict
        The details that an open row shows.
    """
    pixel_shares = preview.named_flags()
    error = record.get("error")
    if error is not None and not isinstance(error, dict):
        error = {"message": error}
    seconds = {name: value for name, value in _dict(record, "seconds").items() if _number(value) is not None}
    shape = record.get("shape")
    row = {
        "exposure": record["exposure"],
        "status": _text(record.get("status")),
        "target": _text(record.get("target")),
        "instrument": _text(record.get("instrument")),
        "detector": _text(record.get("detector")),
        "filter": _text(record.get("filter")),
        "mask": _text(record.get("coronmsk")),
        "subarray": _text(record.get("subarray")),
        "shape": " × ".join(map(str, shape)) if isinstance(shape, list) else "",
        **{column: pixel_shares.get(name) for column, name in _COLUMNS.items()},
        "seconds": _number(seconds.get("total")),
        "memory": _number(record.get("peak_memory")),
        "finished": _text(record.get("finished")),
        "error": _text(error.get("message")) if error else "",
    }
    steps = record.get("steps") if isinstance(record.get("steps"), list) else []
    parameters = _dict(record, "parameters")
    detail = {
        "images": images_of(preview),
        "rate_range": None if preview.rate_range is None else [float(value) for value in preview.rate_range],
        "noise_limit": preview.noise_limit,
        "noise_unit": preview.noise_unit,
        "binning": preview.binning,
        "note": note,
        "groups": {
            "jump": _shares(preview.jump_fraction),
            "saturated": _shares(preview.saturated_fraction),
        },
        "flags": _flags(_dict(record, "flags"), pixel_shares),
        "error": {key: _text(error.get(key)) for key in ("type", "message", "traceback")} if error else None,
        "steps": [_step(step) for step in steps if isinstance(step, dict)],
        "seconds": seconds,
        "parameters": {step: _dict(parameters, step) for step in parameters},
        "facts": _facts(record),
    }
    return row, detail


def _flags(from_manifest, pixel_shares):
    """List all flags: name, fraction of the pixels of the rate, fraction of the samples of the ramp; None if unknown.

    A manifest counts group flags over samples, and all others over pixels.
    """
    sample_shares = {}
    for name, value in from_manifest.items():
        if 0 < getattr(dq, name, 0) < _FIRST_OF_PIXELS:
            sample_shares[name] = _number(value)
        else:
            pixel_shares = pixel_shares | {name: _number(value)}
    names = sorted(pixel_shares | sample_shares)
    return [{"name": name, "pixels": pixel_shares.get(name), "samples": sample_shares.get(name)} for name in names]


def _step(step):
    return {
        "name": _text(step.get("name")),
        "status": _text(step.get("status")),
        "reason": _text(step.get("reason")),
        "seconds": _number(step.get("seconds")),
        "flagged": _dict(step, "flagged"),
    }


def _facts(record):
    """List the provenance of the products of an exposure: (label, text)."""
    size = _number(record.get("input_bytes"))
    facts = {
        "input": record.get("input"),
        "input size": f"{size / 1e6:.1f} MB" if size is not None else "",
        "input SHA-256": record.get("input_sha256"),
        "products": ", ".join(_text(name) for name in _dict(record, "outputs").values()),
        "EXP_TYPE": record.get("exp_type"),
        "versions": _versions(record),
        "CRDS context": record.get("context"),
        "profile": record.get("profile"),
        "parameters' digest": record.get("parameters_digest"),
        "backend": record.get("backend"),
        "started": record.get("started"),
        "finished": record.get("finished"),
        "host": record.get("host"),
        "process": record.get("pid"),
        "attempt": record.get("attempt"),
        "history": record.get("history"),
    }
    return [(label, _text(value)) for label, value in facts.items() if _text(value)]


def summarize(records):
    """Summarize all exposures: pairs (label, text)."""
    records = list(records)

    def distinct(values):
        return ", ".join(sorted({text for text in values if text}))

    def total(values):
        numbers = [value for value in map(_number, values) if value is not None]
        return sum(numbers) if numbers else None

    failed = sum(record.get("status") == "failed" for record in records)
    size = total(record.get("input_bytes") for record in records)
    seconds = total(_dict(record, "seconds").get("total") for record in records)
    finished = max((_text(record.get("finished")) for record in records), default="")
    pairs = {
        "Exposures": str(len(records)),
        "Failed": str(failed) if failed else "",
        "Input": f"{size / 1e9:.2f} GB" if size else "",
        "Sum of times": _duration(seconds) if seconds is not None else "",
        "Last finished": finished[:16].replace("T", " "),
        "Backend": distinct(_text(record.get("backend")) for record in records),
        "Profile": distinct(_text(record.get("profile")) for record in records),
        "CRDS context": distinct(_text(record.get("context")) for record in records),
        "Versions": " / ".join(sorted({_versions(record) for record in records} - {""})),
    }
    return [(label, text) for label, text in pairs.items() if text]


def _versions(record):
    return ", ".join(f"{name} {version}" for name, version in _dict(record, "versions").items() if version)


def _duration(seconds):
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _shares(fractions):
    """Round fractions to the precision of a chart."""
    return [] if fractions is None else [float(f"{value:.4g}") for value in fractions]


def _text(value):
    return "" if value is None else str(value)


def _number(value):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _dict(record, key):
    """Return a dictionary of a record; an empty one if a user has edited the manifest."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}
