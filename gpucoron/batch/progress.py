"""Show the progress of a batch or of single runs: bars in a terminal, plain lines elsewhere, or nothing."""

import os
import sys
import time
from contextlib import contextmanager

_BAR_WIDTH = 10
#: width of the spinner, the step and the time, with the spaces between them
_OTHER_COLUMNS = 44


class Silent:
    """Show nothing; the base class of the other ways to show progress."""

    def planning(self, number, count):
        """Called when ``number`` of ``count`` exposures have been planned."""

    def planned(self, plan):
        """Called when the plan is complete."""

    def refused(self, result):
        """Called when an exposure is refused because its products must not be replaced."""

    def started(self, n_workers):
        """Called when the workers start."""

    def begin_step(self, exposure, step, number, count):
        """Called when an exposure begins a step, the ``number``-th of ``count`` that are not switched off."""

    def step(self, exposure, step):
        """Called when an exposure has completed a step."""

    def result(self, result):
        """Called when an exposure is finished."""

    def close(self):
        """Called at the end of the batch."""


def describe_result(result, width=0):
    """Describe the result of an exposure in one line."""
    seconds = (result.record.get("seconds") or {}).get("total")
    took = "" if seconds is None else f"  {seconds:.1f} s"
    why = f"  {result.message.splitlines()[0]}" if result.message else ""
    return f"{result.status:<7} {result.exposure:<{width}}{took}{why}"


def place_of(run, name):
    """Return the number of a step among those of a run that are not switched off, and their count; None for others."""
    steps = [step for step in run.order if not run.parameters[step].skip]
    return (steps.index(name) + 1, len(steps)) if name in steps else None


class PlainLines(Silent):
    """Print one line per exposure, for logs and pipes."""

    def __init__(self, stream=None):
        self._stream = stream or sys.stderr
        self._count = self._done = self._failed = 0
        self._start = time.monotonic()

    def _say(self, text):
        try:
            print(text, file=self._stream, flush=True)
        except BrokenPipeError:  # the batch goes on without a reader
            self._stream = None
            self._say = lambda text: None

    def planned(self, plan):
        self._count, self._start = len(plan.todo), time.monotonic()
        exposures = f"{len(plan.exposures)} exposure{'' if len(plan.exposures) == 1 else 's'}"
        self._say(f"{exposures}, {self._count} to reduce; context {plan.context}")

    def refused(self, result):
        self._say(describe_result(result))

    def result(self, result):
        self._done += 1
        self._failed += result.status == "failed"
        left = _seconds_left(self._start, self._done, self._count)
        self._say(f"[{self._done}/{self._count}, {self._failed} failed, {left:.0f} s left] {describe_result(result)}")


def _seconds_left(start, done, count):
    return (count - done) * (time.monotonic() - start) / max(done, 1)


class Bar(Silent):
    """Show a bar for the batch, and below it one for each exposure that is being reduced, with its step."""

    def __init__(self):
        from rich.progress import BarColumn

        self._progress = _make_display(BarColumn(_BAR_WIDTH))
        self._task = self._progress.add_task("planning", total=None, remark="")
        self._rows, self._count, self._failed, self._done = {}, 0, 0, 0
        self._start = time.monotonic()

    def planning(self, number, count):
        self._progress.start()
        self._progress.update(self._task, completed=number, total=count)

    def planned(self, plan):
        self._start, self._count = time.monotonic(), len(plan.todo)
        self._progress.reset(self._task, total=self._count, description="reducing", remark="")

    def refused(self, result):
        self._print(result)

    def begin_step(self, exposure, step, number, count):
        if exposure not in self._rows:
            name = _shorten(exposure, self._progress, _BAR_WIDTH + 1)
            self._rows[exposure] = self._progress.add_task(name, remark="")
        remark = _remark(step, number, count)
        self._progress.update(self._rows[exposure], completed=number - 1, total=count, remark=remark)

    def result(self, result):
        if result.exposure in self._rows:
            self._progress.remove_task(self._rows.pop(result.exposure))
        self._done += 1
        self._failed += result.status == "failed"
        if result.status != "done":
            self._print(result)
        rate = 60 * self._done / max(time.monotonic() - self._start, 1e-3)
        failed = f", {self._failed} failed" if self._failed else ""
        left = _seconds_left(self._start, self._done, self._count)
        remark = f"{self._done} of {self._count}, {rate:.1f}/min, {left:.0f} s left{failed}"
        self._progress.update(self._task, completed=self._done, remark=remark)

    def _print(self, result):
        self._progress.console.print(describe_result(result), highlight=False, markup=False, soft_wrap=True)

    def close(self):
        self._progress.stop()


def choose_progress(quiet):
    """Return how to show the progress of a batch: not at all, by bars in a terminal, or by lines elsewhere."""
    if quiet:
        return Silent()
    return Bar() if _can_redraw() else PlainLines()


def _can_redraw():
    """Return whether stderr is a terminal that can draw over its lines."""
    return sys.stderr.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


@contextmanager
def showing_steps(exposure, quiet=False):
    """Show the step of one exposure that runs now, if stderr is a terminal; nothing is left at the end.

    Parameters
    ----------
    exposure : str
        Its name.
    quiet : bool
        Show nothing.

    Yields
    ------
    dict
        ``before_step`` and ``after_step`` for `gpucoron.engine.reduce_file`; empty if nothing is shown.
    """
    if quiet or not _can_redraw():
        yield {}
        return
    display = _make_display()
    task = display.add_task(_shorten(exposure, display), total=None, remark="reading")

    def before_step(run, name):
        place = place_of(run, name)
        if place is not None:
            display.update(task, remark=_remark(name, *place))

    def after_step(run, record):
        if record.name == run.order[-1]:
            display.update(task, remark="writing")

    with display:
        yield {"before_step": before_step, "after_step": after_step}


def _remark(step, number, count):
    return f"{step} ({number} of {count})"


def _shorten(name, display, bar_width=0):
    """Return the end of a name that leaves room for the other columns of its row."""
    room = max(display.console.width - bar_width - _OTHER_COLUMNS, 10)
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _make_display(*bar):
    """Make rows that are redrawn a few times a second, by a thread of their own, and vanish at the end."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *bar,
        TextColumn("{task.fields[remark]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # it would be printed to stderr
        refresh_per_second=4,
    )
