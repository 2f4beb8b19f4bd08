"""The light steps compared with jwst's, on small arrays: data to the bit, flags, and skips."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.operations.ipc.definition import deconvolve_ipc
from gpucoron.backends.results import Slopes
from gpucoron.dq import DO_NOT_USE, FLUX_ESTIMATED, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.parameters import resolve
from gpucoron.steps import (
    STEPS,
    charge_migration,
    dark_current,
    dq_init,
    firstframe,
    gain_scale,
    group_scale,
    ipc,
    lastframe,
    ramp_fit,
    reset,
    rscd,
    superbias,
)

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
    """Make a reference as for the steps: read-only arrays and facts."""
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


# group_scale


@pytest.mark.parity
@pytest.mark.parametrize(("nframes", "frame_divisor"), [(None, 4), (4, None), (3, None), (4, 4), (3, 4), (5, 8)])
def test_group_scale(rng, nframes, frame_divisor):
    from jwst.group_scale import GroupScaleStep

    exposure = make_exposure(rng, nframes=nframes, frame_divisor=frame_divisor)
    expected = GroupScaleStep().process(make_model(exposure))
    outcome = group_scale.run(exposure, {}, None, BACKEND)
    assert outcome.status == expected.meta.cal_step.group_scale
    assert (outcome.status == "SKIPPED") == bool(outcome.reason)
    assert_same(exposure, expected)


# dq_init


@pytest.mark.parity
@pytest.mark.parametrize("user_dtype", [None, np.int16, np.uint32])
def test_dq_init(rng, user_dtype):
    from jwst.dq_init.dq_initialization import do_dqinit
    from stdatamodels.jwst.datamodels import MaskModel

    exposure = make_exposure(rng)
    mask = random_dq(rng)
    user_dq = None if user_dtype is None else rng.integers(0, 2**14, (NY, NX)).astype(user_dtype)
    model = in_subarray(MaskModel(dq=mask.copy()), exposure)
    expected = do_dqinit(make_model(exposure), model, user_dq=user_dq)
    parameters = dq_init.STEP.settings(user_supplied_dq=user_dq)
    outcome = dq_init.run(exposure, {"mask": reference(dq=mask)}, parameters, BACKEND)
    assert outcome.status == "COMPLETE"
    assert_same(exposure, expected)
    with pytest.raises(ValueError, match="user_supplied_dq"):
        parameters = dq_init.STEP.settings(user_supplied_dq=np.zeros((3, 3)))
        dq_init.run(exposure, {"mask": reference(dq=mask)}, parameters, BACKEND)


# firstframe, lastframe


@pytest.mark.parity
@pytest.mark.parametrize("bright_use_group1", [True, False])
@pytest.mark.parametrize(("ngroups", "detector"), [(3, "MIRIMAGE"), (4, "MIRIMAGE"), (8, "NRCALONG")])
def test_firstframe(rng, ngroups, detector, bright_use_group1):
    from jwst.firstframe import FirstFrameStep

    exposure = make_exposure(rng, ngroups=ngroups, detector=detector)
    step = FirstFrameStep(bright_use_group1=bright_use_group1)
    with pytest.warns(DeprecationWarning):
        expected = step.process(make_model(exposure))
    parameters = firstframe.STEP.settings(bright_use_group1=bright_use_group1)
    outcome = firstframe.run(exposure, {}, parameters, BACKEND)
    assert outcome.status == expected.meta.cal_step.firstframe
    assert_same(exposure, expected)


@pytest.mark.parity
@pytest.mark.parametrize(("ngroups", "detector"), [(2, "MIRIMAGE"), (3, "MIRIMAGE"), (8, "NRCALONG")])
def test_lastframe(rng, ngroups, detector):
    from jwst.lastframe import LastFrameStep

    exposure = make_exposure(rng, ngroups=ngroups, detector=detector)
    expected = LastFrameStep().process(make_model(exposure))
    outcome = lastframe.run(exposure, {}, None, BACKEND)
    assert outcome.status == expected.meta.cal_step.lastframe
    assert_same(exposure, expected)


# reset, superbias


@pytest.mark.parity
@pytest.mark.parametrize(("start", "end"), [(None, None), (2, 4), (7, 9)])
@pytest.mark.parametrize(("reset_nints", "reset_ngroups"), [(2, 5), (4, 8), (1, 12)])
def test_reset(rng, start, end, reset_nints, reset_ngroups):
    from jwst.reset.reset_sub import do_correction
    from stdatamodels.jwst.datamodels import ResetModel

    nints_of_exposure = 3 if start is None else 9
    exposure = make_exposure(rng, integration_start=start, integration_end=end)
    exposure.facts = replace(exposure.facts, nints=nints_of_exposure)
    values, dq = some_nan(rng, (reset_nints, reset_ngroups, NY, NX)), random_dq(rng)
    model = ResetModel(data=values.copy(), dq=dq.copy())
    facts = {"nints": reset_nints, "ngroups": reset_ngroups}
    model.meta.exposure.nints, model.meta.exposure.ngroups = reset_nints, reset_ngroups
    expected = do_correction(make_model(exposure), model)
    outcome = reset.run(exposure, {"reset": reference(facts, data=values, dq=dq)}, None, BACKEND)
    assert outcome.status == "COMPLETE"
    assert_same(exposure, expected)


@pytest.mark.parity
@pytest.mark.parametrize("zeroframe", [True, False])
def test_superbias(rng, zeroframe):
    from jwst.superbias.bias_sub import do_correction
    from stdatamodels.jwst.datamodels import SuperBiasModel

    exposure = make_exposure(rng, zeroframe=zeroframe, instrument="NIRCAM", detector="NRCALONG")
    bias, dq = some_nan(rng, (NY, NX), 1000), random_dq(rng)
    model = in_subarray(SuperBiasModel(data=bias.copy(), dq=dq.copy()), exposure)
    expected = do_correction(make_model(exposure), model)
    outcome = superbias.run(exposure, {"superbias": reference(data=bias, dq=dq)}, None, BACKEND)
    assert outcome.status == "COMPLETE"
    assert_same(exposure, expected)


# ipc


@pytest.mark.parity
@pytest.mark.parametrize(
    ("kernel_shape", "per_pixel"), [((3, 3), False), ((3, 3), True), ((5, 3), False), ((4, 3), True)]
)
@pytest.mark.parametrize(
    ("instrument", "xstart", "ystart"),
    [("NIRCAM", 814, 1502), ("NIRCAM", 1, 2), ("NIRCAM", 2029, 2025), ("MIRI", 1, 1), ("MIRI", 1010, 5)],
)
def test_ipc(rng, instrument, xstart, ystart, kernel_shape, per_pixel):
    from jwst.ipc.ipc_corr import get_num_ref_pixels, ipc_convolve

    exposure = make_exposure(rng, 2, 3, instrument=instrument, xstart=xstart, ystart=ystart)
    exposure.data[1, 1, 9, 9] = np.nan
    exposure.data[0, 2, 12, 3] = np.inf
    kernel = rng.normal(0, 0.01, kernel_shape + ((NY, NX) if per_pixel else ())).astype(np.float32)
    kernel[1, 1] += 1
    kernel[0, 0] = 0
    model = make_model(exposure)
    with np.errstate(all="ignore"):
        for plane in model.data.reshape(-1, NY, NX):
            ipc_convolve(plane, kernel, get_num_ref_pixels(model))
        original, in_chunks = exposure.data.copy(), exposure.data.copy()
        assert ipc.run(exposure, {"ipc": reference(data=kernel)}, None, BACKEND).status == "COMPLETE"
        edges = ipc.reference_edges(exposure.facts)
        deconvolve_ipc(in_chunks, kernel, edges, planes_at_once=4)
    assert_same(exposure, model)
    np.testing.assert_array_equal(in_chunks, exposure.data)
    assert tuple(edges) == tuple(get_num_ref_pixels(model))
    # Reference pixels are not changed.
    science = np.zeros((NY, NX), bool)
    science[edges.bottom : NY - edges.top, edges.left : NX - edges.right] = True
    np.testing.assert_array_equal(exposure.data[..., ~science], original[..., ~science])
    assert (exposure.data[..., science] != original[..., science]).mean() > 0.9


def test_ipc_cuts_a_kernel_of_the_whole_detector(rng):
    exposure = make_exposure(rng, 1, 2, instrument="NIRCAM", xstart=5, ystart=3)
    whole = rng.normal(0, 0.01, (3, 3, NY + 6, NX + 9)).astype(np.float32)
    expected = exposure.data.copy()
    edges = ipc.reference_edges(exposure.facts)
    deconvolve_ipc(expected, whole[:, :, 2 : 2 + NY, 4 : 4 + NX], edges)
    ipc.run(exposure, {"ipc": reference(data=whole)}, None, BACKEND)
    np.testing.assert_array_equal(exposure.data, expected)


# rscd


def rscd_table(first, later):
    rows = [("MASK1065", "FASTR1", 3, 3), ("MASK1140", "SLOWR1", 2, 2), ("MASK1140", "FASTR1", first, later)]
    rows += [("MASK1140", "FASTR1", 0, 0), ("SLITLESSPRISM", "FASTR1", 1, 2)]
    columns = [("subarray", "S17"), ("readpatt", "S12"), ("group_skip1", "i4"), ("group_skip", "i4")]
    return np.array(rows, dtype=columns)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("first", "later", "ngroups", "nints", "start", "nints_of_exposure", "subarray"),
    [
        (1, 4, 9, 3, None, 3, "MASK1140"),
        (4, 0, 9, 2, None, 2, "MASK1140"),
        (1, 4, 9, 1, None, 1, "MASK1140"),
        (1, 4, 9, 1, 1, 6, "MASK1140"),
        (2, 3, 9, 2, 4, 6, "MASK1140"),
        (7, 9, 9, 3, 1, 6, "MASK1140"),
        (7, 9, 5, 2, None, 2, "MASK1140"),
        (7, 9, 4, 2, None, 2, "MASK1140"),
        (7, 9, 3, 2, None, 2, "MASK1140"),
        (7, 9, 2, 2, None, 2, "MASK1140"),
        (-1, 4, 9, 2, None, 2, "MASK1140"),
        (1, 4, 9, 2, None, 2, "SUBPRISM"),
        (1, 4, 9, 2, None, 2, "FULL"),
    ],
)
@pytest.mark.parametrize("bright", [True, False])
def test_rscd(rng, first, later, ngroups, nints, start, nints_of_exposure, subarray, bright):
    from jwst.rscd.rscd_sub import do_correction
    from stdatamodels.jwst.datamodels import RSCDModel

    exposure = make_exposure(rng, nints, ngroups, integration_start=start, subarray=subarray)
    exposure.facts = replace(exposure.facts, nints=nints_of_exposure)
    if not bright:
        exposure.groupdq &= ~np.uint8(SATURATED)
    table = rscd_table(first, later)
    expected = do_correction(make_model(exposure), RSCDModel(rscd_group_skip_table=table))
    outcome = rscd.run(exposure, {"rscd": reference(table=table)}, None, BACKEND)

    assert outcome.status == expected.meta.cal_step.rscd
    assert_same(exposure, expected)
    written = {f"rscd.{name}": value for name, value in (expected.meta.rscd.instance or {}).items()}
    assert outcome.meta == written
    if outcome.status == "COMPLETE" and bright and ngroups == 9 and max(first, later) > 2:
        assert ((exposure.pixeldq & FLUX_ESTIMATED) != 0).any()


# dark_current


@pytest.mark.parity
@pytest.mark.parametrize(("miri", "start"), [(False, 5), (True, None), (True, 5)])
@pytest.mark.parametrize(
    ("pattern", "dark_pattern", "dark_ngroups"),
    [
        ((1, 0), (1, 0), 12),
        ((1, 0), (1, 0), 8),
        ((1, 0), (1, 0), 5),
        ((4, 1), (4, 1), 6),
        ((1, 2), (1, 0), 30),
        ((4, 1), (1, 0), 39),
        ((3, 0), (1, 0), 11),
        ((2, 3), (1, 0), 20),
        ((1, 0), (2, 0), 12),
        ((4, 1), (1, 2), 12),
    ],
)
def test_dark(rng, pattern, dark_pattern, dark_ngroups, start, miri):
    from stcal.dark_current import dark_sub
    from stdatamodels.jwst.datamodels import DarkMIRIModel, DarkModel

    exposure = make_exposure(rng, 3, 8, nframes=pattern[0], groupgap=pattern[1], integration_start=start)
    leading = (2,) if miri else ()
    dark = some_nan(rng, (*leading, dark_ngroups, NY, NX)) + 100
    dq = random_dq(rng, (2, 1, NY, NX) if miri else (NY, NX))
    model = (DarkMIRIModel if miri else DarkModel)(data=dark.copy(), dq=dq.copy())
    facts = dict(zip(("nframes", "groupgap"), dark_pattern, strict=True))
    model.meta.exposure.nframes, model.meta.exposure.groupgap = dark_pattern
    model.meta.exposure.ngroups = dark_ngroups
    with np.errstate(all="ignore"):
        expected, averaged = dark_sub.do_correction(make_model(exposure), model, "kept.fits")
    parameters = dark_current.STEP.settings(dark_output="kept.fits")
    outcome = dark_current.run(exposure, {"dark": reference(facts, data=dark, dq=dq)}, parameters, BACKEND)

    assert outcome.status == expected.cal_step
    for name in ("data", "groupdq", "pixeldq"):
        np.testing.assert_array_equal(getattr(exposure, name), getattr(expected, name), err_msg=name)
    if outcome.status == "COMPLETE":
        # jwst also saves the additional groups of the dark, if it is not averaged.
        kept = averaged.data[..., :8, :, :].astype(np.float32)
        np.testing.assert_array_equal(exposure.matched_dark, kept)


@pytest.mark.parity
@pytest.mark.parametrize("parameter", [None, 0.25])
@pytest.mark.parametrize("header", [None, 0.5])
@pytest.mark.parametrize("image", [None, 0.0, 1.5])
def test_average_dark_current(rng, image, header, parameter):
    from jwst.dark_current import DarkCurrentStep
    from stdatamodels.jwst.datamodels import DarkModel

    exposure = make_exposure(rng)
    dark = np.zeros((8, NY, NX), np.float32)
    array = None if image is None else np.full((NY, NX), image, np.float32)
    model = DarkModel(data=dark.copy())
    if array is not None:
        model.average_dark_current = array.copy()
    model.meta.exposure.average_dark_current = header
    ramp = make_model(exposure)
    DarkCurrentStep(average_dark_current=parameter).set_average_dark_current(ramp, model)

    facts = {"nframes": 1, "groupgap": 0, "average_dark_current": header}
    dark_reference = reference(facts, data=dark, dq=np.zeros((NY, NX), np.uint32), average_dark_current=array)
    parameters = dark_current.STEP.settings(average_dark_current=parameter)
    dark_current.run(exposure, {"dark": dark_reference}, parameters, BACKEND)
    if ramp.average_dark_current is None:
        assert exposure.average_dark_current is None
    else:
        np.testing.assert_array_equal(exposure.average_dark_current, ramp.average_dark_current)
        assert exposure.average_dark_current.dtype == np.float32


@pytest.mark.parity
@pytest.mark.parametrize(("nframes", "groupgap"), [(1, 0), (2, 1)])
@pytest.mark.parametrize(("start", "own"), [(1, [0, 1, 2]), (2, [1, 2, 3]), (3, [2, 3, 3]), (5, [3, 3, 3])])
def test_later_segments_take_their_own_dark_on_request(rng, start, own, nframes, groupgap):
    """By default as in jwst, the last integration; by parameter the dark of the simulated segment."""
    from stcal.dark_current import dark_sub
    from stdatamodels.jwst.datamodels import DarkMIRIModel

    dark = np.cumsum(rng.gamma(2, 5, (4, 30, NY, NX)), axis=1).astype(np.float32)
    spacing = nframes + groupgap
    seen = np.stack([dark[:, k * spacing : k * spacing + nframes].mean(axis=1) for k in range(8)], axis=1)
    model = DarkMIRIModel(data=dark.copy(), dq=np.zeros((4, 1, NY, NX), np.uint32))
    model.meta.exposure.nframes, model.meta.exposure.groupgap, model.meta.exposure.ngroups = 1, 0, 30
    facts = {"nframes": 1, "groupgap": 0}
    residuals = {}
    for on in (False, True):
        exposure = make_exposure(np.random.default_rng(1), nframes=nframes, groupgap=groupgap, integration_start=start)
        light = exposure.data.copy()
        exposure.data += seen[own]
        theirs, _ = dark_sub.do_correction(make_model(exposure), model)
        parameters = dark_current.STEP.settings(dark_by_integration=on)
        references = {"dark": reference(facts, data=dark.copy(), dq=np.zeros((4, 1, NY, NX), np.uint32))}
        dark_current.run(exposure, references, parameters, BACKEND)
        # stcal never fills the last integration of a dark that it averages for fewer integrations
        if not on and (nframes == 1 or start == 1):
            np.testing.assert_array_equal(exposure.data, theirs.data)
        residuals[on] = np.abs(exposure.data - light).max(axis=(1, 2, 3))
    assert residuals[True].max() < 0.05
    is_jwsts = np.array(own) == (np.minimum(np.arange(3), 3) if start == 1 else 3)
    assert ((residuals[False] < 0.05) == is_jwsts).all()


@pytest.mark.parametrize("algorithm", ["OLS_C", "LIKELY"])
def test_the_average_dark_applies_on_request(rng, algorithm):
    """jwst never uses the error image of the reference, and adds e-/s to DN/s; with both fixed the errors are right."""
    rate, gain, shape = 40.0, 2.0, (1, 10, 60, 60)
    electrons = np.cumsum(rng.poisson(rate * 5.0, shape), axis=1)
    data = (electrons / gain + rng.normal(0, 2, shape)).astype(np.float32)
    frames = (rate * 5.0 / gain * np.arange(1, 11, dtype=np.float32))[:, None, None]
    images = {"gain": np.full(shape[2:], gain, np.float32), "readnoise": np.full(shape[2:], 2 * 2**0.5, np.float32)}
    pulls = {}
    for applies, converts in ((False, False), (True, False), (True, True)):
        facts = {"nframes": 1, "groupgap": 0, "integration_start": None, "instrument": "NIRCAM", "group_time": 5.0}
        exposure = Exposure(
            data=data.copy(),
            groupdq=np.zeros(shape, np.uint8),
            pixeldq=np.zeros(shape[2:], np.uint32),
            facts=Facts(**facts, frame_time=5.0),
        )
        dark = reference(
            {"nframes": 1, "groupgap": 0},
            data=np.broadcast_to(frames, shape[1:]).astype(np.float32),
            dq=np.zeros(shape[2:], np.uint32),
            average_dark_current=np.full(shape[2:], rate, np.float32),
        )
        parameters = resolve(
            STEPS,
            steps={
                "dark_current": {"apply_average_dark_image": applies},
                "ramp_fit": {"algorithm": algorithm, "convert_average_dark": converts},
            },
        )
        dark_current.run(exposure, {"dark": dark}, parameters["dark_current"], BACKEND)
        references = {name: reference(data=image.copy()) for name, image in images.items()}
        ramp_fit.run(exposure, references, parameters["ramp_fit"], BACKEND)
        pulls[applies, converts] = np.nanstd(exposure.rate.rate / exposure.rate.err)
    assert pulls[False, False] > 1.7
    assert pulls[True, False] < 0.85
    # LIKELY's jump search ignores the dark's noise, and takes some of it for jumps
    assert abs(pulls[True, True] - 1) < {"OLS_C": 0.1, "LIKELY": 0.25}[algorithm]


def test_an_image_of_another_shape_is_not_applied(rng, caplog):
    exposure = make_exposure(rng)
    dark = reference(
        {"nframes": 1, "groupgap": 0},
        data=np.zeros((8, NY, NX), np.float32),
        dq=np.zeros((NY, NX), np.uint32),
        average_dark_current=np.ones((3, 3), np.float32),
    )
    parameters = dark_current.STEP.settings(apply_average_dark_image=True)
    dark_current.run(exposure, {"dark": dark}, parameters, BACKEND)
    assert exposure.average_dark_current is None
    assert "not applied" in caplog.text


def test_short_segment_of_an_averaged_miri_dark(rng):
    """stcal subtracts nothing from a segment with fewer integrations than the dark, if it averages the dark."""
    exposure = make_exposure(rng, 1, 3)
    dark = rng.normal(100, 1, (2, 12, NY, NX)).astype(np.float32)
    expected = exposure.data - dark[1].reshape(3, 4, NY, NX)[:, :2].mean(axis=1)
    patterns = dark_current.ReadPattern(1, 0), dark_current.ReadPattern(2, 2)
    dark_current.subtract_dark(exposure.data, dark, *patterns, first_integration=2)
    np.testing.assert_allclose(exposure.data, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("dark_ngroups", "dark_pattern", "pattern", "message"),
    [(1, (1, 0), (1, 0), "continue"), (4, (1, 1), (1, 3), "averaged"), (8, (None, None), (1, 0), "NFRAMES")],
)
def test_darks_that_cannot_be_matched(rng, dark_ngroups, dark_pattern, pattern, message):
    exposure = make_exposure(rng, 1, 4, nframes=pattern[0], groupgap=pattern[1])
    facts = dict(zip(("nframes", "groupgap"), dark_pattern, strict=True))
    dark = reference(facts, data=np.zeros((dark_ngroups, NY, NX), np.float32), dq=np.zeros((NY, NX), np.uint32))
    parameters = dark_current.STEP.settings()
    with pytest.raises(ValueError, match=message):
        dark_current.run(exposure, {"dark": dark}, parameters, BACKEND)


# charge_migration


@pytest.mark.parity
@pytest.mark.parametrize("threshold", [13000.0, 25000, 20000.1])
@pytest.mark.parametrize("ngroups", [2, 3, 8])
def test_charge_migration(rng, ngroups, threshold):
    from jwst.charge_migration import ChargeMigrationStep

    exposure = make_exposure(rng, 2, ngroups)
    # Signals need not increase, and only DO_NOT_USE alone excludes a group.
    exposure.data[rng.random(exposure.data.shape) < 0.2] = 5000
    exposure.data[0, 1, :, :2] = np.nan
    exposure.groupdq[rng.random(exposure.data.shape) < 0.3] = DO_NOT_USE
    expected = ChargeMigrationStep(signal_threshold=threshold).process(make_model(exposure))
    outcome = charge_migration.run(exposure, {}, charge_migration.STEP.settings(signal_threshold=threshold), BACKEND)
    assert outcome.status == expected.meta.cal_step.charge_migration
    assert_same(exposure, expected)


# gain_scale


@pytest.mark.parity
@pytest.mark.parametrize(("factor", "in_reference"), [(2.1, None), (None, 0.7), (None, None), (2.1, 0.7)])
def test_gain_scale(rng, factor, in_reference):
    from jwst.gain_scale.gain_scale import do_correction
    from stdatamodels.jwst.datamodels import CubeModel

    def slopes(*shape):
        arrays = [rng.gamma(2, 3, shape).astype(np.float32) for _ in range(4)]
        return Slopes(arrays[0], np.zeros(shape, np.uint32), arrays[1], arrays[2], arrays[3])

    exposure = Exposure(rate=slopes(NY, NX), rateints=slopes(2, NY, NX), facts=Facts("NIRCAM", gain_factor=factor))
    mine = exposure.rateints
    arrays = {"data": mine.rate, "err": mine.err, "var_poisson": mine.var_poisson, "var_rnoise": mine.var_rnoise}
    expected = CubeModel(**{name: array.copy() for name, array in arrays.items()})
    rate_before = exposure.rate.rate.copy()
    used = factor if factor is not None else in_reference
    if used is not None:
        do_correction(expected, used)

    outcome = gain_scale.run(exposure, {"gain": reference({"gain_factor": in_reference})}, None, BACKEND)
    assert outcome.status == ("SKIPPED" if used is None else "COMPLETE")
    assert outcome.meta.get("exposure.gain_factor") == used
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, getattr(expected, name), err_msg=name)
    assert np.array_equal(exposure.rate.rate, rate_before) == (used is None)


# skipped steps


@pytest.mark.parametrize(
    ("step", "reftype", "detector"),
    [
        (dq_init, "mask", "NRCALONG"),
        (ipc, "ipc", "NRCALONG"),
        (superbias, "superbias", "NRCALONG"),
        (reset, "reset", "MIRIMAGE"),
        (rscd, "rscd", "MIRIMAGE"),
        (dark_current, "dark", "MIRIMAGE"),
    ],
)
def test_skipped_without_reference(step, reftype, detector):
    exposure = Exposure(facts=Facts("MIRI" if detector == "MIRIMAGE" else "NIRCAM", detector=detector))
    outcome = step.run(exposure, {reftype: None}, step.STEP.settings(), BACKEND)
    assert outcome.status == "SKIPPED" and reftype in outcome.reason


@pytest.mark.parametrize("step", [firstframe, lastframe, reset, rscd])
def test_for_miri_only(step):
    exposure = Exposure(facts=Facts("NIRCAM", detector="NRCALONG"))
    outcome = step.run(exposure, {}, step.STEP.settings(), BACKEND)
    assert outcome.status == "SKIPPED" and "MIRI" in outcome.reason


@pytest.fixture
def rng():
    return np.random.default_rng(23)
