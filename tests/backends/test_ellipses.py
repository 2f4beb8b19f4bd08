"""Regions of masks and their ellipses: those of scikit-image, with the same bits, whatever the shape and the device."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import ellipses, get_backend
from gpucoron.backends.ellipses import Ellipse, draw_ellipse, find_ellipses, find_regions, flag_ellipses
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED

HOST = get_backend("numpy", n_threads=1)


@pytest.fixture(scope="module")
def stcal_jump():
    """The module of stcal with the peers."""
    from stcal.jump import jump

    return jump


def as_tuples(found):
    """Return our ellipses in stcal's format."""
    return [((each.x, each.y), (each.minor, each.major), each.angle) for each in found]


def draw_mask(rng):
    """Draw a mask: sparse or dense pixels, dilated pixels, rings, lines, frames, one pixel, nothing or everything."""
    ny, nx = rng.integers(1, 34, 2)
    kind = rng.integers(8)
    mask = rng.random((ny, nx)) < (0.02, 0.2, 0.5, 0.8, 1.0, 0.0, 0.05, 0.05)[kind]
    y, x = np.mgrid[:ny, :nx]
    for _ in range(rng.integers(4)):
        cy, cx = rng.uniform(-2, ny + 2), rng.uniform(-2, nx + 2)
        distance = np.hypot((y - cy) * rng.uniform(0.3, 2), x - cx)
        radius = rng.uniform(0.5, 9)
        mask ^= (distance < radius) & (distance > radius * rng.choice([-1, 0.5, 0.8]))
    if kind == 6:
        grown = np.pad(mask, 1)
        mask = grown[1:-1, 1:-1] | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
    if kind == 7:
        mask[rng.integers(ny)] = mask[:, rng.integers(nx)] = True
    return mask


@pytest.mark.parity
def test_drawn_masks_have_the_ellipses_of_scikit_image(stcal_jump):
    rng, found = np.random.default_rng(1), 0
    for number in range(1500):
        flags = draw_mask(rng).astype(np.uint8) * 4
        min_area = rng.choice([-np.inf, 0, 1, 2, 5, 9.5, 30, 90, np.nan])
        ours = as_tuples(find_ellipses(flags, min_area, backend=HOST))
        assert ours == stcal_jump._sk_filter_areas(flags, min_area), number
        found += len(ours)
    assert found > 5000


@pytest.mark.parity
def test_regions_keep_the_order_and_the_centres(stcal_jump):
    rng = np.random.default_rng(2)
    for _ in range(50):
        mask = draw_mask(rng)
        labels = stcal_jump.skimage.measure.label(mask)
        regions = find_regions(mask, 0, backend=HOST)
        assert (0 if regions is None else len(regions)) == labels.max()
        for index, props in enumerate(stcal_jump.skimage.measure.regionprops(labels)):
            assert (regions.y[index], regions.x[index]) == props.centroid
            np.testing.assert_array_equal(regions.image(index), props.image)
            assert regions.extent[index] == np.hypot(*props.image.shape)


@pytest.mark.parity
@pytest.mark.parametrize(
    "rows",
    [
        ["#"],
        ["###"],
        ["#", "#"],
        ["#.#", ".#."],
        ["#..#"],
        ["##.", "..#"],
        ["###", "#.#", "###"],
        ["###", "#.#", "##."],
        ["#####", "#...#", "#.#.#", "#...#", "#####"],
        [".#.", "#.#", ".#."],
        ["...#", "#..."],
    ],
)
def test_small_shapes(rows, stcal_jump):
    """Rings and their holes, a region in a hole, corners; pixels at the end of a row do not touch the next one."""
    mask = np.array([[pixel == "#" for pixel in row] for row in rows])
    for min_area in (0, 9):
        ours = as_tuples(find_ellipses(mask, min_area, backend=HOST))
        assert ours == stcal_jump._sk_filter_areas(mask.astype(np.uint8), min_area)


def test_remembered_shapes_are_those_measured(monkeypatch):
    mask = draw_mask(np.random.default_rng(3))
    expected = find_ellipses(mask, 0, backend=HOST)
    monkeypatch.setattr(ellipses, "_SMALL_BOX", 0)
    assert find_ellipses(mask, 0, backend=HOST) == expected


def test_other_devices_give_the_same(backend):
    mask = np.random.default_rng(4).random((40, 50)) < 0.2
    found = find_ellipses(backend.to_device(mask), 3, backend=backend)
    assert found == find_ellipses(mask, 3, backend=HOST) != []


def draw_one(rng, shape):
    """Draw an ellipse in an image, often with lengths and angles that are exact."""
    x, y = rng.uniform(-0.5, shape[1] - 0.5), rng.uniform(-0.5, shape[0] - 0.5)
    x, y = (min(max(value, 0), size - 1) for value, size in ((x, shape[1]), (y, shape[0])))
    axes = rng.uniform(-3, rng.choice([3, 12, 70]), 2)
    if rng.random() < 0.5:
        axes = np.round(axes)
    if rng.random() < 0.2:
        axes[1] = axes[0]
    angle = rng.choice([0, 45, -45, 90, -90, -1e-17, 30, np.degrees(0.3), rng.uniform(-90, 90)])
    return x, y, *axes.tolist(), angle


@pytest.mark.parity
def test_drawn_ellipses_have_the_pixels_of_scikit_image(stcal_jump):
    rng, drawn = np.random.default_rng(5), 0
    for number in range(4000):
        shape = tuple(rng.integers(1, 60, 2).tolist())
        x, y, axis1, axis2, angle = draw_one(rng, shape)
        (top, bottom, left, right), image = stcal_jump.ellipse_subim(x, y, axis1, axis2, angle, 1, shape)
        theirs, ours = np.zeros(shape, bool), np.zeros(shape, bool)
        theirs[top:bottom, left:right] = image
        rows, columns, inside = draw_ellipse(x, y, axis1, axis2, angle, shape)
        ours[rows, columns] = inside
        np.testing.assert_array_equal(ours, theirs, err_msg=f"{number}: {(x, y, axis1, axis2, angle, shape)}")
        drawn += theirs.any()
    assert drawn > 2000


@pytest.mark.parity
@pytest.mark.parametrize("axes", [(np.inf, 4.0), (4.0, -np.inf), (np.nan, 4.0), (-20.0, -16.0), (-16.0, -20.0)])
def test_nothing_is_drawn_where_stcal_fails(axes, stcal_jump):
    with pytest.raises((OverflowError, ValueError)):
        stcal_jump.ellipse_subim(9.0, 9.0, *axes, 20.0, 1, (20, 20))
    assert not draw_ellipse(9.0, 9.0, *axes, 20.0, (20, 20))[2].size


def test_ellipses_larger_than_the_image():
    for axis in (400, 10**30, 2.0**70):
        rows, columns, inside = draw_ellipse(3.0, 4.0, axis, axis, 0.0, (6, 8))
        assert inside.all()
        assert (rows, columns) == (slice(0, 6), slice(0, 8))
    assert draw_ellipse(3.0, 4.0, 10**30, 4.0, 0.0, (6, 8))[:2] == (slice(2, 6), slice(0, 8))


@pytest.mark.parity
def test_flags_in_expanded_ellipses_are_stcals(backend, stcal_jump):
    rng, n_flagged = np.random.default_rng(6), 0
    settings = SimpleNamespace(fl_jump=JUMP_DET, fl_sat=SATURATED)
    for number in range(60):
        ngroups, (ny, nx) = rng.integers(1, 6), rng.integers(8, 40, 2)
        flags = rng.choice(np.array([0, 0, 0, SATURATED, JUMP_DET, DO_NOT_USE, 255], np.uint8), (ngroups, ny, nx))
        group, n_later = rng.integers(ngroups), rng.integers(4)
        factor, longest = rng.choice([0.5, 1.1, 2.0, 5.0]), rng.choice([0, 6, 400])
        found = []
        for _ in range(3):
            x, y, *axes, angle = draw_one(rng, (ny, nx))
            found.append(Ellipse(x, y, max(-1.0, min(axes)), max(-1.0, *axes), angle))
        settings.max_extended_width = longest
        theirs, ours = flags[np.newaxis].copy(), backend.to_device(flags.copy())
        stcal_jump.extend_ellipses(
            theirs, 0, group, as_tuples(found), settings, expansion=factor, num_grps_masked=n_later
        )
        flag_ellipses(ours, group, found, factor=factor, longest=longest, n_later=n_later, backend=backend)
        np.testing.assert_array_equal(backend.to_host(ours), theirs[0], err_msg=str(number))
        n_flagged += np.count_nonzero(theirs[0] != flags)
    assert n_flagged > 500
