"""Find for one pixel the hits, neighbours' hits and later groups that the jump step flags."""

from dataclasses import dataclass, replace

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.backends.operations.jump import definition
from gpucoron.backends.operations.jump.outliers import noise
from gpucoron.backends.operations.jump.strips import Ramps
from gpucoron.dq import JUMP_DET
from gpucoron.report.ramp.cut import lost_groups
from gpucoron.steps.jump import settle

#: the four pixels to which a hit spreads
_BESIDE = ((-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True, eq=False)
class JumpSearch:
    """The search around one pixel, without spreading to neighbours and later groups.

    Attributes
    ----------
    around : gpucoron.report.ramp.causes.Neighbourhood
    hits : (nints, ngroups, h, w) bool
        Groups that begin with a hit.
    sigma : (nints, ngroups, h, w) float64
        Distance of the difference to the group before from the median difference, in units of its noise; signed.
    electrons : (nints, ngroups, h, w) float64
        The same distance in electrons.
    mode : int or None
        Of `gpucoron.backends.operations.jump.definition.choose_search`; None if nothing is searched.
    settings : gpucoron.backends.operations.jump.JumpSettings
    at_rejection : dict
        (integration, group, row, column) of a hit -> its distance in sigma when the iterative search rejected it.
    thresholds : (h, w) float64
        The limit that applies to each pixel, sigma.
    """

    around: object
    hits: np.ndarray
    sigma: np.ndarray
    electrons: np.ndarray
    mode: int | None
    settings: object
    at_rejection: dict
    thresholds: np.ndarray

    @classmethod
    def of(cls, around, gain, readnoise, parameters, run, frame_gain):
        """Search the neighbourhood of a pixel.

        Parameters
        ----------
        around : gpucoron.report.ramp.causes.Neighbourhood
            Before the step.
        gain : (h, w) float32, e-/DN
        readnoise : (h, w) float32, DN
        parameters
            Of the step.
        run : gpucoron.engine.Run
            After the step.
        frame_gain : (ny, nx) float32, e-/DN
            Gain of all pixels of the run's exposure.
        """
        settings = settle(parameters, run.exposure.facts, frame_gain, backend="numpy")
        lost = lost_groups(run.exposure.groupdq)
        mode = definition.choose_search(lost, settings)
        data = np.ascontiguousarray(around.data)
        flags, device = np.ascontiguousarray(around.groupdq), get_backend("numpy").home
        before = (flags & JUMP_DET) != 0
        alone = replace(settings, flag_4_neighbors=False, after_jump_flag_n1=0, after_jump_flag_n2=0)
        if mode == definition.AFTER_CLIPPING:
            definition.clip_jumps(device, data, flags, gain, settings=alone)
        if mode is not None:
            definition.search_jumps(device, data, flags, gain, readnoise, mode, lost, settings=alone)
        hits = ((flags & JUMP_DET) != 0) & ~before
        strip = _strip(data, around.groupdq, gain, readnoise, settings, lost, mode)
        sigma, electrons = _distances(strip, data.shape)
        at_rejection, thresholds = {}, np.full(gain.shape, settings.rejection_threshold)
        if mode == definition.ITERATIVE:
            at_rejection, thresholds = _iterate(strip, gain.shape, settings)
        return cls(around, hits, sigma, electrons, mode, settings, at_rejection, thresholds)

    def say(self, integration, group):
        """Return the cause of JUMP_DET, and the neighbour (row, column) from which it came; None if it has another."""
        row, column = self.around.box.row, self.around.box.column
        at = integration, group, row, column
        if self.hits[at]:
            return self._say_hit(at), None
        if self.settings.flag_4_neighbors:
            found = self._neighbour(integration, group)
            if found is not None:
                where = integration, group, *found
                return f"neighbour of {{pixel}}, which was hit: {self._distance(where)}", found
        for electrons, n_groups in self.settings.after:
            for earlier in range(group - 1, max(-1, group - n_groups - 1), -1):
                place = integration, earlier, row, column
                if self._is_jump(place) and self.electrons[place] >= electrons:
                    return (
                        f"{_count(group - earlier)} after the jump in group {earlier} of "
                        f"{self.electrons[place]:.0f} electrons; the limit is {electrons:.0f}"
                    ), None
        return None

    def _say_hit(self, at):
        if self.mode == definition.AFTER_CLIPPING:
            return f"primary hit: clipped at {self.settings.rejection_threshold:g} sigma among the integrations"
        return f"primary hit: {self._distance(at)}"

    def _distance(self, at):
        distance = self.at_rejection.get(at, abs(self.sigma[at]))
        return f"{distance:.1f} sigma from the median difference, above the threshold of {self.thresholds[at[2:]]:g}"

    def _is_jump(self, place):
        """Return whether a group has a hit, of its own or of a neighbour that spreads."""
        return self.hits[place] or (self.settings.flag_4_neighbors and self._neighbour(*place[:2]) is not None)

    def _neighbour(self, integration, group):
        """Return (row, column) of the strongest hit beside the pixel that spreads to it, or None."""
        smallest, largest = self.settings.min_jump_to_flag_neighbors, self.settings.max_jump_to_flag_neighbors
        box, (height, width) = self.around.box, self.hits.shape[-2:]
        spreading = []
        for dy, dx in _BESIDE:
            row, column = box.row + dy, box.column + dx
            if 0 <= row < height and 0 <= column < width and self.hits[integration, group, row, column]:
                ratio = abs(self.sigma[integration, group, row, column])
                if smallest < ratio < largest:
                    spreading.append((ratio, row, column))
        return max(spreading)[1:] if spreading else None


def _count(n_groups):
    return "1 group" if n_groups == 1 else f"{n_groups} groups"


def _strip(data, groupdq, gain, readnoise, settings, lost, mode):
    """Return the strip of the NumPy definition that holds the whole neighbourhood."""
    usable = ~lost if mode != definition.AFTER_CLIPPING else np.ones(lost.shape, bool)
    ramps = Ramps(data, groupdq, gain, readnoise, settings.nframes, usable)
    (strip,) = ramps.strips(slice(0, data.shape[2]), 2**40)
    return strip


def _distances(strip, shape):
    """Return the distances of all differences from the pixel's median, in sigma and in electrons."""
    sigma, electrons = np.full((2, *shape), np.nan)
    with np.errstate(all="ignore"):
        medians = strip.medians(np.arange(strip.pixels.size))
        distance = strip.differences - medians
        at = strip.groups(np.arange(len(distance)))
        electrons[at] = distance.reshape(-1, *shape[2:])
        sigma[at] = (distance / noise(medians, strip.read_variance)).reshape(-1, *shape[2:])
    return sigma, electrons


def _iterate(strip, shape, settings):
    """Repeat the iterative search pixel by pixel, for the distances at which hits are rejected.

    Source: stcal ``iterative_jump``: the median of the absolute differences without the largest ones is computed anew
    after each rejection.
    """
    limits = settings.three_group_rejection_threshold, settings.four_group_rejection_threshold
    limits = (*limits, settings.rejection_threshold)
    at_rejection, thresholds = {}, np.full(shape, settings.rejection_threshold)
    with np.errstate(all="ignore"):
        for pixel in range(strip.pixels.size):
            place = divmod(pixel, shape[1])
            values = np.abs(strip.differences[:, pixel].astype(np.float64))
            left = np.flatnonzero(np.isfinite(values))
            thresholds[place] = limits[min(max(len(left), 2), 4) - 2]
            while len(left) >= 2:
                median = _median_without_largest(values[left])
                distance = np.abs(values[left] - median) / noise(np.array([median]), strip.read_variance[pixel])
                if not distance.max() > limits[min(len(left), 4) - 2]:
                    break
                for which in left[distance == distance.max()]:
                    (integration,), (group,) = strip.groups(np.array([which]))
                    at_rejection[int(integration), int(group), *place] = float(distance.max())
                left = left[distance < distance.max()]
    return at_rejection, thresholds


def _median_without_largest(values):
    """Return the median; from four values on without the largest, of two the smaller, as in stcal."""
    if len(values) == 2:
        return values.min()
    kept = values[values < values.max()] if len(values) >= 4 else values
    return np.median(kept) if len(kept) else np.nan
