"""clean_flicker_noise: remove 1/f noise with jwst's own code."""

from gpucoron.parameters import P
from gpucoron.steps.declaration import Step, whole_frame


def _for_the_draft(settings):
    """List the references for the draft of the rate in which jwst's step looks for sources."""
    has_mask = str(settings.user_mask).lower() != "none" and settings.background_method != "median_image"
    return () if has_mask else ("gain", "readnoise")


STEP = Step(
    name="clean_flicker_noise",
    title="remove 1/f noise as jwst does",
    jwst_class="CleanFlickerNoiseStep",
    references=("flat", "pastasoss"),
    parameters=(
        P("autoparam", "boolean", False, "choose some parameters from the data"),
        P("fit_method", "option", "median", "method of the noise fit", options=("fft", "median")),
        P("fit_by_channel", "boolean", False, "fit each amplifier separately"),
        P(
            "background_method",
            "option",
            "median",
            "method of the background fit",
            options=("median", "model", "median_image", None),
        ),
        P(
            "background_box_size",
            "int_list",
            None,
            "box of the background fit",
            "pixels",
            counts=(2,),
            minimum=1,
            maximum=2048,
        ),
        P("mask_science_regions", "boolean", False, "mask known science regions"),
        P("apply_flat_field", "boolean", False, "divide by the flat before the fit"),
        P("n_sigma", "float", 2.0, "clipping of the background", "sigma"),
        P("fit_histogram", "boolean", False, "estimate sigma from a histogram"),
        P("single_mask", "boolean", True, "one mask for all integrations"),
        P("user_mask", "string", None, "file with a mask", reads=("FITS", "ASDF"), holds="data"),
        P("save_mask", "boolean", False, "save the mask"),
        P("save_background", "boolean", False, "save the background"),
        P("save_noise", "boolean", False, "save the noise"),
    ),
    skipped=True,
    indirect=_for_the_draft,
    opens=lambda settings, facts: ["flat"] if settings.apply_flat_field else [],
    helpers=("jwsts_own",),
    borrows="jwst.clean_flicker_noise.clean_flicker_noise_step",
    hints=(
        (
            "user_mask",
            AttributeError,
            "user_mask must be a FITS file with the mask in its SCI extension, or an ASDF file of an image model: 1 is "
            "background; its shape is that of the exposure, (ny, nx) or (nints, ny, nx)",
        ),
    ),
    reach=whole_frame,
)


def run(exposure, references, parameters, backend, *, jwsts_own):
    """Run the step; see `gpucoron.steps`. ``jwsts_own()`` runs jwst's step on the host."""
    return jwsts_own()
