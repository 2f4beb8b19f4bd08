"""A small concatenation of SCI and REF exposures, its group masks by each method, and its reduction."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.simulate import SCENES, simulate
from gpucoron.simulate.references import write_references
from gpucoron.steps.mask_groups import Ramp, prepare_masks

NGROUPS = 12
SHAPE = (72, 80)


@pytest.fixture(scope="module", params=["NIRCAM", "MIRI"])
def concatenation(request, tmp_path_factory):
    """Simulate two science exposures and two references that are twice as bright."""
    folder = tmp_path_factory.mktemp("concatenation")
    arguments = ("NIRCAM", "SUB320A335R", "RAPID") if request.param == "NIRCAM" else ("MIRI", "MASK1550", "FASTR1")
    faint = SCENES[request.param]
    bright = replace(faint, star=2 * faint.star, companion_contrast=0.0)
    simulations, ramps, paths = [], [], {}
    for number, (type_, scene) in enumerate((("SCI", faint), ("SCI", faint), ("REF", bright), ("REF", bright)), 1):
        simulation = simulate(*arguments, NGROUPS, 2, seed=number, scene=scene, shape=SHAPE, observation=number)
        simulations.append(simulation)
        x, y = simulation.truth.star
        paths[simulation.filename] = simulation.write(folder)
        ramps.append(Ramp(simulation.filename, type_, (x + 1, y + 1), simulation.data.astype(np.float32)))
    return ramps, paths, write_references(simulations, folder / "crds")


@pytest.mark.parametrize("method", ["basic", "advanced", "custom"])
def test_masked_references_reduce(concatenation, method, tmp_path):
    ramps, paths, cache = concatenation
    science = [ramp for ramp in ramps if ramp.type == "SCI"]
    references = [ramp for ramp in ramps if ramp.type == "REF"]
    options = {"cropwidth": 20, "edgewidth": 10} if method != "custom" else {"custom_group": 6}
    masks = prepare_masks("F1550C_TEST", science, references, mask_method=method, **options)
    assert set(masks) == {ramp.name for ramp in references}
    with cache.activate():
        for name, mask in masks.items():
            assert mask.any()
            kept = NGROUPS - mask.reshape(NGROUPS, -1).all(axis=1).sum()
            if method == "custom":
                assert kept == 6
            elif method == "basic":
                # with twice the light, about half the groups reach the same signal
                assert abs(kept - NGROUPS / 2) <= 2
            steps = {"mask_groups": {"skip": False, "mask_array": mask}}
            gpucoron.run_single_file(paths[name], tmp_path, steps, backend="cpu")
    rates = sorted(tmp_path.glob("*_rate.fits"))
    assert len(rates) == 2
    for rate in rates:
        assert "mask_groups" in "".join(fits.getheader(rate)["HISTORY"])
        assert np.isfinite(fits.getdata(rate, "SCI")).mean() > 0.9


def test_a_concatenation_without_references_is_named(concatenation):
    ramps, _paths, _cache = concatenation
    science = [ramp for ramp in ramps if ramp.type == "SCI"]
    with pytest.raises(ValueError, match=r"F1550C_TEST.*REF"):
        prepare_masks("F1550C_TEST", science, [])
