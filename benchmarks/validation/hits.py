"""Rates of pixels with hits after the jump step, for the choices of the fit that the recommended settings can make.

`few_groups` compares searches alone; here the jump step runs first, as in a pipeline.

python benchmarks/validation/hits.py [--seeds 20] [--quick]
"""

from functools import partial

from common import find_jumps, fit_jumpramp, fit_likely, parse, save
from few_groups import ENERGY, FIGURES, NINTS, SHARE_HIT, jump_and_ols, run_case

PATTERNS = (("NIRCAM", "RAPID"), ("NIRCAM", "SHALLOW4"), ("NIRCAM", "MEDIUM8"), ("MIRI", "FASTR1"))
GROUPS = (4, 5, 6, 7, 10, 20)
#: background, e-/s
BACKGROUND = 3.0


def after_jump(ramps, **options):
    # as in `jump_and_ols`, without flags on the neighbours of hits
    find_jumps(ramps, flag_4_neighbors=False)
    return fit_likely(ramps, **options)


CHOICES = {
    "OLS_C": jump_and_ols,
    "LIKELY": after_jump,
    "LIKELY, sound rules": partial(after_jump, rules="sound"),
    "LIKELY, sound rules, one-sided up to 4": partial(after_jump, rules="sound", max_diffs_one_sided=4),
    "LIKELY, sound rules, one-sided up to 6": partial(after_jump, rules="sound", max_diffs_one_sided=6),
    "experimental_jumpramp": fit_jumpramp,
}


def main(argv=None):
    options = parse(__doc__, argv, seeds=20)
    patterns, groups = (PATTERNS[2:3], GROUPS[:1]) if options.quick else (PATTERNS, GROUPS)
    results = []
    for pattern in patterns:
        for ngroups in groups:
            results.append(run_case(*pattern, ngroups, BACKGROUND, options, CHOICES))
            print(*pattern, ngroups, flush=True)
    facts = {"energy": ENERGY, "share_hit": SHARE_HIT, "nints": NINTS, "figures": [*FIGURES, "error of far"]}
    return save("hits", options, facts | {"background": BACKGROUND, "cases": results})


if __name__ == "__main__":
    main()
