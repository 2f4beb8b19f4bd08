"""Draw the result of a run: the rate, its error, its flags, and the time of each step."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm, SymLogNorm
from matplotlib.figure import Figure

from gpucoron.errors import InputError, ParameterError
from gpucoron.files import write_whole
from gpucoron.records.measures import robust_width, usable
from gpucoron.records.previews import CATEGORIES

#: files that can be written
KINDS = (".png", ".pdf", ".svg")
_RESOLUTION = 150
#: colours of good pixels and of the `CATEGORIES`, by increasing severity
_COLOURS = ("#eef0f3", "#2b76d2", "#d1602b", "#4a4f58")
#: percentiles of the rate at the ends of its colours
_RANGE = (0.5, 99.8)


class NotebookFigure(Figure):
    """A figure that a notebook displays, also where pyplot was not imported."""

    def _repr_png_(self):
        from io import BytesIO

        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def draw_run(run, path=None):
    """Draw the result of a run; see `gpucoron.engine.Run.plot`.

    Parameters
    ----------
    run : Run
        After its last step.
    path : str or Path, optional
        Also write the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    exposure = run.exposure
    if exposure is None or exposure.rate is None:
        name = "the run" if exposure is None else exposure.name
        msg = f"{name}: there is no rate to draw: no ramp was fitted; look at run.records for the reason"
        raise InputError(msg)
    if path is not None:
        path = Path(path)
        if path.suffix.lower() not in KINDS:
            msg = f"{path}: give a name that ends in {', '.join(KINDS[:-1])} or {KINDS[-1]}"
            raise ParameterError(msg)
    host = run.backend.to_host
    rate, err, dq = (np.asarray(host(getattr(exposure.rate, name))) for name in ("rate", "err", "dq"))
    figure = NotebookFigure(figsize=(10, 8), layout="constrained")
    figure.suptitle(exposure.summary, fontsize=10)
    (of_rate, of_error), (of_flags, of_steps) = figure.subplots(2, 2)
    _draw_rate(figure, of_rate, usable(rate, dq))
    _draw_error(figure, of_error, usable(err, dq))
    _draw_flags(figure, of_flags, dq)
    _draw_steps(of_steps, run)
    if path is not None:
        kind = path.suffix.lower()[1:]
        write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=_RESOLUTION))
    return figure


def _draw_image(figure, axes, title, image, unit, norm):
    colours = colormaps["magma"].with_extremes(bad="#b9bec7")
    shown = axes.imshow(image, origin="lower", norm=norm, cmap=colours, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)
    figure.colorbar(shown, ax=axes, label=unit, shrink=0.85)


def _draw_rate(figure, axes, rate):
    finite = rate[np.isfinite(rate)]
    low, high = np.percentile(finite, _RANGE) if finite.size else (0.0, 1.0)
    width = robust_width(finite) if finite.size else 1.0
    # linear within the noise around zero
    linear = max(float(width), 1e-6 * float(np.abs([low, high]).max()), 1e-12)
    norm = SymLogNorm(linthresh=linear, vmin=float(low), vmax=max(float(high), float(low) + linear))
    _draw_image(figure, axes, "rate (grey: not usable)", rate, "DN/s", norm)


def _draw_error(figure, axes, err):
    positive = err[np.isfinite(err) & (err > 0)]
    low, high = np.percentile(positive, _RANGE) if positive.size else (0.1, 1.0)
    norm = LogNorm(vmin=float(low), vmax=max(float(high), 1.001 * float(low)))
    _draw_image(figure, axes, "error of the rate", np.where(err > 0, err, np.nan), "DN/s", norm)


def _draw_flags(figure, axes, dq):
    severity = np.zeros(dq.shape, np.uint8)
    counts = [int(dq.size)]
    for number, flag in enumerate(CATEGORIES.values(), 1):
        is_flagged = (dq & np.uint32(flag)) != 0
        severity[is_flagged] = number
        counts.append(int(np.count_nonzero(is_flagged)))
    counts[0] = int(np.count_nonzero(severity == 0))
    colours = ListedColormap(_COLOURS)
    norm = BoundaryNorm(np.arange(len(_COLOURS) + 1) - 0.5, len(_COLOURS))
    shown = axes.imshow(severity, origin="lower", cmap=colours, norm=norm, interpolation="nearest")
    axes.set_title("most severe flag of each pixel", fontsize=10)
    axes.tick_params(labelsize=8)
    bar = figure.colorbar(shown, ax=axes, ticks=range(len(_COLOURS)), shrink=0.85)
    names = ("good", *CATEGORIES)
    bar.ax.set_yticklabels([f"{name}\n{count:,}" for name, count in zip(names, counts, strict=True)], fontsize=8)


def _draw_steps(axes, run):
    ran = [record for record in run.records if record.status == "COMPLETE"]
    axes.barh(range(len(ran)), [record.seconds for record in ran], color=_COLOURS[1])
    axes.set_yticks(range(len(ran)), [record.name for record in ran], fontsize=8)
    axes.set_ylim(max(1, len(ran)) - 0.5, -0.5)
    axes.set_xlabel("time (s)", fontsize=8)
    axes.set_title(f"steps: {run.seconds:.2f} s", fontsize=10)
    axes.tick_params(labelsize=8)
