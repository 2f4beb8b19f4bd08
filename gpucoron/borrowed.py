"""The few steps that still run the code of jwst or stcal on the host.

Each helper copies the arrays of the exposure into a ``RampModel``, runs jwst's code on it, and copies the result back.
Errors of that code become a GpucoronError that names the file and the step.
"""

import logging
from functools import partial
from inspect import signature
from pkgutil import resolve_name
from types import MappingProxyType, SimpleNamespace

import numpy as np

from gpucoron.errors import InputError, OutputError, ParameterError, VersionError
from gpucoron.files import first_line, is_disk_full
from gpucoron.io.boundary import converted_errors
from gpucoron.io.products import ramp_without_signature
from gpucoron.io.user_files import check_texts, texts_of
from gpucoron.io.versions import installed
from gpucoron.steps import Outcome
from gpucoron.steps.declaration import COMMON

log = logging.getLogger(__name__)

#: parameters of all our steps that are not passed on to jwst's step
_OURS = ("skip", "save_results", *(parameter.name for parameter in COMMON))
#: clipping of reference pixels in versions of jwst without a parameter for it
_CLIPPING_OF_OLDER = 3.0


def run_jwsts_own(run, step):
    """Run jwst's own step on the exposure of a run, in place.

    Parameters
    ----------
    run : Run
    step : Step
        Its ``borrows`` names the module of jwst.

    Returns
    -------
    Outcome
    """
    exposure, backend = run.exposure, run.backend
    if backend.xp is not np:
        log.info("%s: %s runs jwst's code on the host: the ramps are copied there and back", exposure.name, step.name)
    backend.note_worker("jwst", alone=True)
    jwst_step = _make_step(run, step)
    model = jwst_step.process(ramp_without_signature(exposure, backend))
    exposure.data = backend.to_device(model.data)
    exposure.groupdq = backend.to_device(model.groupdq)
    exposure.pixeldq = backend.to_device(model.pixeldq)
    status = getattr(model.meta.cal_step, step.cal_step) or "COMPLETE"
    reason = "" if status == "COMPLETE" else "jwst skipped the step; see the log"
    return Outcome(status, reason, opened=dict(jwst_step._reference_files_used))


def make_optional_fit(run, step):
    """Make the optional product of the segmented fit, ``fitopt``, with jwst's RampFitStep.

    Returns
    -------
    RampFitOutputModel or None
        None if nothing could be fitted.
    """
    run.backend.note_worker("jwst")
    models = []
    jwst_step = _make_step(run, step)
    jwst_step.save_model = lambda model, suffix, output_file: models.append(model)  # gpucoron signs and saves it
    jwst_step.process(ramp_without_signature(run.exposure, run.backend))
    return models[0] if models else None


def _make_step(run, step):
    """Make jwst's step with the parameters and references of our step."""
    check_texts(step, run.parameters[step.name])
    step_class = resolve_name(f"{step.borrows}:{step.jwst_class}")
    ours = {*_OURS, *(parameter.name for parameter in step.parameters if parameter.ours)}
    values = {key: value for key, value in vars(run.parameters[step.name]).items() if key not in ours}
    for reftype in step_class.reference_file_types:
        path = run.reference_path(step.name, reftype)
        if path is not None:
            values[f"override_{reftype}"] = str(path)
    return step_class(step.name, skip=False, output_dir=run.output_dir and str(run.output_dir), **values)


def large_events(data, groupdq, pixeldq, gain, readnoise, parameters, facts, *, backend, searched=True):
    """Flag snowballs and showers with stcal's code, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
    parameters
        The parameters of jump.
    facts : Facts
    backend : Backend
        The backend of the arrays.
    searched : bool
        Whether jumps were searched for: stcal then ignores unusable groups in the search for showers.

    Returns
    -------
    int
        The number of events, as stcal counts them: only showers if both kinds were searched for.
    """
    from stcal.jump import jump as stcal_jump
    from stcal.jump.jump_class import JumpData
    from stdatamodels.jwst.datamodels import dqflags

    backend.note_worker("jwst")
    on_device = groupdq, pixeldq
    data, groupdq, pixeldq, gain, readnoise = map(backend.to_host, (data, groupdq, pixeldq, gain, readnoise))
    # stcal reads the number of frames from the metadata
    meta = SimpleNamespace(exposure=SimpleNamespace(nframes=facts.nframes))
    # stcal reads these attributes of a model, and no others
    model = SimpleNamespace(data=data, groupdq=groupdq, pixeldq=pixeldq, meta=meta)
    jump_data = JumpData(model, gain, readnoise, dqflags.pixel)
    jump_data.set_snowball_info(
        parameters.expand_large_events,
        parameters.min_jump_area,
        parameters.min_sat_area,
        parameters.expand_factor,
        parameters.sat_required_snowball,
        parameters.min_sat_radius_extend,
        parameters.sat_expand * 2,
        parameters.edge_size,
    )
    jump_data.set_shower_info(
        parameters.find_showers,
        parameters.extend_snr_threshold,
        parameters.extend_min_area,
        parameters.extend_inner_radius,
        parameters.extend_outer_radius,
        parameters.extend_ellipse_expand_ratio,
        parameters.min_diffs_single_pass,
        parameters.max_extended_radius * 2,
    )
    jump_data.set_sigma_clipping_info(
        parameters.minimum_groups, parameters.minimum_sigclip_groups, parameters.only_use_ints
    )
    jump_data.grps_masked_after_shower = int(parameters.time_masked_after_shower // facts.group_time)
    jump_data.mask_persist_grps_next_int = parameters.mask_snowball_core_next_int
    jump_data.persist_grps_flagged = int(parameters.snowball_time_masked_next_int // facts.group_time)
    jump_data.minimum_sigclip_groups = parameters.minimum_sigclip_groups
    if parameters.apply_max_shower_amplitude:
        # stcal compares it with electrons per group
        jump_data.max_shower_amplitude = parameters.max_shower_amplitude * facts.group_time * gain
    else:
        # as in jwst, which multiplies the default of the attribute and ignores the parameter
        jump_data.max_shower_amplitude = jump_data.max_shower_amplitude * facts.group_time
    unusable = (groupdq & (dqflags.group["DO_NOT_USE"] | dqflags.group["SATURATED"])) != 0
    events = 0
    if parameters.expand_large_events:
        flags, events = stcal_jump.flag_large_events(groupdq, jump_data.fl_jump, jump_data.fl_sat, jump_data)
        groupdq[...] = flags
    if parameters.find_showers:
        electrons = data * gain
        if searched:
            electrons[unusable] = np.nan
        flags, events = stcal_jump.find_faint_extended(electrons, groupdq, pixeldq, readnoise * gain, jump_data)
        groupdq[...] = flags
    if on_device[0] is not groupdq:
        on_device[0][...] = backend.to_device(groupdq)
        on_device[1][...] = backend.to_device(pixeldq)
    return events


def full_frame_refpix(exposure, references, parameters, *, backend):
    """Correct near-infrared full frames with jwst's ``reference_pixels``, in place.

    Returns
    -------
    str
        'COMPLETE' or 'SKIPPED'.
    """
    from jwst.refpix import reference_pixels
    from stdatamodels.jwst import datamodels

    backend.note_worker("jwst", alone=True)
    kernel = None
    reference = references.get("sirskernel")
    if parameters.refpix_algorithm == "sirs" and reference is not None:
        kernel = datamodels.SIRSKernelModel(str(reference.path))
    model = ramp_without_signature(exposure, backend)
    options = {}
    if "siglimit" in signature(reference_pixels.correct_model).parameters:
        options["siglimit"] = parameters.siglimit
    elif parameters.siglimit != _CLIPPING_OF_OLDER:
        log.warning("refpix.siglimit has no effect on a full frame: jwst %s lacks this parameter", installed("jwst"))
    status = reference_pixels.correct_model(
        model,
        parameters.odd_even_columns,
        parameters.use_side_ref_pixels,
        parameters.side_smoothing_length,
        parameters.side_gain,
        parameters.odd_even_rows,
        {
            "refpix_algorithm": parameters.refpix_algorithm,
            "sirs_kernel_model": kernel,
            "sigreject": parameters.sigreject,
            "gaussmooth": parameters.gaussmooth,
            "halfwidth": parameters.halfwidth,
        },
        **options,
    )
    exposure.data = backend.to_device(model.data)
    exposure.pixeldq = backend.to_device(model.pixeldq)
    if exposure.zeroframe is not None:
        exposure.zeroframe = backend.to_device(model.zeroframe)
    return "COMPLETE" if status == reference_pixels.REFPIX_OK else "SKIPPED"


def _named(run, step, function):
    """Wrap a function of this module: its errors name the exposure, the step, the cause and the way out.

    The error is a ParameterError if a file that a parameter names is missing, a VersionError if a package is missing,
    an OutputError if the disk is full, and otherwise an InputError. The traceback is logged at level DEBUG, and kept as
    ``__cause__``.
    """

    def convert(error):
        log.debug("%s: %s: jwst's own code failed", run.exposure.name, step.name, exc_info=True)
        settings = run.parameters[step.name]
        texts = ", ".join(f"{step.name}.{name}={value}" for name, value in texts_of(step, settings).items())
        advice = f"check {texts} and the exposure" if texts else "check the exposure and its references"
        msg = (
            f"{run.exposure.name}: {step.name}: jwst's own code failed "
            f"({type(error).__name__}: {first_line(error)}); {advice}, or avoid that code: {_way_out(step)}"
        )
        return _kind_of(error, texts)(msg)

    def call(*args, **kwargs):
        # if the device is out of memory, the exposure is reduced again
        passed_on = None if run.backend.on_host else run.backend.is_out_of_memory
        with converted_errors(run.exposure.name, step.name, convert=convert, passed_on=passed_on):
            return function(*args, **kwargs)

    return call


def _kind_of(error, texts):
    """Choose the class of our error; ``texts`` is not empty if parameters name files."""
    if is_disk_full(error):
        return OutputError
    if isinstance(error, ImportError):
        return VersionError
    is_missing_file = isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError))
    return ParameterError if is_missing_file and texts else InputError


def _way_out(step):
    """Return the settings that avoid jwst's code in a step."""
    settings = {
        "large_events": ("expand_large_events=False", "find_showers=False"),
        "optional_fit": ("save_opt=False",),
    }
    way_out = next((settings[helper] for helper in step.helpers if helper in settings), ("skip=True",))
    return ", ".join(f"{step.name}.{setting}" for setting in way_out)


#: name of a helper that a step may declare -> ``make(run, step)``, which makes it
HELPERS = MappingProxyType(
    {
        "jwsts_own": lambda run, step: _named(run, step, partial(run_jwsts_own, run, step)),
        "optional_fit": lambda run, step: _named(run, step, partial(make_optional_fit, run, step)),
        "large_events": lambda run, step: _named(run, step, partial(large_events, backend=run.backend)),
        "full_frame": lambda run, step: _named(run, step, partial(full_frame_refpix, backend=run.backend)),
    }
)
