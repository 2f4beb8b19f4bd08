"""Write a comparison as a page, a picture or a table."""

import json
from pathlib import Path

from gpucoron.files import AnyPath, write_whole
from gpucoron.interactive import public
from gpucoron.report import outputs
from gpucoron.report.compare.differences import Comparison

#: ends of the names of files that can be written
KINDS = (".html", ".png", ".json")
_RESOLUTION = 110
#: a picture of more products would be too tall
MOST_DRAWN = 12


def check_output(path: AnyPath) -> Path:
    """Return the path of a file to write; refuse other types of file, and folders that do not exist."""
    return outputs.check_output(path, KINDS)


@public
def write_comparison(comparison: Comparison, path: AnyPath) -> Path:
    """Write a comparison, completely or not at all.

    Parameters
    ----------
    comparison : Comparison
        With maps, for a page or a picture.
    path : str or Path
        Its end decides on the type: ``.html``, ``.png`` (maps of the first changed products) or ``.json``.

    Returns
    -------
    Path

    Raises
    ------
    ParameterError, OutputError
    """
    path = check_output(path)
    if path.suffix.lower() == ".json":
        content = json.dumps(comparison.as_json(), indent=1, allow_nan=False).encode()
        write_whole(path, lambda file: file.write(content + b"\n"))
    elif path.suffix.lower() == ".html":
        from gpucoron.report.compare.page import comparison_page

        content = comparison_page(comparison).encode()
        write_whole(path, lambda file: file.write(content))
    else:
        figure = _picture(comparison)
        write_whole(path, lambda file: figure.savefig(file, format="png", dpi=_RESOLUTION))
    return path


def _picture(comparison):
    """Draw the changed products; without any, a picture that says so."""
    from matplotlib.figure import Figure

    from gpucoron.report.compare.picture import draw_pairs
    from gpucoron.report.compare.text import headline

    changed = [pair for pair in comparison.pairs if pair.maps is not None]
    if changed:
        return draw_pairs(changed[:MOST_DRAWN])
    figure = Figure(figsize=(8, 1.2))
    figure.text(0.02, 0.5, f"no pixel differs\n{headline(comparison)}", va="center", fontsize=9, wrap=True)
    return figure
