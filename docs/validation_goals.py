"""The goals for kriging on the validation page: which of them are missed, where, and on which seed most."""

from dataclasses import dataclass, field

from validation_text import point, say, table, times_usual

#: the method to which the goals apply, and those with which it is compared
METHOD, PEERS = "kriging", ("none", "jwst")
#: largest noise with the usual 1/f noise
_USUAL = 1.10
#: largest noise in each ring of one exposure with three times the usual 1/f noise
_STRONG, _STRONG_CASE, _STRONG_NOISE = 3.0, (1, 10, "halo"), (1.20, 1.30, 1.35, 1.32)
#: scenes with much structure, in which jwst's noise is the limit with strong 1/f noise
_STRUCTURED, _OBSERVED = "spikes", "real"
#: smallest fractions kept, by the name of the light
_KEPT = {"companions 1e-06": 0.97, "companions 1e-05": 0.995, "": 0.98}
#: largest distance of the width of the pulls from 1
_PULLS = 0.02
#: largest change of the noise by a wrong spectrum
_CHANGE = 0.10
#: two rolls: largest noise relative to jwst's defaults, by the strength of the 1/f noise, beyond a separation in arcsec
_TWO_ROLLS, _BEYOND = {1.0: 0.97, 3.0: 0.85}, 1.5


@dataclass
class Goal:
    """A goal: its text, how often it was checked, and where it is missed."""

    text: str
    checked: int = 0
    missed: list[str] = field(default_factory=list)

    def check(self, figure, index, miss, where, scale=1, digits=3):
        """Check one element of a figure with errors and worst seeds; ``miss(mean, error)`` is True if it is missed."""
        mean, error, seed = (_at(figure[key], index) for key in ("mean", "error", "worst_seed"))
        if mean is None:
            return
        self.checked += 1
        if miss(mean, error or 0):
            uncertain = "" if error is None else f" ± {scale * error:.{digits}f}"
            self.missed.append(f"{where}: {scale * mean:.{digits}f}{uncertain} (seed {seed})")


def _at(values, index):
    return values if index is None else values[index]


def _above(limit):
    return lambda mean, error: mean > limit


def _clearly_above(mean, error):
    return mean > 2 * error


def write_noise_goals(figures):
    """Write the goals for the noise of one exposure; nothing if the method was not measured."""
    cases = [case for case in figures["cases"] if METHOD in case["methods"]]
    goals = [*_check_noise(figures, cases), *_check_kept(figures, cases), _check_pulls(cases)]
    if "wrong_spectrum" in figures:
        goals.append(_check_spectrum(figures))
    yield from _write(goals, f"**Goals** for *{METHOD}*.")


def _check_noise(figures, cases):
    n = len(figures["rings"]) - 1
    usual = Goal(f"noise with the usual 1/f noise: at most {_USUAL:.2f} in every ring")
    peers = Goal("noise with the usual 1/f noise: not above that without a correction or that of jwst")
    limits = " / ".join(f"{limit:.2f}" for limit in _STRONG_NOISE)
    strong = Goal(f"noise with {_STRONG:g} times the usual 1/f noise, {_name(*_STRONG_CASE)}: at most {limits}")
    jwst = Goal(f"noise with {_STRONG:g} times the usual 1/f noise, *spikes* and observed images: not above jwst's")
    for case in cases:
        method, scene = case["methods"][METHOD], case["scene"]
        exposure = (case["nints"], case["ngroups"], scene)
        structured = scene == _STRUCTURED or scene.startswith(_OBSERVED)
        for k in range(n):
            where = f"{_name(*exposure)}, {_ring(figures['rings'], k)}"
            if case["strength"] == 1:
                usual.check(method["ratio"], k, _above(_USUAL), where)
                for peer in PEERS:
                    if f"above_{peer}" in method:
                        peers.check(method[f"above_{peer}"], k, _clearly_above, f"{where}, above {_peer(peer)}")
            elif case["strength"] == _STRONG:
                if exposure == _STRONG_CASE:
                    strong.check(method["ratio"], k, _above(_STRONG_NOISE[k]), where)
                if structured and "above_jwst" in method:
                    jwst.check(method["above_jwst"], k, _clearly_above, where)
    return usual, peers, strong, jwst


def _check_kept(figures, cases):
    goals = {}
    for light, limit in _KEPT.items():
        what = light.replace("e-0", "e-") or "rings and discs"
        goals[light] = Goal(f"flux kept of {what}: at least {100 * limit:g} %")
    for case in cases:
        for light, kept in case["methods"][METHOD].get("kept", {}).items():
            key = light if light in _KEPT else ""
            where = f"{_name(case['nints'], case['ngroups'], case['scene'])}, 1/f {case['strength']:g}"
            for k in range(len(kept["mean"])) if isinstance(kept["mean"], list) else (None,):
                place = f", {light}" if k is None else f", {_ring(figures['rings'], k)}"
                miss = _below(_KEPT[key])
                goals[key].check(kept, k, miss, where + place, scale=100, digits=1)
    return goals.values()


def _below(limit):
    return lambda mean, error: mean < limit


def _check_pulls(cases):
    goal = Goal(f"width of (rate - truth) / ERR: 1.00 ± {_PULLS:.2f}")
    for case in cases:
        where = f"{_name(case['nints'], case['ngroups'], case['scene'])}, 1/f {case['strength']:g}"
        goal.check(case["methods"][METHOD]["pull"], None, lambda mean, error: abs(mean - 1) > _PULLS, where)
    return goal


def _check_spectrum(figures):
    goal = Goal(f"noise with a wrong spectrum: within {100 * _CHANGE:g} % of that with the measured one")
    for case in figures["wrong_spectrum"]["cases"]:
        for name, method in case["methods"].items():
            for k in range(len(figures["rings"]) - 1):
                where = f"1/f {case['strength']:g}, {name}, {_ring(figures['rings'], k)}"
                goal.check(method["relative"], k, lambda mean, error: abs(mean - 1) > _CHANGE, where)
    return goal


def write_contrast_goals(figures):
    """Write the goals for the noise of two rolls; nothing if no choice with the method was measured."""
    rings = figures["rings"]
    goals = []
    names = dict.fromkeys(name for case in figures["cases"].values() for name in case if METHOD in name)
    for name in names:
        others = Goal(f"*{name}*: noise per flux not above that of any other choice in any ring")
        limits = {
            strength: Goal(
                f'*{name}*: noise per flux beyond {_BEYOND:g}" with {times_usual(strength)} 1/f noise: at most '
                f"{limit:g} of that with jwst's defaults"
            )
            for strength, limit in _TWO_ROLLS.items()
        }
        for case, choices in figures["cases"].items():
            strength = figures["settings"][case]["one_over_f"]
            for k in range(len(rings) - 1) if name in choices else ():
                where = f"{case}, {_ring(rings, k)}"
                for other, excess in choices[name]["above"].items():
                    others.check(excess, k, _clearly_above, f"{where}, above *{other}*")
                if rings[k] >= _BEYOND and strength in limits:
                    limits[strength].check(choices[name]["per_flux"], k, _above(_TWO_ROLLS[strength]), where)
        goals += [others, *limits.values()]
    yield from _write(goals, "**Goals** for two rolls.")


def _write(goals, title):
    goals = [goal for goal in goals if goal.checked]
    if not goals:
        return
    yield say(
        title,
        "A difference from another method on the same seeds misses its goal if it is larger than twice its error; all",
        "other goals apply to the mean.",
    )
    rows = [(goal.text, goal.checked, len(goal.missed)) for goal in goals]
    yield from table(("goal", "checked", "missed"), rows)
    if not any(goal.missed for goal in goals):
        yield "No goal is missed.\n"
        return
    yield "Goals that are missed, with the seed that shows it worst:\n"
    for goal in goals:
        if goal.missed:
            yield point(f"{goal.text}:", "; ".join(goal.missed) + ".")
    yield ""


def _name(nints, ngroups, scene):
    return f"{nints}x{ngroups} {scene}"


def _ring(edges, k):
    return f'{edges[k]:g}-{edges[k + 1]:g}"'


def _peer(name):
    return "no correction" if name == "none" else name
