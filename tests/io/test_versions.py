"""Versions of other packages: their ranges, messages outside of these, and the versions in the products."""

import logging
import os
import re
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest

import gpucoron
from gpucoron.errors import VersionError
from gpucoron.io import products, versions
from tests.cases.paths import ROOT
from tests.tools.oldest_versions import read_pins


@pytest.fixture
def pretend(monkeypatch):
    """A function that patches versions: package -> version, or None for a missing package."""

    def pretend(**others):
        real = versions.installed
        monkeypatch.setattr(
            versions, "installed", lambda package: others[package] if package in others else real(package)
        )
        versions.check_versions.cache_clear()

    yield pretend
    versions.check_versions.cache_clear()


def requirements():
    """Read the requirements in pyproject: package -> (lower bound, upper bound or None)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {}
    for line in [*project["dependencies"], *project["optional-dependencies"]["dask"]]:
        name, oldest, beyond = re.fullmatch(r"([a-z]+)>=([\d.]+)(?:,<([\d.]+))?", line).groups()
        found[name] = (oldest, beyond)
    return found


def test_the_ranges_are_those_of_the_installation():
    expected = requirements()
    assert {package: expected[package] for package in versions.RANGES} == dict(versions.RANGES)


def test_the_oldest_are_tested():
    """Each lower bound is pinned for the tests of the oldest versions: the release of that number."""
    pins = read_pins()
    assert {name: versions._numbers(oldest) for name, (oldest, _beyond) in requirements().items()} == {
        name: versions._numbers(pins[name]) for name in requirements()
    }


def test_installed_versions_are_in_range(pretend, caplog):
    pretend()
    versions.check_versions()
    assert not caplog.records


@pytest.mark.parametrize(
    ("package", "found", "message"),
    [
        ("jwst", "1.20.2", "jwst 1.20.2 is installed, gpucoron needs jwst>=2.0,<3.1: "),
        ("jwst", None, "jwst is not installed, gpucoron needs jwst>=2.0,<3.1: "),
        ("numpy", "1.25.2", "numpy 1.25.2 is installed, gpucoron needs numpy>=1.26,<3: "),
        ("scipy", "1.14.0rc1", "scipy 1.14.0rc1 is installed, gpucoron needs scipy>=1.14.1: "),
    ],
)
def test_too_old_versions_are_refused(pretend, package, found, message):
    pretend(**{package: found})
    with pytest.raises(VersionError) as caught:
        versions.check_versions()
    assert str(caught.value).startswith(message)
    assert f"-m pip install '{package}>=" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("found", ["2.0.0", "2.0.1", "2.1", "3.0.0", "3.0.7.dev3+g1234"])
def test_versions_in_range_are_not_reported(pretend, caplog, found):
    pretend(jwst=found)
    versions.check_versions()
    assert not caplog.records


@pytest.mark.parametrize(("package", "found"), [("jwst", "3.1.0"), ("jwst", "4.0"), ("numpy", "3.0.0")])
def test_newer_versions_are_reported_once(pretend, caplog, package, found):
    pretend(**{package: found})
    with caplog.at_level(logging.WARNING):
        versions.check_versions()
        versions.check_versions()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{package} {found} is newer than the tested versions")


def test_every_coat_refuses_before_any_work(pretend, tmp_path, capsys):
    """The input does not exist: a look for it before the check would raise another error."""
    pretend(jwst="1.20.2")
    absent, output = tmp_path / "x_uncal.fits", tmp_path / "out"
    database = SimpleNamespace(output_dir=str(output), obs={})
    from gpucoron.batch import reduce

    for coat in (
        lambda: gpucoron.reduce_file(absent, output),
        lambda: gpucoron.run_single_file(absent, output),
        lambda: gpucoron.run_obs(database),
        lambda: list(reduce(tmp_path, output)),
    ):
        with pytest.raises(VersionError, match=r"jwst 1\.20\.2 is installed"):
            coat()
    with pytest.raises(VersionError, match=r"jwst 1\.20\.2 is installed"):
        gpucoron.Coron1Pipeline().process(str(absent))
    assert not output.exists()


def run_with(tmp_path, found, *arguments):
    """Run the command line with a patched version of jwst."""
    about = tmp_path / "site" / f"jwst-{found}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: jwst\nVersion: {found}\n")
    path = os.pathsep.join([str(about.parent), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "CRDS_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "gpucoron", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)


@pytest.mark.parametrize("command", ["run", "batch", "demo"])
def test_the_command_line_refuses_in_one_line(tmp_path, command):
    files = [] if command == "demo" else [tmp_path / "x_uncal.fits"]
    done = run_with(tmp_path, "1.19.0", command, *files, "-o", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpucoron: jwst 1.19.0 is installed, gpucoron needs jwst>=2.0,<3.1: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("found", "message"), [("1.19.0", "gpucoron needs"), ("3.1.0", "is newer than")])
def test_info_reports_versions(tmp_path, found, message):
    done = run_with(tmp_path, found, "info")
    assert done.returncode == 0
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"  jwst {found}"))
    assert message in line


# ------------------------------------------------------------------------------------------------------------- products


@pytest.fixture(scope="module")
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(24, 32))


def history(case, tmp_path, **options):
    with case.cache.activate():
        _run, models, _paths = gpucoron.reduce_file(case.path, tmp_path, backend="numpy", save_results=False, **options)
    return [str(entry["description"]) for entry in models["rate"].history]


def test_products_say_as_which_jwst_they_are_where_it_is_another(case, tmp_path, monkeypatch):
    monkeypatch.setattr(products, "installed", lambda package: "2.0.1")
    assert "gpucoron steps: as jwst 3.0, with jwst 2.0.1 installed" in history(case, tmp_path)
    monkeypatch.setattr(products, "installed", lambda package: "3.0.4")
    assert not any("gpucoron steps" in line for line in history(case, tmp_path))


def test_inverse_coefficients_are_read_with_any_data_model(exposures):
    """The data model of jwst 2.0 lacks them, so they are read directly from the file."""
    from gpucoron.io.exposure import Exposure
    from gpucoron.io.references import find_references, read_reference

    made = exposures("NIRCAM", "SUB320A335R", "MEDIUM8", 3, 1, shape=(16, 24), options={"inverse_linearity": True})
    from astropy.io import fits

    with made.cache.activate():
        exposure = Exposure.read(made.path)
        path = find_references(exposure, ["linearity"])["linearity"]
        found = read_reference("linearity", path, exposure)
    np.testing.assert_array_equal(found.inv_coeffs, fits.getdata(path, "INV_COEFFS"))
    assert found.inv_coeffs.any()


def test_own_steps_do_not_ask_for_their_version(case, pretend):
    """The persistence step of jwst 2.0 is another one."""
    from gpucoron.engine import plan
    from gpucoron.io.exposure import Exposure

    pretend(jwst="2.0.1")
    with case.cache.activate():
        run = plan(Exposure.read_headers(case.path), steps={"persistence": {"skip": False}}, backend="numpy")
    assert not run.parameters["persistence"].skip
