"""Write the changes since the last release, from the fragments in ``docs/changes``, for the page of changes."""

import subprocess
import sys


def write_unreleased(root, path):
    """Write the text that towncrier would add to ``CHANGELOG.md``, if any; do not rewrite an unchanged file.

    Raises
    ------
    RuntimeError
        A fragment has another name than ``<topic>.<kind>.md``.
    """
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "Unreleased", "--dir", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"docs/changes: name fragments <topic>.<feature|fix|deviation>.md\n{done.stderr}"
        raise RuntimeError(msg)
    _title, _, changes = done.stdout.partition("\n")
    text = "## Unreleased\n" + changes.replace("](docs/", "](") if changes.strip() else ""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
