"""Strips of ramps for jump detection: differences in electrons, their flags and medians.

A strip is a tile of rows, divided into columns if one row is too large. It computes its arrays when they are
first used, and writes JUMP_DET into the ``groupdq`` of the caller.
"""

from functools import cached_property

import numpy as np

from gpucoron.backends.operations.jump.outliers import signed_medians
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED

UNUSABLE = DO_NOT_USE | SATURATED

#: Floats between the rows of a transposed array; otherwise its columns would share a few cache lines.
_PADDING = 16


class Ramps:
    """Arrays of one search.

    Parameters
    ----------
    data, groupdq, gain, readnoise : arrays
        As for `gpucoron.backends.operations.jump.definition.search_jumps`.
    nframes : int
        Reads averaged into a group.
    usable : (nints, ngroups) bool
        Groups with pixels to search; the differences of other groups are left out.
    """

    def __init__(self, data, groupdq, gain, readnoise, nframes, usable):
        self.data, self.groupdq, self.gain, self.readnoise, self.nframes = data, groupdq, gain, readnoise, nframes
        self.shape = data.shape
        nints, ngroups, ny, nx = data.shape
        self.usable = np.flatnonzero(usable[:, 1:] & usable[:, :-1])
        group = np.arange(nints * ngroups).reshape(nints, ngroups)[:, 1:].ravel()[self.usable]
        #: start in flat ``groupdq`` of the later group of each usable difference
        self.planes = group * (ny * nx)
        #: signed median difference, electrons, (ny * nx,) float64; NaN until it is computed
        self.medians = np.full(ny * nx, np.nan)

    def strips(self, rows, tile_bytes):
        """Yield the strips of a tile of rows."""
        nints, ngroups, _, nx = self.shape
        columns = max(1, tile_bytes // (4 * nints * ngroups * (rows.stop - rows.start)))
        for start in range(0, nx, columns):
            yield Strip(self, rows, slice(start, min(start + columns, nx)))


class Strip:
    """All groups of some neighbouring pixels; ``pixel`` indexes the pixels, ``which`` the usable differences."""

    def __init__(self, ramps, rows, columns):
        self.ramps = ramps
        self.image_area = (rows, columns)
        nx = ramps.shape[3]
        #: index of each pixel in the flat image
        self.pixels = (np.arange(rows.start, rows.stop)[:, None] * nx + np.arange(nx)[columns]).ravel()
        self.quality = ramps.groupdq[:, :, rows, columns]
        self.unusable = (self.quality & UNUSABLE) != 0

    @cached_property
    def differences(self):
        """Differences of neighbouring groups, electrons, (ndiffs, npixels) float32; NaN next to an unusable group."""
        nints, ngroups = self.ramps.shape[:2]
        npixels = self.pixels.size
        # Product, then difference, both float32: the last bit depends on the order.
        electrons = self.ramps.data[:, :, *self.image_area] * self.ramps.gain[self.image_area]
        np.copyto(electrons, np.nan, where=self.unusable)
        electrons = electrons.reshape(nints, ngroups, npixels)
        padded = np.empty((nints, ngroups - 1, npixels + _PADDING), np.float32)
        np.subtract(electrons[:, 1:], electrons[:, :-1], out=padded[:, :, :npixels])
        padded = padded.reshape(-1, npixels + _PADDING)
        if self.ramps.usable.size < len(padded):
            padded = padded[self.ramps.usable]
        return padded[:, :npixels]

    @cached_property
    def read_variance(self):
        """Square of the CDS read noise over the frames of a group, electrons, (npixels,) float64."""
        readnoise = self.ramps.readnoise[self.image_area] * self.ramps.gain[self.image_area]
        return (readnoise**2).ravel().astype(np.float64) / self.ramps.nframes

    def medians(self, pixels):
        """Return the signed median difference of some pixels, float64."""
        known = self.ramps.medians[self.pixels[pixels]]
        (unknown,) = np.nonzero(np.isnan(known))
        if unknown.size:
            known[unknown] = signed_medians(self.differences[:, pixels[unknown]])
            self.ramps.medians[self.pixels[pixels]] = known
        return known

    def jumps(self):
        """Return (which, pixel) of the usable differences whose later group has JUMP_DET."""
        flags = (self.quality[:, 1:] & JUMP_DET) != 0
        flags = flags.reshape(-1, self.pixels.size)
        if self.ramps.usable.size < len(flags):
            flags = flags[self.ramps.usable]
        return np.divmod(np.flatnonzero(flags), self.pixels.size)

    def groups(self, which):
        """Return the integration and the later group of these differences."""
        ngroups, ny, nx = self.ramps.shape[1:]
        return np.divmod(self.ramps.planes[which] // (ny * nx), ngroups)

    def address(self, which, pixel):
        """Return the indices in flat ``groupdq`` of the later groups of these differences."""
        return self.ramps.planes[which] + self.pixels[pixel]

    def flag_jumps(self, which, pixel):
        """Set JUMP_DET in the later group of these differences."""
        self.ramps.groupdq.reshape(-1)[self.address(which, pixel)] |= JUMP_DET

    def flag_usable(self, chosen, pixels):
        """Set JUMP_DET in the ``chosen`` groups, (nints, ngroups, len(pixels)) bool, where they are usable."""
        nints, ngroups, ny, nx = self.ramps.shape
        at = np.s_[:, :, self.pixels[pixels]]
        image_last = self.ramps.groupdq.reshape(nints, ngroups, ny * nx)
        flags = image_last[at]
        flags |= (chosen & ((flags & UNUSABLE) == 0)).view(np.uint8) * np.uint8(JUMP_DET)
        image_last[at] = flags

    def rows_with_jumps(self):
        """Return the row of the image for every group with JUMP_DET, usable or not."""
        rows, columns = self.image_area
        found = np.flatnonzero((self.quality & JUMP_DET) != 0)
        return rows.start + found // self.quality.shape[3] % self.quality.shape[2]

    def remove_redundant_jumps(self):
        """Clear JUMP_DET in groups that are DO_NOT_USE or SATURATED."""
        redundant = ((self.quality & JUMP_DET) != 0) & self.unusable
        if redundant.any():
            # Faster than indexing with a mask.
            self.quality ^= redundant.view(np.uint8) * np.uint8(JUMP_DET)
