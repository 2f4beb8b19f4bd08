"""Ramps of 3 to 10 groups in every read pattern: rates of pixels with hits, and the effect of the search on others.

A hit within an averaged group changes two differences. In short ramps these are as many as the good ones, or more, and
only the sign of the jump distinguishes them. The number after a likelihood search is its `max_diffs_one_sided`: with so
many differences or fewer, only upward jumps count; 0 is the search of spaceKLIP and jwst.

python benchmarks/validation/few_groups.py [--seeds 20] [--quick]
"""

import warnings
from functools import partial

import numpy as np
from common import JUMP_DET, find_jumps, fit_jumpramp, fit_likely, fit_ols, observe, over_seeds, parse, save

from gpucoron.facts import READ_PATTERNS

GROUPS = tuple(range(3, 11))
#: background, e-/s
BACKGROUNDS = (3.0, 100.0)
SHAPE = (48, 48)
NINTS = 4
#: fraction of ramps with hits, small enough that most have one hit
SHARE_HIT = 0.05
#: smallest charge that counts as a hit, e-
ENERGY = 300
#: smallest number of groups for which LIKELY does not use OLS_C
FEWEST_LIKELY = 4


def jump_and_ols(ramps):
    # without flags on the neighbours of hits, so that every search is judged by its own pixels
    find_jumps(ramps, flag_4_neighbors=False)
    return fit_ols(ramps)


#: search -> function that runs on the ramps, in place, and returns (rate, rateints)
SEARCHES = {
    "jump, OLS_C": jump_and_ols,
    "jumpramp, 0": partial(fit_jumpramp, max_diffs_one_sided=0),
    "jumpramp, 3": partial(fit_jumpramp, max_diffs_one_sided=3),
    "jumpramp, 4": partial(fit_jumpramp, max_diffs_one_sided=4),
    "jumpramp, 9": partial(fit_jumpramp, max_diffs_one_sided=9),
    "LIKELY, 0": fit_likely,
    "LIKELY, 4": partial(fit_likely, max_diffs_one_sided=4),
}
#: far and off: percent of the known rates of ramps with hits, beyond 10 and 5 sigma; lost: percent without a rate;
#: alarms: ramps without hits that lost a difference, per million; median and mean: of the pulls of these
FIGURES = ("far", "off", "lost", "alarms", "median", "mean")


def count_hits(instrument, readpatt, ngroups):
    """Compute the factor on the cosmic-ray rate at which a fraction `SHARE_HIT` of the ramps is hit."""
    some = observe(instrument, readpatt, 2, 1, np.zeros((8, 8), np.float32), (8, 8), seed=1)
    kind, facts = some.simulation.pixels.kind, some.facts
    exposed = (ngroups * (facts.nframes + facts.groupgap) - facts.groupgap) * facts.frame_time
    return SHARE_HIT / (kind.cosmic_ray_rate * kind.cosmic_ray_pixels * exposed)


def mark_ramps(hits, shape):
    """Mark the ramps (nints, ny, nx) in which a hit arrives after the first frame."""
    marked = np.zeros(shape, bool)
    hits = hits[hits["frame"] > 0]
    marked[hits["integration"], hits["y"], hits["x"]] = True
    return marked


def measure(search, ramps, strong, untouched):
    """Measure `FIGURES` of a search; ``strong`` and ``untouched`` are (nints, ny, nx) bool."""
    ramps = ramps.copy()
    _, rateints = search(ramps)
    pull = (rateints.rate - ramps.truth) / rateints.err
    struck, quiet = pull[strong], pull[untouched]
    lost = np.isnan(struck)
    flagged = (ramps.groupdq & JUMP_DET != 0).any(axis=1)[untouched]
    with warnings.catch_warnings():
        # all groups are flagged: no rate is known
        warnings.simplefilter("ignore", RuntimeWarning)
        shares = [100 * np.mean(abs(struck[~lost]) > sigma) for sigma in (10, 5)]
        quiet = np.nanmedian(quiet), np.nanmean(quiet)
    return *shares, 100 * lost.mean(), 1e6 * flagged.mean(), *quiet


def run_case(instrument, readpatt, ngroups, background, options, searches=SEARCHES):
    searches = {name: search for name, search in searches.items() if ngroups >= FEWEST_LIKELY or "LIKELY" not in name}
    samples, n_hits = {name: [] for name in searches}, 0
    effects = {"one_over_f": 0.0, "cosmic_rays": count_hits(instrument, readpatt, ngroups)}
    for seed in range(1, options.seeds + 1):
        scene = np.full(SHAPE, background, np.float32)
        ramps = observe(instrument, readpatt, ngroups, NINTS, scene, SHAPE, seed=seed, effects=effects)
        hits, shape = ramps.simulation.truth.cosmic_rays, (NINTS, *SHAPE)
        strong, untouched = mark_ramps(hits[hits["electrons"] >= ENERGY], shape), ~mark_ramps(hits, shape)
        n_hits += int(strong.sum())
        for name, search in searches.items():
            samples[name].append(measure(search, ramps, strong, untouched))
    result = {"case": [instrument, readpatt, ngroups, background], "hits": n_hits, "searches": {}}
    for name, of_seeds in samples.items():
        figures = over_seeds(of_seeds)
        # only the first of the errors, to keep the file small
        result["searches"][name] = [*figures["mean"], figures["error"][0]]
    return result


def main(argv=None):
    options = parse(__doc__, argv, seeds=20)
    patterns = [(instrument, name) for instrument, known in READ_PATTERNS.items() for name in known]
    groups, backgrounds = (GROUPS, BACKGROUNDS)
    if options.quick:
        patterns, groups, backgrounds = [("NIRCAM", "MEDIUM8")], (3, 4), (3.0,)
    results = []
    for instrument, readpatt in patterns:
        for background in backgrounds:
            for ngroups in groups:
                results.append(run_case(instrument, readpatt, ngroups, background, options))
            print(instrument, readpatt, background, flush=True)
    facts = {"energy": ENERGY, "share_hit": SHARE_HIT, "nints": NINTS, "figures": [*FIGURES, "error of far"]}
    return save("few_groups", options, facts | {"cases": results})


if __name__ == "__main__":
    main()
