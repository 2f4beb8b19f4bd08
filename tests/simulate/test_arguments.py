"""Every argument of ``simulate`` is checked before any work, and its error starts with its name."""

import inspect
from dataclasses import fields

import numpy as np
import pytest

from gpucoron.errors import ArgumentError
from gpucoron.simulate import Effects, Scene, simulate
from gpucoron.simulate.arguments import (
    ARGUMENTS,
    MOST_LIGHT,
    SCENE,
    check_arguments,
    read_sky,
    refuse_too_large,
)
from gpucoron.simulate.detectors import DETECTORS

NAN = float("nan")
CASE = {"ngroups": 2, "nints": 1, "shape": (8, 8)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ngroups", 2.5), ("ngroups", True), ("ngroups", "4"), ("ngroups", 10**8), ("nints", 0), ("nints", np.nan),
        ("seed", -1), ("seed", 1.5), ("detector_seed", -1), ("shape", (64,)), ("shape", "64x64"), ("shape", (0, 4)),
        ("target", 3), ("target", "é"), ("target", "x" * 69), ("target", "a\n"), ("magnitude", NAN),
        ("magnitude", -400), ("companion", (1.0,)), ("companion", (NAN, 0.0)), ("companion", (-1.0, 0.0)),
        ("roll", NAN), ("roll", "3"), ("offset", 1.0), ("offset", (0.0, NAN)), ("dither", (1.0, 5)), ("dither", 3),
        ("exposure_time", NAN), ("exposure_time", 0), ("exposure_time", 1e12), ("program", 0), ("observation", 1000),
        ("exposure", 2.0), ("instrument", 3), ("filter", 3), ("role", ["SCI"]), ("zeroframe", "no"),
        ("first_integration", 0), ("total_nints", 0.5), ("effects", {"dark": False}),
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed_is_refused_by_name(name, value):
    with pytest.raises(ArgumentError, match=f"^{name}: expected "):
        check_arguments({name: value})


@pytest.mark.parametrize("name", SCENE)
@pytest.mark.parametrize("value", [NAN, float("inf"), "x", -1e6])
def test_fields_of_a_scene_are_checked(name, value):
    with pytest.raises(ArgumentError, match=f"^scene.{name}: expected "):
        check_arguments({"scene": Scene(**{name: value})})


@pytest.mark.parametrize("name", [field.name for field in fields(Effects)])
@pytest.mark.parametrize("value", [NAN, -1.0, 1e9, "x"])
def test_fields_of_effects_are_checked(name, value):
    with pytest.raises(ArgumentError, match=f"^effects.{name}: expected "):
        check_arguments({"effects": Effects(**{name: value})})


def test_every_argument_has_a_check():
    assert {*ARGUMENTS, "scene", "effects"} == set(inspect.signature(simulate).parameters)
    assert set(SCENE) == {field.name for field in fields(Scene)}


def test_usual_values_pass():
    whole = np.int64(3)
    effects = Effects(one_over_f=False, cosmic_rays=np.float32(30), dark=np.True_, reset=0)
    scene = Scene(star=0, center=(np.float64(3), 4), companion_offset=np.array([1.0, 2.0]))
    check_arguments({"ngroups": whole, "nints": 1, "shape": [whole, 4], "seed": 2**80, "roll": whole, "target": ""})
    check_arguments({"scene": scene, "effects": effects, "companion": (1, -90.0), "dither": (1, 1), "offset": (0, 0)})


@pytest.mark.parametrize(
    "scene", ["x", np.ones((3, 4)), np.ones((1, 8, 8)), NAN, -5, 1e30, 1e300, [[1], [1, 2]], 1j, [None] * 8, {}]
)
def test_a_sky_that_is_not_light_is_refused(scene):
    with pytest.raises(ArgumentError, match="^scene: expected "):
        read_sky(scene, (8, 8))


def test_a_sky_is_broadcast():
    sky = read_sky(np.arange(8), (4, 8))
    assert sky.dtype == np.float32
    np.testing.assert_array_equal(sky, [range(8)] * 4)
    assert (read_sky(MOST_LIGHT, (2, 2)) == np.float32(MOST_LIGHT)).all()


def test_memory_bounds_the_size(monkeypatch):
    def refuse(*arguments):
        with pytest.raises(ArgumentError, match="^ngroups, nints: .* GB are free") as error:
            refuse_too_large(*arguments)
        return str(error.value)

    monkeypatch.setattr("gpucoron.simulate.arguments.free_memory", lambda: 10**9)
    kind, quiet = DETECTORS["NRCALONG"], Effects(one_over_f=0, cosmic_rays=0)
    # raw counts and their copy: 2 bytes each
    refuse_too_large(kind, quiet, (2, 500, 400, 400), 500.0)
    assert "cosmic" not in refuse(kind, quiet, (2, 900, 400, 400), 900.0)
    refuse(kind, Effects(cosmic_rays=0), (2, 500, 400, 400), 500.0)
    assert "fewer cosmic rays" in refuse(kind, Effects(cosmic_rays=1000), (1, 10, 400, 400), 5000.0)
    monkeypatch.setattr("gpucoron.simulate.arguments.free_memory", lambda: None)
    refuse_too_large(kind, quiet, (60000, 30000, 400, 400), 500.0)


def test_simulate_checks_first(monkeypatch):
    def work(*_arguments, **_keywords):
        raise AssertionError

    monkeypatch.setattr("gpucoron.simulate.exposures.make_pixels", work)
    monkeypatch.setattr("gpucoron.simulate.scenes.Scene.render", lambda *_arguments: np.full((8, 8), 2 * MOST_LIGHT))
    wrong = {"seed": -1, "scene": np.ones((3, 4)), "target": "é"}
    for name, value in wrong.items():
        with pytest.raises(ArgumentError, match=f"^{name}: expected") as error:
            simulate("NIRCAM", "SUB320A335R", "SHALLOW4", **CASE | {name: value})
        assert len(error.traceback) == 2  # this test and simulate
    with pytest.raises(ArgumentError, match="^scene: expected 0 to 1e.12 e-/s in each pixel, got 2e.12"):
        simulate("NIRCAM", "SUB320A335R", "SHALLOW4", **CASE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("instrument", ["NIRCAM", "MIRI"])
@pytest.mark.parametrize("given", [{"ngroups": 1}, {"scene": MOST_LIGHT}, {"shape": (1, 1)}])
def test_extremes_work_without_warnings(instrument, given):
    names = ("NIRCAM", "SUB320A335R", "DEEP8") if instrument == "NIRCAM" else ("MIRI", "MASK1550", "SLOWR1")
    simulation = simulate(*names, **CASE | given)
    assert simulation.saturation.count >= 0
    if "shape" not in given:
        assert simulation.noise.signal_to_noise is None
        assert "no estimate in the background" in repr(simulation.noise)
