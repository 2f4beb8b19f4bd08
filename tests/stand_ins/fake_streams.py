"""Streams and events of the stand-in for CuPy.

Each stream has a queue: its work waits there until something waits for it. So the work of one stream never runs because
of another one, unless an event orders them, and a missing event changes the results. In addition, each stream knows
which work it follows, and refuses memory that work of another stream has written, or for writing read, and that it does
not follow.
"""

import threading
import weakref
from collections import Counter
from types import SimpleNamespace

import numpy as np


class Unordered(RuntimeError):
    """Work of two streams on the same memory, and no event between."""


def make_streams(fake):
    """Make the streams and events of a `FakeCupy`.

    Parameters
    ----------
    fake : FakeCupy

    Returns
    -------
    SimpleNamespace
        ``Stream`` and ``Event``, as in ``cupy.cuda``; ``current()``, the stream of the calling thread on its current
        device; ``all()``, the streams that exist; ``finish(device)``, which waits for all of them.
    """
    working = threading.RLock()
    existing, null = weakref.WeakSet(), {}
    #: stream -> number of its last work that the host has waited for
    host = Counter()
    memory = _Memory()

    class Stream:
        def __init__(self, non_blocking=False):
            assert non_blocking, "a stream that waits for the default stream, and makes it wait"
            self._prepare()

        def _prepare(self):
            self.device_id = fake.current
            self._queue, self._last, self._clock = [], 0, Counter()
            existing.add(self)

        def use(self):
            if self.device_id != fake.current:
                msg = f"a stream of device {self.device_id}, but the current device is {fake.current}"
                raise RuntimeError(msg)
            fake.streams_of_thread[self.device_id] = self

        def record(self, event=None):
            event = event or Event()
            event.record(self)
            return event

        def wait_event(self, event):
            if event._number > host[event._stream]:
                with working:
                    self._clock |= event._clock
                    self._last += 1
                    self._queue.append((self._last, lambda: event._stream._run(event._number)))

        def synchronize(self):
            fake.counts["syncs"] += 1
            self._finish()

        def _finish(self):
            event = self.record()
            self._run(event._number)
            event._tell_host()

        def _run(self, last):
            """Run the work up to a number."""
            # Another thread may still work on what it has removed from the queue.
            with working:
                while self._queue and self._queue[0][0] <= last:
                    self._queue.pop(0)[1]()

        def _order(self, reads, writes):
            """Give a number to the next work, which must follow all other work on its memory."""
            with working:
                self._clock |= host
                memory.check(self._clock, self, reads, writes)
                self._last += 1
                self._clock[self] = self._last
                memory.note(self, self._last, reads, writes)
                return self._last

        def _add(self, work, reads=(), writes=()):
            with working:
                self._queue.append((self._order(reads, writes), work))

    class Event:
        def record(self, stream=None):
            self._stream = stream or current()
            self._number, self._clock = self._stream._last, self._stream._clock | host

        def synchronize(self):
            fake.counts["syncs"] += 1
            self._stream._run(self._number)
            self._tell_host()

        def _tell_host(self):
            with working:
                host[self._stream] = max(host[self._stream], self._number)
                host.update({stream: number - host[stream] for stream, number in (self._clock - host).items()})

    def current():
        device = fake.current
        if device not in fake.streams_of_thread:
            with working:
                if device not in null:
                    null[device] = Stream.__new__(Stream)
                    null[device]._prepare()
            fake.streams_of_thread[device] = null[device]
        return fake.streams_of_thread[device]

    def get_elapsed_time(start, stop):
        """Return a thousand times the number of works between: each takes a second."""
        assert start._stream is stop._stream
        if stop._number > host[stop._stream]:
            msg = "cudaErrorNotReady: device not ready"
            raise RuntimeError(msg)
        return 1e3 * (stop._number - start._number)

    def finish(device=None):
        for stream in [each for each in existing if device in (None, each.device_id)]:
            stream._finish()

    return SimpleNamespace(
        Stream=Stream,
        Event=Event,
        current=current,
        all=lambda: list(existing),
        finish=finish,
        get_elapsed_time=get_elapsed_time,
    )


class _Memory:
    """Which work has written and read each piece of memory last."""

    def __init__(self):
        self._known = {}

    def _of(self, array):
        """Return the record of the memory of a stand-in's array: [stream, number, {stream: number of reads}]."""
        base = array.raw
        while isinstance(base.base, np.ndarray):
            base = base.base
        known = self._known.get(id(base))
        if known is None or known[0]() is not base:
            known = self._known[id(base)] = (weakref.ref(base), [None, 0, {}])
        return known[1]

    def check(self, clock, stream, reads, writes):
        for array in (*reads, *writes):
            writer, number, _ = self._of(array)
            if writer is not None and writer is not stream and clock[writer] < number:
                msg = f"memory of shape {array.shape} that another stream writes is used without waiting for it"
                raise Unordered(msg)
        for array in writes:
            for reader, number in self._of(array)[2].items():
                if reader is not stream and clock[reader] < number:
                    msg = f"memory of shape {array.shape} is written before another stream has read it"
                    raise Unordered(msg)

    def note(self, stream, number, reads, writes):
        for array in reads:
            self._of(array)[2][stream] = number
        for array in writes:
            self._of(array)[:] = stream, number, {}
