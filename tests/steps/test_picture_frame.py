"""picture_frame beside jwst's step, on full frames of NIRSpec that are smaller than real ones, and one of full size."""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
from astropy.io import fits

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.engine import plan, run_steps
from gpucoron.errors import InputError
from gpucoron.io.exposure import Exposure
from gpucoron.simulate import simulate
from gpucoron.simulate.crds import MANIFEST, CrdsCache, write_mappings
from gpucoron.simulate.references import ReferenceOptions, write_references
from gpucoron.steps.clean_flicker_noise import find_background
from gpucoron.steps.picture_frame import find_regions, subtract_picture_frame

pytestmark = pytest.mark.parity

SHAPE = 96, 104
SAVED = {"save_mask": True, "save_correction": True}
#: keywords of saved files that differ: dates and versions; the context is new to these raw ramps
OTHERWISE = re.compile(r"DATE|HISTORY|COMMENT|CAL_V|CRDS_|^$")


def add_nirspec(cache):
    """Add gain, readnoise and pictureframe of NIRSpec to a simulated cache, copies of those of NIRCam."""
    manifest = json.loads((cache.path / MANIFEST).read_text())
    manifest["serial"] += 1
    folder = cache.path / "references" / "jwst"
    (folder / "nirspec").mkdir()
    own = manifest["references"]["NIRSPEC"] = {}
    for reftype in ("gain", "readnoise", "pictureframe"):
        (entry,) = manifest["references"]["NIRCAM"][reftype]
        name = entry["file"].replace("nircam", "nirspec")
        shutil.copy(folder / "nircam" / entry["file"], folder / "nirspec" / name)
        own[reftype] = [{"match": [], "file": name}]
    return CrdsCache(cache.path, write_mappings(cache.path, manifest))


class Case:
    """A ramp of a full frame of NIRSpec with a picture frame, and its cache."""

    def __init__(self, folder, ngroups, nints, shape=SHAPE):
        from stdatamodels.jwst import datamodels

        simulation = simulate("NIRCAM", "FULL", "RAPID", ngroups, nints, shape=shape, detector="NRCALONG")
        cache = write_references(simulation, folder / "crds", options=ReferenceOptions(picture_frame=True))
        self.cache = add_nirspec(cache)
        self.nircam = simulation.write(folder)
        self.ramp = datamodels.RampModel(str(self.nircam))
        meta = self.ramp.meta
        meta.instrument.name, meta.instrument.detector = "NIRSPEC", "NRS1"
        meta.exposure.type, meta.exposure.readpatt = "NRS_FIXEDSLIT", "NRSRAPID"
        (path,) = (cache.path / "references" / "jwst" / "nirspec").glob("*pictureframe*")
        self.frame = fits.getdata(path, "SCI").astype(np.float32)
        rng = np.random.default_rng(5)
        strength = rng.uniform(500, 3000, (nints, 1, 1, 1)) * np.arange(ngroups)[:, None, None]
        offset = rng.uniform(-30, 30, (nints, ngroups, 1, 1))
        self.ramp.data = (
            rng.normal(3000, 8, (nints, ngroups, *shape))
            + 50 * np.arange(ngroups)[:, None, None]
            + strength * self.frame
            + offset
        ).astype(np.float32)
        self.ramp.groupdq = np.zeros(self.ramp.data.shape, np.uint8)
        self.ramp.pixeldq = np.zeros(shape, np.uint32)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Two integrations with sources, NaN, flags and infinity."""
    case = Case(tmp_path_factory.mktemp("nirspec"), 5, 2)
    data, groupdq = case.ramp.data, case.ramp.groupdq
    data[:, :, 80:84] += 4000 * np.arange(5)[:, None, None]
    data[0, 1, 5, 6] = np.nan
    data[0, 2:, 90:, 90] = np.nan
    data[1, 3, 10, 12] = np.inf
    data[1, 0, 40, 41] = np.nan
    groupdq[:, 2:, 30:33] |= SATURATED
    groupdq[0, 1, 77, 80:100] |= JUMP_DET
    groupdq[:, :, 50] |= DO_NOT_USE
    return case


def run_both(case, settings, folder, change=lambda model: None):
    """Run jwst's step and ours; return both results and the files that they saved."""
    from jwst.picture_frame import PictureFrameStep
    from stdatamodels.jwst import datamodels

    from gpucoron.pipeline import PictureFrameStep as OurStep

    results = []
    for made in (PictureFrameStep, OurStep):
        place, saved = folder / made.__module__.partition(".")[0], {}
        place.mkdir()
        model = case.ramp.copy()
        change(model)
        with case.cache.activate(), warnings.catch_warnings(action="ignore"):
            result = made(skip=False, output_dir=str(place), **{"mask_science_regions": False, **settings}).run(model)
        for path in place.iterdir():
            with datamodels.open(path) as product:
                saved[path.name] = type(product).__name__, np.array(product.data)
            if not path.name.endswith("_mask.fits"):
                header = fits.getheader(path)
                saved[path.name] += ({key: header[key] for key in header if not OTHERWISE.search(key)},)
        results.append((result, saved))
    return results


def assert_same(theirs, ours):
    """Compare results and files, bit for bit."""
    np.testing.assert_array_equal(ours[0].data, theirs[0].data)
    assert ours[0].data.dtype == theirs[0].data.dtype
    np.testing.assert_array_equal(ours[0].groupdq, theirs[0].groupdq)
    assert ours[0].meta.cal_step.picture_frame == theirs[0].meta.cal_step.picture_frame
    names = [
        {key: entry["name"] for key, entry in result.meta.ref_file.instance.items() if key != "crds"}
        for result, _saved in (ours, theirs)
    ]
    assert names[0] == names[1]
    assert ours[1].keys() == theirs[1].keys()
    for name, due in theirs[1].items():
        assert ours[1][name][0] == due[0]
        np.testing.assert_array_equal(ours[1][name][1], due[1], err_msg=name)
        assert ours[1][name][2:] == due[2:]


@pytest.mark.parametrize("settings", [SAVED, {"n_sigma": 0.0, **SAVED}, {"n_sigma": 0.7}, {"n_sigma": -1.0}])
def test_every_setting_gives_jwsts_bits(settings, case, tmp_path):
    theirs, ours = run_both(case, settings, tmp_path)
    assert theirs[0].meta.cal_step.picture_frame == "COMPLETE"
    assert not np.array_equal(theirs[0].data, case.ramp.data, equal_nan=True)
    assert len(theirs[1]) == 2 * ("save_mask" in settings)
    assert_same(theirs, ours)


def _nan_center(model):
    model.data[1, 3, 76:, 76:] = np.nan
    model.groupdq[1, 3, 76:, 76:] |= DO_NOT_USE


def _one_group(model):
    model.data, model.groupdq = model.data[:, :1], model.groupdq[:, :1]
    model.meta.exposure.ngroups = 1


def _subarray(model):
    model.meta.subarray.name = "SUBS200A1"


def _nircam(model):
    model.meta.instrument.name, model.meta.instrument.detector = "NIRCAM", "NRCALONG"
    model.meta.exposure.type, model.meta.exposure.readpatt = "NRC_CORON", "RAPID"


def _no_background(model):
    model.data[:, :, 76:, 76:] = np.nan


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (_nan_center, "COMPLETE"), (_one_group, "SKIPPED"), (_subarray, "SKIPPED"), (_nircam, "SKIPPED"),
        (_no_background, "SKIPPED"),
    ],
)  # fmt: skip
def test_other_exposures(change, status, case, tmp_path):
    theirs, ours = run_both(case, SAVED, tmp_path, change)
    assert theirs[0].meta.cal_step.picture_frame == status
    assert_same(theirs, ours)


def test_without_a_reference(exposures, tmp_path):
    """As for all coronagraphs."""
    from stdatamodels.jwst import datamodels

    made = exposures("NIRCAM", "SUB320A335R", "RAPID", 3, 1, shape=(24, 32))

    class Plain:
        cache, ramp = made.cache, datamodels.RampModel(str(made.path))

    theirs, ours = run_both(Plain, SAVED, tmp_path)
    assert theirs[0].meta.cal_step.picture_frame == "SKIPPED"
    assert_same(theirs, ours)


def test_the_frame_is_removed(case, tmp_path):
    """The glow that was added to the ramps disappears in the noise."""
    from gpucoron.pipeline import PictureFrameStep

    with case.cache.activate():
        result = PictureFrameStep(skip=False, mask_science_regions=False).run(case.ramp.copy())
    glow = case.frame[5:70, 5:25].mean() - case.frame[76:80, 76:].mean()
    found = []
    for ramp in (case.ramp, result):
        image = ramp.data[1, -1].astype(float) - ramp.data[1, 0]
        found.append((np.nanmedian(image[5:70, 5:25]) - np.nanmedian(image[76:80, 76:])) / glow)
    assert found[0] > 1000
    assert abs(found[1]) < found[0] / 10


class TestDeviations:
    def ours(self, case, change=lambda model: None, **settings):
        from gpucoron.pipeline import PictureFrameStep

        model = case.ramp.copy()
        change(model)
        with case.cache.activate():
            return PictureFrameStep(skip=False, **settings).run(model)

    def test_slits_are_not_masked(self, case, caplog):
        result = self.ours(case)
        assert result.meta.cal_step.picture_frame == "FAILED"
        np.testing.assert_array_equal(result.data, case.ramp.data)
        assert "mask_science_regions: only jwst's own step finds the slits of NIRSpec" in caplog.text

    def test_ramps_that_cannot_be_fitted(self, case):
        def spoil(model):
            model.groupdq |= SATURATED

        result = self.ours(case, spoil, mask_science_regions=False)
        assert result.meta.cal_step.picture_frame == "SKIPPED"

    def test_a_reference_of_another_shape(self, case, tmp_path):
        from stdatamodels.jwst.datamodels import PictureFrameModel

        PictureFrameModel(np.ones((4, 4), np.float32)).save(str(tmp_path / "small.fits"))
        with pytest.raises(InputError, match="the pictureframe reference has the shape"):
            self.ours(case, mask_science_regions=False, override_pictureframe=str(tmp_path / "small.fits"))


def test_the_regions_of_a_frame_of_full_size(tmp_path):
    """Against jwst's function, which counts rows and columns of 2048 x 2048 pixels."""
    from jwst.picture_frame.picture_frame import _region_masks

    for shape in ((2048, 2048), (76, 90), (130, 77), (3, 3)):
        mask = np.random.default_rng(1).random(shape) < 0.7
        for ours, theirs in zip(find_regions(mask), _region_masks(mask), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n_good", [0, 1, 2, 3, 598, 601, 1302])
def test_medians_are_numpys(n_good):
    from gpucoron.backends.statistics import median_of_last
    from gpucoron.steps.picture_frame import _median

    rng = np.random.default_rng(n_good)
    for repeat in range(5):
        values = np.full(n_good + repeat, np.nan, np.float32)
        values[rng.permutation(len(values))[:n_good]] = rng.normal(size=n_good).round(repeat % 3)
        if not len(values):
            continue
        with warnings.catch_warnings(action="ignore"):
            due = np.nanmedian(values)
        for found in (_median(values, np), median_of_last(values[None], xp=np)[0]):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, due)


def test_threads_and_scratch_files_give_the_same_bits(case, tmp_path):
    from stdatamodels.jwst import datamodels

    found = []
    path = tmp_path / "jw00000001001_02101_00001_nrs1_ramp.fits"
    assert isinstance(case.ramp, datamodels.RampModel)
    case.ramp.copy().save(str(path))
    for threads, chunked in ((1, False), (3, False), (2, True)):
        backend = get_backend("cpu", n_threads=threads)
        backend = backend.in_chunks(10**8) if chunked else backend
        steps = {"picture_frame": {"skip": False, "mask_science_regions": False, **SAVED}}
        with case.cache.activate():
            exposure = Exposure.read(path, backend)
            exposure.home = backend if chunked else None
            run = run_steps(plan(exposure, backend=backend, steps=steps, only="picture_frame", use_pars=False))
        assert [record.status for record in run.records] == ["COMPLETE"]
        found.append((exposure.data, exposure.picture_frame_mask, exposure.picture_frame_correction))
    for other in found[1:]:
        for ours, due in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(ours, due)


def test_an_empty_region_is_an_error():
    data, frame = np.zeros((1, 2, 4, 4), np.float32), np.ones((4, 4))
    with pytest.raises(ValueError, match="edge_pixels: there is no background"):
        subtract_picture_frame(data, frame, np.ones((4, 4), bool), np.zeros((4, 4), bool))


@pytest.mark.parametrize("seed", range(8))
def test_drawn_frames_are_corrected_as_by_jwst(seed, monkeypatch):
    from jwst.picture_frame import picture_frame as theirs
    from stdatamodels.jwst import datamodels

    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 4)), int(rng.integers(2, 5)), int(rng.integers(77, 110)), int(rng.integers(77, 110))
    data = rng.normal(0, 10 ** rng.uniform(-2, 4), shape).astype(np.float32).round(int(rng.integers(0, 3)))
    for value in (np.nan, np.inf, -np.inf, -0.0):
        data[rng.random(shape) < 0.004 * rng.integers(0, 3)] = value
    if seed % 4 == 0:
        data[0, 1] = np.nan
    rate = rng.normal(1, 0.2, shape[2:]).astype(np.float32)
    rate[rng.random(shape[2:]) < 0.1] = np.nan
    frame = rng.normal(size=shape[2:]).astype(np.float32) * np.float32(seed != 5)  # without contrast, all becomes NaN
    n_sigma = float(rng.choice([2.0, 0.0, 1.0]))

    model = datamodels.RampModel(data.copy())
    model.meta.instrument.name, model.meta.subarray.name = "NIRSPEC", "FULL"
    image = datamodels.ImageModel(rate.copy())
    image.dq = np.zeros(rate.shape, np.uint32)
    model.meta.exposure.type = image.meta.exposure.type = "NRS_FIXEDSLIT"
    monkeypatch.setattr(theirs.cfn, "make_rate", lambda model: image)
    reference = datamodels.PictureFrameModel(frame)
    with warnings.catch_warnings(action="ignore"):
        due, mask, correction, status = theirs.correct_picture_frame(
            model, reference, mask_science_regions=False, n_sigma=n_sigma, save_mask=True, save_correction=True
        )
    assert status == "COMPLETE"
    found_mask = find_background(rate, n_sigma=n_sigma, backend="numpy")
    np.testing.assert_array_equal(found_mask, mask.data.astype(bool))
    found = subtract_picture_frame(data, frame, *find_regions(found_mask), with_correction=True, backend="cpu")
    np.testing.assert_array_equal(data, due.data)
    np.testing.assert_array_equal(found, correction.data)
