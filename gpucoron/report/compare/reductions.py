"""Compare the products of two reductions, integration by integration."""

import math
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from gpucoron.errors import InputError, ParameterError
from gpucoron.files import AnyPath, first_line
from gpucoron.interactive import public
from gpucoron.io.fits_layout import read_layout
from gpucoron.report.compare.differences import Comparison, PairComparison
from gpucoron.report.compare.headers import compare_headers
from gpucoron.report.compare.measure import ArrayMeter, FlagMeter, MapMaker, are_identical, find_changed

#: ends of the names of the products in a folder that are compared
KINDS = ("_rate.fits", "_rateints.fits")
#: arrays that are compared, and whether they have the unit of ERR
_ARRAYS = {"SCI": True, "ERR": True, "VAR_POISSON": False, "VAR_RNOISE": False}
#: extensions whose content is metadata, or differs between any two files
_LEFT_OUT = ("PRIMARY", "ASDF", "DQ", *_ARRAYS)


@public
def compare_reductions(
    first: AnyPath, second: AnyPath, *, tolerance: float = 0.0, rtol: float = 0.0, maps: bool = True
) -> Comparison:
    """Compare two reductions product by product.

    Parameters
    ----------
    first, second : str or Path
        Two folders, two products, or a product and the folder with the other one. jwst's own products work too.
    tolerance : float
        Differences of values up to ``tolerance + rtol * max(abs(first), abs(second))`` do not count; in the unit of
        the array.
    rtol : float
        See ``tolerance``; it also applies to numbers in headers. The default of both is 0: every difference counts.
    maps : bool
        Keep the maps of changed products, for a picture or a page.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        A path does not exist, there are no products, or a product is damaged.
    ParameterError
        A tolerance is negative or not a number.
    """
    for name, value in (("tolerance", tolerance), ("rtol", rtol)):
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            msg = f"{name}: expected a number of at least 0, got {value!r}"
            raise ParameterError(msg)
    first, second = Path(first), Path(second)
    pairs, only_first, only_second = find_pairs(first, second)
    compared = tuple(compare_products(*pair, tolerance=tolerance, rtol=rtol, maps=maps) for pair in pairs)
    return Comparison(str(first), str(second), tolerance, rtol, compared, only_first, only_second)


def find_pairs(first, second):
    """Find the products with the same name.

    Returns
    -------
    pairs : list of (Path, Path)
    only_first, only_second : tuple of str
        Names of products without a partner.

    Raises
    ------
    InputError
        A path does not exist, or there are no products.
    """
    for path in (first, second):
        if not path.exists():
            msg = f"{path}: no such file or folder; give two folders of products, or two products"
            raise InputError(msg)
    if not first.is_dir() and not second.is_dir():
        return [(first, second)], (), ()
    if not first.is_dir() or not second.is_dir():
        file, folder = (second, first) if first.is_dir() else (first, second)
        partner = folder / file.name
        if not partner.exists():
            msg = f"{folder}: has no {file.name}, so that there is nothing to compare {file} with"
            raise InputError(msg)
        return [(partner, file) if first.is_dir() else (file, partner)], (), ()
    names = [_products_in(first), _products_in(second)]
    common = sorted(set(names[0]) & set(names[1]))
    only = [tuple(sorted(set(names[one]) - set(common))) for one in (0, 1)]
    return [(first / name, second / name) for name in common], *only


def _products_in(folder):
    names = [path.name for path in folder.iterdir() if path.name.endswith(KINDS) and not path.name.startswith(".")]
    if not names:
        msg = f"{folder}: no *{' or *'.join(KINDS)} in this folder; give the folder with the products"
        raise InputError(msg)
    return names


def compare_products(first, second, *, tolerance=0.0, rtol=0.0, maps=True):
    """Compare two products; see `compare_reductions`.

    Returns
    -------
    PairComparison
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(_Product(path)) for path in (first, second)]
        structure = [*_compare_structure(*opened)]
        keywords = compare_headers(*(product.headers for product in opened), rtol=rtol)
        pair = {"name": second.name, "first": str(first), "second": str(second), "keywords": keywords}
        shapes = [product.shape for product in opened]
        if shapes[0] != shapes[1]:
            return PairComparison(**pair, shape=shapes[0], structure=tuple(structure))
        measured = _compare_planes(*opened, tolerance, rtol, maps)
        return PairComparison(**pair, shape=shapes[0], structure=tuple(structure), **measured)


def _compare_planes(first, second, tolerance, rtol, with_maps):
    """Compare the arrays of two products of the same shape, one integration after another."""
    names = [name for name in _ARRAYS if first.has(name) and second.has(name)]
    meters = {name: ArrayMeter(name, first.unit(name)) for name in names}
    flags = FlagMeter() if first.has("DQ") and second.has("DQ") else None
    maker, integrations = MapMaker(first.shape[-2:]), []
    n_planes = first.shape[0] if len(first.shape) == 3 else 1
    for number in range(n_planes):
        integration = number if len(first.shape) == 3 else None
        err = first.plane("ERR", number) if first.has("ERR") else np.full(first.shape[-2:], np.nan)
        is_changed, science = False, None
        for name, meter in meters.items():
            planes = first.plane(name, number), second.plane(name, number)
            if are_identical(*planes):  # most planes are, and comparing bits is fast
                meter.add_unchanged(planes[0].size)
                changes = np.zeros(planes[0].shape, bool), np.zeros(planes[0].shape)
            else:
                changes = find_changed(*planes, tolerance, rtol)
                meter.add(*planes, *changes, err if _ARRAYS[name] else None, integration)
            is_changed = is_changed or bool(changes[0].any())
            if name == "SCI":
                science = (*planes, *changes)
        bits = (np.zeros(first.shape[-2:], np.uint32),) * 2
        if flags is not None:
            bits = flags.add(first.plane("DQ", number), second.plane("DQ", number))
        are_flags_changed = bool(bits[0].any() or bits[1].any())
        if (is_changed or are_flags_changed) and integration is not None:
            integrations.append(integration)
        if science[2].any() or are_flags_changed:
            maker.add(*science, err, *bits, integration)
        else:
            maker.add_unchanged(science[0])
    results = {
        "arrays": tuple(meter.result() for meter in meters.values()),
        "flags": None if flags is None else flags.result(),
        "integrations": tuple(integrations),
        "pixels": maker.pixels(),
    }
    has_changed = any(array.n_different for array in results["arrays"])
    has_changed = has_changed or (flags is not None and results["flags"].n_different > 0)
    return results | {"maps": maker.maps() if with_maps and has_changed else None}


def _compare_structure(first, second):
    """Yield sentences about extensions that differ."""
    names = [first.names, second.names]
    for one, other, product in ((names[0], names[1], second), (names[1], names[0], first)):
        yield from (f"{product.path} has no extension {name}" for name in one if name not in other)
    for name in [name for name in names[0] if name in names[1]]:
        parts = first.part(name), second.part(name)
        if name in _ARRAYS or name == "DQ":
            if parts[0].shape != parts[1].shape:
                sizes = [" x ".join(map(str, part.shape)) for part in parts]
                yield f"{name} has the shape {sizes[0]} in the first product, {sizes[1]} in the second"
        elif name not in _LEFT_OUT and first.content(name) != second.content(name):
            yield f"the extension {name} differs"


class _Product:
    """One open product; its arrays are read one integration at a time."""

    def __init__(self, path):
        self.path = path
        self._layout = read_layout(path, strict=False)
        science = self._layout.find("SCI")
        if science is None or len(science.shape) not in (2, 3):
            axes = "no SCI extension" if science is None else f"SCI with {len(science.shape)} axes"
            msg = f"{path}: {axes}; give *_rate.fits or *_rateints.fits"
            raise InputError(msg)
        self.shape = science.shape
        self._hdus = None

    def __enter__(self):
        from astropy.io import fits

        self._hdus = fits.open(self.path, memmap=False)
        return self

    def __exit__(self, *error):
        self._hdus.close()

    @property
    def names(self):
        """Names of the extensions, without the primary one."""
        return [part.name for part in self._layout.parts if part.number]

    @property
    def headers(self):
        """The primary header, and that of SCI."""
        return self._hdus[0].header, self._hdus["SCI"].header

    def part(self, name):
        return self._layout.find(name)

    def has(self, name):
        """Whether it has an array of the shape of SCI."""
        part = self.part(name)
        return part is not None and part.shape == self.shape

    def unit(self, name):
        """Return the unit of an array; '' if the header has none."""
        return str(self._hdus[name].header.get("BUNIT", ""))

    def plane(self, name, number):
        """Return an integration of an array, (ny, nx); of an image, all of it."""
        with self._reading(name):
            section = self._hdus[name].section
            plane = section[number] if len(self.shape) == 3 else section[:]
        return plane.astype(np.uint32) if name == "DQ" else plane

    def content(self, name):
        """Return the bytes of an extension, as its header describes them."""
        with self._reading(name):
            data = self._hdus[name].data
        return b"" if data is None else data.tobytes()

    @contextmanager
    def _reading(self, name):
        """Convert an error of the block, which reads an extension, into an InputError."""
        try:
            yield
        except Exception as error:  # a damaged file can raise almost anything
            msg = f"{self.path}: {name} cannot be read ({first_line(error)}); make the product again"
            raise InputError(msg) from error
