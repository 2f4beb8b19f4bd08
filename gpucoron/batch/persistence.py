"""What exposures of a batch leave to the next ones: jwst's persistence file, exposure by exposure.

jwst's persistence step reads ``persistence_array_file``, and writes ``save_persistence`` anew. Where both are one file,
an exposure depends on those before it. In a batch, the exposures of a detector then take their turns in time, and each
one's file stays in the output folder, ``persistence/<exposure>.asdf``: from these a batch goes on. What the user's file
held before is kept as ``persistence/before-<detector>.asdf``, and the file itself is written when the batch ends. So
nothing depends on the number of workers, and detectors need not wait for each other.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gpucoron.errors import GpucoronError, InputError, ParameterError
from gpucoron.io.persistence_file import entry_digest, read_entries, write_entries, written_path

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
            chains.setdefault((one.carried.file, one.input.about["detector"]), []).append(one)
        else:
            alone.append([one])
    return [*(sorted(chain, key=_turn) for chain in chains.values()), *alone]


def _turn(planned):
    return planned.input.begun or (0.0, 0), planned.input.name


def settle_plan(plan, known, shard):
    """Decide which exposures are to be reduced (again) for what others leave to them; nothing is written.

    Parameters
    ----------
    plan : Plan
        Changed in place.
    known : dict
        Exposure -> its last record.
    shard : (int, int)

    Raises
    ------
    ParameterError
        The exposures are spread over several batches.
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
    for chain in chains_of(carrying):
        _settle_chain(chain, plan.output_dir, known)


def _settle_chain(chain, output_dir, known):
    try:
        digest, again = entry_digest(_beginning(output_dir, chain[0])), None
        for planned in chain:
            left = state_path(output_dir, planned.input.name)
            record = known.get(planned.input.name) or {}
            if planned.todo:
                again = planned.input.name
            elif not record:
                continue  # only what failed is wanted, and this one is new
            elif again is not None and planned.carried.chained:
                planned.todo, planned.reason, planned.follows = True, f"follows {again}", record.get("persistence")
            elif planned.carried.chained and record.get("persistence") != digest:
                planned.todo, planned.reason, again = True, "other persistence before it", planned.input.name
            elif not left.is_file():
                planned.todo, planned.reason, again = True, f"{FOLDER}/{left.name} is missing", planned.input.name
            elif planned.carried.chained:
                digest = entry_digest(_entry(left, planned))
    except GpucoronError as error:
        for planned in chain:
            planned.error = planned.error or error


def _entry(path, planned):
    return read_entries(path).get(planned.input.about["detector"])


def _before_path(output_dir, planned):
    return Path(output_dir) / FOLDER / f"before-{planned.input.about['detector']}.asdf"


def _beginning(output_dir, planned):
    """Find what the user's file held for a detector before this folder's batches wrote it: its entry, or None.

    The file as a batch left it is no new beginning; as anybody else left it, it is.
    """
    file = planned.carried.file
    now = _entry(file, planned)
    kept = read_entries(_before_path(output_dir, planned))
    note = kept.get(_NOTE, {})
    if note.get("file") == str(file) and entry_digest(now) in note["known"]:
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
        note = {"file": str(planned.carried.file), "known": list(dict.fromkeys(held))}
        entry = {} if before is None else {planned.input.about["detector"]: before}
        write_entries(_before_path(self._output_dir, planned), {**entry, _NOTE: note})

    def after(self, planned):
        """Give the exposure whose turn comes after another one; None if there is none."""
        return self._next.get(planned.input.name)

    def before(self, planned):
        """Digest what an exposure finds; None for one that does not read what others left."""
        if planned.carried is None or not planned.carried.chained:
            return None
        return entry_digest(_entry(self._left[_key(planned)], planned))

    def is_done(self, planned):
        """Tell whether an exposure was reduced before, and finds what it found then."""
        if planned.todo and (planned.error is not None or planned.follows is None):
            return False
        if not state_path(self._output_dir, planned.input.name).is_file():
            return False
        return not planned.todo or planned.follows == self.before(planned)

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

        Raises
        ------
        OutputError
        """
        last = {}
        for planned in sorted(self._carrying, key=_turn):
            if planned.input.name in self._finished:
                last[_key(planned)] = planned
        for (file, detector), planned in last.items():
            entry = _entry(state_path(self._output_dir, planned.input.name), planned)
            there = read_entries(file)
            if entry_digest(there.get(detector)) != entry_digest(entry):
                # first the note: whenever a batch is killed, it knows its own file again
                self._note(planned, [entry_digest(entry)])
                write_entries(file, {**there, detector: entry})


def _key(planned):
    return planned.carried.file, planned.input.about["detector"]
