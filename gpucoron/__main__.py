# PYTHON_ARGCOMPLETE_OK
"""``python -m gpucoron``: the command line."""

import sys

from gpucoron.cli import main

if __name__ == "__main__":
    sys.exit(main())
