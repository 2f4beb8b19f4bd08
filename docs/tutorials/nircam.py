"""
NIRCam: from uncal to a two-roll subtraction
============================================

A star with a companion, observed behind NIRCam's long-wave mask at two roll angles. Between the rolls the companion
turns around the star and the speckles stay: one roll less the other leaves the companion twice, bright and dark. How
faint a companion can be found depends on what stage 1 did before. Here each of its choices is tried on the same data.
"""

# %%
# Simulate the two rolls
# ----------------------
#
# :func:`gpucoron.simulate.simulate` draws photons, cosmic rays, read noise, kTC and 1/f noise, and writes an ``uncal``
# as the archive would give it. The speckles belong to the scene's own seed, so both rolls have the same ones; all noise
# is drawn anew. The subarray is cut to 128 rows, so that this page is built quickly.

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

from gpucoron.cli.summary import step_table
from gpucoron.engine import reduce_file
from gpucoron.simulate import SCENES, simulate
from gpucoron.simulate.references import write_references

logging.getLogger("gpucoron").setLevel(logging.ERROR)

folder = Path(tempfile.mkdtemp(prefix="gpucoron-tutorial-"))
turned = {"roll 1": (20.0, 12.0), "roll 2": (22.2, 7.2)}  # 13 degrees around the star
rolls = {}
for number, (roll, offset) in enumerate(turned.items(), start=1):
    scene = replace(SCENES["NIRCAM"], star=1e6, background=0.1, companion_offset=offset, companion_contrast=2e-5)
    rolls[roll] = simulate(
        "NIRCAM", "SUB320A335R", "RAPID", 8, 8, scene=scene, seed=number, observation=number, shape=(128, 320)
    )

uncals = {roll: simulation.write(folder) for roll, simulation in rolls.items()}
cache = write_references(list(rolls.values()), folder / "crds")
print("\n".join(path.name for path in uncals.values()))

# %%
# The references that belong to the simulated detector are in a CRDS cache of their own. For real data set ``CRDS_PATH``
# and ``CRDS_SERVER_URL`` instead, and leave ``cache.activate()`` out.
#
# Reduce with the default steps
# -----------------------------
#
# :func:`gpucoron.engine.reduce_file` gives the record of the run, the models and the files. The table says what each
# step did, flagged, or why it did not run.

with cache.activate():
    run, models, files = reduce_file(uncals["roll 1"], folder / "default", overwrite=True)
print(step_table(run))

# %%
# The raw last group shows the bias of the detector more than the sky; the rate shows the sky.

raw, rate = rolls["roll 1"].data[0, -1].astype(float), models["rate"]
linear = 3.0
figure, axes = plt.subplots(3, 1, figsize=(7, 9), layout="constrained")
axes[0].imshow(raw, origin="lower", vmin=np.percentile(raw, 1), vmax=np.percentile(raw, 99))
axes[0].set_title("raw counts, last group of the first integration")
axes[1].imshow(rate.data, origin="lower", norm="symlog", vmin=-linear, vmax=np.nanpercentile(rate.data, 99.9))
axes[1].set_title("rate")
axes[2].imshow((rate.dq & 6) > 0, origin="lower", cmap="gray_r")
axes[2].set_title("saturated, or hit by a cosmic ray")
for axis in axes:
    axis.plot(*rolls["roll 1"].truth.companion, "o", mfc="none", mec="tab:red", ms=14)
plt.show()

# %%
# The companion is inside the red circle, hidden in the halo of the star.
#
# Try each choice of stage 1
# --------------------------
#
# Each choice is a set of parameters; the rest stays at jwst's defaults. ``profile="spaceklip"`` starts from
# spaceKLIP's.

choices = {
    "jwst's defaults": {},
    "pseudo-reference pixels": {"steps": {"refpix": {"nlower": -1, "nupper": -1, "nrow_off": 0}}},
    "1/f on rateints": {"steps": {"subtract_1overf": {"skip": False}}},
    "1/f on groups, kTC removed": {
        "steps": {"subtract_ktc": {"skip": False}, "subtract_1overf": {"skip": False}},
        "stage_1overf": "groups",
    },
    "1/f on rateints, medians": {"steps": {"subtract_1overf": {"skip": False, "model_type": "median"}}},
    "likelihood jumps and fit": {"steps": {"experimental_jumpramp": {"use": True}, "subtract_1overf": {"skip": False}}},
    "spaceKLIP's defaults": {"profile": "spaceklip"},
}

rates = {}
with cache.activate():
    for name, options in choices.items():
        for roll, path in uncals.items():
            _, models, _ = reduce_file(path, folder / "stage1", save_results=False, **options)
            good = (models["rate"].dq & 1) == 0
            rates[name, roll] = np.where(good, models["rate"].data, np.nan)

# %%
# Subtract the rolls
# ------------------
#
# The difference is shown for three of the choices, smoothed to the width of a point source. Red circle: the
# companion in roll 1; blue: in roll 2.

shown = ["jwst's defaults", "1/f on rateints", "1/f on groups, kTC removed"]
figure, axes = plt.subplots(len(shown), 1, figsize=(7, 9), layout="constrained")
for axis, name in zip(axes, shown, strict=True):
    difference = rates[name, "roll 1"] - rates[name, "roll 2"]
    smooth = gaussian_filter(np.nan_to_num(difference), 1.0)
    image = axis.imshow(smooth, origin="lower", vmin=-0.5, vmax=0.5, cmap="RdBu_r", interpolation="nearest")
    axis.set_title(name)
    for roll, colour in (("roll 1", "tab:red"), ("roll 2", "tab:blue")):
        axis.plot(*rolls[roll].truth.companion, "o", mfc="none", mec=colour, ms=16)
figure.colorbar(image, ax=axes, label="DN/s", shrink=0.6)
plt.show()

# %%
# How faint can a companion be?
# -----------------------------
#
# A companion is measured in a circle of 2.5 pixels. The scatter of such circles all around the star, five times, is the
# limit; the companion itself is measured too, half the difference of its two places. The last column is the scatter
# from row to row.

RADIUS = 2.5
ny, nx = rates["jwst's defaults", "roll 1"].shape
y, x = np.indices((ny, nx))
star = np.array(rolls["roll 1"].truth.star)


def measure(image, place):
    """Sum the circle around a place, over the median of the ring around it, DN/s."""
    distance = np.hypot(x - place[0], y - place[1])
    ring = np.nanmedian(image[(distance > 4) & (distance < 8)])
    inside = image[distance < RADIUS] - ring
    return np.nanmean(inside) * inside.size


def limit_at(image, separation):
    """Five times the robust scatter of circles on three rings around a separation, pixels."""
    rings = [(r, np.arange(0, 2 * np.pi, 2 * RADIUS / r)) for r in separation + np.array([-5, 0, 5])]
    places = star + np.concatenate([r * np.column_stack([np.cos(angles), np.sin(angles)]) for r, angles in rings])
    inside = (places > 8).all(axis=1) & (places < [nx - 9, ny - 9]).all(axis=1)
    ours = [np.hypot(*(places - rolls[roll].truth.companion).T) > 8 for roll in rolls]
    sums = [measure(image, place) for place in places[inside & ours[0] & ours[1]]]
    low, high = np.percentile(sums, [15.865, 84.135])
    return 5 * (high - low) / 2 / np.sqrt(2)


def stripes_of(difference):
    """Scatter of the rows' medians, left and right of the star, against their neighbours', DN/s."""
    rows = np.nanmedian(np.hstack([difference[:, :80], difference[:, -80:]]), axis=1)
    return np.std(np.diff(rows)) / np.sqrt(2)


separations = np.array([10, 15, 20, 25, 30, 40, 50])
places = [rolls[roll].truth.companion for roll in ("roll 1", "roll 2")]


def companion_of(difference):
    """Half the difference of the companion's two places in one roll less the other, DN/s."""
    return (measure(difference, places[0]) - measure(difference, places[1])) / 2


truths = [np.where(simulation.truth.dq & 1, np.nan, simulation.truth.rate) for simulation in rolls.values()]
true = companion_of(truths[0] - truths[1])
figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
print(f"{'choice':<28} 5 sigma at 20 px   companion (truth {true:.2f} DN/s)   rows")
for name in choices:
    difference = rates[name, "roll 1"] - rates[name, "roll 2"]
    limits = [limit_at(difference, separation) for separation in separations]
    print(f"{name:<28} {limits[2]:10.2f} DN/s   {companion_of(difference):8.2f}{stripes_of(difference):24.3f}")
    axis.plot(separations * 0.063, limits, "o-", label=name)
axis.set(xlabel="separation, arcsec", ylabel="5 sigma in a circle, DN/s", yscale="log")
axis.legend(fontsize=8)
plt.show()

# %%
# One pair of exposures shows the direction, not the amount: the page on validation repeats this with many seeds and has
# error bars. For a real target do the same: reduce with each choice, subtract the rolls, compare.
