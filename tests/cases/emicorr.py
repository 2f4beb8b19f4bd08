"""The emicorr step on flat ramps, with a reference of one wave."""

from pathlib import Path

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import emicorr

FACTS = {"instrument": "MIRI", "detector": "MIRIMAGE", "subarray": "MASK1550", "readpatt": "FASTR1", "nsamples": 1}


def run_step(reference, ngroups=5, settings=(), **facts):
    """Run the step on flat ramps."""
    case = {"rowclocks": 82, "frameclocks": 23968}
    cases = {
        "MASK1550": {**case, "freqs": {"FAST": ["Hz390"], "SLOW": {"MIRIMAGE": ["Hz390"]}}},
        "FULL_SLOW": {**case, "freqs": {"SLOW": {"MIRIFULONG": ["Hz390"]}}},
        "MASK1065": {**case, "freqs": {"FAST": ["Hz10"]}},
    }
    frequencies = {"Hz390": {"frequency": 390.625, "phase_amplitudes": np.sin(np.arange(20))}}
    held = Reference(facts={"frequencies": frequencies, "subarray_cases": cases})
    exposure = Exposure(
        path=Path("x"), facts=Facts(**{**FACTS, **facts}), data=np.ones((1, ngroups, 4, 16), np.float32),
        pixeldq=np.zeros((4, 16), np.uint32),
    )  # fmt: skip
    parameters = emicorr.STEP.settings(**{"algorithm": "joint", **dict(settings)})
    references = {"emicorr": held if reference else None}
    return emicorr.run(exposure, references, parameters, get_backend("numpy", n_threads=1))
