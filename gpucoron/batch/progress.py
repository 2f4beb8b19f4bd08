"""Show the progress of a batch: a bar in a terminal, plain lines elsewhere, or nothing."""

import sys
import time


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


class PlainLines(Silent):
    """Print one line per exposure, for logs and pipes."""

    def __init__(self, stream=None):
        self._stream = stream or sys.stderr
        self._count = self._done = self._failed = 0
        self._start = time.monotonic()

    def _say(self, text):
        print(text, file=self._stream, flush=True)

    def planned(self, plan):
        self._count, self._start = len(plan.todo), time.monotonic()
        self._say(f"{len(plan.exposures)} exposures, {self._count} to reduce; context {plan.context}")

    def refused(self, result):
        self._say(describe_result(result))

    def result(self, result):
        self._done += 1
        self._failed += result.status == "failed"
        rate = self._done / max(time.monotonic() - self._start, 1e-3)
        left = (self._count - self._done) / rate
        self._say(f"[{self._done}/{self._count}, {self._failed} failed, {left:.0f} s left] {describe_result(result)}")


class Bar(Silent):
    """Show a bar with the current exposures, the rate, the time left and the failures."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[remark]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("planning", total=None, rate="", remark="")
        self._at_work, self._failed, self._done = {}, 0, 0
        self._start = time.monotonic()

    def planning(self, number, count):
        self._progress.start()
        self._progress.update(self._task, completed=number, total=count)

    def planned(self, plan):
        self._start = time.monotonic()
        self._progress.reset(self._task, total=len(plan.todo), description="reducing", rate="", remark="")

    def refused(self, result):
        self._progress.console.print(describe_result(result), highlight=False, markup=False, soft_wrap=True)

    def step(self, exposure, step):
        self._at_work[exposure] = step
        self._show()

    def result(self, result):
        self._at_work.pop(result.exposure, None)
        self._done += 1
        self._failed += result.status == "failed"
        if result.status != "done":
            self._progress.console.print(describe_result(result), highlight=False, markup=False, soft_wrap=True)
        self._show()

    def _show(self):
        rate = self._done / max(time.monotonic() - self._start, 1e-3)
        now = ", ".join(f"{exposure} after {step}" for exposure, step in self._at_work.items())
        failed = f"{self._failed} failed  " if self._failed else ""
        self._progress.update(self._task, completed=self._done, rate=f"{60 * rate:.1f}/min", remark=failed + now)

    def close(self):
        self._progress.stop()


def choose_progress(quiet):
    """Return how to show progress: not at all, by a bar in a terminal, or by lines elsewhere."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else PlainLines()
