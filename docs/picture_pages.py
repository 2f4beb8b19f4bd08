"""Draw the pictures of the pages: one for each script in ``docs/pictures``, by its function ``draw(path)``."""

from importlib.util import module_from_spec, spec_from_file_location


def draw_pictures(scripts, folder):
    """Draw ``<script>.png`` for each script of a folder, unless it exists and is newer than its script."""
    folder.mkdir(exist_ok=True)
    for script in sorted(scripts.glob("*.py")):
        picture = folder / f"{script.stem}.png"
        if not picture.exists() or picture.stat().st_mtime < script.stat().st_mtime:
            # Load the script by its path: its name may also be that of a step.
            spec = spec_from_file_location(f"picture_{script.stem}", script)
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            module.draw(picture)
