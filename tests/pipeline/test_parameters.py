"""The declarations compared with the installed jwst, and the rules for resolving parameters."""

import logging
import pickle
from dataclasses import FrozenInstanceError

import pytest

from gpucoron import engine
from gpucoron.batch.plan import make_plan
from gpucoron.errors import ParameterError
from gpucoron.parameters import PIPELINE, RunParameters, changed, convert, resolve
from gpucoron.parameters.without_effect import without_comparisons, without_unused
from gpucoron.steps import STEPS, declared

CUSTOM = {
    "saturation": {"grow_diagonal", "flag_rcsat"},
    "dark_current": {"dark_by_integration", "apply_average_dark_image", "continue_by_line"},
    "jump": {"apply_max_shower_amplitude", "apply_minimum_groups"},
    "ramp_fit": {"convert_average_dark", "jump_rules", "max_diffs_one_sided", "save_calibrated_ramp"},
    "refpix": {"nlower", "nupper", "nleft", "nright", "nrow_off", "ncol_off", "keep_light"},
}


@pytest.fixture(scope="module")
def jwst_steps():
    from jwst.pipeline import Detector1Pipeline

    return Detector1Pipeline.step_defs


def test_steps_are_jwsts(jwst_steps):
    ours = {name for name, step in STEPS.items() if not step.custom}
    assert ours == set(jwst_steps)
    for name, step_class in jwst_steps.items():
        assert STEPS[name].jwst_class == step_class.__name__
        assert STEPS[name].pars_type == step_class.get_config_reftype()


@pytest.mark.parity
@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if not step.custom])
def test_names_and_defaults_are_jwsts(name, jwst_steps):
    from jwst.stpipe import Step
    from stpipe.config_parser import ConfigObj, validate

    step_class = jwst_steps[name]
    spec = step_class.load_spec_file()
    defaults = validate(ConfigObj(), spec, allow_missing=True)
    common = set(Step.load_spec_file()) - {"skip"}
    theirs = {key: defaults[key] for key in spec if key not in common and not key.startswith("override_")}
    ours = {key: parameter.default for key, parameter in declared(name).items() if not key.startswith("override_")}
    # parameters of every step: a subset of jwst's, with its defaults
    shared = {key: ours.pop(key) for key in common if key in ours}
    assert {"save_results", "suffix", "output_dir"} <= set(shared)
    assert shared == {key: defaults[key] for key in shared}
    ours = {key: value for key, value in ours.items() if key not in CUSTOM.get(name, set())}
    assert ours == theirs
    overrides = {key.removeprefix("override_") for key in declared(name) if key.startswith("override_")}
    assert overrides == {key.removeprefix("override_") for key in spec if key.startswith("override_")}


def test_layers():
    settled = resolve(STEPS, "jwst", from_files={"jump": {"rejection_threshold": 5.0, "flag_4_neighbors": False}})
    assert settled["jump"].rejection_threshold == 5.0
    steps = {"jump": {"rejection_threshold": "6"}}
    settled = resolve(STEPS, "jwst", from_files={"jump": {"rejection_threshold": 5.0}}, steps=steps)
    assert settled["jump"].rejection_threshold == 6.0
    assert steps == {"jump": {"rejection_threshold": "6"}}
    assert changed(STEPS, settled) == {"jump": {"rejection_threshold": 6.0}}


@pytest.mark.parametrize("step", STEPS.values(), ids=lambda step: step.name)
def test_parameters_of_a_step_are_a_frozen_dataclass(step):
    settings = step.settings(skip=True)
    assert vars(settings) == {**step.defaults("jwst"), "skip": True}
    assert list(vars(settings)) == list(step.known)
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(FrozenInstanceError):
        settings.skip = False
    with pytest.raises(TypeError, match="no_such_parameter"):
        step.settings(no_such_parameter=1)


def test_settings_do_not_share_lists():
    one, other = STEPS["jump"].settings(), STEPS["jump"].settings()
    one.pre_hooks.append("echo")
    assert other.pre_hooks == STEPS["jump"].known["pre_hooks"].default == []


def test_runs_do_not_share_changes():
    """Steps are switched on and off in new objects."""
    settled, run_parameters, _files = engine.settle(steps={"experimental_jumpramp": {"use": True}})
    assert settled["ramp_fit"].skip and not STEPS["ramp_fit"].default_settings.skip
    assert not engine.settle()[0]["ramp_fit"].skip
    assert vars(run_parameters) == {parameter.name: parameter.default for parameter in PIPELINE}


def test_parameters_can_be_pickled():
    settled, run_parameters, _files = engine.settle(steps={"jump": {"rejection_threshold": 5}})
    assert pickle.loads(pickle.dumps((settled, run_parameters))) == (settled, run_parameters)


def test_the_old_name_of_run_parameters_of_a_plan(exposures, tmp_path):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 1, shape=(24, 24))
    wanted = {"save_calibrated_ramp": True}
    with case.cache.activate():
        plan = make_plan(case.path, tmp_path / "out", run_parameters=wanted)
        with pytest.warns(DeprecationWarning, match="run_parameters"):
            old = make_plan(case.path, tmp_path / "out", of_run=wanted)
        plain = make_plan(case.path, tmp_path / "out")
    assert old.exposures[0].products == plan.exposures[0].products != plain.exposures[0].products


def test_the_old_name_of_the_parameters_of_a_run():
    run = engine.Run(
        exposure=None, backend=None, profile="jwst", parameters={}, run_parameters=RunParameters(), references={},
        pars_files=[], context=(), order=(),
    )  # fmt: skip
    with pytest.warns(DeprecationWarning, match="run_parameters"):
        assert run.of_run is run.run_parameters


def test_spaceklip_profile():
    nircam = resolve(STEPS, "spaceklip", instrument="NIRCAM", subarray="SUB320A335R")
    jump = nircam["jump"]
    thresholds = (
        jump.rejection_threshold,
        jump.three_group_rejection_threshold,
        jump.four_group_rejection_threshold,
    )
    assert thresholds == (4.0, 4.0, 4.0)
    assert not nircam["ramp_fit"].suppress_one_group
    assert nircam["dark_current"].skip
    assert not nircam["charge_migration"].skip
    assert not nircam["saturation"].grow_diagonal
    assert (nircam["refpix"].nlower, nircam["refpix"].nupper) == (-1, -1)
    assert not nircam["subtract_ktc"].skip
    assert not nircam["subtract_1overf"].skip
    assert not resolve(STEPS, "spaceklip", instrument="NIRCAM", subarray="FULL")["dark_current"].skip
    miri = resolve(STEPS, "spaceklip", instrument="MIRI", subarray="MASK1550")
    assert miri["charge_migration"].skip
    assert miri["subtract_ktc"].skip
    assert miri["ipc"].skip
    # parameter files override the profile; the engine decides that those of CRDS are not requested here
    other = resolve(STEPS, "spaceklip", from_files={"jump": {"rejection_threshold": 9.0}})
    assert other["jump"].rejection_threshold == 9.0


@pytest.mark.parametrize(
    ("step", "name", "text", "value"),
    [
        ("jump", "rejection_threshold", "5", 5.0),
        ("jump", "flag_4_neighbors", "no", False),
        ("jump", "sat_expand", "3", 3),
        ("ramp_fit", "firstgroup", "None", None),
        ("ramp_fit", "algorithm", "LIKELY", "LIKELY"),
        ("emicorr", "onthefly_corr_freq", "[390.6, 218.5]", [390.6, 218.5]),
        ("clean_flicker_noise", "background_box_size", "32,32", [32, 32]),
        ("clean_flicker_noise", "background_method", None, None),
    ],
)
def test_values_are_converted(step, name, text, value):
    assert convert(declared(step)[name], text, step) == value


@pytest.mark.parametrize(
    ("step", "name", "value", "words"),
    [
        ("jump", "rejection_threshold", "many", "expected float"),
        ("jump", "rejection_threshold", -1, "at least 0"),
        ("jump", "rejection_threshold", "nan", "at least 0"),
        ("mask_groups", "groups", [False, True], "expected int_list"),
        ("jump", "sat_expand", 2.5, "expected integer"),
        ("jump", "flag_4_neighbors", "perhaps", "expected boolean"),
        ("jump", "rejection_threshold", None, "got None"),
        ("ramp_fit", "algorithm", "OLS", "expected one of"),
        ("ramp_fit", "algoritm", "OLS_C", "did you mean 'algorithm'"),
        ("rampfit", "skip", True, "did you mean 'ramp_fit'"),
    ],
)
def test_impossible_values_are_refused(step, name, value, words):
    with pytest.raises(ParameterError, match=words):
        resolve(STEPS, steps={step: {name: value}})


def test_replaced_steps_are_named_in_one_warning(caplog):
    steps = {
        "experimental_jumpramp": {"use": "True"},
        "ramp_fit": {"firstgroup": 1, "algorithm": "LIKELY", "suppress_one_group": False, "save_calibrated_ramp": True},
        "jump": {"rejection_threshold": 7.0, "four_group_rejection_threshold": 4.0, "skip": False},
    }
    with caplog.at_level(logging.WARNING, logger="gpucoron"):
        settled, run_parameters, _files = engine.settle(steps=steps)
    (record,) = caplog.records
    # a value of the profile may not have been set by the user
    assert record.getMessage() == (
        "jump.rejection_threshold, ramp_fit.algorithm are accepted and not used: "
        "experimental_jumpramp replaces jump and ramp_fit"
    )
    assert settled["jump"].skip
    assert run_parameters.save_calibrated_ramp
    caplog.clear()
    engine.settle(steps={**without_unused(STEPS, steps)})
    engine.settle(steps={**steps, "experimental_jumpramp": {"use": False}})
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mask_method": "basic"}, ["mask_method"]),
        ({"types": "REF", "threshold": 80, "mask_method": "basic"}, ["mask_method", "types", "threshold"]),
        ({"types": ["REF"], "groups": [0]}, []),
        ({"mask_method": "custom", "custom_group": 3, "types": ["SCI"]}, []),
        ({"skip": True, "types": ["REF"]}, []),
        ({}, []),
    ],
)
def test_parameters_that_compare_exposures_are_not_used_for_one(given, named, caplog):
    steps = {"mask_groups": given, "jump": None}
    with caplog.at_level(logging.WARNING, logger="gpucoron"):
        kept = without_comparisons(STEPS, steps)
    assert kept == {"mask_groups": {name: given[name] for name in given if name not in named}, "jump": {}}
    assert steps == {"mask_groups": given, "jump": None}
    messages = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in messages] == (
        [", ".join(f"mask_groups.{name}" for name in named)] if named else []
    )
    assert all("run_obs" in text and "mask_groups.groups" in text for text in messages)
