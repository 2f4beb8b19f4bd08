"""Check the files that a user names, before any library is loaded and before any work."""

import glob
import os
import re

from gpucoron.errors import InputError


def check_inputs(paths, *, advice_for_folder):
    """Check that files exist and may hold ramps. Nothing is read.

    Parameters
    ----------
    paths : iterable of str or Path
    advice_for_folder : str
        What to do with a folder; ``{}`` stands for its name.

    Raises
    ------
    InputError
        Names all files that are missing, folders, or products without ramps, and the way out.
    """
    paths = list(dict.fromkeys(map(str, paths)))
    problems = [f"{path} is a folder; {advice_for_folder.format(path)}" for path in paths if os.path.isdir(path)]
    problems += filter(None, map(describe_product, filter(os.path.isfile, paths)))
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        is_pattern = all(map(glob.has_magic, missing))
        advice = "no file matches this pattern" if is_pattern else "check the name, or give a pattern"
        problems.append(f"{', '.join(missing)}: no such file; {advice}")
    if problems:
        raise InputError("; ".join(problems))


def describe_product(path):
    """Say that a file is a product without ramps, and what to give instead; '' for other names.

    Parameters
    ----------
    path : str or Path
    """
    match = re.fullmatch(r"(.*)_(rate|rateints|cal|calints)(\.fits|\.fits\.gz)", str(path), re.DOTALL)
    if not match:
        return ""
    uncal = f"{match[1]}_uncal{match[3]}"
    return f"{path}: a product without ramps; give the exposure that it was made of, such as {uncal}"
