"""The commit and the versions that a result belongs to. Needs neither jwst nor astropy."""

import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gpucoron


def commit():
    """Return the commit: from git, or from the environment if there is no git folder."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GPUCORON_COMMIT", "unknown")
    return done.stdout.strip()


def versions(*packages):
    """Return the versions of gpucoron and of the packages that are installed.

    That of gpucoron is the one that was imported: an editable installation keeps the version of its first day.
    """
    found = {"gpucoron": gpucoron.__version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
