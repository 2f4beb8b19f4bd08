"""Convert between count rates and jwst's models."""

from dataclasses import replace

import numpy as np

from gpucoron.backends.results import Slopes
from gpucoron.errors import InputError
from gpucoron.io.exposure import Exposure
from gpucoron.io.kept import schema_of
from gpucoron.io.keywords import check_keywords, facts_of

#: attribute of `Slopes` -> attribute of jwst's models
_ARRAYS = {"rate": "data", "dq": "dq", "var_poisson": "var_poisson", "var_rnoise": "var_rnoise", "err": "err"}


def exposure_of_slopes(model):
    """Copy the count rates of an ``ImageModel`` or ``CubeModel`` into an exposure.

    Returns
    -------
    Exposure
        With ``rate`` or ``rateints``. Its ramp has the shape given by the metadata, holds zeros and uses no memory.

    Raises
    ------
    InputError
        The model lacks keywords that stage 1 needs.
    """
    from stdatamodels.jwst import datamodels

    name = model.meta.filename or "the model"
    if not isinstance(model, (datamodels.ImageModel, datamodels.CubeModel)):
        msg = f"{name}: a {type(model).__name__} holds no count rates; give an ImageModel or a CubeModel"
        raise InputError(msg)
    check_keywords(name, model.meta.instrument.name, model.meta.exposure.type, model.meta.exposure.readpatt)
    shape = (model.meta.exposure.nints or 1, model.meta.exposure.ngroups or 1, *model.data.shape[-2:])
    arrays = {ours: getattr(model, theirs) for ours, theirs in _ARRAYS.items()}
    absent = [ours for ours, array in arrays.items() if array is None or np.size(array) == 0]
    arrays |= {ours: np.zeros(model.data.shape) for ours in absent}
    slopes = Slopes(
        **{ours: np.array(array, np.uint32 if ours == "dq" else np.float32) for ours, array in arrays.items()}
    )
    meta = datamodels.RampModel()
    meta.update(model, extra_fits=True)
    return Exposure.without_pixels(
        shape,
        facts_of(name, model, shape),
        meta,
        rate=slopes if model.data.ndim == 2 else None,
        rateints=slopes if model.data.ndim == 3 else None,
    )


def model_of_slopes(exposure, slopes, model_class, backend):
    """Make an ``ImageModel`` or ``CubeModel`` from slopes and the metadata of the exposure."""
    on_host = backend.to_host(slopes)
    # The metadata were validated on reading, and the backends guarantee the types of the arrays.
    model = model_class(validate_on_assignment=False, schema=schema_of(model_class))
    model.update(exposure.meta)
    for ours, theirs in _ARRAYS.items():
        setattr(model, theirs, getattr(on_host, ours))
    model.meta.bunit_data = "DN/s"
    model.meta.bunit_err = "DN/s"
    return model


def take_slopes(exposure, name, model, backend):
    """Replace the slopes and metadata of an exposure by those of a model.

    Parameters
    ----------
    exposure : Exposure
    name : {'rate', 'rateints'}
    model : ImageModel or CubeModel
    backend : Backend
        Where the arrays are needed.

    Raises
    ------
    InputError
        The shape of an array has changed.
    """
    slopes = getattr(exposure, name)
    changed = {}
    for ours, theirs in _ARRAYS.items():
        before = getattr(slopes, ours)
        array = getattr(model, theirs)
        if before.shape != array.shape:
            msg = f"{exposure.name}: a hook returned {theirs} of shape {array.shape}; expected {before.shape}"
            raise InputError(msg)
        changed[ours] = backend.to_device(array.astype(before.dtype, copy=False))
    setattr(exposure, name, replace(slopes, **changed))
    exposure.meta.update(model)
