"""All calls, keywords and dictionaries that spaceKLIP 2.2 documents for stage 1: none is refused.

Names and values are those of its docstrings and its two tutorials; the expected effect is next to each.
"""

import copy
import inspect
import logging
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron import coron1pipeline, engine
from gpucoron.errors import InputError, OutputError, ParameterError
from gpucoron.steps import STEPS
from tests.cases.observations import tables_of

SWITCHED_ON = {"skip": False}


def jump_thresholds(value):
    """As in both tutorials."""
    names = ("rejection_threshold", "three_group_rejection_threshold", "four_group_rejection_threshold")
    return {**dict.fromkeys(names, value), "maximum_cores": "all"}


#: the steps of the MIRI tutorial, and their expected effect: step -> parameter -> value
MIRI_TUTORIAL = {
    "group_scale": SWITCHED_ON,
    "dq_init": {"skip": False, "save_results": False},
    "saturation": {"n_pix_grow_sat": 1, "grow_diagonal": False},
    "ipc": {"skip": True},
    **dict.fromkeys(("firstframe", "lastframe", "reset", "linearity", "rscd"), SWITCHED_ON),
    "dark_current": {"skip": True},
    "refpix": {
        **{"skip": False, "odd_even_columns": True, "odd_even_rows": True, "nlower": 0, "nupper": 0},
        **{"nleft": 0, "nright": 0, "nrow_off": 0, "ncol_off": 0},
    },
    "jump": jump_thresholds(8.0),
    "ramp_fit": {"save_calibrated_ramp": False, "maximum_cores": "all"},
    "gain_scale": SWITCHED_ON,
}
NIRCAM_TUTORIAL = {
    "group_scale": SWITCHED_ON,
    "dq_init": SWITCHED_ON,
    "saturation": {"n_pix_grow_sat": 1, "grow_diagonal": False},
    "ipc": {"skip": True},
    "superbias": SWITCHED_ON,
    "refpix": {
        **{"odd_even_columns": True, "odd_even_rows": True, "nlower": 4, "nupper": 4, "nleft": 4, "nright": 4},
        **{"nrow_off": 0, "ncol_off": 0},
    },
    "linearity": SWITCHED_ON,
    "dark_current": {"skip": True},
    "persistence": {"skip": True},
    "jump": jump_thresholds(4.0),
    "subtract_1overf": {
        **{"model_type": "savgol", "sat_frac": 0.5, "combine_ints": True, "vertical_corr": True, "nproc": 4},
    },
    "ramp_fit": {"save_calibrated_ramp": False, "maximum_cores": "all"},
    "gain_scale": SWITCHED_ON,
}
TUTORIALS = {"MIRI": MIRI_TUTORIAL, "NIRCAM": NIRCAM_TUTORIAL}
#: parameters that spaceKLIP's own steps declare, with values other than the defaults
DECLARED_BY_SPACEKLIP = {
    "subtract_ktc": {"sat_frac": 0.4},
    "subtract_1overf": {
        **{"model_type": "median", "sat_frac": 0.4, "combine_ints": False, "vertical_corr": False, "nproc": 2},
    },
    "experimental_jumpramp": {"use": True, "nproc": 2, "noise_scale": 1.1, "nan_dnu": False},
    "mask_groups": {
        **{"skip": False, "mask_sigma_med": 3, "mask_window": 2, "mask_method": "advanced", "types": ["REF"]},
        **{"cropwidth": 25, "edgewidth": 12, "threshold": 80, "custom_group": 4},
    },
    "saturation": {"grow_diagonal": True, "flag_rcsat": True, "n_pix_grow_sat": 2},
    "refpix": {"nlower": 3, "nupper": 2, "nrow_off": 1, "nleft": 1, "nright": 1, "ncol_off": 1},
    "ramp_fit": {"save_calibrated_ramp": True, "suppress_one_group": True, "maximum_cores": "half"},
}
#: keyword of run_single_file and run_obs, a value -> the step and parameter that must then have another value
KEYWORDS = {
    ("flag_rcsat", True): ("saturation", "flag_rcsat", True),
    ("grow_diagonal", True): ("saturation", "grow_diagonal", True),
    ("n_pix_grow_sat", 2): ("saturation", "n_pix_grow_sat", 2),
    ("skip_ktc", True): ("subtract_ktc", "skip", True),
    ("skip_fnoise", True): ("subtract_1overf", "skip", True),
    ("skip_fnoise_vert", True): ("subtract_1overf", "vertical_corr", False),
    ("skip_charge", True): ("charge_migration", "skip", True),
    ("skip_jump", True): ("jump", "skip", True),
    ("skip_dark", False): ("dark_current", "skip", False),
    ("skip_ipc", True): ("ipc", "skip", True),
    ("skip_persistence", False): ("persistence", "skip", False),
    ("nlower", 3): ("refpix", "nlower", 3),
    ("nupper", 3): ("refpix", "nupper", 3),
    ("nrow_off", 1): ("refpix", "nrow_off", 1),
    ("rejection_threshold", 5): ("jump", "rejection_threshold", 5.0),
    ("three_group_rejection_threshold", 6): ("jump", "three_group_rejection_threshold", 6.0),
    ("four_group_rejection_threshold", 7): ("jump", "four_group_rejection_threshold", 7.0),
    ("suppress_one_group", True): ("ramp_fit", "suppress_one_group", True),
}
OF_RUN = {
    ("save_calibrated_ramp", True): "save_calibrated_ramp",
    ("save_calibrate_ramp", True): "save_calibrated_ramp",
    ("save_intermediates", True): "save_intermediates",
    ("return_rateints", True): "return_rateints",
    ("rate_int_outliers", True): "rate_int_outliers",
    ("stage_1overf", "groups"): "stage_1overf",
}


@pytest.fixture(scope="module", params=["NIRCAM", "MIRI"])
def case(request, exposures):
    if request.param == "NIRCAM":
        return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2, shape=(48, 64))
    return exposures("MIRI", "MASK1550", "FASTR1", 8, 2, shape=(48, 64))


@pytest.fixture(scope="module")
def nircam(exposures):
    return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2, shape=(48, 64))


def names_in(folder):
    return {path.name.split("_", 3)[-1].split("_", 1)[1] for path in folder.glob("*.fits")}


def history_of(folder):
    return "".join(fits.getheader(next(folder.glob("*_rate.fits")))["HISTORY"])


def test_the_dictionary_of_the_tutorial(case, tmp_path, caplog):
    """The call of the tutorial: only the parameters that it sets differ."""
    instrument = fits.getheader(case.path)["INSTRUME"]
    steps = TUTORIALS[instrument]
    given = copy.deepcopy(steps)
    tables = tables_of(case.path)
    with case.cache.activate(), caplog.at_level(logging.INFO, logger="gpucoron"):
        coron1pipeline.run_obs(database=tables, steps=steps, subdir="stage1", output_dir=tmp_path)
        plain = coron1pipeline.run_single_file(case.path, tmp_path / "plain", skip_ipc=True)
    assert steps == given
    (row_path,) = tables["K"]["FITSFILE"]
    assert row_path.endswith("_rateints.fits")
    assert names_in(tmp_path / "stage1") == {"rate.fits", "rateints.fits"}
    threshold = steps["jump"]["rejection_threshold"]
    assert ('"rejection_threshold": 8.0' in history_of(tmp_path / "stage1")) == (threshold == 8.0)
    for name in ("jump.maximum_cores", "ramp_fit.maximum_cores"):
        assert caplog.text.count(f"{name} is accepted and not used: gpucoron uses all cores") == 1
    if instrument == "NIRCAM":
        assert "subtract_1overf.nproc is accepted and not used" in caplog.text
    rate = fits.getdata(next((tmp_path / "stage1").glob("*_rate.fits")), "SCI")
    np.testing.assert_array_equal(np.isfinite(rate), np.isfinite(plain.data))


@pytest.mark.parametrize("step", DECLARED_BY_SPACEKLIP)
def test_parameters_of_spaceklips_steps(step, caplog):
    values = DECLARED_BY_SPACEKLIP[step]
    with caplog.at_level(logging.WARNING, logger="gpucoron"):
        parameters, run_parameters, _files = engine.settle(profile="spaceklip", steps={step: values})
    for name, value in values.items():
        assert getattr(parameters[step], name) == value
        not_used = f"{step}.{name} is accepted and not used: " in caplog.text
        assert not_used == (name in ("nproc", "mask_sigma_med", "mask_window", "maximum_cores"))
    assert run_parameters.save_calibrated_ramp == (step == "ramp_fit")


@pytest.mark.parametrize("keyword", [*KEYWORDS, *OF_RUN], ids=lambda keyword: keyword[0])
def test_keywords_have_their_effect(keyword, nircam, tmp_path, monkeypatch):
    """The engine's parameters: each documented keyword changes only the parameter that it names."""
    name, value = keyword
    seen = []

    def reduce_file(
        path, output_dir, *, profile, steps, backend, overwrite, max_memory, save_results=True, **run_parameters
    ):
        seen.append(engine.settle(engine_exposure, profile=profile, steps=steps, pipeline=run_parameters)[:2])
        return None, {"rate": "rate", "rateints": "rateints"}, {}

    with nircam.cache.activate():
        engine_exposure = gpucoron.Exposure.read(nircam.path)
        monkeypatch.setattr(engine, "reduce_file", reduce_file)
        for given in ({}, {name: value}):
            result = coron1pipeline.run_single_file(fitspath=nircam.path, output_dir=tmp_path, **given)
    (before, before_run), (after, after_run) = seen
    differences = {
        (step, key): (vars(before[step])[key], held)
        for step in STEPS
        for key, held in vars(after[step]).items()
        if vars(before[step])[key] != held
    }
    changes = {key: held for key, held in vars(after_run).items() if vars(before_run)[key] != held}
    if keyword in KEYWORDS:
        step, parameter, expected = KEYWORDS[keyword]
        assert {key: new for key, (_old, new) in differences.items()} == {(step, parameter): expected}
        assert not changes
    else:
        assert changes == {OF_RUN[keyword]: value}
        # the outliers are a step, which that keyword switches on
        switched = {("apply_rateints_outliers", "skip"): (True, False)} if name == "rate_int_outliers" else {}
        assert differences == switched
        assert result == ("rateints" if name == "return_rateints" else "rate")


def test_the_number_of_processes(nircam, tmp_path, caplog):
    with nircam.cache.activate(), caplog.at_level(logging.WARNING, logger="gpucoron"):
        coron1pipeline.run_single_file(nircam.path, tmp_path, maximum_cores="half")
    assert caplog.text.count("ramp_fit.maximum_cores is accepted and not used: gpucoron uses") == 1
    assert "maximum_cores" not in history_of(tmp_path)


def test_save_results(nircam, tmp_path):
    with nircam.cache.activate():
        model = coron1pipeline.run_single_file(nircam.path, tmp_path, save_results=False)
    assert np.isfinite(model.data).any()
    assert not list(tmp_path.iterdir())


def test_signatures():
    """Positional arguments have the same order as in spaceKLIP."""
    single = list(inspect.signature(coron1pipeline.run_single_file).parameters)
    assert single[:4] == ["fitspath", "output_dir", "steps", "verbose"]
    every = list(inspect.signature(coron1pipeline.run_obs).parameters)
    assert every[:6] == ["database", "steps", "subdir", "overwrite", "quiet", "verbose"]


def test_the_older_name_of_fitspath(nircam, tmp_path):
    with nircam.cache.activate(), pytest.warns(DeprecationWarning, match="fitspath"):
        coron1pipeline.run_single_file(path=nircam.path, output_dir=tmp_path)
    assert names_in(tmp_path) == {"rate.fits", "rateints.fits"}
    with pytest.raises(ParameterError, match="fitspath is missing"):
        coron1pipeline.run_single_file(output_dir=tmp_path)
    with pytest.raises(ParameterError, match="output_dir is missing"):
        coron1pipeline.run_single_file(nircam.path)


@pytest.mark.parametrize("value", [False, True])
def test_ramp_fit_save_calibrated_ramp(value, case, tmp_path):
    """True sets the parameter of the whole run, in either form."""
    steps = {"ramp_fit": {"save_calibrated_ramp": value}}
    with case.cache.activate():
        coron1pipeline.run_single_file(case.path, tmp_path / "single", steps)
        gpucoron.reduce_file(case.path, tmp_path / "engine", steps=steps)
        for folder in ("call", "instance"):
            (tmp_path / folder).mkdir()
        gpucoron.Coron1Pipeline.call(str(case.path), steps=steps, save_results=True, output_dir=str(tmp_path / "call"))
        pipeline = gpucoron.Coron1Pipeline(output_dir=str(tmp_path / "instance"))
        pipeline.save_results = True
        pipeline.ramp_fit.save_calibrated_ramp = value
        pipeline.run(str(case.path))
        command = [sys.executable, "-m", "gpucoron", "run", str(case.path), "-o", str(tmp_path / "cli")]
        subprocess.run([*command, "--set", f"ramp_fit.save_calibrated_ramp={value}"], check=True, capture_output=True)
    expected = {"rate.fits", "rateints.fits"} | ({"ramp.fits"} if value else set())
    for folder in ("single", "engine", "call", "instance", "cli"):
        assert names_in(tmp_path / folder) == expected, folder


def test_intermediates_of_slopes(nircam, tmp_path):
    """spaceKLIP saves after the fit: rateints without 1/f noise, and both results of the likelihood fit."""
    with nircam.cache.activate():
        coron1pipeline.run_single_file(nircam.path, tmp_path / "ints", save_intermediates=True)
        coron1pipeline.run_single_file(
            nircam.path, tmp_path / "groups", save_intermediates=True, stage_1overf="groups", skip_jump=True
        )
        likely = {"experimental_jumpramp": {"use": True}}
        coron1pipeline.run_single_file(nircam.path, tmp_path / "likely", likely, save_intermediates=True)
    ints, groups, likely = (names_in(tmp_path / folder) for folder in ("ints", "groups", "likely"))
    assert ints - groups == {"jump.fits"}
    assert likely - groups == {"experimental_jumpramp0.fits", "experimental_jumpramp1.fits"}

    def read(folder, end):
        return fits.getdata(next((tmp_path / folder).glob(f"*_{end}.fits")), "SCI")

    # no gain_scale here: the last change of the rateints is the subtraction of 1/f noise
    np.testing.assert_array_equal(read("ints", "subtract_1overf"), read("ints", "rateints"))
    assert read("groups", "subtract_1overf").ndim == 4
    before, after = read("likely", "experimental_jumpramp1"), read("likely", "subtract_1overf")
    assert before.shape == after.shape == read("likely", "rateints").shape
    assert (before != after)[np.isfinite(before)].any()
    assert read("likely", "experimental_jumpramp0").shape == before.shape[1:]


def test_suffix_and_folder_of_one_step(nircam, tmp_path):
    steps = {"jump": {"save_results": True, "suffix": "mine", "output_dir": str(tmp_path / "jumps")}}
    with nircam.cache.activate():
        coron1pipeline.run_single_file(nircam.path, tmp_path / "out", steps)
    assert names_in(tmp_path / "out") == {"rate.fits", "rateints.fits"}
    assert names_in(tmp_path / "jumps") == {"mine.fits"}


SCRIPT = """
from astropy.table import Table
from gpucoron import coron1pipeline
names = {names}
table = Table({{"FITSFILE": names, "DATAMODL": ["STAGE0"] * len(names), "TYPE": ["SCI"] * len(names)}})
coron1pipeline.run_obs({{"JWST_NIRCAM": table}}, output_dir={folder!r}, {options})
"""


@pytest.mark.parametrize(
    ("options", "named", "detailed"), [("", True, False), ("verbose=True", True, True), ("quiet=True", False, False)]
)
def test_a_plain_script_logs_its_progress(options, named, detailed, nircam, tmp_path):
    """Without configured logging, the log names concatenations and files, as in spaceKLIP; verbose adds steps."""
    script = SCRIPT.format(names=[str(nircam.path)], folder=str(tmp_path), options=options)
    with nircam.cache.activate():
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("concatenation JWST_NIRCAM" in done.stderr) == named
    assert (nircam.path.name in done.stderr) == named
    assert ("Step ramp_fit done in" in done.stderr) == detailed
    assert done.stdout == ""
    if options == "quiet=True":
        assert done.stderr == ""


def test_verbose_leaves_logging_as_it_was(nircam, tmp_path, capsys):
    logger = logging.getLogger("gpucoron")
    before = (logger.level, list(logger.handlers), logging.getLogger("gpucoron.coron1pipeline").level)
    with nircam.cache.activate():
        coron1pipeline.run_single_file(nircam.path, tmp_path, verbose=True)
        with pytest.raises(InputError):
            coron1pipeline.run_single_file(tmp_path / "absent_uncal.fits", tmp_path, verbose=True)
    assert (logger.level, list(logger.handlers), logging.getLogger("gpucoron.coron1pipeline").level) == before


@pytest.mark.parametrize("name", ["x_uncal.fits.gz", "uncal_mine.fits", "x_ramp.fits", "X_UNCAL.fits", "plain.fits"])
def test_products_are_entered_into_the_database(name, nircam, tmp_path):
    import gzip

    content = nircam.path.read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    tables = tables_of(path)
    with nircam.cache.activate():
        coron1pipeline.run_obs(tables, output_dir=tmp_path)
        (product,) = (tmp_path / "stage1").glob("*_rateints.fits")
        assert list(tables["K"]["FITSFILE"]) == [str(product)]
        assert list(tables["K"]["DATAMODL"]) == ["STAGE1"]
        made = product.stat().st_mtime_ns
        again = tables_of(path)
        coron1pipeline.run_obs(again, output_dir=tmp_path, overwrite=False)
    assert product.stat().st_mtime_ns == made
    assert list(again["K"]["FITSFILE"]) == [str(product)]


def test_an_older_product_is_not_entered(nircam, tmp_path):
    """Without a fit this run makes no rateints; those of an earlier run are not entered."""
    tables = tables_of(nircam.path)
    with nircam.cache.activate():
        coron1pipeline.run_single_file(nircam.path, tmp_path / "stage1")
        coron1pipeline.run_obs(tables, {"ramp_fit": {"skip": True}}, output_dir=tmp_path)
    assert list(tables["K"]["FITSFILE"]) == [str(nircam.path)]
    assert "ramp.fits" in names_in(tmp_path / "stage1")


def test_two_files_of_one_product(nircam, tmp_path):
    paths = [tmp_path / folder / "x_uncal.fits" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(nircam.path.read_bytes())
    tables = tables_of(*paths)
    with nircam.cache.activate(), pytest.raises(ExceptionGroup) as caught:
        coron1pipeline.run_obs(tables, output_dir=tmp_path)
    (error,) = caught.value.exceptions
    assert isinstance(error, OutputError)
    assert all(str(path) in str(error) for path in paths)
    assert [name.endswith("_rateints.fits") for name in tables["K"]["FITSFILE"]] == [True, False]


def test_a_dictionary_used_by_spaceklip_before(nircam, tmp_path):
    """spaceKLIP's run_obs adds entries to the caller's dictionary."""
    notes = {"maxgrps_faint": 3, "maxgrps_bright": 2, "cropmask": np.zeros((1, 4, 4), bool), "refbg_maxcounts": 5.0}
    with nircam.cache.activate():
        coron1pipeline.run_single_file(nircam.path, tmp_path, {"mask_groups": {"skip": True, **notes}})
    assert names_in(tmp_path) == {"rate.fits", "rateints.fits"}


def test_the_pipeline_class_of_spaceklip(case, tmp_path):
    """Defaults on the instance and in the product: like run_single_file except for the documented differences."""
    pipeline = coron1pipeline.Coron1Pipeline_spaceKLIP(output_dir=str(tmp_path))
    assert gpucoron.Coron1Pipeline_spaceKLIP is type(pipeline)
    assert (pipeline.saturation.grow_diagonal, pipeline.saturation.flag_rcsat) == (False, False)
    refpix = pipeline.refpix
    assert (refpix.nlower, refpix.nupper, refpix.nrow_off, refpix.nleft, refpix.nright, refpix.ncol_off) == (
        *(4, 4, 0),
        *(0, 0, 0),
    )
    assert not (pipeline.subtract_ktc.skip or pipeline.subtract_1overf.skip or pipeline.mask_groups.skip)
    assert not (pipeline.experimental_jumpramp.use or pipeline.ramp_fit.save_calibrated_ramp)
    assert (pipeline.stage_1overf, pipeline.rate_int_outliers, pipeline.return_rateints) == ("ints", False, False)
    pipeline.jump.rejection_threshold = 5.0
    with case.cache.activate():
        found = pipeline.run(str(case.path))
        expected = coron1pipeline.run_single_file(
            case.path, tmp_path / "single", skip_charge=True, skip_dark=False, suppress_one_group=True,
            rejection_threshold=5.0, **({"nlower": 4, "nupper": 4} if found.meta.instrument.name == "NIRCAM" else {}),
        )  # fmt: skip
        is_nircam = found.meta.instrument.name == "NIRCAM"
        without = gpucoron.Coron1Pipeline(output_dir=str(tmp_path))
        without.jump.rejection_threshold = 5.0
        plain = without.run(str(case.path))
    for name in ("data", "err", "dq", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert np.array_equal(found.data, plain.data, equal_nan=True) != is_nircam


class TestGroups:
    """A list of groups to exclude, without a database."""

    def test_every_way_leaves_the_same_out(self, nircam, tmp_path):
        steps = {"mask_groups": {"groups": [0, -1]}}
        settled = gpucoron.reduce_file(nircam.path, tmp_path / "engine", steps=steps)[1]["rateints"]
        folder = tmp_path / "cli"
        for command in (["run", str(nircam.path)], ["batch", str(nircam.path)]):
            subprocess.run(
                [
                    *(sys.executable, "-m", "gpucoron", *command, "-o", str(folder / command[0])),
                    *("--set", "mask_groups.groups=0,-1"),
                ],
                check=True, capture_output=True,
            )  # fmt: skip
        called = gpucoron.Coron1Pipeline.call(str(nircam.path), steps=steps, return_rateints=True)
        mask = np.zeros((1, 5, 1, 1), bool)
        mask[:, [0, 4]] = True
        masked = gpucoron.reduce_file(
            nircam.path, tmp_path / "mask", steps={"mask_groups": {"mask_array": mask}}
        )[1]["rateints"]  # fmt: skip
        plain = gpucoron.reduce_file(nircam.path, tmp_path / "plain")[1]["rateints"]
        written = [fits.getdata(next((folder / way).rglob("*_rateints.fits")), "SCI") for way in ("run", "batch")]
        for data in (called.data, masked.data, *written):
            np.testing.assert_array_equal(data, settled.data)
        assert not np.array_equal(settled.data, plain.data, equal_nan=True)
        # three groups of five are left
        assert np.nanmedian(settled.var_rnoise / plain.var_rnoise) > 2

    @pytest.fixture(autouse=True)
    def _references(self, nircam):
        with nircam.cache.activate():
            yield

    def test_skip_decides(self, nircam, tmp_path):
        plain = gpucoron.reduce_file(nircam.path, tmp_path / "plain")[1]["rate"]
        steps = {"mask_groups": {"groups": [0], "skip": True}}
        skipped = gpucoron.reduce_file(nircam.path, tmp_path / "skipped", steps=steps)[1]["rate"]
        np.testing.assert_array_equal(plain.data, skipped.data)

    def test_custom_group_without_a_database(self, nircam, tmp_path):
        kept = {"mask_groups": {"mask_method": "custom", "custom_group": 3}}
        named = {"mask_groups": {"groups": [3, 4]}}
        first, second = (
            gpucoron.reduce_file(nircam.path, tmp_path / name, steps=steps)[1]["rate"]
            for name, steps in (("kept", kept), ("named", named))
        )
        np.testing.assert_array_equal(first.data, second.data)

    def test_both_together(self, nircam, tmp_path):
        mask = np.zeros((1, 5, 1, 1), bool)
        mask[:, 4] = True
        both = {"mask_groups": {"groups": [3], "mask_array": mask}}
        run = gpucoron.reduce_file(nircam.path, tmp_path, steps=both)[0]
        (record,) = (record for record in run.records if record.name == "mask_groups")
        assert record.flagged == {"groups": 2 * 2 * 48 * 64}

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"groups": [5]}, "there is no group 5 in ramps of 5 groups, counted from 0 to 4"),
            ({"groups": [-6]}, "there is no group -6"),
            ({"groups": [0, 1, 2, 3, -1]}, "no group is left"),
            ({"mask_method": "advanced"}, "give groups"),
        ],
    )
    def test_mistakes_name_the_file(self, values, words, nircam, tmp_path):
        with pytest.raises(InputError, match=words) as caught:
            gpucoron.reduce_file(nircam.path, tmp_path, steps={"mask_groups": values})
        assert nircam.path.name in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_in_a_database_they_are_for_the_types(self, nircam, tmp_path):
        other = tmp_path / "other_uncal.fits"
        other.write_bytes(nircam.path.read_bytes())
        tables = tables_of(nircam.path, other, types=["SCI", "REF"])
        coron1pipeline.run_obs(tables, {"mask_groups": {"groups": [4]}}, output_dir=tmp_path)
        science, reference = (fits.getdata(path, "VAR_RNOISE") for path in tables["K"]["FITSFILE"])
        assert np.nanmedian(reference / science) > 1.5


def test_unknown_names_are_still_refused(nircam, tmp_path):
    database = SimpleNamespace(output_dir=tmp_path, obs={})
    for call in (
        lambda: coron1pipeline.run_single_file(nircam.path, tmp_path, skip_fnois=True),
        lambda: coron1pipeline.run_single_file(nircam.path, tmp_path, {"mask_groups": {"mask_windw": 2}}),
        lambda: coron1pipeline.run_obs(database, {"ramp_fit": {"save_calibrate_ramps": True}}),
    ):
        with pytest.raises(ParameterError, match="did you mean"):
            call()
