"""The parity matrix: every mode, branch and flag that a coronagraph can have, as one table of small exposures.

Each case is reduced with jwst's Detector1Pipeline and with gpucoron; see ``test_parity.py``. ``quick`` cases are part
of every test run, the others run with ``--full-parity``. `NOT_COMPARED` lists what the matrix omits, with the reason.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

from gpucoron.facts import READ_PATTERNS
from gpucoron.simulate import Effects, Scene
from gpucoron.simulate.detectors import DETECTORS, find_subarray
from tests.cases import parity_edits as edits

#: float32 rounding: the fit's powers and sums are computed in another order than in stcal's C code
RTOL = 2e-6
#: tolerance for LIKELY, whose recursions are summed in another order
LIKELY_RTOL = 1e-5


@dataclass(frozen=True)
class ParityCase:
    """One exposure, its references, and the parameters of the steps.

    ``exposure`` and ``simulated`` are the arguments of ``simulate``, ``options`` those of ``ReferenceOptions``;
    ``edit`` and ``mark`` are functions of ``parity_edits``. ``about`` lists steps that must change the ramp, and
    ``shows`` flags that must be set in jwst's final result; otherwise the case would prove nothing. ``writes`` requests
    that the additional products of the steps are compared, too.
    """

    name: str
    group: str
    exposure: tuple
    simulated: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    steps: dict = field(default_factory=dict)
    edit: Callable | None = None
    mark: Callable | None = None
    about: tuple = ()
    shows: tuple = ()
    quick: bool = False
    rtol: float = RTOL
    writes: bool = False

    def make(self, exposures):
        """Write the exposure and its references."""
        return exposures(*self.exposure, options=self.options, edit=self.edit, mark=self.mark, **self.simulated)


def _halo(instrument, subarray, readpatt, ngroups, wells=2.0):
    """Make a scene whose brightest pixels would reach a multiple of the full well by the last group."""
    found = find_subarray(instrument, subarray)
    nframes, groupgap = READ_PATTERNS[instrument][readpatt]
    seconds = found.frame_time * (nframes + groupgap) * ngroups * (8.6 if readpatt == "SLOWR1" else 1)
    halo = wells * DETECTORS[found.detector].well / seconds / 1e7
    # a halo is at most as bright as its star
    return Scene(star=1e7 * max(1, halo), halo=min(1, halo))


def _case(group, name, instrument, *exposure, shape=(40, 48), wells=None, hits=None, **more):
    simulated = {"shape": shape} if shape else {}
    if wells is not None:
        simulated["scene"] = _halo(instrument, *exposure[:3], wells)
    if hits is not None:
        simulated["effects"] = Effects(cosmic_rays=hits)
    simulated |= more.pop("simulated", {})
    return ParityCase(name, group, (instrument, *exposure), simulated, **more)


def _nircam(group, name, readpatt, ngroups, nints, *, subarray="SUB320A335R", **more):
    return _case(group, f"nircam-{name}", "NIRCAM", subarray, readpatt, ngroups, nints, **more)


def _miri(group, name, ngroups, nints, *, subarray="MASK1550", readpatt="FASTR1", **more):
    return _case(group, f"miri-{name}", "MIRI", subarray, readpatt, ngroups, nints, **more)


def _subarrays():
    group = "Subarrays"
    for subarray in ("SUB320A335R", "SUB320A430R", "SUB320ALWB", "SUB640A210R", "SUB640ASWB", "SUB400X256ALWB"):
        more = {"options": {"margin": 5, "nan_fraction": 0.003}, "wells": 1.5, "hits": 100}
        more["about"] = ("saturation", "superbias", "linearity", "jump")
        yield _nircam(group, subarray.lower(), "RAPID", 6, 2, subarray=subarray, shape=(56, 72), quick=True, **more)
        yield _nircam(group, f"{subarray.lower()}-whole", "SHALLOW2", 4, 1, subarray=subarray, shape=None, **more)
    for detector, channel in (("NRCALONG", "long"), ("NRCA2", "short")):
        more = {"simulated": {"detector": detector}, "about": ("refpix",)}
        yield _nircam(group, f"full-{channel}", "RAPID", 3, 1, subarray="FULL", shape=None, **more)
        more["steps"] = {"refpix": {"refpix_algorithm": "sirs"}}
        yield _nircam(group, f"full-{channel}-sirs", "RAPID", 2, 1, subarray="FULL", shape=None, **more)
    # the lower left corner of a full frame, with reference pixels on two sides
    more = {"subarray": "FULL", "about": ("refpix",)}
    yield _nircam(group, "four-outputs", "RAPID", 3, 1, shape=(56, 72), quick=True, **more)
    more["steps"] = {"refpix": {"odd_even_columns": False, "side_smoothing_length": 6, "siglimit": 2.0}}
    yield _nircam(group, "four-outputs-parameters", "RAPID", 2, 1, shape=(56, 520), **more)
    for subarray in ("MASK1065", "MASK1140", "MASK1550", "MASKLYOT"):
        for readpatt in ("FASTR1", "SLOWR1"):
            name = f"{subarray.lower()}-{readpatt.lower()}"
            more = {"subarray": subarray, "readpatt": readpatt, "wells": 1.5}
            more["about"] = ("saturation", "reset", "linearity", "rscd", "dark_current", "jump")
            quick = readpatt == "FASTR1" or subarray == "MASKLYOT"
            options = {"margin": 5, "nan_fraction": 0.003}
            yield _miri(group, name, 12, 2, shape=(40, 64), options=options, quick=quick, **more)
        yield _miri(group, f"{subarray.lower()}-whole", 10, 1, subarray=subarray, shape=None, wells=1.5)
    yield _miri(group, "full-fastr1", 6, 2, subarray="FULL", shape=None, about=("refpix",))
    yield _miri(group, "full-slowr1", 5, 1, subarray="FULL", readpatt="SLOWR1", shape=None, about=("refpix",))


def _read_patterns():
    group = "NIRCam read patterns, ZEROFRAME, inverse linearity, superbias in saturation"
    for readpatt, (nframes, _groupgap) in READ_PATTERNS["NIRCAM"].items():
        for zeroframe in (True, False):
            for inverse in (False, True):
                name = readpatt.lower() + ("" if zeroframe else "-nozero") + ("-inverse" if inverse else "")
                more = {"simulated": {"zeroframe": zeroframe}, "wells": 2.5, "edit": edits.saturate_within_a_group}
                more["options"] = {"inverse_linearity": inverse, "no_lin_corr_fraction": 0.01, "nan_fraction": 0.003}
                quick = zeroframe and inverse == (nframes > 1)
                more |= {"about": ("saturation", "linearity"), "shows": ("SATURATED", "NO_LIN_CORR")}
                yield _nircam(group, name, readpatt, 5, 2, quick=quick, **more)
    for readpatt in ("SHALLOW4", "DEEP8"):
        more = {"edit": edits.saturate_within_a_group, "wells": 2.5, "about": ("saturation",), "shows": ("SATURATED",)}
        off = {"saturation": {"override_superbias": "N/A"}}
        quick = readpatt == "DEEP8"
        yield _nircam(group, f"{readpatt.lower()}-without-superbias", readpatt, 5, 2, steps=off, quick=quick, **more)
        off = {"saturation": {"use_readpatt": False}}
        yield _nircam(group, f"{readpatt.lower()}-use_readpatt-off", readpatt, 5, 2, steps=off, quick=quick, **more)


def _numbers():
    group = "Numbers of groups and integrations"
    for ngroups in (1, 2, 3, 4, 5, 9, 10, 11, 40, 101, 250):
        shape = (24, 32) if ngroups > 40 else (40, 48)
        quick = ngroups in (1, 2, 3, 101)
        for nints in (1, 3):
            more = {"shape": shape, "wells": 1.3, "quick": quick and nints == 1}
            yield _nircam(group, f"{ngroups}-groups-{nints}-ints", "RAPID", ngroups, nints, hits=60, **more)
            yield _miri(group, f"{ngroups}-groups-{nints}-ints", ngroups, nints, **more)
    for nints in (2, 12, 60, 101):
        shape = (24, 32) if nints > 12 else (40, 48)
        more = {"shape": shape, "wells": 1.3}
        yield _nircam(group, f"5-groups-{nints}-ints", "RAPID", 5, nints, hits=60, quick=nints in (12, 101), **more)
        yield _miri(group, f"9-groups-{nints}-ints", 9, nints, quick=nints == 101, **more)


def _miri_integrations():
    group = "MIRI: reset, dark and rscd by integration and segment; short references"
    about = ("reset", "rscd", "dark_current")
    for nints in (1, 2, 5):
        yield _miri(group, f"integrations-1-to-{nints}", 9, nints, about=about, quick=nints == 5)
    for first, nints in ((2, 2), (5, 1), (5, 4), (3, 6)):
        more = {"simulated": {"first_integration": first, "total_nints": 11}, "about": about}
        yield _miri(group, f"segment-from-{first}-of-{nints}", 9, nints, quick=(first, nints) == (5, 4), **more)
    more = {"options": {"dark_groups": 6}, "about": about}
    yield _miri(group, "dark-and-reset-too-short", 20, 6, quick=True, **more)
    more["simulated"] = {"first_integration": 5, "total_nints": 9}
    yield _miri(group, "dark-too-short-segment", 20, 2, **more)
    for ngroups in (2, 3, 4, 5, 6, 7, 12):
        more = {"wells": 40.0}
        shows = ("FLUX_ESTIMATED",) if ngroups > 5 else ()
        yield _miri(group, f"rscd-gives-way-{ngroups}-groups", ngroups, 3, quick=ngroups == 6, shows=shows, **more)
    for readpatt in ("RAPID", "MEDIUM8"):
        more = {"options": {"dark_groups": 3}, "about": ("dark_current",)}
        yield _nircam(group, f"{readpatt.lower()}-dark-too-short", readpatt, 6, 2, quick=readpatt == "RAPID", **more)


def _jump():
    group = "Jump"
    about, shows = ("jump",), ("JUMP_DET",)

    def one(name, readpatt, ngroups, nints, settings=None, *, quick=False, edit=edits.several_jumps, **more):
        steps = {"jump": settings or {}}
        kinds = {"about": about, "shows": shows} | more
        return _nircam(group, f"jump-{name}", readpatt, ngroups, nints, steps=steps, edit=edit, quick=quick, **kinds)

    yield one("iterative", "RAPID", 6, 2, quick=True)
    yield one("iterative-three-groups", "RAPID", 3, 1, quick=True)
    yield one("iterative-four-groups", "SHALLOW4", 4, 1)
    yield one("single-pass", "BRIGHT1", 12, 2, quick=True)
    yield one("min_diffs_single_pass", "RAPID", 6, 2, {"min_diffs_single_pass": 4}, quick=True)
    yield one("iterative-many-groups", "RAPID", 20, 1, {"min_diffs_single_pass": 50})
    yield one("sigma-clip-integrations", "RAPID", 5, 101, shape=(24, 32), quick=True)
    # among 12 values none can differ by 4 sigma
    few = {"rejection_threshold": 3.0}
    yield one("sigma-clip-minimum", "RAPID", 5, 12, few | {"minimum_sigclip_groups": 12}, quick=True)
    yield one("sigma-clip-below-minimum", "RAPID", 5, 12, few | {"minimum_sigclip_groups": 13})
    yield one("sigma-clip-60", "RAPID", 4, 60, {"minimum_sigclip_groups": 50}, shape=(24, 32))
    everything = {"only_use_ints": False}
    yield one("sigma-clip-all-groups", "RAPID", 11, 12, everything, quick=True)
    yield one("sigma-clip-all-groups-one-integration", "RAPID", 101, 1, everything, shape=(24, 32))
    yield one("all-groups-below-minimum", "RAPID", 9, 3, everything)
    yield one("sigma-clip-two-groups-per-difference", "RAPID", 3, 101, shape=(24, 32))
    thresholds = {"rejection_threshold": 6.0, "three_group_rejection_threshold": 9.0}
    yield one("thresholds", "RAPID", 5, 2, thresholds | {"four_group_rejection_threshold": 3.0})
    yield one("no-neighbours", "RAPID", 8, 2, {"flag_4_neighbors": False})
    near = {"min_jump_to_flag_neighbors": 3.0, "max_jump_to_flag_neighbors": 30.0}
    yield one("neighbour-thresholds", "RAPID", 12, 2, near)
    yield one("at-borders", "RAPID", 6, 3, edit=edits.hits_at_borders, quick=True)
    yield one("at-borders-single-pass", "RAPID", 14, 3, edit=edits.hits_at_borders)
    yield one("at-borders-among-flags", "RAPID", 8, 3, edit=edits.hits_at_borders, mark=edits.group_flags, quick=True)
    after = {"after_jump_flag_dn1": 500.0, "after_jump_flag_time1": 2.5, "after_jump_flag_dn2": 2000.0}
    after["after_jump_flag_time2"] = 6.0
    yield one("after-jump", "RAPID", 9, 2, after, quick=True)
    yield one("after-jump-single-pass", "BRIGHT2", 14, 2, after | {"after_jump_flag_time2": 100.0})
    yield one("after-jump-first-threshold", "RAPID", 9, 2, after | {"after_jump_flag_time2": 0.0})
    yield one("after-jump-second-threshold", "RAPID", 9, 2, after | {"after_jump_flag_time1": 0.0})
    yield one("flags-in-groups", "RAPID", 7, 2, mark=edits.group_flags)
    yield one("minimum_groups", "RAPID", 5, 2, {"minimum_groups": 10})
    for ngroups, nints, settings in ((9, 2, {}), (20, 2, {}), (9, 101, {}), (15, 9, everything)):
        kind = f"{ngroups}x{nints}" + ("-all-groups" if settings else "")
        more = {"steps": {"jump": settings}, "edit": edits.several_jumps, "about": about, "shows": shows}
        more["shape"] = (24, 32) if nints > 50 else (40, 48)
        yield _miri(group, f"jump-{kind}", ngroups, nints, quick=nints == 101, **more)


def _large_events():
    group = "Snowballs and showers"
    shows = ("JUMP_DET", "SATURATED")

    def snowballs(name, settings, quick=False, readpatt="RAPID", **more):
        steps = {"jump": {"expand_large_events": True} | settings}
        more = {"shape": (96, 112), "about": ("jump",), "shows": shows, "edit": edits.snowballs} | more
        return _nircam(group, f"snowballs{name}", readpatt, 9, 3, steps=steps, quick=quick, **more)

    yield snowballs("", {}, quick=True)
    yield snowballs("-edge_size", {"edge_size": 5}, quick=True)
    yield snowballs("-without-core", {"sat_required_snowball": False})
    yield snowballs("-next-integration-off", {"mask_snowball_core_next_int": False})
    yield snowballs("-next-integration-short", {"snowball_time_masked_next_int": 4})
    yield snowballs("-areas", {"min_jump_area": 20.0, "min_sat_area": 20.0, "expand_factor": 3.0, "sat_expand": 4})
    yield snowballs("-max_extended_radius", {"max_extended_radius": 3, "min_sat_radius_extend": 1.0})
    yield snowballs("-averaged-frames", {}, readpatt="SHALLOW4")

    def showers(name, ngroups, nints, settings=None, quick=False, **more):
        steps = {"jump": {"find_showers": True} | (settings or {})}
        more = {"shape": (96, 112), "about": ("jump",), "shows": ("JUMP_DET",), "edit": edits.showers} | more
        return _miri(group, f"showers{name}", ngroups, nints, steps=steps, quick=quick, **more)

    yield showers("", 20, 2, quick=True)
    yield showers("-small-areas", 20, 2, {"extend_min_area": 20, "extend_snr_threshold": 1.1}, quick=True)
    yield showers("-radii", 20, 2, {"extend_inner_radius": 2, "extend_outer_radius": 4.0, "extend_min_area": 40})
    yield showers("-masked-longer", 20, 2, {"time_masked_after_shower": 1.0, "extend_ellipse_expand_ratio": 1.5})
    yield showers("-amplitude", 20, 2, {"max_shower_amplitude": 100.0, "extend_min_area": 20})
    yield showers("-few-differences", 9, 1, {"extend_min_area": 20})
    more = {"steps": {"jump": {"find_showers": True, "minimum_sigclip_groups": 12, "extend_min_area": 20}}}
    more |= {"edit": edits.showers, "about": ("jump",)}
    yield _miri(group, "showers-sigma-clipped", 12, 12, shape=(64, 64), **more)
    both = {"expand_large_events": True, "extend_min_area": 20}
    yield showers("-and-snowballs", 20, 2, both, edit=edits.snowballs, quick=True)


def _ramp_fit():
    group = "Ramp fit"
    for suppress in (True, False):
        steps = {"ramp_fit": {"suppress_one_group": suppress}}
        word = "on" if suppress else "off"
        for zeroframe in (True, False):
            name = f"few-good-groups-suppress-{word}" + ("" if zeroframe else "-nozero")
            more = {"simulated": {"zeroframe": zeroframe}, "edit": edits.few_good_groups, "shows": ("SATURATED",)}
            yield _nircam(group, name, "SHALLOW4", 5, 2, steps=steps, quick=zeroframe, **more)
        more = {"steps": steps, "edit": edits.few_good_groups, "shows": ("SATURATED",)}
        yield _nircam(group, f"few-good-groups-rapid-suppress-{word}", "RAPID", 5, 2, **more)
        yield _miri(group, f"few-good-groups-suppress-{word}", 8, 2, quick=not suppress, **more)
        for ngroups in (1, 2):
            more = {"steps": steps, "wells": 1.5, "simulated": {"seed": 5}}
            yield _nircam(
                group, f"{ngroups}-groups-suppress-{word}", "SHALLOW4", ngroups, 2, quick=not suppress, **more
            )
        for readpatt, ngroups in (("RAPID", 7), ("MEDIUM2", 5)):
            name = f"flags-in-groups-{readpatt.lower()}-suppress-{word}"
            more = {
                "steps": steps,
                "mark": edits.group_flags,
                "edit": edits.several_jumps,
                "quick": readpatt == "RAPID",
            }
            yield _nircam(group, name, readpatt, ngroups, 3, shows=("PERSISTENCE", "CHARGELOSS"), **more)
        more = {"steps": steps, "mark": edits.group_flags, "edit": edits.several_jumps}
        yield _miri(group, f"flags-in-groups-suppress-{word}", 9, 3, **more)
        more = {"steps": steps, "mark": edits.charge_loss, "edit": edits.several_jumps, "shows": ("CHARGELOSS",)}
        yield _nircam(group, f"charge-loss-suppress-{word}", "BRIGHT2", 8, 2, quick=True, **more)
    yield _nircam(group, "all-saturated", "SHALLOW4", 4, 2, simulated={"scene": 3e5}, quick=True)
    more = {"simulated": {"scene": 3e5}, "steps": {"ramp_fit": {"suppress_one_group": False}}}
    yield _nircam(group, "all-saturated-suppress-off", "SHALLOW4", 4, 2, **more)
    more = {"simulated": {"scene": 3e5, "zeroframe": False}}
    yield _nircam(group, "all-saturated-nozero", "SHALLOW4", 4, 2, **more)
    yield _miri(group, "all-saturated", 8, 2, simulated={"scene": 3e6}, quick=True)
    more = {"edit": edits.one_integration_saturated, "shows": ("SATURATED",)}
    yield _nircam(group, "one-integration-saturated", "RAPID", 5, 3, **more)
    yield _miri(group, "discarded-groups", 10, 2, mark=edits.whole_groups, edit=edits.several_jumps, quick=True)
    yield _nircam(group, "discarded-groups", "RAPID", 8, 2, mark=edits.whole_groups, edit=edits.several_jumps)
    yield _miri(group, "no-groups", 8, 2, mark=edits.no_groups)
    yield _nircam(group, "no-groups", "RAPID", 5, 2, mark=edits.no_groups)
    for first, last in ((1, None), (None, 4), (2, 5), (5, 2), (-1, 20)):
        settings = {key: value for key, value in (("firstgroup", first), ("lastgroup", last)) if value is not None}
        more = {"steps": {"ramp_fit": settings}, "edit": edits.several_jumps}
        yield _nircam(group, f"groups-{first}-to-{last}", "RAPID", 8, 2, quick=first == 2, **more)
        yield _miri(group, f"groups-{first}-to-{last}", 9, 2, **more)
    for number, kind in enumerate(("scalar", "image")):
        more = {"options": {"average_dark_current": kind, "gain_factor": 2.0}, "wells": 1.0}
        yield _nircam(group, f"average-dark-current-{kind}", "SHALLOW2", 5, 2, quick=number == 0, **more)
        yield _miri(group, f"average-dark-current-{kind}", 10, 2, **more)
    save = {"ramp_fit": {"save_opt": True}}
    yield _nircam(group, "save_opt", "RAPID", 8, 2, steps=save, edit=edits.several_jumps, writes=True, quick=True)
    yield _miri(group, "save_opt", 10, 2, steps=save, edit=edits.several_jumps, writes=True)
    for readpatt, ngroups, zeroframe in (
        ("RAPID", 8, True),
        ("DEEP8", 5, True),
        ("MEDIUM2", 6, False),
        ("RAPID", 3, True),
    ):
        name = f"likely-{readpatt.lower()}-{ngroups}" + ("" if zeroframe else "-nozero")
        more = {
            "simulated": {"zeroframe": zeroframe},
            "options": {"average_dark_current": "scalar"},
            "rtol": LIKELY_RTOL,
        }
        more |= {"steps": {"ramp_fit": {"algorithm": "LIKELY"}}, "edit": edits.few_good_groups, "rtol": LIKELY_RTOL}
        yield _nircam(group, name, readpatt, ngroups, 2, **more)
    yield _miri(group, "likely", 12, 2, steps={"ramp_fit": {"algorithm": "LIKELY"}}, rtol=LIKELY_RTOL)


def _flags():
    group = "Flags, and pixels without reference values"
    everything = {"no_lin_corr_fraction": 0.02, "no_sat_check_fraction": 0.02, "negative_gain_fraction": 0.02}
    everything |= {"nan_fraction": 0.02, "unreliable_fraction": 0.02}
    shows = ("NO_LIN_CORR", "NO_SAT_CHECK", "NO_GAIN_VALUE", "UNRELIABLE_DARK", "UNRELIABLE_SLOPE")
    for readpatt in ("RAPID", "SHALLOW4"):
        more = {"options": everything | {"inverse_linearity": True}, "wells": 2.0, "quick": True}
        yield _nircam(group, f"flags-{readpatt.lower()}", readpatt, 6, 2, shows=(*shows, "UNRELIABLE_BIAS"), **more)
    yield _miri(group, "flags", 12, 2, options=everything, wells=2.0, shows=shows, quick=True)
    more = {"options": {"negative_gain_fraction": 0.1, "nan_fraction": 0.05}, "edit": edits.several_jumps}
    yield _nircam(group, "gain-unknown", "RAPID", 7, 2, steps={"ramp_fit": {"suppress_one_group": False}}, **more)
    after = {"after_jump_flag_dn1": 300.0, "after_jump_flag_time1": 3.0}
    yield _nircam(group, "gain-unknown-after-jump", "RAPID", 7, 2, steps={"jump": after}, **more)
    for grow in (0, 1, 2, 5):
        steps, quick = {"saturation": {"n_pix_grow_sat": grow}}, grow in (0, 2)
        more = {"steps": steps, "edit": edits.saturate_at_borders, "shows": ("SATURATED",), "about": ("saturation",)}
        yield _nircam(group, f"saturation-grows-{grow}", "SHALLOW4", 5, 3, quick=quick, **more)
        yield _miri(group, f"saturation-grows-{grow}", 9, 3, quick=grow == 2, **more)
        more |= {"edit": edits.floor_at_borders, "shows": ("AD_FLOOR",)}
        yield _nircam(group, f"floor-grows-{grow}", "RAPID", 5, 3, quick=grow == 2, **more)
    yield _miri(group, "floor", 9, 3, edit=edits.floor_at_borders, shows=("AD_FLOOR",), quick=True)


def _optional_steps():
    group = "Steps that are off by default, and segments"
    on = {"skip": False}
    emi = {"simulated": {"effects": Effects(emi=True)}, "about": ("emicorr",)}
    for number, settings in enumerate(
        (
            {"algorithm": "joint"},
            {"algorithm": "sequential"},
            {"algorithm": "joint", "fit_ints_separately": True},
            {"algorithm": "sequential", "scale_reference": False, "use_n_cycles": None, "nbins": 40},
        )
    ):
        name = "emicorr-" + "-".join(str(value).lower() for value in list(settings.values())[:2])
        yield _miri(group, name, 20, 2, shape=(40, 288), steps={"emicorr": on | settings}, quick=number < 2, **emi)
        more = {"subarray": "MASKLYOT", "shape": (40, 320), "steps": {"emicorr": on | settings}}
        yield _miri(group, f"lyot-{name}", 12, 3, **more, **emi)
    more = {"steps": {"emicorr": on}, "readpatt": "SLOWR1", "shape": (40, 288)}
    yield _miri(group, "emicorr-slowr1", 10, 2, **more, simulated={"effects": Effects(emi=True)})
    measured = {"onthefly_corr_freq": [390.625, 218.5]}
    for name, ngroups, settings in (
        ("measured", 12, measured),
        ("measured-cycles", 12, measured | {"nbins": 30, "use_n_cycles": 90}),
        ("measured-in-one", 6, measured | {"nints_to_phase": 1, "nbins": 501}),
        ("three-groups", 3, {"algorithm": "sequential"}),
        ("three-groups-not-scaled", 3, {"algorithm": "sequential", "scale_reference": False}),
    ):
        more = {"shape": (40, 288), "steps": {"emicorr": on | settings}, "quick": name == "measured"}
        # with three groups the slopes are 0 / 0, and only an unscaled reference is subtracted
        about = {"about": ("emicorr",) if name != "three-groups" else ()}
        yield _miri(group, f"emicorr-{name}", ngroups, 3, **more, **emi | about)
    for subarray, readpatt in product(("MASK1065", "MASK1140", "MASK1550", "MASKLYOT"), ("FASTR1", "SLOWR1")):
        more = {"subarray": subarray, "readpatt": readpatt, "shape": (24, 288), "steps": {"emicorr": on | measured}}
        yield _miri(group, f"emicorr-measured-{subarray.lower()}-{readpatt.lower()}", 10, 2, **more, **emi)
    more = {"subarray": "FULL", "readpatt": "FASTR1", "shape": (1024, 1032), "steps": {"emicorr": on | measured}}
    yield _miri(group, "emicorr-measured-full", 5, 1, **more, **emi)
    for name, settings, more in (
        ("failed", {}, {}),
        ("time", {"persistence_time": 5, "dn_threshold": 12000.0}, {"shows": ("PERSISTENCE",)}),
        ("dnu", {"persistence_time": 5, "dn_threshold": 12000.0, "persistence_dnu": True}, {"shows": ("PERSISTENCE",)}),
    ):
        more = {"steps": {"persistence": on | settings}, "wells": 1.0, "quick": name == "failed"} | more
        yield _nircam(group, f"persistence-{name}", "RAPID", 8, 2, **more)
    for window in (3, 1000):  # ends within an integration, or covers the later integrations
        more = {"steps": {"persistence": on | {"persistence_time": window}}, "edit": edits.saturate_at_borders}
        more |= {"shows": ("PERSISTENCE",), "quick": window == 3}
        yield _nircam(group, f"persistence-{window}-after-saturation", "SHALLOW2", 5, 3, **more)
    bright = {"persistence_time": 20, "dn_threshold": 20000.0}
    more = {"steps": {"persistence": on | bright}, "wells": 1.2, "shows": ("PERSISTENCE",), "quick": True}
    yield _miri(group, "persistence", 12, 3, **more)
    for name, settings in (
        ("median", {}),
        ("fft", {"fit_method": "fft"}),
        ("model", {"background_method": "model", "single_mask": False}),
        ("no-background", {"background_method": None, "fit_histogram": True}),
    ):
        more = {"steps": {"clean_flicker_noise": on | settings}, "shape": (64, 320)}
        # jwst applies fft to NIRSpec only
        more["about"] = () if name == "fft" else ("clean_flicker_noise",)
        yield _nircam(group, f"clean_flicker_noise-{name}", "SHALLOW4", 5, 2, quick=name == "median", **more)
    yield _nircam(group, "picture_frame", "RAPID", 4, 1, steps={"picture_frame": on}, quick=True)
    more = {"options": {"picture_frame": True}, "steps": {"picture_frame": on}}
    yield _nircam(group, "picture_frame-reference", "RAPID", 4, 1, **more)
    for bright in (True, False):
        more = {"steps": {"firstframe": on | {"bright_use_group1": bright}}, "wells": 6.0, "about": ("firstframe",)}
        yield _miri(group, f"firstframe-{'bright' if bright else 'always'}", 10, 2, quick=bright, **more)
    yield _miri(group, "firstframe-3-groups", 3, 2, steps={"firstframe": on})
    for threshold in (3000.0, 12000.0, 25000.0):
        more = {"steps": {"charge_migration": on | {"signal_threshold": threshold}}, "wells": 1.2}
        more |= {"about": ("charge_migration",), "shows": ("CHARGELOSS",)}
        yield _nircam(group, f"charge_migration-{threshold:.0f}", "RAPID", 10, 2, quick=threshold == 12000, **more)
        more["mark"] = edits.group_flags
        yield _nircam(group, f"charge_migration-{threshold:.0f}-among-flags", "SHALLOW2", 7, 2, **more)
    more = {"steps": {"charge_migration": on}, "wells": 1.2}
    yield _nircam(group, "charge_migration-2-groups", "RAPID", 2, 2, **more)
    segment = {"first_integration": 4, "total_nints": 6}
    yield _nircam(group, "segment", "RAPID", 4, 3, simulated=segment, quick=True)
    everything_off = {step: {"skip": True} for step in ("saturation", "superbias", "linearity", "dark_current", "jump")}
    yield _nircam(group, "steps-skipped", "RAPID", 5, 2, steps=everything_off, wells=1.0)
    yield _miri(group, "steps-skipped", 9, 2, steps={step: {"skip": True} for step in ("reset", "rscd", "lastframe")})


_SETS = (
    _subarrays, _read_patterns, _numbers, _miri_integrations, _jump, _large_events, _ramp_fit, _flags, _optional_steps,
)  # fmt: skip


def _all_cases():
    cases = [case for make in _SETS for case in make()]
    by_name = {case.name: case for case in cases}
    if len(by_name) < len(cases):
        msg = "two parity cases have the same name"
        raise ValueError(msg)
    return by_name


#: name -> ParityCase
CASES = _all_cases()

#: (what, reason): features of stage 1 for coronagraphs that the matrix does not compare
NOT_COMPARED = (
    (
        "the correction of picture_frame",
        "jwst 3.0 only applies it to full frames of NIRSpec; for coronagraphs it is skipped, and this is compared; "
        "`tests/steps/test_picture_frame.py` compares the correction",
    ),
    (
        "references of STScI's CRDS, and real exposures",
        "the tests contain none of them: all references and exposures here are simulated",
    ),
    (
        "the ZEROFRAME of a `*_ramp.fits` in the fit",
        "stcal 1.20 reads it in the wrong byte order; here jwst gets it in the byte order of the machine",
    ),
    (
        "clean_flicker_noise with a flat, a user's mask, `median_image` or `autoparam`",
        "these exposures have no such references; `tests/steps/test_clean_flicker_noise.py` compares it",
    ),
    ("`maximum_cores` other than 1", "with several processes, the results of jwst are not always those of one process"),
    ("`use_ellipses` of jump", "jwst 3.0 accepts it but does not use it"),
    ("explicit read times (`read_times`), superstripes, IRS2", "coronagraphic exposures do not use them"),
    ("full frames with more groups", "they need too much memory: full frames have 3 (NIRCam) and 5 or 6 groups (MIRI)"),
    ("ERR of ramps", "neither jwst 3.0 nor gpucoron stores it"),
    ("timings, dates and history in the headers", "they differ between runs"),
)
