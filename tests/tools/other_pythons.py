"""The packages work on every supported Python: ``make test-pythons``.

Builds the sdist, from it the wheel, and checks both. On each other supported version of Python that this machine has,
the wheel is installed with the newest dependencies; there the demo and the quick part of the test suite run.

python -m tests.tools.other_pythons              versions that are not found are named and left out
python -m tests.tools.other_pythons --require    they are an error
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cases.paths import ROOT

FOLDER = Path(sys.prefix) / "other-pythons"
#: parts of the suite that use the package as a user does; they read no file of the repository outside tests/
SUITE = ("batch/test_batch_dask.py", "cli/test_cli.py", "pipeline/test_pipeline.py")
#: files that users need from the sdist, and modules that only the wheel must have
IN_SDIST = ("README.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "kernels/jump.cu")
IN_WHEEL = ("gpucoron/py.typed", "gpucoron/_kernels/jump.cu", "gpucoron/_kernels/include/jump.cuh")


def main(arguments):
    """Build, check and try the packages; return the exit code."""
    wheel = build()
    pythons = {version: find(version) for version in supported() if version != sys.version_info[:2]}
    missing = [f"Python {major}.{minor}" for (major, minor), path in pythons.items() if path is None]
    if missing:
        print(f"not found: {', '.join(missing)}")
    found = {version: path for version, path in pythons.items() if path is not None}
    with ThreadPoolExecutor() as threads:  # most of the installation waits for the network
        environments = list(threads.map(lambda item: install(*item, wheel), found.items()))
    codes = [try_out(python) for python in environments]
    return 1 if any(codes) or (missing and "--require" in arguments) else 0


def supported():
    """Return the supported versions of Python, from the classifiers in pyproject.toml."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    numbers = [line.rpartition(" ")[2].split(".") for line in classifiers if "Python :: 3." in line]
    return [(int(major), int(minor)) for major, minor in numbers]


def find(version):
    """Return the path of an interpreter of this version, or None."""
    name = "python{}.{}".format(*version)
    installed = Path.home() / ".pyenv" / "versions"
    for candidate in (shutil.which(name), *installed.glob("{}.{}.*/bin/python".format(*version))):
        command = [candidate, "-c", "import sys, venv; print(*sys.version_info[:2])"]
        if candidate and subprocess.run(command, capture_output=True, text=True, check=False).stdout.split() == [
            *map(str, version)
        ]:
            return Path(candidate)
    return None


def build():
    """Build and check the sdist and the wheel; return the wheel's path."""
    folder = FOLDER / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "build", "--outdir", folder, ROOT], quiet=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        inside |= set(archive.namelist())
    missing = [name for name in (*IN_SDIST, *IN_WHEEL) if name not in inside]
    if missing:
        sys.exit(f"missing in {folder}: {', '.join(missing)}")
    run([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel])
    return wheel


def install(version, python, wheel):
    """Install the wheel into a new environment of this Python; return the environment's Python."""
    folder = FOLDER / "{}.{}".format(*version)
    shutil.rmtree(folder, ignore_errors=True)
    run([python, "-m", "venv", folder])
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, f"{wheel}[dask]", "pytest", "pytest-xdist", "hypothesis"])
    return folder / "bin" / "python"


def try_out(python):
    """Run the demo and the quick part of the suite, away from the repository's code; return the exit code."""
    work = python.parents[1] / "work"
    shutil.copytree(ROOT / "tests", work / "tests")
    environment = {**os.environ, "PYTHONPATH": "", "MPLBACKEND": "Agg"}
    print(f"== {python}", flush=True)
    run([python.with_name("gpucoron"), "info"], cwd=work, env=environment)
    run([python.with_name("gpucoron"), "demo", "--quiet", "-o", "demo"], cwd=work, env=environment)
    suite = [python, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *SUITE]
    return subprocess.run([*map(str, suite)], cwd=work / "tests", env=environment, check=False).returncode


def run(command, quiet=False, **options):
    """Run a command; if it fails, end with what it printed."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} if quiet else {}
    done = subprocess.run([*map(str, command)], check=False, **output, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout or ''}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
