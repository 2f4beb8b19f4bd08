"""The exposures of a report: from the manifests of a folder, from the records of single runs, or from products."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from gpucoron.errors import InputError
from gpucoron.records.headers import read_product
from gpucoron.records.manifest import read_reductions

log = logging.getLogger(__name__)

_PRODUCTS = ("_rate", "_rateints")


@dataclass(frozen=True)
class Found:
    """What a report is about: its title, the folder of the products, and the records of the exposures.

    Attributes
    ----------
    title : str
    folder : Path
    page : Path
        Where the page is written by default.
    records : dict
        Exposure -> its record, from a manifest or from the header of its product.
    n_damaged : int
        Number of lines of the manifests that are not records.
    problems : list of str
        Messages about records that cannot be read.
    """

    title: str
    folder: Path
    page: Path
    records: dict
    n_damaged: int = 0
    problems: list = field(default_factory=list)


def find_records(path):
    """Find the exposures of a report.

    Parameters
    ----------
    path : str or Path
        Folder with products, or one ``*_rate.fits`` or ``*_rateints.fits``.

    Returns
    -------
    Found

    Raises
    ------
    InputError
        There are no products to report on.
    """
    path = Path(path)
    if path.is_dir():
        title = path.resolve().name or str(path)
        return Found(title, path, path / "report.html", *_records_of_folder(path))
    if path.is_file():
        exposure, folder = _stem(path), path.parent
        return Found(exposure, folder, folder / f"{exposure}_report.html", _record_of_product(folder, exposure))
    msg = f"{path}: no such file or folder; give a folder of products, or one *_rate.fits"
    raise InputError(msg)


def _records_of_folder(folder):
    """Return the records of all exposures in the manifests, and of products without a record."""
    records, n_damaged, problems = _read_records(folder)
    for product in sorted(folder.glob("*_rate.fits")):
        if _stem(product) not in records:
            try:
                records[_stem(product)] = read_product(product)
            except InputError as error:
                log.warning("%s", error)
                records[_stem(product)] = {
                    "exposure": _stem(product),
                    "status": "failed",
                    "error": {"type": "damaged product", "message": str(error)},
                }
    for problem in problems:
        log.warning("%s: left out", problem)
    if not records:
        msg = f"{folder}: neither manifest.jsonl nor *_rate.fits in this folder; give the folder with the products"
        raise InputError(msg)
    return records, n_damaged, problems


def _read_records(folder):
    """Read the last record of each exposure; a failure keeps the products of the reduction before it."""
    past, problems = read_reductions(folder)
    records = {}
    for exposure, record in past.last.items():
        made = past.made.get(exposure)
        if record["status"] == "failed" and made is not None and made["status"] != "failed":
            note = (
                f"the last attempt, {record.get('finished') or ''}, failed: products, images and numbers are of the "
                f"reduction of {made.get('finished') or 'before'}"
            )
            record = made | {"status": "failed", "error": record.get("error"), "note": note}
        records[exposure] = record
    return records, past.n_damaged, problems


def _record_of_product(folder, exposure):
    records, _, _ = _read_records(folder)
    rate = folder / f"{exposure}_rate.fits"
    if exposure in records:
        return {exposure: records[exposure]}
    return {exposure: read_product(rate)}


def _stem(path):
    """Return the name of the exposure of a product."""
    stem = path.name.removesuffix(".fits")
    for suffix in _PRODUCTS:
        if stem.endswith(suffix) and path.suffix == ".fits":
            return stem.removesuffix(suffix)
    msg = f"{path}: not a *_rate.fits or *_rateints.fits; give products, or the folder with the products"
    raise InputError(msg)
