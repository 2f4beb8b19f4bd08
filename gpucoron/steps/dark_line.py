"""A dark that is too short, continued along a line through its last groups, and what the error of the line does."""

import math
from dataclasses import dataclass
from typing import Any

from gpucoron.dq import DO_NOT_USE, SATURATED

#: The part of a dark's groups, at its end, that the line goes through: a MIRI dark settles at first, and bends.
PART = 1 / 4
#: But so many groups at least: two of them fix the line, the others show the scatter.
FEWEST_GROUPS = 5
#: A pixel's values that show any scatter.
FEWEST_VALUES = 3


@dataclass(frozen=True)
class Line:
    """Lines through the last groups of a dark: ``mean + slope * (index - center)``, arrays (ny, nx) float64.

    ``index`` counts the dark's groups from 0. ``mean_variance`` (DN^2) and ``slope_variance`` (DN^2 per group^2) are
    independent of each other; both are 0 where the scatter is unknown.
    """

    mean: Any
    slope: Any
    center: Any
    mean_variance: Any
    slope_variance: Any

    def at(self, index):
        """Give the dark at a group, (ny, nx) float64, DN."""
        return self.mean + (index - self.center) * self.slope


def groups_of_line(n_groups):
    """List the groups of a dark that the line goes through, as a range."""
    return range(n_groups - min(n_groups, max(FEWEST_GROUPS, math.ceil(PART * n_groups))), n_groups)


def fit_line(dark, *, xp):
    """Fit a straight line through the last quarter of a dark's groups, at least five, all weighted equally.

    Parameters
    ----------
    dark : (ngroups, ny, nx) float32, DN
        Two groups or more. NaN and infinite values take no part.
    xp : module
        Namespace of the array.

    Returns
    -------
    Line
        Its variances follow from the scatter about the line. A pixel with fewer than three finite values has the line
        through its last two groups, which may be NaN, and variances of 0.

    Notes
    -----
    Source: linear least squares, for example Bevington & Robinson 2003, chapter 6: with groups k, ``Sxx = sum (k -
    mean k)^2`` and scatter s, the slope's variance is ``s^2 / Sxx``, that of the mean ``s^2 / n``. Five groups leave
    three degrees of freedom for s, and a slope 4.5 times as good as that through two groups.
    """
    used, last = groups_of_line(dark.shape[0]), dark.shape[0] - 1
    count, total, indices = xp.zeros((3, *dark.shape[1:]), dtype=xp.float64)
    for index in used:
        values, finite = _finite(dark[index], xp)
        count += finite
        total += values
        indices += index * finite
    enough = count >= FEWEST_VALUES
    some = xp.where(enough, count, 1)
    mean, center = total / some, indices / some
    spread, product, squares = xp.zeros((3, *dark.shape[1:]), dtype=xp.float64)
    for index in used:
        values, finite = _finite(dark[index], xp)
        distance = (index - center) * finite
        spread += distance**2
        product += distance * (values - mean)
    spread = xp.where(enough, spread, 1)
    slope = product / spread
    for index in used:
        values, finite = _finite(dark[index], xp)
        squares += ((values - mean - (index - center) * slope) * finite) ** 2
    scatter = xp.where(enough, squares / xp.where(enough, count - 2, 1), 0)
    of_two = dark[last].astype(xp.float64) - dark[last - 1]
    return Line(
        mean=xp.where(enough, mean, dark[last]),
        slope=xp.where(enough, slope, of_two),
        center=xp.where(enough, center, last),
        mean_variance=scatter / some,
        slope_variance=scatter / spread,
    )


def count_without_line(dark, *, xp):
    """Count the pixels of a dark, (ngroups, ny, nx), with too few finite values for a line, whose error is unknown."""
    finite = sum(xp.isfinite(dark[index]).astype("int32") for index in groups_of_line(dark.shape[0]))
    return int(xp.sum(finite < FEWEST_VALUES))


def _finite(values, xp):
    """Give values as float64, 0 where they are not finite, and where they are, as 1 and 0."""
    finite = xp.isfinite(values)
    return xp.where(finite, values, 0).astype(xp.float64), finite.astype(xp.float64)


@dataclass(frozen=True)
class DarkError:
    """What is uncertain about the dark that was subtracted: the same for all integrations that share a dark.

    ``lines`` holds the lines of the dark's integrations, ``shares`` for each integration of the exposure the index of
    its line. ``parts`` and ``indices``, one number per group of the exposure, say which part of the group's dark lies
    on the line, and the mean index there, times that part.
    """

    lines: tuple
    shares: tuple
    parts: tuple
    indices: tuple

    def gathered(self, gather):
        """Give the same for other pixels: ``gather(array)`` picks them."""
        lines = tuple(Line(**{name: gather(array) for name, array in vars(line).items()}) for line in self.lines)
        return DarkError(lines, self.shares, self.parts, self.indices)


def add_dark_error(exposure, *, xp):
    """Add the error of a continued dark to the variances of an exposure's slopes, in place.

    It goes into ``var_rnoise``, for it is the noise of the dark's own reads, and into ``err``. Integrations that share
    a dark share its error, so that their mean has all of it: the rate's is not less for more integrations.

    Parameters
    ----------
    exposure : Exposure
        ``rate`` and ``rateints`` (Slopes) are changed, where ``dark_error`` (DarkError) is not None.
    xp : module
        Namespace of the arrays.

    Notes
    -----
    A slope is a weighted sum of the groups, and an error of the dark enters with the same weights. They are taken as
    those of a fit of one line through all good groups, weighted equally: exact where all groups of the fit lie on the
    line, whatever the weights; too low by 16 % where a quarter of a bright ramp does, whose fit gives more weight to
    its ends. The integrations weigh in the rate by their variances. The noise of the dark's own groups is not
    propagated, as in jwst. (The method is ours.)
    """
    error = exposure.dark_error
    if error is None or exposure.rateints is None:
        return
    rateints, rate = exposure.rateints, exposure.rate
    time = exposure.facts.group_time
    shape = rate.rate.shape
    means, slopes = {}, {}
    weights = xp.zeros(shape, dtype=xp.float64)
    for integration, share in enumerate(error.shares):
        part, moment = _effects(exposure.groupdq[integration], error, xp)
        line = error.lines[share]
        moment = moment - line.center * part
        variance = (part**2 * line.mean_variance + moment**2 * line.slope_variance) / time**2
        known = xp.isfinite(rateints.rate[integration])
        noise = rateints.var_poisson[integration].astype(xp.float64) + rateints.var_rnoise[integration]
        weighs = known & (noise > 0)
        weight = xp.where(weighs, 1 / xp.where(weighs, noise, 1), 0)
        weights += weight
        means[share] = means.get(share, 0) + weight * part
        slopes[share] = slopes.get(share, 0) + weight * moment
        _add(rateints.var_rnoise[integration], rateints.err[integration], xp.where(known, variance, 0), xp)
    weights = xp.where(weights > 0, weights, 1) * time
    total = xp.zeros(shape, dtype=xp.float64)
    for share, line in enumerate(error.lines):
        if share in means:
            total += (means[share] / weights) ** 2 * line.mean_variance
            total += (slopes[share] / weights) ** 2 * line.slope_variance
    _add(rate.var_rnoise, rate.err, xp.where(xp.isfinite(rate.rate), total, 0), xp)


def _effects(groupdq, error, xp):
    """Say what a unit error of the line's mean, and of its index, does to the slope of each pixel, per group."""
    count, first, second = xp.zeros((3, *groupdq.shape[1:]), dtype=xp.float64)
    parts, parts_first, moments, moments_first = xp.zeros((4, *groupdq.shape[1:]), dtype=xp.float64)
    for group, (part, index) in enumerate(zip(error.parts, error.indices, strict=True)):
        good = ((groupdq[group] & (DO_NOT_USE | SATURATED)) == 0).astype(xp.float64)
        count += good
        first += group * good
        second += group**2 * good
        if part:
            parts += part * good
            parts_first += group * part * good
            moments += index * good
            moments_first += group * index * good
    fits = count >= 2
    center = first / xp.where(fits, count, 1)
    spread = xp.where(fits, second - first * center, 1)
    part = xp.where(fits, (parts_first - center * parts) / spread, 0)
    return part, xp.where(fits, (moments_first - center * moments) / spread, 0)


def _add(var_rnoise, err, variance, xp):
    err[...] = xp.sqrt(err.astype(xp.float64) ** 2 + variance)
    var_rnoise[...] = var_rnoise + variance
