"""The keywords of an exposure that stage 1 needs: check that they exist, are valid and agree with the arrays."""

import logging
from math import isfinite
from numbers import Integral, Real

from gpucoron.errors import InputError
from gpucoron.facts import READ_PATTERNS, Facts

log = logging.getLogger(__name__)

_INSTRUMENTS = ("NIRCAM", "MIRI", "NIRISS", "FGS", "NIRSPEC")
_CORONAGRAPHS = ("NRC_CORON", "MIR_4QPM", "MIR_LYOT")
_GUIDING = ("FGS_ACQ1", "FGS_ACQ2", "FGS_FINEGUIDE", "FGS_ID-IMAGE", "FGS_ID-STACK", "FGS_TRACK")

#: keyword -> its attribute in the metadata, and the smallest and largest value accepted. Some determine memory and the
#: length of loops; real exposures are far below the limits.
_COUNTS = {
    "NINTS": ("exposure.nints", 1, 10**6),
    "NGROUPS": ("exposure.ngroups", 1, 10**6),
    "NFRAMES": ("exposure.nframes", 1, 1000),
    "GROUPGAP": ("exposure.groupgap", 0, 1000),
    "FRMDIVSR": ("exposure.frame_divisor", 1, 1000),
    "DRPFRMS1": ("exposure.drop_frames1", 0, 10**6),
    "NSAMPLES": ("exposure.nsamples", 1, 1000),
    "NOUTPUTS": ("exposure.noutputs", 1, 64),
    "INTSTART": ("exposure.integration_start", 1, 10**6),
    "INTEND": ("exposure.integration_end", 1, 10**6),
    "SUBSTRT1": ("subarray.xstart", 1, 2048),
    "SUBSTRT2": ("subarray.ystart", 1, 2048),
    "SUBSIZE1": ("subarray.xsize", 1, 2048),
    "SUBSIZE2": ("subarray.ysize", 1, 2048),
}
#: the same for real numbers: times in seconds, and GAINFACT
_MEASURES = {
    "TGROUP": ("exposure.group_time", 1e-6, 1e6),
    "TFRAME": ("exposure.frame_time", 1e-6, 1e6),
    "GAINFACT": ("exposure.gain_factor", 1e-6, 1e6),
}
_AXES = (-2, -1, 1, 2)


def check_keywords(name, instrument, exp_type, readpatt):
    """Refuse files that are not ramps, and readout modes that stage 1 does not support."""
    if instrument not in _INSTRUMENTS:
        msg = f"{name}: INSTRUME is {instrument!r}; expected one of {', '.join(_INSTRUMENTS)}"
        raise InputError(msg)
    if instrument == "NIRSPEC" and "IRS2" in str(readpatt):
        msg = f"{name}: NIRSpec IRS2 readout (READPATT {readpatt}) is not supported; use jwst's own pipeline"
        raise InputError(msg)
    if str(exp_type).upper() in _GUIDING:
        msg = f"{name}: EXP_TYPE {exp_type} is a guider product, not a ramp; use jwst's guider_cds"
        raise InputError(msg)


def facts_of(name, model, shape):
    """Collect the facts about an exposure that the steps need.

    Parameters
    ----------
    name : str or Path
        For messages.
    model : stdatamodels model
    shape : tuple of int
        Shape of the ramps: (nints, ngroups, ny, nx).

    Returns
    -------
    Facts

    Raises
    ------
    InputError
        A keyword is missing or invalid, or contradicts the arrays so that no result would be meaningful.
    """
    meta = model.meta
    _check_needed(name, meta)
    if getattr(meta.subarray, "multistripe_reads1", None) is not None:  # not in the schema of older versions
        msg = f"{name}: multistripe readout (MSTR_RD1) is not supported; use jwst's own pipeline"
        raise InputError(msg)
    if 0 in shape:
        msg = f"{name}: no data: SCI has the shape {tuple(shape)}"
        raise InputError(msg)
    _check_numbers(name, meta)
    facts = Facts(
        instrument=meta.instrument.name,
        detector=meta.instrument.detector,
        exp_type=meta.exposure.type,
        subarray=meta.subarray.name,
        xstart=meta.subarray.xstart,
        ystart=meta.subarray.ystart,
        xsize=meta.subarray.xsize,
        ysize=meta.subarray.ysize,
        fastaxis=meta.subarray.fastaxis,
        slowaxis=meta.subarray.slowaxis,
        readpatt=meta.exposure.readpatt,
        nints=meta.exposure.nints,
        ngroups=meta.exposure.ngroups,
        nframes=meta.exposure.nframes,
        groupgap=meta.exposure.groupgap,
        frame_divisor=meta.exposure.frame_divisor,
        frame_time=meta.exposure.frame_time,
        group_time=meta.exposure.group_time,
        integration_start=meta.exposure.integration_start,
        integration_end=meta.exposure.integration_end,
        zero_frame=bool(meta.exposure.zero_frame),
        noutputs=meta.exposure.noutputs,
        drop_frames1=meta.exposure.drop_frames1,
        gain_factor=meta.exposure.gain_factor,
        nsamples=meta.exposure.nsamples,
        crpix1=meta.wcsinfo.crpix1,
        crpix2=meta.wcsinfo.crpix2,
    )
    _check_against_arrays(name, facts, shape)
    return facts


def _check_needed(name, meta):
    needed = {
        "DETECTOR": meta.instrument.detector,
        "SUBARRAY": meta.subarray.name,
        "NGROUPS": meta.exposure.ngroups,
        "TGROUP": meta.exposure.group_time,
        "SUBSTRT1": meta.subarray.xstart,
        "SUBSTRT2": meta.subarray.ystart,
        "SUBSIZE1": meta.subarray.xsize,
        "SUBSIZE2": meta.subarray.ysize,
    }
    if meta.instrument.name != "MIRI":
        needed |= {"FASTAXIS": meta.subarray.fastaxis, "SLOWAXIS": meta.subarray.slowaxis}
    for keyword, value in needed.items():
        if value is None:
            msg = f"{name}: keyword {keyword} is missing or invalid; download the file again, or set it"
            raise InputError(msg)


def _check_numbers(name, meta):
    """Refuse numbers outside their limits."""

    def value_of(place):
        parent, _, last = place.partition(".")
        return getattr(getattr(meta, parent), last)

    for limits, kind in ((_COUNTS, Integral), (_MEASURES, Real)):
        for keyword, (place, least, most) in limits.items():
            value = value_of(place)
            if value is None:
                continue
            fits_in = isinstance(value, kind) and not isinstance(value, bool) and isfinite(value)
            if not (fits_in and least <= value <= most):
                whole = "a whole number" if kind is Integral else "a number"
                msg = f"{name}: {keyword} is {value!r}; expected {whole} from {least} to {most}: correct it"
                raise InputError(msg)
    axes = meta.subarray.fastaxis, meta.subarray.slowaxis
    for keyword, axis in zip(("FASTAXIS", "SLOWAXIS"), axes, strict=True):
        if axis is not None and axis not in _AXES:
            msg = f"{name}: {keyword} is {axis!r}; expected 1, 2, -1 or -2: correct it"
            raise InputError(msg)
    if None not in axes and abs(axes[0]) == abs(axes[1]):
        msg = f"{name}: FASTAXIS is {axes[0]} and SLOWAXIS {axes[1]}; expected different axes: correct them"
        raise InputError(msg)


def _count_by_keywords(facts):
    """Return the number of integrations given by the keywords; None if they are missing."""
    last = facts.nints if facts.integration_end is None else facts.integration_end
    return None if last is None else last - (facts.integration_start or 1) + 1


def _check_against_arrays(name, facts, shape):
    """Refuse keywords that contradict the arrays, if no result would be meaningful; otherwise the arrays are used."""
    nints, ngroups, ny, nx = shape
    # further groups would have no times
    if facts.ngroups < ngroups:
        msg = (
            f"{name}: NGROUPS is {facts.ngroups}, but SCI holds {ngroups} groups; correct the keyword, or cut SCI "
            "(and GROUPDQ)"
        )
        raise InputError(msg)
    for keyword, value, size, side in (("SUBSIZE1", facts.xsize, nx, "columns"), ("SUBSIZE2", facts.ysize, ny, "rows")):
        if value != size:
            msg = f"{name}: {keyword} is {value}, but SCI has {size} {side}; correct the keyword, or cut SCI"
            raise InputError(msg)
    for keyword, start, size, most in (
        ("SUBSTRT1", facts.xstart, nx, facts.full_frame[1]),
        ("SUBSTRT2", facts.ystart, ny, facts.full_frame[0]),
    ):
        if start - 1 + size > most:
            msg = (
                f"{name}: {keyword} is {start}, but {size} pixels from there extend beyond the detector, which has "
                f"{most}; correct the keyword"
            )
            raise InputError(msg)
    count = _count_by_keywords(facts)
    keywords = f"INTSTART is {facts.integration_start}, INTEND {facts.integration_end} and NINTS {facts.nints}"
    if count is not None and count < 1:
        msg = f"{name}: {keywords}: they describe no integrations, but SCI holds {nints}; correct the keywords"
        raise InputError(msg)
    # jwst's reset step would not correct the other integrations
    if count is not None and count < nints and facts.is_miri:
        msg = f"{name}: {keywords}, but SCI holds {nints} integrations; correct the keywords, or cut SCI"
        raise InputError(msg)


def warn_of_contradictions(name, facts, shape):
    """Warn of contradictions that do not affect the result, or that are resolved as in jwst."""
    nints, ngroups = shape[:2]
    if facts.ngroups != ngroups:
        log.warning("%s: NGROUPS is %d, but SCI holds %d groups: SCI is used", name, facts.ngroups, ngroups)
    count = _count_by_keywords(facts)
    if count is not None and count != nints:
        log.warning("%s: the keywords specify %d integrations, but SCI holds %d: SCI is used", name, count, nints)
    if None not in (facts.integration_end, facts.nints) and facts.integration_end > facts.nints:
        log.warning("%s: INTEND is %d, but NINTS is %d: INTEND is used", name, facts.integration_end, facts.nints)
    pattern = READ_PATTERNS.get(facts.instrument, {}).get(facts.readpatt)
    found = facts.nframes, facts.groupgap
    if pattern is not None and None not in found and found != pattern:
        log.warning(
            "%s: READPATT is %s, but NFRAMES and GROUPGAP are %d and %d instead of %d and %d: these keywords are used",
            name, facts.readpatt, *found, *pattern,
        )  # fmt: skip
    if None not in (*found, facts.frame_time):
        expected = facts.frame_time * sum(found)
        if abs(facts.group_time - expected) > 0.01 * expected:
            log.warning(
                "%s: TGROUP is %g s, but NFRAMES and GROUPGAP mean %d frames of %g s (TFRAME): both are used",
                name, facts.group_time, sum(found), facts.frame_time,
            )  # fmt: skip
    if facts.instrument not in ("NIRCAM", "MIRI"):
        log.warning("%s: %s has no coronagraph; the near-infrared step order is used", name, facts.instrument)
    elif facts.exp_type not in _CORONAGRAPHS:
        log.warning("%s: EXP_TYPE %s is not coronagraphy; the same steps apply", name, facts.exp_type)
