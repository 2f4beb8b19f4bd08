"""Compare the newest results with the goals on a CPU, in one table. Run by `make bench`; measures nothing.

python benchmarks/goals.py
"""

import common

NOT_MEASURED = "not measured"


def main():
    rows = [
        ("what", "goal", "measured", ""),
        *goals({kind: common.latest(kind) for kind in KINDS} | {"optional": common.latest_rows("optional")}),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines))


KINDS = ("engine", "custom", "end-to-end", "large", "optional")


def goals(results):
    """Yield a row for each goal: name, goal, measured value, and 'met' or 'missed' if this is known.

    Parameters
    ----------
    results : dict
        Kind -> the newest figures as the benchmark has saved them, or None.
    """
    engine, custom, end_to_end, large, optional = (results[kind] or {} for kind in KINDS)
    cases = engine.get("cases", {})
    nircam, miri = cases.get("nircam-10x20"), cases.get("miri-100x19")
    for case, name, least in (
        (miri, "MIRI 100x19x224x288 with emicorr, engine, over jwst", 35),
        (nircam, "NIRCam 10x20x320x320, engine, over jwst", 45),
    ):
        yield _row(name, f"{least}x", case and [(_times(case["ratios"], "ours"), least)], "{:.1f}x")
    for name, least in (("miri-100x19", 30), ("nircam-10x20", 20)):
        case = end_to_end.get("cases", {}).get(name)
        yield _row(f"{name}, file to files, over jwst", f"{least}x", case and [(case["ratio"], least)], "{:.1f}x")
    likely = engine.get("likely")
    yield _row(
        "LIKELY 10x20x320x320, 1 thread, over stcal",
        "30x",
        likely and [(_times(likely["ratios"], "1 thread"), 30)],
        "{:.1f}x",
    )
    for name, most in (("1/f on 200 frames", 1.5), ("1/f on 20 rateints", 0.5)):
        seconds = custom.get("seconds", {}).get(name)
        yield _row(f"{name} (savgol), 1 thread", f"{most} s", seconds and [(-seconds, -most)], f"{seconds or 0:.2f} s")
    rows = optional.get("rows", {})
    yield _row(
        "steps that are off by default, over jwst",
        "10x",
        [(row["ratio"], 10) for row in rows.values()],
        ", ".join(f"{name} {row['ratio']:.1f}x" for name, row in rows.items()),
    )
    arithmetic = engine.get("scaling of arithmetic")
    least = min(1.8, 0.95 * arithmetic) if arithmetic else 1.8
    yield _row(
        "scaling 1 -> 2 threads",
        f"{least:.2f}x: 1.8x, or 0.95 of pure arithmetic's {arithmetic or 0:.2f}x",
        [(case["scaling"], least) for case in cases.values()] if _used_two_threads(engine) else None,
        ", ".join(f"{name} {case['scaling']:.2f}x" for name, case in cases.items()),
    )
    peaks = {name: case["memory"]["ours"] for name, case in cases.items() if "memory" in case}
    yield _row(
        "peak memory over the float32 ramp",
        "1.3x + 150 MB",
        [(1.3 * peak["ramp_mb"] + 150 - peak["peak_mb"], 0) for peak in peaks.values()],
        ", ".join(f"{name} {peak['peak_mb']:.0f} of {peak['ramp_mb']:.0f} MB" for name, peak in peaks.items()),
    )
    yield _row(
        "MIRI 250x60 end to end" + (f" ({large['file_gb']:.1f} GB file)" if large else ""),
        "4 GB; one read + 10 s",
        large and [(4000 - large["anonymous_mb"], 0), (large["floor"] + 10 - large["seconds"], 0)],
        large and f"{large['anonymous_mb'] / 1e3:.2f} GB; {large['seconds']:.0f} s, one read {large['floor']:.1f} s",
    )
    over = {name: case["over_floor"] for name, case in end_to_end.get("cases", {}).items()}
    yield _row(
        "end to end warm, over the I/O floor",
        "3x",
        [(-factor, -3) for factor in over.values()],
        ", ".join(f"{name} {factor:.2f}x" for name, factor in over.items()),
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
