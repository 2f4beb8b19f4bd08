"""Jump rejection: completeness by energy and position in the ramp, false alarms, and the remaining bias of the rate.

Each exposure is fitted with and without added hits, so that the bias is due to the hit and not to the noise.

python benchmarks/validation/jumps.py [--seeds 24] [--quick]
"""

import numpy as np
from common import JUMP_DET, find_jumps, fit_jumpramp, fit_likely, fit_ols, jwst_jumps, observe, over_seeds, parse, save

#: energies of the hits, e-
ENERGIES = (30, 50, 70, 100, 150, 200, 300, 500, 1000, 3000)
#: groups -> background, e-/s
CASES = {
    ("RAPID", 5): (1.0, 100.0),
    ("RAPID", 10): (1.0, 100.0),
    ("RAPID", 40): (1.0, 100.0),
    ("RAPID", 100): (1.0, 100.0),
    ("DEEP8", 10): (0.3, 10.0),
}
SHAPE = (96, 96)
NINTS = 2
#: pixels between two hits, so that their neighbours, which may be flagged with them, are not hit
SPACING = 3
PEER_SEEDS = 3
PLACES = ("first", "early", "middle", "late", "last")


def only_jump(ramps):
    find_jumps(ramps)
    return fit_ols(ramps)


def jump_and_likely(ramps):
    find_jumps(ramps)
    return fit_likely(ramps)


#: search -> function that runs on the ramps, in place, and returns (rate, rateints)
SEARCHES = {
    "none": fit_ols,
    "jump, OLS_C": only_jump,
    "LIKELY alone": fit_likely,
    "jump, LIKELY": jump_and_likely,
    "experimental_jumpramp": fit_jumpramp,
}


def draw_hits(rng, ngroups, energies):
    """Draw one hit for each pixel of a lattice, in one of its integrations; return arrays of equal length.

    Half of the hits first appear at one of the two ends of the ramp, where they are hardest to find.
    """
    y, x = (index.ravel() for index in np.mgrid[1 : SHAPE[0] - 1 : SPACING, 1 : SHAPE[1] - 1 : SPACING])
    n = y.size
    group = rng.integers(1, ngroups, n)
    end = rng.random(n)
    group[end < 0.25] = 1
    group[end > 0.75] = ngroups - 1
    return {
        "integration": rng.integers(0, NINTS, n),
        "group": group,
        "y": y,
        "x": x,
        "energy": rng.integers(0, len(energies), n),
        # within a group of several frames, a hit arrives at any of the frames that the difference spans
        "share": rng.random(n),
    }


def place_of(group, ngroups):
    """Number the parts of a ramp in which hits are counted; `PLACES` names them."""
    inner = np.clip((group - 2) * 3 // max(ngroups - 3, 1), 0, 2) + 1
    return np.where(group == 1, 0, np.where(group == ngroups - 1, 4, inner))


def add_hits(ramps, hits, energies):
    """Add the hits to a copy of the ramps, as integer counts."""
    ramps = ramps.copy()
    facts = ramps.facts
    cadence = facts.nframes + facts.groupgap
    charge = np.asarray(energies, float)[hits["energy"]] / ramps.gain[hits["y"], hits["x"]]
    # the first frame, counted from the gap before the group, that includes the hit
    frame = np.floor(hits["share"] * cadence)
    in_group = np.where(frame >= facts.groupgap, (facts.nframes - (frame - facts.groupgap)) / facts.nframes, 1.0)
    for group in range(ramps.data.shape[1]):
        felt = np.where(group > hits["group"], 1.0, np.where(group == hits["group"], in_group, 0.0))
        ramps.data[hits["integration"], group, hits["y"], hits["x"]] += np.rint(felt * charge)
    return ramps


def measure(search, clean, hit, hits, n_energies, ngroups):
    """Measure completeness (place, energy), remaining bias (energy) in e-/s and sigma, false alarms per million."""
    quiet, struck = clean.copy(), hit.copy()
    _, before = search(quiet)
    _, after = search(struck)
    at = (hits["integration"], hits["y"], hits["x"])
    flags = (struck.groupdq & JUMP_DET) != 0
    found = flags[hits["integration"], hits["group"], hits["y"], hits["x"]]
    if clean.facts.nframes > 1:
        later = np.minimum(hits["group"] + 1, ngroups - 1)
        found |= flags[hits["integration"], later, hits["y"], hits["x"]]
    change = (after.rate[at].astype(float) - before.rate[at]) * clean.gain[hits["y"], hits["x"]]
    sigma = before.err[at] * clean.gain[hits["y"], hits["x"]]
    places = place_of(hits["group"], ngroups)
    share = np.full((len(PLACES), n_energies), np.nan)
    left, pull = np.full((2, n_energies), np.nan)
    for energy in range(n_energies):
        chosen = hits["energy"] == energy
        known = chosen & np.isfinite(change)
        left[energy], pull[energy] = change[known].mean(), (change[known] / sigma[known]).mean()
        for place in range(len(PLACES)):
            here = chosen & (places == place)
            if here.any():
                share[place, energy] = found[here].mean()
    alarms = 1e6 * np.count_nonzero(quiet.groupdq & JUMP_DET) / quiet.groupdq[:, 1:].size
    return share, left, pull, alarms


def run_case(readpatt, ngroups, background, options, energies, shape):
    samples = {search: [] for search in SEARCHES}
    unequal = 0
    for seed in range(1, options.seeds + 1):
        scene = np.full(shape, background, np.float32)
        effects = {"one_over_f": 0.0, "cosmic_rays": 0.0}
        clean = observe("NIRCAM", readpatt, ngroups, NINTS, scene, shape, seed=seed, effects=effects)
        hits = draw_hits(np.random.default_rng([seed, ngroups]), ngroups, energies)
        hit = add_hits(clean, hits, energies)
        for name, search in SEARCHES.items():
            samples[name].append(measure(search, clean, hit, hits, len(energies), ngroups))
        if seed <= PEER_SEEDS:
            ours = hit.copy()
            find_jumps(ours)
            unequal += int((jwst_jumps(hit) != ours.groupdq).sum())
    result = {"case": [readpatt, ngroups, background], "searches": {}, "jwst": {"unequal_groups": unequal}}
    result["jwst"]["groups"] = int(min(options.seeds, PEER_SEEDS) * clean.data.size)
    for name, of_seeds in samples.items():
        parts = [over_seeds(part) for part in zip(*of_seeds, strict=True)]
        named = dict(zip(("found", "bias", "bias_in_sigma", "alarms"), parts, strict=True))
        # only completeness by place; its error follows from the numbers of hits
        named["found"] = {"mean": named["found"]["mean"], "largest_error": np.nanmax(named["found"]["error"])}
        result["searches"][name] = named
    return result


def main(argv=None):
    options = parse(__doc__, argv)
    cases = {("RAPID", 5): (1.0,)} if options.quick else CASES
    results = []
    for (readpatt, ngroups), backgrounds in cases.items():
        for background in backgrounds:
            results.append(run_case(readpatt, ngroups, background, options, ENERGIES, SHAPE))
            print(*results[-1]["case"], results[-1]["jwst"], flush=True)
    return save("jumps", options, {"energies": ENERGIES, "places": PLACES, "nints": NINTS, "cases": results})


if __name__ == "__main__":
    main()
