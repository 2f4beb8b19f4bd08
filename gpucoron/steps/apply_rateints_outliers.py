"""apply_rateints_outliers: exclude integrations with an outlying rate of a pixel, and fit that pixel again.

This is a step of spaceKLIP. Jump detection looks at one ramp at a time; comparing the rates of many integrations shows
cosmic rays that it misses.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.statistics import median_of_last, sigma_from_mad
from gpucoron.backends.tiles import row_tiles
from gpucoron.dq import DO_NOT_USE, GOOD, JUMP_DET
from gpucoron.parameters import P
from gpucoron.steps.arguments import Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped, whole_frame
from gpucoron.steps.values import Number

STEP = Step(
    name="apply_rateints_outliers",
    title="refit pixels without their outlying integrations",
    references=("gain", "readnoise"),
    parameters=(
        P(
            "sigma_cut",
            "float",
            10.0,
            "minimum distance of an outlier from the median of its pixel",
            "sigma",
            minimum=0,
        ),
        P("nint_min", "integer", 10, "minimum number of integrations to compare", "integrations", minimum=0),
    ),
    skipped=True,
    saves={"rateints": "{}"},
    helpers=("fit",),
    follows_fit=True,
    run_switch="rate_int_outliers",
    reach=whole_frame,  # the number of outliers decides which pixels are fitted again
)

#: if more than this fraction of the pixels has outliers, the whole exposure is fitted again
MANY_PIXELS = 0.5

#: value of the additional pixel of `gather_pixels`
PLAIN_VALUE = 1.0


@on_arrays(
    cube=Array("nints ny nx | ny nx", "float"),
    sigma_cut=Number("sigma", minimum=0),
    nint_min=Number("integrations", whole=True, minimum=0),
)
def find_outliers(
    cube: ArrayLike, *, sigma_cut: float = 10, nint_min: int = 10, backend: BackendLike = None
) -> NDArray[np.bool_]:
    """Find values far from the median of their pixel over the integrations.

    Parameters
    ----------
    cube : (nints, ny, nx) float
        Rates in DN/s, or other values that should be equal in all integrations. An image, (ny, nx), has no outliers.
    sigma_cut : float
        Minimum distance of an outlier, in standard deviations, which are estimated from the median absolute deviation.
    nint_min : int
        With fewer integrations, nothing is an outlier.
    backend : str or Backend, optional
        The default is the device of the array.

    Returns
    -------
    (nints, ny, nx) bool
        True for outliers, and for NaN.

    Notes
    -----
    Source: spaceKLIP 2.2, ``cube_outlier_detection``, by way of webbpsf_ext's ``robust.mean`` (AstroIDL's
    ``resistant_mean``): the mask of its first cut, ``|x - median| > sigma_cut * MAD / 0.6745``, not of the second.
    If more than half of the values are equal, so that the MAD is 0, the mean absolute deviation over 0.8 is used. All
    calculations have the precision of the cube, to cut the same values as spaceKLIP.

    Examples
    --------
    >>> find_outliers(rateints, sigma_cut=10).sum()  # doctest: +SKIP
    """
    xp = backend.xp
    outliers = xp.zeros(cube.shape, dtype=bool)
    if cube.ndim < 3 or cube.shape[0] < nint_min:
        return outliers
    tiles = row_tiles(cube.shape) if isinstance(cube, np.ndarray) else [slice(None)]
    for rows in tiles:
        # Values of a pixel are contiguous, because they are sorted twice.
        rates = xp.moveaxis(cube[..., rows, :], 0, -1)
        rates = rates.astype(rates.dtype, order="C")
        outliers[..., rows, :] = xp.moveaxis(_find_far(rates, float(sigma_cut), xp), -1, 0)
    return outliers


def _find_far(rates, sigma_cut, xp):
    """Find values of ``(..., nints)`` far from the median of the last axis; NaN is an outlier."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = abs(rates - median_of_last(rates, xp=xp)[..., None])
        mad = median_of_last(distance, xp=xp)
        sigma = sigma_from_mad(mad, lambda is_zero: _mean_deviation(distance[is_zero], xp), xp=xp)
        return ~(distance <= (rates.dtype.type(sigma_cut) * sigma)[..., None])


def _mean_deviation(distance, xp):
    """Compute the mean of each row of ``(n, nints)`` without NaN, one integration after the other."""
    known = ~xp.isnan(distance)
    total = xp.zeros_like(distance[:, 0])
    for integration in range(distance.shape[1]):
        total += xp.where(known[:, integration], distance[:, integration], distance.dtype.type(0))
    return total / known.sum(axis=1).astype(distance.dtype)


def gather_pixels(exposure, references, rows, columns, *, backend):
    """Make a small exposure from some pixels of a large one, in one row, which can be fitted like any exposure.

    The row ends with one additional pixel. It is DO_NOT_USE in exactly those groups that are DO_NOT_USE everywhere in
    the whole exposure, and never saturated. So decisions about all pixels are the same as for the whole exposure.

    Parameters
    ----------
    exposure : Exposure
    references : dict
        type -> reference with ``data`` (ny, nx) and ``facts``, or None.
    rows, columns : (npix,) int arrays
    backend : Backend

    Returns
    -------
    small : Exposure
        Its arrays are (nints, ngroups, 1, npix + 1) or similar; its facts are those of the large exposure.
    references : dict
        The references of the same pixels.
    """
    xp = backend.xp

    def gather(array, last_value):
        if array is None:
            return None
        small = xp.empty((*array.shape[:-2], 1, rows.size + 1), dtype=array.dtype)
        small[..., 0, :-1] = array[..., rows, columns]
        small[..., 0, -1] = last_value
        return small

    lost = [DO_NOT_USE if is_lost else GOOD for is_lost in _groups_lost(exposure.groupdq, backend)]
    dark_error = exposure.dark_error
    small = replace(
        exposure,
        data=gather(exposure.data, PLAIN_VALUE),
        groupdq=gather(exposure.groupdq, xp.asarray(lost, dtype=exposure.groupdq.dtype)),
        pixeldq=gather(exposure.pixeldq, 0),
        zeroframe=gather(exposure.zeroframe, PLAIN_VALUE),
        average_dark_current=gather(exposure.average_dark_current, 0),
        dark_error=dark_error and dark_error.gathered(lambda array: gather(array, 0)),
        rate=None,
        rateints=None,
    )
    small_references = {
        name: reference and replace(reference, data=gather(reference.data, PLAIN_VALUE))
        for name, reference in references.items()
    }
    return small, small_references


def _groups_lost(groupdq, backend):
    """List for each group whether it is DO_NOT_USE in all pixels and integrations."""
    if not isinstance(groupdq, np.ndarray):
        parts = backend.batches(len(groupdq), 2 * groupdq[0].size)
        lost = [backend.to_host(((groupdq[part] & DO_NOT_USE) != 0).all(axis=(0, 2, 3))) for part in parts]
        return np.all(lost, axis=0).tolist()
    # one group of one integration tells, most of the time
    return [
        all(bool(((integration[group] & DO_NOT_USE) != 0).all()) for integration in groupdq)
        for group in range(groupdq.shape[1])
    ]


def scatter_pixels(exposure, small, rows, columns):
    """Copy the results of the fit of a small exposure from `gather_pixels` back into the large one, in place."""
    exposure.groupdq[..., rows, columns] = small.groupdq[..., 0, :-1]
    for product in ("rate", "rateints"):
        slopes = getattr(exposure, product)
        for name, values in vars(getattr(small, product)).items():
            getattr(slopes, name)[..., rows, columns] = values[..., 0, :-1]


def run(exposure, references, parameters, backend, *, fit):
    """Run the step; see `gpucoron.steps`. Changes ``groupdq``, ``rate`` and ``rateints`` of the exposure.

    Parameters
    ----------
    exposure, references, parameters, backend
        See `gpucoron.steps`.
    fit : callable
        ``fit(exposure, references)`` fits the ramps of an exposure and sets its ``rate`` and ``rateints``, with the
        algorithm and parameters of the first fit.

    Notes
    -----
    Source: spaceKLIP 2.2, ``apply_rateint_outliers``: all groups of an outlier get JUMP_DET and DO_NOT_USE. spaceKLIP
    fits every pixel again; gpucoron fits only pixels with outliers, with bit-identical results. (With
    ``suppress_one_group``, a full refit may change other pixels, because the first fit has set flags.) MIRI's first
    integration differs from all others: it is excluded from the statistics and never an outlier. In a segmented
    exposure, this applies to the first segment. spaceKLIP fails for MIRI.
    """
    if exposure.rateints is None:
        return skipped("there are no rateints")
    facts, xp = exposure.facts, backend.xp
    rates = exposure.rateints.rate
    skip = int(facts.is_miri and facts.integration_start in (None, 1))
    n_compared = rates.shape[0] - skip
    if n_compared < max(1, parameters.nint_min):
        return skipped(f"{n_compared} integrations to compare are fewer than {parameters.nint_min}")
    outliers = xp.zeros(rates.shape, dtype=bool)
    options = {"sigma_cut": parameters.sigma_cut, "nint_min": parameters.nint_min, "backend": backend}
    outliers[skip:] = find_outliers(rates[skip:], **options)

    lost = _groups_lost(exposure.groupdq, backend)
    integrations, rows, columns = xp.nonzero(outliers)
    exposure.groupdq[integrations, :, rows, columns] |= exposure.groupdq.dtype.type(JUMP_DET | DO_NOT_USE)
    has_outlier = outliers.any(axis=0)
    n_pixels = int(has_outlier.sum())
    # The fit of MIRI ignores groups that are bad in all pixels; if these change, so may the fit of every pixel.
    same_groups = lost == _groups_lost(exposure.groupdq, backend)
    if n_pixels > MANY_PIXELS * has_outlier.size or not same_groups:
        fit(exposure, references)
    elif n_pixels:
        rows, columns = xp.nonzero(has_outlier)
        small, small_references = gather_pixels(exposure, references, rows, columns, backend=backend)
        fit(small, small_references)
        scatter_pixels(exposure, small, rows, columns)
    if exposure.rate is None:
        return skipped("without the outliers there is nothing to fit")
    return Outcome(flagged={"outliers": int(outliers.sum()), "pixels fitted again": n_pixels})
