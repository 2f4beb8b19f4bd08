"""spaceKLIP's entry points, call for call: ``run_single_file``."""

import logging

from gpucoron import engine

log = logging.getLogger(__name__)

#: keyword argument of spaceKLIP's run_single_file -> (step, parameter, whether a true value means "off")
_KEYWORDS = {
    "skip_charge": ("charge_migration", "skip", False),
    "skip_jump": ("jump", "skip", False),
    "skip_ipc": ("ipc", "skip", False),
    "skip_persistence": ("persistence", "skip", False),
    "skip_ktc": ("subtract_ktc", "skip", False),
    "skip_fnoise": ("subtract_1overf", "skip", False),
    "skip_fnoise_vert": ("subtract_1overf", "vertical_corr", True),
    "skip_dark": ("dark_current", "skip", False),
    "nlower": ("refpix", "nlower", False),
    "nupper": ("refpix", "nupper", False),
    "nrow_off": ("refpix", "nrow_off", False),
    "nleft": ("refpix", "nleft", False),
    "nright": ("refpix", "nright", False),
    "ncol_off": ("refpix", "ncol_off", False),
    "rejection_threshold": ("jump", "rejection_threshold", False),
    "three_group_rejection_threshold": ("jump", "three_group_rejection_threshold", False),
    "four_group_rejection_threshold": ("jump", "four_group_rejection_threshold", False),
    "n_pix_grow_sat": ("saturation", "n_pix_grow_sat", False),
    "grow_diagonal": ("saturation", "grow_diagonal", False),
    "flag_rcsat": ("saturation", "flag_rcsat", False),
    "suppress_one_group": ("ramp_fit", "suppress_one_group", False),
    "maximum_cores": ("ramp_fit", "maximum_cores", False),
}
_OPTIONS = (
    "save_results",
    "save_calibrated_ramp",
    "save_intermediates",
    "return_rateints",
    "rate_int_outliers",
    "stage_1overf",
)


def run_single_file(path, output_dir, steps=None, verbose=False, *, backend="auto", profile="spaceklip", **kwargs):
    """Reduce one file with spaceKLIP's defaults. Existing products are overwritten, as there.

    Parameters
    ----------
    path : str or Path
        ``*_uncal.fits``.
    output_dir : str or Path
        Made if it does not exist.
    steps : dict of dicts, optional
        step -> parameter -> value; never changed. It overrules the keyword arguments.
    verbose : bool
        Log every step.
    backend : {'auto', 'cpu', 'cuda'} or Backend
    profile : {'spaceklip', 'jwst'}
        Whose defaults to start from.
    **kwargs
        spaceKLIP's: save_results (True), save_calibrated_ramp, save_intermediates, return_rateints, skip_charge,
        skip_jump, skip_dark, skip_ipc, skip_persistence, skip_ktc, skip_fnoise, skip_fnoise_vert, nlower, nupper,
        nrow_off, rejection_threshold, three_group_rejection_threshold, four_group_rejection_threshold,
        n_pix_grow_sat, grow_diagonal, flag_rcsat, suppress_one_group, stage_1overf ('ints'), rate_int_outliers,
        maximum_cores (accepted; threads follow the
        cores that the process may use).

    Returns
    -------
    ImageModel or CubeModel
        The rate, or the rateints with ``return_rateints``.

    Raises
    ------
    GpucoronError
        One of its kinds; an unknown keyword is refused with the nearest known one.

    Notes
    -----
    Source of the interface: spaceKLIP 2.2, ``coron1pipeline.run_single_file``.
    """
    from gpucoron.parameters import refuse_unknown

    settings = {}
    options = {}
    for name, value in kwargs.items():
        if value is None:  # as in spaceKLIP: the default decides
            continue
        if name in _OPTIONS:
            options[name] = value
        elif name in _KEYWORDS:
            step, parameter, inverted = _KEYWORDS[name]
            settings.setdefault(step, {})[parameter] = (not value) if inverted else value
        else:
            refuse_unknown("keyword", name, (*_OPTIONS, *_KEYWORDS))
    return_rateints = options.get("return_rateints", False)
    for step, values in (steps or {}).items():
        settings[step] = {**settings.get(step, {}), **values}
    previous = logging.getLogger("gpucoron").level
    if verbose:
        logging.getLogger("gpucoron").setLevel(logging.INFO)
    try:
        _run, models, _paths = engine.reduce_file(
            path, output_dir, profile=profile, steps=settings, backend=backend, overwrite=True, **options
        )
    finally:
        logging.getLogger("gpucoron").setLevel(previous)
    wanted = "ramp" if "ramp" in models else "rateints" if return_rateints else "rate"
    return models[wanted]
