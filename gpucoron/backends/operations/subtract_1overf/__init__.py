"""1/f noise."""

from dataclasses import dataclass

from gpucoron import get_by_old_name
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.subtract_1overf import background, definition, kernels


@dataclass(frozen=True)
class BackgroundSettings:
    """What counts as background.

    Attributes
    ----------
    nsigma : float
        Cut about the median in the first round; later rounds cut at 3.
    niter : int
        Rounds at most.
    """

    nsigma: float = 3
    niter: int = 3


@dataclass(frozen=True)
class Subtract1OverfSettings:
    """How 1/f noise is fitted.

    Attributes
    ----------
    model_type : {'savgol', 'median', 'mean', 'fft'}
    vertical_corr : bool
        Fit columns to what is left, likewise; the window is then a third of a column, for several outputs 127.
    flatten_model : bool
        Take out of the model what is broad along columns: a cubic in a window of up to 255 rows.
    noutputs : int
        Amplifiers, side by side along the rows; each is fitted by itself, odd ones read the other way round.
    channel_averaging : bool
        Fit first what the outputs have in common.
    """

    model_type: str = "savgol"
    vertical_corr: bool = False
    flatten_model: bool = False
    noutputs: int = 1
    channel_averaging: bool = False


def _fitting_bytes(n_images):
    # Most of all for columns of two outputs: the model of rows and half a frame that the outputs share; what is left,
    # its flags, and those of the last output; the packed line, its places, the bridged and the smoothed one; counts of
    # two rounds, and flags as numbers.
    return (4 + 2 + 5 + 3 + 4 * 4 + 3 * 4) * n_images


background_mask = Operation(background.background_mask, settings=BackgroundSettings, cut="items")
fit_1overf = Operation(
    definition.fit_1overf,
    kernels.fit_1overf,
    settings=Subtract1OverfSettings,
    cut="items",
    working_bytes=_fitting_bytes,
    has_kernels=lambda settings: settings.model_type != "fft",
)


def __getattr__(name):
    return get_by_old_name(__name__, name)
