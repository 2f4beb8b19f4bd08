"""dark_current against jwst's own, on small arrays: darks of other patterns and lengths, and the average dark."""

import numpy as np
import pytest

from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.parameters import resolve
from gpucoron.steps import (
    STEPS,
    dark_current,
    ramp_fit,
)
from tests.cases.light_steps import BACKEND, NX, NY, make_exposure, make_model, random_dq, reference, some_nan


@pytest.mark.parity
@pytest.mark.parametrize(("miri", "start"), [(False, 5), (True, None), (True, 5)])
@pytest.mark.parametrize(
    ("pattern", "dark_pattern", "dark_ngroups"),
    [
        ((1, 0), (1, 0), 12),
        ((1, 0), (1, 0), 8),
        ((1, 0), (1, 0), 5),
        ((4, 1), (4, 1), 6),
        ((1, 2), (1, 0), 30),
        ((4, 1), (1, 0), 39),
        ((3, 0), (1, 0), 11),
        ((2, 3), (1, 0), 20),
        ((1, 0), (2, 0), 12),
        ((4, 1), (1, 2), 12),
    ],
)
def test_dark(rng, pattern, dark_pattern, dark_ngroups, start, miri):
    from stcal.dark_current import dark_sub
    from stdatamodels.jwst.datamodels import DarkMIRIModel, DarkModel

    exposure = make_exposure(rng, 3, 8, nframes=pattern[0], groupgap=pattern[1], integration_start=start)
    leading = (2,) if miri else ()
    dark = some_nan(rng, (*leading, dark_ngroups, NY, NX)) + 100
    dq = random_dq(rng, (2, 1, NY, NX) if miri else (NY, NX))
    model = (DarkMIRIModel if miri else DarkModel)(data=dark.copy(), dq=dq.copy())
    facts = dict(zip(("nframes", "groupgap"), dark_pattern, strict=True))
    model.meta.exposure.nframes, model.meta.exposure.groupgap = dark_pattern
    model.meta.exposure.ngroups = dark_ngroups
    with np.errstate(all="ignore"):
        expected, averaged = dark_sub.do_correction(make_model(exposure), model, "kept.fits")
    parameters = dark_current.STEP.settings(dark_output="kept.fits")
    outcome = dark_current.run(exposure, {"dark": reference(facts, data=dark, dq=dq)}, parameters, BACKEND)

    assert outcome.status == expected.cal_step
    for name in ("data", "groupdq", "pixeldq"):
        np.testing.assert_array_equal(getattr(exposure, name), getattr(expected, name), err_msg=name)
    if outcome.status == "COMPLETE":
        # jwst also saves the additional groups of the dark, if it is not averaged.
        kept = averaged.data[..., :8, :, :].astype(np.float32)
        np.testing.assert_array_equal(exposure.matched_dark, kept)


@pytest.mark.parity
@pytest.mark.parametrize("parameter", [None, 0.25])
@pytest.mark.parametrize("header", [None, 0.5])
@pytest.mark.parametrize("image", [None, 0.0, 1.5])
def test_average_dark_current(rng, image, header, parameter):
    from jwst.dark_current import DarkCurrentStep
    from stdatamodels.jwst.datamodels import DarkModel

    exposure = make_exposure(rng)
    dark = np.zeros((8, NY, NX), np.float32)
    array = None if image is None else np.full((NY, NX), image, np.float32)
    model = DarkModel(data=dark.copy())
    if array is not None:
        model.average_dark_current = array.copy()
    model.meta.exposure.average_dark_current = header
    ramp = make_model(exposure)
    DarkCurrentStep(average_dark_current=parameter).set_average_dark_current(ramp, model)

    facts = {"nframes": 1, "groupgap": 0, "average_dark_current": header}
    dark_reference = reference(facts, data=dark, dq=np.zeros((NY, NX), np.uint32), average_dark_current=array)
    parameters = dark_current.STEP.settings(average_dark_current=parameter)
    dark_current.run(exposure, {"dark": dark_reference}, parameters, BACKEND)
    if ramp.average_dark_current is None:
        assert exposure.average_dark_current is None
    else:
        np.testing.assert_array_equal(exposure.average_dark_current, ramp.average_dark_current)
        assert exposure.average_dark_current.dtype == np.float32


@pytest.mark.parity
@pytest.mark.parametrize(("nframes", "groupgap"), [(1, 0), (2, 1)])
@pytest.mark.parametrize(("start", "own"), [(1, [0, 1, 2]), (2, [1, 2, 3]), (3, [2, 3, 3]), (5, [3, 3, 3])])
def test_later_segments_take_their_own_dark_on_request(rng, start, own, nframes, groupgap):
    """By default as in jwst, the last integration; by parameter the dark of the simulated segment."""
    from stcal.dark_current import dark_sub
    from stdatamodels.jwst.datamodels import DarkMIRIModel

    dark = np.cumsum(rng.gamma(2, 5, (4, 30, NY, NX)), axis=1).astype(np.float32)
    spacing = nframes + groupgap
    seen = np.stack([dark[:, k * spacing : k * spacing + nframes].mean(axis=1) for k in range(8)], axis=1)
    model = DarkMIRIModel(data=dark.copy(), dq=np.zeros((4, 1, NY, NX), np.uint32))
    model.meta.exposure.nframes, model.meta.exposure.groupgap, model.meta.exposure.ngroups = 1, 0, 30
    facts = {"nframes": 1, "groupgap": 0}
    residuals = {}
    for on in (False, True):
        exposure = make_exposure(np.random.default_rng(1), nframes=nframes, groupgap=groupgap, integration_start=start)
        light = exposure.data.copy()
        exposure.data += seen[own]
        theirs, _ = dark_sub.do_correction(make_model(exposure), model)
        parameters = dark_current.STEP.settings(dark_by_integration=on)
        references = {"dark": reference(facts, data=dark.copy(), dq=np.zeros((4, 1, NY, NX), np.uint32))}
        dark_current.run(exposure, references, parameters, BACKEND)
        # stcal never fills the last integration of a dark that it averages for fewer integrations
        if not on and (nframes == 1 or start == 1):
            np.testing.assert_array_equal(exposure.data, theirs.data)
        residuals[on] = np.abs(exposure.data - light).max(axis=(1, 2, 3))
    assert residuals[True].max() < 0.05
    is_jwsts = np.array(own) == (np.minimum(np.arange(3), 3) if start == 1 else 3)
    assert ((residuals[False] < 0.05) == is_jwsts).all()


@pytest.mark.parametrize("algorithm", ["OLS_C", "LIKELY"])
def test_the_average_dark_applies_on_request(rng, algorithm):
    """jwst never uses the error image of the reference, and adds e-/s to DN/s; with both fixed the errors are right."""
    rate, gain, shape = 40.0, 2.0, (1, 10, 60, 60)
    electrons = np.cumsum(rng.poisson(rate * 5.0, shape), axis=1)
    data = (electrons / gain + rng.normal(0, 2, shape)).astype(np.float32)
    frames = (rate * 5.0 / gain * np.arange(1, 11, dtype=np.float32))[:, None, None]
    images = {"gain": np.full(shape[2:], gain, np.float32), "readnoise": np.full(shape[2:], 2 * 2**0.5, np.float32)}
    pulls = {}
    for applies, converts in ((False, False), (True, False), (True, True)):
        facts = {"nframes": 1, "groupgap": 0, "integration_start": None, "instrument": "NIRCAM", "group_time": 5.0}
        exposure = Exposure(
            data=data.copy(),
            groupdq=np.zeros(shape, np.uint8),
            pixeldq=np.zeros(shape[2:], np.uint32),
            facts=Facts(**facts, frame_time=5.0),
        )
        dark = reference(
            {"nframes": 1, "groupgap": 0},
            data=np.broadcast_to(frames, shape[1:]).astype(np.float32),
            dq=np.zeros(shape[2:], np.uint32),
            average_dark_current=np.full(shape[2:], rate, np.float32),
        )
        parameters = resolve(
            STEPS,
            steps={
                "dark_current": {"apply_average_dark_image": applies},
                "ramp_fit": {"algorithm": algorithm, "convert_average_dark": converts},
            },
        )
        dark_current.run(exposure, {"dark": dark}, parameters["dark_current"], BACKEND)
        references = {name: reference(data=image.copy()) for name, image in images.items()}
        ramp_fit.run(exposure, references, parameters["ramp_fit"], BACKEND)
        pulls[applies, converts] = np.nanstd(exposure.rate.rate / exposure.rate.err)
    assert pulls[False, False] > 1.7
    assert pulls[True, False] < 0.85
    # LIKELY's jump search ignores the dark's noise, and takes some of it for jumps
    assert abs(pulls[True, True] - 1) < {"OLS_C": 0.1, "LIKELY": 0.25}[algorithm]


def test_an_image_of_another_shape_is_not_applied(rng, caplog):
    exposure = make_exposure(rng)
    dark = reference(
        {"nframes": 1, "groupgap": 0},
        data=np.zeros((8, NY, NX), np.float32),
        dq=np.zeros((NY, NX), np.uint32),
        average_dark_current=np.ones((3, 3), np.float32),
    )
    parameters = dark_current.STEP.settings(apply_average_dark_image=True)
    dark_current.run(exposure, {"dark": dark}, parameters, BACKEND)
    assert exposure.average_dark_current is None
    assert "not applied" in caplog.text


def test_short_segment_of_an_averaged_miri_dark(rng):
    """stcal subtracts nothing from a segment with fewer integrations than the dark, if it averages the dark."""
    exposure = make_exposure(rng, 1, 3)
    dark = rng.normal(100, 1, (2, 12, NY, NX)).astype(np.float32)
    expected = exposure.data - dark[1].reshape(3, 4, NY, NX)[:, :2].mean(axis=1)
    patterns = dark_current.ReadPattern(1, 0), dark_current.ReadPattern(2, 2)
    dark_current.subtract_dark(exposure.data, dark, *patterns, first_integration=2)
    np.testing.assert_allclose(exposure.data, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("dark_ngroups", "dark_pattern", "pattern", "message"),
    [(1, (1, 0), (1, 0), "continue"), (4, (1, 1), (1, 3), "averaged"), (8, (None, None), (1, 0), "NFRAMES")],
)
def test_darks_that_cannot_be_matched(rng, dark_ngroups, dark_pattern, pattern, message):
    exposure = make_exposure(rng, 1, 4, nframes=pattern[0], groupgap=pattern[1])
    facts = dict(zip(("nframes", "groupgap"), dark_pattern, strict=True))
    dark = reference(facts, data=np.zeros((dark_ngroups, NY, NX), np.float32), dq=np.zeros((NY, NX), np.uint32))
    parameters = dark_current.STEP.settings()
    with pytest.raises(ValueError, match=message):
        dark_current.run(exposure, {"dark": dark}, parameters, BACKEND)


@pytest.fixture
def rng():
    return np.random.default_rng(23)
