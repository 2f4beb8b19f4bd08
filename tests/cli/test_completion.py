"""Completion by the Tab key, as bash asks for it: by environment variables, and by the registered shell function."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpucoron.backends import NAMES
from gpucoron.parameters import PROFILES
from gpucoron.steps import STEPS
from tests.cases.paths import ROOT

#: separates completions in the answer
SEPARATOR = "\x0b"


@pytest.fixture
def program(tmp_path):
    """A folder with the command, as pip installs it."""
    path = tmp_path / "bin" / "gpucoron"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom gpucoron.cli import main\nsys.exit(main())\n")
    path.chmod(0o755)
    return path


def environment(program):
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "HOME": str(program.parent),
    }


def ask(program, line, folder):
    """Ask as the shell function does: the answer comes on file descriptor 8."""
    variables = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": SEPARATOR, "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:"}
    variables |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE_SHELL": "bash"}
    done = subprocess.run(
        ["bash", "-c", '"$0" 8>&1 9>&2 1>/dev/null', str(program)],
        env=environment(program) | variables,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return [completion.strip() for completion in done.stdout.split(SEPARATOR) if completion.strip()]


def test_commands_steps_parameters_and_values(program, tmp_path):
    def completions(line):
        return ask(program, line, tmp_path)

    assert {"run", "batch", "steps", "compare", "cache"} <= set(completions("gpucoron "))
    assert completions("gpucoron ste") == ["steps"]
    assert {"list", "verify", "prefetch", "clear"} <= set(completions("gpucoron cache "))
    assert set(completions("gpucoron run --profile ")) == set(PROFILES)
    assert set(completions("gpucoron run --backend ")) == set(NAMES)
    assert set(completions("gpucoron run --skip ")) == set(STEPS)
    assert completions("gpucoron batch --set jump.rejection_th") == ["jump.rejection_threshold="]
    assert {"ramp_fit.", "refpix."} <= set(completions("gpucoron run --set r"))
    assert "jump.flag_4_neighbors=" in completions("gpucoron run --set jum")
    # the shell has cut the word at the equals sign
    assert set(completions("gpucoron run --set ramp_fit.algorithm=")) == set(
        STEPS["ramp_fit"].known["algorithm"].options
    )
    assert completions("gpucoron run --set jump.skip=t") == ["true"]
    assert completions("gpucoron steps lin") == ["linearity"]
    assert completions("gpucoron simulate N") == ["NIRCAM"]
    assert completions("gpucoron steps run.stage") == ["run.stage_1overf"]


def test_files(program, tmp_path):
    folder = tmp_path / "data"
    (folder / "raw").mkdir(parents=True)
    for name in ("x_uncal.fits", "notes.txt", "pars-jumpstep.asdf"):
        (folder / name).touch()
    assert set(ask(program, "gpucoron run ", folder)) == {"x_uncal.fits", "raw/"}
    assert set(ask(program, "gpucoron run x_uncal.fits -o ", folder)) == {"raw/"}
    assert set(ask(program, "gpucoron run --pars ", folder)) == {"pars-jumpstep.asdf", "raw/"}
    assert set(ask(program, "gpucoron compare x", folder)) == {"x_uncal.fits"}
    assert "--overwrite" in ask(program, "gpucoron run --ov", folder)


@pytest.mark.parametrize(
    ("line", "expected"), [("gpucoron steps line", "linearity "), ("gpucoron run --skip jum", "jump ")]
)
def test_the_registered_function_of_bash(line, expected, program, tmp_path):
    register = shutil.which("register-python-argcomplete", path=environment(program)["PATH"])
    words = line.split()
    script = f"""
eval "$({register} gpucoron)"
function_name=$(complete -p gpucoron | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_LINE='{line}' COMP_POINT={len(line)} COMP_TYPE=9
COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
$function_name gpucoron '{words[-1]}' '{words[-2]}' 2>/dev/null
printf '%s' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script], env=environment(program), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected.strip()


def test_a_normal_start_does_not_import_it(program):
    script = "import sys\nfrom gpucoron.cli import main\nmain(['steps', 'run'])\nprint('argcomplete' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(program), capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_global_completion_finds_the_marker():
    for name in ("__main__.py", "cli/__init__.py"):
        assert b"PYTHON_ARGCOMPLETE_OK" in (ROOT / "gpucoron" / name).read_bytes()[:1024]
