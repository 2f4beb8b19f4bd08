"""Pass jwst's persistence file from one exposure of a batch to the next.

The persistence step of jwst reads ``persistence_array_file`` and writes ``save_persistence``. If both are one file, an
exposure depends on all earlier ones. A batch then reduces the exposures of each detector in order of time, and keeps
the file of each exposure in the output folder, ``persistence/<exposure>.asdf``. A restarted batch continues from these,
and so does a later batch of other exposures. The previous contents of the user's file are saved as
``persistence/before-<detector>-<file>.asdf``; the file itself is written when the batch ends. So the results do not
depend on the number of workers, and detectors need not wait for each other.
"""

import hashlib
import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gpucoron.errors import GpucoronError, InputError, ParameterError
from gpucoron.io.persistence_file import entry_digest, read_entries, write_entries, written_path
from gpucoron.records.manifest import STARTED

log = logging.getLogger(__name__)

#: subfolder of the output folder for the files of the exposures
FOLDER = "persistence"
#: parameters of the step that name its files
FILES = ("persistence.save_persistence", "persistence.persistence_array_file")
#: entry of the ``before-`` file: digests of the user's file as batches wrote it
_NOTE = "gpucoron"


@dataclass(frozen=True)
class PersistenceFile:
    """The persistence file that an exposure's step writes; ``chained`` if the step also reads it."""

    path: Path
    chained: bool


@dataclass(frozen=True)
class EarlierExposure:
    """An exposure that an earlier batch reduced into this folder and that is not in this batch.

    Attributes
    ----------
    name : str
    key : tuple
        The user's file and the detector.
    order : tuple
        Sorting key: start and name.
    region : tuple
        Its subarray, see `gpucoron.batch.inputs.Input`.
    state : Path
        The persistence file that it wrote.
    found : str or None
        Digest of the persistence that it read; None if it read none.
    beginning : str
        Digest of the contents of the user's file before the first exposure of its chain.
    """

    name: str
    key: tuple
    order: tuple
    region: tuple
    state: Path
    found: str | None
    beginning: str


def written_file(parameters):
    """Return the file that the persistence step writes; None if it writes none.

    Parameters
    ----------
    parameters : mapping
        step -> its final parameters.

    Returns
    -------
    PersistenceFile or None
    """
    settings = parameters["persistence"]
    if settings.skip or not settings.save_persistence:
        return None
    file, read = written_path(settings.save_persistence), settings.persistence_array_file
    return PersistenceFile(file, read is not None and Path(read).resolve() == file.resolve())


def is_chained(parameters):
    """Return whether the persistence step reads the file that it writes."""
    found = written_file(parameters)
    return found is not None and found.chained


def parameters_of_batch_files(parameters):
    """Return the parameters whose files the batch writes itself, so that their contents are no input."""
    return FILES if is_chained(parameters) else FILES[:1]


def state_path(output_dir, exposure):
    """Return the path of the persistence file of an exposure."""
    return Path(output_dir) / FOLDER / f"{exposure}.asdf"


def sort_into_chains(planned):
    """Sort exposures into chains in order of time: those of one detector that read the file that they write.

    Parameters
    ----------
    planned : iterable of Planned

    Returns
    -------
    list of list of Planned
        An exposure that depends on no other is a chain of one.
    """
    chains, alone = {}, []
    for one in planned:
        if one.persistence_file is not None and one.persistence_file.chained:
            chains.setdefault(_key(one), []).append(one)
        else:
            alone.append([one])
    return [*(sorted(chain, key=_order) for chain in chains.values()), *alone]


def _order(link):
    return link.order if isinstance(link, EarlierExposure) else (link.input.start or (0.0, 0), link.input.name)


def _with_earlier(chain, earlier):
    """Merge the exposures of earlier batches into a chain."""
    if chain[0].persistence_file is None or not chain[0].persistence_file.chained:
        return chain
    others = [one for one in earlier if one.key == _key(chain[0]) and one.found is not None]
    return sorted([*chain, *others], key=_order)


def plan_persistence(plan, records, shard):
    """Decide which exposures must be reduced (again) because earlier ones change their persistence; write nothing.

    Parameters
    ----------
    plan : Plan
        Changed in place.
    records : dict
        Exposure -> its last record.
    shard : (int, int)

    Raises
    ------
    ParameterError
        The exposures are spread over several batches, or exposures of different subarrays share a file.
    """
    writers = [planned for planned in plan.exposures if planned.persistence_file is not None]
    if writers and shard[1] > 1:
        msg = (
            f"persistence.save_persistence={writers[0].persistence_file.path} cannot be used with --shard: every shard "
            "would write that file, and miss the persistence of the exposures of other shards; run one batch, or omit "
            "the parameter"
        )
        raise ParameterError(msg)
    for planned in writers:
        if planned.input.start is None and planned.error is None:
            planned.error = InputError(
                f"{planned.input.path}: it has neither EXPSTART nor DATE-OBS and TIME-OBS, and persistence needs the "
                "start time; set EXPSTART"
            )
    plan.earlier = _find_earlier(plan, records) if writers else []
    for chain in sort_into_chains(writers):
        _settle_chain(chain, plan, records)
        if chain[0].persistence_file.chained:
            links = _with_earlier(chain, plan.earlier)
            regions = [(link.name, link.region) for link in links if isinstance(link, EarlierExposure)]
            regions += [(one.input.name, one.input.region) for one in chain if one.error is None]
            conflict = describe_subarray_conflict(chain[0].persistence_file, regions)
            if conflict:
                raise ParameterError(conflict)


def describe_subarray_conflict(written, regions):
    """Return an error message if exposures of different subarrays share a persistence file.

    Rows and columns in the file are relative to the subarray.

    Parameters
    ----------
    written : PersistenceFile
        The file.
    regions : list of (str, tuple)
        Names of exposures of one detector, each with SUBSTRT1, SUBSTRT2, and the number of rows and columns.

    Returns
    -------
    str or None
        None if all subarrays are the same.
    """
    other = next((pair for pair in regions if pair[1] != regions[0][1]), None)
    if other is None:
        return None
    first, other = (f"{name} ({x} x {y} pixels from {corner})" for name, (*corner, y, x) in (regions[0], other))
    return (
        f"persistence.save_persistence={written.path}: {first} and {other} are of one detector and different "
        "subarrays; its pixels are counted within the subarray, so wrong pixels would be flagged: reduce each subarray "
        "separately, with a separate file"
    )


def _find_earlier(plan, records):
    """Return the exposures of earlier batches whose persistence files still exist."""
    names, found = {planned.input.name for planned in plan.exposures}, []
    for name, record in records.items():
        stored, state = record.get("persistence"), state_path(plan.output_dir, name)
        is_finished = record["status"] not in ("failed", STARTED)
        if name in names or not isinstance(stored, dict) or not is_finished or not state.is_file():
            continue
        key, order = (Path(stored["file"]), record["detector"]), (tuple(stored["begun"]), name)
        digests = stored["found"], stored["beginning"]
        found.append(EarlierExposure(name, key, order, tuple(stored["place"]), state, *digests))
    return found


def _settle_chain(chain, plan, records):
    output_dir, outdated = plan.output_dir, []
    try:
        digest = beginning = entry_digest(_beginning(output_dir, chain[0]))
        again, is_after = None, False
        # another program has changed the file since exposures with a different beginning were reduced
        others = [one for one in plan.earlier if one.key == _key(chain[0]) and one.beginning != beginning]
        plan.earlier = [one for one in plan.earlier if one not in others]
        outdated = [one.name for one in others if one.found is not None and _order(one) > _order(chain[0])]
        is_outdated = False  # once True, all later exposures of earlier batches are outdated
        for link in _with_earlier(chain, plan.earlier):
            if isinstance(link, EarlierExposure):
                is_outdated = is_outdated or (is_after and (again is not None or link.found != digest))
                outdated += [link.name] * is_outdated
                digest, again = entry_digest(read_entries(link.state).get(link.key[1])), None
                continue
            left = state_path(output_dir, link.input.name)
            record = records.get(link.input.name) or {}
            if link.todo:
                again = link.input.name
            elif not record:
                continue  # redo is 'failed', and this exposure is new
            elif link.refused:
                pass
            elif again is not None and link.persistence_file.chained:
                link.require(f"follows {again}")
                link.previous_digests = _found(record)
            elif link.persistence_file.chained and _found(record) != (beginning, digest):
                link.require("the persistence before it has changed")
                again = link.input.name if link.todo else again
            elif not left.is_file():
                link.require(f"{FOLDER}/{left.name} is missing")
                again = link.input.name if link.todo else again
            elif link.persistence_file.chained:
                digest = entry_digest(_entry(left, link))
            if link.refused and link.persistence_file.chained and left.is_file():
                digest = entry_digest(_entry(left, link))  # its file is not replaced
            is_after = True
    except GpucoronError as error:
        for planned in chain:
            planned.error = planned.error or error
            planned.todo = not planned.refused  # so that it is told
    if outdated:
        log.warning(
            "persistence: %s started after exposures of this batch and were reduced without their persistence: the "
            "PERSISTENCE flags may be out of date; add these files to the batch",
            ", ".join(outdated),
        )


def _found(record):
    """Return two digests of a record: of the beginning of its chain, and of the persistence that the exposure read."""
    stored = record.get("persistence")
    return (stored["beginning"], stored["found"]) if isinstance(stored, dict) else None


def _entry(path, planned):
    return read_entries(path).get(planned.input.record_fields["detector"])


def _before_path(output_dir, planned):
    file = planned.persistence_file.path
    which = hashlib.sha256(str(file).encode()).hexdigest()[:8]  # files of the same name may be in different folders
    return Path(output_dir) / FOLDER / f"before-{planned.input.record_fields['detector']}-{file.stem}-{which}.asdf"


def _beginning(output_dir, planned):
    """Return the entry that the user's file held for a detector before batches in this folder wrote it, or None.

    If another program has changed the file since, return its current entry.
    """
    now = _entry(planned.persistence_file.path, planned)
    kept = read_entries(_before_path(output_dir, planned))
    if _NOTE in kept and entry_digest(now) in kept[_NOTE]["known"]:
        return kept.get(planned.input.record_fields["detector"])
    return now


class PersistenceChains:
    """Pass the persistence of each exposure to the next one while a batch runs.

    ``firsts`` are the exposures that need not wait for another one.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan):
        self._output_dir = plan.output_dir
        chains = sort_into_chains(plan.exposures)
        self.firsts = [chain[0] for chain in chains]
        self._next = {one.input.name: other for chain in chains for one, other in pairwise(chain)}
        self._writers = [planned for planned in plan.exposures if planned.persistence_file is not None]
        self._earlier = plan.earlier
        # exposure -> the file of the exposure of an earlier batch directly before it
        self._in_between = {}
        for chain in chains:
            links = _with_earlier(chain, plan.earlier)
            self._in_between |= {
                one.input.name: other.state
                for other, one in pairwise(links)
                if isinstance(other, EarlierExposure) and not isinstance(one, EarlierExposure)
            }
        # (user's file, detector) -> its previous entry; the file of the last exposure; names of finished exposures
        self._before, self._left, self._finished = {}, {}, set()
        for planned in self._writers:
            self._begin(planned)

    def _begin(self, planned):
        """Save the previous entry of the user's file before it is written for the first time."""
        key = _key(planned)
        if key in self._before:
            return
        try:
            self._before[key] = _beginning(self._output_dir, planned)
        except GpucoronError:
            return  # the plan has set the error on each exposure
        self._note(planned, ())
        self._left[key] = _before_path(self._output_dir, planned)

    def _note(self, planned, further):
        """Write the previous entry of the user's file, and the digests of its previous, current and next entry."""
        before = self._before[_key(planned)]
        held = [entry_digest(before), entry_digest(_entry(planned.persistence_file.path, planned)), *further]
        note = {"known": list(dict.fromkeys(held))}
        entry = {} if before is None else {planned.input.record_fields["detector"]: before}
        write_entries(_before_path(self._output_dir, planned), {**entry, _NOTE: note})

    def next_after(self, planned):
        """Return the exposure that follows another one; None if there is none."""
        return self._next.get(planned.input.name)

    def start(self, planned):
        """Note that an exposure starts; it reads the file of an earlier batch's exposure directly before it."""
        between = self._in_between.get(planned.input.name)
        if between is not None:
            self._left[_key(planned)] = between

    def record(self, planned):
        """Return the record for later batches; None for an exposure that writes no persistence."""
        if planned.persistence_file is None:
            return None
        chained = planned.persistence_file.chained
        return {
            "file": str(planned.persistence_file.path),
            "beginning": entry_digest(self._before[_key(planned)]),
            "found": entry_digest(_entry(self._left[_key(planned)], planned)) if chained else None,
            "begun": list(planned.input.start),
            "place": list(planned.input.region),
        }

    def is_up_to_date(self, planned):
        """Return whether an exposure was reduced before and would read the same persistence again."""
        if planned.todo and (planned.error is not None or planned.previous_digests is None):
            return False
        if not state_path(self._output_dir, planned.input.name).is_file():
            return False
        if not planned.todo:
            return True
        stored = self.record(planned)
        return planned.previous_digests == (stored["beginning"], stored["found"])

    def finish(self, planned):
        """Note that the persistence file of an exposure is complete; that of a refused one is of another request."""
        if planned.persistence_file is not None:
            if not planned.refused:
                self._finished.add(planned.input.name)
            self._left[_key(planned)] = state_path(self._output_dir, planned.input.name)

    def files(self, planned, stage):
        """Return the files of the persistence step: it reads that of the previous exposure, and writes to ``stage``."""
        if planned.persistence_file is None:
            return {}
        files = {"save_persistence": str(state_path(stage, planned.input.name))}
        if planned.persistence_file.chained:
            files["persistence_array_file"] = str(self._left[_key(planned)])
        return files

    def close(self):
        """Write the user's file: for each detector, the persistence after the last exposure in time.

        That exposure may belong to an earlier batch.

        Raises
        ------
        OutputError
        """
        finished = [planned for planned in self._writers if planned.input.name in self._finished]
        last = {_key(planned): planned for planned in sorted(finished, key=_order)}
        for (file, detector), planned in last.items():
            later = [one for one in self._earlier if one.key == (file, detector) and _order(one) > _order(planned)]
            state = max(later, key=_order).state if later else state_path(self._output_dir, planned.input.name)
            entry = read_entries(state).get(detector)
            existing = read_entries(file)
            if entry_digest(existing.get(detector)) != entry_digest(entry):
                # write the digests first: if the batch is killed in between, the next one recognizes the file
                self._note(planned, [entry_digest(entry)])
                write_entries(file, {**existing, detector: entry})


def restore_files(plan):
    """Write the users' files of a batch with nothing to do, if they do not hold the state after the last exposure."""
    if any(planned.persistence_file is not None for planned in plan.exposures):
        chains = PersistenceChains(plan)
        for planned in plan.exposures:
            if chains.is_up_to_date(planned):
                chains.finish(planned)
        chains.close()


def _key(planned):
    return planned.persistence_file.path, planned.input.record_fields["detector"]
