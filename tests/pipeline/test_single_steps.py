"""Each step alone, on a model or a file: arrays, flags and keywords as of jwst's single step."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpucoron.errors import InputError, ParameterError
from gpucoron.steps import STEPS
from tests.cases.pipelines import SLOPE_ARRAYS

pytestmark = pytest.mark.parity

EXPOSURES = {
    "nircam": ("NIRCAM", "SUB320A335R", "RAPID", 6, 2),
    "miri": ("MIRI", "MASK1550", "FASTR1", 8, 2),
}
#: dates of the models, and keywords that no step sets; jwst sets the CRDS context if the step has opened a reference
PASSED_OVER = (
    "meta.date",
    "meta.filename",
    "meta.model_type",
    "meta.filetype",
    "meta.ref_file.crds.context_used",
    "meta.ref_file.crds.sw_version",
)


def assert_same_models(ours, theirs):
    """Compare all arrays bit for bit, and all keywords."""
    if isinstance(theirs, tuple):
        assert len(ours) == len(theirs) == 2
        for left, right in zip(ours, theirs, strict=True):
            assert_same_models(left, right)
        return
    assert type(ours) is type(theirs)
    for key in (*SLOPE_ARRAYS, "groupdq", "pixeldq", "dq"):
        due = getattr(theirs, key, None)
        if due is not None and np.size(due):
            np.testing.assert_array_equal(getattr(ours, key), due, err_msg=key)
    left, right = (
        {
            key: value
            for key, value in model.to_flat_dict(include_arrays=False).items()
            if key.startswith("meta.") and key not in PASSED_OVER
        }
        for model in (ours, theirs)
    )
    assert left == right


@pytest.mark.parametrize("exposure", EXPOSURES)
def test_every_step_answers_as_jwsts_own(exposures, exposure):
    """Each step, including those of the other instrument, which jwst skips."""
    from jwst.pipeline import Detector1Pipeline
    from stdatamodels.jwst import datamodels

    from gpucoron import Coron1Pipeline

    case = exposures(*EXPOSURES[exposure], shape=(24, 32))
    compared = []
    with case.cache.activate():
        model = datamodels.RampModel(str(case.path))
        before = model.data.copy()
        for name in Detector1Pipeline.step_defs:
            if name == "gain_scale":
                continue
            ours, theirs = Coron1Pipeline.step_defs[name](name), Detector1Pipeline.step_defs[name](name)
            ours.skip = theirs.skip = False
            got, due = ours.run(model), theirs.run(model.copy())
            assert_same_models(got, due)
            compared.append(name)
            if name == "ramp_fit":
                rates = due
            else:
                model = due
        for rate in rates:
            rate.meta.exposure.gain_factor = 1.5
            ours, theirs = (made.step_defs["gain_scale"]() for made in (Coron1Pipeline, Detector1Pipeline))
            assert_same_models(ours.run(rate), theirs.run(rate.copy()))
    assert len(compared) == 19
    assert (before == datamodels.RampModel(str(case.path)).data).all()


class TestWaysToRunOne:
    @pytest.fixture(scope="class")
    def case(self, exposures):
        pars = {"pars-saturationstep": {"n_pix_grow_sat": 0}}
        return exposures(*EXPOSURES["nircam"], shape=(24, 32), pars=pars)

    def test_of_a_pipeline_and_with_its_parameters(self, case):
        from jwst.pipeline import Detector1Pipeline
        from stdatamodels.jwst import datamodels

        from gpucoron import Coron1Pipeline

        found = []
        with case.cache.activate(), datamodels.RampModel(str(case.path)) as model:
            model.data[:, :, 5:9, 5:9] = 65000
            for made in (Coron1Pipeline, Detector1Pipeline):
                pipeline = made()
                pipeline.saturation.n_pix_grow_sat = 2
                found.append(pipeline.saturation.run(model.copy()))
        assert_same_models(*found)
        assert (found[0].groupdq[:, :, 3:11, 3:11] & 2).all()

    def test_call_takes_its_parameter_file(self, case, tmp_path):
        from jwst.saturation import SaturationStep
        from stdatamodels.jwst import datamodels

        from gpucoron import pipeline

        with case.cache.activate(), datamodels.RampModel(str(case.path)) as model:
            model.data[:, :, 5:9, 5:9] = 65000
            found = [made.call(model) for made in (pipeline.SaturationStep, SaturationStep)]
        assert_same_models(*found)
        assert not (found[0].groupdq[:, :, 4, 4] & 2).any()

    def test_hooks_and_results_are_stpipes(self, case, tmp_path):
        from jwst.saturation import SaturationStep

        from gpucoron import pipeline

        found = []
        for who, made in (("ours", pipeline.SaturationStep), ("theirs", SaturationStep)):
            (tmp_path / who).mkdir()
            values = {
                "post_hooks": ["tests.cases.user_hooks.double"],
                "save_results": True,
                "output_dir": str(tmp_path / who),
            }
            with case.cache.activate():
                found.append(made.call(str(case.path), **values))
        assert_same_models(*found)
        names = [[path.name for path in (tmp_path / who).iterdir()] for who in ("ours", "theirs")]
        assert names[0] == names[1]
        assert len(names[0]) == 1

    @pytest.mark.parametrize("name", ["gpucoron.pipeline.JumpStep", "gpucoron.steps.JumpStep", "gpucoron_jump"])
    def test_strun(self, case, tmp_path, name):
        from jwst.jump import JumpStep
        from stdatamodels.jwst import datamodels

        due = case.path.with_name("x_linearity.fits")
        with case.cache.activate():
            from jwst.saturation import SaturationStep

            SaturationStep.call(str(case.path)).save(str(due))
            theirs = JumpStep.call(str(due), rejection_threshold=3.0)
            command = [Path(sys.executable).parent / "strun", name, str(due), "--rejection_threshold=3.0"]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        (made,) = tmp_path.glob("*.fits")
        with datamodels.open(str(made)) as ours:
            np.testing.assert_array_equal(ours.groupdq, theirs.groupdq)

    def test_classes_can_be_sent_to_another_process(self):
        from gpucoron import pipeline

        for step in STEPS.values():
            for step_class in (pipeline.Coron1Pipeline, pipeline.Coron1Pipeline_spaceKLIP):
                made = step_class.step_defs[step.name]
                assert pickle.loads(pickle.dumps(made)) is made
                assert getattr(pipeline, made.__name__) is made


class TestCustomSteps:
    @pytest.fixture(scope="class")
    def case(self, exposures):
        return exposures(*EXPOSURES["nircam"], shape=(24, 32))

    @pytest.mark.parametrize("name", ["subtract_ktc", "subtract_1overf", "experimental_jumpramp", "mask_groups"])
    def test_alone_as_in_a_run(self, case, name):
        from gpucoron import Coron1Pipeline
        from gpucoron.engine import plan, run_steps
        from gpucoron.io import products
        from gpucoron.io.exposure import Exposure

        values = {"groups": [1]} if name == "mask_groups" else {}
        order = ("dq_init", "saturation", "superbias", "refpix", "linearity")
        others = {other: {"skip": other not in order} for other in STEPS}
        settings = {name: {"skip": False} | values | ({"use": True} if STEPS[name].switch else {})}
        run_parameters = {"stage_1overf": "groups"}
        with case.cache.activate():
            before = run_steps(plan(Exposure.read(case.path), steps=others, pipeline=run_parameters, use_pars=False))
            model = products.ramp_model(before).copy()
            whole = run_steps(
                plan(Exposure.read(case.path), steps=others | settings, pipeline=run_parameters, use_pars=False)
            )
            step = getattr(Coron1Pipeline(), name)
            step.skip = False
            for key, value in values.items():
                setattr(step, key, value)
            alone = step.run(model)
        if name == "experimental_jumpramp":
            due = products.rate_model(whole), products.rateints_model(whole)
        else:
            alone, due = [alone], [products.ramp_model(whole)]
        assert len(alone) == len(due)
        for left, right in zip(alone, due, strict=True):
            for key in (*SLOPE_ARRAYS, "groupdq", "dq"):
                if getattr(right, key, None) is not None:
                    np.testing.assert_array_equal(getattr(left, key), getattr(right, key), err_msg=f"{name} {key}")

    def test_noise_of_rateints(self, case):
        from gpucoron import Coron1Pipeline
        from gpucoron.backends import get_backend
        from gpucoron.steps.subtract_1overf import noise_of_rateints

        with case.cache.activate():
            pipeline = Coron1Pipeline()
            pipeline.return_rateints = True
            rateints = pipeline.run(str(case.path))
            pipeline.subtract_1overf.skip = False
            cleaned = pipeline.subtract_1overf.run(rateints)
        noise = noise_of_rateints(rateints.data, rateints.dq, slowaxis=2, noutputs=1, backend=get_backend("cpu"))
        assert type(cleaned) is type(rateints)
        np.testing.assert_array_equal(cleaned.data, rateints.data - noise)
        np.testing.assert_array_equal(cleaned.err, rateints.err)

    @pytest.mark.parametrize(
        ("name", "kind", "words"),
        [
            ("apply_rateints_outliers", InputError, "apply_rateints_outliers: .*run it in a pipeline"),
            ("gain_scale", InputError, "gain_scale: .*needs a rate or rateints"),
        ],
    )
    def test_steps_that_cannot_run_alone_raise(self, case, name, kind, words):
        from gpucoron import Coron1Pipeline

        with case.cache.activate(), pytest.raises(kind, match=words):
            step = getattr(Coron1Pipeline(), name)
            step.skip = False
            step.run(str(case.path))

    def test_a_rate_alone_is_no_exposure(self, case, tmp_path):
        from gpucoron import pipeline

        with case.cache.activate():
            rate = pipeline.Coron1Pipeline.call(str(case.path))
            with pytest.raises(InputError, match="subtract_1overf: needs a ramp or a rateints model"):
                pipeline.Subtract1OverfStep.call(rate)
        from stdatamodels.jwst import datamodels

        with pytest.raises(InputError, match="GainModel holds no count rates"):
            pipeline.GainScaleStep().run(datamodels.GainModel((4, 4)))

    def test_an_array_as_a_parameter(self, case):
        from gpucoron import Coron1Pipeline

        mask = np.zeros((1, 6, 1, 1), dtype=bool)
        mask[:, 2] = True
        with case.cache.activate():
            with pytest.raises(ParameterError, match="did you mean 'mask_array'"):
                Coron1Pipeline.call(str(case.path), steps={"mask_groups": {"mask_aray": mask}})
            rates = [Coron1Pipeline.call(str(case.path), steps={"mask_groups": {"mask_array": mask}})]
            pipeline = Coron1Pipeline()
            pipeline.mask_groups.mask_array = mask
            rates.append(pipeline.run(str(case.path)))
            rates.append(Coron1Pipeline(steps={"mask_groups": {"mask_array": mask}}).run(str(case.path)))
            rates.append(Coron1Pipeline.call(str(case.path), steps={"mask_groups": {"groups": [2]}}))
            plain = Coron1Pipeline.call(str(case.path))
        for rate in rates[:3]:
            np.testing.assert_array_equal(rate.var_rnoise, rates[3].var_rnoise)
        assert np.nanmean(rates[0].var_rnoise) > np.nanmean(plain.var_rnoise)
