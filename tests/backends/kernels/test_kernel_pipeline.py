"""The whole pipeline on the CUDA kernels, with the host build or on a GPU, returns the results of the CPU backend."""

import numpy as np
import pytest

from tests.cases.parity import CASES as PARITY_CASES
from tests.cases.pipelines import run_ours

#: cases of the parity matrix that cover all kernels
CASES = (
    "nircam-shallow4-inverse",
    "nircam-medium8-inverse",
    "nircam-deep8-use_readpatt-off",
    "miri-mask1550-fastr1",
    "nircam-1-groups-1-ints",
    "nircam-2-groups-suppress-off",
    "nircam-jump-iterative",
    "nircam-jump-single-pass",
    "nircam-jump-sigma-clip-minimum",
    "nircam-jump-sigma-clip-all-groups",
    "nircam-jump-at-borders-among-flags",
    "nircam-jump-after-jump",
    "nircam-few-good-groups-suppress-off",
    "nircam-flags-in-groups-rapid-suppress-off",
    "nircam-charge-loss-suppress-on",
    "nircam-all-saturated",
    "miri-discarded-groups",
    "nircam-flags-shallow4",
    "miri-flags",
    "nircam-saturation-grows-2",
    "nircam-floor-grows-2",
    "nircam-charge_migration-12000",
    "nircam-likely-deep8-5",
    "miri-likely",
)


@pytest.mark.parametrize("name", CASES)
def test_every_step_and_product_is_the_cpu_backends(exposures, name, kernel_backend):
    case = PARITY_CASES[name]
    exposure = case.make(exposures)
    with exposure.cache.activate():
        expected = run_ours(exposure.path, case.steps, backend="numpy")
        found = run_ours(exposure.path, case.steps, backend=kernel_backend)
    assert list(found.ramps) == list(expected.ramps)
    for step, arrays in expected.ramps.items():
        for key, array in arrays.items():
            if array is None:
                assert found.ramps[step][key] is None
                continue
            np.testing.assert_array_equal(found.ramps[step][key], array, err_msg=f"{step} {key}")
    for product in ("rate", "rateints"):
        if getattr(expected, product) is None:
            assert getattr(found, product) is None
            continue
        for key, array in getattr(expected, product).items():
            np.testing.assert_array_equal(getattr(found, product)[key], array, err_msg=key)
