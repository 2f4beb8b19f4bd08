"""Cut an exposure and its references around a pixel; steps give the same results there as on the whole frame."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpucoron.dq import DO_NOT_USE
from gpucoron.io.references import STORE
from gpucoron.parameters import FROM_FILES
from gpucoron.steps import STEPS
from gpucoron.steps.saturation import UNREACHABLE

#: data and calibration of the added column: any valid values
_PLAIN = 1.0


def needs_frame(name, settings, facts):
    """Return whether a step must run on the whole frame.

    Parameters
    ----------
    name : str
    settings
        Its parameters. Hooks, and arrays for the whole frame, also need the frame.
    facts : Facts
    """
    if settings.skip:
        return False
    has_arrays = any(
        parameter.kind in FROM_FILES and getattr(settings, one) is not None
        for one, parameter in STEPS[name].known.items()
    )
    has_hooks = bool(settings.pre_hooks or settings.post_hooks)
    return has_hooks or has_arrays or STEPS[name].reach(settings, facts) is None


def split_order(order, parameters, facts):
    """Divide the steps of a run.

    Parameters
    ----------
    order : tuple of str
    parameters : dict
        step -> its parameters.
    facts : Facts

    Returns
    -------
    whole : tuple of str
        Up to and including the last step that needs the whole frame.
    local : tuple of str
        All later steps.
    halo : int
        Pixels around a pixel on which the results of the local steps depend.
    """
    n_whole = max((n + 1 for n, name in enumerate(order) if needs_frame(name, parameters[name], facts)), default=0)
    local = order[n_whole:]
    halo = sum(STEPS[name].reach(parameters[name], facts) for name in local if not parameters[name].skip)
    return order[:n_whole], local, halo


@dataclass(frozen=True)
class Box:
    """Rows and columns of a frame around a pixel."""

    rows: slice
    columns: slice
    #: position of the pixel in the box
    row: int
    column: int

    @classmethod
    def around(cls, x, y, halo, shape):
        """Return the box of ``halo`` pixels on each side of the pixel (x, y) of a frame of shape (ny, nx)."""
        ny, nx = shape
        rows = slice(max(0, y - halo), min(ny, y + halo + 1))
        columns = slice(max(0, x - halo), min(nx, x + halo + 1))
        return cls(rows, columns, y - rows.start, x - columns.start)

    def of(self, array):
        """Return this part of an array (..., ny, nx), a view."""
        return array[..., self.rows, self.columns]


def lost_groups(groupdq):
    """Return which groups are DO_NOT_USE in every pixel: (nints, ngroups) bool, on the host."""
    return np.array([[bool(((group & DO_NOT_USE) != 0).all()) for group in integration] for integration in groupdq])


def cut_exposure(exposure, box, backend):
    """Cut an exposure, and add a column on the right that represents all other pixels of the frame.

    Some steps ask whether a group is DO_NOT_USE in every pixel, or every ramp saturated. The additional column has
    DO_NOT_USE in exactly the groups that are lost in the whole frame, so that the answers are the same.

    Parameters
    ----------
    exposure : Exposure
        Not changed.
    box : Box
    backend : Backend
        The one that holds the arrays of the exposure.

    Returns
    -------
    Exposure
        On the host; arrays of (..., h, w + 1). Its facts are those of a subarray at this place.
    """
    lost = lost_groups(exposure.groupdq).astype(np.uint8) * np.uint8(DO_NOT_USE)

    def cut(array, filling=_PLAIN):
        return None if array is None else _with_column(backend.to_host(box.of(array)), filling)

    facts, dark_error = exposure.facts, exposure.dark_error
    known = None not in (facts.xstart, facts.ystart)
    if known:
        corner = {"xstart": facts.xstart + box.columns.start, "ystart": facts.ystart + box.rows.start}
        height, width = (part.stop - part.start for part in (box.rows, box.columns))
        facts = replace(facts, **corner, xsize=width, ysize=height)
    average = exposure.average_dark_current
    return replace(
        exposure,
        data=cut(exposure.data),
        groupdq=cut(exposure.groupdq, lost[..., np.newaxis]),
        pixeldq=cut(exposure.pixeldq, 0),
        zeroframe=cut(exposure.zeroframe),
        facts=facts,
        average_dark_current=cut(average) if np.ndim(average) == 2 else average,
        matched_dark=None,
        dark_error=dark_error and dark_error.gathered(lambda array: cut(array, 0)),
        rate=_cut_slopes(exposure.rate, cut),
        rateints=_cut_slopes(exposure.rateints, cut),
        likelihood_chisq=cut(exposure.likelihood_chisq),
        removed_1overf=cut(exposure.removed_1overf),
        home=None,
    )


def _cut_slopes(slopes, cut):
    if slopes is None:
        return None
    return replace(slopes, **{name: cut(array, 0 if name == "dq" else _PLAIN) for name, array in vars(slopes).items()})


def _with_column(array, filling):
    """Return a contiguous copy with one more column of a value, or of one value per plane."""
    wide = np.empty((*array.shape[:-1], array.shape[-1] + 1), array.dtype)
    wide[..., :-1] = array
    wide[..., -1] = filling
    return wide


@dataclass(frozen=True, eq=False)
class CutReferences:
    """A store of references for a cut exposure, with the interface of `gpucoron.io.references.ReferenceStore`.

    Attributes
    ----------
    whole : Exposure
        The exposure before it was cut, for the references' size.
    box : Box
    backend : Backend
        The one that holds the arrays of the whole exposure.
    """

    whole: Any
    box: Box
    backend: Any

    def get(self, reftype, path, exposure, backend):
        """Return a reference for the pixels of the cut exposure."""
        reference = STORE.get(reftype, path, self.whole, self.backend)
        # the added column must not saturate: that would spread to the pixels beside it
        filling = UNREACHABLE if reftype == "saturation" else _PLAIN
        return replace(reference, **{name: self._cut(array, filling) for name, array in reference.arrays.items()})

    def _cut(self, array, filling):
        if array.dtype.names is not None or array.shape[-2:] != self.whole.data.shape[-2:]:
            return array
        is_flags = array.dtype.kind in "iu"
        return _with_column(self.backend.to_host(self.box.of(array)), 0 if is_flags else filling)
