"""The commands of a record, read by the real parser of the command line, make the request of the record."""

import shlex

import numpy as np
import pytest

from gpucoron.batch.request import user_request
from gpucoron.cli import _parser
from gpucoron.cli.options import parse_settings, run_parameters_of
from gpucoron.io.parameter_files import takes_crds_pars
from gpucoron.records.commands import command_again, command_ramp, request_of

PATH = "/data/raw/jw01386001001_0310a_00001_nrcalong_uncal.fits"


def ask(profile="jwst", use_pars=None, steps=None, **run_parameters):
    """Make the request of a user, as a manifest stores it."""
    use_pars = takes_crds_pars(profile, use_pars)
    return user_request(None, profile=profile, steps=steps or {}, run_parameters=run_parameters, use_pars=use_pars)


def make(asked, **fields):
    return {"exposure": "x", "input": PATH, "asked": asked, **fields}


def read(command):
    """Read a command as a shell and the command line do; return its options and the request that it makes."""
    program, *words = shlex.split(command)
    assert program == "gpucoron"
    options = _parser().parse_args(words)
    steps, run_parameters = parse_settings(options.settings, options.skip), run_parameters_of(options)
    return options, ask(options.profile, options.use_pars, steps, **run_parameters)


REQUESTS = {
    "defaults": {},
    "spaceklip": {"profile": "spaceklip"},
    "recommended": {"profile": "recommended"},
    "recommended without parameter files": {"profile": "recommended", "use_pars": False},
    "without parameter files": {"use_pars": False},
    "numbers": {"steps": {"jump": {"rejection_threshold": 4.5, "max_jump_to_flag_neighbors": 1e30}}},
    "booleans": {"steps": {"jump": {"skip": True, "find_showers": False}, "ipc": {"skip": False}}},
    "None": {"steps": {"mask_groups": {"groups": None}, "subtract_1overf": {"companions": None}}},
    "a file of None": {"steps": {"persistence": {"save_persistence": None}}},
    "lists": {"steps": {"subtract_1overf": {"companions": [10, 20.5, -3, 1e-7]}, "mask_groups": {"groups": [-1, 0]}}},
    "a list of texts": {"steps": {"mask_groups": {"types": ["REF", "REF_BG"]}}},
    "a text with spaces and quotes": {"steps": {"ramp_fit": {"opt_name": 'it\'s $HOME; a "b" & c.fits'}}},
    "an equals sign": {"steps": {"ramp_fit": {"opt_name": "a=b.fits"}}},
    "a file": {"steps": {"subtract_1overf": {"user_mask": "/my masks/disc.npy"}}},
    "a reference": {"steps": {"jump": {"override_gain": "/my refs/gain.fits"}}},
    "no reference": {"steps": {"ipc": {"override_ipc": "N/A"}}},
    "hooks": {"steps": {"jump": {"pre_hooks": "mine.first, mine.second(a=1, b=2)", "post_hooks": ""}}},
    "of the run": {"save_calibrated_ramp": True, "save_intermediates": True, "rate_int_outliers": True},
    "a stage": {"stage_1overf": "groups"},
    "switched off without parameter files": {"use_pars": False, "save_intermediates": False},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_command_makes_the_request_again(name):
    asked = ask(**REQUESTS[name])
    options, again = read(command_again(make(asked)))
    assert options.command == "run"
    assert options.files == [PATH]
    assert options.output_dir == "again"
    expected = {key: value for key, value in asked["parameters"].items() if value or not key.startswith("run.")}
    assert again == asked | {"parameters": expected}


def test_the_path_of_the_input_may_hold_anything():
    for path in ("/data/my night/it's_uncal.fits", "/data/$(rm -r x)_uncal.fits", "/data/`x`;ls_uncal.fits"):
        options, _ = read(command_again(make(ask(), input="other", input_path=path)))
        assert options.files == [path]
    options, _ = read(command_again(make(ask(), input="-x_uncal.fits"), "my folder"))
    assert options.files == ["./-x_uncal.fits"]
    assert options.output_dir == "my folder"


@pytest.mark.parametrize("name", REQUESTS)
def test_the_command_of_a_ramp_makes_the_request_too(name):
    record = make(ask(**REQUESTS[name]))
    command = command_ramp(record)
    assert command.startswith(f"gpucoron ramp {PATH} {{x}} {{y}} --profile ")
    options, again = read(command.replace("{x}", "12").replace("{y}", "7"))
    assert (options.command, options.file, options.x, options.y) == ("ramp", PATH, "12", "7")
    expected = read(command_again(record))[1]
    for name in ("run.save_calibrated_ramp", "run.save_intermediates"):  # a ramp saves neither
        expected["parameters"].pop(name, None)
    assert again == expected


#: requests that no command makes: what is lost is named
WITHOUT_COMMAND = {
    "an array in memory": {"steps": {"subtract_1overf": {"user_mask": np.zeros((3, 3), bool)}}},
    "a function": {"steps": {"jump": {"pre_hooks": [print]}}},
    "a comma within a text of a list": {"steps": {"mask_groups": {"types": ["a,b"]}}},
    "an empty list": {"steps": {"mask_groups": {"types": []}}},
    "a blank at the end of a text": {"steps": {"ramp_fit": {"opt_name": "x "}}},
    "parameter files of CRDS beside spaceKLIP's profile": {"profile": "spaceklip", "use_pars": True},
    "what a parameter file may switch on, switched off": {"rate_int_outliers": False},
}


@pytest.mark.parametrize("name", WITHOUT_COMMAND)
def test_no_command_is_better_than_a_wrong_one(name):
    record = make(ask(**WITHOUT_COMMAND[name]))
    assert command_again(record) == command_ramp(record) == ""


def test_what_is_saved_does_not_matter_for_a_ramp():
    record = make(ask(save_intermediates=False))  # a parameter file may switch it on, and no option switches it off
    assert command_again(record) == ""
    assert command_ramp(record) == f"gpucoron ramp {PATH} {{x}} {{y}} --profile jwst"


@pytest.mark.parametrize(
    "record",
    [
        {"exposure": "x", "input": PATH},  # gpucoron 0.1.0, and records from headers
        {"exposure": "x", "asked": ask()},
        {"exposure": "x", "input": 5, "asked": ask()},
        make("a text"),
        make({"profile": "jwst", "use_pars": True, "parameters": None}),
        make({"profile": "jwst", "parameters": {}}),
        make({"profile": "jwst", "use_pars": True, "parameters": {"jump.of_another_version": 1}}),
        make({"profile": "jwst", "use_pars": True, "parameters": {"jump.rejection_threshold": {"odd": 1}}}),
        make(ask(), persistence={"found": "digest of what earlier exposures left"}),
        make(ask(), input="/data/{x}_uncal.fits"),
    ],
    ids=range(10),
)
def test_incomplete_records_have_no_command(record):
    assert command_again(record) == command_ramp(record) == ""


def test_the_request_has_the_arguments_of_a_reduction():
    asked = ask("spaceklip", steps={"jump": {"rejection_threshold": "5"}}, stage_1overf="groups")
    request = request_of(make(asked))
    assert (request.profile, request.use_pars) == ("spaceklip", False)
    assert request.steps == {"jump": {"rejection_threshold": 5.0}}
    assert request.run_parameters == {"stage_1overf": "groups"}
