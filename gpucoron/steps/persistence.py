"""persistence: flag persistence, with jwst's own code."""

from gpucoron.parameters import P
from gpucoron.steps.declaration import Step

STEP = Step(
    name="persistence",
    title="flag persistence",
    jwst_class="PersistenceStep",
    parameters=(
        P("save_persistence", "string", None, "ASDF file for the persistence array"),
        P("persistence_time", "integer", None, "length of the persistence window", "s"),
        P("dn_threshold", "float", None, "signal above which pixels persist", "DN"),
        P("persistence_array_file", "string", None, "ASDF file with a persistence time for each pixel"),
        P("persistence_dnu", "boolean", False, "set DO_NOT_USE as well"),
    ),
    skipped=True,
    helpers=("jwsts_own",),
    borrows="jwst.persistence.persistence_step",
    borrows_since="3.0",
    leaves="calibrated ramp",
    keywords={"skip_persistence": "skip"},
)


def run(exposure, references, parameters, backend, *, jwsts_own):
    """Run the step; see `gpucoron.steps`. ``jwsts_own()`` runs jwst's, on the host."""
    return jwsts_own()
