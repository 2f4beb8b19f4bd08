"""Exposures that belong together, and quick-looks of them: roll 1 - roll 2, and star - reference.

Quick-looks show whether data are worth reducing further. They neither align the images nor fit a PSF.
"""

import logging
from dataclasses import dataclass

import numpy as np

from gpucoron.errors import InputError
from gpucoron.records.measures import robust_width, usable
from gpucoron.records.observed import find_star
from gpucoron.records.quantised import QuantisedImage
from gpucoron.report.images import fit_image

log = logging.getLogger(__name__)

#: exposures of a set have the same values of these fields of their records, and the same program
_SAME = ("instrument", "detector", "filter", "coronmsk", "subarray")
#: rolls that differ by less are one, degrees
_ROLL_STEP = 1.0
#: step of the levels: to 1 %
_STEP = 0.02
#: pixels to which the scale of the reference is fitted: within this fraction of the shorter side of the star
_FITTED = 0.25
#: fewer pixels determine no scale; pixels farther from the first fit are left out, standard deviations
_LEAST_PIXELS, _CLIP = 10, 5.0


@dataclass(frozen=True, eq=False)
class Member:
    """An exposure in a set.

    Attributes
    ----------
    row : dict
        Its row of the table.
    setting : tuple or None
        See `setting_of`.
    product : Path or None
        Its ``*_rate.fits``.
    load_removed : callable
        Returns the `QuantisedImage` of the removed 1/f noise, or None.
    """

    row: dict
    setting: tuple | None
    product: object
    load_removed: object


def find_sets(members):
    """Group exposures that belong together, in time order.

    Parameters
    ----------
    members : list of Member
        In time order.

    Returns
    -------
    list of list of Member
        Exposures of one program with the same instrument, detector, filter, mask and subarray; without those of which
        detector or filter is unknown, acquisitions and exposures that stand alone.
    """
    groups = {}
    for member in members:
        if member.setting is not None:
            groups.setdefault(member.setting, []).append(member)
    return [group for group in groups.values() if len(group) > 1]


def setting_of(record):
    """Return what the exposures of a set have in common; None for an exposure that belongs to no set.

    Parameters
    ----------
    record : dict
        A record of a manifest.

    Returns
    -------
    tuple of str, or None
        Program, instrument, detector, filter, mask, subarray.
    """
    observed = record.get("observed")
    observed = observed if isinstance(observed, dict) else {}
    setting = {name: str(record.get(name) or "") for name in _SAME}
    if not (setting["detector"] and setting["filter"]) or observed.get("role") == "acquisition":
        return None
    return (str(observed.get("program") or ""), *setting.values())


def title_of(group):
    """Return the title of a set, such as 'Program 01386: NRCALONG F444W MASKA335R SUB320A335R'."""
    program, _instrument, *names = group[0].setting
    setting = " ".join(name for name in names if name)
    return f"Program {program}: {setting}" if program else setting


def quicklooks_of(group, longest):
    """Make the quick-looks of a set from its ``*_rate.fits``, at full precision.

    Parameters
    ----------
    group : list of Member
    longest : int
        Longest side of an image in the page, pixels.

    Returns
    -------
    list of dict
        title, note : str
        images : dict
            'after' -> the difference; 'before' and 'removed' -> the same difference before 1/f noise was removed, and
            of this noise, where all previews know it in DN/s.

    Notes
    -----
    The first quick-look is the mean of the exposures of the first roll of the science target minus that of the second
    roll. The second one is the mean of all science exposures minus the scaled mean of the references. Scale and a
    constant are fitted by least squares to the usable pixels within a quarter of the shorter side of the star; a second
    fit leaves out pixels more than 5 standard deviations from the first one. Pixels with DO_NOT_USE in all exposures of
    one side have no value.
    """
    science = [member for member in group if member.row["role"] == "science" and member.product is not None]
    references = [member for member in group if member.row["role"] == "reference" and member.product is not None]
    rolls = _rolls_of(science)
    pairs = []
    if len(rolls) > 1:
        angles = [f"{rolls[at][0].row['roll']:.1f}°" for at in (0, 1)]
        more = f"; {len(rolls) - 2} more rolls are not shown" if len(rolls) > 2 else ""
        note = f"{_count(rolls[0])} at roll {angles[0]} minus {_count(rolls[1])} at {angles[1]}{more}"
        pairs.append(("roll 1 - roll 2", note, rolls[0], rolls[1], False))
    if science and references:
        note = f"{_count(science)} minus {{scale}} times {_count(references)} of the reference"
        pairs.append(("star - reference", note, science, references, True))
    found = []
    for title, note, ours, theirs, is_scaled in pairs:
        try:
            found.append(_quicklook(title, note, ours, theirs, is_scaled, longest))
        except InputError as error:
            log.warning("%s", error)
    return found


def _count(members):
    return "1 exposure" if len(members) == 1 else f"mean of {len(members)} exposures"


def _rolls_of(members):
    """Group exposures by roll, in the order of time; exposures without a roll are left out."""
    rolls = []
    for member in members:
        angle = member.row["roll"]
        if angle is None:
            continue
        for roll in rolls:
            if abs((angle - roll[0].row["roll"] + 180) % 360 - 180) < _ROLL_STEP:
                roll.append(member)
                break
        else:
            rolls.append([member])
    return rolls


def _quicklook(title, note, ours, theirs, is_scaled, longest):
    (image, star), (reference, _) = (_mean_rate(side) for side in (ours, theirs))
    if image.shape != reference.shape:
        msg = f"{theirs[0].product}: has the shape {reference.shape}, not {image.shape}; there is no {title}"
        raise InputError(msg)
    scale = _fit_scale(image, reference, star) if is_scaled else 1.0
    after = image - scale * reference
    images = {"after": QuantisedImage.of(after, step=_STEP)}
    removed = [_mean_removed(side, image.shape) for side in (ours, theirs)]
    if all(noise is not None for noise in removed):
        noise = removed[0] - scale * removed[1]
        images["before"] = QuantisedImage.of(after + noise, step=_STEP)
        images["removed"] = QuantisedImage.of(noise, step=_STEP, noise=images["after"].soft, repeats=True)
    packed = {kind: fit_image(image, longest).to_json() for kind, image in images.items()}
    return {"title": title, "note": note.format(scale=f"{scale:.4g}"), "images": packed}


def _mean_rate(members):
    """Average the usable pixels of the rates: (ny, nx) float64, and the position of the star in the first one."""
    from astropy.io import fits

    total, count, star = 0.0, 0, None
    for member in members:
        try:
            with fits.open(member.product, memmap=False) as hdus:
                image = usable(hdus["SCI"].data, hdus["DQ"].data.astype(np.uint32))
                star = star or find_star(hdus["SCI"].header, image.shape)
        except Exception as error:  # a damaged file can raise almost anything
            msg = f"{member.product}: not a readable rate product ({error}); it is in no quick-look"
            raise InputError(msg) from error
        if np.ndim(total) and total.shape != image.shape:
            msg = f"{member.product}: has the shape {image.shape}, not {total.shape}; there is no quick-look"
            raise InputError(msg)
        is_known = np.isfinite(image)
        total = total + np.where(is_known, image, 0).astype(np.float64)
        count = count + is_known
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), star


def _mean_removed(members, shape):
    """Average the removed 1/f noise, DN/s; None if it is unknown for one of the exposures."""
    total = 0.0
    for member in members:
        removed = member.load_removed()
        if removed is None or removed.unit != "DN/s" or removed.shape != shape:
            return None
        total = total + removed.values().astype(np.float64)
    return total / len(members)


def _fit_scale(image, reference, star):
    """Fit ``image = scale * reference + constant`` near the star by least squares; 1 if that is impossible.

    A second fit leaves out pixels more than 5 standard deviations from the first one: companions and bad pixels.
    """
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    near = np.hypot(x - star[0], y - star[1]) <= _FITTED * min(image.shape)
    use = near & np.isfinite(image) & np.isfinite(reference)
    scale = 1.0
    for _ in range(2):
        if np.count_nonzero(use) < _LEAST_PIXELS:
            return scale
        theirs = reference[use] - reference[use].mean()
        power = float((theirs**2).sum())
        if not power > 0:
            return scale
        scale = float((image[use] * theirs).sum()) / power
        residual = image - scale * reference
        middle = np.median(residual[use])
        use &= np.abs(residual - middle) <= _CLIP * robust_width(residual[use])
    return scale
