"""Ramps that saturate, and their reference."""

import numpy as np

from gpucoron.dq import DO_NOT_USE, NO_SAT_CHECK

SHAPE = (2, 7, 24, 20)
THRESHOLD = 50000.0


def saturating_ramps(rng, shape=SHAPE):
    """Make ramps: some saturate, some jump into saturation, some are on the A/D floor, some are NaN."""
    nints, ngroups, ny, nx = shape
    slope = rng.choice([10.0, 300.0, 4000.0, 15000.0], p=[0.85, 0.08, 0.05, 0.02], size=(nints, 1, ny, nx))
    ramps = 8000 + slope * np.arange(1, ngroups + 1)[:, None, None]
    # A hit late in a group raises that group a little and all later ones a lot: this is the case for pass 3.
    hit = rng.random((nints, ny, nx)) < 0.03
    ramps[:, 2:] += 60000 * hit[:, None]
    ramps[:, 1] += rng.uniform(1000, 40000, hit.shape) * hit
    ramps[rng.random(shape) < 0.01] = 0
    ramps[rng.random(shape) < 0.002] = np.nan
    # Corners and edges: growth must neither wrap around nor exceed the array.
    ramps[0, 4:, 0, 0] = ramps[0, 5:, -1, 7] = ramps[1, 3:, 11, -1] = 65535
    return np.minimum(ramps, 65535).astype(np.float32)


def saturation_reference(rng, shape=SHAPE[2:]):
    threshold = rng.normal(THRESHOLD, 2000, shape).astype(np.float32)
    threshold[rng.random(shape) < 0.03] = np.nan
    dq = np.where(rng.random(shape) < 0.03, NO_SAT_CHECK, 0).astype(np.uint32)
    dq[3, 3] |= DO_NOT_USE
    return threshold, dq
