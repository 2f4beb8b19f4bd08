"""Causes of flags: planted events are named, and primary hits are those of jwst's own jump step."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron import dq
from gpucoron.engine import plan, run_steps
from gpucoron.io.exposure import Exposure
from gpucoron.io.products import ramp_model
from gpucoron.report.ramp.trace import trace_ramp
from gpucoron.simulate import SCENES, Effects

SHAPE = (32, 36)
#: no noise but photons and reads, so that nothing but what is planted is flagged
QUIET = Effects(cosmic_rays=0.0, one_over_f=0.0, bad_pixels=False)
FAINT = {name: replace(scene, star=0.0, background=2.0, companion_contrast=0.0) for name, scene in SCENES.items()}
#: far from bad pixels of the simulated detector, see `test_the_pixels_are_good`
HIT, SATURATED, FLOOR = (12, 10), (24, 20), (6, 25)
GROUP = 5


def plant(simulation):
    """Add a hit of 3000 DN in group 5 of integration 0, a saturated ramp and a group at 0 in integration 1."""
    data = simulation.data
    data[0, GROUP:, HIT[1], HIT[0]] += 3000
    data[1, GROUP:, SATURATED[1], SATURATED[0]] = 65535
    data[1, GROUP, FLOOR[1], FLOOR[0]] = 0


@pytest.fixture(scope="module")
def planted(exposures):
    return exposures(
        "NIRCAM", "SUB320A335R", "RAPID", 10, 3, seed=1, shape=SHAPE, scene=FAINT["NIRCAM"], effects=QUIET, edit=plant
    )


def causes_at(case, x, y, integration, **settings):
    """Return (group, flag, step) -> (text, origin) of the causes at a pixel."""
    with case.cache.activate():
        trace = trace_ramp(case.path, x, y, backend="numpy", **settings)
    return {
        (cause.group, cause.flag, cause.step): (cause.text, cause.origin)
        for step in trace.steps
        for cause in step.causes
        if cause.integration == integration
    }


NO_COUPLING = {"ipc": {"skip": True}}  # it would spread the planted counts


def test_the_pixels_are_good(planted):
    with planted.cache.activate():
        for x, y in (HIT, SATURATED, FLOOR):
            trace = trace_ramp(planted.path, x, y, backend="numpy")
            assert trace.corrected.pixeldq == 0, (x, y)


def test_primary_hit(planted):
    causes = causes_at(planted, *HIT, 0, steps=NO_COUPLING)
    ((key, (text, origin)),) = causes.items()
    assert key == (GROUP, "JUMP_DET", "jump")
    assert origin is None
    assert text.startswith("primary hit: ")
    assert "threshold of 4" in text


@pytest.mark.parametrize("is_iterative", [False, True])
def test_the_distance_of_a_hit_is_that_of_its_difference(planted, is_iterative):
    steps = NO_COUPLING | {"jump": {"min_diffs_single_pass": 10 if is_iterative else 5}}
    with planted.cache.activate():
        trace = trace_ramp(planted.path, *HIT, backend="numpy", steps=steps)
    jump = next(step for step in trace.steps if step.name == "jump")
    (cause,) = [cause for cause in jump.causes if cause.integration == 0]
    electrons = np.diff(jump.before.data.astype(float), axis=1) * trace.gain
    if is_iterative:  # stcal then compares absolute differences, and leaves out the largest one
        electrons = abs(electrons)
        median = np.median(np.sort(electrons, axis=None)[:-1])
    else:
        median = np.median(electrons)
    sigma = np.sqrt(abs(median) + (trace.readnoise * trace.gain) ** 2)
    expected = abs(electrons[0, GROUP - 1] - median) / sigma
    assert f"primary hit: {expected:.1f} sigma" in cause.text


def test_neighbour_of_a_hit(planted):
    x, y = HIT
    # the planted hit is above the default limit of 1000 sigma for spreading only if noise is tiny: allow all
    steps = NO_COUPLING | {"jump": {"max_jump_to_flag_neighbors": 1e6}}
    causes = causes_at(planted, x + 1, y, 0, steps=steps)
    text, origin = causes[GROUP, "JUMP_DET", "jump"]
    assert origin == HIT
    assert text.startswith(f"neighbour of ({x}, {y}), which was hit: ")
    assert not causes_at(planted, x + 1, y + 1, 0, steps=steps)


def test_groups_after_a_jump(planted):
    settings = {"after_jump_flag_dn1": 100.0, "after_jump_flag_time1": 2.5, "flag_4_neighbors": False}
    causes = causes_at(planted, *HIT, 0, steps=NO_COUPLING | {"jump": settings})
    assert causes[GROUP, "JUMP_DET", "jump"][0].startswith("primary hit")
    for later in (1, 2):
        text, _ = causes[GROUP + later, "JUMP_DET", "jump"]
        assert text.startswith(f"{later} group{'s' * (later > 1)} after the jump in group {GROUP} of ")
    assert (GROUP + 3, "JUMP_DET", "jump") not in causes


def test_saturation_and_its_growth(planted):
    x, y = SATURATED
    causes = causes_at(planted, x, y, 1, steps=NO_COUPLING)
    assert causes[GROUP, "SATURATED", "saturation"][0].startswith("saturated: 65535 DN reaches the threshold of ")
    for beside in ((x + 1, y), (x - 1, y - 1)):
        text, origin = causes_at(planted, *beside, 1, steps=NO_COUPLING)[GROUP, "SATURATED", "saturation"]
        assert origin == SATURATED
        assert text == f"growth of the saturation of the pixel ({x}, {y})"
    assert not causes_at(planted, x + 2, y, 1, steps=NO_COUPLING)


def test_growth_without_corners(planted):
    x, y = SATURATED
    steps = NO_COUPLING | {"saturation": {"grow_diagonal": False, "n_pix_grow_sat": 2}}
    text, origin = causes_at(planted, x + 1, y + 1, 1, steps=steps)[GROUP, "SATURATED", "saturation"]
    assert origin == SATURATED
    assert "growth" in text
    assert not causes_at(planted, x + 2, y + 1, 1, steps=steps)


def test_floor_of_the_converter(planted):
    causes = causes_at(planted, *FLOOR, 1, steps=NO_COUPLING)
    for flag in ("AD_FLOOR", "DO_NOT_USE"):
        assert causes[GROUP, flag, "saturation"][0] == "at the floor of the A/D converter: 0 DN is not above 0"


def test_charge_migration(planted):
    x, y = HIT
    settings = {"charge_migration": {"skip": False, "signal_threshold": 2000.0}, "jump": {"skip": True}}
    own = causes_at(planted, x, y, 0, steps=NO_COUPLING | settings)
    assert own[GROUP, "CHARGELOSS", "charge_migration"][0].startswith("loses charge: ")
    assert own[GROUP + 2, "CHARGELOSS", "charge_migration"][0].startswith(f"loses charge since group {GROUP}: ")
    text, origin = causes_at(planted, x, y - 1, 0, steps=NO_COUPLING | settings)[
        GROUP, "CHARGELOSS", "charge_migration"
    ]
    assert origin == HIT
    assert text == f"neighbour of ({x}, {y}), which loses charge"


def test_masked_and_suppressed_groups(planted):
    steps = {"mask_groups": {"groups": list(range(1, 10))}}
    causes = causes_at(planted, *HIT, 2, steps=steps)
    assert causes[3, "DO_NOT_USE", "mask_groups"][0] == "masked: mask_groups names this group"
    assert "suppress_one_group" in causes[0, "DO_NOT_USE", "ramp_fit"][0]


def test_groups_that_the_fit_leaves_out(planted):
    causes = causes_at(planted, *HIT, 2, steps={"ramp_fit": {"firstgroup": 1, "lastgroup": 7}})
    assert set(causes) == {(group, "DO_NOT_USE", "ramp_fit") for group in (0, 8, 9)}
    assert all("firstgroup" in text for text, _ in causes.values())


def test_rejected_by_the_likelihood_fit(planted):
    steps = NO_COUPLING | {"jump": {"skip": True}, "ramp_fit": {"algorithm": "LIKELY"}}
    causes = causes_at(planted, *HIT, 0, steps=steps)
    assert causes[GROUP, "JUMP_DET", "ramp_fit"][0] == (
        "the likelihood fit rejected the difference to the group before"
    )


def test_dropped_groups_of_miri(exposures):
    case = exposures("MIRI", "MASK1550", "FASTR1", 12, 2, seed=1, shape=SHAPE, scene=FAINT["MIRI"], effects=QUIET)
    causes = causes_at(case, 14, 10, 1)
    assert causes[11, "DO_NOT_USE", "lastframe"][0].startswith("the last group is dropped")
    assert causes[0, "DO_NOT_USE", "rscd"][0].startswith("dropped: one of the first groups after a reset")


def hide(simulation):
    """Let the last frame of group 2 saturate, and all later groups: its mean stays below the threshold."""
    # the threshold of the reference is 12 % above the full well here: it includes the bias
    simulation.data[0, 2, 16, 16] = 1.06 * simulation.pixels.full_well[16, 16]
    simulation.data[0, 3:, 16, 16] = 65535


def test_saturation_hidden_in_the_mean_of_frames(exposures):
    case = exposures(
        "NIRCAM", "SUB320A335R", "SHALLOW4", 6, 1, seed=1, shape=SHAPE, scene=FAINT["NIRCAM"], effects=QUIET, edit=hide
    )
    text, origin = causes_at(case, 16, 16, 0)[2, "DO_NOT_USE", "saturation"]
    assert (text, origin) == ("reads of this group saturate, which the mean of its frames hides", None)
    text, origin = causes_at(case, 17, 16, 0)[2, "DO_NOT_USE", "saturation"]
    assert origin == (16, 16)
    assert text.startswith("growth from the pixel (16, 16): reads of this group")


@pytest.mark.parametrize(("instrument", "subarray", "readpatt", "ngroups"), [
    ("NIRCAM", "SUB320A335R", "RAPID", 8), ("MIRI", "MASK1550", "FASTR1", 30),
])  # fmt: skip
def test_primary_hits_are_those_of_jwst(exposures, instrument, subarray, readpatt, ngroups):
    """jwst's jump step without spreading flags exactly the groups whose cause is a primary hit."""
    from jwst.jump import JumpStep

    effects = Effects(cosmic_rays=30.0)
    case = exposures(instrument, subarray, readpatt, ngroups, 2, seed=4, shape=SHAPE, effects=effects)
    with case.cache.activate():
        run = plan(Exposure.read(case.path), backend="numpy")
        run_steps(run, until="jump")
        model = ramp_model(run)
        alone = JumpStep.call(
            model,
            flag_4_neighbors=False,
            expand_large_events=False,
            find_showers=False,
            override_gain=str(run.reference_path("jump", "gain")),
            override_readnoise=str(run.reference_path("jump", "readnoise")),
        )
        hits = (alone.groupdq & dq.JUMP_DET) != 0
        rows, columns = np.nonzero(hits.any(axis=(0, 1)))
        assert rows.size >= 5
        for pick in np.linspace(0, rows.size - 1, 5).astype(int):
            x, y = int(columns[pick]), int(rows[pick])
            if instrument == "MIRI" and x < 4:
                continue
            trace = trace_ramp(case.path, x, y, backend="numpy")
            jump = next(step for step in trace.steps if step.name == "jump")
            primary = np.zeros(hits.shape[:2], bool)
            for cause in jump.causes:
                primary[cause.integration, cause.group] |= cause.text.startswith("primary hit")
                if cause.text.startswith("primary hit"):
                    distance, threshold = (
                        float(part.split()[0]) for part in cause.text.split(": ")[1].split("threshold of ")
                    )
                    assert distance >= threshold
            np.testing.assert_array_equal(primary, hits[:, :, y, x], f"{x}, {y}")
