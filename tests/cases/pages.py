"""The examples of the documentation: the code blocks of every page, and the commands in them."""

import re
import shlex

from tests.cases.paths import ROOT

DOCS = ROOT / "docs"
#: pages that are written when the documentation is built are made of tested parts
_WRITTEN = {"parameters.md", "changelog.md"}
#: languages of blocks with commands for a shell
SHELL = ("", "bash", "console", "sh")


def list_pages():
    """List the pages that are written by hand: README, CONTRIBUTING, and all of ``docs`` with its folders."""
    folders = ["", "recipes", "steps"]
    pages = [path for folder in folders for path in sorted((DOCS / folder).glob("*.md")) if path.name not in _WRITTEN]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages]


def blocks_of(page):
    """List the code blocks of a page: (language, text). Blocks inside list items are unindented."""
    found = re.findall(r"^( *)```([\w+-]*)\n(.*?)^\1```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [(language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


def commands_in(text):
    """List the commands of a shell block as words; comments, redirections and assignments before them are removed."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|[&;|]\s|&$", re.sub(r"(^|\s)#.*", "", line)):
            words = shlex.split(part)
            words = words[: words.index(">")] if ">" in words else words
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                commands.append(words)
    return commands


def inline_commands(page, programs):
    """List the commands of some programs in the text of a page, between single backticks."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", text)
    commands = [command for span in spans for command in _split(span) if command[0] in programs]
    return [command for command in commands if len(command) > 1]


def _split(span):
    """Return the commands of a text in backticks, if it can be read as such."""
    try:
        return commands_in(span.replace("\n", " "))
    except ValueError:  # an apostrophe, for example: not a command
        return []
