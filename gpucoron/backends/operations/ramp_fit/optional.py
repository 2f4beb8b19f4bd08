"""The optional product of the ramp fit: the values of each segment, pedestals, and the amplitudes of jumps."""

import numpy as np

from gpucoron.dq import JUMP_DET, SATURATED

#: the values of a segment, in the order of the kernels
SEGMENT_FIELDS = ("slope", "sigslope", "var_poisson", "var_rnoise", "yint", "sigyint", "weights")


def by_field(segments):
    """Return views of the values of all segments by field: (len(SEGMENT_FIELDS), nints, nsegments, ny, nx).

    Parameters
    ----------
    segments : (len(SEGMENT_FIELDS) * nints, nsegments, ny, nx)
    """
    return segments.reshape(len(SEGMENT_FIELDS), -1, *segments.shape[1:])


def groups_before_first(settings):
    """Return how much later than the start of the ramp its first group is, in groups."""
    frames = (settings.nframes + 1) / 2.0 + settings.drop_frames
    return frames / (settings.nframes + settings.groupgap)


class TileProduct:
    """The optional product of the rows of a tile, written in place.

    Parameters
    ----------
    segments, pedestal, crmag
        As for `gpucoron.backends.operations.ramp_fit.fit_segments`.
    rows : slice
    settings : RampFitSettings
    """

    def __init__(self, segments, pedestal, crmag, rows, settings):
        self._fields = by_field(segments)[..., rows, :]
        self._pedestal, self._crmag = pedestal[:, rows], crmag[..., rows, :]
        self._frames = groups_before_first(settings)

    def put_whole_ramps(self, is_whole, slopes, lines, var_poisson, var_read):
        """Write the ramps that are one segment of the same groups.

        Parameters
        ----------
        is_whole : (nints * npixels,) bool
        slopes : (nints * npixels,) float64, DN/s
        lines : (3, nints * npixels) float64
            See `gpucoron.backends.operations.ramp_fit.segments.fit_lines`.
        var_poisson, var_read : (npixels,) float64, (DN/s)^2
        """
        nints, _, ny, nx = self._fields.shape[1:]
        where = is_whole.reshape(nints, ny, nx)
        sigma, intercept, intercept_sigma = lines
        values = (slopes, sigma, var_poisson, var_read, intercept, intercept_sigma, 1 / var_read)
        for field, value in zip(self._fields, values, strict=True):
            np.copyto(field[:, 0], value.reshape(-1, ny, nx), where=where, casting="same_kind")

    def put_segments(self, ramps, segments, slopes, lines, var_poisson, var_read):
        """Write the segments of gathered ramps; all values but ``lines``, (3, nsegments), are (nsegments,)."""
        sigma, intercept, intercept_sigma = lines
        values = (slopes, sigma, var_poisson, var_read, intercept, intercept_sigma, 1 / var_read)
        # segments are sorted by ramp
        rank = np.arange(len(segments.ramp)) - np.searchsorted(segments.ramp, segments.ramp)
        integration, row, column = self._places(ramps.which[segments.ramp])
        for field, value in zip(self._fields, values, strict=True):
            field[integration, rank, row, column] = value

    def put_starts(self, first, rate, dq):
        """Write the signal at the start of each ramp.

        Parameters
        ----------
        first : (nints, npixels) float64, DN
            The first group.
        rate : (nints, npixels) float64, DN/s
        dq : (nints, npixels) uint32
            Without flags of partial saturation.
        """
        # stcal takes the rate per second, as if a group lasted a second
        pedestal = first - rate * self._frames
        pedestal[(dq & SATURATED != 0) | np.isnan(pedestal)] = 0
        self._pedestal[...] = pedestal.reshape(self._pedestal.shape)

    def put_jumps(self, ramps, first):
        """Write the differences before jumps; ``first``, (nramps,) float64, is the first group without ZEROFRAME."""
        has_jump = np.ascontiguousarray((ramps.groupdq[1:] & JUMP_DET != 0).T)
        ramp, group = np.nonzero(has_jump)
        rank = np.cumsum(has_jump, axis=1)[ramp, group] - 1
        before = np.where(group == 0, first[ramp], ramps.samples[group, ramp])
        integration, row, column = self._places(ramps.which[ramp])
        self._crmag[integration, rank, row, column] = ramps.samples[group + 1, ramp] - before

    def _places(self, which):
        return np.unravel_index(which, self._pedestal.shape)
