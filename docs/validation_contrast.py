"""The part of the validation page about the noise of two rolls."""

from validation_goals import write_contrast_goals
from validation_text import exact, mean_of, number, pick, point, say, table, times_usual, with_error


def summarize_contrast(case, choices, rings):
    """Name the choices with the least noise near the star and far from it, for the list at the top of the page."""
    inner = [k for k in range(len(rings) - 1) if rings[k + 1] <= 1.5]
    outer = [k for k in range(len(rings) - 1) if rings[k] >= 2]
    parts = []
    for where, chosen in (('within 1.5"', inner), ('beyond 2"', outer)):
        means = {name: mean_of(pick(part["ratio"], k) for k in chosen) for name, part in choices.items()}
        best = min(means, key=means.get)
        parts.append(f"with *{best}* {where} ({means[best]:.2f})")
    return point(f"Two rolls of a {case}: relative to jwst's defaults, the noise is lowest", " and ".join(parts) + ".")


def write_contrast(figures):
    """Write the section on two rolls."""
    rings = figures["rings"]
    middle = range(len(rings) - 1)
    yield "## Two rolls\n"
    yield say(
        "Two exposures of a star at different roll angles are subtracted, and the difference is filtered with the "
        "shape of a companion. The contrast is 5 sigma of the result divided by the flux of the star without its mask. "
        "The simulated telescope is perfectly stable, so that speckles cancel and only stage 1 matters. The tables "
        "list the ratio to the contrast with jwst's defaults for the same seeds (below 1: deeper), and the fraction of "
        "the flux "
        f'that is kept of a companion of {exact(figures["companion"])} at 1".'
    )
    yield say(
        "In the names of choices, *rows* are pseudo-reference rows and *sides* pseudo-reference columns; *no columns* "
        "is `vertical_corr=False`, *outliers* is apply_rateints_outliers, and *jumpramp* is experimental_jumpramp."
    )
    for case, choices in figures["cases"].items():
        setting = figures["settings"][case]
        yield f"### A {case}\n"
        yield say(
            f"{exact(setting['star'])} e⁻/s, {setting['readpatt']} with {setting['ngroups']} groups and",
            f"{setting['nints']} integrations per roll, {times_usual(setting['one_over_f'])} 1/f noise, a pedestal",
            f"that drifts by {setting['drift']:g} DN rms.",
        )
        first = next(iter(choices.values()))
        rows = [("*5 sigma, jwst defaults, 1e-6*", *(number(1e6 * pick(first["contrast"], k), 3) for k in middle), "")]
        for name, part in choices.items():
            rows.append(
                (
                    name,
                    *(with_error(part["ratio"], k) for k in middle),
                    with_error(part["companion_kept"], digits=3),
                )
            )
        yield from table(("choice", *(f'{rings[k]:g}-{rings[k + 1]:g}"' for k in middle), "kept"), rows)
        yield _best_choices(choices, rings)
        yield from _write_per_flux(figures, choices)
    yield from write_contrast_goals(figures)
    yield "![5-sigma noise by separation](_generated/validation_contrast.png)\n"
    yield "*5-sigma noise of the difference of two rolls, by separation.*\n"


def _write_per_flux(figures, choices):
    """Write the noise divided by the fraction kept of faint companions, if it was measured."""
    if not all("per_flux" in part for part in choices.values()):
        return
    rings = figures["rings"]
    middle = range(len(rings) - 1)
    yield say(
        f"The same ratio of the noise divided by the fraction kept of a faint companion of {figures['faint_flux']:g}",
        "e⁻/s in the ring, and this fraction in %: the mean of the rings, and in brackets the lowest.",
    )
    rows = []
    for name, part in choices.items():
        kept = [100 * share for share in part["faint_kept"]["mean"]]
        shown = f"{sum(kept) / len(kept):.1f} ({min(kept):.1f})"
        rows.append((name, *(with_error(part["per_flux"], k) for k in middle), shown))
    yield from table(("choice", *(f'{rings[k]:g}-{rings[k + 1]:g}"' for k in middle), "kept"), rows)


def _best_choices(choices, rings):
    n = len(rings) - 1
    sentences = []
    for k in (0, n // 2, n - 1):
        best = min(choices, key=lambda name: pick(choices[name]["ratio"], k))
        ratio = with_error(choices[best]["ratio"], k)
        sentences.append(f'*{best}* at {rings[k]:g} to {rings[k + 1]:g}" ({ratio})')
    text = "The deepest contrast is that of " + ", ".join(sentences) + "."
    peer, own = "rows, jwst's clean_flicker_noise at ints", "rows, 1/f savgol at ints"
    if peer in choices and own in choices:
        wins, of_first = (
            sum(theirs < ours for theirs, ours in zip(*pair, strict=True))
            for pair in (
                [choices[name]["ratio"]["mean"] for name in (peer, own)],
                [choices[name]["ratio_of_seed_1"] for name in (peer, own)],
            )
        )
        text += (
            f" jwst's clean_flicker_noise is deeper than spaceKLIP's default, `savgol`, in {wins} of the {n} rings"
            f" (with seed 1 alone in {of_first})."
        )
    return say(text)
