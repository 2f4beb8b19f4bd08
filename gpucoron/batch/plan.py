"""Plan a batch: which exposures to reduce, their references and parameters, time and memory. No product is written.

The references of all exposures are looked up, downloaded if missing, and checked before the first exposure is reduced.
"""

import logging
import os
import re
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpucoron import get_by_old_name
from gpucoron.batch import persistence
from gpucoron.batch.decision import DONE, decide_reduction, product_name
from gpucoron.batch.finished import find_finished
from gpucoron.batch.inputs import (
    Input,
    exposure_name,
    find_files,
    is_selected,
    read_input,
    refuse_duplicates,
    select_shard,
)
from gpucoron.batch.request import changed_parameters, request_digest, user_request
from gpucoron.errors import GpucoronError, OutputError, ParameterError, ReferenceFileError
from gpucoron.files import AnyPath, Paths, file_digest
from gpucoron.interactive import Shown, public, table
from gpucoron.io.boundary import converted_errors
from gpucoron.io.parameter_files import parameters_from_files, takes_crds_pars
from gpucoron.parameters import Profile, StepSettings
from gpucoron.records.manifest import STARTED, Past, read_past
from gpucoron.steps import STEPS

log = logging.getLogger(__name__)

#: which exposures in the manifest are reduced again
REDO = ("needed", "failed", "all")
#: memory of a worker process before it reads an exposure, bytes
PROCESS_BYTES = 200_000_000
#: seconds per file, and per sample of the ramps, on one core of an AMD EPYC; scaled by the folder's own records if any
_SECONDS_PER_FILE, _SECONDS_PER_SAMPLE = 0.4, 1.2e-7


@dataclass(repr=False)
class Planned(Shown):
    """The plan for one exposure.

    Attributes
    ----------
    todo, refused, reason
        Whether it will be reduced, or refused because its products must not be replaced, and why.
    conflict : str
        Why its products must not be replaced; '' if they may.
    expected : list
        Products that it may have.
    products : tuple of str
        Names of these in the manifest.
    request : dict
        The user's request, see `gpucoron.batch.request.user_request`.
    digest : str
        Digest of the request.
    own_files : dict
        The user's parameter files and their digests.
    error : Exception or None
        Why it cannot be reduced.
    pars_files : list of str
        Names of the parameter files of CRDS that apply.
    persistence_file : PersistenceFile or None
        The persistence file that it writes.
    previous_digests : tuple or None
        Digests of the persistence that it read when it was last reduced, if an earlier exposure is reduced again.
    seconds, memory
        Estimates; memory in bytes.
    """

    input: Input
    todo: bool = True
    reason: str = "new"
    refused: bool = False
    conflict: str = ""
    references: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    digest: str = ""
    request: dict = field(default_factory=dict)
    own_files: dict = field(default_factory=dict)
    expected: list = field(default_factory=list)
    products: tuple = ()
    error: Exception | None = None
    pars_files: list = field(default_factory=list)
    persistence_file: persistence.PersistenceFile | None = None
    previous_digests: tuple | None = None
    seconds: float = 0.0
    memory: int = 0
    product_bytes: int = 0

    def __getattr__(self, name):
        return get_by_old_name("gpucoron.batch.plan.Planned", name, self)

    @property
    def state(self):
        """'refused', 'error', 'to reduce' or 'up to date'."""
        if self.refused:
            return "refused"
        return "error" if self.error is not None else "to reduce" if self.todo else "up to date"

    def _summary(self):
        return f"{self.input.name}: {self.state}: {self.error or self.reason}"

    def require(self, reason):
        """Plan to reduce the exposure again for this reason; refuse it if its products must not be replaced."""
        self.todo, self.refused, self.reason = not self.conflict, bool(self.conflict), self.conflict or reason


@dataclass(repr=False)
class Plan(Shown):
    """The plan of a batch.

    Attributes
    ----------
    exposures : list of Planned
        Sorted by instrument, detector and name.
    left_out : list of (Input, str)
        Files that are not reduced, with the reason.
    context : str
        The CRDS context.
    earlier : list of EarlierExposure
        Exposures of earlier batches whose persistence matters for this one.
    past : Past
        Contents of the manifests in the folder.
    overwrite : bool
        Whether all existing products may be replaced.
    """

    output_dir: Path
    exposures: list
    left_out: list
    context: str
    earlier: list = field(default_factory=list)
    past: Past = field(default_factory=Past)
    overwrite: bool = False

    def __getattr__(self, name):
        return get_by_old_name("gpucoron.batch.plan.Plan", name, self)

    def _summary(self):
        states = [planned.state for planned in self.exposures]
        counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        left = [f"{len(self.left_out)} left out"] if self.left_out else []
        return f"for {self.output_dir}: {', '.join([*counts, *left]) or 'no exposures'}; {self.context}"

    def _repr_html_(self):
        rows = [
            (one.input.name, one.state, str(one.error or one.reason), f"{one.seconds:.1f}", f"{one.memory / 1e9:.2f}")
            for one in self.exposures
        ]
        rows += [(found.name, "left out", reason, "", "") for found, reason in self.left_out]
        return table(f"Plan {self._summary()}", ("exposure", "state", "reason", "seconds", "memory (GB)"), rows)

    @property
    def todo(self):
        """The exposures that will be reduced."""
        return [planned for planned in self.exposures if planned.todo]

    @property
    def refused(self):
        """The exposures that are not reduced because their products must not be replaced."""
        return [planned for planned in self.exposures if planned.refused]

    @property
    def references(self):
        """The reference files that will be opened."""
        paths = {path for planned in self.todo for path in planned.references.values()}
        return sorted(path for path in paths if path != "N/A")


def settle(profile, steps, run_parameters, pars=None):
    """Check parameters before any file is read, and convert them so that they can be sent to worker processes.

    Raises
    ------
    ParameterError
        A step, a parameter or a parameter file does not exist, or a value is invalid or an array in memory.
    """
    from gpucoron import engine

    steps, _parameters = engine.check_request(profile=profile, steps=steps, pipeline=run_parameters, pars=pars)
    for step, values in steps.items():
        for name, value in values.items():
            values[name] = with_whole_path(step, name, value)
            if STEPS[step].known[name].kind == "hooks" and any(not isinstance(hook, str) for hook in value):
                msg = f"{step}.{name}: a batch needs hooks by name, as 'module.function' or 'module.Class'"
                raise ParameterError(msg)
            elif hasattr(value, "shape"):
                msg = (
                    f"{step}.{name}: a batch reads arrays from files; save the array with numpy.save and give the path"
                )
                raise ParameterError(msg)
    return steps


def with_whole_path(step, name, value):
    """Return the value of a parameter; if it names a file, as an absolute path that any process can open."""
    # the persistence file may be written later
    is_persistence = f"{step}.{name}" in persistence.FILES
    if isinstance(value, (str, Path)) and (os.path.isfile(value) or (is_persistence and value)):
        return os.path.abspath(value)
    return str(value) if isinstance(value, Path) else value


@public
def make_plan(
    paths: Paths,
    output_dir: AnyPath,
    *,
    profile: Profile = "jwst",
    steps: StepSettings | None = None,
    run_parameters: Mapping[str, Any] | None = None,
    of_run: Mapping[str, Any] | None = None,
    use_pars: bool | None = None,
    pars: Paths | None = None,
    include_all: bool = False,
    redo: Literal["needed", "failed", "all"] = "needed",
    overwrite: bool = False,
    shard: tuple[int, int] = (1, 1),
    progress: Any = None,
    on_found: Callable[[list[Path]], object] | None = None,
) -> Plan:
    """Plan a batch; see `gpucoron.batch.reduce` for the parameters.

    ``on_found`` is called with the files that will probably be reduced, before any header is read. ``of_run`` is the
    former name of ``run_parameters``.

    Returns
    -------
    Plan
    """
    from gpucoron.io.crds_lookup import crds_context

    if of_run is not None:
        warnings.warn("make_plan: of_run is now called run_parameters", DeprecationWarning, stacklevel=3)
        run_parameters = of_run
    output_dir = Path(output_dir)
    past = read_past(output_dir)
    records = past.last
    files = find_files(paths)
    if redo == "needed" and not pars:
        request = {"profile": profile, "steps": steps or {}, "run_parameters": run_parameters or {}}
        request = user_request(None, **request, use_pars=takes_crds_pars(profile, use_pars))
        done = find_finished(files, past, output_dir, request, include_all=include_all, shard=shard)
        context = "" if done is None else crds_context()[0]
        if done is not None and all(records[found.name].get("context") == context for found in done[0]):
            finished = [_up_to_date(found, records[found.name]) for found in sorted(done[0], key=_order)]
            return Plan(output_dir, finished, _with_reason(done[1]), context, past=past, overwrite=overwrite)
    if on_found is not None:
        on_found(select_shard(_not_done(files, records, redo), shard))
    inputs, left_out = _read_inputs(files, include_all)
    refuse_duplicates(inputs)
    inputs = sorted(select_shard(inputs, shard), key=_order)
    plan = Plan(output_dir, [], _with_reason(left_out), crds_context()[0], past=past, overwrite=overwrite)
    look_up = _ReferenceLookUp(
        profile=profile, steps=steps or {}, pipeline=run_parameters or {}, use_pars=use_pars, pars=pars
    )
    makers: dict[str, str] = {}
    for number, found in enumerate(inputs, 1):
        planned = Planned(found, error=found.error)
        if planned.error is None:
            look_up.fill(planned)
        _name_products(planned, plan, makers)
        _decide(planned, plan, redo)
        plan.exposures.append(planned)
        if progress is not None:
            progress.planning(number, len(inputs))
    persistence.plan_persistence(plan, records, shard)
    _check_references(plan)
    _estimate(plan, records)
    return plan


def plan_references(
    paths, *, profile="jwst", steps=None, run_parameters=None, use_pars=None, pars=None, include_all=False
):
    """Look up all references and parameter files that exposures need, and download those missing in the cache.

    Parameters
    ----------
    paths, profile, steps, run_parameters, use_pars, pars, include_all
        As for `make_plan`.

    Returns
    -------
    Plan
        Without an output folder. An exposure whose references are missing or damaged has an ``error``.
    """
    from gpucoron.io.crds_lookup import crds_context

    inputs, left_out = _read_inputs(find_files(paths), include_all)
    plan = Plan(Path(), [], _with_reason(left_out), crds_context()[0])
    look_up = _ReferenceLookUp(
        profile=profile, steps=steps or {}, pipeline=run_parameters or {}, use_pars=use_pars, pars=pars
    )
    for found in inputs:
        planned = Planned(found, error=found.error)
        if planned.error is None:
            look_up.fill(planned)
        plan.exposures.append(planned)
    _check_references(plan)
    return plan


def _read_inputs(files, include_all):
    """Read the headers of files; return those to reduce, and the others."""
    inputs, left_out = [], []
    for path in files:
        found = read_input(path)
        (inputs if is_selected(found, include_all) else left_out).append(found)
    return inputs, left_out


def _up_to_date(found, record):
    """Return the plan of an exposure that is done; its request is that of its record."""
    fields = {"request": record["asked"], "parameters": record["parameters"], "digest": record["parameters_digest"]}
    return Planned(found, todo=False, reason=DONE, **fields)


def _order(found):
    return (*(str(found.record_fields[key]) for key in ("instrument", "detector")), found.name)


def _with_reason(left_out):
    """Return the files that do not belong to the batch, with the reason."""
    return [
        (found, f"EXP_TYPE {found.record_fields['exp_type']} is not coronagraphy; --all includes it")
        for found in left_out
    ]


def _not_done(files, records, redo):
    """Return the files without a finished record in the manifest; their headers may still change the plan."""
    if redo == "all":
        return files
    status = [records.get(exposure_name(path), {}).get("status") for path in files]
    if redo == "failed":
        return [path for path, last in zip(files, status, strict=True) if last == "failed"]
    return [path for path, last in zip(files, status, strict=True) if last in (None, "failed", STARTED)]


class _ReferenceLookUp:
    """Look up references and parameters; exposures with the same keywords and date share one look-up."""

    def __init__(self, **options):
        self._options = options
        self._headers, self._answers = {}, {}
        self._own_parameters, self._own_files = None, {}

    def fill(self, planned):
        """Set references, parameters and their digest, or the error."""
        # a file without a date in its header may have one in its ASDF extension
        key = (planned.input.deciding, planned.input.date) if _has_date(planned.input) else planned.input.path
        if key not in self._answers:
            try:
                with converted_errors(planned.input.path):
                    self._answers[key] = self._look_up(planned.input)
            except GpucoronError as error:  # the other exposures can still be reduced
                planned.error = error
                return
        for name, value in self._answers[key].items():
            setattr(planned, name, value)

    def _look_up(self, found):
        from gpucoron.engine import plan
        from gpucoron.io.exposure import Exposure
        from gpucoron.io.products import expected_products

        if not _has_date(found):
            exposure = Exposure.read_headers(found.path)
        else:
            if found.deciding not in self._headers:
                self._headers[found.deciding] = Exposure.read_headers(found.path)
            exposure = self._headers[found.deciding]
            exposure.path = found.path
            exposure.meta.meta.observation.date, exposure.meta.meta.observation.time = found.date
        run = plan(exposure, backend="cpu", **self._options)
        request = user_request(run, **self._request_arguments())
        return {
            "references": run.references,
            "parameters": changed_parameters(run),
            "request": request,
            "digest": request_digest(request),
            "own_files": self._own_files,
            "pars_files": [name for name in run.pars_files if not os.path.isabs(name)],
            "expected": expected_products(run),
            "persistence_file": persistence.written_file(run.parameters),
        }

    def _request_arguments(self):
        """Return the arguments of `user_request`; the user's parameter files are read once."""
        options = self._options
        if self._own_parameters is None:
            *self._own_parameters, paths = parameters_from_files(options["pars"])
            self._own_files = {path: file_digest(path) for path in paths}
        return {
            "profile": options["profile"],
            "steps": options["steps"],
            "run_parameters": options["pipeline"],
            "use_pars": takes_crds_pars(options["profile"], options["use_pars"]),
            "from_files": self._own_parameters,
        }


def _has_date(found):
    """Return whether a header has a date and time in the format that jwst writes; jwst ignores other formats."""
    day, moment = map(str, found.date)
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", day) and re.fullmatch(r"\d\d:\d\d:\d\d(\.\d+)?", moment))


def _name_products(planned, plan, makers):
    """Name the products of an exposure; ``makers`` maps product names of earlier exposures to these."""
    from gpucoron.io.products import extra_path

    files = [extra_path(extra, planned.input.path, plan.output_dir) for extra in planned.expected]
    planned.products = tuple(dict.fromkeys(product_name(file, plan.output_dir) for file in files))
    for name in planned.products:
        other = makers.setdefault(name, planned.input.name)
        if other != planned.input.name and planned.error is None:
            msg = (
                f"{planned.input.path}: {name} would replace the product of {other}; do not set file names for a batch"
            )
            planned.error = OutputError(msg)


def _decide(planned, plan, redo):
    """Decide whether an exposure will be reduced, and store the decision."""
    decision = decide_reduction(
        planned, plan.past, output_dir=plan.output_dir, context=plan.context, redo=redo, overwrite=plan.overwrite
    )
    planned.todo, planned.refused = decision.todo, decision.refused
    planned.reason, planned.conflict = decision.reason, decision.conflict
    has_conflict = planned.error is not None and (planned.input.error or isinstance(planned.error, OutputError))
    if redo == "needed" and has_conflict:  # tell it even if the exposure is done: its products may be of either file
        planned.todo = True


def _check_references(plan):
    """Check each reference once; set an error on the exposures that need a damaged one."""
    from gpucoron.io.crds_cache import find_damaged

    damaged = find_damaged(plan.references)
    for message in damaged.values():
        log.error("%s", message)
    for planned in plan.todo:
        wrong = [damaged[path] for path in planned.references.values() if path in damaged]
        if wrong and planned.error is None:
            planned.error = ReferenceFileError("; ".join(sorted(wrong)))


def _estimate(plan, records):
    """Estimate time and memory of each exposure, scaled by the records of the folder if there are any."""
    from gpucoron.backends.budget import exposure_memory

    def model(shape):
        samples = 1
        for extent in shape:
            samples *= extent
        return _SECONDS_PER_FILE + samples * _SECONDS_PER_SAMPLE

    ratios = [
        record["seconds"]["total"] / model(record["shape"])
        for record in records.values()
        if record["status"] == "done" and record["seconds"].get("total") and record.get("shape")
    ]
    factor = statistics.median(ratios) if ratios else 1.0
    for planned in plan.exposures:
        shape = planned.input.shape
        if len(shape) == 4:
            planned.seconds = factor * model(shape)
            planned.memory = PROCESS_BYTES + exposure_memory(shape, has_zeroframe=planned.input.has_zeroframe)
            # SCI, ERR, DQ, VAR_POISSON, VAR_RNOISE of rate and rateints
            planned.product_bytes = 20 * (shape[0] + 1) * shape[2] * shape[3]


def parse_shard(text):
    """Parse ``i/n`` into (i, n)."""
    match = re.fullmatch(r"\s*(\d+)/(\d+)\s*", text) if isinstance(text, str) else None
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        msg = f"shard {text!r}: expected i/n with i from 1 to n, for example 2/8"
        raise ParameterError(msg)
    return int(match[1]), int(match[2])
