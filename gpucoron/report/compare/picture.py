"""Draw the maps of changed products: differences of SCI, the same in units of ERR, flags and NaN that changed."""

import numpy as np

from gpucoron.report.compare.measure import GAINED, LOST, NAN_GAINED, NAN_LOST

#: what changed -> colour, the later ones are drawn on top
CHANGES = {
    "flags gained": (GAINED, "#2b76d2"),
    "flags lost": (LOST, "#2f8f5b"),
    "flags gained and lost": (GAINED | LOST, "#8250c4"),
    "no longer NaN": (NAN_LOST, "#e0a100"),
    "became NaN": (NAN_GAINED, "#d1602b"),
}
_MISSING, _GROUND = "#d6dbe2", "#ffffff"
#: longest side of a drawn map; larger ones are reduced by blocks, so that a panel has a point for each
_LONGEST = 320
#: at most so many changed blocks get a ring, so that single pixels are seen
_MOST_RINGS = 40
_PAIR_SIZE = (12.0, 4.4)


def draw_pair(pair):
    """Draw the maps of one product.

    Parameters
    ----------
    pair : PairComparison
        With maps.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=_PAIR_SIZE, layout="constrained", facecolor=_GROUND)
    _fill(figure, pair)
    return figure


def draw_pairs(pairs):
    """Draw the maps of several products below each other."""
    from matplotlib.figure import Figure

    width, height = _PAIR_SIZE
    figure = Figure(figsize=(width, height * len(pairs)), layout="constrained", facecolor=_GROUND)
    for part, pair in zip(np.atleast_1d(figure.subfigures(len(pairs))), pairs, strict=True):
        _fill(part, pair)
    return figure


def _fill(figure, pair):
    """Draw three panels into a figure or a part of one."""
    science, in_err, changes = figure.subplots(1, 3)
    worst = ", each pixel in the integration in which it changed most" if len(pair.shape) == 3 else ""
    figure.suptitle(f"{pair.name}: second - first{worst}", fontsize=10, x=0.01, ha="left")
    unit = next((array.unit for array in pair.arrays if array.name == "SCI"), "")
    _draw_map(science, pair.maps.science, f"SCI ({unit})" if unit else "SCI", pair.maps.science != 0)
    _draw_map(in_err, pair.maps.in_err, "in units of ERR", pair.maps.science != 0)
    _draw_changes(changes, pair.maps.changed)
    for axes in (science, in_err, changes):
        axes.tick_params(labelsize=8)


def _draw_map(axes, image, title, is_changed):
    from matplotlib import colormaps

    reduced = reduce_by_blocks(image)
    sizes = np.abs(reduced[np.isfinite(reduced) & (reduced != 0)])
    limit = float(np.percentile(sizes, 99)) if sizes.size else 1.0
    colours = colormaps["RdBu_r"].with_extremes(bad=_MISSING)
    extent = (-0.5, image.shape[1] - 0.5, -0.5, image.shape[0] - 0.5)
    shown = axes.imshow(
        reduced, origin="lower", cmap=colours, vmin=-limit, vmax=limit, extent=extent, interpolation="nearest"
    )
    axes.set_title(title, fontsize=9, loc="left")
    axes.figure.colorbar(shown, ax=axes, shrink=0.85, extend="both").ax.tick_params(labelsize=8)
    _ring(axes, is_changed & np.isfinite(image))


def _draw_changes(axes, changed):
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    picture = np.ones((*changed.shape, 3))
    handles = []
    for name, (bits, colour) in CHANGES.items():
        of_kind = (changed & bits) == bits
        if bits in (GAINED, LOST):
            of_kind &= (changed & (GAINED | LOST)) == bits
        picture[of_kind] = to_rgb(colour)
        if of_kind.any():
            handles.append(Patch(facecolor=colour, label=f"{name} ({np.count_nonzero(of_kind):,})"))
    side = -(-max(changed.shape) // _LONGEST)
    if side > 1:
        # the darkest pixel of a block is one that has changed
        picture = np.stack([_by_blocks(picture[..., band], side, np.minimum) for band in range(3)], axis=-1)
    extent = (-0.5, changed.shape[1] - 0.5, -0.5, changed.shape[0] - 0.5)
    axes.imshow(picture, origin="lower", extent=extent, interpolation="nearest")
    axes.set_title("flags and NaN (number of pixels)", fontsize=9, loc="left")
    _ring(axes, changed != 0)
    if handles:
        axes.legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    else:
        axes.text(0.5, 0.5, "no change", transform=axes.transAxes, ha="center", va="center", fontsize=9)


def _ring(axes, is_changed):
    """Mark single pixels by rings, if there are few."""
    y, x = np.nonzero(is_changed)
    if 0 < x.size <= _MOST_RINGS:
        axes.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor="#171c24", markeredgewidth=0.7)


def reduce_by_blocks(image):
    """Reduce a large image: each block shows its value with the largest size; NaN only where all values are NaN."""
    side = -(-max(image.shape) // _LONGEST)
    if side == 1:
        return image
    high = _by_blocks(np.where(np.isnan(image), -np.inf, image), side, np.maximum)
    low = _by_blocks(np.where(np.isnan(image), np.inf, image), side, np.minimum)
    largest = np.where(np.abs(high) >= np.abs(low), high, low)
    return np.where(high < low, np.nan, largest)


def _by_blocks(image, side, combine):
    rows = combine.reduceat(image, np.arange(0, image.shape[0], side), axis=0)
    return combine.reduceat(rows, np.arange(0, image.shape[1], side), axis=1)
