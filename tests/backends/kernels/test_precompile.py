"""Kernels compiled in advance, without a GPU, are loaded on the machine with a GPU."""

import shutil
import sys

import pytest

from gpucoron.backends.kernel_files import CUDA_SOURCES
from tests.cases.paths import BENCHMARKS, ROOT
from tests.stand_ins.bare_machine import make_environment, run_script
from tests.tools import peers
from tests.tools.nvrtc_wheel import Nvrtc, find_library

sys.path.append(str(BENCHMARKS))

import precompile


@pytest.fixture
def library():
    """The NVRTC library of the environment; it must be installed in CI."""
    found = find_library()
    if found is None:
        peers.miss("NVRTC is missing: pip install nvidia-cuda-nvrtc")
    return found


def test_precompiled_kernels_are_loaded_on_another_machine(library, tmp_path, monkeypatch):
    """A copy of the project in another folder loads them, with the same version of NVRTC only."""
    monkeypatch.setenv("GPUCORON_CACHE", str(tmp_path / "before"))
    nvrtc = Nvrtc(library)
    (made,) = precompile.precompile(nvrtc, tmp_path / "cache", sources=["raw_counts.cu"])
    elsewhere = tmp_path / "elsewhere"
    for name in ("gpucoron", "kernels"):
        shutil.copytree(ROOT / name, elsewhere / name, ignore=shutil.ignore_patterns("__pycache__"))
    script = tmp_path / "load.py"
    script.write_text(LOAD.format(version=nvrtc.getVersion(), content=made.read_bytes().split(b"\n", 2)[2]))
    environment = make_environment(tmp_path / "site") | {"GPUCORON_CACHE": str(tmp_path / "cache")}
    environment["PYTHONPATH"] += f":{elsewhere}"
    status, printed = run_script(environment, script)
    assert status == 0, printed
    assert printed.split() == [str(elsewhere / "gpucoron"), "loaded", "compiled"]


#: loads with the NVRTC of the cache, then with a newer one; neither can compile
LOAD = """
from pathlib import Path
from types import SimpleNamespace as N
import gpucoron
from gpucoron.backends.devices.cuda_loader import KernelLoader

class Device:
    compute_capability = "90"
    def __init__(self, number): pass
    def __enter__(self): return self
    def __exit__(self, *error): pass

class Module:
    def load(self, code): assert code == {content!r}
    def get_function(self, name): assert "convert_counts" in name; return name

def refuse(*arguments):
    raise SystemError("compiled")

print(Path(gpucoron.__file__).parent)
for version in ({version}, (99, 0)):
    nvrtc = N(getVersion=lambda: version, getSupportedArchs=lambda: (75, 90), createProgram=refuse)
    loader = KernelLoader(N(cuda=N(nvrtc=nvrtc, Device=Device, function=N(Module=Module))))
    try:
        loader.function(0, "convert_counts", (True,))
        print("loaded")
    except SystemError as error:
        print(error)
"""


@pytest.mark.slow
def test_all_kernels_are_compiled_ahead_by_the_script(library, tmp_path):
    status, printed = run_script({"PATH": "/usr/bin:/bin"}, BENCHMARKS / "precompile.py", library, tmp_path, "sm_90")
    assert status == 0, printed
    assert {path.name.partition("-sm_90-")[0] + ".cu" for path in tmp_path.iterdir()} == set(CUDA_SOURCES)
    assert f"{len(CUDA_SOURCES)} files" in printed
    assert "NVRTC " + ".".join(map(str, Nvrtc(library).getVersion())) in printed
