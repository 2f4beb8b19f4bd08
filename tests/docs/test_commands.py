"""Every command of every page can be given as it is written: programs, files, targets and options exist."""

import argparse
import re
import tomllib

import pytest

from gpucoron import stpipe_steps
from gpucoron.cli import _parser
from tests.cases.pages import SHELL, blocks_of, commands_in, inline_commands, list_pages
from tests.cases.paths import ROOT

#: programs of others; their arguments are not checked
OTHERS = {
    "export", "cd", ".", "mkdir", "git", "unzip", "printf", "grep", "ssh", "dask", "pre-commit", "g++", "for", "do",
    "done",
}  # fmt: skip
#: pipelines and steps of jwst; a list, because the import of jwst takes seconds
JWSTS = {"calwebb_detector1", "calwebb_image2", "calwebb_coron3", "saturation"}
PYTHONS = ("python", "python3", "python3.11")


def parse_gpucoron(words):
    """Parse the command by gpucoron's own parser."""
    _parser().parse_args(words)


def check_options_of_gpucoron(words):
    """Check the command and the options of a command that leaves out other arguments."""
    if words[0].startswith("-") or words[0] == "COMMAND":
        return _parser().parse_args(["info"])
    commands = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert words[0] in commands
    known = commands[words[0]]._option_string_actions
    assert [word for word in words if word.startswith("-") and word.split("=")[0] not in known] == []


def check_make(words):
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, equals, _ = word.partition("=")
        # a variable, or a target
        pattern = rf"\b{name} [?:]?=|\$\({name}\)|\$\(if \$\({name}\)" if equals else rf"^([\w-]+ )*{name}( [\w-]+)*:"
        assert re.search(pattern, makefile, re.MULTILINE), word


def check_python(words):
    if words[:2] == ["-m", "pytest"]:
        return check_pytest(words[2:])
    if words[:2] == ["-m", "gpucoron"]:
        return check_options_of_gpucoron(words[2:]) if words[2:] else None
    if words[0] == "-m":
        module = words[1]
        if module in ("venv", "build") or module.endswith(".NAME"):
            return None
        path = ROOT / (module.replace(".", "/") + ".py")
    else:
        path = ROOT / words[0]
        path = path / "__main__.py" if path.is_dir() else path
    assert path.is_file()
    texts = "".join(script.read_text() for script in path.parent.glob("*.py"))
    assert [word for word in words[1:] if word.startswith("--") and f'"{word.split("=")[0]}"' not in texts] == []
    return None


def check_pytest(words):
    options = (ROOT / "tests" / "conftest.py").read_text() + (ROOT / "pyproject.toml").read_text()
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m":
            assert f'"{word}: ' in options
        elif word.startswith("--"):
            assert f'"{word}"' in options
        elif "/" in word:
            assert (ROOT / word).exists()


def check_strun(words):
    assert words[0] in JWSTS | {"FILE", "mine.asdf"} | {name for step in stpipe_steps() for name in step[:2]}


def check_pip(words):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        named = re.fullmatch(r"(?:\.|gpucoron|\./gpucoron)\[([\w,]+)\]", word)
        assert named is None or set(named[1].split(",")) <= set(extras)


CHECKS = {
    "gpucoron": parse_gpucoron,
    "make": check_make,
    "pytest": check_pytest,
    "strun": check_strun,
    "pip": check_pip,
    **dict.fromkeys(PYTHONS, check_python),
}
INLINE = {**CHECKS, "gpucoron": check_options_of_gpucoron}


def program_of(words):
    """Name the program of a command, without the folder of the virtual environment."""
    return words[0].removeprefix(".venv/bin/")


@pytest.mark.parametrize("page", list_pages(), ids=lambda path: path.stem)
def test_commands(page):
    for language, text in blocks_of(page):
        if language not in SHELL:
            continue
        if language == "" and not (text.split() and program_of(text.split()) in {*CHECKS, *OTHERS}):
            continue  # something that a program prints, or a list of files
        for words in commands_in(text):
            name = program_of(words)
            assert name in CHECKS or name in OTHERS, f"unknown program: {' '.join(words)}"
            _check(CHECKS, words, page)
    for words in inline_commands(page, INLINE):
        _check(INLINE, words, page)


def _check(checks, words, page):
    """Check a command; say which one it is if that fails."""
    check = checks.get(program_of(words))
    if check is None:
        return
    try:
        check(words[1:])
    except (AssertionError, SystemExit) as error:
        pytest.fail(f"{page.name}: {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    "command",
    [
        "gpucoron run",
        "gpucoron run x_uncal.fits -o stage1 --nonsense",
        "gpucoron nonsense",
        "make nonsense",
        "python benchmarks/nonsense.py",
        "python benchmarks/bench_gpu.py --nonsense",
        "pytest tests/nonsense.py",
        "pytest -m nonsense",
        "strun nonsense x_uncal.fits",
        "pip install '.[nonsense]'",
    ],
)
def test_wrong_commands_are_found(command, capsys):
    (words,) = commands_in(command)
    with pytest.raises((AssertionError, SystemExit)):
        CHECKS[words[0]](words[1:])
