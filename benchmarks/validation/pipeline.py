"""Whole stage 1 from file to rate with every effect on: jwst's Detector1Pipeline and gpucoron on the same file.

python benchmarks/validation/pipeline.py [--seeds 3] [--quick]
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
from common import over_seeds, parse, save, width

from gpucoron.engine import reduce_file
from gpucoron.simulate import Effects, simulate
from gpucoron.simulate.compare import pulls
from gpucoron.simulate.references import write_references

CASES = {
    "NIRCam RAPID, 10 groups x 2": ("NIRCAM", "SUB320A335R", "RAPID", 10, 2),
    "NIRCam DEEP8, 6 groups x 2": ("NIRCAM", "SUB320A335R", "DEEP8", 6, 2),
    "MIRI FASTR1, 40 groups x 4": ("MIRI", "MASK1550", "FASTR1", 40, 4),
}
SHAPE = (96, 112)


def run_both(case, seed, folder, shape):
    """Reduce one exposure with jwst and gpucoron; return figures of each side, and the differences."""
    from jwst.pipeline import Detector1Pipeline

    # ERR does not include 1/f noise, and no default step removes it
    simulation = simulate(*case, seed=seed, shape=shape, effects=Effects(one_over_f=0.0))
    cache = write_references(simulation, folder / "crds")
    path = simulation.write(folder)
    with cache.activate():
        theirs = Detector1Pipeline.call(str(path), save_results=False, configure_log=False)
        _, models, _ = reduce_file(path, folder, backend="cpu", save_results=False)
    ours = models["rate"]
    sides = {}
    for name, model in (("gpucoron", ours), ("jwst", theirs)):
        pull = pulls(simulation, model)
        sides[name] = [np.median(pull), width(pull)]
    known = np.isfinite(ours.data) & np.isfinite(theirs.data)
    with np.errstate(invalid="ignore"):
        apart = abs(ours.data - theirs.data) > 1e-5 * np.maximum(abs(theirs.data), theirs.err)
    sides["apart"] = int(apart.sum() + (np.isfinite(ours.data) != np.isfinite(theirs.data)).sum())
    sides["flags"] = int((ours.dq != theirs.dq).sum())
    sides["pixels"] = int(known.sum())
    return sides


def main(argv=None):
    options = parse(__doc__, argv, seeds=3)
    logging.disable(logging.CRITICAL)
    cases = dict(list(CASES.items())[:1]) if options.quick else CASES
    shape = (24, 40) if options.quick else SHAPE
    figures = {}
    for name, case in cases.items():
        samples = []
        for seed in range(1, (1 if options.quick else options.seeds) + 1):
            with tempfile.TemporaryDirectory() as folder:
                samples.append(run_both(case, seed, Path(folder), shape))
        figures[name] = {side: over_seeds([sample[side] for sample in samples]) for side in ("gpucoron", "jwst")}
        figures[name] |= {key: sum(sample[key] for sample in samples) for key in ("apart", "flags", "pixels")}
        print(name, figures[name]["apart"], figures[name]["flags"], flush=True)
    return save("pipeline", options, {"cases": figures})


if __name__ == "__main__":
    main()
