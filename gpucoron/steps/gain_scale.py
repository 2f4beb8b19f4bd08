"""gain_scale: rescale the rates of a detector with a non-standard gain to the standard gain."""

from gpucoron.backends.results import Slopes
from gpucoron.steps.arguments import BackendLike, Images, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped
from gpucoron.steps.values import Number

STEP = Step(
    name="gain_scale",
    title="rescale rates of a non-standard gain",
    jwst_class="GainScaleStep",
    references=("gain",),
    leaves="slopes",
    saves={"rate": "{}", "rateints": "{}ints"},
)


@on_arrays(
    slopes=Images("... ny nx", in_place=True),
    gain_factor=Number(above=0, finite=True),
)
def scale_slopes(slopes: Slopes, gain_factor: float, *, backend: BackendLike = None) -> None:
    """Multiply rate and error by ``gain_factor``, the variances by its square, in place.

    Parameters
    ----------
    slopes : gpucoron.backends.results.Slopes
    gain_factor : float
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``gain_scale``.
    """
    for array in (slopes.rate, slopes.err):
        array *= gain_factor
    for array in (slopes.var_poisson, slopes.var_rnoise):
        if array is not None:
            array *= gain_factor**2


def run(exposure, references, parameters, backend):
    """Run the step on ``exposure.rate`` and ``exposure.rateints``; see `gpucoron.steps`."""
    gain_factor, opened = exposure.facts.gain_factor, {}
    if gain_factor is None:
        opened = None
        if references["gain"] is not None:
            gain_factor = references["gain"].facts.get("gain_factor")
    if gain_factor is None:
        return skipped("GAINFACT is neither in the exposure nor in the gain reference")
    fitted = [slopes for slopes in (exposure.rate, exposure.rateints) if slopes is not None]
    if not fitted:
        return skipped("there are no rates to scale", opened=opened)
    for slopes in fitted:
        scale_slopes(slopes, gain_factor, backend=backend)
    return Outcome(meta={"exposure.gain_factor": gain_factor}, opened=opened)
