"""Rehearsal of the GPU benchmark on the host build: it runs without jwst and astropy, and writes all results."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from gpucoron.backends.budget import exposure_memory
from tests.cases.backends import PEERS, usable_backend
from tests.cases.paths import BENCHMARKS, ROOT

#: runs a script as if the packages were not installed
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys({peers!r}))
sys.path[:0] = [{root!r}, {folder!r}]
sys.argv = {arguments!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def figures(request, tmp_path_factory):
    usable_backend("host", request.config)
    output = tmp_path_factory.mktemp("bench") / "figures.json"
    arguments = [str(BENCHMARKS / "bench_gpu.py"), "--rehearse", "--output", str(output)]
    code = WITHOUT.format(peers=PEERS, root=str(ROOT), folder=str(BENCHMARKS), arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(output.read_text())


def test_every_step_is_timed(figures):
    names = {name: set(case["steps"]) for name, case in figures["cases"].items()}
    both = {"dq_init", "saturation", "linearity", "dark_current", "jump", "ramp_fit"}
    assert both | {"ipc", "superbias", "refpix"} <= names["nircam-10x2"]
    assert both | {"reset", "rscd", "lastframe"} <= names["miri-40x2"]
    for case in figures["cases"].values():
        for step in both - {"dq_init"}:
            found = case["steps"][step]
            assert found["seconds"] > 0
            assert found["bytes"] > 0
            expected = found["bytes"] / found["seconds"] / figures["copy_bytes_per_second"]
            assert found["of_copy_bandwidth"] == pytest.approx(expected)
        assert {"search_jumps", "fit_integrations", "correct_polynomial", "convert_counts"} <= set(case["kernels"])
        assert case["upload"]["bytes_per_second"] > 0
        assert case["download"]["bytes_per_second"] > 0


def test_the_products_are_the_cpu_backends(figures):
    for case in figures["cases"].values():
        assert case["cpu"]["differences"]["values"] > 1000
        assert case["cpu"]["differences"]["different_bits"] == 0
        assert set(case["cpu"]["steps"]) == set(case["steps"])


def test_every_variant_gives_the_same_flags(figures):
    for case in figures["variants"].values():
        assert {"default", "lanes-1", "lanes-4", "lanes-8", "pivots-7"} <= set(case)
        assert all(variant["same_flags"] and variant["prediction"] for variant in case.values())


def test_it_says_where_it_ran(figures):
    assert figures["machine"]["backend"] == "host"
    assert figures["machine"]["versions"]["numpy"]
    assert figures["long_life"]["exposures"] == 4


@pytest.mark.parametrize("name", ["nircam", "miri"])
def test_a_whole_exposure_takes_no_more_memory_than_estimated(name, monkeypatch, request):
    """On the host build every array is on the host, so that its peak memory is the memory that a device needs."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import array_exposures as arrays
    import bench_gpu

    shapes = {"nircam": ("NIRCAM", 6, 10, 64, 64), "miri": ("MIRI", 3, 60, 48, 64)}
    case = arrays.Case(*shapes[name])
    backend = usable_backend("host", request.config, n_threads=1)

    def reduce():
        references = arrays.make_references(case, backend)
        data = np.full(case.shape, 9000, np.float32)
        data += np.arange(case.ngroups, dtype=np.float32)[:, None, None] * 30
        tracemalloc.reset_peak()
        bench_gpu.run_steps(case, arrays.make_exposure(case, data, backend), references, backend)

    reduce()  # warm up: imports, compiled code
    tracemalloc.start()
    try:
        reduce()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    estimate = exposure_memory(case.shape)
    assert 0.4 * estimate < peak < estimate
