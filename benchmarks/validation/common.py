"""Shared by the validation scripts: exposures with a known truth, reductions by both sides, robust statistics, JSON.

Each figure is the mean over seeds of a quantity measured on each, with the error of that mean. Everything is done on
arrays, so that both sides see the same counts and differ only in the step under test.
"""

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from scipy.ndimage import binary_dilation

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.simulate import Effects, simulate
from gpucoron.steps import ramp_fit
from gpucoron.steps.experimental_jumpramp import fit_without_jumps
from gpucoron.steps.jump import flag_jumps
from gpucoron.steps.likelihood import fit_exposure
from gpucoron.steps.saturation import prepare_threshold

sys.path.append(str(Path(__file__).parents[1]))
from provenance import commit, versions

RESULTS = Path(__file__).parent / "results"
BACKEND = get_backend("cpu", n_threads=1)

#: pixel scale of NIRCam's long-wavelength channel and of MIRI, arcsec
PIXEL_SCALE = {"NIRCAM": 0.063, "MIRI": 0.11}

#: effects that steps before the one under test would have corrected
CLEAN = {"superbias": False, "nonlinearity": False, "ipc": False, "bad_pixels": False}
#: MIRI's dark current includes the settling of its first integration
MIRI_CLEAN = CLEAN | {"reset": False, "rscd": False, "last_frame": False, "dark": False}

#: CDS threshold of the saturation reference relative to the full well
SATURATION_SHARE = 0.98


def parse(description, argv=None, *, seeds=24, more=()):
    """Parse the arguments that all scripts have, and `more`; ``quick`` is the smallest size that runs everything.

    ``more`` are pairs of a name and the keyword arguments of ``add_argument``.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=seeds, help="independent exposures of each case")
    parser.add_argument("--quick", action="store_true", help="two seeds of the smallest cases: a smoke test")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    for name, settings in more:
        parser.add_argument(name, **settings)
    options = parser.parse_args(argv)
    if options.quick:
        options.seeds = 2
    # LIKELY warns about every exposure without ZEROFRAME
    logging.disable(logging.WARNING)
    return options


def save(name, options, figures, digits=3):
    """Save figures with versions and seeds, rounded to significant digits; return the path."""
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{name}.json"
    head = {
        "versions": versions("jwst", "stcal", "numpy", "scipy"),
        "commit": commit(),
        "seeds": list(range(1, options.seeds + 1)),
        "quick": options.quick,
    }
    path.write_text(json.dumps(head | rounded(figures, digits), indent=None, separators=(",", ":")) + "\n")
    print(f"wrote {path}")
    return path


def rounded(figures, digits=3):
    """Round all floats in lists and dicts; NaN becomes None."""
    if isinstance(figures, dict):
        return {str(key): rounded(value, digits) for key, value in figures.items()}
    if isinstance(figures, np.ndarray) and figures.ndim == 0:
        figures = figures[()]
    if isinstance(figures, list | tuple | np.ndarray):
        return [rounded(value, digits) for value in figures]
    if isinstance(figures, float | np.floating):
        return float(f"{figures:.{digits}g}") if np.isfinite(figures) else None
    return int(figures) if isinstance(figures, np.integer) else figures


def width(values):
    """Return half the distance between the quantiles at +-1 sigma, a robust standard deviation; NaN below 5 values."""
    values = np.asarray(values)[np.isfinite(values)]
    if values.size < 5:
        return np.nan
    low, high = np.percentile(values, (15.865, 84.135))
    return (high - low) / 2


def over_seeds(samples):
    """Average over the first axis, the seeds, ignoring NaN; return a dict of ``mean`` and its ``error``."""
    samples = np.asarray(samples, float)
    known = np.isfinite(samples)
    n = known.sum(axis=0)
    total = np.where(known, samples, 0).sum(axis=0)
    mean = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    square = np.where(known, (samples - mean) ** 2, 0).sum(axis=0)
    error = np.where(n > 1, np.sqrt(square / np.maximum(n - 1, 1) / np.maximum(n, 1)), np.nan)
    return {"mean": mean, "error": error}


def with_worst(samples, badness, seeds=None):
    """Average over the seeds, by default 1, 2, ..., and name the one with the largest badness; 0 if none is known."""
    badness = np.asarray(badness, float)
    known = np.isfinite(badness)
    seeds = np.arange(1, len(badness) + 1) if seeds is None else np.asarray(seeds)
    worst = np.where(known.any(axis=0), seeds[np.where(known, badness, -np.inf).argmax(axis=0)], 0)
    return over_seeds(samples) | {"worst_seed": worst}


@dataclass
class Ramps:
    """One exposure as the steps receive it, with its truth.

    ``data`` is (nints, ngroups, ny, nx) float32 DN after bias subtraction, ``groupdq`` uint8, ``gain`` e-/DN,
    ``readnoise`` DN (CDS), ``truth`` (ny, nx) DN/s including the dark current, which is not subtracted.
    """

    data: np.ndarray
    groupdq: np.ndarray
    pixeldq: np.ndarray
    gain: np.ndarray
    readnoise: np.ndarray
    saturation: np.ndarray
    truth: np.ndarray
    facts: Facts
    simulation: object

    def copy(self):
        """Copy the arrays that steps change."""
        return Ramps(**{**vars(self), "data": self.data.copy(), "groupdq": self.groupdq.copy()})

    @property
    def times(self):
        """The keyword arguments of ``ramp_fit.fit``."""
        return {name: getattr(self.facts, name) for name in ("group_time", "frame_time", "nframes", "groupgap")}


def observe(instrument, readpatt, ngroups, nints, scene, shape, *, seed, flag=True, effects=None, name=None, **options):
    """Simulate an exposure without the effects of ``CLEAN``, subtract its bias, and flag its saturation.

    Parameters
    ----------
    instrument, readpatt, ngroups, nints, scene, shape, seed, **options
        As in `gpucoron.simulate.simulate`.
    flag : bool
        Flag saturated groups, without growth.
    effects : dict, optional
        Effects that differ from ``CLEAN``.
    name : str, optional
        Of the subarray; by default SUB320A335R or MASK1550.

    Returns
    -------
    Ramps
    """
    miri = instrument == "MIRI"
    chosen = Effects(**((MIRI_CLEAN if miri else CLEAN) | (effects or {})))
    name = name or ("MASK1550" if miri else "SUB320A335R")
    simulation = simulate(
        instrument, name, readpatt, ngroups, nints, seed=seed, scene=scene, effects=chosen, shape=shape, **options
    )
    pixels = simulation.pixels
    data = simulation.data.astype(np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    level = SATURATION_SHARE * pixels.full_well + (0 if miri else pixels.bias)
    if flag:
        threshold, checked, _ = prepare_threshold(level.astype(np.float32), np.zeros(shape, np.uint32))
        BACKEND.flag_saturation(
            data, groupdq, threshold, checked, n_pix_grow_sat=0, nframes=simulation.nframes, bias=pixels.bias
        )
    data -= pixels.bias
    kind = pixels.kind
    facts = Facts(
        instrument,
        group_time=simulation.group_time,
        frame_time=simulation.frame_time,
        nframes=simulation.nframes,
        groupgap=simulation.groupgap,
        fastaxis=kind.fastaxis,
        slowaxis=kind.slowaxis,
        noutputs=simulation.subarray.noutputs,
        xstart=simulation.subarray.xstart,
        ystart=simulation.subarray.ystart,
        xsize=shape[1],
        ysize=shape[0],
    )
    return Ramps(
        data=data,
        groupdq=groupdq,
        pixeldq=np.zeros(shape, np.uint32),
        gain=pixels.gain.astype(np.float32),
        readnoise=(np.sqrt(2) * pixels.read_noise / pixels.gain).astype(np.float32),
        saturation=(level - pixels.bias).astype(np.float32),
        truth=simulation.truth.rate + simulation.truth.dark_rate,
        facts=facts,
        simulation=simulation,
    )


def spill(ramps, share):
    """Add to each neighbour a fraction of the charge above the full well of a pixel, in place."""
    times = ramps.facts.group_time * np.arange(1, ramps.data.shape[1] + 1)[:, None, None]
    well = ramps.simulation.pixels.full_well
    excess = share * np.maximum(ramps.truth * times - well, 0)
    moved = np.zeros_like(excess)
    moved[:, 1:] += excess[:, :-1]
    moved[:, :-1] += excess[:, 1:]
    moved[:, :, 1:] += excess[:, :, :-1]
    moved[:, :, :-1] += excess[:, :, 1:]
    saturated = ramps.truth * times >= well
    ramps.data += np.where(saturated, 0, moved).astype(np.float32)


def grow(ramps, diagonal):
    """Grow SATURATED by one pixel in each group, with or without corners, in place."""
    square = np.ones((3, 3), bool)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
    saturated = (ramps.groupdq & SATURATED) != 0
    structure = (square if diagonal else cross)[None, None]
    ramps.groupdq |= binary_dilation(saturated, structure).astype(np.uint8) * np.uint8(SATURATED)


def find_jumps(ramps, **options):
    """Run gpucoron's jump step on the ramps, in place."""
    inputs = (ramps.data, ramps.groupdq, ramps.gain, ramps.readnoise)
    flag_jumps(*inputs, nframes=ramps.facts.nframes, backend=BACKEND, **options)


def fit_ols(ramps):
    """Fit by OLS_C; return (rate, rateints)."""
    return ramp_fit.fit(
        ramps.data, ramps.groupdq, ramps.pixeldq, ramps.gain, ramps.readnoise,
        **ramps.times, drop_flagged_groups=ramps.facts.is_miri, backend=BACKEND,
    )  # fmt: skip


def fit_likely(ramps, **options):
    """Fit by LIKELY, which searches for jumps again; return (rate, rateints)."""
    exposure = Exposure(data=ramps.data, groupdq=ramps.groupdq, pixeldq=ramps.pixeldq, facts=ramps.facts)
    return fit_exposure(exposure, ramps.gain, ramps.readnoise, BACKEND, **options)[:2]


def fit_jumpramp(ramps, **options):
    """Fit by experimental_jumpramp, which finds jumps itself; return (rate, rateints)."""
    arrays = (ramps.data, ramps.groupdq, ramps.pixeldq, ramps.gain, ramps.readnoise)
    times = {name: ramps.times[name] for name in ("frame_time", "group_time", "nframes")}
    return fit_without_jumps(*arrays, **times, **options, backend=BACKEND)


#: name -> (whether the jump step runs first, fit)
WAYS = {
    "OLS_C": (True, fit_ols),
    "LIKELY": (True, fit_likely),
    "experimental_jumpramp": (False, fit_jumpramp),
}


def reduce(ramps, way):
    """Find jumps and fit, on a copy of the flags; return (rate, rateints, groupdq)."""
    ramps = ramps.copy()
    searches, fit = WAYS[way]
    if searches:
        find_jumps(ramps)
    return *fit(ramps), ramps.groupdq


def jwst_jumps(ramps):
    """Find jumps with stcal, as jwst's step calls it by default; return groupdq."""
    from stcal.jump.jump import detect_jumps_data
    from stcal.jump.jump_class import JumpData
    from stdatamodels.jwst.datamodels import dqflags

    model = SimpleNamespace(
        data=ramps.data.copy(),
        groupdq=ramps.groupdq.copy(),
        pixeldq=ramps.pixeldq.copy(),
        meta=SimpleNamespace(exposure=SimpleNamespace(nframes=ramps.facts.nframes)),
    )
    data = JumpData(model, ramps.gain.copy(), ramps.readnoise.copy(), dqflags.pixel)
    data.set_detection_settings(4.0, 6.0, 5.0, 1000.0, 10.0, True)
    data.set_after_jump(0.0, 0, 0.0, 0)
    data.min_diffs_single_pass = 10
    data.set_sigma_clipping_info(3, 100, True)
    data.max_cores = "1"
    with np.errstate(all="ignore"):
        return detect_jumps_data(data)[0]


def jwst_reduce(ramps, algorithm):
    """Find jumps and fit with stcal, as jwst's steps call it by default; return rate, rateints (dicts), groupdq."""
    from stcal.ramp_fitting.ramp_fit import ramp_fit_data
    from stcal.ramp_fitting.ramp_fit_class import RampData
    from stdatamodels.jwst.datamodels import dqflags

    facts = ramps.facts
    groupdq = jwst_jumps(ramps)
    data = RampData()
    data.algorithm = algorithm
    data.set_arrays(ramps.data.copy(), groupdq, ramps.pixeldq.copy(), np.zeros_like(ramps.gain))
    data.set_meta(facts.instrument, facts.frame_time, facts.group_time, facts.groupgap, facts.nframes, 0)
    data.set_dqflags(dqflags.pixel)
    data.suppress_one_group_ramps = True
    with np.errstate(all="ignore"):
        image, cube, _ = ramp_fit_data(
            data, False, ramps.readnoise.copy(), ramps.gain.copy(), algorithm, "optimal", "none"
        )
    return image, cube, groupdq


def differ(ours, theirs):
    """Count pixels, and differences from stcal's dict: rates by more than 1e-4 of rate and ERR, NaN, flags."""
    mine, other = ours.rate, theirs["slope"]
    with np.errstate(invalid="ignore"):
        apart = abs(mine - other) > 1e-4 * np.maximum(abs(other), theirs["err"])
    return {
        "pixels": mine.size,
        "apart": int(apart.sum()),
        "nan": int((np.isnan(mine) != np.isnan(other)).sum()),
        "flags": int((ours.dq != theirs["dq"]).sum()),
    }


def ideal_error(rate, read_noise, read_times):
    """Compute the smallest standard deviation that an unbiased linear estimate of a rate can have.

    It is that of generalised least squares with the true covariance of the resultants' differences (Brandt 2024, PASP
    136, 045004, equations 2 to 13).

    Parameters
    ----------
    rate : float, e-/s
    read_noise : float, e-
        Of one read.
    read_times : list of (nframes,) float, s

    Returns
    -------
    float
        e-/s
    """
    mean = np.array([np.mean(times) for times in read_times])
    number = np.array([len(times) for times in read_times])
    weighted = np.array(
        [np.sum((2 * np.arange(len(times))[::-1] + 1) * times) / len(times) ** 2 for times in read_times]
    )
    # covariance of the resultants: their common photon noise is that up to the mean time of the earlier one
    photon = np.minimum.outer(mean, mean)
    np.fill_diagonal(photon, weighted)
    covariance = rate * photon + np.diag(read_noise**2 / number)
    # fit a free offset, the reset level, beside the rate
    design = np.stack([np.ones_like(mean), mean], axis=1)
    information = design.T @ np.linalg.solve(covariance, design)
    return float(np.sqrt(np.linalg.inv(information)[1, 1]))


def lost(groupdq):
    """Return which groups are excluded from a fit: bool, in the shape of the flags."""
    return (groupdq & (DO_NOT_USE | SATURATED | JUMP_DET)) != 0
