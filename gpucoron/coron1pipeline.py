"""spaceKLIP's entry points, call for call: ``run_obs`` for a database, ``run_single_file`` for a file."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from gpucoron import engine
from gpucoron.errors import ParameterError
from gpucoron.io.spaceklip_repairs import prepare_spaceklip as prepare_spaceklip
from gpucoron.parameters import refuse_unknown
from gpucoron.steps import STEPS

log = logging.getLogger(__name__)

#: keyword arguments of spaceKLIP's run_single_file that are for the run as a whole
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
    settings, options = _settle(steps, kwargs)
    return_rateints = options.get("return_rateints", False)
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


def _settle(steps, kwargs):
    """Turn spaceKLIP's keyword arguments and steps into ours: parameters of the steps, and of the run."""
    keywords = {keyword: (step, name) for step in STEPS.values() for keyword, name in step.keywords.items()}
    settings = {}
    options = {}
    for name, value in kwargs.items():
        if value is None:  # as in spaceKLIP: the default decides
            continue
        if name in _OPTIONS:
            options[name] = value
        elif name in keywords:
            step, parameter = keywords[name]
            is_inverted = parameter.startswith("not ")
            settings.setdefault(step.name, {})[parameter.removeprefix("not ")] = not value if is_inverted else value
        else:
            refuse_unknown("keyword", name, (*_OPTIONS, *keywords))
    for step, values in (steps or {}).items():
        settings[step] = {**settings.get(step, {}), **values}
    return settings, options


def run_obs(
    database,
    steps=None,
    subdir="stage1",
    overwrite=True,
    quiet=False,
    verbose=False,
    backend="auto",
    *,
    profile="spaceklip",
    **kwargs,
):
    """Reduce all raw exposures of a spaceKLIP database, and tell it where the products are.

    Parameters
    ----------
    database : spaceKLIP Database
        Or anything with ``output_dir``, ``obs`` (concatenation -> table with the columns FITSFILE, DATAMODL and TYPE)
        and ``update_obs(key, index, path)``, which is called with the rateints of each exposure.
    steps : dict of dicts, optional
        step -> parameter -> value; never changed. ``mask_groups`` is skipped without parameters of its own; its masks
        are made for each concatenation by itself. Beside its parameters it takes ``star_center``: (x, y) counted from
        1, 'max' for the brightest pixel, or None for CRPIX.
    subdir : str
        Folder below ``output_dir``.
    overwrite : bool
        False leaves exposures alone whose rateints exist, and tells the database of them.
    quiet : bool
        Log nothing.
    verbose : bool
        Log every step.
    backend : {'auto', 'cpu', 'cuda'} or Backend
    profile : {'spaceklip', 'jwst'}
        Whose defaults to start from.
    **kwargs
        As for `run_single_file`.

    Raises
    ------
    ParameterError
        At once: a step, parameter or keyword does not exist.
    ExceptionGroup
        At the end, if files could not be reduced: the errors of all of them, with their tracebacks. All other files
        were reduced, and the database knows of them.

    Notes
    -----
    Source of the interface: spaceKLIP 2.2, ``coron1pipeline.run_obs``.
    """
    steps = {name: dict(values or {}) for name, values in (steps or {}).items()}
    masking = steps.pop("mask_groups", {})
    star_center = _check_center(masking.pop("star_center", None))
    settings, _options = _settle(steps, kwargs)
    settings = {**settings, "mask_groups": {"skip": not masking, **masking}}
    parameters, _of_run, _pars_files = engine.settle(profile=profile, steps=settings)
    settled = parameters["mask_groups"]
    output_dir = Path(database.output_dir) / subdir
    errors, count = [], 0
    for key in list(database.obs):
        if not quiet:
            log.info("concatenation %s", key)
        rows = _raw_rows(database.obs[key], star_center)
        count += len(rows)
        masks = {}
        try:
            masks = _make_masks(key, rows, settled)
        except Exception as error:  # the exposures that need no mask are well
            error.add_note(f"concatenation {key}: its {' and '.join(settled.types)} exposures were left out")
            errors.append(error)
            rows = [row for row in rows if row.type not in settled.types]
        for row in rows:
            mask = masks.get(row.name)
            of_file = {**steps, "mask_groups": {"skip": True} if mask is None else {"skip": False, "mask_array": mask}}
            rateints = output_dir / os.path.basename(row.name).replace("uncal.fits", "rateints.fits")
            try:
                if overwrite or not rateints.is_file():
                    options = {"verbose": verbose and not quiet, "backend": backend, "profile": profile, **kwargs}
                    run_single_file(row.name, output_dir, of_file, **options)
                if rateints.is_file():
                    database.update_obs(key, row.index, str(rateints))
            except Exception as error:  # one file does not end the run
                error.add_note(f"concatenation {key}, {row.name}")
                errors.append(error)
    if errors:
        msg = f"{len(errors)} errors in {count} files; all other files were reduced"
        raise ExceptionGroup(msg, errors)


@dataclass(frozen=True)
class _Row:
    """One raw exposure of a concatenation, as ``prepare_masks`` wants it; its samples are read when asked for."""

    index: int
    name: str
    type: str
    star_center: object = None

    @property
    def data(self):
        """Its samples, (nints, ngroups, ny, nx)."""
        from astropy.io import fits

        return fits.getdata(self.name, "SCI")

    @property
    def center(self):
        """Where the star is, counted from 1."""
        import numpy as np
        from astropy.io import fits

        if self.star_center == "max":
            image = np.nanmedian(self.data[:, -1], axis=0)
            row, column = np.unravel_index(np.nanargmax(image), image.shape)
            return int(column) + 1, int(row) + 1
        if self.star_center is not None:
            return self.star_center
        header = fits.getheader(self.name, "SCI")
        return header.get("CRPIX1"), header.get("CRPIX2")


def _raw_rows(table, star_center):
    """List the rows of a table that are raw exposures."""
    return [
        _Row(index, os.path.abspath(str(table["FITSFILE"][index])), str(table["TYPE"][index]), star_center)
        for index in range(len(table))
        if str(table["DATAMODL"][index]) == "STAGE0"
    ]


def _check_center(center):
    if center is None or (isinstance(center, str) and center == "max"):
        return center
    try:
        x, y = (float(coordinate) for coordinate in center)
    except (TypeError, ValueError):
        msg = f"mask_groups.star_center: expected (x, y), 'max' or None, got {center!r}"
        raise ParameterError(msg) from None
    return x, y


def _make_masks(key, rows, settings):
    """Make the masks of a concatenation, each exposure's its own: path -> mask."""
    from gpucoron.steps.mask_groups import prepare_masks

    wanted = [row for row in rows if row.type in settings.types]
    if settings.skip or not wanted:
        return {}
    if settings.mask_array is not None:
        return {row.name: settings.mask_array for row in wanted}
    options = {name: value for name, value in vars(settings).items() if name in _MASKING}
    science = [row for row in rows if row.type.startswith("SCI")]
    references = [row for row in rows if row.type.startswith("REF")]
    return prepare_masks(key, science, references, **options)


_MASKING = ("mask_method", "types", "cropwidth", "edgewidth", "threshold", "custom_group")
