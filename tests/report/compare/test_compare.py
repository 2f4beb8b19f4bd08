"""`gpucoron compare`: the numbers are those of a brute-force comparison with astropy and NumPy."""

import gzip
import json
import shutil
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from astropy.io import fits

from gpucoron.cli import main
from gpucoron.dq import flags_by_name
from gpucoron.engine import reduce_file
from gpucoron.errors import InputError, OutputError, ParameterError
from gpucoron.report.compare import compare_reductions, write_comparison
from gpucoron.report.compare.measure import MOST_PIXELS, Sample
from gpucoron.report.compare.picture import reduce_by_blocks

ARRAYS = ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE")
#: rounding of a sum in float64 beside one in another order
ROUNDING = {"rel": 1e-12}


@pytest.fixture(scope="module")
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 3, shape=(24, 32))


@pytest.fixture(scope="module")
def reductions(case, tmp_path_factory):
    """The folders of two reductions that differ in a threshold."""
    folder = tmp_path_factory.mktemp("reductions")
    with case.cache.activate():
        for name, cut in (("four", 4.0), ("three", 3.0)):
            steps = {"jump": {"rejection_threshold": cut}}
            reduce_file(case.path, folder / name, profile="spaceklip", steps=steps)
    return folder / "four", folder / "three"


@pytest.fixture
def changed(reductions, tmp_path):
    """Make a copy of a reduction: ``changed(edit) -> folder``, with ``edit(hdus)`` in the rateints."""

    def make(edit, kind="rateints"):
        copy = tmp_path / "changed"
        shutil.copytree(reductions[0], copy)
        with fits.open(find(copy, kind), mode="update") as hdus:
            edit(hdus)
        return copy

    return make


def find(folder, kind):
    (path,) = folder.glob(f"*_{kind}.fits")
    return path


def pair_of(comparison, kind):
    (pair,) = [pair for pair in comparison.pairs if pair.name.endswith(f"_{kind}.fits")]
    return pair


def read(path, name):
    with fits.open(path, memmap=False) as hdus:
        return hdus[name].data.astype(hdus[name].data.dtype.newbyteorder("="))


@pytest.mark.parametrize("kind", ["rate", "rateints"])
@pytest.mark.parametrize(("tolerance", "rtol"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.05), (0.01, 0.02)])
def test_the_numbers_are_those_of_brute_force(kind, tolerance, rtol, reductions):
    pair = pair_of(compare_reductions(*reductions, tolerance=tolerance, rtol=rtol), kind)
    paths = [find(folder, kind) for folder in reductions]
    is_changed = None
    for name, found in zip(ARRAYS, pair.arrays, strict=True):
        one, other = (read(path, name).astype(np.float64) for path in paths)
        nan_one, nan_other = np.isnan(one), np.isnan(other)
        allowed = tolerance + rtol * np.maximum(np.abs(one), np.abs(other))
        numbers = ~nan_one & ~nan_other & (np.abs(other - one) > allowed)
        differs = numbers | (nan_one ^ nan_other)
        assert (found.name, found.n_values, found.n_different) == (name, one.size, np.count_nonzero(differs))
        assert found.n_nan_gained == np.count_nonzero(nan_other & ~nan_one)
        assert found.n_nan_lost == np.count_nonzero(nan_one & ~nan_other)
        values = (other - one)[numbers]
        assert found.n_sampled == values.size
        if values.size:
            assert found.largest == np.abs(values).max()
            x, y, *integration = found.where
            assert abs((other - one)[(*integration, y, x)]) == found.largest
            assert found.median == pytest.approx(np.median(values), **ROUNDING)
            mad = np.median(np.abs(values - np.median(values)))
            assert found.scatter == pytest.approx(mad / 0.6744897501960817, **ROUNDING)
        if name in ("SCI", "ERR") and values.size:
            in_err = np.abs(other - one)[numbers] / read(paths[0], "ERR").astype(np.float64)[numbers]
            assert found.largest_in_err == np.nanmax(in_err)
        if name == "SCI":
            assert differs.any() or tolerance
        is_changed = differs if is_changed is None else is_changed | differs
    one, other = (read(path, "DQ") for path in paths)
    assert pair.flags.n_different == np.count_nonzero(one != other) > 0
    for name, flag in flags_by_name().items():
        had, has = (one & np.uint32(flag)) != 0, (other & np.uint32(flag)) != 0
        assert pair.flags.gained.get(name, 0) == np.count_nonzero(has & ~had)
        assert pair.flags.lost.get(name, 0) == np.count_nonzero(had & ~has)
    if kind == "rateints":
        is_changed |= one != other
        assert pair.integrations == tuple(np.flatnonzero(is_changed.any(axis=(1, 2))))


def test_the_largest_changes_and_the_maps(reductions):
    pair = pair_of(compare_reductions(*reductions), "rateints")
    paths = [find(folder, "rateints") for folder in reductions]
    (one, other), (dq_one, dq_other) = ([read(path, name) for path in paths] for name in ("SCI", "DQ"))
    differences = np.nan_to_num(other.astype(np.float64) - one)
    err = read(paths[0], "ERR").astype(np.float64)
    worst = np.abs(differences).argmax(axis=0)[None]
    shown = np.take_along_axis(differences, worst, axis=0)[0]
    is_missing = (np.isnan(one) | np.isnan(other)).all(axis=0)
    expected = np.where(is_missing, np.nan, shown).astype(np.float32)
    np.testing.assert_array_equal(pair.maps.science, expected)
    changed = shown != 0
    in_err = shown[changed] / np.take_along_axis(err, worst, axis=0)[0][changed]
    np.testing.assert_array_equal(pair.maps.in_err[changed], in_err.astype(np.float32))
    np.testing.assert_array_equal((pair.maps.changed & 1) != 0, ((dq_other & ~dq_one) != 0).any(axis=0))
    np.testing.assert_array_equal((pair.maps.changed & 2) != 0, ((dq_one & ~dq_other) != 0).any(axis=0))
    sizes = np.sort(np.abs(differences[differences != 0] / err[differences != 0]))[::-1]
    assert [abs(pixel.in_err) for pixel in pair.pixels] == list(sizes[:MOST_PIXELS])
    first = pair.pixels[0]
    assert first.first == one[first.integration, first.y, first.x]
    assert first.second == other[first.integration, first.y, first.x]


def test_a_flipped_pixel_is_found_where_it_is(reductions, changed, capsys):
    def edit(hdus):
        hdus["SCI"].data[1, 10, 20] = np.nextafter(np.float32(hdus["SCI"].data[1, 10, 20]), np.float32(np.inf))
        hdus["DQ"].data[2, 3, 4] ^= 2**31

    folder = changed(edit)
    pair = pair_of(compare_reductions(reductions[0], folder), "rateints")
    counts = {array.name: array.n_different for array in pair.arrays}
    assert counts == {"SCI": 1, "ERR": 0, "VAR_POISSON": 0, "VAR_RNOISE": 0}
    assert pair.arrays[0].where == (20, 10, 1)
    assert pair.flags.gained == {"REFERENCE_PIXEL": 1}
    assert pair.integrations == (1, 2)
    assert [(pixel.x, pixel.y, pixel.integration) for pixel in pair.pixels] == [(20, 10, 1), (4, 3, 2)]
    assert not pair.headers_differ
    assert main(["compare", str(reductions[0]), str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "SCI and flags differ" in printed
    assert "_rate.fits: the same" in printed
    # the flag is no value, so that no tolerance hides it
    assert main(["compare", str(reductions[0]), str(folder), "--rtol", "1e-6", "-q"]) == 1
    assert capsys.readouterr().out == ""


def test_a_tolerance_hides_rounding(reductions, changed):
    def edit(hdus):
        hdus["SCI"].data *= np.float32(1 + 1e-6)

    arguments = ["compare", str(reductions[0]), str(changed(edit)), "-q"]
    assert main(arguments) == 1
    assert main([*arguments, "--rtol", "1e-5"]) == 0


def test_nan_that_came_and_went(reductions, changed):
    missing = np.argwhere(np.isnan(read(find(reductions[0], "rate"), "SCI")))
    y, x = (int(place) for place in missing[0])

    def edit(hdus):
        hdus["SCI"].data[y, x] = 1.0
        hdus["SCI"].data[12, 12] = np.nan
        hdus["SCI"].data[13, 13] = np.inf
        hdus["SCI"].data[14, 14] = -np.inf

    pair = pair_of(compare_reductions(reductions[0], changed(edit, "rate"), tolerance=1e9, rtol=1.0), "rate")
    science = pair.arrays[0]
    assert (science.n_different, science.n_nan_gained, science.n_nan_lost) == (4, 1, 1)
    assert science.largest == np.inf
    assert (science.median, science.scatter) == (0.0, 0.0)  # no finite number differs
    assert {(pixel.x, pixel.y) for pixel in pair.pixels} == {(x, y), (12, 12), (13, 13), (14, 14)}
    assert np.isnan(pair.maps.science[12, 12])
    assert pair.maps.changed[12, 12] == 4
    assert pair.maps.changed[y, x] == 8


def test_the_same_reduction_does_not_differ(reductions, case, tmp_path, capsys):
    with case.cache.activate():
        steps = {"jump": {"rejection_threshold": 4.0}}
        reduce_file(case.path, tmp_path / "again", profile="spaceklip", steps=steps)
    assert main(["compare", str(reductions[0]), str(tmp_path / "again")]) == 0
    assert "2 products, nothing differs" in capsys.readouterr().out
    compared = compare_reductions(reductions[0], tmp_path / "again")
    assert [pair.maps for pair in compared.pairs] == [None, None]


@pytest.mark.parity
def test_a_product_of_jwst_is_the_same(case, tmp_path, capsys):
    from jwst.pipeline import Detector1Pipeline

    (tmp_path / "jwst").mkdir()
    with case.cache.activate():
        Detector1Pipeline.call(str(case.path), output_dir=str(tmp_path / "jwst"), save_results=True)
        reduce_file(case.path, tmp_path / "ours")
    capsys.readouterr()
    # float32 rounding: jwst sums in another order on some machines
    assert main(["compare", str(tmp_path / "jwst"), str(tmp_path / "ours"), "--rtol", "1e-6"]) == 0
    assert "nothing differs" in capsys.readouterr().out
    versions = {
        one.name for pair in compare_reductions(tmp_path / "jwst", tmp_path / "ours").pairs for one in pair.keywords
    }
    assert {"gpucoron", "backend"} <= versions


def test_parameters_references_and_context(reductions, changed, capsys):
    pair = pair_of(compare_reductions(*reductions), "rate")
    found = {(one.group, one.name): (one.first, one.second) for one in pair.keywords}
    assert found["parameters", "jump.rejection_threshold"] == (None, 3.0)

    def edit(hdus):
        hdus[0].header["CRDS_CTX"] = "jwst_0001.pmap"
        hdus[0].header["R_GAIN"] = "crds://other.fits"
        hdus[0].header["S_JUMP"] = "SKIPPED"
        hdus[0].header["CAL_VER"] = "9.9.9"
        hdus[0].header["DATE"] = "2000-01-01"
        hdus["SCI"].header["BUNIT"] = "MJy/sr"

    arguments = ["compare", str(reductions[0]), str(changed(edit))]
    pair = pair_of(compare_reductions(*arguments[1:]), "rateints")
    assert {(one.group, one.name) for one in pair.keywords} == {
        ("versions", "CAL_VER"),
        ("context", "CRDS_CTX"),
        ("references", "R_GAIN"),
        ("steps", "S_JUMP"),
        ("other", "SCI BUNIT"),
    }
    assert main(arguments) == 1
    assert "rateints.fits: headers differ" in capsys.readouterr().out
    assert main([*arguments, "--data-only"]) == 0


def test_versions_alone_are_no_difference(reductions, changed):
    def edit(hdus):
        hdus[0].header["CAL_VER"] = "9.9.9"

    assert main(["compare", str(reductions[0]), str(changed(edit)), "-q"]) == 0


def test_products_without_partner(reductions, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    shutil.copy(find(reductions[0], "rate"), tmp_path / "one")
    assert main(["compare", str(reductions[0]), str(tmp_path / "one")]) == 1
    printed = capsys.readouterr().out
    assert f"only in {reductions[0]}: {find(reductions[0], 'rateints').name}" in printed
    assert printed.splitlines()[0].endswith(": 0 of 1 product differ, 1 only in one of them")


def test_a_file_and_a_folder_in_either_order(reductions):
    rate = find(reductions[1], "rate")
    compared = [compare_reductions(rate, reductions[0]), compare_reductions(reductions[0], rate)]
    assert [len(one.pairs) for one in compared] == [1, 1]
    assert compared[0].pairs[0].arrays[0].median == -compared[1].pairs[0].arrays[0].median != 0


def test_a_compressed_product_is_the_same(reductions, tmp_path):
    rateints = find(reductions[0], "rateints")
    packed = tmp_path / f"{rateints.name}.gz"
    packed.write_bytes(gzip.compress(rateints.read_bytes(), 1))
    assert not compare_reductions(rateints, packed).differs


def test_other_shapes_and_missing_extensions(reductions, changed):
    rate, rateints = (find(reductions[0], kind) for kind in ("rate", "rateints"))
    (pair,) = compare_reductions(rate, rateints).pairs
    assert pair.data_differ
    assert any("24 x 32 in the first product, 3 x 24 x 32 in the second" in text for text in pair.structure)

    def edit(hdus):
        del hdus["VAR_RNOISE"]
        hdus["INT_TIMES"].data["integration_number"][0] = 7

    pair = pair_of(compare_reductions(reductions[0], changed(edit)), "rateints")
    assert any("has no extension VAR_RNOISE" in text for text in pair.structure)
    assert "the extension INT_TIMES differs" in pair.structure
    assert [array.name for array in pair.arrays] == ["SCI", "ERR", "VAR_POISSON"]


def test_errors_name_the_file_and_exit_with_2(reductions, case, tmp_path, capsys):
    rate = find(reductions[0], "rate")
    cut, empty = tmp_path / rate.name, tmp_path / "empty"
    cut.write_bytes(rate.read_bytes()[:20_000])
    empty.mkdir()
    for second, words in ((cut, "truncated"), (empty, "has no"), (tmp_path / "none", "no such file or folder")):
        assert main(["compare", str(rate), str(second)]) == 2
        message = capsys.readouterr().err
        assert second.name in message
        assert words in message
    with pytest.raises(InputError, match="no .*_rate.fits"):
        compare_reductions(reductions[0], empty)
    with pytest.raises(InputError, match="SCI with 4 axes"):
        compare_reductions(case.path, case.path)
    with pytest.raises(ParameterError, match="at least 0"):
        compare_reductions(rate, rate, rtol=-1)
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(rate), str(rate), "--rtol", "nan"])
    assert main(["compare", str(rate), str(rate), "-o", str(tmp_path / "x.pdf")]) == 2
    assert ".html or .png or .json" in capsys.readouterr().err


def test_the_page_the_picture_and_the_table(reductions, tmp_path, capsys):
    from PIL import Image

    page, picture, table = (tmp_path / f"changes.{kind}" for kind in ("html", "png", "json"))
    for path in (page, picture, table):
        assert main(["compare", *map(str, reductions), "-o", str(path)]) == 1
        assert f"wrote {path}" in capsys.readouterr().out
    text = page.read_text()
    assert text.count("<img ") == 2
    assert "jump.rejection_threshold" in text
    assert "http" not in text.replace("http-equiv", "")
    with Image.open(picture) as image:
        assert image.size[0] > 1000
    content = json.loads(table.read_text(), parse_constant=lambda text: pytest.fail(text))
    pair = pair_of(compare_reductions(*reductions), "rate")
    assert content["differs"] is True
    assert content["pairs"][0]["arrays"][0]["n_different"] == pair.arrays[0].n_different
    same = compare_reductions(reductions[0], reductions[0])
    for kind in ("html", "png", "json"):
        assert write_comparison(same, tmp_path / f"same.{kind}").stat().st_size > 100
    blocked = tmp_path / "blocked.html"
    blocked.mkdir()
    with pytest.raises(OutputError, match="blocked.html"):
        write_comparison(same, blocked)
    with pytest.raises(FrozenInstanceError):
        same.rtol = 1


def test_a_cube_is_read_by_integrations(reductions, monkeypatch):
    import gpucoron.report.compare.reductions as module

    largest = []
    plane = module._Product.plane

    def record(self, name, number):
        found = plane(self, name, number)
        largest.append(found.nbytes)
        return found

    monkeypatch.setattr(module._Product, "plane", record)
    compare_reductions(*reductions)
    assert max(largest) == 24 * 32 * 4
    assert len(largest) > 2 * 5 * 3


@pytest.mark.parametrize("sizes", [(10, 7, 30, 1, 0, 55), (100, 100), (3,)])
def test_a_sample_takes_every_nth_value(sizes):
    sample, values = Sample(most=20), np.arange(float(sum(sizes)))
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        sample.add(part)
    step = 1
    while values[::step].size > 20:
        step *= 2
    np.testing.assert_array_equal(sample.values, values[::step])


def test_a_large_map_keeps_single_pixels():
    image = np.zeros((1100, 700))
    image[1037, 5], image[3, 699], image[500:510, 300:310] = -3.0, 2.0, np.nan
    reduced = reduce_by_blocks(image)
    assert max(reduced.shape) <= 512
    assert sorted(reduced[np.isfinite(reduced) & (reduced != 0)]) == [-3.0, 2.0]
    assert np.isnan(reduced).any()
