"""Find the keywords, parameters and references that differ between two products."""

import math

from gpucoron.records.headers import join_cards, read_history
from gpucoron.report.compare.differences import KeywordDifference

#: keywords that describe the file, or differ between any two files
_IGNORED = {
    "", "COMMENT", "HISTORY", "DATE", "FILENAME", "CHECKSUM", "DATASUM", "SIMPLE", "XTENSION", "EXTEND", "BITPIX",
    "NAXIS", "PCOUNT", "GCOUNT", "EXTNAME", "EXTVER", "BSCALE", "BZERO", "ASDF",
}  # fmt: skip
_VERSIONS = {"CAL_VER", "CAL_VCS", "CRDS_VER", "SDP_VER", "PRD_VER", "OSS_VER", "DATAMODL"}


def compare_headers(first, second, rtol=0.0):
    """Compare the headers of two products.

    Parameters
    ----------
    first, second : (Header, Header)
        The primary header, and that of SCI.
    rtol : float
        Numbers that differ by no more than this fraction are the same.

    Returns
    -------
    tuple of KeywordDifference
        Sorted by group: versions, context, references, steps, parameters, other.
    """
    found = [*_compare_history(*(_history_of(headers[0]) for headers in (first, second)))]
    for one, other, prefix in zip(first, second, ("", "SCI "), strict=True):
        keywords = [keyword for keyword in {**one, **other} if not _is_ignored(keyword)]
        for keyword in dict.fromkeys(keywords):
            values = one.get(keyword), other.get(keyword)
            if not _is_same(*values, rtol):
                found.append(KeywordDifference(_group_of(keyword), f"{prefix}{keyword}", *map(_plain, values)))
    order = ("versions", "context", "references", "steps", "parameters", "other")
    return tuple(sorted(found, key=lambda difference: order.index(difference.group)))


def _is_ignored(keyword):
    return keyword in _IGNORED or keyword.startswith(("NAXIS", "TTYPE", "TFORM", "TDIM", "TZERO"))


def _group_of(keyword):
    if keyword in _VERSIONS:
        return "versions"
    if keyword == "CRDS_CTX":
        return "context"
    return {"R_": "references", "S_": "steps"}.get(keyword[:2], "other")


def _history_of(primary):
    """Return the parameters of the HISTORY, step -> parameter -> value, or None, and the software."""
    history = read_history(join_cards(primary.get("HISTORY", ())), primary.get("CAL_VER"))
    version = history["versions"].get("gpucoron")
    if version is None:
        return None, {}  # jwst records no parameters
    software = {"gpucoron": version, "backend": history.get("backend")}
    return {"": {"profile": history.get("profile")}, **history["parameters"]}, software


def _compare_history(first, second):
    """Yield differences of the software and, if both products record them, of the parameters."""
    (one, software), (other, other_software) = first, second
    for name in {**software, **other_software}:
        values = software.get(name), other_software.get(name)
        if values[0] != values[1]:
            yield KeywordDifference("versions", name, *values)
    if one is None or other is None:
        return
    for step in {**one, **other}:
        before, after = one.get(step, {}), other.get(step, {})
        for name in {**before, **after}:
            if before.get(name) != after.get(name):
                dotted = f"{step}.{name}" if step else name
                yield KeywordDifference("parameters", dotted, before.get(name), after.get(name))


def _is_same(one, other, rtol):
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=rtol, abs_tol=0.0) or (one != one and other != other)
    return type(one) is type(other) and one == other


def _plain(value):
    """Return the value of a keyword as a plain type; a card without a value is ''."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value) if str(value) else ""
