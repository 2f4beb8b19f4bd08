"""The few steps that still run the code of jwst or stcal on the host.

Each helper copies the arrays of the exposure into a ``RampModel``, runs jwst's code on it, and copies the result back.
Errors of that code become a GpucoronError that names the file and the step.
"""

import logging
from functools import partial
from pkgutil import resolve_name
from types import MappingProxyType

import numpy as np

from gpucoron.errors import InputError, OutputError, ParameterError, VersionError
from gpucoron.files import first_line, is_disk_full
from gpucoron.io.boundary import converted_errors
from gpucoron.io.products import ramp_without_signature
from gpucoron.io.user_files import check_texts, texts_of
from gpucoron.steps import Outcome
from gpucoron.steps.declaration import COMMON

log = logging.getLogger(__name__)

#: parameters of all our steps that are not passed on to jwst's step
_OURS = ("skip", "save_results", *(parameter.name for parameter in COMMON))


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
    settings = {}
    way_out = next((settings[helper] for helper in step.helpers if helper in settings), ("skip=True",))
    return ", ".join(f"{step.name}.{setting}" for setting in way_out)


#: name of a helper that a step may declare -> ``make(run, step)``, which makes it
HELPERS = MappingProxyType(
    {
        "jwsts_own": lambda run, step: _named(run, step, partial(run_jwsts_own, run, step)),
    }
)
