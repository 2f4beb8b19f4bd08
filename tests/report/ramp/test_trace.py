"""A traced pixel has, after every step, the state that it has in the reduction of the whole frame."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron import dq
from gpucoron.engine import plan, run_steps
from gpucoron.io.exposure import Exposure
from gpucoron.report.ramp.causes import FLAGS, flag_names
from gpucoron.report.ramp.cut import needs_frame
from gpucoron.report.ramp.trace import trace_ramp
from gpucoron.simulate import SCENES, Effects
from gpucoron.steps import STEPS

SHAPE = (40, 48)
#: a star so bright that its core saturates, and stays on the small array
BRIGHT = {name: replace(scene, star=scene.star * 30, background=1.0) for name, scene in SCENES.items()}
NIRCAM = ("NIRCAM", "SUB320A335R", "RAPID", 10, 6)
MIRI = ("MIRI", "MASK1550", "FASTR1", 14, 5)
#: groups of several frames, in which saturation can hide
SHALLOW = ("NIRCAM", "SUB320A335R", "SHALLOW4", 8, 3)

REQUESTS = {
    "nircam": (NIRCAM, {}),
    "nircam-spaceklip": (NIRCAM, {"profile": "spaceklip"}),
    "nircam-groups-likely": (
        NIRCAM,
        {"profile": "spaceklip", "stage_1overf": "groups", "steps": {"ramp_fit": {"algorithm": "LIKELY"}}},
    ),
    "nircam-all-on-the-cut": (NIRCAM, {"steps": {name: {"skip": True} for name in ("ipc", "refpix")}}),
    "nircam-loss": (NIRCAM, {"steps": {"charge_migration": {"skip": False, "signal_threshold": 9000.0}}}),
    "nircam-persistence": (
        NIRCAM,
        {
            "steps": {
                "persistence": {"skip": False, "persistence_time": 5, "dn_threshold": 9e3, "persistence_dnu": True}
            }
        },
    ),
    "nircam-growth": (
        NIRCAM,
        {"profile": "spaceklip", "steps": {"saturation": {"n_pix_grow_sat": 3}, "subtract_1overf": {"skip": True}}},
    ),
    "nircam-later-groups": (
        NIRCAM,
        {"steps": {"jump": {"after_jump_flag_dn1": 50.0, "after_jump_flag_time1": 3.0}}},
    ),
    "nircam-clipping": (NIRCAM, {"steps": {"jump": {"minimum_sigclip_groups": 6}}}),
    "nircam-snowballs": (NIRCAM, {"steps": {"jump": {"expand_large_events": True, "min_jump_area": 2}}}),
    "nircam-one-group": (NIRCAM, {"steps": {"mask_groups": {"groups": list(range(1, 9))}}}),
    "nircam-jumpramp": (NIRCAM, {"steps": {"experimental_jumpramp": {"use": True}}}),
    "nircam-outliers": (
        NIRCAM,
        {"rate_int_outliers": True, "steps": {"apply_rateints_outliers": {"nint_min": 3, "sigma_cut": 4}}},
    ),
    "shallow": (SHALLOW, {}),
    "shallow-likely": (SHALLOW, {"steps": {"ramp_fit": {"algorithm": "LIKELY"}}}),
    "miri": (MIRI, {}),
    "miri-spaceklip": (MIRI, {"profile": "spaceklip"}),
    "miri-firstframe": (
        MIRI,
        {"steps": {"firstframe": {"skip": False}, "rscd": {"skip": True}, "ramp_fit": {"suppress_one_group": False}}},
    ),
    "miri-no-groups-dropped": (MIRI, {"steps": {"lastframe": {"skip": True}, "rscd": {"skip": True}}}),
    "miri-emicorr": (MIRI, {"steps": {"emicorr": {"skip": False}}}),
}


def make_case(exposures, setup):
    return exposures(*setup, seed=3, shape=SHAPE, scene=BRIGHT[setup[0]], effects=Effects(cosmic_rays=10))


def whole_states(path, request):
    """Reduce the whole frame, and keep the arrays after every step."""
    exposure = Exposure.read(path)
    states = {}

    def keep(run, record):
        slopes = [
            None if of is None else {name: array.copy() for name, array in vars(of).items()}
            for of in (exposure.rate, exposure.rateints)
        ]
        states[record.name] = (exposure.data.copy(), exposure.groupdq.copy(), exposure.pixeldq.copy(), *slopes)

    keywords = {key: value for key, value in request.items() if key in ("profile", "steps")}
    pipeline = {key: value for key, value in request.items() if key not in keywords}
    run = plan(exposure, backend="native", pipeline=pipeline, **keywords)
    run_steps(run, after_step=keep)
    return run, states


def choose_pixels(states, facts):
    """Choose corners, an edge, the centre, and for each flag of groups a pixel that has it."""
    ny, nx = SHAPE
    first_column = 4 if facts.is_miri else 0  # MIRI's subarray begins with reference pixels
    pixels = {(first_column, 0), (nx - 1, ny - 1), (nx // 2, 0), (nx // 2, ny // 2)}
    final = list(states.values())[-1][1]
    first = next(iter(states.values()))[1]
    for name in ("SATURATED", "JUMP_DET", "AD_FLOOR", "CHARGELOSS", "DO_NOT_USE", "PERSISTENCE"):
        flagged = ((final & ~first & FLAGS[name]) != 0).any(axis=(0, 1))
        partly = flagged & ~((final & FLAGS[name]) != 0).all(axis=(0, 1))
        rows, columns = np.nonzero(partly if partly.any() else flagged)
        if len(rows):
            pick = len(rows) // 2
            pixels.add((max(int(columns[pick]), first_column), int(rows[pick])))
    return sorted(pixels)


@pytest.fixture(scope="module", params=REQUESTS)
def traced(request, exposures):
    """The states of the whole frame, and the traces of some pixels."""
    setup, settings = REQUESTS[request.param]
    case = make_case(exposures, setup)
    with case.cache.activate():
        run, states = whole_states(case.path, settings)
        pixels = choose_pixels(states, run.exposure.facts)
        traces = [trace_ramp(case.path, x, y, backend="native", **settings) for x, y in pixels]
    return run, states, traces


def test_states_are_those_of_the_whole_frame(traced):
    run, states, traces = traced
    assert [step.name for step in traces[0].steps] == list(run.order)
    for trace in traces:
        at = (..., trace.y, trace.x)
        for step, record in zip(trace.steps, run.records, strict=True):
            data, groupdq, pixeldq, rate, rateints = states[step.name]
            where = f"{step.name} at {trace.x}, {trace.y}"
            assert step.status == record.status, where
            np.testing.assert_array_equal(step.after.data, data[at], where)
            np.testing.assert_array_equal(step.after.groupdq, groupdq[at], where)
            assert step.after.pixeldq == pixeldq[at], where
            for ours, whole in ((step.after.rate, rate), (step.after.rateints, rateints)):
                assert (ours is None) == (whole is None), where
                for name in ours or ():
                    np.testing.assert_array_equal(ours[name], whole[name][at], f"{name}, {where}")


def test_only_what_needs_the_frame_runs_on_it(traced):
    run, _states, traces = traced
    facts = run.exposure.facts
    needed = [name for name in run.order if needs_frame(name, run.parameters[name], facts)]
    last = run.order.index(needed[-1]) if needed else -1
    for trace in traces:
        assert [step.on_frame for step in trace.steps] == [n <= last for n in range(len(run.order))]


def test_every_flag_has_a_cause(traced):
    _run, states, traces = traced
    for trace in traces:
        for step in trace.steps:
            new = step.after.groupdq & ~step.before.groupdq
            caused = np.zeros_like(new)
            for cause in step.causes:
                caused[cause.integration, cause.group] |= FLAGS[cause.flag]
                assert not cause.text.startswith("set by"), (trace.x, trace.y, cause)
                if cause.origin is not None:
                    x, y = cause.origin
                    assert (x, y) != (trace.x, trace.y)
                    flags = states[step.name][1][cause.integration, cause.group, y, x]
                    assert flags & FLAGS[cause.flag], (trace.x, trace.y, cause)
            np.testing.assert_array_equal(caused, new)


def test_the_fit_of_the_run_is_one_of_both(traced):
    run, states, traces = traced
    if run.parameters["ramp_fit"].skip:
        # another step replaced the fit; both are shown beside it
        assert all({fit.algorithm for fit in trace.fits} == {"OLS_C", "LIKELY"} for trace in traces)
        return
    algorithm = run.parameters["ramp_fit"].algorithm
    for trace in traces:
        fits = [fit for fit in trace.fits if fit.algorithm == algorithm]
        rateints = states["ramp_fit"][4]
        for fit in fits:
            np.testing.assert_array_equal(np.float32(fit.rate), rateints["rate"][fit.integration, trace.y, trace.x])
            np.testing.assert_array_equal(np.float32(fit.err), rateints["err"][fit.integration, trace.y, trace.x])
            assert fit.dq == rateints["dq"][fit.integration, trace.y, trace.x]
        assert [fit.integration for fit in fits] == list(range(trace.nints))


#: request -> (step, flag) that its exposure must show, so that the tests above are worth something
SHOWN = {
    "nircam": {("saturation", "SATURATED"), ("jump", "JUMP_DET"), ("dq_init", "DO_NOT_USE")},
    "nircam-loss": {("charge_migration", "CHARGELOSS")},
    "nircam-growth": {("saturation", "SATURATED")},
    "nircam-one-group": {("mask_groups", "DO_NOT_USE"), ("ramp_fit", "DO_NOT_USE")},
    "shallow": {("saturation", "DO_NOT_USE")},
    "shallow-likely": {("ramp_fit", "JUMP_DET")},
    "miri": {("rscd", "DO_NOT_USE"), ("lastframe", "DO_NOT_USE"), ("jump", "JUMP_DET")},
}


def test_the_pixels_show_flags(traced, request):
    _run, _states, traces = traced
    seen = {(cause.step, cause.flag) for trace in traces for step in trace.steps for cause in step.causes}
    assert SHOWN.get(request.node.callspec.params["traced"], set()) <= seen


def test_every_step_declares_its_reach():
    for step in STEPS.values():
        settings = step.settings(skip=False)
        assert isinstance(step.reach(settings, _facts()), int | None)


def _facts():
    from gpucoron.facts import Facts

    return Facts("NIRCAM", nints=2, ngroups=5, group_time=1.0)


def test_flag_names_follow_the_bits():
    assert flag_names(dq.JUMP_DET | dq.DO_NOT_USE | dq.HOT) == ["DO_NOT_USE", "JUMP_DET", "HOT"]
