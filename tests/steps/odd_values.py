"""Odd values for every kind of parameter, and the settings with which a parameter of jwst's steps has an effect."""

import numpy as np

INF, NAN = float("inf"), float("nan")
#: kind of parameter -> values that a user may give, besides files
ODD = {
    "float": [0.0, -1.0, 0.5, 1e-300, 1e300, 2.0**63, NAN, INF, -INF, "", "word", None, [1.0], "none"],
    "integer": [0, -1, 1, 2, 100, 2**31, 2**63, -(2**63), 10**400, 1e300, NAN, INF, "", "word", None, 2.5, [1], True],
    "boolean": [True, False, "", "maybe", 2, -1, NAN, None, [1], np.ones(2)],
    "string": [None, 5, True, [1], {}, "a\0b", "a\nb", np.ones(2)],
    "option": ["", "nothing", 0, None, [1]],
    "float_list": [[], [0.0], [-1.0], [NAN], [INF], [1e300], [1e-300], [1.0, 2.0, 3.0], 5.0, "", "word", None, [None]],
    "int_list": [[], [0], [1], [0, 0], [-1, -1], [1, 1], [2**63, 2**63], [1, 2, 3], 5, "", "word", None, [2.5, 2]],
    "string_list": [[], [""], ["nothing"], "", 5, None, [5]],
    "array": [None, 5, "word", np.ones((3, 3), bool), np.zeros(0), np.full((24, 32), NAN), [[1, [2]]], {}],
    "flags": [None, 5, True, [1], np.ones(2)],
    "hooks": ["", "nothing.at.all", 5, [5], None, [""], "a(", ["no_such_module.Step"]],
}
#: names of files: missing, empty, of no type, a folder, a device, a FITS file without an image, an array, ...
FILES = (
    "", " ", "missing.fits", "empty", "text", "folder", "/dev/null", "bare.fits", "small.npy", "no/such/folder/x",
    "x" * 300, "fifo",
)  # fmt: skip

#: (instrument, step, settings, parameters that have an effect with them): cases in which jwst is run for comparison
MATTERS = (
    ("nircam", "saturation", {}, ("n_pix_grow_sat", "use_readpatt")),
    ("nircam", "charge_migration", {}, ("signal_threshold",)),
    ("nircam", "jump", {}, (
        "rejection_threshold", "three_group_rejection_threshold", "four_group_rejection_threshold",
        "flag_4_neighbors", "max_jump_to_flag_neighbors", "min_jump_to_flag_neighbors", "minimum_groups",
        "minimum_sigclip_groups", "only_use_ints", "min_diffs_single_pass",
    )),
    ("nircam", "jump", {"after_jump_flag_dn1": 50.0, "after_jump_flag_time1": 9.0}, (
        "after_jump_flag_dn1", "after_jump_flag_time1", "after_jump_flag_dn2", "after_jump_flag_time2",
    )),
    ("nircam", "jump", {"minimum_sigclip_groups": 2}, ("rejection_threshold", "only_use_ints", "minimum_groups")),
    ("nircam", "jump", {"expand_large_events": True, "edge_size": 0, "min_jump_area": 2.0}, (
        "min_sat_area", "min_jump_area", "expand_factor", "sat_required_snowball", "min_sat_radius_extend",
        "sat_expand", "edge_size", "mask_snowball_core_next_int", "snowball_time_masked_next_int",
        "max_extended_radius",
    )),
    ("miri", "jump", {"find_showers": True, "extend_min_area": 20}, (
        "extend_snr_threshold", "extend_min_area", "extend_inner_radius", "extend_outer_radius",
        "extend_ellipse_expand_ratio", "time_masked_after_shower", "max_extended_radius", "minimum_sigclip_groups",
    )),
    ("nircam", "ramp_fit", {}, ("firstgroup", "lastgroup", "suppress_one_group")),
    ("nircam", "ramp_fit", {"algorithm": "LIKELY"}, ("firstgroup", "lastgroup")),
    ("nircam", "refpix", {}, ("odd_even_columns", "siglimit")),
    ("miri", "emicorr", {"onthefly_corr_freq": [390.625], "algorithm": "sequential", "nbins": 20}, (
        "onthefly_corr_freq", "nbins", "nints_to_phase", "use_n_cycles",
    )),
    ("miri", "firstframe", {}, ("bright_use_group1",)),
    ("nircam", "persistence", {"persistence_time": 30, "dn_threshold": 100.0}, ("persistence_time", "dn_threshold")),
    ("nircam", "clean_flicker_noise", {"background_method": "model"}, ("background_box_size", "n_sigma")),
)  # fmt: skip

#: the part of these that every test run compares; the others with --full-parity
QUICK = (
    ("saturation", "n_pix_grow_sat", -1),
    ("jump", "rejection_threshold", 0.0),
    ("jump", "after_jump_flag_time1", 1e300),
    ("jump", "expand_factor", INF),
    ("jump", "extend_outer_radius", 0.5),
    ("ramp_fit", "lastgroup", 2**63),
)


def make_files(folder):
    """Write the files of `FILES` into a folder."""
    import os

    from astropy.io import fits

    (folder / "empty").touch()
    (folder / "text").write_text("neither an image nor an array")
    (folder / "folder").mkdir()
    fits.PrimaryHDU().writeto(folder / "bare.fits")
    np.save(folder / "small.npy", np.ones((3, 3), bool))
    os.mkfifo(folder / "fifo")


def values_for(parameter):
    """List the odd values of a parameter, its bounds and options, and names of files if it accepts any text."""
    values = [*ODD[parameter.kind], *parameter.options]
    edges = [edge for edge in (parameter.minimum, parameter.maximum, parameter.above) if edge is not None]
    if parameter.kind in ("float", "integer"):
        values += edges
    elif edges and parameter.kind.endswith("_list"):
        values += [[edge] * (parameter.counts or (1,))[0] for edge in edges]
    return values + (list(FILES) if parameter.kind in ("string", "array", "flags") else [])
