"""Simulated exposures for the tests, each with its CRDS cache."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpucoron.simulate import Simulation, simulate
from gpucoron.simulate.crds import CrdsCache
from gpucoron.simulate.later_references import write_later_references
from gpucoron.simulate.references import ReferenceOptions, write_references


@dataclass(frozen=True)
class Case:
    """One simulated exposure on disk."""

    simulation: Simulation
    path: Path
    cache: CrdsCache


class CaseMaker:
    """Make and cache simulated exposures: equal calls return the same case."""

    def __init__(self, tmp_path_factory):
        self._factory = tmp_path_factory
        self._made = {}

    def __call__(
        self,
        instrument,
        subarray,
        readpatt,
        ngroups,
        nints,
        *,
        options=None,
        pars=None,
        edit=None,
        mark=None,
        later=False,
        **kwargs,
    ):
        """Simulate and write; ``edit(simulation)`` changes counts, ``mark(groupdq, pixeldq)`` makes it a ramp file.

        With ``later``, the cache also has the references of later stages, for example a flat.
        """
        about = instrument, subarray, readpatt, ngroups, nints, options, pars, edit, mark, later
        key = repr((*about, sorted(kwargs.items())))
        if key not in self._made:
            folder = self._factory.mktemp(f"{subarray}-{readpatt}-")
            simulation = simulate(instrument, subarray, readpatt, ngroups, nints, **kwargs)
            if edit is not None:
                edit(simulation)
            cache = write_references(
                simulation, folder / "crds", options=ReferenceOptions(**(options or {})), pars=pars
            )
            if later:
                cache = write_later_references([simulation], folder / "crds")
            path = simulation.write(folder)
            if mark is not None:
                path = write_ramp(path, mark)
            self._made[key] = Case(simulation, path, cache)
        return self._made[key]


def write_ramp(path, mark):
    """Convert ``*_uncal.fits`` into ``*_ramp.fits`` with the flags that ``mark`` sets."""
    from stdatamodels.jwst.datamodels import RampModel

    ramp = path.with_name(path.name.replace("_uncal", "_ramp"))
    with RampModel(path) as model:
        groupdq, pixeldq = np.zeros(model.data.shape, np.uint8), np.zeros(model.data.shape[2:], np.uint32)
        mark(groupdq, pixeldq)
        model.groupdq, model.pixeldq = groupdq, pixeldq
        model.save(ramp)
    return ramp
