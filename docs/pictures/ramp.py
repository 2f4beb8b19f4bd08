"""The ramp of a pixel that a cosmic ray hit, as ``gpucoron ramp`` draws it, and its page.

python docs/pictures/ramp.py [folder]
"""

import logging
import sys
import tempfile
from pathlib import Path

from gpucoron.report.ramp import trace_ramp, write_ramp
from gpucoron.simulate import Effects, simulate
from gpucoron.simulate.references import write_references

#: it has a hit of its own, and another one spreads from a neighbour
PIXEL = (52, 16)


def draw(path):
    """Draw the picture, and write the page as ``pages/ramp_example.html`` beside it."""
    logging.getLogger("gpucoron").setLevel(logging.ERROR)
    simulation = simulate(
        "NIRCAM", "SUB320A335R", "RAPID", 16, 3, shape=(64, 64), seed=8, effects=Effects(cosmic_rays=20)
    )
    with tempfile.TemporaryDirectory() as scratch:
        cache = write_references(simulation, Path(scratch) / "crds")
        with cache.activate():
            trace = trace_ramp(simulation.write(scratch), *PIXEL)
    write_ramp(trace, path)
    pages = path.parent / "pages"
    pages.mkdir(exist_ok=True)
    write_ramp(trace, pages / "ramp_example.html")


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "ramp.png")
