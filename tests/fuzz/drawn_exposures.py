"""Random exposures, each defined by its number: the file, its references, and the settings of stage 1.

``draw_case(1234, folder)`` returns the same case on any machine. Consecutive cases share the subarray, and the full
references from which theirs are cut.
"""

import shutil
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits

from gpucoron import dq
from gpucoron.engine import order_of
from gpucoron.facts import READ_PATTERNS, Facts
from gpucoron.io.emicorr_file import emicorr_model
from gpucoron.io.persistence_file import write_entries
from gpucoron.simulate import Effects, ReferenceOptions, Scene, simulate, write_references
from gpucoron.simulate.crds import MATCH_KEYS, CrdsCache, next_name, write_mappings, write_parameters
from gpucoron.simulate.detectors import DETECTORS, find_subarray
from gpucoron.simulate.keywords import start_integrations
from gpucoron.simulate.references import match_values
from gpucoron.steps.emicorr_times import CLOCKS
from tests.cases.parity_edits import TOP
from tests.fuzz.drawn_settings import Drawn, draw_settings

SEED = 20260718
#: number of consecutive cases that share a subarray
PER_SUBARRAY = 5
#: rows and columns of the full references of a subarray, and pixels around them
LARGEST, MARGIN = (28, 40), 5
#: frames of the longest dark
_FRAMES = 80

_SUBARRAYS = (
    ("NIRCAM", "SUB320A335R"), ("MIRI", "MASK1550"), ("NIRCAM", "SUB640A210R"), ("MIRI", "MASKLYOT"),
    ("NIRCAM", "SUB320ALWB"), ("NIRCAM", "SUB320A430R"), ("MIRI", "MASK1065"), ("NIRCAM", "SUB400X256ALWB"),
    ("NIRCAM", "SUB640ASWB"), ("MIRI", "MASK1140"), ("NIRCAM", "FULL"),
)  # fmt: skip
_GROUP_FLAGS = (
    dq.DO_NOT_USE, dq.JUMP_DET, dq.PERSISTENCE, dq.AD_FLOOR | dq.DO_NOT_USE, dq.CHARGELOSS | dq.DO_NOT_USE,
    dq.SATURATED, dq.CHARGELOSS, dq.DROPOUT, dq.OUTLIER,
)  # fmt: skip
_PIXEL_FLAGS = (
    dq.DO_NOT_USE, dq.SATURATED, dq.HOT, dq.NO_SAT_CHECK, dq.NO_LIN_CORR, dq.UNRELIABLE_SLOPE, dq.DEAD, dq.RC,
    dq.NO_GAIN_VALUE, dq.REFERENCE_PIXEL, dq.NON_SCIENCE,
)  # fmt: skip
_REFERENCE_FLAGS = (
    dq.DO_NOT_USE, dq.NO_SAT_CHECK, dq.NO_LIN_CORR, dq.UNRELIABLE_BIAS, dq.UNRELIABLE_DARK, dq.UNRELIABLE_FLAT, dq.RC,
    dq.NO_GAIN_VALUE, dq.DEAD,
)  # fmt: skip


@dataclass
class DrawnCase:
    """One case: a description of what was drawn, and its files."""

    number: int
    exposure: dict
    custom: bool
    start: str
    settings: Drawn
    counts: dict = field(default_factory=dict)
    flags: dict = field(default_factory=dict)
    references: dict = field(default_factory=dict)
    profile: str = "jwst"
    writes: bool = False
    path: Path = None
    cache: CrdsCache = None

    def description(self):
        """Describe what was drawn, except defaults."""
        parts = [f"case {self.number}: {self.exposure}, by {self.start!r}, profile {self.profile!r}"]
        parts_changed = ("counts", "flags", "references")
        parts += [f"{name}: {getattr(self, name)}" for name in parts_changed if getattr(self, name)]
        parts += [f"{name}: {value}" for name, value in vars(self.settings).items() if value]
        return "\n  ".join(parts)


def draw_case(number, folder):
    """Draw a case and write its files into a folder."""
    rng = np.random.default_rng([SEED, number])
    instrument, subarray = _SUBARRAYS[number // PER_SUBARRAY % len(_SUBARRAYS)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    simulation, exposure = _draw_exposure(rng, instrument, subarray)
    custom = rng.random() < 0.4
    start = str(rng.choice(["call", "run"], p=[0.7, 0.3]))
    writes = bool(rng.random() < 0.2)
    order = order_of(Facts(instrument))
    profile = str(rng.choice(["jwst", "spaceklip"])) if custom else "jwst"
    with_pars = start == "call" and profile == "jwst" and rng.random() < 0.5
    settings = draw_settings(rng, order, folder, custom=custom, with_pars=with_pars, writes=writes)
    case = DrawnCase(number, exposure, custom, start, settings, profile=profile, writes=writes)
    case.path = _write_exposure(rng, simulation, case, folder)
    _write_named_files(rng, simulation, folder)
    if instrument == "MIRI":
        _write_emicorr(rng, subarray, folder)
    case.cache = _write_references(rng, simulation, case, folder)
    return case


def _some(rng, *shares):
    """Draw a fraction: 0 in half of the cases."""
    return float(rng.choice([0.0] * len(shares) + list(shares)))


def _draw_exposure(rng, instrument, subarray):
    patterns = READ_PATTERNS[instrument]
    readpatt = str(rng.choice(list(patterns)))
    nframes, groupgap = patterns[readpatt]
    longest = 12 if instrument == "MIRI" else min(12, (_FRAMES + groupgap) // (nframes + groupgap))
    ngroups = int(rng.integers(1, 4) if rng.random() < 0.2 else rng.integers(1, longest + 1))
    nints = int(rng.choice([1, 2, 3, 4], p=[0.3, 0.4, 0.2, 0.1]))
    if subarray == "FULL":
        # refpix of jwst needs a tenth of a second for each frame
        ngroups, nints = min(ngroups, 4), min(nints, 2)
    first = int(rng.integers(2, 7)) if rng.random() < 0.2 else 1
    found = find_subarray(instrument, subarray)
    seconds = found.frame_time * (nframes + groupgap) * ngroups * (8.6 if readpatt == "SLOWR1" else 1)
    wells = float(rng.choice([0.02, 0.3, 1.0, 1.5, 4.0]))
    shape = int(rng.integers(10, LARGEST[0] + 1)), int(rng.integers(12, LARGEST[1] + 1))
    if instrument == "MIRI" and rng.random() < 0.9:
        shape = shape[0], shape[1] // 4 * 4  # as its four outputs read it
    more = {
        "shape": shape,
        "seed": int(rng.integers(1000)),
        "zeroframe": bool(rng.random() < 0.7),
        "first_integration": first,
        "total_nints": first + nints - 1 + int(rng.integers(3)),
    }
    hits = float(rng.choice([1.0, 30.0, 300.0]))
    simulation = simulate(
        instrument, subarray, readpatt, ngroups, nints, **more,
        scene=Scene(halo=wells * DETECTORS[found.detector].well / seconds / 1e7),
        effects=Effects(cosmic_rays=hits, emi=True),
    )  # fmt: skip
    options = {"subarray": subarray, "readpatt": readpatt, "ngroups": ngroups, "nints": nints, **more, "wells": wells}
    return simulation, options | {"cosmic_rays": hits}


# -------------------------------------------------------------------------------------------------------- the exposure


def _write_exposure(rng, simulation, case, folder):
    """Change counts; write ``*_uncal.fits``, or ``*_ramp.fits`` with flags and values that no detector produces."""
    data, zeroframe = simulation.data, simulation.zeroframe
    case.counts = {
        name: share
        for name in ("full", "from a group on", "zero", "hits", "zeroframe full", "zeroframe zero")
        if (share := _some(rng, 0.01, 0.05, 0.3)) and (zeroframe is not None or "zeroframe" not in name)
    }
    shares = {name: case.counts.get(name, 0) for name in ("full", "from a group on", "zero", "hits")}
    data[rng.random(data.shape) < shares["full"] / 5] = TOP
    since = rng.integers(0, data.shape[1], (data.shape[0], 1, *data.shape[2:]))
    saturates = rng.random(since.shape) < shares["from a group on"]
    after = np.arange(data.shape[1])[:, None, None] >= since
    data[after & saturates] = TOP
    data[rng.random(data.shape) < shares["zero"] / 5] = 0
    jumps = np.cumsum((rng.random(data.shape) < shares["hits"]) * rng.exponential(1500, data.shape), axis=1)
    data[...] = np.minimum(data + jumps, TOP)
    if zeroframe is not None:
        zeroframe[rng.random(zeroframe.shape) < case.counts.get("zeroframe full", 0)] = TOP
        zeroframe[rng.random(zeroframe.shape) < case.counts.get("zeroframe zero", 0)] = 0
    path = simulation.write(folder)
    is_ramp = rng.random() < 0.4
    divisor = int(simulation.nframes * 2 ** rng.integers(1, 3)) if rng.random() < 0.05 else None
    if is_ramp or divisor:
        path = _rewrite(rng, path, case, is_ramp, divisor)
    return path


def _rewrite(rng, path, case, is_ramp, divisor):
    written = path.with_name(path.name.replace("_uncal", "_ramp")) if is_ramp else path.with_name(f"d{path.name}")
    with fits.open(path) as hdus:
        if divisor:
            hdus[0].header["FRMDIVSR"] = case.exposure["frame_divisor"] = divisor
        if is_ramp:
            data = hdus["SCI"].data.astype(np.float32)
            groupdq, pixeldq = np.zeros(data.shape, np.uint8), np.zeros(data.shape[2:], np.uint32)
            case.flags = {name: _some(rng, 0.01, 0.05, 0.3) for name in ("groups", "saturated", "pixels", "nan")}
            _flag(rng, case.flags, data, groupdq, pixeldq)
            for name, array in (("PIXELDQ", pixeldq), ("GROUPDQ", groupdq)):
                hdus.append(fits.ImageHDU(array, name=name))
            hdus["SCI"].data = data
            if "ZEROFRAME" in hdus:
                hdus["ZEROFRAME"].data = hdus["ZEROFRAME"].data.astype(np.float32)
        if "ASDF" in hdus:
            hdus.writeto(written, checksum=False)
    path.unlink()
    return written


def _flag(rng, shares, data, groupdq, pixeldq):
    for flag in rng.choice(_GROUP_FLAGS, 3):
        groupdq[rng.random(groupdq.shape) < shares["groups"]] |= np.uint8(flag)
    since = rng.integers(0, data.shape[1] + 1, (data.shape[0], 1, *data.shape[2:]))
    saturates = rng.random(since.shape) < shares["saturated"]
    groupdq[(np.arange(data.shape[1])[:, None, None] >= since) & saturates] |= dq.SATURATED
    if shares["groups"] and rng.random() < 0.3:
        groupdq[:, rng.integers(data.shape[1])] |= dq.DO_NOT_USE
    for flag in rng.choice(_PIXEL_FLAGS, 3):
        pixeldq[rng.random(pixeldq.shape) < shares["pixels"]] |= np.uint32(flag)
    data[rng.random(data.shape) < shares["nan"] / 5] = np.nan


def _write_named_files(rng, simulation, folder):
    """Write the files that parameters may name."""
    shape = simulation.data.shape
    flags = (rng.random(shape[2:]) < 0.05) * rng.choice(_PIXEL_FLAGS, shape[2:])
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(flags.astype(np.uint32), name="DQ")]
    fits.HDUList(hdus).writeto(folder / "user_dq.fits")
    mask = (rng.random(shape[2:]) < 0.8).astype(np.float32)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(mask, name="SCI")]).writeto(folder / "user_mask.fits")
    _write_persistence(rng.spawn(1)[0], simulation, folder / "persistence.asdf")


def _write_persistence(rng, simulation, path):
    """Write a persistence file: a few pixels whose persistence ends before, in or after the exposure."""
    (y, x), number = simulation.data.shape[2:], int(rng.integers(1, 200))
    start = start_integrations(simulation)[0].astype("datetime64[us]").astype(np.int64) / 1e6
    entry = {
        "filename": "earlier_uncal.fits",
        "rows": rng.integers(0, y, number),
        "cols": rng.integers(0, x, number),
        "vals": start + rng.uniform(-20, 60, number),
        "pers_time": int(rng.choice([20, 20, 20, 21])),
    }
    write_entries(path, {simulation.subarray.detector: entry})


def _write_emicorr(rng, subarray, folder):
    """Write a reference with one or two waves."""
    waves, (row_clocks, frame_clocks) = {}, CLOCKS[subarray]
    for name in ("Hz390", "Hz218")[: rng.integers(1, 3)]:
        wave = rng.normal(0, 1, rng.integers(2, 70)).astype(rng.choice([np.float32, np.float64]))
        waves[name] = {"frequency": float(rng.uniform(10, 5000)), "phase_amplitudes": wave}
    freqs = {"FAST": list(waves), "SLOW": {"MIRIMAGE": list(waves)}}
    cases = {subarray: {"rowclocks": row_clocks, "frameclocks": frame_clocks, "freqs": freqs}}
    emicorr_model({"frequencies": waves, "subarray_cases": cases}).save(str(folder / "emicorr.asdf"))


# ------------------------------------------------------------------------------------------------------ the references


class Bases:
    """The full references of each subarray, written once per process; those of the cases are cut from them."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.of = lru_cache(maxsize=None)(self._write)

    def _write(self, instrument, subarray):
        readpatt = "RAPID" if instrument == "NIRCAM" else "FASTR1"
        ngroups = _FRAMES if instrument == "NIRCAM" else 12
        simulation = simulate(
            instrument, subarray, readpatt, ngroups, 1, shape=LARGEST, effects=Effects(cosmic_rays=0, emi=True)
        )
        options = ReferenceOptions(margin=MARGIN, inverse_linearity=True, gain_factor=None)
        cache = write_references(simulation, self.folder / f"{instrument}-{subarray}", options=options)
        found = (cache.path / "references" / "jwst" / instrument.lower()).iterdir()
        found = {path.stem.split("_")[2]: path for path in found}
        # with it, jwst filters columns that a part of a full frame does not have
        found.pop("sirskernel", None)
        return found


#: the folder of the full references in this process; set before the first case is drawn
bases = None


def use_bases(folder):
    """Set the folder of the full references."""
    global bases
    bases = Bases(folder)


def _write_references(rng, simulation, case, folder):
    """Make the CRDS cache of a case: cut and damaged references, some missing, and parameter files."""
    instrument = simulation.subarray.instrument
    whole = bases.of(instrument, simulation.subarray_name)
    path = folder / "crds"
    manifest = {"serial": 9001, "references": {instrument: {}}, "files": {}, "boxes": {}}
    for reftype, source in whole.items():
        match = match_values(simulation, MATCH_KEYS[instrument][reftype])
        entry = manifest["references"][instrument].setdefault(reftype, [{"match": match, "file": "N/A"}])[0]
        if rng.random() < (0.01 if reftype in ("gain", "readnoise") else 0.06):
            case.references[reftype] = "N/A"
            continue
        name = next_name(path, manifest, instrument, reftype, source.suffix[1:])
        if source.suffix == ".asdf" or reftype in ("rscd", "ipc"):
            shutil.copyfile(source, name)
        else:
            done = _spoil(rng, source, name, simulation, reftype)
            if done:
                case.references[reftype] = done
        entry["file"] = name.name
    for reftype, values in case.settings.pars.items():
        write_parameters(path, manifest, instrument, reftype, values)
    return CrdsCache(path.resolve(), write_mappings(path, manifest))


def _spoil(rng, source, name, simulation, reftype):
    """Write a reference for a case: of its size or larger, with bad values and flags."""
    done = {}
    with fits.open(source) as hdus:
        if "ASDF" in hdus:
            del hdus["ASDF"]
        _cut(rng, hdus, simulation, reftype, done)
        header = hdus[0].header
        if reftype == "gain" and rng.random() < 0.25:
            header["GAINFACT"] = done["GAINFACT"] = float(rng.choice([1.0, 2.0, 0.37]))
        if reftype == "dark" and rng.random() < 0.25:
            header["AVDRKCUR"] = done["AVDRKCUR"] = float(rng.choice([0.0, 0.02, 5.0]))
        if "COEFFS" in hdus and "INV_COEFFS" in hdus and rng.random() < 0.6:
            del hdus["INV_COEFFS"]
            done["INV_COEFFS"] = "none"
        for hdu in hdus:
            if not isinstance(hdu, fits.ImageHDU) or hdu.data is None or hdu.name == "ERR":
                continue
            if hdu.name == "DQ":
                _spoil_flags(rng, hdu, done)
            else:
                _spoil_values(rng, hdu, reftype, done)
        hdus.writeto(name)
    return done


def _cut(rng, hdus, simulation, reftype, done):
    """Cut images to the exposure, or leave some pixels around it, which jwst then cuts itself."""
    ny, nx = simulation.data.shape[2:]
    is_cut_by_jwst = reftype not in ("dark", "reset")
    around = int(rng.integers(0, MARGIN + 1)) if is_cut_by_jwst and rng.random() < 0.5 else 0
    header, sub = hdus[0].header, simulation.subarray
    if around:
        done["around"] = around
    if rng.random() < 0.003:
        nx, done["shape"] = nx - 1, "wrong"
    x0, y0 = (max(start - around, 1) for start in (sub.xstart, sub.ystart))
    x1, y1 = sub.xstart + nx + around, sub.ystart + ny + around
    rows = slice(y0 - header["SUBSTRT2"], y1 - header["SUBSTRT2"])
    columns = slice(x0 - header["SUBSTRT1"], x1 - header["SUBSTRT1"])
    for hdu in hdus:
        if isinstance(hdu, fits.ImageHDU) and hdu.data is not None:
            hdu.data = np.ascontiguousarray(hdu.data[..., rows, columns])
    header["SUBSTRT1"], header["SUBSTRT2"], header["SUBSIZE1"], header["SUBSIZE2"] = x0, y0, x1 - x0, y1 - y0
    if reftype == "dark" and rng.random() < 0.2:
        planes = max(2, hdus["SCI"].data.shape[-3] // int(rng.integers(2, 12)))
        hdus["SCI"].data = hdus["SCI"].data[..., :planes, :, :]
        header["NGROUPS"] = done["groups"] = planes


def _spoil_flags(rng, hdu, done):
    share = _some(rng, 0.02, 0.1)
    if share:
        done["flags"] = share
        where = rng.random(hdu.data.shape) < share
        hdu.data[where] |= rng.choice(np.array(_REFERENCE_FLAGS, np.uint32), int(where.sum()))


def _spoil_values(rng, hdu, reftype, done):
    """Put NaN, zeros, wrong signs and noise into some pixels of every plane, or of each plane separately."""
    data = hdu.data
    for word, chance in (("nan", 0.25), ("zero", 0.12), ("negative", 0.08), ("noisy", 0.12)):
        if rng.random() > chance:
            continue
        share = float(rng.choice([0.01, 0.05, 0.2]))
        done[f"{hdu.name} {word}"] = share
        shape = data.shape if rng.random() < 0.3 else data.shape[-2:]
        where = np.broadcast_to(rng.random(shape) < share, data.shape)
        if word == "noisy":
            data *= rng.normal(1, share, data.shape).astype(data.dtype)
        elif word == "negative":
            data[where] *= -1
        else:
            data[where] = np.nan if word == "nan" else 0
