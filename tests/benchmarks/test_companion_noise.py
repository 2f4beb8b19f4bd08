"""The measurement of noise for companions: its scenes, its reference without 1/f noise, and its part of the page."""

import sys

import numpy as np
import pytest

from tests.cases.paths import ROOT

SCRIPTS = ROOT / "benchmarks" / "validation"


@pytest.fixture
def script(monkeypatch):
    """Import the script; its siblings have names that other tests might use, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import companion_noise

    yield companion_noise
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(SCRIPTS)):
            del sys.modules[name]


@pytest.fixture
def section(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import validation_companion_noise

    return validation_companion_noise


def test_scenes_do_not_depend_on_the_call_and_are_valid_light(script):
    first, second = script.coronagraph_scenes.make_scenes(), script.coronagraph_scenes.make_scenes()
    assert list(first) == ["halo", "faint", "stars", "spikes", "bar"]
    for name, (image, center) in first.items():
        np.testing.assert_array_equal(image, second[name][0])
        assert image.shape == script.scenes.SHAPE
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert center == script.scenes.center()


@pytest.mark.parametrize(("star", "place"), [((150, 174), (80, 80)), ((10, 200), (10, 80)), ((319, 300), (159, 140))])
def test_images_of_a_file_are_cut_around_the_star(script, tmp_path, star, place):
    image = np.zeros((320, 320), np.float32)
    image[star[1], star[0]] = 7
    image[0, 0] = image[319, 319] = -1
    np.savez(tmp_path / "scenes.npz", target=image, target_center=np.array(star[::-1]))
    made = script.coronagraph_scenes.make_scenes(tmp_path / "scenes.npz")
    cut, center = made["real 1"]
    assert cut.shape == script.scenes.SHAPE
    assert abs(np.subtract(center, place)).max() <= 1
    assert cut[int(center[1]), int(center[0])] == 7
    assert cut.min() == 0


def test_images_that_are_too_small_are_refused(script, tmp_path):
    np.savez(tmp_path / "scenes.npz", target=np.zeros((100, 320)), target_center=np.array([50, 50]))
    with pytest.raises(ValueError, match="target: expected an image of at least"):
        script.coronagraph_scenes.make_scenes(tmp_path / "scenes.npz")


def test_each_ring_has_two_companions_apart_from_each_other(script):
    separations = [separation for separation, _ in script.coronagraph_scenes.COMPANIONS]
    np.testing.assert_array_equal(np.histogram(separations, script.RINGS)[0], 2)
    light = script.coronagraph_scenes.companions(1e-6, script.scenes.center())
    # nearly all of their flux is in the image, and no companion has light of another
    np.testing.assert_allclose(light.sum(axis=(1, 2)), 10, rtol=1e-3)
    overlap = np.einsum("iyx,jyx->ij", light, light)
    assert overlap[~np.eye(len(light), dtype=bool)].max() < 1e-6 * overlap.diagonal().min()


def test_the_reference_differs_by_the_1overf_noise_alone(script):
    image, _ = script.coronagraph_scenes.make_scenes()["stars"]
    noisy, quiet = (script.simulate((2, 3), strength, image, seed=4) for strength in (3.0, script.NEGLIGIBLE))
    difference = noisy.data - quiet.data
    pink = noisy.simulation.truth.one_over_f
    assert pink.std() > 3
    # each of the two was rounded to whole counts
    assert abs(difference - pink).max() < 1.01


def test_noise_is_that_of_the_filter_and_in_electrons(script):
    image, center = script.coronagraph_scenes.make_scenes()["halo"]
    ramps = script.simulate((1, 4), 1.0, image, seed=1)
    rate = script.fit_ols(ramps)[0]
    white = np.random.default_rng(5).standard_normal(rate.rate.shape)
    rate.rate[:] = ramps.truth + white / ramps.gain
    rate.err[:] = 0.5 / ramps.gain
    measured = script.measure_noise(ramps, rate, center)
    # white noise of 1 e-/s: the matched filter of a Gaussian has sqrt(4 pi) sigma of it
    expected = np.sqrt(4 * np.pi) * script.scenes.FWHM / 2.355
    # the innermost ring has about 50 independent values, so 10 % is one sigma
    np.testing.assert_allclose(measured["noise"], expected, rtol=0.3)
    np.testing.assert_allclose(measured["noise"][-1], expected, rtol=0.1)
    np.testing.assert_allclose(measured["pull"], 2, rtol=0.05)


def test_noise_is_divided_by_the_flux_kept(script):
    n = len(script.RINGS) - 1
    lights = script.list_lights(script.scenes.center())
    kept = {name: [0.5] * n if len(parts) > 1 else 0.5 for name, (_, parts) in lights.items()}
    samples = []
    for noise in (1.0, 2.0, 3.0):
        floor = {"noise": [noise] * n, "rms": [noise] * n, "pull": 1.0}
        same = {"noise": [1.5 * noise] * n, "rms": [1.5 * noise] * n, "pull": 1.1}
        samples.append({"floor": floor, "methods": {"none": same, "halving": same | {"kept": kept}}})
    del samples[-1]["methods"]["halving"]
    found = script.summarize(samples, ["none", "halving"])["methods"]
    np.testing.assert_allclose(found["none"]["ratio"]["mean"], 1.5)
    np.testing.assert_allclose(found["halving"]["ratio"]["mean"], 3)
    np.testing.assert_allclose(found["halving"]["above_none"]["mean"], 1.5)
    assert found["halving"]["gave_up"] == 1


def make_figures(**above):
    """Invent figures of two methods and one case; `above` are differences from none, in the four rings."""

    def figure(mean):
        return {"mean": mean, "error": [0.01] * 4 if isinstance(mean, list) else 0.01}

    kept = {"companions 1e-06": figure([1.0, 0.99, 1.0, 0.9]), "ring 1": figure(0.97)}
    methods = {"none": {"ratio": figure([1.1, 1.2, 1.3, 1.4]), "rms_ratio": [1.5] * 4, "pull": figure(1.2)}}
    for name, difference in above.items():
        methods[name] = {
            "ratio": figure([1.0, 1.1, 1.2, None]),
            "rms_ratio": [1.2, 1.2, 1.5, None],
            "pull": figure(1.1),
            "kept": kept,
            "above_none": figure(difference),
        }
    case = {"nints": 1, "ngroups": 6, "strength": 3.0, "scene": "bar", "floor_pull": figure(1.0), "methods": methods}
    return {"rings": [0.3, 1, 1.75, 2.5, 4], "contrasts": [1e-6], "star": 1e7, "cases": [case]}


def test_page_tells_which_goals_are_missed(section):
    figures = make_figures(rows=[0.03, 0.01, -0.2, None], kriging=[-0.1, 0.0, 0.019, -0.3])
    page = " ".join(" ".join(section.write_companion_noise(figures)).split())
    assert "| 1x6 | bar | 1.10 / 1.20 / 1.30 / 1.40 | 1.00 / 1.10 / 1.20 / - |" in page
    assert "| none | | 1.25 | 1.5 |" in page
    assert "| rows | 1 of 3 | 1.1 | 1.3 |" in page
    assert "| kriging | 0 of 4 | 1.1 | 1.3 |" in page
    assert (
        '*rows* misses the goal in: 1x6, bar, 3 times the usual 1/f noise, 0.3-1": 0.03 ± 0.01 above no correction.'
    ) in page
    assert "*kriging* misses the goal nowhere." in page
    # 0.9 ± 0.01 is below 0.98, 0.97 ± 0.01 may be 0.98
    assert "rows 1 of 5; kriging 1 of 5" in page


def test_page_needs_none_of_the_methods(section):
    figures = make_figures(rows=[0.0] * 4)
    del figures["cases"][0]["methods"]["none"]
    page = "\n".join(section.write_companion_noise(figures))
    assert "| 1x6 | bar | 1.00 / 1.10 / 1.20 / - |" in page
    assert list(section.summarize_companion_noise(figures)) == []
