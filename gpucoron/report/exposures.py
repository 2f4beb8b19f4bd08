"""The files of an exposure that the report reads: its preview, and its products where the preview lacks something."""

from dataclasses import dataclass
from pathlib import Path

from gpucoron.errors import InputError
from gpucoron.records.headers import product_date, read_observed, read_product
from gpucoron.records.previews import Preview, load_preview, preview_of_product, preview_path
from gpucoron.report.images import binning_of
from gpucoron.report.links import find_products
from gpucoron.report.sets import Member, setting_of

#: a page may have so many bytes for each exposure of a large folder, and so many in any case
BYTES_PER_EXPOSURE, LEAST_BYTES = 300_000, 100_000_000
#: longest side of the images in a page, pixels; the first one that keeps it small enough
_SIDES = (640, 320, 256, 160)
#: bytes of an exposure's thumbnails and tables in a page, and of its images per pixel, at least
_BYTES_OF_TABLES, _LEAST_BYTES_PER_PIXEL = 22_000, 1.5
#: bytes of the quick-looks of a set per pixel: two, with three images
_BYTES_OF_QUICKLOOKS = 8.0


@dataclass(frozen=True, eq=False)
class ExposureFiles:
    """What the report knows of an exposure.

    Attributes
    ----------
    folder : Path
    record : dict
        With ``observed`` and ``references``, from the product if the manifest lacks them.
    products : dict
        Kind -> path of the products that exist, such as 'rate' and 'rateints'.
    preview : Preview
    note : str
        About files that cannot be read.
    """

    folder: Path
    record: dict
    products: dict
    preview: Preview
    note: str = ""

    def averaged(self, longest):
        """Return the preview if the page averages its images, because a side is longer; else None."""
        rate = self.preview.rate
        return self.preview if rate is not None and binning_of(rate.shape, longest) > 1 else None

    def references(self):
        """List the references: (type, name of the file)."""
        references = self.record.get("references")
        return sorted(references.items()) if isinstance(references, dict) else []

    def member(self, row):
        """Return the exposure as a member of a set, without its images."""
        stored = preview_path(self.folder, Path(self.record["exposure"]).name)
        load = (lambda: load_preview(stored).removed) if self.preview.removed is not None else (lambda: None)
        return Member(row, setting_of(self.record), self.products.get("rate"), load)

    def record_fields(self):
        """Return the record without steps and parameters, which are large."""
        return {name: value for name, value in self.record.items() if name not in ("steps", "parameters", "asked")}


def find_exposure(folder, record):
    """Load the preview of an exposure, and make from its products what the preview or the record lacks.

    Parameters
    ----------
    folder : Path
    record : dict
        A record of a manifest; any field except ``exposure`` may be missing.

    Returns
    -------
    ExposureFiles
    """
    products = find_products(folder, record)
    stored = preview_path(folder, Path(record["exposure"]).name)
    preview, notes = Preview(), [record["note"]] if record.get("note") else []
    if stored.is_file():
        try:
            preview = load_preview(stored)
        except InputError as error:
            notes.append(str(error))
    date = product_date(products.get("rate"))
    if _is_other(preview.product_date, date):
        preview = Preview()
        notes.append("the preview is of an earlier product: images and numbers are those of the products")
    try:
        if _is_other(record.get("product_date"), date):
            record = read_product(products["rate"])
            notes.append("the products were written again after the last record: what is shown is from the products")
        if "rate" in products and not preview.is_complete:
            preview = preview.completed_by(preview_of_product(products["rate"], products.get("rateints")))
        if "rate" in products and not (record.get("observed") and record.get("references")):
            found = read_observed(products["rate"])
            record = record | {name: record.get(name) or value for name, value in found.items()}
    except InputError as error:
        notes.append(str(error))
    return ExposureFiles(folder, record, products, preview, "; ".join(notes))


def _is_other(recorded, date):
    """Return whether a record or preview is known to be of another product than the one in the folder."""
    return bool(recorded) and bool(date) and recorded != date


@dataclass(frozen=True)
class Sides:
    """The longest side of images in a page, pixels; larger ones are averaged over square blocks.

    Attributes
    ----------
    images, quicklooks : int
    """

    images: int = _SIDES[0]
    quicklooks: int = _SIDES[0]


def choose_sides(folder, records):
    """Choose the longest sides of images, so that a page has at most 300 kB for each of many exposures.

    Parameters
    ----------
    folder : Path
    records : iterable of dict

    Returns
    -------
    Sides
        640 pixels or fewer. Quick-looks are averaged before images of exposures, of which the tiles have the full
        resolution.
    """
    images, sets = [], {}
    for record in records:
        shape = record.get("shape")
        is_known = isinstance(shape, list) and len(shape) == 4
        ny, nx = shape[-2:] if is_known else (_SIDES[0], _SIDES[0])
        stored = preview_path(folder, Path(record["exposure"]).name)
        n_bytes = stored.stat().st_size * 4 / 3 if stored.is_file() else 0
        # a small file is of an older version, without images
        images.append((max(n_bytes, _LEAST_BYTES_PER_PIXEL * nx * ny), max(nx, ny, 1)))
        sets.setdefault(setting_of(record), []).append((_BYTES_OF_QUICKLOOKS * nx * ny, max(nx, ny, 1)))
    quicklooks = [group[0] for setting, group in sets.items() if setting is not None and len(group) > 1]
    allowed = max(LEAST_BYTES, BYTES_PER_EXPOSURE * len(images)) - _BYTES_OF_TABLES * len(images)

    def total(pairs, longest):
        return sum(n_bytes / binning_of((side,), longest) ** 2 for n_bytes, side in pairs)

    choices = [Sides(one, other) for one in _SIDES for other in _SIDES if other <= one]
    for sides in choices:
        if total(images, sides.images) + total(quicklooks, sides.quicklooks) <= allowed:
            break
    return sides
