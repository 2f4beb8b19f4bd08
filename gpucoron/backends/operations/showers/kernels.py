"""The search for showers by kernels of a CPU; see `gpucoron.backends.operations.showers.definition`.

Other devices with kernels run the definition.
"""

import numpy as np

from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.operations.showers import definition
from gpucoron.backends.operations.showers.ring import TRANSFORM_ERROR, make_ring

#: Pixels of a strip, and pixels whose rings are summed together, as in showers_strips.cpp.
STRIP_PIXELS, SUMMED = 64, 64
#: The rounding of a sum in float32, as a fraction of the number of its terms.
SUM_ERROR = 6e-8
#: The same for sums in float64.
DOUBLE_ERROR = 1e-12
#: Rings of more pixels are faster with running sums.
MOST_RING_PIXELS = 400


def median_differences(device, data, groupdq, gain, *, settings):
    if not device.strip_pixels:
        return definition.median_differences(device, data, groupdq, gain, settings=settings)
    medians = np.empty(data.shape[2:], np.float32)
    _launch_strips(device, "median_differences_strips", data, groupdq, gain, settings, medians=medians)
    return medians


def clip_differences(device, data, groupdq, gain, *, settings):
    if not device.strip_pixels:
        return definition.clip_differences(device, data, groupdq, gain, settings=settings)
    nints, ngroups, ny, nx = data.shape
    medians, scatters = (np.empty((ngroups - 1, ny, nx), np.float32) for _ in range(2))
    how = {"medians": medians, "scatters": scatters}
    _launch_strips(device, "clip_differences_strips", data, groupdq, gain, settings, **how)
    return medians, scatters


def find_excess(device, data, groupdq, excluded, gain, middle, noise, *, settings):
    if not device.strip_pixels:
        how = data, groupdq, excluded, gain, middle, noise
        return definition.find_excess(device, *how, settings=settings)
    ring = make_ring(settings.extend_inner_radius, settings.extend_outer_radius)
    ngroups, ny, nx = data.shape
    width = nx + 2 * ring.reach + SUMMED
    row, column = np.nonzero(ring.kernel)
    found, counts = np.zeros(data.shape, np.uint8), np.zeros((ngroups, 2), np.int32)
    values = {
        "data": data, "groupdq": groupdq, "excluded": excluded.view(np.uint8), "gain": device.contiguous(gain),
        "middle": device.contiguous(middle), "noise": device.contiguous(noise),
        "offsets": (row * width + column).astype(np.int32), "found": found, "counts": counts, "n_groups": ngroups,
        "ny": ny, "nx": nx, "apart": 0 if middle.ndim == 2 else ny * nx, "n_offsets": len(row), "reach": ring.reach,
        "width": width, "step_y": ring.block(ny)[1], "step_x": ring.block(nx)[1],
        "rounding": (TRANSFORM_ERROR + SUM_ERROR * ring.n_pixels) * ring.n_pixels**0.5,
        "transform": (TRANSFORM_ERROR + DOUBLE_ERROR) * ring.n_pixels**0.5,
        "threshold": settings.extend_snr_threshold, "searched": settings.searched,
    }  # fmt: skip
    device.launch("find_excess_frames", *geometry(1, 1, ngroups - 1), values)
    for group in np.flatnonzero(counts[:, 1]):
        definition.settle_frame(found, group, data, groupdq, excluded, gain, middle, noise, ring, settings)
    return found.view(bool)


def _launch_strips(device, name, data, groupdq, gain, settings, **results):
    nints, ngroups, ny, nx = data.shape
    values = {
        "data": data, "groupdq": groupdq, "gain": device.contiguous(gain), "n_ints": nints, "n_groups": ngroups,
        "n_pixels": ny * nx, "searched": settings.searched, **results,
    }  # fmt: skip
    device.launch(name, *geometry(1, 1, -(-ny * nx // STRIP_PIXELS)), values)
