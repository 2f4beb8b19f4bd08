"""What an exposure is of and how it was taken: from the header of a product, or from the metadata of a run.

Role and roll are those of `gpucoron.io.observations`, which reads raw files and products for spaceKLIP.
"""

import math

#: keywords of the primary header -> path in the metadata of jwst's models
_PRIMARY = {
    "INSTRUME": "instrument.name",
    "PROGRAM": "observation.program_number",
    "OBSERVTN": "observation.observation_number",
    "DATE-BEG": "observation.date_beg",
    "DATE-OBS": "observation.date",
    "TIME-OBS": "observation.time",
    "BKGDTARG": "observation.bkgdtarg",
    "IS_PSF": "exposure.psf_reference",
    "EXP_TYPE": "exposure.type",
    "EFFEXPTM": "exposure.exposure_time",
    "PRIMECRS": "exposure.primary_cosmic_rays",
    "TARGPROP": "target.proposer_name",
    "PATT_NUM": "dither.position_number",
    "NUMDTHPT": "dither.total_points",
    "SUBSTRT1": "subarray.xstart",
    "SUBSTRT2": "subarray.ystart",
}
#: the same for the header of SCI
_SCIENCE = {
    "CRPIX1": "wcsinfo.crpix1",
    "CRPIX2": "wcsinfo.crpix2",
    "ROLL_REF": "wcsinfo.roll_ref",
    "V3I_YANG": "wcsinfo.v3yangle",
    "VPARITY": "wcsinfo.vparity",
}
#: positions of the star, 1-based, the best one first: measured, of the mask, of the reference point
_STARS = (("STARCENX", "STARCENY"), ("MASKCENX", "MASKCENY"), ("CRPIX1", "CRPIX2"))


def observed_fields(run):
    """Return the fields of a record that tell what a reduced exposure is of.

    Parameters
    ----------
    run : gpucoron.engine.Run
        After its last step.

    Returns
    -------
    dict
        observed : dict
            See `describe_observation`.
        references : dict
            See `references_of_run`.
    """
    return {"observed": describe_observation(*headers_of_run(run)), "references": references_of_run(run)}


def headers_of_run(run):
    """Return the keywords that this module reads, from the metadata of a run: (primary, science), two dictionaries."""
    if run.exposure.meta is None:
        return {}, {}
    meta = run.exposure.meta.meta
    return tuple({key: _look_up(meta, path) for key, path in paths.items()} for paths in (_PRIMARY, _SCIENCE))


def _look_up(meta, path):
    value = meta
    for name in path.split("."):
        # a model made by a user may lack any of them
        value = getattr(value, name, None)
    return value


def describe_observation(primary, science):
    """Describe what an exposure is of.

    Parameters
    ----------
    primary, science : mapping
        The primary header and that of SCI; any keyword may be missing.

    Returns
    -------
    dict
        start : str
            Date and time (ISO 8601, UTC) of the start of the exposure; '' if unknown.
        program, observation : str
        roll : float or None
            Position angle of the ideal y axis of the aperture, degrees: ``ROLL_REF - V3I_YANG * VPARITY``.
        role : str
            'acquisition', 'background' (BKGDTARG, or BG or BACK in the name of the target), 'reference' (IS_PSF),
            'science' (IS_PSF is false), or '' if unknown.
        dither : str
            Such as '2 of 9'; '' without dithers.
        exptime : float or None
            Effective exposure time, s.
        corner : list of int, or None
            Column and row of the first pixel on the detector, 1-based.
    """
    start = _text(primary, "DATE-BEG")
    if not start and _text(primary, "DATE-OBS") and _text(primary, "TIME-OBS"):
        start = f"{_text(primary, 'DATE-OBS')}T{_text(primary, 'TIME-OBS')}"
    roll = _number(science, "ROLL_REF")
    if roll is not None:
        turned, parity = _number(science, "V3I_YANG"), _number(science, "VPARITY")
        roll -= (turned or 0.0) * (-1.0 if parity is None else parity)
    position, points = _number(primary, "PATT_NUM"), _number(primary, "NUMDTHPT")
    corner = [_number(primary, keyword) for keyword in ("SUBSTRT1", "SUBSTRT2")]
    return {
        "start": start,
        "program": _text(primary, "PROGRAM"),
        "observation": _text(primary, "OBSERVTN"),
        "roll": roll,
        "role": _find_role(primary),
        "dither": f"{position:.0f} of {points:.0f}" if position and points and points > 1 else "",
        "exptime": _number(primary, "EFFEXPTM"),
        "corner": None if None in corner else [int(number) for number in corner],
    }


def _find_role(primary):
    target = _text(primary, "TARGPROP").upper()
    if "TA" in _text(primary, "EXP_TYPE"):
        return "acquisition"
    if primary.get("BKGDTARG") is True or "BG" in target or "BACK" in target:
        return "background"
    return {True: "reference", False: "science"}.get(primary.get("IS_PSF"), "")


def find_star(science, shape):
    """Find the star: the first of STARCEN, MASKCEN and CRPIX that is inside the image, or else the centre.

    Parameters
    ----------
    science : mapping
        Header of SCI.
    shape : (ny, nx)

    Returns
    -------
    (float, float)
        x and y in pixels, 0-based.
    """
    ny, nx = shape
    for keywords in _STARS:
        x, y = (_number(science, keyword) for keyword in keywords)
        if x is not None and y is not None and 0.5 <= x <= nx + 0.5 and 0.5 <= y <= ny + 0.5:
            return x - 1, y - 1
    return (nx - 1) / 2, (ny - 1) / 2


def references_of_header(primary):
    """Return the references of a product: type -> name of the file, without those that were not needed (N/A)."""
    found = {}
    for keyword, name in primary.items():
        if keyword.startswith("R_") and isinstance(name, str) and name not in ("", "N/A"):
            label = primary.comments[keyword].partition(" reference")[0].strip().lower() or keyword[2:].lower()
            found[label.replace(" ", "")] = _file_name(name)
    return found


def references_of_run(run):
    """Return the references that a run has used: type -> name of the file."""
    if run.exposure.meta is None:
        return {}
    names = run.exposure.meta.meta.ref_file.instance
    return {
        reftype: _file_name(entry["name"])
        for reftype, entry in names.items()
        if isinstance(entry, dict) and entry.get("name") not in (None, "", "N/A")
    }


def _file_name(name):
    return name.removeprefix("crds://").rpartition("/")[2]


def _text(header, keyword):
    value = header.get(keyword)
    return value.strip() if isinstance(value, str) else ""


def _number(header, keyword):
    value = header.get(keyword)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
