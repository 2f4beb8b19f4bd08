"""Exposures of the test databases: simulated NIRCam and MIRI exposures of every type."""

import numpy as np
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from gpucoron.database import create_database
from gpucoron.simulate import simulate

#: instrument -> subarray, read pattern, detector in the file name, key
MODES = {
    "NIRCAM": ("SUB320A335R", "RAPID", "JWST_NIRCAM_NRCALONG_F444W_MASKRND_MASK335R_SUB320A335R"),
    "MIRI": ("MASK1550", "FASTR1", "JWST_MIRI_MIRIMAGE_F1550C_NONE_4QPM_1550_MASK1550"),
}
LYOT = "JWST_MIRI_MIRIMAGE_F2300C_NONE_LYOT_2300_MASKLYOT"
#: columns of spaceKLIP 2.2, in its order: text in columns of objects
COLUMNS = [
    "TYPE", "EXP_TYPE", "DATAMODL", "TELESCOP", "TARGPROP", "TARG_RA", "TARG_DEC", "INSTRUME", "DETECTOR", "FILTER",
    "CWAVEL", "DWAVEL", "PUPIL", "CORONMSK", "EXPSTART", "NINTS", "EFFINTTM", "SUBARRAY", "NUMDTHPT", "XOFFSET",
    "YOFFSET", "APERNAME", "PPS_APER", "PIXSCALE", "PIXAR_SR", "BUNIT", "CRPIX1", "CRPIX2", "MASKCENX", "MASKCENY",
    "STARCENX", "STARCENY", "CROP_SHIFTX", "CROP_SHIFTY", "ALIGN_SHIFT", "CENTER_SHIFT", "ALIGN_MASK", "CENTER_MASK",
    "RA_REF", "DEC_REF", "ROLL_REF", "BLURFWHM", "FITSFILE", "MASKFILE",
]  # fmt: skip
OBJECTS = [
    "TYPE", "EXP_TYPE", "DATAMODL", "TELESCOP", "TARGPROP", "INSTRUME", "DETECTOR", "FILTER", "PUPIL", "CORONMSK",
    "SUBARRAY", "APERNAME", "PPS_APER", "BUNIT", "ALIGN_SHIFT", "CENTER_SHIFT", "ALIGN_MASK", "CENTER_MASK",
    "FITSFILE", "MASKFILE",
]  # fmt: skip
#: (observation, exposure, role, target, integrations, roll, dither) and type of each exposure, in the order of the
#: table. spaceKLIP calls the reference's acquisition SCI_TA, because HD-1 is part of HD-12; all other types agree.
OBSERVED = [
    ((1, 1, "TA", "HD-1", 2, 100.0, (1, 1)), "SCI_TA"),
    ((1, 2, "SCI", "HD-1", 2, 100.0, (1, 1)), "SCI"),
    ((2, 1, "TA", "HD-1", 2, 110.0, (1, 1)), "SCI_TA"),
    ((2, 2, "SCI", "HD-1", 2, 110.0, (1, 1)), "SCI"),
    ((3, 1, "TA", "HD-12", 2, 105.0, (1, 1)), "REF_TA"),
    ((4, 1, "BG", "HD-1-BACKGROUND", 2, 100.0, (1, 1)), "SCI_BG"),
    ((5, 1, "BG", "HD-12-BG", 3, 105.0, (1, 1)), "REF_BG"),
    ((3, 2, "REF", "HD-12", 3, 105.0, (1, 3)), "REF"),
    ((3, 3, "REF", "HD-12", 3, 105.0, (2, 3)), "REF"),
    ((3, 4, "REF", "HD-12", 3, 105.0, (3, 3)), "REF"),
]
RIGHT = [type_ for _what, type_ in OBSERVED]


def observe(folder, instrument, subarray=None, only=None):
    """Simulate the exposures and write them."""
    subarray, readpatt = subarray or MODES[instrument][0], MODES[instrument][1]
    simulations = []
    for (observation, exposure, role, target, nints, roll, dither), _type in (
        OBSERVED if only is None else [OBSERVED[row] for row in only]
    ):
        simulations.append(
            simulate(
                instrument, subarray, readpatt, 2, nints, shape=(16, 20), seed=observation, observation=observation,
                exposure=exposure, role=role, target=target, roll=roll, dither=dither,
                offset=(0.01 * (dither[0] - 1), -0.02 * (dither[0] - 1)),
            )
        )  # fmt: skip
        simulations[-1].write(folder)
    return simulations


def make(paths, **options):
    return create_database("reduced", input_dir=paths, verbose=False, **options)


def names_of(table):
    return [path.rpartition("/")[2] for path in table["FITSFILE"]]


def assert_equal(one, other):
    """Compare databases: keys, columns, types, values, masks."""
    assert list(one.obs) == list(other.obs)
    for key, table in one.obs.items():
        assert table.colnames == other.obs[key].colnames
        for name in table.colnames:
            mine, its = table[name], other.obs[key][name]
            assert mine.dtype == its.dtype, name
            assert mine.unit == its.unit
            assert isinstance(mine, MaskedColumn) == isinstance(its, MaskedColumn)
            for a, b in zip(mine, its, strict=True):
                assert np.ma.is_masked(a) == np.ma.is_masked(b)
                if not np.ma.is_masked(a):
                    np.testing.assert_array_equal(a, b, err_msg=name)


def write_like(path, raw_file, unit, data, **keywords):
    """Write a product with the keywords of a raw exposure."""
    with fits.open(raw_file) as hdus:
        primary, science = fits.PrimaryHDU(header=hdus[0].header), fits.ImageHDU(data, name="SCI")
        primary.header.update(keywords)
        if unit:
            science.header["BUNIT"] = unit
        fits.HDUList([primary, science]).writeto(path, overwrite=True)
    return path


def tables_of(*paths, types=None):
    """Make the smallest database for run_obs: raw files in one concatenation, of type science by default."""
    types = types or ["SCI"] * len(paths)
    return {"K": Table({"FITSFILE": [str(path) for path in paths], "DATAMODL": ["STAGE0"] * len(paths), "TYPE": types})}
