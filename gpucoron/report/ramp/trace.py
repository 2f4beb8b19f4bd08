"""Trace one pixel through stage 1: its ramp, its flags and their causes after every step, and both fits."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpucoron import dq
from gpucoron.backends import get_backend
from gpucoron.backends.backend import BackendLike
from gpucoron.engine import check_request, plan, run_steps
from gpucoron.errors import InputError, ParameterError
from gpucoron.files import AnyPath, Paths
from gpucoron.interactive import Shown, public, table
from gpucoron.io.boundary import converted_errors
from gpucoron.io.exposure import Exposure, check_path
from gpucoron.io.input_paths import describe_product
from gpucoron.io.logs import recorded
from gpucoron.io.references import load_references
from gpucoron.parameters import Profile, StepSettings
from gpucoron.report.ramp.causes import FLAGS, Neighbourhood, StepContext, explain
from gpucoron.report.ramp.cut import Box, CutReferences, cut_exposure, split_order
from gpucoron.report.ramp.fits import fit_both
from gpucoron.steps import STEPS


@dataclass(frozen=True, eq=False, repr=False)
class PixelState(Shown):
    """One pixel after a step.

    Attributes
    ----------
    data : (nints, ngroups) float32, DN
    groupdq : (nints, ngroups) uint8
    pixeldq : int
    rate, rateints : dict or None
        Name of the array of `gpucoron.backends.results.Slopes` -> value, or (nints,) values.
    """

    data: np.ndarray
    groupdq: np.ndarray
    pixeldq: int
    rate: dict | None = None
    rateints: dict | None = None


@dataclass(frozen=True, eq=False, repr=False)
class TracedStep(Shown):
    """What one step did to the pixel.

    Attributes
    ----------
    name, status, reason : str
        As in `gpucoron.engine.StepRecord`.
    on_frame : bool
        Whether the step ran on the whole frame.
    before, after : PixelState
    causes : tuple of gpucoron.report.ramp.causes.Cause
        One for each flag that the step set in a group.
    """

    name: str
    status: str
    reason: str
    on_frame: bool
    before: PixelState
    after: PixelState
    causes: tuple = ()

    def _summary(self):
        return f"{self.name}: {self.status.lower()}, {len(self.causes)} flags set"


@dataclass(frozen=True, eq=False, repr=False)
class RampTrace(Shown):
    """The ramp of one pixel through all steps.

    Attributes
    ----------
    path : Path
    x, y : int
        Zero-based, in the array of the exposure.
    corner : (int, int) or None
        Detector coordinates of the first pixel of the array, one-based.
    target : str
    facts : Facts
    profile, context : str
    raw : PixelState
        As read.
    steps : tuple of TracedStep
    fits : tuple of gpucoron.report.ramp.fits.Fit
        OLS_C and LIKELY for every integration; empty if the ramps cannot be fitted.
    gain, readnoise : float
        e-/DN; DN, CDS noise, as in the reference. NaN if unknown.
    """

    path: Path
    x: int
    y: int
    corner: tuple | None
    target: str
    facts: Any
    profile: str
    context: str
    raw: PixelState
    steps: tuple
    fits: tuple
    gain: float
    readnoise: float

    def _summary(self):
        nints, ngroups = self.raw.data.shape
        return f"{self.path.name}: pixel {self.x}, {self.y}: {nints} integrations x {ngroups} groups"

    def _repr_html_(self):
        rows = [
            (cause.integration, cause.group, cause.flag, step.name, cause.text)
            for step in self.steps
            for cause in step.causes
        ]
        header = ("integration", "group", "flag", "step", "cause")
        return table(f"RampTrace {self._summary()}", header, rows, "" if rows else "no flags")

    @property
    def nints(self) -> int:
        """Number of integrations."""
        return self.raw.data.shape[0]

    @property
    def corrected(self) -> PixelState:
        """State of the ramp at the fit: after the last step that changes groups."""
        return self.steps[-1].after if self.steps else self.raw

    @property
    def detector(self) -> tuple[int, int] | None:
        """The one-based detector coordinates (x, y) of the pixel, or None."""
        return None if self.corner is None else (self.corner[0] + self.x, self.corner[1] + self.y)

    def causes(self, integration: int) -> dict[int, list[Any]]:
        """Return group -> causes of the flags that the group has at the end, in the order of the steps."""
        found: dict[int, list[Any]] = {}
        final = self.corrected.groupdq[integration]
        for cause in (cause for step in self.steps for cause in step.causes):
            if cause.integration == integration and final[cause.group] & FLAGS[cause.flag]:
                found.setdefault(cause.group, []).append(cause)
        return found

    def choose_integration(self, integration: int | None = None) -> int:
        """Return the given integration, or by default the first one with a jump, else the first one.

        Raises
        ------
        ParameterError
            There is no such integration.
        """
        if integration is None:
            jumps = np.flatnonzero((self.corrected.groupdq & dq.JUMP_DET).any(axis=1))
            return int(jumps[0]) if jumps.size else 0
        return check_integration(integration, self.nints, self.path)


def check_integration(integration, nints, path):
    """Return an integration as int, or raise a ParameterError."""
    number = _whole_number(integration)
    if number is None or not 0 <= number < nints:
        msg = f"{path}: --int {integration}: the exposure has {nints} integrations, counted from 0: 0 to {nints - 1}"
        raise ParameterError(msg)
    return number


def _whole_number(value):
    """Return a whole number as int; None for anything else."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == value or isinstance(value, str) else None


@public
@recorded()
def trace_ramp(
    path: AnyPath,
    x: int,
    y: int,
    *,
    integration: int | None = None,
    profile: Profile = "jwst",
    steps: StepSettings | None = None,
    backend: BackendLike = "auto",
    use_pars: bool | None = None,
    pars: Paths | None = None,
    **run_parameters: Any,
) -> RampTrace:
    """Trace a pixel through stage 1.

    Steps that need the whole frame, and all steps before them, run on it. All others run on the pixels that decide on
    this one. The results are those of the whole reduction; nothing is written.

    Parameters
    ----------
    path : str or Path
        ``*_uncal.fits`` or ``*_ramp.fits``.
    x, y : int
        Column and row in the array, counted from 0.
    integration : int, optional
        Checked before any work, counted from 0; the trace has all integrations.
    profile, steps, use_pars, pars
        As for `gpucoron.reduce_file`.
    backend : str or Backend, optional
        For the steps on the whole frame; all others use the NumPy definitions.
    **run_parameters
        As for `gpucoron.reduce_file`.

    Returns
    -------
    RampTrace

    Raises
    ------
    ParameterError
        The pixel or the integration is not in the exposure, or is a reference pixel, which has no rate.
    GpucoronError
        As `gpucoron.reduce_file`.
    """
    path = check_path(path)
    is_product = describe_product(path)
    if is_product:
        raise InputError(is_product)
    steps, _parameters = check_request(profile=profile, steps=steps, pipeline=run_parameters, pars=pars)
    backend = get_backend(backend)
    with converted_errors(path):
        exposure = Exposure.read(path, backend)
        x, y = _check_pixel(path, x, y, exposure)
        if integration is not None:
            check_integration(integration, exposure.data.shape[0], path)
        request: dict[str, Any] = {
            "profile": profile,
            "steps": steps,
            "pipeline": run_parameters,
            "use_pars": use_pars,
            "pars": pars,
        }
        return _trace(plan(exposure, backend=backend, **request), x, y)


def _check_pixel(path, x, y, exposure):
    """Return the coordinates as int; refuse those that are not in the array, and reference pixels."""
    ny, nx = exposure.data.shape[-2:]
    column, row = _whole_number(x), _whole_number(y)
    if column is None or row is None or not (0 <= column < nx and 0 <= row < ny):
        facts = exposure.facts
        hint = ""
        if None not in (facts.xstart, facts.ystart) and column is not None and row is not None:
            inside = column - facts.xstart, row - facts.ystart
            if 0 <= inside[0] < nx and 0 <= inside[1] < ny:
                hint = f"; as detector coordinates, counted from 1, it would be the pixel {inside[0]} {inside[1]}"
        msg = f"{path}: no pixel {x} {y}: x is 0 to {nx - 1} and y is 0 to {ny - 1}, counted from 0{hint}"
        raise ParameterError(msg)
    if _is_reference_pixel(exposure.facts, column, row):
        msg = (
            f"{path}: {column} {row} is a reference pixel at the edge of the detector, without light and without a rate"
        )
        raise ParameterError(msg)
    return column, row


def _is_reference_pixel(facts, x, y):
    """Return whether a pixel of the array is on the border of reference pixels of the detector."""
    if None in (facts.xstart, facts.ystart):
        return False
    border, (ny, nx) = 4, facts.full_frame
    column, row = x + facts.xstart - 1, y + facts.ystart - 1
    in_columns = column < border or column >= nx - border
    in_rows = not facts.is_miri and (row < border or row >= ny - border)
    return in_columns or in_rows


def _trace(run, x, y):
    """Run the steps of a plan, on the frame as far as necessary, and record the pixel."""
    exposure = run.exposure
    run.parameters = {name: _without_files(settings, STEPS[name]) for name, settings in run.parameters.items()}
    whole, local, halo = split_order(run.order, run.parameters, exposure.facts)
    fit_step = next((name for name in run.order if STEPS[name].fits and not run.parameters[name].skip), None)
    recorder = _Recorder(run, x, y)
    raw = recorder.state()
    fits = ()

    def run_part(run, names, store=None):
        if names:
            part = replace(run, order=names)
            recorder.store = store
            run_steps(part, after_step=recorder.record, store=store)
            run.backend = part.backend

    if fit_step in whole:
        at = whole.index(fit_step)
        run_part(run, whole[:at])
        fits = _fit_cut(run, x, y, fit_step)
        run_part(run, whole[at:])
    else:
        run_part(run, whole)
    if local:
        box = Box.around(x, y, max(halo, recorder.radius), exposure.data.shape[-2:])
        small = replace(run, exposure=cut_exposure(exposure, box, run.backend), backend=get_backend("numpy"))
        store = CutReferences(exposure, box, run.backend)
        recorder.move_to(small, box.column, box.row)
        if fit_step in local:
            at = local.index(fit_step)
            run_part(small, local[:at], store)
            fits = _fit_small(small, store, box, fit_step)
            run_part(small, local[at:], store)
        else:
            run_part(small, local, store)
    gain, readnoise = _detector(run, x, y)
    facts = exposure.facts
    return RampTrace(
        path=exposure.path,
        x=x,
        y=y,
        corner=None if None in (facts.xstart, facts.ystart) else (facts.xstart, facts.ystart),
        target=str(exposure.meta.meta.target.proposer_name or ""),
        facts=facts,
        profile=run.profile,
        context=str(run.context[0]),
        raw=raw,
        steps=tuple(recorder.steps),
        fits=fits,
        gain=gain,
        readnoise=readnoise,
    )


def _without_files(settings, step):
    """Switch off what writes files or makes products that a trace does not need."""
    off = {
        name: parameter.default
        for name, parameter in step.known.items()
        if name.startswith("save_") and getattr(settings, name) != parameter.default
    }
    return replace(settings, **off) if off else settings


def _detector(run, x, y):
    """Return gain (e-/DN) and read noise (DN) of the pixel, NaN if the references are missing."""
    paths = {name: path for name in ("gain", "readnoise") if (path := run.reference_path("ramp_fit", name)) is not None}
    if len(paths) < 2 or "N/A" in paths.values():
        return float("nan"), float("nan")
    loaded = load_references(run.exposure, paths, run.backend)
    return tuple(float(loaded[name].data[y, x]) for name in ("gain", "readnoise"))


def _fit_cut(run, x, y, fit_step):
    """Fit a pixel of the whole frame with both algorithms."""
    box = Box.around(x, y, 0, run.exposure.data.shape[-2:])
    small = replace(run, exposure=cut_exposure(run.exposure, box, run.backend), backend=get_backend("numpy"))
    return _fit_small(small, CutReferences(run.exposure, box, run.backend), box, fit_step)


def _fit_small(run, store, box, fit_step):
    """Fit the ramps of a cut exposure with both algorithms; the exposure is not changed."""
    paths = {name: run.reference_path("ramp_fit", name) for name in ("gain", "readnoise")}
    if None in paths.values():
        paths = {name: run.reference_path(fit_step, name) for name in paths}
    if None in paths.values():
        return ()
    references = load_references(run.exposure, paths, run.backend, store)
    settings = run.parameters["ramp_fit"]
    return fit_both(copy.copy(run.exposure), references, settings, box.row, box.column)


class _Recorder:
    """Records the pixel and its neighbourhood before and after each step."""

    def __init__(self, run, x, y):
        self.steps, self.store = [], None
        self.radius = 1 + 2 * min(run.parameters["saturation"].n_pix_grow_sat, max(run.exposure.data.shape[-2:]))
        self.first_x, self.first_y = x, y
        self.move_to(run, x, y)
        self.on_frame = True

    def move_to(self, run, x, y):
        """Go on with another exposure, in which the pixel is at (x, y)."""
        self.run, self.x, self.y = run, x, y
        self.on_frame = False
        self._neighbourhood = self._read_neighbourhood()
        self._before = self.state()

    def state(self):
        """Return the state of the pixel."""
        exposure, host = self.run.exposure, self.run.backend.to_host
        at = (..., self.y, self.x)

        def slopes(of):
            return None if of is None else {name: np.array(host(array[at])) for name, array in vars(of).items()}

        return PixelState(
            np.array(host(exposure.data[at])),
            np.array(host(exposure.groupdq[at])),
            int(exposure.pixeldq[at]),
            slopes(exposure.rate),
            slopes(exposure.rateints),
        )

    def _read_neighbourhood(self):
        exposure, host = self.run.exposure, self.run.backend.to_host
        ny, nx = exposure.data.shape[-2:]
        box = Box.around(self.x, self.y, self.radius, (ny, nx))
        return Neighbourhood(
            box=box,
            corner=(self.first_x - box.column, self.first_y - box.row),
            data=np.array(host(box.of(exposure.data))),
            groupdq=np.array(host(box.of(exposure.groupdq))),
            pixeldq=np.array(host(box.of(exposure.pixeldq))),
        )

    def record(self, run, record):
        """Record a step; called after each step."""
        self.run = run
        after = self.state()
        causes = ()
        if record.reason != "switched off" and not np.array_equal(after.groupdq, self._before.groupdq):
            context = StepContext(run, record.name, self._neighbourhood, self.store)
            causes = tuple(explain(context, self._before.groupdq, after.groupdq))
        self.steps.append(
            TracedStep(record.name, record.status, record.reason, self.on_frame, self._before, after, causes)
        )
        self._before, self._neighbourhood = after, self._read_neighbourhood()
