"""Exposures, models and references for the steps that change each sample on its own."""

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.dq import SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference

BACKEND = get_backend("numpy", n_threads=1)
NY, NX = 24, 20


def make_exposure(rng, nints=3, ngroups=8, *, zeroframe=False, **facts):
    """Make an exposure with random flags; part of its ramps saturates."""
    shape = (nints, ngroups, NY, NX)
    defaults = {
        "instrument": "MIRI",
        "detector": "MIRIMAGE",
        "subarray": "MASK1140",
        "readpatt": "FASTR1",
        "xstart": 1,
        "ystart": 243,
        "xsize": NX,
        "ysize": NY,
        "nints": nints,
        "ngroups": ngroups,
        "nframes": 1,
        "groupgap": 0,
        "frame_divisor": 1,
        "integration_start": None,
        "integration_end": None,
        "zero_frame": zeroframe,
        "gain_factor": None,
    }
    slope = rng.gamma(1, 3000, (nints, 1, NY, NX))
    data = 10000 + slope * np.arange(1, ngroups + 1)[:, None, None] + rng.normal(0, 20, shape)
    groupdq = np.where(data > 30000, SATURATED, 0) | rng.choice([0, 1, 4, 64], p=[0.7, 0.1, 0.1, 0.1], size=shape)
    # Flags of later groups need not follow from those of earlier ones
    groupdq = np.where(rng.random(shape) < 0.02, groupdq ^ SATURATED, groupdq)
    zero = rng.normal(9000, 50, (nints, NY, NX)) * (rng.random((nints, NY, NX)) > 0.1)
    return Exposure(
        data=data.astype(np.float32),
        groupdq=groupdq.astype(np.uint8),
        pixeldq=rng.integers(0, 2**24, (NY, NX), dtype=np.uint32),
        zeroframe=zero.astype(np.float32) if zeroframe else None,
        facts=Facts(**defaults | facts),
    )


def make_model(exposure):
    """Make the RampModel that jwst would get."""
    from stdatamodels.jwst.datamodels import RampModel

    facts = exposure.facts
    model = RampModel(data=exposure.data.copy(), groupdq=exposure.groupdq.copy(), pixeldq=exposure.pixeldq.copy())
    if exposure.zeroframe is not None:
        model.zeroframe = exposure.zeroframe.copy()
    model.meta.instrument.name = facts.instrument
    model.meta.instrument.detector = facts.detector
    model.meta.subarray.name = facts.subarray
    for name in ("xstart", "ystart", "xsize", "ysize"):
        setattr(model.meta.subarray, name, getattr(facts, name))
    for name in ("readpatt", "nints", "ngroups", "nframes", "groupgap", "frame_divisor", "zero_frame", "gain_factor"):
        setattr(model.meta.exposure, name, getattr(facts, name))
    model.meta.exposure.integration_start = facts.integration_start
    model.meta.exposure.integration_end = facts.integration_end
    return model


def in_subarray(model, exposure):
    """Give a reference model the exposure's position on the detector, so that jwst does not cut it."""
    for name in ("xstart", "ystart", "xsize", "ysize"):
        setattr(model.meta.subarray, name, getattr(exposure.facts, name))
    model.meta.instrument.name = exposure.facts.instrument
    return model


def reference(facts=None, **arrays):
    """Make a reference as the steps receive it: read-only arrays and facts."""
    for array in arrays.values():
        if array is not None:
            array.flags.writeable = False
    return Reference(**arrays, facts=facts or {})


def assert_same(exposure, model):
    for name in ("data", "groupdq", "pixeldq"):
        mine, theirs = getattr(exposure, name), getattr(model, name)
        assert mine.dtype == theirs.dtype, name
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    if exposure.zeroframe is not None:
        np.testing.assert_array_equal(exposure.zeroframe, model.zeroframe)


def some_nan(rng, shape, scale=1.0):
    values = rng.normal(0, scale, shape).astype(np.float32)
    values[rng.random(shape) < 0.03] = np.nan
    return values


def random_dq(rng, shape=(NY, NX)):
    return rng.choice(np.array([0, 1, 2**20, 2**22 + 1], np.uint32), p=[0.9, 0.04, 0.03, 0.03], size=shape)
