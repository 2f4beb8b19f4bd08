"""Count how the arrays of two backends differ: bits, flags, positions of NaN, relative differences."""

import numpy as np


def compare(found, expected, tolerance=0.0, floors=None):
    """Compare arrays of the same names.

    Parameters
    ----------
    found, expected : dict
        Name -> array on the host.
    tolerance : float
        Largest relative difference of floating-point values; flags and NaN must be equal.
    floors : dict, optional
        Name -> smallest divisor of a difference, because values near zero are differences of large ones.

    Returns
    -------
    dict
        ``values`` that were compared; ``different_bits``: values with different bits, except NaN; ``different_flags``:
        integers that differ; ``different_nan``: values that are NaN on one side only; ``beyond``: values that differ by
        more than the tolerance; ``largest``: the largest relative difference; ``where``: names of the arrays with such
        flags, NaN or values; ``unlike``: arrays that cannot be compared, because one is missing or its dtype or shape
        differs.
    """
    totals = dict.fromkeys(("values", "different_bits", "different_flags", "different_nan", "beyond"), 0)
    totals |= {"largest": 0.0, "where": [], "unlike": []}
    found, expected = dict(found), dict(expected)
    if set(found) != set(expected):
        totals["unlike"].append(f"{', '.join(sorted(set(found) ^ set(expected)))} on one side only")
    for name in sorted(set(found) & set(expected)):
        ours, theirs = np.asarray(found[name]), np.asarray(expected[name])
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            totals["unlike"].append(f"{name}: {ours.dtype}{ours.shape} for {theirs.dtype}{theirs.shape}")
            continue
        one = _compare_values(np.atleast_1d(ours), np.atleast_1d(theirs), tolerance, (floors or {}).get(name, 0.0))
        totals["largest"] = max(totals["largest"], one.pop("largest"))
        for key, count in one.items():
            totals[key] += count
        if one["different_flags"] or one["different_nan"] or one["beyond"]:
            totals["where"].append(name)
    return totals


def _compare_values(ours, theirs, tolerance, floor):
    counts = {"values": ours.size, "different_bits": 0, "different_flags": 0, "different_nan": 0, "beyond": 0}
    if ours.dtype.kind != "f":
        counts["different_bits"] = counts["different_flags"] = int(np.count_nonzero(ours != theirs))
        return counts | {"largest": 0.0}
    bits = f"u{ours.itemsize}"
    lost = np.isnan(ours), np.isnan(theirs)
    counts["different_nan"] = int(np.count_nonzero(lost[0] != lost[1]))
    differ = (np.ascontiguousarray(ours).view(bits) != np.ascontiguousarray(theirs).view(bits)) & ~(lost[0] | lost[1])
    counts["different_bits"] = int(np.count_nonzero(differ)) + counts["different_nan"]
    one, other = ours[differ].astype(np.float64), theirs[differ].astype(np.float64)
    with np.errstate(all="ignore"):
        # Infinite values exceed any tolerance; 0 and -0 are equal.
        relative = np.where(one == other, 0.0, np.abs(one - other) / np.maximum(np.abs(other), floor))
    relative[np.isnan(relative)] = np.inf
    counts["beyond"] = int(np.count_nonzero(relative > tolerance))
    return counts | {"largest": float(relative.max(initial=0.0))}


def summarize(counts):
    """Summarize the counts of `compare` in one line."""
    if counts["unlike"]:
        return f"cannot be compared: {'; '.join(counts['unlike'])}"
    if not counts["different_bits"]:
        return f"the same bits in {counts['values']} values"
    message = (
        f"{counts['different_bits']} of {counts['values']} values differ in bits, by up to {counts['largest']:.2g}"
    )
    for key, words in (
        ("different_flags", "in flags"),
        ("different_nan", "in NaN"),
        ("beyond", "beyond the tolerance"),
    ):
        if counts[key]:
            message += f", {counts[key]} {words}"
    return message + (f" (in {', '.join(counts['where'])})" if counts["where"] else "")
