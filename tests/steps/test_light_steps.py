"""The light steps compared with jwst's, on small arrays: data to the bit, flags, and skips."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends.operations.ipc.definition import deconvolve_ipc
from gpucoron.backends.results import Slopes
from gpucoron.dq import DO_NOT_USE, FLUX_ESTIMATED, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.steps import (
    charge_migration,
    dark_current,
    dq_init,
    firstframe,
    gain_scale,
    group_scale,
    ipc,
    lastframe,
    reset,
    rscd,
    superbias,
)
from tests.cases.light_steps import (
    BACKEND,
    NX,
    NY,
    assert_same,
    in_subarray,
    make_exposure,
    make_model,
    random_dq,
    reference,
    some_nan,
)

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


def test_charge_migration_needs_little_memory_on_a_cpu():
    """The masks of a few groups, not those of an integration."""
    data = np.full((1, 100, 64, 64), 2e4, np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    tracemalloc.start()
    try:
        charge_migration.flag_charge_migration(data, groupdq, 1e4, backend="numpy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert groupdq.all()
    assert peak < 0.3 * groupdq.nbytes


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
