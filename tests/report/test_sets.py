"""Exposures that belong together, and their quick-looks: differences of rolls, and of star and reference."""

import numpy as np
import pytest

from gpucoron.dq import DO_NOT_USE
from gpucoron.records.previews import preview_of_rate
from gpucoron.records.quantised import QuantisedImage
from gpucoron.report import write_report
from tests.cases.decoded import decode
from tests.cases.parsed_page import Page
from tests.cases.records import make_record, write_manifest, write_preview, write_product

SHAPE = (60, 70)
REFERENCE = {"IS_PSF": True, "TARGPROP": "STAR"}


def draw(seed=0, star=1.0, companion=None):
    """Draw a star of some brightness, and a companion at (x, y)."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SHAPE)
    image = star * 50 * np.exp(-((np.hypot(x - 34.5, y - 29.5) - 6) ** 2) / 8) + rng.normal(0, 0.1, SHAPE) + 0.7
    if companion:
        image += 20 * np.exp(-((x - companion[0]) ** 2 + (y - companion[1]) ** 2) / 3)
    dq = np.where(rng.random(SHAPE) < 0.02, DO_NOT_USE, 0)
    return image, dq


class Night:
    """A folder to which exposures are added; ``images`` and ``removed`` hold their arrays, with NaN."""

    def __init__(self, folder):
        self.folder, self.images, self.removed = folder, {}, {}

    def add(self, image, dq, unit=None, start=None, **keywords):
        number = len(self.images)
        exposure = f"jw01386001001_02101_{number:05d}_nrcalong"
        header = {
            "INSTRUME": "NIRCAM", "DETECTOR": "NRCALONG", "FILTER": "F444W", "SUBARRAY": "SUB320A335R",
            "CORONMSK": "MASKA335R", "EXP_TYPE": "NRC_CORON", "PROGRAM": "01386", "OBSERVTN": "001", "IS_PSF": False,
            "DATE_BEG": start or f"2022-07-25T{number:02d}:00:00", "CRPIX1": 35.5, "CRPIX2": 30.5, "ROLL_REF": 10.0,
        }  # fmt: skip
        write_product(self.folder, exposure, image, dq, **(header | keywords))
        if unit:
            preview = preview_of_rate(image.astype(np.float32), dq.astype(np.uint32))
            noise = np.random.default_rng(number).normal(0, 0.3, (SHAPE[0], 1)) * np.ones(SHAPE)
            preview.removed = QuantisedImage.of(noise, unit)
            write_preview(self.folder, exposure, preview)
            self.removed[number] = noise
        self.images[number] = np.where(dq & DO_NOT_USE, np.nan, image).astype(np.float32).astype(float)
        return number

    def report(self):
        return Page(write_report(self.folder))


@pytest.fixture
def night(tmp_path):
    return Night(tmp_path / "night")


def assert_shows(image, expected):
    found = decode(image)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    known = np.isfinite(expected)
    off = np.abs(found - expected)[known] / (np.abs(expected - image["centre"]) + image["soft"])[known]
    assert off.max() < 0.0101  # half a level


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_rolls_and_references(night):
    for number in range(2):
        night.add(*draw(number, companion=(50, 30)))
    for number in range(2, 5):
        night.add(*draw(number, companion=(34, 45)), ROLL_REF=20.0)
    for number in range(5, 7):
        night.add(*draw(number, star=0.4), **REFERENCE)
    page = night.report()
    (one,) = page.table["sets"]
    assert one["title"] == "Program 01386: NRCALONG F444W MASKA335R SUB320A335R"
    assert [row["id"] for row in page.table["rows"]] == one["exposures"]
    assert [page.table["rows"][at]["role"] for at in (0, 4, 5)] == ["science", "science", "reference"]
    rolls, star = page.quicklooks(one["id"])
    means = [np.nanmean([night.images[at] for at in part], axis=0) for part in (range(2), range(2, 5), range(5, 7))]
    assert rolls["title"] == "roll 1 - roll 2"
    assert rolls["note"] == "mean of 2 exposures at roll 10.0° minus mean of 3 exposures at 20.0°"
    assert set(rolls["images"]) == {"after"}
    assert_shows(rolls["images"]["after"], means[0] - means[1])
    assert star["title"] == "star - reference"
    words = star["note"].split()
    assert words[:4] == ["mean", "of", "5", "exposures"]
    scale = float(words[words.index("minus") + 1])
    # noise of 0.1 in a mean of two, against a star of 20 rms in 700 pixels
    assert scale == pytest.approx(1 / 0.4, rel=2e-3)
    all_science = np.nanmean([night.images[at] for at in range(5)], axis=0)
    shown = decode(star["images"]["after"])
    expected = all_science - scale * means[2]
    np.testing.assert_array_equal(np.isfinite(shown), np.isfinite(expected))
    # the note gives four digits of the scale
    assert np.nanmax(np.abs(shown - expected)) < 0.01 * np.nanmax(np.abs(expected)) + 2e-3 * 20


def test_before_and_removed(night):
    night.add(*draw(0), unit="DN/s")
    night.add(*draw(1), unit="DN/s", ROLL_REF=20.0)
    (one,) = night.report().table["sets"]
    (rolls,) = night.report().quicklooks(one["id"])
    assert set(rolls["images"]) == {"after", "before", "removed"}
    removed = night.removed[0] - night.removed[1]
    off = np.abs(decode(rolls["images"]["removed"]) - removed)
    assert off.max() < 3 * 0.0051 * (np.abs(removed).max() + 0.5)  # quantised three times
    after, before = (decode(rolls["images"][kind]) for kind in ("after", "before"))
    known = np.isfinite(after)
    np.testing.assert_array_equal(np.isfinite(before), known)
    assert np.abs(before - after - removed)[known].max() < 0.1
    stripes = [np.std(np.median(np.where(known, image, 0), axis=1)) for image in (before, after)]
    assert stripes[0] > 5 * stripes[1]


@pytest.mark.parametrize("units", [("DN", "DN"), ("DN/s", None), ("DN/s", "DN")])
def test_noise_of_groups_or_unknown_noise_is_not_shown(night, units):
    night.add(*draw(0), unit=units[0])
    night.add(*draw(1), unit=units[1], ROLL_REF=20.0)
    page = night.report()
    (rolls,) = page.quicklooks(page.table["sets"][0]["id"])
    assert set(rolls["images"]) == {"after"}


def test_what_belongs_together(night):
    both = [night.add(*draw(0)), night.add(*draw(1), start="2022-07-24T00:00:00")]
    others = [{"FILTER": "F300M"}, {"PROGRAM": "01193"}, {"DETECTOR": "NRCA2"}, {"SUBARRAY": "FULL"}]
    for changes in (*others, {"EXP_TYPE": "NRC_TACQ"}, {"CORONMSK": "MASKA210R"}):
        night.add(*draw(2), **changes)
    page = night.report()
    assert [one["exposures"] for one in page.table["sets"]] == [both[::-1]]
    # one roll, and no reference
    assert not page.table["sets"][0]["has_quicklooks"]
    assert page.quicklooks(page.table["sets"][0]["id"]) == []


def test_rolls_across_north_are_one(night):
    night.add(*draw(0), ROLL_REF=359.8)
    night.add(*draw(1), ROLL_REF=0.1)
    assert not night.report().table["sets"][0]["has_quicklooks"]


def test_products_that_do_not_match(night, caplog):
    night.add(*draw(0))
    night.add(np.ones((30, 40)), np.zeros((30, 40), int), ROLL_REF=20.0)
    page = night.report()
    assert page.quicklooks(page.table["sets"][0]["id"]) == []
    assert "has the shape (30, 40), not (60, 70)" in caplog.text


def test_a_batch_has_no_set_of_one(tmp_path):
    write_manifest(tmp_path, [make_record(0)])
    assert Page(write_report(tmp_path)).table["sets"] == []
