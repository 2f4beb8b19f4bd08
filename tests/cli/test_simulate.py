"""``gpucoron simulate``: a programme of two rolls and a reference star, made and reduced as its output says."""

import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from gpucoron.cli import main
from gpucoron.database import create_database
from gpucoron.io.fits_layout import is_whole
from gpucoron.simulate.crds import open_cache
from gpucoron.simulate.photometry import ZERO_POINTS
from tests.cases.full_disk import fill_disk

SMALL = ["--shape", "64x72", "--groups", "6", "--ints", "2"]
PLANET = ["--magnitude", "6", "--contrast", "2e-3", "--separation", "1.2", "--angle", "60"]
STAR = SkyCoord(65.0, -25.0, unit="deg")


@pytest.fixture(scope="module")
def programme(tmp_path_factory):
    """Two rolls and a reference star by three calls; the folder and what the calls printed."""
    folder = tmp_path_factory.mktemp("programme") / "sim"
    calls = (
        ["--observation", "1", "--roll", "100", *PLANET],
        ["--observation", "2", "--roll", "130", *PLANET],
        ["--observation", "3", "--role", "REF", "--magnitude", "5.5", "--pattern", "RAPID", "--target", "HD-1"],
    )
    printed = []
    for options in calls:
        with redirect_stdout(StringIO()) as output:
            assert main(["simulate", "nircam", "-o", str(folder), *SMALL, *options]) == 0
        printed.append(output.getvalue())
    return folder, printed


def test_the_printed_lines_reduce_the_whole_programme(programme):
    folder, printed = programme
    exports = re.findall(r"^  export .*$", printed[0], re.M)
    assert len(exports) == 2
    assert exports == re.findall(r"^  export .*$", printed[2], re.M)
    run = re.search(r"^  gpucoron (run .*)$", printed[0], re.M)[1]
    raw = [str(path) for path in sorted(folder.glob("*_uncal.fits"))]
    run = run.replace(raw[0], " ".join(raw))
    lines = [*exports, f"{sys.executable} -m gpucoron {run} --backend numpy -q"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRDS_")}
    if version("crds").startswith("12."):  # needs it without a server (docs/references.md)
        environment["CRDS_CONTEXT"] = open_cache(folder / "crds").context
    script = "\n".join(lines)
    done = subprocess.run(["bash", "-ec", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    rates = sorted((folder / "stage1").glob("*_rate.fits"))
    database = create_database(output_dir=folder, input_dir=rates, readlevel=1, verbose=False)
    (table,) = database.obs.values()
    assert list(table["TYPE"]) == ["SCI", "SCI", "REF"]
    assert list(table["TARGPROP"]) == ["SIMULATED", "SIMULATED", "HD-1"]
    assert list(table["ROLL_REF"]) == [100.0, 130.0, 0.0]
    assert set(table["DATAMODL"]) == {"STAGE1"}

    # the speckles stay, so the difference of the rolls has the planet twice, where the WCS puts it
    images = [fits.getdata(path, "SCI") for path in rates]
    difference = np.nan_to_num(images[0] - images[1])
    # one warm pixel may be brighter than the planet, but not 3 x 3 pixels
    smooth = sum(np.roll(difference, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    for path, extreme in zip(rates[:2], (smooth.argmax(), smooth.argmin()), strict=True):
        y, x = np.unravel_index(extreme, smooth.shape)
        place = WCS(fits.getheader(path, "SCI"), naxis=2).pixel_to_world(x, y)
        # the brightest pixel is within a pixel of the planet: 0.063 arcsec, 3 degrees
        assert STAR.separation(place).arcsec == pytest.approx(1.2, abs=0.063)
        assert STAR.position_angle(place).deg == pytest.approx(60, abs=3)


def test_the_output_says_saturation_and_noise(programme):
    _folder, printed = programme
    assert re.search(r"saturation: after [0-9.]+ s \(.*\) at the brightest pixel", printed[0])
    assert re.search(r"companion: [0-9.]+ DN/s within 2.3 pixels, S/N [0-9.]+", printed[0])
    assert "companion" not in printed[2]
    assert re.search(r"noise of the rate: [0-9.]+ DN/s per pixel in the background", printed[2])


def test_an_exposure_is_not_replaced(programme, capsys):
    folder, _printed = programme
    path = min(folder.glob("*_uncal.fits"))
    before = path.read_bytes()
    options = ["simulate", "NIRCAM", "-o", str(folder), *SMALL, "--roll", "100", *PLANET]
    assert main(options) == 2
    assert f"{path} exists; give another --observation" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main([*options, "--overwrite", "--seed", "7", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["NIRISS", "-o", "DIR"], "INSTRUMENT: no 'NIRISS'; known: NIRCAM, MIRI"),
        (["-o", "DIR"], "give an instrument and a folder"),
        (["NIRCAM"], "give an instrument and a folder"),
        (["NIRCAM", "-o", "DIR", "--mask", "4QPM_1550"], "--mask: no '4QPM_1550'"),
        (["NIRCAM", "-o", "DIR", "--filter", "F200W"], "--filter: NRCALONG"),
        (["NIRCAM", "-o", "DIR", "--pattern", "FASTR1"], "--pattern: no read pattern"),
        (["NIRCAM", "-o", "DIR", "--groups", "4", "--ints", "2", "--exposure-time", "9"], "--exposure-time: give"),
        (["NIRCAM", "-o", "DIR", "--separation", "1"], "--separation, --angle: give both"),
        (["NIRCAM", "-o", "DIR", "--role", "ref", "--separation", "1", "--angle", "0"], "--separation, --angle: the"),
        (["NIRCAM", "-o", "DIR", "--dither", "6/5"], "--dither: position 6 of 5"),
        (["NIRCAM", "-o", "DIR", "--shape", "400x20"], "--shape: (400, 20) is larger"),
        (["NIRCAM", "-o", "DIR", "--emi"], "--emi: only MIRI"),
        (["MIRI", "-o", "DIR", "--one-over-f", "10"], "--one-over-f: the simulated MIRI has no 1/f noise"),
        (["NIRCAM", "-o", "DIR", "--magnitude", "nan"], "--magnitude: expected a number from -10 to 60 mag, got nan"),
        (["NIRCAM", "-o", "DIR", "--magnitude=-40"], "--magnitude: expected a number from -10 to 60 mag, got -40"),
        (["NIRCAM", "-o", "DIR", "--star", "1e300"], "--star: expected a number from 0"),
        (["NIRCAM", "-o", "DIR", "--contrast", "1e300"], "--contrast: expected a number from 0"),
        (["NIRCAM", "-o", "DIR", "--background", "1e12"], "--background: expected a number from 0 to 1e+09"),
        (["NIRCAM", "-o", "DIR", "--seed=-1"], "--seed: expected a whole number of 0 or more"),
        (["NIRCAM", "-o", "DIR", "--target", "é"], "--target: expected at most 68 printable ASCII"),
        (["NIRCAM", "-o", "DIR", "--roll", "inf"], "--roll: expected a number from -360"),
        (["NIRCAM", "-o", "DIR", "--observation", "1000"], "--observation: expected a whole number from 1 to 999"),
        (["NIRCAM", "-o", "DIR", "--groups", "100000000"], "--groups: expected a whole number from 1 to 32767"),
        (["NIRCAM", "-o", "DIR", "--exposure-time", "1e12"], "--exposure-time: expected seconds above 0, at most"),
        (["NIRCAM", "-o", "DIR", "--exposure-time", "1e6", "--groups", "1"], "--exposure-time: 1e+06 s are 1 groups"),
        (["MIRI", "-o", "DIR", "--groups", "32767", "--ints", "65535"], "--groups, --ints, --exposure-time: 32767"),
        (["NIRCAM", "-o", "DIR", "--cosmic-rays", "1e9"], "--cosmic-rays: expected a number from 0 to 1000"),
        (["MIRI", "-o", "DIR", "--role", "BG", "--star", "3"], "--role BG: a background has no star"),
        (["MIRI", "-o", "DIR", "--role", "BG", "--magnitude", "3"], "--magnitude: a background has no star"),
    ],
)
def test_errors_name_the_option(options, message, tmp_path, capsys):
    folder = tmp_path / "new"
    assert main(["simulate", *(str(folder) if option == "DIR" else option for option in options)]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--groups", "0"], "--groups: expected 1 or more"),
        (["--shape", "80"], "--shape: expected NYxNX"),
        (["--dither", "2"], "--dither: expected N/M"),
        (["--offset", "0.1"], "--offset: expected X,Y"),
        (["--contrast=-1"], "--contrast: expected a number of 0 or more"),
        (["--magnitude", "5", "--star", "1e6"], "--star: not allowed with argument --magnitude"),
    ],
)
def test_values_that_cannot_be_read_are_named(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["simulate", "NIRCAM", "-o", "unused", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_another_shape_needs_another_folder(programme, capsys):
    folder, _printed = programme
    files = sorted(folder.rglob("*"))
    options = ["simulate", "NIRCAM", "-o", str(folder), "--observation", "9", "--shape", "10x10", "--groups", "2"]
    assert main(options) == 2
    assert f"-o {folder}: the references of NRCALONG SUB320A335R" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == files


def test_a_real_cache_is_not_touched(tmp_path, capsys):
    (tmp_path / "crds" / "mappings" / "jwst").mkdir(parents=True)
    assert main(["simulate", "MIRI", "-o", str(tmp_path), "--shape", "8x10", "--groups", "2"]) == 2
    assert "is a CRDS cache that was not simulated" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.fits"))


def test_every_option_reaches_the_file(tmp_path, capsys):
    options = "--mask MASK210R --filter F182M --pattern BRIGHT2 --groups 3 --exposure-time 45 --shape 20x24 --role REF"
    options += " --roll -15 --dither 4/9 --offset=-0.02,0.01 --program 4321 --observation 7 --exposure 3 --target A-1"
    options += " --star 2e6 --contrast 0.01 --background 3 --one-over-f 0 --cosmic-rays 0 --seed 5"
    assert main(["simulate", "NIRCAM", "-o", str(tmp_path), *options.split()]) == 0
    path = tmp_path / "jw04321007001_02101_00003_nrca2_uncal.fits"
    assert f"wrote {path}" in capsys.readouterr().out
    header, science = fits.getheader(path), fits.getheader(path, "SCI")
    expected = {
        "SUBARRAY": "SUB640A210R", "FILTER": "F182M", "READPATT": "BRIGHT2", "NGROUPS": 3, "NINTS": 2, "IS_PSF": True,
        "PATT_NUM": 4, "NUMDTHPT": 9, "XOFFSET": -0.02, "YOFFSET": 0.01, "TARGPROP": "A-1",
    }  # fmt: skip
    assert {name: header[name] for name in expected} == expected
    assert science["ROLL_REF"] == 345.0
    assert fits.getdata(path, "SCI").shape == (2, 3, 20, 24)


@pytest.mark.filterwarnings("error")
def test_one_group_has_no_estimate_of_the_noise(tmp_path, capsys):
    options = ["simulate", "NIRCAM", "-o", str(tmp_path), "--shape", "48x60", "--groups", "1", "--ints", "1"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "no slope, and no noise of the rate, in the background and the companion" in printed
    assert "S/N" not in printed
    assert fits.getheader(min(tmp_path.glob("*_uncal.fits")))["NGROUPS"] == 1


def test_list_names_what_is_known(capsys):
    assert main(["simulate", "--list"]) == 0
    printed = capsys.readouterr().out
    for name in ("MASKA335R", "4QPM_1550", "SUB320ALWB", "MASKLYOT", "DEEP8", "FASTR1", *ZERO_POINTS["NRCALONG"]):
        assert name in printed


@pytest.mark.parametrize(("ending", "written"), [(".fits", 10), ("_uncal.fits", 1)])
def test_a_full_disk_leaves_no_cut_file(ending, written, tmp_path, capsys, monkeypatch):
    """The disk is full at a reference, or at the exposure; afterwards the same command succeeds."""
    command = ["simulate", "nircam", "-o", str(tmp_path), "--shape", "16x16", "--groups", "2", "--ints", "1"]
    with monkeypatch.context() as patch:
        fill_disk(patch, written, ending)
        assert main(command) == 2
    assert f"{ending}: the disk is full (Not enough space on disk" in capsys.readouterr().err
    assert not list(tmp_path.rglob(".*"))
    assert not list(tmp_path.glob("*.fits"))
    references = list(tmp_path.rglob("*.fits"))
    assert references
    assert all(map(is_whole, references))
    assert main(command) == 0
