"""Headers of the products: every keyword of references, steps and versions is as in jwst."""

from dataclasses import replace

import pytest
from astropy.io import fits

from gpucoron.io.products import reference_name
from gpucoron.pipeline import Coron1Pipeline
from gpucoron.simulate import Effects, simulate
from gpucoron.simulate.later_references import write_later_references
from gpucoron.simulate.references import write_references

ON, OFF = {"skip": False}, {"skip": True}
#: settings of the steps, for each kind of exposure
CASES = {
    "nircam-default": ("nircam", {}),
    "nircam-flat": ("nircam", {"clean_flicker_noise": ON | {"apply_flat_field": True}, "jump": OFF}),
    "nircam-no-flat": ("nircam", {"clean_flicker_noise": ON | {"apply_flat_field": True, "override_flat": "N/A"}}),
    "nircam-two-groups": ("two groups", {"ramp_fit": OFF, "gain_scale": OFF}),
    "miri-emicorr": ("miri", {"emicorr": ON, "persistence": ON}),
    "miri-on-the-fly": ("miri", {"emicorr": ON | {"onthefly_corr_freq": [390.625]}}),
    "miri-emicorr-n/a": ("miri", {"emicorr": ON | {"override_emicorr": "N/A"}, "rscd": OFF, "reset": OFF, "jump": OFF}),
}
#: dates, and keywords listed in docs/deviations.md
OTHERWISE = ("DATE", "HISTORY", "COMMENT", "")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Write one exposure of each kind: (kind -> path, cache)."""
    folder = tmp_path_factory.mktemp("keywords")
    with_emi = replace(Effects(), emi=True)
    simulations = {
        "nircam": simulate("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 1, shape=(32, 40)),
        "two groups": simulate("NIRCAM", "SUB320A335R", "SHALLOW4", 2, 1, shape=(32, 40), observation=2),
        "miri": simulate("MIRI", "MASK1550", "FASTR1", 6, 1, shape=(64, 64), effects=with_emi),
    }
    paths = {kind: simulation.write(folder) for kind, simulation in simulations.items()}
    write_references(list(simulations.values()), folder / "crds")
    return paths, write_later_references([simulations["nircam"]], folder / "crds")


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_keywords_are_jwsts(name, raw, tmp_path):
    from jwst.pipeline import Detector1Pipeline

    kind, steps = CASES[name]
    headers = {}
    for pipeline, more in ((Detector1Pipeline, {}), (Coron1Pipeline, {"backend": "cpu"})):
        folder = tmp_path / pipeline.__name__
        with raw[1].activate():
            asked = {step: dict(values) for step, values in steps.items()}
            pipeline.call(str(raw[0][kind]), steps=asked, save_results=True, output_dir=str(folder), **more)
        headers[pipeline] = {path.name: fits.getheader(path) for path in folder.glob("*.fits")}
    theirs, ours = headers.values()
    assert ours.keys() == theirs.keys()
    for product, header in theirs.items():
        assert any(key.startswith("R_") for key in header)
        headers = [{key: one[key] for key in one if key not in OTHERWISE} for one in (ours[product], header)]
        assert headers[0] == headers[1]


def test_an_override_is_named_as_it_was_given(tmp_path):
    """jwst does not resolve links either."""
    from gpucoron.steps import STEPS

    (tmp_path / "real.fits").touch()
    link = tmp_path / "mine.fits"
    link.symlink_to(tmp_path / "real.fits")
    assert reference_name(link, STEPS["jump"].settings(override_gain=str(link)), "gain") == str(link)
