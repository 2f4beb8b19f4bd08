"""Run spaceKLIP with gpucoron's stage 1 on simulated observations; pytest does not collect this.

python -m tests.tools.run_with_spaceklip --spaceklip CHECKOUT [--instrument NIRCAM MIRI] [--folder FOLDER]

spaceKLIP is in no package index, so this is run by hand, in an environment as described in docs/with_spaceklip.md. In
order: gpucoron.simulate -> spaceKLIP's create_database -> gpucoron's run_obs -> spaceKLIP's coron2pipeline -> its
ImageTools -> its pyklippipeline -> the planet is measured, and compared with the simulated one. It needs no network:
the data that spaceKLIP's dependencies download on import are replaced by stand-ins (top hats for filters, a black body
for Vega), made below, unless --own-data requests the user's data.
"""

import argparse
import os
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np

#: largest offset of the planet, pixels: pyKLIP assumes square pixels, but scales differ by 1 % (0.2 at 24 pixels)
POSITION = 0.3
#: ... and largest relative error of its flux: KLIP subtracts part of a planet's light with the star, or adds some where
#: the other roll has its mirror image, and this is not corrected here
FLUX = 0.10

#: filters whose names stpsf's classes use first, and those of the coronagraphs and acquisitions
FILTERS = {
    "NIRCam": ("F200W", "F182M", "F210M", "F335M", "F444W", "F460M"),
    "NIRISS": ("F090W", "F444W"),
    "MIRI": ("F560W", "F1065C", "F1140C", "F1550C", "F2300C", "FND"),
}
#: concatenations that create_database makes of the exposures: NIRCam's acquisitions have another filter, and so another
#: concatenation
CONCATENATIONS = {
    "NIRCAM": [["REF", "SCI", "SCI"], ["SCI_TA", "SCI_TA"]],
    "MIRI": [["REF", "REF_BG", "REF_TA", "SCI", "SCI", "SCI_BG", "SCI_TA"]],
}
PACKAGES = ["numpy", "scipy", "astropy", "jwst", "stpipe", "stcal", "stpsf", "webbpsf_ext", "pysiaf", "pyklip"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaceklip", type=Path, metavar="CHECKOUT", help="by default the installed spaceKLIP")
    parser.add_argument("--instrument", nargs="+", default=["NIRCAM", "MIRI"], choices=["NIRCAM", "MIRI"])
    parser.add_argument("--folder", type=Path, help="for all files; must not exist (by default a temporary one)")
    parser.add_argument("--own-data", action="store_true", help="use your STPSF_PATH, WEBBPSF_EXT_PATH and PYSYN_CDBS")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="with-spaceklip-"))
    folder.mkdir(parents=True, exist_ok=bool(arguments.folder is None))
    folder = folder.resolve()
    if not arguments.own_data:
        os.environ.update(make_stand_ins(folder / "stand_ins"))
    if arguments.spaceklip:
        use_checkout(arguments.spaceklip.resolve())

    from gpucoron.coron1pipeline import prepare_spaceklip

    print(prepare_spaceklip())
    print("python", ".".join(map(str, sys.version_info[:3])), *(f"{name} {version_of(name)}" for name in PACKAGES))
    for instrument in arguments.instrument:
        run(instrument, folder / instrument.lower())
    print(f"all files are in {folder}")


def version_of(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not there)"


def use_checkout(checkout):
    """Import spaceKLIP from a checkout, installed or not."""
    if not (checkout / "spaceKLIP" / "database.py").is_file():
        sys.exit(f"{checkout} is no checkout of spaceKLIP: it has no spaceKLIP/database.py")
    sys.path.insert(0, str(checkout))
    if not (checkout / "spaceKLIP" / "_version.py").is_file():  # written by its installation
        from types import ModuleType

        version = ModuleType("spaceKLIP._version")
        version.__version__, version.__version_tuple__ = "(a checkout)", ()
        sys.modules[version.__name__] = version


def make_stand_ins(folder):
    """Make the smallest data with which spaceKLIP's dependencies can be imported; return the environment variables.

    No result below depends on the values: wavelengths are only written into tables and headers.
    """
    from astropy import units as u
    from astropy.io import fits
    from astropy.modeling.models import BlackBody

    stpsf, cdbs = folder / "stpsf", folder / "cdbs"
    for instrument, filters in FILTERS.items():
        (stpsf / instrument / "filters").mkdir(parents=True)
        rows = "".join(f"{name}\t9\n" for name in filters)
        (stpsf / instrument / "filters.tsv").write_text("filter\tnlambda\n" + rows)
        for name in filters:
            center = 13.0 if name == "FND" else float(name[1:-1]) / 100  # micron
            waves = np.linspace(0.8, 1.2, 401) * center
            columns = [
                fits.Column("WAVELENGTH", "D", array=waves * 1e4),
                fits.Column("THROUGHPUT", "D", array=(abs(waves / center - 1) < 0.1).astype(float)),
            ]
            table = fits.BinTableHDU.from_columns(columns)
            table.header["WAVEUNIT"] = "Angstrom"
            table.writeto(stpsf / instrument / "filters" / f"{name}_throughput.fits")
    (stpsf / "version.txt").write_text("99.0.0\n")
    fits.PrimaryHDU().writeto(stpsf / "JWST_OTE_OPD_stand_in.fits")  # it must exist, but is not read

    waves = np.geomspace(900, 3.5e5, 3000) * u.AA
    surface = BlackBody(9600 * u.K)(waves) * 7e-17 * u.sr
    flux = surface.to_value(u.erg / u.s / u.cm**2 / u.AA, u.spectral_density(waves))
    columns = [
        fits.Column("WAVELENGTH", "D", unit="ANGSTROMS", array=waves.value),
        fits.Column("FLUX", "D", unit="FLAM", array=flux),
    ]
    (cdbs / "calspec").mkdir(parents=True)
    fits.BinTableHDU.from_columns(columns).writeto(cdbs / "calspec" / "alpha_lyr_stis_011.fits")
    return {"STPSF_PATH": str(stpsf), "PYSYN_CDBS": str(cdbs), "WEBBPSF_EXT_PATH": str(folder / "webbpsf_ext")}


@contextmanager
def step(name):
    """Print the name of a step and its duration."""
    start = time.perf_counter()
    print(f"-- {name}", flush=True)
    yield
    print(f"   {time.perf_counter() - start:.0f} s", flush=True)


def run(instrument, folder):
    """Process one instrument from raw exposures to the planet."""
    from astropy.io import fits

    from gpucoron import coron1pipeline
    from tests.cases.planets import ROLLS, measure, observe

    with step(f"{instrument}: simulate"):
        observation = observe(instrument, folder)
    with observation.cache.activate():
        with step("spaceKLIP: import, create_database"):
            from spaceKLIP import coron2pipeline, imagetools, pyklippipeline
            from spaceKLIP.database import create_database

            database = create_database(str(folder / "out"), 1386, input_dir=str(folder / "raw"), verbose=False)
            database.verbose = False
            types = {key: sorted(map(str, table["TYPE"])) for key, table in database.obs.items()}
            check(f"the concatenations are {types}", sorted(types.values()) == CONCATENATIONS[instrument])
            key = next(key for key, kinds in types.items() if "SCI" in kinds)
        with step("gpucoron: coron1pipeline.run_obs"):
            coron1pipeline.run_obs(database, quiet=True)
            check("all exposures are of stage 1", column(database, "DATAMODL") == {"STAGE1"})
        with step("spaceKLIP: coron2pipeline.run_obs"):
            coron2pipeline.run_obs(database, quiet=True)
            check("all exposures are of stage 2", column(database, "DATAMODL") == {"STAGE2"})
            check("in MJy/sr", column(database, "BUNIT") == {"MJy/sr"})
        rate_at_zero = fits.getheader(next((folder / "out" / "stage1").glob("*1386001*rateints.fits")), "SCI")

        # NIRCam's acquisitions are no longer needed: the tools fail on a concatenation without any of their types.
        for other in set(database.obs) - {key}:
            del database.obs[other]
        tools = imagetools.ImageTools(database)
        for name, call in list_tools(instrument, tools):
            with step(f"spaceKLIP: ImageTools.{name}"):
                call()
        with step("spaceKLIP: pyklippipeline.run_obs (ADI+RDI, RDI)"):
            options = {"mode": ["ADI+RDI", "RDI"], "numbasis": [3], "annuli": 1, "subsections": 1, "verbose": False}
            pyklippipeline.run_obs(database, kwargs=options, subdir="klipsub")
    rolls = [fits.getval(path, "ROLL_REF", "SCI") for path in find(database, key, "SCI")]
    check(f"the rolls are {rolls}", rolls == list(ROLLS))
    expected = observation.locate(rate_at_zero)
    for mode in ("ADI+RDI", "RDI"):
        (path,) = (folder / "out" / "klipsub").glob(f"{mode}_*-KLmodes-all.fits")
        header, image = fits.getheader(path), fits.getdata(path)[0]
        found = measure(image, (header["PSFCENTX"], header["PSFCENTY"]), expected, observation.fwhm)
        off = float(np.hypot(found.dx - expected[0], found.dy - expected[1]))
        share = found.flux / observation.flux
        print(f"{instrument} {mode}: planet at ({found.dx:.2f}, {found.dy:.2f}), put at ({expected[0]:.2f}, ", end="")
        print(f"{expected[1]:.2f}) pixels; {100 * share:.1f} % of its flux; {found.signal_to_noise:.0f} sigma")
        check(f"within {POSITION} pixels", off < POSITION)
        check(f"flux within {FLUX:.0%}", abs(share - 1) < FLUX)
        check("above 5 sigma", found.signal_to_noise > 5)


def list_tools(instrument, tools):
    """List the image tools that need no network, in the order of spaceKLIP's tutorials."""
    background = [("subtract_background", tools.subtract_background)] if instrument == "MIRI" else []
    method = "sub_median" if instrument == "NIRCAM" else "border"
    return [
        *background,
        ("subtract_median", lambda: tools.subtract_median(types=["SCI", "REF"], method=method)),
        ("find_bad_pixels", lambda: tools.find_bad_pixels(method="dqarr", types=["SCI", "REF"])),
        ("clean_bad_pixels", lambda: tools.clean_bad_pixels(method="timemed+localmed", types=["SCI", "REF"])),
        ("replace_nans", lambda: tools.replace_nans(types=["SCI", "REF"])),
        ("crop_frames", lambda: tools.crop_frames(npix=1, types=["SCI", "REF"])),
        ("pad_frames", lambda: tools.pad_frames(npix=10, types=["SCI", "REF"])),
    ]


def column(database, name):
    """Collect the values of a column over all concatenations."""
    return {str(value) for table in database.obs.values() for value in table[name]}


def find(database, key, kind):
    """List the files of a type."""
    table = database.obs[key]
    return sorted(str(path) for path, found in zip(table["FITSFILE"], table["TYPE"], strict=True) if found == kind)


def check(what, holds):
    """Print a check; exit if it fails."""
    print(f"   {'yes' if holds else 'NO'}: {what}", flush=True)
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
