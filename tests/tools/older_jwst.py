"""Differences between an older jwst and the newest: the figures of docs/coming_from_jwst.md.

python -m tests.tools.oldest_versions simulate RAW
python -m tests.tools.older_jwst run RAW newest.npz          with each Python
python -m tests.tools.older_jwst compare newest.npz oldest.npz
"""

import json
import sys
from pathlib import Path

import numpy as np

from tests.cases.pipelines import run_jwst
from tests.tools.oldest_versions import EXPOSURES

#: name -> parameters of jwst's steps
WAYS = {"default": {}, "likely": {"jump": {"skip": True}, "ramp_fit": {"algorithm": "LIKELY"}}}


def run_all(raw, output):
    """Run the installed jwst's Detector1Pipeline on each exposure; save the result of each step."""
    from gpucoron.io.crds_cache import use_environment

    kept = {}
    for name in EXPOSURES:
        (path,) = (raw / name).glob("*_uncal.fits")
        use_environment(json.loads((raw / name / "environment.json").read_text()))
        for way, steps in WAYS.items():
            seen = run_jwst(path, steps)
            stages = {**seen.ramps, "ramp_fit: rate": seen.rate, "ramp_fit: rateints": seen.rateints}
            for step, arrays in stages.items():
                kept |= {f"{name}|{way}|{step}|{key}": value for key, value in arrays.items() if value is not None}
    np.savez(output, **kept)


def compare(newest, oldest):
    """Print a line for each array that differs, in the order of the steps."""
    newest, oldest = np.load(newest), np.load(oldest)
    for key in newest.files:
        if key.split("|")[2] == "persistence":
            continue  # it runs at another position
        if key not in oldest.files:
            print(f"{key}: missing")
            continue
        expected, found = newest[key], oldest[key]
        nans = 0 if expected.dtype.kind != "f" else int((np.isnan(expected) != np.isnan(found)).sum())
        apart = (expected != found) & ~(np.isnan(expected) | np.isnan(found))
        if not apart.any() and not nans:
            continue
        if expected.dtype.kind != "f":
            print(f"{key}: {100 * apart.mean():.3g} % of the flags differ")
            continue
        difference = np.abs(found.astype(np.float64) - expected)[apart]
        scale = np.nanmedian(np.abs(expected))
        relative = difference / np.maximum(np.abs(expected[apart]), 1e-3 * scale)
        print(
            f"{key}: {100 * apart.mean():.3g} % differ, median {np.median(relative):.2g}, largest {relative.max():.2g}"
            f" of the value; NaN in {nans} other places"
        )


if __name__ == "__main__":
    {"run": run_all, "compare": compare}[sys.argv[1]](*map(Path, sys.argv[2:]))
