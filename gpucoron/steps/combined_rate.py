"""The rate of an exposure from corrected integrations, for subtract_1overf."""

from dataclasses import replace

from gpucoron.backends.results import Slopes
from gpucoron.backends.statistics import add_in_order
from gpucoron.steps.arguments import CUBE, IMAGE, BackendLike, Images, on_arrays
from gpucoron.steps.values import Choice

RATE_COMBINATIONS = ("weighted", "nanmean")


@on_arrays(
    rateints=Images(CUBE),
    rate=Images(IMAGE),
    fitted=Images(CUBE),
    combination=Choice(*RATE_COMBINATIONS),
)
def combine_rateints(
    rate: Slopes,
    rateints: Slopes,
    *,
    fitted: Slopes | None = None,
    combination: str = "weighted",
    backend: BackendLike = None,
) -> Slopes:
    """Combine corrected integrations into a new rate.

    If the variances of integrations follow from their own rates, as for LIKELY, the weighted mean is too low: faint
    integrations get more weight. With ``fitted``, only the corrections are averaged, which avoids this bias.

    Parameters
    ----------
    rate : Slopes
        The fitted rate. Flags, and pixels without a rate in any integration, are not changed.
    rateints : Slopes
    fitted : Slopes, optional
        The integrations before the correction. With 'weighted', the weighted mean of the corrections is added to the
        rate, and its variances do not change.
    combination : {'weighted', 'nanmean'}
        Weights 1 / (``var_poisson + var_rnoise``), or equal weights as in spaceKLIP.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    Slopes
        Without ``fitted``, the variances are those of the weighted sum, and ``err`` is the root of their sum.
    """
    xp = backend.xp
    is_weighted = combination == "weighted"
    keeps_fit = is_weighted and fitted is not None
    weights, total, poisson, rnoise = xp.zeros((4, *rate.rate.shape))
    for part in backend.batches(len(rateints.rate), 80 * rate.rate.size):
        value = rateints.rate[part]
        if keeps_fit:
            value = value - fitted.rate[part]
        var_poisson, var_rnoise = (
            xp.nan_to_num(variance[part].astype(xp.float64)) for variance in (rateints.var_poisson, rateints.var_rnoise)
        )
        variance = var_poisson + var_rnoise
        usable = xp.isfinite(value)
        if is_weighted:
            usable &= variance > 0
            weight = xp.where(usable, 1 / xp.where(usable, variance, 1), 0)
        else:
            weight = usable.astype(xp.float64)
        add_in_order(weights, weight, xp=xp)
        add_in_order(total, weight * xp.where(usable, value, 0), xp=xp)
        add_in_order(poisson, weight**2 * var_poisson, xp=xp)
        add_in_order(rnoise, weight**2 * var_rnoise, xp=xp)
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
