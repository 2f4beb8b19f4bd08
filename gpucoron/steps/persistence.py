"""persistence: flag persistence, with jwst's own code."""

from gpucoron.parameters import P
from gpucoron.steps.declaration import Step, whole_frame

#: parameters that name files
_FILES = ("save_persistence", "persistence_array_file")


def _without_time(settings):
    """Refuse files without a time window: jwst's step then fails, and neither reads nor writes them."""
    files = [f"persistence.{name}={getattr(settings, name)}" for name in _FILES if getattr(settings, name)]
    if not files or (settings.persistence_time or 0) > 0:
        return None
    return (
        f"{', '.join(files)}: no persistence is read or written without persistence.persistence_time, the length of "
        f"the window in seconds, 1 or more; it is {settings.persistence_time}"
    )


STEP = Step(
    name="persistence",
    title="flag persistence",
    jwst_class="PersistenceStep",
    parameters=(
        P("save_persistence", "string", None, "ASDF file for the persistence array", names=True, in_folder=True),
        P("persistence_time", "integer", None, "length of the persistence window", "s"),
        P("dn_threshold", "float", None, "signal above which pixels persist", "DN"),
        P(
            "persistence_array_file",
            "string",
            None,
            "ASDF file with the end of persistence of each pixel",
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
            "the rows and columns in the file may be those of a larger subarray: give a file that was written by "
            "exposures of this subarray only",
        ),
    ),
    leaves="calibrated ramp",
    keywords={"skip_persistence": "skip"},
    refuses=_without_time,
    reach=whole_frame,
)


def run(exposure, references, parameters, backend, *, jwsts_own):
    """Run the step; see `gpucoron.steps`. ``jwsts_own()`` runs jwst's step on the host."""
    return jwsts_own()
