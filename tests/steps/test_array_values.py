"""Arguments of the array functions other than arrays: each is declared, and invalid values are refused by name.

The invalid values follow from the declarations, so that new arguments are tested automatically.
"""

import inspect
import re
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends.operations.jump import JumpSettings
from gpucoron.backends.operations.likelihood import LikelihoodRampSettings
from gpucoron.backends.operations.showers import ShowerSettings
from gpucoron.errors import ArgumentError
from gpucoron.steps import STEPS
from gpucoron.steps.arguments import Array, Images, unnamed
from gpucoron.steps.snowballs import SnowballSettings
from gpucoron.steps.subtract_1overf import LINEAR_MODELS
from gpucoron.steps.values import Choice, Having, Kind, Number, Options, Switch
from tests.cases.arrays import FUNCTIONS, call, make_arguments

NUMBERS = [
    (name, key)
    for name, function in FUNCTIONS.items()
    for key, kind in function.declared.items()
    if isinstance(kind, Number)
]
EVERYTHING = [(name, key) for name, function in FUNCTIONS.items() for key in inspect.signature(function).parameters]
VALUES = [
    (name, key)
    for name, key in EVERYTHING
    if key != "backend" and not isinstance(FUNCTIONS[name].declared.get(key), (Array, Images))
]


@pytest.mark.parametrize(("name", "key"), EVERYTHING)
def test_every_argument_is_declared(name, key):
    declared = FUNCTIONS[name].declared
    assert key == "backend" or type(declared.get(key)) in (Array, Images, Number, Switch, Choice, Having, Kind, Options)
    assert set(declared) <= set(inspect.signature(FUNCTIONS[name]).parameters)


def nonsense_for(kind, default):
    """List values that are not of a kind."""
    if isinstance(kind, Number):
        values = ["x", [1.0], True, 1j] + [None] * (default is not None) + [float("nan")] * (not kind.nan)
        values += [1.5, float("inf")] if kind.whole else []
        values += [float("inf"), float("-inf")] if kind.finite or kind.positive else []
        values += [0, -1, -0.5] if kind.positive else []
        values += [kind.minimum - 1] if kind.minimum is not None else []
        return values + ([kind.above, kind.above - 1] if kind.above is not None else [])
    if isinstance(kind, Switch):
        return ["x", "true", float("nan"), 1.5, -1, None, [True]]
    if isinstance(kind, Choice):
        return ["x", float("nan"), 1.5, 7] + [None] * (None not in kind.options)
    return ["x", float("nan"), 1.5, -1] + [None] * (default is not None)


@pytest.mark.parametrize(("name", "key"), VALUES)
def test_values_that_make_no_sense_are_refused_by_name(name, key):
    parameter = inspect.signature(FUNCTIONS[name]).parameters[key]
    kind = FUNCTIONS[name].declared[key]
    kinds = kind.kinds if isinstance(kind, Options) else {key: kind}
    for label, own in kinds.items():
        default = None if isinstance(kind, Options) or parameter.kind is parameter.VAR_POSITIONAL else parameter.default
        for value in nonsense_for(own, default):
            arguments = make_arguments(name)
            before = {each: array.copy() for each, array in arguments.items() if isinstance(array, np.ndarray)}
            with pytest.raises(ArgumentError, match=f"^{re.escape(name)}: .*{label}"):
                if parameter.kind is parameter.VAR_POSITIONAL:
                    FUNCTIONS[name](arguments["gain"], value)
                else:
                    call(name, {**arguments, label: value})
                pytest.fail(f"{label}={value!r} was accepted")
            for each, array in before.items():
                np.testing.assert_array_equal(arguments[each], array)


FIELDS = [
    (name, key, *more)
    for name, key in VALUES
    if isinstance(FUNCTIONS[name].declared[key], Having)
    for field, own in FUNCTIONS[name].declared[key].kinds.items()
    for more in [(field, value) for value in ([5] if isinstance(own, Having) else nonsense_for(own, ...))]
    if not (more[1] is None and getattr(own, "optional", False))
]


#: functions with settings that may be omitted
SETTINGS = {
    "jump.flag_jumps": JumpSettings,
    "likelihood.fit_integrations": LikelihoodRampSettings,
    "showers.flag_showers": ShowerSettings,
    "snowballs.flag_snowballs": SnowballSettings,
}


@pytest.mark.parametrize(("name", "key", "field", "value"), FIELDS)
def test_fields_that_make_no_sense_are_refused_by_name(name, key, field, value):
    given = make_arguments(name).get(key)
    if given is None:
        given = SETTINGS[name]()
    plain = {each: getattr(given, each) for each in dir(given) if not each.startswith("__")}
    with pytest.raises(ArgumentError, match=f"^{re.escape(name)}: {key}.{field}: expected "):
        call(name, {**make_arguments(name), key: SimpleNamespace(**{**plain, field: value})})


def test_the_messages_of_values():
    arguments = make_arguments("jump.flag_jumps")
    arguments["nframes"] = -1
    with pytest.raises(ArgumentError) as caught:
        call("jump.flag_jumps", arguments)
    assert str(caught.value) == "jump.flag_jumps: nframes: expected a whole number of 1 or more, got -1"
    arguments = make_arguments("dark_current.subtract_dark")
    arguments["pattern"] = SimpleNamespace(nframes=1)
    with pytest.raises(ArgumentError, match=r"pattern: expected a ReadPattern, got .*, which has no total_frames"):
        call("dark_current.subtract_dark", arguments)
    with pytest.raises(ArgumentError, match="^jump.flag_jumps: .*settings must be JumpSettings, not SimpleNamespace"):
        call(
            "jump.flag_jumps",
            {**make_arguments("jump.flag_jumps"), "settings": SimpleNamespace(**vars(JumpSettings()))},
        )


def same_names():
    """List the arguments that are also parameters of a step, with the same name."""
    for name, function in FUNCTIONS.items():
        module = name.partition(".")[0]
        own = {each.name: each for each in STEPS[module].parameters} if module in STEPS else {}
        kinds = {key: kind for key, kind in function.declared.items() if not isinstance(kind, Options)}
        for kind in function.declared.values():
            kinds |= kind.kinds if isinstance(kind, Options) else {}
        for key, kind in kinds.items():
            if key in own and not isinstance(kind, (Array, Images)):
                yield name, key, kind, own[key]


#: options of a step for which there are other functions
OF_OTHERS = {"model_type": LINEAR_MODELS}


@pytest.mark.parametrize(
    ("name", "key", "kind", "parameter"), [pytest.param(*each, id=".".join(each[:2])) for each in same_names()]
)
def test_a_parameter_of_the_step_is_the_same_kind_of_value(name, key, kind, parameter):
    expected = {"integer": Number, "float": Number, "boolean": Switch, "option": Choice}.get(parameter.kind, Kind)
    assert type(kind) is expected
    if expected is Number:
        assert kind.whole == (parameter.kind == "integer")
        # a step may accept fewer values than its function
        assert all(edge is None or kind.hold(edge) for edge in (parameter.minimum, parameter.maximum))
    if expected is Choice:
        assert kind.options + OF_OTHERS.get(key, ()) == parameter.options
    if parameter.default is not None and expected is not Kind:
        assert kind.take(key, parameter.default) == parameter.default


def test_a_run_is_not_held_to_the_least_values():
    """The step's parameters are checked when they are resolved; the step accepts the values that jwst accepts."""
    arguments = make_arguments("refpix.clipped_means")
    with pytest.raises(ArgumentError, match="siglimit: expected a number in standard deviations of 0 or more, got -1"):
        call("refpix.clipped_means", {**arguments, "siglimit": -1})
    with unnamed():
        means, _ = call("refpix.clipped_means", {**arguments, "siglimit": -1})
    assert np.isnan(means).all()


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_numbers_have_no_unit(name, key):
    from astropy import units

    arguments = make_arguments(name)
    if key == "counts":
        arguments = {"gain": arguments["gain"]}
        with pytest.raises(ArgumentError, match=f"^{re.escape(name)}: counts: has a unit, s"):
            FUNCTIONS[name](arguments["gain"], 2.0 * units.s)
        return
    with pytest.raises(ArgumentError, match=f"^{re.escape(name)}: {key}: has a unit, s"):
        call(name, {**arguments, key: 2.0 * units.s})


PARTS = [
    ("emicorr.apply_emicorr", "waves", [(390.0, "x")], "expected a list of"),
    ("emicorr.apply_emicorr", "waves", [(-390.0, [0.0, 1.0])], "frequency: expected a number in Hz above 0"),
    ("emicorr.apply_emicorr", "waves", [(390.0, [0.0, float("nan")])], "expected a list of"),
    ("emicorr.apply_emicorr", "waves", [390.0], "expected a list of"),
    ("emicorr.fit_phase", "advances", [float("nan"), 0.0], "expected finite numbers"),
    ("reset.subtract_reset", "nints", 3, "the reset reference has 2, fewer than 3"),
    ("reset.subtract_reset", "ngroups", 4, "the reset reference has 3, fewer than 4"),
    ("ipc.correct_ipc", "edges", (4, 0, 0), "expected numbers of rows and columns"),
    ("ipc.correct_ipc", "edges", (4, 0, 0, 1.5), "expected numbers of rows and columns"),
    ("ipc.correct_ipc", "edges", (-4, 0, 0, 0), ".* leave no pixels"),
    ("dark_current.subtract_dark", "lines", [5], "line: expected a Line, got 5"),
    ("likelihood.fit_integrations", "read_times", [[2.0, "x"]], "expected for each resultant its time"),
    ("group_matching.sum_ring", "center", (9.0, None), "expected two coordinates"),
    ("known_sources.protect_sources", "shape", (16, 0), "shape: expected a whole number of 1 or more, got 0"),
    ("known_sources.protect_sources", "shape", (16, 20, 3), r"expected \(ny, nx\), got \(16, 20, 3\)"),
    ("known_sources.protect_sources", "companions", (5.0, float("inf")), "expected numbers x1, y1"),
    ("mask_groups.apply_mask", "mask", np.zeros((2, 6, 16, 20)), ""),
]


@pytest.mark.parametrize(("name", "key", "value", "message"), PARTS)
def test_invalid_elements_are_refused_by_name(name, key, value, message):
    prefix = "mask_array must be a boolean array" if key == "mask" else f"{key}: {message}"
    with pytest.raises(ArgumentError, match=f"^{re.escape(name)}: {prefix}"):
        call(name, {**make_arguments(name), key: value})


def test_good_values_are_taken_in_any_form():
    """NumPy numbers and booleans, whole numbers as floats, 0 and 1 for booleans."""
    assert Number(whole=True, minimum=1).take("n", np.float32(2.0)) == 2
    assert Number().take("x", np.array(1.5)) == 1.5
    assert Number(minimum=0).take("x", float("inf")) == float("inf")
    assert np.isnan(Number(nan=True).take("x", float("nan")))
    assert [Switch().take("s", value) for value in (np.True_, 0, np.array(True), 1)] == [True, False, True, True]
    assert Choice("a", "b").take("c", np.str_("b")) == "b"


def test_a_run_with_a_strange_slow_axis_says_so():
    arguments = make_arguments("subtract_1overf.fit_noise")
    with unnamed(), pytest.raises(ValueError, match="^slowaxis must be 1, 2, -1 or -2, not 3$"):
        call("subtract_1overf.fit_noise", {**arguments, "slowaxis": 3})


def test_long_values_are_not_repeated():
    arguments = make_arguments("known_sources.protect_sources")
    with pytest.raises(ArgumentError, match=r"radius: expected .*, got an array of shape \(40, 40\)$"):
        call("known_sources.protect_sources", {**arguments, "radius": np.zeros((40, 40))})
