"""Processes that see only the packages of a bare GPU machine: NumPy, SciPy, pytest, and their dependencies."""

import os
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions

WANTED = ("numpy", "scipy", "pytest")

#: code that Python runs at its start, also in child processes
SITE = '''
import os
import sys
from importlib.machinery import PathFinder
from importlib.metadata import MetadataPathFinder

ALLOWED = {allowed}
HIDDEN = {hidden}


class Finder:
    """Finds what is installed, but for the hidden."""

    invalidate_caches = PathFinder.invalidate_caches

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(*arguments):
        found = MetadataPathFinder.find_distributions(*arguments)
        return (one for one in found if (one.metadata["Name"] or "").lower() in ALLOWED)


sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
# The project is not installed there either: what needs it must find it.
given = os.environ["PYTHONPATH"].split(os.pathsep)
sys.path[:] = [path for path in sys.path if path in given or not os.path.isdir(os.path.join(path, "gpucoron", "steps"))]
'''


def list_allowed():
    """List the distributions that such a machine has."""
    allowed, waiting = set(), list(WANTED)
    while waiting:
        name = waiting.pop().lower()
        if name not in allowed:
            allowed.add(name)
            # Conditional requirements are for other systems and for extras.
            required = [one for one in distribution(name).requires or [] if ";" not in one]
            waiting += [re.match(r"[\w.-]+", one)[0] for one in required]
    return allowed


def make_environment(folder):
    """Write the code that hides all other packages into a folder; return an environment that uses it."""
    allowed = list_allowed()
    hidden = {name for name, owners in packages_distributions().items() if not {o.lower() for o in owners} & allowed}
    folder.mkdir(exist_ok=True)
    # pyKLIP installs a package 'tests' too; the project's own comes first.
    (folder / "sitecustomize.py").write_text(SITE.format(allowed=allowed, hidden=hidden - {"gpucoron", "tests"}))
    unset = {"PYTHONPATH", "CI", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"}
    return {name: value for name, value in os.environ.items() if name not in unset} | {"PYTHONPATH": str(folder)}


def run_script(environment, *words):
    """Run Python in that environment; return its exit status and output."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=environment, check=False, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout
