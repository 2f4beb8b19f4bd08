"""Snowballs: drawn events with drawn parameters have the flags and the number of stcal's own code, on every backend.

`test_large_events` runs the whole step beside jwst's.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.dq import AD_FLOOR, DO_NOT_USE, JUMP_DET, PERSISTENCE, SATURATED
from gpucoron.errors import ArgumentError
from gpucoron.facts import Facts
from gpucoron.steps.snowballs import SnowballSettings, flag_snowballs, settle

HOST = get_backend("numpy", n_threads=1)


def flag_with_stcal(groupdq, settings):
    """Flag snowballs in a copy with stcal's code; return it, and the number. None if stcal fails."""
    from stcal.jump.jump import flag_large_events

    names = ("min_jump_area", "min_sat_area", "expand_factor", "sat_required_snowball", "min_sat_radius_extend")
    jump_data = SimpleNamespace(
        **{name: getattr(settings, name) for name in (*names, "edge_size")},
        sat_expand=2 * settings.sat_expand,
        max_extended_width=2 * settings.max_extended_radius,
        mask_persist_grps_next_int=True,
        persist_grps_flagged=settings.n_groups_next_int,
        fl_jump=JUMP_DET,
        fl_sat=SATURATED,
    )
    with np.errstate(all="ignore"):
        try:
            return flag_large_events(groupdq.copy(), JUMP_DET, SATURATED, jump_data)
        except (ValueError, OverflowError):
            return None


def flag(groupdq, settings, backend=HOST):
    """Flag snowballs in a copy on a backend; return it on the host, and the number."""
    flags = backend.to_device(groupdq.copy())
    number = flag_snowballs(flags, settings=settings, backend=backend)
    return backend.to_host(flags), number


def add_event(rng, groupdq, *, y=None, x=None, core=None):
    """Add an elliptical hit: a halo of jumps and mostly a core that saturates, in the same group or in the next one."""
    nints, ngroups, ny, nx = groupdq.shape
    integration, group = rng.integers(nints), rng.integers(ngroups)
    y = rng.uniform(-2, ny + 2) if y is None else y
    x = rng.uniform(-2, nx + 2) if x is None else x
    core = rng.choice([0, 0.6, 1.2, 2.2, 3.4, 5.0]) if core is None else core
    rows, columns = np.mgrid[:ny, :nx]
    angle, stretch = rng.uniform(0, np.pi), rng.choice([1, 1, 1.3, 2.5])
    along = (rows - y) * np.cos(angle) + (columns - x) * np.sin(angle)
    across = ((rows - y) * np.sin(angle) - (columns - x) * np.cos(angle)) * stretch
    distance = np.hypot(along, across)
    groupdq[integration, group, distance < core + rng.uniform(0, 6)] |= JUMP_DET
    from_group = group + rng.choice([0, 0, 1])
    groupdq[integration, from_group:, distance < core] |= SATURATED
    if rng.random() < 0.7:
        groupdq[(groupdq & SATURATED) != 0] &= ~np.uint8(JUMP_DET)


def draw_flags(rng):
    """Draw the flags of a ramp: events, hits, bad pixels, a saturated star, pixels that recover from saturation."""
    shape = *rng.integers((1, 3), (4, 7)), *rng.integers(14, 40, 2)
    groupdq = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(10)):
        add_event(rng, groupdq)
    for flag, share in ((JUMP_DET, rng.choice([0, 0, 0.01, 0.03])), (DO_NOT_USE, 0.005), (PERSISTENCE, 0.005)):
        groupdq[rng.random(shape) < share] |= flag
    groupdq[rng.random(shape) < rng.choice([0, 0.003])] |= SATURATED | int(rng.choice([0, AD_FLOOR]))
    if rng.random() < 0.1:
        groupdq[:, rng.integers(shape[1])] |= int(rng.choice([DO_NOT_USE, JUMP_DET, SATURATED]))
    return groupdq


def draw_settings(rng, *, size):
    """Draw all parameters."""
    return SnowballSettings(
        min_jump_area=rng.choice([-1.0, 1, 2, 5, 5, 12.5, 40]),
        min_sat_area=rng.choice([0.0, 1, 1, 3, 20]),
        expand_factor=rng.choice([0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 3.3, 9.0]),
        sat_required_snowball=rng.random() < 0.85,
        min_sat_radius_extend=rng.choice([-5.0, 0, 2.5, 2.5, 6]),
        sat_expand=int(rng.integers(6)),
        edge_size=int(rng.choice([-3, 0, 2, 5, 25, size])),
        max_extended_radius=int(rng.choice([0, 3, 8, 200])),
        n_groups_next_int=int(rng.integers(10)),
    )


@pytest.mark.parity
def test_drawn_events_have_stcals_flags_and_number(pytestconfig):
    """A few cases, and many with ``--full-parity``."""
    rng, changed, counted, failed = np.random.default_rng(1), 0, 0, 0
    n_cases = 1000 if pytestconfig.getoption("--full-parity") else 20
    for number in range(n_cases):
        groupdq = draw_flags(rng)
        settings = draw_settings(rng, size=groupdq.shape[2])
        expected = flag_with_stcal(groupdq, settings)
        found, count = flag(groupdq, settings)
        if expected is None:
            failed += 1
            continue
        np.testing.assert_array_equal(found, expected[0], err_msg=f"{number}: {groupdq.shape} {settings}")
        assert count == expected[1], number
        changed += (found != groupdq).any()
        counted += count > 0
    assert changed > n_cases / 3
    assert counted > n_cases / 3
    assert failed < n_cases / 5


@pytest.mark.parity
def test_every_backend_has_the_same_flags(backend):
    rng = np.random.default_rng(2)
    for _ in range(8):
        groupdq = draw_flags(rng)
        settings = draw_settings(rng, size=groupdq.shape[2])
        expected, number = flag(groupdq, settings)
        found, count = flag(groupdq, settings, backend)
        np.testing.assert_array_equal(found, expected)
        assert count == number


@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_and_scratch_files_give_the_same_flags(n_threads, tmp_path):
    rng = np.random.default_rng(3)
    groupdq = np.concatenate([draw_flags(np.random.default_rng(seed))[:1, :3, :14, :14] for seed in range(5)])
    for _ in range(9):
        add_event(rng, groupdq)
    settings = SnowballSettings(edge_size=0, n_groups_next_int=3)
    expected, number = flag(groupdq, settings)
    assert number
    for backend in (
        get_backend("numpy", n_threads=n_threads),
        get_backend("numpy", max_memory=1, scratch_dir=tmp_path),
    ):
        found, count = flag(groupdq, settings, backend)
        np.testing.assert_array_equal(found, expected)
        assert count == number


# ----------------------------------------------------------------------------------------------------- what is flagged


def one_snowball(shape=(2, 6, 60, 60), *, group=2, y=30, x=31, core=4, halo=9):
    """Make the flags of one round snowball in the first integration."""
    groupdq = np.zeros(shape, np.uint8)
    rows, columns = np.mgrid[: shape[2], : shape[3]]
    distance = np.hypot(rows - y, columns - x)
    groupdq[0, group, distance <= halo] = JUMP_DET
    groupdq[0, group:, distance <= core] = SATURATED
    return groupdq, distance


def test_a_snowball():
    """The halo grows in its group, the core from its group on, and is flagged in the next integration."""
    groupdq, distance = one_snowball()
    found, number = flag(groupdq, SnowballSettings(n_groups_next_int=4))
    assert number == 1
    far, grown = distance < 18, distance < 5
    assert ((found[0, 2] & (JUMP_DET | SATURATED)) != 0)[far].all()
    assert not found[0, 2, distance > 20].any()
    assert (found[0, 2:, grown] == SATURATED).all()
    assert not found[0, :2].any()
    assert (found[1, 1:4, distance < 3] == JUMP_DET).all()
    assert not found[1, [0, 4, 5]].any()
    assert not found[1, :, distance > 4.5].any()


def test_a_core_is_required_away_from_edges():
    """It may also saturate in the next group, but not in the group before."""
    settings = SnowballSettings(edge_size=10)
    for shift, number in ((0, 1), (1, 1), (2, 0), (-1, 0)):
        groupdq, distance = one_snowball(core=-1)
        groupdq[0, 2 + shift :, distance <= 4] |= SATURATED
        assert flag(groupdq, settings)[1] == number, shift
    groupdq, _ = one_snowball(core=-1)
    found, number = flag(groupdq, settings)
    assert number == 0
    np.testing.assert_array_equal(found, groupdq)
    for y, x in ((9, 31), (51, 31), (30, 9), (30, 51)):
        groupdq, _ = one_snowball(core=-1, y=y, x=x)
        assert flag(groupdq, settings)[1] == 1, (y, x)
    groupdq, _ = one_snowball(core=-1)
    assert flag(groupdq, SnowballSettings(sat_required_snowball=False))[1] == 1


def test_the_last_group_and_the_last_integration():
    groupdq, distance = one_snowball(group=5)
    found, number = flag(groupdq[::-1], SnowballSettings(n_groups_next_int=9))
    assert number == 1
    assert (found[1, 5, distance < 5] == SATURATED).all()
    assert not found[0].any()
    assert not found[1, :5].any()


def test_nothing_is_flagged_without_events(backend):
    """Neither in empty flags, nor from flags in the first group, nor in ramps of one group."""
    for shape in ((2, 5, 20, 24), (1, 1, 20, 24), (1, 2, 1, 1)):
        groupdq = np.zeros(shape, np.uint8)
        groupdq[:, 0, 5:15, 5:15] = JUMP_DET
        if shape[1] > 1:
            groupdq[:, :, :4, :4] = SATURATED
        found, number = flag(groupdq, SnowballSettings(n_groups_next_int=3), backend)
        assert number == 0
        np.testing.assert_array_equal(found, groupdq)


def test_where_stcal_fails_nothing_is_flagged():
    """Lines have a negative minor axis, which a large factor makes too small for stcal's part of the image."""
    groupdq = np.zeros((1, 4, 40, 40), np.uint8)
    groupdq[0, 2, 20, 10:16] = JUMP_DET
    for factor in (40.0, np.inf):
        settings = SnowballSettings(sat_required_snowball=False, expand_factor=factor)
        found, number = flag(groupdq, settings)
        assert number == 1
        np.testing.assert_array_equal(found, groupdq)


def test_covered_samples_are_listed(backend):
    """All samples that are usable before and not after, each once."""
    rng = np.random.default_rng(4)
    groupdq = np.zeros((3, 6, 40, 40), np.uint8)
    for _ in range(12):
        add_event(rng, groupdq, core=4.0)
    groupdq[rng.random(groupdq.shape) < 0.02] |= DO_NOT_USE
    covered, flags = [], backend.to_device(groupdq.copy())
    flag_snowballs(flags, settings=SnowballSettings(n_groups_next_int=6), covered=covered, backend=backend)
    listed = np.zeros(groupdq.shape, int)
    for integration, group, rows, columns, usable in covered:
        listed[integration, group:, rows, columns] += backend.to_host(usable)
    before, after = (((each & (DO_NOT_USE | SATURATED)) == 0) for each in (groupdq, backend.to_host(flags)))
    # a grown core also replaces DO_NOT_USE
    np.testing.assert_array_equal(listed, before & ~after)
    assert listed.any()
    assert set(listed.flat) == {0, 1}


def test_numbers_of_groups():
    parameters = SimpleNamespace(mask_snowball_core_next_int=True, snowball_time_masked_next_int=22, sat_expand=3)
    facts = Facts("NIRCAM", group_time=5.5)
    assert settle(parameters, facts) == SnowballSettings(n_groups_next_int=4, sat_expand=3)
    for time in (-5, -(10**400)):
        parameters.snowball_time_masked_next_int = time
        assert settle(parameters, facts).n_groups_next_int == 0
    parameters.snowball_time_masked_next_int = 10**400
    assert settle(parameters, facts).n_groups_next_int > 10**6
    parameters.mask_snowball_core_next_int = False
    assert settle(parameters, facts).n_groups_next_int == 0


def test_huge_numbers():
    groupdq, _ = one_snowball()
    huge = dict.fromkeys(("sat_expand", "edge_size", "max_extended_radius", "n_groups_next_int"), 2**63)
    for name in huge:
        found, number = flag(groupdq, SnowballSettings(**{name: 2**63}))
        expected = flag(groupdq, SnowballSettings(**{name: 10**6}))
        np.testing.assert_array_equal(found, expected[0], name)
        assert number == expected[1] == 1
    found, _ = flag(groupdq, SnowballSettings(**huge))
    assert (found[0, 2:] == SATURATED).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": 5}, "settings: expected SnowballSettings, got 5"),
        ({"settings": SimpleNamespace(**vars(SnowballSettings()))}, "settings must be SnowballSettings"),
        ({"settings": SnowballSettings(), "edge_size": 3}, "edge_size given besides settings"),
        ({"edge": 3}, "unexpected keyword argument 'edge'"),
        ({"covered": 5}, "covered: expected a list, got 5"),
    ],
)
def test_odd_arguments_are_refused(options, words):
    with pytest.raises(ArgumentError, match=f"^snowballs.flag_snowballs: .*{words}"):
        flag_snowballs(one_snowball()[0], **options)
