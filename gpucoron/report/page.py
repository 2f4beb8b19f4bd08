"""``gpucoron report``: write an HTML page about a batch or a single exposure; it works without a network.

The page shows the contents of manifests and previews. If they are missing, it shows the headers, history and flags of
the ``rate`` products instead.
"""

import json
import math
from pathlib import Path

from gpucoron.errors import ParameterError
from gpucoron.files import AnyPath, write_whole
from gpucoron.interactive import public
from gpucoron.records.commands import command_again, command_ramp
from gpucoron.report.details import describe, summarize
from gpucoron.report.exposures import choose_sides, find_exposure
from gpucoron.report.found import find_records
from gpucoron.report.frame import page_frame
from gpucoron.report.images import images_of
from gpucoron.report.links import links_of
from gpucoron.report.outliers import mark_outliers
from gpucoron.report.sets import find_sets, quicklooks_of, title_of
from gpucoron.report.tiles import tiles_address, write_tiles


@public
def write_report(folder: AnyPath, path: AnyPath | None = None, *, serve: str = "", docs: str = "") -> Path:
    """Write the report of a folder or of a single product.

    Parameters
    ----------
    folder : str or Path
        Folder with products, with or without manifests; or the path of one ``*_rate.fits`` or ``*_rateints.fits``.
    path : str or Path, optional
        Path of the page; by default ``report.html`` in the folder, or ``<exposure>_report.html`` beside the product.
    serve : str, optional
        Address below which `gpucoron.report.serve` serves the page; without it, the page needs no server.
    docs : str, optional
        Address of the documentation, https:// or http://, to which the names of the steps then link.

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
    ParameterError
        The address of the documentation is not one of the web.
    """
    if docs and not docs.startswith(("https://", "http://")):
        msg = f"--docs {docs}: expected an address that begins with https:// or http://"
        raise ParameterError(msg)
    found = find_records(folder)
    path = Path(path) if path is not None else found.page
    write_whole(path, lambda file: _write_page(file, found, path, serve, docs))
    return path


def _write_page(file, found, path, serve, docs):
    """Write the page one exposure at a time, to save memory."""
    before, after = page_frame(found.title, serve)

    def write(text):
        file.write(text.encode("utf-8"))

    write(before)
    sides = choose_sides(found.folder, found.records.values())
    longest = sides.images
    members, described = [], []
    for index, record in enumerate(found.records.values()):
        exposure = find_exposure(found.folder, record)
        row, detail = describe(exposure.record, exposure.preview, exposure.note)
        record = exposure.record
        detail |= {
            # a server writes them when they are asked for
            "tiles": tiles_address(path, exposure, longest) if serve else write_tiles(path, exposure, longest),
            "links": links_of(found.folder, record, path, serve),
            "references": exposure.references(),
            "commands": {"again": command_again(record), "ramp": command_ramp(record)},
        }
        write(_json_block(f"exposure-{index}", detail))
        write(_json_block(f"images-{index}", images_of(exposure.preview, longest)))
        members.append(exposure.member({"id": index, **row}))
        described.append(exposure.record_fields())
    # in the order of time; those without a time last, in the order of their records
    members.sort(key=lambda member: (not member.row["start"], member.row["start"]))
    rows = [member.row for member in members]
    mark_outliers(rows)
    sets = []
    for number, group in enumerate(find_sets(members)):
        quicklooks = quicklooks_of(group, sides.quicklooks)
        ids = [member.row["id"] for member in group]
        sets.append({"id": number, "title": title_of(group), "exposures": ids, "has_quicklooks": bool(quicklooks)})
        write(_json_block(f"set-{number}", {"quicklooks": quicklooks}))
    table = {"rows": rows, "summary": summarize(described), "notes": _notes(found), "sets": sets}
    table["docs"] = docs
    write(_json_block("table", table))
    write(after)


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


def _notes(found):
    notes = [f"{problem}; its records are left out." for problem in found.problems]
    if found.n_damaged:
        lines = "1 line" if found.n_damaged == 1 else f"{found.n_damaged} lines"
        notes.append(f"{lines} of the manifest could not be read and are ignored.")
    return notes
