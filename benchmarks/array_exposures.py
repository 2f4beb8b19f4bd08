"""Exposures and references as plain arrays, without FITS, CRDS and jwst, so that a GPU machine needs only NumPy.

The counts are plausible, not realistic: a gradient of rates, read noise, cosmic rays and some saturation. They
determine how long the median and the jump search take, so they are the same in every run.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpucoron.dq import DO_NOT_USE, REFERENCE_PIXEL
from gpucoron.files import read_at
from gpucoron.io.exposure import Exposure, Facts
from gpucoron.io.references import Reference
from gpucoron.parameters import resolve
from gpucoron.steps import STEPS

#: rows of reference pixels at the lower edge of a near-infrared subarray
BORDER = 4

#: number of simulated integrations; further ones repeat them, shifted along the rows
DISTINCT = 4


@dataclass(frozen=True)
class Case:
    """One size of exposure."""

    instrument: str
    nints: int
    ngroups: int
    ny: int
    nx: int

    @property
    def shape(self):
        return self.nints, self.ngroups, self.ny, self.nx

    @property
    def n_samples(self):
        return self.nints * self.ngroups * self.ny * self.nx


#: groups x integrations
CASES = {
    "nircam-15x2": Case("NIRCAM", 2, 15, 320, 320),
    "nircam-10x20": Case("NIRCAM", 20, 10, 320, 320),
    "sub640-5x20": Case("NIRCAM", 20, 5, 640, 640),
    "miri-100x19": Case("MIRI", 19, 100, 224, 288),
    "miri-250x60": Case("MIRI", 60, 250, 224, 288),
}

#: the same cases, small enough for a rehearsal without a GPU
REHEARSAL = {
    "nircam-10x2": Case("NIRCAM", 2, 10, 10, 12),
    "miri-40x2": Case("MIRI", 2, 40, 9, 16),
}


def write_counts(case, path):
    """Write the counts of a case as in a FITS file: big-endian and signed, with an offset of 32768."""
    rng = np.random.default_rng(20)
    ny, nx = case.ny, case.nx
    rates = 5 + 60 * np.exp(-((np.arange(ny)[:, None] - ny / 2) ** 2 + (np.arange(nx) - nx / 2) ** 2) / (ny * nx / 16))
    rates[ny // 2 : ny // 2 + 3, nx // 2 : nx // 2 + 3] = 70000 / case.ngroups
    made = []
    for _ in range(min(DISTINCT, case.nints)):
        steps = rng.standard_normal((case.ngroups, ny, nx), np.float32) * np.sqrt(rates / 2).astype(np.float32)
        steps += rates.astype(np.float32)
        hit = rng.random(steps.shape, np.float32) < 2e-4
        steps[hit] += rng.exponential(800, np.count_nonzero(hit)).astype(np.float32)
        counts = np.cumsum(steps, axis=0, out=steps)
        counts += rng.standard_normal(counts.shape, np.float32) * 8 + 9000
        # clip the values, so that saturated ramps stay saturated
        made.append((np.clip(counts, 0, 65535).astype(np.int32) - 32768).astype(">i2"))
    with Path(path).open("wb") as file:
        for integration in range(case.nints):
            file.write(np.roll(made[integration % DISTINCT], 7 * (integration // DISTINCT), axis=2).tobytes())


def read_counts(case, path, backend):
    """Load the counts of a case from a file to a backend, like `Exposure.read`."""
    with Path(path).open("rb") as file:
        return backend.load_counts(case.shape, lambda words, first: read_at(file, words, 2 * first))


def make_exposure(case, data, backend):
    """Make an exposure from counts that are already on the backend."""
    return Exposure(
        data=data,
        groupdq=backend.zeros(case.shape, np.uint8),
        pixeldq=backend.zeros(case.shape[2:], np.uint32),
        zeroframe=None,
        facts=_facts(case),
        meta=None,
        path=Path(f"{case.instrument.lower()}-{case.ngroups}x{case.nints}"),
    )


def _facts(case):
    miri = case.instrument == "MIRI"
    return Facts(
        instrument=case.instrument,
        detector="MIRIMAGE" if miri else "NRCALONG",
        exp_type="MIR_4QPM" if miri else "NRC_CORON",
        subarray="MASK1550" if miri else "SUB320A335R",
        xstart=1 if miri else 801,
        ystart=467 if miri else 1001,
        xsize=case.nx,
        ysize=case.ny,
        fastaxis=1 if miri else -1,
        slowaxis=2,
        readpatt="FASTR1" if miri else "RAPID",
        nints=case.nints,
        ngroups=case.ngroups,
        nframes=1,
        groupgap=0,
        frame_divisor=1,
        frame_time=0.23968 if miri else 1.06904,
        group_time=0.23968 if miri else 1.06904,
        integration_start=None,
        integration_end=None,
        zero_frame=False,
        noutputs=4 if miri else 1,
        drop_frames1=0,
        gain_factor=None,
    )


def make_references(case, backend):
    """Make the references of the default steps of a case on a backend: reference type -> Reference or None."""
    rng = np.random.default_rng(21)
    image = case.shape[2:]
    flags = np.zeros(image, np.uint32)
    mask = np.where(rng.random(image) < 0.002, np.uint32(DO_NOT_USE), np.uint32(0))
    if case.instrument != "MIRI":
        mask[:BORDER] |= REFERENCE_PIXEL

    def normal(mean, sigma, shape=image):
        return (rng.standard_normal(shape, np.float32) * np.float32(sigma) + np.float32(mean)).astype(np.float32)

    coeffs = np.stack([normal(mean, abs(mean) / 20) for mean in (0, 1, 1e-7, 1e-12, 1e-17)])
    facts = {"nframes": 1, "groupgap": 0, "ngroups": case.ngroups, "nints": 2, "average_dark_current": 0.0}
    arrays = {
        "mask": {"dq": mask},
        "saturation": {"data": normal(60000, 300), "dq": flags},
        "linearity": {"coeffs": coeffs, "dq": flags, "inv_coeffs": None},
        "gain": {"data": normal(5.5 if case.instrument == "MIRI" else 1.8, 0.02)},
        "readnoise": {"data": normal(11, 0.5)},
        "dark": {"data": normal(0, 0.1, (2, case.ngroups, *image)), "dq": np.stack([flags] * 2)[:, None]},
    }
    if case.instrument == "MIRI":
        arrays["reset"] = {"data": normal(0, 0.1, (2, case.ngroups, *image)), "dq": flags}
        columns = [("subarray", "U15"), ("readpatt", "U15"), ("group_skip1", "i4"), ("group_skip", "i4")]
        arrays["rscd"] = {"table": np.array([("MASK1550", "FASTR1", 4, 4)], columns)}
    else:
        arrays["dark"] = {name: array[0] for name, array in arrays["dark"].items()}
        arrays["dark"]["dq"] = flags
        arrays["superbias"] = {"data": normal(8500, 50), "dq": flags}
        kernel = np.array([[0, 0.005, 0], [0.005, 0.98, 0.005], [0, 0.005, 0]], np.float32)
        arrays["ipc"] = {"data": kernel}
    found = {}
    for reftype, named in arrays.items():
        found[reftype] = Reference(reftype, Path(f"{reftype}.fits"), facts=facts, **named).on(backend)
    return found


def settings_of(case):
    """Return the parameters of the steps: jwst's defaults."""
    facts = _facts(case)
    return resolve(STEPS, "jwst", instrument=facts.instrument, subarray=facts.subarray)
