"""Corrections of 1/f noise that validation scripts compare, each on the ramps of `common.observe`.

A method is a function of the ramps and of the star's 0-based (x, y). It returns the rate and the rateints, or None if
it does not complete. It does not change the ramps and must not use their truth.
"""

from dataclasses import replace

import numpy as np
from common import BACKEND, fit_ols

from gpucoron.backends.results import Slopes
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import subtract_1overf
from gpucoron.steps.noise_error import add_noise_error
from gpucoron.steps.subtract_1overf import combine_rateints, noise_of_ramp, noise_of_rateints
from gpucoron.steps.subtract_ktc import fit_ktc


def with_light(ramps, light):
    """Add noiseless light, (ny, nx) e-/s, to a copy of the ramps."""
    lit = ramps.copy()
    ngroups = ramps.data.shape[1]
    times = ramps.facts.group_time * np.arange(1, ngroups + 1, dtype=np.float32)[:, None, None]
    lit.data += times * (light / ramps.gain)
    return lit


def correct_groups(ramps, model_type):
    """Correct the ramps in spaceKLIP's order: pedestals, then 1/f noise, then the fit."""
    ramps = ramps.copy()
    options = {"model_type": model_type, "slowaxis": ramps.facts.slowaxis, "backend": BACKEND}
    args = (ramps.data, ramps.groupdq, ramps.saturation, ramps.facts.group_time)
    ramps.data -= fit_ktc(*args, backend=BACKEND)[0][:, None].astype(np.float32)
    ramps.data -= noise_of_ramp(*args, **options)
    return fit_ols(ramps)


def correct_ints(products, model_type, slowaxis, *, vertical_corr=True):
    rate, rateints = products
    options = {"model_type": model_type, "vertical_corr": vertical_corr, "slowaxis": slowaxis, "backend": BACKEND}
    noise = noise_of_rateints(rateints.rate, rateints.dq, **options)
    corrected = Slopes(**{**vars(rateints), "rate": rateints.rate - noise})
    return combine_rateints(rate, corrected, fitted=rateints), corrected


def correct_by_jwst(products, method, slowaxis):
    """Correct the rateints with jwst's clean_flicker_noise and its defaults; None if it does not complete."""
    from jwst.clean_flicker_noise.clean_flicker_noise import do_correction
    from stdatamodels.jwst.datamodels import CubeModel

    rate, rateints = products
    with CubeModel(data=rateints.rate.copy(), dq=rateints.dq.copy()) as model:
        model.meta.instrument.detector = "NRCALONG"
        model.meta.subarray.name = "SUB320A335R"
        model.meta.subarray.slowaxis = slowaxis
        model.meta.exposure.type = "NRC_CORON"
        with np.errstate(all="ignore"):
            result = do_correction(model, fit_method=method)
        if result[-1] != "COMPLETE":
            return None
        corrected = Slopes(**{**vars(rateints), "rate": np.array(result[0].data)})
    return combine_rateints(rate, corrected, fitted=rateints), corrected


def correct_linear(ramps, center, model_type, fit=fit_ols, **settings):
    """Correct the ramps by the step itself, at stage 'groups', and fit them with its remaining error.

    ``fit`` is a function of ramps, like `common.fit_ols`; ``settings`` are further parameters of the step.
    """
    x, y = center
    exposure = Exposure(
        data=ramps.data.copy(), groupdq=ramps.groupdq.copy(), pixeldq=ramps.pixeldq.copy(),
        facts=replace(ramps.facts, crpix1=x + 1, crpix2=y + 1),
    )  # fmt: skip
    references = {name: Reference(data=getattr(ramps, name)) for name in ("gain", "readnoise")}

    def fit_exposure(exposure, references):
        arrays = {name: getattr(exposure, name) for name in ("data", "groupdq", "pixeldq")}
        exposure.rate, exposure.rateints = fit(replace(ramps, **arrays))

    parameters = subtract_1overf.STEP.settings(model_type=model_type, **settings)
    subtract_1overf.run(exposure, references, parameters, BACKEND, "groups", fit_exposure)
    fit_exposure(exposure, references)
    add_noise_error(exposure, xp=np)
    return exposure.rate, exposure.rateints


#: name -> method; names without the stage are those of rateints
METHODS = {
    "none": lambda ramps, center: fit_ols(ramps),
    "savgol groups": lambda ramps, center: correct_groups(ramps, "savgol"),
    "savgol": lambda ramps, center: correct_ints(fit_ols(ramps), "savgol", ramps.facts.slowaxis),
    "median": lambda ramps, center: correct_ints(fit_ols(ramps), "median", ramps.facts.slowaxis),
    "jwst": lambda ramps, center: correct_by_jwst(fit_ols(ramps), "median", ramps.facts.slowaxis),
    "rows": lambda ramps, center: correct_linear(ramps, center, "rows"),
    "kriging": lambda ramps, center: correct_linear(ramps, center, "kriging"),
}
