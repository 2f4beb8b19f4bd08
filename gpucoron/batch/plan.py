"""The plan of a batch: what is to be done, with which references and parameters, at what cost; nothing is written.

References are looked up for every exposure before any of them is reduced, fetched where they are missing, and checked.
"""

import logging
import os
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from gpucoron.batch import persistence
from gpucoron.batch.asked import digest_of, parameters_of, what_is_asked
from gpucoron.batch.decision import decide, product_name
from gpucoron.batch.inputs import Input, exposure_name, find_files, is_wanted, read_input, refuse_twins, take_share
from gpucoron.errors import GpucoronError, OutputError, ParameterError, ReferenceFileError
from gpucoron.files import file_digest
from gpucoron.io.boundary import told_of
from gpucoron.io.parameter_files import parameters_from_files, takes_crds_pars
from gpucoron.records.manifest import STARTED, Past, read_past
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

    ``todo`` tells whether it is to be reduced, ``refused`` whether it would be, if that did not replace what it must
    not; ``reason`` tells why, or why not, ``obstacle`` what must not be replaced, wanted or not. ``expected`` are the
    products that it may have, ``products`` what the manifest calls them; ``asked`` is what the user asked for, see
    `gpucoron.batch.asked.what_is_asked`, ``digest`` the digest of that, and ``own_files`` the user's parameter files
    with theirs. ``error`` is what already stands against it. ``carried`` is the persistence file that it writes, and
    ``follows`` tells by digests what others had left to it when it was last reduced, where that may be another now.
    ``seconds`` and ``memory`` (bytes) are expected.
    """

    input: Input
    todo: bool = True
    reason: str = "new"
    refused: bool = False
    obstacle: str = ""
    references: dict = field(default_factory=dict)
    parameters: dict = field(default_factory=dict)
    digest: str = ""
    asked: dict = field(default_factory=dict)
    own_files: dict = field(default_factory=dict)
    expected: list = field(default_factory=list)
    products: tuple = ()
    error: Exception | None = None
    carried: persistence.Carried | None = None
    follows: tuple | None = None
    seconds: float = 0.0
    memory: int = 0
    product_bytes: int = 0

    def want(self, reason):
        """Have it reduced after all, for a reason; it is refused where it would replace what it must not."""
        self.todo, self.refused, self.reason = not self.obstacle, bool(self.obstacle), self.obstacle or reason


@dataclass
class Plan:
    """What a batch will do: ``exposures`` in order, ``left_out`` with the reason, ``context`` of CRDS.

    ``known`` are exposures of earlier batches whose persistence matters here, ``past`` is what the folder's manifests
    tell, ``overwrite`` whether all that is there may be replaced.
    """

    output_dir: Path
    exposures: list
    left_out: list
    context: str
    known: list = field(default_factory=list)
    past: Past = field(default_factory=Past)
    overwrite: bool = False

    @property
    def todo(self):
        """The exposures that are to be reduced."""
        return [planned for planned in self.exposures if planned.todo]

    @property
    def refused(self):
        """The exposures that are not reduced, for that would replace what it must not."""
        return [planned for planned in self.exposures if planned.refused]

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

    steps, _parameters = engine.check_request(profile=profile, steps=steps, pipeline=of_run, pars=pars)
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
    overwrite=False,
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
    past = read_past(output_dir)
    known = past.last
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
    refuse_twins(inputs)
    inputs = take_share(inputs, shard)
    inputs.sort(key=lambda found: (*(str(found.about[word]) for word in ("instrument", "detector")), found.name))
    plan = Plan(output_dir, [], left_out, crds_context()[0], past=past, overwrite=overwrite)
    look_up = _LookUp(profile=profile, steps=steps or {}, pipeline=of_run or {}, use_pars=use_pars, pars=pars)
    makers = {}
    for number, found in enumerate(inputs, 1):
        planned = Planned(found, error=found.error)
        if planned.error is None:
            look_up.fill(planned)
        _name_products(planned, plan, makers)
        _decide(planned, plan, redo)
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
    return [path for path, word in zip(files, status, strict=True) if word in (None, "failed", STARTED)]


class _LookUp:
    """Looks up references and parameters; exposures of one kind and date share the answer."""

    def __init__(self, **asked):
        self._asked = asked
        self._headers, self._answers = {}, {}
        self._own, self._own_files = None, {}

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
        for name, value in self._answers[key].items():
            setattr(planned, name, value)

    def _ask(self, found):
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
        run = plan(exposure, backend="cpu", **self._asked)
        asked = what_is_asked(run, **self._of_user())
        return {
            "references": run.references,
            "parameters": parameters_of(run),
            "asked": asked,
            "digest": digest_of(asked),
            "own_files": self._own_files,
            "expected": expected_products(run),
            "carried": persistence.carried(run.parameters),
        }

    def _of_user(self):
        """Give what `what_is_asked` is to know; the user's own parameter files are read once."""
        asked = self._asked
        if self._own is None:
            *self._own, paths = parameters_from_files(asked["pars"])
            self._own_files = {path: file_digest(path) for path in paths}
        return {
            "profile": asked["profile"],
            "steps": asked["steps"],
            "of_run": asked["pipeline"],
            "use_pars": takes_crds_pars(asked["profile"], asked["use_pars"]),
            "own": self._own,
        }


def _has_date(found):
    """Tell whether a header has date and time as jwst writes them; its readers pass over others."""
    day, moment = map(str, found.date)
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", day) and re.fullmatch(r"\d\d:\d\d:\d\d(\.\d+)?", moment))


def _name_products(planned, plan, makers):
    """Name the products of an exposure; ``makers``, name -> exposure, tells who makes one of that name already."""
    from gpucoron.io.products import extra_path

    files = [extra_path(extra, planned.input.path, plan.output_dir) for extra in planned.expected]
    planned.products = tuple(dict.fromkeys(product_name(file, plan.output_dir) for file in files))
    for name in planned.products:
        other = makers.setdefault(name, planned.input.name)
        if other != planned.input.name and planned.error is None:
            msg = f"{planned.input.path}: {name} would replace that of {other}; leave names of files to the exposures"
            planned.error = OutputError(msg)


def _decide(planned, plan, redo):
    """Settle whether an exposure is to be reduced, and why, or why not."""
    decision = decide(
        planned, plan.past, output_dir=plan.output_dir, context=plan.context, redo=redo, overwrite=plan.overwrite
    )
    planned.todo, planned.refused = decision.todo, decision.refused
    planned.reason, planned.obstacle = decision.reason, decision.obstacle


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
        record["seconds"]["total"] / model(record["shape"])
        for record in known.values()
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
    """Turn ``i/n`` into (i, n)."""
    match = re.fullmatch(r"\s*(\d+)/(\d+)\s*", text) if isinstance(text, str) else None
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        msg = f"shard {text!r}: expected i/n with i from 1 to n, for example 2/8"
        raise ParameterError(msg)
    return int(match[1]), int(match[2])
