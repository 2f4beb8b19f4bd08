"""``gpucoron demo``: reduce simulated exposures offline and compare the rates with the truth.

One NIRCam and one MIRI exposure are simulated with a CRDS cache; both are reduced like real exposures, with references
looked up in that cache.
"""

import time
from pathlib import Path

from gpucoron.cli.options import add_backend, add_verbosity


def add_parser(commands):
    """Add the command to the command line."""
    demo = commands.add_parser(
        "demo",
        help="simulate and reduce one NIRCam and one MIRI exposure, offline",
        description="Simulate one NIRCam and one MIRI exposure with matching references, reduce both without network, "
        "and compare the rates with the known truth.",
    )
    demo.add_argument("-o", "--output-dir", default="demo", metavar="DIR", help="output folder (default: ./demo)")
    demo.add_argument("--seed", type=int, default=1, help="random seed of the simulation (default: 1)")
    add_backend(demo)
    add_verbosity(demo)
    demo.set_defaults(function=_run)


def _run(options):
    return demo(Path(options.output_dir), seed=options.seed, backend=options.backend, quiet=options.quiet)


def demo(output_dir, *, seed=1, backend="auto", quiet=False):
    """Simulate, reduce, compare with the truth, and plot; return the exit code.

    Parameters
    ----------
    output_dir : Path
        Folder for ``raw/``, ``crds/``, ``stage1/`` and ``demo.png``; created if it does not exist.
    seed : int
        Random seed of all noise.
    backend : str
    quiet : bool
        Print nothing.
    """
    from gpucoron.cli import output, summary
    from gpucoron.engine import reduce_file
    from gpucoron.io.products import prepare_output
    from gpucoron.simulate import simulate, write_references
    from gpucoron.simulate.compare import compare_with_truth, draw

    start = time.perf_counter()
    output_dir = Path(output_dir)
    prepare_output(output_dir, [], overwrite=True)

    say = (lambda text: None) if quiet else output.say

    say("simulating NIRCam SUB320A335R DEEP8, 15 groups x 2 integrations, and MIRI MASK1550 FASTR1, 40 x 4 ...")
    simulations = [
        simulate("NIRCAM", "SUB320A335R", "DEEP8", ngroups=15, nints=2, seed=seed),
        simulate("MIRI", "MASK1550", "FASTR1", ngroups=40, nints=4, seed=seed),
    ]
    raw = output_dir / "raw"
    raw.mkdir(exist_ok=True)
    paths = [simulation.write(raw) for simulation in simulations]
    cache = write_references(simulations, output_dir / "crds")
    say(f"simulated in {time.perf_counter() - start:.1f} s; the references are in {cache.path}\n")

    pictures = []
    with cache.activate():
        for simulation, path in zip(simulations, paths, strict=True):
            run, models, written = reduce_file(path, output_dir / "stage1", backend=backend, overwrite=True)
            say(summary.headline(run))
            say(summary.step_table(run))
            say(compare_with_truth(simulation, models["rate"]))
            say("".join(f"wrote {name}\n" for name in written.values()))
            pictures.append((simulation, models["rate"]))
    picture = output_dir / "demo.png"
    draw(pictures, picture)
    say(f"wrote {picture}: last raw group, rate, flags, and the difference between rate and truth")
    say(f"{time.perf_counter() - start:.1f} s in total")
    return 0
