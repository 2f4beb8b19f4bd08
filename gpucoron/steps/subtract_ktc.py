"""subtract_ktc: subtract the pedestal of each ramp, which changes at random with every reset (kTC noise)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron import get_by_old_name
from gpucoron.backends.operations.subtract_ktc import SubtractKtcSettings
from gpucoron.parameters import SPACEKLIP_CLASS, P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped
from gpucoron.steps.values import Number

STEP = Step(
    name="subtract_ktc",
    title="subtract the pedestal of each ramp",
    references=("saturation",),
    parameters=(
        P("sat_frac", "float", 0.5, "fraction of the saturation level up to which groups are fitted", minimum=0),
    ),
    skipped=True,
    profiles=dict.fromkeys(("spaceklip", SPACEKLIP_CLASS), Preset({"skip": False}, instruments=("NIRCAM",))),
    keywords={"skip_ktc": "skip"},
)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8"),
    saturation=Array(IMAGE, unit="DN"),
    group_time=Number("s", positive=True),
    sat_frac=Number(minimum=0),
)
def fit_ktc(
    data: ArrayLike,
    groupdq: ArrayLike,
    saturation: ArrayLike,
    group_time: float,
    *,
    sat_frac: float = 0.5,
    backend: BackendLike = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the pedestal and the slope of every ramp by a straight line through its groups far from saturation.

    All groups have equal weights. The fit ends at the last group below ``sat_frac * saturation``, and before the first
    group that is DO_NOT_USE or NaN.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        Linear ramps.
    groupdq : (nints, ngroups, ny, nx) uint8
    saturation : (ny, nx) float32, DN
    group_time : float, s
    sat_frac : float
        Fraction of the saturation level up to which groups are fitted.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    pedestal : (nints, ny, nx) float64, DN
        Value of the line at time zero, one ``group_time`` before the first group; 0 if fewer than two groups can be
        fitted.
    slope : (nints, ny, nx) float64, DN/s
        0 for the same ramps.

    Notes
    -----
    Source: spaceKLIP 2.2, ``fit_slopes_to_ramp_data``; there, a NaN makes the whole fit NaN.

    Examples
    --------
    >>> ramp = np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1, 1) * 20 + 7
    >>> flags = np.zeros(ramp.shape, np.uint8)
    >>> pedestal, slope = fit_ktc(ramp, flags, np.full((1, 1), 6e4, np.float32), group_time=10.0)
    >>> round(float(pedestal[0, 0, 0]), 6), round(float(slope[0, 0, 0]), 6)
    (7.0, 2.0)
    """
    limit = saturation * saturation.dtype.type(sat_frac)
    return backend.fit_ktc(data, groupdq, limit, settings=SubtractKtcSettings(group_time))


@on_arrays(data=Array(RAMP), groupdq=Array(RAMP, "uint8"), saturation=Array(IMAGE))
def check_ramp(data: ArrayLike, groupdq: ArrayLike, saturation: ArrayLike, *, backend: BackendLike = None) -> None:
    """Refuse arrays whose shapes do not match. The other functions of this module check them too.

    Parameters
    ----------
    data, groupdq, saturation
        As for `fit_ktc`.
    backend : str or Backend, optional
        The default is the device of the arrays.
    """


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`. Changes the exposure's data only, not its ZEROFRAME.

    Notes
    -----
    Source: spaceKLIP 2.2, ``kTCSubtractStep``. Ramps for which the ZEROFRAME is used have too few groups for a fit, and
    nothing is subtracted from them.
    """
    if exposure.facts.is_miri:
        return skipped("not for MIRI: its kTC noise cannot be measured separately")
    if references["saturation"] is None:
        return skipped("there is no saturation reference")
    pedestal, _ = fit_ktc(
        exposure.data,
        exposure.groupdq,
        references["saturation"].data,
        exposure.facts.group_time,
        sat_frac=parameters.sat_frac,
        backend=backend,
    )
    exposure.data -= pedestal[:, None]
    return Outcome()


def __getattr__(name):
    return get_by_old_name(__name__, name)
