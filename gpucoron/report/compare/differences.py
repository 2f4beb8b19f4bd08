"""What differs between two reductions: frozen dataclasses, from single arrays to whole folders."""

from dataclasses import dataclass, field, fields
from typing import Any

from gpucoron.interactive import Shown, table

#: groups of keywords that differ between any two runs: they are shown, but no difference
NOTES = ("versions",)


@dataclass(frozen=True)
class ArrayDifference:
    """What changed in one array of a product.

    Attributes
    ----------
    name : str
        SCI, ERR, VAR_POISSON or VAR_RNOISE.
    unit : str
    n_values, n_different : int
        Number of values, and of those that differ by more than the tolerance or are NaN in one product only.
    n_nan_gained, n_nan_lost : int
        Values that are NaN only in the second product, and only in the first.
    largest : float
        Largest absolute difference of two numbers.
    where : tuple of int
        Its place: x, y, and the integration in a cube, counted from 0; empty without a difference.
    largest_in_err : float or None
        Largest difference in units of ERR of the first product, for SCI and ERR; None for others.
    median, scatter : float
        Median of the differences ``second - first`` that exceed the tolerance, and their robust standard deviation.
    n_sampled : int
        Number of differences that the median and the scatter were computed from; all of them, unless there are many.
    """

    name: str
    unit: str
    n_values: int
    n_different: int = 0
    n_nan_gained: int = 0
    n_nan_lost: int = 0
    largest: float = 0.0
    where: tuple = ()
    largest_in_err: float | None = None
    median: float = 0.0
    scatter: float = 0.0
    n_sampled: int = 0

    @property
    def share(self):
        """Fraction of the values that differ."""
        return self.n_different / self.n_values if self.n_values else 0.0


@dataclass(frozen=True)
class FlagDifference:
    """What changed in the DQ flags: numbers of pixels that gained or lost each flag, by name."""

    n_values: int
    n_different: int
    gained: dict
    lost: dict


@dataclass(frozen=True)
class KeywordDifference:
    """A keyword, a parameter or a reference that differs; None where a product does not have it.

    ``group`` is 'versions', 'context', 'references', 'steps', 'parameters' or 'other'.
    """

    group: str
    name: str
    first: Any
    second: Any


@dataclass(frozen=True)
class PixelChange:
    """One of the pixels with the largest changes; ``integration`` is None in an image."""

    x: int
    y: int
    integration: int | None
    first: float
    second: float
    in_err: float
    gained: tuple
    lost: tuple


@dataclass(frozen=True, eq=False, repr=False)
class Maps(Shown):
    """Maps of the changes of a product, each (ny, nx).

    In a cube, ``science`` and ``in_err`` are those of the integration in which the pixel changed most, and ``changed``
    combines all integrations.

    Attributes
    ----------
    science : float32
        ``second - first`` of SCI; 0 where it did not change, NaN where either is NaN.
    in_err : float32
        The same in units of ERR of the first product.
    changed : uint8
        Bits: 1 gained flags, 2 lost flags, 4 became NaN, 8 is no longer NaN.
    """

    science: Any
    in_err: Any
    changed: Any


@dataclass(frozen=True, repr=False)
class PairComparison(Shown):
    """What changed between two products of the same name.

    Attributes
    ----------
    name, first, second : str
        The product, and the paths of both files.
    shape : tuple of int
    arrays : tuple of ArrayDifference
    flags : FlagDifference or None
        None if either file has no DQ.
    keywords : tuple of KeywordDifference
    structure : tuple of str
        Differences between the extensions: missing ones, other shapes, other tables.
    integrations : tuple of int
        The integrations of a cube with differences in any array or flag, counted from 0.
    pixels : tuple of PixelChange
        The largest changes, the largest first.
    maps : Maps or None
        None if the shapes differ, nothing changed, or none were asked for.
    """

    name: str
    first: str
    second: str
    shape: tuple
    arrays: tuple = ()
    flags: FlagDifference | None = None
    keywords: tuple = ()
    structure: tuple = ()
    integrations: tuple = ()
    pixels: tuple = ()
    maps: Maps | None = field(default=None, repr=False, compare=False)

    def _summary(self):
        return f"{self.name}: {self._state()}"

    def _state(self):
        found = [("data differ", self.data_differ), ("headers differ", self.headers_differ)]
        return ", ".join(words for words, differs in found if differs) or "no difference"

    @property
    def data_differ(self):
        """Whether values, flags or extensions differ."""
        has_flags = self.flags is not None and self.flags.n_different > 0
        return bool(self.structure) or has_flags or any(array.n_different for array in self.arrays)

    @property
    def headers_differ(self):
        """Whether keywords, parameters or references differ, except for versions of software."""
        return any(one.group not in NOTES for one in self.keywords)

    @property
    def differs(self):
        """Whether anything differs, except for versions of software."""
        return self.data_differ or self.headers_differ


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Two reductions, product by product.

    Attributes
    ----------
    first, second : str
        The folders or files.
    tolerance, rtol : float
        Differences up to ``tolerance + rtol * max(abs(first), abs(second))`` do not count.
    pairs : tuple of PairComparison
    only_first, only_second : tuple of str
        Products without a partner.
    """

    first: str
    second: str
    tolerance: float
    rtol: float
    pairs: tuple
    only_first: tuple = ()
    only_second: tuple = ()

    def _summary(self):
        n_alone = len(self.only_first) + len(self.only_second)
        counts = f"{sum(pair.differs for pair in self.pairs)} of {len(self.pairs)} products differ"
        return f"{self.first} and {self.second}: {counts}" + (f", {n_alone} without a partner" if n_alone else "")

    def _repr_html_(self):
        rows = [(pair.name, pair._state()) for pair in self.pairs]
        rows += [(name, f"only in {self.first}") for name in self.only_first]
        rows += [(name, f"only in {self.second}") for name in self.only_second]
        return table(f"Comparison {self._summary()}", ("product", "what changed"), rows)

    @property
    def differs(self):
        """Whether anything differs: values, flags, extensions, headers, or products without a partner."""
        return self.data_differ or any(pair.differs for pair in self.pairs)

    @property
    def data_differ(self):
        """Whether values, flags or extensions differ, or a product has no partner; headers are ignored."""
        return bool(self.only_first or self.only_second) or any(pair.data_differ for pair in self.pairs)

    def as_text(self):
        """Return the comparison as text for a terminal."""
        from gpucoron.report.compare.text import as_text

        return as_text(self)

    def as_json(self):
        """Return the comparison as types of JSON, without maps; NaN and infinity become texts."""
        return {**_as_json(self), "differs": self.differs, "data_differ": self.data_differ}


def _as_json(value):
    if isinstance(value, Maps):
        return None
    if isinstance(value, (Comparison, PairComparison, ArrayDifference, FlagDifference, KeywordDifference, PixelChange)):
        content = {one.name: _as_json(getattr(value, one.name)) for one in fields(value) if one.name != "maps"}
        if isinstance(value, PairComparison):
            content["differs"] = value.differs
        return content
    if isinstance(value, dict):
        return {str(name): _as_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
