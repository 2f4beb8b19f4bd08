"""The tables of a database: create, change and print them, and combine all of them in one file."""

import json
import os
from collections import Counter

import numpy as np
from astropy.table import Column, MaskedColumn, QTable, Table

from gpucoron.errors import ParameterError

#: types of rows: science target or PSF reference, and their acquisitions (TA) and backgrounds (BG)
TYPES = ("SCI", "SCI_TA", "SCI_BG", "REF", "REF_TA", "REF_BG")
STAGES = ("STAGE0", "STAGE1", "STAGE2", "STAGE3")
_FLOATS = (
    "TARG_RA", "TARG_DEC", "CWAVEL", "DWAVEL", "EXPSTART", "EFFINTTM", "XOFFSET", "YOFFSET", "PIXSCALE", "PIXAR_SR",
    "CRPIX1", "CRPIX2", "MASKCENX", "MASKCENY", "STARCENX", "STARCENY", "CROP_SHIFTX", "CROP_SHIFTY", "RA_REF",
    "DEC_REF", "ROLL_REF", "BLURFWHM",
)  # fmt: skip
_INTEGERS = ("NINTS", "NUMDTHPT")
#: column with the name of the concatenation in the common file
_KEY = "CONCATENATION"
_SHOWN = ("TYPE", "EXP_TYPE", "DATAMODL", "TARGPROP", "FILTER", "NINTS", "EFFINTTM", "ROLL_REF", "NUMDTHPT")


def make_table(typed):
    """Make the table of a concatenation.

    Parameters
    ----------
    typed : list of (str, Observation)

    Returns
    -------
    astropy Table
        Text and shifts are in object columns, as in spaceKLIP, so that cells can hold text of any length.
    """
    rows = [{"TYPE": type_, **one.row} for type_, one in typed]
    table = Table()
    for name in rows[0]:
        dtype = float if name in _FLOATS else int if name in _INTEGERS else object
        table[name] = Column(_fill([row[name] for row in rows], dtype))
    return table


def _fill(cells, dtype):
    """Make an array of cells; cells that are arrays stay single objects."""
    if np.dtype(dtype).kind != "O":
        return np.array(cells, dtype)
    array = np.empty(len(cells), object)
    for index, cell in enumerate(cells):
        array[index] = cell
    return array


def to_text(value):
    """Return the text of a cell; None if it is not text."""
    if np.ma.is_masked(value):
        return None
    if isinstance(value, bytes):
        return os.fsdecode(value)
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


def set_cell(table, name, index, value):
    """Set a cell of a table; widen its text column if necessary."""
    kind = table[name].dtype.kind
    if kind in "SU":
        value = os.fsencode(value) if kind == "S" else os.fspath(value)
        wide = f"{kind}{max(len(value), 1)}"
        if np.dtype(wide).itemsize > table[name].dtype.itemsize:
            table.replace_column(name, table[name].astype(wide))
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif table[name].unit is not None and isinstance(table, QTable):
        value = value * table[name].unit
    table[name][index] = value


def summarize(key, table):
    """Format a concatenation for printing: counts, and a line for each exposure; offsets in mas."""
    text = {
        name: [to_text(value) or "?" for value in table[name]] if name in table.colnames else ["?"] * len(table)
        for name in ("TYPE", "DATAMODL")
    }
    lines = [key]
    for stage in sorted(set(text["DATAMODL"])):
        types = [type_ for type_, found in zip(text["TYPE"], text["DATAMODL"], strict=True) if found == stage]
        counts = ", ".join(f"{count} {type_}" for type_, count in sorted(Counter(types).items(), key=_rank))
        lines.append(f"  {stage}: {len(types)} files: {counts}")
    return "\n".join([*lines, *(f"  {line}" for line in shorten(table).pformat(max_lines=-1, max_width=-1))])


def shorten(table):
    """Return the columns of a concatenation that are printed, with rounded numbers and file names without folders."""
    shown = Table({"ROW": np.arange(len(table))})
    for name in _SHOWN:
        if name in table.colnames:
            shown[name] = np.round(table[name], 3) if table[name].dtype.kind == "f" else table[name]
    for name in ("XOFFSET", "YOFFSET"):
        if name in table.colnames and table[name].dtype.kind == "f":
            shown[f"{name[0]} (mas)"] = np.round(np.asarray(table[name]) * 1e3, 1) + 0.0
    files = table["FITSFILE"] if "FITSFILE" in table.colnames else ["?"] * len(table)
    shown["FITSFILE"] = [os.path.basename(to_text(path) or "?") for path in files]
    return shown


def _rank(item):
    return TYPES.index(item[0]) if item[0] in TYPES else len(TYPES)


def stack_tables(obs, output_dir):
    """Stack all tables into one for a file; its meta holds the properties that the format would lose."""
    names = dict.fromkeys(name for table in obs.values() for name in table.colnames)
    stacked, in_json = Table(), []
    stacked[_KEY] = np.array([key for key, table in obs.items() for _row in table], dtype=str)
    for name in names:
        cells = []
        for table in obs.values():
            cells += _to_plain(name, table[name]) if name in table.colnames else [None] * len(table)
        stacked[name], is_json = _column_of(cells)
        in_json += [name] * is_json
    concatenations = [
        {"key": key, "columns": [[name, *_describe(table[name])] for name in table.colnames]}
        for key, table in obs.items()
    ]
    properties = {"output_dir": output_dir, "json": in_json, "concatenations": concatenations}
    stacked.meta = {"gpucoron": json.dumps(properties)}
    return stacked


def unstack_tables(stacked):
    """Reverse `stack_tables`; return (output_dir, obs)."""
    properties = json.loads(stacked.meta["gpucoron"])
    keys = ["" if np.ma.is_masked(key) else key for key in stacked[_KEY]]
    obs = {}
    for concatenation in properties["concatenations"]:
        rows = [row for row, key in enumerate(keys) if key == concatenation["key"]]
        table = obs[concatenation["key"]] = Table()
        for name, *kind in concatenation["columns"]:
            cells = [stacked[name][row] for row in rows]
            cells = [None if np.ma.is_masked(cell) else _plain(cell) for cell in cells]
            if name in properties["json"]:
                cells = [None if cell is None else json.loads(cell) for cell in cells]
            table[name] = _restore(cells, *kind)
    return properties["output_dir"], obs


def _to_plain(name, column):
    """Convert the cells of a column to Python values, None for masked cells."""
    if not hasattr(column, "dtype"):
        msg = f"column {name}: {type(column).__name__} cannot be written; write plain numbers or text"
        raise ParameterError(msg)
    return [_plain(cell) for cell in getattr(column, "value", column)]


def _plain(cell):
    if np.ma.is_masked(cell):
        return None
    if isinstance(cell, np.ndarray | np.generic):
        cell = cell.tolist()
    return to_text(cell) if isinstance(cell, bytes | os.PathLike) else cell


def _column_of(cells):
    """Make a column for ECSV; return it, and whether its cells are encoded as JSON."""
    mask = [cell is None for cell in cells]
    kinds = {type(cell) for cell in cells} - {type(None)}
    is_text = kinds == {str} and not any(mask) and all(cells)  # ECSV reads an empty string as missing
    is_number = kinds in ({bool}, {int}, {float}, {int, float})
    if not is_text and not is_number:
        return Column([json.dumps(cell) for cell in cells], dtype=str), True
    values = np.array([0 if cell is None else cell for cell in cells], max(kinds, key=(bool, int, float, str).index))
    return (MaskedColumn(values, mask=mask) if any(mask) else Column(values)), False


def _describe(column):
    return column.dtype.str, None if column.unit is None else str(column.unit), isinstance(column, MaskedColumn)


def _restore(cells, dtype, unit, is_masked):
    mask = [cell is None for cell in cells]
    if np.dtype(dtype).kind == "O":
        array = _fill([np.array(cell) if isinstance(cell, list) else cell for cell in cells], object)
    else:
        blank = np.zeros_like(next((cell for cell in cells if cell is not None), 0)).tolist()
        array = np.array([blank if cell is None else cell for cell in cells]).astype(dtype)
    return MaskedColumn(array, mask=mask, unit=unit) if is_masked else Column(array, unit=unit)
