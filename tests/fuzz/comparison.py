"""Run a random case with jwst and with every configuration of gpucoron, and compare the results."""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
from astropy.io import fits

from gpucoron import Coron1Pipeline, reduce_file
from gpucoron.backends import chunks, get_backend
from gpucoron.errors import GpucoronError
from gpucoron.io.persistence_file import entry_digest, read_entries
from tests.cases.parity import LIKELY_RTOL
from tests.cases.parity_table import compare_arrays
from tests.cases.pipelines import (
    RAMP_ARRAYS,
    SLOPE_ARRAYS,
    Snapshots,
    _copy,
    _slopes,
    keywords_of,
    remember_schemas,
    run_jwst,
    tables_of,
)
from tests.fuzz.drawn_settings import OUT

#: whether the likelihood fit gives the same bits on every backend
LIKELY_IS_EXACT = True
#: relative to the brightest pixel. The kernels sum in another order than NumPy in the fit of 1/f noise; the noise of
#: slopes is rounded to float32 in DN/s, and multiplied by the time of each group.
SUBTRACT_1OVERF_TOLERANCE = 1e-5
#: refused by gpucoron but not by jwst: pattern of the message -> reason; docs/deviations.md lists them
REFUSED_HERE = {
    r"persistence.*persistence_time": "a persistence file without a positive persistence_time",
    r"ParameterError: .*expected .*, got ": "a value outside the declared bounds",
    r"no (gain|readnoise) reference": "gain or read noise N/A, with too few groups for jwst's jump to read it",
    r"would replace that of": "results of two steps with one name",
    r"there is no such file": "a missing file for a step that has nothing to do",
    r"reference.*shape|shape.*reference": "a reference of another shape",
    r"cannot be matched to|read pattern": "a dark that does not fit the read pattern",
}
#: failures of jwst only: pattern of its message -> reason; docs/deviations.md lists them
JWST_FAILS = {
    "IndexError: index 1 is out of bounds for axis 0 with size 1": "one group and inverse linearity coefficients",
    "No attribute 'err'": "GAINFACT without a ramp fit",
    "assign_wcs needs reference files": "the median image of clean_flicker_noise without a distortion reference",
    "arrays used as indices must be of integer": "a subarray with reference pixels only in even or only in odd columns",
    r"could not be broadcast together with shapes \(0|index \d\d+ is out of bounds for axis 0": "saturation that grows "
    "beyond the image",
    r"except for the concatenation axis must match|expected x and y to have same length|"
    r"index (\d+) is out of bounds for axis 0 with size \1": "a measured wave whose resampling makes a rounded step",
}
#: keywords that differ between runs, or name the software, a file or a folder
_NOT_COMPARED = re.compile(
    r"(meta\.)?(date|filename|model_type|calibration_software.*|cal_logs.*|filetype|asdf.*|history.*|_fits_hash)$|"
    r"^(cal_logs|history|extra_fits|asdf)"
)


@dataclass(frozen=True)
class Way:
    """A configuration of gpucoron: the call, the backend, the number of threads and of rows per chunk.

    ``memory`` is the limit in bytes, with the ramps in a scratch file; with ``rows`` None the limit determines the
    chunks.
    """

    coat: str = "reduce_file"
    backend: str = "numpy"
    threads: int = 1
    memory: int | None = None
    rows: int | None = None

    def __str__(self):
        return ", ".join(f"{name}={value}" for name, value in vars(self).items() if value is not None)


def draw_way(rng, case):
    """Draw the configuration that is compared with the first one, NumPy on one thread."""
    kernels = ("native", "host") if LIKELY_IS_EXACT or not uses_likelihood(case) else ("native",)
    kind = str(rng.choice(["backend", "memory", "coat"], p=[0.35, 0.4, 0.25]))
    if kind == "memory":
        rows = (None, 1, 2, 3, 7)[rng.integers(5)]
        return Way(backend=str(rng.choice(("numpy", *kernels))), threads=2, memory=10_000_000, rows=rows)
    if kind == "coat" and case.profile == "jwst":
        return Way(coat=case.start, backend=str(rng.choice(("numpy", *kernels))))
    return Way(backend=str(rng.choice(kernels)), threads=int(rng.integers(1, 3)))


def uses_likelihood(case):
    """Return whether a case may fit by likelihood, by any of its settings."""
    text = f"{case.settings.steps} {case.settings.pars}"
    return "LIKELY" in text or "experimental_jumpramp" in text


def subtracts_1overf(case):
    """Return whether spaceKLIP's subtraction of 1/f noise may run."""
    return case.profile == "spaceklip" or "subtract_1overf" in case.settings.steps


@dataclass
class Outcome:
    """Result of a case: 'equal', 'refused by both', 'refused here', 'jwst fails', or 'different'."""

    kind: str
    why: str = ""


def settings_for(case, folder):
    """Return the steps' settings for one side, which writes into its own folder."""

    def place(value):
        return value.replace(OUT, str(folder)) if isinstance(value, str) else value

    return {step: {key: place(value) for key, value in values.items()} for step, values in case.settings.steps.items()}


def run_ours(case, way, folder):
    """Run a case in one configuration of gpucoron; return the results."""
    remember_schemas()
    folder.mkdir()
    options = {"n_threads": way.threads, "max_memory": way.memory, "scratch_dir": str(folder)}
    with ExitStack() as stack:
        if way.rows:
            stack.enter_context(patch.object(chunks.Loop, "fitting", lambda self, budget: way.rows))
            stack.enter_context(patch.object(chunks, "works_in_place", lambda *_: False))
        backend = get_backend(way.backend, **options)
        steps = settings_for(case, folder)
        if way.coat == "reduce_file":
            # written files are compared only with those of jwst
            return _reduce(case, steps, backend, folder, save_results=case.writes and way == Way())
        return _by_coat(case, steps, backend, folder, way.coat)


def _reduce(case, steps, backend, folder, save_results):
    seen = Snapshots()

    def keep(run, record):
        if record.name == "ramp_fit" and run.exposure.optional_fit is not None:
            # jwst's is compared only as a file
            seen.ramps["segments"] = vars(run.backend.to_host(run.exposure.optional_fit))
        if record.name in ("ramp_fit", "gain_scale") or run.exposure.rateints is not None:
            return
        arrays = {key: getattr(run.exposure, key) for key in RAMP_ARRAYS}
        seen.ramps[record.name] = {
            key: None if value is None else _copy(run.backend.to_host(value)) for key, value in arrays.items()
        }

    _run, models, _paths = reduce_file(
        case.path, folder, profile=case.profile, steps=steps, backend=backend, after_step=keep,
        save_results=save_results,
        use_pars=None if case.start == "call" else False, **case.settings.run_parameters,
    )  # fmt: skip
    for name in ("rate", "rateints"):
        if models.get(name) is not None:
            setattr(seen, name, _slopes(models[name]))
            seen.keywords[name] = keywords_of(models[name])
            seen.tables[name] = tables_of(models[name])
    return seen


def _by_coat(case, steps, backend, folder, start):
    """Run the pipeline class; its products are read from their files."""
    options = {"steps": steps, "backend": backend, "output_dir": str(folder), "save_results": True}
    options |= case.settings.run_parameters
    if start == "call":
        Coron1Pipeline.call(str(case.path), **options)
    else:
        Coron1Pipeline(**options).run(str(case.path))
    seen = Snapshots()
    for name in ("rate", "rateints"):
        for path in folder.glob(f"*_{name}.fits"):
            with fits.open(path) as hdus:
                arrays = {key: np.array(hdus[_HDUS.get(key, key.upper())].data) for key in SLOPE_ARRAYS}
            setattr(seen, name, arrays)
    return seen


_HDUS = {"data": "SCI"}


def judge(case, folder, rng):
    """Run a case with jwst and with gpucoron, and compare; return its `Outcome`."""
    with case.cache.activate(), np.errstate(all="ignore"):
        ours = _attempt(run_ours, case, Way(), folder / "ours")
        if isinstance(ours, Exception) and not isinstance(ours, GpucoronError):
            return Outcome("different", f"we crash: {type(ours).__name__}: {ours}")
        outcome = Outcome("refused by all ways", message_of(ours)) if isinstance(ours, Exception) else Outcome("equal")
        if not case.custom:
            outcome = _beside_jwst(case, ours, folder)
        if outcome.kind == "different":
            return outcome
        way = draw_way(rng, case)
        found = _attempt(run_ours, case, way, folder / "another")
        is_rounded = way.backend == "host" and subtracts_1overf(case)
        different = _between_ways(ours, found, SUBTRACT_1OVERF_TOLERANCE if is_rounded else 0)
        if different:
            return Outcome("different", f"{Way()} and {way}: {different}")
    return outcome


def _attempt(run, *arguments, **options):
    try:
        return run(*arguments, **options)
    except Exception as error:
        return error


def message_of(error):
    """Return the message of an error."""
    return f"{type(error).__name__}: {error}"


def _beside_jwst(case, ours, folder):
    theirs_dir = folder / "jwst"
    theirs_dir.mkdir()
    theirs = _attempt(
        run_jwst, case.path, settings_for(case, theirs_dir), start=case.start, save_results=case.writes,
        output_dir=str(theirs_dir),
    )  # fmt: skip
    if not isinstance(theirs, Exception):
        _scale_once(case, theirs)
    if isinstance(ours, Exception):
        if isinstance(theirs, Exception):
            return Outcome("refused by both", message_of(ours))
        why = next((why for pattern, why in REFUSED_HERE.items() if re.search(pattern, message_of(ours))), None)
        return Outcome("refused here" if why else "different", why or f"refused here, not by jwst: {message_of(ours)}")
    if isinstance(theirs, Exception):
        why = next((why for pattern, why in JWST_FAILS.items() if re.search(pattern, message_of(theirs))), None)
        return Outcome("jwst fails" if why else "different", why or f"jwst fails, and we do not: {message_of(theirs)}")
    different = compare(case, ours, theirs)
    if not different and case.writes:
        different = _compare_files(folder / "ours", theirs_dir, is_likely=uses_likelihood(case))
    return Outcome("different" if different else "equal", different)


def _scale_once(case, theirs):
    """Undo jwst's second scaling of the rateints of a single integration by LIKELY: tests/steps/test_gain_factor.py."""
    factor = theirs.keywords.get("rateints", {}).get("meta.exposure.gain_factor")
    is_shared = factor and theirs.model is not None and np.shares_memory(theirs.model.data, theirs.last_scaled)
    if is_shared:
        for name in ("data", "err", "var_poisson", "var_rnoise"):
            theirs.rateints[name] /= np.float32(factor if name in ("data", "err") else factor**2)


def compare(case, ours, theirs):
    """Return the first step or product that differs from jwst; '' if there is none."""
    is_likely = uses_likelihood(case)
    for step, arrays in theirs.ramps.items():
        different = _compare_step(step, ours.ramps.get(step), arrays)
        if different:
            return different
    for product in ("rateints", "rate"):
        expected, found = getattr(theirs, product), getattr(ours, product)
        if (expected is None) != (found is None):
            return f"{product}: {'there should be none' if expected is None else 'missing'}"
        if expected is not None:
            different = (
                _compare_likely(product, found, expected) if is_likely else _compare_step(product, found, expected)
            )
            different = different or _compare_keywords(ours.keywords[product], theirs.keywords[product])
            if different:
                return f"{product}: {different}"
            if ours.tables[product] != theirs.tables[product]:
                return f"{product}: other tables"
    return ""


def _compare_step(step, found, expected):
    if found is None:
        return f"{step}: missing"
    row, problems = compare_arrays(step, found, expected)
    if problems:
        return "; ".join(problems)
    if row.exact:
        return ""
    return (
        f"{step}: {row.bits} DQ bits, {row.nans} NaN, largest difference {row.largest:.3g}; {_first(found, expected)}"
    )


def _first(found, expected):
    """Describe the first pixel that differs."""
    for name, wanted in expected.items():
        if wanted is None or found.get(name) is None or np.array_equal(found[name], wanted, equal_nan=True):
            continue
        differ = (found[name] != wanted) & ~(np.isnan(found[name]) & np.isnan(wanted))
        place = tuple(int(index) for index in np.argwhere(differ)[0])
        return f"{differ.sum()} values of {name}, first at {place}: {found[name][place]!r}, not {wanted[place]!r}"
    return ""


def _compare_likely(product, found, expected):
    """Compare results of LIKELY: flags may differ in a few ramps in which rounding selects a difference."""
    same = found["dq"] == expected["dq"]
    if (~same).mean() > 0.006:
        return f"{(~same).sum()} pixels have other flags"
    for name, wanted in expected.items():
        close = np.isclose(found[name], wanted, rtol=LIKELY_RTOL, atol=1e-9, equal_nan=True) | ~same
        if name != "dq" and (~close).mean() > 0.006:
            return f"{(~close).sum()} values of {name} differ"
    return ""


#: written by one side only; see docs/deviations.md
_ONLY_HERE = {"cal_step.dark_sub": ("SKIPPED", None)}


def _compare_keywords(found, expected):
    names = [name for name in sorted(found.keys() | expected.keys()) if not _NOT_COMPARED.search(name)]
    for name in names:
        mine, wanted = found.get(name), expected.get(name)
        if (mine, wanted) == _ONLY_HERE.get(name.removeprefix("meta.")):
            continue
        if mine != wanted and not (isinstance(mine, float) and np.isclose(mine, wanted, rtol=1e-6, equal_nan=True)):
            return f"{name}: {mine!r}, not {wanted!r}"
    return ""


#: what jwst leaves of the suffix of an earlier result in the names of further products: docs/deviations.md
_LEFT_OF_SUFFIX = re.compile(
    r"_(of(_[a-z]+)?|charge_migration)(?=_(fitopt|likely_chisq|flicker_bkg|flicker_noise|mask)\.fits$)"
)


def _compare_files(ours, theirs, *, is_likely):
    """Compare the files of both sides: names, images, tables; those of LIKELY with the tolerance of its rates."""
    found, expected = (
        {_LEFT_OF_SUFFIX.sub("", path.name): path for path in sorted(folder.glob("*.*"))} for folder in (ours, theirs)
    )
    # contains other groups in gpucoron: docs/deviations.md
    for files in (found, expected):
        files.pop("drawn_dark.fits", None)
    if found.keys() != expected.keys():
        return f"files: {sorted(found)}, not {sorted(expected)}"
    for name, path in expected.items():
        if name == "drawn_persistence.asdf" and _entries(found[name]) != _entries(path):
            return f"{name}: other entries"
        if path.suffix != ".fits":
            continue
        with fits.open(found[name]) as mine, fits.open(path) as wanted:
            if name.endswith("_mask.fits"):  # has another header: docs/deviations.md
                if not np.array_equal(mine["SCI"].data, wanted["SCI"].data):
                    return f"{name}: another mask"
                continue
            if [hdu.name for hdu in mine] != [hdu.name for hdu in wanted]:
                return f"{name}: {[hdu.name for hdu in mine]}, not {[hdu.name for hdu in wanted]}"
            for one, other in zip(mine, wanted, strict=True):
                different = _compare_hdus(one, other, name, is_likely=is_likely)
                if different:
                    return f"{name} {other.name}: {different}"
    return ""


def _entries(path):
    return {detector: entry_digest(entry) for detector, entry in read_entries(path).items()}


_CARDS = re.compile(r"DATE|FILENAME|CAL_VER|CAL_VCS|CHECKSUM|DATASUM|HISTORY|COMMENT|DATAMODL|^$")


def _compare_hdus(mine, expected, name, *, is_likely):
    if expected.name == "ASDF":
        return ""
    for card in sorted(set(mine.header) | set(expected.header)):
        if card in ("CRDS_CTX", "CRDS_VER") and card not in expected.header:
            continue  # jwst writes them after the first step that opens a reference
        if card == "S_DARK" and card not in expected.header and mine.header[card] == "SKIPPED":
            continue  # as in the keywords of the products
        if card == "R_FLAT" and card not in expected.header:
            continue  # what clean_flicker_noise saves: docs/deviations.md
        if card == "S_RAMP" and expected.header.get("DATAMODL") == "ImageModel" and card not in expected.header:
            continue  # chi square, which jwst saves before the step is recorded
        if not _CARDS.search(card) and mine.header.get(card) != expected.header.get(card):
            return f"{card} is {mine.header.get(card)!r}, not {expected.header.get(card)!r}"
    if expected.data is None:
        return "" if mine.data is None else "data where there should be none"
    if expected.data.dtype.names:
        return "" if mine.data.tolist() == expected.data.tolist() else "another table"
    same = np.array_equal(mine.data, expected.data, equal_nan=expected.data.dtype.kind == "f")
    if is_likely and not same and expected.data.dtype.kind == "f":
        # a rate or chi square of 0 is a sum that cancels; the terms of a chi square are squares of counts
        atol = 1e-7 if "chisq" in name else 1e-12
        same = np.allclose(mine.data, expected.data, rtol=LIKELY_RTOL, atol=atol, equal_nan=True)
    return "" if same else f"other values: {_first({'': mine.data}, {'': expected.data})}"


def _between_ways(first, other, tolerance):
    """Compare two configurations of gpucoron bit for bit, or to ``tolerance``; return '' if they are equal."""
    if isinstance(first, Exception) or isinstance(other, Exception):
        both = [message_of(each) if isinstance(each, Exception) else "an answer" for each in (first, other)]
        return "" if type(first) is type(other) else f"{both[0]}, and {both[1]}"
    for step, arrays in other.ramps.items():
        different = _compare_rounded(step, arrays, first.ramps.get(step), tolerance)
        if different:
            return different
    for product in ("rateints", "rate"):
        expected, found = getattr(first, product), getattr(other, product)
        if (expected is None) != (found is None):
            return f"{product}: {'there should be none' if expected is None else 'missing'}"
        different = "" if expected is None else _compare_rounded(product, found, expected, tolerance)
        if not different and product in other.keywords:
            different = _compare_keywords(other.keywords[product], first.keywords[product])
        if different:
            return f"{product}: {different}"
    return ""


def _compare_rounded(step, found, expected, tolerance):
    """Compare bit for bit, or values relative to the largest one."""
    different = _compare_step(step, found, expected)
    if not different or not tolerance:
        return different
    for name, wanted in expected.items():
        if wanted is None or name.endswith("dq"):
            same = np.array_equal(found[name], wanted) if wanted is not None else found[name] is None
        else:
            largest = np.nanmax(np.abs(wanted), initial=0)
            same = np.allclose(found[name], wanted, rtol=0, atol=tolerance * largest, equal_nan=True)
        if not same:
            return different
    return ""
