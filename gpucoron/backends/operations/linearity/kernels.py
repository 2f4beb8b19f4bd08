"""Linearity correction by kernels; see `gpucoron.backends.operations.linearity.definition`."""

from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.kernel_files import POLYNOMIAL_LENGTHS


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
        grid, block = geometry(1, 1, -(-ny * nx // device.strip_pixels))
        values = {"n_pixels": ny * nx, "strip": device.strip_pixels, **ramp}
        device.launch("correct_strips", grid, block, values, (_length(coeffs),))
        return
    device.over_pixels("correct_polynomial", ny * nx, nints * ngroups, (_length(coeffs),), **ramp)


def _length(coeffs):
    """Return the number of coefficients of the compiled kernel; 0 for the general one."""
    return len(coeffs) if len(coeffs) in POLYNOMIAL_LENGTHS else 0
