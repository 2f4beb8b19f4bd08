"""Plot the ramp of a pixel, and write it as a picture or a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucoron.files import AnyPath, write_whole
from gpucoron.interactive import public
from gpucoron.report import outputs
from gpucoron.report.ramp.page import ramp_page
from gpucoron.report.ramp.picture import draw
from gpucoron.report.ramp.trace import RampTrace, trace_ramp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: ends of the names of files that can be written
KINDS = (".png", ".html")
_RESOLUTION = 150


@public
def plot_ramp(
    path: AnyPath, x: int, y: int, *, integration: int | None = None, output: AnyPath | None = None, **settings: Any
) -> "Figure":
    """Plot the ramp of a pixel: raw and corrected counts, both fits, residuals, and flags.

    Parameters
    ----------
    path : str or Path
        ``*_uncal.fits`` or ``*_ramp.fits``.
    x, y : int
        Column and row in the array, counted from 0.
    integration : int, optional
        Counted from 0; by default the first one with a jump, else the first one.
    output : str or Path, optional
        Also write a ``.png``, or an ``.html`` with the causes of all flags and a row for each step.
    **settings
        ``profile``, ``steps``, ``backend``, ``use_pars``, ``pars`` and parameters of the run, as for
        `gpucoron.reduce_file`: give those of the reduction that you ask about.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ParameterError
        There is no such pixel or integration, it is a reference pixel, or the type of the output is unknown.
    GpucoronError
        As `gpucoron.reduce_file`.
    """
    if output is not None:
        check_output(output)
    trace = trace_ramp(path, x, y, integration=integration, **settings)
    if output is not None:
        write_ramp(trace, output, integration)
    return draw(trace, trace.choose_integration(integration))


@public
def write_ramp(trace: RampTrace, path: AnyPath, integration: int | None = None) -> Path:
    """Write a trace as a picture or a page, completely or not at all.

    Parameters
    ----------
    trace : RampTrace
    path : str or Path
        Its end, ``.png`` or ``.html``, decides on the type.
    integration : int, optional
        Counted from 0; by default the first one with a jump, else the first one.

    Returns
    -------
    Path

    Raises
    ------
    ParameterError, OutputError
    """
    path = check_output(path)
    if path.suffix.lower() == ".html":
        page = ramp_page(trace, integration)
        write_whole(path, lambda file: file.write(page.encode("utf-8")))
    else:
        figure = draw(trace, trace.choose_integration(integration))
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=_RESOLUTION))
    return path


def check_output(path: AnyPath) -> Path:
    """Return the path of a file to write; refuse other types than pictures and pages, and folders that do not exist."""
    return outputs.check_output(path, KINDS)
