"""reset: subtract the reset anomaly from the first groups of MIRI ramps."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from gpucoron.steps.arguments import RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.dark_current import integrations_alike, share_dark
from gpucoron.steps.declaration import Outcome, Step, skipped
from gpucoron.steps.values import Number

STEP = Step(
    name="reset",
    title="subtract the reset anomaly (MIRI)",
    jwst_class="ResetStep",
    references=("reset",),
    opens=lambda settings, facts: ("reset",) if facts.is_miri else (),
)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    reset=Array("reset_nints reset_ngroups ny nx", unit="DN"),
    first_integration=Number(whole=True, minimum=1),
    nints=Number(whole=True, minimum=1),
    ngroups=Number(whole=True, minimum=1),
)
def subtract_reset(
    data: NDArray[Any],
    reset: ArrayLike,
    *,
    first_integration: int = 1,
    nints: int | None = None,
    ngroups: int | None = None,
    backend: BackendLike = None,
) -> None:
    """Subtract the reset anomaly of each integration, in place. NaN in the reference counts as zero.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    reset : (reset_nints, reset_ngroups, ny, nx) float32, DN
        Later integrations use the last one. Later groups are not changed.
    first_integration : int
        Number of the first integration within the exposure, from one (INTSTART).
    nints, ngroups : int, optional
        Use only these integrations and groups of ``reset``; by default all.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``reset_sub``.
    """
    nints = reset.shape[0] if nints is None else nints
    ngroups = reset.shape[1] if ngroups is None else ngroups
    for name, value, most in (("nints", nints, reset.shape[0]), ("ngroups", ngroups, reset.shape[1])):
        if value > most:
            msg = f"{name}: the reset reference has {most}, fewer than {value}"
            raise ValueError(msg)
    ngroups = min(data.shape[1], ngroups)
    shares = share_dark(len(data), nints, first_integration, by_integration=True)
    for index, integrations in integrations_alike(shares):
        backend.subtract_frames(data[integrations, :ngroups], reset[index, :ngroups])


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    facts = exposure.facts
    if not facts.detector.startswith("MIR"):
        return skipped("it is for MIRI only")
    reference = references["reset"]
    if reference is None:
        return skipped("there is no reset reference")
    subtract_reset(
        exposure.data,
        reference.data,
        first_integration=facts.integration_start or 1,
        nints=reference.facts.get("nints"),
        ngroups=reference.facts.get("ngroups"),
        backend=backend,
    )
    exposure.pixeldq |= reference.dq
    return Outcome()
