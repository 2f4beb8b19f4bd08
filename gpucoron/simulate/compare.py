"""Compare the reduction of a simulated exposure with the truth, in numbers and pictures."""

import numpy as np

from gpucoron import dq
from gpucoron.files import write_whole

_NOT_GOOD = dq.DO_NOT_USE | dq.SATURATED | dq.JUMP_DET


def good_pixels(model):
    """Return the pixels with a valid rate and without DO_NOT_USE, jump or saturation: (ny, nx) bool."""
    return ((model.dq & _NOT_GOOD) == 0) & np.isfinite(model.data) & (model.err > 0)


def pulls(simulation, model):
    """Return (rate - truth) / err of the good pixels: one-dimensional float64."""
    good = good_pixels(model)
    return ((model.data - simulation.truth.rate) / model.err)[good].astype(np.float64)


def compare_with_truth(simulation, model):
    """Return a sentence with the deviations of the rate from the truth."""
    pull = pulls(simulation, model)
    low, middle, high = np.percentile(pull, (15.865, 50, 84.135))
    x, y = (round(value) for value in simulation.truth.companion)
    box = np.s_[y - 1 : y + 2, x - 1 : x + 2]
    measured, true = np.nansum(model.data[box]), simulation.truth.rate[box].sum()
    return (
        f"against the truth: {pull.size:,} good pixels, (rate - truth)/err has median {middle:+.3f} and width "
        f"{(high - low) / 2:.3f}; 3 x 3 pixels on the companion: {measured:.1f} DN/s, truth {true:.1f}"
    )


def draw(pictures, path):
    """Draw one row per exposure: raw last group, rate, flags, residual; a circle marks the companion.

    Parameters
    ----------
    pictures : list of (Simulation, ImageModel)
    path : Path
        Path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3.2 * len(pictures) + 0.6), layout="compressed")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pictures), 4, squeeze=False)
    circle = None
    for row, (simulation, model) in zip(axes, pictures, strict=True):
        for axis, panel in zip(row, _panels(simulation, model), strict=True):
            _draw_panel(figure, axis, *panel)
            (circle,) = axis.plot(*simulation.truth.companion, "o", mfc="none", mec="magenta", mew=2, ms=15)
        row[0].set_ylabel(_describe(simulation), fontsize=14)
    if circle is not None:
        figure.legend([circle], ["position of the simulated companion"], loc="outside lower center", fontsize=13)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=80, bbox_inches="tight"))


def _describe(simulation):
    """Name the instrument, the subarray and the filter of an exposure, in two lines."""
    instrument = {"NIRCAM": "NIRCam"}.get(simulation.subarray.instrument, simulation.subarray.instrument)
    return f"{instrument}\n{simulation.subarray_name}, {simulation.filter}"


def _panels(simulation, model):
    """Return the four pictures of an exposure: title, image, style, label of the colour bar."""
    from matplotlib.colors import BoundaryNorm, ListedColormap, SymLogNorm

    last = simulation.data[0, -1].astype(float)
    rate = np.asarray(model.data)
    linear = max(float(np.nanpercentile(np.abs(rate), 50)), 1e-3)
    stretch = SymLogNorm(linthresh=linear, vmin=-linear, vmax=float(np.nanpercentile(rate, 99.9)))
    classes = ListedColormap(["white", "tab:blue", "tab:orange", "tab:red"])
    flags = np.zeros(rate.shape, int)
    flags[(model.dq & dq.JUMP_DET) != 0] = 1
    flags[(model.dq & dq.SATURATED) != 0] = 2
    flags[(model.dq & dq.DO_NOT_USE) != 0] = 3
    residual = np.where(good_pixels(model), (rate - simulation.truth.rate) / model.err, np.nan)
    counts = {"vmin": np.percentile(last, 1), "vmax": np.percentile(last, 99.5)}
    return [
        ("raw counts, last group", last, counts, "DN"),
        ("rate", rate, {"norm": stretch}, "DN/s"),
        ("flags", flags, {"cmap": classes, "norm": BoundaryNorm(np.arange(-0.5, 4), 4)}, ""),
        ("(rate - truth) / error", residual, {"cmap": "RdBu_r", "vmin": -5, "vmax": 5}, "sigma"),
    ]


def _draw_panel(figure, axis, title, image, style, unit):
    """Draw one image with its title and colour bar."""
    shown = axis.imshow(image, origin="lower", interpolation="nearest", **style)
    axis.set_title(title, fontsize=14)
    axis.set_xticks([])
    axis.set_yticks([])
    bar = figure.colorbar(shown, ax=axis, shrink=0.95)
    bar.set_label(unit, fontsize=12)
    if title == "flags":
        bar.set_ticks(range(4), labels=["good", "cosmic ray", "saturated", "do not use"], fontsize=12)
    elif title == "rate":
        # between zero and the end of the linear part the default ticks overlap
        low, high = shown.norm.linthresh, shown.norm.vmax
        bar.set_ticks([0, *(tick for tick in 10.0 ** np.arange(-3, 5) if low < tick < high)])
