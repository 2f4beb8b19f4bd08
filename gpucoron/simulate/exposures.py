"""Simulate coronagraphic exposures with a known truth: the sky, the detector, and the raw file.

>>> simulation = simulate("NIRCAM", "SUB320A335R", "DEEP8", ngroups=15, nints=2, seed=1)
>>> path = simulation.write("raw")  # jw01386001001_..._nrcalong_uncal.fits
>>> simulation.truth.rate  # DN/s, the result of a perfect stage 1

`gpucoron.simulate.write_references` makes its references.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.errors import ArgumentError
from gpucoron.facts import READ_PATTERNS
from gpucoron.files import AnyPath, appearing, writing
from gpucoron.interactive import Shown, public
from gpucoron.simulate.arguments import (
    check_arguments,
    check_light,
    count_groups,
    read_sky,
    refuse_in_acquisition,
    refuse_in_background,
    refuse_too_large,
    refuse_with_array,
)
from gpucoron.simulate.camera import Camera, Effects
from gpucoron.simulate.detectors import (
    DETECTORS,
    SLOW_OVER_FAST,
    Pixels,
    Subarray,
    find_acquisition,
    find_subarray,
    make_pixels,
)
from gpucoron.simulate.geometry import place
from gpucoron.simulate.keywords import (
    describe,
    list_groups,
    list_integrations,
    start_integrations,
)
from gpucoron.simulate.photometry import choose_filter, electrons_of, width_of
from gpucoron.simulate.predictions import Noise, Saturation, expect_noise, expect_saturation
from gpucoron.simulate.scenes import ROLES, Scene, usual_scene


@dataclass(frozen=True, repr=False)
class Truth(Shown):
    """The truth about a simulated exposure; the properties of pixels are in ``Simulation.pixels``.

    Attributes
    ----------
    rate : (ny, nx) float32
        DN/s from the sky, without dark current: the result of stage 1 with perfect corrections. Without dark
        subtraction, the result is ``rate + dark_rate``. Zero in reference and dead pixels.
    dark_rate : (ny, nx) float32
        DN/s
    sky : (ny, nx) float32
        e-/s, before the response of the pixels.
    ktc : (nints, ny, nx) float32
        DN, added to the charge after each reset.
    one_over_f : (nints, ngroups, ny, nx) float32 or None
        DN; None if it was not simulated.
    cosmic_rays : (n,) array of COSMIC_RAY
        One row per pixel hit; integrations count from 0 within this file. A hit before the first frame (frame 0) is
        part of the offset of its integration.
    saturated_from : (nints, ny, nx) int32
        The first group with a frame at the full well; ngroups if there is none.
    dq : (ny, nx) uint32
        The bad and reference pixels.
    star, companion : tuple of float
        0-based (x, y).
    companion_rate : float
        Total e-/s.
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

    def _summary(self):
        ny, nx = self.rate.shape
        companion = f"companion of {self.companion_rate:.4g} e-/s at ({self.companion[0]:.1f}, {self.companion[1]:.1f})"
        where = f"star at ({self.star[0]:.1f}, {self.star[1]:.1f}), {companion}"
        return f"{ny} x {nx}: {where}, {len(self.cosmic_rays):,} pixels hit by cosmic rays"

    def mark_jumps(self, ngroups: int, min_electrons: float = 0.0) -> NDArray[np.bool_]:
        """Return the groups in which a ramp jumps: (nints, ngroups, ny, nx) bool.

        The first group cannot jump. With averaged frames, a hit during a group changes this group and the next one.
        """
        nints, ny, nx = self.ktc.shape
        jumps = np.zeros((nints, ngroups, ny, nx), bool)
        hits = self.cosmic_rays[self.cosmic_rays["electrons"] >= min_electrons]
        hits = hits[hits["group"] > 0]
        jumps[hits["integration"], hits["group"], hits["y"], hits["x"]] = True
        return jumps


@dataclass(frozen=True, repr=False)
class Simulation(Shown):
    """One simulated exposure, or one segment of it.

    ``data`` is (nints, ngroups, ny, nx) uint16, ``zeroframe`` (nints, ny, nx) uint16 or None.
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
    scene: Scene | None = field(default=None, repr=False)  # None: the sky was given as an array
    fwhm: float = 0.0  # of a point source, pixels

    @property
    def shift(self) -> tuple[float, float]:
        """The displacement of the star by the dither, (dx, dy) in pixels."""
        return (0.0, 0.0) if self.scene is None else self.scene.shift

    @property
    def saturation(self) -> Saturation:
        """When the pixels are expected to saturate: `gpucoron.simulate.predictions.Saturation`."""
        return expect_saturation(self)

    @property
    def noise(self) -> Noise:
        """The expected noise of the rate, without 1/f noise: `gpucoron.simulate.predictions.Noise`."""
        return expect_noise(self)

    def _summary(self):
        nints, ngroups, ny, nx = self.data.shape
        of = f"{self.subarray.detector} {self.subarray_name} {self.readpatt}, {self.filter}, {self.role}"
        return f"{self.filename}: {of}, {nints} integrations x {ngroups} groups x {ny} x {nx}"

    @property
    def group_time(self) -> float:
        """Seconds from one group to the next."""
        return self.frame_time * (self.nframes + self.groupgap)

    @property
    def filename(self) -> str:
        """The file name that the archive would use."""
        names = dict(self.names, segment="")
        nints = self.data.shape[0]
        if self.total_nints > nints:
            names["segment"] = f"-seg{(self.first_integration - 1) // nints + 1:03d}"
        return file_name(self.subarray.detector, **names)

    @public
    def write(self, folder: AnyPath) -> Path:
        """Write the exposure as ``*_uncal.fits`` for jwst's pipelines; create the folder, and return the path.

        Raises
        ------
        OutputError
            The folder cannot be created or written to, or the disk is full. No incomplete file remains.
        """
        from stdatamodels.jwst.datamodels import Level1bModel

        path = Path(folder) / self.filename
        with writing(path), appearing(path) as (draft,), Level1bModel(self.data) as model:
            for keyword, value in describe(self).items():
                if value is not None:
                    model[f"meta.{keyword}"] = value
            if self.zeroframe is not None:
                model.zeroframe = self.zeroframe
            starts = start_integrations(self)
            model.group = list_groups(self, starts, model.get_dtype("group"))
            model.int_times = list_integrations(self, starts, model.get_dtype("int_times"))
            model.save(draft)
        return path


def file_name(detector, program, observation, visit_group, exposure, segment=""):
    """Return the file name that the archive would use; the numbers are texts with leading zeros."""
    return f"jw{program}{observation}001_{visit_group}101_{exposure}{segment}_{detector.lower()}_uncal.fits"


def number_names(program, observation, exposure):
    """Return the parts of the file name from the numbers of a visit and an exposure."""
    return {
        "program": f"{program:05d}",
        "observation": f"{observation:03d}",
        "visit_group": "02",
        "exposure": f"{exposure:05d}",
    }


@public
def simulate(
    instrument: str,
    subarray: str,
    readpatt: str,
    ngroups: int | None = None,
    nints: int | None = None,
    *,
    seed: int = 0,
    scene: Scene | ArrayLike | None = None,
    effects: Effects | None = None,
    first_integration: int = 1,
    total_nints: int | None = None,
    shape: tuple[int, int] | None = None,
    zeroframe: bool = True,
    detector: str | None = None,
    detector_seed: int = 0,
    filter: str | None = None,
    program: int = 1386,
    observation: int = 1,
    exposure: int = 1,
    role: Literal["SCI", "REF", "TA", "BG"] = "SCI",
    target: str | None = None,
    roll: float = 0.0,
    dither: tuple[int, int] = (1, 1),
    offset: tuple[float, float] = (0.0, 0.0),
    magnitude: float | None = None,
    companion: tuple[float, float] | None = None,
    exposure_time: float | None = None,
) -> Simulation:
    """Simulate a coronagraphic exposure of NIRCam or MIRI.

    The charge increases frame by frame by Poisson increments of light and dark current, and by cosmic rays; a gap
    between groups is one increment. Each frame is limited by the full well and converted by the non-linearity, and the
    frames of a group are averaged. Then inter-pixel coupling, bias, 1/f and read noise are applied, and the counts are
    digitized.

    Every integration has its own random stream, from `seed` and its number, so that a segment contains exactly the same
    integrations as the whole exposure. The pixels and the scene do not depend on `seed`.

    Parameters
    ----------
    instrument : {'NIRCAM', 'MIRI'}
    subarray : str
        A name of ``gpucoron.simulate.detectors.SUBARRAYS``.
    readpatt : str
        NIRCam: RAPID, BRIGHT1, ..., DEEP8. MIRI: FASTR1, SLOWR1.
    ngroups, nints : int
        Groups per integration and integrations in this file. With `exposure_time`, give one of them.
    seed : int
        Seed of all noise.
    scene : Scene, (ny, nx) array of e-/s, or None
        None uses the entry of the instrument in ``SCENES``.
    effects : Effects or None
        None uses the defaults of `Effects`.
    first_integration : int
        1-based; a value above 1 is for a later segment of a longer exposure.
    total_nints : int or None
        Integrations of the whole exposure; by default this file is the last segment.
    shape : (ny, nx) or None
        Size of a smaller array with the same corner, for tests; the frame time does not change.
    zeroframe : bool
        NIRCam: whether to store the first frame of each integration in addition to the groups.
    detector : str or None
        Detector of NIRCam full frames: NRCALONG (default) or NRCA2.
    detector_seed : int
        Another seed is another detector of the same kind.
    filter : str or None
        By default the usual one for the mask. The width of the PSF grows with the wavelength, and the zero point of
        `magnitude` is that of the filter. The masks of MIRI have one filter each.
    program, observation, exposure : int
        Numbers in the file name and header.
    role : {'SCI', 'REF', 'TA', 'BG'}
        Role of the exposure: science target; PSF reference (IS_PSF; by default without companion); target acquisition
        (NRC_TACQ with the small subarray beside the mask, MIR_TACQ with the filter FND); or background (BKGDTARG; by
        default without star).
    target : str or None
        Name of the target in the proposal (TARGPROP); by default 'SIMULATED', 'REFERENCE' or 'SIMULATED-BG'.
    roll : float
        Position angle of V3, degrees east of north (ROLL_REF, PA_V3, PC*). It rotates the companion of a ``Scene``,
        whose ``companion_offset`` is given for roll 0.
    dither : (int, int)
        Position in the dither pattern and number of positions (PATT_NUM, NUMDTHPT).
    offset : (float, float)
        Arcsec in x and y of the aperture from the start of the pattern (XOFFSET, YOFFSET). The star of a ``Scene``
        moves behind the mask by this much, with its halo, speckles and companion. An array is not moved.
    magnitude : float or None
        Vega magnitude of the star in the filter, instead of ``star`` of the scene. The zero points are in
        ``gpucoron.simulate.photometry``.
    companion : (float, float) or None
        Separation of the companion, arcsec, and position angle, degrees east of north, instead of
        ``companion_offset`` of the scene.
    exposure_time : float or None
        Effective exposure time (EFFEXPTM), s. It decides on the number of integrations, or of groups if `nints` is
        given; it is rounded up to whole ones.

    Returns
    -------
    Simulation

    Raises
    ------
    ArgumentError
        A value is unknown or out of range, two arguments contradict each other, or the exposure needs more memory than
        is free. The message starts with the name of the argument. It is also a ValueError.
    """
    check_arguments(locals())  # nothing but the arguments so far
    instrument, readpatt = instrument.upper(), readpatt.upper()
    found, subarray_name = find_subarray(instrument, subarray, detector), subarray.upper()
    if role not in ROLES:
        msg = f"role: no role {role!r}; known: {', '.join(ROLES)}"
        raise ArgumentError(msg)
    if role == "TA":
        refuse_in_acquisition(filter=filter, magnitude=magnitude, companion=companion)
        subarray_name, found = find_acquisition(subarray_name, found)
    elif role == "BG":
        refuse_in_background(scene, magnitude=magnitude, companion=companion)
    if readpatt not in READ_PATTERNS[instrument]:
        known = ", ".join(READ_PATTERNS[instrument])
        msg = f"readpatt: no read pattern {readpatt!r} of {instrument}; known: {known}"
        raise ArgumentError(msg)
    nframes, groupgap = READ_PATTERNS[instrument][readpatt]
    frame_time = found.frame_time * (SLOW_OVER_FAST if readpatt == "SLOWR1" else 1)
    if exposure_time is not None and (first_integration > 1 or total_nints is not None):
        msg = "exposure_time: it is that of a whole exposure; leave first_integration and total_nints out"
        raise ArgumentError(msg)
    ngroups, nints = count_groups(exposure_time, ngroups, nints, nframes, groupgap, frame_time)
    last = first_integration + nints - 1
    total_nints = last if total_nints is None else total_nints
    if last > total_nints:
        msg = f"total_nints: integrations {first_integration} to {last} exceed total_nints, {total_nints}"
        raise ArgumentError(msg)
    number, positions = dither
    if not 1 <= number <= positions:
        msg = f"dither: position {number} of {positions}; expected positions from 1 to the number of positions"
        raise ArgumentError(msg)
    ny, nx = shape or (found.ny, found.nx)
    if ny > found.ny or nx > found.nx:
        msg = f"shape: {(ny, nx)} is larger than {subarray_name}, {(found.ny, found.nx)}"
        raise ArgumentError(msg)
    filter = found.filter if role == "TA" else choose_filter(found, filter)

    effects = effects or Effects()
    kind = DETECTORS[found.detector]
    refuse_too_large(kind, effects, (nints, ngroups, ny, nx), frame_time * ((nframes + groupgap) * ngroups - groupgap))
    fwhm = kind.fwhm if role == "TA" else width_of(found, filter, kind.fwhm)
    scene = usual_scene(instrument, role) if scene is None else scene
    if isinstance(scene, Scene):
        if magnitude is not None:
            scene = replace(scene, star=electrons_of(magnitude, found.detector, filter))
        if companion is not None and not scene.star * scene.companion_contrast:
            msg = "companion: the scene has no companion; its companion_contrast is 0"
            raise ArgumentError(msg)
        observed = scene = place(scene, found, roll, offset, companion)
        sky = scene.render((ny, nx), fwhm)
        check_light(sky)
    else:
        refuse_with_array(magnitude=magnitude, companion=companion)
        sky = read_sky(scene, (ny, nx))
        observed, scene = None, Scene(companion_contrast=0.0)
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

    camera = Camera(found, subarray_name, pixels, effects, sky, readpatt, ngroups, nframes, groupgap, frame_time)
    data = np.empty((nints, ngroups, ny, nx), np.uint16)
    zeroframe = np.empty((nints, ny, nx), np.uint16) if zeroframe and instrument == "NIRCAM" else None
    ktc = np.empty((nints, ny, nx), np.float32)
    saturated_from = np.empty((nints, ny, nx), np.int32)
    one_over_f = np.empty(data.shape, np.float32) if camera.pink else None
    hits = []
    for i in range(nints):
        number = first_integration + i
        integration = camera.integrate(np.random.default_rng([seed, number]), number, data[i])
        ktc[i], saturated_from[i] = integration.ktc, integration.saturated_from
        if zeroframe is not None:
            zeroframe[i] = integration.zeroframe
        if one_over_f is not None:
            one_over_f[i] = integration.one_over_f
        integration.hits["integration"] = i
        hits.append(integration.hits)

    star, companion_place = scene.locate((ny, nx))
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
        companion=companion_place,
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
        filter=filter,
        effects=effects,
        detector_seed=detector_seed,
        first_integration=first_integration,
        total_nints=total_nints,
        names=number_names(program, observation, exposure),
        role=role,
        target=target or ROLES[role],
        roll=float(roll),
        dither=tuple(dither),
        offset=(float(offset[0]), float(offset[1])),
        scene=observed,
        fwhm=fwhm,
    )
