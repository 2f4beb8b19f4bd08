"""What exposures of a batch leave to the next ones: jwst's persistence file, exposure by exposure.

jwst's persistence step reads ``persistence_array_file``, and writes ``save_persistence`` anew. Where both are one file,
an exposure depends on those before it. In a batch, the exposures of a detector then take their turns in time, and each
one's file stays in the output folder, ``persistence/<exposure>.asdf``: from these a batch goes on, and also a later one
that is given other exposures. What the user's file held before is ``persistence/before-<detector>-<file>.asdf``; the
file itself is written when the batch ends. So nothing depends on the number of workers, and detectors need not wait for
each other.
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

#: the folder of each exposure's file, below that of the products
FOLDER = "persistence"
#: parameters of the step that name its files
FILES = ("persistence.save_persistence", "persistence.persistence_array_file")
#: in the file of what was there before: what the user's file is called and may hold, if nobody else has changed it
_NOTE = "gpucoron"


@dataclass(frozen=True)
class Carried:
    """The persistence file that an exposure's step writes; ``chained`` where it is the one that it reads."""

    file: Path
    chained: bool


@dataclass(frozen=True)
class Known:
    """An exposure that an earlier batch has reduced into this folder, and that is none of this batch's.

    ``key`` is the user's file and the detector, ``turn`` by what exposures are sorted, ``place`` its subarray,
    ``state`` the file that it has left, ``found`` the digest of what it found (None: it did not read the file), and
    ``beginning`` that of what the user's file held before the first of its chain.
    """

    name: str
    key: tuple
    turn: tuple
    place: tuple
    state: Path
    found: str | None
    beginning: str


def carried(parameters):
    """Tell which file the persistence step writes; None if it writes none.

    Parameters
    ----------
    parameters : mapping
        step -> its parameters, settled.

    Returns
    -------
    Carried or None
    """
    settings = parameters["persistence"]
    if settings.skip or not settings.save_persistence:
        return None
    file, read = written_path(settings.save_persistence), settings.persistence_array_file
    return Carried(file, read is not None and Path(read).resolve() == file.resolve())


def is_chained(parameters):
    """Tell whether the persistence step reads the file that it writes."""
    found = carried(parameters)
    return found is not None and found.chained


def files_of_batch(parameters):
    """Name the parameters whose files a batch writes itself: what they hold is no input."""
    return FILES if is_chained(parameters) else FILES[:1]


def state_path(output_dir, exposure):
    """Say where the file lies that an exposure has left."""
    return Path(output_dir) / FOLDER / f"{exposure}.asdf"


def chains_of(planned):
    """Sort exposures into chains in the order of time: those of one detector, where they read the file that they write.

    Parameters
    ----------
    planned : iterable of Planned

    Returns
    -------
    list of list of Planned
        An exposure that depends on no other is a chain by itself.
    """
    chains, alone = {}, []
    for one in planned:
        if one.carried is not None and one.carried.chained:
            chains.setdefault(_key(one), []).append(one)
        else:
            alone.append([one])
    return [*(sorted(chain, key=_turn) for chain in chains.values()), *alone]


def _turn(link):
    return link.turn if isinstance(link, Known) else (link.input.begun or (0.0, 0), link.input.name)


def _with_known(chain, known):
    """Put those that a chain's exposures follow, or are followed by, between them."""
    if chain[0].carried is None or not chain[0].carried.chained:
        return chain
    others = [one for one in known if one.key == _key(chain[0]) and one.found is not None]
    return sorted([*chain, *others], key=_turn)


def settle_plan(plan, records, shard):
    """Decide which exposures are to be reduced (again) for what others leave to them; nothing is written.

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
    carrying = [planned for planned in plan.exposures if planned.carried is not None]
    if carrying and shard[1] > 1:
        msg = (
            f"persistence.save_persistence={carrying[0].carried.file} cannot go with --shard: every shard would write "
            "that file, and lack what the exposures of the others leave; run one batch, or do without the file"
        )
        raise ParameterError(msg)
    for planned in carrying:
        if planned.input.begun is None and planned.error is None:
            planned.error = InputError(
                f"{planned.input.path}: neither EXPSTART nor DATE-OBS and TIME-OBS tell when it began, which "
                "persistence needs to know; set EXPSTART"
            )
    plan.known = _known(plan, records) if carrying else []
    for chain in chains_of(carrying):
        _settle_chain(chain, plan, records)
        if chain[0].carried.chained:
            places = [(one.name, one.place) for one in _with_known(chain, plan.known) if isinstance(one, Known)]
            places += [(one.input.name, one.input.place) for one in chain if one.error is None]
            wrong = tell_places(chain[0].carried, places)
            if wrong:
                raise ParameterError(wrong)


def tell_places(written, places):
    """Say what is wrong where exposures of different subarrays read the file that they write.

    jwst's file counts rows and columns within the subarray.

    Parameters
    ----------
    written : Carried
        The file.
    places : list of (str, tuple)
        Exposures of one detector, each with SUBSTRT1, SUBSTRT2, and the number of rows and columns.

    Returns
    -------
    str or None
        None where nothing is wrong.
    """
    other = next((pair for pair in places if pair[1] != places[0][1]), None)
    if other is None:
        return None
    first, other = (f"{name} ({x} x {y} pixels from {corner})" for name, (*corner, y, x) in (places[0], other))
    return (
        f"persistence.save_persistence={written.file}: {first} and {other} are of one detector and different "
        "subarrays; the file counts pixels within the subarray, so that wrong ones would be flagged: reduce the "
        "exposures of each subarray separately, with a file of their own"
    )


def _known(plan, records):
    """List the exposures of earlier batches whose files are still there."""
    names, found = {planned.input.name for planned in plan.exposures}, []
    for name, record in records.items():
        told, state = record.get("persistence"), state_path(plan.output_dir, name)
        is_finished = record["status"] not in ("failed", STARTED)
        if name in names or not isinstance(told, dict) or not is_finished or not state.is_file():
            continue
        key, turn = (Path(told["file"]), record["detector"]), (tuple(told["begun"]), name)
        found.append(Known(name, key, turn, tuple(told["place"]), state, told["found"], told["beginning"]))
    return found


def _settle_chain(chain, plan, records):
    output_dir, outdated = plan.output_dir, []
    try:
        digest = beginning = entry_digest(_beginning(output_dir, chain[0]))
        again, is_after = None, False
        # since those of another beginning, something else has worked on the file: it holds what came after them
        others = [one for one in plan.known if one.key == _key(chain[0]) and one.beginning != beginning]
        plan.known = [one for one in plan.known if one not in others]
        outdated = [one.name for one in others if one.found is not None and _turn(one) > _turn(chain[0])]
        is_outdated = False  # and so are all after it
        for link in _with_known(chain, plan.known):
            if isinstance(link, Known):
                is_outdated = is_outdated or (is_after and (again is not None or link.found != digest))
                outdated += [link.name] * is_outdated
                digest, again = entry_digest(read_entries(link.state).get(link.key[1])), None
                continue
            left = state_path(output_dir, link.input.name)
            record = records.get(link.input.name) or {}
            if link.todo:
                again = link.input.name
            elif not record:
                continue  # only what failed is wanted, and this one is new
            elif link.refused:
                pass
            elif again is not None and link.carried.chained:
                link.want(f"follows {again}")
                link.follows = _found(record)
            elif link.carried.chained and _found(record) != (beginning, digest):
                link.want("other persistence before it")
                again = link.input.name if link.todo else again
            elif not left.is_file():
                link.want(f"{FOLDER}/{left.name} is missing")
                again = link.input.name if link.todo else again
            elif link.carried.chained:
                digest = entry_digest(_entry(left, link))
            if link.refused and link.carried.chained and left.is_file():
                digest = entry_digest(_entry(left, link))  # that stays as it is
            is_after = True
    except GpucoronError as error:
        for planned in chain:
            planned.error = planned.error or error
    if outdated:
        log.warning(
            "persistence: %s began after exposures of this batch and were reduced without what these leave: their "
            "PERSISTENCE flags may be out of date; give these files to the batch, too",
            ", ".join(outdated),
        )


def _found(record):
    """Read from a record the digests of what its chain began from, and of what the exposure found."""
    told = record.get("persistence")
    return (told["beginning"], told["found"]) if isinstance(told, dict) else None


def _entry(path, planned):
    return read_entries(path).get(planned.input.about["detector"])


def _before_path(output_dir, planned):
    file = planned.carried.file
    which = hashlib.sha256(str(file).encode()).hexdigest()[:8]  # files of one name may lie in different folders
    return Path(output_dir) / FOLDER / f"before-{planned.input.about['detector']}-{file.stem}-{which}.asdf"


def _beginning(output_dir, planned):
    """Find what the user's file held for a detector before this folder's batches wrote it: its entry, or None.

    The file as a batch left it is no new beginning; as anybody else left it, it is.
    """
    now = _entry(planned.carried.file, planned)
    kept = read_entries(_before_path(output_dir, planned))
    if _NOTE in kept and entry_digest(now) in kept[_NOTE]["known"]:
        return kept.get(planned.input.about["detector"])
    return now


class Memory:
    """Hands what exposures leave on to the next ones, while a batch is at work.

    ``firsts`` are the exposures that wait for no other one.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan):
        self._output_dir = plan.output_dir
        chains = chains_of(plan.exposures)
        self.firsts = [chain[0] for chain in chains]
        self._next = {one.input.name: other for chain in chains for one, other in pairwise(chain)}
        self._carrying = [planned for planned in plan.exposures if planned.carried is not None]
        self._known = plan.known
        # exposure -> the file of the one of an earlier batch that comes directly before it
        self._in_between = {}
        for chain in chains:
            links = _with_known(chain, plan.known)
            self._in_between |= {
                one.input.name: other.state
                for other, one in pairwise(links)
                if isinstance(other, Known) and not isinstance(one, Known)
            }
        # user's file and detector -> what it held before, and the digest of that; what the last exposure has left
        self._before, self._left, self._finished = {}, {}, set()
        for planned in self._carrying:
            self._begin(planned)

    def _begin(self, planned):
        """Keep what the user's file held, before it is written for the first time."""
        key = _key(planned)
        if key in self._before:
            return
        try:
            self._before[key] = _beginning(self._output_dir, planned)
        except GpucoronError:
            return  # stands as the error of each exposure
        self._note(planned, ())
        self._left[key] = _before_path(self._output_dir, planned)

    def _note(self, planned, further):
        """Write what the user's file held, and what it may hold: that, what it holds now, and what it will."""
        before = self._before[_key(planned)]
        held = [entry_digest(before), entry_digest(_entry(planned.carried.file, planned)), *further]
        note = {"known": list(dict.fromkeys(held))}
        entry = {} if before is None else {planned.input.about["detector"]: before}
        write_entries(_before_path(self._output_dir, planned), {**entry, _NOTE: note})

    def after(self, planned):
        """Give the exposure whose turn comes after another one; None if there is none."""
        return self._next.get(planned.input.name)

    def take_turn(self, planned):
        """Take note that an exposure's turn has come: what earlier batches have reduced before it is now behind."""
        between = self._in_between.get(planned.input.name)
        if between is not None:
            self._left[_key(planned)] = between

    def told(self, planned):
        """Say what the manifest keeps for later batches; None for an exposure that leaves nothing."""
        if planned.carried is None:
            return None
        chained = planned.carried.chained
        return {
            "file": str(planned.carried.file),
            "beginning": entry_digest(self._before[_key(planned)]),
            "found": entry_digest(_entry(self._left[_key(planned)], planned)) if chained else None,
            "begun": list(planned.input.begun),
            "place": list(planned.input.place),
        }

    def is_done(self, planned):
        """Tell whether an exposure was reduced before, and finds what it found then."""
        if planned.todo and (planned.error is not None or planned.follows is None):
            return False
        if not state_path(self._output_dir, planned.input.name).is_file():
            return False
        if not planned.todo:
            return True
        told = self.told(planned)
        return planned.follows == (told["beginning"], told["found"])

    def finish(self, planned):
        """Take note that the file that an exposure has left is in its place."""
        if planned.carried is not None:
            self._finished.add(planned.input.name)
            self._left[_key(planned)] = state_path(self._output_dir, planned.input.name)

    def files(self, planned, stage):
        """Name the files of an exposure's step: it reads what was left to it, and writes into its stage."""
        if planned.carried is None:
            return {}
        files = {"save_persistence": str(state_path(stage, planned.input.name))}
        if planned.carried.chained:
            files["persistence_array_file"] = str(self._left[_key(planned)])
        return files

    def close(self):
        """Write the user's file: of each detector, what the last exposure in time has left.

        It may be one of an earlier batch.

        Raises
        ------
        OutputError
        """
        finished = [planned for planned in self._carrying if planned.input.name in self._finished]
        last = {_key(planned): planned for planned in sorted(finished, key=_turn)}
        for (file, detector), planned in last.items():
            later = [one for one in self._known if one.key == (file, detector) and _turn(one) > _turn(planned)]
            state = max(later, key=_turn).state if later else state_path(self._output_dir, planned.input.name)
            entry = read_entries(state).get(detector)
            there = read_entries(file)
            if entry_digest(there.get(detector)) != entry_digest(entry):
                # first the note: whenever a batch is killed, it knows its own file again
                self._note(planned, [entry_digest(entry)])
                write_entries(file, {**there, detector: entry})


def _key(planned):
    return planned.carried.file, planned.input.about["detector"]
