"""The plan of a batch: what is to be done, with which references and parameters, at what cost; nothing is written.

References are looked up for every exposure before any of them is reduced, fetched where they are missing, and checked.
"""

import hashlib
import json
import logging
import os
import re
import statistics
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from gpucoron import __version__
from gpucoron.batch import persistence
from gpucoron.batch.inputs import Input, exposure_name, find_files, is_wanted, read_input, take_share
from gpucoron.errors import GpucoronError, ParameterError, ReferenceFileError
from gpucoron.files import file_digest
from gpucoron.io.boundary import told_of
from gpucoron.parameters import PIPELINE, changed, without_comparisons, without_unused
from gpucoron.records.manifest import read_manifests
from gpucoron.steps import STEPS

log = logging.getLogger(__name__)

#: which exposures that the manifest knows are done again
REDO = ("needed", "failed", "all")
#: what a process takes before it reads an exposure, bytes
PROCESS_BYTES = 200_000_000
#: measured on one core of an AMD EPYC: seconds per file, and per sample of the ramps; other figures once there are some
_SECONDS_PER_FILE, _SECONDS_PER_SAMPLE = 0.4, 1.2e-7


@dataclass
class Planned:
    """One exposure's part of the plan.

    ``todo`` tells whether it is to be reduced and ``reason`` why, or why not. ``error`` is what already stands against
    it. ``carried`` is the persistence file that it writes, and ``follows`` tells by digests what others had left to
    it when it was last reduced, where that may be another now. ``seconds`` and ``memory`` (bytes) are expected.
    """

    input: Input
    todo: bool = True
    reason: str = "new"
    references: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    digest: str = ""
    error: Exception | None = None
    carried: persistence.Carried | None = None
    follows: tuple | None = None
    seconds: float = 0.0
    memory: int = 0
    product_bytes: int = 0


@dataclass
class Plan:
    """What a batch will do: ``exposures`` in order, ``left_out`` with the reason, ``context`` of CRDS.

    ``known`` are exposures of earlier batches whose persistence matters here.
    """

    output_dir: Path
    exposures: list
    left_out: list
    context: str
    known: list = field(default_factory=list)

    @property
    def todo(self):
        """The exposures that are to be reduced."""
        return [planned for planned in self.exposures if planned.todo]

    @property
    def references(self):
        """The reference files that will be opened."""
        paths = {path for planned in self.todo for path in planned.references.values()}
        return sorted(path for path in paths if path != "N/A")


def settle(profile, steps, of_run, pars=None):
    """Check parameters before any file is looked at, and make them fit to be sent to another process.

    Raises
    ------
    ParameterError
        A step, a parameter or a parameter file does not exist, a value cannot be, or is an array that is not in a file.
    """
    from gpucoron import engine

    steps = {step: dict(values or {}) for step, values in (steps or {}).items()}
    engine.settle(profile=profile, steps=steps, pipeline=of_run, pars=pars)
    steps = without_comparisons(STEPS, without_unused(STEPS, steps))
    for step, values in steps.items():
        for name, value in values.items():
            # the file of persistence may appear while the batch runs
            is_carried = f"{step}.{name}" in persistence.FILES
            if isinstance(value, (str, Path)) and (os.path.isfile(value) or (is_carried and value)):
                values[name] = os.path.abspath(value)
            elif isinstance(value, Path):
                values[name] = str(value)
            elif STEPS[step].known[name].kind == "hooks" and any(not isinstance(hook, str) for hook in value):
                msg = f"{step}.{name}: a batch takes hooks by name alone, as 'module.function' or 'module.Class'"
                raise ParameterError(msg)
            elif hasattr(value, "shape"):
                msg = f"{step}.{name}: a batch takes arrays from files alone; save it with numpy.save and give the path"
                raise ParameterError(msg)
    return steps


def parameters_of(run):
    """List what a run's parameters differ in from jwst's defaults, and their digest.

    Returns
    -------
    parameters : dict
        step -> parameter -> value; ``run`` for the parameters of the run as a whole.
    digest : str
        Of the profile, the parameters, the state of files that they name, and the user's parameter files.
    """
    parameters = changed(STEPS, run.parameters)
    defaults = {parameter.name: parameter.default for parameter in PIPELINE}
    of_run = {name: value for name, value in vars(run.of_run).items() if value != defaults[name]}
    if of_run:
        parameters["run"] = of_run
    states = _state_of_files(parameters, leave_out=persistence.files_of_batch(run.parameters))
    told = [run.profile, parameters, states]
    own = {path: file_digest(path) for path in run.pars_files if os.path.isabs(path)}
    if own:
        told.append(own)
    text = json.dumps(told, sort_keys=True, default=str)
    return json.loads(json.dumps(parameters, default=str)), hashlib.sha256(text.encode()).hexdigest()


def _state_of_files(parameters, leave_out):
    """Tell size and date of the files that parameters name: a file of the same name may hold other values.

    What a batch itself writes, ``leave_out``, does not count.
    """
    states = {}
    for step, values in parameters.items():
        for name, value in values.items():
            is_file = isinstance(value, str) and os.path.isabs(value) and os.path.isfile(value)
            if is_file and f"{step}.{name}" not in leave_out:
                stat = os.stat(value)
                states[f"{step}.{name}"] = [stat.st_size, stat.st_mtime_ns]
    return states


def make_plan(
    paths,
    output_dir,
    *,
    profile="jwst",
    steps=None,
    of_run=None,
    use_pars=None,
    pars=None,
    include_all=False,
    redo="needed",
    shard=(1, 1),
    progress=None,
    on_found=None,
):
    """Plan a batch; see `gpucoron.batch.reduce` for the parameters.

    ``on_found`` is called with the files that will probably be reduced, before their headers are read.

    Returns
    -------
    Plan
    """
    from gpucoron.io.crds_lookup import crds_context

    output_dir = Path(output_dir)
    known, _ = read_manifests(output_dir)
    files = find_files(paths)
    if on_found is not None:
        on_found(take_share(_not_done(files, known, redo), shard))
    inputs, left_out = [], []
    for path in files:
        found = read_input(path)
        if is_wanted(found, include_all):
            inputs.append(found)
        else:
            left_out.append((found, f"EXP_TYPE {found.about['exp_type']} is no coronagraphy; --all takes it"))
    inputs = take_share(inputs, shard)
    inputs.sort(key=lambda found: (*(str(found.about[word]) for word in ("instrument", "detector")), found.name))
    plan = Plan(output_dir, [], left_out, crds_context()[0])
    look_up = _LookUp(profile=profile, steps=steps or {}, pipeline=of_run or {}, use_pars=use_pars, pars=pars)
    for number, found in enumerate(inputs, 1):
        planned = Planned(found, error=found.error)
        if planned.error is None:
            look_up.fill(planned)
        planned.todo, planned.reason = _decide(planned, known.get(found.name), plan, redo)
        plan.exposures.append(planned)
        if progress is not None:
            progress.planning(number, len(inputs))
    persistence.settle_plan(plan, known, shard)
    _check_references(plan)
    _estimate(plan, known)
    return plan


def _not_done(files, known, redo):
    """List the files that the manifest knows nothing good of; what they hold may decide otherwise."""
    if redo == "all":
        return files
    status = [known.get(exposure_name(path), {}).get("status") for path in files]
    if redo == "failed":
        return [path for path, word in zip(files, status, strict=True) if word == "failed"]
    return [path for path, word in zip(files, status, strict=True) if word in (None, "failed")]


class _LookUp:
    """Looks up references and parameters; exposures of one kind and date share the answer."""

    def __init__(self, **asked):
        self._asked = asked
        self._headers, self._answers = {}, {}

    def fill(self, planned):
        """Fill in references, parameters and their digest, or the error that stands against them."""
        # a file whose header lacks its date may have it in its ASDF extension
        key = (planned.input.deciding, planned.input.date) if _has_date(planned.input) else planned.input.path
        if key not in self._answers:
            try:
                with told_of(planned.input.path):
                    self._answers[key] = self._ask(planned.input)
            except GpucoronError as error:  # it is no matter of the others
                planned.error = error
                return
        planned.references, (planned.parameters, planned.digest), planned.carried = self._answers[key]

    def _ask(self, found):
        from gpucoron.engine import plan
        from gpucoron.io.exposure import Exposure

        if not _has_date(found):
            exposure = Exposure.read_headers(found.path)
        else:
            if found.deciding not in self._headers:
                self._headers[found.deciding] = Exposure.read_headers(found.path)
            exposure = self._headers[found.deciding]
            exposure.path = found.path
            exposure.meta.meta.observation.date, exposure.meta.meta.observation.time = found.date
        run = plan(exposure, backend="cpu", **self._asked)
        return run.references, parameters_of(run), persistence.carried(run.parameters)


def _has_date(found):
    """Tell whether a header has date and time as jwst writes them; its readers pass over others."""
    day, moment = map(str, found.date)
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", day) and re.fullmatch(r"\d\d:\d\d:\d\d(\.\d+)?", moment))


def _decide(planned, record, plan, redo):
    """Tell whether an exposure is to be reduced, and why, or why not."""
    if redo == "all":
        return True, "all are wanted"
    if redo == "failed":
        failed = record is not None and record["status"] == "failed"
        return failed, "failed before" if failed else "did not fail"
    if record is None:
        return True, "new"
    if record["status"] == "failed":
        return True, "failed before"
    missing = [name for name in record["outputs"].values() if not (plan.output_dir / name).is_file()]
    if missing:
        return True, f"{missing[0]} is missing"
    if planned.error is None and record["parameters_digest"] != planned.digest:
        return True, "other parameters"
    if record["context"] != plan.context:
        return True, f"was made with context {record['context']}"
    for package, ours in (("gpucoron", __version__), ("jwst", version("jwst"))):
        if record["versions"].get(package) != ours:
            return True, f"was made with {package} {record['versions'].get(package)}"
    if _is_other_input(planned.input, record):
        return True, "the input is another"
    return False, "done"


def _is_other_input(found, record):
    """Compare an input with the one that was reduced; it is read again only where its date is younger."""
    from datetime import datetime

    if found.n_bytes != record["input_bytes"]:
        return True
    if found.path.stat().st_mtime <= datetime.fromisoformat(record["started"]).timestamp():
        return False
    return file_digest(found.path) != record["input_sha256"]


def _check_references(plan):
    """Check each reference once; the exposures that need a damaged one will not be reduced with it."""
    from gpucoron.io.crds_cache import find_damaged

    damaged = find_damaged(plan.references)
    for message in damaged.values():
        log.error("%s", message)
    for planned in plan.todo:
        wrong = [damaged[path] for path in planned.references.values() if path in damaged]
        if wrong and planned.error is None:
            planned.error = ReferenceFileError("; ".join(sorted(wrong)))


def _estimate(plan, known):
    """Say what each exposure will take: by the folder's own records where there are some."""
    from gpucoron.backends.budget import exposure_memory

    def model(shape):
        samples = 1
        for extent in shape:
            samples *= extent
        return _SECONDS_PER_FILE + samples * _SECONDS_PER_SAMPLE

    ratios = [
        record["seconds"]["total"] / model(record["shape"]) for record in known.values() if record["status"] == "done"
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
    """Turn ``i/n`` into (i, n)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        msg = f"shard {text!r}: expected i/n with i from 1 to n, for example 2/8"
        raise ParameterError(msg)
    return int(match[1]), int(match[2])
