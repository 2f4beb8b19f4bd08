"""Coronagraphic exposures with a known truth: what the sky sent, what the detector did to it, and the file it wrote.

>>> simulation = simulate("NIRCAM", "SUB320A335R", "DEEP8", ngroups=15, nints=2, seed=1)
>>> path = simulation.write("raw")  # jw01386001001_..._nrcalong_uncal.fits
>>> simulation.truth.rate  # DN/s, as a perfect stage 1 delivers it

The references that belong to it are made by `gpucoron.simulate.write_references`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.ndimage

from gpucoron.facts import READ_PATTERNS
from gpucoron.simulate.camera import Camera
from gpucoron.simulate.detectors import (
    SLOW_OVER_FAST,
    Pixels,
    Subarray,
    find_acquisition,
    find_subarray,
    make_pixels,
)
from gpucoron.simulate.keywords import describe, list_groups, list_integrations, start_integrations


@dataclass(frozen=True)
class Scene:
    """What reaches the detector, in electrons.

    Attributes
    ----------
    star : float
        Electrons per second of the star without the mask.
    halo : float
        What the mask leaves, per pixel at its brightest, over the star.
    slope : float
        The halo falls as 1/r**slope.
    speckle : float
        rms of the speckles over the mean halo.
    companion_contrast : float
        The companion's flux over the star's.
    companion_offset : tuple of float
        (dx, dy) from the star, pixels.
    background : float
        e-/s/pixel
    center : tuple of float or None
        The star, 0-based (x, y); the middle of the array by default.
    seed : int
        Of the speckles. It belongs to the scene, so that all segments of an exposure see the same star.
    """

    star: float = 1e7
    halo: float = 3e-5
    slope: float = 2.5
    speckle: float = 0.4
    companion_contrast: float = 1e-4
    companion_offset: tuple = (20.0, 12.0)
    background: float = 0.5
    center: tuple | None = None
    seed: int = 0

    def locate(self, shape):
        """Find the star and its companion, 0-based: ``((x, y), (x, y))``."""
        ny, nx = shape
        x, y = self.center or ((nx - 1) / 2, (ny - 1) / 2)
        return (x, y), (x + self.companion_offset[0], y + self.companion_offset[1])

    def turned(self, roll):
        """Give the scene as a telescope sees it that is rolled by `roll` degrees: the companion goes round the star."""
        angle = np.radians(roll)
        (x, y), cosine, sine = self.companion_offset, np.cos(angle), np.sin(angle)
        return replace(self, companion_offset=(float(x * cosine + y * sine), float(y * cosine - x * sine)))

    def render(self, shape, fwhm):
        """Render the scene, ``(ny, nx)`` float32 e-/s; `fwhm` of the companion and of a speckle, pixels."""
        (x0, y0), (xc, yc) = self.locate(shape)
        y, x = np.indices(shape, dtype=np.float32)
        r = np.hypot(x - x0, y - y0) / (3 * fwhm)
        # Dark behind the mask, brightest at its edge (three fwhm from the star), a power law outside.
        halo = r**2 / (1 + r ** (2 + self.slope)) * 2
        rng = np.random.default_rng([self.seed, 57])
        speckles = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), fwhm / 2.355)
        halo *= np.maximum(1 + self.speckle * speckles / speckles.std(), 0.05)
        sigma = fwhm / 2.355
        spread = np.exp(-((x - xc) ** 2 + (y - yc) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        companion = self.star * self.companion_contrast * spread
        return (self.star * self.halo * halo + companion + self.background).astype(np.float32)


#: MIRI is warm and its exposures are short: a brighter star before a bright background
SCENES = {"NIRCAM": Scene(), "MIRI": Scene(star=3e7, halo=1e-4, background=100.0)}

#: what an exposure is taken for -> its target's name in the proposal, where none is given
ROLES = {"SCI": "SIMULATED", "REF": "REFERENCE", "TA": "SIMULATED", "BG": "SIMULATED-BG"}


@dataclass(frozen=True)
class Effects:
    """Which effects a simulation has; those of the other instrument never show.

    ``one_over_f`` and ``cosmic_rays`` are factors on the usual strength, the others switches. 1/f noise exceeds what
    ERR accounts for: switch it off to compare scatter with ERR. kTC noise is one offset per pixel and integration and
    cancels in every slope. ``reset``, ``rscd``, ``last_frame`` and ``emi`` are MIRI's.
    """

    poisson: bool = True
    dark: bool = True
    read_noise: bool = True
    one_over_f: float = 1.0
    ktc: bool = True
    superbias: bool = True
    nonlinearity: bool = True
    saturation: bool = True
    ipc: bool | None = None  # None: where jwst corrects it by default in operations, in NIRCam
    cosmic_rays: float = 1.0
    bad_pixels: bool = True
    reset: bool = True
    rscd: bool = True
    last_frame: bool = True
    emi: bool = False


@dataclass(frozen=True)
class Truth:
    """What a simulation knows and an observer does not; the pixels' own properties are in ``Simulation.pixels``.

    Attributes
    ----------
    rate : (ny, nx) float32
        DN/s from the sky, without dark current: what stage 1 delivers when all corrections are perfect. Where no dark
        is subtracted, it delivers ``rate + dark_rate``. Zero in reference and dead pixels.
    dark_rate : (ny, nx) float32
        DN/s
    sky : (ny, nx) float32
        e-/s, before the pixels' response.
    ktc : (nints, ny, nx) float32
        DN, added to the charge after each reset.
    one_over_f : (nints, ngroups, ny, nx) float32 or None
        DN; None where there is none.
    cosmic_rays : (n,) array of COSMIC_RAY
        One row a pixel hit; integrations count from 0 within this file. A hit before the first frame (frame 0) is
        part of the offset of its integration.
    saturated_from : (nints, ny, nx) int32
        The first group with a frame at the full well; ngroups where there is none.
    dq : (ny, nx) uint32
        The bad and reference pixels.
    star, companion : tuple of float
        0-based (x, y).
    companion_rate : float
        e-/s in all.
    """

    rate: np.ndarray
    dark_rate: np.ndarray
    sky: np.ndarray
    ktc: np.ndarray
    one_over_f: np.ndarray | None
    cosmic_rays: np.ndarray
    saturated_from: np.ndarray
    dq: np.ndarray
    star: tuple
    companion: tuple
    companion_rate: float

    def mark_jumps(self, ngroups, min_electrons=0.0):
        """Mark the groups in which a ramp jumps: ``(nints, ngroups, ny, nx)`` bool.

        The first group cannot jump. With averaged frames a hit during a group moves that group and the next one.
        """
        nints, ny, nx = self.ktc.shape
        jumps = np.zeros((nints, ngroups, ny, nx), bool)
        hits = self.cosmic_rays[self.cosmic_rays["electrons"] >= min_electrons]
        hits = hits[hits["group"] > 0]
        jumps[hits["integration"], hits["group"], hits["y"], hits["x"]] = True
        return jumps


@dataclass(frozen=True)
class Simulation:
    """One simulated exposure, or one segment of it.

    ``data`` is ``(nints, ngroups, ny, nx)`` uint16, ``zeroframe`` ``(nints, ny, nx)`` uint16 or None.
    """

    data: np.ndarray
    zeroframe: np.ndarray | None
    truth: Truth
    pixels: Pixels = field(repr=False)
    subarray: Subarray
    subarray_name: str
    readpatt: str
    nframes: int
    groupgap: int
    frame_time: float
    filter: str
    effects: Effects
    detector_seed: int
    first_integration: int
    total_nints: int
    names: dict
    role: str = "SCI"
    target: str = ROLES["SCI"]
    roll: float = 0.0
    dither: tuple = (1, 1)
    offset: tuple = (0.0, 0.0)

    @property
    def group_time(self):
        """Seconds from one group to the next."""
        return self.frame_time * (self.nframes + self.groupgap)

    @property
    def filename(self):
        """The name that the archive would give to the file."""
        names = dict(self.names, segment="")
        nints = self.data.shape[0]
        if self.total_nints > nints:
            names["segment"] = f"-seg{(self.first_integration - 1) // nints + 1:03d}"
        return "jw{program}{observation}001_{visit_group}101_{exposure}{segment}_{detector}_uncal.fits".format(
            detector=self.subarray.detector.lower(), **names
        )

    def write(self, folder):
        """Write the exposure as ``*_uncal.fits`` for jwst's pipelines, and return its path; the folder is made."""
        from stdatamodels.jwst.datamodels import Level1bModel

        path = Path(folder) / self.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with Level1bModel(self.data) as model:
            for keyword, value in describe(self).items():
                if value is not None:
                    model[f"meta.{keyword}"] = value
            if self.zeroframe is not None:
                model.zeroframe = self.zeroframe
            starts = start_integrations(self)
            model.group = list_groups(self, starts, model.get_dtype("group"))
            model.int_times = list_integrations(self, starts, model.get_dtype("int_times"))
            model.save(path)
        return path


def simulate(
    instrument,
    subarray,
    readpatt,
    ngroups,
    nints,
    *,
    seed=0,
    scene=None,
    effects=None,
    first_integration=1,
    total_nints=None,
    shape=None,
    zeroframe=True,
    detector=None,
    detector_seed=0,
    filter=None,
    program=1386,
    observation=1,
    exposure=1,
    role="SCI",
    target=None,
    roll=0.0,
    dither=(1, 1),
    offset=(0.0, 0.0),
):
    """Simulate a coronagraphic exposure of NIRCam or MIRI.

    The charge grows frame by frame by Poisson increments of light and dark current, with hits of cosmic rays; a gap
    between groups is one increment. Each frame is bent by the detector's non-linearity and stops at the full well; the
    frames of a group are averaged; then come inter-pixel coupling, bias, 1/f and read noise, and the A/D converter.

    Every integration has a random stream of its own, from `seed` and its number: a segment holds exactly the
    integrations that the whole exposure would hold. The pixels and the scene do not depend on `seed`.

    Parameters
    ----------
    instrument : {'NIRCAM', 'MIRI'}
    subarray : str
        A name of ``gpucoron.simulate.detectors.SUBARRAYS``.
    readpatt : str
        NIRCam: RAPID, BRIGHT1, ..., DEEP8. MIRI: FASTR1, SLOWR1.
    ngroups, nints : int
        Groups per integration and integrations in this file.
    seed : int
        Of all noise.
    scene : Scene, (ny, nx) array of e-/s, or None
        None takes the instrument's entry in ``SCENES``.
    effects : Effects or None
        None takes all the usual ones.
    first_integration : int
        1-based; more than 1 makes a later segment of a longer exposure.
    total_nints : int or None
        Integrations of the whole exposure; by default it ends with this file.
    shape : (ny, nx) or None
        A smaller array with the same corner, for tests; the frame time remains the subarray's.
    zeroframe : bool
        NIRCam: whether the first frame of each integration is kept beside the groups.
    detector : str or None
        Tells the full frames of NIRCam apart: NRCALONG (default) or NRCA2.
    detector_seed : int
        Another seed is another detector of the same kind.
    filter : str or None
        By default one that goes with the mask.
    program, observation, exposure : int
        For the file's name and header.
    role : {'SCI', 'REF', 'TA', 'BG'}
        What the exposure is taken for: the target, a star for its PSF (IS_PSF; by default without the companion), a
        target acquisition (NRC_TACQ with the small subarray beside the mask, MIR_TACQ with the filter FND), or
        background (BKGDTARG; by default without any star).
    target : str or None
        The target's name in the proposal (TARGPROP); by default 'SIMULATED', 'REFERENCE' or 'SIMULATED-BG'.
    roll : float
        Position angle of V3, degrees east of north (ROLL_REF, PA_V3, PC*). A ``Scene``'s companion goes round the star
        with it: its ``companion_offset`` is that at roll 0.
    dither : (int, int)
        Position in the dither pattern and number of positions (PATT_NUM, NUMDTHPT).
    offset : (float, float)
        Arcsec in x and y from the pattern's start (XOFFSET, YOFFSET); the header's alone, the star stays where it is.

    Returns
    -------
    Simulation
    """
    instrument, readpatt = instrument.upper(), readpatt.upper()
    found, subarray_name = find_subarray(instrument, subarray, detector), subarray.upper()
    if role not in ROLES:
        msg = f"no role {role!r}; known: {', '.join(ROLES)}"
        raise ValueError(msg)
    if role == "TA":
        subarray_name, found = find_acquisition(subarray_name, found)
    if readpatt not in READ_PATTERNS[instrument]:
        msg = f"no read pattern {readpatt!r} of {instrument}; known: {', '.join(READ_PATTERNS[instrument])}"
        raise ValueError(msg)
    if ngroups < 1 or nints < 1 or first_integration < 1:
        msg = f"ngroups, nints and first_integration must be 1 or more, not {ngroups}, {nints}, {first_integration}"
        raise ValueError(msg)
    last = first_integration + nints - 1
    total_nints = last if total_nints is None else total_nints
    if last > total_nints:
        msg = f"integrations {first_integration} to {last} are more than the exposure's {total_nints}"
        raise ValueError(msg)
    ny, nx = shape or (found.ny, found.nx)
    if ny > found.ny or nx > found.nx:
        msg = f"shape {(ny, nx)} is larger than {subarray_name}, {(found.ny, found.nx)}"
        raise ValueError(msg)

    effects = effects or Effects()
    pixels = make_pixels(
        found.detector,
        found.xstart,
        found.ystart,
        nx,
        ny,
        seed=detector_seed,
        bad_pixels=effects.bad_pixels,
        nonlinearity=effects.nonlinearity,
        superbias=effects.superbias,
    )
    scene = _usual_scene(instrument, role) if scene is None else scene
    if isinstance(scene, Scene):
        scene = scene.turned(roll) if roll else scene
        sky = scene.render((ny, nx), pixels.kind.fwhm)
    else:
        sky = np.broadcast_to(np.asarray(scene, np.float32), (ny, nx))
        scene = Scene(companion_contrast=0.0)
    nframes, groupgap = READ_PATTERNS[instrument][readpatt]
    frame_time = found.frame_time * (SLOW_OVER_FAST if readpatt == "SLOWR1" else 1)

    camera = Camera(found, subarray_name, pixels, effects, sky, readpatt, ngroups, nframes, groupgap, frame_time)
    data = np.empty((nints, ngroups, ny, nx), np.uint16)
    zeroframe = np.empty((nints, ny, nx), np.uint16) if zeroframe and instrument == "NIRCAM" else None
    ktc = np.empty((nints, ny, nx), np.float32)
    saturated_from = np.empty((nints, ny, nx), np.int32)
    one_over_f = np.empty(data.shape, np.float32) if camera.pink else None
    hits = []
    for i in range(nints):
        number = first_integration + i
        taken = camera.integrate(np.random.default_rng([seed, number]), number, data[i])
        ktc[i], saturated_from[i] = taken.ktc, taken.saturated_from
        if zeroframe is not None:
            zeroframe[i] = taken.zeroframe
        if one_over_f is not None:
            one_over_f[i] = taken.one_over_f
        taken.hits["integration"] = i
        hits.append(taken.hits)

    star, companion = scene.locate((ny, nx))
    truth = Truth(
        rate=camera.light / pixels.gain,
        dark_rate=camera.dark / pixels.gain,
        sky=sky,
        ktc=ktc,
        one_over_f=one_over_f,
        cosmic_rays=np.concatenate(hits),
        saturated_from=saturated_from,
        dq=pixels.dq,
        star=star,
        companion=companion,
        companion_rate=scene.star * scene.companion_contrast,
    )
    return Simulation(
        data=data,
        zeroframe=zeroframe,
        truth=truth,
        pixels=pixels,
        subarray=found,
        subarray_name=subarray_name,
        readpatt=readpatt,
        nframes=nframes,
        groupgap=groupgap,
        frame_time=frame_time,
        filter=filter or found.filter,
        effects=effects,
        detector_seed=detector_seed,
        first_integration=first_integration,
        total_nints=total_nints,
        names={
            "program": f"{program:05d}",
            "observation": f"{observation:03d}",
            "visit_group": "02",
            "exposure": f"{exposure:05d}",
        },
        role=role,
        target=target or ROLES[role],
        roll=float(roll),
        dither=tuple(dither),
        offset=(float(offset[0]), float(offset[1])),
    )


def _usual_scene(instrument, role):
    """Give the instrument's scene without what another role does not show."""
    without = {"REF": {"companion_contrast": 0.0}, "BG": {"companion_contrast": 0.0, "star": 0.0}}
    return replace(SCENES[instrument], **without.get(role, {}))
