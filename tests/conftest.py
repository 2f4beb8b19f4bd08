"""Fixtures that every test may use: simulated exposures with their own CRDS cache, and the GPU's rules."""

import os

import pytest

# one BLAS thread per worker: the tests run side by side
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--require-gpu", action="store_true", help="a test that needs a GPU fails where there is none")


@pytest.fixture(scope="session")
def exposures(tmp_path_factory):
    """Make simulated exposures, each once per session: ``exposures(instrument, subarray, ...) -> Case``."""
    from cases import CaseMaker

    return CaseMaker(tmp_path_factory)
