"""Rates compared with the truth: bias, scatter over the ideal, and accuracy of ERR, by flux, groups and read pattern.

python benchmarks/validation/rates.py [--seeds 24] [--quick]
"""

import numpy as np
from common import (
    BACKEND,
    SATURATED,
    WAYS,
    differ,
    ideal_error,
    jwst_reduce,
    observe,
    over_seeds,
    parse,
    reduce,
    save,
    width,
)

from gpucoron.steps.likelihood import list_read_times

#: fluxes, one strip of columns each, e-/s
FLUXES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
STRIP = 18
ROWS = 32
NINTS = 2
CASES = (
    ("NIRCAM", "RAPID", 3),
    ("NIRCAM", "RAPID", 4),
    ("NIRCAM", "RAPID", 5),
    ("NIRCAM", "RAPID", 10),
    ("NIRCAM", "RAPID", 40),
    ("NIRCAM", "RAPID", 100),
    ("NIRCAM", "BRIGHT2", 10),
    ("NIRCAM", "SHALLOW4", 10),
    ("NIRCAM", "MEDIUM8", 10),
    ("NIRCAM", "DEEP8", 5),
    ("NIRCAM", "DEEP8", 15),
    ("MIRI", "FASTR1", 40),
    ("MIRI", "FASTR1", 250),
)
QUICK = CASES[:2]
#: number of seeds of each case for stcal: OLS_C, and LIKELY, which needs seconds
PEER_SEEDS = {"OLS_C": 3, "LIKELY": 1}
PEER_KEYS = ("pixels", "apart", "nan", "flags")
CLASSES = ("clean", "hit", "saturated")
#: bins of the pull distribution
EDGES = np.linspace(-5, 5, 41)


def scene(n_fluxes):
    return np.broadcast_to(np.repeat(FLUXES[:n_fluxes], STRIP), (ROWS, n_fluxes * STRIP)).astype(np.float32)


def classify(ramps):
    """Classify pixels: without any hit or saturation; hit; partly saturated but not hit."""
    shape = ramps.truth.shape
    hits = ramps.simulation.truth.cosmic_rays
    hit, near = np.zeros(shape, bool), np.zeros(shape, bool)
    hit[hits["y"], hits["x"]] = True
    saturated = (ramps.groupdq & SATURATED) != 0
    some, unusable = saturated.any(axis=(0, 1)), saturated[:, :2].any(axis=(0, 1))
    # pixels beside a different flux differ from their strip
    near[:, ::STRIP] = near[:, STRIP - 1 :: STRIP] = True
    return {
        "clean": ~hit & ~some & ~near,
        "hit": hit & ~some & ~near,
        "saturated": some & ~hit & ~unusable & ~near,
    }


def measure(ramps, slopes):
    """Measure one product of one exposure: class -> (strips, figures)."""
    with np.errstate(all="ignore"):
        off = slopes.rate.astype(np.float64) - ramps.truth
        pull = off / slopes.err
    figures = {}
    for name, chosen in classify(ramps).items():
        rows = []
        for strip in range(ramps.truth.shape[1] // STRIP):
            columns = np.s_[:, strip * STRIP : (strip + 1) * STRIP]
            wanted = chosen[columns] & np.isfinite(pull[columns])
            p, d = pull[columns][wanted], (off * ramps.gain)[columns][wanted]
            n = max(p.size, 1)
            rows.append(
                [
                    p.size,
                    p.mean() if p.size > 4 else np.nan,
                    width(p),
                    d.mean() if d.size > 4 else np.nan,
                    width(d),
                    np.count_nonzero(abs(p) > 5) / n if p.size else np.nan,
                ]
            )
        figures[name] = rows
    # the strip of 10 e-/s represents the distribution
    strip = min(4, ramps.truth.shape[1] // STRIP - 1)
    inside = classify(ramps)["clean"][:, strip * STRIP : (strip + 1) * STRIP]
    counts = np.histogram(pull[:, strip * STRIP : (strip + 1) * STRIP][inside], EDGES)[0]
    return figures, counts


NAMES = ("pixels", "pull_mean", "pull_width", "bias", "scatter", "beyond_5_sigma")


def run_case(case, options, n_fluxes):
    instrument, readpatt, ngroups = case
    shape = (ROWS, n_fluxes * STRIP)
    samples = {way: [] for way in WAYS}
    counts = {way: np.zeros(EDGES.size - 1, int) for way in WAYS}
    peers = {algorithm: [] for algorithm in PEER_SEEDS}
    for seed in range(1, options.seeds + 1):
        ramps = observe(
            instrument, readpatt, ngroups, NINTS, scene(n_fluxes), shape, seed=seed, effects={"one_over_f": 0.0}
        )
        for way in WAYS:
            rate, rateints, groupdq = reduce(ramps, way)
            figures, histogram = measure(ramps, rate)
            samples[way].append([figures[name] for name in CLASSES])
            counts[way] += histogram
            if seed <= PEER_SEEDS.get(way, 0) and ngroups >= 4 and not (way == "LIKELY" and ngroups > 40):
                image, cube, flags = jwst_reduce(ramps, way)
                peers[way].append(
                    {
                        "rate": differ(rate, image),
                        "rateints": differ(rateints, cube),
                        "groupdq": int((flags != groupdq).sum()),
                    }
                )
    pixels, facts = ramps.simulation.pixels, ramps.facts
    read_times = list_read_times(ngroups, facts.nframes, facts.frame_time, facts.nframes + facts.groupgap)
    dark = pixels.kind.dark if ramps.simulation.effects.dark else 0.0
    ideal = [
        ideal_error(flux + dark, pixels.kind.read_noise, read_times) / np.sqrt(NINTS) for flux in FLUXES[:n_fluxes]
    ]
    result = {"case": [instrument, readpatt, ngroups], "ideal": ideal, "ways": {}, "jwst": {}}
    for way in WAYS:
        averaged = over_seeds(samples[way])
        result["ways"][way] = {
            name: {figure: {key: averaged[key][c, :, k] for key in averaged} for k, figure in enumerate(NAMES)}
            for c, name in enumerate(CLASSES)
        }
        result["ways"][way]["histogram"] = counts[way]
        if peers.get(way):
            result["jwst"][way] = {
                "seeds": len(peers[way]),
                "groups_flagged_otherwise": sum(p["groupdq"] for p in peers[way]),
            } | {key: sum(p[product][key] for p in peers[way] for product in ("rate", "rateints")) for key in PEER_KEYS}
    return result


def main(argv=None):
    options = parse(__doc__, argv)
    n_fluxes = 3 if options.quick else len(FLUXES)
    cases = QUICK if options.quick else CASES
    results = []
    for case in cases:
        results.append(run_case(case, options, n_fluxes))
        print(*case, results[-1]["jwst"], flush=True)
    figures = {"nints": NINTS, "fluxes": FLUXES[:n_fluxes], "edges": EDGES, "cases": results, "backend": BACKEND.name}
    return save("rates", options, figures)


if __name__ == "__main__":
    main()
