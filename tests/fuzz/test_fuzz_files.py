"""Randomly damaged files: refused by name or reduced correctly, without effect on the other files of the command.

``--fuzz N`` draws N cases; a failure reports the number of the case, from which ``mutations.mutate`` makes it again.
"""

import logging
import resource
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from gpucoron.batch.inputs import exposure_name
from gpucoron.batch.plan import make_plan
from gpucoron.cli import main
from gpucoron.files import on_one_line
from gpucoron.io.products import product_path
from gpucoron.records.manifest import read_manifests
from tests.cases.waiting import no_hang
from tests.fuzz.mutations import mutate

#: number of cases in CI
FEW = 100
#: cases per command
AT_ONCE = 10
SLOPES = ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE")
#: bytes that a case may need in addition to the process
MOST_MEMORY = 300e6


def pytest_generate_tests(metafunc):
    if "first" in metafunc.fixturenames:
        count = metafunc.config.getoption("--fuzz") or FEW
        metafunc.parametrize("first", range(0, count, AT_ONCE), ids=lambda first: f"cases-{first}")


@pytest.fixture(scope="module")
def clean(exposures, tmp_path_factory):
    """The undamaged exposures: paths, a cache for both, and their products."""
    from gpucoron.simulate import simulate
    from gpucoron.simulate.references import write_references

    folder = tmp_path_factory.mktemp("clean")
    made = [
        simulate("NIRCAM", "SUB320A335R", "MEDIUM8", 4, 2, shape=(16, 20)),
        simulate("MIRI", "MASK1550", "FASTR1", 6, 2, shape=(16, 20)),
    ]
    cache = write_references(made, folder / "crds")
    paths = [one.write(folder / "raw") for one in made]
    with cache.activate():
        assert main(["run", *map(str, paths), "-o", str(folder / "out"), "--backend", "numpy", "-q"]) == 0
    return paths, cache, {path: read_products(path, folder / "out") for path in paths}


def read_products(path, folder):
    """Read the products of an exposure: product and extension -> its bytes; {} if there are none."""
    found = {}
    for kind in ("rate", "rateints"):
        product = product_path(path, folder, kind)
        if product.exists():
            with fits.open(product) as hdus:
                names = [*SLOPES, "INT_TIMES"] if kind == "rateints" else SLOPES
                found |= {(kind, name): hdus[name].data.copy() for name in names if name in hdus}
    return found


def are_same(one, other):
    return one.keys() == other.keys() and all(one[key].tobytes() == other[key].tobytes() for key in one)


def compare_with_jwst(path, found, folder, label, warned):
    """Compare products with those of jwst's pipeline for the same file; return the differences.

    ``warned`` holds the log messages about the file: jwst fails for MIRI ramps shorter than their keywords say.
    """
    from jwst.pipeline import Detector1Pipeline

    folder.mkdir()
    try:
        Detector1Pipeline.call(str(path), save_results=True, output_dir=str(folder))
    except Exception as error:  # it raises all kinds of exceptions
        if isinstance(error, IndexError) and "SCI is used" in warned:
            return []
        return [f"{label}: reduced, other than without it, and jwst fails: {type(error).__name__} {error}"]
    theirs = read_products(path, folder)
    if theirs.keys() != found.keys():
        return [f"{label}: jwst makes {theirs.keys()}, and here are {found.keys()}"]
    differ = []
    for key, array in found.items():
        if key[1] in ("DQ", "INT_TIMES"):
            is_same = array.tobytes() == theirs[key].tobytes()
        else:
            is_same = np.allclose(array, theirs[key], rtol=2e-6, atol=0, equal_nan=True)
        if not is_same:
            differ.append(f"{label}: {key} is not jwst's")
    return differ


@pytest.mark.filterwarnings("ignore")
def test_damaged_files(first, clean, tmp_path, request, capsys, caplog):
    """Damage some files, reduce all of them and a good one with one command, and plan a batch of them."""
    (good, *_others), cache, products = clean
    folder, output = tmp_path / "raw", tmp_path / "out"
    folder.mkdir()
    asked = request.config.getoption("--fuzz")
    cases = [mutate(number, clean[0], folder) for number in range(first, first + AT_ONCE)]
    paths = [mutation.path for _source, mutation in cases]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with cache.activate(), caplog.at_level(logging.WARNING), no_hang():
        # a folder is refused before any other file is reduced
        for path in filter(Path.is_dir, paths):
            assert main(["run", str(path), str(good), "-o", str(output)]) == 2
        files = [path for path in (*paths, good) if not path.is_dir()]
        code = main(["run", *map(str, files), "-o", str(output), "--backend", "numpy", "-q"])
        printed = capsys.readouterr().err
        planned = {one.input.path: one.error for one in make_plan([*paths, good], tmp_path / "batch").exposures}
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    logged = caplog.text.splitlines()

    faults = [f"{memory / 1e6:.0f} MB"] if memory > MOST_MEMORY else []
    if not are_same(read_products(good, output), products[good]) or planned[good] is not None:
        faults.append("the good file")
    if "Traceback" in printed + caplog.text:
        faults.append(f"a traceback: {caplog.text}")
    left = {path.name for path in output.iterdir()}
    left -= {product_path(path, output, kind).name for path in (*paths, good) for kind in ("rate", "rateints")}
    left -= {"runs.jsonl", "logs", "previews"}
    recorded = read_manifests(output)[0]
    # a pipe or a folder, and names that products cannot have, are refused before anything is tried
    tried = [path for path in (*paths, good) if path.is_file() and path.name.isascii() and path.name.isprintable()]
    not_recorded = [path.name for path in tried if exposure_name(path) not in recorded]
    if not_recorded:
        faults.append(f"not recorded: {not_recorded}")
    if left:
        faults.append(f"what is left: {left}")
    lines = [line for line in printed.splitlines() if line.startswith("gpucoron: ")]
    n_compared = n_refused = 0
    for number, (source, mutation) in enumerate(cases, first):
        label = f"case {number}, {source.name}: {mutation.what}"
        found = read_products(mutation.path, output)
        of_file = [line for line in lines if on_one_line(mutation.path.name) in line]
        # with all groups saturated there is nothing to fit, and the file is valid
        n_refused += not found and not any("no product" in line for line in of_file)
        if asked:
            with capsys.disabled():
                print(f"{label}: {'reduced' if found else of_file}", flush=True)
        if (mutation.expect == "same" and not found) or (mutation.expect == "refused" and found):
            faults.append(f"{label}: it is to be {mutation.expect}: {of_file}")
        if not found:
            is_plain = len(of_file) == 1 and len(of_file[0]) > len(str(mutation.path)) + 20
            if not is_plain or "internal error" in of_file[0]:
                faults.append(f"{label}: said {of_file}")
            continue
        if planned.get(mutation.path) is not None:
            faults.append(f"{label}: reduced, but planned with {planned[mutation.path]}")
        if are_same(found, products[source]):
            continue
        if mutation.expect == "same":
            faults.append(f"{label}: other products than without it")
        # jwst is slow: a few cases in CI, all with --fuzz
        elif asked or not n_compared:
            n_compared += 1
            with cache.activate():
                warned = "".join(line for line in logged if mutation.path.name in line)
                faults += compare_with_jwst(mutation.path, found, tmp_path / f"jwst-{number}", label, warned)
    assert not faults, "\n".join(faults)
    n_failed = n_refused - (len(paths) + 1 - len(files))
    assert code == (2 if n_failed else 0)
    if n_failed:
        assert f"{n_failed} of {len(files)} files failed" in lines[-1]
