"""Counts of group flags: every backend returns what NumPy counts in the plainest way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucoron.backends import BACKENDS, get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.backends.devices.launch import is_in_words
from gpucoron.backends.devices.numpy_device import ScratchFiles
from gpucoron.backends.operations import clear_groups_full_of_jumps, find_lost_groups
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED
from tests.backends.operations.drawn import a_fifth
from tests.cases.backends import backend_params, usable_backend

#: (nints, ngroups, ny, nx): whole words and not, less than a word, more than a thread and than a warp counts
SHAPES = ((2, 3, 4, 8), (3, 2, 5, 13), (1, 1, 1, 1), (1, 3, 1, 3), (2, 2, 9, 57), (1, 2, 40, 64), (300, 1, 1, 4))
ALL = 0xFF


@pytest.fixture(scope="module", params=backend_params(BACKENDS))
def backend(request):
    """All backends; native also runs the kernels, where it would choose NumPy."""
    made = usable_backend(request.param, request.config)
    return Backend(made.device.kernels) if request.param == "native" else made


def count_plainly(groupdq):
    """Return total, groups, pixels and everywhere of `FlagCounts`, for all flags."""
    has = np.stack([groupdq >> bit & 1 for bit in range(8)], axis=-1).astype(bool)
    everywhere = (has.all(axis=(2, 3)) << np.arange(8)).sum(axis=-1)
    return has.sum(axis=(0, 1, 2, 3)), has.sum(axis=(0, 2, 3)), has.any(axis=(0, 1)).sum(axis=(0, 1)), everywhere


def assert_counts(backend, groupdq, **asked):
    """Compare all counts with those that are asked for; the others are zero."""
    before = groupdq.copy()
    counts = backend.count_flags(backend.to_device(groupdq), **asked)
    total, groups, pixels, everywhere = count_plainly(before)
    names = {"total": "in_samples", "groups": "in_groups", "pixels": "in_pixels"}
    wanted = {name: asked.get(field, 0) >> np.arange(8) & 1 for name, field in names.items()}
    for name, values in (("total", total), ("groups", groups), ("pixels", pixels)):
        found = getattr(counts, name)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, values * wanted[name], name)
    np.testing.assert_array_equal(counts.everywhere, everywhere & asked.get("everywhere", 0))
    assert counts.everywhere.dtype == np.uint8
    assert counts.n_samples == groupdq.size
    np.testing.assert_array_equal(groupdq, before)


def draw_flags(rng, shape, shares):
    """Make flags; some groups have one in all pixels, or in all but one pixel."""
    groupdq = np.zeros(shape, np.uint8)
    for bit, share in enumerate(shares):
        groupdq |= (rng.random(shape) < share).astype(np.uint8) << np.uint8(bit)
    full = rng.random(shape[:2])
    groupdq[full < 0.3] |= np.uint8(1 << rng.integers(8))
    missing = rng.integers(np.prod(shape[2:]))
    groupdq.reshape(*shape[:2], -1)[full < 0.1, missing] &= np.uint8(rng.integers(256))
    return groupdq


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_is_counted(backend, shape):
    rng = np.random.default_rng(sum(shape))
    groupdq = draw_flags(rng, shape, (0.3, 0.1, 0.02, 0, 0, 0.9, 0.01, 0.05))
    assert_counts(backend, groupdq, in_samples=ALL, in_groups=ALL, in_pixels=ALL, everywhere=ALL)


@pytest.mark.parametrize(
    "asked",
    [
        {"in_pixels": SATURATED},
        {"in_samples": JUMP_DET, "everywhere": DO_NOT_USE},
        {"in_samples": CHARGELOSS, "everywhere": SATURATED},
        {"in_samples": ALL, "in_groups": JUMP_DET | SATURATED},
        {"in_groups": CHARGELOSS, "in_pixels": DO_NOT_USE},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("value", [0, DO_NOT_USE, ALL, 64])
def test_only_what_is_asked_for_is_counted(backend, asked, value):
    assert_counts(backend, np.full((2, 3, 4, 5), value, np.uint8), **asked)
    assert_counts(backend, draw_flags(np.random.default_rng(value), (3, 4, 6, 7), [0.1] * 8), **asked)


@a_fifth()
@given(data=st.data())
def test_drawn_flags(backend, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = tuple(data.draw(st.sampled_from(range(1, most + 1))) for most in (4, 5, 9, 40))
    shares = [data.draw(st.sampled_from([0, 0, 0.01, 0.5, 1])) for _ in range(8)]
    asked = {name: data.draw(st.integers(0, ALL)) for name in ("in_samples", "in_groups", "in_pixels", "everywhere")}
    groupdq = draw_flags(rng, shape, shares)
    assert_counts(backend, groupdq, **asked)
    on_device = backend.to_device(groupdq.copy())
    lost = find_lost_groups(backend, on_device)
    np.testing.assert_array_equal(lost, (groupdq & DO_NOT_USE != 0).all(axis=(2, 3)))
    assert lost.dtype == bool


@pytest.mark.parametrize("shift", [1, 4])
def test_flags_between_words(backend, shift):
    """A C-contiguous view may start anywhere."""
    shape = (2, 3, 4, 8)
    flat = np.random.default_rng(shift).integers(0, 256, 4 + np.prod(shape)).astype(np.uint8)
    view = backend.to_device(flat)[shift : shift + np.prod(shape)].reshape(shape)
    expected = count_plainly(flat[shift : shift + np.prod(shape)].reshape(shape))
    counts = backend.count_flags(view, in_samples=ALL, in_groups=ALL, in_pixels=ALL, everywhere=ALL)
    for found, values in zip((counts.total, counts.groups, counts.pixels, counts.everywhere), expected, strict=True):
        np.testing.assert_array_equal(found, values)
    if backend.name == "host":
        assert is_in_words(view, 32) == (shift % 4 == flat.ctypes.data % 4 == 0)


def test_ramps_that_are_cut_along_the_groups(backend):
    groupdq = draw_flags(np.random.default_rng(3), (3, 5, 4, 6), [0.2] * 8)
    pixeldq = np.arange(24, dtype=np.uint32).reshape(4, 6)
    cut = backend.to_device(groupdq)[:, 1:-1]
    counts = backend.count_flags(cut, in_samples=ALL)
    np.testing.assert_array_equal(counts.total, count_plainly(groupdq[:, 1:-1])[0])
    np.testing.assert_array_equal(find_lost_groups(backend, cut), (groupdq[:, 1:-1] & 1 != 0).all(axis=(2, 3)))
    joined = backend.to_host(backend.join_group_flags(cut, backend.to_device(pixeldq)))
    np.testing.assert_array_equal(joined, join_plainly(groupdq[:, 1:-1], pixeldq))


def join_plainly(groupdq, pixeldq):
    any_group = np.bitwise_or.reduce(groupdq, axis=1).astype(np.uint32)
    none_is_good = (groupdq & (SATURATED | DO_NOT_USE) != 0).all(axis=1)
    return pixeldq | any_group & (SATURATED | JUMP_DET) | none_is_good.astype(np.uint32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.05, 0.7, 1])
def test_flags_of_integrations(backend, shape, share):
    rng = np.random.default_rng(sum(shape))
    groupdq = draw_flags(rng, shape, [share] * 3 + [0.1] * 5)
    pixeldq = rng.integers(0, 2**32, shape[2:]).astype(np.uint32)
    joined = backend.join_group_flags(backend.to_device(groupdq.copy()), backend.to_device(pixeldq.copy()))
    assert joined.dtype == np.uint32
    np.testing.assert_array_equal(backend.to_host(joined), join_plainly(groupdq, pixeldq))


@pytest.mark.parametrize("shape", SHAPES)
def test_groups_full_of_jumps(backend, shape):
    rng = np.random.default_rng(sum(shape))
    groupdq = rng.choice([DO_NOT_USE, JUMP_DET, JUMP_DET | SATURATED], size=shape).astype(np.uint8)
    good = rng.random(shape[:2]) < 0.5
    groupdq[good, -1, -1] = SATURATED
    changed = backend.to_device(groupdq.copy())
    clear_groups_full_of_jumps(backend, changed)
    expected = np.where((groupdq == JUMP_DET) & ~good[:, :, None, None], 0, groupdq)
    np.testing.assert_array_equal(backend.to_host(changed), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_threads_of_a_warp_that_share_a_piece(shape):
    backend = Backend(HostDevice(1, lanes=4))
    groupdq = draw_flags(np.random.default_rng(1), shape, [0.2] * 8)
    assert_counts(backend, groupdq, in_samples=ALL, in_groups=ALL, in_pixels=ALL, everywhere=ALL)


def test_fractions():
    groupdq = np.zeros((2, 3, 4, 5), np.uint8)
    groupdq[1, 2, :2] = JUMP_DET | SATURATED
    groupdq[0, 1] = SATURATED
    counts = get_backend("numpy").count_flags(groupdq, in_samples=SATURATED, in_groups=JUMP_DET | SATURATED)
    np.testing.assert_array_equal(counts.fractions(JUMP_DET), np.float32([0, 0, 0.25]))
    np.testing.assert_array_equal(counts.fractions(SATURATED), np.float32([0, 0.5, 0.25]))
    assert counts.samples_with(SATURATED) == 30
    assert counts.samples_with(JUMP_DET) == 0  # not asked for


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 7), (70, 3, 5)])
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_flags_of_all_integrations(backend, shape, share):
    rng = np.random.default_rng(shape[0])
    dq = rng.integers(0, 2**32, shape).astype(np.uint32) & ~np.uint32(DO_NOT_USE)
    dq |= (rng.random(shape) < share).astype(np.uint32)
    expected = np.bitwise_or.reduce(dq | 1, axis=0) - (dq & 1 == 0).any(axis=0)
    joined = backend.join_integration_flags(backend.to_device(dq.copy()))
    assert joined.dtype == np.uint32
    np.testing.assert_array_equal(backend.to_host(joined), expected)


@pytest.mark.parametrize("name", ["numpy", "host"])
def test_ramps_in_scratch_files_are_counted_where_they_are(name, tmp_path):
    backend = get_backend(name, n_threads=2, scratch_dir=tmp_path).in_chunks(10_000, 2**62)
    assert isinstance(backend.home, ScratchFiles)
    given = draw_flags(np.random.default_rng(4), (3, 5, 7, 9), [0.2] * 8)
    groupdq = backend.empty(given.shape, np.uint8)
    groupdq[...] = given
    assert_counts(backend, groupdq, in_samples=ALL, in_groups=ALL, in_pixels=ALL, everywhere=ALL)
    assert backend.take_workers() == [backend.home.name if name == "host" else name]
