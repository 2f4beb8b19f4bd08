# PYTHON_ARGCOMPLETE_OK
"""``gpucoron`` and ``python -m gpucoron``: the command line."""

import sys


def main():
    """Run the command line; return the exit code. Ctrl-C is reported in one line also while modules are imported."""
    try:
        from gpucoron.cli import main as run
        from gpucoron.cli.output import prepare_streams

        prepare_streams()
        return run()
    except KeyboardInterrupt:
        print("gpucoron: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
