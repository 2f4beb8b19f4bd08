"""``gpucoron info``: show versions, backends and the state of CRDS."""

import sys

from gpucoron import __version__
from gpucoron.cli.options import add_verbosity
from gpucoron.errors import GpucoronError


def add_parser(commands):
    """Add the command to the command line."""
    info = commands.add_parser(
        "info",
        help="show versions, backends and CRDS settings",
        description="Show versions, backends and CRDS settings.",
    )
    add_verbosity(info)
    info.set_defaults(function=_run)


def _run(options):
    import os

    from gpucoron.backends import backend_status
    from gpucoron.io.versions import RANGES, describe, installed

    print(f"gpucoron {__version__}, Python {sys.version.split()[0]}")
    for package in ("jwst", "stcal", "stdatamodels", "crds", "numpy", "scipy", "astropy"):
        remark = describe(package)[1] if package in RANGES else ""
        print(f"  {package} {installed(package) or 'not installed'}{remark and f' ({remark})'}")
    print("backends")
    for name, (usable, reason) in backend_status().items():
        print(f"  {name}: {'usable' if usable else 'not usable'} ({reason})")
    print("CRDS")
    print(f"  CRDS_PATH {os.environ.get('CRDS_PATH', 'not set (CRDS uses /grp/crds/cache)')}")
    print(f"  CRDS_SERVER_URL {os.environ.get('CRDS_SERVER_URL', 'not set (CRDS uses its cache only)')}")
    try:
        from gpucoron.io.crds_lookup import crds_context

        print(f"  context {crds_context()[0]}")
    except GpucoronError as error:
        print(f"  context: none ({error})")
    return 0
