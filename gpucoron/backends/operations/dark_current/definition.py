"""The frames of a reference in the read pattern of an exposure, and their subtraction in NumPy."""

from dataclasses import dataclass

import numpy as np

#: bytes of the frames that are subtracted from one integration after the other, while they stay in the cache
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class ReadPattern:
    """How frames form a group: ``nframes`` are averaged, then ``groupgap`` are dropped."""

    nframes: int
    groupgap: int

    def total_frames(self, ngroups):
        """Return the number of frames in an integration of ``ngroups`` groups."""
        return ngroups * self.nframes + (ngroups - 1) * self.groupgap


class MatchedDark:
    """One integration of a dark, group by group, in the read pattern of an exposure.

    A dark that is too short is extended along its last two groups, or along a given line. NaN counts as zero. Each
    group is computed when it is needed.

    Parameters
    ----------
    dark : (dark_ngroups, ny, nx) float32, DN
    dark_pattern, pattern : ReadPattern
        Read patterns of the dark and of the exposure.
    ngroups : int
        Number of groups of the exposure.
    line : Line, optional
        See `gpucoron.steps.dark_line`.
    xp : module
        Namespace of the arrays.

    Notes
    -----
    Source: stcal 1.20, ``dark_sub``. As there, an extended dark is float64 throughout.
    """

    def __init__(self, dark, dark_pattern, pattern, ngroups, *, line=None, xp):
        self.line = line
        self.dark, self.pattern, self.ngroups, self.xp = dark, pattern, ngroups, xp
        self.same_pattern = dark_pattern == pattern
        dark_ngroups = dark.shape[0]
        missing = pattern.total_frames(ngroups) - dark_pattern.total_frames(dark_ngroups)
        self.extrapolated = 0
        if missing > 0:
            spacing = dark_pattern.nframes + dark_pattern.groupgap
            self.extrapolated = -(-(missing + dark_pattern.groupgap) // spacing)
        if self.extrapolated and dark_ngroups < 2:
            msg = f"the dark has {dark_ngroups} group; at least 2 are needed to continue it to {ngroups} groups"
            raise ValueError(msg)
        # The groups of the dark count as frames; the near-infrared darks of CRDS have one frame per group and no gap.
        if not self.same_pattern and self._start(ngroups - 1) + pattern.nframes > dark_ngroups + self.extrapolated:
            msg = (
                f"the dark cannot be averaged to NFRAMES={pattern.nframes}, GROUPGAP={pattern.groupgap}: "
                "its own groups must be single frames without gaps"
            )
            raise ValueError(msg)

    def group(self, index):
        """Return the dark of one group of the exposure: (ny, nx) float32, or float64 beyond the reference."""
        if self.same_pattern:
            return self._frame(index)
        nframes, start = self.pattern.nframes, self._start(index)
        total = self._frame(start)
        for frame in range(start + 1, start + nframes):
            total += self._frame(frame)
        if nframes > 1:
            total /= nframes
        return total.astype(self.dark.dtype)

    def groups(self, some):
        """Return the dark of a slice of groups, (n, ny, nx)."""
        if self.same_pattern and not self.extrapolated:
            return self._without_nan(self.dark[some])
        return self.xp.stack([self.group(index) for index in range(some.start, some.stop)])

    def continued(self, index):
        """Return the fraction of a group beyond the reference, and the mean index of that part times the fraction."""
        start, nframes = (index, 1) if self.same_pattern else (self._start(index), self.pattern.nframes)
        beyond = [frame for frame in range(start, start + nframes) if frame >= self.dark.shape[0]]
        return len(beyond) / nframes, sum(beyond) / nframes

    def _start(self, index):
        return index * (self.pattern.nframes + self.pattern.groupgap)

    def _frame(self, index):
        last = self.dark.shape[0] - 1
        if index <= last:
            frame = self.dark[index]
            if self.extrapolated:
                frame = frame.astype("float64")
        elif self.line is not None:
            frame = self.line.at(index)
        else:
            rate = self.dark[last] - self.dark[last - 1]
            frame = (index - last) * rate.astype("float64") + self.dark[last]
        return self._without_nan(frame)

    def _without_nan(self, frames):
        return self.xp.where(self.xp.isnan(frames), frames.dtype.type(0), frames)


def subtract_frames(device, data, frames, line=None, *, settings):
    """Subtract the frames of a reference from the groups of every integration, in place.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
        May be cut along the groups.
    frames : (n, ny, nx) float32, DN
        NaN counts as zero.
    line : Line, optional
        Beyond the last frame; see `MatchedDark`.
    settings : DarkCurrentSettings

    Notes
    -----
    Source: stcal 1.20, ``dark_sub``.
    """
    nints, ngroups = data.shape[:2]
    matched = settings.match(frames, ngroups, line=line, xp=np)
    at_once = max(1, _BLOCK_BYTES // frames[0].nbytes)

    def subtract(groups):
        for start in range(groups.start, groups.stop, at_once):
            block = slice(start, min(start + at_once, groups.stop))
            values = matched.groups(block)
            for ramp in data:
                ramp[block] -= values

    if ngroups > 1:
        device.in_parts(subtract, ngroups)
        return
    frame = matched.group(0)
    device.in_parts(lambda some: np.subtract(data[some, 0], frame, out=data[some, 0], casting="same_kind"), nints)
