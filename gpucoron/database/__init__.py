"""A database of exposures as in spaceKLIP, for users without spaceKLIP.

>>> database = create_database(output_dir="reduced", input_dir="raw")
>>> gpucoron.run_obs(database)  # the tables now name the products
>>> database.write("reduced/database.ecsv")

The exposures are sorted into concatenations: tables of science exposures, PSF references, target acquisitions and
backgrounds with the same telescope, instrument, detector, filter, pupil, mask and subarray. The columns have the names
of spaceKLIP.
"""

import os
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np
from astropy.table import Table

from gpucoron.database.exposures import Selection, concatenate, find_exposures, refuse_same_products, to_integers
from gpucoron.database.tables import (
    STAGES,
    TYPES,
    make_table,
    set_cell,
    shorten,
    stack_tables,
    summarize,
    to_text,
    unstack_tables,
)
from gpucoron.errors import InputError, ParameterError
from gpucoron.files import AnyPath, Paths, first_line, write_whole
from gpucoron.interactive import public
from gpucoron.interactive import table as html_table
from gpucoron.io.observations import find_stage, read_headers
from gpucoron.parameters import refuse_unknown

__all__ = ["STAGES", "TYPES", "Database", "as_database", "create_database"]

#: columns that update_obs can change besides the file, in lower case
_CHANGES = (
    "nints", "effinttm", "xoffset", "yoffset", "crpix1", "crpix2", "maskcenx", "maskceny", "starcenx", "starceny",
    "crop_shiftx", "crop_shifty", "align_shift", "center_shift", "align_mask", "center_mask", "blurfwhm",
)  # fmt: skip
#: required columns of a concatenation -> their contents
_NEEDED = {
    "TYPE": f"the type of the exposure, one of {', '.join(TYPES)}",
    "DATAMODL": f"the stage of the file, one of {', '.join(STAGES)}; raw exposures are STAGE0",
    "FITSFILE": "the path of the file",
}


@public
def create_database(
    output_dir: AnyPath = ".",
    pid: int | None = None,
    obsids: int | Sequence[int] | None = None,
    input_dir: Paths | None = None,
    psflibpaths: Paths | None = None,
    bgpaths: Paths | None = None,
    assoc_using_targname: bool = True,
    verbose: bool = True,
    readlevel: str | int = "012",
    cr_from_siaf: bool = False,
    **selection: str,
) -> "Database":
    """Sort exposures into concatenations by their headers.

    Parameters
    ----------
    output_dir : str or Path
        Folder for the products.
    pid : int, optional
        Only exposures of this program.
    obsids : int or list of int, optional
        Only these observations.
    input_dir : str, Path, or a list of them
        A folder, files, or patterns. From a folder, but not its subfolders, all ``*.fits`` and ``*.fits.gz`` with raw
        exposures are used; files given by name may also be of stage 1 or 2. By default the folder of the program `pid`
        in ``$JWSTDOWNLOAD_OUTDIR``.
    psflibpaths : str, Path, or a list of them, optional
        The PSF references; an empty list means that there are none. By default the keyword IS_PSF decides.
    bgpaths : str, Path, or a list of them, optional
        Which of these files are backgrounds, in addition to those marked in their headers.
    assoc_using_targname : bool
        Assign an acquisition or background to the target or reference whose name its target name contains.
    verbose : bool
        Print the summary.
    readlevel : str or int
        '012', 0, 1 or 2.
    cr_from_siaf : bool
        Must be False: CRPIX is read from the header.
    **selection
        Select exposures by ``sca`` ('along'), ``filt`` ('F444W'), ``exp_type`` ('NRC_CORON'), ``vst_grp_act``
        ('02101'), ``apername`` or ``apername_pps``. ``file_type`` ('uncal.fits', 'rateints.fits') selects by a part of
        the file name, and includes files of stage 1 and 2 in folders.

    Returns
    -------
    Database

    Raises
    ------
    InputError
        A file does not exist, is damaged, lacks a required keyword or has the same product name as another one; or
        nothing was found.
    ParameterError
        An option is not supported.

    Notes
    -----
    Source of the interface and the rules: spaceKLIP 2.2, ``database.create_database``. Differences:

    - Target acquisitions belong to the concatenation of their mask, preferably of the same observation. In spaceKLIP,
      those of NIRCam form a separate concatenation, and those of MIRI's Lyot mask are an error.
    - If several target names match, the longest one is used: 'HD-12' also contains 'HD-1'.
    - BKGDTARG marks backgrounds, in addition to BG or BACK in the name of the target.
    - A background without an exposure of equal duration and number of integrations is kept, with a warning.
    - The stage of a file is determined from its content, not from its name.
    - NINTS is the number of integrations of a segment, not of the whole exposure.
    - The order of the files does not matter.
    - PIXSCALE is CDELT of the header. CWAVEL and DWAVEL are from a table, and NaN for unknown filters. MASKFILE is
      ``*_psfmask.fits`` beside the file, or 'NONE'. Nothing is downloaded.
    """
    if not isinstance(output_dir, str | os.PathLike):
        msg = f"output_dir: expected a folder, got {output_dir!r}; give the exposures as input_dir=..."
        raise ParameterError(msg)
    if str(readlevel) not in ("0", "1", "2", "012"):
        msg = f"readlevel: expected '012', 0, 1 or 2, got {readlevel!r}; for stage 3 use spaceKLIP's own Database"
        raise ParameterError(msg)
    program = to_integers("pid", pid)
    chosen = Selection(program, to_integers("obsids", obsids), selection)
    if input_dir is None:
        archive = os.environ.get("JWSTDOWNLOAD_OUTDIR")
        if not archive or len(program) != 1:
            msg = "input_dir: give the folder with the exposures, create_database(output_dir, input_dir='raw')"
            raise ParameterError(msg)
        input_dir = Path(archive) / f"{program[0]:05d}"
    database = Database(output_dir)
    database.verbose = verbose
    database._read(input_dir, psflibpaths, bgpaths, cr_from_siaf, assoc_using_targname, chosen)
    return database


class Database:
    """Concatenations of exposures, with the paths of their newest products.

    Parameters
    ----------
    output_dir : str or Path
        `gpucoron.run_obs` writes its products to a subfolder of it.
    obs : dict, optional
        Name of a concatenation -> astropy Table with at least the columns TYPE, DATAMODL and FITSFILE. The tables are
        not copied.

    Attributes
    ----------
    obs : dict
    output_dir : str
    verbose : bool
        Whether to print the summary after reading exposures.
    """

    def __init__(self, output_dir: AnyPath = ".", obs: dict[str, Any] | None = None) -> None:
        self.output_dir = os.fspath(output_dir)
        self.obs = {} if obs is None else obs
        self.verbose = True

    def __repr__(self):
        count = sum(len(table) for table in self.obs.values())
        return f"<Database: {len(self.obs)} concatenations, {count} exposures, output_dir={self.output_dir!r}>"

    def _repr_html_(self):
        parts = [html_table(repr(self)[1:-1], (), [])]
        for key, table in self.obs.items():
            shown = shorten(table)
            parts.append(html_table(key, tuple(shown.colnames), [tuple(map(str, row)) for row in shown]))
        return "\n".join(parts)

    @public
    def read_jwst_s012_data(
        self,
        datapaths: Paths,
        psflibpaths: Paths | None = None,
        bgpaths: Paths | None = None,
        cr_from_siaf: bool = False,
        assoc_using_targname: bool = True,
    ) -> None:
        """Sort files into concatenations, which replace those with the same name; see `create_database`."""
        self._read(datapaths, psflibpaths, bgpaths, cr_from_siaf, assoc_using_targname, Selection())

    def _read(self, paths, psflibpaths, bgpaths, cr_from_siaf, by_name, chosen):
        if cr_from_siaf:
            msg = "cr_from_siaf: gpucoron reads CRPIX from the header; omit it, or use spaceKLIP's own Database"
            raise ParameterError(msg)
        found = find_exposures(paths, chosen)
        library = None if psflibpaths is None else find_exposures(psflibpaths, Selection())
        found |= library or {}
        if not found:
            listed = paths if isinstance(paths, str | os.PathLike) else ", ".join(map(str, paths)) or "an empty list"
            msg = f"{listed}: found no matching exposure"
            raise InputError(msg)
        backgrounds = set() if bgpaths is None else set(find_exposures(bgpaths, Selection()))
        if backgrounds - set(found):
            unknown = sorted(backgrounds - set(found))[0]
            msg = f"bgpaths: {unknown} is not among the other files; add it to input_dir or psflibpaths as well"
            raise ParameterError(msg)
        refuse_same_products(sorted(one.path for one in found.values()))
        library = None if library is None else set(library)
        for key, typed in concatenate(found, library, backgrounds, by_name).items():
            self.obs[key] = make_table(typed)
        if self.verbose:
            self.summary()

    @public
    def update_obs(
        self,
        key: str,
        index: int,
        fitsfile: AnyPath,
        maskfile: AnyPath | None = None,
        *,
        update_pxar: bool = False,
        **changes: Any,
    ) -> None:
        """Set the new file of a row.

        This sets FITSFILE, DATAMODL (the stage, from the content of the file) and BUNIT. Text columns become wider if
        necessary.

        Parameters
        ----------
        key : str
            The concatenation.
        index : int
            The row.
        fitsfile, maskfile : str or Path
            New FITSFILE; new MASKFILE if not None.
        update_pxar : bool
            Also read PIXAR_SR from the file.
        **changes
            New values of other columns, named in lower case: nints, effinttm (s), xoffset, yoffset, crpix1,
            crpix2, maskcenx, maskceny, starcenx, starceny, crop_shiftx, crop_shifty, align_shift, center_shift,
            align_mask, center_mask, blurfwhm. None does not change a value.

        Raises
        ------
        InputError
            The file does not exist, or is not a product of stages 0 to 2.
        ParameterError
            The concatenation, row or column does not exist.
        """
        if key not in self.obs:
            refuse_unknown("concatenation", key, self.obs)
        table = self.obs[key]
        if not -len(table) <= index < len(table):
            msg = f"{key}: no row {index}; it has {len(table)} rows"
            raise ParameterError(msg)
        for name in changes:
            if name not in _CHANGES:
                refuse_unknown("column to update", name, _CHANGES)
        primary, science = read_headers(fitsfile)
        stage = find_stage(primary, science)
        if stage is None:
            msg = f"{fitsfile}: neither an exposure nor a product of stage 1 or 2; give the path of a rateints or rate"
            raise InputError(msg)
        values = {
            "DATAMODL": stage,
            "BUNIT": science.get("BUNIT"),
            "FITSFILE": os.fspath(fitsfile),
            "MASKFILE": maskfile,
        }
        values |= {"PIXAR_SR": science.get("PIXAR_SR") if update_pxar else None}
        values |= {name.upper(): value for name, value in changes.items()}
        for name, value in values.items():
            if value is not None and name in table.colnames:
                set_cell(table, name, index, value)
            elif value is not None and name.lower() in changes:
                msg = f"{key}: there is no column {name}; add it, or omit {name.lower()}"
                raise ParameterError(msg)

    def summary(self, file: TextIO | None = None) -> str:
        """Print the number of exposures of each type in each concatenation, and a row for each. Return the text.

        Parameters
        ----------
        file : text stream, optional
            Default is the standard output.
        """
        text = "\n\n".join(summarize(key, table) for key, table in self.obs.items()) or "no concatenations"
        print(text, file=file)
        return text

    @public
    def write(self, path: AnyPath) -> None:
        """Write all tables to one ECSV file, completely or not at all; an existing file is replaced.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        text = StringIO()
        stack_tables(self.obs, self.output_dir).write(text, format="ascii.ecsv")
        write_whole(path, lambda file: file.write(text.getvalue().encode(errors="surrogateescape")))

    @classmethod
    @public
    def read(cls, path: AnyPath) -> Self:
        """Read a file that `write` wrote, with the same keys, paths, types of columns and masked values.

        Raises
        ------
        InputError
            The file does not exist, or `write` did not write it.
        """
        try:
            lines = Path(path).read_bytes().decode(errors="surrogateescape").split("\n")
        except OSError as error:
            msg = f"{path}: cannot be read ({error.strerror})"
            raise InputError(msg) from None
        try:
            return cls(*unstack_tables(Table.read(lines, format="ascii.ecsv")))
        except Exception as error:  # other files can raise almost anything
            msg = f"{path}: not written by Database.write, or damaged ({first_line(error)})"
            raise InputError(msg) from error


@public
def as_database(database: Any, output_dir: AnyPath | None = None) -> Any:
    """Check that an object can be used as a database, and make a `Database` of a dict.

    Parameters
    ----------
    database : Database, spaceKLIP Database, or dict
        A dict maps names of concatenations to astropy Tables. The files of its raw rows must exist, and its
        tables are updated in place.
    output_dir : str or Path, optional
        Only for a dict; by default the current folder.

    Returns
    -------
    object
        The given database, or a new `Database` with the dict. It has ``obs``, ``output_dir`` and
        ``update_obs(key, index, path)``.

    Raises
    ------
    ParameterError
        The object is not a database, or one of its tables lacks a column or has an invalid value; the message names
        concatenation, column and row.
    """
    is_dict = isinstance(database, Mapping)
    if is_dict:
        database = Database("." if output_dir is None else output_dir, database)
    missing = [name for name in ("obs", "output_dir", "update_obs") if not hasattr(database, name)]
    if missing:
        raise ParameterError(_not_a_database(database, missing))
    if output_dir is not None and not is_dict:
        msg = f"output_dir: the database already has one, {database.output_dir}; set that instead"
        raise ParameterError(msg)
    if not isinstance(database.obs, Mapping):
        msg = f"database.obs: expected a dict of astropy Tables, got {_kind(database.obs)}"
        raise ParameterError(msg)
    if not database.obs:
        msg = (
            "the database has no concatenations; gpucoron.database.create_database(input_dir=...) makes them from files"
        )
        raise ParameterError(msg)
    for key, table in database.obs.items():
        _check_table(key, table, must_exist=is_dict)
    return database


def _not_a_database(given, missing):
    if isinstance(given, str | os.PathLike):
        return (
            f"{given}: a path is not a database; gpucoron.database.create_database(input_dir=...) makes one from "
            "exposures, Database.read(path) reads a saved one"
        )
    if isinstance(given, Table):
        return "one table is not a database; give it a name: {'my concatenation': table}"
    return (
        f"{_kind(given)} is not a database, it lacks {', '.join(missing)}; give a Database, or a dict of astropy Tables"
    )


def _kind(value):
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _check_table(key, table, must_exist):
    if not isinstance(table, Table):
        way = "Table.from_pandas(it)" if _kind(table).startswith("pandas.") else "astropy.table.Table(it)"
        msg = f"concatenation {key}: expected an astropy Table, got {_kind(table)}; convert it: {way}"
        raise ParameterError(msg)
    for name, content in _NEEDED.items():
        if name not in table.colnames:
            msg = (
                f"concatenation {key}: there is no column {name}; add it: {content}. It has {', '.join(table.colnames)}"
            )
            raise ParameterError(msg)
    for index in range(len(table)):
        row = {name: to_text(table[name][index]) for name in _NEEDED}
        for name, content in _NEEDED.items():
            known = {"TYPE": TYPES, "DATAMODL": STAGES}.get(name, (row[name],))
            if not row[name] or row[name] not in known:
                found = "masked" if np.ma.is_masked(table[name][index]) else repr(table[name][index])
                msg = f"concatenation {key}, column {name}, row {index}: {found}; expected {content}"
                raise ParameterError(msg)
        if must_exist and row["DATAMODL"] == "STAGE0" and not os.path.isfile(row["FITSFILE"]):
            msg = (
                f"concatenation {key}, column FITSFILE, row {index}: {row['FITSFILE']}: no such file; correct the path"
            )
            raise ParameterError(msg)
