"""Ramps with jumps, and jump detection by stcal and jwst."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.backends.operations.jump import JumpSettings
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED

DEFINITION = get_backend("numpy", n_threads=1)
DEFAULTS = asdict(JumpSettings())
SHAPES = [
    (1, 3, 19, 21),
    (1, 4, 12, 11),
    (1, 5, 12, 13),
    (3, 3, 9, 11),
    (4, 10, 12, 13),
    (2, 11, 12, 13),
    (1, 60, 7, 8),
    (3, 250, 5, 5),
    (101, 4, 6, 7),
]
OPTIONS = {
    "default": {},
    "alone": {"flag_4_neighbors": False},
    "neighbours": {"min_jump_to_flag_neighbors": 4.0, "max_jump_to_flag_neighbors": 40.0},
    "thresholds": {
        "rejection_threshold": 2.5,
        "three_group_rejection_threshold": 1.5,
        "four_group_rejection_threshold": 1.0,
    },
    "one pass": {"min_diffs_single_pass": 1},
    "iteration": {"min_diffs_single_pass": 500},
    "clip over integrations": {"minimum_sigclip_groups": 3, "rejection_threshold": 2.0},
    "clip all": {"minimum_sigclip_groups": 4, "only_use_ints": False, "rejection_threshold": 1.2},
    "frames": {"nframes": 8},
    "after jumps": {
        "after_jump_flag_e1": 40.0,
        "after_jump_flag_n1": 2,
        "after_jump_flag_e2": 900.0,
        "after_jump_flag_n2": 70,
    },
    "after any jump": {"after_jump_flag_n2": 1},
}


def simulate(rng, shape, *, hits=0.02, bad=True, step=None, gain_scatter=0.05):
    """Make ramps with jumps, and with ``bad`` also flags, NaN and invalid gains; DN in multiples of ``step``."""
    nints, ngroups, ny, nx = shape
    flux = 20 * (1 + 20 * (rng.random((ny, nx)) > 0.9))
    counts = rng.poisson(flux, size=shape).astype(float)
    counts += (rng.random(shape) < hits) * rng.exponential(500, size=shape)
    data = np.cumsum(counts, axis=1) + rng.normal(1000, 8, size=shape)
    groupdq = np.zeros(shape, np.uint8)
    gain = (2 + gain_scatter * rng.normal(size=(ny, nx))).astype(np.float32)
    readnoise = (11 * rng.uniform(0.9, 1.1, (ny, nx))).astype(np.float32)
    if bad:
        saturated_from = np.where(rng.random((nints, ny, nx)) < 0.1, rng.integers(0, ngroups + 1, (nints, ny, nx)), 999)
        groupdq[np.arange(ngroups)[:, None, None] >= saturated_from[:, None]] |= SATURATED
        for flag in (DO_NOT_USE, JUMP_DET, 16):
            groupdq[rng.random(shape) < 0.01] |= flag
        data[rng.random(shape) < 0.005] = np.nan
        groupdq[..., 0, 0] |= rng.choice([0, DO_NOT_USE, SATURATED], size=(nints, ngroups)).astype(np.uint8)
        for value in (np.nan, 0, -1.5):
            gain[rng.random((ny, nx)) < 0.02] = value
        for value in (np.nan, 0):
            readnoise[rng.random((ny, nx)) < 0.02] = value
    if step:
        data = np.round(data / step) * step
    return data.astype(np.float32), groupdq, gain, readnoise


def search(backend, ramps, mode, **options):
    """Search copies of ramps in a given mode; return the flags, and the number of flagged groups of each row."""
    data, groupdq, *images = (array.copy() for array in ramps)
    lost = ((groupdq & DO_NOT_USE) != 0).all(axis=(2, 3))
    rows = backend.search_jumps(data, groupdq, *images, mode, lost, settings=JumpSettings(**options))
    return groupdq, rows.sum(axis=1)


def assert_same_search(backend, ramps, mode, **options):
    """Compare a search with that of the definition; return the flags."""
    (expected, expected_rows), (found, rows) = (search(each, ramps, mode, **options) for each in (DEFINITION, backend))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(rows, expected_rows)
    return found


def after_round_trip(options, gain):
    """Convert thresholds from electrons to DN and back, as stcal's caller must, to the same float64."""
    median_gain = np.float64(np.nanmedian(gain))
    thresholds = {
        name: value / median_gain * median_gain for name, value in options.items() if name[:-1].endswith("_e")
    }
    return options | thresholds


def detect_with_stcal(data, groupdq, gain, readnoise, **options):
    """Run stcal's detect_jumps_data in one process, on copies; return its groupdq, pixeldq and count."""
    from stcal.jump.jump import detect_jumps_data
    from stcal.jump.jump_class import JumpData
    from stdatamodels.jwst.datamodels import dqflags

    options = DEFAULTS | options
    model = SimpleNamespace(
        data=data.copy(),
        groupdq=groupdq.copy(),
        pixeldq=np.zeros(gain.shape, np.uint32),
        meta=SimpleNamespace(exposure=SimpleNamespace(nframes=options["nframes"])),
    )
    jump_data = JumpData(model, gain.copy(), readnoise.copy(), dqflags.pixel)
    jump_data.set_detection_settings(
        options["rejection_threshold"],
        options["three_group_rejection_threshold"],
        options["four_group_rejection_threshold"],
        options["max_jump_to_flag_neighbors"],
        options["min_jump_to_flag_neighbors"],
        options["flag_4_neighbors"],
    )
    # in DN: stcal multiplies by the median gain
    median_gain = np.float64(np.nanmedian(gain))
    jump_data.set_after_jump(
        options["after_jump_flag_e1"] / median_gain,
        options["after_jump_flag_n1"],
        options["after_jump_flag_e2"] / median_gain,
        options["after_jump_flag_n2"],
    )
    jump_data.min_diffs_single_pass = options["min_diffs_single_pass"]
    jump_data.set_sigma_clipping_info(
        options["minimum_groups"], options["minimum_sigclip_groups"], options["only_use_ints"]
    )
    jump_data.max_cores = "1"
    with np.errstate(all="ignore"):
        flags, pixeldq, number, _ = detect_jumps_data(jump_data)
    return flags, pixeldq, number


def run_jwst_step(tmp_path, ramps, *, nframes=1, group_time=5.3452, **parameters):
    """Run jwst's JumpStep on a model made of the arrays, with references in files."""
    from jwst.jump import JumpStep
    from stdatamodels.jwst import datamodels

    data, groupdq, gain, readnoise = ramps
    subarray = {"name": "SUB320A335R", "xstart": 1, "ystart": 1, "xsize": gain.shape[1], "ysize": gain.shape[0]}
    model = datamodels.RampModel(data=data.copy(), groupdq=groupdq.copy(), pixeldq=np.zeros(gain.shape, np.uint32))
    model.meta.exposure.nframes = nframes
    model.meta.exposure.group_time = group_time
    files = {}
    for name, kind, array in (
        ("gain", datamodels.GainModel, gain),
        ("readnoise", datamodels.ReadnoiseModel, readnoise),
    ):
        reference = kind(data=array.copy())
        for each in (model, reference):
            each.meta.instrument.name, each.meta.instrument.detector = "NIRCAM", "NRCALONG"
            for key, value in {**subarray, "fastaxis": -1, "slowaxis": 2}.items():
                setattr(each.meta.subarray, key, value)
        files[name] = str(tmp_path / f"{name}.fits")
        reference.save(files[name])
    step = JumpStep(**parameters)
    step.get_reference_file = lambda model, kind: files[kind]
    with np.errstate(all="ignore"):
        return step.process(model)
