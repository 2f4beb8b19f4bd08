"""Read the record of an exposure from the header and history of its product, for reports without a manifest."""

import json

from gpucoron.errors import InputError
from gpucoron.records.observed import describe_observation, references_of_header

_KEYWORDS = {
    "instrument": "INSTRUME",
    "detector": "DETECTOR",
    "subarray": "SUBARRAY",
    "exp_type": "EXP_TYPE",
    "filter": "FILTER",
    "coronmsk": "CORONMSK",
    "target": "TARGPROP",
    "context": "CRDS_CTX",
    "finished": "DATE",
}
_CARD = 72  # characters of a HISTORY card


def product_date(path):
    """Return the keyword DATE of a product, which every writing sets anew; '' if it is unknown.

    Parameters
    ----------
    path : str or Path or None
    """
    from astropy.io import fits

    try:
        return str(fits.getheader(path).get("DATE", "")) if path is not None else ""
    except Exception:  # a damaged file can raise almost anything
        return ""


def read_product(path):
    """Make a record in the format of a manifest from the header and history of a ``rate`` product.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        With the status 'product', and without the times of steps.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    header, science = _read_headers(path)
    steps = [
        {"name": header.comments[keyword].lower() or keyword, "status": value}
        for keyword, value in header.items()
        if keyword.startswith("S_")
    ]
    axes = [header.get(keyword) for keyword in ("NINTS", "NGROUPS", "SUBSIZE2", "SUBSIZE1")]
    return {
        "exposure": path.name.removesuffix(".fits").removesuffix("_rate"),
        "status": "product",
        "outputs": {"rate": path.name},
        **{name: header.get(keyword) for name, keyword in _KEYWORDS.items()},
        "shape": axes if None not in axes else None,
        "steps": steps,
        **_observed(header, science),
        **read_history(join_cards(header.get("HISTORY", ())), header.get("CAL_VER")),
    }


def read_observed(path):
    """Read what a product is of: the fields ``observed`` and ``references`` of a record.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        See `gpucoron.records.observed.observed_fields`.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    return _observed(*_read_headers(path))


def _observed(header, science):
    return {"observed": describe_observation(header, science), "references": references_of_header(header)}


def _read_headers(path):
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            return hdus[0].header, hdus["SCI"].header if "SCI" in hdus else {}
    except OSError as error:
        msg = f"{path}: not a readable FITS file ({error}); a report of one exposure needs its *_rate.fits"
        raise InputError(msg) from None


def join_cards(cards):
    """Join the cards of long history entries; all of our entries begin with ``gpucoron``.

    Examples
    --------
    >>> join_cards(["gpucoron jump: " + 57 * "1", "23", "gpucoron ipc: {}"])[1]
    'gpucoron ipc: {}'
    """
    entries = []
    for card in map(str, cards):
        is_new = card.startswith("gpucoron ") or not entries or not entries[-1].startswith("gpucoron ")
        if is_new:
            entries.append(card)
        else:
            # FITS drops blanks at the end of a card
            filled = -(-len(entries[-1]) // _CARD) * _CARD
            entries[-1] = entries[-1].ljust(filled) + card
    return entries


def read_history(entries, jwst_version):
    """Parse the entries written by `gpucoron.io.products.history_of`; join all others unchanged."""
    parameters, software, others = {}, {}, []
    for entry in entries:
        if not entry.startswith("gpucoron "):
            others.append(entry)
            continue
        name, colon, text = entry.removeprefix("gpucoron ").partition(": ")
        values = _parse_dict(text)
        if values is not None:
            parameters[name] = values
        elif colon:
            others.append(entry)
        else:
            version, *items = name.split(", ")
            software = dict(item.split(" ", 1) for item in items if " " in item)
            software["versions"] = {"gpucoron": version, "jwst": jwst_version}
    return {
        "versions": {"jwst": jwst_version},
        **{key: software[key] for key in ("versions", "backend", "profile") if key in software},
        "parameters": parameters,
        "history": "; ".join(others),
    }


def _parse_dict(text):
    try:
        values = json.loads(text)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
