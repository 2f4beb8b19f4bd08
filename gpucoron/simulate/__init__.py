"""Simulate coronagraphic exposures with a known truth, and their reference files in the format of CRDS."""

from gpucoron.simulate.exposures import Effects, Simulation, Truth, simulate
from gpucoron.simulate.later_references import write_later_references
from gpucoron.simulate.references import ReferenceOptions, write_references
from gpucoron.simulate.scenes import SCENES, Scene

__all__ = [
    "SCENES",
    "Effects",
    "ReferenceOptions",
    "Scene",
    "Simulation",
    "Truth",
    "simulate",
    "write_later_references",
    "write_references",
]
