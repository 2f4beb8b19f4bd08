"""Exposures whose numbers differ from those of others that were taken in the same way."""

import numpy as np

from gpucoron.backends.statistics import MAD_TO_SIGMA

#: columns in which outliers are marked
COLUMNS = (
    "background", "read_noise", "row_noise", "saturated_radius", "jump_rate", "jump", "saturated", "unusable",
)  # fmt: skip
#: exposures with the same values of these are compared
_COMPARED = ("detector", "filter", "mask", "subarray")
#: distance of an outlier from the median, in standard deviations
CUT = 5.0
#: at least so many exposures are compared
LEAST = 5
#: the standard deviation is taken to be at least this fraction of the median
_LEAST_WIDTH = 0.01


def mark_outliers(rows):
    """Set ``row["outliers"]`` of each row to the list of columns in which the exposure is an outlier.

    A number is an outlier if it is more than 5 standard deviations from the median of the exposures with the same
    detector, filter, mask and subarray. The standard deviation comes from the median absolute deviation, and counts as
    1 % of the median if it is smaller. Fewer than five numbers are not compared.

    Parameters
    ----------
    rows : list of dict
        Rows of the table; changed in place.
    """
    groups = {}
    for row in rows:
        row["outliers"] = []
        groups.setdefault(tuple(row[key] for key in _COMPARED), []).append(row)
    for group in groups.values():
        for column in COLUMNS:
            known = [row for row in group if row[column] is not None]
            if len(known) < LEAST:
                continue
            values = np.array([row[column] for row in known], float)
            middle = np.median(values)
            distance = np.abs(values - middle)
            width = max(MAD_TO_SIGMA * np.median(distance), _LEAST_WIDTH * abs(middle))
            for row, far in zip(known, distance > CUT * width, strict=True):
                if far:
                    row["outliers"].append(column)
