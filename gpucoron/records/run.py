"""One reduction: its plan, and the records of the steps that have run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucoron import get_by_old_name
from gpucoron.dq import JUMP_DET, SATURATED
from gpucoron.interactive import Shown, public, table
from gpucoron.records.remarks import OFF, describe_outcome
from gpucoron.steps import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from gpucoron.backends.backend import Backend
    from gpucoron.backends.results import FlagCounts


@dataclass
class StepRecord:
    """The status and the time of one step; ``workers`` names the backends that worked on it.

    A GPU does the work of a step after the step has returned. Until the last step is done, ``seconds`` is the time of
    the calls, then that on the GPU.
    """

    name: str
    status: str
    seconds: float
    reason: str = ""
    flagged: dict[str, int] = field(default_factory=dict)
    workers: tuple[str, ...] = ()


@dataclass(repr=False)
class Run(Shown):
    """The plan of one exposure, and the records of the steps that have run.

    A run keeps its exposure with the ramps: 5 bytes for each sample, in the memory of the backend, until the run is
    deleted.

    Attributes
    ----------
    exposure : Exposure
    backend : Backend
    profile : {'jwst', 'spaceklip', 'recommended'}
    parameters : dict
        step -> its parameters, a frozen dataclass.
    run_parameters : RunParameters
        The parameters of the run as a whole.
    references : dict
        Reference type -> path or 'N/A' from CRDS, and 'step.type' -> path of an override.
    pars_files : list of str
        The parameter files that were applied: names of CRDS files, paths of the user's files.
    context : (str, str)
        The CRDS context and the version of the CRDS software.
    order : tuple of str
        The steps as they run.
    output_dir : Path or None
        Folder for extra products of steps; None is the current folder.
    records : list of StepRecord
    phases : dict
        The seconds that `gpucoron.reduce_file` spent on reading, planning and writing.
    notes : list of str
        Lines for the history of the products.
    keywords : dict
        What steps have measured, for the primary header of the products: keyword -> (value, comment).
    earlier_names : dict
        The references of the last step: type -> the name that products had before, or None.
    log_lines : list of str
        The log for the products, see `gpucoron.io.logs.recorded`.
    after_steps : list of callable
        Called after the last step: they write files that an exposure must not write if it fails or starts again.
    """

    exposure: Any
    backend: Backend
    profile: str
    parameters: dict[str, Any]
    run_parameters: Any
    references: dict[str, str]
    pars_files: list[str]
    context: tuple[str, ...]
    order: tuple[str, ...]
    output_dir: Path | None = None
    records: list[StepRecord] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    earlier_names: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    keywords: dict[str, tuple[Any, str]] = field(default_factory=dict)
    log_lines: list[str] = field(default_factory=list)
    after_steps: list[Callable[[], object]] = field(default_factory=list)
    _counted: tuple[int, FlagCounts] | None = field(default=None, init=False, repr=False)

    if not TYPE_CHECKING:  # a type checker would accept every attribute

        def __getattr__(self, name):
            return get_by_old_name("gpucoron.engine.Run", name, self)

    @property
    def seconds(self) -> float:
        """Seconds spent in the steps."""
        return sum(record.seconds for record in self.records)

    @property
    def workers(self) -> list[str]:
        """Names of the backends that have worked on the exposure, or 'jwst', in the order of their first step."""
        return list(dict.fromkeys(worker for record in self.records for worker in record.workers))

    def reference_path(self, step: str, reftype: str) -> str | None:
        """Return the path of a step's reference: the override or that of CRDS; None if it was not looked up."""
        return self.references.get(f"{step}.{reftype}", self.references.get(reftype))

    @property
    def flag_counts(self) -> FlagCounts:
        """Counts of the group flags, for the record and the preview; they are kept until another step has run."""
        if self._counted is None or self._counted[0] != len(self.records):
            counts = self.backend.count_flags(self.exposure.groupdq, in_samples=0xFF, in_groups=JUMP_DET | SATURATED)
            self._counted = len(self.records), counts
        return self._counted[1]

    @property
    def fits(self) -> bool:
        """Whether any step fits the ramps. If not, the ramp is the product."""
        return any(STEPS[name].fits and not self.parameters[name].skip for name in self.order)

    @public
    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the rate, its error and its flags, and the time of each step.

        Only the images are copied from the device of the backend, not the ramps.

        Parameters
        ----------
        path : str or Path, optional
            Also write the figure, as ``.png``, ``.pdf`` or ``.svg``.

        Returns
        -------
        matplotlib.figure.Figure
            Not shown; a notebook displays it.

        Raises
        ------
        InputError
            There is no rate, because no ramp could be fitted or the fit is switched off.
        OutputError
            The file cannot be written.
        """
        from gpucoron.records.picture import draw_run

        return draw_run(self, path)

    def _summary(self) -> str:
        if not self.records:
            state = "not run yet"
        else:
            ran = sum(record.status == "COMPLETE" for record in self.records)
            state = f"{ran} of {len(self.records)} steps ran in {self.seconds:.2f} s"
        backend = "+".join(self.workers) or (self.backend.name if self.backend is not None else None)
        settings = [f"backend {backend}", f"profile {self.profile}", *self.context[:1]]
        about = "no exposure" if self.exposure is None else self.exposure.summary
        return "; ".join([about, ", ".join(settings), state])

    def _repr_html_(self) -> str:
        rows = [
            (one.name, one.status.lower(), f"{one.seconds:.3f}", describe_outcome("COMPLETE", one.reason, one.flagged))
            for one in self.records
            if one.reason != OFF
        ]
        rows.append(("all steps", "", f"{self.seconds:.3f}", ""))
        off = [record.name for record in self.records if record.reason == OFF]
        note = f"switched off: {', '.join(off)}" if off else ""
        return table(f"Run {self._summary()}", ("step", "status", "seconds", "remark"), rows, note)
