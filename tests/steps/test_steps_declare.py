"""Declarations of the steps: the table is complete, and no other module uses the name of a step."""

import ast
import inspect
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gpucoron
from gpucoron import engine
from gpucoron.errors import ParameterError
from gpucoron.facts import Facts
from gpucoron.io import products
from gpucoron.io.exposure import Exposure
from gpucoron.io.user_files import with_files_read
from gpucoron.parameters import PIPELINE, PROFILES, SPACEKLIP_CLASS, RunParameters
from gpucoron.steps import STEPS, declared
from gpucoron.steps.declaration import COMMON

PACKAGE = Path(gpucoron.__file__).parent
#: `describe` describes the steps of the table
MODULES = sorted(path.stem for path in (PACKAGE / "steps").glob("*.py") if path.stem not in ("__init__", "describe"))
FACTS = {name: Facts(name, subarray="FULL") for name in ("NIRCAM", "MIRI")}
ORDERS = [engine.order_of(facts, stage) for facts in FACTS.values() for stage in ("groups", "ints")]

#: modules that treat all steps alike
GENERIC = (
    "parameters/__init__",
    "parameters/kinds",
    "pipeline",
    "io/products",
    "io/user_files",
    "batch/plan",
    "cli/run",
    "cli/options",
)


def constants(tree):
    """List the strings in a piece of code that are names of steps."""
    found = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [value for value in found if isinstance(value, str) and value in STEPS]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_declares_a_step_is_in_the_table_and_in_an_order(name):
    module = import_module(f"gpucoron.steps.{name}")
    step = getattr(module, "STEP", None)
    assert (step is not None) == hasattr(module, "run")
    if step is not None:
        assert step.name == name
        assert STEPS[name] is step
        assert any(name in order for order in ORDERS)


def test_the_orders_name_steps_and_the_table_is_read_only():
    assert {name for order in ORDERS for name in order} == set(STEPS)
    with pytest.raises(TypeError):
        STEPS["jump"] = None
    for order in ORDERS:
        assert len(set(order)) == len(order)


def test_the_table_gathers_itself(tmp_path, monkeypatch):
    """The table needs only a new module in the folder."""
    from gpucoron import steps

    text = "from gpucoron.steps.declaration import Step\n\nSTEP = Step('brand_new', 'something new')\n"
    (tmp_path / "brand_new.py").write_text(text)
    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(tmp_path)])
    monkeypatch.setitem(sys.modules, "gpucoron.steps.brand_new", None)
    monkeypatch.delitem(sys.modules, "gpucoron.steps.brand_new")
    gathered = steps._gather()
    assert list(gathered) == [*STEPS, "brand_new"]
    common = [parameter.name for parameter in COMMON]
    assert list(gathered["brand_new"].STEP.known) == ["skip", "save_results", *common]
    monkeypatch.delattr(steps, "brand_new")


def test_1overf_noise_is_removed_before_the_fit_or_after_it():
    for facts in FACTS.values():
        before, after = engine.order_of(facts, "groups"), engine.order_of(facts, "ints")
        assert before.index("subtract_1overf") == before.index("subtract_ktc") + 1
        assert after.index("subtract_1overf") == after.index("gain_scale") - 1


def test_the_engine_knows_steps_by_their_order_alone():
    tree = ast.parse((PACKAGE / "engine.py").read_text(encoding="utf-8"))
    of_orders = [node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id.endswith("_STEPS")]
    assert len(of_orders) == 3
    in_orders = [name for node in of_orders for name in constants(node)]
    assert sorted(constants(tree)) == sorted(in_orders)


@pytest.mark.parametrize("room", GENERIC)
def test_generic_modules_name_no_step(room):
    assert constants(ast.parse((PACKAGE / f"{room}.py").read_text(encoding="utf-8"))) == []


def test_imports_among_steps_go_in_no_circle():
    imports = {}
    for name in MODULES:
        tree = ast.parse((PACKAGE / "steps" / f"{name}.py").read_text(encoding="utf-8"))
        found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert "gpucoron.steps" not in found, "the table stands on the modules, not they on it"
        imports[name] = {path.removeprefix("gpucoron.steps.") for path in found if path.startswith("gpucoron.steps.")}
    while imports:
        free = [name for name, needs in imports.items() if not needs & set(imports)]
        assert free, f"a circle among {', '.join(imports)}"
        for name in free:
            del imports[name]


@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
def test_declared_names_exist(step):
    signature = list(inspect.signature(import_module(f"gpucoron.steps.{step.name}").run).parameters)
    assert signature[:4] == ["exposure", "references", "parameters", "backend"]
    assert tuple(signature[4:]) == step.helpers
    assert set(step.helpers) <= set(engine._HELPERS)
    assert set(step.profiles) <= {*PROFILES, SPACEKLIP_CLASS}
    for preset in step.profiles.values():
        assert set(preset.values) <= set(step.known)
    assert {parameter.removeprefix("not ") for parameter in step.keywords.values()} <= set(step.known)
    assert set(step.replaces) <= set(STEPS)
    assert not step.switch or step.switch in step.known
    assert not step.run_switch or step.run_switch in {parameter.name for parameter in PIPELINE}
    assert step.leaves in ("ramp", "calibrated ramp", "slopes")
    assert dict(declared(step.name)) == dict(step.known)


@pytest.mark.parametrize(
    ("step", "settings", "instrument", "subarray", "expected"),
    [
        ("refpix", {"refpix_algorithm": "sirs"}, "NIRCAM", "FULL", ("sirskernel",)),
        ("refpix", {"refpix_algorithm": "sirs"}, "NIRCAM", "SUB320A335R", ()),
        ("refpix", {"refpix_algorithm": "sirs"}, "MIRI", "FULL", ()),
        ("refpix", {"refpix_algorithm": "median"}, "NIRCAM", "FULL", ()),
        ("clean_flicker_noise", {"apply_flat_field": True}, "NIRCAM", "FULL", ("flat",)),
        ("clean_flicker_noise", {"apply_flat_field": False}, "NIRCAM", "FULL", ()),
        ("picture_frame", {}, "NIRCAM", "FULL", ("pictureframe",)),
        ("saturation", {}, "MIRI", "MASK1550", ("saturation", "superbias")),
    ],
)
def test_references_follow_from_settings_and_facts(step, settings, instrument, subarray, expected):
    facts = Facts(instrument, subarray=subarray)
    assert STEPS[step].references_of(STEPS[step].settings(**settings), facts) == expected


def test_the_dark_is_left_where_it_was_asked_for():
    step = STEPS["dark_current"]
    exposure = Exposure(matched_dark=np.ones((2, 3)))
    (extra,) = step.extras(exposure, step.settings(dark_output="somewhere/mine"))
    assert (extra.kind, extra.file_name) == ("dark", "mine.fits")
    assert extra.array is exposure.matched_dark
    assert step.extras(exposure, step.settings()) == []
    assert step.extras(Exposure(), step.settings(dark_output="x")) == []


def test_the_chi_square_is_left_where_it_was_asked_for():
    step = STEPS["ramp_fit"]
    exposure = Exposure(likelihood_chisq=np.ones((2, 3)), path=Path("x_uncal.fits"))
    (extra,) = step.extras(exposure, step.settings(save_opt=True, algorithm="LIKELY"))
    assert products.extra_path(extra, "raw/x_uncal.fits", "out") == Path("out/x_likely_chisq.fits")
    (extra,) = step.extras(exposure, step.settings(save_opt=True, algorithm="LIKELY", opt_name="mine.fits"))
    assert products.extra_path(extra, "raw/x_uncal.fits", "out") == Path("out/mine_likely_chisq.fits")
    assert step.extras(exposure, step.settings(save_opt=False)) == []
    assert step.extras(Exposure(), step.settings(save_opt=True)) == []


@pytest.mark.parametrize(
    ("name", "asked", "rateints", "expected"),
    [
        ("jump", {"save_results": True}, None, ["jump"]),
        ("jump", {"save_intermediates": True}, None, ["jump"]),
        ("jump", {"save_calibrated_ramp": True}, None, []),
        ("persistence", {"save_calibrated_ramp": True}, None, ["ramp"]),
        ("persistence", {"save_intermediates": True}, None, ["persistence", "ramp"]),
        ("ramp_fit", {"save_intermediates": True, "save_results": True}, None, []),
        ("ramp_fit", {"save_intermediates": True}, object(), []),
        ("ramp_fit", {"save_results": True}, object(), ["0_ramp_fit", "1_ramp_fit"]),
        ("gain_scale", {"output_file": "mine"}, object(), ["gain_scale", "gain_scaleints"]),
        ("gain_scale", {"save_results": True}, None, []),
        ("subtract_1overf", {"save_results": True}, None, ["subtract_1overf"]),
        ("subtract_1overf", {"save_results": True}, object(), ["subtract_1overf"]),
        ("subtract_1overf", {"save_intermediates": True, "suffix": "mine"}, object(), ["mine"]),
        (
            "experimental_jumpramp",
            {"save_results": True},
            object(),
            ["experimental_jumpramp0", "experimental_jumpramp1"],
        ),
        ("jump", {"save_results": True, "suffix": "mine"}, None, ["mine"]),
        ("mask_groups", {"save_intermediates": True, "status": "SKIPPED"}, None, []),
    ],
)
def test_results_are_saved_as_they_stand(name, asked, rateints, expected, monkeypatch):
    """Ramps while there are ramps, then slopes."""
    for kind in ("ramp", "rate", "rateints"):
        monkeypatch.setattr(products, f"{kind}_model", lambda run, kind=kind: kind)
    asked = {"output_dir": "there"} | asked
    step = STEPS[name]
    settings = step.settings(**{key: value for key, value in asked.items() if key in step.known})
    run_parameters = RunParameters(
        **{key: asked.get(key, False) for key in ("save_calibrated_ramp", "save_intermediates")}
    )
    run = SimpleNamespace(
        exposure=Exposure(rateints=rateints), parameters={name: settings}, run_parameters=run_parameters
    )
    record = SimpleNamespace(name=name, reason="", status=asked.get("status", "COMPLETE"))
    found = products.extra_products(run, record)
    assert [extra.suffix for extra, model in found] == expected
    # the calibrated ramp is a product of the run, and in the same folder
    assert all(extra.folder == ("" if extra.suffix == "ramp" else "there") for extra, model in found)
    kinds = {None: ["ramp"] * len(found)}.get(rateints, [[], ["rateints"], ["rate", "rateints"]][min(len(found), 2)])
    assert [model for extra, model in found] == kinds


def exposure_of(instrument="NIRCAM", subarray="SUB320A335R"):
    return Exposure(facts=Facts(instrument, subarray=subarray))


def test_later_sources_override_earlier_ones(monkeypatch):
    """The order is: defaults, profile, CRDS parameter files, user."""
    asked = []

    def files(exposure):
        asked.append(exposure)
        steps = {"jump": {"rejection_threshold": 5.0, "sat_expand": 3}, "ipc": {"skip": True}}
        return steps, {"save_calibrated_ramp": True, "stage_1overf": "groups"}, ["a file"]

    monkeypatch.setattr(engine, "parameters_from_crds", files)
    user = {"jump": {"rejection_threshold": "6"}}
    parameters, run_parameters, applied = engine.settle(exposure_of(), steps=user, pipeline={"stage_1overf": "ints"})
    jump = parameters["jump"]
    assert (jump.rejection_threshold, jump.sat_expand, jump.edge_size) == (6.0, 3, 25)
    assert parameters["ipc"].skip
    assert (run_parameters.save_calibrated_ramp, run_parameters.stage_1overf, applied) == (True, "ints", ["a file"])
    parameters, run_parameters, applied = engine.settle(exposure_of(), profile="spaceklip", steps=user)
    jump = parameters["jump"]
    assert (jump.rejection_threshold, jump.three_group_rejection_threshold, jump.sat_expand) == (6.0, 4.0, 2)
    assert (run_parameters.save_calibrated_ramp, applied) == (False, [])
    assert len(asked) == 1
    assert engine.settle(exposure_of(), use_pars=False)[2] == []
    assert engine.settle()[2] == []
    assert len(asked) == 1
    with pytest.raises(ParameterError, match="did you mean 'stage_1overf'"):
        engine.settle(pipeline={"stage_1over": "ints"})


def test_steps_are_switched_on_in_favour_of_others():
    parameters, _run_parameters, _files = engine.settle(steps={"experimental_jumpramp": {"use": True}})
    assert [parameters[name].skip for name in ("experimental_jumpramp", "jump", "ramp_fit")] == [False, True, True]
    parameters, _run_parameters, _files = engine.settle(pipeline={"rate_int_outliers": True})
    assert not parameters["apply_rateints_outliers"].skip
    assert parameters["experimental_jumpramp"].skip


@pytest.mark.parametrize(
    ("instrument", "subarray", "dark", "ipc", "one_over_f"),
    [
        ("NIRCAM", "FULL", False, False, False),
        ("NIRCAM", "SUB320A335R", True, False, False),
        ("MIRI", "FULL", False, True, True),
        ("MIRI", "MASK1550", True, True, True),
        ("NIRISS", "SUB80", True, False, True),
    ],
)
def test_a_profile_knows_for_which_exposures_it_is(instrument, subarray, dark, ipc, one_over_f):
    parameters, _run_parameters, _files = engine.settle(exposure_of(instrument, subarray), profile="spaceklip")
    found = [parameters[name].skip for name in ("dark_current", "ipc", "subtract_1overf")]
    assert found == [dark, ipc, one_over_f]


def test_files_are_read_by_the_kind_of_the_parameter(tmp_path):
    from astropy.io import fits

    mask = np.ones((3, 4), bool)
    np.save(tmp_path / "mask.npy", mask)
    fits.writeto(tmp_path / "flags.fits", mask.astype(np.int16))
    step = STEPS["subtract_1overf"]
    settings = step.settings(user_mask=str(tmp_path / "mask.npy"))
    np.testing.assert_array_equal(with_files_read(step, settings, None).user_mask, mask)
    assert settings.user_mask == str(tmp_path / "mask.npy")
    settings = step.settings(user_mask=mask)
    assert with_files_read(step, settings, None).user_mask is mask
    settings = STEPS["dq_init"].settings(user_supplied_dq=str(tmp_path / "flags.fits"))
    exposure = Exposure(data=mask[None, None], facts=Facts("NIRCAM", xstart=1, ystart=1))
    flags = with_files_read(STEPS["dq_init"], settings, exposure).user_supplied_dq
    assert flags.dtype == np.uint32
    np.testing.assert_array_equal(flags, mask)
    settings = STEPS["jump"].settings()
    assert with_files_read(STEPS["jump"], settings, None) is settings
