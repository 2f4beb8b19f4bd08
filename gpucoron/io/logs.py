"""What a reduction says while it runs: the words of its steps, its own lines for its products, who hears them.

jwst keeps the log of a pipeline in the tree of its products (``cal_logs``), scrubbed of what is nobody's business. So
do all our ways to reduce an exposure. Loggers belong to the whole process: levels that are lowered here for a time are
lowered for as long as anybody needs it, and nobody sees more for it than before.
"""

import getpass
import ipaddress
import json
import logging
import re
import socket
import threading
import time
from contextlib import contextmanager, suppress
from functools import cache, partial

from gpucoron import __version__
from gpucoron.io.versions import installed

#: under which key of ``cal_logs`` the lines stand: the name by which jwst knows the pipeline
ALIAS = "calwebb_coron1"
#: whose words belong to the log of a reduction: ours, and those that jwst records too
LOGGERS = ("gpucoron", "jwst", "stcal", "stdatamodels", "stpipe", "CRDS", "py.warnings")

_PATH = re.compile(r"(?<![\w.:/])/(?:[^/\s'\"]+/)+(?=[^/\s])")
_ADDRESS = re.compile(r"(?<![\w.:])[0-9A-Fa-f]*[.:][0-9A-Fa-f.:]*[0-9A-Fa-f](?![\w])")


@contextmanager
def recorded():
    """Record what the reduction in this thread logs from INFO on, whatever is shown of it. Also a decorator.

    Yields
    ------
    list of str
        One line per message, as jwst's ``cal_logs`` has them: folders, the user's name, the host's name and addresses
        are taken out. It grows until the block ends; `lines_so_far` gives the same.
    """
    recorder = (threading.get_ident(), [])
    with _EARS.lock:
        _EARS.recorders.append(recorder)
        _EARS.listen()
    try:
        yield recorder[1]
    finally:
        with _EARS.lock:
            _EARS.recorders = [one for one in _EARS.recorders if one is not recorder]
            _EARS.listen()


def lines_so_far():
    """Return the list that `recorded` fills in this thread; a list of its own where nothing is recorded."""
    with _EARS.lock:
        of_thread = [lines for thread, lines in _EARS.recorders if thread == threading.get_ident()]
    return of_thread[-1] if of_thread else []


@contextmanager
def heard(name, level):
    """Let a logger's messages from a level on be seen, in all threads: of several levels, the lowest counts.

    Parameters
    ----------
    name : str
    level : int or None
        INFO prints to stderr where nothing else handles the messages, as in a plain script; None changes nothing.
    """
    with _EARS.lock:
        if level is not None and (level > logging.INFO or not logging.getLogger(name).isEnabledFor(level)):
            wish = (name, level)
            _EARS.wishes.append(wish)
        else:
            wish = None
        speaks = level == logging.INFO and _EARS.start_speaking(name)
        _EARS.listen()
    try:
        yield
    finally:
        with _EARS.lock:
            _EARS.wishes = [one for one in _EARS.wishes if one is not wish]
            if speaks:
                _EARS.stop_speaking()
            _EARS.listen()


class _Ears:
    """The levels and handlers of loggers, as those who record and those who want to hear need them together."""

    def __init__(self):
        self.lock = threading.RLock()
        self.recorders, self.wishes = [], []
        self._found = {}  # logger -> its level before us, and the one that we gave it
        self._gated = []
        self._recorder, self._gate = _Recorder(), _Gate()
        self._speaker, self._n_speaking = None, 0

    def listen(self):
        """Give every logger the level that is needed now; where none is, the one that it had."""
        needed = {name for name, _level in self.wishes} | set(LOGGERS if self.recorders else ())
        for name in {*needed, *self._found}:
            self._settle(logging.getLogger(name), name in needed)
        if self.recorders:
            for name in LOGGERS:
                self._attach(logging.getLogger(name))
        else:
            for handler in self._gated:
                handler.removeFilter(self._gate)
            self._gated.clear()
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(self._recorder)

    def _settle(self, logger, is_needed):
        before, given = self._found.pop(logger.name, (logger.level, logger.level))
        if logger.level != given:  # somebody else has set it meanwhile
            before = logger.level
        if not is_needed:
            logger.setLevel(before)
            return
        self._found[logger.name] = (before, before)
        level = self._own_level(logger)
        if self.recorders and logger.name in LOGGERS and self.shown_level(logger) > logging.INFO:
            level = logging.INFO
        self._found[logger.name] = (before, level)
        logger.setLevel(level)

    def _own_level(self, logger):
        wished = [level for name, level in self.wishes if name == logger.name]
        return min(wished) if wished else self._found.get(logger.name, (logger.level,))[0]

    def shown_level(self, logger):
        """Tell from which level on a logger would let messages pass if nobody recorded them."""
        while logger is not None:
            level = self._own_level(logger)
            if level:
                return level
            logger = logger.parent
        return logging.NOTSET

    def _attach(self, logger):
        """Let the recorder hear a logger; what handles its messages otherwise gets those that it would have got."""
        logger.addHandler(self._recorder)
        for handler in _handlers_of(logger):
            if handler is not self._recorder and self._gate not in handler.filters:
                handler.addFilter(self._gate)
                self._gated.append(handler)

    def start_speaking(self, name):
        """Print to stderr what nobody else handles; True if `stop_speaking` has to follow."""
        top = logging.getLogger("gpucoron")
        if self._speaker is None:
            others = [handler for handler in _handlers_of(logging.getLogger(name)) if handler is not self._recorder]
            if others:
                return False
            self._speaker = logging.StreamHandler()
            self._speaker.setFormatter(logging.Formatter("%(message)s"))
            top.addHandler(self._speaker)
        self._n_speaking += 1
        return True

    def stop_speaking(self):
        """Print no more, once nobody wants it."""
        self._n_speaking -= 1
        if self._n_speaking == 0:
            logging.getLogger("gpucoron").removeHandler(self._speaker)
            self._speaker = None


def _handlers_of(logger):
    """Go through all handlers that a logger's messages reach."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


class _Gate(logging.Filter):
    """Keeps from a handler what only the recorder is to hear."""

    def filter(self, record):
        return record.levelno >= _EARS.shown_level(logging.getLogger(record.name))


class _Recorder(logging.Handler):
    """Gives each message to the recorders of its thread."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.setFormatter(_Scrubbed("%(asctime)s.%(msecs)03d - %(name)s - %(levelname)s - %(message)s"))

    def emit(self, record):
        wanted = [lines for thread, lines in _EARS.recorders if thread == threading.get_ident()]
        if wanted:
            line = self.format(record)
            for lines in wanted:
                lines.append(line)


class _Scrubbed(logging.Formatter):
    """Writes a message in jwst's form, in UTC, without what a product should not tell everybody."""

    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = None

    def format(self, record):
        return scrub(super().format(record))


def scrub(text):
    """Take folders, the names of user and host, and network addresses out of a text.

    Notes
    -----
    Source of what is taken out: jwst 3.0, ``stpipe._cal_logs``, which drops the whole message for a name or an address.
    """
    text = _ADDRESS.sub(partial(_hide_address), _PATH.sub("", text))
    for pattern, instead in _names():
        text = pattern.sub(instead, text)
    return text


def _hide_address(match):
    with suppress(ValueError):
        return "(address)" if ipaddress.ip_address(match[0]) else match[0]
    return match[0]


@cache
def _names():
    """Find the names that no product tells: (pattern, what is written instead)."""
    found = []
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        found.append((getpass.getuser(), "(user)"))
    found.append((socket.gethostname(), "(host)"))
    return [(re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])"), instead) for name, instead in found if name]


_EARS = _Ears()


def tell_run(run):
    """Log with what an exposure is reduced: versions, context, parameter files, backend."""
    log = logging.getLogger("gpucoron.engine")
    context, crds = run.context
    log.info("%s: gpucoron %s with jwst %s", run.exposure.name, __version__, installed("jwst"))
    log.info("Backend %s, profile %s, CRDS context %s (crds %s)", run.backend.name, run.profile, context, crds)


def tell_parameters(run):
    """Log all parameters: those of the run as a whole, and of each step that is not skipped."""
    lines = [json.dumps(vars(run.run_parameters), default=str)]
    for name, settings in run.parameters.items():
        lines.append(f"{name}: {'skipped' if settings.skip else json.dumps(vars(settings), default=str)}")
    logging.getLogger("gpucoron.engine").info("The parameters are:\n  %s", "\n  ".join(lines))


def tell_start(run, step):
    """Log that a step begins, and the reference files that it uses."""
    with _EARS.lock:
        _EARS.listen()  # somebody may have changed levels since: jwst's pipelines do, in other threads
    log, settings = logging.getLogger(f"gpucoron.steps.{step.name}"), run.parameters[step.name]
    log.info("Step %s running on %s", step.name, run.exposure.name)
    if settings.skip:
        return
    for reftype in step.references_of(settings, run.exposure.facts):
        path = run.reference_path(step.name, reftype)
        if path is not None:
            log.info("Using %s reference file %s", reftype.upper(), path)


def tell_end(record):
    """Log what became of a step: what it flagged, or why it did not run."""
    log = logging.getLogger(f"gpucoron.steps.{record.name}")
    for what, count in record.flagged.items():
        log.info("Flagged %d %s", count, what)
    if record.status == "COMPLETE":
        where = f" on {'+'.join(record.workers)}" if record.workers else ""
        remark = f" ({record.reason})" if record.reason else ""
        log.info("Step %s done in %.3f s%s%s", record.name, record.seconds, where, remark)
    else:
        log.info("Step %s %s: %s", record.name, record.status.lower(), record.reason)
