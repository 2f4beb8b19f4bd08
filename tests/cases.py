"""Simulated exposures for the tests, each with a CRDS cache of its own."""

from dataclasses import dataclass
from pathlib import Path

from gpucoron.simulate import Simulation, simulate
from gpucoron.simulated_crds import CrdsCache
from gpucoron.simulated_references import ReferenceOptions, write_references


@dataclass(frozen=True)
class Case:
    """One simulated exposure on disk."""

    simulation: Simulation
    path: Path
    cache: CrdsCache


class CaseMaker:
    """Makes cases and remembers them: the same call gives the same case."""

    def __init__(self, tmp_path_factory):
        self._factory = tmp_path_factory
        self._made = {}

    def __call__(self, instrument, subarray, readpatt, ngroups, nints, *, options=None, pars=None, **kwargs):
        key = repr((instrument, subarray, readpatt, ngroups, nints, options, pars, sorted(kwargs.items())))
        if key not in self._made:
            folder = self._factory.mktemp(f"{subarray}-{readpatt}-")
            simulation = simulate(instrument, subarray, readpatt, ngroups, nints, **kwargs)
            cache = write_references(
                simulation, folder / "crds", options=ReferenceOptions(**(options or {})), pars=pars
            )
            self._made[key] = Case(simulation, simulation.write(folder), cache)
        return self._made[key]
