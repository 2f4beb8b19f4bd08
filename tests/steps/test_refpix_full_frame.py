"""refpix of full frames and of four outputs, beside jwst: the same bits."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, REFERENCE_PIXEL
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference, read_reference
from gpucoron.steps import refpix, refpix_full_frame
from gpucoron.steps.refpix_full_frame import correct_nir_frames, sirs_kernels
from tests.cases.refpix import nircam_facts, run_jwst

# of jwst, about frames with NaN
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}:RuntimeWarning") for words in ("Mean of empty slice", "Degrees of")
]
BACKEND = get_backend("numpy", n_threads=1)
LONG, SHORT = {"fastaxis": -1, "slowaxis": 2}, {"fastaxis": 1, "slowaxis": -2, "detector": "NRCA2"}
ALONG_Y = {"fastaxis": -2, "slowaxis": 1, "detector": "NIS", "instrument": "NIRISS", "zero_frame": False}
FULL = {"subarray": "FULL", "noutputs": 4, "xsize": 2048, "ysize": 2048}


def draw_arrays(rng, shape):
    """Make frames with outliers, an image of flags, and a ZEROFRAME with zeros."""
    data = rng.standard_normal(shape, np.float32)
    data *= np.float32(30)
    data += np.float32(12000)
    data[..., ::2] += np.float32(7)
    outliers = rng.integers(0, data.size, data.size // 100)
    data.reshape(-1)[outliers] += np.float32(5000)
    bad = rng.random(shape[2:], np.float32) < 0.05
    zeroframe = data[:, 0] - np.float32(50)
    zeroframe[:, bad[::-1]] = 0
    return data, np.where(bad, np.uint32(DO_NOT_USE), np.uint32(REFERENCE_PIXEL)), zeroframe


def in_science_frame(array, facts):
    """Turn images of the detector, as it is read, into the science frame."""
    array = array[..., :: np.sign(facts.slowaxis), :: np.sign(facts.fastaxis)]
    return np.ascontiguousarray(array if abs(facts.fastaxis) == 1 else array.swapaxes(-2, -1))


def assert_as_jwst(arrays, facts, parameters, coefficients=None):
    """Compare the step with jwst; return the corrected data."""
    data, pixeldq, zeroframe = arrays
    zeroframe = zeroframe if facts.zero_frame else None
    with np.errstate(all="ignore"):
        status, expected, expected_zeroframe = run_jwst(data, pixeldq, zeroframe, facts, parameters, coefficients)
    exposure = Exposure(data=data.copy(), pixeldq=pixeldq.copy(), zeroframe=arrays[2].copy(), facts=facts)
    reference = Reference(facts={"coefficients": {facts.detector.lower(): coefficients}})
    outcome = refpix.run(exposure, {"sirskernel": reference}, parameters, BACKEND)
    assert status == 0 and outcome.status == "COMPLETE"
    np.testing.assert_array_equal(exposure.data, expected)
    np.testing.assert_array_equal(exposure.zeroframe, arrays[2] if zeroframe is None else expected_zeroframe)
    np.testing.assert_array_equal(exposure.pixeldq, pixeldq)
    assert bool(outcome.reason) == np.array_equal(exposure.data, data, equal_nan=True)
    return exposure.data


# ------------------------------------------------------------------------------------------------------ full frames


@pytest.fixture(scope="module")
def frames():
    """Two groups and a ZEROFRAME, in the order in which the detector is read."""
    arrays = draw_arrays(np.random.default_rng(23), (1, 2, 2048, 2048))
    for array in arrays:
        array.flags.writeable = False
    return arrays


def copies(frames, edit):
    """Copy the borders of the frames, which ``edit(data, pixeldq, zeroframe)`` changes."""
    arrays = tuple(array.copy() for array in frames)
    edit(*arrays)
    return arrays


def spoil_edges(data, pixeldq, zeroframe):
    """One output without good odd pixels, one with them at the top only, one with equal values, one with NaN."""
    pixeldq[:4, 0:512:2] = pixeldq[-4:, 0:512:2] = DO_NOT_USE
    pixeldq[:4, 512:1024] = DO_NOT_USE
    data[:, :, :4, 1024:1536] = np.float32(1000.1)
    data[:, :, -4:, 1024:1536] = np.float32(1003.7)
    pixeldq[:4, 1536:] = pixeldq[-4:, 1536:] = 0
    data[0, 1, 2, 2000] = np.nan
    zeroframe[0, 2, 2001] = np.inf


def spoil_sides(data, pixeldq, zeroframe):
    """Sides with NaN, without good pixels on one side or on both."""
    data[0, :, 700, 2] = data[0, 1, 703, 2046] = np.nan
    pixeldq[[700, 703], :] = 0
    pixeldq[900:930, :4] = pixeldq[920:950, -4:] = DO_NOT_USE
    data[0, :, 1200, 1], data[0, :, 1300, 1] = np.inf, -np.inf


@pytest.mark.parity
@pytest.mark.parametrize(
    ("placed", "changed", "edit"),
    [
        (LONG, {}, spoil_edges),
        (SHORT, {"side_smoothing_length": 4, "side_gain": 0.7, "odd_even_columns": False}, spoil_sides),
        (LONG | {"zero_frame": False}, {"use_side_ref_pixels": False, "siglimit": 1.5}, spoil_edges),
        (ALONG_Y, {}, spoil_sides),
    ],
)
def test_full_frames_as_jwst(frames, placed, changed, edit):
    facts = nircam_facts(**FULL | placed)
    arrays = [in_science_frame(array, facts) for array in copies(frames, edit)]
    found = assert_as_jwst(arrays, facts, refpix.STEP.settings(**changed))
    unknown = np.isnan(found).mean()
    assert 0 < unknown < 0.2


@pytest.mark.parity
@pytest.mark.parametrize(
    ("placed", "changed", "edit"),
    [
        (LONG, {}, None),
        (SHORT | {"zero_frame": False}, {"halfwidth": 7, "gaussmooth": 2.0, "sigreject": 1.0}, spoil_edges),
        (ALONG_Y | {"fastaxis": 2, "slowaxis": -1}, {}, None),
    ],
)
def test_sirs_as_jwst(rng, frames, placed, changed, edit):
    facts = nircam_facts(**FULL | placed)
    arrays = [in_science_frame(array, facts) for array in (frames if edit is None else copies(frames, edit))]
    coefficients = tuple(rng.normal(0, 1, (2, 4, 1025)) * np.exp(-np.arange(1025) / 200))
    found = assert_as_jwst(arrays, facts, refpix.STEP.settings(refpix_algorithm="sirs", **changed), coefficients)
    assert np.isfinite(found).mean() > 0.2
    assert np.isnan(found).any() == (edit is not None)


@pytest.mark.parity
@pytest.mark.parametrize("halfwidth", [0, 30, 1023])
def test_kernels_as_jwst(rng, halfwidth):
    from jwst.refpix.optimized_convolution import make_kernels

    class Model:
        def to_flat_dict(self):
            return {"nrca2.gamma": gamma, "nrca2.zeta": zeta}

    gamma, zeta = rng.normal(0, 1, (2, 4, 1025)) + 1j * rng.normal(0, 1, (2, 4, 1025))
    expected = make_kernels(Model(), "NRCA2", 3.0, halfwidth)
    np.testing.assert_array_equal(sirs_kernels((gamma, zeta), 3.0, halfwidth), expected)
    with pytest.raises(ValueError, match="halfwidth is 30, but the sirskernel reference has kernels of at most 20"):
        sirs_kernels((gamma[:, :21], zeta[:, :21]), 3.0, 30)


# ------------------------------------------------------------------------------------------------------- subarrays


PLACES = [
    LONG | {"xstart": 1, "ystart": 1, "xsize": 64, "ysize": 60},
    SHORT | {"xstart": 1500, "ystart": 2000, "xsize": 80, "ysize": 49},  # two outputs, and rows at the border
    LONG | {"xstart": 2047, "ystart": 700, "xsize": 2, "ysize": 30},  # two columns
    SHORT | {"xstart": 3, "ystart": 2047, "xsize": 700, "ysize": 2},
    LONG | {"xstart": 814, "ystart": 1502, "xsize": 40, "ysize": 36},  # away from the border
    {"fastaxis": -2, "slowaxis": -1, "xstart": 2000, "ystart": 1, "xsize": 49, "ysize": 40},
]
SETTINGS = [
    {}, {"odd_even_columns": False}, {"use_side_ref_pixels": False}, {"siglimit": 2.0, "side_gain": -0.3},
    {"side_smoothing_length": 2}, {"side_smoothing_length": 401},
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("number", range(6))
def test_drawn_subarrays_as_jwst(number):
    """Every place and setting, with drawn flags, values that are not finite, and columns without a good pixel."""
    rng = np.random.default_rng([7, number])
    facts = nircam_facts(noutputs=4, subarray="SUB160", zero_frame=bool(number % 2), **PLACES[number])
    data, pixeldq, zeroframe = draw_arrays(rng, (1, 2, facts.ysize, facts.xsize))
    pixeldq[rng.random(pixeldq.shape) < rng.choice([0, 0.5, 0.95])] |= np.uint32(DO_NOT_USE)
    data[rng.random(data.shape) < rng.choice([0, 2e-4])] = rng.choice([np.nan, np.inf])
    assert_as_jwst((data, pixeldq, zeroframe), facts, refpix.STEP.settings(**SETTINGS[number]))


def test_the_subarray_of_a_full_frame_is_corrected_as_in_it(frames):
    """With the same good pixels, a frame and the part of it with all reference pixels of an output agree."""
    facts = nircam_facts(**FULL, fastaxis=1, slowaxis=2)
    data = frames[0][:, :1].copy()
    pixeldq = np.full(data.shape[2:], DO_NOT_USE, np.uint32)
    pixeldq[:40, :512] = 0
    correct_nir_frames(data, pixeldq, facts, backend=BACKEND)
    part = frames[0][:, :1, :40, :512].copy()
    correct_nir_frames(part, 0, replace(facts, xsize=512, ysize=40), backend=BACKEND)
    np.testing.assert_array_equal(data[..., :40, :512], part)
    np.testing.assert_array_equal(data[..., 1200:, 600:], frames[0][:, :1, 1200:, 600:])


@pytest.mark.parametrize(
    ("fastaxis", "slowaxis"), [(1, 2), (1, -2), (-1, 2), (-1, -2), (2, 1), (2, -1), (-2, 1), (-2, -1)]
)
def test_every_orientation(rng, fastaxis, slowaxis):
    """Turning the detector turns the result."""
    straight = nircam_facts(noutputs=4, xsize=40, ysize=30, fastaxis=1, slowaxis=2, xstart=1, ystart=2019)
    data, pixeldq, zeroframe = draw_arrays(rng, (2, 3, 30, 40))
    expected, of_zero = data.copy(), zeroframe.copy()
    assert correct_nir_frames(expected, pixeldq, straight, zeroframe=of_zero, backend=BACKEND)
    rows, columns = 2019 if slowaxis > 0 else 1, 1 if fastaxis > 0 else 2009
    xstart, ystart = (columns, rows) if abs(fastaxis) == 1 else (rows, columns)
    turned = replace(straight, fastaxis=fastaxis, slowaxis=slowaxis, xstart=xstart, ystart=ystart)
    data, pixeldq, zeroframe = (in_science_frame(array, turned) for array in (data, pixeldq, zeroframe))
    assert correct_nir_frames(data, pixeldq, turned, zeroframe=zeroframe, backend=BACKEND)
    np.testing.assert_array_equal(data, in_science_frame(expected, turned))
    np.testing.assert_array_equal(zeroframe, in_science_frame(of_zero, turned))


# --------------------------------------------------------------------------------------------- memory, threads, errors


@pytest.mark.parametrize("sides", [True, False])
def test_threads_parts_and_scratch_files_do_not_matter(rng, sides, monkeypatch, tmp_path, backend):
    facts = nircam_facts(noutputs=4, xsize=70, ysize=50)
    data, pixeldq, zeroframe = draw_arrays(rng, (3, 7, 50, 70))
    data[0, 0, 7, 68], pixeldq[7, 68] = np.nan, 0

    def correct(backend):
        arrays = [backend.to_device(array.copy()) for array in (data, pixeldq, zeroframe)]
        in_file = backend.empty(data.shape, np.float32)
        in_file[...] = arrays[0]
        options = {"zeroframe": arrays[2], "use_side_ref_pixels": sides, "backend": backend}
        assert correct_nir_frames(in_file, arrays[1], facts, **options)
        return backend.to_host(in_file), backend.to_host(arrays[2])

    expected = correct(BACKEND)
    found = [correct(backend), correct(get_backend("numpy", n_threads=5))]
    found.append(correct(get_backend("numpy", n_threads=2, scratch_dir=tmp_path).in_chunks(10**6)))
    monkeypatch.setattr(refpix_full_frame, "_FRAMES_AT_ONCE", 2)
    monkeypatch.setattr(refpix_full_frame, "_FRAMES_TOGETHER", 5)
    monkeypatch.setattr("gpucoron.backends.operations.refpix.definition._BLOCK_BYTES", 3000)
    monkeypatch.setattr("gpucoron.steps.reference_pixels._WINDOW_VALUES", 1000)
    found.append(correct(BACKEND))
    for ramp, zero in found:
        np.testing.assert_array_equal(ramp, expected[0])
        np.testing.assert_array_equal(zero, expected[1])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 12), (2, 37, 28)])
@pytest.mark.parametrize("along_y", [False, True])
@pytest.mark.parametrize("n_outputs", [0, 1, 4])
@pytest.mark.parametrize("keeps_zeros", [False, True])
def test_levels_by_kernels(kernel_backend, rng, shape, along_y, n_outputs, keeps_zeros):
    """The bits of the definition, with numbers of every size, zeros of both signs, NaN and infinity."""
    n, n_rows, n_columns = (shape[0], *shape[1:][:: -1 if along_y else 1])
    if n_outputs > n_columns or (n_outputs and n_columns % n_outputs):
        n_outputs = 1
    frames = (rng.normal(size=shape) * 10.0 ** rng.integers(-9, 9, shape)).astype(np.float32)
    for value in (0.0, -0.0, np.nan, np.inf, -np.inf, 3e38):
        frames[rng.random(shape) < 0.03] = value
    levels = rng.normal(size=(n, n_columns)) * 10.0 ** rng.integers(-9, 9, (n, n_columns))
    levels[:, ::5] = rng.choice([0.0, np.nan, np.inf, -3e38])
    sides = rng.normal(size=(n, n_rows, n_outputs)) if n_outputs else None
    rounded = (np.arange(n) % 2).astype(np.uint8)
    options = {"along_y": along_y, "keeps_zeros": keeps_zeros}
    for of_columns in (levels, levels.astype(np.float32).astype(np.float64)):
        expected = frames.copy()
        BACKEND.subtract_levels(expected, of_columns, sides, rounded, **options)
        given = [
            each if each is None else kernel_backend.to_device(each.copy()) for each in (of_columns, sides, rounded)
        ]
        found = kernel_backend.to_device(frames.copy())
        kernel_backend.subtract_levels(found, *given, **options)
        found = kernel_backend.to_host(found)
        np.testing.assert_array_equal(found, expected)
        assert found[~np.isnan(found)].tobytes() == expected[~np.isnan(found)].tobytes()


@pytest.mark.parametrize("length", [2, 6, 11])
def test_long_windows_slide(rng, monkeypatch, length):
    """An ordered list along the rows gives the medians of sorted windows."""
    from gpucoron.steps.reference_pixels import mirrored_windows, running_median

    columns = np.round(rng.normal(0, 3, (3, 41, 4)), 1)
    columns[rng.random(columns.shape) < 0.3] = np.nan
    columns[0, 10:30], columns[1, 5, 0], columns[2, 6:9, 1] = np.nan, np.inf, -np.inf
    spoilt = rng.random((3, 41)) < 0.05
    windows = mirrored_windows(40, length)
    for of_rows in (None, spoilt):
        expected = running_median(columns, windows, of_rows, xp=np)
        with monkeypatch.context() as patch:
            patch.setattr("gpucoron.steps.reference_pixels._SORTED_VALUES", 0)
            np.testing.assert_array_equal(running_median(columns, windows, of_rows, xp=np), expected)


def test_noise_common_to_outputs_and_rows_is_removed(rng):
    """Each output has its own level, and all rows a slow drift."""
    facts = nircam_facts(**FULL, fastaxis=1, slowaxis=2)
    drift = np.cumsum(rng.normal(0, 0.3, 2048))[:, None]
    data = (1000 + np.repeat([3.0, -2.0, 5.0, 0.0], 512) + drift + rng.normal(0, 1, (1, 1, 2048, 2048))).astype("f4")
    correct_nir_frames(data, 0, facts, backend=BACKEND)
    inside = data[0, 0, 4:-4, 4:-4]
    assert abs(inside.mean(axis=0)[100::512]).max() < 0.5
    assert inside.mean(axis=1).std() < 0.1 * drift.std()


@pytest.mark.parametrize(
    ("options", "placed", "message"),
    [
        ({"kernels": np.zeros((2, 4, 61))}, {}, "kernels: they are for full frames only"),
        ({"kernels": np.zeros((2, 4, 2049))}, FULL, r"at most 2048 taps, got \(2, 4, 2049\)"),
        ({"kernels": np.zeros((2, 3, 61))}, FULL, r"expected \(2, 4, taps\)"),
        ({"side_smoothing_length": 4096}, {}, "less than twice the detector's 2048 rows"),
        ({}, {"xstart": 2040}, "40 pixels from 2040 extend beyond the detector"),
    ],
)
def test_what_cannot_be_corrected_is_refused(options, placed, message):
    shape = (1, 1, 2048, 2048) if placed is FULL else (1, 1, 36, 40)
    with pytest.raises(ValueError, match=message):
        correct_nir_frames(np.zeros(shape, np.float32), 0, nircam_facts(**placed), backend=BACKEND, **options)


@pytest.mark.parametrize("lack", ["reference", "detector", "full frame"])
def test_without_kernels_the_running_median_is_used(rng, caplog, lack):
    facts = nircam_facts(noutputs=4)
    data, pixeldq, zeroframe = draw_arrays(rng, (1, 2, 36, 40))
    expected = data.copy()
    correct_nir_frames(expected, pixeldq, facts, backend=BACKEND)
    exposure = Exposure(data=data, pixeldq=pixeldq, zeroframe=zeroframe, facts=facts)
    reference = None if lack == "reference" else Reference(path="kernels.asdf", facts={"coefficients": {}})
    settings = refpix.STEP.settings(refpix_algorithm="sirs")
    with caplog.at_level(logging.WARNING):
        if lack == "full frame":
            refpix.run(exposure, {"sirskernel": reference}, settings, BACKEND)
        else:
            refpix_full_frame.correct_four_outputs(exposure, reference, settings, BACKEND, is_full=True)
    np.testing.assert_array_equal(exposure.data, expected)
    words = {
        "reference": "no sirskernel reference", "detector": "kernels.asdf lacks NRCALONG",
        "full frame": "only for full frames",
    }  # fmt: skip
    assert words[lack] in caplog.text and "the running median is used instead of sirs" in caplog.text


def test_the_reference_is_read_as_jwst_reads_it(exposures):
    from jwst.refpix.optimized_convolution import get_conv_kernel_coeffs
    from stdatamodels.jwst.datamodels import SIRSKernelModel

    case = exposures("NIRCAM", "FULL", "RAPID", 3, 1, shape=(40, 48))
    (path,) = (case.cache.path / "references" / "jwst" / "nircam").glob("*sirskernel*")
    exposure = Exposure.read(case.path)
    found = read_reference("sirskernel", path, exposure).facts["coefficients"]
    with SIRSKernelModel(str(path)) as model:
        for detector in ("NRCA2", "NRCA4", "NRCALONG"):
            for ours, theirs in zip(found[detector.lower()], get_conv_kernel_coeffs(model, detector), strict=True):
                np.testing.assert_array_equal(ours, theirs)
    # both sides together measure the level of a row
    assert sirs_kernels(found["nrcalong"], 1.0, 30).sum(axis=(0, 2)) == pytest.approx(1, abs=0.01)


@pytest.fixture
def rng():
    return np.random.default_rng(24)
