"""Report pages from drawn images, in the format of their JSON blocks; the arrays behind them are known."""

import base64
import json
from dataclasses import dataclass

import numpy as np

from gpucoron.dq import DO_NOT_USE, HOT, JUMP_DET, REFERENCE_PIXEL, SATURATED
from gpucoron.records.quantised import FlagImage, QuantisedImage
from gpucoron.report.frame import page_frame
from gpucoron.report.images import encode_png
from tests.cases.records import make_scene

SHAPE = (96, 120)
N_INTEGRATIONS = 6
#: a source that only one integration has: integration, row, column, DN/s
PLANTED = (4, 30, 90, 25.0)
FLAGS = {
    "DO_NOT_USE": DO_NOT_USE,
    "SATURATED": SATURATED,
    "JUMP_DET": JUMP_DET,
    "HOT": HOT,
    "REFERENCE_PIXEL": REFERENCE_PIXEL,
}
#: rows with an outlier: number of the exposure -> columns
OUTLIERS = {5: ["background", "jump_rate"]}
#: role and roll of the exposures of a set
_VISITS = (("science", 15.2), ("science", 15.2), ("science", 24.9), ("science", 24.9), ("reference", 20.0))


@dataclass(frozen=True, eq=False)
class Drawn:
    """The arrays behind one exposure of a page: rate, dq and removed (ny, nx), integrations (n, ny, nx)."""

    rate: np.ndarray
    dq: np.ndarray
    removed: np.ndarray
    integrations: np.ndarray


def draw_exposure(seed, shape=SHAPE):
    """Draw the images of an exposure."""
    rng = np.random.default_rng(seed)
    rate, dq = make_scene(shape, seed)
    dq |= np.where(rng.random(shape) < 0.004, HOT | DO_NOT_USE, 0).astype(np.uint32)
    dq[:, :2] |= REFERENCE_PIXEL
    removed = np.repeat(rng.normal(0, 0.2, (shape[0], 1)), shape[1], axis=1) + 0.01 * np.arange(shape[1])
    integrations = rate + rng.normal(0, 0.3, (N_INTEGRATIONS, *shape))
    number, y, x, brightness = PLANTED
    integrations[number, y, x] = np.nan_to_num(rate[y, x]) + brightness
    return Drawn(rate, dq, removed.astype(np.float32), integrations.astype(np.float32))


def image(values, unit="DN/s"):
    """Return an image for the page."""
    return QuantisedImage.of(values, unit=unit).to_json()


def shown(values):
    """Return the values that a page shows for an image, which are quantised: (ny, nx) float32, and NaN."""
    return QuantisedImage.of(values).values()


def make_row(number, thumb=""):
    """Make the row of an exposure in the table."""
    role, roll = _VISITS[number % len(_VISITS)]
    visit = number // len(_VISITS)
    return {
        "id": number,
        "exposure": f"jw01386{visit + 1:03d}001_0210{number % 5 + 1}_00001_nrcalong",
        "status": "done",
        "target": "HIP 65426" if role == "science" else "HIP 68245",
        "instrument": "NIRCAM",
        "detector": "NRCALONG",
        "filter": ("F444W", "F356W")[visit % 2],
        "mask": "MASKA335R",
        "subarray": "SUB320A335R",
        "shape": "6 × 10 × 96 × 120",
        "jump": 0.0101,
        "saturated": 0.02,
        "unusable": 0.009,
        "seconds": 2.5 + number % 7,
        "memory": 4.2e8,
        "finished": f"2026-03-01T11:{number % 60:02d}:00Z",
        "error": "",
        # later exposures start earlier, so that the order of time is not that of the names
        "start": f"2026-02-{27 - visit % 20:02d}T{9 + visit // 20:02d}:{59 - number % 60:02d}:00",
        "observation": f"01386 / {visit + 1}",
        "roll": roll,
        "role": role,
        "dither": f"{number % 9 + 1} of 9" if role == "reference" else "",
        "exptime": 307.2,
        "background": 8.1 if number in OUTLIERS else 1.2 + 0.01 * (number * 7 % 10),
        "read_noise": 9.4 + 0.1 * (number * 3 % 7),
        "row_noise": 0.041 + 0.001 * (number * 5 % 9),
        "saturated_radius": 3.4 if role == "science" else None,
        "jump_rate": 61.0 if number in OUTLIERS else 4.1 + 0.2 * (number % 4),
        "corner": [449, 1],
        "outliers": OUTLIERS.get(number, []),
    }


def make_detail(row, drawn, tiles=None):
    """Make the details of an exposure."""
    usable = np.isfinite(drawn.rate) & (drawn.dq & DO_NOT_USE == 0)
    counts, edges = np.histogram(drawn.rate[usable] / 0.3, np.arange(-8, 20.5, 0.5))
    medians = [float(np.nanmedian(one)) for one in drawn.integrations]
    n = len(medians)
    name = row["exposure"]
    return {
        "thumbs": {"rate": _DOT, "flags": _DOT, "noise": _DOT},
        "noise_unit": "DN/s",
        "note": "",
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "integrations": {
            "median": medians,
            "background": [value + 0.2 for value in medians],
            "row_noise": [0.04 + 0.002 * at for at in range(n)],
            "read_noise": [9.5 + 0.1 * (at % 3) for at in range(n)],
            "shift_x": [0.05 if at == 2 else None for at in range(n)],
            "shift_y": [None] * (n - 1) + [-0.08],
            "shift_x_error": [0.01] * n,
            "shift_y_error": [0.012] * n,
        },
        "tiles": tiles,
        "links": [["log", "gpucoron.log"], ["rate", f"{name}_rate.fits"], ["rateints", f"{name}_rateints.fits"]],
        "references": [["superbias", "jwst_nircam_superbias_0001.fits"], ["mask", "jwst_nircam_mask_0001.fits"]],
        "commands": {
            "again": f"gpucoron run /data/{name}_uncal.fits -o stage1 --profile spaceklip",
            "ramp": f"gpucoron ramp /data/{name}_uncal.fits {{x}} {{y}} --profile spaceklip",
        },
        "groups": {"jump": [0.001 * at for at in range(8)], "saturated": [0.0005 * at for at in range(8)]},
        "flags": [{"name": "JUMP_DET", "pixels": 0.0101, "samples": 0.002}],
        "error": None,
        "steps": [{"name": "jump", "status": "COMPLETE", "reason": "", "seconds": 0.6, "flagged": {"jumps": 19319}}],
        "seconds": {"read": 0.2, "write": 0.3, "total": 1.1},
        "parameters": {"jump": {"rejection_threshold": 5.0}},
        "facts": [["input", f"/data/{name}_uncal.fits"], ["CRDS context", "jwst_1464.pmap"]],
    }


def write_page(
    folder,
    n=10,
    shape=SHAPE,
    docs="",
    with_tiles=True,
    write_own_tiles=True,
    change=lambda row, detail, blocks: None,
    serve="",
):
    """Write a page of ``n`` exposures; return its path and the arrays of the first five exposures.

    ``change(row, detail, blocks)`` may edit each exposure before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw_exposure(seed, shape) for seed in range(5)]
    packed = [
        {
            "rate": image(one.rate),
            "flags": FlagImage.of(one.dq, FLAGS).to_json(),
            "removed": image(one.removed),
        }
        for one in drawn
    ]
    before, after = page_frame("stage1", serve)
    rows, parts = [], [before]
    for number in range(n):
        row = make_row(number)
        tiles = f"report_tiles/{row['exposure']}_tiles.js" if with_tiles and number < 5 else None
        detail, blocks = make_detail(row, drawn[number % 5], tiles), dict(packed[number % 5])
        change(row, detail, blocks)
        rows.append(row)
        parts.append(_block(f"exposure-{number}", detail))
        if blocks:
            parts.append(_block(f"images-{number}", blocks))
        if tiles and write_own_tiles:
            write_tiles(folder / tiles, row["exposure"], drawn[number])
    sets = []
    for first in range(0, n, 5):
        members = sorted(range(first, min(first + 5, n)), key=lambda number: rows[number]["start"])
        sets.append(
            {
                "id": len(sets),
                "title": f"{rows[first]['target']} · NRCALONG {rows[first]['filter']} · program 01386",
                "exposures": members,
                "has_quicklooks": len(members) == 5,
            }
        )
        if len(members) == 5:
            parts.append(_block(f"set-{len(sets) - 1}", {"quicklooks": quicklooks(drawn)}))
    summary = [["Exposures", str(n)], ["Profile", "spaceklip"], ["CRDS context", "jwst_1464.pmap"]]
    table = {"rows": rows, "summary": summary, "notes": [], "sets": sets, "commands": {}, "docs": docs}
    path = folder / "report.html"
    path.write_text("".join([*parts, _block("table", table), after]), "utf-8")
    return path, drawn


def difference_of_rolls(drawn):
    """Return roll 1 - roll 2 after the 1/f removal, and what was removed from it."""
    rolls = [
        [(np.mean([getattr(drawn[at], name) for at in pair], axis=0)) for pair in ((0, 1), (2, 3))]
        for name in ("rate", "removed")
    ]
    return [first - second for first, second in rolls]


def quicklooks(drawn):
    """Return the quick-looks of a set."""
    after, removed = difference_of_rolls(drawn)
    star = drawn[0].rate - 0.9 * drawn[4].rate
    images = {"after": image(after), "before": image(after + removed), "removed": image(removed)}
    return [
        {"title": "roll 1 - roll 2", "note": "Mean of 2 exposures less mean of 2 exposures.", "images": images},
        {"title": "star - reference", "note": "The reference is scaled by 0.9.", "images": {"after": image(star)}},
    ]


def write_tiles(path, exposure, drawn, **more):
    """Write the script with the integrations of an exposure."""
    path.parent.mkdir(exist_ok=True)
    content = {"unit": "DN/s", "images": [image(one) for one in drawn.integrations], **more}
    path.write_text(f"gpucoronTiles({json.dumps(exposure)}, {json.dumps(content)})", "utf-8")


def _block(name, value):
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _dot():
    """Return a small picture as a data URL."""
    ramp = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(encode_png(np.dstack([ramp * 4, ramp, 200 - ramp]))).decode()


_DOT = _dot()
