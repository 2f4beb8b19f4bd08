"""Describe a traced pixel in words and numbers: its fits, its flags and their causes, and what each step did."""

from dataclasses import dataclass

import numpy as np

from gpucoron.report.ramp.causes import FLAGS, flag_names
from gpucoron.report.ramp.fits import ALGORITHMS


@dataclass(frozen=True)
class StepRow:
    """One step: its name, its status, and what it did to the pixel in the chosen integration."""

    name: str
    status: str
    text: str
    is_idle: bool


def headline(trace, integration):
    """Return one line: file, pixel, detector coordinates, integration."""
    place = f"pixel {trace.x} {trace.y}"
    if trace.detector is not None:
        place += f" (on the detector, counted from 1: {trace.detector[0]} {trace.detector[1]})"
    text = f"{trace.path.name}: {place}, integration {integration} of {trace.nints}, counted from 0"
    start = trace.facts.integration_start or 1
    return text if start == 1 else f"{text} (number {start + integration} of the whole exposure, counted from 1)"


def facts_of(trace):
    """Return pairs (label, text) about the exposure and the pixel."""
    facts = trace.facts
    state = trace.corrected
    pairs = {
        "target": trace.target,
        "instrument": " ".join(text for text in (facts.instrument, facts.detector, facts.subarray) if text),
        "read pattern": f"{facts.readpatt}, a group every {facts.group_time:g} s"
        if facts.group_time
        else facts.readpatt,
        "gain": f"{trace.gain:.3g} e-/DN" if np.isfinite(trace.gain) else "",
        "read noise": f"{trace.readnoise:.3g} DN (difference of two groups)" if np.isfinite(trace.readnoise) else "",
        "flags of the pixel": ", ".join(flag_names(state.pixeldq)) or "none",
        "profile": trace.profile,
        "CRDS context": trace.context,
    }
    return [(label, text) for label, text in pairs.items() if text]


def product_line(trace, integration):
    """Return the values in the products: rateints of the integration, and rate."""
    final = trace.corrected
    if final.rateints is None:
        return "no rate: the ramps cannot be fitted"
    parts = []
    for name, slopes, at in (("rateints", final.rateints, integration), ("rate", final.rate, ())):
        if slopes is not None:
            flags = ", ".join(flag_names(slopes["dq"][at])) or "no flags"
            parts.append(f"{name} {_value(slopes['rate'][at], slopes['err'][at])}, {flags}")
    return "; ".join(parts)


def _value(rate, err):
    return f"{rate:.5g} ± {err:.3g} DN/s" if np.isfinite(rate) else "NaN"


def fit_rows(trace, integration):
    """Return (algorithm, rate, chi-square and degrees of freedom, segments) of both fits, as text."""
    rows = []
    for fit in trace.fits:
        if fit.integration != integration:
            continue
        segments = ", ".join(
            f"groups {part.first} to {part.last}: {part.slope:.5g}" if part.last > part.first else f"group {part.first}"
            for part in fit.segments
        )
        rows.append((fit.algorithm, _value(fit.rate, fit.err), _chisq(fit), segments or "none"))
    return rows


def _chisq(fit):
    return f"{fit.chisq:.4g} / {fit.ndof}" if np.isfinite(fit.chisq) else "–"


def integration_rows(trace):
    """Return (integration, rate in rateints, chi-square of OLS_C and of LIKELY, flags of its groups), as text."""
    final, rows = trace.corrected, []
    chisq = {(fit.algorithm, fit.integration): _chisq(fit) for fit in trace.fits}
    for integration in range(trace.nints):
        slopes = final.rateints
        rate = "" if slopes is None else _value(slopes["rate"][integration], slopes["err"][integration])
        counts = [
            f"{name} {np.count_nonzero(final.groupdq[integration] & FLAGS[name])}"
            for name in flag_names(np.bitwise_or.reduce(final.groupdq[integration]))
        ]
        both = (chisq.get((name, integration), "–") for name in ALGORITHMS)
        rows.append((integration, rate, *both, ", ".join(counts) or "none"))
    return rows


def group_rows(trace, integration):
    """Return (group, flag, step, cause) for each flag that a group has at the end, and for counts that are NaN."""
    rows, causes = [], trace.causes(integration)
    for group, flags in enumerate(trace.corrected.groupdq[integration]):
        if not np.isfinite(trace.corrected.data[integration, group]):
            rows.append((group, "NaN", _first_nan(trace, integration, group), "the counts are not a number"))
        for name in flag_names(flags):
            found = [cause for cause in causes.get(group, ()) if cause.flag == name]
            if not found:
                rows.append((group, name, "", "set in the file"))
            rows.extend((group, name, cause.step, cause.text) for cause in found)
    return rows


def _first_nan(trace, integration, group):
    """Return the step that set the counts of a group to NaN; '' if the file has them."""
    for step in trace.steps:
        if not np.isfinite(step.after.data[integration, group]):
            return step.name if np.isfinite(step.before.data[integration, group]) else ""
    return ""


def merge_groups(rows):
    """Merge rows of successive groups with the same flag, step and cause: ('3 to 7', flag, step, cause)."""
    merged, last = [], {}
    for group, *rest in rows:
        key = tuple(rest)
        if key in last and merged[last[key]][1] == group - 1:
            merged[last[key]][1] = group
        else:
            last[key] = len(merged)
            merged.append([group, group, key])
    return [(str(first) if first == end else f"{first} to {end}", *key) for first, end, key in merged]


def step_rows(trace, integration):
    """Return a `StepRow` for each step."""
    return [_step_row(step, integration) for step in trace.steps]


def _step_row(step, integration):
    texts = [
        *_change_of_data(step, integration),
        *_changes_of_flags(step, integration),
        *_change_of_slopes(step, integration),
    ]
    if not texts:
        texts = [step.reason or "changed nothing at this pixel"]
    elif step.reason:
        texts.append(step.reason)
    return StepRow(step.name, step.status, "; ".join(texts), step.status == "SKIPPED")


def _change_of_data(step, integration):
    change = step.after.data[integration].astype(np.float64) - step.before.data[integration]
    same = np.isnan(step.after.data[integration]) & np.isnan(step.before.data[integration])
    change = change[~same & (change != 0)]
    if not change.size:
        return
    if not np.isfinite(change).all():
        yield "set groups to NaN"
    elif np.ptp(change) <= 1e-6 * np.abs(change).max():
        yield f"added {change[0]:+.4g} DN to {_groups(change.size)}"
    else:
        extent = f"{change.min():+.4g} to {change.max():+.4g} DN (median {np.median(change):+.4g})"
        yield f"added {extent} to {_groups(change.size)}"


def _groups(count):
    return "1 group" if count == 1 else f"{count} groups"


def _changes_of_flags(step, integration):
    before, after = step.before.groupdq[integration], step.after.groupdq[integration]
    for verb, changed in (("set", after & ~before), ("cleared", before & ~after)):
        for name in flag_names(np.bitwise_or.reduce(changed)):
            groups = np.flatnonzero(changed & FLAGS[name])
            where = f"group {groups[0]}" if len(groups) == 1 else _groups(len(groups))
            yield f"{verb} {name} in {where}"
    for verb, changed in (
        ("set", step.after.pixeldq & ~step.before.pixeldq), ("cleared", step.before.pixeldq & ~step.after.pixeldq)
    ):  # fmt: skip
        if changed:
            yield f"{verb} {', '.join(flag_names(changed))} for the pixel"


def _change_of_slopes(step, integration):
    before, after = step.before.rateints, step.after.rateints
    if after is None:
        return
    new = _value(after["rate"][integration], after["err"][integration])
    if before is None:
        yield f"rate of the integration: {new}"
    elif not np.array_equal(before["rate"][integration], after["rate"][integration], equal_nan=True):
        yield f"rate of the integration: {_value(before['rate'][integration], before['err'][integration])} -> {new}"


def as_text(trace, integration):
    """Return everything as lines for a terminal."""
    lines = [headline(trace, integration), product_line(trace, integration), ""]
    lines += [f"{label}: {text}" for label, text in facts_of(trace)]
    if fits := fit_rows(trace, integration):
        lines += ["", *_columns(("fit", "rate", "chi-square / dof", "segments, DN/s"), fits)]
    flagged = merge_groups(group_rows(trace, integration))
    lines += ["", *(_columns(("groups", "flag", "step", "cause"), flagged) if flagged else ["no group is flagged"])]
    rows = [(row.name, row.status.lower(), row.text) for row in step_rows(trace, integration)]
    return "\n".join([*lines, "", *_columns(("step", "status", "at this pixel"), rows)])


def _columns(head, rows):
    table = [tuple(map(str, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
