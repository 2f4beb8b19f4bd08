"""Parts of the scripts that draw pictures: effects that they switch off, images side by side, and the command."""

import sys
from pathlib import Path

from matplotlib.figure import Figure

#: effects of the simulation that the pictures leave out
QUIET = {"superbias": False, "nonlinearity": False, "saturation": False, "ipc": False, "bad_pixels": False}


def draw_images(path, panels, label, *, figsize=(8, 3.9), rows=1, **style):
    """Draw images with one colour bar, side by side or in rows; ``panels`` is title -> image."""
    figure = Figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(rows, len(panels) // rows, sharex=True, sharey=True, squeeze=False)
    for axis, (title, image) in zip(axes.flat, panels.items(), strict=True):
        shown = axis.imshow(image, origin="lower", interpolation="nearest", **style)
        axis.set_title(title, fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("column")
    for axis in axes[:, 0]:
        axis.set_ylabel("row")
    figure.colorbar(shown, ax=axes, label=label, shrink=0.85)
    figure.savefig(path, dpi=65)


def main(script, draw, measure):
    """Draw ``<script>.png`` into the folder on the command line, and print the numbers of the page."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(script).parents[1] / "_generated"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{Path(script).stem}.png"
    draw(path)
    print(f"wrote {path}")
    measure()
