"""Simulate references of stages 2 and 3: flat, photometry, distortion, and masks for the alignment.

>>> cache = write_references(simulations, "crds")
>>> cache = write_later_references(simulations, "crds")
>>> with cache.activate():
...     Image2Pipeline.call("jw01386001001_..._rateints.fits")

They match the simulated sky: the flat is the response of the pixels, the distortion is linear and agrees with the
keywords of the exposures, and one factor converts DN/s to MJy/sr.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gpucoron import dq
from gpucoron.files import AnyPath, appearing, write_whole, writing
from gpucoron.interactive import public
from gpucoron.simulate.crds import LATER_KEYS, MANIFEST, CrdsCache, next_name, write_mappings
from gpucoron.simulate.detectors import SUBARRAYS, find_acquisition
from gpucoron.simulate.exposures import Simulation
from gpucoron.simulate.keywords import describe
from gpucoron.simulate.references import box_of, match_values, save_reference

#: MJy/sr per DN/s, similar to the real values
PHOTMJSR = {"NIRCAM": 0.5, "MIRI": 2.0}
_SQUARE_ARCSEC = (np.pi / 180 / 3600) ** 2  # sr


@public
def write_later_references(simulations: Simulation | Iterable[Simulation], crds_path: AnyPath) -> CrdsCache:
    """Add references of stages 2 and 3 to a cache that `write_references` created.

    Parameters
    ----------
    simulations : gpucoron.simulate.Simulation or iterable of them
    crds_path : str or Path
        Folder of the cache.

    Returns
    -------
    CrdsCache

    Raises
    ------
    FileNotFoundError
        The cache does not exist.
    OutputError
        The folder cannot be written to, or the disk is full. No incomplete file remains.
    """
    path = Path(crds_path)
    simulations = list(simulations) if isinstance(simulations, (list, tuple)) else [simulations]
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    manifest["serial"] += 1
    for simulation in simulations:
        instrument = simulation.subarray.instrument
        for reftype, keys in LATER_KEYS.items():
            entries = manifest["references"].setdefault(instrument, {}).setdefault(reftype, [])
            match = match_values(simulation, keys)
            if any(entry["match"] == match for entry in entries):
                continue
            if reftype == "psfmask" and simulation.subarray.exp_type.endswith("TACQ"):
                continue
            extension = "asdf" if reftype in ("distortion", "filteroffset") else "fits"
            name = next_name(path, manifest, instrument, reftype, extension)
            with writing(name), appearing(name) as (draft,):
                _BUILDERS[reftype](simulation, draft)
            entries.append({"match": match, "file": name.name})
    context = write_mappings(path, manifest)
    write_whole(path / MANIFEST, lambda file: file.write(json.dumps(manifest, indent=1).encode()))
    return CrdsCache(path.resolve(), context)


def _build_flat(simulation, name):
    from stdatamodels.jwst.datamodels import FlatModel

    response = simulation.pixels.response
    dark = response <= 0
    model = FlatModel(np.where(dark, 1, response).astype(np.float32))
    model.err = np.zeros_like(model.data)
    model.meta.instrument.filter = simulation.filter
    flags = np.where(dark, np.uint32(dq.NO_FLAT_FIELD | dq.DO_NOT_USE), np.uint32(0))
    save_reference(model, simulation, "flat", name, box_of(simulation), flags.astype(np.uint32))


def _build_photom(simulation, name):
    from stdatamodels.jwst.datamodels import MirImgPhotomModel, NrcImgPhotomModel

    instrument = simulation.subarray.instrument
    masks = [(key[1], sub) for key, sub in SUBARRAYS.items() if sub.instrument == instrument and key[1] != "FULL"]
    parts = [*(sub for _, sub in masks), *(find_acquisition(*mask)[1] for mask in masks)]
    model = NrcImgPhotomModel() if instrument == "NIRCAM" else MirImgPhotomModel()
    seconds = {(sub.filter, sub.pupil if instrument == "NIRCAM" else "GENERIC") for sub in parts}
    # The exposure may have another filter than usual for its subarray.
    seconds.add((simulation.filter, simulation.subarray.pupil if instrument == "NIRCAM" else "GENERIC"))
    rows = [(first.encode(), second.encode(), PHOTMJSR[instrument], 0.0) for first, second in sorted(seconds)]
    model.phot_table = np.array(rows, model.get_dtype("phot_table"))
    keywords = describe(simulation)
    area = keywords["wcsinfo.cdelt1"] * keywords["wcsinfo.cdelt2"] * 3600**2
    model.meta.photometry.pixelarea_arcsecsq = area
    model.meta.photometry.pixelarea_steradians = area * _SQUARE_ARCSEC
    model.meta.exposure.type = simulation.subarray.exp_type
    save_reference(model, simulation, "photom", name)


def _build_distortion(simulation, name):
    """Write the linear transformation from detector pixels (0-based) to V2 and V3, arcsec."""
    from astropy import units
    from astropy.modeling.models import AffineTransformation2D, Shift
    from stdatamodels.jwst.datamodels import DistortionModel

    sub, keywords = simulation.subarray, describe(simulation)
    xscale, yscale = keywords["wcsinfo.cdelt1"] * 3600, keywords["wcsinfo.cdelt2"] * 3600
    angle, parity = np.radians(keywords["wcsinfo.v3yangle"]), keywords["wcsinfo.vparity"]
    sine, cosine = np.sin(angle), np.cos(angle)
    # Rotation of ideal coordinates to V2 and V3, as defined in SIAF.
    matrix = [[parity * xscale * cosine, yscale * sine], [-parity * xscale * sine, yscale * cosine]]
    x = sub.xstart - 1 + keywords["wcsinfo.crpix1"] - 1
    y = sub.ystart - 1 + keywords["wcsinfo.crpix2"] - 1
    reference = [keywords["wcsinfo.v2_ref"], keywords["wcsinfo.v3_ref"]]
    transform = Shift(-x) & Shift(-y) | AffineTransformation2D(matrix=matrix, translation=reference)
    model = DistortionModel(model=transform, input_units=units.pix, output_units=units.arcsec)
    if sub.instrument == "NIRCAM":
        _name_channel(model, sub)
        model.meta.instrument.p_pupil = f"{sub.pupil}|"
    model.meta.exposure.type = sub.exp_type
    save_reference(model, simulation, "distortion", name)


def _build_filteroffset(simulation, name):
    from stdatamodels.jwst.datamodels import FilteroffsetModel

    sub = simulation.subarray
    row = {"filter": simulation.filter, "column_offset": 0.0, "row_offset": 0.0}
    if sub.instrument == "NIRCAM":
        row["pupil"] = sub.pupil
    model = FilteroffsetModel(filters=[row], instrument=sub.instrument)
    if sub.instrument == "NIRCAM":
        _name_channel(model, sub)
    save_reference(model, simulation, "filteroffset", name)


def _name_channel(model, sub):
    """Set the module and channel of NIRCam."""
    model.meta.instrument.module = "A"
    model.meta.instrument.channel = "LONG" if sub.detector == "NRCALONG" else "SHORT"


def _build_psfmask(simulation, name):
    """Write the weights for the alignment of references: small behind the mask, 1 far from it."""
    from stdatamodels.jwst.datamodels import PsfMaskModel

    ny, nx = simulation.data.shape[2:]
    y, x = np.indices((ny, nx), dtype=np.float32)
    star = simulation.truth.star
    radius = np.hypot(x - star[0], y - star[1]) / simulation.pixels.kind.fwhm
    model = PsfMaskModel((1 - np.exp(-0.5 * radius**2)).astype(np.float32))
    model.meta.instrument.filter = simulation.filter
    model.meta.instrument.coronagraph = simulation.subarray.coronagraph
    model.meta.exposure.type = simulation.subarray.exp_type
    save_reference(model, simulation, "psfmask", name, box_of(simulation))


_BUILDERS = {
    "flat": _build_flat,
    "photom": _build_photom,
    "distortion": _build_distortion,
    "filteroffset": _build_filteroffset,
    "psfmask": _build_psfmask,
}
