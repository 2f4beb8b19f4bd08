"""The report: data from manifests, previews and products, and escaping of text from files."""

import base64
import json
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gpucoron.cli import main
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.engine import reduce_file
from gpucoron.errors import InputError, OutputError
from gpucoron.records.headers import join_cards
from gpucoron.records.manifest import read_manifests
from gpucoron.records.previews import (
    Preview,
    block_average,
    load_preview,
    preview_of_rate,
    preview_path,
    save_preview,
)
from gpucoron.report import write_report
from gpucoron.report.details import describe
from gpucoron.report.images import CATEGORY_COLOURS, GOOD_COLOUR, colour_flags, encode_png
from tests.cases.parsed_page import Page
from tests.cases.records import make_failure, make_preview, make_record, make_scene, write_manifest, write_preview


def decode_png(url):
    """Decode an image of a page from its data URL: (h, w, 3) uint8."""
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    with Image.open(BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))


def data_url(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()


@pytest.fixture(scope="module")
def reduced(exposures, tmp_path_factory):
    """A NIRCam exposure reduced with both custom steps that a report draws: (folder, exposure, run, preview)."""
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2)
    folder = tmp_path_factory.mktemp("reduced")
    with case.cache.activate():
        run, _, _ = reduce_file(case.path, folder, profile="spaceklip", backend="cpu")
    exposure = case.path.name.removesuffix("_uncal.fits")
    return folder, exposure, run, save_preview(run, preview_path(folder, exposure))


def test_the_last_line_of_an_exposure_counts(tmp_path):
    first = make_failure(0, "the disk was full")
    write_manifest(tmp_path, [first, make_record(1), make_record(0, attempt=2)])
    page = Page(write_report(tmp_path))
    assert list(page.rows) == [first["exposure"], make_record(1)["exposure"]]
    assert {row["status"] for row in page.rows.values()} == {"done"}
    assert "the disk was full" not in page.text
    assert ["attempt", "2"] in page.detail(first["exposure"])["facts"]


def test_of_several_shards_the_last_to_finish_counts(tmp_path):
    early, late = (f"2026-03-0{day}T00:00:00Z" for day in (1, 2))
    write_manifest(tmp_path, [make_record(0, finished=late, attempt=2), make_record(1)], "manifest-1-of-2.jsonl")
    write_manifest(tmp_path, [make_failure(0, "early") | {"finished": early}, make_record(2)], "manifest-2-of-2.jsonl")
    records, n_damaged = read_manifests(tmp_path)
    assert n_damaged == 0
    assert [record["status"] for record in records.values()] == ["done"] * 3
    assert records[make_record(0)["exposure"]]["attempt"] == 2


@pytest.mark.parametrize("n_bytes", [1, 20, -1])
def test_a_torn_last_line_is_left_out(tmp_path, n_bytes):
    torn = json.dumps(make_failure(0, "torn"))[:n_bytes]
    write_manifest(tmp_path, [make_record(0)], ending=torn)
    page = Page(write_report(tmp_path))
    assert [row["status"] for row in page.table["rows"]] == ["done"]
    assert page.table["notes"] == []


def test_a_damaged_line_in_the_middle_is_counted(tmp_path):
    (tmp_path / "manifest.jsonl").write_text(f'{{"exp\n\n[1]\n{json.dumps(make_record(3))}\n')
    page = Page(write_report(tmp_path))
    assert list(page.rows) == [make_record(3)["exposure"]]
    assert page.table["notes"] == ["2 lines of the manifest could not be read and are ignored."]


def test_a_failure_has_its_message_and_traceback(tmp_path):
    write_manifest(tmp_path, [make_failure(0, "x_uncal.fits: truncated; download it again"), make_record(1)])
    page = Page(write_report(tmp_path))
    failed = make_record(0)["exposure"]
    row, error = page.rows[failed], page.detail(failed)["error"]
    assert (row["status"], row["error"]) == ("failed", "x_uncal.fits: truncated; download it again")
    assert error["type"] == "InputError"
    assert "in plan" in error["traceback"]
    assert (row["jump"], row["memory"]) == (None, None)
    assert ["Failed", "1"] in page.table["summary"]


def test_details_of_an_exposure(tmp_path):
    record, preview = make_record(4), make_preview()
    write_manifest(tmp_path, [record])
    write_preview(tmp_path, record["exposure"], preview)
    page = Page(write_report(tmp_path))
    row, detail = page.rows[record["exposure"]], page.detail(record["exposure"])
    assert (row["target"], row["filter"], row["mask"]) == ("HD 141569", "F210M", "MASKA210R")
    assert row["shape"] == "4 × 10 × 640 × 640"
    # the table counts pixels of the rate, a manifest samples of groups
    assert row["jump"] == preview.named_flags()["JUMP_DET"] != record["flags"]["JUMP_DET"]
    jump, hot = (next(flag for flag in detail["flags"] if flag["name"] == name) for name in ("JUMP_DET", "HOT"))
    assert (jump["pixels"], jump["samples"]) == (row["jump"], record["flags"]["JUMP_DET"])
    assert (hot["pixels"], hot["samples"]) == (record["flags"]["HOT"], None)
    assert row["seconds"] == pytest.approx(record["seconds"]["total"])
    assert set(detail["thumbs"]) == {"rate", "flags", "noise"}
    assert set(page.images(record["exposure"])) == {"rate", "flags", "removed"}
    assert detail["groups"]["jump"] == pytest.approx(list(preview.jump_fraction), rel=1e-3)
    assert [step["name"] for step in detail["steps"]] == [step["name"] for step in record["steps"]]
    assert detail["parameters"] == record["parameters"]
    assert ["input SHA-256", record["input_sha256"]] in detail["facts"]


@pytest.mark.parametrize(
    "poison", ["</script><script>alert(1)</script>", "<!--<script>", '"><img src=x onerror=alert(1)>']
)
def test_text_from_files_is_escaped(tmp_path, poison):
    def spoil(value):
        if isinstance(value, dict):
            return {poison + key: spoil(item) for key, item in value.items()} | {k: spoil(v) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(item) for item in value]
        return value + poison if isinstance(value, str) else value

    clean = tmp_path / "clean"
    write_manifest(clean, [make_failure(0, "x"), make_record(1)])
    folder = tmp_path / "<b>'\"&amp;$style"
    write_manifest(folder, [spoil(make_failure(0, "x")) | {"exposure": "a" + poison}, spoil(make_record(1))])
    page, reference = Page(write_report(folder)), Page(write_report(clean))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in reference.tags]
    assert poison not in page.text.replace(r"\u003c", "")
    assert page.rows["a" + poison]["error"] == "x" + poison
    assert "&lt;b&gt;&#x27;&quot;&amp;amp;$style</h1>" in page.text


def test_the_page_needs_no_network(tmp_path):
    write_manifest(tmp_path, [make_record(0)])
    page = Page(write_report(tmp_path))
    linked = [values[key] for _, values in page.tags for key in ("src", "href", "action") if key in values]
    assert linked == ["data:,"]
    addresses = set(re.findall(r"\w+://[^\s\"']+", page.text)) - {"http://www.w3.org/2000/svg"}
    assert not addresses
    policy = next(values["content"] for _, values in page.tags if "http-equiv" in values)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_steps_link_to_the_documentation(tmp_path, capsys):
    write_manifest(tmp_path, [make_record(0)])
    assert main(["report", str(tmp_path), "--docs", "https://docs.example.org"]) == 0
    assert Page(tmp_path / "report.html").table["docs"] == "https://docs.example.org"
    assert main(["report", str(tmp_path), "--docs", "javascript:alert(1)"]) == 2
    assert "--docs javascript:alert(1): expected an address" in capsys.readouterr().err


def test_numbers_that_json_does_not_know(tmp_path):
    flags = {"JUMP_DET": float("nan"), "SATURATED": float("inf"), "HOT": "many", "no_such": 0.1}
    parameters = {"jump": {"rejection_threshold": float("inf")}, "ipc": None}
    spoilt = {"seconds": None, "shape": "320", "steps": ["jump", {"name": "ipc", "seconds": "1"}]}
    row, detail = describe(make_record(0, flags=flags, parameters=parameters, **spoilt), Preview())
    assert (row["jump"], row["saturated"], row["unusable"], row["seconds"], row["shape"]) == (
        None,
        None,
        None,
        None,
        "",
    )
    assert [(step["name"], step["seconds"]) for step in detail["steps"]] == [("ipc", None)]
    write_manifest(tmp_path, [make_record(0, flags=flags, parameters=parameters, **spoilt)])
    page = Page(write_report(tmp_path))
    assert page.detail(make_record(0)["exposure"])["parameters"] == {"jump": {"rejection_threshold": None}, "ipc": {}}


def test_preview_of_a_run(reduced):
    folder, exposure, run, preview = reduced
    path = preview_path(folder, exposure)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    stored = load_preview(path)
    assert stored.n_bytes == preview.n_bytes < 300_000
    rate, removed = run.exposure.rate, run.exposure.removed_1overf
    for image, true, close in ((stored.rate, rate.rate, 0.005), (stored.removed, removed, stored.removed.step / 2)):
        found, known = image.values(), np.isfinite(true)
        np.testing.assert_array_equal(np.isfinite(found), known)
        off = np.abs(found - true)[known] / (np.abs(true - image.centre) + image.soft)[known]
        assert off.max() < 1.01 * close  # half a level
    assert stored.removed.step * stored.removed.soft <= 1.001 * stored.rate.step * stored.rate.soft
    for name, value in {"JUMP_DET": JUMP_DET, "SATURATED": SATURATED, "DO_NOT_USE": DO_NOT_USE}.items():
        np.testing.assert_array_equal(stored.flags.mask(name), (rate.dq & value) != 0)
    assert (stored.rate.unit, stored.removed.unit) == ("DN/s", "DN/s")
    assert {kind: image.shape[-2:] for kind, image in stored.thumbs().items()} == dict.fromkeys(
        ("rate", "flags", "noise"), (64, 64)
    )
    assert stored.named_flags()["JUMP_DET"] == pytest.approx(np.mean((rate.dq & JUMP_DET) != 0))
    groupdq = run.exposure.groupdq
    np.testing.assert_allclose(stored.saturated_fraction, ((groupdq & SATURATED) != 0).mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(stored.jump_fraction, ((groupdq & JUMP_DET) != 0).mean(axis=(0, 2, 3)), rtol=1e-6)
    assert stored.jump_fraction.max() > 0
    assert stored.exposure == preview.exposure
    assert stored.integrations == preview.integrations
    assert {len(values) for values in stored.integrations.values()} == {2}


@pytest.mark.parametrize("stage", ["groups", "ints"])
def test_the_record_of_removed_noise_is_the_mean_subtracted_noise(exposures, stage):
    from gpucoron.engine import plan, run_steps
    from gpucoron.io.exposure import Exposure

    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(48, 64))
    before = []

    def watch(run, record):
        kept = run.exposure.data if stage == "groups" else getattr(run.exposure.rateints, "rate", None)
        before.append((record.name, None if kept is None else kept.copy()))

    with case.cache.activate():
        run = plan(
            Exposure.read(case.path),
            steps={"subtract_1overf": {"skip": False}},
            pipeline={"stage_1overf": stage},
            backend="cpu",
        )
        run_steps(run, after_step=watch)
    at = [name for name, _ in before].index("subtract_1overf")
    difference = before[at - 1][1].astype(float) - before[at][1]
    removed = run.exposure.removed_1overf
    assert removed.shape == (48, 64)
    expected = difference.reshape(-1, 48, 64).mean(axis=0)
    fitted = np.isfinite(expected)
    assert fitted.mean() > 0.9
    # the difference of two float32 images includes their rounding
    atol = 1e-7 * np.nanmax(np.abs(before[at][1]))
    assert np.std(removed[fitted]) > 100 * atol
    np.testing.assert_allclose(removed[fitted], expected[fitted], atol=atol, rtol=1e-5)


def test_a_folder_without_manifest_is_read_from_its_products(reduced, tmp_path):
    folder, exposure, run, preview = reduced
    page = Page(write_report(folder, tmp_path / "page.html"))
    row, detail = page.rows[exposure], page.detail(exposure)
    facts = run.exposure.facts
    assert (row["status"], row["instrument"], row["subarray"]) == ("product", "NIRCAM", facts.subarray)
    assert row["shape"] == "2 × 5 × 320 × 320"
    assert row["jump"] == pytest.approx(preview.named_flags()["JUMP_DET"])
    assert detail["parameters"]["jump"] == {
        "four_group_rejection_threshold": 4.0,
        "three_group_rejection_threshold": 4.0,
    }
    assert {"name": "jump detection", "status": "COMPLETE"}.items() <= detail["steps"][7].items()
    shown = dict(detail["facts"])
    assert (shown["backend"], shown["profile"], shown["CRDS context"]) == (
        run.backend.name,
        "spaceklip",
        run.context[0],
    )
    assert "subtract_1overf" in shown["history"]


def test_without_a_preview_the_product_is_drawn(reduced, tmp_path):
    folder, exposure, _, preview = reduced
    alone = tmp_path / f"{exposure}_rate.fits"
    alone.write_bytes((folder / alone.name).read_bytes())
    write_manifest(tmp_path, [make_record(0, exposure=exposure, outputs={"rate": alone.name}), make_record(1)])
    page = Page(write_report(tmp_path))
    drawn = page.detail(exposure)["thumbs"]
    assert set(drawn) == set(page.images(exposure)) == {"rate", "flags"}
    expected = preview_of_rate(*_read(alone))
    np.testing.assert_array_equal(decode_png(drawn["flags"]), colour_flags(expected.flags_thumb)[::-1])
    np.testing.assert_array_equal(expected.rate.levels, preview.rate.levels)
    assert page.rows[exposure]["background"] == pytest.approx(preview.exposure["background"], rel=1e-4)
    assert page.detail(make_record(1)["exposure"])["thumbs"] == {}
    assert page.images(make_record(1)["exposure"]) == {}


def test_a_single_product(reduced, tmp_path):
    folder, exposure, _, _ = reduced
    for suffix in ("rate", "rateints"):
        page = Page(write_report(folder / f"{exposure}_{suffix}.fits", tmp_path / f"{suffix}.html"))
        assert list(page.rows) == [exposure]
        assert set(page.images(exposure)) == {"rate", "flags", "removed"}


def test_damaged_previews_and_products_are_reported(tmp_path):
    record = make_record(0)
    write_manifest(tmp_path, [record])
    preview_path(tmp_path, record["exposure"]).parent.mkdir()
    preview_path(tmp_path, record["exposure"]).write_bytes(b"PK\x03\x04 no")
    (tmp_path / "y_rate.fits").write_text("no")
    page = Page(write_report(tmp_path))
    assert "not a readable preview" in page.detail(record["exposure"])["note"]
    assert page.rows["y"]["status"] == "failed"
    assert "y_rate.fits" in page.rows["y"]["error"]


def test_a_manifest_opens_no_file_outside_its_folder(tmp_path, reduced):
    folder, exposure, _, _ = reduced
    outside = str(folder / f"{exposure}_rate.fits")
    write_manifest(tmp_path, [make_record(0, exposure="../../x", outputs={"rate": outside})])
    page = Page(write_report(tmp_path))
    assert page.images("../../x") == {}
    assert page.detail("../../x")["links"] == []


@pytest.mark.parametrize("image", [np.full((5, 7), np.nan), np.zeros((5, 7)), np.full((1, 1), 3.0)])
def test_images_without_contrast(image):
    preview = preview_of_rate(image.astype(np.float32), np.zeros(image.shape, np.uint32))
    assert preview.rate_thumb.shape == image.shape
    assert np.all((preview.rate_thumb == 0) == np.isnan(image))


def test_blocks():
    rng = np.random.default_rng(5)
    image = rng.normal(size=(7, 11))
    image[0, 0] = np.nan
    image[6, 9:] = np.inf
    binned = block_average(image, 3)
    assert binned.shape == (3, 4)
    np.testing.assert_allclose(binned[0, 0], np.nanmean(image[:3, :3]))
    np.testing.assert_allclose(binned[1, 3], image[3:6, 9:].mean())
    assert np.isnan(binned[2, 3])


def test_a_pixel_is_counted_as_the_gravest_that_it_is():
    dq = np.array([[JUMP_DET, JUMP_DET | SATURATED, DO_NOT_USE | SATURATED | JUMP_DET, 0]], np.uint32)
    flags = preview_of_rate(np.ones(dq.shape, np.float32), dq).flags_thumb
    np.testing.assert_array_equal(flags[:, 0] // 255, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    colours = colour_flags(flags)[0]
    np.testing.assert_array_equal(colours, [*CATEGORY_COLOURS.values(), GOOD_COLOUR])


def test_png_decodes_to_the_image():
    image = np.random.default_rng(1).integers(0, 255, (6, 9, 3), np.uint8)
    np.testing.assert_array_equal(decode_png(data_url(encode_png(image))), image)


def test_png_with_a_palette_decodes_to_the_image():
    """The images of a page have one colour for missing values and 48 shades."""
    rng = np.random.default_rng(2)
    palette = rng.integers(0, 255, (49, 3), np.uint8)
    image = rng.integers(0, 49, (6, 9), np.uint8)
    np.testing.assert_array_equal(decode_png(data_url(encode_png(image, palette))), palette[image])


def test_the_legend_has_the_colours_of_the_pictures():
    from importlib.resources import files

    style = (files("gpucoron") / "report" / "assets" / "style.css").read_text("utf-8")
    swatches = dict(re.findall(r"\.swatch-(\w+) \{ background: #(\w{6}); \}", style))
    named = {"good": GOOD_COLOUR, "unusable": CATEGORY_COLOURS["do not use"]} | CATEGORY_COLOURS
    assert {name: tuple(bytes.fromhex(colour)) for name, colour in swatches.items()} == {
        name: named[name] for name in ("good", "jump", "saturated", "unusable")
    }


def test_long_history_entries_are_joined():
    entries = ["another tool", "gpucoron jump: {" + 100 * "a" + " b" + 80 * "c" + "}", "gpucoron 0.1.0, backend numpy"]
    entries[1] = entries[1][:71] + " " + entries[1][71:]  # a blank at the end of the card
    cards = [entry[at : at + 72].rstrip() for entry in entries for at in range(0, len(entry), 72)]
    assert join_cards(cards) == entries


def test_nothing_to_report(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "neither manifest.jsonl nor *_rate.fits" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "missing")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    (tmp_path / "x_uncal.fits").write_text("no")
    with pytest.raises(InputError, match="give products, or the folder"):
        write_report(tmp_path / "x_uncal.fits")
    (tmp_path / "x_rateints.fits").write_text("no")
    with pytest.raises(InputError, match=r"needs its \*_rate.fits"):
        write_report(tmp_path / "x_rateints.fits")
    assert not list(tmp_path.glob("*.html"))


def test_command_line(tmp_path, capsys):
    write_manifest(tmp_path / "batch", [make_record(0)])
    assert main(["report", str(tmp_path / "batch")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'batch' / 'report.html'}\n"
    assert main(["report", str(tmp_path / "batch"), "-o", str(tmp_path / "new" / "page.html"), "-q"]) == 0
    assert (tmp_path / "new" / "page.html").stat().st_size > 10_000
    assert capsys.readouterr().out == ""


def test_a_page_that_cannot_be_written(tmp_path):
    write_manifest(tmp_path / "batch", [make_record(0)])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="could not be written"):
        write_report(tmp_path / "batch", tmp_path / "file" / "page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batch", "file"]


def _read(path):
    from astropy.io import fits

    with fits.open(path) as hdus:
        return hdus["SCI"].data.astype(np.float32), hdus["DQ"].data.astype(np.uint32)


def test_scene_is_worth_drawing():
    rate, dq = make_scene()
    levels = preview_of_rate(rate, dq).rate.levels
    assert levels[np.isnan(rate)].max() == 0
    assert np.ptp(levels[np.isfinite(rate)].astype(int)) > 300
