"""Fixtures for all tests: simulated exposures with their CRDS cache, backends, and the rules for tests on a GPU."""

import gc
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from gpucoron.backends import BACKENDS, backend_status
from gpucoron.io.versions import REPRODUCED_JWST
from tests.cases.backends import PEERS, backend_params, usable_backend

# one BLAS thread per worker, because the tests run in parallel
os.environ.setdefault("OMP_NUM_THREADS", "1")
# kernels are compiled before they are needed, so that tests of them do not get NumPy's results
os.environ.setdefault("GPUCORON_NATIVE", "wait")

if find_spec("hypothesis") is None:
    from tests.stand_ins import without_hypothesis

    without_hypothesis.install()
else:
    from hypothesis import HealthCheck, settings

    # Number of examples for tests that do not set it; --hypothesis-profile=long draws more.
    _ANY = {"deadline": None, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("short", max_examples=500, **_ANY)
    settings.register_profile("few", max_examples=50, **_ANY)
    settings.register_profile("long", max_examples=20000, derandomize=False, **_ANY)
    settings.load_profile("short")


def pytest_addoption(parser):
    parser.addoption("--require-gpu", action="store_true", help="run the tests that need a GPU; they fail without one")
    parser.addoption(
        "--device",
        choices=["cuda", "host"],
        default="cuda",
        help="the backend for --require-gpu (host: rehearsal)",
    )
    parser.addoption("--outcomes", type=Path, metavar="PATH", help="write each outcome, one JSON object per line")
    parser.addoption("--batch-kills", type=int, default=1, help="moments at which a batch is killed (default: 1)")
    parser.addoption("--batch-many", type=int, default=30, help="exposures in one worker in memory tests (default: 30)")
    parser.addoption("--fuzz", type=int, help="number of cases of each fuzzer")
    parser.addoption("--fuzz-case", type=int, help="only this case of the differential fuzzer")
    parser.addoption("--full-parity", action="store_true", help="all cases of the parity matrix, not only quick ones")
    parser.addoption("--parity-page", metavar="PATH", help="write the page of the parity matrix's results")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out the cases of a missing device; with --require-gpu, keep only the cases of the device. Set the order."""
    if config.getoption("--require-gpu"):
        deselect(config, items, lambda item: not runs_on(item, config.getoption("--device")))
    elif config.stash[WHY_NO_GPU]:
        deselect(config, items, lambda item: runs_on(item, "cuda"))
    if not runs_whole_modules(config):
        deselect(config, items, lambda item: item.get_closest_marker("after_its_module"))
    # last of all, so that they need not wait for tests that another process has not run yet
    items.sort(key=lambda item: item.get_closest_marker("after_its_module") is not None)
    answers_as = skip_older_jwst()
    for item in items:
        if answers_as is not None and item.get_closest_marker("parity"):
            item.add_marker(answers_as)


def skip_older_jwst():
    """Return the mark for tests that compare with the installed jwst: skip them if it is too old."""
    try:
        installed = version("jwst")
    except PackageNotFoundError:
        return None
    if int(installed.partition(".")[0]) >= int(REPRODUCED_JWST.partition(".")[0]):
        return None
    return pytest.mark.skip(reason=f"jwst {installed} differs from {REPRODUCED_JWST}: docs/coming_from_jwst.md")


def deselect(config, items, is_left_out):
    """Remove items from the list, and report them to pytest as deselected."""
    kept, left_out = [], []
    for item in items:
        (left_out if is_left_out(item) else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def runs_on(item, backend):
    """Return whether a test is marked as a case of a backend."""
    return any(backend in mark.args for mark in item.iter_markers("runs_on"))


def runs_whole_modules(config):
    """Return whether pytest was started without options that select single tests."""
    # Without pytest's cache provider there is no option 'lf'.
    options = (config.getoption(name, None) for name in ("keyword", "markexpr", "deselect", "lf"))
    return not any(options) and not any("::" in argument for argument in config.args)


def pytest_runtest_logreport(report):
    """Write the outcome of a test at once, so that it is known even if the run is interrupted."""
    if _outcomes is None or (report.when != "call" and report.passed):
        return
    message = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
    with _outcomes.open("a") as file:
        line = {"test": report.nodeid, "outcome": report.outcome, "told": message[-3000:]}
        line["fuzz"] = [value for key, value in report.user_properties if key == "fuzz"]
        file.write(json.dumps(line) + "\n")


_outcomes = None
#: why there are no cases of the backend 'cuda'; empty where they run
WHY_NO_GPU = pytest.StashKey[str]()


def pytest_configure(config):
    if config.getoption("--require-gpu"):
        config.stash[WHY_NO_GPU] = ""
    elif hasattr(config, "workerinput"):
        # All workers must collect the same tests, so the main process checks once for a device.
        config.stash[WHY_NO_GPU] = config.workerinput["why_no_gpu"]
    else:
        usable, reason = backend_status()["cuda"]
        config.stash[WHY_NO_GPU] = "" if usable else reason
    # With pytest-xdist, only the main process writes the outcomes.
    global _outcomes
    _outcomes = None if hasattr(config, "workerinput") else config.getoption("--outcomes")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Pass the facts about the device to a worker of pytest-xdist."""
    node.workerinput["why_no_gpu"] = node.config.stash[WHY_NO_GPU]


def pytest_report_header(config):
    if config.stash[WHY_NO_GPU]:
        return f"backend cuda: its cases are left out ({config.stash[WHY_NO_GPU]})"
    return None


def pytest_terminal_summary(terminalreporter):
    """Print the table of the parity matrix, and write its page on request."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    results = dict(
        value for report in reports for key, value in getattr(report, "user_properties", ()) if key == "parity"
    )
    if not results:
        return
    from tests.cases.parity import CASES
    from tests.cases.parity_table import format_lines, write_page

    results = {name: results[name] for name in CASES if name in results}
    terminalreporter.section(f"parity with jwst: {len(results)} of {len(CASES)} cases")
    for line in format_lines(results):
        terminalreporter.write_line(line)
    page = terminalreporter.config.getoption("--parity-page")
    if page:
        write_page(Path(page), results)


@pytest.fixture(scope="session")
def exposures(tmp_path_factory):
    """Make simulated exposures, each once per session: ``exposures(instrument, subarray, ...) -> Case``."""
    from tests.cases.exposures import CaseMaker

    return CaseMaker(tmp_path_factory)


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """A folder with raw exposures of both instruments, of every type in a database; tests must not change it."""
    from tests.cases.observations import MODES, observe

    folder = tmp_path_factory.mktemp("raw")
    for instrument in MODES:
        observe(folder, instrument)
    return folder


#: 'native' is NumPy or the kernels of 'host' for each operation: test_native.py and test_kernels.py check that
EACH = [name for name in BACKENDS if name != "native"]


@pytest.fixture(scope="session", params=backend_params(EACH))
def backend(request):
    """Every backend in turn, for tests of results that all must return."""
    return usable_backend(request.param, request.config)


@pytest.fixture(scope="session", params=backend_params(name for name in EACH if name != "numpy"))
def kernel_backend(request):
    """Every backend that runs the CUDA kernels, for tests against the NumPy definition."""
    return usable_backend(request.param, request.config)


@pytest.fixture(scope="session")
def host(request):
    """The kernels, compiled by g++ for the CPU."""
    return usable_backend("host", request.config)


@pytest.fixture
def late_cupy(request, monkeypatch, tmp_path):
    """A stand-in for CuPy that delays its work and runs it with the host build."""
    from tests.stand_ins.fake_cupy import make_fake_cupy

    return make_fake_cupy(monkeypatch, tmp_path, runner=usable_backend("host", request.config, n_threads=1))


@pytest.fixture(scope="session", params=backend_params(["cuda"]))
def gpu(request):
    """The CUDA backend of a real device."""
    return usable_backend(request.param, request.config)


def _missing_peer(config, error):
    """Return the package that a test needs and a GPU machine lacks."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if config.getoption("--require-gpu") and name in PEERS and find_spec(name) is None:
        return name
    return None


#: number of modules at the last `gc.freeze`
_n_modules_frozen = 0


def _freeze_imports():
    """Exclude imported modules from garbage collection.

    jwst collects garbage after every step; searching all modules takes two thirds of the time of a small exposure.
    """
    global _n_modules_frozen
    if len(sys.modules) > _n_modules_frozen + 100:
        gc.collect()
        gc.freeze()
        _n_modules_frozen = len(sys.modules)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    _freeze_imports()
    return (yield from _skip_without_peers(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _skip_without_peers(item))


def _skip_without_peers(item):
    try:
        return (yield)
    except ModuleNotFoundError as error:
        name = _missing_peer(item.config, error)
        if name is None:
            raise
        pytest.skip(f"{name} is not installed on this machine")


class _ModuleWithoutPeers(pytest.Module):
    """A test module that is skipped as a whole if an import is missing on this machine."""

    def _getobj(self):
        try:
            return super()._getobj()
        except pytest.Collector.CollectError as error:
            for name in PEERS:
                if find_spec(name) is None and f"No module named '{name}" in str(error):
                    pytest.skip(f"{name} is not installed on this machine", allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path, parent):
    if parent.config.getoption("--require-gpu"):
        return _ModuleWithoutPeers.from_parent(parent, path=module_path)
    return None


@pytest.fixture
def without_network(monkeypatch):
    """pyKLIP requests the wavelengths of filters from a server, and uses a table if it does not answer."""
    from astroquery.svo_fps import SvoFps

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(SvoFps, "get_filter_list", refuse)
