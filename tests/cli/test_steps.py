"""`gpucoron steps`: the table, one step, one parameter, and JSON; without CRDS and without jwst."""

import json
import re
import subprocess
import sys

import pytest

from gpucoron.cli import main
from gpucoron.engine import order_of, settle
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.parameters import PROFILES
from gpucoron.steps import STEPS


def printed(capsys, *arguments, expect=0):
    assert main(["steps", *arguments]) == expect
    found = capsys.readouterr()
    return found.err if expect else found.out


def values_for(defaults, exposures):
    """Return the default that is listed for exposures such as 'NIRCam' or 'subarrays'."""
    return next(value for of, value in defaults.items() if of == "all" or exposures & set(of.split(", ")))


def test_the_table_has_the_order_of_each_instrument(capsys):
    text = printed(capsys)
    for instrument, name in (("NIRCAM", "NIRCam"), ("MIRI", "MIRI")):
        table = re.search(rf"^{name}, in the order.*?^-+\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)[1]
        assert [line.split()[0] for line in table.splitlines()] == list(order_of(Facts(instrument)))
        lines = {line.split()[0]: line for line in table.splitlines()}
        assert lines["jump"].endswith("gain, readnoise")
        assert re.search(r" off +on( |$)", lines["charge_migration"]) is not None or instrument == "MIRI"
        assert re.search(r" off +off( |$)", lines["charge_migration"]) is not None or instrument == "NIRCAM"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_described(step, capsys):
    text = printed(capsys, step)
    assert text.startswith(f"{step}: {STEPS[step].title}")
    for parameter in STEPS[step].known.values():
        assert f"\n  {parameter.name} = " in text
    assert f"docs/steps/{step}.md" in text
    assert f"gpucoron/steps/{step}.py" in text


@pytest.mark.parametrize(("instrument", "subarray"), [("NIRCAM", "SUB320A335R"), ("MIRI", "MASK1550")])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_defaults_are_those_of_a_reduction(instrument, subarray, profile, exposures, capsys):
    case = exposures(instrument, subarray, "RAPID" if instrument == "NIRCAM" else "FASTR1", 4, 2, shape=(24, 32))
    with case.cache.activate():
        parameters, of_run, _ = settle(Exposure.read_headers(case.path), profile=profile, use_pars=False)
    found = json.loads(printed(capsys, "--json"))
    exposures_of = {"NIRCam" if instrument == "NIRCAM" else "MIRI", "subarrays"}
    for step in found["steps"]:
        if not any(step["name"] in order for order in found["orders"].values()):
            continue
        for one in (*step["parameters"], *step["common"]):
            shown = values_for(one["defaults"][profile], {*exposures_of, f"{min(exposures_of)} subarrays"})
            assert shown == vars(parameters[step["name"]])[one["name"]], (step["name"], one["name"])
    assert {one["name"]: one["defaults"][profile]["all"] for one in found["run"]} == vars(of_run)


def test_the_defaults_of_jwst_are_those_of_its_own_step(capsys):
    from jwst.jump import JumpStep

    (found,) = json.loads(printed(capsys, "JumpStep.three_group_rejection_threshold", "--json"))
    assert found["defaults"]["jwst"]["all"] == JumpStep().three_group_rejection_threshold
    assert found["unit"] == "sigma"
    assert "6.0 sigma in jwst; 4.0 sigma in spaceklip" in printed(capsys, "jump.three_group_rejection_threshold")


def test_values_differ_between_instruments_and_frames(capsys):
    nlower = printed(capsys, "refpix.nlower")
    assert "-1 rows (NIRCam), none (MIRI) in spaceklip" in nlower
    assert "-1 rows (NIRCam subarrays), none (NIRCam full frames, MIRI) in recommended" in nlower
    assert "true (subarrays), false (full frames) in spaceklip" in printed(capsys, "dark_current.skip")
    assert "by default:  jwst: off; spaceklip: on (NIRCam)" in printed(capsys, "subtract_ktc")


def test_the_run_as_a_whole(capsys):
    stages = "stage_1overf = ints in jwst; ints in spaceklip; groups in recommended  (option: groups, ints)"
    assert stages in printed(capsys, "run")
    assert "save_calibrated_ramp" not in printed(capsys, "run.stage_1overf")


def test_names_that_do_not_exist_suggest_the_nearest(capsys):
    assert "did you mean 'linearity'" in printed(capsys, "linearty", expect=2)
    assert "did you mean 'rejection_threshold'" in printed(capsys, "jump.rejection_treshold", expect=2)
    assert "did you mean 'stage_1overf'" in printed(capsys, "run.stage1overf", expect=2)


def test_former_names_still_work(capsys, monkeypatch):
    monkeypatch.setattr("gpucoron.batch.request.RENAMED", {"flicker": "jump", "jump.cut": "jump.rejection_threshold"})
    assert printed(capsys, "flicker").startswith("jump: ")
    assert "rejection_threshold = " in printed(capsys, "jump.cut")


def test_products_name_what_is_written(capsys):
    products = re.search(r"products: +(.*)", printed(capsys, "apply_rateints_outliers"))[1]
    assert products == "x_apply_rateints_outliers.fits (rateints) with save_results"
    assert "x_rate.fits, x_rateints.fits" in printed(capsys, "ramp_fit")
    assert "(rateints), x_subtract_1overf.fits (ramp)" in printed(capsys, "subtract_1overf")


def test_no_large_library_is_imported(tmp_path):
    script = "import sys; from gpucoron.cli import main; main(['steps']); main(['steps', 'jump'])"
    script += "; print({'jwst', 'crds', 'stpipe', 'astropy', 'asdf', 'scipy', 'cupy'} & set(sys.modules))"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
    assert done.stderr == ""
