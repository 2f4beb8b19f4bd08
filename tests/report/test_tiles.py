"""Tiles: scripts with all integrations of an exposure, and images that the page has averaged."""

import json
import os

import numpy as np
import pytest

from gpucoron.dq import DO_NOT_USE, HOT
from gpucoron.errors import OutputError
from gpucoron.records.quantised import FlagImage, QuantisedImage
from gpucoron.report import write_report
from gpucoron.report.exposures import Sides, choose_sides
from gpucoron.report.found import find_records
from gpucoron.report.tiles import write_tiles_named
from tests.cases.decoded import decode, decode_flags
from tests.cases.parsed_page import Page
from tests.cases.records import make_preview, make_record, make_scene, write_manifest, write_preview, write_product


def run_script(path):
    """Return the arguments with which a script calls the page."""
    first, call = path.read_text("utf-8").split("\n", 1)
    assert first.startswith("// gpucoron tiles")
    assert call.startswith("gpucoronTiles(")
    assert call.endswith(");\n")
    return json.loads(f"[{call[len('gpucoronTiles(') : -3]}]")


@pytest.fixture
def folder(tmp_path):
    """A folder with one exposure of three integrations; ``folder.rate`` and ``folder.dq`` are their arrays."""
    record = make_record(0)
    exposure, shape = record["exposure"], (3, 40, 50)
    rng = np.random.default_rng(1)
    rate = rng.normal(size=shape) + np.arange(3)[:, None, None]
    dq = np.where(rng.random(shape) < 0.05, DO_NOT_USE, 0) | np.where(rng.random(shape) < 0.05, HOT, 0)
    write_product(tmp_path, exposure, rate.mean(axis=0), dq[0])
    write_product(tmp_path, exposure, rate, dq, suffix="rateints")
    write_manifest(tmp_path, [record])
    return tmp_path, exposure, rate, dq


def test_all_integrations(folder):
    path, exposure, rate, dq = folder
    address = Page(write_report(path)).detail(exposure)["tiles"]
    assert address == f"report_tiles/{exposure}_tiles.js"
    name, tiles = run_script(path / address)
    assert (name, tiles["unit"], len(tiles["images"])) == (exposure, "DN/s", 3)
    assert "full" not in tiles
    for image, true, flags in zip(tiles["images"], rate, dq, strict=True):
        found, good = decode(image), (flags & DO_NOT_USE) == 0
        np.testing.assert_array_equal(np.isfinite(found), good)
        # half a level is 1 %
        off = np.abs(found - true)[good] / (np.abs(true - image["centre"]) + image["soft"])[good]
        assert off.max() < 0.0101


def test_they_are_written_again_after_the_product(folder):
    path, exposure, rate, dq = folder
    script = path / Page(write_report(path)).detail(exposure)["tiles"]
    script.write_text("// gpucoron tiles 1\nkept")
    write_report(path)
    assert script.read_text().endswith("kept")
    script.write_text("// gpucoron tiles 0\nan older version")
    write_report(path)
    assert run_script(script)[0] == exposure
    script.write_text("// gpucoron tiles 1\nolder than the product")
    os.utime(script, (1, 1))
    write_report(path)
    assert run_script(script)[0] == exposure
    assert sorted(file.name for file in script.parent.iterdir()) == [script.name]


def test_beside_a_page_elsewhere(folder, tmp_path):
    path, exposure, *_ = folder
    page = Page(write_report(path, tmp_path / "else where" / "my page.html"))
    assert page.detail(exposure)["tiles"] == f"my%20page_tiles/{exposure}_tiles.js"
    assert (tmp_path / "else where" / "my page_tiles" / f"{exposure}_tiles.js").is_file()
    assert dict(page.detail(exposure)["links"])["rate"] == f"../{exposure}_rate.fits"


def test_a_damaged_product_has_none(folder, caplog):
    path, exposure, *_ = folder
    (path / f"{exposure}_rateints.fits").write_text("no")
    page = Page(write_report(path))
    assert page.detail(exposure)["tiles"] is None
    assert "rateints" in page.detail(exposure)["note"]
    assert "not a readable rateints product" in caplog.text
    assert not any((path / "report_tiles").glob("*"))


def test_a_folder_in_the_way(folder):
    path, *_ = folder
    (path / "report_tiles").write_text("in the way")
    with pytest.raises(OutputError, match="report_tiles"):
        write_report(path)
    assert not (path / "report.html").exists()


def test_large_images_are_averaged_in_the_page(tmp_path):
    record = make_record(1, shape=[4, 10, 700, 1300])
    exposure = record["exposure"]
    preview = make_preview(shape=(70, 130))
    rate, dq = make_scene((700, 1300))
    dq[0, :5] = HOT
    preview.rate = QuantisedImage.of(rate)
    preview.removed = None
    preview.flags = FlagImage.of(dq, {"HOT": HOT, "DO_NOT_USE": DO_NOT_USE})
    write_preview(tmp_path, exposure, preview)
    write_manifest(tmp_path, [record])
    page = Page(write_report(tmp_path))
    images = page.images(exposure)
    assert {kind: (image["w"], image["h"], image["binning"]) for kind, image in images.items()} == dict.fromkeys(
        ("rate", "flags"), (434, 234, 3)
    )
    block = float(np.nanmean(rate[3:6, 9:12]))
    close = 0.011 * (abs(block - preview.rate.centre) + preview.rate.soft)  # quantised twice
    assert decode(images["rate"])[1, 3] == pytest.approx(block, abs=close)
    np.testing.assert_array_equal(np.flatnonzero(decode_flags(images["flags"])["HOT"]), [0, 1])
    name, tiles = run_script(tmp_path / page.detail(exposure)["tiles"])
    assert (name, tiles["images"], set(tiles["full"])) == (exposure, [], {"rate", "flags"})
    np.testing.assert_array_equal(np.isnan(decode(tiles["full"]["rate"])), np.isnan(rate))
    np.testing.assert_array_equal(decode_flags(tiles["full"]["flags"])["HOT"], (dq & HOT) != 0)


def test_a_served_page_writes_them_when_asked(folder, tmp_path):
    path, exposure, rate, _ = folder
    found, page = find_records(path), tmp_path / "served" / "report.html"
    address = Page(write_report(path, page, serve="/token")).detail(exposure)["tiles"]
    assert address == f"report_tiles/{exposure}_tiles.js"
    assert [file.name for file in page.parent.iterdir()] == ["report.html"]
    assert len(run_script(write_tiles_named(page, found, address))[1]["images"]) == len(rate)
    assert write_tiles_named(page, found, "report_tiles/../../x_tiles.js") is None
    assert write_tiles_named(page, found, "report_tiles/x_tiles.js") is None


@pytest.mark.parametrize(("count", "shape", "sides"), [
    (1, [2, 5, 320, 320], (640, 640)), (100, [2, 5, 320, 320], (640, 640)), (3, [2, 5, 2048, 2048], (640, 640)),
    (500, [2, 5, 256, 256], (640, 640)), (500, [2, 5, 640, 640], (320, 320)),
])  # fmt: skip
def test_the_page_stays_small(tmp_path, count, shape, sides):
    """500 exposures of 640 pixels a side would have 600 MB at full resolution."""
    records = [make_record(number, shape=shape) for number in range(count)]
    assert choose_sides(tmp_path, records) == Sides(*sides)


def test_quicklooks_are_averaged_first(tmp_path):
    """150 sets of 320 pixels a side: 122 MB of quick-looks, and 88 MB of exposures."""
    records = [make_record(number, shape=[2, 5, 320, 320]) for number in range(500)]
    for number, record in enumerate(records):
        record["observed"] = record["observed"] | {"program": str(number // 10)}
    assert choose_sides(tmp_path, records) == Sides(640, 256)
