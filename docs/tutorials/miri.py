"""
MIRI: from uncal to a two-roll subtraction
==========================================

A star with a companion is observed behind one of the four-quadrant masks of MIRI, at two roll angles, on the bright
background of the mid-infrared. MIRI has effects that NIRCam lacks: the first groups after a reset deviate from the
ramp, electromagnetic interference (EMI) adds stripes, and a cosmic ray affects many pixels. This page reduces the same
two exposures with different choices of stage 1, and measures how faint a companion can be detected with each.
"""

# %%
# Simulate the two rolls
# ----------------------
#
# Both rolls have the same speckles, and different noise. ``emi=True`` adds the interference at 390 Hz. The array is
# cut to 112 rows to build this page quickly.

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

TURN = 13.0  # degrees between the rolls
folder = Path(tempfile.mkdtemp(prefix="gpucoron-tutorial-"))
scene = replace(SCENES["MIRI"], companion_offset=(16.0, 10.0), companion_contrast=2e-5)
rolls = {
    f"roll {number}": simulate(
        "MIRI", "MASK1550", "FASTR1", 40, 6, scene=scene, roll=roll, seed=number, observation=number, shape=(112, 288),
        effects=Effects(emi=True),
    )
    for number, roll in ((1, 0.0), (2, TURN))
}  # fmt: skip

uncals = {roll: simulation.write(folder) for roll, simulation in rolls.items()}
cache = write_references(list(rolls.values()), folder / "crds")
print("\n".join(path.name for path in uncals.values()))

# %%
# Reduce with the default steps
# -----------------------------
#
# For real data, the parameter files of CRDS switch ``emicorr`` on for coronagraphs. The simulated cache has no such
# files, so ``emicorr`` is skipped here.

with cache.activate():
    run, models, files = reduce_file(uncals["roll 1"], folder / "default", overwrite=True)
print(step_table(run))

# %%
# The ramps of one pixel show which groups are fitted: ``lastframe`` flags the last group, and ``rscd`` the first
# groups of each integration.

data = rolls["roll 1"].data.astype(float)
flags = run.exposure.groupdq
row, column = 90, 60
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for integration in (0, 1):
    used = (np.asarray(flags[integration, :, row, column]) & 1) == 0
    groups = np.arange(data.shape[1])
    line = axis.plot(groups, data[integration, :, row, column], "o", mfc="none", label=f"integration {integration + 1}")
    axis.plot(groups[used], data[integration, used, row, column], "o", color=line[0].get_color())
axis.set(xlabel="group", ylabel="DN", title="raw ramps of one pixel; filled symbols are fitted")
axis.legend()
plt.show()

# %%
# Try each choice of stage 1
# --------------------------
#
# Each choice changes a few parameters; all others keep the defaults of jwst. ``profile="recommended"`` uses the
# likelihood fit, with rules that do not reject good groups of ramps that saturate.

choices = {
    "jwst's defaults": {},
    "emicorr": {"steps": {"emicorr": {"skip": False}}},
    "emicorr, jumps above 3 sigma": {"steps": {"emicorr": {"skip": False}, "jump": {"rejection_threshold": 3.0}}},
    "emicorr, jumps above 6 sigma": {"steps": {"emicorr": {"skip": False}, "jump": {"rejection_threshold": 6.0}}},
    "recommended, with emicorr": {"profile": "recommended", "steps": {"emicorr": {"skip": False}}},
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
# Two of the differences, smoothed to the width of a point source. The circles mark the companion in roll 1 (red) and
# in roll 2 (blue).

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
# How faint a companion can be detected?
# --------------------------------------
#
# As in the tutorial on NIRCam, the flux of the companion is a least-squares fit of its PSF in both places and of a
# constant, and the scatter of the same fit all around the star is its noise. The companion moves by 4.3 pixels
# between the rolls, less than its FWHM of 4.5 pixels. Its two images overlap, so the median of a ring around one of
# them is not its background: such a measurement comes out too bright, by about 10 % here. The fit includes both
# images.

FWHM = rolls["roll 1"].fwhm
ny, nx = rates["jwst's defaults", "roll 1"].shape
star = np.array(rolls["roll 1"].truth.star)
places = [np.array(rolls[roll].truth.companion) for roll in ("roll 1", "roll 2")]


def fit(difference, first, second):
    """Fit a source at `first` in roll 1 and at `second` in roll 2; return its flux in DN/s."""
    low = np.floor(np.minimum(first, second) - 2 * FWHM).astype(int)
    high = np.ceil(np.maximum(first, second) + 2 * FWHM).astype(int) + 1
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
    distances = [np.hypot(x - place[0], y - place[1]) for place in (first, second)]
    sources = [np.exp(-4 * np.log(2) * (r / FWHM) ** 2) * 4 * np.log(2) / np.pi / FWHM**2 for r in distances]
    values = difference[low[1] : high[1], low[0] : high[0]]
    near = (np.minimum(*distances) < 2 * FWHM) & np.isfinite(values)
    model = np.column_stack([(sources[0] - sources[1])[near], np.ones(near.sum())])
    return np.linalg.lstsq(model, values[near], rcond=None)[0][0]


def noise_at(difference, separation):
    """Measure the robust scatter of fits on three rings around a separation, DN/s."""
    fluxes = []
    for radius in separation + np.array([-5, 0, 5]):
        for angle in np.arange(0, 2 * np.pi, 2 * FWHM / radius):
            turned = [angle, angle - np.radians(TURN)]
            pair = [star + radius * np.array([np.cos(one), np.sin(one)]) for one in turned]
            inside = all((one > 3 * FWHM).all() and (one < [nx - 3 * FWHM, ny - 3 * FWHM]).all() for one in pair)
            if inside and all(np.hypot(*(one - place)) > 4 * FWHM for one in pair for place in places):
                fluxes.append(fit(difference, *pair))
    low, high = np.percentile(fluxes, [15.865, 84.135])
    return (high - low) / 2


def stripes_of(difference):
    """Measure the scatter of the medians of neighbouring rows, left and right of the star, DN/s."""
    rows = np.nanmedian(np.hstack([difference[:, :80], difference[:, -80:]]), axis=1)
    return np.std(np.diff(rows)) / np.sqrt(2)


separations = np.array([15, 20, 25, 30, 40])
truths = [np.where(simulation.truth.dq & 1, np.nan, simulation.truth.rate) for simulation in rolls.values()]
true = fit(truths[0] - truths[1], *places)
figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
print(f"{'choice':<30} 5 sigma at 20 px   companion (truth {true:.1f} DN/s)   rows")
for name in choices:
    difference = rates[name, "roll 1"] - rates[name, "roll 2"]
    noise = np.array([noise_at(difference, separation) for separation in separations])
    flux, error = fit(difference, *places), np.interp(np.hypot(*(places[0] - star)), separations, noise)
    print(f"{name:<30} {5 * noise[1]:10.1f} DN/s {flux:12.1f} +- {error:.1f}{stripes_of(difference):19.3f}")
    axis.plot(separations * 0.11, 5 * noise, "o-", label=name)
axis.set(xlabel="separation, arcsec", ylabel="5 sigma, DN/s", yscale="log")
axis.legend(fontsize=8)
plt.show()

# %%
# What the numbers say
# --------------------
#
# - **The flux.** The choices give 165 to 169 DN/s with an error of 11 to 13 DN/s, about 1.4 standard deviations above
#   the true 150.3 DN/s. They deviate together, because they share the photons. The deviation is noise: in a simulation
#   without noise, the default steps give 150.4 DN/s, and four pairs with different seeds gave 170, 132, 140 and 154
#   DN/s.
# - **Interference.** ``emicorr`` changes the flux by less than 1 DN/s and leaves the limit as it is. The interference
#   has an amplitude of 8 DN and another phase in each group. The fit averages it over 35 groups and 6 integrations,
#   and what remains is smaller than the photon noise.
# - **Jumps.** A threshold of 3 sigma flags many good groups. It raises the limit by a quarter here, and by 9 +- 8 % in
#   eight pairs with other seeds. The default of 4 sigma and one of 6 sigma give the same limit.
# - **The fit.** The likelihood fit of the recommended settings and the defaults of spaceKLIP agree with the default fit
#   within the errors (0.98 +- 0.02 and 0.99 +- 0.01 times its noise in the eight pairs). The recommended fit gains
#   elsewhere: in pixels that are hit by a cosmic ray (the page on recommended settings).
#
# One pair of exposures cannot show differences below about 10 %. For a real target, reduce with each choice, subtract
# the rolls, and compare.
