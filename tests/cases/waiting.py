"""Waiting for events. No test judges by time: a limit here only ends a test that would hang."""

import signal
import time
from contextlib import contextmanager

#: s after which a test that still waits counts as hanging; far longer than any wait on a slow, busy machine
HANG = 900


def wait_for(condition, seconds=HANG):
    """Wait until a function returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"it has not happened in {seconds} s"
        time.sleep(0.005)
    return answer


@contextmanager
def no_hang(seconds=HANG):
    """Raise TimeoutError in a block that hangs."""

    def stop(signum, frame):
        msg = f"it took more than {seconds} s"
        raise TimeoutError(msg)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
