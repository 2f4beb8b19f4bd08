"""persistence: flag persistence, with jwst's own code."""

from gpucoron.parameters import P
from gpucoron.steps.declaration import Step

#: parameters that name files
_FILES = ("save_persistence", "persistence_array_file")


def _without_time(settings):
    """Without a window jwst's step ends as FAILED: it reads and writes no file."""
    named = [f"persistence.{name}={getattr(settings, name)}" for name in _FILES if getattr(settings, name)]
    if not named or (settings.persistence_time or 0) > 0:
        return None
    return (
        f"{', '.join(named)}: no persistence is read or written without persistence.persistence_time, the length of "
        f"the window in seconds, 1 or more; it is {settings.persistence_time}"
    )


STEP = Step(
    name="persistence",
    title="flag persistence",
    jwst_class="PersistenceStep",
    parameters=(
        P("save_persistence", "string", None, "ASDF file for the persistence array", names=True),
        P("persistence_time", "integer", None, "length of the persistence window", "s"),
        P("dn_threshold", "float", None, "signal above which pixels persist", "DN"),
        P(
            "persistence_array_file",
            "string",
            None,
            "ASDF file with a time for each pixel",
            reads=("ASDF",),
            may_be_missing=True,
        ),
        P("persistence_dnu", "boolean", False, "set DO_NOT_USE as well"),
    ),
    skipped=True,
    helpers=("jwsts_own",),
    borrows="jwst.persistence.persistence_step",
    borrows_since="3.0",
    hints=(
        (
            "persistence_array_file",
            IndexError,
            "the file counts pixels within a subarray, and may be of a larger one: give a file that only exposures of "
            "this subarray have written",
        ),
    ),
    leaves="calibrated ramp",
    keywords={"skip_persistence": "skip"},
    refuses=_without_time,
)


def run(exposure, references, parameters, backend, *, jwsts_own):
    """Run the step; see `gpucoron.steps`. ``jwsts_own()`` runs jwst's, on the host."""
    return jwsts_own()
