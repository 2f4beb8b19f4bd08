"""Measure the anonymous memory of an exposure under a limit, in a new process.

``python measure_memory.py SMALL LARGE FOLDER ROOM OPTIONS`` reduces a small exposure to load all libraries, then the
large one with ROOM bytes in addition, and without a limit; prints a JSON object. The references of each are in
``crds`` next to it.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import gpucoron
from gpucoron.backends.process_memory import anonymous_memory
from gpucoron.io.references import STORE
from gpucoron.simulate.crds import open_cache
from tests.cases.pipelines import SLOPE_ARRAYS


def main():
    small, large, folder, room, options = sys.argv[1:]
    options = json.loads(options)
    words = _Words()
    logging.getLogger("gpucoron").addHandler(words)
    _reduce(small, f"{folder}/small", options)
    STORE.clear()
    before = anonymous_memory()
    limit = before + int(room)
    peaks, watch = {}, Watch()

    def after_step(run, record):
        peaks[record.name] = watch.take_peak()

    run, limited = _reduce(large, f"{folder}/limited", options, max_memory=limit, after_step=after_step)
    peaks["write"] = watch.take_peak()
    whole_run, whole = _reduce(large, f"{folder}/whole", options)
    said = {
        "before": before,
        "limit": limit,
        "peak": max(peaks.values()),
        "peaks": peaks,
        "unlimited_peak": watch.take_peak(),
        "in_chunks": [each.backend.is_in_chunks for each in (run, whole_run)],
        "words": words.said,
        "different": _differences(run, limited, whole_run, whole),
    }
    print(json.dumps(said))


#: another process samples the memory, so that this one is not delayed: Linux keeps no high-water mark of anonymous
#: memory
WATCHING = """
import select, sys
from gpucoron.backends.process_memory import anonymous_memory

peak = 0
while True:
    peak = max(peak, anonymous_memory(int(sys.argv[1])))
    if select.select([sys.stdin], [], [], 0.001)[0]:
        if not sys.stdin.readline():
            break
        print(peak, flush=True)
        peak = 0
"""


class Watch:
    """The peak anonymous memory of this process since the last query."""

    def __init__(self):
        command = [sys.executable, "-c", WATCHING, str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.take_peak()

    def take_peak(self):
        print(file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


def _reduce(path, output_dir, options, **more):
    with open_cache(Path(path).parent / "crds").activate():
        run, models, _ = gpucoron.reduce_file(path, output_dir, **{**options, **more})
    return run, models


def _differences(run, limited, whole_run, whole):
    """Return the names of arrays that are not bit-identical."""
    pairs = {f"{product} {name}": (product, name) for product in ("rate", "rateints") for name in SLOPE_ARRAYS}
    different = [
        label
        for label, (product, name) in pairs.items()
        if not np.array_equal(_bits(getattr(limited[product], name)), _bits(getattr(whole[product], name)))
    ]
    for name in ("data", "groupdq", "pixeldq", "zeroframe"):
        ours, expected = getattr(run.exposure, name), getattr(whole_run.exposure, name)
        if expected is not None and not all(
            np.array_equal(_bits(a), _bits(b)) for a, b in zip(ours, expected, strict=True)
        ):
            different.append(name)
    return different


def _bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


class _Words(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


if __name__ == "__main__":
    main()
