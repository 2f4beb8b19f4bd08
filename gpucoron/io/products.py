"""Make the products ``rate``, ``rateints`` and ``ramp`` as models with jwst's metadata, and save them.

The products have the same metadata as those of jwst. The history adds our version, the backend, and the parameters that
differ from the defaults of jwst.
"""

import json
import logging
import os
from pathlib import Path

from gpucoron import __version__
from gpucoron.errors import OutputError, ParameterError, ProductExistsError
from gpucoron.files import appearing, check_folder, first_line, is_disk_full
from gpucoron.io import logs
from gpucoron.io.emicorr_file import emicorr_model
from gpucoron.io.kept import kept
from gpucoron.io.names import split_name
from gpucoron.io.slopes import model_of_slopes
from gpucoron.io.versions import REPRODUCED_JWST, installed
from gpucoron.parameters import changed
from gpucoron.steps import STEPS
from gpucoron.steps.declaration import Extra

log = logging.getLogger(__name__)

#: suffixes of the exposure and of its main products
_RESERVED = ("uncal", "ramp", "rate", "rateints")
#: file formats for the results of steps
_KINDS_OF_FILE = ("fits", "asdf")


def rate_model(run):
    """Make the ``rate`` product, an ``ImageModel``; None if no ramp could be fitted."""
    from stdatamodels.jwst import datamodels

    return _slopes_model(run, run.exposure.rate, datamodels.ImageModel)


def rateints_model(run):
    """Make the ``rateints`` product, a ``CubeModel``; None if no ramp could be fitted."""
    from stdatamodels.jwst import datamodels

    model = _slopes_model(run, run.exposure.rateints, datamodels.CubeModel)
    if model is not None:
        model.int_times = run.exposure.meta.int_times
    return model


def _slopes_model(run, slopes, model_class):
    if slopes is None:
        return None
    with kept():
        model = model_of_slopes(run.exposure, slopes, model_class, run.backend)
        _sign(model, run)
    return model


def ramp_model(run):
    """Make a ``ramp`` product of the current state of the exposure.

    If the exposure is on the host, the model shares its arrays.
    """
    model = ramp_without_signature(run.exposure, run.backend)
    _sign(model, run)
    return model


def extra_products(run, record):
    """Make the optional products of a step that the parameters request.

    Returns
    -------
    list of (Extra, model)
        The kind and name of the product, and its model.
    """
    step, settings = STEPS[record.name], run.parameters[record.name]
    # jwst also saves the results of its own steps that were skipped
    ran = record.status == "COMPLETE" if step.custom else record.reason != "switched off"
    is_on, has_slopes = record.reason != "switched off", run.exposure.rateints is not None
    place = _place_of_result(settings, run.exposure)
    extras = _results(step, settings, run.run_parameters, place, is_on=is_on, ran=ran, has_slopes=has_slopes)
    if step.extras is not None:
        extras += step.extras(run.exposure, settings)
    return [(extra, _MODELS[extra.kind](run, step, extra)) for extra in extras]


def _results(step, settings, run_parameters, place, *, is_on, ran, has_slopes):
    """List the products with the result of a step that the parameters request."""
    is_requested = is_on and (settings.save_results or settings.output_file is not None)
    # like spaceKLIP, save_intermediates saves no slopes of jwst's own steps
    is_requested |= run_parameters.save_intermediates and ran and step.leaves != "slopes"
    suffix, extras = settings.suffix or step.name, []
    if has_slopes:
        if is_requested and ran:
            extras += [Extra(kind, suffix=ending.format(suffix), **place) for kind, ending in step.saves.items()]
    elif step.leaves != "slopes":
        if is_requested:
            extras.append(Extra("ramp", suffix=suffix, **place))
        saves_ramp = run_parameters.save_calibrated_ramp or run_parameters.save_intermediates
        if step.leaves == "calibrated ramp" and saves_ramp:
            extras.append(Extra("ramp", suffix="ramp"))
    return extras


class _WholeExposure:
    """A placeholder for an exposure after all steps, with every optional attribute set."""

    name = ""

    def __getattr__(self, name):
        return "set"


def expected_products(run):
    """List the products of a run before it starts; steps may add others depending on the data.

    Parameters
    ----------
    run : Run

    Returns
    -------
    list of Extra
        For `extra_path`.
    """
    kinds = ("rate", "rateints") if run.fits else ("ramp",)
    expected, has_slopes = [Extra(kind, suffix=kind) for kind in kinds], False
    for name in run.order:
        step, settings = STEPS[name], run.parameters[name]
        is_on = not settings.skip
        has_slopes = has_slopes or (step.fits and is_on)
        place = _place_of_result(settings, run.exposure)
        results = _results(step, settings, run.run_parameters, place, is_on=is_on, ran=is_on, has_slopes=has_slopes)
        expected += [extra for extra in results if not (extra.stem and _is_named_by_header(settings))]
        if is_on and step.extras is not None:
            expected += step.extras(_WholeExposure(), settings)
    return expected


def check_products(run, path_of, *, overwrite):
    """Check before any step that the products of a run replace neither each other nor existing files.

    Parameters
    ----------
    run : Run
    path_of : callable
        ``path_of(extra)`` returns the path of a product.
    overwrite : bool
        Whether existing files may be replaced.

    Raises
    ------
    OutputError, ParameterError
    """
    paths = [path_of(extra) for extra in expected_products(run)]
    if not overwrite and (existing := [str(path) for path in dict.fromkeys(paths) if path.exists()]):
        raise _exists_already(existing)
    twice = [path.name for path in dict.fromkeys(paths) if paths.count(path) > 1]
    if twice:
        msg = f"{run.exposure.name}: two results would be named {', '.join(twice)}; give one of them another suffix"
        raise ParameterError(msg)


def check_files_of_results(parameters, run_parameters):
    """Refuse invalid file names for the results of steps, and names of the exposure or its main products.

    Parameters
    ----------
    parameters : dict
        step -> its parameters.
    run_parameters : RunParameters

    Raises
    ------
    ParameterError
    """
    owners = {}
    for name, settings in parameters.items():
        is_requested = settings.save_results or settings.output_file is not None
        if not (is_requested or run_parameters.save_intermediates):
            continue
        suffix = settings.suffix or ""
        if suffix in _RESERVED or {"/", "\\"} & set(suffix):
            msg = f"{name}.suffix: {suffix!r} is not allowed; it must not be a path, or one of {', '.join(_RESERVED)}"
            raise ParameterError(msg)
        if settings.output_ext.removeprefix(".") not in _KINDS_OF_FILE:
            known = " or ".join(f".{kind}" for kind in _KINDS_OF_FILE)
            msg = f"{name}.output_ext: {settings.output_ext!r} is not supported; it must be {known}"
            raise ParameterError(msg)
        place = (suffix or name, settings.output_file, settings.output_dir, settings.output_ext)
        if is_requested and not settings.skip and owners.setdefault(place, name) != name:
            msg = f"{name}.suffix: its result would replace that of {owners[place]} with the same suffix, {suffix!r}"
            raise ParameterError(msg)


def _is_named_by_header(settings):
    """Return whether the file name in the header of the exposure determines the name of a result."""
    return settings.output_use_model or (settings.output_file is None and not settings.search_output_file)


def _place_of_result(settings, exposure):
    """Return the file name of the result of a step by the rules of jwst; see `Extra`."""
    name = exposure.meta.meta.filename if _is_named_by_header(settings) else settings.output_file
    ext = "." + settings.output_ext.removeprefix(".")
    return {"stem": Path(name).name if name else "", "folder": settings.output_dir or "", "ext": ext}


def _image_model(run, step, extra):
    """Make an image with the metadata of the exposure."""
    from stdatamodels.jwst import datamodels

    model = datamodels.ImageModel()
    model.update(run.exposure.meta)
    model.data = run.backend.to_host(extra.array)
    _sign(model, run)
    return model


def _array_model(run, step, extra):
    """Make an image, a cube or a ramp, according to the axes of the array, with the metadata of the exposure."""
    from stdatamodels.jwst import datamodels

    array = run.backend.to_host(extra.array)
    model_class = {2: datamodels.ImageModel, 3: datamodels.CubeModel, 4: datamodels.RampModel}[array.ndim]
    model = model_class(data=array)
    model.update(run.exposure.meta)
    # jwst saves such arrays before it records the step
    setattr(model.meta.cal_step, step.cal_step, None)
    _sign(model, run)
    return model


def _optional_fit_model(run, step, extra):
    """Make the optional product of the segmented fit, with the metadata of the exposure before the fit, as in jwst."""
    from stdatamodels.jwst import datamodels

    model = datamodels.RampFitOutputModel(**vars(run.backend.to_host(extra.array)))
    model.update(run.exposure.meta)
    setattr(model.meta.cal_step, step.cal_step, None)
    for reftype, name in run.earlier_names.items():
        getattr(model.meta.ref_file, reftype).name = name
    _sign(model, run)
    return model


def _dark_model(run, step, extra):
    """Make a dark like the reference of the step, but with the read pattern of the exposure."""
    from stdatamodels.jwst import datamodels

    facts = run.exposure.facts
    model_class = datamodels.DarkMIRIModel if facts.is_miri else datamodels.DarkModel
    with model_class(str(run.reference_path(step.name, "dark"))) as reference:
        model = model_class(data=run.backend.to_host(extra.array), dq=reference.dq)
        model.update(reference)
    model.meta.exposure.nframes = facts.nframes
    model.meta.exposure.ngroups = extra.array.shape[-3]
    model.meta.exposure.groupgap = facts.groupgap
    return model


#: kind of an extra product -> function that makes its model
_MODELS = {
    "ramp": lambda run, step, extra: ramp_model(run),
    "rate": lambda run, step, extra: rate_model(run),
    "rateints": lambda run, step, extra: rateints_model(run),
    "image": _image_model,
    "array": _array_model,
    "dark": _dark_model,
    "measured reference": lambda run, step, extra: emicorr_model(extra.array),
    "optional fit": _optional_fit_model,
}


def ramp_without_signature(exposure, backend):
    """Make a ``RampModel`` with the arrays and metadata of the exposure, without version keywords."""
    from stdatamodels.jwst import datamodels

    meta = exposure.meta
    model = datamodels.RampModel()
    model.update(meta)
    names = ("data", "groupdq", "pixeldq", "zeroframe", "average_dark_current")
    for name, array in zip(names, backend.to_host(tuple(getattr(exposure, name) for name in names)), strict=True):
        if array is not None:
            setattr(model, name, array)
    model.int_times = meta.int_times
    model.group = meta.group
    return model


def _sign(model, run):
    """Write jwst's version keywords, the CRDS context, the history and the log into a product."""
    import jwst

    model.meta.calibration_software_version = jwst.__version__
    # releases of jwst have no commit
    model.meta.calibration_software_revision = getattr(jwst, "__version_commit__", "") or "RELEASE"
    model.meta.ref_file.crds.context_used, model.meta.ref_file.crds.sw_version = run.context
    for line in history_of(run):
        model.add_history_entry(line)
    model.cal_logs = {logs.ALIAS: run.log_lines}
    if run.keywords:
        cards = [[keyword, *value] for keyword, value in run.keywords.items()]
        kept = model.extra_fits.instance.get("PRIMARY", {}).get("header", []) if model.hasattr("extra_fits") else []
        model.update({"extra_fits": {"PRIMARY": {"header": [*kept, *cards]}}}, extra_fits=True)


def history_of(run):
    """List the history lines of a product."""
    lines = [f"gpucoron {__version__}, backend {backends_of(run)}, profile {run.profile}"]
    if len(run.workers) > 1:
        places = {record.name: "+".join(record.workers) for record in run.records if record.workers}
        lines.append(f"gpucoron where each step ran: {', '.join(f'{name} {place}' for name, place in places.items())}")
    custom = [record.name for record in run.records if STEPS[record.name].custom and record.status == "COMPLETE"]
    if custom:
        lines.append(f"gpucoron custom steps: {', '.join(custom)}")
    if not installed("jwst").startswith(f"{REPRODUCED_JWST}."):
        lines.append(f"gpucoron steps: as jwst {REPRODUCED_JWST}, with jwst {installed('jwst')} installed")
    if run.pars_files:
        lines.append(f"gpucoron parameter files: {', '.join(run.pars_files)}")
    lines += [
        f"gpucoron {step}: {json.dumps(values, sort_keys=True, default=_printable)}"
        for step, values in changed(STEPS, run.parameters).items()
    ]
    return lines + run.notes


def _printable(value):
    """Convert a value to a string for the history; for a hook its name, which is the same in every process."""
    return name_of_hook(value) if callable(value) or hasattr(value, "run") else str(value)


def name_of_hook(hook):
    """Return the full name of the class or function of a hook."""
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{named.__module__}.{named.__qualname__}"


def backends_of(run):
    """Return the backends that processed an exposure, such as 'cuda' or 'cuda+numpy'."""
    # no step has run yet: return the backend of the run
    return "+".join(run.workers) or run.backend.take_workers()[0]


def note_step(run, step, outcome):
    """Write the metadata that jwst's own step would write."""
    with kept():
        _note_step(run, step, outcome)


def _note_step(run, step, outcome):
    meta, settings = run.exposure.meta.meta, run.parameters[step.name]
    if not step.custom:
        setattr(meta.cal_step, step.cal_step, outcome.status)
    for dotted, value in outcome.meta.items():
        *parents, last = dotted.split(".")
        node = meta
        for parent in parents:
            node = getattr(node, parent)
        setattr(node, last, value)
    run.keywords.update(outcome.keywords)
    run.earlier_names = {}
    if outcome.reason == "switched off":
        return
    opened = outcome.opened
    if opened is None:
        opened = dict.fromkeys(step.references_of(settings, run.exposure.facts))
    for reftype, name in opened.items():
        path = run.reference_path(step.name, reftype)
        named = name if path is None else reference_name(path, settings, reftype)
        if named is not None and hasattr(meta.ref_file, reftype):
            entry = getattr(meta.ref_file, reftype)
            run.earlier_names[reftype], entry.name = entry.name, named
    if opened:
        meta.ref_file.crds.context_used, meta.ref_file.crds.sw_version = run.context


def reference_name(path, settings, reftype):
    """Return the name of a reference in a product, as in jwst: a URI for CRDS, a path for the user's file."""
    if path == "N/A":
        return "N/A"
    if getattr(settings, f"override_{reftype}") is not None:
        return os.path.abspath(path)
    return f"crds://{Path(path).name}"


def product_path(input_name, output_dir, suffix):
    """Return the path of a product: ``x_uncal.fits`` becomes ``x_rate.fits``."""
    stem, separator = split_name(input_name)
    return Path(output_dir) / f"{stem}{separator}{suffix}.fits"


def extra_path(extra, input_name, output_dir):
    """Return the path of an extra product: its own name, or the name of the input with its suffix."""
    folder = os.path.expandvars(os.path.expanduser(extra.folder)) or output_dir
    if extra.file_name:
        return Path(folder) / extra.file_name
    return product_path(extra.stem or input_name, folder, extra.suffix).with_suffix(extra.ext)


def prepare_output(output_dir, paths, overwrite, input_path=None):
    """Make the output folder, and check before any work that the products can be written.

    Raises
    ------
    OutputError
        The folder cannot be created or written to, or a product exists and must not be overwritten.
    """
    output_dir = Path(output_dir)
    _refuse_names(paths, input_path)
    check_folder(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{output_dir}: cannot write in this folder ({error.strerror}); choose another output folder"
        raise OutputError(msg) from None
    existing = [str(path) for path in paths if path.exists()]
    if existing and not overwrite:
        raise _exists_already(existing)


def _exists_already(existing):
    """Return the error for products that exist and must not be replaced."""
    msg = f"{', '.join(existing)}: exists already; use --overwrite (overwrite=True), or another folder"
    return ProductExistsError(msg)


def spare_input(path, input_path):
    """Return the path of a product; raise OutputError if it is the input itself."""
    if input_path is not None and path.exists() and path.samefile(input_path):
        msg = f"{input_path}: a product of this name would replace the input itself; choose another output folder"
        raise OutputError(msg)
    return path


def _refuse_names(paths, owner=None):
    for path in paths:
        if not (path.name.isascii() and path.name.isprintable()):
            msg = (
                f"{owner or path}: file names in FITS headers must be printable ASCII; rename the input, or change the "
                "suffix"
            )
            raise OutputError(msg)


def save(models, *, overwrite=True):
    """Write products completely or not at all.

    Parameters
    ----------
    models : dict
        path -> model, all in one folder. All are written before the first one gets its final name.
    overwrite : bool
        Replace existing files.

    Raises
    ------
    OutputError
        The disk is full, the folder cannot be written to, or a file exists and must not be replaced.
    """
    models = {Path(path): model for path, model in models.items()}
    folder = next(iter(models)).parent
    _refuse_names(models)
    try:
        with appearing(*models, replace=overwrite) as drafts:
            for draft, model in zip(drafts, models.values(), strict=True):
                with kept():
                    model.save(str(draft))
        for path in models:
            log.info("Saved model in %s", path)
    except FileExistsError as error:
        raise _exists_already([str(error.filename)]) from error
    except OSError as error:
        if is_disk_full(error):
            msg = f"{folder}: the disk is full ({first_line(error)}); no incomplete file remains; free disk space"
        else:
            msg = f"{folder}: the products could not be written ({error}); no incomplete file remains"
        raise OutputError(msg) from error


def saving_extras(path_of, after_step=None, written=None):
    """Return a callback for `gpucoron.engine.run_steps` that saves the optional products after each step.

    Parameters
    ----------
    path_of : callable or None
        ``path_of(extra)`` returns the path of a product, see `gpucoron.steps.declaration.Extra`; None saves nothing.
    after_step : callable, optional
        Called as ``after_step(run, record)`` after saving.
    written : dict, optional
        Receives stem of the file name -> path of each written file.
    """

    def save_extras(run, record):
        to_write = {path_of(extra): model for extra, model in extra_products(run, record)} if path_of else {}
        if to_write:
            save(to_write)
        if written is not None:
            written.update({path.stem: path for path in to_write})
        if after_step is not None:
            after_step(run, record)

    return save_extras
