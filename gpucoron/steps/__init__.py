"""The steps of stage 1, one module each, named as jwst and spaceKLIP name them.

A step module holds

- one or more documented array functions, over NumPy or CuPy arrays;
- ``run(exposure, references, parameters, backend) -> Outcome``: the step as the engine runs it. It works in place on
  the exposure's arrays, takes its numbers from ``exposure.facts``, and finds its references by type in
  ``references`` (None where CRDS says N/A).

Steps see arrays and parameters: no FITS, no CRDS, no datamodels.
"""

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What a step did.

    ``status`` is what jwst writes into ``meta.cal_step``: 'COMPLETE', 'SKIPPED' or 'FAILED'. ``reason`` says why a
    step was skipped; ``flagged`` counts what it flagged (name -> number); ``meta`` holds further metadata that jwst's
    step writes (dotted name -> value).
    """

    status: str = "COMPLETE"
    reason: str = ""
    flagged: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)


def skipped(reason, **meta):
    """Make the outcome of a step that did not run."""
    return Outcome("SKIPPED", reason, meta=meta)
