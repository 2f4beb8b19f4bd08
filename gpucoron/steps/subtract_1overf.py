"""subtract_1overf: subtract 1/f noise, the slow drift of the readout along each frame, from ramps or count rates.

The scene is removed first: the mean of several integrations is subtracted; for a single integration sources are masked.
The residual is smoothed along the readout (`Backend.fit_1overf`) and subtracted from the data.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron import get_by_old_name
from gpucoron.backends.masks import carry_on
from gpucoron.backends.operations.subtract_1overf import BackgroundSettings, Subtract1OverfSettings
from gpucoron.backends.operations.subtract_1overf.frames import for_each_block
from gpucoron.backends.operations.subtract_ktc import SubtractKtcSettings
from gpucoron.backends.statistics import add_in_order, resistant_mean
from gpucoron.dq import DO_NOT_USE
from gpucoron.parameters import OWN_THREADS, SPACEKLIP_CLASS, P
from gpucoron.steps.arguments import CUBE, IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.combined_rate import RATE_COMBINATIONS, combine_rateints
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped, whole_frame
from gpucoron.steps.known_sources import check_sources, protect_sources
from gpucoron.steps.linear_1overf import run_linear
from gpucoron.steps.mean_scene import grow, mean_of_integrations, near_median, reads_columns, subtract_backgrounds
from gpucoron.steps.subtract_ktc import fit_ktc
from gpucoron.steps.values import Choice, Number, Switch

__all__ = [
    "background_mask",
    "combine_rateints",
    "fit_noise",
    "noise_of_ramp",
    "noise_of_rateints",
    "protect_sources",
    "run",
]


#: bytes per sample of a batch of integrations: the signal in double precision, the residual, and its fit
_BATCHED = 100


def _half_pairs(settings):
    """Refuse companions that are not pairs of coordinates."""
    coordinates = settings.companions or ()
    if len(coordinates) % 2 == 0:
        return None
    return f"subtract_1overf.companions: expected pairs x, y, got {len(coordinates)} numbers"


#: models that smooth residuals row by row, as in spaceKLIP, and those that estimate noise of a known spectrum
MODEL_TYPES, LINEAR_MODELS = ("savgol", "median", "mean", "fft"), ("rows", "kriging")


def _opens(settings, facts):
    """Return the references that a model needs at stage 'groups'."""
    return ("gain", "readnoise") if settings.model_type in LINEAR_MODELS else ("saturation",)


STEP = Step(
    name="subtract_1overf",
    title="subtract 1/f noise",
    references=("saturation", "gain", "readnoise"),
    opens=_opens,
    parameters=(
        P("model_type", "option", "savgol", "model of the noise", options=MODEL_TYPES + LINEAR_MODELS),
        P("relaxation", "float", 2.0, "larger values of kriging remove less noise and less of the scene", minimum=1),
        P(
            "amplitude",
            "float",
            None,
            "power of the noise of a group at 1 cycle per pixel; None: measured",
            "DN^2",
            minimum=0,
            maximum=1e6,  # thousands of DN rms; beyond 1e20, float32 overflows
        ),
        P("exponent", "float", None, "exponent of the power; None: measured", minimum=0, maximum=3),
        P("sat_frac", "float", 0.5, "fraction of the saturation level up to which groups are fitted", minimum=0),
        P("combine_ints", "boolean", True, "fit the slope to the mean ramp of all integrations (groups)"),
        P("vertical_corr", "boolean", True, "correct columns after rows"),
        P("channel_averaging", "boolean", False, "one model for all four outputs of a full frame"),
        P(
            "rate_combination",
            "option",
            "weighted",
            "weights of the corrected integrations in the rate",
            options=RATE_COMBINATIONS,
        ),
        P("companions", "float_list", None, "known companions, x, y, x, y, ..., counted from 0", "pixels", finite=True),
        P(
            "companion_radius",
            "float",
            5.0,
            "radius around companions to exclude from the fit",
            "pixels",
            minimum=0,
        ),
        P("user_mask", "array", None, "mask: True for pixels to exclude from the fit", reads=("NPY",)),
        P("nproc", "integer", None, "accepted and not used", unused=OWN_THREADS),
    ),
    skipped=True,
    saves={"rateints": "{}"},
    helpers=("stage", "fit"),
    profiles={
        **dict.fromkeys(("spaceklip", SPACEKLIP_CLASS), Preset({"skip": False}, instruments=("NIRCAM",))),
        "recommended": Preset({"skip": False, "model_type": "kriging"}, instruments=("NIRCAM",), subarrays_only=True),
    },
    keywords={"skip_fnoise": "skip", "skip_fnoise_vert": "not vertical_corr"},
    # all groups of an integration at once: masks, contrasts, a corrected copy
    scratch_bytes=lambda settings, run_parameters: 16 if run_parameters.stage_1overf == "groups" else 0,
    refuses=_half_pairs,
    checks=lambda settings, shape: check_sources(shape[-2:], settings.companions or (), settings.user_mask),
    reach=whole_frame,
)


@on_arrays(
    image=Array(IMAGE, "float"),
    bad=Array(IMAGE, "bool"),
    nsigma=Number("sigma", minimum=0),
    niter=Number(whole=True, minimum=1),
)
def background_mask(
    image: ArrayLike, bad: ArrayLike | None = None, *, nsigma: float = 3, niter: int = 3, backend: BackendLike = None
) -> NDArray[np.bool_]:
    """Find the background of an image: pixels near its median that belong to no source.

    Parameters
    ----------
    image : (ny, nx) float32
        NaN is never background.
    bad : (ny, nx) bool, optional
        True for pixels that are never background; ignored if it is True everywhere.
    nsigma : float
        Clipping about the median in the first iteration; later iterations clip at 3.
    niter : int
        Largest number of iterations.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (ny, nx) bool
        True = background.

    Notes
    -----
    `gpucoron.backends.backend.Backend.background_mask` describes the method. Source: spaceKLIP 2.2,
    ``create_bkg_mask``.

    Examples
    --------
    >>> image = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> image[20:30, 20:30] += 9
    >>> bool(background_mask(image)[20:30, 20:30].any())
    False
    """
    settings = BackgroundSettings(nsigma, niter)
    return backend.background_mask(image[None], None if bad is None else bad[None], settings=settings)[0]


#: arguments of all functions that fit noise
_HOW = {
    "model_type": Choice(*MODEL_TYPES),
    "vertical_corr": Switch(),
    "slowaxis": Choice(2, -2, 1, -1),
    "noutputs": Number(whole=True, minimum=1),
    "channel_averaging": Switch(),
}


@on_arrays(
    image=Array(IMAGE, "float"),
    mask=Array(IMAGE, "bool"),
    **_HOW,
    flatten_model=Switch(),
)
def fit_noise(
    image: ArrayLike,
    mask: ArrayLike,
    *,
    model_type: str = "savgol",
    vertical_corr: bool = False,
    flatten_model: bool = False,
    slowaxis: int = 2,
    noutputs: int = 1,
    channel_averaging: bool = False,
    backend: BackendLike = None,
) -> NDArray[np.float32]:
    """Fit the 1/f noise of an image through its background pixels.

    Parameters
    ----------
    image : (ny, nx) float32
        Preferably without the scene. NaN is ignored.
    mask : (ny, nx) bool
        True for background pixels.
    model_type : {'savgol', 'median', 'mean', 'fft'}
        See `gpucoron.backends.backend.Backend.fit_1overf`.
    vertical_corr : bool
        Also fit the residual along the slow axis.
    flatten_model : bool
        Remove broad structures along the slow axis from the model: sources that are not masked.
    slowaxis : int
        2 or -2: rows are read one after the other; 1 or -1: columns.
    noutputs : int
        Number of amplifiers, side by side along the fast axis. Each is fitted separately.
    channel_averaging : bool
        With several outputs, first fit their common noise. Even outputs are read in the other direction.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (ny, nx) float32
        The model, in the units of the image, with an arbitrary constant.

    Notes
    -----
    Source: spaceKLIP 2.2, ``CleanSubarray`` and ``CleanFullFrame``. For ``slowaxis`` 1, spaceKLIP flips the common
    model along the wrong axis; here the result is that of the transposed image, transposed.
    """
    settings = Subtract1OverfSettings(model_type, vertical_corr, flatten_model, noutputs, channel_averaging)
    return _fit(backend, image[None], mask[None], slowaxis, settings)[0]


@on_arrays(
    data=Array(CUBE, unit="DN/s"),
    dq=Array(CUBE, "uint32"),
    protected=Array(IMAGE, "bool"),
    **_HOW,
)
def noise_of_rateints(
    data: ArrayLike,
    dq: ArrayLike,
    *,
    model_type: str = "savgol",
    vertical_corr: bool = True,
    slowaxis: int = 2,
    noutputs: int = 1,
    channel_averaging: bool = False,
    protected: ArrayLike | None = None,
    backend: BackendLike = None,
) -> NDArray[np.float32]:
    """Fit the 1/f noise of the count rates of each integration.

    Parameters
    ----------
    data : (nints, ny, nx) float32, DN/s
    dq : (nints, ny, nx) uint32
        Pixels with DO_NOT_USE are ignored.
    model_type, vertical_corr, slowaxis, noutputs, channel_averaging
        As in `fit_noise`.
    protected : (ny, nx) bool, optional
        True for pixels to exclude from the fit: known sources. They are corrected using the rest of their rows.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (nints, ny, nx) float32, DN/s
        To subtract from the data.

    Notes
    -----
    Source: spaceKLIP 2.2, ``OneOverfStep.proc_CubeModel``. With several integrations, the scene is their mean, after
    subtraction of the background of each output and of the 1/f noise of the mean. A single integration is fitted
    directly, and the model is flattened.
    """
    flags = (dq & DO_NOT_USE) != 0
    nints = data.shape[0]
    settings = Subtract1OverfSettings(model_type, vertical_corr, nints == 1, noutputs, channel_averaging)
    residual = data
    if nints > 1:
        residual = subtract_backgrounds(data, slowaxis, noutputs, backend)
        mean = mean_of_integrations(residual, backend.xp)
        mask = background_mask(mean, backend=backend)
        mask = ~grow(~mask, backend)
        residual -= _clean_scene(mean, mask, slowaxis, noutputs, protected, backend)
    masks = _unprotected(backend.background_mask(residual, flags), protected)
    return _fit(backend, residual, masks, slowaxis, settings)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8"),
    saturation=Array(IMAGE, unit="DN"),
    group_time=Number("s", positive=True),
    protected=Array(IMAGE, "bool"),
    sat_frac=Number(minimum=0),
    combine_ints=Switch(),
    **_HOW,
)
def noise_of_ramp(
    data: ArrayLike,
    groupdq: ArrayLike,
    saturation: ArrayLike,
    group_time: float,
    *,
    sat_frac: float = 0.5,
    combine_ints: bool = True,
    model_type: str = "savgol",
    vertical_corr: bool = True,
    slowaxis: int = 2,
    noutputs: int = 1,
    channel_averaging: bool = False,
    protected: ArrayLike | None = None,
    backend: BackendLike = None,
) -> NDArray[np.float32]:
    """Fit the 1/f noise of each group.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        Linear ramps.
    groupdq : (nints, ngroups, ny, nx) uint8
        Groups from the first DO_NOT_USE of a ramp on are ignored.
    saturation : (ny, nx) float32, DN
    group_time : float, s
    sat_frac : float
        Fraction of the saturation level up to which groups are used for the slope of a pixel.
    combine_ints : bool
        Fit the slope to the mean ramp of all integrations, instead of averaging the slopes of the integrations.
    model_type, vertical_corr, slowaxis, noutputs, channel_averaging
        As in `fit_noise`.
    protected : (ny, nx) bool, optional
        True for pixels to exclude from the fit: known sources.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (nints, ngroups, ny, nx) float32, DN
        To subtract from the data.

    Notes
    -----
    Source: spaceKLIP 2.2, ``OneOverfStep.proc_RampModel``. With several integrations, the scene is a straight ramp: the
    mean slope, after subtraction of its 1/f noise, and the pedestal of each integration. For a single integration, only
    the pedestal is subtracted, and the model is flattened.
    """
    noise = backend.xp.empty(data.shape, backend.xp.float32)
    options = {
        "sat_frac": sat_frac,
        "combine_ints": combine_ints,
        "model_type": model_type,
        "vertical_corr": vertical_corr,
        "slowaxis": slowaxis,
        "noutputs": noutputs,
        "channel_averaging": channel_averaging,
        "protected": protected,
    }
    for part, frames in _noise_in_batches(data, groupdq, saturation, group_time, backend, **options):
        noise[part] = frames
    return noise


def _noise_in_batches(
    data,
    groupdq,
    saturation,
    group_time,
    backend,
    *,
    sat_frac,
    combine_ints,
    model_type,
    vertical_corr,
    slowaxis,
    noutputs,
    channel_averaging,
    protected,
):
    """Yield slices of integrations and their noise, (n, ngroups, ny, nx), without a second ramp in memory."""
    xp = backend.xp
    nints, ngroups, *image = data.shape
    settings = Subtract1OverfSettings(model_type, vertical_corr, nints == 1, noutputs, channel_averaging)
    pedestal, slope = fit_ktc(data, groupdq, saturation, group_time, sat_frac=sat_frac, backend=backend)
    scene = xp.zeros(image)
    if nints > 1:
        if combine_ints:
            limit = (saturation - pedestal.mean(axis=0)) * sat_frac
            slope = backend.fit_mean_slope(data, groupdq, pedestal, limit, settings=SubtractKtcSettings(group_time))
        else:
            slope = resistant_mean(slope, axis=0, xp=xp)
        mask = ~grow(~near_median(slope, xp), backend)
        scene = _clean_scene(slope, mask, slowaxis, noutputs, protected, backend)
    times = (xp.arange(1, ngroups + 1) * group_time)[:, None, None]
    for part in backend.batches(nints, _BATCHED * ngroups * math.prod(image)):
        residual = xp.empty(data[part].shape, xp.float32)
        lost = xp.empty(residual.shape, bool)

        def subtract_scene(groups, part=part, residual=residual, lost=lost):
            signal = scene * times[groups] + pedestal[part, None]
            residual[:, groups] = data[part, groups] - signal
            lost[:, groups] = (groupdq[part, groups] & DO_NOT_USE) != 0

        for_each_block(subtract_scene, ngroups, backend.home, 0)
        carry_on(lost)
        frames = residual.reshape(-1, *image)
        masks = _unprotected(backend.background_mask(frames, lost.reshape(frames.shape)), protected)
        yield part, _fit(backend, frames, masks, slowaxis, settings).reshape(residual.shape)


def _fit(backend, images, masks, slowaxis, settings):
    """Fit images in the orientation of the detector: in the operation, rows are along the fast axis."""
    is_turned = reads_columns(slowaxis)
    if is_turned:
        images, masks = images.swapaxes(1, 2), masks.swapaxes(1, 2)
    if images.shape[2] % settings.noutputs:
        msg = f"{images.shape[2]} pixels along the fast axis cannot be divided among {settings.noutputs} outputs"
        raise ValueError(msg)
    models = backend.fit_1overf(images, masks, settings=settings)
    return models.swapaxes(1, 2) if is_turned else models


def _unprotected(masks, protected):
    return masks if protected is None else masks & ~protected


def _clean_scene(scene, mask, slowaxis, noutputs, protected, backend):
    """Subtract 1/f noise from the mean scene, with a flattened model of its rows."""
    mask = _unprotected(mask, protected)
    return scene - fit_noise(scene, mask, flatten_model=True, slowaxis=slowaxis, noutputs=noutputs, backend=backend)


def run(exposure, references, parameters, backend, stage, fit=None):
    """Run the step; see `gpucoron.steps`.

    Parameters
    ----------
    exposure, references, parameters, backend
        See `gpucoron.steps`. ``parameters.user_mask`` is an array (ny, nx) or None.
    stage : {'groups', 'ints'}
        'groups': correct the ramps, before ramp_fit. 'ints': correct the rateints after ramp_fit and before gain_scale,
        and compute the rate from them. ``exposure.removed_1overf`` is the mean of the subtracted noise.
    fit : callable
        ``fit(exposure, references)`` fits the ramps of an exposure as later in the run; 'rows' and 'kriging' need
        it at stage 'groups'.

    Notes
    -----
    Source: spaceKLIP 2.2, ``OneOverfStep`` and ``Coron1Pipeline``. ``nproc`` has no effect.
    """
    facts, user_mask = exposure.facts, parameters.user_mask
    if facts.is_miri:
        return skipped("not for MIRI: only near-infrared detectors have this kind of 1/f noise")
    if parameters.model_type in LINEAR_MODELS:
        return run_linear(exposure, references, parameters, backend, stage, fit)
    options = {
        "model_type": parameters.model_type,
        "vertical_corr": parameters.vertical_corr,
        "slowaxis": facts.slowaxis or 2,
        "noutputs": facts.noutputs or 1,
        "channel_averaging": parameters.channel_averaging,
        "protected": protect_sources(
            exposure.data.shape[-2:],
            parameters.companions or (),
            parameters.companion_radius,
            user_mask,
            backend=backend,
        ),
    }
    if stage == "ints":
        rateints = exposure.rateints
        if rateints is None:
            return skipped("there are no rateints")
        noise = noise_of_rateints(rateints.rate, rateints.dq, backend=backend, **options)
        exposure.rateints = replace(rateints, rate=rateints.rate - noise)
        exposure.removed_1overf = noise.mean(axis=0)
        if exposure.rate is not None:
            options = {"combination": parameters.rate_combination, "backend": backend}
            exposure.rate = combine_rateints(exposure.rate, exposure.rateints, fitted=rateints, **options)
        return Outcome()
    if references["saturation"] is None:
        return skipped("there is no saturation reference")
    options |= {"sat_frac": parameters.sat_frac, "combine_ints": parameters.combine_ints}
    saturation = references["saturation"].data
    noises = _noise_in_batches(exposure.data, exposure.groupdq, saturation, facts.group_time, backend, **options)
    removed = backend.xp.zeros(exposure.data.shape[-2:], backend.xp.float32)
    for part, noise in noises:
        exposure.data[part] -= noise
        add_in_order(removed, noise.mean(axis=1), xp=backend.xp)
    exposure.removed_1overf = removed / exposure.data.shape[0]
    return Outcome()


def __getattr__(name):
    return get_by_old_name(__name__, name)
