"""Check the path of a picture, page or table before the work for it starts."""

from pathlib import Path

from gpucoron.errors import ParameterError
from gpucoron.files import AnyPath, check_folder


def check_output(path: AnyPath, kinds: tuple[str, ...]) -> Path:
    """Return the path of a file to write; refuse other types of file, and folders that cannot be written to.

    Parameters
    ----------
    path : str or Path
    kinds : sequence of str
        The ends of names that can be written, such as '.png'.

    Returns
    -------
    Path

    Raises
    ------
    ParameterError, OutputError
    """
    path = Path(path)
    if path.suffix.lower() not in kinds:
        msg = f"{path}: give a name that ends in {' or '.join(kinds)}"
        raise ParameterError(msg)
    if not path.parent.is_dir():
        msg = f"{path}: there is no folder {path.parent}; create it, or choose another one"
        raise ParameterError(msg)
    check_folder(path.parent)
    return path
