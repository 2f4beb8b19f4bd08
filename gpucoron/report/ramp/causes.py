"""Causes of the flags that a step set in the groups of one pixel, found with the NumPy definition of the step."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucoron import dq
from gpucoron.backends.operations.saturation import SaturationSettings
from gpucoron.backends.operations.saturation import definition as saturation
from gpucoron.io.references import load_references
from gpucoron.report.ramp.jump_causes import JumpSearch
from gpucoron.steps.saturation import prepare_threshold

#: names of the flags of pixels and groups
FLAGS = dq.flags_by_name()
_GROUP_FLAGS = {name: value for name, value in FLAGS.items() if value < dq.RESERVED}


def flag_names(flags):
    """Return the names of the flags in a number, in the order of their bits.

    Examples
    --------
    >>> flag_names(5)
    ['DO_NOT_USE', 'JUMP_DET']
    """
    return [name for name, value in FLAGS.items() if int(flags) & value]


@dataclass(frozen=True)
class Cause:
    """Why a step set a flag in a group.

    Attributes
    ----------
    integration, group : int
        Counted from 0.
    flag : str
        Name of the flag.
    step : str
    text : str
        One sentence.
    origin : (int, int) or None
        The pixel (x, y) in the array from which the flag came, if it is another one.
    """

    integration: int
    group: int
    flag: str
    step: str
    text: str
    origin: tuple | None = None


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The pixels around the traced one, before a step.

    Attributes
    ----------
    box : gpucoron.report.ramp.cut.Box
        In the exposure of the run.
    corner : (int, int)
        The first pixel (x, y), in the array of the whole exposure.
    data : (nints, ngroups, h, w) float32, DN
    groupdq : (nints, ngroups, h, w) uint8
    pixeldq : (h, w) uint32
    """

    box: Any
    corner: tuple
    data: np.ndarray
    groupdq: np.ndarray
    pixeldq: np.ndarray

    def place(self, row, column):
        """Return the pixel (x, y) of the whole exposure."""
        return int(self.corner[0] + column), int(self.corner[1] + row)

    def nearest(self, mask):
        """Return (row, column) of the nearest pixel of a mask (h, w), or None if it is empty."""
        rows, columns = np.nonzero(mask)
        if not rows.size:
            return None
        nearest = np.argmin((rows - self.box.row) ** 2 + (columns - self.box.column) ** 2)
        return int(rows[nearest]), int(columns[nearest])


@dataclass(frozen=True, eq=False)
class StepContext:
    """What the explanation of a step may use.

    Attributes
    ----------
    run : gpucoron.engine.Run
        After the step; its exposure may be a cut one.
    step : str
    around : Neighbourhood
        Before the step.
    store : gpucoron.report.ramp.cut.CutReferences or None
        None for the references of the whole frame.
    """

    run: Any
    step: str
    around: Neighbourhood
    store: Any = None

    @property
    def settings(self):
        """The parameters of the step."""
        return self.run.parameters[self.step]

    def reference(self, reftype, array="data"):
        """Return an array of a reference around the pixel; None if there is none."""
        values = self.frame_reference(reftype, array)
        return None if values is None else np.ascontiguousarray(self.around.box.of(values))

    def frame_reference(self, reftype, array="data"):
        """Return an array of a reference for all pixels of the run's exposure, on the host; None if there is none."""
        path = self.run.reference_path(self.step, reftype)
        if path in (None, "N/A"):
            return None
        reference = load_references(self.run.exposure, {reftype: path}, self.run.backend, self.store)[reftype]
        values = reference.arrays.get(array)
        return None if values is None else self.run.backend.to_host(values)


def explain(context, before, after):
    """List the causes of the flags that a step set in the groups of the pixel.

    Parameters
    ----------
    context : StepContext
    before, after : (nints, ngroups) uint8
        Flags of the pixel.

    Yields
    ------
    Cause
    """
    explainer = _EXPLAINERS.get(context.step, _Explainer)(context)
    new = after & ~before
    for integration, group in np.argwhere(new):
        for name, value in _GROUP_FLAGS.items():
            if new[integration, group] & value:
                text, origin = explainer.say(int(integration), int(group), value)
                place = None if origin is None else context.around.place(*origin)
                if place is not None:
                    text = text.format(pixel=f"({place[0]}, {place[1]})")
                yield Cause(int(integration), int(group), name, context.step, text, place)


class _Explainer:
    """Explains the flags of a step that has no explanation of its own."""

    def __init__(self, context):
        self.context = context

    def say(self, integration, group, flag):
        """Return a sentence, with {pixel} for another pixel, and (row, column) of that pixel or None."""
        return _SIMPLE.get((self.context.step, flag), f"set by {self.context.step}"), None


_SIMPLE = {
    ("lastframe", dq.DO_NOT_USE): "the last group is dropped: the reset of neighbouring rows disturbs it",
    ("firstframe", dq.DO_NOT_USE): "the first group is dropped",
    ("rscd", dq.DO_NOT_USE): "dropped: one of the first groups after a reset",
    ("mask_groups", dq.DO_NOT_USE): "masked: mask_groups names this group",
    ("apply_rateints_outliers", dq.JUMP_DET): "the rate of this integration is an outlier among the integrations",
    ("apply_rateints_outliers", dq.DO_NOT_USE): "the rate of this integration is an outlier among the integrations",
    ("persistence", dq.PERSISTENCE): "a bright source was seen by this pixel shortly before",
    ("persistence", dq.DO_NOT_USE): "a bright source was seen by this pixel shortly before (persistence_dnu)",
    ("experimental_jumpramp", dq.JUMP_DET): "the likelihood fit rejected the difference to the group before",
}


class _ExplainBadPixel(_Explainer):
    """A pixel that the mask, or the user's flags, mark as unusable."""

    def say(self, integration, group, flag):
        row, column = self.context.around.box.row, self.context.around.box.column
        mask = self.context.reference("mask", "dq")
        names = flag_names(mask[row, column]) if mask is not None else []
        if "DO_NOT_USE" in names:
            return f"the mask reference marks the pixel: {', '.join(names)}", None
        return "the flags of dq_init.user_supplied_dq mark the pixel", None


class _ExplainSaturation(_Explainer):
    """Own saturation, growth from a neighbour, hidden saturation, the A/D floor, and RC pixels."""

    def __init__(self, context):
        super().__init__(context)
        around, settings, facts = context.around, context.settings, context.run.exposure.facts
        self.around = around
        data, flags = context.reference("saturation"), context.reference("saturation", "dq")
        self.threshold, self.checked, _ = prepare_threshold(data, 0 if flags is None else flags, backend="numpy")
        self.growth = settings.n_pix_grow_sat
        self.diagonal = settings.grow_diagonal or facts.is_miri
        self.nframes = facts.nframes if settings.use_readpatt else None
        is_rc = (around.pixeldq & dq.RC) != 0
        self.rc = is_rc if settings.flag_rcsat and not facts.is_miri else np.zeros_like(is_rc)
        #: from which group on each pixel is saturated by its own counts
        with np.errstate(invalid="ignore"):
            self.reached = np.logical_or.accumulate(around.data >= self.threshold, axis=1)
        existing = (around.groupdq & dq.SATURATED) != 0
        self.sources = self.reached | existing | self.rc

    def say(self, integration, group, flag):
        row, column = self.around.box.row, self.around.box.column
        value = self.around.data[integration, group, row, column]
        limit = self.threshold[row, column]
        if flag == dq.AD_FLOOR or (flag == dq.DO_NOT_USE and value <= 0):
            return f"at the floor of the A/D converter: {value:.0f} DN is not above 0", None
        if flag == dq.DO_NOT_USE:
            return self._say_hidden(integration, group)
        if self.rc[row, column]:
            return "an RC pixel counts as saturated (saturation.flag_rcsat)", None
        if self.reached[integration, group, row, column]:
            first = int(np.argmax(self.reached[integration, :, row, column]))
            if first == group or value >= limit:
                return f"saturated: {value:.0f} DN reaches the threshold of {limit:.0f} DN", None
            return f"saturated since group {first} of this integration", None
        origin = self.around.nearest(self._within_growth(self.sources[integration, group]))
        return (
            ("set by saturation", None) if origin is None else ("growth of the saturation of the pixel {pixel}", origin)
        )

    def _within_growth(self, mask):
        """Return the pixels of a mask from which flags grow to the pixel."""
        rows, columns = np.indices(mask.shape)
        dy, dx = np.abs(rows - self.around.box.row), np.abs(columns - self.around.box.column)
        distance = np.maximum(dy, dx) if self.diagonal else dy + dx
        return mask & (distance <= self.growth)

    def _say_hidden(self, integration, group):
        """Explain DO_NOT_USE before a saturated group."""
        around = self.around
        flags = around.groupdq[integration].copy()
        settings = SaturationSettings(self.growth, self.nframes, self.diagonal)
        saturation.flag_forward(
            around.data[integration][np.newaxis], flags[np.newaxis], self.threshold, settings.n_pix_square
        )
        before = flags.copy()
        saturation.flag_diluted(around.data[integration], flags, self.threshold, self.checked, 0, self.nframes)
        hidden = ((flags & ~before)[group] & dq.DO_NOT_USE) != 0
        text = "reads of this group saturate, which the mean of its frames hides"
        if hidden[around.box.row, around.box.column]:
            return text, None
        if group == 1 and not hidden.any():
            return "it jumps towards a saturated third group, which the first group did not predict", None
        origin = around.nearest(self._within_growth(hidden))
        return ("set by saturation", None) if origin is None else (f"growth from the pixel {{pixel}}: {text}", origin)


class _ExplainChargeMigration(_Explainer):
    """The signal of the pixel, or of one of its four neighbours."""

    def say(self, integration, group, flag):
        around, limit = self.context.around, self.context.settings.signal_threshold
        usable = around.groupdq[integration] != dq.DO_NOT_USE
        above = np.logical_or.accumulate((around.data[integration] > limit) & usable, axis=0)
        row, column = around.box.row, around.box.column
        if above[group, row, column]:
            first = int(np.argmax(above[:, row, column]))
            value = around.data[integration, first, row, column]
            since = "" if first == group else f" since group {first}"
            return f"loses charge{since}: {value:.0f} DN is above the threshold of {limit:.0f} DN", None
        rows, columns = np.indices(above.shape[1:])
        beside = np.abs(rows - row) + np.abs(columns - column) == 1
        origin = around.nearest(above[group] & beside)
        return (
            ("set by charge_migration", None)
            if origin is None
            else ("neighbour of {pixel}, which loses charge", origin)
        )


class _ExplainJump(_Explainer):
    """A hit, a neighbour of one, a group after one, or a snowball or shower."""

    def __init__(self, context):
        super().__init__(context)
        gain, readnoise = context.reference("gain"), context.reference("readnoise")
        frame_gain = context.frame_reference("gain")
        self.search = JumpSearch.of(context.around, gain, readnoise, context.settings, context.run, frame_gain)

    def say(self, integration, group, flag):
        if flag == dq.JUMP_DET:
            found = self.search.say(integration, group)
            if found is not None:
                return found
        settings = self.context.settings
        events = {"snowball": settings.expand_large_events, "shower": settings.find_showers}
        kinds = " or ".join(name for name, is_on in events.items() if is_on)
        return (f"part of a {kinds}" if kinds else "set by jump"), None


class _ExplainFit(_Explainer):
    """Groups that the fit leaves out."""

    def say(self, integration, group, flag):
        settings, ngroups = self.context.settings, self.context.around.data.shape[1]
        if flag == dq.JUMP_DET:
            return "the likelihood fit rejected the difference to the group before", None
        first, last = settings.firstgroup or 0, settings.lastgroup
        if group < first or (last is not None and last < ngroups - 1 and group > last):
            return "outside of ramp_fit.firstgroup to ramp_fit.lastgroup", None
        return "the only good group of its ramp (ramp_fit.suppress_one_group)", None


_EXPLAINERS = {
    "dq_init": _ExplainBadPixel,
    "saturation": _ExplainSaturation,
    "charge_migration": _ExplainChargeMigration,
    "jump": _ExplainJump,
    "ramp_fit": _ExplainFit,
}
