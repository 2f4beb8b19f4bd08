"""From an exposure to ``rate``, ``rateints`` and ``ramp``: models with jwst's metadata, and files written whole.

What jwst's ``ramp_fit`` and its step machinery write into a product stands here too; the history adds what jwst has no
keyword for: our version, the backend, and the parameters that differ from jwst's defaults.
"""

import json
import logging
import os
import tempfile
from pathlib import Path

from gpucoron import __version__
from gpucoron.errors import OutputError, ParameterError
from gpucoron.files import appearing
from gpucoron.io import logs
from gpucoron.io.names import split_name
from gpucoron.io.slopes import model_of_slopes
from gpucoron.io.versions import ANSWERS_AS, installed
from gpucoron.parameters import changed
from gpucoron.steps import STEPS
from gpucoron.steps.declaration import Extra

log = logging.getLogger(__name__)

#: what the names of the exposure and of its products end with
_TAKEN = ("uncal", "ramp", "rate", "rateints")
#: that the result of a step can be saved as
_KINDS_OF_FILE = ("fits", "asdf")


def rate_model(run):
    """Make the ``rate`` product, an ``ImageModel``; None where no ramp could be fitted."""
    from stdatamodels.jwst import datamodels

    return _slopes_model(run, run.exposure.rate, datamodels.ImageModel)


def rateints_model(run):
    """Make the ``rateints`` product, a ``CubeModel``; None where no ramp could be fitted."""
    from stdatamodels.jwst import datamodels

    model = _slopes_model(run, run.exposure.rateints, datamodels.CubeModel)
    if model is not None:
        model.int_times = run.exposure.meta.int_times
    return model


def _slopes_model(run, slopes, model_class):
    if slopes is None:
        return None
    model = model_of_slopes(run.exposure, slopes, model_class, run.backend)
    _sign(model, run)
    return model


def ramp_model(run):
    """Make a ``ramp`` product of the exposure as it stands: also what borrowed steps of jwst work on.

    The arrays are the exposure's own, where it lives on the host.
    """
    model = ramp_without_signature(run.exposure, run.backend)
    _sign(model, run)
    return model


def extra_products(run, record):
    """Make the products that were asked for after a step.

    Returns
    -------
    list of (Extra, model)
        What the product is and is to be called; and its model.
    """
    step, settings = STEPS[record.name], run.parameters[record.name]
    # jwst saves the result of its own steps also where they had nothing to do
    ran = record.status == "COMPLETE" if step.custom else record.reason != "switched off"
    is_on, has_slopes = record.reason != "switched off", run.exposure.rateints is not None
    place = _place_of_result(settings, run.exposure)
    extras = _results(step, settings, run.run_parameters, place, is_on=is_on, ran=ran, has_slopes=has_slopes)
    if step.extras is not None:
        extras += step.extras(run.exposure, settings)
    return [(extra, _MODELS[extra.kind](run, step, extra)) for extra in extras]


def _results(step, settings, run_parameters, place, *, is_on, ran, has_slopes):
    """List the products that hold the result of a step, where that is asked for."""
    is_asked = is_on and (settings.save_results or settings.output_file is not None)
    # spaceKLIP's save_intermediates passes over the slopes as jwst's own steps leave them
    is_asked |= run_parameters.save_intermediates and ran and step.leaves != "slopes"
    suffix, extras = settings.suffix or step.name, []
    if has_slopes:
        if is_asked and ran:
            extras += [Extra(kind, suffix=ending.format(suffix), **place) for kind, ending in step.saves.items()]
    elif step.leaves != "slopes":
        if is_asked:
            extras.append(Extra("ramp", suffix=suffix, **place))
        saves_ramp = run_parameters.save_calibrated_ramp or run_parameters.save_intermediates
        if step.leaves == "calibrated ramp" and saves_ramp:
            extras.append(Extra("ramp", suffix="ramp"))
    return extras


class _WholeExposure:
    """Stands for an exposure that has all of its steps behind it: whatever a step may leave is there."""

    name = ""

    def __getattr__(self, name):
        return "there"


def expected_products(run):
    """List the products that a run may have, before it: what steps find out on their way may add others.

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


def check_files_of_results(parameters, run_parameters):
    """Refuse files for the results of steps that cannot be, or that belong to the exposure and its products.

    Parameters
    ----------
    parameters : dict
        step -> its parameters.
    run_parameters : RunParameters

    Raises
    ------
    ParameterError
    """
    taken = {}
    for name, settings in parameters.items():
        is_asked = settings.save_results or settings.output_file is not None
        if not (is_asked or run_parameters.save_intermediates):
            continue
        suffix = settings.suffix or ""
        if suffix in _TAKEN or {"/", "\\"} & set(suffix):
            msg = f"{name}.suffix: {suffix!r} cannot be; it must be no path, and none of {', '.join(_TAKEN)}"
            raise ParameterError(msg)
        if settings.output_ext.removeprefix(".") not in _KINDS_OF_FILE:
            known = " or ".join(f".{kind}" for kind in _KINDS_OF_FILE)
            msg = f"{name}.output_ext: {settings.output_ext!r} cannot be written; it must be {known}"
            raise ParameterError(msg)
        place = (suffix or name, settings.output_file, settings.output_dir, settings.output_ext)
        if is_asked and not settings.skip and taken.setdefault(place, name) != name:
            msg = (
                f"{name}.suffix: its result would replace that of {taken[place]}, which has the same suffix, {suffix!r}"
            )
            raise ParameterError(msg)


def _is_named_by_header(settings):
    """Tell whether the result of a step is called as the exposure's header says."""
    return settings.output_use_model or (settings.output_file is None and not settings.search_output_file)


def _place_of_result(settings, exposure):
    """Say where the result of a step goes, as jwst's steps read the parameters of that; see `Extra`."""
    name = exposure.meta.meta.filename if _is_named_by_header(settings) else settings.output_file
    ext = "." + settings.output_ext.removeprefix(".")
    return {"stem": Path(name).name if name else "", "folder": settings.output_dir or "", "ext": ext}


def _image_model(run, step, extra):
    """Make an image with the exposure's metadata."""
    from stdatamodels.jwst import datamodels

    model = datamodels.ImageModel()
    model.update(run.exposure.meta)
    model.data = run.backend.to_host(extra.array)
    _sign(model, run)
    return model


def _optional_fit_model(run, step, extra):
    """Sign the model that jwst's own fit has made."""
    _sign(extra.array, run)
    return extra.array


def _dark_model(run, step, extra):
    """Make a dark like the step's reference, in the exposure's read pattern."""
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


#: kind of an extra product -> the maker of its model
_MODELS = {
    "ramp": lambda run, step, extra: ramp_model(run),
    "rate": lambda run, step, extra: rate_model(run),
    "rateints": lambda run, step, extra: rateints_model(run),
    "image": _image_model,
    "dark": _dark_model,
    "optional fit": _optional_fit_model,
}


def ramp_without_signature(exposure, backend):
    """Make a ``RampModel`` of the exposure's arrays and metadata."""
    from stdatamodels.jwst import datamodels

    meta = exposure.meta
    model = datamodels.RampModel()
    model.update(meta)
    model.data = backend.to_host(exposure.data)
    model.groupdq = backend.to_host(exposure.groupdq)
    model.pixeldq = backend.to_host(exposure.pixeldq)
    if exposure.zeroframe is not None:
        model.zeroframe = backend.to_host(exposure.zeroframe)
    if exposure.average_dark_current is not None:
        model.average_dark_current = backend.to_host(exposure.average_dark_current)
    model.int_times = meta.int_times
    model.group = meta.group
    return model


def _sign(model, run):
    """Write who made the product: jwst's version keywords (its conventions apply), and ours into the history."""
    import jwst

    model.meta.calibration_software_version = jwst.__version__
    model.meta.calibration_software_revision = getattr(jwst, "__version_commit__", "") or "RELEASE"
    model.meta.ref_file.crds.context_used, model.meta.ref_file.crds.sw_version = run.context
    for line in history_of(run):
        model.add_history_entry(line)
    model.cal_logs = {logs.ALIAS: run.log_lines}


def history_of(run):
    """List the history lines of a product."""
    lines = [f"gpucoron {__version__}, backend {backends_of(run)}, profile {run.profile}"]
    if len(run.workers) > 1:
        shared = {record.name: "+".join(record.workers) for record in run.records if record.workers}
        lines.append(f"gpucoron where each step ran: {', '.join(f'{name} {where}' for name, where in shared.items())}")
    custom = [record.name for record in run.records if STEPS[record.name].custom and record.status == "COMPLETE"]
    if custom:
        lines.append(f"gpucoron custom steps: {', '.join(custom)}")
    lines += _versions_of(run)
    if run.pars_files:
        lines.append(f"gpucoron parameter files: {', '.join(run.pars_files)}")
    lines += [
        f"gpucoron {step}: {json.dumps(values, sort_keys=True, default=_told)}"
        for step, values in changed(STEPS, run.parameters).items()
    ]
    return lines + run.notes


def _told(value):
    """Write a value for the history: of a hook its name, the same in every process."""
    return name_of_hook(value) if callable(value) or hasattr(value, "run") else str(value)


def name_of_hook(hook):
    """Name the class or function that a hook is."""
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{named.__module__}.{named.__qualname__}"


def _versions_of(run):
    """Say which jwst a product answers to: our own steps as one, the code that others run is the installed one's."""
    lines = []
    if not installed("jwst").startswith(f"{ANSWERS_AS}."):
        lines.append(f"gpucoron own steps: as jwst {ANSWERS_AS}, with jwst {installed('jwst')} installed")
    borrowed = [record.name for record in run.records if "jwst" in record.workers]
    if borrowed:
        code = f"jwst {installed('jwst')}, stcal {installed('stcal')}"
        lines.append(f"gpucoron code of {code}: {', '.join(borrowed)}")
    return lines


def backends_of(run):
    """Name the backends that have worked on an exposure: 'cuda', 'cuda+numpy'; jwst's own code is no backend."""
    # Before the first step has done anything, it is the one that would do it.
    return "+".join(worker for worker in run.workers if worker != "jwst") or run.backend.take_workers()[0]


def note_step(run, step, outcome):
    """Write into the metadata what jwst's own step would have left there."""
    meta, settings = run.exposure.meta.meta, run.parameters[step.name]
    if not step.custom:
        setattr(meta.cal_step, step.cal_step, outcome.status)
    for dotted, value in outcome.meta.items():
        *parents, last = dotted.split(".")
        node = meta
        for parent in parents:
            node = getattr(node, parent)
        setattr(node, last, value)
    if outcome.reason == "switched off":
        return
    opened = outcome.opened
    if opened is None:
        opened = dict.fromkeys(step.references_of(settings, run.exposure.facts))
    for reftype, name in opened.items():
        path = run.reference_path(step.name, reftype)
        named = name if path is None else reference_name(path, settings, reftype)
        if named is not None and hasattr(meta.ref_file, reftype):
            getattr(meta.ref_file, reftype).name = named
    if opened:
        # what jwst's own code saves in a later step tells it
        meta.ref_file.crds.context_used, meta.ref_file.crds.sw_version = run.context


def reference_name(path, settings, reftype):
    """Name a reference as jwst does in a product: CRDS's by URI, the user's by path."""
    if path == "N/A":
        return "N/A"
    # jwst's own code may open types that the step does not declare
    if getattr(settings, f"override_{reftype}", None) is not None:
        return os.path.abspath(path)
    return f"crds://{Path(path).name}"


def product_path(input_name, output_dir, suffix):
    """Name a product after its input: ``x_uncal.fits`` becomes ``x_rate.fits``."""
    stem, separator = split_name(input_name)
    return Path(output_dir) / f"{stem}{separator}{suffix}.fits"


def extra_path(extra, input_name, output_dir):
    """Name an extra product: by the name that it has, or after the input."""
    folder = os.path.expandvars(os.path.expanduser(extra.folder)) or output_dir
    if extra.file_name:
        return Path(folder) / extra.file_name
    return product_path(extra.stem or input_name, folder, extra.suffix).with_suffix(extra.ext)


def prepare_output(output_dir, paths, overwrite, input_path=None):
    """Make the output folder and see, before any work, that the products can be written there.

    Raises
    ------
    OutputError
        The folder cannot be made or written to, or a product exists and may not be overwritten.
    """
    output_dir = Path(output_dir)
    _refuse_names(paths, input_path)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        msg = f"{output_dir}: cannot write there ({error.strerror}); choose another output folder"
        raise OutputError(msg) from None
    existing = [str(path) for path in paths if path.exists()]
    if existing and not overwrite:
        msg = f"{', '.join(existing)}: exists already; use --overwrite (overwrite=True), or another folder"
        raise OutputError(msg)


def spare_input(path, input_path):
    """Return a product's path, unless that is the input itself.

    Raises
    ------
    OutputError
    """
    if input_path is not None and path.exists() and path.samefile(input_path):
        msg = f"{input_path}: a product of this name would replace the input itself; choose another output folder"
        raise OutputError(msg)
    return path


def _refuse_names(paths, owner=None):
    for path in paths:
        if not (path.name.isascii() and path.name.isprintable()):
            told = f"{owner or path}: FITS headers hold a file's name, and take only ASCII"
            msg = f"{told}; rename the input, or the suffix"
            raise OutputError(msg)


def save(models):
    """Write products so that they appear whole or not at all.

    Parameters
    ----------
    models : dict
        path -> model. All lie in one folder; all are written before the first one appears under its name.

    Raises
    ------
    OutputError
        The disk is full, or the folder cannot be written to.
    """
    models = {Path(path): model for path, model in models.items()}
    folder = next(iter(models)).parent
    _refuse_names(models)
    try:
        with appearing(*models) as drafts:
            for draft, model in zip(drafts, models.values(), strict=True):
                model.save(str(draft))
        for path in models:
            log.info("Saved model in %s", path)
    except OSError as error:
        msg = f"{folder}: the products could not be written ({error}); nothing was left half-written"
        raise OutputError(msg) from error


def saving_extras(path_of, after_step=None, written=None):
    """Make what `gpucoron.engine.run_steps` calls after each step: it saves the further products that were asked for.

    Parameters
    ----------
    path_of : callable or None
        ``path_of(extra)`` says where a product goes, see `gpucoron.steps.declaration.Extra`; None saves nothing.
    after_step : callable, optional
        Called as ``after_step(run, record)`` when that is done.
    written : dict, optional
        Takes stem of the name -> path of what was written.
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
