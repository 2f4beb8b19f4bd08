"""spaceKLIP's entry points, call for call: ``run_obs`` for a database, ``run_single_file`` for a file."""

import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from gpucoron import engine
from gpucoron.backends import check_backend
from gpucoron.backends.sizes import memory_size
from gpucoron.errors import OutputError, ParameterError
from gpucoron.io.fits_layout import is_whole
from gpucoron.io.logs import shown
from gpucoron.io.products import product_path
from gpucoron.io.spaceklip_repairs import prepare_spaceklip as prepare_spaceklip
from gpucoron.parameters import PIPELINE, P, convert, copied_steps, refuse_unknown, without_unused
from gpucoron.steps import STEPS

log = logging.getLogger(__name__)

#: keyword arguments of spaceKLIP's run_single_file that are for the run as a whole -> our names
_OPTIONS = {
    "save_results": "save_results",
    "save_calibrated_ramp": "save_calibrated_ramp",
    # as its documentation spells it, and its code does not
    "save_calibrate_ramp": "save_calibrated_ramp",
    "save_intermediates": "save_intermediates",
    "return_rateints": "return_rateints",
    "rate_int_outliers": "rate_int_outliers",
    "stage_1overf": "stage_1overf",
}

#: what those are
_OF_RUN = {
    parameter.name: parameter for parameter in (*PIPELINE, P("save_results", "boolean", True, "write the products"))
}

#: what spaceKLIP's run_obs leaves in the caller's ``steps["mask_groups"]``, for a dictionary that has been there before
_LEFTOVERS = ("maxgrps_faint", "maxgrps_bright", "cropmask", "refbg_maxcounts")


def __getattr__(name):
    if name == "Coron1Pipeline_spaceKLIP":  # with it comes jwst
        from gpucoron.pipeline import Coron1Pipeline_spaceKLIP

        return Coron1Pipeline_spaceKLIP
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def run_single_file(
    fitspath=None,
    output_dir=None,
    steps=None,
    verbose=False,
    *,
    backend="auto",
    profile="spaceklip",
    max_memory=None,
    **kwargs,
):
    """Reduce one file with spaceKLIP's defaults. Existing products are overwritten, as there.

    Parameters
    ----------
    fitspath : str or Path
        ``*_uncal.fits``.
    output_dir : str or Path
        Made if it does not exist.
    steps : dict of dicts, optional
        step -> parameter -> value; never changed. It overrules the keyword arguments.
    verbose : bool
        Print every step: through the handlers of ``logging`` where there are any, else to stderr.
    backend : {'auto', 'cpu', 'cuda'} or Backend, optional
        None is 'auto'.
    profile : {'spaceklip', 'jwst'}
        Whose defaults to start from.
    max_memory : int or str, optional
        Bytes, or text such as '4G'; see `gpucoron.engine.reduce_file`.
    **kwargs
        spaceKLIP's: save_results (True), save_calibrated_ramp (also spelt save_calibrate_ramp), save_intermediates,
        return_rateints, skip_charge, skip_jump, skip_dark, skip_ipc, skip_persistence, skip_ktc, skip_fnoise,
        skip_fnoise_vert, nlower, nupper, nleft, nright, nrow_off, ncol_off, rejection_threshold,
        three_group_rejection_threshold, four_group_rejection_threshold, n_pix_grow_sat, grow_diagonal, flag_rcsat,
        suppress_one_group, stage_1overf ('ints'), rate_int_outliers, maximum_cores (accepted and not used: threads
        follow the cores that the process may use).

    Returns
    -------
    ImageModel or CubeModel
        The rate, or the rateints with ``return_rateints``; a RampModel where ``ramp_fit`` is skipped.

    Raises
    ------
    GpucoronError
        One of its kinds; an unknown keyword is refused with the nearest known one.

    Notes
    -----
    Source of the interface: spaceKLIP 2.2, ``coron1pipeline.run_single_file``.
    """
    if "path" in kwargs:
        warnings.warn("run_single_file(path=...) is now called fitspath, as in spaceKLIP", DeprecationWarning, 2)
        fitspath = kwargs.pop("path")
    for name, value in (("fitspath", fitspath), ("output_dir", output_dir)):
        if value is None:
            msg = f"run_single_file: {name} is missing"
            raise ParameterError(msg)
    settings, options = _settle(steps, kwargs)
    return_rateints = options.get("return_rateints", False)
    with shown("gpucoron", logging.INFO if verbose else None):
        _check(profile, settings, options)
        options |= {"max_memory": max_memory}
        models, _paths = _reduce(fitspath, output_dir, settings, options, backend, profile)
    wanted = "ramp" if "ramp" in models else "rateints" if return_rateints else "rate"
    return models[wanted]


def _check(profile, settings, options):
    """Refuse what does not exist before any file is opened: the parameters of the steps."""
    of_run = {name: value for name, value in options.items() if name != "save_results"}
    return engine.settle(profile=profile, steps=settings, pipeline=of_run)[0]


def _reduce(path, output_dir, settings, options, backend, profile):
    """Reduce one file: its models, and what was written, both by kind of product."""
    steps = without_unused(STEPS, settings)  # that was said
    _run, models, paths = engine.reduce_file(
        path, output_dir, profile=profile, steps=steps, backend=backend, overwrite=True, **options
    )
    ends = {kind: product_path(path, output_dir, kind) for kind in models}
    written = set(paths.values())
    return models, {kind: end for kind, end in ends.items() if end in written}


def _settle(steps, kwargs):
    """Turn spaceKLIP's keyword arguments and steps into ours: parameters of the steps, and of the run."""
    keywords = {keyword: (step, name) for step in STEPS.values() for keyword, name in step.keywords.items()}
    settings = {}
    options = {}
    for name, value in kwargs.items():
        if value is None:  # as in spaceKLIP: the default decides
            continue
        if name in _OPTIONS:
            options[_OPTIONS[name]] = convert(_OF_RUN[_OPTIONS[name]], value, "run")
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
    output_dir=None,
    max_memory=None,
    **kwargs,
):
    """Reduce all raw exposures of a database, and tell it where the products are.

    Parameters
    ----------
    database : Database, or dict of Tables
        spaceKLIP's, ours (`gpucoron.database`), or anything with ``output_dir``, ``obs`` (concatenation -> table with
        the columns FITSFILE, DATAMODL and TYPE) and ``update_obs(key, index, path)``, which is called with the
        rateints of each exposure. The tables of a dict are updated in place.
    steps : dict of dicts, optional
        step -> parameter -> value; never changed. ``mask_groups`` is skipped without parameters of its own; its masks
        are made for each concatenation by itself. Beside its parameters it takes ``star_center``: (x, y) counted from
        1, 'max' for the brightest pixel, or None for CRPIX.
    subdir : str
        Folder below ``output_dir``.
    overwrite : bool
        False leaves exposures alone whose rateints exist, and tells the database of them.
    quiet : bool
        Print nothing; on a terminal, a progress bar.
    verbose : bool
        Print every step. Without it, only concatenations and files are named: through the handlers of ``logging``
        where there are any, else on stderr.
    backend : {'auto', 'cpu', 'cuda'} or Backend, optional
        None is 'auto'.
    profile : {'spaceklip', 'jwst'}
        Whose defaults to start from.
    max_memory : int or str, optional
        Bytes, or text such as '4G'; see `gpucoron.engine.reduce_file`.
    output_dir : str or Path, optional
        For a dict of Tables; by default the current folder. A database has its own.
    **kwargs
        As for `run_single_file`.

    Raises
    ------
    ParameterError
        At once: a step, parameter or keyword does not exist, or the database is none.
    ExceptionGroup
        At the end, if files could not be reduced: the errors of all of them, with their tracebacks. All other files
        were reduced, and the database knows of them.

    Notes
    -----
    Source of the interface: spaceKLIP 2.2, ``coron1pipeline.run_obs``.
    """
    from gpucoron.database import as_database  # it loads astropy's tables, which a single file does not need

    check_backend(backend)  # once, not for every file
    memory_size(max_memory)
    steps = copied_steps(steps)
    star_center = _check_center(steps.get("mask_groups", {}).pop("star_center", None))
    settings, options = _settle(steps, kwargs)
    masking = settings.pop("mask_groups", {})
    asked = {**settings, "mask_groups": {"skip": not masking, **masking}}
    with shown("gpucoron" if verbose and not quiet else __name__, logging.WARNING if quiet else logging.INFO):
        parameters = _check(profile, asked, options)
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
    """How every file of a database is reduced; see `run_obs`."""

    settings: dict
    options: dict
    backend: object
    profile: str
    output_dir: Path
    overwrite: bool

    def product_of(self, name):
        """Say where the rateints of a file go."""
        return product_path(name, self.output_dir, "rateints")

    def reduce(self, row, masking):
        """Reduce a file, unless that was done and is to be kept: the rateints, None where no ramp could be fitted."""
        product, tail = self.product_of(row.name), os.path.basename(row.name)
        if not self.overwrite and product.is_file():
            if is_whole(product):
                log.info("  %s: reduced before", tail)
                return product
            log.warning("  %s: %s is damaged, it is made again", tail, product)
        log.info("  %s: stage 1", tail)
        settings = {**self.settings, "mask_groups": masking}
        _models, paths = _reduce(row.name, self.output_dir, settings, self.options, self.backend, self.profile)
        return paths.get("rateints")


def _reduce_all(database, reduction, masking, star_center, quiet):
    """Reduce the raw exposures of all concatenations: the errors, and the number of files."""
    errors, count, taken = [], 0, {}
    for key in _followed(list(database.obs), quiet):
        log.info("concatenation %s", key)
        rows = _raw_rows(database.obs[key], star_center)
        count += len(rows)
        masks = {}
        try:
            masks = _make_masks(key, rows, masking)
        except Exception as error:  # the exposures that need no mask are well
            error.add_note(f"concatenation {key}: its {' and '.join(masking.types)} exposures were left out")
            errors.append(error)
            rows = [row for row in rows if row.type not in masking.types]
        for row in rows:
            try:
                mask = masks.get(row.name, {})
                other, whose, others_mask = taken.setdefault(reduction.product_of(row.name), (row.name, key, mask))
                if other != row.name:
                    msg = f"{row.name}: its products have the names of those of {other}; rename one of the files"
                    raise OutputError(msg)
                if not _is_same_mask(mask, others_mask):
                    msg = (
                        f"{row.name}: its products would replace those of concatenation {whose}, which have another "
                        f"mask of groups; reduce {key} by itself, into another subdir"
                    )
                    raise OutputError(msg)
                rateints = reduction.reduce(row, mask)
                if rateints is not None:
                    database.update_obs(key, row.index, str(rateints))
            except Exception as error:  # one file does not end the run
                error.add_note(f"concatenation {key}, {row.name}")
                errors.append(error)
    return errors, count


def _is_same_mask(one, other):
    """Compare parameters of mask_groups."""
    import numpy as np

    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _followed(keys, quiet):
    """Go through the concatenations; where nothing else is printed, with a progress bar, if there is a terminal."""
    if not quiet or not sys.stderr.isatty():
        return keys
    from rich.console import Console
    from rich.progress import track

    return track(keys, description="concatenations", console=Console(stderr=True), transient=True)


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
    from gpucoron.database.tables import to_text

    return [
        _Row(index, os.path.abspath(to_text(table["FITSFILE"][index])), to_text(table["TYPE"][index]), star_center)
        for index in range(len(table))
        if to_text(table["DATAMODL"][index]) == "STAGE0"
    ]


def _check_masking(settings):
    """Refuse what no concatenation could be masked with."""
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
    """Settle which groups the exposures of a concatenation leave out: path -> parameters of mask_groups."""
    from gpucoron.steps.mask_groups import prepare_masks

    wanted = [row for row in rows if row.type in settings.types]
    if settings.skip or not wanted:
        return {}
    if settings.groups is not None or settings.mask_array is not None:
        given = {name: getattr(settings, name) for name in ("groups", "mask_array", "mask_method", "custom_group")}
        return {row.name: given for row in wanted}
    options = {name: value for name, value in vars(settings).items() if name in _MASKING}
    science = [row for row in rows if row.type.startswith("SCI")]
    references = [row for row in rows if row.type.startswith("REF")]
    masks = prepare_masks(key, science, references, **options)
    return {name: {"mask_array": mask} for name, mask in masks.items()}


_MASKING = ("mask_method", "types", "cropwidth", "edgewidth", "threshold", "custom_group")
