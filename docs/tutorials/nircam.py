"""
NIRCam: from uncal to a two-roll subtraction
============================================

A star with a companion is observed behind a long-wave mask of NIRCam, at two roll angles. The companion turns around
the star between the rolls, and the speckles stay. In the difference of the rolls the companion appears twice: once
bright and once dark. This page reduces the same two exposures with different choices of stage 1, and measures how faint
a companion can be detected with each.
"""

# %%
# Simulate the two rolls
# ----------------------
#
# :func:`gpucoron.simulate.simulate` simulates photons, cosmic rays, read noise, kTC noise and 1/f noise, and writes
# an ``uncal`` file in the format of the archive. Both rolls have the same speckles, and different noise. The subarray
# is cut to 128 rows to build this page quickly.

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

TURN = 13.0  # degrees between the rolls
folder = Path(tempfile.mkdtemp(prefix="gpucoron-tutorial-"))
scene = replace(SCENES["NIRCAM"], star=1e6, background=0.1, companion_offset=(20.0, 12.0), companion_contrast=2e-5)
rolls = {
    f"roll {number}": simulate(
        "NIRCAM", "SUB320A335R", "RAPID", 8, 8,
        scene=scene, roll=roll, seed=number, observation=number, shape=(128, 320),
    )
    for number, roll in ((1, 0.0), (2, TURN))
}  # fmt: skip

uncals = {roll: simulation.write(folder) for roll, simulation in rolls.items()}
cache = write_references(list(rolls.values()), folder / "crds")
print("\n".join(path.name for path in uncals.values()))

# %%
# The references of the simulated detector are in a CRDS cache in the same folder. For real data, set ``CRDS_PATH``
# and ``CRDS_SERVER_URL`` instead, and leave out ``cache.activate()``.
#
# Reduce with the default steps
# -----------------------------
#
# :func:`gpucoron.engine.reduce_file` returns the record of the run, the models and the paths of the products. The
# table lists what each step did and flagged, or why it was skipped.

with cache.activate():
    run, models, files = reduce_file(uncals["roll 1"], folder / "default", overwrite=True)
print(step_table(run))

# %%
# The raw counts of the last group show mostly the bias of the detector. The rate shows the sky. The red circle marks
# the companion, which is hidden in the halo of the star.

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
# Try each choice of stage 1
# --------------------------
#
# Each choice changes a few parameters; all others keep the defaults of jwst. ``profile="recommended"`` has
# pseudo-reference rows and a model of the 1/f noise by kriging; ``profile="spaceklip"`` starts from the defaults of
# spaceKLIP.

choices = {
    "jwst's defaults": {},
    "pseudo-reference pixels": {"steps": {"refpix": {"nlower": -1, "nupper": -1, "nrow_off": 0}}},
    "1/f on rateints": {"steps": {"subtract_1overf": {"skip": False}}},
    "1/f on groups, kTC removed": {
        "steps": {"subtract_ktc": {"skip": False}, "subtract_1overf": {"skip": False}},
        "stage_1overf": "groups",
    },
    "1/f on rateints, medians": {"steps": {"subtract_1overf": {"skip": False, "model_type": "median"}}},
    "likelihood jumps and fit": {"steps": {"experimental_jumpramp": {"use": True}}},
    "recommended": {"profile": "recommended"},
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
# Three of the differences, smoothed to the width of a point source. The circles mark the companion in roll 1 (red)
# and in roll 2 (blue).

shown = ["jwst's defaults", "1/f on rateints", "recommended"]
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
# How faint a companion can be detected?
# --------------------------------------
#
# The flux of the companion is a least-squares fit of its PSF, positive in one place and negative in the other, and of
# a constant. The same fit to pairs of places all around the star measures only noise. Five times the scatter of these
# fits is the detection limit. The last column is the scatter from row to row, which 1/f noise dominates.

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


separations = np.array([10, 15, 20, 25, 30, 40, 50])
truths = [np.where(simulation.truth.dq & 1, np.nan, simulation.truth.rate) for simulation in rolls.values()]
true = fit(truths[0] - truths[1], *places)
figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
print(f"{'choice':<28} 5 sigma at 25 px   companion (truth {true:.2f} DN/s)   rows")
for name in choices:
    difference = rates[name, "roll 1"] - rates[name, "roll 2"]
    noise = np.array([noise_at(difference, separation) for separation in separations])
    flux, error = fit(difference, *places), np.interp(np.hypot(*(places[0] - star)), separations, noise)
    print(f"{name:<28} {5 * noise[3]:10.2f} DN/s {flux:12.2f} +- {error:.2f}{stripes_of(difference):19.3f}")
    axis.plot(separations * 0.063, 5 * noise, "o-", label=name)
axis.set(xlabel="separation, arcsec", ylabel="5 sigma, DN/s", yscale="log")
axis.legend(fontsize=8)
plt.show()

# %%
# What the numbers say
# --------------------
#
# In this pair of exposures, all choices find the companion with its true flux within the error, and their limits agree
# within 10 %. One pair cannot tell them apart. The table has the means of 24 pairs with other seeds, relative to
# jwst's defaults. The flux is a difference, and the true flux is 10.66 DN/s.
#
# ===========================  ==============  ==============  ============  ==============
# choice                       noise at 20 px  noise at 40 px  rows          flux, DN/s
# ===========================  ==============  ==============  ============  ==============
# pseudo-reference pixels      1.00 +- 0.01    1.00 +- 0.01    1.00 +- 0.01  0.00 +- 0.01
# 1/f on rateints              1.02 +- 0.02    0.93 +- 0.02    0.52 +- 0.01  0.03 +- 0.10
# 1/f on groups, kTC removed   1.03 +- 0.02    0.92 +- 0.02    0.51 +- 0.01  0.07 +- 0.12
# 1/f on rateints, medians     0.99 +- 0.02    0.93 +- 0.02    0.74 +- 0.01  0.00 +- 0.09
# likelihood jumps and fit     1.02 +- 0.01    0.98 +- 0.01    0.98 +- 0.01  0.09 +- 0.01
# recommended                  0.98 +- 0.01    0.92 +- 0.02    0.73 +- 0.01  -0.03 +- 0.08
# spaceKLIP's defaults         1.02 +- 0.02    0.93 +- 0.02    0.52 +- 0.01  0.05 +- 0.11
# ===========================  ==============  ==============  ============  ==============
#
# - The Savitzky-Golay filter of ``subtract_1overf`` halves the scatter from row to row, but that is not what limits the
#   detection of companions. Most of the noise is photon noise and read noise: in simulations without 1/f noise, the
#   noise is lower by only 11 +- 3 % at 20 pixels and 8 +- 3 % at 40 pixels. The filter estimates the stripes from noisy
#   images. Near the star this adds as much noise as it removes.
# - The recommended settings leave more of the stripes, namely what cannot be told from the noise of the pixels, and
#   have the lowest noise at both separations.
# - Whether a choice helps depends on the star, the number of groups and the separation. The page on validation repeats
#   this comparison with more seeds, stars and read patterns, and with three times the usual 1/f noise. For a real
#   target, do the same: reduce with each choice, subtract the rolls, and compare.
