"""Draw what each default step does to a simulated exposure: the image that it changes, and one ramp before and after.

One NIRCam and one MIRI exposure go through the engine; after each step its effect is drawn.
"""

import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gpucoron import dq
from gpucoron.engine import plan, run_steps
from gpucoron.io.exposure import Exposure
from gpucoron.simulate import Effects, simulate
from gpucoron.simulate.references import write_references

#: (exposure, parameters) of the two runs; every step with a picture runs in one of them
_EXPOSURES = (
    (
        ("NIRCAM", "SUB320A335R", "SHALLOW2", 10, 2),
        {"shape": (96, 96), "seed": 4},
        {"charge_migration": {"skip": False, "signal_threshold": 6000.0}},
    ),
    (
        ("MIRI", "MASK1550", "FASTR1", 30, 2),
        {"shape": (96, 96), "seed": 4, "effects": Effects(emi=True)},
        {"firstframe": {"skip": False, "bright_use_group1": False}},
    ),
)
_DATA_STEPS = {"NIRCAM": ("ipc", "superbias", "linearity", "dark_current"), "MIRI": ("reset",)}
_FLAG_STEPS = {
    "NIRCAM": ("dq_init", "charge_migration", "jump", "ramp_fit"),
    "MIRI": ("firstframe", "lastframe", "rscd"),
}


def draw_step_pictures(folder):
    """Draw ``step_<name>.png`` for the default steps, unless they exist and are newer than this file."""
    folder.mkdir(exist_ok=True)
    names = [name for steps in (_DATA_STEPS, _FLAG_STEPS) for group in steps.values() for name in group]
    made = Path(__file__).stat().st_mtime
    pictures = [folder / f"step_{name}.png" for name in names]
    if all(picture.exists() and picture.stat().st_mtime > made for picture in pictures):
        return
    for arguments, options, steps in _EXPOSURES:
        with _quiet():
            _run_and_draw(simulate(*arguments, **options), steps, folder)


def _run_and_draw(simulation, steps, folder):
    instrument = simulation.subarray.instrument
    with tempfile.TemporaryDirectory() as scratch:
        cache = write_references(simulation, Path(scratch) / "crds")
        with cache.activate():
            run = plan(Exposure.read(simulation.write(scratch)), steps=steps, backend="cpu")
            exposure = run.exposure
            before = {"data": exposure.data.copy(), "groupdq": exposure.groupdq.copy()}

            def draw(run, record):
                after = {"data": exposure.data, "groupdq": exposure.groupdq}
                path = folder / f"step_{record.name}.png"
                if record.name in _DATA_STEPS[instrument]:
                    _draw_values(before["data"], after["data"], path)
                elif record.name == "ramp_fit" and instrument == "NIRCAM":
                    _draw_fit(exposure, simulation, path)
                elif record.name in _FLAG_STEPS[instrument]:
                    _draw_flags(before["groupdq"], after["groupdq"], after["data"], path)
                before.update({key: array.copy() for key, array in after.items()})

            run_steps(run, after_step=draw)


def _figure():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, 2)


def _show(figure, axis, image, title, label, **style):
    shown = axis.imshow(image, origin="lower", interpolation="nearest", **style)
    axis.set_title(title, fontsize=10)
    axis.set(xlabel="column", ylabel="row")
    figure.colorbar(shown, ax=axis, label=label, shrink=0.85)


def _draw_values(before, after, path):
    """Left: the change in the group that changed most; right: the change along one ramp."""
    change = after[0] - before[0]
    group = int(np.nanargmax(np.nanstd(change, axis=(1, 2))))
    image = change[group]
    limit = np.nanpercentile(np.abs(image - np.nanmedian(image)), 99)
    middle = float(np.nanmedian(image))
    figure, (left, right) = _figure()
    title = f"after minus before, group {group}"
    _show(figure, left, image, title, "DN", cmap="RdBu_r", vmin=middle - limit, vmax=middle + limit)
    size = np.nan_to_num(np.abs(image - middle))
    size[:, :4] = 0  # the reference pixels of MIRI
    row, column = np.unravel_index(np.argsort(size, axis=None)[int(0.98 * size.size)], size.shape)
    for number in range(len(before)):
        ramp = after[number, :, row, column] - before[number, :, row, column]
        right.plot(ramp, "o-", ms=4, label=f"integration {number + 1}")
    right.set_title(f"after minus before, row {row}, column {column}", fontsize=10)
    right.set(xlabel="group", ylabel="DN")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=65)


def _draw_flags(before, after, data, path):
    """Left: the number of groups that the step flagged; right: a ramp with its flagged groups."""
    new = (after & ~before) != 0
    figure, (left, right) = _figure()
    most = int(np.argmax(new.sum(axis=(1, 2, 3))))
    title = f"groups flagged, integration {most + 1}"
    _show(figure, left, new[most].sum(axis=0), title, "groups", cmap="viridis", vmin=0)
    wanted = np.where(new[most].any(axis=0), data[most].max(axis=0), -np.inf)
    row, column = np.unravel_index(np.argmax(wanted), wanted.shape)
    groups = np.arange(data.shape[1])
    for number in range(len(data)):
        ramp, mark = data[number, :, row, column], new[number, :, row, column]
        line = right.plot(groups, ramp, "-", lw=0.8, label=f"integration {number + 1}")[0]
        right.plot(groups[~mark], ramp[~mark], "o", color=line.get_color(), ms=4)
        right.plot(groups[mark], ramp[mark], "o", color=line.get_color(), mfc="white", ms=6)
    right.set_title(f"row {row}, column {column}; open symbols: flagged", fontsize=10)
    right.set(xlabel="group", ylabel="DN")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=65)


def _draw_fit(exposure, simulation, path):
    """Left: the rate; right: a ramp in two segments, with the fitted slope."""
    figure, (left, right) = _figure()
    rate = exposure.rate.rate
    linear = 3 * float(np.nanmedian(np.abs(rate)))
    _show(figure, left, rate, "rate", "DN/s", norm="symlog", vmin=-linear, vmax=np.nanpercentile(rate, 99.9))
    jumped = (exposure.groupdq[0] & dq.JUMP_DET) != 0
    lost = (exposure.groupdq[0] & (dq.DO_NOT_USE | dq.SATURATED)).any(axis=0)
    alone = (jumped.sum(axis=0) == 1) & ~lost & (jumped[4:7].any(axis=0))
    steps = np.where(alone, np.abs(np.diff(exposure.data[0], axis=0)).max(axis=0), -1)
    row, column = np.unravel_index(np.argmax(steps), steps.shape)
    ramp, at = exposure.data[0, :, row, column], int(np.argmax(jumped[:, row, column]))
    time = simulation.group_time * np.arange(1, len(ramp) + 1)
    right.plot(time, ramp, "o", ms=4)
    slope = float(exposure.rateints.rate[0, row, column])
    for part in (slice(0, at), slice(at, None)):
        middle = ramp[part].mean() - slope * time[part].mean()
        right.plot(time[part], middle + slope * time[part], "-")
    right.set_title(f"row {row}, column {column}: {slope:.2f} DN/s", fontsize=10)
    right.set(xlabel="s", ylabel="DN")
    figure.savefig(path, dpi=65)


@contextmanager
def _quiet():
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
