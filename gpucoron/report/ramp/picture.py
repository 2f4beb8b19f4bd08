"""Draw a traced pixel: raw and corrected counts, both fits, residuals and flags."""

import numpy as np

from gpucoron.report.ramp.causes import FLAGS, flag_names

#: flag -> colour, by severity; other flags of groups are purple
_COLOURS = {"SATURATED": "#d1602b", "JUMP_DET": "#2b76d2", "DO_NOT_USE": "#8a8f99", "CHARGELOSS": "#2f8f5b"}
_OTHER = "#8250c4"
_FITS = {"OLS_C": ("#c2255c", "-"), "LIKELY": ("#0b7285", "--")}
_GROUND, _INK = "#ffffff", "#171c24"


def draw(trace, integration):
    """Draw one integration of a trace.

    Parameters
    ----------
    trace : gpucoron.report.ramp.trace.RampTrace
    integration : int

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    final = trace.corrected
    flags, data = final.groupdq[integration], final.data[integration].astype(np.float64)
    names = flag_names(np.bitwise_or.reduce(flags))
    figure = Figure(figsize=(9, 8.4), layout="constrained", facecolor=_GROUND)
    heights = [1.2, 2.6, 1.3, 0.25 + 0.22 * max(1, len(names))]
    raw, ramp, residuals, strip = figure.subplots(4, 1, sharex=True, height_ratios=heights)
    groups = np.arange(len(data))
    detector = "" if trace.detector is None else f"  (detector {trace.detector[0]}, {trace.detector[1]})"
    title = f"{trace.path.name}\npixel {trace.x}, {trace.y}{detector}, integration {integration} of {trace.nints}"
    raw.set_title(title, fontsize=10, loc="left", color=_INK)

    raw.plot(groups, trace.raw.data[integration], "o-", color="#5b6472", markersize=3, linewidth=1)
    raw.set_ylabel("raw (DN)")
    _draw_ramp(ramp, trace, integration, groups, data, flags)
    _draw_residuals(residuals, trace, integration, groups, data, flags)
    _draw_flags(strip, groups, flags, names)
    strip.set_xlabel("group, counted from 0")
    strip.set_xlim(-0.6, len(groups) - 0.4)
    if trace.facts.group_time:
        seconds = trace.facts.group_time
        top = raw.secondary_xaxis(
            "top", functions=(lambda group: (group + 1) * seconds, lambda time: time / seconds - 1)
        )
        top.set_xlabel("time since the reset (s)", fontsize=8)
        top.tick_params(labelsize=8)
    for axes in (raw, ramp, residuals):
        axes.grid(color="#e3e6eb", linewidth=0.6)
        axes.tick_params(labelsize=8)
    return figure


def _draw_ramp(axes, trace, integration, groups, data, flags):
    good = flags == 0
    axes.plot(groups[good], data[good], "o", color=_INK, markersize=4, label="corrected")
    for name in _by_severity(flags):
        flagged = (flags & FLAGS[name]) != 0
        colour = _COLOURS.get(name, _OTHER)
        axes.plot(groups[flagged], data[flagged], "s", color=colour, markersize=5, label=name)
    times = _times(trace, groups)
    for fit in _fits(trace, integration):
        colour, style = _FITS[fit.algorithm]
        label = f"{fit.algorithm}: {fit.rate:.4g} ± {fit.err:.2g} DN/s, χ² = {fit.chisq:.3g} / {fit.ndof}"
        expected = fit.expected(times)
        for part in fit.segments:
            at = slice(part.first, part.last + 1)
            axes.plot(groups[at], expected[at], style, color=colour, linewidth=1.4, label=label)
            label = None
        for part in fit.segments[1:]:
            axes.axvline(part.first - 0.5, color=colour, linewidth=0.6, linestyle=":")
    axes.set_ylabel("corrected (DN)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best", framealpha=0.9)


def _draw_residuals(axes, trace, integration, groups, data, flags):
    times = _times(trace, groups)
    axes.axhline(0, color="#9aa1ad", linewidth=0.8)
    for offset, fit in zip((-0.08, 0.08), _fits(trace, integration), strict=False):
        left = data - fit.expected(times)
        axes.plot(groups + offset, left, "o", color=_FITS[fit.algorithm][0], markersize=3, label=fit.algorithm)
    if np.isfinite(trace.readnoise):
        noise = trace.readnoise / np.sqrt(2)
        axes.axhspan(-noise, noise, color="#dfe7f3", zorder=0, label="read noise of a group")
    axes.set_ylabel("residual (DN)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best", ncols=3, framealpha=0.9)


def _draw_flags(axes, groups, flags, names):
    for row, name in enumerate(names):
        flagged = (flags & FLAGS[name]) != 0
        axes.broken_barh(
            [(group - 0.42, 0.84) for group in groups[flagged]], (row - 0.4, 0.8), color=_COLOURS.get(name, _OTHER)
        )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.tick_params(labelsize=8)
    if not names:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no flags", transform=axes.transAxes, ha="center", va="center", fontsize=8, color="#5b6472")


def _by_severity(flags):
    """List the flags that occur, the gravest last, so that it is drawn on top."""
    order = {name: -number for number, name in enumerate(_COLOURS)}
    return sorted(flag_names(np.bitwise_or.reduce(flags)), key=lambda name: order.get(name, -9))


def _fits(trace, integration):
    return [fit for fit in trace.fits if fit.integration == integration]


def _times(trace, groups):
    return groups * float(trace.facts.group_time or 1.0)
