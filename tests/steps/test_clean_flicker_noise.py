"""clean_flicker_noise beside jwst's step, with all its settings, and its parts beside those of jwst."""

import itertools
import logging
import re
import warnings

import numpy as np
import pytest
from astropy.io import fits

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.simulate import simulate
from gpucoron.simulate.later_references import write_later_references
from gpucoron.simulate.references import write_references
from gpucoron.steps import clean_flicker_noise
from gpucoron.steps.clean_flicker_noise_background import default_box, fill_flat
from gpucoron.steps.clean_flicker_noise_parameters import _decide, choose_parameters
from gpucoron.steps.clean_flicker_noise_scene import relative_flux

pytestmark = pytest.mark.parity

SAVED = {"save_mask": True, "save_background": True, "save_noise": True}
SHAPE = 64, 96
#: settings; {} is the folder with the masks
SETTINGS = (
    {},
    SAVED,
    {"background_method": "model", **SAVED},
    {"background_method": "model", "background_box_size": [16, 20]},
    {"background_method": "model", "background_box_size": [50, 50]},
    {"background_method": "model", "background_box_size": [200, 200]},
    {"background_method": None, **SAVED},
    {"background_method": "median_image", **SAVED},
    {"background_method": "median_image", "user_mask": "{}/image.fits", "apply_flat_field": True},
    {"single_mask": False, **SAVED},
    {"single_mask": False, "fit_histogram": True},
    {"fit_histogram": True},
    {"n_sigma": 3.5},
    {"n_sigma": 0.0},
    {"n_sigma": -1.0, "background_method": "model"},
    {"n_sigma": 0.05},
    {"apply_flat_field": True},
    {"apply_flat_field": True, "background_method": "model", "single_mask": False, **SAVED},
    {"user_mask": "{}/image.fits", **SAVED},
    {"user_mask": "{}/cube.fits", **SAVED},
    {"user_mask": "{}/cube.fits", "background_method": "model"},
    {"user_mask": "{}/other.fits"},
    {"user_mask": "{}/nothing.fits"},
    {"fit_by_channel": True},
    {"autoparam": True},
    {"mask_science_regions": True},
    {"fit_method": "fft", **SAVED},
)
IDS = ["-".join(f"{value}".replace("{}/", "") for value in each.values()) or "defaults" for each in SETTINGS]


class Case:
    """A calibrated ramp, its folder and its cache."""

    def __init__(self, folder, *arguments, later=True):
        from stdatamodels.jwst import datamodels

        from gpucoron import Coron1Pipeline

        simulation = simulate(*arguments, shape=SHAPE)
        path = simulation.write(folder)
        self.folder, self.cache = folder, write_references([simulation], folder / "crds")
        if later:  # references of stage 2: a flat
            self.cache = write_later_references([simulation], folder / "crds")
        off = {name: {"skip": True} for name in ("ramp_fit", "gain_scale")}
        with self.cache.activate():
            self.ramp = Coron1Pipeline.call(str(path), backend="cpu", steps=off)
        nints = self.ramp.data.shape[0]
        rng = np.random.default_rng(1)
        masks = {"image": SHAPE, "cube": (nints, *SHAPE), "other": (SHAPE[0] - 1, SHAPE[1])}
        for name, shape in masks.items():
            mask = (rng.random(shape) < 0.7).astype(np.float32)
            (datamodels.CubeModel if mask.ndim == 3 else datamodels.ImageModel)(mask).save(folder / f"{name}.fits")
        datamodels.ImageModel(np.zeros(SHAPE, np.float32)).save(folder / "nothing.fits")

    def damage(self):
        """Make some NaN, lose whole groups, lines and pixels, and add jumps."""
        data, groupdq = self.ramp.data, self.ramp.groupdq
        data[1, 2, 5, 6] = np.nan
        data[0, 3, 10:12, 7] = np.nan
        data[-1, :, 9] = np.nan
        data[1, 4] = np.nan
        groupdq[0, 3] |= DO_NOT_USE
        groupdq[:, 2, 20] |= JUMP_DET
        groupdq[:, -1, 30:34, ::3] |= JUMP_DET
        groupdq[:, 1:, 40:44, 50:54] |= DO_NOT_USE
        return self


@pytest.fixture(scope="module")
def nircam(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("nircam"), "NIRCAM", "SUB320A335R", "RAPID", 6, 3).damage()


@pytest.fixture(scope="module")
def miri(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("miri"), "MIRI", "MASK1550", "FASTR1", 8, 2)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("single"), "NIRCAM", "SUB320A335R", "SHALLOW4", 2, 1)


#: keywords of saved files that differ: dates, the status of a previous run, and the flat (docs/deviations.md)
OTHERWISE = re.compile(r"DATE|HISTORY|COMMENT|CAL_V|S_CLNFNS|R_FLAT|^$")


def run_both(case, settings, ramp, folder):
    """Run jwst's step and ours on a model; return both results and the files that they saved."""
    from jwst.clean_flicker_noise import CleanFlickerNoiseStep
    from stdatamodels.jwst import datamodels

    from gpucoron.pipeline import CleanFlickerNoiseStep as OurStep

    settings = {
        name: value.format(case.folder) if isinstance(value, str) else value for name, value in settings.items()
    }
    results = []
    for made in (CleanFlickerNoiseStep, OurStep):
        place = folder / made.__module__.partition(".")[0]
        place.mkdir()
        with case.cache.activate(), warnings.catch_warnings(action="ignore"):
            result = made(skip=False, output_dir=str(place), **settings).run(ramp.copy())
        saved = {}
        for path in place.iterdir():
            with datamodels.open(path) as model:
                saved[path.name] = type(model).__name__, np.array(model.data)
            if not path.name.endswith("_mask.fits"):
                header = fits.getheader(path)
                saved[path.name] += ({key: header[key] for key in header if not OTHERWISE.search(key)},)
        results.append((result, saved))
    return results


def assert_same(theirs, ours):
    (due, due_files), (found, files) = theirs, ours
    for name in ("data", "groupdq", "pixeldq"):
        np.testing.assert_array_equal(getattr(found, name), getattr(due, name), err_msg=name)
    for keyword in ("cal_step.clean_flicker_noise", "ref_file.flat.name", "ref_file.gain.name"):
        assert found[f"meta.{keyword}"] == due[f"meta.{keyword}"], keyword
    assert files.keys() == due_files.keys()
    for name, (kind, array, *header) in due_files.items():
        assert files[name][0] == kind
        np.testing.assert_array_equal(files[name][1], array, err_msg=name)
        assert files[name][2:] == tuple(header)


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
def test_every_setting_gives_jwsts_bits(settings, nircam, tmp_path, monkeypatch):
    if settings.get("background_method") == "median_image":
        # jwst assigns coordinates that it does not use for coronagraphs
        monkeypatch.setattr("jwst.assign_wcs.AssignWcsStep.run", lambda self, model: model)
    theirs, ours = run_both(nircam, settings, nircam.ramp, tmp_path)
    assert_same(theirs, ours)
    fails = settings.get("fit_method") == "fft" or "other" in settings.get("user_mask", "")
    assert (ours[0].meta.cal_step.clean_flicker_noise == "FAILED") == fails
    is_changed = not np.array_equal(ours[0].data, nircam.ramp.data, equal_nan=True)
    assert is_changed == (not fails and "nothing" not in settings.get("user_mask", ""))
    n_saved = 0 if fails else sum(name in settings for name in SAVED)
    assert len(ours[1]) == n_saved


@pytest.mark.parametrize("settings", SETTINGS[:4] + SETTINGS[9:12], ids=IDS[:4] + IDS[9:12])
def test_one_integration_of_two_groups(settings, single, tmp_path):
    theirs, ours = run_both(single, settings, single.ramp, tmp_path)
    assert_same(theirs, ours)
    assert not np.array_equal(ours[0].data, single.ramp.data)


def test_one_group_and_one_integration_leave_nothing_to_do(single, tmp_path):
    ramp = single.ramp.copy()
    ramp.data, ramp.groupdq = ramp.data[:, :1], ramp.groupdq[:, :1]
    theirs, ours = run_both(single, SAVED, ramp, tmp_path)
    assert_same(theirs, ours)
    (tmp_path / "again").mkdir()
    theirs, ours = run_both(single, {"background_method": "median_image"}, single.ramp, tmp_path / "again")
    assert ours[0].meta.cal_step.clean_flicker_noise == "FAILED"
    np.testing.assert_array_equal(ours[0].data, single.ramp.data)


class TestOtherExposures:
    def test_miri_coronagraphs_are_not_corrected(self, miri, tmp_path):
        theirs, ours = run_both(miri, SAVED, miri.ramp, tmp_path)
        assert_same(theirs, ours)
        assert ours[0].meta.cal_step.clean_flicker_noise == "FAILED"

    @pytest.mark.parametrize(
        "settings",
        [
            SAVED,
            {"mask_science_regions": True, **SAVED},
            {"mask_science_regions": True, "single_mask": False, "apply_flat_field": True, **SAVED},
            {"background_method": "model", "fit_by_channel": True, "fit_histogram": True},
        ],
    )
    def test_miri_images(self, settings, miri, tmp_path):
        ramp = miri.ramp.copy()
        ramp.meta.exposure.type = "MIR_IMAGE"
        ramp.pixeldq[20:30, 20:30] |= np.uint32(2**9)
        theirs, ours = run_both(miri, settings, ramp, tmp_path)
        assert_same(theirs, ours)
        assert not np.array_equal(ours[0].data, ramp.data)

    @pytest.mark.parametrize("slope", [0, 5])
    def test_nircam_images_choose_their_parameters(self, slope, nircam, tmp_path):
        ramp = nircam.ramp.copy()
        ramp.meta.exposure.type = "NRC_IMAGE"
        ramp.data += (slope * np.arange(6)[:, None, None] * np.arange(SHAPE[1])).astype(np.float32)
        theirs, ours = run_both(nircam, {"autoparam": True, **SAVED}, ramp, tmp_path)
        assert_same(theirs, ours)
        assert ours[0].meta.ref_file.flat.name.startswith("crds://")

    def test_columns(self, nircam, tmp_path):
        ramp = nircam.ramp.copy()
        ramp.meta.subarray.slowaxis, ramp.meta.subarray.fastaxis = -1, 2
        theirs, ours = run_both(nircam, SAVED, ramp, tmp_path)
        assert_same(theirs, ours)


class TestDeviations:
    """Where jwst fails, or only its own step applies: docs/deviations.md."""

    def ours(self, case, ramp, **settings):
        from gpucoron.pipeline import CleanFlickerNoiseStep

        with case.cache.activate():
            return CleanFlickerNoiseStep(skip=False, **settings).run(ramp)

    def theirs(self, case, ramp, **settings):
        from jwst.clean_flicker_noise import CleanFlickerNoiseStep

        with case.cache.activate(), warnings.catch_warnings(action="ignore"):
            return CleanFlickerNoiseStep(skip=False, **settings).run(ramp)

    def test_the_median_image_needs_no_coordinates(self, tmp_path):
        case = Case(tmp_path, "NIRCAM", "SUB320A335R", "RAPID", 3, 2, later=False)
        with pytest.raises(ValueError, match="assign_wcs needs reference files"):
            self.theirs(case, case.ramp.copy(), background_method="median_image")
        found = self.ours(case, case.ramp, background_method="median_image")
        assert found.meta.cal_step.clean_flicker_noise == "COMPLETE"

    def test_a_mask_has_the_header_of_the_exposure(self, single, tmp_path):
        _theirs, (result, _files) = run_both(single, {"save_mask": True}, single.ramp, tmp_path)
        headers = [fits.getheader(next(tmp_path.glob(f"{who}/*_mask.fits"))) for who in ("gpucoron", "jwst")]
        assert [header["S_RAMP"] for header in headers] == ["SKIPPED", "COMPLETE"]
        assert "S_CLNFNS" not in headers[0]
        assert result.meta.cal_step.clean_flicker_noise == "COMPLETE"

    def test_ramps_that_cannot_be_fitted(self, nircam, caplog):
        ramp = nircam.ramp.copy()
        ramp.groupdq[:, 0] |= SATURATED
        with pytest.raises(AttributeError):
            self.theirs(nircam, ramp.copy())
        with caplog.at_level(logging.WARNING):
            found = self.ours(nircam, ramp)
        assert found.meta.cal_step.clean_flicker_noise == "FAILED"
        assert "no draft of the rate" in caplog.text
        np.testing.assert_array_equal(found.data, ramp.data)

    @pytest.mark.parametrize(
        ("exp_type", "settings", "words"),
        [
            ("NRC_TSIMAGE", {"background_method": "median_image"}, "light curve"),
            ("NRC_TSGRISM", {"background_method": "median_image"}, "light curve"),
            ("NIS_IMAGE", {"autoparam": True}, "only jwst's own step has rules for exposures of NIRISS"),
            ("NRS_IFU", {"mask_science_regions": True}, "only jwst's own step has rules for exposures of NIRSPEC"),
            ("NRS_IFU", {"fit_method": "fft"}, "fit_method fft"),
        ],
    )
    def test_modes_for_spectra_and_light_curves(self, exp_type, settings, words):
        instrument = {"NRC": "NIRCAM", "NIS": "NIRISS", "NRS": "NIRSPEC"}[exp_type[:3]]
        data = np.ones((2, 3, 4, 5), np.float32)
        exposure = Exposure(data=data, facts=Facts(instrument, exp_type=exp_type))
        step = clean_flicker_noise.STEP
        outcome = clean_flicker_noise.run(exposure, {"flat": None}, step.settings(**settings), get_backend("numpy"))
        assert outcome.status == "FAILED"
        assert words in outcome.reason
        assert (data == 1).all()


@pytest.mark.parametrize(
    "settings", [SAVED, {"background_method": "median_image", **SAVED}, {"user_mask": "{}/cube.fits"}]
)
def test_ramps_in_a_scratch_file(settings, nircam, tmp_path):
    """Products and saved arrays do not depend on the memory limit."""
    from stdatamodels.jwst import datamodels

    import gpucoron

    settings = {
        key: value.format(nircam.folder) if isinstance(value, str) else value for key, value in settings.items()
    }
    path, folders = next(nircam.folder.glob("*_uncal.fits")), [tmp_path / "whole", tmp_path / "limited"]
    for folder, limit in zip(folders, (None, 1000), strict=True):
        backend = get_backend("numpy", max_memory=limit, scratch_dir=tmp_path)
        with nircam.cache.activate():
            steps = {"clean_flicker_noise": {"skip": False, **settings}}
            run, _models, _paths = gpucoron.reduce_file(path, folder, backend=backend, steps=steps)
        assert {record.name: record.status for record in run.records}["clean_flicker_noise"] == "COMPLETE"
        assert run.backend.is_in_chunks == (limit is not None)
    names = sorted(file.name for file in folders[0].glob("*.fits"))
    assert names == sorted(file.name for file in folders[1].glob("*.fits"))
    assert len(names) == 2 + 3 * ("save_mask" in settings)
    for name in names:
        with datamodels.open(folders[0] / name) as whole, datamodels.open(folders[1] / name) as limited:
            np.testing.assert_array_equal(limited.data, whole.data, err_msg=name)


def full_frame(ngroups, mask, folder):
    """Make a full frame with a different offset in each row and amplifier."""
    from stdatamodels.jwst import datamodels

    rng = np.random.default_rng(5)
    data = rng.normal(0, 5, (1, ngroups, 2048, 2048)).astype(np.float32)
    data += np.repeat(rng.normal(0, 2, (1, ngroups, 2048, 4)), 512, axis=-1).astype(np.float32)
    model = datamodels.RampModel(data=data)
    model.meta.instrument.name, model.meta.instrument.detector = "NIRCAM", "NRCALONG"
    model.meta.exposure.type = "NRC_CORON"
    model.meta.subarray.name, model.meta.subarray.slowaxis = "FULL", 2
    datamodels.ImageModel(mask.astype(np.float32)).save(folder / "mask.fits")
    return model


@pytest.mark.parametrize("by_channel", [False, True])
def test_amplifiers_of_a_full_frame(by_channel, tmp_path):
    from jwst.clean_flicker_noise.clean_flicker_noise import do_correction

    mask = np.random.default_rng(6).random((2048, 2048)) < 0.8
    mask[100:140, 512:1024] = False
    model = full_frame(2, mask, tmp_path)
    data = model.data.copy()
    due, *_ = do_correction(model, user_mask=str(tmp_path / "mask.fits"), fit_by_channel=by_channel)
    clean_flicker_noise.clean_groups(data, np.zeros(data.shape, np.uint8), mask, fit_by_channel=by_channel)
    np.testing.assert_array_equal(data, due.data)
    rows = np.diff(data[0], axis=0)[0, 200:, :512].mean(axis=1)
    assert (rows.std() < 0.7) == by_channel


def test_the_limits_of_autoparam_are_jwsts():
    from jwst.clean_flicker_noise.autoparam import _image_decision_tree

    limits = {"mask_frac": 0.1, "max_offset_low_mask": 0.02, "max_offset_high_mask": 0.07}
    limits |= {"max_slope_low_offset": 1e-5, "max_slope_high_offset": 1e-5, "slope_ratio": 3.0, "channel_sigma": 0.02}
    seen = set()
    grid = ((0, 0.0999, 0.1, 0.5), (0.0, 0.01, 0.0699, 0.07), (0, 9.9e-6, 1e-5, 1), (0, 0.0199, 0.02, 1))
    for masked, offset, slope, scatter in itertools.product(*grid):
        for ratio in (1.0, 3.0, np.inf):
            expected = {}
            _image_decision_tree(expected, limits, masked, offset, slope, ratio, scatter)
            found = _decide(masked, offset, slope, scatter)
            assert found == expected
        seen.add(tuple(found.values()))
    assert len(seen) == 4


@pytest.mark.parametrize(("offset", "slope"), [(0.0, 0.0), (0.2, 0.0), (0.0, 1e-4)])
def test_autoparam_of_a_full_frame(offset, slope):
    from jwst.clean_flicker_noise.autoparam import nircam_image_parameters
    from stdatamodels.jwst import datamodels

    rng = np.random.default_rng(7)
    image = rng.normal(1, 0.1, (2048, 2048)).astype(np.float32)
    image += np.repeat(offset * np.arange(4), 512).astype(np.float32) + (slope * np.arange(2048)).astype(np.float32)
    image[500:600, 700:900] += 30
    image[3, 5] = np.nan
    model = datamodels.ImageModel(image.copy())
    model.meta.subarray.slowaxis = 2
    with warnings.catch_warnings(action="ignore"):
        expected = nircam_image_parameters(model, None)
        found = choose_parameters(image, 1)
    assert found == {name: expected[name] for name in ("background_method", "fit_by_channel")}
    assert found["fit_by_channel"] == (offset > 0)
    assert (found["background_method"] == "model") == (slope > 0)


class TestFlat:
    def test_gaps_are_filled_as_jwst_does(self, tmp_path):
        from jwst.clean_flicker_noise.clean_flicker_noise import read_flat_file
        from stdatamodels.jwst import datamodels

        flat = np.random.default_rng(2).normal(1, 0.02, SHAPE).astype(np.float32)
        flat += np.linspace(0, 0.3, SHAPE[1], dtype=np.float32)
        flat[5, 6], flat[20:24, 30:40], flat[50, 7] = 0, np.nan, np.inf
        model = datamodels.FlatModel(flat.copy())
        science = datamodels.ImageModel(flat.copy())
        for one in (model, science):
            one.meta.subarray.xstart = one.meta.subarray.ystart = 1
            one.meta.subarray.ysize, one.meta.subarray.xsize = SHAPE
            one.meta.subarray.fastaxis, one.meta.subarray.slowaxis = -1, 2
            one.meta.instrument.name = "NIRCAM"
        model.save(tmp_path / "flat.fits")
        np.testing.assert_array_equal(fill_flat(flat), read_flat_file(science, str(tmp_path / "flat.fits")))
        assert np.isnan(flat[20, 30])

    def test_a_flat_without_gaps_is_the_same(self):
        flat = np.ones((4, 5), np.float32)
        assert fill_flat(flat) is flat

    @pytest.mark.parametrize(
        ("shape", "box"), [((320, 320), [32, 32]), ((2048, 1), [32, 1]), ((37, 90), [1, 30]), ((224, 288), [32, 32])]
    )
    def test_boxes_divide_the_image(self, shape, box):
        assert default_box(shape) == box


class TestFlux:
    def test_integrations_without_flux_get_the_median(self, caplog):
        rates = np.full((4, 3, 3), np.nan, np.float32)
        rates[0], rates[1], rates[3] = 2, 4, 6
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(relative_flux(rates, np), np.float32([0.5, 1, 1, 1.5]))
        assert "1 integrations without a finite flux" in caplog.text

    def test_no_flux_at_all(self):
        assert relative_flux(np.full((2, 3, 3), np.nan, np.float32), np) is None


def test_the_background_does_not_depend_on_the_stack():
    """A GPU cleans several images at a time."""
    rng = np.random.default_rng(8)
    data = rng.normal(0, 5, (2, 9, 48, 40)).cumsum(axis=1).astype(np.float32)
    data[0, 4] = np.nan
    groupdq = (rng.random(data.shape) < 0.05).astype(np.uint8) * np.uint8(JUMP_DET)
    mask = rng.random((48, 40)) < 0.9
    results = []
    for size in (1, 3, 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clean_flicker_noise._Cleaner, "blocks", _blocks_of(size))
            copy = data.copy()
            backgrounds = clean_flicker_noise.clean_groups(copy, groupdq, mask, with_background=True)
            results.append((copy, backgrounds))
    for found in results[1:]:
        for left, right in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(left, right)


def _blocks_of(size):
    def blocks(self, shape, first):
        nints, ngroups = shape[:2]
        at_once = max(1, size // ngroups)
        blocks = [slice(start, min(start + size, ngroups)) for start in range(first, ngroups, size)]
        return [(slice(start, start + at_once), blocks) for start in range(0, nints, at_once)]

    return blocks


def odd_images():
    """Yield images on which clipping and fits may fail."""
    rng = np.random.default_rng(9)
    noise = rng.normal(3, 1, (40, 30)).astype(np.float32)
    yield "noise", noise
    for value in (80, 1e30, np.inf, -np.inf, np.nan):
        image = noise.copy()
        image[::2, ::3] = value
        yield f"noise and {value}", image
        image = np.full_like(noise, 3)
        image[2, 3] = value
        yield f"a constant and {value}", image
        yield f"only {value}", np.full_like(noise, value)
    yield "two levels", np.where(noise > 3, np.float32(5), np.float32(1))
    yield "counts", np.round(noise * 3)
    yield "zeros", np.zeros_like(noise)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("histogram", [False, True])
@pytest.mark.parametrize("image", list(dict(odd_images()).values()), ids=dict(odd_images()))
def test_the_background_of_odd_images_is_jwsts(image, histogram, fails, monkeypatch):
    from jwst.clean_flicker_noise.background_level import clip_to_background

    def fail(*args, **kwargs):
        raise RuntimeError("not converged")

    if fails:
        monkeypatch.setattr("scipy.optimize.curve_fit", fail)
        monkeypatch.setattr("jwst.clean_flicker_noise.background_level.curve_fit", fail)
    expected = ~(np.isnan(image) | (image == 0))
    with warnings.catch_warnings(action="ignore"):
        clip_to_background(image, expected, fit_histogram=histogram)
        found = clean_flicker_noise.find_background(image, fit_histogram=histogram, backend=get_backend("numpy"))
    np.testing.assert_array_equal(found, expected)
