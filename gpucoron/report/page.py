"""``gpucoron report``: a batch, or a single exposure, as one HTML page that needs no network.

What the page shows comes from the batch's manifests and previews. Where there are none it comes from the ``rate``
products themselves: their headers, their history, their flags.
"""

import base64
import hashlib
import html
import json
import logging
import math
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
#: how pages name the flags that have a column
_COLUMNS = {"jump": "JUMP_DET", "saturated": "SATURATED", "unusable": "DO_NOT_USE"}
#: flags below fit into the 8 bits of a group
_FIRST_OF_PIXELS = dq.RESERVED


def write_report(folder, path=None):
    """Write the report of a folder, or of one product.

    Parameters
    ----------
    folder : str or Path
        Where a batch, or a run, left its products: with ``manifest.jsonl`` (or shards' manifests) or without. Or the
        path of one ``*_rate.fits`` or ``*_rateints.fits``.
    path : str or Path, optional
        Of the page; by default ``report.html`` in the folder, ``<exposure>_report.html`` beside a single product.

    Returns
    -------
    Path
        Of the page, which appears whole or not at all.

    Raises
    ------
    InputError
        There is nothing to report on.
    OutputError
        The page cannot be written.
    """
    folder = Path(folder)
    if folder.is_dir():
        records, n_damaged = _records_of_folder(folder)
        title, target = folder.resolve().name or str(folder), folder / "report.html"
    elif folder.is_file():
        title, folder = _stem(folder), folder.parent
        records, n_damaged = _record_of_product(folder, title), 0
        target = folder / f"{title}_report.html"
    else:
        msg = f"{folder}: no such file or folder; name a folder of products, or one *_rate.fits"
        raise InputError(msg)
    path = Path(path) if path is not None else target
    write_whole(path, lambda file: _write_page(file, title, folder, records, n_damaged))
    return path


def _records_of_folder(folder):
    """Take the manifests' exposures, and those that only a product tells of."""
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
        msg = f"{folder}: neither manifest.jsonl nor *_rate.fits in there; name the folder that holds the products"
        raise InputError(msg)
    return records, n_damaged


def _record_of_product(folder, exposure):
    records, _ = read_manifests(folder)
    rate = folder / f"{exposure}_rate.fits"
    if exposure in records:
        return {exposure: records[exposure]}
    return {exposure: read_product(rate)}


def _stem(path):
    """Name the exposure of a product."""
    stem = path.name.removesuffix(".fits")
    for suffix in _PRODUCTS:
        if stem.endswith(suffix) and path.suffix == ".fits":
            return stem.removesuffix(suffix)
    msg = f"{path}: not a *_rate.fits or *_rateints.fits; a report starts from products, or from their folder"
    raise InputError(msg)


def _write_page(file, title, folder, records, n_damaged):
    """Write the page piece by piece: the exposures' details are in memory one at a time."""
    page = files("gpucoron") / "report" / "assets"
    style, script = ((page / name).read_text("utf-8") for name in ("style.css", "script.js"))
    values = {
        "title": html.escape(title),
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
    for index, record in enumerate(records.values()):
        row, detail = describe(record, *_find_preview(folder, record))
        rows.append({"id": index, **row})
        write(_json_block(f"exposure-{index}", detail))
    table = {"rows": rows, "summary": summarize(records.values()), "notes": _notes(n_damaged)}
    write(_json_block("table", table))
    write(after.substitute(values))


def _hash(text):
    """Name a script or style to the page's content security policy: no other runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _json_block(name, value):
    """Put a value into a block of data that no content can end: every ``<`` is escaped."""
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _plain(value):
    """Make a value fit for JSON as browsers read it: no NaN, no infinity."""
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
    return [f"{lines} of the manifest could not be read and are left out."]


def _find_preview(folder, record):
    """Find what there is to show of an exposure: preview, product or nothing; and a note on a file that fails."""
    stored = preview_path(folder, Path(record["exposure"]).name)
    note = ""
    if stored.is_file():
        try:
            return load_preview(stored), note
        except InputError as error:
            note = str(error)
    # a product by its name alone: a manifest opens no file outside its folder
    name = Path(_text(_dict(record, "outputs").get("rate"))).name
    if name and (folder / name).is_file():
        try:
            return preview_of_product(folder / name), note
        except InputError as error:
            note = str(error)
    return Preview(), note


def describe(record, preview, note=""):
    """Say what the page shows of one exposure.

    Parameters
    ----------
    record : dict
        A line of a manifest; anything may be missing.
    preview : Preview
    note : str, optional
        To stand beside the pictures.

    Returns
    -------
    row : dict
        Texts, and numbers or None: what the table shows, sorts and finds.
    detail : dict
        What an opened row shows.
    """
    of_pixels = preview.named_flags()
    error = record.get("error")
    if error is not None and not isinstance(error, dict):
        error = {"message": error}
    taken = {name: value for name, value in _dict(record, "seconds").items() if _number(value) is not None}
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
        **{column: of_pixels.get(name) for column, name in _COLUMNS.items()},
        "seconds": _number(taken.get("total")),
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
        "flags": _flags(_dict(record, "flags"), of_pixels),
        "error": {key: _text(error.get(key)) for key in ("type", "message", "traceback")} if error else None,
        "steps": [_step(step) for step in steps if isinstance(step, dict)],
        "seconds": taken,
        "parameters": {step: _dict(parameters, step) for step in parameters},
        "facts": _facts(record),
    }
    return row, detail


def _flags(counted, of_pixels):
    """List all flags: name, share of the rate's pixels, share of the ramp's samples; None where nobody counted.

    A manifest counts the flags of groups over samples, and all others over pixels.
    """
    of_samples = {}
    for name, value in counted.items():
        if 0 < getattr(dq, name, 0) < _FIRST_OF_PIXELS:
            of_samples[name] = _number(value)
        else:
            of_pixels = of_pixels | {name: _number(value)}
    names = sorted(of_pixels | of_samples)
    return [{"name": name, "pixels": of_pixels.get(name), "samples": of_samples.get(name)} for name in names]


def _step(step):
    return {
        "name": _text(step.get("name")),
        "status": _text(step.get("status")),
        "reason": _text(step.get("reason")),
        "seconds": _number(step.get("seconds")),
        "flagged": _dict(step, "flagged"),
    }


def _facts(record):
    """List where an exposure's products come from: (label, text)."""
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
    """Say in a few pairs (label, text) what all exposures have in common, or sum up to."""
    records = list(records)

    def distinct(values):
        return ", ".join(sorted({text for text in values if text}))

    def total(values):
        known = [value for value in map(_number, values) if value is not None]
        return sum(known) if known else None

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
    """Round fractions to what a chart can show."""
    return [] if fractions is None else [float(f"{value:.4g}") for value in fractions]


def _text(value):
    return "" if value is None else str(value)


def _number(value):
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _dict(record, key):
    """Read a record's entry that should be a dict; a manifest may have been edited."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}
