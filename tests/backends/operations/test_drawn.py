"""Random examples: heavy steps compared with array functions of stcal and jwst, and kernels with NumPy.

``--hypothesis-profile=long`` draws forty times as many examples; see conftest.py.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.utils import minversion
from hypothesis import given
from hypothesis import strategies as st

from gpucoron.backends import backend_status, get_backend
from gpucoron.backends.backend import Backend
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import firstframe, linearity, rscd, saturation
from gpucoron.steps.charge_migration import flag_charge_migration
from gpucoron.steps.ramp_fit import fit_segments
from tests.backends.operations.drawn import (
    a_fifth,
    charge_migration_cases,
    flag_cases,
    jump_cases,
    likelihood_cases,
    linearity_cases,
    ramp_fit_cases,
    saturation_cases,
)
from tests.cases.jump import after_round_trip, detect_with_stcal
from tests.cases.ramp_fit import TIMES, fit_and_compare, fit_segments_and_compare

DEFINITION = get_backend("numpy", n_threads=1)
#: all operations by the kernels compiled for this CPU, of which the native backend uses some
NATIVE = Backend(get_backend("native").device.kernels) if backend_status()["native"][0] else None


def copies(arrays):
    return {name: None if array is None else array.copy() for name, array in arrays.items()}


def assert_equal_arrays(found, expected):
    """Compare arrays by name: the same dtype, the same bits and NaN in the same positions."""
    for name, wanted in expected.items():
        if wanted is None:
            assert found[name] is None, name
            continue
        assert found[name].dtype == wanted.dtype, name
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)


def run_step(step, arrays, references, backend, parameters=None, **facts):
    """Run a step on copies on a backend's device; return the arrays of the exposure on the host."""

    def on_device(arrays):
        return {name: None if array is None else backend.to_device(array) for name, array in copies(arrays).items()}

    exposure = Exposure(**on_device(arrays), facts=Facts("NIRCAM", **facts))
    references = {name: None if parts is None else Reference(**on_device(parts)) for name, parts in references.items()}
    with np.errstate(all="ignore"):
        outcome = step.run(exposure, references, parameters, backend)
    assert outcome.status == "COMPLETE"
    found = {name: getattr(exposure, name) for name in arrays}
    return {name: None if array is None else backend.to_host(array) for name, array in found.items()}


def count_reads(nframes, ngroups):
    return [[1 + group * nframes + read for read in range(nframes)] for group in range(ngroups)]


# ----------------------------------------------------------------------------------------------------------- linearity


def correct_with_stcal(arrays, reference, nframes):
    from stcal.linearity.linearity import linearity_correction
    from stdatamodels.jwst.datamodels import dqflags

    arrays, reference = copies(arrays), copies(reference)
    by_read = reference["inv_coeffs"] is not None and nframes > 1
    with np.errstate(all="ignore"):
        data, pixeldq, zeroframe = linearity_correction(
            arrays["data"],
            arrays["groupdq"],
            arrays["pixeldq"],
            reference["coeffs"],
            reference["dq"],
            dqflags.pixel,
            zframe=arrays["zeroframe"],
            ilin_coeffs=reference["inv_coeffs"] if by_read else None,
            read_pattern=count_reads(nframes, arrays["data"].shape[1]) if by_read else None,
        )
    return {"data": data, "groupdq": arrays["groupdq"], "pixeldq": pixeldq, "zeroframe": zeroframe}


def correct(case, backend):
    arrays, reference, nframes = case
    facts = {"nframes": nframes, "zero_frame": arrays["zeroframe"] is not None}
    return run_step(linearity, arrays, {"linearity": reference}, backend, **facts)


@pytest.mark.parity
@given(linearity_cases())
def test_linearity_is_stcals(case):
    assert_equal_arrays(correct(case, DEFINITION), correct_with_stcal(*case))


@a_fifth()
@given(linearity_cases(least_nx=2))
def test_linearity_by_kernels(kernel_backend, case):
    """For more than one column: NumPy, and so stcal, sums the reads of a single pixel in another order."""
    assert_equal_arrays(correct(case, kernel_backend), correct(case, DEFINITION))


# ---------------------------------------------------------------------------------------------------- charge migration


def flag_with_jwst(data, groupdq, threshold):
    from jwst.charge_migration.charge_migration import charge_migration as migrate

    model = migrate(SimpleNamespace(data=data, groupdq=groupdq.copy()), threshold)
    return model.groupdq


@pytest.mark.parity
@given(charge_migration_cases())
def test_charge_migration_is_jwsts(case):
    data, groupdq, threshold = case
    found = groupdq.copy()
    flag_charge_migration(data, found, threshold)
    np.testing.assert_array_equal(found, flag_with_jwst(data, groupdq, threshold))


@pytest.mark.parity
@pytest.mark.parametrize("threshold", [0, 5000, 25000, 25000.1, 64999, np.inf])
def test_charge_migration_beside_saturation_and_edges(backend, threshold):
    """Saturated groups count and are flagged, and so are neighbours, but none outside the image."""
    data = np.zeros((2, 5, 6, 7), np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    for integration, group, y, x in ((0, 1, 0, 0), (0, 2, 5, 6), (0, 3, 2, 3), (1, 0, 0, 3), (1, 4, 3, 0)):
        data[integration, group:, y, x] = np.float32(25000.1) + 8000 * group
        groupdq[integration, group + 1 :, y, x] |= SATURATED
    groupdq[0, :, 2, 4] |= SATURATED | DO_NOT_USE
    groupdq[0, 3, 2, 3] = DO_NOT_USE
    groupdq[1, 1, 0, 3] |= JUMP_DET
    found = backend.to_device(groupdq.copy())
    flag_charge_migration(backend.to_device(data), found, threshold, backend=backend)
    found = backend.to_host(found)
    np.testing.assert_array_equal(found, flag_with_jwst(data, groupdq, threshold))
    assert (found != groupdq).any() == (threshold < 64999)


# -------------------------------------------------------------------------------------------------------- MIRI's flags


def make_model(groupdq, pixeldq, **exposure):
    """Make the attributes of a RampModel that jwst's functions read."""
    nints, ngroups = groupdq.shape[:2]
    facts = {"nints": nints, "ngroups": ngroups, "integration_start": None, "integration_end": None} | exposure
    meta = SimpleNamespace(exposure=SimpleNamespace(**facts), cal_step=SimpleNamespace(), rscd=SimpleNamespace())
    data = np.zeros(groupdq.shape, np.float32)
    return SimpleNamespace(data=data, groupdq=groupdq.copy(), pixeldq=pixeldq.copy(), meta=meta)


@pytest.mark.parity
@given(flag_cases(), st.integers(0, 12), st.integers(0, 12))
def test_rscd_backs_off_as_jwsts(case, skip_first, skip_later):
    from jwst.rscd.rscd_sub import correction_skip_groups

    groupdq, pixeldq, start = case
    nints = groupdq.shape[0]
    nints_of_exposure = nints + (start or 1) - 1
    model = make_model(groupdq, pixeldq, nints=nints_of_exposure, integration_start=start)
    expected = correction_skip_groups(model, skip_first, skip_later)
    table = np.array(
        [("MASK1140", "FASTR1", skip_first, skip_later)],
        [("subarray", "S9"), ("readpatt", "S9"), ("group_skip1", "i4"), ("group_skip", "i4")],
    )
    facts = {"detector": "MIRIMAGE", "subarray": "MASK1140", "readpatt": "FASTR1"}
    exposure = Exposure(
        groupdq=groupdq.copy(),
        pixeldq=pixeldq.copy(),
        facts=Facts("MIRI", **facts, integration_start=start, nints=nints_of_exposure),
    )
    outcome = rscd.run(exposure, {"rscd": Reference(table=table)}, None, DEFINITION)
    assert outcome.status == expected.meta.cal_step.rscd
    assert outcome.meta == {f"rscd.{name}": value for name, value in vars(expected.meta.rscd).items()}
    np.testing.assert_array_equal(exposure.groupdq, expected.groupdq)
    np.testing.assert_array_equal(exposure.pixeldq, expected.pixeldq)


@pytest.mark.parity
@given(flag_cases(), st.booleans())
def test_firstframe_is_jwsts(case, bright_use_group1):
    from jwst.firstframe.firstframe_sub import do_correction

    groupdq, pixeldq, _ = case
    expected = do_correction(make_model(groupdq, pixeldq), bright_use_group1=bright_use_group1)
    facts = Facts("MIRI", detector="MIRIMAGE")
    exposure = Exposure(data=groupdq, groupdq=groupdq.copy(), pixeldq=pixeldq.copy(), facts=facts)
    parameters = firstframe.STEP.settings(bright_use_group1=bright_use_group1)
    outcome = firstframe.run(exposure, {}, parameters, DEFINITION)
    assert outcome.status == expected.meta.cal_step.firstframe
    np.testing.assert_array_equal(exposure.groupdq, expected.groupdq)
    np.testing.assert_array_equal(exposure.pixeldq, expected.pixeldq)


# ---------------------------------------------------------------------------------------------------------- saturation


def flag_with_stcal(arrays, reference, parameters):
    from stcal.saturation.saturation import flag_saturated_pixels
    from stdatamodels.jwst.datamodels import dqflags

    arrays, reference, nframes = copies(arrays), copies(reference), parameters["nframes"]
    with np.errstate(all="ignore"):
        groupdq, pixeldq, zeroframe = flag_saturated_pixels(
            arrays["data"],
            arrays["groupdq"],
            arrays["pixeldq"],
            reference["threshold"],
            reference["dq"],
            65535.0,
            dqflags.pixel,
            n_pix_grow_sat=parameters["n_pix_grow_sat"],
            zframe=arrays["zeroframe"],
            read_pattern=None if nframes is None else count_reads(nframes, arrays["data"].shape[1]),
            bias=reference["bias"],
        )
    return {"data": arrays["data"], "groupdq": groupdq, "pixeldq": pixeldq, "zeroframe": zeroframe}


def flag_saturated(case, backend):
    arrays, reference, parameters = case
    references = {
        "saturation": {"data": reference["threshold"], "dq": reference["dq"]},
        "superbias": None if reference["bias"] is None else {"data": reference["bias"]},
    }
    options = saturation.STEP.settings(
        n_pix_grow_sat=parameters["n_pix_grow_sat"],
        use_readpatt=parameters["nframes"] is not None,
        grow_diagonal=True,
        flag_rcsat=False,
    )
    facts = {"nframes": parameters["nframes"], "zero_frame": arrays["zeroframe"] is not None}
    return run_step(saturation, arrays, references, backend, options, **facts)


@pytest.mark.parity
@given(saturation_cases())
def test_saturation_is_stcals(case):
    assert_equal_arrays(flag_saturated(case, DEFINITION), flag_with_stcal(*case))


@a_fifth()
@given(saturation_cases())
def test_saturation_by_kernels(kernel_backend, case):
    assert_equal_arrays(flag_saturated(case, kernel_backend), flag_saturated(case, DEFINITION))


# ---------------------------------------------------------------------------------------------------------------- jump


@pytest.mark.parity
@given(jump_cases())
def test_jumps_are_stcals(case):
    """The flags and the count equal those of stcal, also in tiny strips on two threads."""
    ramps, options = case
    expected, _, expected_number = detect_with_stcal(*ramps, **options)
    options = after_round_trip(options, ramps[2])
    for layout in ({}, {"n_threads": 2, "tile_bytes": 1}):
        found = ramps[1].copy()
        number = get_backend("numpy", **layout).detect_jumps(ramps[0], found, *ramps[2:], **options)
        np.testing.assert_array_equal(found, expected)
        assert number == expected_number


# The NumPy definition clips with astropy, which before version 8 did not clip pairs of values at thresholds below 1
# sigma.
@pytest.mark.skipif(not minversion("astropy", "8"), reason="an older astropy clips otherwise")
@a_fifth()
@given(jump_cases())
def test_jumps_by_kernels(kernel_backend, case):
    ramps, options = case
    expected = ramps[1].copy()
    number = DEFINITION.detect_jumps(ramps[0], expected, *ramps[2:], **options)
    data, found, gain, readnoise = (kernel_backend.to_device(array.copy()) for array in ramps)
    assert kernel_backend.detect_jumps(data, found, gain, readnoise, **options) == number
    np.testing.assert_array_equal(kernel_backend.to_host(found), expected)


# ------------------------------------------------------------------------------------------------------------ ramp fit


@pytest.mark.parity
@given(ramp_fit_cases(), st.booleans())
def test_slopes_are_stcals(case, has_segments):
    arrays, options = case
    if has_segments:
        fit_segments_and_compare(arrays, **options, backend=DEFINITION)
    else:
        fit_and_compare(arrays, **options)


@a_fifth()
@given(ramp_fit_cases())
def test_slopes_by_kernels(kernel_backend, case):
    arrays, options = case
    options = {
        **TIMES,
        "nframes": options["nframes"],
        "groupgap": options["groupgap"],
        "suppress_one_group": options["suppress_one_group"],
        "drop_flagged_groups": options["instrument"] == "MIRI",
    }
    expected = fit_segments(**copies(arrays), **options, backend=DEFINITION)
    arrays = {name: kernel_backend.to_device(array) for name, array in copies(arrays).items()}
    found = fit_segments(**arrays, **options, backend=kernel_backend)
    if expected[0] is None:
        assert found == (None, None, None)
        return
    for ours, theirs in zip(found, expected, strict=True):
        for name, wanted in vars(theirs).items():
            mine = kernel_backend.to_host(getattr(ours, name))
            assert mine.dtype == wanted.dtype
            np.testing.assert_array_equal(mine, wanted, err_msg=name)


def fit_likelihood_on(backend, case):
    """Fit copies of drawn ramps; return flags and results by name, on the host."""
    ramps, times, more, options = case
    data, groupdq, *pixels = (backend.to_device(array.copy()) for array in ramps)
    more = {name: backend.to_device(array.copy()) for name, array in more.items()}
    with np.errstate(all="ignore"):
        fit = backend.fit_likelihood_ramps(data, groupdq, *pixels, times, **more, **options)
    results = {name: values for name, values in vars(fit).items() if values is not None}
    return {name: backend.to_host(values) for name, values in {"groupdq": groupdq, **results}.items()}


@a_fifth()
@given(likelihood_cases())
def test_likelihood_by_kernels(kernel_backend, case):
    """Flags, rates, errors and chi-square have NumPy's bits; also those of the kernels compiled for this CPU."""
    expected = fit_likelihood_on(DEFINITION, case)
    assert_equal_arrays(fit_likelihood_on(kernel_backend, case), expected)
    if NATIVE is not None:
        assert_equal_arrays(fit_likelihood_on(NATIVE, case), expected)
