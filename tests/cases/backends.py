"""Backends for tests."""

import os

import pytest

#: packages that a machine with a GPU may lack: jwst, what tests compare with it, what reads and writes files, and tools
PEERS = (
    "jwst",
    "stcal",
    "stdatamodels",
    "stpipe",
    "crds",
    "asdf",
    "astropy",
    "matplotlib",
    "rich",
    "psutil",
    "PIL",
    "threadpoolctl",
)


def backend_params(names):
    """Make the parameters of a fixture that makes backends; each is marked with its backend."""
    return [pytest.param(name, marks=pytest.mark.runs_on(name)) for name in names]


def usable_backend(name, config, **options):
    """Make a backend; skip the test if it cannot run, but fail if it must: g++ in CI, a GPU with --require-gpu."""
    from gpucoron.backends import backend_status, get_backend

    usable, reason = backend_status()[name]
    if not usable:
        required = config.getoption("--require-gpu") if name == config.getoption("--device") else os.environ.get("CI")
        (pytest.fail if required else pytest.skip)(f"backend {name!r}: {reason}")
    return get_backend(name, **options)
