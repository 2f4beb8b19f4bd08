"""1/f noise: background masks and models of the noise."""

from dataclasses import dataclass

from gpucoron import get_by_old_name
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.subtract_1overf import (
    background,
    contrasts,
    definition,
    differences,
    kernels,
    slopes,
    spectrum,
)


@dataclass(frozen=True)
class BackgroundSettings:
    """Parameters of the background mask.

    Attributes
    ----------
    nsigma : float
        Clipping limit about the median in the first round; 3 in later rounds.
    niter : int
        Maximum number of rounds.
    """

    nsigma: float = 3
    niter: int = 3


@dataclass(frozen=True)
class Subtract1OverfSettings:
    """Parameters of the fit of 1/f noise.

    Attributes
    ----------
    model_type : {'savgol', 'median', 'mean', 'fft'}
    vertical_corr : bool
        Whether to fit the residual along columns too, with a window of a third of a column, or 127 for several outputs.
    flatten_model : bool
        Whether to subtract from the model its smooth part along columns: a cubic in a window of up to 255 rows.
    noutputs : int
        Amplifiers, side by side along the rows, fitted separately; odd ones are read in the opposite direction.
    channel_averaging : bool
        Whether to fit the mean of the outputs first.
    """

    model_type: str = "savgol"
    vertical_corr: bool = False
    flatten_model: bool = False
    noutputs: int = 1
    channel_averaging: bool = False


def _fitting_bytes(n_images):
    # The maximum is for columns with two outputs: the model of the rows and half a frame that the outputs share; the
    # residual, its flags, and those of the last output; the packed line, its indices, the bridged line and the
    # smoothed line; counts of two rounds, and flags as integers.
    return (4 + 2 + 5 + 3 + 4 * 4 + 3 * 4) * n_images


_FRAMES = ("cpu/subtract_1overf_frames.cpp", False)
#: images with fewer rows or columns are for NumPy: nothing is gained, and its sums over short axes have another order
_LEAST_SIDE = 16


def _native_mask(settings, images, bad):
    """Return the native library of background masks."""
    return [_FRAMES] if min(images.shape[1:]) >= _LEAST_SIDE else []


def _native_fit(settings, images, masks):
    """Return the native library for smoothed lines of one output."""
    is_one_line = settings.model_type == "savgol" and settings.noutputs == 1
    return [_FRAMES] if is_one_line and min(images.shape[1:]) >= _LEAST_SIDE else []


background_mask = Operation(
    background.background_mask,
    kernels.background_mask,
    settings=BackgroundSettings,
    cut="items",
    # the smooth frame and that of ones, four masks
    working_bytes=lambda n_images: 12 * n_images,
    native=_native_mask,
    libraries=(_FRAMES,),
)
fit_1overf = Operation(
    definition.fit_1overf,
    kernels.fit_1overf,
    settings=Subtract1OverfSettings,
    cut="items",
    working_bytes=_fitting_bytes,
    native=_native_fit,
    libraries=(_FRAMES,),
)

# These work on whole frames, by transforms and matrix products of the array namespace: one definition for all devices.
gather_contrasts = Operation(
    contrasts.gather_contrasts,
    contrasts.gather_contrasts,
    settings=contrasts.ContrastSettings,
    at_home=True,
)
measure_1overf = Operation(
    spectrum.measure_1overf, spectrum.measure_1overf, settings=spectrum.SpectrumSettings, at_home=True
)
subtract_contrasts = Operation(
    contrasts.subtract_contrasts,
    contrasts.subtract_contrasts,
    settings=contrasts.ContrastSettings,
    written=("data",),
    cut="items",
    whole=("gain", "readnoise"),
    working_bytes=contrasts.contrast_bytes,
)
krige_differences = Operation(
    differences.krige_differences,
    differences.krige_differences,
    settings=differences.DifferenceSettings,
    at_home=True,
)
krige_slopes = Operation(slopes.krige_slopes, slopes.krige_slopes, settings=slopes.KrigingSettings, at_home=True)


def __getattr__(name):
    return get_by_old_name(__name__, name)
