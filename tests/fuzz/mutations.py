"""Random damage of an exposure's file, defined by a number: the same number gives the same damage."""

import bz2
import gzip
import lzma
import os
import socket
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

BLOCK, CARD = 2880, 80

#: keywords that stage 1, CRDS or the readers use; half of the drawn cards are of these
KEYWORDS = (
    "INSTRUME", "DETECTOR", "EXP_TYPE", "READPATT", "SUBARRAY", "FILTER", "PUPIL", "CORONMSK", "TARGNAME", "DATE-OBS",
    "TIME-OBS", "EXPSTART", "NINTS", "NGROUPS", "NFRAMES", "GROUPGAP", "FRMDIVSR", "TFRAME", "TGROUP", "INTSTART",
    "INTEND", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2", "FASTAXIS", "SLOWAXIS", "NOUTPUTS", "ZEROFRAM",
    "NSAMPLES", "DRPFRMS1", "GAINFACT", "NSPRSTRP", "TSOVISIT", "DATAMODL", "TELESCOP", "FILENAME", "CHANNEL", "MODULE",
)  # fmt: skip
#: keywords that describe how an extension is stored
STRUCTURE = (
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "NAXIS4", "PCOUNT", "GCOUNT", "BSCALE",
    "BZERO", "EXTNAME", "EXTVER", "TFIELDS", "TFORM1", "TTYPE1", "TTYPE2", "EXTEND", "BLANK", "ZIMAGE",
)  # fmt: skip
#: formats of a value in a card
VALUES = (
    "0", "1", "2", "3", "5", "-1", "-7", "99", "4000", "65536", "1000000000", "99999999999999999999", "0.0", "1.5",
    "-2.5",
    "1E30", "1E999", "1E-300", "NaN", "nan", "inf", "T", "F", "", "'text'", "''", "'N/A'", "'T'", "5 6", "1_0", "(1,2)",
    "'open", "'a'b'", "'x\x07y'", "'x\ny'", "'\u00e9'", "'" + "long" * 16 + "'",
)  # fmt: skip


@dataclass
class Mutation:
    """A damaged file: its path, the damage, and the expected result: 'same', 'refused' or anything."""

    path: Path
    what: str
    expect: str = ""


class _Mutator:
    def __init__(self, number, source, folder):
        self.rng = np.random.default_rng([number, 18])
        self.source, self.folder, self.number = source, folder, number
        self.content = bytearray(source.read_bytes())
        self.name = f"jw01386{900 + number % 100:03d}001_02101_{number:05d}_{source.stem.split('_')[-2]}_uncal.fits"
        with fits.open(source) as hdus:
            self.parts = {hdu.name: hdu.fileinfo() for hdu in hdus}

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def write(self, what, expect="", content=None, name=None):
        path = self.folder / (name or self.name)
        path.write_bytes(bytes(self.content if content is None else content))
        return Mutation(path, what, expect)

    # -------------------------------------------------------------------------------------------------- kinds of damage

    def flip_bits(self):
        """Flip bits of a header or of data."""
        name = self.pick(list(self.parts))
        place = self.parts[name]
        header = bool(self.rng.integers(2)) or not place["datSpan"]
        low = place["hdrLoc"] if header else place["datLoc"]
        high = place["datLoc"] if header else place["datLoc"] + place["datSpan"]
        flipped = []
        for _ in range(int(self.pick([1, 1, 2, 8]))):
            at, bit = int(self.rng.integers(low, high)), int(self.rng.integers(8))
            self.content[at] ^= 1 << bit
            flipped.append(f"{at}.{bit}")
        return self.write(f"bits {', '.join(flipped)} of the {'header' if header else 'data'} of {name}")

    def _cards(self, name):
        place = self.parts[name]
        return [
            (at, bytes(self.content[at : at + 8]).decode("latin1").strip())
            for at in range(place["hdrLoc"], place["datLoc"], CARD)
        ]

    def change_card(self):
        """Change the value of a keyword, remove it, or duplicate it."""
        kind = self.pick(["stage", "stage", "structure", "any"])
        name = "PRIMARY" if kind == "stage" else self.pick(list(self.parts))
        cards = [(at, word) for at, word in self._cards(name) if word]
        keywords = {"stage": KEYWORDS, "structure": STRUCTURE}.get(kind)
        chosen = [one for one in cards if keywords is None or one[1] in keywords]
        at, keyword = self.pick(chosen)
        way = self.pick(["value"] * 6 + ["missing", "twice", "new"])
        value = self.pick(VALUES)
        card = f"{keyword:8}= {value if value.startswith(chr(39)) else value.rjust(20)}".ljust(CARD)[:CARD].encode(
            "latin1"
        )
        if way == "missing":
            self.content[at : at + CARD] = b" " * CARD
        elif way == "value":
            self.content[at : at + CARD] = card
        else:
            if way == "new":
                keyword = self.pick(KEYWORDS + ("DATASUM", "CHECKSUM", "NEXTEND"))
                card = f"{keyword:8}".encode() + card[8:]
            end = next(place for place, word in self._cards(name) if word == "END")
            if end + 2 * CARD > self.parts[name]["datLoc"]:
                return self.flip_bits()
            self.content[end : end + 2 * CARD] = card + b"END".ljust(CARD)
        return self.write(f"card {keyword} of {name}: {way} {'' if way == 'missing' else value!r}")

    def change_extension(self):
        """Remove, duplicate or move extensions, or change their type or shape."""
        path = self.folder / self.name
        with fits.open(self.source) as hdus:
            index = int(self.rng.integers(1, len(hdus)))
            hdu, name = hdus[index], hdus[index].name
            way = self.pick(["removed", "doubled", "moved", "kind", "shape", "columns", "renamed"])
            if way == "removed":
                del hdus[index]
            elif way == "doubled":
                hdus.append(hdu.copy())
            elif way == "moved":
                hdus.append(hdus.pop(index))
            elif way == "renamed":
                hdu.name = self.pick(["OTHER", "SCI", "ZEROFRAME", "ASDF", "PIXELDQ", "GROUPDQ", "INT_TIMES"])
                name += f" to {hdu.name}"
            elif way == "kind":
                hdus[index] = (
                    fits.BinTableHDU(np.zeros(3, [("a", "i4"), ("b", "f8")]), name=name)
                    if isinstance(hdu, fits.ImageHDU)
                    else fits.ImageHDU(np.zeros((4, 5), np.float32), name=name)
                )
            elif isinstance(hdu, fits.ImageHDU):
                data = hdu.data
                shapes = [data[0], data[..., :-1], data[..., :-1, :], data[:1], data[None], data.reshape(-1), data[:0]]
                number = int(self.rng.integers(len(shapes)))
                hdus[index] = fits.ImageHDU(shapes[number], name=name)
                way += f" {shapes[number].shape}"
            elif way == "columns" and len(hdu.columns) > 1:
                lost = int(self.rng.integers(len(hdu.columns)))
                columns = [column for number, column in enumerate(hdu.columns) if number != lost]
                hdus[index] = fits.BinTableHDU.from_columns(columns, name=name)
            else:
                hdu.data = hdu.data[:-1]
            hdus.writeto(path, output_verify="ignore")
        return Mutation(path, f"extension {name}: {way}")

    def add_flags(self):
        """Add GROUPDQ, PIXELDQ or a ZEROFRAME of right or wrong shape and type."""
        path = self.folder / self.name
        with fits.open(self.source) as hdus:
            nints, ngroups, ny, nx = hdus["SCI"].shape
            name = self.pick(["GROUPDQ", "PIXELDQ", "ZEROFRAME", "REFOUT", "ERR"])
            shape = self.pick([(nints, ngroups, ny, nx), (ny, nx), (ny,), (nints, ny, nx), (ny + 1, nx)])
            dtype = self.pick([np.uint8, np.uint32, np.float32, np.int16])
            data = (self.rng.random(shape) < 0.01).astype(dtype)
            hdus.insert(2, fits.ImageHDU(data, name=name))
            hdus.writeto(path)
        return Mutation(path, f"new {name} {shape} {np.dtype(dtype)}")

    def change_length(self):
        """Truncate the file, or extend it."""
        size = len(self.content)
        ends = [place["hdrLoc"] for place in self.parts.values()] + [place["datLoc"] for place in self.parts.values()]
        way = self.pick(
            ["cut", "cut", "at an edge", "last bytes", "blank", "zeros", "garbage", "twice", "a short header"]
        )
        if way in ("cut", "at an edge", "last bytes"):
            end = {
                "cut": self.rng.integers(size),
                "at an edge": self.pick(ends),
                "last bytes": size - self.pick([1, 80]),
            }
            end = int(end[way])
            return self.write(f"cut at {end} of {size}", "refused", self.content[:end])
        tails = {
            "blank": b" " * 100, "zeros": bytes(int(self.rng.integers(1, 9000))), "garbage": self.rng.bytes(500),
            "twice": self.content, "a short header": b"XTENSION= 'IMAGE   '",
        }  # fmt: skip
        return self.write(f"tail: {way}", "same" if way in ("blank", "zeros") else "refused", self.content + tails[way])

    def compress(self):
        """Compress the file, and damage the result."""
        kind = self.pick(["gz", "gz", "bz2", "xz", "zip"])
        packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
        if kind == "zip":
            path = self.folder / self.name
            with zipfile.ZipFile(path, "w") as archive:
                archive.write(self.source, self.source.name)
            return Mutation(path, "zip", "refused")
        content = bytearray(packed[kind](bytes(self.content)))
        way, name = self.pick(["whole", "cut", "flipped", "tail"]), self.name + self.pick(["", ".gz"])
        if way == "cut":
            content = content[: int(self.rng.integers(8, len(content)))]
        elif way == "flipped":
            content[int(self.rng.integers(12, len(content)))] ^= 1 << int(self.rng.integers(8))
        elif way == "tail":
            content += self.rng.bytes(100)
        # gzip's header has unused fields, and bytes after the end of xz and bzip2 are not data
        expect = {"whole": "same", "cut": "refused"}.get(way, "refused" if kind == "gz" and way == "flipped" else "")
        return self.write(f"{kind} {way}", expect, content, name)

    def sum_up(self):
        """Write checksums, and change data or headers afterwards."""
        path = self.folder / self.name
        with fits.open(self.source) as hdus:
            hdus.writeto(path, checksum=True)
        with fits.open(path) as hdus:
            places = {hdu.name: hdu.fileinfo() for hdu in hdus if hdu.fileinfo()["datSpan"]}
        content, way = bytearray(path.read_bytes()), self.pick(["whole", "data", "header", "sum"])
        name = self.pick(list(places))
        place = places[name]
        if way == "data":
            content[int(self.rng.integers(place["datLoc"], place["datLoc"] + place["datSpan"]))] ^= 4
        elif way == "header":
            at = content.index(b"TARGNAME= '") + 11
            content[at] ^= 1
        elif way == "sum":
            at = content.index(b"DATASUM = '", place["hdrLoc"]) + 11
            content[at] ^= 1
        path.write_bytes(content)
        expect = {"whole": "same", "header": "same"}.get(way, "refused")
        return Mutation(path, f"sums: {way} of {name}", expect)

    def rename(self):
        """Give the file an unusual name."""
        name = self.pick(
            ["Stern é_uncal.fits", "a\nb_uncal.fits", "with blank_uncal.fits", "x.fits", "it's [1]_uncal.fits",
             "tab\t_uncal.fits", "\udcff_uncal.fits", "x_uncal.FITS", "x_uncal.fits.gz", "\u661f_uncal.fits"]
        )  # fmt: skip
        is_usual = name.isascii() and name.isprintable()
        name = f"{self.number} {name}"
        return self.write(f"name {name!r}", "same" if is_usual else "refused", name=name)

    def replace(self):
        """Replace the file by something that is not a regular file."""
        path = self.folder / self.name
        kind = self.pick(["fifo", "zero", "socket", "folder", "dangling", "empty", "text", "loop"])
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "socket":
            here = os.getcwd()
            os.chdir(self.folder)  # names of sockets are short
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(path.name)
            os.chdir(here)
        elif kind == "folder":
            path.mkdir()
        elif kind in ("dangling", "loop"):
            path.symlink_to(path.name if kind == "loop" else "nowhere")
        else:
            path.write_bytes(b"" if kind == "empty" else b"no exposure\n" * 500)
        return Mutation(path, f"not a file: {kind}", "refused")


_WAYS = (
    ["flip_bits"] * 5 + ["change_card"] * 12 + ["change_extension"] * 5 + ["add_flags"] * 2
    + ["change_length"] * 3 + ["compress"] * 3 + ["sum_up"] * 2 + ["rename", "replace"]
)  # fmt: skip


def mutate(number, sources, folder):
    """Damage a copy of one of the files.

    Parameters
    ----------
    number : int
        Determines everything.
    sources : list of Path
    folder : Path
        Folder for the damaged file.

    Returns
    -------
    source : Path
    mutation : Mutation
    """
    source = sources[number % len(sources)]
    mutator = _Mutator(number, source, folder)
    return source, getattr(mutator, mutator.pick(_WAYS))()
