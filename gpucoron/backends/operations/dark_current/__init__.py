"""Subtraction of the frames of a reference from the groups of all integrations."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.dark_current import definition, kernels
from gpucoron.backends.operations.dark_current.definition import MatchedDark, ReadPattern

__all__ = ["DarkCurrentSettings", "MatchedDark", "ReadPattern", "subtract_frames"]


@dataclass(frozen=True)
class DarkCurrentSettings:
    """Read patterns of a reference and of the exposure; the same by default, so that each group has its own frame."""

    dark_pattern: ReadPattern = ReadPattern(1, 0)
    pattern: ReadPattern = ReadPattern(1, 0)

    def match(self, frames, ngroups, *, line=None, xp):
        """Return the frames in the read pattern of an exposure."""
        return MatchedDark(frames, self.dark_pattern, self.pattern, ngroups, line=line, xp=xp)


# light work, so it runs in the memory of the exposure
subtract_frames = Operation(
    definition.subtract_frames,
    kernels.subtract_frames,
    settings=DarkCurrentSettings,
    written=("data",),
    at_home=True,
)
