"""Rates and errors compared with the truth of the simulation."""

import numpy as np
import pytest

from gpucoron.engine import reduce_file
from gpucoron.simulate import Effects
from gpucoron.simulate.compare import pulls


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("NIRCAM", "SUB320A335R", "RAPID", 10, 2), {"shape": (128, 160)}),
        (("NIRCAM", "SUB320A335R", "DEEP8", 6, 2), {"shape": (128, 160)}),
        (("MIRI", "MASK1550", "FASTR1", 40, 4), {"shape": (128, 160)}),
    ],
    ids=["rapid", "deep8", "miri"],
)
def test_pulls(arguments, options, exposures, tmp_path):
    # jwst's ERR does not include 1/f noise; another step removes it
    case = exposures(*arguments, effects=Effects(one_over_f=0.0), seed=11, **options)
    with case.cache.activate():
        _run, models, _paths = reduce_file(case.path, tmp_path, backend="cpu", save_results=False)
    pull = pulls(case.simulation, models["rate"])
    low, middle, high = np.percentile(pull, (15.865, 50, 84.135))
    assert abs(middle) < 0.05
    assert abs((high - low) / 2 - 1) < 0.05
