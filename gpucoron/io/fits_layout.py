"""A FITS file by its own bytes: where its extensions lie, whether it is whole, and whether its check sums are right.

This is read before anything else looks at a file, so that no number in a damaged header decides how much is allocated
or read: a header that promises more than the file holds is refused, and so is what lies behind the last extension.
"""

import bz2
import gzip
import lzma
import re
import stat
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite, prod
from pathlib import Path

import numpy as np

from gpucoron.errors import InputError
from gpucoron.files import first_line

_BLOCK, _CARD = 2880, 80
#: longer headers are damaged ones: those of JWST's exposures have about 400 cards
_MOST_BLOCKS = 2000
_PIECE = 2**20
_BITPIX = (8, 16, 32, 64, -32, -64)
_PRINTABLE = bytes(range(0x20, 0x7F))
#: first bytes -> (how it was compressed, its opener)
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
#: the most that a tile-compressed image may grow by: gzip's limit
_MOST_GROWTH = 1032
#: bytes of a column by the letter of its TFORM; X, of bits, is its own case
_WIDTHS = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "K": 8, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_TFORM = re.compile(r"(\d*)([LXBIJKAEDCMPQ]).*")
#: what may stand in a card behind the equals sign: a value or none, and a comment
_VALUE = re.compile(
    r" *(?:'(?P<text>(?:[^']|'')*)'|(?P<word>[TF])|(?P<whole>[+-]?\d+)|"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][+-]?\d+)?)|(?P<complex>\([^()/]*\)))? *(?:/.*)?"
)
_KIND = {"IMAGE": "image", "BINTABLE": "table", "TABLE": "text table"}
#: keywords whose cards hold no value, whatever they look like
_COMMENTARY = ("COMMENT", "HISTORY", "")
_AGAIN = "download it again"


@dataclass(frozen=True)
class Part:
    """One extension of a FITS file, the primary one included.

    Attributes
    ----------
    number : int
        From 0.
    cards : dict
        Keyword -> the text of its value, of its first card.
    text : bytes
        The header, with its padding.
    start, size, span : int
        Where the data begin, and their bytes without and with padding.
    kind : {'image', 'table', 'text table', 'compressed image', ...}
    shape : tuple of int
        As NumPy counts; of a compressed image, that of the image.
    in_plain_file : bool
        The data lie in the file as they are.
    repeated : tuple of str
        Keywords with several cards, of different values.
    found_sum : int or None
        The FITS check sum of the data, where it was made.
    """

    number: int
    cards: dict
    text: bytes
    start: int
    size: int
    kind: str
    shape: tuple
    in_plain_file: bool
    repeated: tuple = ()
    found_sum: int | None = None

    @property
    def span(self):
        return -(-self.size // _BLOCK) * _BLOCK

    @property
    def name(self):
        """EXTNAME in capitals; PRIMARY for the first."""
        return str(self.value("EXTNAME") or "").strip().upper() or ("PRIMARY" if self.number == 0 else "")

    @property
    def version(self):
        """EXTVER."""
        return self.value("EXTVER", 1)

    def value(self, keyword, default=None):
        """Give the value of a card: text, bool, int, float; None of a card without a value."""
        return _parse(self.cards[keyword]) if keyword in self.cards else default

    @property
    def values(self):
        """All cards: keyword -> value."""
        return {keyword: _parse(text) for keyword, text in self.cards.items()}

    @cached_property
    def holds_counts(self):
        """Whether it holds unsigned 16-bit words, as they are, at a known place of the file."""
        is_unsigned = self.value("BITPIX") == 16 and self.value("BZERO") == 32768 and self.value("BSCALE", 1) == 1
        return is_unsigned and self.kind == "image" and self.in_plain_file and "BLANK" not in self.cards

    @property
    def columns(self):
        """Names of a table's columns, in capitals."""
        return [str(self.value(f"TTYPE{n}", "")).strip().upper() for n in range(1, self.value("TFIELDS", 0) + 1)]


@dataclass
class Layout:
    """The extensions of a file, as `read_layout` found them."""

    path: object
    parts: list
    compression: str | None

    def find(self, name):
        """Give the first extension of a name and EXTVER 1, as jwst's readers do; None if there is none."""
        return next((part for part in self.parts if part.name == name and part.version == 1), None)


class CheckSum:
    """The sum of 32-bit words by which FITS tells damaged data, of bytes that come in pieces."""

    def __init__(self):
        self._total, self._rest = 0, b""

    def add(self, data):
        """Add a contiguous piece: bytes, or an array of them."""
        view = memoryview(data).cast("B")
        if self._rest:
            view = memoryview(self._rest + bytes(view))
        whole = len(view) // 4 * 4
        self._rest = bytes(view[whole:])
        # np.add.reduce swaps the bytes as it goes: 2 to 3 GB/s
        self._total += int(np.add.reduce(np.frombuffer(view[:whole], ">u4"), dtype=np.uint64))

    @property
    def value(self):
        """The sum with its carries carried around, as DATASUM holds it."""
        rest = int.from_bytes(self._rest.ljust(4, b"\0"), "big") if self._rest else 0
        return _carried(self._total + rest)


def _carried(total):
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def read_layout(path, *, until="", summed=None, strict=True):
    """Find the extensions of a FITS file, and refuse a file that is not whole.

    Parameters
    ----------
    path : Path
        Plain, or compressed with gzip, bzip2 or xz: then it is decompressed to its end, which checks its own sums.
    until : str, optional
        Stop at the extension of this name; what comes after it is not looked at.
    summed : callable, optional
        ``summed(part)`` says whether the check sum of an extension's data is to be made.
    strict : bool
        False looks at what sizes and ends tell alone: for references, whose texts and padding are nobody's business.

    Returns
    -------
    Layout

    Raises
    ------
    InputError
        It is no regular file, no FITS file, ends too early, or goes on behind its last extension.
    """
    with _opened(path) as (file, compression):
        try:
            parts = list(_walk(path, file, compression, until, summed, strict))
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            msg = f"{path}: the compressed file is cut short or damaged ({first_line(error)}); {_AGAIN}"
            raise InputError(msg) from error
        except OSError as error:  # bz2 has no error of its own
            msg = f"{path}: it cannot be read to its end ({first_line(error)}); {_AGAIN}"
            raise InputError(msg) from error
    return Layout(path, parts, compression)


def is_whole(path):
    """Tell whether a FITS file is there and does not end too early."""
    try:
        read_layout(Path(path), strict=False)
    except InputError:
        return False
    return True


def check_regular(path):
    """Refuse what is no regular file.

    Raises
    ------
    InputError
        It is a folder, a pipe, a socket or a device.
    OSError
        There is nothing.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        msg = f"{path}: {'a folder; name its files' if stat.S_ISDIR(mode) else 'no regular file; name a FITS file'}"
        raise InputError(msg)


@contextmanager
def _opened(path):
    """Open a regular file, decompressed: pipes, sockets and devices have no end, and opening them may wait for ever."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            begin = file.read(8)
            file.seek(0)
            for magic, (name, opener) in _COMPRESSED.items():
                if begin.startswith(magic):
                    with opener(file) as decompressed:
                        yield decompressed, name
                    return
            if begin.startswith(b"PK\x03\x04") or begin.startswith(b"\x1f\x9d"):
                msg = f"{path}: an archive, no FITS file; unpack it (single files may be compressed with gzip)"
                raise InputError(msg)
            yield file, None
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise InputError(msg) from None
    except (OSError, ValueError) as error:  # a name may hold a zero byte
        reason = getattr(error, "strerror", None) or error
        msg = f"{path}: it cannot be opened ({reason}); check its name and its permissions"
        raise InputError(msg) from error


def _walk(path, file, compression, until, summed, strict):
    """Go through a file, extension by extension."""
    size = None if compression else path.stat().st_size
    number, place = 0, 0
    while True:
        block = file.read(_BLOCK)
        if number and not block.strip(b"\0 "):
            _check_tail(path, file, block)
            return
        if number and not strict and not block.startswith(b"XTENSION="):
            return
        part = _read_part(path, file, block, number, place, compression, strict)
        if size is not None and part.start + part.span > size:
            msg = f"{_of(path, part)}: truncated: {size} bytes where {part.start + part.span} are due; {_AGAIN}"
            raise InputError(msg)
        is_last = until and part.name == until
        if not is_last:
            part = _pass_data(path, file, part, summed is not None and summed(part), strict)
        yield part
        if is_last:
            return
        number, place = number + 1, part.start + part.span


def _check_tail(path, file, block):
    """See that nothing but zeros and blanks follows the last extension."""
    while block:
        if block.strip(b"\0 "):
            msg = f"{path}: behind its last extension the file goes on with what is no FITS; {_AGAIN}"
            raise InputError(msg)
        block = file.read(_PIECE)


def _read_part(path, file, block, number, place, compression, strict):
    owner = f"{path}: extension {number}"
    if number == 0 and not block.startswith(b"SIMPLE  ="):
        msg = f"{path}: not a FITS file{'' if block else ': it is empty'}; {_AGAIN}"
        raise InputError(msg)
    if number and not block.startswith(b"XTENSION="):
        msg = f"{owner}: no header where one is due; the file is damaged: {_AGAIN}"
        raise InputError(msg)
    text = b""
    while True:
        text += block
        if len(block) < _BLOCK or len(text) > _MOST_BLOCKS * _BLOCK:
            msg = f"{owner}: truncated: its header does not end; {_AGAIN}"
            raise InputError(msg)
        if any(block[at : at + _CARD] == b"END".ljust(_CARD) for at in range(0, _BLOCK, _CARD)):
            break
        block = file.read(_BLOCK)
    cards, repeated = _read_cards(owner, text, strict)
    xtension = _parse(cards["XTENSION"]) if number else "IMAGE"
    shape, size = _measure(owner, cards, number)
    kind = _KIND.get(str(xtension).strip(), "unknown kind")
    if kind == "table":
        if _parse(cards.get("ZIMAGE", "F")) is True:
            kind, shape = "compressed image", _shape_of_compressed(owner, cards, size)
        elif strict:
            _check_columns(owner, cards, shape)
    return Part(number, cards, text, place + len(text), size, kind, shape, compression is None, repeated)


def _read_cards(owner, text, strict):
    """Read the cards of a header: keyword -> text of the first value, and the keywords that have others, too.

    What FITS does not allow in one is refused.
    """
    cards, repeated = {}, []
    for at in range(0, len(text), _CARD):
        card = text[at : at + _CARD]
        keyword = card[:8].decode("latin1").rstrip()
        if strict and card.translate(None, _PRINTABLE):
            told = keyword if keyword.isascii() and keyword.isprintable() else "a card"
            msg = f"{owner}: {told} of its header holds characters that are no text; {_AGAIN}, or set the keyword anew"
            raise InputError(msg)
        if card == b"END".ljust(_CARD):
            if strict and text[at + _CARD :].strip():
                msg = f"{owner}: its header goes on behind its end; {_AGAIN}"
                raise InputError(msg)
            break
        if card[8:10] == b"= " and keyword not in _COMMENTARY:
            value = card[10:].decode("latin1")
            cards.setdefault(keyword, value)
            goes_on = text[at + _CARD :].startswith(b"CONTINUE")
            if strict and not goes_on and _VALUE.fullmatch(value) is None:
                msg = f"{owner}: {keyword} is {value.strip()}, no value of FITS; {_AGAIN}, or set the keyword anew"
                raise InputError(msg)
            sizes = keyword.startswith("NAXIS") or keyword in ("SIMPLE", "XTENSION", "BITPIX", "PCOUNT", "GCOUNT")
            if _parse(cards[keyword]) != _parse(value):
                repeated.append(keyword)
                if sizes:
                    msg = f"{owner}: {keyword} stands twice in its header, with two values; {_AGAIN}"
                    raise InputError(msg)
    return cards, tuple(repeated)


def _parse(text):
    """Read the value of a card; None of a card without one, the text itself of what is no value of FITS."""
    found = _VALUE.fullmatch(text)
    if found is None:
        return text
    if found["text"] is not None:
        return found["text"].replace("''", "'").rstrip()
    if found["word"] is not None:
        return found["word"] == "T"
    if found["whole"] is not None:
        return int(found["whole"])
    return float(found["number"].upper().replace("D", "E")) if found["number"] is not None else found["complex"]


def _whole(owner, cards, keyword, least=0, default=None):
    """Give a whole number from the cards that tell how large an extension is."""
    if keyword not in cards and default is not None:
        return default
    value = _parse(cards[keyword]) if keyword in cards else None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        told = "is missing" if value is None else f"is {value!r}"
        msg = f"{owner}: {keyword} {told}; its header is damaged: {_AGAIN}"
        raise InputError(msg)
    return value


def _measure(owner, cards, number):
    """Tell the shape and the bytes of an extension's data."""
    bitpix, naxis = _whole(owner, cards, "BITPIX", -64), _whole(owner, cards, "NAXIS")
    pcount = _whole(owner, cards, "PCOUNT", default=None if number else 0)
    gcount = _whole(owner, cards, "GCOUNT", 1, default=None if number else 1)
    if bitpix not in _BITPIX or naxis > 999 or gcount != 1 or _parse(cards.get("GROUPS", "F")) is True:
        msg = f"{owner}: BITPIX is {bitpix}, NAXIS {naxis}, GCOUNT {gcount}; its header is damaged: {_AGAIN}"
        raise InputError(msg)
    axes = [_whole(owner, cards, f"NAXIS{axis}") for axis in range(1, naxis + 1)]
    for keyword in ("BSCALE", "BZERO"):
        value = _parse(cards.get(keyword, "1"))
        if isinstance(value, (str, bool)) or not isfinite(value) or (keyword == "BSCALE" and value == 0):
            msg = f"{owner}: {keyword} is {value!r}, no number that scales; {_AGAIN}"
            raise InputError(msg)
    return tuple(reversed(axes)), (abs(bitpix) // 8 * (pcount + prod(axes)) if axes else 0)


def _shape_of_compressed(owner, cards, size):
    """Tell the shape of a tile-compressed image, which may not be larger than its bytes can hold."""
    axes = [_whole(owner, cards, f"ZNAXIS{axis}") for axis in range(1, _whole(owner, cards, "ZNAXIS") + 1)]
    if prod(axes) * abs(_whole(owner, cards, "ZBITPIX", -64)) // 8 > _MOST_GROWTH * size:
        msg = f"{owner}: {' x '.join(map(str, axes))} pixels cannot be in {size} bytes; {_AGAIN}"
        raise InputError(msg)
    return tuple(reversed(axes))


def _check_columns(owner, cards, shape):
    """See that the columns of a table fill its rows."""
    width = 0
    for field in range(1, _whole(owner, cards, "TFIELDS") + 1):
        found = _TFORM.fullmatch(str(_parse(cards.get(f"TFORM{field}", "''"))).strip())
        if found is None:
            msg = f"{owner}: TFORM{field} says no kind of column; its header is damaged: {_AGAIN}"
            raise InputError(msg)
        count = int(found[1] or 1)
        width += -(-count // 8) if found[2] == "X" else count * _WIDTHS[found[2]]
    if len(shape) != 2 or width != shape[1] or (width == 0 and shape[0]):
        msg = f"{owner}: its columns have {width} bytes, its rows are {shape[1:]}; its header is damaged: {_AGAIN}"
        raise InputError(msg)


def _pass_data(path, file, part, is_summed, strict):
    """Go on to the next extension, and see that the padding after the data is none of them; sum the data if asked."""
    padding, total = part.span - part.size, CheckSum() if is_summed else None
    if is_summed or not part.in_plain_file:
        left = part.size
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                msg = f"{_of(path, part)}: truncated within its data; {_AGAIN}"
                raise InputError(msg)
            left -= len(piece)
            if is_summed:
                total.add(piece)
    else:
        file.seek(part.start + part.size)
    filling = file.read(padding) if padding else b""
    if len(filling) < padding:
        msg = f"{_of(path, part)}: truncated within its data; {_AGAIN}"
        raise InputError(msg)
    if strict and filling.strip(b" " if part.kind == "text table" else b"\0"):
        msg = f"{_of(path, part)}: it holds more data than its header tells of; {_AGAIN}"
        raise InputError(msg)
    if is_summed:
        total.add(filling)
        return replace(part, found_sum=total.value)
    return part


def _of(path, part):
    return f"{path}: {part.name or f'extension {part.number}'}"


def check_sums(path, part, found):
    """Hold the check sums in an extension's header to its data.

    Parameters
    ----------
    path : Path
    part : Part
    found : int
        The sum of the data.

    Returns
    -------
    str
        What to warn of: the header was changed after its CHECKSUM was made; '' if nothing.

    Raises
    ------
    InputError
        The data are not those of which DATASUM was made.
    """
    due = part.value("DATASUM")
    if due is not None:
        is_number = isinstance(due, int) or (isinstance(due, str) and due.strip().isdecimal())
        # minus zero and zero are one number
        if not is_number or int(due) % 0xFFFFFFFF != found % 0xFFFFFFFF:
            msg = f"{_of(path, part)}: the data are damaged: DATASUM is {due}, and their sum {found}; {_AGAIN}"
            raise InputError(msg)
    if "CHECKSUM" in part.cards:
        total = CheckSum()
        total.add(part.text)
        if _carried(total.value + found) % 0xFFFFFFFF:
            return f"{_of(path, part)}: CHECKSUM does not fit its header, which was changed after it was written"
    return ""
