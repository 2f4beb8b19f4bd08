"""Folders of tiny exposures, and batches of them in separate processes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from astropy.io import fits

from gpucoron.simulate import simulate
from gpucoron.simulate.references import write_references
from tests.cases.paths import ROOT
from tests.cases.waiting import HANG, wait_for

HOME = str(ROOT)


class Raw:
    """A folder of tiny NIRCam exposures with their CRDS cache; ``names`` are the names of the exposures."""

    def __init__(self, folder, count, **arguments):
        folder.mkdir(parents=True, exist_ok=True)
        options = {"ngroups": 4, "nints": 2, "shape": (32, 32), **arguments}
        made = [
            simulate("NIRCAM", "SUB320A335R", "MEDIUM8", seed=seed, observation=seed, **options)
            for seed in range(1, min(count, 3) + 1)
        ]
        self.path = folder / "raw"
        self.path.mkdir()
        self.cache = write_references(made, folder / "crds")
        first = [simulation.write(self.path) for simulation in made]
        self.files = list(first)
        for number in range(len(first) + 1, count + 1):
            source = first[number % len(first)]
            target = self.path / re.sub(r"^jw01386\d{3}", f"jw01386{number:03d}", source.name)
            shutil.copy(source, target)
            self.files.append(target)
        self.names = sorted(path.name.removesuffix("_uncal.fits") for path in self.files)

    def environment(self, *folders):
        """Environment variables for a process that uses the cache, these folders of modules, and this package."""
        path = os.pathsep.join([*map(str, folders), HOME])
        return {**os.environ, **self.cache.environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def start(self, output, *arguments, paths=None, folders=()):
        """Start ``gpucoron batch`` in a new process, which imports from ``folders`` first."""
        command = [sys.executable, "-m", "gpucoron.cli", "batch", *map(str, paths or [self.path])]
        return subprocess.Popen(
            [*command, "-o", str(output), "--backend", "cpu", *arguments],
            env=self.environment(*folders),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, output, *arguments, paths=None, expect=0):
        """Run ``gpucoron batch`` until it ends; return its output."""
        process = self.start(output, *arguments, paths=paths)
        out, err = process.communicate(timeout=HANG)
        assert process.returncode == expect, out + err
        return out + err


def lines(output):
    """Read all lines of the manifests in a folder."""
    return [
        json.loads(line)
        for path in sorted(Path(output).glob("manifest*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def records(output):
    """Read the manifest records of finished exposures, failed ones included."""
    return [record for record in lines(output) if record["status"] != "started"]


def products(output):
    """Read all products: name -> their bytes without dates, the hash of the header and the log."""
    return {path.name: _timeless(path) for path in sorted(Path(output).glob("*.fits"))}


def _timeless(path):
    """Read the extensions of a product: (name, header, content), without times and durations."""
    whole = path.read_bytes()
    date = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?|_fits_hash: [0-9a-f]{64}"
    parts = []
    with fits.open(path) as hdus:
        for hdu in hdus:
            place = hdu.fileinfo()
            header = whole[place["hdrLoc"] : place["datLoc"]]
            content = whole[place["datLoc"] : place["datLoc"] + place["datSpan"]]
            if hdu.name == "ASDF":  # the header holds the log and its length
                header, content = b"", re.sub(rb"(?ms)^cal_logs:.*?^(?=\S)", b"", content).rstrip(b"\0")
            parts.append((hdu.name, re.sub(date, b"", header), re.sub(date, b"", content)))
    return parts


def leftovers(output):
    """List files that only a running batch may have in its folder."""
    return [path.name for path in Path(output).iterdir() if path.name.startswith(".")]


def wait_for_lines(output, process, count):
    """Wait until a running batch has recorded the end of ``count`` exposures."""

    def are_there():
        assert process.poll() is None, process.communicate()
        return count_lines(output, "ended") >= count

    wait_for(are_there)


def count_lines(output, kind):
    """Count lines of the manifest: exposures that were "placing" their products, or that have "ended"."""
    path = Path(output) / "manifest.jsonl"
    text = path.read_text() if path.exists() else ""
    placing = text.count('"status": "started"')
    return placing if kind == "placing" else text.count("\n") - placing
