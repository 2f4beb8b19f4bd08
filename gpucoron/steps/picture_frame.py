"""picture_frame: remove the thermal picture frame, a glow of the edges of NIRSpec's detectors."""

import logging
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.statistics import median_of_last
from gpucoron.parameters import P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.clean_flicker_noise import find_background
from gpucoron.steps.clean_flicker_noise_scene import draft_rates
from gpucoron.steps.declaration import Extra, Outcome, Step, skipped, whole_frame
from gpucoron.steps.values import Switch

log = logging.getLogger(__name__)

#: rows and columns of a full frame, ends excluded: the center, and the two edges without the reference pixels
CENTER, LOWER_EDGE, UPPER_EDGE = (76, 1984), (4, 75), (1985, 2043)


def _applies(facts):
    return str(facts.instrument).upper() == "NIRSPEC" and str(facts.subarray).upper() == "FULL"


def _saved(exposure, settings):
    """List the products of ``save_mask`` and ``save_correction``."""
    products = (
        (settings.save_mask, "pctfrm_mask", exposure.picture_frame_mask),
        (settings.save_correction, "pctfrm_correction", exposure.picture_frame_correction),
    )
    place = {"folder": settings.output_dir or "", "ext": "." + settings.output_ext.removeprefix(".")}
    return [
        Extra("array", array, suffix=suffix, **place)
        for is_saved, suffix, array in products
        if is_saved and array is not None
    ]


STEP = Step(
    name="picture_frame",
    title="remove the thermal picture frame",
    jwst_class="PictureFrameStep",
    references=("pictureframe",),
    parameters=(
        P("mask_science_regions", "boolean", True, "mask known science regions"),
        P("n_sigma", "float", 2.0, "clipping of the background", "sigma"),
        P("save_mask", "boolean", False, "save the background mask"),
        P("save_correction", "boolean", False, "save the correction"),
    ),
    skipped=True,
    # for the draft of the rate, in which the step looks for the background
    indirect=lambda settings, facts: ("gain", "readnoise") if _applies(facts) else (),
    extras=_saved,
    reach=whole_frame,
)


@on_arrays(mask=Array(IMAGE, "bool"))
def find_regions(mask: ArrayLike, *, backend: BackendLike = None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Divide the background of a full frame into its center and its edges.

    Parameters
    ----------
    mask : (ny, nx) bool
        True for background, from `gpucoron.steps.clean_flicker_noise.find_background`.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    center_pixels, edge_pixels : (ny, nx) bool

    Notes
    -----
    Source: jwst 3.0, ``_region_masks``. The rows and columns are those of a frame of 2048 x 2048 pixels.
    """
    xp, (ny, nx) = backend.xp, mask.shape
    y, x = xp.arange(ny)[:, None], xp.arange(nx)

    def within(limits, positions):
        return (positions >= limits[0]) & (positions < limits[1])

    def at_edge(positions):
        return within(LOWER_EDGE, positions) | within(UPPER_EDGE, positions)

    inside = within((LOWER_EDGE[0], UPPER_EDGE[1]), y) & within((LOWER_EDGE[0], UPPER_EDGE[1]), x)
    return mask & within(CENTER, y) & within(CENTER, x), mask & inside & (at_edge(y) | at_edge(x))


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    frame=Array(IMAGE),
    center_pixels=Array(IMAGE, "bool"),
    edge_pixels=Array(IMAGE, "bool"),
    with_correction=Switch(),
)
def subtract_picture_frame(
    data: NDArray[Any],
    frame: ArrayLike,
    center_pixels: ArrayLike,
    edge_pixels: ArrayLike,
    *,
    with_correction: bool = False,
    backend: BackendLike = None,
) -> NDArray[np.float32] | None:
    """Subtract the picture frame, scaled to the background of each group, and this background, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        The first group is not changed; the others are corrected relative to it.
    frame : (ny, nx) float32
        The picture frame of the reference.
    center_pixels, edge_pixels : (ny, nx) bool
        The background in the center and at the edges, from `find_regions`. The difference of their medians scales the
        frame.
    with_correction : bool
        Return by how much the data have changed.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (nints, ngroups, ny, nx) float32, DN, or None

    Notes
    -----
    Source: jwst 3.0, ``correct_picture_frame``. NaN is ignored in the medians; a group without other values in a region
    becomes NaN, as there.

    Raises
    ------
    ArgumentError
        There is no background in a region.
    """
    xp = backend.xp
    regions = xp.flatnonzero(center_pixels), xp.flatnonzero(edge_pixels)
    for name, pixels in zip(("center_pixels", "edge_pixels"), regions, strict=True):
        if len(pixels) == 0:
            msg = f"{name}: there is no background, so that the picture frame cannot be scaled"
            raise ValueError(msg)
    correction = backend.zeros(data.shape, np.float32) if with_correction else None

    def medians(image):
        return (_median(image.reshape(-1)[pixels], xp) for pixels in regions)

    with np.errstate(all="ignore"):
        center, edge = medians(frame)
        contrast, shape = center - edge, frame - edge

    def correct(integration, group):
        first, samples = data[integration, 0], data[integration, group]
        difference = samples - first
        center, edge = medians(difference)
        change = (center - edge) / contrast * shape
        change += edge
        xp.subtract(first, change, out=change)
        change += difference
        if correction is not None:
            correction[integration, group] = change - samples
        data[integration, group] = change

    def correct_part(part):
        with np.errstate(all="ignore"):
            for number in range(part.start, part.stop):
                integration, group = divmod(number, data.shape[1] - 1)
                correct(integration, group + 1)

    if data.shape[1] > 1:
        backend.in_parts(correct_part, data.shape[0] * (data.shape[1] - 1))
    if correction is not None:
        with np.errstate(invalid="ignore"):
            correction[:, 0] = data[:, 0] - data[:, 0]
    return correction


def _median(values, xp):
    """Return the median of a flat array, ignoring NaN, in its own precision; NaN without other values."""
    if xp is not np:
        return median_of_last(values[None], xp=xp)[0]
    count = len(values) - int(np.isnan(values).sum())
    if count == 0:
        return values.dtype.type(np.nan)
    ordered = np.partition(values, count // 2)  # NaN at the end
    upper = ordered[count // 2]
    return upper if count % 2 else (ordered[: count // 2].max() + upper) / values.dtype.type(2)


def _refusal(exposure, reference, parameters):
    """Return the outcome if the step does not apply to an exposure, else None."""
    facts, shape = exposure.facts, exposure.data.shape
    if reference is None:
        return skipped(f"there is no pictureframe reference for exposures of the type {facts.exp_type}")
    if not _applies(facts):
        return skipped("it only applies to full frames of NIRSpec")
    if shape[1] == 1:
        return skipped("it needs at least 2 groups")
    if parameters.mask_science_regions:
        reason = "mask_science_regions: only jwst's own step finds the slits of NIRSpec; set it to False"
        return Outcome("FAILED", reason)
    if reference.data.shape != shape[2:]:
        msg = f"the pictureframe reference has the shape {reference.data.shape}, the exposure {shape[2:]}"
        raise ValueError(msg)
    return None


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    With ``save_mask`` and ``save_correction`` it sets ``exposure.picture_frame_mask``, (ny, nx), and
    ``exposure.picture_frame_correction``, DN, with the shape of the ramps; both float32.

    Notes
    -----
    Source: jwst 3.0, ``PictureFrameStep``, with ``mask_science_regions`` false for NIRSpec.
    """
    reference = references["pictureframe"]
    outcome = _refusal(exposure, reference, parameters)
    if outcome is not None:
        log.warning("%s", outcome.reason)
        return outcome
    rate, _rateints = draft_rates(exposure, references, backend)
    if rate is None:
        return skipped("there is no draft of the rate, because no ramp can be fitted")
    mask = find_background(rate.rate, n_sigma=parameters.n_sigma, backend=backend)
    if parameters.save_mask:
        exposure.picture_frame_mask = mask.astype(np.float32)
    regions = find_regions(mask, backend=backend)
    if not all(bool(region.any()) for region in regions):
        log.error("there is no background in the center or at the edges: not corrected")
        return skipped("there is no background in the center or at the edges")
    exposure.picture_frame_correction = subtract_picture_frame(
        exposure.data, reference.data, *regions, with_correction=parameters.save_correction, backend=backend
    )
    return Outcome()
