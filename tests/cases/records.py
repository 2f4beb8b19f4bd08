"""Folders with the manifests and previews of a batch, made without reducing any exposure."""

import json

import numpy as np
from astropy.io import fits

from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.records import previews
from gpucoron.records.measures import Integrations, measure_exposure, measure_integrations
from gpucoron.records.quantised import QuantisedImage

_SETUPS = (
    ("NIRCAM", "NRCALONG", "SUB320A335R", "F444W", "MASKA335R", "NRC_CORON", [2, 15, 320, 320]),
    ("NIRCAM", "NRCA2", "SUB640A210R", "F210M", "MASKA210R", "NRC_CORON", [4, 10, 640, 640]),
    ("MIRI", "MIRIMAGE", "MASK1550", "F1550C", "4QPM_1550", "MIR_4QPM", [4, 40, 224, 288]),
)
_STEPS = {
    "dq_init": 0.01, "saturation": 0.05, "superbias": 0.01, "refpix": 0.12, "linearity": 0.2, "jump": 0.61,
    "ramp_fit": 0.34, "subtract_1overf": 0.4,
}  # fmt: skip
TRACEBACK = 'Traceback (most recent call last):\n  File "engine.py", line 1, in plan\ngpucoron.errors.InputError: cut'


def make_record(number=0, **changes):
    """Make a record as a batch writes it; ``changes`` replace fields."""
    instrument, detector, subarray, filter_name, mask, exp_type, shape = _SETUPS[number % len(_SETUPS)]
    exposure = f"jw01386{number // 100 + 1:03d}001_{number % 100:02d}101_00001_{detector.lower()}"
    steps = [
        {"name": name, "status": "COMPLETE", "seconds": seconds * (1 + number % 7), "reason": "", "flagged": {}}
        for name, seconds in _STEPS.items()
    ]
    steps[5]["flagged"] = {"jumps": 19319 + number}
    steps.insert(2, {"name": "ipc", "status": "SKIPPED", "seconds": 0.0, "reason": "switched off", "flagged": {}})
    steps.insert(3, {"name": "emicorr", "status": "SKIPPED", "seconds": 0.0, "reason": "no reference", "flagged": {}})
    in_steps = sum(step["seconds"] for step in steps)
    record = {
        "exposure": exposure,
        "input": f"/data/uncal/{exposure}_uncal.fits",
        "input_bytes": 6_200_000,
        "input_sha256": f"{number:064x}",
        "outputs": {"rate": f"{exposure}_rate.fits", "rateints": f"{exposure}_rateints.fits"},
        "status": "done",
        "started": f"2026-03-01T10:{number // 60 % 60:02d}:{number % 60:02d}Z",
        "finished": f"2026-03-01T11:{number // 60 % 60:02d}:{number % 60:02d}Z",
        "versions": {"gpucoron": "0.1.0", "jwst": "3.0.0", "numpy": "2.3.0", "crds": "14.0.0"},
        "context": "jwst_1464.pmap",
        "profile": "spaceklip",
        "parameters": {"jump": {"rejection_threshold": 5.0}, "saturation": {"grow_diagonal": False}},
        "parameters_digest": "5d41402abc4b2a76",
        "backend": "numpy",
        "steps": steps,
        "seconds": {"read": 0.2, "plan": 0.05, "steps": in_steps, "write": 0.3, "total": in_steps + 0.55},
        "peak_memory": 420_000_000 + 1_000_000 * (number % 50),
        "flags": {"JUMP_DET": 0.0001 * (1 + number % 90), "SATURATED": 0.0002 * (number % 11), "HOT": 0.0045},
        "instrument": instrument,
        "detector": detector,
        "subarray": subarray,
        "exp_type": exp_type,
        "filter": filter_name,
        "coronmsk": mask,
        "target": ("HIP 65426", "HD 141569", "HR 8799")[number % 3],
        "shape": shape,
        "error": None,
        "host": "node7",
        "pid": 4321,
        "attempt": 1,
        "observed": {
            "start": f"2026-01-{1 + number // 60 % 28:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00.000",
            "program": "01386",
            "observation": f"{number // 100 + 1:03d}",
            "roll": (15.2, 24.9)[number // 3 % 2],
            "role": ("science", "science", "reference")[number // 6 % 3],
            "dither": f"{number % 9 + 1} of 9",
            "exptime": 213.8,
            "corner": [492, 1502],
        },
        "references": {"gain": "jwst_nircam_gain_0097.fits", "readnoise": "jwst_nircam_readnoise_0224.fits"},
    }
    return record | changes


def make_failure(number, message):
    """Make the record of an exposure that failed before it was read."""
    error = {"type": "InputError", "message": message, "traceback": TRACEBACK}
    nothing = {"outputs": {}, "steps": [], "seconds": {"total": 0.02}, "flags": {}, "peak_memory": None, "shape": None}
    return make_record(number, status="failed", error=error, **nothing)


def write_manifest(folder, records, name="manifest.jsonl", ending=""):
    """Write records, one per line; ``ending`` is appended at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records) + ending
    (folder / name).write_text(text, "utf-8")


def make_scene(shape=(96, 120), seed=0):
    """Draw a star behind a coronagraph with noise, and flags; return (rate, dq)."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    r = np.hypot(x - shape[1] / 2, y - shape[0] / 2)
    rate = 40 * np.exp(-(((r - 12) / 6) ** 2)) + rng.normal(0, 0.3, shape)
    rate += 15 * np.exp(-((x - shape[1] / 2 - 25) ** 2 + (y - shape[0] / 2 - 14) ** 2) / 4)
    draw = rng.random(shape)
    dq = np.where(draw < 0.01, JUMP_DET, 0) | np.where(abs(r - 12) < 2, SATURATED, 0)
    dq |= np.where(draw > 0.995, DO_NOT_USE, 0)
    rate[dq & DO_NOT_USE != 0] = np.nan
    return rate.astype(np.float32), dq.astype(np.uint32)


def make_preview(seed=0, ngroups=12, nints=4, shape=(96, 120)):
    """Make a preview like `gpucoron.records.previews.save_preview`, from drawn images."""
    rate, dq = make_scene(shape, seed)
    rng = np.random.default_rng(seed)
    err = np.full(shape, 0.3, np.float32)
    star = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    removed = np.cumsum(rng.normal(0, 0.01, shape[0]))[:, None] + rng.normal(0, 0.003, shape)
    preview = previews.preview_of_rate(rate, dq)
    preview.removed = QuantisedImage.of(removed, step=0.02)
    preview.noise_thumb = (128 + 127 * np.tanh(previews.block_average(removed, 2) / 0.04)).astype(np.uint8)
    preview.jump_fraction = rng.uniform(0.002, 0.008, ngroups)
    preview.saturated_fraction = np.linspace(0, 0.006, ngroups) ** 1.5
    images = (rate + rng.normal(0, 0.6, (nints, *shape))).astype(np.float32)
    integrations = Integrations(images, np.full(images.shape, 0.6, np.float32), np.broadcast_to(dq, images.shape))
    preview.exposure = measure_exposure(rate, err, dq, star) | {"jump_rate": float(rng.normal(5, 0.3))}
    previews.add_integrations(preview, measure_integrations(integrations, star, list(rng.normal(9, 0.1, nints))))
    return preview


def write_product(folder, exposure, rate, dq, err=None, suffix="rate", **keywords):
    """Write the extensions of a product that a report reads: rate or rateints."""
    primary, science = fits.PrimaryHDU(), fits.ImageHDU(np.asarray(rate, np.float32), name="SCI")
    for keyword, value in keywords.items():
        header = (
            science.header if keyword in ("CRPIX1", "CRPIX2", "ROLL_REF", "V3I_YANG", "VPARITY") else primary.header
        )
        header[keyword.replace("_BEG", "-BEG")] = value
    err = np.full(np.shape(rate), 0.3) if err is None else err
    others = [
        fits.ImageHDU(np.asarray(err, np.float32), name="ERR"),
        fits.ImageHDU(np.asarray(dq, np.uint32), name="DQ"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{exposure}_{suffix}.fits"
    fits.HDUList([primary, science, *others]).writeto(path, overwrite=True)
    return path


def write_preview(folder, exposure, preview):
    """Write a preview where the report expects it."""
    previews.write_preview(preview, previews.preview_path(folder, exposure))
