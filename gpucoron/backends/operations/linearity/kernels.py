"""Linearity correction by kernels; see `gpucoron.backends.operations.linearity.definition`."""

from gpucoron.backends.devices.launch import count_parts, geometry
from gpucoron.backends.kernel_files import POLYNOMIAL_LENGTHS

#: bytes of samples that strips pass through at once: the system writes a scratch file in its order, and again what has
#: changed since
BYTES_AT_ONCE = 2**26

#: least number of frames of a thread, which loads the coefficients of its pixel once
FEWEST_FRAMES = 16


def linearity(device, data, groupdq, coeffs, inverse_coeffs=None, *, settings):
    nints, ngroups, ny, nx = data.shape
    coeffs, inverse_coeffs = device.contiguous(coeffs), device.contiguous(inverse_coeffs)
    ramp = {"data": data, "groupdq": groupdq, "coeffs": coeffs, "n_coeffs": len(coeffs)}
    if inverse_coeffs is not None and ngroups > 1:
        same = len(coeffs) == len(inverse_coeffs)
        device.over_pixels(
            "correct_reads", ny * nx, nints, (_length(coeffs) if same else 0,), inverse_coeffs=inverse_coeffs,
            n_inverse=len(inverse_coeffs), n_ints=nints, n_groups=ngroups, n_frames=settings.nframes, **ramp,
        )  # fmt: skip
        return
    ramp["n_frames"] = nints * ngroups
    if device.strip_pixels:
        _correct_in_strips(device, ramp)
        return
    parts = count_parts(ny * nx, nints * ngroups, FEWEST_FRAMES)
    device.over_pixels("correct_polynomial", ny * nx, parts, (_length(coeffs),), **ramp)


def _correct_in_strips(device, ramp):
    ny, nx = ramp["data"].shape[2:]
    frames = {name: ramp[name].reshape(-1, ny, nx) for name in ("data", "groupdq")}
    grid, block = geometry(1, 1, -(-ny * nx // device.strip_pixels))
    values = {**ramp, "n_pixels": ny * nx, "strip": device.strip_pixels}
    at_once = max(1, BYTES_AT_ONCE // (4 * ny * nx))
    for start in range(0, ramp["n_frames"], at_once):
        some = {name: array[start : start + at_once] for name, array in frames.items()}
        device.launch(
            "correct_strips", grid, block, {**values, **some, "n_frames": len(some["data"])}, (_length(ramp["coeffs"]),)
        )


def _length(coeffs):
    """Return the number of coefficients of the compiled kernel; 0 for the general one."""
    return len(coeffs) if len(coeffs) in POLYNOMIAL_LENGTHS else 0
