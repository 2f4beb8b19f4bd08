"""Completion of the command line by the Tab key: ``eval "$(register-python-argcomplete gpucoron)"``."""

import os

#: ends of exposures, of products, and of parameter files
_EXPOSURES = ("fits", "fits.gz")
_PRODUCTS = ("fits",)
_PARAMETER_FILES = ("asdf", "cfg")


def complete(parser):
    """Answer a shell that asks for completions, and end the process; do nothing otherwise.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    _attach(parser)
    # options are offered after a dash, or where nothing else is possible
    argcomplete.autocomplete(parser, always_complete_options=False)


def _attach(parser):
    """Give the arguments of a parser and of its commands their completers."""
    from argcomplete.completers import ChoicesCompleter, DirectoriesCompleter, FilesCompleter

    completers = {
        "settings": complete_settings,
        "skip": complete_steps,
        "name": complete_names,
        "instrument": ChoicesCompleter(("NIRCAM", "MIRI")),
        "files": FilesCompleter(_EXPOSURES),
        "file": FilesCompleter(_EXPOSURES),
        "paths": FilesCompleter(_EXPOSURES),
        "folder": FilesCompleter(_PRODUCTS),
        "first": FilesCompleter(_PRODUCTS),
        "second": FilesCompleter(_PRODUCTS),
        "pars": FilesCompleter(_PARAMETER_FILES),
        "output_dir": DirectoriesCompleter(),
    }
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                _attach(command)
        elif action.dest in completers:
            action.completer = completers[action.dest]


def complete_steps(prefix, **context):
    """List the steps whose name begins with the prefix."""
    from gpucoron.steps import STEPS

    return [name for name in STEPS if name.startswith(prefix)]


def complete_settings(prefix, **context):
    """List the beginnings of settings, STEP.PARAMETER=, and the values of parameters that have only a few."""
    from gpucoron.steps import STEPS

    names = _dotted(prefix, {name: step.known for name, step in STEPS.items()}, end="=")
    name, equals, _value = prefix.partition("=")
    step, _, parameter = name.partition(".")
    if equals and step in STEPS and parameter in STEPS[step].known:
        found = STEPS[step].known[parameter]
        values = ("true", "false") if found.kind == "boolean" else found.options
        names = [f"{name}={value}" for value in values]
    return [name for name in names if name.startswith(prefix)]


def complete_names(prefix, **context):
    """List what ``gpucoron steps`` describes: steps, STEP.PARAMETER, and the run as a whole."""
    from gpucoron.cli.steps import RUN
    from gpucoron.parameters import PIPELINE
    from gpucoron.steps import STEPS

    known = {name: step.known for name, step in STEPS.items()} | {RUN: [one.name for one in PIPELINE]}
    if "." not in prefix:
        return [name for name in known if name.startswith(prefix)]
    return [name for name in _dotted(prefix, known) if name.startswith(prefix)]


def _dotted(prefix, known, end=""):
    """Return STEP.PARAMETER for the step of the prefix; ``STEP.`` for each step while there are several."""
    step, dot, _ = prefix.partition(".")
    fitting = [name for name in known if (name == step if dot else name.startswith(step))]
    # a shell would add a blank after the only completion
    if len(fitting) == 1:
        return [f"{fitting[0]}.{parameter}{end}" for parameter in known[fitting[0]]]
    return [f"{name}." for name in fitting]
