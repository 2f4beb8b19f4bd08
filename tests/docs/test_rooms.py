"""Import rules between the modules and packages ("rooms"), checked in the source (docs/rooms.py also draws them)."""

import ast
import re
import subprocess
import sys
from functools import partial
from importlib import import_module
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

import gpucoron
from gpucoron import OLD_NAMES, OLD_PATHS
from gpucoron.backends import get_backend
from gpucoron.batch.inputs import Input
from gpucoron.batch.plan import Plan, Planned
from gpucoron.engine import Run
from gpucoron.parameters import RunParameters
from tests.cases.paths import ROOT

MOST_ROOMS = 21
#: the rooms, top first: a room may only import rooms below it
ORDER = (
    "__main__",
    "cli",
    "report",
    "batch",
    "coron1pipeline",
    "database",
    "pipeline",
    "engine",
    "simulate",
    "io",
    "records",
    "steps",
    "backends",
    "facts",
    "parameters",
    "dq",
    "files",
    "interactive",
    "errors",
    "__init__",  # the version and the public names: every module may import it, so it imports none
)
#: inside backends: modules that are not listed are below
ORDER_OF_BACKENDS = ("__init__", "backend", "budget", "kernel_cache", "operations", "devices")

JWST = ("jwst", "stcal", "stdatamodels", "stpipe", "crds", "asdf", "gwcs")
CUPY = ("cupy", "cupyx", "cupy_backends")
#: where each of these may be imported, by the beginning of the path; and the advice to others
KNOWN_ONLY_TO = {
    JWST: (
        (
            "gpucoron/io/",
            "gpucoron/simulate/",
            *map("gpucoron/{}.py".format, ("pipeline", "coron1pipeline")),
        ),
        "let io/ read it, and hand arrays and plain values on",
    ),
    CUPY: (("gpucoron/backends/devices/cuda",), "use the namespace or the methods of the backend (backend.xp, ...)"),
}
ARRAYS_ALONE = ("gpucoron/steps/", "gpucoron/backends/")
#: modules that use declared attributes only: settings, facts, exposures and references are dataclasses
DECLARED = ("steps/", "backends/", "parameters/", "engine.py", "facts.py")
DECLARED += ("io/references.py", "io/user_files.py", "io/products.py")
LOGGING_SETUP = ("basicConfig", "dictConfig", "fileConfig", "addHandler", "removeHandler", "handlers")


@pytest.fixture(scope="module")
def rooms():
    """The module that reads imports, which is among the pages' scripts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        import rooms
    return rooms


@pytest.fixture(scope="module")
def house(rooms):
    return rooms.read_package(Path(gpucoron.__file__).parent)


def as_message(found, advice):
    """Format a message with one finding per line, and the advice."""
    return "\n".join([*map(str, found), f"-> {advice}"])


def format_circles(circles, arrows):
    """Format each circle with its members and the lines of their imports."""
    for circle in circles:
        yield f"circle: {' -> '.join([*circle, circle[0]])}"
        for arrow in zip(circle, [*circle[1:], circle[0]], strict=True):
            yield from (f"    {one}" for one in arrows[arrow])


def is_logging_setup(name):
    return name in LOGGING_SETUP or name.endswith("Handler")


def is_dynamic_import(name):
    return name in ("import_module", "__import__")


def dynamic_imports(house):
    """List the imports by name outside of an ``__init__``."""
    return [use for use in house.uses(is_dynamic_import) if not house.paths[use[0]].endswith("/__init__.py")]


def belongs_to(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_few_rooms_at_the_top(house):
    found = sorted(house.rooms())
    assert len(found) <= MOST_ROOMS, as_message(
        found, f"at most {MOST_ROOMS}: put a new module into the room it belongs to"
    )


def test_each_room_has_its_place(house):
    strange = set(house.rooms()) - set(ORDER)
    assert not strange, as_message(
        sorted(strange), "say in ORDER where it stands, and in docs/architecture.md what it does"
    )


@pytest.mark.parametrize(("inside", "order"), [("gpucoron", ORDER), ("gpucoron.backends", ORDER_OF_BACKENDS)])
def test_no_arrow_upward(rooms, house, inside, order):
    found = rooms.find_upward(house.arrows(inside), order)
    advice = (
        f"{' > '.join(order)} > all else, downward only: move what both need below both, or hand it over as an argument"
    )
    assert not found, as_message(found, advice)


@pytest.mark.parametrize("inside", ["gpucoron", "gpucoron.backends"])
def test_no_circle_between_rooms(rooms, house, inside):
    arrows = house.arrows(inside)
    found = rooms.find_circles(arrows)
    assert not found, as_message(format_circles(found, arrows), "cut one arrow of each: move what both need below both")


def test_no_circle_between_modules(rooms, house):
    arrows = rooms.module_arrows(house)
    found = rooms.find_circles(arrows)
    advice = "an import inside a function closes a circle too; cut one arrow of each: move what both need below both"
    assert not found, as_message(format_circles(found, arrows), advice)


def test_imports_can_be_read(house):
    found = [f"{where}: {module} uses {name}" for module, name, where in dynamic_imports(house)]
    assert not found, as_message(found, "write the import out, or let the __init__ of the package gather its modules")


@pytest.mark.parametrize("packages", KNOWN_ONLY_TO, ids=lambda packages: packages[0])
def test_few_rooms_know_it(house, packages):
    where, advice = KNOWN_ONLY_TO[packages]
    found = [one for one in house.outer if belongs_to(one.target, packages) and not one.where.startswith(where)]
    assert not found, as_message(found, f"only {', '.join(where)}* may: {advice}")


def test_steps_and_backends_see_arrays_alone(house):
    reads_fits = [one for one in house.outer if belongs_to(one.target, ("astropy.io",))]
    found = [one for one in reads_fits if one.where.startswith(ARRAYS_ALONE)]
    assert not found, as_message(found, "read and write files in io/ or records/, and hand the arrays over")


def test_steps_and_backends_set_no_logging_up(house):
    uses = house.uses(is_logging_setup)
    found = [f"{where}: {module} uses {name}" for module, name, where in uses if where.startswith(ARRAYS_ALONE)]
    assert not found, as_message(
        found, "log = logging.getLogger(__name__) is enough; who runs the step sets logging up"
    )


def undeclared(text):
    """List the lines that make a SimpleNamespace, or call getattr with a default, without a comment that says why."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        is_one = name == "SimpleNamespace" or (name == "getattr" and len(node.args) > 2)
        has_reason = "# " in lines[node.lineno - 1] or lines[node.lineno - 2].strip().startswith("# ")
        if is_one and not has_reason:
            yield node.lineno


def test_attributes_are_declared():
    package = Path(gpucoron.__file__).parent
    paths = [path for path in package.rglob("*.py") if path.relative_to(package).as_posix().startswith(DECLARED)]
    assert len(paths) > 60
    found = [f"{path}:{line}" for path in paths for line in undeclared(path.read_text(encoding="utf-8"))]
    advice = "declare the attribute with a default, or say in a comment why it may be missing"
    assert not found, as_message(found, advice)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = getattr(a, 'b', None)", [1]),
        ("x = getattr(a, 'b')", []),
        ("import types\nx = types.SimpleNamespace(a=1)", [2]),
        ("# modules may lack it\nx = getattr(a, 'b', None)", []),
        ("x = getattr(a, 'b', None)  # modules may lack it", []),
    ],
)
def test_reader_finds_undeclared_attributes(text, lines):
    assert list(undeclared(text)) == lines


def list_test_imports(text):
    """List the imports of a file from test modules or ``conftest``."""
    found = re.findall(r"^\s*(?:from|import)\s+(\S+(?:[ ]import[ ].*)?)", text, re.MULTILINE)
    return [name for name in found if re.search(r"(^|\.| )(test_\w+|conftest)\b", name)]


def test_no_test_imports_from_another():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in list_test_imports(path.read_text(encoding="utf-8"))
    ]
    assert not found, as_message(found, "move what both need into tests/cases")


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("from tests.steps.test_jump import simulate", True),
        ("    from tests.steps import test_jump as jump", True),
        ("import tests.steps.test_jump", True),
        ("from .test_jump import simulate", True),
        ("from tests.conftest import EACH", True),
        ("from tests.cases.jump import simulate", False),
        ("# see tests.steps.test_jump", False),
    ],
)
def test_reader_finds_imports_from_tests(line, is_found):
    assert bool(list_test_imports(f"import os\n{line}\n")) == is_found


CLOCKS = ("sleep", "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")
#: where tests may look at a clock: to end a test that hangs
CLOCK_FILES = ("tests/cases/waiting.py",)


def list_clock_calls(text):
    """List the lines of a file that call a clock of `time`, or sleep."""
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [
        call.lineno
        for call in calls
        if isinstance(call, ast.Attribute) and getattr(call.value, "id", "") == "time" and call.attr in CLOCKS
    ]


def test_no_test_judges_by_time():
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(("tests/tools/", *CLOCK_FILES))
        for line in list_clock_calls(path.read_text(encoding="utf-8"))
    ]
    assert not found, as_message(found, "wait for an event: tests.cases.waiting.wait_for")


def test_reader_finds_clocks():
    assert list_clock_calls("import time\nstart = time.monotonic()\nf(time.sleep)\ntime.sleep(3)\n") == [2, 4]


@pytest.fixture
def small_house(rooms, tmp_path):
    """A function that writes a package, path -> text, and reads it."""

    def build(files):
        for path, text in files.items():
            file = tmp_path / "small" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return rooms.read_package(tmp_path / "small")

    return build


CIRCLES = {
    "at the top": ("from small.b import it", "import small.a"),
    "in a function": ("from small import b", "def f():\n    from small.a import it"),
    "relative": ("from . import b", "from .a import it"),
    "for types alone": ("from .b import *", "if TYPE_CHECKING:\n    from small import a as alias"),
}


@pytest.mark.parametrize("how", CIRCLES)
def test_reader_finds_a_circle(rooms, small_house, how):
    a, b = CIRCLES[how]
    arrows = rooms.module_arrows(small_house({"__init__.py": "", "a.py": a, "b.py": b, "c.py": "import small.a"}))
    circles = rooms.find_circles(arrows)
    assert circles == [["small.a", "small.b"]]
    line = b.count("\n") + 1
    assert f"small/b.py:{line}: small.b imports small.a" in as_message(format_circles(circles, arrows), "cut it")


def test_reader_finds_a_long_circle_between_rooms(rooms, small_house):
    files = {
        "__init__.py": "",
        "cellar/__init__.py": "",
        "cellar/deep/__init__.py": "",
        "cellar/deep/box.py": "from ... import attic",
        "cellar/jar.py": "x = 1",
        "hall.py": "from small.cellar import jar, wine",
        "attic.py": "from small import hall",
    }
    house = small_house(files)
    assert rooms.find_circles(house.arrows()) == [["attic", "hall", "cellar"]]
    assert rooms.find_circles(rooms.module_arrows(house)) == []  # jar and box are different modules
    assert {one.target for one in house.inner if one.module == "small.hall"} == {"small.cellar.jar", "small.cellar"}
    assert house.rooms() == {"__init__": 0, "attic": 1, "cellar": 2, "hall": 1}


def test_reader_does_not_take_the_parent_for_imported(rooms, small_house):
    files = {
        "__init__.py": "from small.a import it",
        "a.py": "import small.b",
        "b.py": "from small.c import d",
        "c.py": "",
    }
    assert rooms.find_circles(rooms.module_arrows(small_house(files))) == []
    files["b.py"] = "from small import __version__"
    assert len(rooms.find_circles(rooms.module_arrows(small_house(files)))) == 1


def test_reader_finds_an_arrow_upward(rooms, small_house):
    files = {
        "__init__.py": "",
        "top.py": "import small.low",
        "low.py": "\n\ndef f():\n    from small.top import it",
        "by.py": "",
    }
    house = small_house(files)
    assert list(map(str, rooms.find_upward(house.arrows(), ("top", "low")))) == [
        "small/low.py:4: small.low imports small.top"
    ]
    assert [one.module for one in rooms.find_upward(house.arrows(), ("low",))] == ["small.top"]
    assert rooms.find_upward(house.arrows(), ("by",)) == []


def test_reader_finds_imports_by_name(small_house):
    text = "import importlib\nx = importlib.import_module('small.b')\ny = __import__('small.b')\n"
    files = {"__init__.py": text, "a.py": text, "b.py": "from importlib import import_module as load\nload('x')"}
    assert dynamic_imports(small_house(files)) == [
        ("small.a", "import_module", "small/a.py:2"),
        ("small.a", "__import__", "small/a.py:3"),
        ("small.b", "import_module", "small/b.py:1"),
    ]


def test_reader_finds_other_packages_and_logging(small_house):
    text = "import jwst.stpipe\nfrom astropy import io\nfrom astropy.io.fits import open\nimport jwstlike\n"
    text += "import logging\nlogging.basicConfig()\nlogging.getLogger().addHandler(logging.StreamHandler())"
    house = small_house({"__init__.py": text})
    assert [belongs_to(one.target, JWST) for one in house.outer] == [True, False, False, False, False]
    assert [belongs_to(one.target, ("astropy.io",)) for one in house.outer] == [False, True, True, False, False]
    assert [name for _, name, _ in house.uses(is_logging_setup)] == ["basicConfig", "addHandler", "StreamHandler"]


def test_picture_shows_each_room_on_its_floor(rooms, small_house, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from room_pictures import draw

    files = {
        "__init__.py": "",
        "a.py": "from small import b, c, d",
        "b.py": "import small.c",
        "c.py": "def f():\n    import small.b",
        "d/__init__.py": "x = 1",
    }
    house = small_house(files)
    assert rooms.floors_of(house.rooms(), house.arrows()) == {"__init__": 0, "a": 2, "b": 1, "c": 0, "d": 0}
    picture = ElementTree.fromstring(draw(house, "small"))
    svg = "{http://www.w3.org/2000/svg}"
    boxes = [{key: float(box.get(key)) for key in ("x", "y", "width")} for box in picture.iter(f"{svg}rect")]
    words = [text.text for text in picture.iter(f"{svg}text")]
    assert words[::2] == ["__init__.py", "a.py", "b.py", "c.py", "d/"]
    assert words[1::2] == ["0 lines", "1 lines", "1 lines", "2 lines", "1 lines"]
    for one, other in combinations(boxes, 2):
        left, right = sorted((one, other), key=lambda box: box["x"])
        assert one["y"] != other["y"] or left["x"] + left["width"] < right["x"]
    arrows = [path.get("class") for path in picture.findall(f"{svg}path")]
    assert sorted(arrows) == ["of-a of-b", "of-a of-d", "of-b of-c", "upward of-c of-b"]  # implies a -> c


#: documented in version 0.1, besides the steps, which have not moved
DOCUMENTED = """
    gpucoron.backends.backend_status gpucoron.backends.base.Backend gpucoron.backends.base.Slopes
    gpucoron.backends.get_backend gpucoron.batch.Result gpucoron.batch.reduce gpucoron.batch_inputs.find_files
    gpucoron.batch_plan.make_plan gpucoron.batch_progress.Silent gpucoron.coron1pipeline.run_obs
    gpucoron.coron1pipeline.run_single_file gpucoron.engine.plan gpucoron.engine.reduce_file gpucoron.engine.run_steps
    gpucoron.errors.GpucoronError gpucoron.exposure.Exposure gpucoron.exposure.Facts gpucoron.manifest.read_manifests
    gpucoron.pipeline.Coron1Pipeline gpucoron.previews.Preview gpucoron.previews.load_preview
    gpucoron.previews.preview_path gpucoron.previews.save_preview gpucoron.report.write_report
    gpucoron.simulate.Effects gpucoron.simulate.Scene gpucoron.simulate.Simulation gpucoron.simulate.Truth
    gpucoron.simulate.simulate gpucoron.simulate.write_references gpucoron.simulate.ReferenceOptions
    gpucoron.simulated_references.ReferenceOptions gpucoron.simulated_references.write_references
    gpucoron.simulated_crds.open_cache
"""


@pytest.mark.filterwarnings("ignore:.* is now :DeprecationWarning")
@pytest.mark.parametrize("path", DOCUMENTED.split())
def test_documented_names_still_exist(path):
    module, _, name = path.rpartition(".")
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("old", [name for name in OLD_PATHS if not name.endswith("__main__")])
def test_old_paths_still_work_and_name_the_new_one(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {OLD_PATHS[old]}"):
        module = import_module(old)
    assert module is import_module(OLD_PATHS[old])


#: class in `OLD_NAMES` -> function that makes an instance
INSTANCES = {
    "gpucoron.backends.backend.Backend": partial(get_backend, "numpy"),
    "gpucoron.batch.inputs.Input": partial(Input, "x", "x", Path("x_uncal.fits"), 1),
    "gpucoron.batch.plan.Plan": partial(Plan, Path("out"), [], [], "jwst_0001.pmap"),
    "gpucoron.batch.plan.Planned": partial(Planned, None),
    "gpucoron.engine.Run": partial(Run, None, None, "jwst", {}, RunParameters(), {}, [], (), ()),
}


@pytest.mark.parametrize(("where", "old"), [(where, old) for where, names in OLD_NAMES.items() for old in names])
def test_old_names_still_work_and_warn(where, old):
    new = OLD_NAMES[where][old]
    owner = INSTANCES[where]() if where in INSTANCES else import_module(where)
    with pytest.warns(DeprecationWarning, match=f"{where}.{old} is now {new}"):
        assert getattr(owner, old) == getattr(owner, new)
    with pytest.raises(AttributeError, match="no attribute 'never'"):
        owner.never  # noqa: B018


def test_the_old_way_to_run_the_command_line():
    command = [sys.executable, "-W", "default", "-m", "gpucoron.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"gpucoron {gpucoron.__version__}\n"
    assert "gpucoron.cli is now gpucoron" in done.stderr


def _modules_after(code):
    script = f"{code}\nimport sys\nprint(' '.join(sorted(name.split('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_gpucoron_imports_nothing_heavy():
    assert not _modules_after("import gpucoron") & ({*JWST} | {"cupy", "numpy", "astropy", "scipy", "matplotlib"})


def test_help_imports_nothing_heavy():
    loaded = _modules_after("from gpucoron.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass")
    assert not loaded & ({*JWST} | {"cupy", "numpy", "astropy", "scipy", "matplotlib"})


def test_dq_values_are_jwsts():
    from stdatamodels.jwst.datamodels import dqflags

    from gpucoron import dq

    ours = {name: value for name, value in vars(dq).items() if name.isupper()}
    assert ours == dqflags.pixel
