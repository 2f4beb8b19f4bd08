"""The functions of spaceKLIP's ``coron1pipeline`` with the same arguments: ``run_obs`` and ``run_single_file``."""

import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpucoron import engine
from gpucoron.backends import check_backend
from gpucoron.backends.backend import BackendLike
from gpucoron.backends.sizes import memory_size
from gpucoron.errors import OutputError, ParameterError
from gpucoron.files import AnyPath
from gpucoron.interactive import public
from gpucoron.io.fits_layout import is_whole
from gpucoron.io.logs import shown
from gpucoron.io.products import product_path
from gpucoron.io.spaceklip_repairs import prepare_spaceklip as prepare_spaceklip
from gpucoron.parameters import (
    PIPELINE,
    P,
    Profile,
    StepSettings,
    convert,
    copied_steps,
    refuse_unknown,
)
from gpucoron.parameters.without_effect import without_unused
from gpucoron.steps import STEPS

log = logging.getLogger(__name__)

#: keyword arguments of spaceKLIP's run_single_file for the whole run -> names in gpucoron
_OPTIONS = {
    "save_results": "save_results",
    "save_calibrated_ramp": "save_calibrated_ramp",
    # spelt so in spaceKLIP's documentation, but not in its code
    "save_calibrate_ramp": "save_calibrated_ramp",
    "save_intermediates": "save_intermediates",
    "return_rateints": "return_rateints",
    "rate_int_outliers": "rate_int_outliers",
    "stage_1overf": "stage_1overf",
}

#: definitions of these parameters
_RUN_PARAMETERS = {
    parameter.name: parameter for parameter in (*PIPELINE, P("save_results", "boolean", True, "write the products"))
}

#: entries that spaceKLIP's run_obs adds to the caller's ``steps["mask_groups"]``; ignored if the dictionary is reused
_LEFTOVERS = ("maxgrps_faint", "maxgrps_bright", "cropmask", "refbg_maxcounts")


def __getattr__(name):
    if name == "Coron1Pipeline_spaceKLIP":  # imports jwst
        from gpucoron.pipeline import Coron1Pipeline_spaceKLIP

        return Coron1Pipeline_spaceKLIP
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


@public
def run_single_file(
    fitspath: AnyPath | None = None,
    output_dir: AnyPath | None = None,
    steps: StepSettings | None = None,
    verbose: bool = False,
    *,
    backend: BackendLike = "auto",
    profile: Profile = "spaceklip",
    max_memory: int | str | None = None,
    **kwargs: Any,
) -> Any:
    """Reduce one file with spaceKLIP's defaults. Existing products are overwritten, as in spaceKLIP.

    Parameters
    ----------
    fitspath : str or Path
        ``*_uncal.fits``.
    output_dir : str or Path
        Created if it does not exist.
    steps : dict of dicts, optional
        step -> parameter -> value; not modified. It overrides the keyword arguments.
    verbose : bool
        Log every step, to the handlers of ``logging`` if there are any, else to stderr.
    backend : {'auto', 'cpu', 'cuda'} or Backend, optional
        None is 'auto'.
    profile : {'spaceklip', 'jwst', 'recommended'}
        Default parameters to use.
    max_memory : int or str, optional
        Bytes, or text such as '4G'; see `gpucoron.engine.reduce_file`.
    **kwargs
        As in spaceKLIP: save_results (True), save_calibrated_ramp (also spelt save_calibrate_ramp), save_intermediates,
        return_rateints, skip_charge, skip_jump, skip_dark, skip_ipc, skip_persistence, skip_ktc, skip_fnoise,
        skip_fnoise_vert, nlower, nupper, nleft, nright, nrow_off, ncol_off, rejection_threshold,
        three_group_rejection_threshold, four_group_rejection_threshold, n_pix_grow_sat, grow_diagonal, flag_rcsat,
        suppress_one_group, stage_1overf ('ints'), rate_int_outliers, maximum_cores (accepted but ignored: gpucoron uses
        all cores available to the process).

    Returns
    -------
    ImageModel or CubeModel
        The rate, or the rateints with ``return_rateints``; a RampModel if ``ramp_fit`` is skipped.

    Raises
    ------
    GpucoronError
        One of its subclasses. For an unknown keyword, the message suggests the nearest known one.

    Notes
    -----
    Source of the interface: spaceKLIP 2.2, ``coron1pipeline.run_single_file``.
    """
    if "path" in kwargs:
        warnings.warn("run_single_file(path=...) is now called fitspath, as in spaceKLIP", DeprecationWarning, 3)
        fitspath = kwargs.pop("path")
    for name, value in (("fitspath", fitspath), ("output_dir", output_dir)):
        if value is None:
            msg = f"run_single_file: {name} is missing"
            raise ParameterError(msg)
    settings, options = _split_arguments(steps, kwargs)
    return_rateints = options.get("return_rateints", False)
    with shown("gpucoron", logging.INFO if verbose else None):
        _check(profile, settings, options)
        options |= {"max_memory": max_memory}
        models, _paths = _reduce(fitspath, output_dir, settings, options, backend, profile)
    kind = "ramp" if "ramp" in models else "rateints" if return_rateints else "rate"
    return models[kind]


def _check(profile, settings, options):
    """Check all parameters before any file is opened; return those of the steps."""
    run_parameters = {name: value for name, value in options.items() if name != "save_results"}
    return engine.settle(profile=profile, steps=settings, pipeline=run_parameters)[0]


def _reduce(path, output_dir, settings, options, backend, profile):
    """Reduce one file; return its models and the paths of its products, both by kind of product."""
    steps = without_unused(STEPS, settings)  # the warning has been given
    _run, models, paths = engine.reduce_file(
        path, output_dir, profile=profile, steps=steps, backend=backend, overwrite=True, **options
    )
    products = {kind: product_path(path, output_dir, kind) for kind in models}
    written = set(paths.values())
    return models, {kind: product for kind, product in products.items() if product in written}


def _split_arguments(steps, kwargs):
    """Convert spaceKLIP's arguments into parameters of the steps and of the run."""
    keywords = {keyword: (step, name) for step in STEPS.values() for keyword, name in step.keywords.items()}
    settings = {}
    options = {}
    for name, value in kwargs.items():
        if value is None:  # as in spaceKLIP: use the default
            continue
        if name in _OPTIONS:
            options[_OPTIONS[name]] = convert(_RUN_PARAMETERS[_OPTIONS[name]], value, "run")
        elif name in keywords:
            step, parameter = keywords[name]
            if parameter.startswith("not "):
                value = not convert(P(name, "boolean", False, ""), value, "run")
            settings.setdefault(step.name, {})[parameter.removeprefix("not ")] = value
        else:
            refuse_unknown("keyword", name, (*_OPTIONS, *keywords))
    for step, values in copied_steps(steps).items():
        settings[step] = {**settings.get(step, {}), **values}
    if "mask_groups" in settings:
        settings["mask_groups"] = {
            name: value for name, value in settings["mask_groups"].items() if name not in _LEFTOVERS
        }
    return settings, options


@public
def run_obs(
    database: Any,
    steps: StepSettings | None = None,
    subdir: str = "stage1",
    overwrite: bool = True,
    quiet: bool = False,
    verbose: bool = False,
    backend: BackendLike = "auto",
    *,
    profile: Profile = "spaceklip",
    output_dir: AnyPath | None = None,
    max_memory: int | str | None = None,
    **kwargs: Any,
) -> None:
    """Reduce all raw exposures of a database, and enter the products into it.

    Parameters
    ----------
    database : Database, or dict of Tables
        A database of spaceKLIP or of `gpucoron.database`, or any object with ``output_dir``, ``obs`` (concatenation ->
        table with the columns FITSFILE, DATAMODL and TYPE) and ``update_obs(key, index, path)``, which is called with
        the rateints of each exposure. The tables of a dict are updated in place.
    steps : dict of dicts, optional
        step -> parameter -> value; not modified. ``mask_groups`` is skipped unless it has parameters; its masks are
        made separately for each concatenation. It also accepts ``star_center``: (x, y) counted from 1, 'max' for the
        brightest pixel, or None for CRPIX.
    subdir : str
        Subfolder of ``output_dir``.
    overwrite : bool
        If False, skip exposures whose rateints exist, and enter these into the database.
    quiet : bool
        Log nothing; show a progress bar in a terminal.
    verbose : bool
        Log every step. Otherwise log only the names of concatenations and files, to the handlers of ``logging`` if
        there are any, else to stderr.
    backend : {'auto', 'cpu', 'cuda'} or Backend, optional
        None is 'auto'.
    profile : {'spaceklip', 'jwst', 'recommended'}
        Default parameters to use.
    max_memory : int or str, optional
        Bytes, or text such as '4G'; see `gpucoron.engine.reduce_file`.
    output_dir : str or Path, optional
        For a dict of Tables; by default the current folder. A database has this attribute itself.
    **kwargs
        As for `run_single_file`.

    Raises
    ------
    ParameterError
        Raised at once if a step, parameter or keyword does not exist, or the database is invalid.
    ExceptionGroup
        Raised at the end if files could not be reduced, with all errors and tracebacks. All other files were reduced
        and entered into the database.

    Notes
    -----
    Source of the interface: spaceKLIP 2.2, ``coron1pipeline.run_obs``.
    """
    from gpucoron.database import as_database  # loads astropy's tables, which run_single_file does not need

    check_backend(backend)  # once for all files
    memory_size(max_memory)
    copied = copied_steps(steps)
    star_center = _check_center(copied.get("mask_groups", {}).pop("star_center", None))
    settings, options = _split_arguments(copied, kwargs)
    masking = settings.pop("mask_groups", {})
    checked = {**settings, "mask_groups": {"skip": not masking, **masking}}
    with shown("gpucoron" if verbose and not quiet else __name__, logging.WARNING if quiet else logging.INFO):
        parameters = _check(profile, checked, options)
        _check_masking(parameters["mask_groups"])
        database = as_database(database, output_dir)
        reduction = _Reduction(
            settings=settings, options={**options, "max_memory": max_memory}, backend=backend, profile=profile,
            output_dir=Path(database.output_dir) / subdir, overwrite=overwrite,
        )  # fmt: skip
        errors, count = _reduce_all(database, reduction, parameters["mask_groups"], star_center, quiet)
    if errors:
        msg = f"{len(errors)} errors in {count} files; all other files were reduced"
        raise ExceptionGroup(msg, errors)


@dataclass(frozen=True)
class _Reduction:
    """The settings for all files of a database; see `run_obs`."""

    settings: dict
    options: dict
    backend: object
    profile: str
    output_dir: Path
    overwrite: bool

    def product_of(self, name):
        """Return the path of the rateints of a file."""
        return product_path(name, self.output_dir, "rateints")

    def reduce(self, row, masking):
        """Reduce a file unless its product is kept; return the path of the rateints, None if no ramp can be fitted."""
        product, tail = self.product_of(row.name), os.path.basename(row.name)
        if not self.overwrite and product.is_file():
            if is_whole(product):
                log.info("  %s: already reduced", tail)
                return product
            log.warning("  %s: %s is damaged, reducing it again", tail, product)
        log.info("  %s: stage 1", tail)
        settings = {**self.settings, "mask_groups": masking}
        _models, paths = _reduce(row.name, self.output_dir, settings, self.options, self.backend, self.profile)
        return paths.get("rateints")


def _reduce_all(database, reduction, masking, star_center, quiet):
    """Reduce the raw exposures of all concatenations; return the errors and the number of files."""
    errors, count, owners = [], 0, {}
    for key in _with_progress(list(database.obs), quiet):
        log.info("concatenation %s", key)
        rows = _raw_rows(database.obs[key], star_center)
        count += len(rows)
        masks = {}
        try:
            masks = _make_masks(key, rows, masking)
        except Exception as error:  # exposures without masks are still reduced
            error.add_note(f"concatenation {key}: its {' and '.join(masking.types)} exposures were not reduced")
            errors.append(error)
            rows = [row for row in rows if row.type not in masking.types]
        for row in rows:
            try:
                mask = masks.get(row.name, {})
                other, other_key, other_mask = owners.setdefault(reduction.product_of(row.name), (row.name, key, mask))
                if other != row.name:
                    msg = f"{row.name}: its products have the same names as those of {other}; rename one of the files"
                    raise OutputError(msg)
                if not _is_same_mask(mask, other_mask):
                    msg = (
                        f"{row.name}: its products would replace those of concatenation {other_key}, which have a "
                        f"different mask of groups; reduce {key} separately, into another subdir"
                    )
                    raise OutputError(msg)
                rateints = reduction.reduce(row, mask)
                if rateints is not None:
                    database.update_obs(key, row.index, str(rateints))
            except Exception as error:  # continue with the other files
                error.add_note(f"concatenation {key}, {row.name}")
                errors.append(error)
    return errors, count


def _is_same_mask(one, other):
    """Return whether two sets of mask_groups parameters are equal."""
    import numpy as np

    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _with_progress(keys, quiet):
    """Iterate over the concatenations; show a progress bar if ``quiet`` and in a terminal."""
    if not quiet or not sys.stderr.isatty():
        return keys
    from rich.console import Console
    from rich.progress import track

    return track(keys, description="concatenations", console=Console(stderr=True), transient=True)


@dataclass(frozen=True)
class _Row:
    """One raw exposure of a concatenation, as ``prepare_masks`` expects it; its samples are read on access."""

    index: int
    name: str
    type: str
    star_center: object = None

    @property
    def data(self):
        """The samples, (nints, ngroups, ny, nx)."""
        from astropy.io import fits

        return fits.getdata(self.name, "SCI")

    @property
    def center(self):
        """The position of the star, (x, y) counted from 1."""
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
    """Return the rows of a table that are raw exposures."""
    from gpucoron.database.tables import to_text

    return [
        _Row(index, os.path.abspath(to_text(table["FITSFILE"][index])), to_text(table["TYPE"][index]), star_center)
        for index in range(len(table))
        if to_text(table["DATAMODL"][index]) == "STAGE0"
    ]


def _check_masking(settings):
    """Raise ParameterError for settings of mask_groups that are invalid for every concatenation."""
    from gpucoron.database import TYPES

    for type_ in settings.types:
        if type_ not in TYPES:
            refuse_unknown("type of exposures (mask_groups.types)", type_, TYPES)
    is_given = settings.groups is not None or settings.mask_array is not None
    if not settings.skip and not is_given and settings.mask_method == "custom" and settings.custom_group is None:
        msg = "mask_groups: mask_method 'custom' needs custom_group, the number of groups to keep"
        raise ParameterError(msg)


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
    """Make the group masks of a concatenation; return path -> parameters of mask_groups."""
    from gpucoron.steps.mask_groups import prepare_masks

    masked = [row for row in rows if row.type in settings.types]
    if settings.skip or not masked:
        return {}
    if settings.groups is not None or settings.mask_array is not None:
        given = {name: getattr(settings, name) for name in ("groups", "mask_array", "mask_method", "custom_group")}
        return {row.name: given for row in masked}
    options = {name: value for name, value in vars(settings).items() if name in _MASKING}
    science = [row for row in rows if row.type.startswith("SCI")]
    references = [row for row in rows if row.type.startswith("REF")]
    masks = prepare_masks(key, science, references, **options)
    return {name: {"mask_array": mask} for name, mask in masks.items()}


_MASKING = ("mask_method", "types", "cropwidth", "edgewidth", "threshold", "custom_group")
