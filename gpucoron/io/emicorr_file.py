"""The emicorr reference that the step measures on the fly, as a model."""

from datetime import UTC, datetime


def emicorr_model(contents):
    """Make an ``EmiModel`` with jwst's placeholders for what the schema requires.

    Parameters
    ----------
    contents : dict
        ``frequencies`` and ``subarray_cases``.
    """
    from stdatamodels.jwst import datamodels

    model = datamodels.EmiModel()
    model.frequencies, model.subarray_cases = contents["frequencies"], contents["subarray_cases"]
    model.meta.reftype = "emicorr"
    model.meta.author = "JWST calibration pipeline"
    model.meta.description = "EMI correction file"
    model.meta.pedigree = "GROUND"
    model.meta.useafter = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return model
