"""Facts of exposures for tests of refpix."""

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
