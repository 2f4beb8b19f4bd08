"""clean_flicker_noise: subtract 1/f noise as jwst does, by the medians of the lines of each difference of groups."""

import logging
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.statistics import median_of_last
from gpucoron.dq import DO_NOT_USE, JUMP_DET
from gpucoron.parameters import P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.clean_flicker_noise_background import clip_masks, subtract_background
from gpucoron.steps.clean_flicker_noise_scene import choose, draft_rates, not_sky, read_flat, relative_flux
from gpucoron.steps.declaration import Extra, Outcome, Step, whole_frame
from gpucoron.steps.values import Choice, Kind, Number, Switch, check_numbers

__all__ = ["clean_groups", "find_background", "run"]

log = logging.getLogger(__name__)

#: bytes per pixel of an image while it is cleaned on a GPU
_CLEANED = 64
#: size of a near-infrared detector along its slow axis, and its number of amplifiers
FULL_FRAME, AMPLIFIERS = 2048, 4
#: exposure types of time series, in which jwst scales the median image by the light curve of the target
_TIME_SERIES = ("NRC_TSIMAGE", "NRC_TSGRISM", "NIS_SOSS", "NRS_BRIGHTOBJ")


def _needs_draft(settings, has_mask):
    return not has_mask or settings.background_method == "median_image"


def _for_the_draft(settings, facts):
    """List the references for the draft of the rate, in which the step looks for sources."""
    has_mask = str(settings.user_mask).lower() != "none"
    return ("gain", "readnoise") if settings.autoparam or _needs_draft(settings, has_mask) else ()


def _opens(settings, facts):
    """List the references that it opens. In MIRI images, the flags of the flat tell where the sky is."""
    is_chosen = settings.autoparam and facts.exp_type == "NRC_IMAGE"
    is_masked = settings.mask_science_regions and facts.exp_type == "MIR_IMAGE"
    return ["flat"] if settings.apply_flat_field or is_chosen or is_masked else []


def _saved(exposure, settings):
    """List the products of ``save_mask``, ``save_background`` and ``save_noise``."""
    products = (
        (settings.save_mask, "mask", exposure.flicker_mask),
        (settings.save_background, "flicker_bkg", exposure.flicker_background),
        (settings.save_noise, "flicker_noise", exposure.flicker_noise),
    )
    place = {"folder": settings.output_dir or "", "ext": "." + settings.output_ext.removeprefix(".")}
    return [
        Extra("array", array, suffix=suffix, **place)
        for is_saved, suffix, array in products
        if is_saved and array is not None
    ]


STEP = Step(
    name="clean_flicker_noise",
    title="remove 1/f noise as jwst does",
    jwst_class="CleanFlickerNoiseStep",
    references=("flat", "pastasoss"),
    parameters=(
        P("autoparam", "boolean", False, "choose some parameters from the data"),
        P("fit_method", "option", "median", "method of the noise fit", options=("fft", "median")),
        P("fit_by_channel", "boolean", False, "fit each amplifier separately"),
        P(
            "background_method",
            "option",
            "median",
            "method of the background fit",
            options=("median", "model", "median_image", None),
        ),
        P(
            "background_box_size",
            "int_list",
            None,
            "box of the background fit",
            "pixels",
            counts=(2,),
            minimum=1,
            maximum=2048,
        ),
        P("mask_science_regions", "boolean", False, "mask known science regions"),
        P("apply_flat_field", "boolean", False, "divide by the flat before the fit"),
        P("n_sigma", "float", 2.0, "clipping of the background", "sigma"),
        P("fit_histogram", "boolean", False, "estimate sigma from a histogram"),
        P("single_mask", "boolean", True, "one mask for all integrations"),
        P("user_mask", "string", None, "file with a mask", reads=("FITS", "ASDF"), holds="data"),
        P("save_mask", "boolean", False, "save the mask"),
        P("save_background", "boolean", False, "save the background"),
        P("save_noise", "boolean", False, "save the noise"),
    ),
    skipped=True,
    indirect=_for_the_draft,
    opens=_opens,
    hints={
        "user_mask": "user_mask must be a FITS file with the mask in its SCI extension, or an ASDF file of an image "
        "model: 1 is background; its shape is that of the exposure, (ny, nx) or (nints, ny, nx)",
    },
    extras=_saved,
    reach=whole_frame,
)


@on_arrays(
    rates=Array("ny nx|nints ny nx", unit="DN/s"),
    n_sigma=Number("sigma"),
    fit_histogram=Switch(),
)
def find_background(
    rates: ArrayLike, *, n_sigma: float = 2.0, fit_histogram: bool = False, backend: BackendLike = None
) -> NDArray[np.bool_]:
    """Find the background of count rates: pixels near the median, neither bright nor bad.

    Parameters
    ----------
    rates : (ny, nx) or (nints, ny, nx) float32, DN/s
        Each image is treated separately. NaN and exact zeros are not background.
    n_sigma : float
        Standard deviations above the center from which a pixel is a source; below the center, the limit is 3. With 0 or
        less, only NaN and zeros are masked.
    fit_histogram : bool
        Center and standard deviation are those of a Gaussian that is fitted to the histogram, on the host, instead of
        the clipped median and standard deviation.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    bool, the shape of the rates
        True for background.

    Notes
    -----
    Source: jwst 3.0, ``create_mask``.
    """
    xp = backend.xp
    images = rates.reshape(-1, *rates.shape[-2:])
    masks = ~(xp.isnan(images) | (images == 0))
    if n_sigma > 0:
        masks = xp.concatenate(
            [
                clip_masks(images[part], masks[part], 3.0, n_sigma, histogram=fit_histogram, backend=backend)
                for part in backend.batches(len(images), _CLEANED * images[0].size)
            ]
        )
    return masks.reshape(rates.shape)


def _check_box(value):
    check_numbers(value, 2)
    if any(side != int(side) or side < 1 for side in value):
        raise ValueError(value)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    groupdq=Array(RAMP, "uint8"),
    mask=Array("ny nx|nints ny nx", "bool"),
    flat=Array(IMAGE),
    flux=Array("nints"),
    background_method=Choice("median", "model", "median_image", None),
    background_box_size=Kind("two whole numbers, 1 or more", _check_box),
    n_sigma=Number("sigma"),
    slowaxis=Choice(2, -2, 1, -1),
    fit_by_channel=Switch(),
    with_background=Switch(),
)
def clean_groups(
    data: NDArray[Any],
    groupdq: ArrayLike,
    mask: ArrayLike,
    *,
    flat: ArrayLike | None = None,
    flux: ArrayLike | None = None,
    background_method: str | None = "median",
    background_box_size: Any = None,
    n_sigma: float = 2.0,
    slowaxis: int = 2,
    fit_by_channel: bool = False,
    with_background: bool = False,
    backend: BackendLike = None,
) -> NDArray[np.float32] | None:
    """Subtract the medians of the lines from the difference of each group to the one before, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        The first group is not changed, except with 'median_image'.
    groupdq : (nints, ngroups, ny, nx) uint8
        DO_NOT_USE and JUMP_DET exclude pixels from the fit of their group.
    mask : (ny, nx) or (nints, ny, nx) bool
        True for background, from `find_background`. The other pixels are corrected too, but not fitted.
    flat : (ny, nx) float32, optional
        The differences are divided by it before the fit. Without zeros and NaN.
    flux : (nints,) float32, optional
        For 'median_image': the brightness of each integration relative to the median.
    background_method : {'median', 'model', 'median_image', None}
        What is subtracted before the fit and added again: the median of the background; a smooth model of it
        (photutils' ``Background2D``, on the host); the median of the integrations, scaled by ``flux``; or nothing.
    background_box_size : (int, int), optional
        Height and width of the boxes of the model; by default the largest numbers up to 32 that divide the image.
    n_sigma : float
        Clipping about the background of each difference; 0 or less: none.
    slowaxis : int
        2 or -2: rows have a common offset; 1 or -1: columns.
    fit_by_channel : bool
        Fit the four amplifiers of a full frame separately.
    with_background : bool
        Return the backgrounds.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (nints, ngroups, ny, nx) float32, DN, or None
        The background of each difference, 0 where there is none.

    Notes
    -----
    Source: jwst 3.0, ``clean_flicker_noise`` with ``fit_method`` median, after ``image1overf`` by C. Willott. A
    corrected difference is added to the corrected group before it, so that NaN remains in all later groups. A group
    without any usable pixel is not changed. With 'median_image', groups are corrected instead of differences, without
    regard to flags.

    Examples
    --------
    >>> clean_groups(data, groupdq, find_background(rate))  # doctest: +SKIP
    """
    cleaner = _Cleaner(flat, background_method, background_box_size, n_sigma, slowaxis, fit_by_channel, backend)
    backgrounds = backend.zeros(data.shape, np.float32) if with_background else None
    if background_method == "median_image":
        if flux is None:
            msg = "flux: background_method 'median_image' needs the brightness of each integration"
            raise ValueError(msg)
        _clean_median_residuals(data, mask, flux, cleaner, backgrounds)
    else:
        _clean_differences(data, groupdq, mask, cleaner, backgrounds)
    return backgrounds


def _clean_differences(data, groupdq, mask, cleaner, backgrounds):
    """Clean the differences of successive groups, and add them up again."""
    xp = cleaner.backend.xp
    for part, blocks in cleaner.blocks(data.shape, 1):
        before = data[part, 0].copy()
        scene = mask if mask.ndim == 2 else mask[part, None]
        for groups in blocks:
            some = data[part, groups]
            differences = some - xp.concatenate([before[:, None], some[:, :-1]], axis=1)
            before = some[:, -1].copy()
            masks = scene & ((groupdq[part, groups] & (DO_NOT_USE | JUMP_DET)) == 0)
            cleaned, background, usable = cleaner.clean(differences, masks)
            for number, group in enumerate(range(groups.start, groups.stop)):
                rows = _usable(usable, part, groups, number)
                sums = data[part, group - 1] + cleaned[:, number]
                _replace(data[part, group], sums, rows, cleaner.backend)
                if backgrounds is not None:
                    _replace(backgrounds[part, group], background[:, number], rows, cleaner.backend)


def _clean_median_residuals(data, mask, flux, cleaner, backgrounds):
    """Clean the residuals of groups from the median of the integrations."""
    backend, xp = cleaner.backend, cleaner.backend.xp
    median = xp.empty(data.shape[1:], data.dtype)
    for groups in backend.batches(data.shape[1], 16 * data[:, 0].size):
        median[groups] = median_of_last(xp.moveaxis(data[:, groups], 0, -1), xp=xp)
    for part, blocks in cleaner.blocks(data.shape, 0):
        scene = mask if mask.ndim == 2 else mask[part, None]
        for groups in blocks:
            expected = flux[part, None, None, None] * median[groups]
            masks = xp.broadcast_to(scene, expected.shape)
            cleaned, _background, usable = cleaner.clean(data[part, groups] - expected, masks)
            for number, group in enumerate(range(groups.start, groups.stop)):
                rows = _usable(usable, part, groups, number)
                _replace(data[part, group], expected[:, number] + cleaned[:, number], rows, backend)
                if backgrounds is not None:
                    _replace(backgrounds[part, group], expected[:, number], rows, backend)


def _usable(usable, part, groups, number):
    """Warn of images that cannot be cleaned; return whether each integration can, (n,) bool, or None if all can."""
    rows = usable[:, number]
    for integration in part.start + np.flatnonzero(~rows):
        log.warning(
            "no usable pixel in integration %d, group %d: not corrected", integration + 1, groups.start + number + 1
        )
    return None if rows.all() else rows


def _replace(images, new, rows, backend):
    """Replace images (n, ny, nx) by new ones; of some rows only, if they are given."""
    images[...] = new if rows is None else backend.xp.where(backend.to_device(rows)[:, None, None], new, images)


class _Cleaner:
    """Cleans stacks of images."""

    def __init__(self, flat, background_method, box, n_sigma, slowaxis, by_channel, backend):
        self.flat, self.method, self.box, self.n_sigma = flat, background_method, box, n_sigma
        self.axis, self.by_channel, self.backend = abs(slowaxis) - 1, by_channel, backend

    def blocks(self, shape, first):
        """Yield slices of integrations, each with slices of groups from the first one, to clean together.

        They are single images on a CPU, which fit in its cache, and enough to occupy a GPU.
        """
        nints, ngroups, ny, nx = shape
        n, bytes_each = ngroups - first, _CLEANED * ny * nx
        for part in self.backend.batches(nints, n * bytes_each):
            blocks = self.backend.batches(n, (part.stop - part.start) * bytes_each)
            yield part, [slice(block.start + first, block.stop + first) for block in blocks]

    def clean(self, images, masks):
        """Return cleaned images (nints, n, ny, nx), their backgrounds, and which are usable, (nints, n) on the host."""
        axes = images.shape[:2]
        images, masks = (array.reshape(-1, *images.shape[2:]) for array in (images, masks))
        found = self._clean(images, masks)
        return tuple(array.reshape(*axes, *array.shape[1:]) for array in found)

    def _clean(self, images, masks):
        xp = self.backend.xp
        images = images if self.flat is None else images / self.flat
        lost = xp.isnan(images)
        images, masks = xp.where(lost, images.dtype.type(0), images), masks & ~lost
        usable = self.backend.to_host(masks.any(axis=(1, 2)))
        if self.method in ("median", "model"):
            residuals, backgrounds, masks = subtract_background(
                images, masks, self.method, box=self.box, n_sigma=self.n_sigma, backend=self.backend
            )
        else:
            residuals, backgrounds = images, xp.zeros((len(images), 1, 1), images.dtype)
        cleaned = residuals - self._stripes(residuals, masks) + backgrounds
        cleaned = cleaned if self.flat is None else cleaned * self.flat
        return xp.where(lost, cleaned.dtype.type(np.nan), cleaned), backgrounds, usable

    def _stripes(self, images, masks):
        """Return the medians of lines, 0 for lines without background."""
        xp = self.backend.xp
        lines = xp.where(masks, images, images.dtype.type(np.nan))
        lines = lines if self.axis == 1 else lines.swapaxes(1, 2)
        parts = AMPLIFIERS if self.by_channel and lines.shape[2] == FULL_FRAME else 1
        size = lines.shape[2] // parts
        medians = median_of_last(xp.ascontiguousarray(lines).reshape(*lines.shape[:2], parts, size), xp=xp)
        stripes = xp.repeat(
            xp.where(xp.isnan(medians), medians.dtype.type(0), medians), size if parts > 1 else 1, axis=2
        )
        return stripes if self.axis == 1 else stripes.swapaxes(1, 2)


def _refusal(parameters, facts, nints):
    """Return why the step does not apply to an exposure, or ''."""
    exp_type = facts.exp_type or facts.instrument
    if exp_type.startswith("MIR") and exp_type != "MIR_IMAGE":
        return f"it does not apply to exposures of the type {exp_type}"
    if parameters.fit_method == "fft":
        return f"fit_method fft is made for NIRSpec's spectra and does not apply to exposures of the type {exp_type}"
    special = ("autoparam", parameters.autoparam), ("mask_science_regions", parameters.mask_science_regions)
    special = [name for name, is_set in special if is_set]
    if special and facts.instrument not in ("NIRCAM", "MIRI"):
        return f"{' and '.join(special)}: only jwst's own step has rules for exposures of {facts.instrument}"
    if parameters.background_method == "median_image":
        if nints < 2:
            return "background_method median_image needs several integrations"
        if exp_type in _TIME_SERIES:
            return f"background_method median_image needs jwst's light curve for exposures of the type {exp_type}"
    return ""


def _find_scene(rates, flat, references, parameters, facts, backend):
    """Return the mask of the background for draft rates, (ny, nx) or (nints, ny, nx)."""
    xp = backend.xp
    data = rates.rate if flat is None else rates.rate / flat
    if parameters.mask_science_regions and facts.exp_type == "MIR_IMAGE":
        data = xp.where(not_sky(rates, references["flat"], xp), data.dtype.type(np.nan), data)
    return find_background(data, n_sigma=parameters.n_sigma, fit_histogram=parameters.fit_histogram, backend=backend)


def _clean_exposure(exposure, references, parameters, backend):
    """Correct the ramps in place; return why they cannot be corrected, or ''."""
    facts, xp = exposure.facts, backend.xp
    uses_median_image = parameters.background_method == "median_image"
    single_mask = parameters.single_mask and not uses_median_image
    if parameters.single_mask and uses_median_image:
        log.warning("background_method median_image needs a mask for each integration: single_mask is ignored")
    by_channel = parameters.fit_by_channel
    if by_channel and (facts.is_miri or str(facts.subarray).upper() != "FULL"):
        log.warning("fit_by_channel only applies to full frames of near-infrared detectors: it is ignored")
        by_channel = False
    flat = read_flat(references["flat"], backend) if parameters.apply_flat_field else None
    mask, flux = parameters.user_mask, None
    if _needs_draft(parameters, mask is not None):
        rate, rateints = draft_rates(exposure, references, backend)
        if rate is None:
            return "there is no draft of the rate, because no ramp can be fitted"
        rates = rate if single_mask else rateints
        if mask is None:
            mask = _find_scene(rates, flat, references, parameters, facts, backend)
        if uses_median_image:
            flux = relative_flux(rates.rate if flat is None else rates.rate / flat, xp)
            if flux is None:
                return "there is no median image, because no integration has a finite flux"
    shape = exposure.data.shape
    if mask.shape not in (shape[-2:], (shape[0], *shape[-2:])):
        return f"the mask has the shape {mask.shape}, which is not that of the exposure, {shape}"
    mask = backend.to_device(mask)
    before = backend.copy(exposure.data) if parameters.save_noise else None
    exposure.flicker_background = clean_groups(
        exposure.data,
        exposure.groupdq,
        mask,
        flat=flat,
        flux=flux,
        background_method=parameters.background_method,
        background_box_size=parameters.background_box_size,
        n_sigma=parameters.n_sigma,
        # the noise of MIRI is along columns
        slowaxis=1 if facts.is_miri else facts.slowaxis,
        fit_by_channel=by_channel,
        with_background=parameters.save_background,
        backend=backend,
    )
    if parameters.save_mask:
        exposure.flicker_mask = mask.astype(np.float32)
    if before is not None:
        exposure.flicker_noise = xp.subtract(exposure.data, before, out=before)
    return ""


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    With ``save_mask``, ``save_background`` and ``save_noise`` it sets ``exposure.flicker_mask``, with the shape of the
    mask, and ``exposure.flicker_background`` and ``exposure.flicker_noise``, DN, with that of the ramps; all float32.

    Notes
    -----
    Source: jwst 3.0, ``CleanFlickerNoiseStep``. A step that does not apply is FAILED, as there, and so is one without
    a usable mask. As in jwst, products do not name a flat whose flags alone are used.
    """
    names_flat = parameters.apply_flat_field or (parameters.autoparam and exposure.facts.exp_type == "NRC_IMAGE")
    if parameters.autoparam:
        parameters = choose(parameters, exposure, references, backend)
    reason = _refusal(parameters, exposure.facts, exposure.data.shape[0])
    reason = reason or _clean_exposure(exposure, references, parameters, backend)
    if reason:
        log.warning("%s", reason)
    return Outcome("FAILED" if reason else "COMPLETE", reason, opened=None if names_flat else {})
