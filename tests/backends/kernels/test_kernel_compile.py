"""Without a GPU, all kernels compile for every architecture: no warnings, no spills, every instantiation exists.

They also compile with the oldest and newest NVRTC that a GPU machine may have, because versions differ.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from gpucoron.backends import kernel_files
from gpucoron.backends.devices.cuda_loader import (
    OLDEST_CUPY,
    OLDEST_NVRTC,
    KernelLoader,
    choose_target,
    compile_kernels,
)
from gpucoron.backends.kernel_files import (
    CUDA_SOURCES,
    DEVICE_OPTIONS,
    KERNELS,
    SOURCES,
    Row,
    cache_folder,
    instantiations,
    read_kernels,
    source_digest,
)
from gpucoron.backends.operations.jump import definition
from gpucoron.files import appearing
from tests.cases.paths import ROOT
from tests.tools import peers
from tests.tools.nvrtc_wheel import Nvrtc, NvrtcError, find_library

#: supported architectures, without some that are like others; skipped if NVRTC does not support them
ARCHITECTURES = (75, 80, 89, 90, 100, 120)
#: NVRTC versions in addition to the newest
OTHERS = [name.removeprefix("nvrtc-") for name in peers.REQUIREMENTS if name.startswith("nvrtc-")]
RECUDA_SOURCES = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def nvrtc():
    """The wheel's NVRTC; it must be installed in CI."""
    library = find_library()
    if library is None:
        peers.miss("NVRTC is missing: pip install nvidia-cuda-nvrtc")
    return Nvrtc(library)


def compile_and_look(nvrtc, source, architecture):
    """Compile a file and return names, entry points and log; reuse the result of an earlier run on the same sources."""
    options = (*DEVICE_OPTIONS, "-Xptxas=-v")
    key = repr((source_digest(source), source, architecture, options, nvrtc.getVersion()))
    seen = cache_folder() / f"seen-{sha256(key.encode()).hexdigest()[:20]}.json"
    with suppress(OSError, ValueError):
        return json.loads(seen.read_text())
    code, names, log = compile_kernels(nvrtc, source, f"sm_{architecture}", options)
    entries = sorted({entry.decode() for entry in re.findall(rb"\.text\.(\w+)\0", code)})
    with suppress(OSError), appearing(seen) as (draft,):
        draft.write_text(json.dumps([names, entries, log]))
    return names, entries, log


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", CUDA_SOURCES)
def test_every_instantiation_compiles_cleanly(nvrtc, source, architecture):
    if architecture not in nvrtc.getSupportedArchs():
        pytest.skip(f"NVRTC {nvrtc.getVersion()} does not know sm_{architecture}")
    log, names = compiled_cleanly(nvrtc, source, architecture)
    expected = [kernel.expression(variant) for kernel, variant in instantiations(source)]

    # Functions that a kernel calls have separate lines.
    assert set(re.findall(r"(\d+) bytes (?:stack frame|spill)", log)) == {"0"}
    used = {match["name"]: match for match in RECUDA_SOURCES.finditer(log)}
    print(f"\n{'registers':>9} {'stack':>6} {'spills':>7}  sm_{architecture}")
    for expression in expected:
        resources = used[names[expression]]
        spills = int(resources["stores"]) + int(resources["loads"])
        print(f"{resources['registers']:>9} {resources['stack']:>6} {spills:>7}  {expression}")


@pytest.mark.parametrize("version", OTHERS)
@pytest.mark.parametrize("source", CUDA_SOURCES)
def test_other_compilers_take_the_kernels(source, version):
    """For the lowest architecture of the package, and that of the H100."""
    nvrtc = Nvrtc(find_library(peers.find(f"nvrtc-{version}")))
    assert nvrtc.getVersion() == tuple(int(number) for number in version.split(".")[:2])
    for architecture in (min(ARCHITECTURES), 90):
        log, _ = compiled_cleanly(nvrtc, source, architecture)
        assert set(re.findall(r"(\d+) bytes (?:stack frame|spill)", log)) == {"0"}


@pytest.mark.parametrize("version", OTHERS)
def test_compiling_does_not_change_the_locale(version):
    """NVRTC 12.4 sets the locale of its thread, after which files would be read as ASCII."""
    code = f"""
        import locale, sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.tools.nvrtc_wheel import Nvrtc
        from gpucoron.backends.devices.cuda_loader import compile_kernels
        compile_kernels(Nvrtc({str(find_library(peers.find(f"nvrtc-{version}")))!r}), "raw_counts.cu", "sm_90")
        assert locale.getencoding() == "UTF-8", locale.getencoding()
    """
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


def compiled_cleanly(nvrtc, source, architecture):
    """Compile a file: every instantiation must exist, without warnings. Return log and names."""
    names, entries, log = compile_and_look(nvrtc, source, architecture)

    expected = [kernel.expression(variant) for kernel, variant in instantiations(source)]
    assert sorted(names) == sorted(expected)
    assert entries == sorted(names.values())

    # Lines of the compiler itself start with 'ptxas'; any other line is a warning.
    printed = [line for line in log.splitlines() if line.strip() and not line.startswith("ptxas")]
    assert not printed, "\n".join(printed)
    return log, names


@pytest.mark.parametrize("extra", peers.NVRTC)
def test_the_extras_allow_only_versions_compiled_here(extra):
    """The oldest NVRTC of each extra is compiled above; its newest has the same major version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found = {one.name: one for one in map(Requirement, extras[extra])}
    name, versions = peers.NVRTC[extra]
    major = int(versions[0].partition(".")[0])
    assert bounds(found[name]) == {">=": versions[0], "<": str(major + 1)}
    assert tuple(map(int, versions[0].split(".")[:2])) >= OLDEST_NVRTC
    assert bounds(found[f"cupy-{extra}x"]) == {">=": "{}.{}".format(*OLDEST_CUPY), "<": str(OLDEST_CUPY[0] + 1)}
    # CuPy 14 needs NumPy 2; without a GPU, gpucoron works with an older one.
    assert bounds(found["numpy"]) == {">=": "2.0"}


def test_the_oldest_compiler_is_the_oldest_that_runs():
    numbers = [version for _, versions in peers.NVRTC.values() for version in versions]
    assert min(tuple(map(int, number.split(".")[:2])) for number in numbers) == OLDEST_NVRTC


def bounds(requirement):
    """Return the bounds of a requirement: operator -> version."""
    return {specifier.operator: specifier.version for specifier in requirement.specifier}


def test_ptx_for_a_device_newer_than_the_compiler(nvrtc):
    newest = max(nvrtc.getSupportedArchs())
    target = choose_target(nvrtc, str(newest + 10))
    assert target == f"compute_{newest}"
    code, names, _ = compile_kernels(nvrtc, "raw_counts.cu", target)
    assert all(f".entry {name}(".encode() in code for name in names.values())


def test_cupys_own_functions_compile_as_the_loader_asks(nvrtc, tmp_path, monkeypatch):
    """The real CuPy calls the NVRTC of the environment, in a new process; it needs no driver for that."""
    code = f"""
        import sys
        sys.path.insert(0, {str(peers.find("cupy"))!r})
        import cupy
        from gpucoron.backends.devices.cuda_loader import KernelLoader, choose_target
        nvrtc = cupy.cuda.nvrtc
        assert nvrtc.getVersion() == {nvrtc.getVersion()!r}
        loader = KernelLoader(cupy)
        for target in ("sm_90", choose_target(nvrtc, "999")):
            code, names = loader.code("saturation.cu", target)
            assert isinstance(code, bytes)
            assert all(name.encode() in code for name in names.values())
    """
    environment = os.environ | {"GPUCORON_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    # Another process reuses the cached code, whichever NVRTC it has.
    loader = KernelLoader(SimpleNamespace(cuda=SimpleNamespace(nvrtc=nvrtc)))
    monkeypatch.setenv("GPUCORON_CACHE", str(tmp_path))
    monkeypatch.setattr("gpucoron.backends.devices.cuda_loader.compile_kernels", None)
    _, names = loader.code("saturation.cu", "sm_90")
    assert set(names) == {kernel.expression(variant) for kernel, variant in instantiations("saturation.cu")}


def test_a_device_that_is_too_old_is_named(nvrtc):
    with pytest.raises(RuntimeError, match="sm_35"):
        choose_target(nvrtc, "35")


def test_errors_point_at_the_file(nvrtc, tmp_path, monkeypatch):
    folder = tmp_path / "kernels"
    (folder / "include").mkdir(parents=True)
    original = kernel_files.kernel_folder()
    # Read before the folder contains only this file.
    assert "convert_counts" in KERNELS
    (folder / "include" / "types.cuh").write_text((original / "include" / "types.cuh").read_text())
    text = (original / "raw_counts.cu").read_text().replace("counts[at]", "count[at]")
    (folder / "raw_counts.cu").write_text(text)
    monkeypatch.setattr(kernel_files, "kernel_folder", lambda: folder)
    line = 1 + [n for n, words in enumerate(text.splitlines()) if "count[at]" in words][0]
    with pytest.raises(RuntimeError, match=rf"kernels/raw_counts\.cu\({line}\)"):
        compile_kernels(nvrtc, "raw_counts.cu", "sm_90")


def test_a_template_without_instantiation_is_not_compiled(nvrtc):
    # The reason to count entry points: this compiles without a warning to an empty module.
    program = nvrtc.createProgram("template <int N> __global__ void lost(int* a) { *a = N; }", "lost.cu", (), ())
    nvrtc.compileProgram(program, ("-arch=sm_90",))
    assert b".text.lost" not in nvrtc.getCUBIN(program)
    with pytest.raises(NvrtcError):
        nvrtc.getLoweredName(program, "lost<1>")
    nvrtc.destroyProgram(program)


def test_every_kernel_of_the_files_is_read():
    folder = kernel_files.kernel_folder()
    files = [*folder.glob("*.cu"), *folder.glob("cpu/*.cpp")]
    assert {path.relative_to(folder).as_posix() for path in files} == set(SOURCES)
    texts = [path.read_text(encoding="utf-8") for path in files]
    assert sum(text.count("__global__ ") for text in texts) == len(KERNELS)
    for source in SOURCES:
        defined = set(re.findall(r"__global__ void (\w+)\(", (folder / source).read_text()))
        assert defined == {kernel.name for kernel in KERNELS.values() if kernel.source == source}


@pytest.mark.parametrize("kernel", ["search_jumps", "search_strips"])
def test_the_modes_of_the_search_are_those_of_jump_cuh(kernel):
    header = kernel_files.kernel_folder() / "include" / "jump.cuh"
    (names,) = re.findall(r"enum SearchMode \{ (.*) \};", header.read_text())
    modes = {variant[0] for variant in KERNELS[kernel].variants}
    assert [getattr(definition, name) for name in names.split(", ")] == sorted(modes)


READABLE = """
// A comment on __global__ functions.
template <bool DILUTED, int LANES>
__global__ void first(const float* __restrict__ data, uint8 *flags,
                      double scale, int64 n_pixels) { }
__global__ void second(int* counts) { }
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read the kernels of a text with rows of the table, given as keyword arguments."""

    def read(text, **rows):
        (tmp_path / "some.cu").write_text(text)
        monkeypatch.setattr(kernel_files, "kernel_folder", lambda: tmp_path)
        monkeypatch.setitem(kernel_files.TABLE, "some.cu", rows)
        return read_kernels("some.cu")

    return read


def test_signatures_are_read(read):
    row = Row(((True, 1), (True, 4)), nulls="flags", apart="data flags", shared="data", by_pixel=True, lanes=1)
    first, second = read(READABLE, first=row)
    assert first.signature == "void (*)(const float*, gpucoron::uint8*, double, gpucoron::int64)"
    assert first.expression((True, 4)) == "gpucoron::first<true, 4>"
    assert (first.source, first.by_pixel, first.waits) == ("some.cu", True, (False, True))
    facts = ("name", "dtype", "is_array", "is_read_only", "may_be_null", "may_be_apart", "is_shared")
    found = [tuple(getattr(argument, fact) for fact in facts) for argument in first.arguments]
    assert found == [
        ("data", "float32", True, True, False, True, True),
        ("flags", "uint8", True, False, True, True, False),
        ("scale", "float64", False, False, False, False, False),
        ("n_pixels", "int64", False, False, False, False, False),
    ]
    assert (second.expression(), second.waits) == ("gpucoron::second", (False,))


FIRST = Row(((True, 1),))


@pytest.mark.parametrize(
    ("change", "rows", "words"),
    [
        (("uint8 *", "uint64 *"), {"first": FIRST}, r"some.cu, kernel first: argument 'uint64 \*flags'"),
        (("uint8 *", "uint8 **"), {"first": FIRST}, "kernel first: argument"),
        (("int* counts", "unsigned int n"), {"first": FIRST}, "kernel second: argument"),
        (("int* counts", ""), {"first": FIRST}, "kernel second: argument ''"),
        (
            ("void second", "__launch_bounds__(32) void second"),
            {"first": FIRST},
            r"some.cu, kernel .*second.*: it is not",
        ),
        ((), {}, "some.cu, kernel first: it has 2 template parameters"),
        ((), {"first": Row(((True,),))}, "kernel first: it has 2 template parameters"),
        ((), {"first": FIRST, "second": Row(((1,),))}, "kernel second: it has 0 template parameters"),
        ((), {"first": FIRST, "third": Row()}, "some.cu, kernel third: the table has a row"),
        ((), {"first": Row(((True, 1),), nulls="data flag")}, r"kernel first: the table names \['flag'\]"),
        ((), {"first": Row(((True, 1),), apart="scale")}, r"kernel first: the table names \['scale'\]"),
    ],
)
def test_unreadable_kernels_are_refused(read, change, rows, words):
    text = READABLE.replace(*change) if change else READABLE
    with pytest.raises(ValueError, match=words):
        read(text, **rows)


@pytest.mark.parametrize("installed", [True, False])
def test_kernels_are_found_in_the_wheel_and_in_the_repository(tmp_path, installed):
    backends = tmp_path / "gpucoron" / "backends"
    backends.mkdir(parents=True)
    copy = backends / "kernel_files.py"
    copy.write_text(Path(kernel_files.__file__).read_text())
    spec = spec_from_file_location("kernel_files_elsewhere", copy)
    elsewhere = module_from_spec(spec)
    sys.modules[spec.name] = elsewhere
    spec.loader.exec_module(elsewhere)
    with pytest.raises(FileNotFoundError, match="_kernels"):
        elsewhere.kernel_folder()
    with pytest.raises(FileNotFoundError, match="_kernels"):
        len(elsewhere.KERNELS)
    folder = tmp_path / "gpucoron" / "_kernels" if installed else tmp_path / "kernels"
    (folder / "include").mkdir(parents=True)
    assert elsewhere.kernel_folder() == folder
    del sys.modules[spec.name]


def test_the_digest_covers_all_sources_of_a_file(tmp_path, monkeypatch):
    # Read before the files change.
    more = replace(KERNELS["clip_jumps"], variants=((True,),))
    (tmp_path / "include").mkdir()
    header = tmp_path / "include" / "types.cuh"
    files = [header, tmp_path / "jump.cu", tmp_path / "linearity.cu"]
    for path in files:
        path.write_text("// one\n")
    monkeypatch.setattr(kernel_files, "kernel_folder", lambda: tmp_path)
    digest = kernel_files.source_digest.__wrapped__
    seen = {digest("jump.cu")}
    assert digest("jump.cu") in seen
    header.write_text("// two\n")
    seen.add(digest("jump.cu"))
    files[1].write_text("// two\n")
    seen.add(digest("jump.cu"))
    monkeypatch.setitem(KERNELS, "clip_jumps", more)
    seen.add(digest("jump.cu"))
    assert len(seen) == 4
    # The kernel of another file is not compiled into this one.
    files[2].write_text("// two\n")
    assert digest("jump.cu") in seen
