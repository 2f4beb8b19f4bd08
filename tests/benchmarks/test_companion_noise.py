"""The measurement of noise for companions: its scenes, its reference without 1/f noise, and its part of the page."""

import sys
from types import SimpleNamespace

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


def write_scene(path, shape, star):
    """Write a file with one image of negative noise and a star, (x, y)."""
    image = np.full(shape, -1, np.float32)
    image[star[1], star[0]] = 7
    np.savez(path, target=image, target_center=np.array(star[::-1]), other=image)


def test_images_of_a_file_are_used_whole(script, tmp_path):
    write_scene(tmp_path / "scenes.npz", (170, 200), (110, 80))
    made = script.coronagraph_scenes.make_scenes(tmp_path / "scenes.npz")
    assert set(made) - set(script.coronagraph_scenes.make_scenes()) == {"real 1"}
    image, center = made["real 1"]
    assert image.shape == (170, 200)
    assert center == (110, 80)
    assert image[80, 110] == 7
    assert image.sum() == 7


@pytest.mark.parametrize("star", [(20, 80), (110, 150)])
def test_images_without_place_for_companions_are_refused(script, tmp_path, star):
    write_scene(tmp_path / "scenes.npz", (170, 200), star)
    with pytest.raises(ValueError, match="target: expected a star at least 60 pixels from the edges"):
        script.coronagraph_scenes.make_scenes(tmp_path / "scenes.npz")


def test_all_is_placed_around_the_star(script):
    shape, (x, y) = (170, 200), (110.0, 70.0)
    same = script.list_lights(script.scenes.center())
    # the rings are around the star, and are cut by the edge of the image alone
    rings = script.list_rings((x, y), shape)
    for ring, whole in zip(rings[:-1], script.list_rings(script.scenes.center())[:-1], strict=True):
        rows, columns = np.nonzero(ring)
        assert abs(np.array([columns.mean() - x, rows.mean() - y])).max() < 1e-9
        np.testing.assert_allclose(ring.sum(), whole.sum(), rtol=0.03)
    for name, (light, parts) in script.list_lights((x, y), shape).items():
        assert light.shape == parts.shape[1:] == shape
        if "companions" in name:
            np.testing.assert_allclose(parts.sum(axis=(1, 2)), same[name][1].sum(axis=(1, 2)), rtol=1e-3)
            peaks = [np.unravel_index(part.argmax(), shape) for part in parts]
            separations = [np.hypot(column - x, row - y) * 0.063 for row, column in peaks]
            expected = [separation for separation, _ in script.coronagraph_scenes.COMPANIONS]
            np.testing.assert_allclose(separations, expected, atol=0.063)
        elif "ring" in name:
            np.testing.assert_allclose(light.sum(), same[name][0].sum(), rtol=1e-3)


def test_noise_and_kept_flux_of_a_whole_image(script, tmp_path):
    write_scene(tmp_path / "scenes.npz", (170, 200), (110, 80))
    scene = script.coronagraph_scenes.make_scenes(tmp_path / "scenes.npz")["real 1"]
    lights = ["companions 1e-05", "disc 10"]
    ((found,), _) = script.measure_seed(((1, 4), scene, 1, [1.0], ["none", "rows"], lights))
    assert np.isfinite(found["floor"]["noise"]).all()
    assert list(found["methods"]["rows"]["kept"]) == lights
    np.testing.assert_allclose(found["methods"]["rows"]["kept"]["companions 1e-05"], 1, atol=0.1)


def test_spectrum_with_nothing_wrong_gives_the_same(script):
    image, center = script.coronagraph_scenes.make_scenes()["halo"]
    ramps = script.simulate((1, 6), 3.0, image, seed=2)
    plain = script.WRONG["kriging"](ramps, center)[0].rate
    wrong = sys.modules["wrong_spectrum"]
    np.testing.assert_array_equal(wrong.correct(ramps, center)[0].rate, plain)
    for name in list(script.WRONG)[1:]:
        assert abs(script.WRONG[name](ramps, center)[0].rate - plain).max() > 0, name


def test_only_one_part_of_a_wrong_spectrum_is_wrong(script, monkeypatch):
    image, center = script.coronagraph_scenes.make_scenes()["halo"]
    ramps = script.simulate((1, 6), 3.0, image, seed=2)
    wrong = sys.modules["wrong_spectrum"]
    given = {}
    monkeypatch.setattr(wrong, "correct_linear", lambda ramps, center, model_type, **settings: given.update(settings))
    powers = {}
    for name, change in {"none": {}, "factor": {"factor": 2.0}, "shift": {"shift": -0.2}}.items():
        wrong.correct(ramps, center, **change)
        # one row and its overhead take 172 pixels
        powers[name] = given["amplitude"] * (1 / 172) ** -given["exponent"], given["exponent"]
    np.testing.assert_allclose(powers["factor"], (2 * powers["none"][0], powers["none"][1]))
    np.testing.assert_allclose(powers["shift"], (powers["none"][0], powers["none"][1] - 0.2))


def test_noise_with_a_wrong_spectrum_is_relative_and_per_flux(script):
    n = len(script.RINGS) - 1
    samples = []
    for noise in (1.0, 2.0):
        methods = {name: {"noise": [noise] * n, "kept": {"companions 1e-06": [1.0] * n}} for name in script.WRONG}
        methods["amplitude x 2"] = {"noise": [1.2 * noise] * n, "kept": {"companions 1e-06": [0.8] * n}}
        samples.append({"methods": methods})
    found = script.summarize_wrong(samples)
    np.testing.assert_allclose(found["amplitude x 2"]["relative"]["mean"], 1.5)
    np.testing.assert_allclose(found["exponent + 0.2"]["relative"]["mean"], 1)


def test_worst_seed_is_the_one_with_the_largest_badness(script):
    samples = np.array([[1.0, np.nan, np.nan], [3.0, 0.5, np.nan], [2.0, 0.7, np.nan]])
    np.testing.assert_array_equal(script.with_worst(samples, samples)["worst_seed"], [2, 3, 0])
    np.testing.assert_array_equal(script.with_worst(samples, -samples, [4, 6, 9])["worst_seed"], [4, 6, 0])


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


def test_kriging_in_two_rolls_uses_the_fit_and_is_compared_per_flux(script, monkeypatch):
    import contrast

    case = "bright star, 3x"
    ramps, _ = contrast.observe_roll(case, 1, 0)
    fits = []

    def fit(ramps):
        fits.append(ramps)
        return script.fit_ols(ramps)

    likely = contrast.reduce(ramps, rows=True, groups="kriging", fit=contrast.fit_likely)
    ols = contrast.reduce(ramps, rows=True, groups="kriging", fit=fit)
    assert len(fits) == 2
    assert abs(likely.rate - ols.rate).max() > 0
    # one faint companion in each ring
    separations = [separation for separation, _ in contrast.FAINT_COMPANIONS]
    np.testing.assert_array_equal(np.histogram(separations, contrast.RINGS)[0], 1)

    rates = iter([[1.0] * 8, [0.6] * 8, [1.0] * 8, [0.8] * 8])
    monkeypatch.setattr(contrast, "observe_roll", lambda *args: (ramps, None))
    monkeypatch.setattr(contrast, "reduce", lambda ramps, **options: None)
    monkeypatch.setattr(contrast, "measure", lambda *args: (next(rates), [1.0] * 8, 1.0))
    monkeypatch.setattr(contrast, "measure_faint", lambda ramps, before, roll, **options: [0.5 if options else 1.0] * 8)
    monkeypatch.setattr(ramps, "gain", 1.0)
    choices = ("jwst defaults", "rows, kriging at groups")
    found = contrast.run_case(case, SimpleNamespace(seeds=2), choices)["rows, kriging at groups"]
    # 0.6 and 0.8 of the noise, with half of the flux
    np.testing.assert_allclose(found["ratio"]["mean"], 0.7)
    np.testing.assert_allclose(found["per_flux"]["mean"], 1.4)
    np.testing.assert_allclose(found["above"]["jwst defaults"]["mean"], 0.4)
    np.testing.assert_array_equal(found["above"]["jwst defaults"]["worst_seed"], 2)


def make_figures(**above):
    """Invent figures of one case, of 'none' and other methods; `above` are differences from it, in the four rings."""

    def figure(mean):
        same = [0.01] * 4 if isinstance(mean, list) else 0.01
        return {"mean": mean, "error": same, "worst_seed": [5] * 4 if isinstance(mean, list) else 5}

    kept = {"companions 1e-06": figure([1.0, 0.99, 1.0, 0.9]), "ring 1": figure(0.97)}
    methods = {"none": {"ratio": figure([1.1, 1.2, 1.3, 1.4]), "rms_ratio": [1.5] * 4, "pull": figure(1.2)}}
    for name, difference in above.items():
        methods[name] = {
            "ratio": figure([1.0, 1.1, 1.2, None]),
            "rms_ratio": [1.2, 1.2, 1.5, None],
            "pull": figure(1.01),
            "kept": kept,
            "above_none": figure(difference),
        }
    case = {"nints": 1, "ngroups": 6, "strength": 3.0, "scene": "bar", "floor_pull": figure(1.0), "methods": methods}
    relative = {"amplitude x 2": {"relative": figure([1.0, 1.11, 0.95, 0.88])}}
    wrong = {"nints": 1, "ngroups": 10, "scene": "halo", "cases": [{"strength": 3.0, "methods": relative}]}
    facts = {"rings": [0.3, 1, 1.75, 2.5, 4], "contrasts": [1e-6], "star": 1e7, "shapes": {"real 1": [320, 320]}}
    return facts | {"cases": [case], "wrong_spectrum": wrong}


def write(section, figures):
    return " ".join(" ".join(section.write_companion_noise(figures)).split())


def test_page_compares_methods_and_wrong_spectra(section):
    page = write(section, make_figures(rows=[0.03, 0.01, -0.2, None], kriging=[-0.1, 0.0, 0.019, -0.3]))
    assert "| 1x6 | bar | 1.10 / 1.20 / 1.30 / 1.40 | 1.00 / 1.10 / 1.20 / - |" in page
    assert "| none | | 1.25 | 1.5 |" in page
    assert "| rows | 1 of 3 | 1.1 | 1.3 |" in page
    assert "| kriging | 0 of 4 | 1.1 | 1.3 |" in page
    assert "| 3 | amplitude x 2 | 1.000 ± 0.010 | 1.110 ± 0.010 | 0.950 ± 0.010 | 0.880 ± 0.010 |" in page


def test_page_tells_which_goals_are_missed_and_on_which_seed(section):
    figures = make_figures(rows=[9.0] * 4, kriging=[0.03, 0.019, -0.2, None])
    page = write(section, figures)
    # the noise of this scene has no goal with strong 1/f noise; 9 for rows misses none
    assert "correction or that of jwst |" not in page
    assert "| flux kept of companions 1e-6: at least 97 % | 4 | 1 |" in page
    assert 'at least 97 %: 1x6 bar, 1/f 3, 2.5-4": 90.0 ± 1.0 (seed 5).' in page
    assert "- flux kept of rings and discs: at least 98 %: 1x6 bar, 1/f 3, ring 1: 97.0 ± 1.0 (seed 5)." in page
    assert "| width of (rate - truth) / ERR: 1.00 ± 0.02 | 1 | 0 |" in page
    assert (
        'with the measured one: 1/f 3, amplitude x 2, 1-1.75": 1.110 ± 0.010 (seed 5); '
        '1/f 3, amplitude x 2, 2.5-4": 0.880 ± 0.010 (seed 5).'
    ) in page
    figures["cases"][0]["strength"] = 1.0
    page = write(section, figures)
    assert "at most 1.10 in every ring | 3 | 1 |" in page
    assert 'at most 1.10 in every ring: 1x6 bar, 1.75-2.5": 1.200 ± 0.010 (seed 5).' in page
    assert "correction or that of jwst | 3 | 1 |" in page
    assert '1x6 bar, 0.3-1", above no correction: 0.030 ± 0.010 (seed 5).' in page
    case = figures["cases"][0]
    case |= {"strength": 3.0, "ngroups": 10, "scene": "halo"}
    case["methods"]["kriging"]["ratio"]["mean"] = [1.19, 1.31, 1.34, 1.33]
    page = write(section, figures)
    assert "1x10 halo: at most 1.20 / 1.30 / 1.35 / 1.32 | 4 | 2 |" in page
    case["scene"] = "real 1"
    case["methods"]["kriging"]["above_jwst"] = case["methods"]["kriging"]["above_none"]
    page = write(section, figures)
    assert "an observed image, 320 x 320 pixels" in page
    assert "observed images: not above jwst's | 3 | 1 |" in page


def test_page_needs_none_of_the_methods(section):
    figures = make_figures(rows=[0.0] * 4)
    del figures["cases"][0]["methods"]["none"], figures["wrong_spectrum"]
    page = "\n".join(section.write_companion_noise(figures))
    assert "| 1x6 | bar | 1.00 / 1.10 / 1.20 / - |" in page
    assert "**Goals**" not in page
    assert list(section.summarize_companion_noise(figures)) == []


def test_page_of_two_rolls_compares_with_its_goals(section):
    from validation_contrast import write_contrast

    def figure(*mean):
        return {"mean": list(mean), "error": [0.01] * 3, "worst_seed": [7] * 3}

    def choice(per_flux, **more):
        same = {"contrast": figure(1e-6, 1e-6, 1e-6), "companion_kept": {"mean": 1.0, "error": 0.01}}
        return same | {"ratio": figure(1.0, 1.0, 1.0), "per_flux": per_flux, "faint_kept": figure(1.0, 0.9, 1.0)} | more

    above = {"jwst defaults": figure(0.03, -0.1, 0.015)}
    choices = {
        "jwst defaults": choice(figure(1.0, 1.0, 1.0)),
        "rows, kriging at groups": choice(figure(1.03, 0.9, 0.84), above=above),
    }
    settings = {"readpatt": "RAPID", "ngroups": 6, "nints": 10, "one_over_f": 3.0, "drift": 3.0, "star": 1e7}
    facts = {
        "rings": [0.3, 1.5, 2.0, 4.0],
        "companion": 1e-4,
        "faint_flux": 10.0,
        "settings": {"bright star": settings},
    }
    page = " ".join(" ".join(write_contrast(facts | {"cases": {"bright star": choices}})).split())
    assert "3 times the usual 1/f noise" in page
    assert "| rows, kriging at groups | 1.03 ± 0.01 | 0.90 ± 0.01 | 0.84 ± 0.01 | 96.7 (90.0) |" in page
    assert "any other choice in any ring | 3 | 1 |" in page
    assert 'bright star, 0.3-1.5", above *jwst defaults*: 0.030 ± 0.010 (seed 7).' in page
    assert "at most 0.85 of that with jwst's defaults | 2 | 1 |" in page
    assert 'defaults: bright star, 1.5-2": 0.900 ± 0.010 (seed 7).' in page
