"""Ramps for tests of the likelihood fit, and the inputs of the steps that use it."""

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, HOT, JUMP_DET, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import STEPS
from gpucoron.steps.likelihood import list_read_times

BACKEND = get_backend("numpy", n_threads=1)


def draw_diffs(rng, read_times, npixels, *, jumps=0.3, faintest=-1.0, brightest=2.5, used=1.0):
    """Draw ramps read by read; return (diffs, sig, mask of the differences in use)."""
    reads = np.concatenate([np.atleast_1d(times) for times in read_times])
    rate, sig = 10 ** rng.uniform(faintest, brightest, npixels), rng.uniform(5, 15, npixels)
    steps = rng.poisson(rate * np.diff(reads, prepend=0)[:, None]).astype(float)
    steps += (rng.random(steps.shape) < jumps / len(reads)) * 10 ** rng.uniform(1.7, 3.7, steps.shape)
    counts = np.cumsum(steps, axis=0) + sig * rng.standard_normal(steps.shape)
    ends = np.cumsum([np.size(times) for times in read_times])[:-1]
    resultants = np.array([part.mean(axis=0) for part in np.split(counts, ends)])
    mean_times = np.array([np.mean(times) for times in read_times])
    diffs = np.diff(resultants, axis=0) / np.diff(mean_times)[:, None]
    return diffs, sig, rng.random(diffs.shape) < used


PATTERNS = {
    "one read": list(1.07 * np.arange(1, 9)),
    "four groups": list(0.3 * np.arange(1, 5)),
    "deep8": [5.28 * (np.arange(1, 9) + 20 * k) for k in range(7)],
    "medium2": [5.28 * (np.arange(1, 3) + 10 * k) for k in range(25)],
    "uneven": [np.array([1.0]), np.arange(2, 9.0), np.array([30.0, 31.0]), np.array([60.0]), 61.0 + np.arange(4)],
    "long": list(0.24 * np.arange(1, 41)),
}


def make_arrays(seed=0, *, nints=3, ngroups=8, shape=(20, 30), nframes=1, groupgap=0, frame_time=5.3, read_times=None):
    """Make ramps with jumps, saturation, all kinds of flags and pixels with invalid noise."""
    rng = np.random.default_rng(seed)
    explicit = {} if read_times is None else {"read_times": [np.atleast_1d(times) for times in read_times]}
    if explicit:
        read_times, nframes = explicit["read_times"], len(explicit["read_times"][0])
    else:
        read_times = list_read_times(ngroups, nframes, frame_time, nframes + groupgap)
    diffs, _, _ = draw_diffs(rng, read_times, nints * shape[0] * shape[1], faintest=-2)
    mean_times = np.array([times.mean() for times in read_times])
    counts = np.cumsum(diffs * np.diff(mean_times)[:, None], axis=0).reshape(-1, nints, *shape).transpose(1, 0, 2, 3)
    data = np.concatenate([np.zeros((nints, 1, *shape)), counts], axis=1) / 2 + rng.normal(0, 30, (nints, 1, *shape))
    flags = np.zeros(data.shape, np.uint8)
    saturated = data > np.quantile(data, 0.95)
    flags |= np.maximum.accumulate(saturated, axis=1) * np.uint8(SATURATED)
    flags |= (rng.random(data.shape) < 0.04) * np.uint8(DO_NOT_USE)
    flags |= (rng.random(data.shape) < 0.04) * np.uint8(JUMP_DET)
    flags |= (rng.random((nints, 1, *shape)) < 0.02) * np.uint8(DO_NOT_USE)
    flags[:, -1, 0] |= 128
    data[0, 2, 5, :3] = np.nan
    gain, noise = rng.normal(2, 0.1, shape), rng.normal(7, 1, shape)
    gain[1, :6] = 0, np.nan, -2, -1.9, np.inf, -2.1
    noise[2, :3] = 0, np.nan, -6
    zeroframe = data[:, 0] - 0.3 * np.abs(counts[:, 0]) * rng.random(data[:, 0].shape)
    zeroframe[:, 4, :5] = 0
    return {
        "data": data.astype(np.float32),
        "groupdq": flags,
        "pixeldq": (rng.random(shape) < 0.05) * np.uint32(HOT) | (rng.random(shape) < 0.05) * np.uint32(DO_NOT_USE),
        "gain": gain.astype(np.float32),
        "readnoise": noise.astype(np.float32),
        "dark": rng.normal(0.02, 0.03, shape).astype(np.float32),
        "zeroframe": zeroframe.astype(np.float32),
        "times": {"nframes": nframes, "groupgap": groupgap, "frame_time": frame_time},
        **explicit,
    }


def make_exposure(arrays, *, with_zeroframe=False, with_dark=False, **facts):
    times = arrays["times"]
    facts = {"instrument": "NIRCAM", "group_time": times["frame_time"] * (times["nframes"] + times["groupgap"])} | facts
    return Exposure(
        data=arrays["data"].copy(),
        groupdq=arrays["groupdq"].copy(),
        pixeldq=arrays["pixeldq"].copy(),
        zeroframe=arrays["zeroframe"].copy() if with_zeroframe else None,
        average_dark_current=arrays["dark"] if with_dark else None,
        facts=Facts(**times, **facts),
    )


def make_step_inputs(arrays, *, step="experimental_jumpramp", gain_factor=None, **parameters):
    references = {
        "gain": Reference(data=arrays["gain"], facts={"gain_factor": gain_factor}),
        "readnoise": Reference(data=arrays["readnoise"]),
    }
    for reference in references.values():
        reference.data.setflags(write=False)
    asked = {"experimental_jumpramp": {"use": True}, "ramp_fit": {"algorithm": "LIKELY"}}[step]
    settings = STEPS[step].settings(**{**asked, **parameters})
    return make_exposure(arrays), references, settings, BACKEND


def mask_with_stcal(diffs, read_times, sig, used):
    """Run stcal's mask_jumps; return which differences it keeps."""
    from stcal.ramp_fitting import likely_fit
    from stcal.ramp_fitting.likely_algo_classes import Covar

    with np.errstate(all="ignore"):
        kept, _ = likely_fit.mask_jumps(
            diffs, Covar(read_times), sig, np.ones(sig.shape), diffs2use=used.astype(np.uint8)
        )
    return kept
