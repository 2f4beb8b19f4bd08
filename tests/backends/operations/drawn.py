"""Hypothesis strategies: small exposures with any kind of defect, and parameters of the steps.

The arrays come from a generator with a drawn seed; the defects and their frequency are drawn separately. So a failing
example shrinks to the few necessary defects.
"""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from gpucoron.dq import (
    AD_FLOOR,
    CHARGELOSS,
    DO_NOT_USE,
    HOT,
    JUMP_DET,
    NO_LIN_CORR,
    NO_SAT_CHECK,
    PERSISTENCE,
    SATURATED,
)

#: flags of a group from earlier steps
GROUP_FLAGS = (DO_NOT_USE, JUMP_DET, PERSISTENCE, AD_FLOOR | DO_NOT_USE, CHARGELOSS | DO_NOT_USE, CHARGELOSS, 8, 16)
#: rarely so many that no good group is left
SHARES = st.sampled_from([0.0, 0.0, 0.01, 0.03, 0.03, 0.1, 0.1, 0.4, 1.0])


def a_fifth():
    """Use a fifth of the profile's examples, for tests that run for each backend."""
    return settings(max_examples=max(1, settings.default.max_examples // 5))


def scatter(draw, rng, array, *values):
    """Put ``values``, all equally likely, at random positions of an array, in place: none, some or all."""
    share = draw(SHARES)
    if share:
        where = rng.random(array.shape) < share
        array[where] = rng.choice(np.array(values, array.dtype), size=np.count_nonzero(where))


def draw_rng(draw):
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def draw_shape(draw, most=(3, 12, 6, 6), least=(1, 1, 1, 1)):
    # all lengths are equally likely: integers() would prefer short ones
    return tuple(draw(st.sampled_from(range(low, high + 1))) for low, high in zip(least, most, strict=True))


def draw_data(draw, rng, shape):
    """Draw ramps in DN: noisy with jumps, coarse or of few values (with ties), constant, or from tiny to huge."""
    kind = draw(st.sampled_from(["ramps", "coarse", "few values", "constant", "wide range"]))
    if kind == "few values":
        data = rng.integers(0, draw(st.integers(1, 8)), shape).astype(float)
    elif kind == "constant":
        data = np.full(shape, rng.choice([0, 0.7, 9000.0]))
    elif kind == "wide range":
        data = rng.normal(size=shape) * 10.0 ** rng.integers(-20, 20, size=shape)
    else:
        steps = rng.poisson(10 ** rng.uniform(-1, 3.5, shape[2:]), shape).astype(float)
        steps += (rng.random(shape) < draw(st.sampled_from([0, 0.05, 0.3]))) * rng.exponential(900, shape)
        data = np.cumsum(steps, axis=1) + rng.normal(0, 8, shape)
        if kind == "coarse":
            data = np.round(data / 16) * 16
    with np.errstate(over="ignore"):
        data = data.astype(np.float32)
    if draw(st.booleans()):
        scatter(draw, rng, data, np.nan)
        scatter(draw, rng, data, np.inf, -np.inf)
        scatter(draw, rng, data, 0, -30)
    return data


def draw_groupdq(draw, rng, shape):
    """Draw group flags: single ones, SATURATED from any group on or not monotonic, groups bad in all pixels."""
    groupdq = np.zeros(shape, np.uint8)
    for flag in draw(st.sets(st.sampled_from(GROUP_FLAGS), max_size=3)):
        groupdq[rng.random(shape) < draw(SHARES)] |= np.uint8(flag)
    since = rng.integers(0, shape[1] + 1, (shape[0], 1, *shape[2:]))
    saturates = rng.random(since.shape) < draw(SHARES)
    groupdq[(np.arange(shape[1])[:, None, None] >= since) & saturates] |= SATURATED
    if draw(st.booleans()):
        groupdq[rng.random(shape) < draw(SHARES)] ^= SATURATED
    lost = st.sets(st.integers(0, shape[1] - 1), max_size=3)
    for group in draw(st.one_of(st.just(()), st.just(()), lost)):
        groupdq[draw(st.integers(0, shape[0] - 1)) :, group] |= DO_NOT_USE
    return groupdq


def draw_pixeldq(draw, rng, image):
    pixeldq = np.zeros(image, np.uint32)
    scatter(draw, rng, pixeldq, DO_NOT_USE, HOT, SATURATED, NO_SAT_CHECK, NO_LIN_CORR)
    return pixeldq


def draw_noise(draw, rng, image):
    """Draw gain and read noise, float32: normal, coarse (so that ratios tie), and invalid as in bad pixels."""
    gain, readnoise = rng.normal(1.9, 0.1, image), rng.normal(11, 1, image)
    if draw(st.booleans()):
        gain, readnoise = rng.choice([1, 0.3], size=image), rng.choice([0, 0.125, 1], size=image)
    gain, readnoise = gain.astype(np.float32), readnoise.astype(np.float32)
    scatter(draw, rng, gain, np.nan, 0, -1.5)
    scatter(draw, rng, readnoise, np.nan, 0)
    return gain, readnoise


@st.composite
def linearity_cases(draw, least_nx=1):
    """Draw ``(exposure arrays, references, nframes)`` for linearity, inverse coefficients and ZEROFRAME included."""
    rng, shape = draw_rng(draw), draw_shape(draw, least=(1, 1, 1, least_nx))
    image, cube = shape[2:], (shape[0], *shape[2:])
    nframes = draw(st.sampled_from([1, 2, 3, 8]))

    def coefficients(sign):
        n = draw(st.integers(2, 7))
        values = rng.normal(1, 0.2, (n, *image)) * (10.0 ** -(5 * np.arange(n)))[:, None, None] * sign
        values[0], values[1] = rng.normal(0, 1, image), rng.normal(1, 0.01, image)
        values = values.astype(np.float32)
        if draw(st.booleans()):
            scatter(draw, rng, values, np.nan, 0)
            scatter(draw, rng, values[1], 0)
        return values

    dq = draw_pixeldq(draw, rng, image)
    scatter(draw, rng, dq, NO_LIN_CORR, NO_LIN_CORR | DO_NOT_USE)
    zeroframe = None
    if draw(st.booleans()):
        zeroframe = rng.normal(500, 300, cube).astype(np.float32)
        scatter(draw, rng, zeroframe, 0, np.nan)
    arrays = {
        "data": draw_data(draw, rng, shape),
        "groupdq": draw_groupdq(draw, rng, shape),
        "pixeldq": draw_pixeldq(draw, rng, image),
        "zeroframe": zeroframe,
    }
    # stcal cannot process a single group of averaged reads; see docs/deviations.md
    has_inverse = draw(st.booleans()) and (nframes == 1 or shape[1] > 1)
    return (
        arrays,
        {"coeffs": coefficients(1), "dq": dq, "inv_coeffs": coefficients(-1) if has_inverse else None},
        nframes,
    )


@st.composite
def flag_cases(draw):
    """Draw ``(groupdq, pixeldq, number of the first integration)`` for the steps that only read flags."""
    rng, shape = draw_rng(draw), draw_shape(draw)
    groupdq = draw_groupdq(draw, rng, shape)
    return groupdq, draw_pixeldq(draw, rng, shape[2:]), draw(st.sampled_from([None, 1, 2, 5]))


@st.composite
def charge_migration_cases(draw):
    """Draw ``(data, groupdq, threshold)``: the threshold is met exactly, exceeded by many groups, or by none."""
    rng, shape = draw_rng(draw), draw_shape(draw, most=(3, 12, 7, 7))
    data = draw_data(draw, rng, shape)
    threshold = draw(st.sampled_from([-1.0, 0.0, 5.0, 100.0, 3000.0, 25000.0]))
    scatter(draw, rng, data, threshold, threshold + 1)
    return data, draw_groupdq(draw, rng, shape), threshold


@st.composite
def saturation_cases(draw):
    """Draw ``(exposure arrays, references, parameters)`` for saturation: thresholds met exactly, diluted and missed."""
    grow = draw(st.integers(0, 3))
    # stcal cannot grow in an image smaller than the growth; see docs/deviations.md
    rng, shape = draw_rng(draw), draw_shape(draw, (3, 8, 8, 8), (1, 1, max(1, 2 * grow), max(1, 2 * grow)))
    image, cube = shape[2:], (shape[0], *shape[2:])
    nframes = draw(st.sampled_from([None, 1, 2, 4, 8]))
    threshold = rng.choice([50000.0, 48123.4, 60000.0], size=image).astype(np.float32)
    slope = rng.choice([10.0, 300.0, 4000.0, 15000.0], size=(shape[0], 1, *image))
    data = 8000 + slope * np.arange(1, shape[1] + 1)[:, None, None]
    hit = (rng.random(shape) < draw(st.sampled_from([0, 0.05, 0.3]))) * rng.uniform(1000, 60000, shape)
    data = np.minimum(data + np.cumsum(hit, axis=1), 65535).astype(np.float32)
    if nframes is not None:
        # averaging of later groups may depend on rounding
        group = draw(st.integers(0, shape[1] - 1))
        reads = group * nframes + 1 + np.arange(nframes)
        edge = np.float32(np.float64(threshold) * (np.mean(reads) / reads[-1]))
        where = rng.random(data[:, group].shape) < draw(SHARES)
        data[:, group][where] = np.broadcast_to(edge, where.shape)[where]
    if draw(st.booleans()):
        scatter(draw, rng, data, 0, -5)
        scatter(draw, rng, data, np.nan, np.inf, -np.inf)
        scatter(draw, rng, data, *np.unique(threshold))
    dq = draw_pixeldq(draw, rng, image)
    scatter(draw, rng, threshold, np.nan)
    scatter(draw, rng, dq, NO_SAT_CHECK, NO_SAT_CHECK | DO_NOT_USE)
    bias, zeroframe = None, None
    if draw(st.booleans()):
        bias = rng.normal(7000, 500, image).astype(np.float32)
        scatter(draw, rng, bias, np.nan)
    if draw(st.booleans()):
        zeroframe = np.nan_to_num(np.clip(data[:, 0], -1e6, 1e6)) * rng.choice(np.float32([0.0, 0.9, 7.0]), size=cube)
    arrays = {
        "data": data,
        "groupdq": draw_groupdq(draw, rng, shape),
        "pixeldq": draw_pixeldq(draw, rng, image),
        "zeroframe": zeroframe,
    }
    return arrays, {"threshold": threshold, "dq": dq, "bias": bias}, {"n_pix_grow_sat": grow, "nframes": nframes}


@st.composite
def jump_cases(draw):
    """Draw ``((data, groupdq, gain, readnoise), options)`` for the jump search, in any of its modes."""
    rng, shape = draw_rng(draw), draw_shape(draw, (draw(st.sampled_from([1, 3, 12])), 14, 6, 6))
    gain, readnoise = draw_noise(draw, rng, shape[2:])
    if not (gain > 0).any() or np.nanmedian(gain) <= 0:
        gain[...] = 2
    ramps = draw_data(draw, rng, shape), draw_groupdq(draw, rng, shape), gain, readnoise
    sigmas = st.sampled_from([0.0, 0.7, 1.0, 1.5, 2.0, 4.0])
    options = {
        "rejection_threshold": draw(sigmas),
        "three_group_rejection_threshold": draw(sigmas),
        "four_group_rejection_threshold": draw(sigmas),
        "flag_4_neighbors": draw(st.booleans()),
        "min_jump_to_flag_neighbors": draw(st.sampled_from([0.0, 1.0, 10.0])),
        "max_jump_to_flag_neighbors": draw(st.sampled_from([3.0, 1000.0])),
        "after_jump_flag_e1": draw(st.sampled_from([0.0, 2.0, 100.0])),
        "after_jump_flag_n1": draw(st.integers(0, 4)),
        "after_jump_flag_e2": draw(st.sampled_from([0.0, 2.0, 1000.0])),
        "after_jump_flag_n2": draw(st.sampled_from([0, 0, 1, 60])),
        "min_diffs_single_pass": draw(st.sampled_from([1, 2, 5, 10, 12])),
        "minimum_sigclip_groups": draw(st.sampled_from([2, 5, 30, 100, 100, 100])),
        "only_use_ints": draw(st.booleans()),
        "nframes": draw(st.integers(1, 9)),
    }
    return ramps, options


@st.composite
def likelihood_cases(draw):
    """Draw ``(data, groupdq, gain, readnoise), times, more arrays, options`` for the likelihood fit.

    Few good groups, falling ramps (with photon noise 0), ties, pixels with invalid noise and NaN: cases in which the
    result may depend on the last bit.
    """
    rng, shape = draw_rng(draw), draw_shape(draw, (2, 24, 3, 17), (1, 2, 1, 1))
    ngroups, image = shape[1], shape[2:]
    data = draw_data(draw, rng, shape)
    if draw(st.booleans()):
        data = np.cumsum(rng.normal(draw(st.sampled_from([-30.0, -1.0, 3.0])), 20, shape), axis=1).astype(np.float32)
        scatter(draw, rng, data, np.nan)
    gain, readnoise = draw_noise(draw, rng, image)
    scatter(draw, rng, readnoise, 1e-20)
    frame_time, nreads = draw(st.sampled_from([10.73677, 4.18584, 1.06904, 0.0494])), draw(st.integers(1, 4))
    times = [frame_time * (np.arange(1, nreads + 1) + (nreads + 3) * group) for group in range(ngroups)]
    if draw(st.sampled_from([False, False, True])):
        times = [np.sort(rng.uniform(0, 1, rng.integers(1, 4))) + 2 * group for group in range(ngroups)]
    more = {}
    if draw(st.booleans()):
        more["dark_current"] = rng.choice([0.0, 0.3, -0.3], size=image).astype(np.float32)
    if len(times[0]) > 1 and draw(st.booleans()):
        times[:1] = times[0][:1], times[0][1:]
        more["zeroframe"] = (data[:, 0] - rng.choice([0, 7.5, 30], size=data[:, 0].shape)).astype(np.float32)
    options = {
        "rules": draw(st.sampled_from(["stcal", "spaceklip", "sound"])),
        "max_diffs_one_sided": draw(st.sampled_from([0, 0, 3, 4, 99])),
        "unusable": draw(st.sampled_from([0xFF, DO_NOT_USE | SATURATED])),
    }
    return (data, draw_groupdq(draw, rng, shape), gain, readnoise), times, more, options


@st.composite
def ramp_fit_cases(draw):
    """Draw ``(arrays, options)`` for the fit: few ramps, of which any group may be bad for any reason."""
    rng, shape = draw_rng(draw), draw_shape(draw)
    image, cube = shape[2:], (shape[0], *shape[2:])
    gain, readnoise = draw_noise(draw, rng, image)
    arrays = {
        "data": draw_data(draw, rng, shape),
        "groupdq": draw_groupdq(draw, rng, shape),
        "pixeldq": draw_pixeldq(draw, rng, image),
        "gain": gain,
        "readnoise": readnoise,
    }
    if draw(st.booleans()):
        arrays["dark_current"] = rng.choice([0.0, 0.25, -0.25, 1e-3], size=image).astype(np.float32)
        scatter(draw, rng, arrays["dark_current"], np.nan)
    if draw(st.booleans()):
        arrays["zeroframe"] = rng.normal(50, 30, cube).astype(np.float32)
        scatter(draw, rng, arrays["zeroframe"], 0, np.nan)
    options = {
        # neither stcal's caller nor gpucoron suppresses a ramp of one group
        "suppress_one_group": draw(st.booleans()) and shape[1] > 1,
        "instrument": draw(st.sampled_from(["NIRCAM", "MIRI"])),
        "nframes": draw(st.sampled_from([1, 2, 4, 8])),
        "groupgap": draw(st.sampled_from([0, 1, 12])),
    }
    return arrays, options
