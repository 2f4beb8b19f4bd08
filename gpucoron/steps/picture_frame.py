"""picture_frame: remove the thermal picture frame, with jwst's own code."""

from gpucoron.parameters import P
from gpucoron.steps.declaration import Step, whole_frame

STEP = Step(
    name="picture_frame",
    title="remove the thermal picture frame",
    jwst_class="PictureFrameStep",
    references=("pictureframe",),
    parameters=(
        P("mask_science_regions", "boolean", True, "mask known science regions"),
        P("n_sigma", "float", 2.0, "clipping of the background", "sigma"),
        P("save_mask", "boolean", False, "save the background mask"),
        P("save_correction", "boolean", False, "save the correction"),
    ),
    skipped=True,
    helpers=("jwsts_own",),
    borrows="jwst.picture_frame.picture_frame_step",
    reach=whole_frame,
)


def run(exposure, references, parameters, backend, *, jwsts_own):
    """Run the step; see `gpucoron.steps`. ``jwsts_own()`` runs jwst's step on the host."""
    return jwsts_own()
