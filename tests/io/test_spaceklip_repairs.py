"""Missing data of spaceKLIP are added if they are absent, and nothing else is changed."""

import subprocess
import sys
import textwrap

import pytest

from gpucoron.io.spaceklip_repairs import Preparation, find_missing

#: pysiaf as installed when GitHub did not answer: without prd_list
FAKE_PYSIAF = """
    import sys, types, pathlib, tempfile
    from importlib.machinery import ModuleSpec
    pysiaf = types.ModuleType("pysiaf")
    pysiaf.__spec__ = ModuleSpec("pysiaf", None)
    root = pathlib.Path(tempfile.mkdtemp())
    for name in ("PRDOPSSOC-071", "PRDOPSSOC-072", "notes"):
        (root / name / "SIAFXML" / "SIAFXML").mkdir(parents=True)
    pysiaf.JWST_PRD_DATA_ROOT = str(root / "PRDOPSSOC-072" / "SIAFXML" / "SIAFXML")
    sys.modules["pysiaf"] = pysiaf
"""


def run(code):
    """Run in a new process, because the repairs affect a whole process."""
    script = textwrap.dedent(FAKE_PYSIAF) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_missing_data_are_added_once():
    run("""
        import io, sys
        import numpy as np
        import stpipe
        # as NumPy 2 and stpipe 1 are, whichever are installed
        vars(np).pop("alltrue", None)
        vars(stpipe).pop("log", None)
        sys.modules.pop("stpipe.log", None)
        from gpucoron.io import spaceklip_repairs
        there = spaceklip_repairs._is_installed
        spaceklip_repairs._is_installed = lambda name: name != "stpipe.log" and there(name)
        from gpucoron.coron1pipeline import prepare_spaceklip

        first = prepare_spaceklip()
        assert [line.split(":")[0] for line in first.restored] == ["stpipe.log", "numpy.alltrue", "pysiaf.prd_list"]
        # what spaceKLIP calls, as it calls it
        stpipe.log.load_configuration(io.BytesIO(b"[*]"))
        stpipe.log.load_configuration(stpipe.log._find_logging_config_file())
        import stpipe.log
        assert np.alltrue([True, 1]) and not np.alltrue([True, False])
        import pysiaf
        assert pysiaf.prd_list == ["PRDOPSSOC-071", "PRDOPSSOC-072"]

        before = stpipe.log, np.alltrue, pysiaf.prd_list
        assert prepare_spaceklip() == first
        assert (stpipe.log, np.alltrue, pysiaf.prd_list) == before and stpipe.log is before[0]
    """)


def test_existing_data_are_not_changed():
    run("""
        import sys, types
        import numpy as np, stpipe, pysiaf
        theirs = types.ModuleType("stpipe.log")
        sys.modules["stpipe.log"] = stpipe.log = theirs
        np.alltrue = called = lambda values: "theirs"
        pysiaf.prd_list = listed = ["PRDOPSSOC-001"]
        from gpucoron.coron1pipeline import prepare_spaceklip

        assert prepare_spaceklip().restored == ()
        assert stpipe.log is theirs and np.alltrue is called and pysiaf.prd_list is listed
        assert not vars(theirs).keys() & {"load_configuration"}
    """)


def test_preparing_imports_no_spaceklip_and_downloads_nothing():
    loaded = run("""
        from gpucoron.coron1pipeline import prepare_spaceklip
        prepare_spaceklip()
        import sys
        print({"spaceKLIP", "stpsf", "webbpsf_ext", "stsynphot"} & {name.split(".")[0] for name in sys.modules})
    """)
    assert loaded == "set()\n"


@pytest.fixture
def data(monkeypatch, tmp_path):
    """All data are present."""
    (tmp_path / "stpsf").mkdir()
    (tmp_path / "stpsf" / "version.txt").write_text("2.2.0")
    (tmp_path / "cdbs" / "calspec").mkdir(parents=True)
    (tmp_path / "cdbs" / "calspec" / "alpha_lyr_stis_011.fits").touch()
    monkeypatch.setenv("STPSF_PATH", str(tmp_path / "stpsf"))
    monkeypatch.setenv("PYSYN_CDBS", str(tmp_path / "cdbs"))
    monkeypatch.delenv("WEBBPSF_EXT_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def missing_data():
    return [line for line in find_missing() if not line.startswith(("the package", "a pyarrow", "a pyKLIP"))]


def test_data_that_are_there_are_not_missing(data, monkeypatch):
    assert missing_data() == []
    # where stpsf and webbpsf_ext search without the variables
    monkeypatch.delenv("STPSF_PATH")
    monkeypatch.delenv("PYSYN_CDBS")
    monkeypatch.setenv("WEBBPSF_EXT_PATH", str(data))
    (data / "data").mkdir()
    (data / "stpsf").rename(data / "data" / "stpsf-data")
    assert missing_data() == []


@pytest.mark.parametrize(
    "variable, words",
    [
        ("STPSF_PATH", ("STPSF_PATH is not set", "stpsf.readthedocs.io")),
        ("PYSYN_CDBS", ("WEBBPSF_EXT_PATH", "PYSYN_CDBS", "TypeError")),
    ],
)
def test_each_missing_variable_is_reported(data, monkeypatch, variable, words):
    monkeypatch.delenv(variable)
    (line,) = missing_data()
    assert all(word in line for word in words)


def test_missing_files_are_reported_with_their_paths(data):
    (data / "stpsf" / "version.txt").unlink()
    (data / "cdbs" / "calspec" / "alpha_lyr_stis_011.fits").unlink()
    first, second = missing_data()
    assert f"no version.txt in {data / 'stpsf'}" in first
    assert str(data / "cdbs" / "calspec" / "alpha_lyr_stis_011.fits") in second
    assert "https://ssb.stsci.edu/trds/calspec/alpha_lyr_stis_011.fits" in second


def test_incompatible_packages_are_reported(data, monkeypatch):
    from gpucoron.io import spaceklip_repairs

    versions = {"numpy": (1, 26, 4), "pyklip": (2, 10, 1)}
    monkeypatch.setattr(spaceklip_repairs, "_version", versions.get)
    assert any("pip install 'pyklip<2.10.1'" in line for line in find_missing())
    versions["numpy"] = (2, 1, 0)
    assert not any("pyklip<2.10.1" in line for line in find_missing())


def test_a_checkout_without_xara_is_reported(data, monkeypatch, tmp_path):
    package = tmp_path / "site" / "spaceKLIP"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert any("spaceKLIP.xara" in line and "-e CHECKOUT" in line for line in find_missing())
    (package / "xara").mkdir()
    assert not any("spaceKLIP.xara" in line for line in find_missing())


def test_preparation_reports_its_changes():
    assert str(Preparation()) == "nothing had to be restored"
    assert str(Preparation(("a: why",), ("b",))) == "restored: a: why\nmissing: b"
