"""Compare the newest results with the goals on a CPU, in one table. Run by `make bench`; measures nothing.

python benchmarks/goals.py
"""

import statistics

import common

NOT_MEASURED = "not measured"


def main():
    rows = [("what", "goal", "measured", ""), *goals({kind: common.latest(kind) for kind in KINDS})]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines))


KINDS = ("engine", "custom", "end-to-end", "large")


def goals(results):
    """Yield a row for each goal: name, goal, measured value, and 'met' or 'missed' if this is known.

    Parameters
    ----------
    results : dict
        Kind -> the newest figures as the benchmark has saved them, or None.
    """
    engine, custom, end_to_end, large = (results[kind] or {} for kind in KINDS)
    cases = engine.get("cases", {})
    nircam, miri = cases.get("nircam-10x20"), cases.get("miri-100x19")
    yield _row(
        "NIRCam 10x20x320x320 engine warm",
        "10x faster than jwst with 2 threads, 6x with 1",
        nircam and [(_times(nircam["ratios"], "ours"), 10), (_times(nircam["ratios"], "1 thread"), 6)],
        "{:.1f}x and {:.1f}x",
    )
    yield _row(
        "MIRI 100x19x224x288 engine warm with emicorr",
        "12x with 2 threads",
        miri and [(_times(miri["ratios"], "ours"), 12)],
        "{:.1f}x",
    )
    yield _row(
        "MIRI 250x60 end to end" + (f" ({large['file_gb']:.1f} GB file)" if large else ""),
        "runs in 8 GB, reads/s",
        large and [(8000 - large["peak_mb"], 0)],
        large and f"{large['peak_mb'] / 1e3:.2f} GB, {large['seconds']:.0f} s, {large['reads_per_second']:.3g} reads/s",
    )
    at_groups = engine.get("1/f at groups")
    yield _row(
        "the same with 1/f at groups, 10x20",
        f"15x spaceKLIP's {common.PEER_WITH_1OVERF_AT_GROUPS:.0f} s (of another machine)",
        at_groups and [(at_groups["peer"] / statistics.median(at_groups["totals"]["ours"]), 15)],
        "{:.1f}x",
    )
    yield _row(
        "1/f on 20 rateints, 1 thread",
        "0.5 s",
        custom and [(0.5 / custom["seconds"]["1/f on 20 rateints"], 1)],
        custom and f"{custom['seconds']['1/f on 20 rateints']:.2f} s",
    )
    over = {name: case["over_floor"] for name, case in end_to_end.get("cases", {}).items()}
    yield _row(
        "end to end warm, over the I/O floor",
        "3x",
        [(-factor, -3) for factor in over.values()],
        ", ".join(f"{name} {factor:.2f}x" for name, factor in over.items()),
    )
    peaks = {name: case["memory"]["ours"] for name, case in cases.items() if "memory" in case}
    yield _row(
        "peak memory over the float32 ramp",
        "1.6x + 250 MB",
        [(1.6 * peak["ramp_mb"] + 250 - peak["peak_mb"], 0) for peak in peaks.values()],
        ", ".join(f"{name} {peak['peak_mb']:.0f} of {peak['ramp_mb']:.0f} MB" for name, peak in peaks.items()),
    )
    yield _row(
        "scaling 1 -> 2 threads",
        "1.7x",
        [(case["scaling"], 1.7) for case in cases.values()] if _used_two_threads(engine) else None,
        ", ".join(f"{name} {case['scaling']:.2f}x" for name, case in cases.items()),
    )


def _used_two_threads(engine):
    return bool(engine) and (engine["threads"] or engine["machine"]["cores"]) == 2


def _times(ratios, side):
    return ratios.get(side, float("nan"))


def _row(what, goal, reached, words):
    """Make a row from pairs (number, required minimum); ``words`` is a template for the numbers."""
    if not reached:
        return what, goal, NOT_MEASURED, ""
    message = words.format(*(number for number, _ in reached))
    return what, goal, message, "met" if all(number >= least for number, least in reached) else "missed"


if __name__ == "__main__":
    main()
