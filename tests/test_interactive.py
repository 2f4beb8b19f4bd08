"""Sessions: short tracebacks, representations in one line, tables for notebooks, names of the package."""

import ast
import inspect
import logging
import os
import re
import subprocess
import sys
import traceback
import warnings
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import gpucoron
from gpucoron import database, engine
from gpucoron.backends.results import Slopes
from gpucoron.batch import plan as batch_plan
from gpucoron.batch.run import Result, reduce
from gpucoron.batch.single import reduce_and_record
from gpucoron.errors import ArgumentError, GpucoronError, InputError, ParameterError
from gpucoron.interactive import public, table
from gpucoron.io.exposure import Exposure
from gpucoron.records import manifest, previews
from gpucoron.report import compare, ramp
from gpucoron.simulate import simulate
from gpucoron.simulate.crds import CrdsCache
from gpucoron.steps import STEPS
from gpucoron.steps import jump as jump_step
from tests.cases.paths import ROOT

PACKAGE = Path(gpucoron.__file__).parent


def frames_of(call):
    """Return the error of a call, and the functions of its traceback from the caller on."""
    with pytest.raises(Exception) as caught:
        call()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    return caught.value, names[names.index("<lambda>") + 1 :]


@pytest.fixture(autouse=True)
def usual_tracebacks(monkeypatch):
    """As for a user, also where a developer has asked for all frames."""
    monkeypatch.delenv("GPUCORON_TRACEBACK", raising=False)
    level = logging.getLogger("gpucoron").level
    logging.getLogger("gpucoron").setLevel(logging.WARNING)
    yield
    logging.getLogger("gpucoron").setLevel(level)


TYPOS = {
    "step": (lambda: gpucoron.run_single_file("x.fits", "o", steps={"jmup": {}}), ParameterError, "'jump'"),
    "argument": (lambda: gpucoron.reduce_file("x.fits", ouput_dir="o"), ArgumentError, "'output_dir'"),
    "option": (lambda: gpucoron.reduce_file("x.fits", "o", overwrit=True), ParameterError, "'overwrite'"),
    "file": (lambda: gpucoron.Exposure.read("x.fits"), InputError, "no such file"),
    "instrument": (lambda: simulate("NIRCM", "SUB320A335R", "RAPID", 4, 1), ArgumentError, "NIRCM"),
    "backend": (lambda: gpucoron.get_backend("cdua"), GpucoronError, "cuda"),
    "pipeline": (lambda: gpucoron.Coron1Pipeline.call("x.fits", steps={"jmup": {}}), ParameterError, "'jump'"),
    "attribute": (lambda: gpucoron.Coron1Pipeline(bakcend="cpu"), ParameterError, "'backend'"),
    "batch": (lambda: reduce("x", "o", steps={"jmup": {}}), ParameterError, "'jump'"),
    "array": (lambda: jump_step.flag_jumps(np.zeros(3), 0, 1, 1), ArgumentError, "data: expected"),
    "database": (lambda: database.Database.read("x.ecsv"), InputError, "cannot be read"),
    "ramp": (lambda: gpucoron.plot_ramp("x.fits", 1, 2), InputError, "no such file"),
}
FUNCTIONS = {
    "step": "run_single_file", "argument": "reduce_file", "option": "reduce_file", "file": "read",
    "instrument": "simulate", "backend": "get_backend", "pipeline": "call", "attribute": "__init__",
    "batch": "reduce", "array": "flag_jumps", "database": "read", "ramp": "plot_ramp",
}  # fmt: skip


@pytest.mark.parametrize("case", TYPOS)
def test_a_typo_shows_one_frame_of_ours(case, monkeypatch):
    call, kind, words = TYPOS[case]
    error, frames = frames_of(call)
    assert isinstance(error, kind)
    assert words in str(error)
    assert frames == [FUNCTIONS[case]]
    monkeypatch.setenv("GPUCORON_TRACEBACK", "full")
    again, all_frames = frames_of(call)
    assert (type(again), str(again)) == (type(error), str(error))
    if case == "argument":  # Python refuses the call before any frame exists; the cause is its own error
        assert isinstance(again.__cause__, TypeError)
    else:
        assert len(all_frames) > 2


def test_all_frames_while_debugging():
    logging.getLogger("gpucoron").setLevel(logging.DEBUG)
    assert len(frames_of(TYPOS["step"][0])[1]) > 2


def test_what_a_terminal_shows():
    script = "import gpucoron\ngpucoron.run_single_file('x.fits', 'o', steps={'jmup': {}})\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_environment())
    assert done.returncode == 1
    assert done.stderr.count("File ") == 2
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.rstrip().endswith("ParameterError: there is no step 'jmup'; did you mean 'jump'?")
    assert "GPUCORON_TRACEBACK=full" in done.stderr


def _environment():
    return {name: value for name, value in os.environ.items() if name != "GPUCORON_TRACEBACK"}


def test_causes_other_errors_and_inner_functions_keep_their_frames():
    @public
    def outer(how):
        return inner(how)

    @public
    def inner(how):
        if how == "ours":
            try:
                return deep("value")
            except ValueError as error:
                raise InputError("converted") from error
        return deep(how)

    def deep(how):
        raise {"value": ValueError, "type": TypeError, "wanted": ParameterError}[how](how)

    @public
    def collecting():
        try:
            inner("wanted")
        except ParameterError as error:
            return [frame.name for frame in traceback.extract_tb(error.__traceback__)]

    error, frames = frames_of(lambda: outer("ours"))
    assert frames == ["outer"]
    assert [frame.name for frame in traceback.extract_tb(error.__cause__.__traceback__)] == ["inner", "deep"]
    for _error, frames in (frames_of(lambda: outer("type")), frames_of(lambda: outer("value"))):
        assert [name for name in frames if name != "outer"][-2:] == ["inner", "deep"]
    assert collecting()[-1] == "deep"


def test_an_error_while_a_batch_is_iterated(tmp_path):
    error, frames = frames_of(lambda: next(reduce(tmp_path / "none.fits", tmp_path / "out")))
    assert isinstance(error, InputError)
    assert len(frames) == 1


def test_records_keep_the_whole_traceback(tmp_path):
    (tmp_path / "x_uncal.fits").write_text("not a FITS file")
    request = {"profile": "jwst", "steps": {}, "use_pars": None, "pars": None}
    with pytest.raises(GpucoronError) as caught:
        reduce_and_record(tmp_path / "x_uncal.fits", tmp_path / "out", backend="numpy", **request)
    assert len(traceback.extract_tb(caught.value.__traceback__)) > 4
    records, _ = manifest.read_manifests(tmp_path / "out")
    assert records["x"]["error"]["traceback"].count('File "') > 4


def test_warnings_name_the_line_of_the_caller(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeprecationWarning)
        with pytest.raises(InputError):
            gpucoron.run_single_file(path=tmp_path / "none.fits", output_dir=tmp_path)
        groupdq = np.zeros((1, 4, 2, 2), np.uint8)
        gpucoron.steps.lastframe.flag_last_group(groupdq, xp=np)
    places = [one.filename for one in caught if issubclass(one.category, DeprecationWarning)]
    assert places == [__file__, __file__]


PUBLIC = {
    "gpucoron": ("run_single_file", "run_obs", "reduce_file", "get_backend", "plot_ramp"),
    "gpucoron.backends": ("backend_status",),
    "gpucoron.batch": ("reduce",),
    "gpucoron.batch.inputs": ("find_files",),
    "gpucoron.batch.plan": ("make_plan",),
    "gpucoron.coron1pipeline": ("prepare_spaceklip",),
    "gpucoron.database": ("create_database", "as_database"),
    "gpucoron.engine": ("plan", "run_steps", "settle", "check_request"),
    "gpucoron.io.observations": ("read_observation",),
    "gpucoron.records.manifest": ("read_manifests",),
    "gpucoron.records.previews": ("save_preview", "load_preview"),
    "gpucoron.report": ("write_report",),
    "gpucoron.report.compare": ("compare_reductions", "write_comparison"),
    "gpucoron.report.ramp": ("trace_ramp", "plot_ramp", "write_ramp", "ramp_page"),
    "gpucoron.simulate": ("simulate", "write_references", "write_later_references"),
    "gpucoron.simulate.crds": ("open_cache",),
    "gpucoron.io.exposure.Exposure": ("read", "read_headers", "from_model"),
    "gpucoron.database.Database": ("read", "write", "update_obs", "read_jwst_s012_data"),
    "gpucoron.engine.Run": ("plot",),
    "gpucoron.pipeline.Coron1Pipeline": ("__init__", "call", "run"),
    "gpucoron.pipeline.JumpStep": ("__init__", "call", "run"),
    "gpucoron.simulate.Simulation": ("write",),
}


def _find(path):
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)


def public_functions():
    """Return the dotted names of the public functions and methods, array functions included, and the functions."""
    found = {f"{owner}.{name}": getattr(_find(owner), name) for owner, names in PUBLIC.items() for name in names}
    modules = {name: import_module(f"gpucoron.steps.{name}") for name in (*STEPS, "likelihood", "group_matching")}
    for name, module in modules.items():
        functions = {key: value for key, value in vars(module).items() if hasattr(value, "declared")}
        found |= {f"{name}.{key}": function for key, function in functions.items()}
    return found


@pytest.mark.parametrize("name", public_functions())
def test_public_functions_have_short_tracebacks_and_annotations(name):
    function = public_functions()[name]
    assert function.__code__.co_filename == import_module("gpucoron.interactive").__file__
    signature, inner = inspect.signature(function), inspect.unwrap(getattr(function, "__func__", function))
    assert function.__doc__ == inner.__doc__
    assert function.__name__ == inner.__name__ == function.__code__.co_name
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    bare = [one.name for one in parameters if one.annotation is inspect.Parameter.empty]
    bare += ["return"] * (signature.return_annotation is inspect.Signature.empty)
    assert not bare, f"{name}: annotate {', '.join(bare)}"
    if name.partition(".")[0] != "gpucoron":  # mypy ignores what is wrong in these modules
        assert set(inspect.get_annotations(inner, eval_str=True)) >= {one.name for one in parameters}


def test_every_name_in_all_is_listed():
    listed = {name.rpartition(".")[2] for name in public_functions()}
    others = {"Coron1Pipeline", "Coron1Pipeline_spaceKLIP", "Exposure", "GpucoronError", "__version__", "stpipe_steps"}
    others |= {"Effects", "ReferenceOptions", "SCENES", "Scene", "Simulation", "Truth", "Result", "RampTrace"}
    others |= {"STAGES", "TYPES", "Database", "Comparison"}
    for module in (gpucoron, gpucoron.simulate, gpucoron.batch, gpucoron.report, ramp, compare, database):
        assert set(module.__all__) <= listed | others, module.__name__


def test_every_documented_function_is_listed():
    documented = re.findall(r"autofunction:: (\S+)", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"))
    listed = {id(inspect.unwrap(function)) for function in public_functions().values()}
    split = {name: name.rpartition(".")[::2] for name in documented}
    functions = {name: inspect.unwrap(getattr(_find(owner), last)) for name, (owner, last) in split.items()}
    missing = [name for name, function in functions.items() if id(function) not in listed]
    # it builds a path and raises nothing
    assert missing == ["gpucoron.records.previews.preview_path"]


class Reader(HTMLParser):
    """Collects the cells and tags of a table."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_html(shown):
    reader = Reader(shown._repr_html_())
    assert not reader.open
    assert set(reader.tags) <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "small"}
    return reader


@pytest.fixture(scope="module")
def objects(exposures, tmp_path_factory):
    """Objects of every kind that a user meets, by name."""
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(24, 24))
    folder = tmp_path_factory.mktemp("objects")
    with case.cache.activate():
        run, _models, _paths = engine.reduce_file(case.path, folder / "one", backend="numpy")
        planned = batch_plan.make_plan(case.path, folder / "many")
        trace = ramp.trace_ramp(case.path, 5, 6, backend="numpy")
        of_folder = database.create_database(folder, input_dir=case.path, verbose=False)
        pipeline = gpucoron.Coron1Pipeline(steps={"jump": {"rejection_threshold": 5}}, backend="cpu")
        engine.reduce_file(case.path, folder / "two", backend="numpy", steps={"jump": {"skip": True}})
    comparison = compare.compare_reductions(folder / "one", folder / "two")
    preview = previews.save_preview(run, folder / "preview.npz")
    outputs = {"rate": folder / "x_rate.fits"}
    record = {"seconds": {"total": 1.5}, "steps": [{"name": name} for name in STEPS] * 50}
    return {
        "Run": run, "Exposure": run.exposure, "Slopes": run.exposure.rate, "Backend": run.backend,
        "Simulation": case.simulation, "Truth": case.simulation.truth, "Pixels": case.simulation.pixels,
        "CrdsCache": case.cache, "Plan": planned, "Planned": planned.exposures[0], "Input": planned.exposures[0].input,
        "Result": Result("x", case.path, "done", outputs, "", record), "RampTrace": trace, "Database": of_folder,
        "TracedStep": trace.steps[0], "PixelState": trace.raw, "Preview": preview, "Coron1Pipeline": pipeline,
        "Comparison": comparison, "PairComparison": comparison.pairs[0],
    }  # fmt: skip


SHOWN = (
    "Run", "Exposure", "Slopes", "Backend", "Simulation", "Truth", "Pixels", "CrdsCache", "Plan", "Planned", "Input",
    "Result", "RampTrace", "Database", "TracedStep", "PixelState", "Preview", "Coron1Pipeline", "Comparison",
    "PairComparison",
)  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_objects_print_as_one_line(name, objects):
    text = repr(objects[name])
    assert text.startswith(f"<{name} ") or text.startswith(f"<{name}:")
    assert text.endswith(">")
    assert "\n" not in text
    assert len(text) < 600
    if name != "Coron1Pipeline":
        assert text[1:20] in read_html(objects[name]).text[0]


def test_representations_say_what_an_object_is(objects):
    run, cache = objects["Run"], objects["CrdsCache"]
    ran = sum(record.status == "COMPLETE" for record in run.records)
    for words in (run.exposure.path.name, "NIRCAM SUB320A335R RAPID", "2 integrations x 4 groups x 24 x 24", "numpy"):
        assert words in repr(run)
    assert f"{ran} of {len(run.records)} steps ran" in repr(run)
    assert cache.context in repr(cache)
    assert "jump.rejection_threshold=5" in repr(objects["Coron1Pipeline"])
    assert "1 to reduce" in repr(objects["Plan"])
    assert "float32 (24, 24)" in repr(objects["Slopes"])
    assert "2 of 2 products differ" in repr(objects["Comparison"])


def test_the_table_of_a_run_has_its_steps(objects):
    run = objects["Run"]
    reader = read_html(run)
    shown = [record.name for record in run.records if record.reason != "switched off"]
    off = [record.name for record in run.records if record.reason == "switched off"]
    assert off and shown
    at = [reader.text.index(name) for name in shown]
    assert at == sorted(at)
    assert not set(off) & set(reader.text)
    assert f"switched off: {', '.join(off)}" in reader.text
    jump = next(record for record in run.records if record.name == "jump")
    assert f"{jump.flagged['jumps']:,} jumps" in reader.text


def test_html_is_escaped():
    evil = "<script>alert('1')</script>&amp;"
    exposure = Exposure(path=Path(f"{evil.replace('/', '')}_uncal.fits"))
    shown = [exposure, CrdsCacheOfNothing(Path("x"), evil), Result(evil, Path(evil), evil, {evil: evil}, evil, {})]
    for one in shown:
        reader = read_html(one)
        assert "script" not in reader.tags
        assert "<script>alert(" in "".join(reader.text)
    assert Reader(table(evil, (evil,), [(evil,)], evil)).text.count(evil) == 4


class CrdsCacheOfNothing(CrdsCache):
    """A cache without a manifest shows its fields alone."""

    _repr_html_ = gpucoron.interactive.Shown._repr_html_


def test_objects_without_arrays_can_be_shown():
    assert repr(Exposure()) == "<Exposure the exposure: no ramps>"
    run = engine.Run(None, None, "jwst", {}, None, {}, [], (), ())
    assert repr(run) == "<Run no exposure; backend None, profile jwst; not run yet>"
    assert read_html(run).tags.count("tr") == 2
    assert "None" in repr(Slopes(None, None, None, None, None))


def test_long_tables_are_cut():
    text = table("long", (), [(number,) for number in range(1200)])
    assert text.count("<tr>") == 500
    assert "700 more rows are not shown" in text


def test_large_arrays_are_not_read():
    class Untouchable:
        dtype, shape, ndim = np.dtype("float32"), (2, 3), 2

        def __getattr__(self, name):
            raise AssertionError(name)

        def __repr__(self):
            raise AssertionError

    assert "float32 (2, 3)" in repr(Slopes(*[Untouchable()] * 5))


def test_subpackages_and_names_are_attributes_of_the_package():
    script = """
import sys
before = set(sys.modules)
import gpucoron, rlcompleter
names = dir(gpucoron)
assert not {"numpy", "astropy", "jwst", "cupy"} & (set(sys.modules) - before)
completer = rlcompleter.Completer({"gpucoron": gpucoron})
found = []
while (one := completer.complete("gpucoron.si", len(found))):
    found.append(one)
assert found == ["gpucoron.simulate"], found
assert "jwst" not in sys.modules
assert gpucoron.report.ramp.plot_ramp is gpucoron.plot_ramp
assert gpucoron.batch.plan.make_plan and gpucoron.io.exposure.Exposure is gpucoron.Exposure
assert "matplotlib.pyplot" not in sys.modules
print(*names)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in done.stdout.split():
        assert getattr(gpucoron, name) is not None


def test_type_checkers_see_the_names_that_are_there():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    names = {alias.asname for node in block.body for alias in node.names}
    assert names | {"__version__"} == set(dir(gpucoron))
    found = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    hidden = {"__init__", "__main__", "cli", "files", "interactive"}
    assert {name for name in dir(gpucoron) if inspect.ismodule(getattr(gpucoron, name))} == found - hidden


def test_a_misspelt_name_gets_one_suggestion():
    with pytest.raises(AttributeError) as caught:
        gpucoron.reduce_fil  # noqa: B018
    assert str(caught.value) == "module 'gpucoron' has no attribute 'reduce_fil'; did you mean 'reduce_file'?"
    assert "".join(traceback.format_exception(caught.value)).lower().count("did you mean") == 1
    with pytest.raises(AttributeError, match=r"has no attribute 'reduc'$"):
        gpucoron.batch.reduc  # noqa: B018
    assert not hasattr(gpucoron, "__wrapped__")
