"""Groups in which the afterglow of a bright source may remain."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.persistence import definition, kernels


@dataclass(frozen=True)
class PersistenceSettings:
    """What opens the windows of persistence, and what is flagged in them.

    Attributes
    ----------
    window : int, s
        Length of a window.
    threshold : float or None, DN
        Signal above which a window opens; by default only saturation opens one.
    do_not_use : bool
        Set DO_NOT_USE as well.
    """

    window: int
    threshold: float | None = None
    do_not_use: bool = False


# A CPU uses NumPy, which looks at the few pixels that are concerned.
open_windows = Operation(
    definition.open_windows,
    kernels.open_windows,
    settings=PersistenceSettings,
    written=("groupdq", "ends"),
    at_home=True,
)
