"""Draw the pictures of the pages: one for each script in ``docs/pictures``, by its function ``draw(path)``."""

import sys
from importlib.util import module_from_spec, spec_from_file_location


def draw_pictures(scripts, folder):
    """Draw ``<script>.png`` for each script of a folder, unless it exists and is newer than its script."""
    folder.mkdir(exist_ok=True)
    sys.path.insert(0, str(scripts))  # the scripts import the module that they share
    try:
        for script in sorted(scripts.glob("[a-z]*.py")):
            picture = folder / f"{script.stem}.png"
            newest = max(path.stat().st_mtime for path in (script, scripts / "_shared.py"))
            if not picture.exists() or picture.stat().st_mtime < newest:
                # Load the script by its path: its name may also be that of a step.
                spec = spec_from_file_location(f"picture_{script.stem}", script)
                module = module_from_spec(spec)
                spec.loader.exec_module(module)
                module.draw(picture)
    finally:
        sys.path.remove(str(scripts))
