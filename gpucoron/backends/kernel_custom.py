"""The heavy operations of the coronagraphic steps as launches of the CUDA kernels."""

import numpy as np


class CustomKernels:
    """What `gpucoron.backends.kernel_backend.KernelBackend` has for the steps that are spaceKLIP's."""

    def fit_pedestal(self, data, groupdq, limit, *, group_time):
        nints, ngroups, ny, nx = data.shape
        data, groupdq = self._contiguous(data), self._contiguous(groupdq)
        pedestal, slope = (self.xp.empty((nints, ny, nx), np.float64) for _ in range(2))
        self._over_pixels(
            "fit_pedestals", ny * nx, nints, data=data, groupdq=groupdq, limit=self._float64(limit),
            pedestal=pedestal, slope=slope, n_ints=nints, n_groups=ngroups, group_time=group_time,
        )  # fmt: skip
        return pedestal, slope

    def fit_mean_slope(self, data, groupdq, pedestal, limit, *, group_time):
        nints, ngroups, ny, nx = data.shape
        ramp = {"data": self._contiguous(data), "n_ints": nints, "n_groups": ngroups}
        n_usable = self.xp.empty((nints, ny, nx), np.int32)
        groupdq = self._contiguous(groupdq)
        self._over_pixels("count_usable_groups", ny * nx, nints, groupdq=groupdq, n_usable=n_usable, **ramp)
        slope = self.xp.empty((ny, nx), np.float64)
        self._over_pixels(
            "fit_mean_slopes", ny * nx, 1, n_usable=n_usable, pedestal=self._float64(pedestal),
            limit=self._float64(limit), slope=slope, group_time=group_time, **ramp,
        )  # fmt: skip
        return slope

    def _float64(self, array):
        return self.xp.ascontiguousarray(array, dtype=np.float64)
