"""What the page shows of one exposure: the row of the table, and the details of an open row."""

import math

from gpucoron import dq
from gpucoron.records.remarks import OFF, describe_outcome
from gpucoron.report.images import draw_thumbs

#: column of the table -> DQ flag
_COLUMNS = {"jump": "JUMP_DET", "saturated": "SATURATED", "unusable": "DO_NOT_USE"}
#: columns with numbers of `gpucoron.records.previews.Preview.exposure`
_NUMBERS = ("background", "read_noise", "row_noise", "saturated_radius", "jump_rate")
#: lower flags fit into the 8 bits of GROUPDQ
_FIRST_OF_PIXELS = dq.RESERVED


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
        Strings, numbers or None, and the corner: the row of the table, for sorting and searching too.
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
        **_observed(record),
        **{name: _rounded(_number((preview.exposure or {}).get(name))) for name in _NUMBERS},
    }
    steps = record.get("steps") if isinstance(record.get("steps"), list) else []
    parameters = _dict(record, "parameters")
    detail = {
        "thumbs": draw_thumbs(preview),
        "histogram": (preview.exposure or {}).get("histogram"),
        "integrations": preview.integrations,
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


def _observed(record):
    """Return the columns with what the exposure is of; see `gpucoron.records.observed.describe_observation`."""
    observed = _dict(record, "observed")
    program, observation = (_text(observed.get(key)) for key in ("program", "observation"))
    corner = observed.get("corner")
    is_corner = isinstance(corner, list) and len(corner) == 2 and None not in map(_number, corner)
    return {
        "start": _text(observed.get("start")),
        "observation": " / ".join(part for part in (program, observation.lstrip("0")) if part),
        "roll": _number(observed.get("roll")),
        "role": _text(observed.get("role")),
        "dither": _text(observed.get("dither")),
        "exptime": _number(observed.get("exptime")),
        "corner": corner if is_corner else None,
    }


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
    status, reason = _text(step.get("status")), _text(step.get("reason"))
    return {
        "name": _text(step.get("name")),
        "status": status,
        "off": reason == OFF,
        "remark": describe_outcome(status, reason, _dict(step, "flagged")),
        "seconds": _number(step.get("seconds")),
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
    exptime = total(_dict(record, "observed").get("exptime") for record in records)
    starts = sorted({_text(_dict(record, "observed").get("start"))[:10] for record in records} - {""})
    finished = max((_text(record.get("finished")) for record in records), default="")
    pairs = {
        "Exposures": str(len(records)),
        "Failed": str(failed) if failed else "",
        "Programs": distinct(_text(_dict(record, "observed").get("program")) for record in records),
        "Observed": " to ".join(dict.fromkeys((starts[0], starts[-1]))) if starts else "",
        "Exposure time": _duration(exptime) if exptime else "",
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


def _rounded(value):
    """Round to five digits."""
    return None if value is None else float(f"{value:.5g}")


def _dict(record, key):
    """Return a dictionary of a record; an empty one if a user has edited the manifest."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}
