"""``python -m gpucoron``: the command line."""

import sys

from gpucoron.cli import main

sys.exit(main())
