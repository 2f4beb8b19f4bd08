"""The rate of an exposure whose integrations have changed since the fit: subtract_1overf makes it anew from them."""

from dataclasses import replace

from gpucoron.steps.arguments import CUBE, IMAGE, Images, on_arrays
from gpucoron.steps.values import Choice

RATE_COMBINATIONS = ("weighted", "nanmean")


@on_arrays(
    rateints=Images(CUBE),
    rate=Images(IMAGE),
    fitted=Images(CUBE),
    combination=Choice(*RATE_COMBINATIONS),
)
def combine_rateints(rate, rateints, *, fitted=None, combination="weighted", backend=None):
    """Make the rate anew from integrations that have changed.

    The weighted mean of integrations whose variances follow from their own rates, as LIKELY's do, is too low: those
    that came out faint weigh more. With ``fitted`` that does not matter, for noise does not know the photons.

    Parameters
    ----------
    rate : Slopes
        As fitted; a pixel that no integration has a rate for stays as it is, and so do all flags.
    rateints : Slopes
    fitted : Slopes, optional
        The integrations as fitted, of which ``rate`` is made. With 'weighted' the rate then changes by the weighted
        mean of what they have changed by, and keeps its variances.
    combination : {'weighted', 'nanmean'}
        Weights 1 / (``var_poisson + var_rnoise``), or all equal as in spaceKLIP.
    backend : str or Backend, optional
        Where to work; by default where the arrays are.

    Returns
    -------
    Slopes
        Without ``fitted``, variances are those of the weighted sum, and ``err`` the root of their sum.
    """
    xp = backend.xp
    is_weighted = combination == "weighted"
    keeps_fit = is_weighted and fitted is not None
    weights = 0.0
    total, poisson, rnoise = xp.zeros((3, *rate.rate.shape))
    values = rateints.rate - fitted.rate if keeps_fit else rateints.rate
    for value, *variances in zip(values, rateints.var_poisson, rateints.var_rnoise, strict=True):
        var_poisson, var_rnoise = (xp.nan_to_num(variance.astype(xp.float64)) for variance in variances)
        variance = var_poisson + var_rnoise
        usable = xp.isfinite(value)
        if is_weighted:
            usable &= variance > 0
            weight = xp.where(usable, 1 / xp.where(usable, variance, 1), 0)
        else:
            weight = usable.astype(xp.float64)
        weights = weights + weight
        total += weight * xp.where(usable, value, 0)
        poisson += weight**2 * var_poisson
        rnoise += weight**2 * var_rnoise
    some = weights > 0
    weights = xp.where(some, weights, 1)

    def choose(new, old):
        return xp.where(some, new, old).astype(old.dtype)

    if keeps_fit:
        return replace(rate, rate=choose(rate.rate + total / weights, rate.rate))
    return replace(
        rate,
        rate=choose(total / weights, rate.rate),
        var_poisson=choose(poisson / weights**2, rate.var_poisson),
        var_rnoise=choose(rnoise / weights**2, rate.var_rnoise),
        err=choose(xp.sqrt(poisson + rnoise) / weights, rate.err),
    )
