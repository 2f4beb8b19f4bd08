"""Compile all kernels in advance, without a GPU, into a cache for another machine (set GPUCORON_CACHE=CACHE there).

The cache is valid for the same sources, options and NVRTC version; other kernels are compiled again. The library is
that of a wheel (``pip download --no-deps nvidia-cuda-nvrtc==13.0.88``, unpacked) or of a toolkit.

python benchmarks/precompile.py LIBNVRTC CACHE [ARCH]
"""

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gpucoron.backends.devices.cuda_loader import KernelLoader  # noqa: E402
from gpucoron.backends.kernel_files import CUDA_SOURCES  # noqa: E402
from tests.tools.nvrtc_wheel import Nvrtc  # noqa: E402


def precompile(nvrtc, cache, arch="sm_90", sources=CUDA_SOURCES):
    """Compile kernel files in parallel.

    Parameters
    ----------
    nvrtc : tests.tools.nvrtc_wheel.Nvrtc
    cache : Path
        The folder for the compiled code.
    arch : str
        'sm_90' for an H100 or H200.
    sources : sequence of str

    Returns
    -------
    list of Path
        The new files.
    """
    cache.mkdir(parents=True, exist_ok=True)
    before = set(cache.iterdir())
    os.environ["GPUCORON_CACHE"] = str(cache)
    loader = KernelLoader(SimpleNamespace(cuda=SimpleNamespace(nvrtc=nvrtc)))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda source: loader.code(source, arch), sources))
    return sorted(set(cache.iterdir()) - before)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "library", type=Path, metavar="LIBNVRTC", help="libnvrtc.so.* of the version on the other machine"
    )
    parser.add_argument("cache", type=Path, metavar="CACHE", help="folder; GPUCORON_CACHE on the other machine")
    parser.add_argument("arch", nargs="?", default="sm_90", metavar="ARCH", help="sm_90 by default")
    options = parser.parse_args(arguments)
    nvrtc, start = Nvrtc(options.library), time.perf_counter()
    print("NVRTC", ".".join(map(str, nvrtc.getVersion())), "for", options.arch, flush=True)
    made = precompile(nvrtc, options.cache, options.arch)
    for path in made:
        print(f"{path.stat().st_size:9}  {path.name}")
    total = sum(path.stat().st_size for path in made)
    print(f"{len(made)} files, {total / 1e6:.1f} MB, in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
