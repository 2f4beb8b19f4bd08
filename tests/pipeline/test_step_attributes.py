"""Every attribute that stpipe adds to every step has the same effect as in jwst's pipeline."""

import logging

import numpy as np
import pytest

from gpucoron.errors import InputError, ParameterError
from gpucoron.steps import STEPS
from gpucoron.steps.declaration import COMMON
from tests.cases import user_hooks
from tests.cases.pipelines import SLOPE_ARRAYS

pytestmark = pytest.mark.parity

EXPOSURES = {
    "nircam": ("NIRCAM", "SUB320A335R", "RAPID", 6, 2),
    "miri": ("MIRI", "MASK1550", "FASTR1", 8, 2),
}
#: one step of each kind that also exists for the other instrument; jwst's code is slow for the others
HOOKED = ("group_scale", "saturation", "ipc", "linearity", "jump", "persistence", "ramp_fit", "gain_scale")

#: attribute -> value for every step, by its name
VALUES = {
    "save_results": lambda name: {"save_results": True},
    "suffix": lambda name: {"save_results": True, "suffix": f"of-{name}"},
    "output_dir": lambda name: {"save_results": True, "output_dir": f"$OWN/{name}"},
    "output_file": lambda name: {"output_file": f"mine_{name}_jump.fits"},
    "output_ext": lambda name: {"save_results": True, "output_ext": "asdf"},
    "output_use_model": lambda name: {"output_file": "mine", "output_use_model": True},
    "search_output_file": lambda name: {"save_results": True, "search_output_file": False},
    "skip": lambda name: {"skip": name not in ("ramp_fit", "linearity"), "save_results": True},
    "pre_hooks": lambda name: {"pre_hooks": ["tests.cases.user_hooks.Shift"] if name in HOOKED else []},
    "post_hooks": lambda name: {"post_hooks": [user_hooks.Shift] if name in HOOKED else []},
    "output_use_index": lambda name: {"output_use_index": False},
    "input_dir": lambda name: {"input_dir": "elsewhere"},
}
#: attributes that are also tested for the steps of the other instrument
OF_BOTH = ("save_results", "output_dir", "pre_hooks", "post_hooks")
WALK = [("nircam", name) for name in VALUES] + [("miri", name) for name in OF_BOTH]


def own_steps(pipeline_class):
    """Return the names of jwst's steps that both pipelines have and that run quickly."""
    return [name for name, step in STEPS.items() if not step.custom and name in pipeline_class.step_defs]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_same_file(ours, theirs):
    """Compare the arrays of two products, bit for bit."""
    from stdatamodels.jwst import datamodels

    with datamodels.open(str(ours)) as left, datamodels.open(str(theirs)) as right:
        assert type(left) is type(right), ours.name
        for key in (*SLOPE_ARRAYS, "groupdq", "pixeldq", "dq"):
            due = getattr(right, key, None)
            if due is not None and np.size(due):
                np.testing.assert_array_equal(getattr(left, key), due, err_msg=f"{ours.name} {key}")


def run_both(case, tmp_path, monkeypatch, value_of, how):
    """Reduce with both pipelines and the same settings; return the folders, rates and calls of hooks."""
    from jwst.pipeline import Detector1Pipeline

    from gpucoron import Coron1Pipeline

    found = {}
    for who, pipeline_class in (("ours", Coron1Pipeline), ("theirs", Detector1Pipeline)):
        folder = tmp_path / who
        folder.mkdir()
        monkeypatch.setenv("OWN", str(folder))
        user_hooks.CALLS.clear()
        steps = {name: value_of(name) for name in own_steps(Detector1Pipeline)}
        about = {"output_dir": str(folder), "save_results": True, "output_file": "all"}
        with case.cache.activate():
            if how == "call":
                rate = pipeline_class.call(str(case.path), steps=steps, **about)
            else:
                pipeline = pipeline_class(**about)
                for name, values in steps.items():
                    for key, value in values.items():
                        setattr(getattr(pipeline, name), key, value)
                rate = pipeline.run(str(case.path))
        found[who] = folder, rate, list(user_hooks.CALLS)
    return found


@pytest.mark.parametrize(("exposure", "attribute"), WALK)
def test_each_attribute_has_jwsts_effect(exposures, exposure, attribute, tmp_path, monkeypatch):
    """Except where jwst's pipeline overwrites a value of the user: see docs/deviations.md."""
    case = exposures(*EXPOSURES[exposure], shape=(24, 32))
    # stpipe makes hooks when a step is made: jwst ignores those set on an instance
    how = "call" if attribute.endswith("hooks") else "instance"
    found = run_both(case, tmp_path, monkeypatch, VALUES[attribute], how)
    (ours, rate, calls), (theirs, due, due_calls) = found["ours"], found["theirs"]
    for key in SLOPE_ARRAYS:
        np.testing.assert_array_equal(getattr(rate, key), getattr(due, key), err_msg=key)
    assert calls == due_calls
    assert bool(calls) == attribute.endswith("hooks")
    names, due_names = files_in(ours), files_in(theirs)
    if attribute == "suffix":
        due_names = [name.replace("all_gain_scale", "all_of-gain_scale") for name in due_names]
    if attribute == "output_dir":
        moved = {f"all_{number}_ramp_fit.fits": "ramp_fit" for number in (0, 1)} | {
            "all_dark_current.fits": "dark_current"
        }
        due_names = [f"{moved[name]}/{name}" if name in moved else name for name in due_names]
    if attribute in ("output_use_model", "search_output_file"):
        # here jwst replaces the rate by the rateints
        both = [name for name in due_names if name.endswith("_ramp_fit.fits")]
        due_names = [name for name in due_names if name not in both]
        due_names += [name.replace("_ramp_fit", f"_{number}_ramp_fit") for name in both for number in (0, 1)]
    assert names == sorted(due_names)
    saves = attribute not in ("output_use_index", "input_dir", "pre_hooks", "post_hooks")
    assert len(names) > 2 if saves else names == ["all_rate.fits", "all_rateints.fits"]
    known = set(files_in(theirs))
    for name in names:
        if name in known:
            assert_same_file(ours / name, theirs / name)


def test_the_walk_leaves_no_attribute_out():
    from jwst.stpipe import Step

    assert set(Step.load_spec_file()) == set(VALUES)
    assert {parameter.name for parameter in COMMON} | {"skip", "save_results"} == set(VALUES)


@pytest.mark.parametrize("attribute", ["suffix", "output_dir", "output_file", "output_ext"])
def test_reduce_file_has_the_same_effect(exposures, attribute, tmp_path, monkeypatch):
    from gpucoron import Coron1Pipeline
    from gpucoron.engine import reduce_file

    case = exposures(*EXPOSURES["nircam"], shape=(24, 32))
    steps = {name: VALUES[attribute](name) for name in ("jump", "ramp_fit", "gain_scale", "dark_current")}
    monkeypatch.setenv("OWN", str(tmp_path / "own"))
    with case.cache.activate():
        reduce_file(case.path, tmp_path / "run", steps=steps)
        (tmp_path / "own").rename(tmp_path / "run" / "own") if attribute == "output_dir" else None
        (tmp_path / "call").mkdir()
        Coron1Pipeline.call(str(case.path), steps=steps, save_results=True, output_dir=str(tmp_path / "call"))
        (tmp_path / "own").rename(tmp_path / "call" / "own") if attribute == "output_dir" else None
    assert files_in(tmp_path / "run") == files_in(tmp_path / "call")
    assert len(files_in(tmp_path / "run")) == 2 + 6


def test_attributes_without_effect_are_named(exposures, tmp_path, caplog):
    from gpucoron.engine import reduce_file

    case = exposures(*EXPOSURES["nircam"], shape=(24, 32))
    with case.cache.activate(), caplog.at_level(logging.WARNING):
        reduce_file(case.path, tmp_path, steps={"jump": {"input_dir": "elsewhere", "output_use_index": False}})
    unused = [message for message in caplog.messages if "accepted and not used" in message]
    assert [message.split()[0] for message in unused] == ["jump.input_dir", "jump.output_use_index"]


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        ({"steps": {"subtract_1overf": {"model_type": "median"}}}, "subtract_1overf.model_type: not used, because "
         "subtract_1overf is switched off; subtract_1overf.skip=False switches it on"),
        ({"pipeline": {"stage_1overf": "groups"}}, "stage_1overf: not used, because subtract_1overf is switched off"),
        ({"steps": {"experimental_jumpramp": {"max_diffs_one_sided": 3}}}, "experimental_jumpramp.use=True"),
        ({"steps": {"apply_rateints_outliers": {"sigma_cut": 7.0}}}, "rate_int_outliers=True switches it on"),
        # in use, switched off by the user, of another instrument, replaced (another warning), or the default
        ({"steps": {"subtract_1overf": {"model_type": "median", "skip": False}}}, None),
        ({"steps": {"subtract_1overf": {"model_type": "median", "skip": True}}}, None),
        ({"steps": {"experimental_jumpramp": {"use": False}}}, None),
        ({"steps": {"emicorr": {"algorithm": "sequential"}}}, None),
        ({"steps": {"experimental_jumpramp": {"use": True}, "jump": {"rejection_threshold": 5}}}, None),
        ({"pipeline": {"stage_1overf": "ints"}}, None),
        ({"steps": {"subtract_1overf": {"model_type": "median"}}, "profile": "recommended"}, None),
    ],
)  # fmt: skip
def test_settings_of_steps_that_are_off_are_named(exposures, caplog, settings, unused):
    from gpucoron.engine import plan
    from gpucoron.io.exposure import Exposure

    case = exposures(*EXPOSURES["nircam"], shape=(24, 32))
    with case.cache.activate(), caplog.at_level(logging.WARNING):
        plan(Exposure.read_headers(case.path), backend="numpy", **settings)
    warnings = [message for message in caplog.messages if "switched off" in message]
    assert len(warnings) == (unused is not None)
    assert all(unused in message and case.path.name[:10] in message for message in warnings)


@pytest.mark.parametrize("coat", ["call", "reduce_file"])
def test_parameters_that_compare_exposures_are_named(exposures, tmp_path, caplog, coat):
    from gpucoron import Coron1Pipeline
    from gpucoron.engine import reduce_file

    case = exposures(*EXPOSURES["nircam"], shape=(24, 32))
    steps = {"mask_groups": {"cropwidth": 12}}
    with case.cache.activate(), caplog.at_level(logging.WARNING):
        if coat == "call":
            Coron1Pipeline.call(str(case.path), steps=steps)
        else:
            reduce_file(case.path, tmp_path, steps=steps)
    (warning,) = [message for message in caplog.messages if "mask_groups" in message]
    assert warning.startswith("mask_groups.cropwidth: not used, because each exposure is reduced on its own")


class TestStrangers:
    """Unknown names and impossible values are refused by name."""

    @pytest.mark.parametrize(
        ("owner", "name", "near"),
        [("jump", "rejection_treshold", "rejection_threshold"), ("", "save_calibrate_ramp", "save_calibrated_ramp")],
    )
    def test_an_attribute_that_does_not_exist(self, exposures, owner, name, near):
        from gpucoron import Coron1Pipeline

        case = exposures(*EXPOSURES["nircam"], shape=(24, 32))
        pipeline = Coron1Pipeline()
        setattr(getattr(pipeline, owner) if owner else pipeline, name, 3)
        with case.cache.activate(), pytest.raises(ParameterError, match=f"{name}.*did you mean '{near}'"):
            pipeline.run(str(case.path))

    def test_another_step_in_the_place_of_ours(self, exposures):
        from jwst.jump.jump_step import JumpStep

        from gpucoron import Coron1Pipeline

        case = exposures(*EXPOSURES["nircam"], shape=(24, 32))
        pipeline = Coron1Pipeline()
        pipeline.jump = JumpStep()
        with case.cache.activate(), pytest.raises(ParameterError, match=r"jump: .*not a JumpStep.*jump\.post_hooks"):
            pipeline.run(str(case.path))

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"save_results": True, "suffix": "rate"}, "suffix: 'rate' is not allowed"),
            ({"output_file": "mine", "suffix": "a/b"}, "suffix: 'a/b' is not allowed"),
            ({"save_results": True, "output_ext": ".txt"}, "output_ext: '.txt' is not supported"),
        ],
    )
    def test_a_file_that_cannot_be(self, exposures, tmp_path, values, words):
        from gpucoron.engine import reduce_file

        case = exposures(*EXPOSURES["nircam"], shape=(24, 32))
        with case.cache.activate(), pytest.raises(ParameterError, match=f"jump.{words}"):
            reduce_file(case.path, tmp_path / "out", steps={"jump": values})
        assert not list((tmp_path / "out").glob("*"))


class TestWrongKinds:
    """Values that stpipe refuses with its own message, or ignores, are refused with step and parameter."""

    @pytest.fixture(scope="class")
    def case(self, exposures):
        return exposures(*EXPOSURES["nircam"], shape=(24, 32))

    @pytest.mark.parametrize(
        ("attributes", "words"),
        [
            ({"jump": None}, "jump: a pipeline of gpucoron runs its own step, not a NoneType"),
            ({"jump": {"skip": True}}, "jump: .*not a dict; set its attributes .pipeline.jump.skip = True"),
            ({"steps": {"jump": {"skip": True}}}, "calwebb_coron1.steps: used only when a pipeline is created"),
            ({"jump.rejection_threshold": "abc"}, "jump.rejection_threshold: expected float"),
            ({"jump.rejection_threshold": np.ones(3)}, "jump.rejection_threshold: .*array of shape"),
            ({"superbias.override_superbias": np.ones(3)}, "superbias.override_superbias: .*array of shape"),
            ({"dq_init.user_supplied_dq": np.ones((24, 32))}, "dq_init.user_supplied_dq: .*array of shape"),
            ({"ramp_fit.algorithm": "likely"}, "ramp_fit.algorithm: expected one of"),
            ({"ramp_fit.pre_hooks": 5}, "ramp_fit.pre_hooks: expected hooks, got 5"),
            ({"jump.steps": {}}, "no attribute of jump 'steps'"),
        ],
    )
    def test_of_attributes(self, case, attributes, words):
        from gpucoron import Coron1Pipeline

        pipeline = Coron1Pipeline()
        for name, value in attributes.items():
            owner, _, key = name.rpartition(".")
            setattr(getattr(pipeline, owner) if owner else pipeline, key, value)
        with case.cache.activate(), pytest.raises(ParameterError, match=words):
            pipeline.run(str(case.path))

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"steps": {"jump": {"skipp": True}}}, "no parameter of jump 'skipp'; did you mean 'skip'"),
            ({"steps": {"jmp": {}}}, "no step 'jmp'; did you mean 'jump'"),
            ({"steps": {"jump": 5}}, "jump: expected a dictionary of parameters, got 5"),
            ({"save_rsults": True}, "no parameter of calwebb_coron1 'save_rsults'; did you mean 'save_results'"),
            ({"config_file": "/nope.asdf"}, "/nope.asdf: no such parameter file"),
        ],
    )
    @pytest.mark.parametrize("way", ["call", "made"])
    def test_of_parameters(self, case, values, words, way):
        from gpucoron import Coron1Pipeline

        if way == "made" and "config_file" in values:
            return  # there it is only the folder of relative names
        with case.cache.activate(), pytest.raises(ParameterError, match=words):
            Coron1Pipeline.call(str(case.path), **values) if way == "call" else Coron1Pipeline(**values)

    def test_of_a_single_step(self, case):
        from gpucoron.pipeline import JumpStep

        with case.cache.activate():
            with pytest.raises(ParameterError, match="no parameter of jump 'treshold'"):
                JumpStep.call(str(case.path), treshold=3)
            for given in ([str(case.path)], None, np.ones(3), b"x"):
                with pytest.raises(InputError, match="RampModel"):
                    JumpStep.call(given)
                with pytest.raises(InputError, match="RampModel"):
                    JumpStep().run(given)

    def test_numbers_and_paths_of_other_kinds_are_taken(self, case, tmp_path):
        from gpucoron import Coron1Pipeline

        steps = {"jump": {"rejection_threshold": np.float32(4.5), "save_results": np.bool_(True)}}
        with case.cache.activate():
            Coron1Pipeline.call(str(case.path), steps=steps, output_dir=tmp_path)
            pipeline = Coron1Pipeline()
            pipeline.jump.rejection_threshold, pipeline.output_dir = np.float32(4.5), tmp_path / "other"
            pipeline.jump.save_results, pipeline.jump.pre_hooks = np.bool_(True), None
            pipeline.run(str(case.path))
        assert len(list(tmp_path.glob("*_jump.fits"))) == len(list((tmp_path / "other").glob("*_jump.fits"))) == 1

    def test_two_results_of_one_name(self, case, tmp_path):
        from gpucoron.engine import reduce_file

        steps = {name: {"save_results": True, "suffix": "mine"} for name in ("jump", "linearity")}
        with (
            case.cache.activate(),
            pytest.raises(ParameterError, match=r"jump.suffix: .*would replace that of linearity"),
        ):
            reduce_file(case.path, tmp_path, steps=steps)

    def test_a_subclass_may_have_more_attributes(self, case):
        from gpucoron import Coron1Pipeline

        class Mine(Coron1Pipeline):
            def __init__(self, *args, **values):
                super().__init__(*args, **values)
                self.note = "of the user"

        with case.cache.activate():
            assert Mine.call(str(case.path)).meta.cal_step.ramp_fit == "COMPLETE"


class TestHooks:
    """Hooks in every entry point, and their errors."""

    @pytest.fixture(scope="class")
    def case(self, exposures):
        pars = {"pars-rampfitstep": {"post_hooks": ["tests.cases.user_hooks.Shift(by=64)"]}}
        return exposures(*EXPOSURES["nircam"], shape=(24, 32), pars=pars)

    @pytest.fixture(scope="class")
    def theirs(self, case):
        from jwst.pipeline import Detector1Pipeline

        steps = {
            "ramp_fit": {"post_hooks": []},
            "jump": {"pre_hooks": ["tests.cases.user_hooks.Copy", "tests.cases.user_hooks.double"]},
        }
        with case.cache.activate():
            return Detector1Pipeline.call(str(case.path), steps=steps)

    @pytest.mark.parametrize(
        "hooks", ["tests.cases.user_hooks.Copy, tests.cases.user_hooks.double", [user_hooks.Copy(), user_hooks.double]]
    )
    @pytest.mark.parametrize("coat", ["reduce_file", "call", "instance", "run_single_file"])
    def test_hooks_of_every_kind_run(self, case, theirs, tmp_path, hooks, coat):
        from gpucoron import Coron1Pipeline
        from gpucoron.coron1pipeline import run_single_file
        from gpucoron.engine import reduce_file

        steps = {"ramp_fit": {"post_hooks": []}, "jump": {"pre_hooks": hooks}}
        if coat in ("call", "instance") and isinstance(hooks, str):
            steps["jump"]["pre_hooks"] = hooks.split(", ")
        with case.cache.activate():
            if coat == "reduce_file":
                rate = reduce_file(case.path, tmp_path, steps=steps)[1]["rate"]
            elif coat == "call":
                rate = Coron1Pipeline.call(str(case.path), steps=steps)
            elif coat == "instance":
                pipeline = Coron1Pipeline()
                pipeline.jump.pre_hooks = steps["jump"]["pre_hooks"]
                rate = pipeline.run(str(case.path))
            else:
                off = ("subtract_ktc", "subtract_1overf")
                plain = {"saturation": {}, "jump": {}} | steps
                run_single_file(str(case.path), str(tmp_path), steps=plain | {name: {"skip": True} for name in off})
                return  # run_single_file has other defaults: only check that it accepts the hooks
        for key in SLOPE_ARRAYS:
            np.testing.assert_array_equal(getattr(rate, key), getattr(theirs, key), err_msg=key)
        assert rate.meta.target.proposer_name == theirs.meta.target.proposer_name == "by a hook"

    def test_those_of_pipelines_and_single_steps_on_an_instance(self, case):
        from gpucoron import Coron1Pipeline
        from gpucoron.pipeline import RampFitStep

        seen = []
        with case.cache.activate():
            for owner in (Coron1Pipeline(), RampFitStep(), Coron1Pipeline().ramp_fit):
                owner.pre_hooks = [lambda given: seen.append(type(given).__name__)]
                owner.post_hooks.append(lambda given: seen.append(type(given).__name__))
                owner.run(str(case.path))
            Coron1Pipeline.call(str(case.path), pre_hooks=[lambda given: seen.append("called")])
        assert seen == ["str", "ImageModel", "str", "tuple", "str", "tuple", "called"]

    def test_of_the_other_instruments_steps(self, case, tmp_path, caplog):
        from gpucoron.engine import reduce_file

        with case.cache.activate(), caplog.at_level(logging.WARNING):
            reduce_file(case.path, tmp_path, steps={"rscd": {"pre_hooks": [user_hooks.double]}})
        assert "hooks of rscd: not run" in caplog.text

    def test_changes_by_hooks_are_in_the_products(self, case, tmp_path):
        from astropy.io import fits

        from gpucoron.engine import reduce_file

        steps = {"ramp_fit": {"post_hooks": []}, "jump": {"pre_hooks": [user_hooks.Copy]}}
        with case.cache.activate():
            paths = reduce_file(case.path, tmp_path, steps=steps)[2]
        for path in paths.values():
            history = "\n".join(fits.getheader(path)["HISTORY"])
            assert history.count("two rows left out by a hook") == 1
            assert "tests.cases.user_hooks.Copy" in history

    def test_those_of_parameter_files_run(self, case, tmp_path):
        from jwst.pipeline import Detector1Pipeline

        from gpucoron.engine import reduce_file

        with case.cache.activate():
            due = Detector1Pipeline.call(str(case.path))
            rate = reduce_file(case.path, tmp_path)[1]["rate"]
            without = reduce_file(case.path, tmp_path / "without", use_pars=False)[1]["rate"]
        np.testing.assert_array_equal(rate.data, due.data)
        assert np.nanmedian(rate.data - without.data) == 64

    def test_groups_may_become_fewer(self, case, tmp_path):
        from jwst.pipeline import Detector1Pipeline

        from gpucoron.engine import reduce_file

        steps = {"ramp_fit": {"post_hooks": [], "pre_hooks": ["tests.cases.user_hooks.Crop(groups=4)"]}}
        with case.cache.activate():
            due = Detector1Pipeline.call(str(case.path), steps=steps)
            rate = reduce_file(case.path, tmp_path, steps=steps)[1]["rate"]
        for key in SLOPE_ARRAYS:
            np.testing.assert_array_equal(getattr(rate, key), getattr(due, key), err_msg=key)
        assert rate.meta.exposure.ngroups == due.meta.exposure.ngroups == 4

    @pytest.mark.parametrize(
        ("hook", "kind", "words"),
        [
            (
                "tests.cases.user_hooks.fail",
                InputError,
                "jump: the hook tests.cases.user_hooks.fail failed .RuntimeError: the user's own fault",
            ),
            (user_hooks.fail, InputError, "jump: the hook tests.cases.user_hooks.fail failed"),
            (
                "tests.cases.user_hooks.forget",
                InputError,
                "jump: its hook returned a ndarray; it must return a RampModel or None",
            ),
            (
                "tests.cases.user_hooks.crop_data_alone",
                InputError,
                "jump: the result of its hook: .*the ramp has the shape .*, but GROUPDQ",
            ),
            ("tests.cases.user_hooks.nothing", ParameterError, "jump.pre_hooks: .*tests.cases.user_hooks.nothing"),
            ("hook", ParameterError, "jump.pre_hooks: 'hook' does not exist"),
            ("no_such_module.Hook", ParameterError, "jump.pre_hooks: 'no_such_module.Hook' does not exist"),
            (5, ParameterError, "jump.pre_hooks: expected hooks, got"),
            ("false {0}", InputError, "jump: the hook .* failed .*returned error code"),
        ],
    )
    def test_faults_name_file_step_and_hook(self, case, tmp_path, hook, kind, words, monkeypatch):
        from gpucoron.engine import reduce_file

        monkeypatch.chdir(tmp_path)  # stpipe writes the input of a command into the current folder
        steps = {"ramp_fit": {"post_hooks": []}, "jump": {"pre_hooks": [hook]}}
        with case.cache.activate(), pytest.raises(kind, match=words) as caught:
            reduce_file(case.path, tmp_path / "out", steps=steps)
        assert kind is ParameterError or case.path.name in str(caught.value)
        assert not list((tmp_path / "out").glob("*"))

    def test_a_batch_takes_them_by_name(self, case, tmp_path):
        from gpucoron import batch

        with case.cache.activate(), pytest.raises(ParameterError, match=r"jump\.pre_hooks: .*by name"):
            batch.reduce([case.path], tmp_path, steps={"jump": {"pre_hooks": [user_hooks.double]}})
