"""Filters of the coronagraphs, and the electrons per second of a star from its Vega magnitude.

The zero points are e-/s of a star of Vega magnitude 0, through the Lyot stop, without the mask in front of the star.

NIRCam: the in-flight throughput of the telescope, the filter and the detector, the sapphire substrate of the masks and
the wedge of the Lyot stop (webbpsf_ext 1.2.1), integrated over the spectrum of Vega for 25.4 m2, times 0.19 for the
open part of the Lyot stop (JDox, NIRCam Coronagraphic Occulting Masks and Lyot Stops).

MIRI: bandwidth (JDox, MIRI Coronagraphic Imaging), peak photon conversion efficiency of 0.3 (F2300C: 0.25; webbpsf_ext)
and Lyot stop of 62 % (F2300C: 72 %; Boccaletti et al. 2015, PASP 127, 633). A rectangular bandpass makes these rough.

None of them has been compared with coronagraphic photometry in orbit.

Vega: log-log interpolation in wavelength between the fluxes of 2MASS (Cohen et al. 2003), IRAC (Reach et al. 2005),
WISE W3 (Jarrett et al. 2011) and MIPS 24 um (Rieke et al. 2008).
"""

from gpucoron.errors import ArgumentError

#: detector -> filter -> (wavelength in um, e-/s of a star of Vega magnitude 0)
ZERO_POINTS = {
    "NRCA2": {
        "F182M": (1.842, 2.18e9),
        "F187N": (1.874, 2.50e8),
        "F200W": (1.973, 4.47e9),
        "F210M": (2.092, 1.99e9),
        "F212N": (2.122, 2.32e8),
    },
    "NRCA4": {
        "F182M": (1.843, 2.38e9),
        "F187N": (1.874, 2.72e8),
        "F200W": (1.980, 4.99e9),
        "F210M": (2.095, 2.24e9),
        "F212N": (2.122, 2.65e8),
    },
    "NRCALONG": {
        "F250M": (2.502, 8.92e8),
        "F277W": (2.749, 2.70e9),
        "F300M": (2.993, 1.07e9),
        "F322W2": (3.197, 5.66e9),
        "F335M": (3.355, 1.02e9),
        "F356W": (3.551, 2.26e9),
        "F360M": (3.621, 1.02e9),
        "F410M": (4.069, 7.88e8),
        "F430M": (4.281, 3.80e8),
        "F444W": (4.359, 1.67e9),
        "F460M": (4.634, 2.57e8),
        "F480M": (4.791, 2.54e8),
    },
    "MIRIMAGE": {
        "F1065C": (10.575, 1.89e8),
        "F1140C": (11.30, 1.67e8),
        "F1550C": (15.50, 7.14e7),
        "F2300C": (22.75, 1.30e8),
    },
}


def list_filters(subarray):
    """List the filters of a subarray: each mask of MIRI has one, the masks of NIRCam share those of the detector."""
    if subarray.instrument == "MIRI":
        return [subarray.filter]
    return list(ZERO_POINTS[subarray.detector])


def choose_filter(subarray, name=None):
    """Return the name of the filter: the usual one by default.

    Raises
    ------
    ArgumentError
        The subarray does not have this filter.
    """
    if name is None:
        return subarray.filter
    known = list_filters(subarray)
    if name.upper() not in known:
        msg = f"filter: {subarray.detector} with {subarray.coronagraph} has no {name!r}; known: {', '.join(known)}"
        raise ArgumentError(msg)
    return name.upper()


def width_of(subarray, filter_, fwhm):
    """Return the FWHM of a point source through a filter, pixels; `fwhm` is that of the subarray's usual filter."""
    table = ZERO_POINTS[subarray.detector]
    if filter_ == subarray.filter:
        return fwhm
    return fwhm * table[filter_][0] / table[subarray.filter][0]


def electrons_of(magnitude, detector, filter_):
    """Return the e-/s of a star without the mask, from its Vega magnitude in the filter."""
    return 10 ** (-0.4 * magnitude) * ZERO_POINTS[detector][filter_][1]
