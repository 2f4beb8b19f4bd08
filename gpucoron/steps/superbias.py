"""superbias: subtract the detector's bias structure from every group."""

from gpucoron.steps.declaration import Outcome, Step, skipped

STEP = Step(
    name="superbias",
    title="subtract the superbias (near infrared)",
    jwst_class="SuperBiasStep",
    references=("superbias",),
)


def subtract_superbias(data, bias, zeroframe=None, *, xp):
    """Subtract a bias image, in place; NaN in it counts as zero.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    bias : (ny, nx) float32, DN
    zeroframe : (nints, ny, nx) float32 or None, DN
        Its zeros mean bad data and stay zero.
    xp : module
        Namespace of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``bias_sub``.
    """
    bias = xp.where(xp.isnan(bias), bias.dtype.type(0), bias)
    data -= bias
    if zeroframe is not None:
        bad = zeroframe == 0
        zeroframe -= bias
        zeroframe[bad] = 0


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    reference = references["superbias"]
    if reference is None:
        return skipped("there is no superbias reference")
    zeroframe = exposure.zeroframe if exposure.facts.zero_frame else None
    subtract_superbias(exposure.data, reference.data, zeroframe, xp=backend.xp)
    exposure.pixeldq |= reference.dq
    return Outcome()
