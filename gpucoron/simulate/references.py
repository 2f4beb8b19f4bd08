"""Write the CRDS cache of simulated exposures: their references, and mappings that work offline.

>>> cache = write_references(simulation, "crds")
>>> with cache.activate():
...     Detector1Pipeline.call(simulation.write("raw"))

A second call with another exposure adds to the same cache. Serial numbers of files start at 9001, to avoid names of
STScI. References cover the subarray, plus an optional margin, not the whole detector.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpucoron import dq
from gpucoron.errors import ArgumentError
from gpucoron.files import AnyPath, appearing, write_whole, writing
from gpucoron.interactive import public
from gpucoron.io.older_jwst import set_array
from gpucoron.simulate.camera import (
    EMI_FREQUENCY,
    RESET_GROUPS,
    RESET_INTEGRATIONS,
    RSCD_GROUPS,
    has_ipc,
    ipc_kernel,
    reset_effect,
    settling_dark,
)
from gpucoron.simulate.crds import (
    MANIFEST,
    MATCH_KEYS,
    USE_AFTER,
    CrdsCache,
    next_name,
    write_mappings,
    write_parameters,
)
from gpucoron.simulate.detectors import DETECTORS, ROW_CLOCKS, SUBARRAYS, make_pixels
from gpucoron.simulate.exposures import Simulation

#: types whose files are for all detectors of the instrument
_OF_ALL_DETECTORS = ("emicorr", "sirskernel")

#: Fourier coefficients of a kernel for 2048 rows, and the number of the one where the kernel falls to 1/e
_SIRS_COEFFICIENTS, _SIRS_CUTOFF = 1025, 150

#: picture frame: its brightness at the edges, DN/s, and its width, pixels
GLOW, GLOW_WIDTH = 0.02, 60.0


@dataclass(frozen=True)
class ReferenceOptions:
    """Imperfections of the references in a cache.

    Attributes
    ----------
    margin : int
        Pixels around the subarray in references that jwst cuts (not dark and reset). The margin ends at the edges of
        the detector, so that with a large one references cover the whole detector.
    inverse_linearity : bool
        Add inverse coefficients to the NIRCam linearity reference; jwst then corrects averaged frames one by one.
    nan_fraction, no_lin_corr_fraction, no_sat_check_fraction : float
        Fraction of pixels with NaN in saturation, superbias, linearity, gain, readnoise and dark (the same pixels),
        and with NO_LIN_CORR and NO_SAT_CHECK.
    negative_gain_fraction, unreliable_fraction : float
        Fraction of pixels with a negative gain, and with UNRELIABLE_SLOPE in the mask, UNRELIABLE_BIAS in the
        superbias, UNRELIABLE_FLAT in the reset and UNRELIABLE_DARK in the dark reference.
    gain_factor : float or None
        GAINFACT of the gain reference, for gain_scale.
    average_dark_current : {None, 'scalar', 'image'}
        How the dark contains its rate, e-/s, for the Poisson variance of the ramp fit: as a keyword, or as an image,
        which jwst 3.0.0 ignores with a warning, because its ramps have no such array.
    dark_groups : int or None
        Maximum number of groups (NIRCam: frames) of a dark; jwst extrapolates the rest. None means no limit.
    picture_frame : bool
        Write a pictureframe reference for NIRCam: a glow of the edges, which the exposures do not have. jwst only
        applies it to NIRSpec.
    """

    margin: int = 0
    inverse_linearity: bool = False
    nan_fraction: float = 0.0
    no_lin_corr_fraction: float = 0.0
    no_sat_check_fraction: float = 0.0
    negative_gain_fraction: float = 0.0
    unreliable_fraction: float = 0.0
    gain_factor: float | None = None
    average_dark_current: str | None = None
    dark_groups: int | None = None
    picture_frame: bool = False


@public
def write_references(
    simulations: Simulation | Iterable[Simulation],
    crds_path: AnyPath,
    *,
    options: ReferenceOptions | None = None,
    pars: Mapping[str, Mapping[str, Any]] | None = None,
) -> CrdsCache:
    """Write all references that simulated exposures need to a new or existing CRDS cache.

    Parameters
    ----------
    simulations : gpucoron.simulate.Simulation or iterable of them
    crds_path : str or Path
        Folder of the cache.
    options : ReferenceOptions or None
    pars : dict or None
        Parameter references of the instruments of these simulations: ``{'pars-jumpstep': {'rejection_threshold': 5},
        'pars-detector1pipeline': {'steps': {'jump': {...}}}}``. Other types do not change; initially they are N/A.

    Returns
    -------
    CrdsCache

    Raises
    ------
    ArgumentError
        The folder is a CRDS cache that was not simulated, or has references for another seed of the same detector,
        other effects, or another shape of the same subarray. It is also a ValueError.
    OutputError
        The folder cannot be written to, or the disk is full. No incomplete file remains.
    """
    path = Path(crds_path)
    options = options or ReferenceOptions()
    simulations = list(simulations) if isinstance(simulations, (list, tuple)) else [simulations]
    manifest_path = path / MANIFEST
    manifest = {"serial": 9000, "references": {}, "files": {}, "boxes": {}}
    if manifest_path.exists():
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    elif (path / "mappings").exists():
        msg = f"{path} is a CRDS cache that was not simulated; use another folder"
        raise ArgumentError(msg)
    manifest["serial"] += 1
    for simulation in simulations:
        _check_agreement(manifest, simulation, options)
        for reftype in MATCH_KEYS[simulation.subarray.instrument]:
            _add_reference(path, manifest, simulation, reftype, options)
        for reftype, values in (pars or {}).items():
            write_parameters(path, manifest, simulation.subarray.instrument, reftype, values)

    context = write_mappings(path, manifest)
    write_whole(manifest_path, lambda file: file.write(json.dumps(manifest, indent=1).encode()))
    return CrdsCache(path.resolve(), context)


def _check_agreement(manifest, simulation, options):
    """Refuse a simulation that needs different references with the same match keys."""
    sub, effects = simulation.subarray, simulation.effects
    switches = ("dark", "superbias", "nonlinearity", "saturation", "bad_pixels", "reset", "emi")
    properties = {
        "detector_seed": simulation.detector_seed,
        **{name: bool(getattr(effects, name)) for name in switches},
        "ipc": has_ipc(effects, sub.instrument),
        **asdict(options),
    }
    if not options.picture_frame:
        del properties["picture_frame"]  # caches of older versions do not know it
    for key, value in ((sub.detector, properties), (f"{sub.detector} {simulation.subarray_name}", box_of(simulation))):
        cached = manifest["boxes"].setdefault(key, value)
        if cached != value:
            if isinstance(value, dict):
                differ = [name for name in value if cached.get(name) != value[name]]
                cached, value = ({name: one.get(name) for name in differ} for one in (cached, value))
            msg = f"the references of {key} in this cache are for {cached}, not for {value}; use another cache"
            raise ArgumentError(msg)


def box_of(simulation):
    """Return the corner and size of the references of an exposure, ``[xstart, ystart, nx, ny]``."""
    sub = simulation.subarray
    return [sub.xstart, sub.ystart, simulation.data.shape[3], simulation.data.shape[2]]


def _pad(box, margin, kind):
    x0, y0 = max(box[0] - margin, 1), max(box[1] - margin, 1)
    x1 = min(box[0] + box[2] + margin, kind.columns + 1)
    y1 = min(box[1] + box[3] + margin, kind.rows + 1)
    return [x0, y0, x1 - x0, y1 - y0]


def _unite(a, b):
    x0, y0 = min(a[0], b[0]), min(a[1], b[1])
    return [x0, y0, max(a[0] + a[2], b[0] + b[2]) - x0, max(a[1] + a[3], b[1] + b[3]) - y0]


def match_values(simulation, keywords):
    """Return the values of keywords by which CRDS selects the reference of an exposure."""
    sub = simulation.subarray
    values = {
        "META.INSTRUMENT.DETECTOR": sub.detector,
        "META.SUBARRAY.NAME": simulation.subarray_name,
        "META.EXPOSURE.READPATT": simulation.readpatt,
        "META.EXPOSURE.TYPE": sub.exp_type,
        "META.EXPOSURE.NOUTPUTS": str(float(sub.noutputs)),
        "META.INSTRUMENT.BAND": "ANY",
        "META.INSTRUMENT.FILTER": "ANY",
    }
    return [values[keyword] for keyword in keywords]


def _add_reference(path, manifest, simulation, reftype, options):
    """Write one reference, unless the cache already has one that covers the exposure."""
    instrument, effects = simulation.subarray.instrument, simulation.effects
    if (reftype == "ipc" and not has_ipc(effects, instrument)) or (reftype == "emicorr" and not effects.emi):
        return
    if reftype == "sirskernel" and simulation.subarray.noutputs == 1:
        return
    if reftype == "pictureframe" and not options.picture_frame:
        return
    keys = MATCH_KEYS[instrument][reftype]
    match = match_values(simulation, keys)
    entries = manifest["references"].setdefault(instrument, {}).setdefault(reftype, [])
    entry = next((e for e in entries if e["match"] == match), None)

    box = box_of(simulation)
    if reftype in ("ipc", "rscd", *_OF_ALL_DETECTORS):
        box = [0, 0, 0, 0]  # one for the whole detector
    elif reftype in ("mask", "saturation", "superbias", "linearity", "gain", "readnoise"):
        box = _pad(box, options.margin, DETECTORS[simulation.subarray.detector])
    planes = _count_planes(simulation, reftype, options)
    if entry is not None:
        box, planes = _unite(entry["box"], box), max(entry["planes"], planes)
        if entry["box"] == box and entry["planes"] == planes:
            return
        entries.remove(entry)
    name = next_name(path, manifest, instrument, reftype, "asdf" if reftype in _OF_ALL_DETECTORS else "fits")
    with writing(name), appearing(name) as (draft,):
        _BUILDERS[reftype](simulation, box, planes, options, draft)
    entries.append({"match": match, "file": name.name, "box": box, "planes": planes})


def _count_planes(simulation, reftype, options):
    """Return the number of groups (frames in NIRCam darks) that a reference needs."""
    ngroups = simulation.data.shape[1]
    if reftype == "reset":
        return RESET_GROUPS
    if reftype != "dark":
        return 0
    cadence = simulation.nframes + simulation.groupgap
    return min(ngroups * cadence - simulation.groupgap, options.dark_groups or 10**9)


def _pixels(simulation, box):
    effects = simulation.effects
    return make_pixels(
        simulation.subarray.detector,
        *box,
        seed=simulation.detector_seed,
        bad_pixels=effects.bad_pixels,
        nonlinearity=effects.nonlinearity,
        superbias=effects.superbias,
    )


def _chosen(pixels, share, band):
    """Select a fraction of the science pixels; different values of `band` select different pixels."""
    return (pixels.lottery >= band) & (pixels.lottery < band + share) & ~pixels.is_reference


def _flags(where, flag):
    return np.where(where, np.uint32(flag), np.uint32(0)).astype(np.uint32)


def _unreliable(pixels, options, flag):
    return _flags(_chosen(pixels, options.unreliable_fraction, 0.8), flag)


def save_reference(model, simulation, reftype, name, box=None, flags=None):
    """Set the keywords that all references have, and save the file."""
    meta = model.meta
    meta.telescope = "JWST"
    meta.instrument.name = simulation.subarray.instrument
    meta.instrument.detector = simulation.subarray.detector
    meta.reftype = reftype.upper()
    meta.author = "gpucoron"
    meta.pedigree = "DUMMY"
    meta.useafter = USE_AFTER
    meta.description = f"Simulated {reftype} reference"
    model.add_history_entry(f"Simulated with detector seed {simulation.detector_seed}")
    if box is not None:
        sub = meta.subarray
        sub.name = simulation.subarray_name if reftype != "saturation" else "GENERIC"
        sub.xstart, sub.ystart, sub.xsize, sub.ysize = box
        kind = DETECTORS[meta.instrument.detector]
        sub.fastaxis, sub.slowaxis = kind.fastaxis, kind.slowaxis
    if flags is not None:
        # stdatamodels drops flags that are not in DQ_DEF, so it must be set first.
        model.dq_def = _list_flags()
        model.dq = flags
    # gpucoron cache verify then finds a flipped bit; ASDF files have checksums of their own
    model.save(name, **({"checksum": True} if name.suffix == ".fits" else {}))
    model.close()


def _list_flags():
    """Make the DQ_DEF table of all flags."""
    flags = dq.flags_by_name()
    rows = [(value.bit_length() - 1, value, name.encode(), name.encode()) for name, value in flags.items()]
    return np.array(rows, [("BIT", "<i4"), ("VALUE", "<u4"), ("NAME", "S40"), ("DESCRIPTION", "S80")])


def _build_mask(simulation, box, _planes, options, name):
    from stdatamodels.jwst.datamodels import MaskModel

    pixels = _pixels(simulation, box)
    # Only the gain reference marks missing gains.
    flags = pixels.dq & ~np.uint32(dq.NO_GAIN_VALUE) | _unreliable(pixels, options, dq.UNRELIABLE_SLOPE)
    save_reference(MaskModel(), simulation, "mask", name, box, flags)


def _build_saturation(simulation, box, _planes, options, name):
    from stdatamodels.jwst.datamodels import SaturationModel

    pixels = _pixels(simulation, box)
    miri = simulation.subarray.instrument == "MIRI"
    charge = pixels.full_well - (pixels.bias if miri else 0)
    linear = np.float32(0.96) * charge + (pixels.bias if miri else 0)
    coeffs = pixels.to_raw_coefficients()
    threshold = np.zeros_like(linear)
    for c in coeffs[::-1]:
        threshold = threshold * linear + c
    if not miri:
        threshold += pixels.bias
    unknown = _chosen(pixels, options.no_sat_check_fraction, 0.2)
    threshold[_chosen(pixels, options.nan_fraction, 0)] = np.nan
    flags = _flags(unknown | pixels.is_reference, dq.NO_SAT_CHECK)
    save_reference(SaturationModel(threshold), simulation, "saturation", name, box, flags)


def _build_superbias(simulation, box, _planes, options, name):
    from stdatamodels.jwst.datamodels import SuperBiasModel

    pixels = _pixels(simulation, box)
    bias = pixels.bias.copy()
    lost = _chosen(pixels, options.nan_fraction, 0)
    bias[lost] = np.nan
    model = SuperBiasModel(bias)
    model.err = np.ones_like(bias)
    model.meta.exposure.readpatt = simulation.readpatt
    flags = _flags(lost, dq.UNRELIABLE_BIAS) | _unreliable(pixels, options, dq.UNRELIABLE_BIAS)
    save_reference(model, simulation, "superbias", name, box, flags)


def _build_linearity(simulation, box, _planes, options, name):
    from stdatamodels.jwst.datamodels import LinearityModel

    pixels = _pixels(simulation, box)
    coeffs = pixels.to_linear_coefficients()
    coeffs[2, _chosen(pixels, options.nan_fraction, 0)] = np.nan
    model = LinearityModel()
    model.coeffs = coeffs
    if options.inverse_linearity and simulation.subarray.instrument == "NIRCAM":
        set_array(model, "inv_coeffs", pixels.to_raw_coefficients())
    if simulation.subarray.instrument == "MIRI":
        model.meta.instrument.band, model.meta.instrument.filter = "N/A", "ANY"
    unknown = _chosen(pixels, options.no_lin_corr_fraction, 0.4)
    save_reference(model, simulation, "linearity", name, box, _flags(unknown, dq.NO_LIN_CORR))


def _build_gain(simulation, box, _planes, options, name):
    from stdatamodels.jwst.datamodels import GainModel

    pixels = _pixels(simulation, box)
    gain = pixels.gain.copy()
    gain[(pixels.dq & dq.NO_GAIN_VALUE) > 0] = np.nan
    gain[_chosen(pixels, options.nan_fraction, 0)] = np.nan
    gain[_chosen(pixels, options.negative_gain_fraction, 0.6)] *= -1
    model = GainModel(gain)
    model.meta.bunit_data = "electrons/DN"
    if options.gain_factor is not None:
        model.meta.exposure.gain_factor = options.gain_factor
    save_reference(model, simulation, "gain", name, box)


def _build_readnoise(simulation, box, _planes, options, name):
    from stdatamodels.jwst.datamodels import ReadnoiseModel

    pixels = _pixels(simulation, box)
    noise = np.float32(np.sqrt(2)) * pixels.read_noise / pixels.gain  # of a pair of reads
    noise[_chosen(pixels, options.nan_fraction, 0)] = np.nan
    model = ReadnoiseModel(noise)
    model.meta.bunit_data = "DN"
    model.meta.exposure.readpatt = simulation.readpatt
    save_reference(model, simulation, "readnoise", name, box)


def _build_ipc(simulation, _box, _planes, _options, name):
    from stdatamodels.jwst.datamodels import IPCModel

    # The inverse of the coupling to second order: 2 - K + (1 - K)^2, a 5 x 5 kernel with the sum 1.
    coupling = np.zeros((5, 5))
    coupling[1:4, 1:4] = ipc_kernel(DETECTORS[simulation.subarray.detector].coupling)
    identity = np.zeros((5, 5))
    identity[2, 2] = 1
    rest = identity - coupling
    square = np.real(np.fft.ifft2(np.fft.fft2(np.fft.ifftshift(rest)) ** 2))
    kernel = (identity + rest + np.fft.fftshift(square)).astype(np.float32)
    save_reference(IPCModel(kernel), simulation, "ipc", name)


def _build_dark(simulation, box, planes, options, name):
    from stdatamodels.jwst.datamodels import DarkMIRIModel, DarkModel

    pixels = _pixels(simulation, box)
    rate = pixels.dark / pixels.gain if simulation.effects.dark else np.zeros_like(pixels.dark)
    time = simulation.frame_time * np.arange(1, planes + 1, dtype=np.float32)[:, None, None]
    counts = rate * time
    lost = _chosen(pixels, options.nan_fraction, 0)
    counts[:, lost] = np.nan
    flags = _flags((pixels.dq & (dq.HOT | dq.WARM)) > 0, dq.UNRELIABLE_DARK)
    flags |= _unreliable(pixels, options, dq.UNRELIABLE_DARK)
    if simulation.subarray.instrument == "MIRI":
        counts = np.stack([counts, counts])
        for group in range(planes) if simulation.effects.dark else ():
            counts[0, group] += settling_dark(pixels, 1, group)
        model = DarkMIRIModel(counts)
        flags = np.broadcast_to(flags, (2, 1, *flags.shape)).copy()
    else:
        model = DarkModel(counts)
    exposure = model.meta.exposure
    if options.average_dark_current == "scalar":
        exposure.average_dark_current = pixels.kind.dark
    elif options.average_dark_current == "image":
        model.average_dark_current = rate * pixels.gain
    exposure.nframes, exposure.groupgap, exposure.ngroups = 1, 0, planes
    exposure.readpatt, exposure.type = simulation.readpatt, simulation.subarray.exp_type
    save_reference(model, simulation, "dark", name, box, flags)


def _build_reset(simulation, box, planes, options, name):
    from stdatamodels.jwst.datamodels import ResetModel

    pixels = _pixels(simulation, box)
    data = np.zeros((RESET_INTEGRATIONS, planes, box[3], box[2]), np.float32)
    for number in range(1, RESET_INTEGRATIONS + 1) if simulation.effects.reset else ():
        for group in range(planes):
            data[number - 1, group] = reset_effect(pixels, number, group)
    model = ResetModel(data)
    model.meta.exposure.readpatt = simulation.readpatt
    model.meta.exposure.nints, model.meta.exposure.ngroups = data.shape[:2]
    save_reference(model, simulation, "reset", name, box, _unreliable(pixels, options, dq.UNRELIABLE_FLAT))


def _build_rscd(simulation, _box, _planes, _options, name):
    from stdatamodels.jwst.datamodels import RSCDModel

    subarrays = sorted({key[1] for key in SUBARRAYS if key[0] == "MIRI"})
    rows = [(s.encode(), r.encode(), 1, RSCD_GROUPS) for s in subarrays for r in ("FASTR1", "SLOWR1")]
    model = RSCDModel()
    model.rscd_group_skip_table = np.array(rows, model.get_dtype("rscd_group_skip_table"))
    save_reference(model, simulation, "rscd", name)


def _build_pictureframe(simulation, box, _planes, _options, name):
    from stdatamodels.jwst.datamodels import PictureFrameModel

    kind = DETECTORS[simulation.subarray.detector]
    x, y = box[0] - 1 + np.arange(box[2]), box[1] - 1 + np.arange(box[3])
    distance = np.minimum(np.minimum(x, kind.columns - 1 - x), np.minimum(y, kind.rows - 1 - y)[:, None])
    model = PictureFrameModel((GLOW * np.exp(-distance / GLOW_WIDTH)).astype(np.float32))
    save_reference(model, simulation, "pictureframe", name)


def _build_emicorr(simulation, _box, _planes, _options, name):
    from stdatamodels.jwst.datamodels import EmiModel

    tag = f"Hz{EMI_FREQUENCY:g}".replace(".", "p")
    bins = 64
    wave = np.sin(2 * np.pi * (np.arange(bins) + 0.5) / bins).astype(np.float32)
    cases = {}
    for sub, row_clocks in {**ROW_CLOCKS, "FULL_FAST": 271}.items():
        ny = next(s.ny for key, s in SUBARRAYS.items() if key[:2] == ("MIRI", sub.removesuffix("_FAST")))
        frame_clocks = ny * row_clocks + (1024 - ny) * 7
        cases[sub] = {"rowclocks": row_clocks, "frameclocks": frame_clocks, "freqs": {"FAST": [tag]}}
    model = EmiModel()
    model.frequencies = {tag: {"frequency": EMI_FREQUENCY, "phase_amplitudes": wave.tolist()}}
    model.subarray_cases = cases
    save_reference(model, simulation, "emicorr", name)


def _build_sirskernel(simulation, _box, _planes, _options, name):
    from stdatamodels.jwst.datamodels import SIRSKernelModel

    # every output follows the mean of both sides, smoothed along the rows
    gain = 0.5 * np.exp(-((np.arange(_SIRS_COEFFICIENTS) / _SIRS_CUTOFF) ** 2))
    coefficients = np.tile(gain, (simulation.subarray.noutputs, 1))
    model = SIRSKernelModel()
    for detector, kind in DETECTORS.items():
        if kind.columns == 2048:
            setattr(model, detector.lower(), {"gamma": coefficients, "zeta": coefficients})
    save_reference(model, simulation, "sirskernel", name)


_BUILDERS = {
    "mask": _build_mask,
    "saturation": _build_saturation,
    "superbias": _build_superbias,
    "linearity": _build_linearity,
    "gain": _build_gain,
    "readnoise": _build_readnoise,
    "ipc": _build_ipc,
    "dark": _build_dark,
    "reset": _build_reset,
    "rscd": _build_rscd,
    "emicorr": _build_emicorr,
    "sirskernel": _build_sirskernel,
    "pictureframe": _build_pictureframe,
}
