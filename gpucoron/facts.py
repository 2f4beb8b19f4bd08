"""The facts of an exposure that steps need: instrument, subarray, read pattern and times, from its keywords."""

from dataclasses import dataclass

#: read pattern -> frames averaged into a group, frames dropped between groups
READ_PATTERNS = {
    "NIRCAM": {
        "RAPID": (1, 0),
        "BRIGHT1": (1, 1),
        "BRIGHT2": (2, 0),
        "SHALLOW2": (2, 3),
        "SHALLOW4": (4, 1),
        "MEDIUM2": (2, 8),
        "MEDIUM8": (8, 2),
        "DEEP2": (2, 18),
        "DEEP8": (8, 12),
    },
    "MIRI": {"FASTR1": (1, 0), "SLOWR1": (1, 0)},
}


@dataclass(frozen=True)
class Facts:
    """The facts of an exposure that the steps need. Times are in seconds; pixels count from 1 in the science frame.

    None means that the keyword is missing. ``nints`` and ``ngroups`` are those of the keywords, which count the whole
    exposure; the arrays of a segment have fewer integrations. ``integration_start`` and ``integration_end`` are None in
    an unsegmented file. ``crpix1`` and ``crpix2`` are the star's
    place in the file's image. ``read_times`` lists for each group the times of its reads; None means a regular pattern.
    """

    instrument: str
    detector: str | None = None
    exp_type: str | None = None
    subarray: str | None = None
    xstart: int | None = None
    ystart: int | None = None
    xsize: int | None = None
    ysize: int | None = None
    fastaxis: int | None = None
    slowaxis: int | None = None
    readpatt: str | None = None
    nints: int | None = None
    ngroups: int | None = None
    nframes: int | None = None
    groupgap: int | None = None
    frame_divisor: int | None = None
    frame_time: float | None = None
    group_time: float | None = None
    integration_start: int | None = None
    integration_end: int | None = None
    zero_frame: bool = False
    noutputs: int | None = None
    drop_frames1: int | None = None
    gain_factor: float | None = None
    nsamples: int | None = None
    read_times: tuple | None = None
    crpix1: float | None = None
    crpix2: float | None = None

    @property
    def is_miri(self):
        """True for MIRI, which has its own order of steps."""
        return self.instrument == "MIRI"

    @property
    def full_frame(self):
        """The shape (ny, nx) of the whole detector."""
        return (1024, 1032) if self.is_miri else (2048, 2048)
