"""Facts of exposures for tests of refpix, and jwst's correction."""

from types import SimpleNamespace

from gpucoron.facts import Facts


def nircam_facts(**changed):
    """Return facts of a small NIRCam subarray on the border of the detector, with some changed."""
    facts = {
        "instrument": "NIRCAM",
        "detector": "NRCALONG",
        "subarray": "SUB64",
        "xstart": 1,
        "ystart": 1,
        "xsize": 40,
        "ysize": 36,
        "fastaxis": -1,
        "slowaxis": 2,
        "noutputs": 1,
        "zero_frame": True,
    }
    return Facts(**facts | changed)


def run_jwst(data, pixeldq, zeroframe, facts, parameters, coefficients=None):
    """Run jwst's correction on a RampModel made of the arrays; return its status, data and ZEROFRAME.

    ``coefficients``, (gamma, zeta), are those of the exposure's detector in the sirskernel reference.
    """
    from jwst.refpix import reference_pixels
    from stdatamodels.jwst.datamodels import RampModel

    model = RampModel(data=data.copy(), pixeldq=pixeldq.copy())
    model.meta.instrument.name = facts.instrument
    model.meta.instrument.detector = facts.detector
    for name in ("xstart", "ystart", "xsize", "ysize", "fastaxis", "slowaxis"):
        setattr(model.meta.subarray, name, getattr(facts, name))
    model.meta.subarray.name = facts.subarray
    model.meta.exposure.noutputs = facts.noutputs
    model.meta.exposure.zero_frame = facts.zero_frame
    if zeroframe is not None:
        model.zeroframe = zeroframe.copy()
    kernel = None
    if coefficients is not None:
        items = dict(zip(("gamma", "zeta"), coefficients, strict=True))
        # jwst reads no other attribute of this model
        kernel = SimpleNamespace(
            to_flat_dict=lambda: {f"{facts.detector.lower()}.{name}": array for name, array in items.items()}
        )
    status = reference_pixels.correct_model(
        model,
        parameters.odd_even_columns,
        parameters.use_side_ref_pixels,
        parameters.side_smoothing_length,
        parameters.side_gain,
        parameters.odd_even_rows,
        {
            "refpix_algorithm": parameters.refpix_algorithm,
            "sirs_kernel_model": kernel,
            "sigreject": parameters.sigreject,
            "gaussmooth": parameters.gaussmooth,
            "halfwidth": parameters.halfwidth,
        },
        parameters.siglimit,
    )
    return status, model.data, model.zeroframe if zeroframe is not None else None
