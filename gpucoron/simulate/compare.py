"""Compare the reduction of a simulated exposure with the truth, in numbers and pictures."""

import numpy as np

from gpucoron import dq

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
    """Draw one row per exposure: raw last group, rate, flags, residual.

    Parameters
    ----------
    pictures : list of (Simulation, ImageModel)
    path : Path
        Path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import BoundaryNorm, ListedColormap, SymLogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 4.1 * len(pictures)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(pictures), 4, squeeze=False)
    classes = ListedColormap(["white", "tab:blue", "tab:orange", "tab:red"])
    for row, (simulation, model) in zip(axes, pictures, strict=True):
        last = simulation.data[0, -1].astype(float)
        rate = np.asarray(model.data)
        linear = max(float(np.nanpercentile(np.abs(rate), 50)), 1e-3)
        stretch = SymLogNorm(linthresh=linear, vmin=-linear, vmax=float(np.nanpercentile(rate, 99.9)))
        flags = np.zeros(rate.shape, int)
        flags[(model.dq & dq.JUMP_DET) != 0] = 1
        flags[(model.dq & dq.SATURATED) != 0] = 2
        flags[(model.dq & dq.DO_NOT_USE) != 0] = 3
        residual = np.where(good_pixels(model), (rate - simulation.truth.rate) / model.err, np.nan)
        panels = [
            ("raw, last group", last, {"vmin": np.percentile(last, 1), "vmax": np.percentile(last, 99.5)}, "DN"),
            ("rate", rate, {"norm": stretch}, "DN/s"),
            ("flags", flags, {"cmap": classes, "norm": BoundaryNorm(np.arange(-0.5, 4), 4)}, ""),
            ("(rate - truth) / err", residual, {"cmap": "RdBu_r", "vmin": -5, "vmax": 5}, "sigma"),
        ]
        for axis, (title, image, style, unit) in zip(row, panels, strict=True):
            shown = axis.imshow(image, origin="lower", interpolation="nearest", **style)
            axis.set_title(f"{simulation.subarray_name}: {title}")
            axis.plot(*simulation.truth.companion, "o", mfc="none", mec="lime", ms=14)
            bar = figure.colorbar(shown, ax=axis, shrink=0.85, label=unit)
            if title == "flags":
                bar.set_ticks(range(4), labels=["good", "jump", "saturated", "do not use"])
    figure.savefig(path, dpi=80)
