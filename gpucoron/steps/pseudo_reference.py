"""The rows and columns at the edges of a subarray that refpix uses as reference pixels, as in spaceKLIP."""

from dataclasses import dataclass

#: width of the border of reference pixels, and of the whole near-infrared detector, pixels
BORDER, NIR_SIZE = 4, 2048

#: number of rows or columns that selects those on the border of the detector
AUTOMATIC = -1


@dataclass(frozen=True)
class PseudoReference:
    """Numbers of rows and columns at the edges of a subarray that are used as reference pixels, after an offset."""

    nlower: int = 0
    nupper: int = 0
    nleft: int = 0
    nright: int = 0
    nrow_off: int = 0
    ncol_off: int = 0

    def rows(self, ny):
        """List the two slices of rows, which may be empty."""
        return _edges(ny, self.nlower, self.nupper, self.nrow_off)

    def columns(self, nx):
        """List the two slices of columns, which may be empty."""
        return _edges(nx, self.nleft, self.nright, self.ncol_off)


def _edges(size, n_first, n_last, offset):
    return slice(offset, offset + n_first), slice(size - offset - n_last, size - offset)


def default_pseudo_reference(facts):
    """Choose pseudo-reference pixels from the position of a subarray on the detector.

    Parameters
    ----------
    facts : Facts
        xstart, ystart, xsize and ysize of the subarray are used.

    Returns
    -------
    nlower, nupper, nleft, nright : int
        Numbers of rows and columns of the detector's border inside the subarray; four at opposite sides if neither is
        on the border.

    Notes
    -----
    Source: the defaults of spaceKLIP 2.2, ``run_single_file``, which uses ``nrc_ref_info`` of webbpsf_ext.
    """

    def overlap(start, size):
        before = start - 1
        after = NIR_SIZE - (before + size)
        pair = max(0, BORDER - before), max(0, BORDER - after)
        return pair if any(pair) else (BORDER, BORDER)

    return *overlap(facts.ystart, facts.ysize), *overlap(facts.xstart, facts.xsize)


def choose_pseudo_reference(parameters, facts):
    """Choose pseudo-reference pixels: None means 0, `AUTOMATIC` the number of `default_pseudo_reference`.

    Parameters
    ----------
    parameters
        nlower, nupper, nleft, nright, nrow_off and ncol_off are used.
    facts : Facts
        As in `default_pseudo_reference`.

    Returns
    -------
    PseudoReference

    Raises
    ------
    ValueError
        A number is negative, or the rows or columns do not fit into the subarray.
    """
    sides = ("nlower", "nupper", "nleft", "nright")
    values = {name: getattr(parameters, name) or 0 for name in (*sides, "nrow_off", "ncol_off")}
    if AUTOMATIC in (values[name] for name in sides):
        for name, count in zip(sides, default_pseudo_reference(facts), strict=True):
            values[name] = count if values[name] == AUTOMATIC else values[name]
    for name, value in values.items():
        if value < 0:
            msg = f"{name} must be 0 or more" + (f", or {AUTOMATIC} for automatic" if name in sides else "")
            raise ValueError(f"{msg}, not {value}")
    chosen = PseudoReference(**values)
    for kind, used, size in (
        ("rows", chosen.nrow_off + max(chosen.nlower, chosen.nupper), facts.ysize),
        ("columns", chosen.ncol_off + max(chosen.nleft, chosen.nright), facts.xsize),
    ):
        if used > size:
            msg = f"the subarray has {size} {kind}, too few for {used} pseudo-reference {kind} with their offset"
            raise ValueError(msg)
    return chosen
