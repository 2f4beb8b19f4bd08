"""
MIRI: from uncal to a two-roll subtraction
==========================================

A star with a companion behind one of MIRI's four-quadrant masks, at two roll angles, before the bright sky of the
mid-infrared. MIRI's detector has troubles of its own: groups right after a reset that do not follow the line, an
electromagnetic interference (EMI) that paints stripes, cosmic rays that touch many pixels. Each choice of stage 1 is
tried on the same data.
"""

# %%
# Simulate the two rolls
# ----------------------
#
# The speckles belong to the scene and stay; the companion turns; the noise is drawn anew. ``emi=True`` adds the
# interference at 390 Hz. The array is cut to 112 rows, so that this page is built quickly.

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

from gpucoron.cli.summary import step_table
from gpucoron.engine import reduce_file
from gpucoron.simulate import SCENES, Effects, simulate
from gpucoron.simulate.references import write_references

logging.getLogger("gpucoron").setLevel(logging.ERROR)

folder = Path(tempfile.mkdtemp(prefix="gpucoron-tutorial-"))
turned = {"roll 1": (16.0, 10.0), "roll 2": (17.8, 6.1)}  # 13 degrees around the star
rolls = {}
for number, (roll, offset) in enumerate(turned.items(), start=1):
    scene = replace(SCENES["MIRI"], companion_offset=offset, companion_contrast=2e-5)
    rolls[roll] = simulate(
        "MIRI", "MASK1550", "FASTR1", 40, 6, scene=scene, seed=number, observation=number, shape=(112, 288),
        effects=Effects(emi=True),
    )  # fmt: skip

uncals = {roll: simulation.write(folder) for roll, simulation in rolls.items()}
cache = write_references(list(rolls.values()), folder / "crds")
print("\n".join(path.name for path in uncals.values()))

# %%
# Reduce with the default steps
# -----------------------------
#
# For real data, CRDS's parameter files switch ``emicorr`` on for coronagraphs; the simulated cache has none, so here it
# starts switched off.

with cache.activate():
    run, models, files = reduce_file(uncals["roll 1"], folder / "default", overwrite=True)
print(step_table(run))

# %%
# One ramp shows which groups are left out: ``lastframe`` drops the last one, ``rscd`` the first ones of each
# integration.

data = rolls["roll 1"].data.astype(float)
flags = run.exposure.groupdq
row, column = 90, 60
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for integration in (0, 1):
    used = (np.asarray(flags[integration, :, row, column]) & 1) == 0
    groups = np.arange(data.shape[1])
    line = axis.plot(groups, data[integration, :, row, column], "o", mfc="none", label=f"integration {integration + 1}")
    axis.plot(groups[used], data[integration, used, row, column], "o", color=line[0].get_color())
axis.set(xlabel="group", ylabel="DN", title="raw ramps of one pixel; filled: used for the fit")
axis.legend()
plt.show()

# %%
# Try each choice of stage 1
# --------------------------

choices = {
    "jwst's defaults": {},
    "emicorr": {"steps": {"emicorr": {"skip": False}}},
    "emicorr, jumps above 3 sigma": {"steps": {"emicorr": {"skip": False}, "jump": {"rejection_threshold": 3.0}}},
    "emicorr, jumps above 6 sigma": {"steps": {"emicorr": {"skip": False}, "jump": {"rejection_threshold": 6.0}}},
    "emicorr, likelihood fit": {"steps": {"emicorr": {"skip": False}, "ramp_fit": {"algorithm": "LIKELY"}}},
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
# Smoothed to the width of a point source. Red circle: the companion in roll 1; blue: in roll 2.

shown = ["jwst's defaults", "emicorr"]
figure, axes = plt.subplots(len(shown), 1, figsize=(7, 6.5), layout="constrained")
for axis, name in zip(axes, shown, strict=True):
    difference = rates[name, "roll 1"] - rates[name, "roll 2"]
    smooth = gaussian_filter(np.nan_to_num(difference), 1.0)
    image = axis.imshow(smooth, origin="lower", vmin=-3, vmax=3, cmap="RdBu_r", interpolation="nearest")
    axis.set_title(name)
    for roll, colour in (("roll 1", "tab:red"), ("roll 2", "tab:blue")):
        axis.plot(*rolls[roll].truth.companion, "o", mfc="none", mec=colour, ms=16)
figure.colorbar(image, ax=axes, label="DN/s", shrink=0.7)
plt.show()

# %%
# How faint can a companion be?
# -----------------------------
#
# As in the tutorial on NIRCam: circles of 2.5 pixels all around the star, five times their scatter, and the companion
# measured in both of its places. The last column is the scatter from row to row.

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


separations = np.array([10, 15, 20, 25, 30, 40])
places = [rolls[roll].truth.companion for roll in ("roll 1", "roll 2")]


def companion_of(difference):
    """Half the difference of the companion's two places in one roll less the other, DN/s."""
    return (measure(difference, places[0]) - measure(difference, places[1])) / 2


truths = [np.where(simulation.truth.dq & 1, np.nan, simulation.truth.rate) for simulation in rolls.values()]
true = companion_of(truths[0] - truths[1])
figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
print(f"{'choice':<30} 5 sigma at 20 px   companion (truth {true:.1f} DN/s)   rows")
for name in choices:
    difference = rates[name, "roll 1"] - rates[name, "roll 2"]
    limits = [limit_at(difference, separation) for separation in separations]
    print(f"{name:<30} {limits[2]:10.2f} DN/s   {companion_of(difference):8.2f}{stripes_of(difference):24.3f}")
    axis.plot(separations * 0.11, limits, "o-", label=name)
axis.set(xlabel="separation, arcsec", ylabel="5 sigma in a circle, DN/s", yscale="log")
axis.legend(fontsize=8)
plt.show()
