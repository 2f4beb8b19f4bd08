"""mask_groups: the choices of spaceKLIP's functions, corrections of its faults, and the step that applies a mask."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.io.exposure import Exposure
from gpucoron.steps import mask_groups
from gpucoron.steps.mask_groups import (
    Core,
    Match,
    Ramp,
    choose_groups_advanced,
    choose_groups_basic,
    keep_by_brightness,
    mask_late_groups,
    measure_core,
    prepare_masks,
    sum_ring,
)
from tests.cases.paths import DATA

ORACLE = DATA / "mask_groups.npz"
SIZES = [(12, 6), (16, 5)]
BACKEND = get_backend("numpy", n_threads=1)


@pytest.fixture(scope="module")
def oracle():
    return dict(np.load(ORACLE))


# --- the choices, against spaceKLIP's ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "edge"), SIZES)
def test_basic_is_spaceklips(oracle, crop, edge):
    sums = {
        name: sum_ring(oracle[name], oracle["center"], cropwidth=crop, edgewidth=edge)
        for name in ("sci0", "sci1", "ref0", "ref1")
    }
    n_kept = choose_groups_basic([sums["ref0"], sums["ref1"]], [sums["sci0"], sums["sci1"]])
    assert n_kept == oracle[f"basic_{crop}_{edge}"] < oracle["ref0"].shape[1]


@pytest.mark.parametrize("threshold", [85, 60])
@pytest.mark.parametrize(("crop", "edge"), SIZES)
def test_advanced_is_spaceklips(oracle, crop, edge, threshold):
    cores = {
        name: measure_core(oracle[name], oracle["center"], cropwidth=crop)
        for name in ("sci0", "sci1", "ref0", "ref1", "bg")
    }
    match = choose_groups_advanced(
        [cores["ref0"], cores["ref1"]], [cores["sci0"], cores["sci1"]], edgewidth=edge, threshold=threshold
    )
    case = f"{crop}_{edge}_{threshold}"
    assert (match.n_bright, match.n_faint) == tuple(oracle[f"advanced_{case}"])
    assert match.peak == oracle[f"peak_{case}"]
    np.testing.assert_array_equal(match.regions, oracle[f"regions_{case}"])
    assert 0.1 < match.regions.mean() < 0.9
    # If the whole ring counts as bright, spaceKLIP's fault, all pixels keep the same groups as in spaceKLIP.
    everywhere = replace(match, regions=np.ones_like(match.regions))
    for name in ("ref0", "ref1", "bg"):
        kept = keep_by_brightness(cores[name], everywhere, edgewidth=edge, is_background=name == "bg")
        np.testing.assert_array_equal(kept, oracle[f"kept_{name}_{case}"])
        # Without the fault fewer pixels are masked: the bright part of the ring is brighter than the whole ring.
        right = keep_by_brightness(cores[name], match, edgewidth=edge, is_background=name == "bg")
        assert (right >= kept).mean() > 0.9


def test_prepare_masks_is_the_sum_of_its_parts(oracle):
    science = [Ramp(name, "SCI", tuple(oracle["center"]), oracle[name]) for name in ("sci0", "sci1")]
    references = [Ramp(name, "REF", tuple(oracle["center"]), oracle[name]) for name in ("ref0", "ref1")]
    references.append(Ramp("bg", "REF_BG", tuple(oracle["center"]), oracle["bg"]))
    masks = prepare_masks("c1", science, references, cropwidth=12, edgewidth=6)
    assert list(masks) == ["ref0", "ref1", "bg"]
    for mask in masks.values():
        assert mask.shape == (1, 9, 1, 1) and (~mask).sum() == oracle["basic_12_6"]
    masks = prepare_masks(
        "c1", science, references, mask_method="advanced", cropwidth=12, edgewidth=6, threshold=60, types=["REF_BG"]
    )
    assert list(masks) == ["bg"]
    assert masks["bg"].shape == (1, 9, *oracle["bg"].shape[2:])


# --- by hand ----------------------------------------------------------------------------------------------------------


def make_ramp(name, kind, flux, ngroups=8, nints=2, shape=(64, 64), center=(32.5, 32.5)):
    """Make a raw exposure with a signal proportional to time: a disc of ``flux`` DN per group on a background."""
    rows, columns = np.indices(shape)
    image = 20 + flux * np.exp(-np.hypot(rows - 31.5, columns - 31.5) / 12)
    data = 4000 + image * np.arange(1, ngroups + 1)[:, None, None] + np.zeros((nints, 1, 1, 1))
    return Ramp(name, kind, center, np.round(data).astype(np.uint16))


@pytest.mark.parametrize("method", ["basic", "advanced"])
def test_brighter_references_lose_their_late_groups(method):
    """Half the flux of the references in 8 groups is their whole flux in 4."""
    science = [make_ramp("a", "SCI", 500)]
    references = [make_ramp("b", "REF", 1000, nints=1), make_ramp("c", "REF", 1000, ngroups=12, nints=3)]
    masks = prepare_masks("c1", science, references, mask_method=method)
    for exposure in references:
        mask = masks[exposure.name]
        # Each reference has its own number of groups, independent of the last reference.
        assert mask.shape[1] == exposure.data.shape[1]
        middle = mask[0, :, mask.shape[2] // 2, mask.shape[3] // 2]
        np.testing.assert_array_equal(middle, np.arange(exposure.data.shape[1]) >= 4)
        if method == "advanced":
            assert not mask[0, :, 2, 2].any()


@pytest.mark.parametrize("method", ["basic", "advanced"])
def test_science_is_masked_only_where_asked_for_and_brighter(method):
    bright, faint = make_ramp("b", "SCI", 1200), make_ramp("f", "REF", 400)
    assert list(prepare_masks("c1", [bright], [faint], mask_method=method)) == ["f"]
    masks = prepare_masks("c1", [bright], [faint], mask_method=method, types=["SCI", "REF"])
    kept = {name: int((~mask[0, :, mask.shape[2] // 2, mask.shape[3] // 2]).sum()) for name, mask in masks.items()}
    assert kept == {"f": 8, "b": 3}
    masks = prepare_masks("c1", [replace(bright, type="SCI")], [faint], mask_method=method, types=["SCI"])
    assert list(masks) == ["b"]


def test_custom_group_is_the_number_of_kept_groups():
    """N groups are kept, not N + 1; neither SCI nor REF is needed, because nothing is compared."""
    exposures = [make_ramp("b", "REF", 100, ngroups=6), make_ramp("g", "REF_BG", 1, ngroups=3)]
    masks = prepare_masks("c1", [make_ramp("a", "SCI", 1)], exposures, mask_method="custom", custom_group=4)
    assert set(masks) == {"b", "g"}
    np.testing.assert_array_equal(masks["b"].ravel(), [False] * 4 + [True] * 2)
    np.testing.assert_array_equal(masks["g"].ravel(), [False] * 3)
    masks = prepare_masks("c1", [make_ramp("a", "SCI", 1)], [], mask_method="custom", custom_group=2, types=["SCI"])
    assert list(masks) == ["a"] and masks["a"].sum() == 6


def test_concatenations_leave_nothing_behind():
    """The result for the second concatenation does not depend on the first."""
    science = [make_ramp("a", "SCI", 500)]
    near, far = [make_ramp("b", "REF", 700)], [make_ramp("b", "REF", 2000)]
    options = {"mask_method": "advanced"}
    alone = prepare_masks("c2", science, far, **options)["b"]
    prepare_masks("c1", science, near, **options)
    np.testing.assert_array_equal(prepare_masks("c2", science, far, **options)["b"], alone)
    assert not np.array_equal(prepare_masks("c1", science, near, **options)["b"], alone)


def test_exposures_are_read_once_and_one_at_a_time():
    class OnDisk:
        def __init__(self, ramp):
            self.name, self.type, self.center = ramp.name, ramp.type, ramp.center
            self.ramp, self.reads = ramp, 0

        @property
        def data(self):
            self.reads += 1
            return self.ramp.data

    science, references = [OnDisk(make_ramp("a", "SCI", 500))], [OnDisk(make_ramp("b", "REF", 1000))]
    for n, method in enumerate(("basic", "advanced"), start=1):
        prepare_masks("c1", science, references, mask_method=method, types=["SCI", "REF"])
        assert science[0].reads == references[0].reads == n


def test_numbers_follow_the_brightness():
    """From n_faint at the faintest bright pixel of the ring to n_bright at the peak, and n_bright beyond it."""
    last = np.zeros((12, 12))
    # The bright part of the ring is 10, the rest of the ring 0; the peak near the center is 50.
    last[2:10, 2:10] = 0
    last[2, 2:10] = 10
    last[5, 5], last[5, 6], last[6, 6] = 50, 30, 29.9
    last[0, 0], last[0, 5], last[11, 0] = 9.9, 60, 10
    regions = np.zeros((1, 8, 8), bool)
    regions[0, 0] = True
    core = Core(np.zeros((9, 8, 8)), last, (slice(2, 10), slice(2, 10)))
    match = Match(n_bright=2, n_faint=6, peak=110.0, regions=regions)
    kept = keep_by_brightness(core, match, edgewidth=2)
    assert (kept[5, 5], kept[5, 6], kept[6, 6], kept[2, 4], kept[11, 0]) == (2, 4, 4, 6, 6)
    assert kept[0, 0] == kept[4, 4] == 9
    # In spaceKLIP a pixel brighter than the peak, here a hot one outside, keeps as many groups as the faint ones.
    assert kept[0, 5] == 2
    background = keep_by_brightness(core, match, edgewidth=2, is_background=True)
    assert (background[5, 5], background[2, 4], background[0, 0]) == (4, 6, 9)
    # An exposure cannot keep more groups than it has.
    short = replace(core, groups=np.zeros((3, 8, 8)))
    assert keep_by_brightness(short, match, edgewidth=2).max() == 3
    # Without contrast all bright pixels are treated like the brightest.
    flat = replace(core, last=np.full((12, 12), 5.0))
    assert (keep_by_brightness(flat, match, edgewidth=2) == 2).all()


def test_basic_by_hand():
    """For each integration use the exposure with the closest group, and the median over its integrations."""
    first = np.array([[0, 10, 20, 30], [0, 18, 40, 60], [0, 40.5, 90, 99]])
    second = np.array([[0, 16, 17, 19.5]])
    # 19 is closest to the last group of the second exposure; 40 to the first, in groups 3, 2 and 1 of its integrations.
    others = [np.array([[0, 0, 19], [5, 5, 40]]), np.array([[7, 40]])]
    assert choose_groups_basic([first, second], others) == 3
    assert choose_groups_basic([first, second], others[:1]) == 3
    assert choose_groups_basic([second, first], [np.array([[1, 19]])]) == 4


def test_first_region_serves_for_all_references():
    """In one science exposure's region the reference reaches the level in group 2, in that of the other never."""
    science, reference = np.full((2, 1, 8, 8), 30.0), np.zeros((4, 8, 8))
    science[0, 0, 0, 0] = science[1, 0, 7, 7] = 31
    reference[:, :2, :2] = 15 * np.arange(4)[:, None, None]
    box = (slice(None), slice(None))
    others, own = [Core(groups, groups[-1], box) for groups in science], [Core(reference, reference[-1], box)]
    for cores, n_faint in ((others, 3), (others[::-1], 1)):
        match = choose_groups_advanced(own, cores, edgewidth=2, threshold=98)
        assert match.regions.sum(axis=(1, 2)).tolist() == ([4, 9] if cores is others else [9, 4])
        assert (match.n_bright, match.n_faint, match.peak) == (3, n_faint, 45)


def test_ring_by_hand():
    data = np.full((1, 2, 20, 24), 7.0)
    data[0, 1, 10 - 4 : 10 + 4, 9 - 4 : 9 + 4] += 1
    data[0, 1, 8:12, 7:11] += 1000
    np.testing.assert_array_equal(sum_ring(data, (9.9, 10.2), cropwidth=4, edgewidth=2), [[0, 64 - 16]])


# --- what can go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["basic", "advanced"])
def test_a_missing_type_names_the_concatenation(method):
    science, references = [make_ramp("a", "SCI", 500)], [make_ramp("b", "REF", 900)]
    with pytest.raises(ValueError, match="concatenation JWST_NIRCAM_F444W: there is no exposure of type REF"):
        prepare_masks("JWST_NIRCAM_F444W", science, [make_ramp("g", "REF_BG", 1)], mask_method=method)
    with pytest.raises(ValueError, match="concatenation JWST_NIRCAM_F444W: there is no exposure of type SCI"):
        prepare_masks("JWST_NIRCAM_F444W", [], references, mask_method=method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_method": "clever"}, "c1: there is no mask_method 'clever'; known: basic, advanced, custom"),
        ({"mask_method": "custom"}, "c1: mask_method 'custom' needs custom_group"),
        ({"mask_method": "custom", "custom_group": 0}, "at least 1, not 0"),
        ({"edgewidth": 20}, "edgewidth must lie between 0 and cropwidth, 20, not be 20"),
        (
            {"cropwidth": 40},
            r"c1: a: a cropwidth of 40 around CRPIX \(32.5, 32.5\) exceeds the image of 64 x 64 pixels",
        ),
        ({"mask_method": "advanced", "threshold": 99.9, "edgewidth": 3}, "c1: no pixel above the 99.9th percentile"),
    ],
)
def test_bad_parameters(options, message):
    science, references = [make_ramp("a", "SCI", 500)], [make_ramp("b", "REF", 900)]
    with pytest.raises(ValueError, match=message):
        prepare_masks("c1", science, references, **options)


def test_no_center():
    science, references = [make_ramp("a", "SCI", 500)], [make_ramp("b", "REF", 900, center=(None, 3.0))]
    with pytest.raises(ValueError, match="c1: b: there is no CRPIX"):
        prepare_masks("c1", science, references)


# --- the step ---------------------------------------------------------------------------------------------------------


def parameters_with(**values):
    return mask_groups.STEP.settings(**values)


def make_exposure():
    groupdq = np.random.default_rng(5).choice([0, JUMP_DET, SATURATED, DO_NOT_USE], size=(3, 5, 4, 6)).astype(np.uint8)
    return Exposure(groupdq=groupdq)


@pytest.mark.parametrize(
    "mask",
    [
        np.random.default_rng(6).random((3, 5, 4, 6)) < 0.3,
        mask_late_groups(2, 5),
        mask_late_groups(np.arange(24).reshape(4, 6) % 6 + 1, 5),
        mask_late_groups(5, 5),
    ],
    ids=["anything", "one number", "by pixel", "nothing"],
)
def test_flags_are_added_not_replaced(mask):
    exposure = make_exposure()
    before = exposure.groupdq.copy()
    outcome = mask_groups.run(exposure, {}, parameters_with(mask_array=mask), BACKEND)
    everywhere = np.broadcast_to(mask, before.shape)
    np.testing.assert_array_equal(exposure.groupdq, before | everywhere * np.uint8(DO_NOT_USE))
    assert exposure.groupdq.dtype == np.uint8
    assert outcome.status == "COMPLETE" and outcome.flagged == {"groups": everywhere.sum()}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((3, 4, 4, 6), bool), r"shape \(3, 4, 4, 6\); it must be that of the ramps, \(3, 5, 4, 6\)"),
        (np.zeros((5, 4, 6), bool), "shape"),
        (np.zeros((3, 5, 4, 6), int), "mask_array must be a boolean array, not int64"),
        ("mask.fits", "mask_array must be a boolean array, not str"),
    ],
)
def test_masks_are_checked(mask, message):
    exposure = make_exposure()
    before = exposure.groupdq.copy()
    with pytest.raises(ValueError, match=message):
        mask_groups.run(exposure, {}, parameters_with(mask_array=mask), BACKEND)
    np.testing.assert_array_equal(exposure.groupdq, before)


def test_without_a_mask():
    outcome = mask_groups.run(make_exposure(), {}, parameters_with(), BACKEND)
    assert outcome.status == "SKIPPED" and "no groups are named" in outcome.reason
