"""What remains of 1/f noise goes into the errors."""

import copy

import numpy as np

from gpucoron.backends.results import Slopes
from gpucoron.io.exposure import Exposure
from gpucoron.steps.noise_error import NoiseError, add_noise_error


def test_the_error_of_rateints_alone():
    """A step on rateints has no rate."""
    rng = np.random.default_rng(3)
    arrays = rng.uniform(1, 2, (4, 2, 6, 8)).astype(np.float32)
    slopes = Slopes(arrays[0], np.zeros((2, 6, 8), np.uint32), *arrays[1:])
    slopes.err[0, 3, 4] = np.nan
    before = copy.deepcopy(slopes)
    exposure = Exposure(rateints=slopes, noise_error=NoiseError((4.0, 9.0), 3.0))
    add_noise_error(exposure, xp=np)
    known = np.isfinite(before.err)
    for integration, variance in enumerate((4.0, 9.0)):
        good = known[integration]
        expected = np.hypot(before.err[integration][good], np.sqrt(variance))
        np.testing.assert_allclose(slopes.err[integration][good], expected, rtol=1e-6)
        change = (slopes.var_rnoise - before.var_rnoise)[integration][good]
        np.testing.assert_allclose(change, variance, rtol=1e-5)
    assert np.isnan(slopes.err[0, 3, 4])
    assert slopes.var_rnoise[0, 3, 4] == before.var_rnoise[0, 3, 4]
