"""What an exposure is: instrument, subarray, read pattern and times, as its keywords say."""

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
    """What the steps need to know of an exposure. Times in seconds; pixels count from 1 in the science frame.

    ``nints`` and ``ngroups`` are the keywords' (of the whole exposure, where the file is a segment); the arrays' own
    shape may have fewer integrations. ``integration_start`` and ``integration_end`` are None in an unsegmented file.
    """

    instrument: str
    detector: str
    exp_type: str
    subarray: str
    xstart: int | None
    ystart: int | None
    xsize: int | None
    ysize: int | None
    fastaxis: int | None
    slowaxis: int | None
    readpatt: str | None
    nints: int | None
    ngroups: int
    nframes: int | None
    groupgap: int | None
    frame_divisor: int | None
    frame_time: float | None
    group_time: float
    integration_start: int | None
    integration_end: int | None
    zero_frame: bool
    noutputs: int | None
    drop_frames1: int | None
    gain_factor: float | None
    nsamples: int | None = None

    @property
    def is_miri(self):
        """True for MIRI, whose steps run in another order."""
        return self.instrument == "MIRI"

    @property
    def full_frame(self):
        """The shape (ny, nx) of the whole detector."""
        return (1024, 1032) if self.is_miri else (2048, 2048)
