"""run_obs on an object like spaceKLIP's Database, for NIRCam and MIRI."""

import copy
import logging
from dataclasses import replace
from traceback import walk_tb
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import gpucoron
from gpucoron.errors import InputError, ParameterError
from gpucoron.simulate import SCENES, simulate
from gpucoron.simulate.references import write_references

NGROUPS, SHAPE = 6, (48, 56)
TYPES = ("SCI", "REF", "SCI_BG", "REF_BG", "SCI_TA", "REF_TA")
CROP = {"cropwidth": 12, "edgewidth": 6}


class Database:
    """The part of spaceKLIP's Database that run_obs uses."""

    def __init__(self, output_dir, obs):
        self.output_dir, self.obs, self.updates = str(output_dir), obs, []

    def update_obs(self, key, index, path):
        self.updates.append((key, index, path))
        self.obs[key]["FITSFILE"][index] = path
        self.obs[key]["DATAMODL"][index] = "STAGE1"


@pytest.fixture(scope="module", params=["NIRCAM", "MIRI"])
def observed(request, tmp_path_factory):
    """Simulate two concatenations, with one exposure of each type: (key -> rows, cache)."""
    folder = tmp_path_factory.mktemp("database")
    arguments = ("NIRCAM", "SUB320A335R", "RAPID") if request.param == "NIRCAM" else ("MIRI", "MASK1550", "FASTR1")
    faint = SCENES[request.param]
    scenes = {"SCI": faint, "REF": replace(faint, star=2 * faint.star, companion_contrast=0.0)}
    simulations, rows = [], {}
    for concatenation in (1, 2):
        key = f"JWST_{request.param}_{concatenation}"
        for number, type_ in enumerate(TYPES, 1):
            scene = scenes.get(type_, replace(faint, star=0.0, companion_contrast=0.0))
            # the second concatenation has different ramps
            simulation = simulate(
                *arguments, NGROUPS + concatenation - 1, 2, seed=number, scene=scene, shape=SHAPE,
                observation=number, exposure=concatenation,
            )  # fmt: skip
            simulations.append(simulation)
            rows.setdefault(key, []).append((str(simulation.write(folder)), "STAGE0", type_))
        rows[key].insert(1, (str(folder / "already_rateints.fits"), "STAGE1", "SCI"))
    return rows, write_references(simulations, folder / "crds")


def database_of(rows, output_dir):
    names = ("FITSFILE", "DATAMODL", "TYPE")
    return Database(
        output_dir, {key: Table(rows=ones, names=names, dtype=("U400", "U9", "U9")) for key, ones in rows.items()}
    )


def test_everything_raw_is_reduced(observed, tmp_path, caplog):
    rows, cache = observed
    database = database_of(rows, tmp_path)
    steps = {"jump": {"rejection_threshold": 5.0}, "mask_groups": dict(CROP)}
    given = copy.deepcopy(steps)
    with cache.activate(), caplog.at_level(logging.INFO, logger="gpucoron.coron1pipeline"):
        assert gpucoron.run_obs(database, steps, subdir="first", quiet=True, backend="cpu", skip_ipc=True) is None
    assert steps == given
    assert not [record for record in caplog.records if record.name == "gpucoron.coron1pipeline"]
    updated = [(key, index) for key, index, _path in database.updates]
    assert updated == [(key, index) for key in rows for index in (0, 2, 3, 4, 5, 6)]
    for key, index, path in database.updates:
        assert path.startswith(str(tmp_path / "first"))
        assert path.endswith("_rateints.fits")
        assert path == database.obs[key]["FITSFILE"][index]
        history = "".join(fits.getheader(path)["HISTORY"])
        assert '"rejection_threshold": 5.0' in history
        # only references are masked
        assert ("mask_groups" in history) == (database.obs[key]["TYPE"][index] in ("REF", "REF_BG"))
        # MIRI excludes the first groups of later integrations, and the mask the last ones
        assert np.isfinite(fits.getdata(path, "SCI")[0]).mean() > 0.9


def test_products_that_exist_are_taken(observed, tmp_path):
    rows, cache = observed
    first = {key: ones[:3] for key, ones in list(rows.items())[:1]}
    with cache.activate():
        gpucoron.run_obs(database_of(first, tmp_path), backend="cpu")
        made = {path: path.stat().st_mtime_ns for path in (tmp_path / "stage1").iterdir()}
        assert len(made) == 4
        again = database_of(first, tmp_path)
        gpucoron.run_obs(again, overwrite=False, backend="cpu")
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "stage1").iterdir()} == made
        assert [index for _key, index, _path in again.updates] == [0, 2]
        gpucoron.run_obs(database_of(first, tmp_path), backend="cpu")
    assert all(path.stat().st_mtime_ns > made[path] for path in made)


def test_one_bad_file_does_not_end_the_run(observed, tmp_path):
    rows, cache = observed
    bad = tmp_path / "bad_uncal.fits"
    bad.write_text("no")
    key = next(iter(rows))
    some = {key: [(str(bad), "STAGE0", "SCI_BG"), *rows[key][2:4], (str(tmp_path / "absent.fits"), "STAGE0", "REF_TA")]}
    database = database_of(some, tmp_path)
    with cache.activate(), pytest.raises(ExceptionGroup, match="2 errors in 4 files") as caught:
        gpucoron.run_obs(database, backend="cpu")
    assert [index for _key, index, _path in database.updates] == [1, 2]
    first, second = caught.value.exceptions
    assert isinstance(first, InputError)
    assert str(bad) in first.__notes__[0]
    assert "absent.fits" in str(second)
    # the original traceback, with the line that reads the file
    frames = [frame.f_code.co_name for frame, _ in walk_tb(first.__traceback__)]
    assert frames[-1] == "_read_part"
    assert "read" in frames


def test_masks_without_science_exposures(observed, tmp_path):
    """The references cannot be masked; the others are reduced, and the concatenation is named."""
    rows, cache = observed
    key = next(iter(rows))
    some = {key: [row for row in rows[key] if row[2] in ("REF", "REF_BG", "SCI_BG")]}
    database = database_of(some, tmp_path)
    with cache.activate(), pytest.raises(ExceptionGroup) as caught:
        gpucoron.run_obs(database, {"mask_groups": {"mask_method": "basic"}}, backend="cpu")
    (error,) = caught.value.exceptions
    assert key in str(error)
    assert "type SCI" in str(error)
    assert [some[key][index][2] for _key, index, _path in database.updates] == ["SCI_BG"]


@pytest.mark.parametrize("center", ["max", (28.5, 24.5)])
def test_star_center(observed, tmp_path, center):
    rows, cache = observed
    key = next(iter(rows))
    pair = {key: [rows[key][0], rows[key][2]]}
    options = {"cropwidth": 6, "edgewidth": 3, "star_center": center}
    with cache.activate():
        database = database_of(pair, tmp_path)
        gpucoron.run_obs(database, {"mask_groups": options}, backend="cpu")
    assert len(database.updates) == 2


def test_mistakes_are_refused_at_once(tmp_path):
    database = SimpleNamespace(output_dir=tmp_path, obs={"never": None})
    for wrong in (
        {"steps": {"mask_groups": {"star_center": "middle"}}},
        {"steps": {"mask_groups": {"crop_width": 3}}},
        {"steps": {"jmp": {}}},
        {"skip_jumps": True},
    ):
        with pytest.raises(ParameterError):
            gpucoron.run_obs(database, **wrong)
