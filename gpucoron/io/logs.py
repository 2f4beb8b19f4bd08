"""The log of a reduction: messages of the steps, the record of the log in products, and the levels of loggers.

jwst stores the log of a pipeline in its products (``cal_logs``), without private data such as paths and user names. All
our entry points do the same. Loggers are shared by the whole process: a level that is lowered here stays low as long as
any reduction needs it, and other handlers do not receive more messages than before.
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

#: key of the lines in ``cal_logs``: jwst's name of the pipeline
ALIAS = "calwebb_coron1"
#: loggers whose messages are recorded: ours, and those that jwst records
LOGGERS = ("gpucoron", "jwst", "stcal", "stdatamodels", "stpipe", "CRDS", "py.warnings")

_PATH = re.compile(r"(?<![\w.:/])/(?:[^/\s'\"]+/)+(?=[^/\s])")
_ADDRESS = re.compile(r"(?<![\w.:])[0-9A-Fa-f]*[.:][0-9A-Fa-f.:]*[0-9A-Fa-f](?![\w])")


@contextmanager
def recorded():
    """Record the log messages of this thread from level INFO on, whether they are shown or not. Also a decorator.

    Yields
    ------
    list of str
        One line per message in the format of jwst's ``cal_logs``, without folders, network addresses, user and host
        names. The list grows until the block ends; `lines_so_far` returns the same list.
    """
    recorder = (threading.get_ident(), [])
    with _LEVELS.lock:
        _LEVELS.recorders.append(recorder)
        _LEVELS.update()
    try:
        yield recorder[1]
    finally:
        with _LEVELS.lock:
            _LEVELS.recorders = [one for one in _LEVELS.recorders if one is not recorder]
            _LEVELS.update()


def lines_so_far():
    """Return the list that `recorded` fills in this thread; a new list if nothing is being recorded."""
    with _LEVELS.lock:
        of_thread = [lines for thread, lines in _LEVELS.recorders if thread == threading.get_ident()]
    return of_thread[-1] if of_thread else []


@contextmanager
def shown(name, level):
    """Show the messages of a logger from a level on, in all threads; of several levels, the lowest applies.

    Parameters
    ----------
    name : str
    level : int or None
        INFO prints to stderr if no handler is configured, as in a plain script; None changes nothing.
    """
    with _LEVELS.lock:
        if level is not None and (level > logging.INFO or not logging.getLogger(name).isEnabledFor(level)):
            request = (name, level)
            _LEVELS.requests.append(request)
        else:
            request = None
        prints = level == logging.INFO and _LEVELS.start_printing(name)
        _LEVELS.update()
    try:
        yield
    finally:
        with _LEVELS.lock:
            _LEVELS.requests = [one for one in _LEVELS.requests if one is not request]
            if prints:
                _LEVELS.stop_printing()
            _LEVELS.update()


class _Levels:
    """The levels and handlers of loggers that all active `recorded` and `shown` blocks need together."""

    def __init__(self):
        self.lock = threading.RLock()
        self.recorders, self.requests = [], []
        self._found = {}  # logger -> its original level, and the level that we set
        self._gated = []
        self._recorder, self._gate = _Recorder(), _Gate()
        self._printer, self._n_printing = None, 0

    def update(self):
        """Set every logger to the level needed now, or back to its original level."""
        needed = {name for name, _level in self.requests} | set(LOGGERS if self.recorders else ())
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
        if logger.level != given:  # other code has changed it
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
        requested = [level for name, level in self.requests if name == logger.name]
        return min(requested) if requested else self._found.get(logger.name, (logger.level,))[0]

    def shown_level(self, logger):
        """Return the level from which on a logger would pass messages without the recording."""
        while logger is not None:
            level = self._own_level(logger)
            if level:
                return level
            logger = logger.parent
        return logging.NOTSET

    def _attach(self, logger):
        """Attach the recorder to a logger; its other handlers receive the same messages as before."""
        logger.addHandler(self._recorder)
        for handler in _handlers_of(logger):
            if handler is not self._recorder and self._gate not in handler.filters:
                handler.addFilter(self._gate)
                self._gated.append(handler)

    def start_printing(self, name):
        """Print to stderr if no handler is configured; return whether `stop_printing` must follow."""
        top = logging.getLogger("gpucoron")
        if self._printer is None:
            others = [handler for handler in _handlers_of(logging.getLogger(name)) if handler is not self._recorder]
            if others:
                return False
            self._printer = logging.StreamHandler()
            self._printer.setFormatter(logging.Formatter("%(message)s"))
            top.addHandler(self._printer)
        self._n_printing += 1
        return True

    def stop_printing(self):
        """Stop printing when the last block that needs it has ended."""
        self._n_printing -= 1
        if self._n_printing == 0:
            logging.getLogger("gpucoron").removeHandler(self._printer)
            self._printer = None


def _handlers_of(logger):
    """Yield all handlers that receive the messages of a logger."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


class _Gate(logging.Filter):
    """Keep messages from a handler that only the recorder needs."""

    def filter(self, record):
        return record.levelno >= _LEVELS.shown_level(logging.getLogger(record.name))


class _Recorder(logging.Handler):
    """Append each message to the lines recorded in its thread."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.setFormatter(_Scrubbed("%(asctime)s.%(msecs)03d - %(name)s - %(levelname)s - %(message)s"))

    def emit(self, record):
        of_thread = [lines for thread, lines in _LEVELS.recorders if thread == threading.get_ident()]
        if of_thread:
            line = self.format(record)
            for lines in of_thread:
                lines.append(line)


class _Scrubbed(logging.Formatter):
    """Format a message as jwst does, in UTC, without private data."""

    converter = time.gmtime  # type: ignore[assignment]
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = None

    def format(self, record):
        return scrub(super().format(record))


def scrub(text):
    """Remove folders, the names of user and host, and network addresses from a text.

    Notes
    -----
    Source: jwst 3.0, ``stpipe._cal_logs``, which instead drops the whole message for a name or an address.
    """
    text = _ADDRESS.sub(partial(_hide_address), _PATH.sub("", text))
    for pattern, replacement in _private_names():
        text = pattern.sub(replacement, text)
    return text


def _hide_address(match):
    with suppress(ValueError):
        return "(address)" if ipaddress.ip_address(match[0]) else match[0]
    return match[0]


@cache
def _private_names():
    """Return the user and host names that products must not contain: (pattern, replacement)."""
    found = []
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        found.append((getpass.getuser(), "(user)"))
    found.append((socket.gethostname(), "(host)"))
    return [(re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])"), replacement) for name, replacement in found if name]


_LEVELS = _Levels()


def log_run(run):
    """Log the versions, CRDS context, profile and backend of a reduction."""
    log = logging.getLogger("gpucoron.engine")
    context, crds = run.context
    log.info("%s: gpucoron %s with jwst %s", run.exposure.name, __version__, installed("jwst"))
    log.info("Backend %s, profile %s, CRDS context %s (crds %s)", run.backend.name, run.profile, context, crds)


def log_parameters(run):
    """Log all parameters of the run and of the steps that are not skipped."""
    lines = [json.dumps(vars(run.run_parameters), default=str)]
    for name, settings in run.parameters.items():
        lines.append(f"{name}: {'skipped' if settings.skip else json.dumps(vars(settings), default=str)}")
    logging.getLogger("gpucoron.engine").info("The parameters are:\n  %s", "\n  ".join(lines))


def log_start(run, step):
    """Log that a step begins, and its reference files."""
    with _LEVELS.lock:
        _LEVELS.update()  # other code may have changed levels, such as jwst's pipelines in other threads
    log, settings = logging.getLogger(f"gpucoron.steps.{step.name}"), run.parameters[step.name]
    log.info("Step %s running on %s", step.name, run.exposure.name)
    if settings.skip:
        return
    for reftype in step.references_of(settings, run.exposure.facts):
        path = run.reference_path(step.name, reftype)
        if path is not None:
            log.info("Using %s reference file %s", reftype.upper(), path)


def log_end(record, is_timed=True):
    """Log the outcome of a step: what it flagged, or why it did not run; and its time, if it is known already."""
    log = logging.getLogger(f"gpucoron.steps.{record.name}")
    for what, count in record.flagged.items():
        log.info("Flagged %d %s", count, what)
    if record.status == "COMPLETE":
        where = f" on {'+'.join(record.workers)}" if record.workers else ""
        remark = f" ({record.reason})" if record.reason else ""
        log.info("Step %s done%s%s%s", record.name, f" in {record.seconds:.3f} s" if is_timed else "", where, remark)
    else:
        log.info("Step %s %s: %s", record.name, record.status.lower(), record.reason)


def log_times(records):
    """Log the seconds of all steps that ran."""
    ran = [f"{record.name} {record.seconds:.4f}" for record in records if record.status == "COMPLETE"]
    if ran:
        logging.getLogger("gpucoron.engine").info("Seconds on the GPU: %s", ", ".join(ran))
