"""Outliers among exposures that were taken in the same way."""

import numpy as np
import pytest

from gpucoron.report.outliers import COLUMNS, mark_outliers

SAME = {"detector": "NRCALONG", "filter": "F444W", "mask": "MASKA335R", "subarray": "SUB320A335R"}


def rows(values, column="background", **changes):
    return [SAME | dict.fromkeys(COLUMNS) | changes | {column: value} for value in values]


def marked(table):
    mark_outliers(table)
    return [row["outliers"] for row in table]


@pytest.mark.parametrize("column", COLUMNS)
def test_each_column(column):
    assert marked(rows([1.0, 1.02, 0.98, 1.01, 0.99, 3.0, None], column)) == [[]] * 5 + [[column], []]


def test_five_standard_deviations():
    """The numbers 1 to 9 have the median 5 and a median deviation of 2: 14.8 is 5 sigma above, without the tenth."""
    values = np.arange(1.0, 10.0)
    sigma = 1.4826 * 2.5  # of all ten: median 5.5, deviations 0.5, 0.5, 1.5, ... 4.5
    assert marked(rows([*values, 5.5 + 4.99 * sigma]))[-1] == []
    assert marked(rows([*values, 5.5 + 5.01 * sigma]))[-1] == ["background"]
    assert marked(rows([*-values, -5.5 - 5.01 * sigma]))[-1] == ["background"]


def test_few_exposures_are_not_compared():
    assert marked(rows([1.0, 1.0, 1.0, 9.0])) == [[]] * 4


def test_other_detectors_are_not_compared():
    assert marked(rows([1.0] * 5) + rows([9.0], detector="MIRIMAGE")) == [[]] * 6


def test_equal_numbers():
    assert marked(rows([1.0, 1.0, 1.0, 1.0, 1.0, 1.04, 1.06]))[-2:] == [[], ["background"]]
    assert marked(rows([0.0] * 5 + [3.0], "saturated_radius"))[-1] == ["saturated_radius"]
