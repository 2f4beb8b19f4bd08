"""The whole pipeline on the CUDA kernels, through the host build or on a GPU, gives what the CPU backend gives."""

import numpy as np
import pytest
from jwst_side import run_ours

#: relative; on a GPU pow() is not the C library's
RATE_TOLERANCE = {"host": 0.0, "cuda": 2e-6}

CASES = {
    "nircam": (("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2), {"inverse_linearity": True}),
    "miri": (("MIRI", "MASK1550", "FASTR1", 14, 2), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_step_and_product_is_the_cpu_backends(exposures, case, kernel_backend):
    arguments, options = CASES[case]
    exposure = exposures(*arguments, shape=(40, 48), options=options)
    with exposure.cache.activate():
        expected = run_ours(exposure.path, backend="cpu")
        found = run_ours(exposure.path, backend=kernel_backend)
    assert list(found.ramps) == list(expected.ramps)
    for step, arrays in expected.ramps.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(found.ramps[step][key], array, err_msg=f"{step} {key}")
    for product in ("rate", "rateints"):
        for key, array in getattr(expected, product).items():
            rtol = 0.0 if key == "dq" else RATE_TOLERANCE[kernel_backend.name]
            np.testing.assert_allclose(getattr(found, product)[key], array, rtol=rtol, atol=0, err_msg=key)
