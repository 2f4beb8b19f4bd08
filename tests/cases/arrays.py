"""Arguments for every array function of the steps: small arrays on which each function has an effect."""

import copy
from dataclasses import replace
from importlib import import_module
from inspect import isfunction

import numpy as np

from gpucoron.backends.results import Slopes
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.steps import STEPS
from gpucoron.steps.arguments import Array, Images
from gpucoron.steps.dark_current import ReadPattern
from gpucoron.steps.describe import WITHOUT_STEP
from gpucoron.steps.emicorr_times import ReadTimes
from gpucoron.steps.likelihood import list_read_times
from gpucoron.steps.refpix import PseudoReference

SHAPE = NINTS, NGROUPS, NY, NX = 2, 6, 16, 20


def functions():
    """Find all public functions of the modules: 'module.function' -> function."""
    found = {}
    for name in (*STEPS, *WITHOUT_STEP):
        module = import_module(f"gpucoron.steps.{name}")
        for key, value in vars(module).items():
            own = isfunction(value) and value.__module__ == module.__name__
            if own and not key.startswith("_") and key != "run":
                found[f"{name}.{key}"] = value
    return found


FUNCTIONS = {name: function for name, function in functions().items() if hasattr(function, "declared")}


def make_arrays():
    """Make an array for every argument name of the functions."""
    rng = np.random.default_rng(3)
    data = (rng.normal(300, 20, SHAPE).cumsum(axis=1) + rng.normal(0, 50, (NINTS, 1, NY, NX))).astype(np.float32)
    data[:, 3:, ::5, ::7] += 9000
    data[0, 0, 2, 2] = -3
    groupdq = np.zeros(SHAPE, np.uint8)
    groupdq[:, 4:, 3, 3] = 2
    groupdq[:, 0, 9] = 1
    groupdq[0, 1:, 5, 5] = 1
    pixeldq = np.zeros((NY, NX), np.uint32)
    pixeldq[:4] = 1 << 31
    pixeldq[6, 6] = 1
    pixeldq[8, 8] = 1 << 14
    image = rng.normal(10, 1, (NY, NX)).astype(np.float32)
    image[1, 1] = np.nan
    mask = np.zeros((NY, NX), bool)
    mask[4:7, 4:9] = True
    cube = rng.normal(100, 3, (12, NY, NX)).astype(np.float32)
    cube[5, ::3, ::4] += 500
    coeffs = np.array([1, 1, 1e-6, 1e-12], np.float32)[:, None, None] * np.ones((NY, NX), np.float32)
    coeffs[2, 1, 1] = np.nan
    kernel = np.array([[0, -0.01, 0], [-0.01, 1.04, -0.01], [0, -0.01, 0]], np.float32)
    gain = np.full((NY, NX), 2, np.float32)
    gain[0, 0] = np.nan
    return {
        "data": data,
        "groupdq": groupdq,
        "pixeldq": pixeldq,
        "zeroframe": data[:, 0] - 100,
        "gain": gain,
        "readnoise": np.full((NY, NX), 15, np.float32),
        "dark_current": np.full((NY, NX), 0.01, np.float32),
        "threshold": np.full((NY, NX), 5000, np.float32),
        "saturation": np.full((NY, NX), 6000, np.float32),
        "superbias": image,
        "bias": image,
        "dq": pixeldq | np.uint32(2),
        "mask": mask.astype(np.uint32),
        "rc": mask,
        "missing": rng.random(SHAPE) < 0.1,
        "protected": mask,
        "bad": mask,
        "image": image,
        "cube": cube,
        "rates": cube,
        "flat": image / np.float32(10),
        "flux": np.float32([0.9, 1.1]),
        "coeffs": coeffs,
        "inverse_coeffs": coeffs * np.array([1, 1, -1, 1], np.float32)[:, None, None],
        "kernel": kernel,
        "reset": rng.normal(0, 5, (2, 3, NY, NX)).astype(np.float32),
        "dark": rng.normal(0, 5, (NGROUPS, NY, NX)).astype(np.float32),
        "kernels": rng.normal(0, 1, (2, 4, 5)),
        "values": rng.normal(0, 1, (5, 12)).astype(np.float32),
        "diffs": rng.normal(20, 2, (NGROUPS - 1, NY, NX)),
        "sig": np.full((NY, NX), 5.0),
        "diffs2use": rng.random((NGROUPS - 1, NY, NX)) < 0.9,
        "quadratic": 1 + rng.random((NINTS, 50)),
        "linear": rng.normal(size=(NINTS, 50)),
        "advances": rng.random(NINTS),
        "frame": image,
        "center_pixels": mask | (image == image[-1, -1]),
        "edge_pixels": ~mask,
        "ends": np.where(mask, 106.0, 0.0),
        "start_times": np.array([100.0, 130.0]),
    }


def slopes(shape, seed=4):
    """Make slopes of a shape."""
    rng = np.random.default_rng(seed)
    rate, poisson, rnoise, err = (rng.uniform(1, 2, shape).astype(np.float32) for _ in range(4))
    return Slopes(rate, np.zeros(shape, np.uint32), poisson, rnoise, err)


FACTS = Facts("NIRCAM", fastaxis=-1, slowaxis=2, group_time=2.0, frame_time=1.0, nframes=2, groupgap=0)
#: values of arguments that must not be arrays
OTHERS = {
    "frame_divisor": 4,
    "nframes": 3,
    "gain_factor": 1.5,
    "group_time": 2.0,
    "frame_time": 1.0,
    "skip": 2,
    "signal_threshold": 3000.0,
    "n_pix_grow_sat": 1,
    "facts": FACTS,
    "pseudo": PseudoReference(nleft=2, nright=3),
    "dark_pattern": ReadPattern(1, 0),
    "pattern": ReadPattern(1, 0),
    "siglimit": 2.0,
    "center": (9.0, 8.0),
    "read_times": list_read_times(NGROUPS, 2, 1.0, 2),
    "waves": [(390.625, np.sin(np.arange(20) / 20 * 2 * np.pi))],
    "times": ReadTimes(1, 70, 0),
    "persistence_time": 5,
    "shape": (NY, NX),
}


def mask_of_sources():
    """Make a mask that is true for a source."""
    mask = np.zeros((NY, NX), bool)
    mask[4:7, 4:9] = True
    return mask


def with_a_snowball():
    """Make the flags of a hit with a core that saturates one group later."""
    groupdq = np.zeros(SHAPE, np.uint8)
    y, x = np.indices((NY, NX))
    distance = np.hypot(y - 8, x - 9)
    groupdq[0, 2, distance < 6] = 4
    groupdq[0, 3:, distance < 4] = 2
    return groupdq


#: additional arguments of a function; None: the optional array is omitted
OF_FUNCTIONS = {
    "apply_rateints_outliers.find_outliers": {"sigma_cut": 5.0},
    "combined_rate.combine_rateints": {"fitted": slopes((NINTS, NY, NX), 9)},
    "gain_scale.scale_slopes": {},
    "group_matching.measure_core": {"cropwidth": 5},
    "group_matching.sum_ring": {"cropwidth": 6, "edgewidth": 3},
    "clean_flicker_noise.clean_groups": {"mask": ~mask_of_sources(), "flux": None, "with_background": True},
    "ipc.correct_ipc": {"edges": (4, 0, 0, 2)},
    "jump.flag_jumps": {"rejection_threshold": 5.0, "nframes": 2},
    "showers.flag_showers": {"extend_min_area": 5, "extend_snr_threshold": 1.0, "max_amplitude": 1e9},
    "snowballs.flag_snowballs": {"groupdq": with_a_snowball(), "edge_size": 2, "n_groups_next_int": 3},
    "known_sources.protect_sources": {"companions": (5.0, 6.0), "radius": 2.0, "backend": None},
    "linearity.correct_linearity": {"nframes": 2},
    "saturation.flag_saturated": {"nframes": 2, "flag_rcsat": True},
    "subtract_1overf.noise_of_rateints": {"dq": np.zeros((NINTS, NY, NX), np.uint32)},
    "emicorr.cubic_pieces": {"values": np.sin(np.arange(12.0))},
    "emicorr_sequential.apply_sequential": {"nbins": 8},
    "experimental_jumpramp.fit_without_jumps": {"nframes": 2},
    "mask_groups.apply_mask": {"mask": np.arange(NGROUPS)[None, :, None, None] > 3},
    "picture_frame.find_regions": {"mask": np.ones((NY, NX), bool)},
    "picture_frame.subtract_picture_frame": {"with_correction": True},
    "persistence.flag_persistence": {"dn_threshold": 3000.0},
    "ramp_fit.select_groups": {"firstgroup": 1, "lastgroup": 4},
    "likelihood.fit_integrations": {"zeroframe": None},
    # kernels are for full frames
    "refpix_full_frame.correct_nir_frames": {"kernels": None, "facts": replace(FACTS, xstart=2029, ystart=1)},
}
#: arrays with other axes than in other functions
CUBES = {"subtract_1overf.noise_of_rateints": ("data",)}
IMAGES = {"rate": (NY, NX), "rateints": (NINTS, NY, NX), "fitted": (NINTS, NY, NX), "slopes": (NY, NX)}


def settings_of_jump():
    """Make parameters with which the gain is used."""
    after = {"after_jump_flag_dn1": 100.0, "after_jump_flag_time1": 4.0}
    return STEPS["jump"].settings(**after, apply_minimum_groups=False)


def make_arguments(name):
    """Make new arguments of a function, by name, without ``backend``."""
    import inspect

    function, arrays = FUNCTIONS[name], make_arrays()
    given = {}
    for key, parameter in inspect.signature(function).parameters.items():
        declared = function.declared.get(key)
        if key == "parameters":
            given[key] = settings_of_jump()
        elif key == "exposure":
            shared = {each: arrays[each] for each in ("data", "groupdq", "pixeldq")}
            given[key] = Exposure(**shared, facts=FACTS)
        elif isinstance(declared, Images):
            given[key] = slopes(IMAGES[key])
        elif isinstance(declared, Array):
            given[key] = arrays[key]
        elif key in OTHERS and parameter.default is inspect.Parameter.empty:
            given[key] = copy.deepcopy(OTHERS[key])
    for key in CUBES.get(name, ()):
        given[key] = np.ascontiguousarray(given[key][:, -1])
    given.update(copy.deepcopy(OF_FUNCTIONS.get(name, {})))
    given.pop("backend", None)
    return {key: value for key, value in given.items() if value is not None}


def call(name, arguments, **options):
    """Call a function; return its result, and all arrays that it received as they are afterwards."""
    function = FUNCTIONS[name]
    if name == "jump.electron_thresholds":
        return function(arguments["gain"], 100.0, 200.0, **options)
    return function(**arguments, **options)


def flat(answer):
    """List the arrays and numbers of a result; those of Slopes and similar objects separately."""
    if hasattr(answer, "__dataclass_fields__"):
        answer = tuple(getattr(answer, each) for each in answer.__dataclass_fields__)
    if isinstance(answer, (tuple, list)):
        return [each for part in answer for each in flat(part)]
    return [] if answer is None else [answer]
