"""The reason why the CUDA backend cannot run is one line that tells the user what to do."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from gpucoron.backends.devices.cuda_loader import find_device
from tests.tools import peers

#: message of CuPy 14 with NumPy older than 2, a page of advice
ADVICE = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels, make sure that the package matches with the version of CUDA installed.

Original error:
  ImportError: numpy.core.multiarray failed to import
================================================================
"""


def status(folder, before=""):
    """Return the status of the CUDA backend in a new process, which imports CuPy from the folder."""
    code = f"""
        {before}
        import sys
        sys.path.insert(0, {str(folder)!r})
        from gpucoron.backends import backend_status
        usable, reason = backend_status()["cuda"]
        assert not usable
        print(reason)
    """
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line


def test_the_real_cupy_without_a_driver():
    folder = peers.find("cupy")
    reason = status(folder)
    # On a machine with a device the reason would be another.
    assert reason.startswith(("CUDA does not work: cudaError", "there is no CUDA device"))


@pytest.mark.parametrize(
    ("module", "numpy", "words"),
    [
        (f"raise ImportError({ADVICE!r})", "1.26.4", "CuPy 14 needs NumPy 2, and NumPy 1.26.4 is installed"),
        ("__version__ = '14.2.0'", "1.26.4", "CuPy 14 needs NumPy 2, and NumPy 1.26.4 is installed"),
        (f"raise ImportError({ADVICE!r})", "2.3.1", "cannot be imported: ImportError: numpy.core.multiarray failed"),
        ("__version__ = '13.6.0'", "2.3.1", "CuPy 13.6.0 is too old: CuPy 14.1 or newer is needed (pip install"),
        ("__version__ = '14.0.1'", "2.3.1", "CuPy 14.0.1 is too old: CuPy 14.1 or newer is needed (pip install"),
        ("__version__ = '13.6.0'", "1.26.4", "CuPy 13.6.0 is too old: CuPy 14.1 or newer is needed (pip install"),
    ],
)
def test_a_cupy_or_numpy_that_does_not_fit(tmp_path, module, numpy, words):
    (tmp_path / "cupy.py").write_text(module)
    assert words in status(tmp_path, f"import numpy; numpy.__version__ = {numpy!r}")


@pytest.mark.parametrize(("version", "usable"), [((11, 8), False), ((12, 3), False), ((12, 4), True), ((13, 0), True)])
def test_an_nvrtc_that_is_too_old(version, usable):
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, getDeviceProperties=lambda device: {"name": b"A device"})
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, nvrtc=SimpleNamespace(getVersion=lambda: version)))
    found, reason = find_device(cupy)
    assert found == usable
    if usable:
        assert reason == "A device"
    else:
        assert f"need NVRTC 12.4 or newer, but CuPy finds {version[0]}.{version[1]} (pip install" in reason
