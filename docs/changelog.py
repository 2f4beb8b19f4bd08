"""Write the page of changes from the fragments in ``docs/changes``."""

_TITLES = {"feature": "New", "fix": "Fixed", "deviation": "Differences from jwst and spaceKLIP"}


def write_changelog(fragments, path):
    """Gather ``<topic>.<kind>.md`` under a title for each kind; do not rewrite an unchanged page."""
    lines = ["# Changes", "", "## Since the beginning", ""]
    for kind, title in _TITLES.items():
        found = sorted(fragments.glob(f"*.{kind}.md"))
        if found:
            # links are relative to the fragment's folder
            texts = [fragment.read_text().strip().replace("](../", "](") for fragment in found]
            lines += [f"### {title}", ""]
            lines += ["- " + text.replace("\n", "\n  ") for text in texts]
            lines.append("")
    unknown = [
        fragment.name
        for fragment in fragments.glob("*.md")
        if fragment.name != "README.md" and fragment.name.split(".")[-2] not in _TITLES
    ]
    if unknown:
        msg = f"docs/changes/{min(unknown)}: name it <topic>.<kind>.md, kind one of {', '.join(_TITLES)}"
        raise ValueError(msg)
    text = "\n".join(lines)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
