"""Models of 1/f noise by kernels; see `gpucoron.backends.operations.subtract_1overf.definition`."""

from functools import lru_cache

import numpy as np

from gpucoron.backends.blas import one_blas_thread
from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.kernel_files import ROW_LANES
from gpucoron.backends.operations.subtract_1overf.background import (
    SOURCE_PIXELS,
    SOURCE_SIGMA,
    gaussian,
    weight_of_array,
)
from gpucoron.backends.operations.subtract_1overf.cosines import cosine_tables, fit_cosines
from gpucoron.backends.operations.subtract_1overf.definition import FLATTENING_WINDOW, ROUNDS, WINDOW
from gpucoron.backends.operations.subtract_1overf.savgol import (
    BRIDGE,
    ORDER,
    bits_of_samples,
    bridge_weights,
    cubics,
    odd_window,
    projection,
)
from gpucoron.backends.statistics import CUT, MAD_TO_SIGMA, NARROWING, sigma_from_mad


def background_mask(device, images, bad=None, *, settings):
    if device.strip_pixels:
        return _find_backgrounds(device, images, bad, settings)
    xp = device.xp
    images, bad = xp.ascontiguousarray(images, dtype=np.float32), device.contiguous(bad)
    n, ny, nx = images.shape
    valid = xp.isfinite(images)
    smooth, offsets = (xp.empty(images.shape, np.float32) for _ in range(2))
    over_pixels = geometry(ny * nx, device.block_threads, n)
    frames, pixels = {"n_frames": n, "ny": ny, "nx": nx}, {"n_frames": n, "n_pixels": ny * nx}
    values = {"frames": images, "complete": valid.all(axis=(1, 2)).view(np.uint8), "smooth": smooth, "offsets": offsets}
    weights = dict(zip(("middle", "next", "last"), gaussian(), strict=True))
    device.launch("smooth_background", *over_pixels, {**values, **frames, **weights})
    good = valid
    if bad is not None:
        good = valid & ~(bad & ~bad.all(axis=(1, 2), keepdims=True))
    bright = xp.empty(images.shape, np.uint8)
    for round_ in range(settings.niter):
        before = good
        medians, _ = _find_medians(device, images, good)
        below = (images < medians[:, None, None]) & good
        mads, mean_deviations = _find_medians(device, images, below, medians)
        spread = {"mads": mads, "mean_deviations": mean_deviations, "mad_to_sigma": MAD_TO_SIGMA, **pixels}
        good = xp.empty(images.shape, bool)
        # Later rounds always use three sigma.
        values = {"frames": images, "medians": medians, "cut": settings.nsigma if round_ == 0 else CUT}
        masks = {"good": before.view(np.uint8), "narrowed": good.view(np.uint8)}
        device.launch("narrow_background", *over_pixels, {**values, **masks, **spread})
        medians, _ = _find_medians(device, images, good)
        values = {"smooth": smooth, "offsets": offsets, "medians": medians, "cut": SOURCE_SIGMA, "bright": bright}
        device.launch("mark_bright", *over_pixels, {**values, "good": good.view(np.uint8), **spread})
        device.launch("drop_sources", *over_pixels, {"bright": bright, "good": good.view(np.uint8), **frames})
        # the usual three rounds are made without a look at the masks
        if round_ >= 2 and round_ + 1 < settings.niter and bool((good == before).all()):
            break
    return good


def _find_backgrounds(device, images, bad, settings):
    """Find background pixels on a CPU."""
    images, bad = np.ascontiguousarray(images, np.float32), device.contiguous(bad)
    n, ny, nx = images.shape
    masks = np.empty(images.shape, bool)
    values = {
        "images": images, "bad": None if bad is None else bad.view(np.uint8), "inside": weight_of_array((ny, nx)),
        "gaussian": gaussian(), "masks": masks.view(np.uint8), "n_frames": n, "ny": ny, "nx": nx,
        "first_cut": settings.nsigma, "n_rounds": settings.niter, "mad_to_sigma": MAD_TO_SIGMA,
        "source_sigma": SOURCE_SIGMA, "source_pixels": SOURCE_PIXELS,
    }  # fmt: skip
    device.launch("find_backgrounds", *geometry(1, 1, n), values)
    return masks


def fit_1overf(device, images, masks, *, settings):
    images = device.xp.ascontiguousarray(images, dtype=np.float32)
    masks = device.contiguous(masks)
    if device.strip_pixels:
        return _smooth_frames(device, images, masks, settings)
    if settings.noutputs > 1:
        return _fit_outputs(device, images, masks, settings)
    values, good = _centre_frames(device, images, masks)
    model = _fit_along(device, values, good, settings)
    if settings.vertical_corr:
        values, good = _turn(device, values - model), _turn(device, good)
        model += _turn(device, _fit_rows(device, values, good, settings.model_type, images.shape[1] // 3 - 1))
    return model


def _smooth_frames(device, images, masks, settings):
    """Smooth frames of one output on a CPU."""
    n, ny, nx = images.shape
    models = np.empty(images.shape, np.float32)
    window, of_columns = (odd_window(size, ny * nx) for size in (WINDOW, ny // 3 - 1))
    flattening = odd_window(min(ny - 1, FLATTENING_WINDOW), ny)
    values = {
        "images": images, "masks": masks.view(np.uint8), "models": models, "n_frames": n, "ny": ny, "nx": nx,
        "bridges": _all_bridge_weights(), "cubics": _cubics(window), "cubics_of_columns": _cubics(of_columns),
        "cubics_of_flattening": _cubics(flattening), "window": window, "bits": bits_of_samples(window),
        "window_of_columns": of_columns if settings.vertical_corr else 0,
        "bits_of_columns": bits_of_samples(of_columns),
        "window_of_flattening": flattening if settings.flatten_model else 0,
        "bits_of_flattening": bits_of_samples(flattening), "n_rounds": ROUNDS, "mad_to_sigma": MAD_TO_SIGMA,
    }  # fmt: skip
    device.launch("smooth_frames", *geometry(1, 1, n), values)
    return models


def _fit_outputs(device, images, masks, settings):
    """Fit the mean of the output amplifiers if requested, then each amplifier, then columns of the whole image."""
    width = images.shape[2] // settings.noutputs
    channels = [np.s_[:, :, k * width : (k + 1) * width] for k in range(settings.noutputs)]
    # Every second output is read in the opposite direction.
    directions = [np.s_[:, :, :: -1 if k % 2 == 0 else 1] for k in range(settings.noutputs)]
    shared = None
    if settings.channel_averaging:
        mean, known = _average_outputs(device, images, masks, channels, directions)
        shared = _fit_along(device, *_centre_frames(device, mean, known), settings)
    model = device.xp.empty(images.shape, np.float32)
    for channel, direction in zip(channels, directions, strict=True):
        values, good = _centre_frames(device, *map(device.contiguous, (images[channel], masks[channel])))
        common = np.float32(0) if shared is None else shared[direction]
        model[channel] = _fit_along(device, values - common, good, settings) + common
    if settings.vertical_corr:
        values, good = _centre_frames(device, _turn(device, images - model), _turn(device, masks))
        model += _turn(device, _fit_along(device, values, good, settings))
    return model


def _average_outputs(device, images, masks, channels, directions):
    """Return the mean of the outputs, flipped to the same direction of readout, and where it exists."""
    xp = device.xp
    total = count = np.float32(0)
    for channel, direction in zip(channels, directions, strict=True):
        image = device.contiguous(images[channel])
        seen = device.contiguous(masks[channel]) & ~xp.isnan(image)
        median, _ = _find_medians(device, image, seen)
        total = total + xp.where(seen, image - median[:, None, None], np.float32(0))[direction]
        count = count + seen[direction]
    mean = xp.where(count > 0, total / xp.maximum(count, 1), np.float32(np.nan)).astype(np.float32)
    return device.contiguous(mean), device.contiguous(count > 0)


def _turn(device, frames):
    return device.contiguous(frames.swapaxes(1, 2))


def _find_medians(device, frames, good=None, centres=None):
    """Return each frame's median and mean, or those of the distances from ``centres``: two (n,) float32."""
    n, ny, nx = frames.shape
    medians, means = (device.xp.empty(n, np.float32) for _ in range(2))
    device.over_frames(
        "find_frame_medians", n, frames=frames, good=None if good is None else good.view(np.uint8), centres=centres,
        medians=medians, means=means, n_pixels=ny * nx,
    )  # fmt: skip
    return medians, means


def _centre_frames(device, images, masks):
    """Subtract the median of the good pixels; exclude outliers and their four neighbours from the good pixels."""
    n, ny, nx = images.shape
    xp = device.xp
    medians, _ = _find_medians(device, images)
    mad, mean_deviation = _find_medians(device, images, centres=medians)
    reaches = CUT * sigma_from_mad(mad, mean_deviation, multiplies=True, xp=xp)
    good = xp.empty(images.shape, np.uint8)
    values = {
        "frames": images, "masks": masks.view(np.uint8), "medians": medians, "reaches": reaches, "good": good,
        "n_frames": n, "ny": ny, "nx": nx,
    }  # fmt: skip
    device.launch("mark_good", *geometry(ny * nx, device.block_threads, n), values)
    medians, _ = _find_medians(device, images, good)
    # In frames without good pixels, nothing is subtracted.
    return images - xp.nan_to_num(medians)[:, None, None], good


def _fit_along(device, values, good, settings):
    model = _fit_rows(device, values, good, settings.model_type, WINDOW)
    if not settings.flatten_model:
        return model
    n, ny, nx = model.shape
    window = odd_window(min(ny - 1, FLATTENING_WINDOW), ny)
    columns = _turn(device, model).reshape(n * nx, ny)
    return model - _turn(device, _smooth_lines(device, columns, window).reshape(n, nx, ny))


def _fit_rows(device, values, good, model_type, window):
    """Fit the noise along rows; for smoothed models, exclude outliers of the model from ``good``."""
    if model_type == "savgol":
        return _smooth_rows(device, values, good, window)
    if model_type == "fft":
        tables = _on_device(device, cosine_tables, values.shape[2])
        with one_blas_thread():
            return fit_cosines(values, good.view(bool), tables, xp=device.xp)
    rows = _summarize_rows(device, values, good, is_mean=model_type == "mean")
    return device.contiguous(device.xp.broadcast_to(rows[:, :, None], values.shape))


def _summarize_rows(device, values, good, is_mean=False, active=None):
    n, ny, nx = values.shape
    results = device.xp.zeros((n, ny), np.float32)
    # Threads always share a row if the device supports it, because its values are contiguous.
    lanes = ROW_LANES[-1] if device.choose_lanes(1, nx) > 1 else 1
    arguments = {
        "frames": values, "good": good, "active": active, "results": results, "n_rows": n * ny, "ny": ny, "nx": nx,
        "mad_to_sigma": MAD_TO_SIGMA, "narrowing": NARROWING,
    }  # fmt: skip
    grid, block = geometry(n * ny * lanes, device.block_threads)
    device.launch("summarize_rows", grid, block, arguments, (is_mean, lanes))
    return results


def _smooth_rows(device, values, good, window):
    """Smooth each image as one line; leave out samples where the model is far from the row's median, and repeat."""
    n, ny, nx = values.shape
    xp, length = device.xp, ny * nx
    window = odd_window(window, length)
    active = xp.ones(n, np.int32)
    filled, packed, model = (xp.empty((n, length), np.float32) for _ in range(3))
    places = xp.empty((n, length), np.int32)
    lines = {"lines": values, "good": good, "active": active, "packed": packed, "places": places}
    lines |= {"n_lines": n, "length": length}
    grid, block = geometry(length, device.block_threads, n)
    for round_ in range(ROUNDS + 1):
        if round_:
            medians = _summarize_rows(device, values, good, active=active)
            device.over_frames(
                "leave_out_strays", n, models=model, medians=medians, good=good, active=active, ny=ny, nx=nx
            )
        n_before = xp.cumsum(good.reshape(n, length), axis=1, dtype=np.int32)
        device.launch("pack_good", grid, block, {**lines, "n_before": n_before})
        holes = {"n_before": n_before, "projections": _on_device(device, _bridge_projections), "filled": filled}
        device.launch("bridge_holes", grid, block, {**lines, **holes})
        _smooth_lines(device, filled, window, active, model)
    return model.reshape(n, ny, nx)


def _smooth_lines(device, lines, window, active=None, smooth=None):
    n, length = lines.shape
    smooth = device.xp.empty(lines.shape, np.float32) if smooth is None else smooth
    arguments = {
        "lines": lines, "active": active, "projection": _on_device(device, _projection, window), "smooth": smooth,
        "n_lines": n, "length": length, "window": window,
    }  # fmt: skip
    device.launch("smooth_lines", *geometry(length, device.block_threads, n), arguments)
    return smooth


def _on_device(device, make, *arguments):
    """Return a table, or a tuple of tables, that a function makes of numbers; it is copied to the device once."""
    return device.keep(_send, make, *arguments)


def _send(device, make, *arguments):
    made = make(*arguments)
    return tuple(map(device.to_device, made)) if isinstance(made, tuple) else device.to_device(made)


@lru_cache(32)
def _projection(window):
    """Return the contiguous matrix of a cubic fit, (window, window)."""
    return np.ascontiguousarray(projection(window))


@lru_cache(1)
def _bridge_projections():
    """Return the matrices of the fits to 5, 7, ... 33 samples in one flat array."""
    return np.concatenate([projection(window).reshape(-1) for window in range(ORDER + 2, BRIDGE + 1, 2)])


@lru_cache(1)
def _all_bridge_weights():
    """Return the weights of the fits to 5, 7, ... 33 samples, (n, 33) float32."""
    return np.concatenate([bridge_weights(window) for window in range(ORDER + 2, BRIDGE + 1, 2)])


@lru_cache(32)
def _cubics(window):
    """Return the contiguous cubics of a window, (window, 4)."""
    return np.ascontiguousarray(cubics(window))
