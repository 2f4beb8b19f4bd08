"""Simulated snowballs and showers: found, and flagged as by jwst's JumpStep, on every backend."""

import numpy as np
import pytest

from gpucoron.dq import AD_FLOOR, DO_NOT_USE, JUMP_DET, PERSISTENCE, REFERENCE_PIXEL, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.parameters import resolve
from gpucoron.steps import STEPS, jump
from tests.cases.jump import run_jwst_step

#: parameters of gpucoron that jwst lacks
OWN = ("apply_max_shower_amplitude", "apply_minimum_groups")


def quiet_ramps(rng, shape, *, slope, gain, readnoise):
    """Make ramps of ``slope`` DN per group with photon and read noise; ``readnoise`` is that of a difference, DN."""
    nints, ngroups, ny, nx = shape
    electrons = np.cumsum(rng.poisson(slope * gain, shape), axis=1)
    data = electrons / gain + rng.normal(0, readnoise / np.sqrt(2), shape) + 1000
    gains, noises = np.full((ny, nx), gain, np.float32), np.full((ny, nx), readnoise, np.float32)
    return data.astype(np.float32), np.zeros(shape, np.uint8), gains, noises


def disk(shape, y, x, radius):
    rows, columns = np.indices(shape[2:])
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def make_snowballs(rng, shape=(3, 8, 90, 96)):
    """Make four snowballs, one of them without a core near the edge, one in the last group."""
    data, groupdq, gain, readnoise = quiet_ramps(rng, shape, slope=20, gain=2.0, readnoise=8.0)
    for integration, group, y, x, core in ((0, 3, 45, 50, 5), (1, 4, 50, 8, 0), (1, 7, 30, 30, 4), (2, 2, 60, 40, 6)):
        data[integration, group:, disk(shape, y, x, core + 6)] += 3000
        if core:
            data[integration, group:, disk(shape, y, x, core)] = 60000
            groupdq[integration, group:, disk(shape, y, x, core)] |= SATURATED
    # covered by an expanded core
    groupdq[0, 5, 45:50, 56] |= DO_NOT_USE
    groupdq[0, :, 46, 38] |= PERSISTENCE
    return data, groupdq, gain, readnoise


def make_showers(rng, shape=(2, 14, 80, 90), *, electrons=25.0):
    """Make two faint showers of radius 9, about two sigma per pixel, and unusable groups of all kinds."""
    data, groupdq, gain, readnoise = quiet_ramps(rng, shape, slope=10, gain=4.0, readnoise=2.0)
    showers = np.zeros(shape, bool)
    for integration, group, y, x in ((0, 5, 30, 35), (1, 9, 50, 60)):
        where = disk(shape, y, x, 9)
        data[integration, group:, where] += electrons / 4.0
        showers[integration, group, where] = True
    groupdq[:, 0] |= DO_NOT_USE
    groupdq[:, -1] |= DO_NOT_USE
    for flag in (DO_NOT_USE, AD_FLOOR | DO_NOT_USE, SATURATED | PERSISTENCE, JUMP_DET, PERSISTENCE):
        groupdq[rng.random(shape) < 0.005] |= flag
    bad = (groupdq & (DO_NOT_USE | SATURATED)) != 0
    data[bad] += rng.normal(0, 500, np.count_nonzero(bad)).astype(np.float32)
    return (data, groupdq, gain, readnoise), showers


def run_ours(ramps, backend, *, nframes=1, group_time=5.3452, pixeldq=None, **parameters):
    """Run gpucoron's step on copies; return the outcome, and groupdq on the host."""
    data, groupdq, gain, readnoise = (backend.to_device(array.copy()) for array in ramps)
    exposure = Exposure(
        data=data,
        groupdq=groupdq,
        pixeldq=backend.to_device(np.zeros(gain.shape, np.uint32) if pixeldq is None else pixeldq.copy()),
        facts=Facts("NIRCAM", nframes=nframes, group_time=group_time),
    )
    references = {"gain": Reference(data=gain), "readnoise": Reference(data=readnoise)}
    settings = resolve(STEPS, "jwst", steps={"jump": parameters})["jump"]
    outcome = jump.run(exposure, references, settings, backend)
    return outcome, backend.to_host(exposure.groupdq), backend.to_host(exposure.pixeldq)


def compare(tmp_path, ramps, backend, **parameters):
    """Compare flags and the number of events with jwst; return groupdq and the number in the metadata."""
    theirs = run_jwst_step(tmp_path, ramps, **parameters)
    outcome, groupdq, pixeldq = run_ours(ramps, backend, **parameters)
    np.testing.assert_array_equal(groupdq, theirs.groupdq)
    np.testing.assert_array_equal(pixeldq, theirs.pixeldq)
    events = outcome.meta["exposure.extended_emission_events"]
    assert events == theirs.meta.exposure.extended_emission_events
    return groupdq, events


@pytest.mark.parity
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"mask_snowball_core_next_int": False},
        {"snowball_time_masked_next_int": 22},
        {"sat_required_snowball": False, "expand_factor": 1.5},
        {"min_sat_radius_extend": 5.5, "sat_expand": 4, "max_extended_radius": 14},
        {"edge_size": 0, "min_jump_area": 20.0},
        {"find_showers": True},
    ],
    ids=lambda parameters: ", ".join(parameters) or "default",
)
def test_snowballs_are_jwsts(tmp_path, backend, parameters):
    ramps = make_snowballs(np.random.default_rng(1))
    _, plain, _ = run_ours(ramps, backend)
    found, events = compare(tmp_path, ramps, backend, expand_large_events=True, **parameters)
    # if both are searched, the number is that of the showers
    assert events > 0 or "find_showers" in parameters
    new = (found & ~plain) != 0
    # beyond the radius of the jump, in its group
    assert (new[0, 3] & ~disk(ramps[0].shape, 45, 50, 12)).any()
    core = disk(ramps[0].shape, 45, 50, 3)
    next_integration = ((found[1, :, core] & JUMP_DET) != 0).all(axis=0)
    if parameters.get("mask_snowball_core_next_int", True) and parameters.get("sat_required_snowball", True):
        # four group times: up to the group before
        masked = 4 if "snowball_time_masked_next_int" in parameters else 8
        np.testing.assert_array_equal(next_integration, (np.arange(8) >= 1) & (np.arange(8) < masked))
    else:
        assert not next_integration.any()
    # a core larger by more than one pixel, from its group on
    grown = disk(ramps[0].shape, 45, 50, 6) & ~disk(ramps[0].shape, 45, 50, 5)
    if "sat_required_snowball" not in parameters and "min_sat_radius_extend" not in parameters:
        assert ((found[0, 3:, grown] & SATURATED) != 0).mean() > 0.5


@pytest.mark.parity
@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ((2, 14, 80, 90), {}),
        ((2, 14, 80, 90), {"time_masked_after_shower": 0.0, "extend_ellipse_expand_ratio": 1.6}),
        ((2, 14, 80, 90), {"extend_snr_threshold": 1.5, "extend_outer_radius": 3.7, "min_diffs_single_pass": 3}),
        ((2, 14, 80, 90), {"expand_large_events": True}),
        ((5, 14, 60, 90), {"minimum_sigclip_groups": 4}),
    ],
    ids=["default", "one group", "threshold", "snowballs too", "clipped over integrations"],
)
def test_showers_are_jwsts(tmp_path, backend, shape, parameters):
    ramps, showers = make_showers(np.random.default_rng(2), shape)
    _, plain, _ = run_ours(ramps, backend, group_time=2.775)
    found, events = compare(tmp_path, ramps, backend, find_showers=True, group_time=2.775, **parameters)
    assert events > 0
    assert ((found & JUMP_DET) != 0)[showers].mean() > ((plain & JUMP_DET) != 0)[showers].mean() + 0.5


@pytest.mark.parity
def test_showers_where_no_jumps_were_searched(tmp_path, backend):
    """With a bad integration nothing is searched; stcal then searches showers in the data of all groups."""
    ramps, _ = make_showers(np.random.default_rng(3), (3, 14, 80, 90))
    ramps[1][2, 1:] |= DO_NOT_USE
    found, events = compare(tmp_path, ramps, backend, find_showers=True, group_time=2.775)
    assert events > 0
    assert (found & ~ramps[1] & JUMP_DET).any()


def test_reference_pixels_have_no_showers(backend):
    ramps, showers = make_showers(np.random.default_rng(4))
    pixeldq = np.zeros(ramps[2].shape, np.uint32)
    pixeldq[:, 30:34] = REFERENCE_PIXEL
    _, plain, _ = run_ours(ramps, backend, group_time=2.775, pixeldq=pixeldq)
    _, found, _ = run_ours(ramps, backend, find_showers=True, group_time=2.775, pixeldq=pixeldq)
    assert ((found & ~plain & JUMP_DET) != 0)[showers & (pixeldq == 0)].mean() > 0.5
    np.testing.assert_array_equal(found[..., 30:34], plain[..., 30:34])


# ----------------------------------------------------------------------------------------------------- fixes on request


def test_max_shower_amplitude_applies_on_request(backend):
    """jwst's result does not depend on this limit; if applied, it limits how much a shower may change."""
    ramps, showers = make_showers(np.random.default_rng(5))
    options = {"find_showers": True, "group_time": 0.5}

    def share_flagged(**parameters):
        _, found, _ = run_ours(ramps, backend, **options, **parameters)
        return ((found & JUMP_DET) != 0)[showers].mean()

    jwsts = share_flagged()
    assert share_flagged(max_shower_amplitude=1e-3) == share_flagged(max_shower_amplitude=1e3) == jwsts
    shares = [share_flagged(max_shower_amplitude=a, apply_max_shower_amplitude=True) for a in (1e-3, 1.0, 4.0, 1e3)]
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    # showers of 6 DN change the rate by less than 4 DN/s, so that all of them may be flagged
    assert shares[2] > jwsts + 0.1
    assert shares[3] > 0.8


def test_minimum_groups_applies_on_request(backend):
    ramps = quiet_ramps(np.random.default_rng(6), (2, 6, 8, 9), slope=10, gain=2.0, readnoise=5.0)
    ramps[0][1, 3:, 4, 4] += 500
    for parameters, is_searched in (
        ({"minimum_groups": 7}, True),
        ({"minimum_groups": 7, "apply_minimum_groups": True}, False),
        ({"minimum_groups": 6, "apply_minimum_groups": True}, True),
        ({"minimum_groups": 1, "apply_minimum_groups": True}, True),
    ):
        _, found, _ = run_ours(ramps, backend, **parameters)
        assert bool(found[1, 3, 4, 4] & JUMP_DET) == is_searched
