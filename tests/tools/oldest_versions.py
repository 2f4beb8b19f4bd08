"""The oldest supported versions give the bits of the newest: ``make test-oldest``, with the Python of the newest.

The same simulated files are reduced in both environments, by every entry point, and the products compared: arrays bit
for bit, headers except for versions and times. Then the quick part of the test suite runs on the oldest versions.

python -m tests.tools.oldest_versions                        everything
python -m tests.tools.oldest_versions simulate RAW
python -m tests.tools.oldest_versions reduce RAW OUTPUT      reduce, in the current environment
python -m tests.tools.oldest_versions compare OUTPUT OUTPUT
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PINS = HERE / "oldest.txt"
#: the environment of the oldest versions, next to the peers' (tests/tools/peers.py)
FOLDER = Path(sys.prefix) / "oldest"

#: test modules that also run on the oldest versions: those that use jwst's models, CRDS, NumPy and the entry points,
#: but not the kernels, which use none of these
SUITE = (
    "backends/operations/test_drawn.py", "batch/test_batch_dask.py", "cli", "database", "io/test_products.py",
    "io/test_real_input.py", "io/test_versions.py", "pipeline/test_optional_steps.py", "pipeline/test_parameters.py",
    "pipeline/test_pipeline.py", "pipeline/test_run_obs.py", "simulate/test_simulate.py", "steps/test_dark_current.py",
    "steps/test_light_steps.py", "steps/test_linearity.py", "steps/test_steps_declare.py",
)  # fmt: skip

#: name -> arguments of `simulate`, options of the references, and whether the references have parameter files
EXPOSURES = {
    "medium8": (("NIRCAM", "SUB320A335R", "MEDIUM8", 6, 3), {"inverse_linearity": True}),
    "rapid": (("NIRCAM", "SUB320ALWB", "RAPID", 12, 12), {"nan_fraction": 0.003}),
    "miri": (("MIRI", "MASK1550", "FASTR1", 20, 12), {"nan_fraction": 0.003}),
}
SHAPES = {"NIRCAM": (64, 72), "MIRI": (56, 64)}

_LIKELY = {"jump": {"skip": True}, "ramp_fit": {"algorithm": "LIKELY"}}
_CUSTOM = {
    "subtract_ktc": {"skip": False},
    "subtract_1overf": {"skip": False},
    "experimental_jumpramp": {"skip": False},
}
#: steps and searches that are off by default
_OPTIONAL = {
    "jump": {"expand_large_events": True, "find_showers": True},
    "emicorr": {"skip": False, "algorithm": "sequential"},
    "persistence": {"skip": False, "persistence_time": 100, "dn_threshold": 2e4},
    "ramp_fit": {"save_opt": True},
}
#: name of a configuration -> keyword arguments of `reduce_file`
WAYS = {
    "numpy": {"backend": "numpy"},
    "cpu": {"backend": "cpu"},
    "likely": {"steps": _LIKELY, "backend": "numpy"},
    "spaceklip": {"profile": "spaceklip", "backend": "numpy", "rate_int_outliers": True},
    "custom": {"profile": "spaceklip", "steps": _CUSTOM, "backend": "numpy", "stage_1overf": "groups"},
    "emicorr": {"steps": {"emicorr": {"skip": False}}, "backend": "cpu"},
    "optional": {"steps": _OPTIONAL, "backend": "cpu"},
}
#: tolerance in widths of the image (16 to 84 %) after the subtraction of 1/f noise, because each BLAS sums the float32
#: products of matrices in a different order. All other values have the same bits.
_SUBTRACT_1OVERF = 2e-4
_WITH_1OVERF = ("spaceklip", "custom", "run_obs")
#: share of the values that may differ after the search for snowballs and showers: the axes and angles of their ellipses
#: are sums of products by BLAS (as in scikit-image), which differ in the last bits, so that a pixel at the edge of an
#: ellipse may lie inside of one and outside of the other
_AT_EDGES = 2e-3
_WITH_EVENTS = ("optional",)
#: keywords with versions and times
_OTHERWISE = ("DATE", "CAL_VER", "CAL_VCS", "CRDS_VER", "CHECKSUM", "DATASUM", "HISTORY", "COMMENT", "")


def main(arguments):
    """Run the command; return the exit code."""
    if arguments[:1] == ["simulate"]:
        simulate_all(Path(arguments[1]))
        return 0
    if arguments[:1] == ["reduce"]:
        reduce_all(*map(Path, arguments[1:]))
        return 0
    if arguments[:1] == ["compare"]:
        return print_result(*compare_all(*map(Path, arguments[1:])))
    with tempfile.TemporaryDirectory(prefix="gpucoron-oldest-") as folder:
        raw, newest, oldest = (Path(folder) / name for name in ("raw", "newest", "oldest"))
        timed("simulate", simulate_all, raw)
        with reducing(sys.executable, raw, newest):  # most of the installation waits for the network
            python = timed("install the oldest", make_environment)
            with reducing(python, raw, oldest):
                pass
        code = print_result(*timed("compare", compare_all, newest, oldest))
    return code or timed("tests with the oldest", run_suite, python)


def timed(what, function, *arguments):
    """Call a function, and print its duration."""
    start = time.monotonic()
    print(f"== {what}", flush=True)
    result = function(*arguments)
    print(f"   {time.monotonic() - start:.0f} s", flush=True)
    return result


def print_result(compared, problems):
    """Print the result of a comparison; return the exit code."""
    print(f"{compared} products compared, {len(problems)} differences", *problems, sep="\n")
    return 1 if problems or not compared else 0


@contextmanager
def reducing(python, raw, output):
    """Reduce everything in another Python while the block runs, with the gpucoron installed there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    start = time.monotonic()
    with open(output.with_suffix(".log"), "w+") as log:
        command = [python, __file__, "reduce", raw, output]
        process = subprocess.Popen([*map(str, command)], env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
            code = process.wait()
        finally:
            process.kill()
        print(f"== reduce with the {output.name}\n   {time.monotonic() - start:.0f} s", flush=True)
        if code:
            log.seek(0)
            print(log.read()[-5000:])
            sys.exit(code)


def make_environment():
    """Install the oldest versions into a separate environment, once; return its Python."""
    python, stamp = FOLDER / "bin" / "python", FOLDER / ".made"
    pins = PINS.read_text() + (ROOT / "pyproject.toml").read_text()
    if not stamp.is_file() or stamp.read_text() != pins:
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", PINS]
        # packages without a wheel would be compiled, for minutes
        binary = ["--only-binary", ",".join(read_pins())]
        tools = ["pytest", "pytest-xdist", "hypothesis"]
        subprocess.run([*install, *binary, *tools, "--editable", f"{ROOT}[dask]"], check=True)
        stamp.write_text(pins)
    return python


def run_suite(python):
    """Run the quick part of the suite; return its exit code."""
    command = [python, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *SUITE]
    return subprocess.run(command, cwd=ROOT / "tests", check=False).returncode


def simulate_all(raw):
    """Write the exposures and their references."""
    from gpucoron.simulate import Effects, simulate
    from gpucoron.simulate.references import ReferenceOptions, write_references

    for number, (name, (arguments, options)) in enumerate(EXPOSURES.items(), 1):
        simulation = simulate(
            *arguments, seed=number, shape=SHAPES[arguments[0]], effects=Effects(cosmic_rays=60), observation=number
        )
        folder = raw / name
        folder.mkdir(parents=True)
        cache = write_references(
            simulation,
            folder / "crds",
            options=ReferenceOptions(**options),
            pars={"pars-jumpstep": {"rejection_threshold": 5.0}},
        )
        path = simulation.write(folder)
        (folder / "environment.json").write_text(json.dumps(cache.environment))
        print(f"{name}: {path.name}")


def reduce_all(raw, output):
    """Reduce each exposure in every configuration, into ``output/exposure/way``."""
    import gpucoron
    from gpucoron.batch import reduce
    from gpucoron.io.crds_cache import use_environment

    for name in EXPOSURES:
        (path,) = (raw / name).glob("*_uncal.fits")
        use_environment(json.loads((raw / name / "environment.json").read_text()))

        def folder_of(way, name=name):
            folder = output / name / way
            folder.mkdir(parents=True)
            return folder

        for way, options in WAYS.items():
            gpucoron.reduce_file(path, folder_of(way), **options)
        (result,) = reduce(path, folder_of("batch"), backend="cpu", workers=1)
        assert result.status == "done", result.message
        call = folder_of("call")
        gpucoron.Coron1Pipeline.call(str(path), output_dir=str(call), save_results=True, backend="cpu")
        command = [Path(sys.executable).parent / "strun", "calwebb_coron1", path, "--backend=cpu"]
        subprocess.run([*command, f"--output_dir={folder_of('strun')}"], check=True, capture_output=True)
        gpucoron.run_obs(_database(path, folder_of("run_obs")), subdir="", quiet=True, backend="cpu")
        print(f"{name}: reduced in {len(list((output / name).iterdir()))} ways")


def _database(path, output_dir):
    """Make the part of spaceKLIP's Database that run_obs needs."""
    from types import SimpleNamespace

    from astropy.table import Table

    table = Table(
        rows=[(str(path), "STAGE0", "SCI")], names=("FITSFILE", "DATAMODL", "TYPE"), dtype=("U400", "U9", "U9")
    )
    return SimpleNamespace(output_dir=str(output_dir), obs={"ONE": table}, update_obs=lambda key, index, path: None)


def compare_all(newest, oldest):
    """Compare the products of two environments; list what differs."""
    problems, compared = [], 0
    names = sorted(path.relative_to(newest) for path in newest.rglob("*.fits"))
    if sorted(path.relative_to(oldest) for path in oldest.rglob("*.fits")) != names:
        problems.append("the environments have not made the same products")
    for name in names:
        if not (oldest / name).exists():
            continue
        problems += [f"{name}: {problem}" for problem in _compare(newest / name, oldest / name, name.parts[1])]
        compared += 1
    return compared, problems


def _compare(newest, oldest, way):
    import numpy as np
    from astropy.io import fits

    with fits.open(newest) as expected, fits.open(oldest) as found:
        if [hdu.name for hdu in expected] != [hdu.name for hdu in found]:
            yield f"extensions {[hdu.name for hdu in found]}, not {[hdu.name for hdu in expected]}"
            return
        for hdu, other in zip(expected, found, strict=True):
            if hdu.name == "ASDF":
                continue
            keywords = {key for key in (*hdu.header, *other.header) if key not in _OTHERWISE}
            for key in sorted(keywords):
                values = [header.get(key, "absent") for header in (hdu.header, other.header)]
                if values[0] != values[1]:
                    yield f"{hdu.name}: {key} is {values[1]!r}, not {values[0]!r}"
            if hdu.data is None:
                continue
            expected_data, found_data = np.array(hdu.data), np.array(other.data)
            if expected_data.tobytes() != found_data.tobytes() and not (
                (way in _WITH_1OVERF and _is_close(expected_data, found_data))
                or (way in _WITH_EVENTS and _share_of_differences(expected_data, found_data) <= _AT_EDGES)
            ):
                what = _describe(expected_data, found_data) if hdu.is_image else "another table"
                yield f"{hdu.name}: {what}"
        histories = ["".join(hdus[0].header["HISTORY"]) for hdus in (expected, found)]
        yield from _compare_histories(*histories)


def _is_close(expected, found):
    """Return whether two images agree to the rounding of 1/f noise."""
    import numpy as np

    if expected.dtype.kind != "f" or expected.shape != found.shape:
        return False
    low, high = np.nanpercentile(expected, (16, 84))
    return np.allclose(found, expected, rtol=_SUBTRACT_1OVERF, atol=_SUBTRACT_1OVERF * (high - low), equal_nan=True)


def _share_of_differences(expected, found):
    """Return the share of the values of two images that differ."""
    import numpy as np

    if expected.shape != found.shape or expected.dtype != found.dtype or expected.dtype.names:
        return 1.0
    return np.mean((expected != found) & ~((expected != expected) & (found != found)))


def _describe(expected, found):
    """Describe the difference of two images."""
    import numpy as np

    if expected.shape != found.shape or expected.dtype != found.dtype:
        return f"{found.dtype} {found.shape}, not {expected.dtype} {expected.shape}"
    if expected.dtype.kind != "f":
        return f"{int((expected != found).sum())} of {expected.size} flags differ"
    nans = int((np.isnan(expected) != np.isnan(found)).sum())
    with np.errstate(invalid="ignore"):
        apart = np.abs(found - expected)
        largest = np.nanmax(apart / np.abs(expected), where=apart > 0, initial=0)
    return f"{int((apart > 0).sum())} of {expected.size} values differ, by {largest:.2g} at most; {nans} NaN"


def _compare_histories(newest, oldest):
    """Compare HISTORY: the oldest also names the version of jwst that the steps reproduce."""
    line = f"gpucoron steps: as jwst 3.0, with jwst {read_pins()['jwst']} installed"
    if line not in oldest or "gpucoron steps" in newest or oldest.replace(line, "") != newest:
        yield f"history: {oldest}, not {newest} with {line!r}"


def read_pins():
    """Read the pinned versions: package -> version."""
    lines = [line.partition("#")[0].strip() for line in PINS.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
