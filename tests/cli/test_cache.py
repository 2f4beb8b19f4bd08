"""`gpucoron cache`: references and compiled kernels are listed, checked, fetched and removed, and nothing else is."""

import json
import os
import shutil
from pathlib import Path

import pytest

from gpucoron.backends import kernel_cache
from gpucoron.backends.devices import build
from gpucoron.cli import main
from gpucoron.io.crds_files import cache_folders
from gpucoron.simulate.crds import CrdsCache


@pytest.fixture(scope="module")
def case(exposures):
    return exposures(
        "NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(24, 32), pars={"pars-jumpstep": {"rejection_threshold": 5.0}}
    )


@pytest.fixture
def cache(case, tmp_path, monkeypatch):
    """A copy of the cache of an exposure, which CRDS may change, and an empty folder for kernels."""
    shutil.copytree(case.cache.path, tmp_path / "crds")
    monkeypatch.setenv("GPUCORON_CACHE", str(tmp_path / "kernels"))
    copy = CrdsCache(tmp_path / "crds", case.cache.context)
    with copy.activate():
        monkeypatch.setenv("CRDS_READONLY_CACHE", "0")
        yield copy


@pytest.fixture
def kernel(cache, monkeypatch):
    """A compiled kernel of this version in the folder for kernels."""
    usable, reason = build.native_available()
    if not usable:
        pytest.skip(reason)
    folder = os.environ["GPUCORON_CACHE"]
    monkeypatch.delenv("GPUCORON_CACHE")
    path = build.compile_natively("ipc.cu", False)
    monkeypatch.setenv("GPUCORON_CACHE", folder)
    Path(folder).mkdir()
    return Path(shutil.copy(path, folder))


def run(capsys, *arguments, expect=0):
    assert main(["cache", *map(str, arguments)]) == expect
    return capsys.readouterr()


def files_of(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def reference(cache, reftype):
    (path,) = (cache.path / "references").rglob(f"*_{reftype}_*.*")
    return path


def test_list_and_size_count_the_files_on_disk(cache, kernel, capsys):
    references = [path for path in (cache.path / "references").rglob("*") if path.is_file()]
    n_bytes = sum(path.stat().st_size for path in references)
    printed = run(capsys, "list", "--files").out
    assert f"references: {len(references)} files" in printed
    for path in references:
        assert path.name in printed
    assert "used: 1 file" in printed
    content = json.loads(run(capsys, "list", "--json").out)
    listed = [file for file in content["files"] if file["kind"] == "reference"]
    assert sum(file["n_bytes"] for file in listed) == n_bytes
    assert {Path(file["path"]) for file in listed} == set(references)
    assert {"nircam"} == {file["instrument"] for file in listed}
    assert {"gain", "superbias", "pars-jumpstep"} <= {file["reftype"] for file in listed}
    assert [Path(one["path"]) for one in content["kernels"]] == [kernel]
    lines = run(capsys, "size").out.splitlines()
    assert [line.split()[0] for line in lines] == ["references", "rules", "configuration", "compiled"]
    assert f"{n_bytes / 1e3:.1f} kB" in lines[0] or f"{n_bytes / 1e6:.1f} MB" in lines[0]


def test_a_whole_cache_passes(cache, kernel, capsys):
    printed = run(capsys, "verify").out
    assert "checked by headers" in printed
    assert "1 checked by tree and checksums" in printed
    assert "no file is damaged" in printed
    assert run(capsys, "verify", "-q") == ("", "")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_files_are_named_with_the_way_out(cache, kernel, capsys):
    # the simulator writes checksums into every FITS file
    assert (
        f"{len(list((cache.path / 'references').rglob('*.fits')))} checked by headers and checksums"
        in run(capsys, "verify").out
    )
    truncated, flipped = reference(cache, "gain"), reference(cache, "superbias")
    truncate(truncated)
    flip(flipped)
    parameters = reference(cache, "pars-jumpstep")
    parameters.write_text("#ASDF 1.0.0\n%YAML 1.1\n--- {broken")
    (rules,) = (cache.path / "mappings").rglob("*_gain_*.rmap")
    rules.write_text(rules.read_text().replace("jwst_nircam_gain", "jwst_nircam_gian", 1))
    truncate(kernel)
    found = run(capsys, "verify", expect=1)
    for path in (truncated, flipped, parameters):
        assert f"{path}: the reference is damaged" in found.err
        assert f"gpucoron cache clear --references {path.name} --yes" in found.err
    assert f"{rules}: the rules are damaged" in found.err
    assert f"{kernel}: damaged" in found.err
    assert "gpucoron cache clear --kernels" in found.err
    assert "5 files are damaged" in found.out
    assert len(found.err.splitlines()) == 5
    # the way out, as printed
    damaged = [path.name for path in (truncated, flipped, parameters)]
    run(capsys, "clear", "--references", *damaged, "--yes")
    run(capsys, "clear", "--kernels")
    assert run(capsys, "verify", "-q", expect=1).err.splitlines() == [
        line for line in found.err.splitlines() if rules.name in line
    ]


def test_a_library_that_cannot_be_loaded_is_damaged(cache, kernel, capsys):
    content = bytearray(kernel.read_bytes())
    content[64:4096] = bytes(4096 - 64)  # the program headers: complete by its size, but not loadable
    kernel.write_bytes(content)
    assert "it cannot be loaded" in run(capsys, "verify", expect=1).err


def test_prefetch_names_what_is_missing_offline(cache, case, capsys):
    printed = run(capsys, "prefetch", case.path).out
    assert f"1 exposure, context {case.cache.context}" in printed
    assert "parameter files: 1" in printed
    assert "references: 8" in printed
    missing = reference(cache, "linearity")
    missing.unlink()
    found = run(capsys, "prefetch", case.path.parent, "-q", expect=2)
    assert found.out == ""
    assert missing.name in found.err
    # a step that is skipped needs no reference
    run(capsys, "prefetch", case.path, "--skip", "linearity")
    truncate(reference(cache, "gain"))
    assert "the reference is damaged" in run(capsys, "prefetch", case.path, "--skip", "linearity", expect=2).err


def test_prefetch_downloads_what_the_cache_lacks(cache, case, capsys, monkeypatch):
    """The server of this test is a folder with the file."""
    import crds

    missing = reference(cache, "gain")
    elsewhere = shutil.move(missing, cache.path.parent)

    def deliver(parameters, reftypes, observatory):
        shutil.copy(elsewhere, missing)
        return {reftype: str(missing) for reftype in reftypes}

    monkeypatch.setattr(crds, "getreferences", deliver)
    printed = run(capsys, "prefetch", case.path, "-v").out
    assert "downloaded: 1 file" in printed
    assert str(missing) in printed
    assert "downloaded: 0 files" in run(capsys, "prefetch", case.path).out


def test_prefetch_compiles_the_kernels(cache, capsys, monkeypatch):
    usable, reason = build.native_available()
    if not usable:
        pytest.skip(reason)
    # one small library instead of all, which take minutes
    monkeypatch.setattr(kernel_cache, "libraries", lambda: (("ipc.cu", False),))
    printed = run(capsys, "prefetch", "--kernels").out
    assert "compiling ipc.cu for this CPU" in printed
    assert build.native_path("ipc.cu", False).exists()
    assert "compiling" not in run(capsys, "prefetch", "--kernels").out
    assert "give the exposures, or --kernels" in run(capsys, "prefetch", expect=2).err


def test_references_are_removed_only_with_yes_and_only_those(cache, case, capsys):
    before = files_of(cache.path)
    printed = run(capsys, "clear", "--references", "nircam/dark", "*_gain_*").out
    assert "2 files" in printed
    assert "nothing was removed; add --yes" in printed
    assert files_of(cache.path) == before
    gone = {reference(cache, "dark"), reference(cache, "gain")}
    assert "removed 2 references" in run(capsys, "clear", "--references", "nircam/dark", "*_gain_*", "--yes").out
    assert files_of(cache.path) == {path: content for path, content in before.items() if path not in gone}
    assert "fits no reference" in run(capsys, "clear", "--references", "*.rmap", "--yes", expect=2).err
    assert "say what to remove" in run(capsys, "clear", expect=2).err
    assert "only with --kernels" in run(capsys, "clear", "--unused", "--references", "nircam", expect=2).err


@pytest.mark.parametrize("is_folder", [False, True])
def test_links_out_of_the_cache_are_refused(cache, capsys, is_folder):
    target = reference(cache, "dark").parent if is_folder else reference(cache, "dark")
    elsewhere = cache.path.parent / "elsewhere"
    shutil.move(target, elsewhere)
    target.symlink_to(elsewhere)
    before = files_of(cache.path.parent)
    error = run(capsys, "clear", "--references", "nircam", "--yes", expect=2).err
    assert "nothing was removed" in error
    assert str(elsewhere) in error
    assert files_of(cache.path.parent) == before
    if not is_folder:
        run(capsys, "clear", "--references", "nircam/gain", "--yes")
        assert elsewhere.exists()


def test_a_cache_behind_a_link_can_be_cleared(cache, capsys, monkeypatch):
    (cache.path.parent / "link").symlink_to(cache.path)
    gone = reference(cache, "gain")
    monkeypatch.setenv("CRDS_PATH", str(cache.path.parent / "link"))
    run(capsys, "clear", "--references", "nircam/gain", "--yes")
    assert not gone.exists()


def test_a_protected_cache_stays(cache, capsys, monkeypatch):
    before = files_of(cache.path)
    monkeypatch.setenv("CRDS_READONLY_CACHE", "1")
    assert "CRDS_READONLY_CACHE" in run(capsys, "clear", "--references", "nircam", "--yes", expect=2).err
    assert files_of(cache.path) == before


def test_kernels_are_removed_and_nothing_else(cache, kernel, capsys):
    folder = kernel.parent
    other = folder / f"native-jump-pixels-{'0' * 20}.so"
    others = folder / "notes.txt", folder / "native-jump.so"
    for path in (other, *others, other.with_suffix(".lock"), folder / f"jump-sm_90-{'a' * 20}.bin"):
        path.write_bytes(b"x")
    (folder / f"host-jump-{'1' * 20}.so").symlink_to(others[0])
    draft = folder / ".gpucoron-killed"
    draft.mkdir()
    os.utime(draft, (0, 0))
    running = folder / ".gpucoron-running"
    running.mkdir()
    run(capsys, "clear", "--kernels", "--unused")
    assert kernel.exists()
    assert not other.exists()
    assert not draft.exists()
    assert running.exists()
    run(capsys, "clear", "--kernels")
    assert not kernel.exists()
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"notes.txt", "native-jump.so", f"host-jump-{'1' * 20}.so", ".gpucoron-running"}


def test_a_library_in_use_stays_loaded(cache, kernel, capsys):
    import ctypes

    library = ctypes.CDLL(str(kernel))
    run(capsys, "clear", "--kernels")
    assert library.gpucoron_launch is not None
    assert not kernel.exists()


def test_a_compilation_under_way_keeps_its_lock(cache, kernel, capsys):
    import fcntl

    lock = kernel.parent / f"native-jump-pixels-{'0' * 20}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run(capsys, "clear", "--kernels")
        assert lock.exists()
    run(capsys, "clear", "--kernels")
    assert not lock.exists()


def test_without_a_cache_nothing_is_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("GPUCORON_CACHE", str(tmp_path / "none"))
    assert "references: 0 files" in run(capsys, "list").out
    assert run(capsys, "verify").out.endswith("no file is damaged\n")
    assert not (tmp_path / "none").exists()


def test_the_folders_are_those_of_crds(cache):
    from crds.core import config

    name = reference(cache, "gain").name
    assert Path(config.locate_file(name, "jwst")).is_relative_to(cache_folders()["reference"])
    assert Path(config.locate_mapping(cache.context)).parent == cache_folders()["rules"]
