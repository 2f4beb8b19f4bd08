"""Kriging with a wrong power spectrum of the 1/f noise: how much its noise depends on the measured amplitude and slope.

A spectrum is given to the step that differs from the measured one in either the amplitude or the exponent. With another
exponent, the power at one cycle per row is kept, so that it is not the amplitude that is wrong.
"""

from functools import partial

import numpy as np
from common import BACKEND
from corrections import correct_linear

from gpucoron.backends.operations.subtract_1overf.readout import Readout
from gpucoron.steps.kriging_1overf import measure_spectrum
from gpucoron.steps.linear_1overf import group_times

#: integrations and groups, and scene, of the measurement
CASE, SCENE = (1, 10), "halo"


def correct(ramps, center, *, factor=1.0, shift=0.0):
    """Correct the ramps with the measured amplitude times `factor`, and the measured exponent plus `shift`."""
    facts = ramps.facts
    law = measure_spectrum(
        ramps.data, ramps.groupdq, ramps.gain, ramps.readnoise / np.float32(np.sqrt(facts.nframes)),
        group_times(facts, ramps.data.shape[1]), slowaxis=facts.slowaxis, fastaxis=facts.fastaxis, backend=BACKEND,
    ).common  # fmt: skip
    # the series of a subarray with one output runs along the fast axis
    shape = ramps.data.shape[-2:] if abs(facts.slowaxis) == 2 else ramps.data.shape[:-3:-1]
    frequency = 1 / Readout(shape, bin_width=1).period
    amplitude = law.amplitude * factor * frequency**shift
    return correct_linear(ramps, center, "kriging", amplitude=amplitude, exponent=law.exponent + shift)


#: name -> method, as in `corrections.METHODS`; the first is the one with which the others are compared
WRONG = {
    "kriging": partial(correct_linear, model_type="kriging"),
    "amplitude x 2": partial(correct, factor=2.0),
    "amplitude x 0.5": partial(correct, factor=0.5),
    "exponent + 0.2": partial(correct, shift=0.2),
    "exponent - 0.2": partial(correct, shift=-0.2),
}
