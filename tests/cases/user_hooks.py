"""User hooks before and after a step: steps, functions and commands, as jwst accepts them."""

import numpy as np
from jwst.stpipe import Step

#: (hook, type of model) in the order of the calls
CALLS = []


class Shift(Step):
    """Add an integer, which float32 holds exactly, to the data."""

    class_alias = "shift"
    spec = "by = float(default=32.0)"

    def process(self, *models):
        """Record the input, and change it in place."""
        for model in models[0] if isinstance(models[0], (tuple, list)) else models:
            CALLS.append((self.parent.name if self.parent else self.name, type(model).__name__))
            model.data += np.float32(self.by)


class Copy(Step):
    """Return a copy with flags, a keyword and a line of history."""

    class_alias = "copying"
    spec = ""

    def process(self, model):
        """Flag the first two rows."""
        result = model.copy()
        flags = result.groupdq if hasattr(result, "groupdq") else result.dq
        flags[..., :2, :] |= 1
        result.meta.target.proposer_name = "by a hook"
        result.add_history_entry("two rows left out by a hook")
        return result


class Crop(Step):
    """Return fewer groups."""

    class_alias = "crop"
    spec = "groups = integer(default=5)"

    def process(self, model):
        """Remove the last groups."""
        result = model.copy()
        result.data = model.data[:, : self.groups]
        result.groupdq = model.groupdq[:, : self.groups]
        result.meta.exposure.ngroups = self.groups
        return result


def double(model):
    """Double the data."""
    result = model.copy()
    result.data = model.data * 2
    return result


def fail(model):
    """Fail."""
    msg = "the user's own fault"
    raise RuntimeError(msg)


def forget(model):
    """Return an object that is not a model."""
    return np.zeros(3)


def crop_data_alone(model):
    """Remove groups of the data but not of the flags."""
    result = model.copy()
    result.data = model.data[:, :4]
    return result
