"""The optional product of ramp_fit as a model: arrays and metadata of jwst's own step."""

import numpy as np
import pytest

from gpucoron.engine import plan, run_steps
from gpucoron.io.exposure import Exposure
from gpucoron.io.products import extra_products, ramp_without_signature
from tests.cases import parity_edits as edits

pytestmark = pytest.mark.parity

NIRCAM, MIRI = ("NIRCAM", "SUB320A335R"), ("MIRI", "MASK1550")

#: exposure, settings of the steps, options of the simulation, edit of the counts
CASES = {
    # the fit is the first step that names the gain and the read noise
    "no jumps": ((*NIRCAM, "RAPID", 6, 2), {"jump": {"skip": True}}, {}, None),
    "one group": ((*NIRCAM, "SHALLOW4", 1, 2), {}, {}, None),
    "some groups": (
        (*NIRCAM, "BRIGHT2", 8, 2), {"ramp_fit": {"firstgroup": 1, "lastgroup": 5, "opt_name": "mine.fits"}}, {},
        edits.several_jumps,
    ),
    "saturated": ((*NIRCAM, "SHALLOW4", 6, 2), {"ramp_fit": {"suppress_one_group": False}}, {"scene": 3e4}, None),
    "MIRI": ((*MIRI, "FASTR1", 10, 2), {}, {}, edits.several_jumps),
}  # fmt: skip


def jwsts_product(run):
    """Let jwst's step fit the exposure; return the optional product that it would save."""
    from jwst.ramp_fitting.ramp_fit_step import RampFitStep

    settings = run.parameters["ramp_fit"]
    names = ("algorithm", "save_opt", "opt_name", "suppress_one_group", "firstgroup", "lastgroup")
    values = {name: getattr(settings, name) for name in names}
    values |= {f"override_{name}": str(run.reference_path("ramp_fit", name)) for name in ("gain", "readnoise")}
    step, models = RampFitStep("ramp_fit", skip=False, **values), []
    step.save_model = lambda model, suffix, output_file: models.append((suffix, output_file, model))
    model = ramp_without_signature(run.exposure, run.backend)
    model.groupdq, model.data = model.groupdq.copy(), model.data.copy()
    step.process(model)
    return models


def metadata(model):
    """Return all metadata except those that are written when the product is saved."""
    written = ("meta.calibration_software", "meta.ref_file.crds", "meta.date")
    return {key: value for key, value in model.to_flat_dict().items() if "meta" in key and not key.startswith(written)}


@pytest.mark.parametrize("name", CASES)
def test_the_product_is_jwsts(name, exposures):
    arguments, steps, options, edit = CASES[name]
    settings = {"save_opt": True, **steps.get("ramp_fit", {})}
    case = exposures(*arguments, shape=(24, 32), edit=edit, **options)
    theirs, ours = [], []

    def before(run, step):
        if step == "ramp_fit":
            theirs.extend(jwsts_product(run))

    def after(run, record):
        if record.name == "ramp_fit":
            ours.extend(extra_products(run, record))

    with case.cache.activate():
        run = plan(Exposure.read(case.path), steps={**steps, "ramp_fit": settings}, backend="cpu")
        run_steps(run, before_step=before, after_step=after)
    ((suffix, file_name, wanted),), ((extra, found),) = theirs, ours
    assert extra.suffix == suffix
    assert (extra.stem, file_name) == (settings.get("opt_name", case.path.name),) * 2
    for array in ("slope", "sigslope", "var_poisson", "var_rnoise", "yint", "sigyint", "pedestal", "weights", "crmag"):
        np.testing.assert_array_equal(getattr(found, array), getattr(wanted, array), err_msg=array)
        assert getattr(found, array).dtype == np.float32
    meta, expected = map(metadata, (found, wanted))
    assert meta == expected
    if name == "no jumps":
        assert found.crmag.shape == (2, 0, 24, 32)
    else:
        assert found.slope.any(axis=(0, 2, 3)).all()
