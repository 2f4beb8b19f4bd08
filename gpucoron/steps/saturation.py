"""saturation: flag saturated groups, groups at the A/D floor, and their neighbours.

Options of spaceKLIP, for the near infrared: growth without corners, and RC pixels that count as saturated.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.masks import grow_cross, grow_square
from gpucoron.backends.operations.saturation import SaturationSettings
from gpucoron.dq import AD_FLOOR, NO_SAT_CHECK, RC, SATURATED
from gpucoron.parameters import SPACEKLIP_CLASS, P
from gpucoron.steps.arguments import CUBE, IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped
from gpucoron.steps.values import Number, Switch

STEP = Step(
    name="saturation",
    title="flag saturated groups and the A/D floor",
    jwst_class="SaturationStep",
    references=("saturation", "superbias"),
    parameters=(
        P("n_pix_grow_sat", "integer", 1, "number of pixels by which saturation grows", "pixels"),
        P("use_readpatt", "boolean", True, "find saturation that is hidden by averaged frames"),
        P("grow_diagonal", "boolean", True, "also grow diagonally", ours=True),
        P("flag_rcsat", "boolean", False, "count RC pixels as saturated in all groups", ours=True),
    ),
    profiles=dict.fromkeys(
        ("spaceklip", SPACEKLIP_CLASS, "recommended"), Preset({"grow_diagonal": False}, instruments=("NIRCAM",))
    ),
    keywords={"n_pix_grow_sat": "n_pix_grow_sat", "grow_diagonal": "grow_diagonal", "flag_rcsat": "flag_rcsat"},
    # it grows first, and a group before a grown one may grow again
    reach=lambda settings, facts: 2 * settings.n_pix_grow_sat,
)

#: a threshold above the range of the 16-bit A/D converter, DN
UNREACHABLE = 65536.0


@on_arrays(threshold=Array(IMAGE, unit="DN"), dq=Array(IMAGE, "uint32"))
def prepare_threshold(
    threshold: ArrayLike, dq: ArrayLike = 0, *, backend: BackendLike = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.uint32]]:
    """Return thresholds that are out of reach for pixels without a threshold, as a new array.

    Parameters
    ----------
    threshold : (ny, nx) float32, DN
    dq : (ny, nx) uint32, optional
        DQ of the reference. NO_SAT_CHECK, or a NaN threshold, marks pixels without a threshold.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    threshold : (ny, nx) float32
    checked : (ny, nx) bool
        False for pixels without a threshold.
    dq : (ny, nx) uint32
        With NO_SAT_CHECK if the threshold was NaN.
    """
    xp = backend.xp
    unknown = xp.isnan(threshold)
    checked = ~(unknown | ((dq & NO_SAT_CHECK) != 0))
    dq = dq | unknown.astype(dq.dtype) * dq.dtype.type(NO_SAT_CHECK)
    return xp.where(checked, threshold, threshold.dtype.type(UNREACHABLE)), checked, dq


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place="in_place"),
    pixeldq=Array(IMAGE, "uint32", in_place="in_place"),
    threshold=Array(IMAGE, unit="DN"),
    dq=Array(IMAGE, "uint32"),
    superbias=Array(IMAGE, unit="DN"),
    nframes=Number(whole=True, minimum=1),
    n_pix_grow_sat=Number("pixels", whole=True, minimum=0),
    grow_diagonal=Switch(),
    flag_rcsat=Switch(),
    in_place=Switch(),
)
def flag_saturated(
    data: ArrayLike,
    groupdq: ArrayLike,
    pixeldq: ArrayLike,
    threshold: ArrayLike,
    dq: ArrayLike = 0,
    *,
    superbias: ArrayLike | None = None,
    nframes: int | None = None,
    n_pix_grow_sat: int = 1,
    grow_diagonal: bool = True,
    flag_rcsat: bool = False,
    in_place: bool = False,
    backend: BackendLike = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Flag saturated groups and groups at the A/D floor, and spread the flags to neighbours.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        Raw counts.
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    threshold : (ny, nx) float32, DN
        NaN for pixels without a threshold.
    dq : (ny, nx) uint32, optional
        DQ of the reference. NO_SAT_CHECK marks pixels without a threshold.
    superbias : (ny, nx) float32, DN, optional
        Used with ``nframes``; by default zero.
    nframes : int, optional
        Number of frames averaged into a group: find saturation that averaging hides. By default it is not searched for.
    n_pix_grow_sat : int
        Number of pixels by which saturation grows.
    grow_diagonal : bool
        Also grow diagonally.
    flag_rcsat : bool
        Count RC pixels as saturated in all groups.
    in_place : bool
        Change ``groupdq`` and ``pixeldq`` in place instead of copies.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    groupdq : (nints, ngroups, ny, nx) uint8
        With SATURATED, AD_FLOOR and DO_NOT_USE; see `gpucoron.backends.backend.Backend.flag_saturation`.
    pixeldq : (ny, nx) uint32
        With the flags of the reference.

    Notes
    -----
    Source: stcal 1.20, ``flag_saturated_pixels``; spaceKLIP 2.2, ``do_saturation``, for ``flag_rcsat`` and for growth
    without ``grow_diagonal``.

    Examples
    --------
    >>> data = np.full((1, 3, 5, 5), 100.0)
    >>> data[0, 1:, 2, 2] = 70000
    >>> groupdq, pixeldq = flag_saturated(data, np.zeros(data.shape, np.uint8), 0, 60000, backend="cpu")
    >>> (groupdq & 2).sum(axis=(2, 3)) // 2
    array([[0, 9, 9]])
    """
    limit, checked, flags = prepare_threshold(threshold, dq, backend=backend)
    if flag_rcsat:
        flag_rc_pixels(groupdq, (pixeldq & RC) != 0, backend=backend)
    settings = SaturationSettings(n_pix_grow_sat, nframes, grow_diagonal)
    backend.flag_saturation(data, groupdq, limit, checked, superbias, settings=settings)
    pixeldq |= flags
    return groupdq, pixeldq


@on_arrays(groupdq=Array(RAMP, "uint8", in_place=True), rc=Array(IMAGE, "bool"))
def flag_rc_pixels(groupdq: NDArray[Any], rc: ArrayLike, *, backend: BackendLike = None) -> None:
    """Set SATURATED in all groups of RC pixels, in place.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    rc : (ny, nx) bool
    backend : str or Backend, optional
        The default is the device of the arrays.
    """
    groupdq |= rc.astype(groupdq.dtype) * groupdq.dtype.type(SATURATED)


@on_arrays(
    zeroframe=Array(CUBE, unit="DN", in_place=True),
    threshold=Array(IMAGE, unit="DN"),
    rc=Array(IMAGE, "bool"),
    n_pix_grow_sat=Number("pixels", whole=True, minimum=0),
    grow_diagonal=Switch(),
)
def blank_zeroframe(
    zeroframe: NDArray[Any],
    threshold: ArrayLike,
    n_pix_grow_sat: int,
    *,
    grow_diagonal: bool = True,
    rc: ArrayLike | None = None,
    backend: BackendLike = None,
) -> None:
    """Set pixels of the ZEROFRAME to zero, in place: saturated pixels, their neighbours, and the A/D floor.

    Parameters
    ----------
    zeroframe : (nints, ny, nx) float32, DN
    threshold : (ny, nx) float32, DN
    n_pix_grow_sat : int
    grow_diagonal : bool
        Also grow diagonally. If false, growth also starts from pixels at the A/D floor.
    rc : (ny, nx) bool, optional
        Pixels that count as saturated.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: stcal 1.20, ``flag_saturated_pixels``; without ``grow_diagonal`` spaceKLIP 2.2, ``do_saturation``.
    """
    # A CPU processes one integration after the other, so that masks stay in the cache.
    for planes in zeroframe if backend.xp is np else (zeroframe,):
        saturated, at_floor = planes >= threshold, planes <= 0
        if rc is not None:
            saturated |= rc
        if grow_diagonal:
            bad = grow_square(saturated, n_pix_grow_sat) | at_floor
        else:
            bad = grow_cross(saturated | at_floor, n_pix_grow_sat)
        backend.xp.copyto(planes, 0, where=bad)


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    Notes
    -----
    Source: jwst 3.0, ``saturation``, and stcal 1.20, ``flag_saturated_pixels``; spaceKLIP 2.2, ``do_saturation``, for
    ``flag_rcsat`` and for growth without ``grow_diagonal``. As in spaceKLIP, both are ignored for MIRI.
    """
    reference = references["saturation"]
    if reference is None:
        return skipped("there is no saturation reference")
    facts = exposure.facts
    superbias = references.get("superbias")
    growth = min(parameters.n_pix_grow_sat, max(exposure.data.shape[-2:]))  # at most the whole image
    grow_diagonal = parameters.grow_diagonal or facts.is_miri
    rc = None
    if parameters.flag_rcsat and not facts.is_miri:
        rc = (exposure.pixeldq & RC) != 0
    flag_saturated(
        exposure.data,
        exposure.groupdq,
        exposure.pixeldq,
        reference.data,
        reference.dq,
        superbias=None if superbias is None else superbias.data,
        nframes=facts.nframes if parameters.use_readpatt else None,
        n_pix_grow_sat=growth,
        grow_diagonal=grow_diagonal,
        flag_rcsat=rc is not None,
        in_place=True,
        backend=backend,
    )
    if exposure.zeroframe is not None and facts.zero_frame:
        threshold, _, _ = prepare_threshold(reference.data, reference.dq, backend=backend)
        options = {"grow_diagonal": grow_diagonal, "rc": rc, "backend": backend}
        blank_zeroframe(exposure.zeroframe, threshold, growth, **options)
    counts = backend.count_flags(exposure.groupdq, in_pixels=SATURATED | AD_FLOOR)
    flagged = {
        "saturated pixels": counts.pixels_with(SATURATED),
        "A/D floor pixels": counts.pixels_with(AD_FLOOR),
    }
    if rc is not None:
        flagged["RC pixels"] = int(rc.sum())
    return Outcome(flagged=flagged)
