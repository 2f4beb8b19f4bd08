"""Quantised images: values within 0.5 % of their distance from the centre plus the noise, flags exactly."""

import base64
import zlib

import numpy as np
import pytest

from gpucoron import dq
from gpucoron.records.quantised import COARSEST, HIGHEST, STEP, FlagImage, QuantisedImage, pack, unpack
from tests.cases.decoded import decode

FLAGS = {name: value for name, value in vars(dq).items() if name.isupper() and value}


def noisy(scale=1.0, offset=0.0, shape=(40, 50)):
    rng = np.random.default_rng(3)
    image = rng.normal(size=shape)
    image[10:20, 10:20] += np.logspace(0, 6, 100).reshape(10, 10)
    image[30] -= 500
    return (offset + scale * image).astype(np.float32)


IMAGES = {
    "star": noisy(),
    "negative": noisy(-1),
    "huge": noisy(1e30),
    "tiny": noisy(1e-30),
    "far from zero": noisy(offset=1e4),
    "two values": np.where(np.arange(100).reshape(10, 10) < 3, 5.0, -2.0),
    "all ranges": np.concatenate([-np.logspace(-38, 38, 50), np.logspace(-38, 38, 51)])[None].astype(np.float32),
    "one pixel": np.full((1, 1), 3.5),
    "constant": np.full((5, 7), -1e-3),
    "zeros": np.zeros((5, 7)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_round_trip(name):
    stored = QuantisedImage.of(IMAGES[name])
    image = IMAGES[name].astype(np.float64)
    found = decode(stored.to_json())
    close = STEP / 2 if name != "all ranges" else 0.006  # more range than 65000 levels of 1 % have
    # the last term is the rounding of float32 and float64
    rounding = 1e-7 if IMAGES[name].dtype == np.float32 else 1e-15
    allowed = 1.001 * close * (np.abs(image - stored.centre) + stored.soft) + rounding * np.abs(image)
    assert np.all(np.abs(found - image) <= allowed)
    # the levels are exact, the page's numbers float64
    np.testing.assert_allclose(stored.values(), found, rtol=1e-6)


def test_pixels_without_a_value():
    image = noisy()
    image[0, :3] = np.nan, np.inf, -np.inf
    stored = QuantisedImage.of(image)
    is_finite = np.isfinite(image)
    np.testing.assert_array_equal(np.isfinite(decode(stored.to_json())), is_finite)
    np.testing.assert_array_equal(stored.levels > 0, is_finite)
    assert stored.centre == pytest.approx(float(np.median(image[is_finite].astype(float))))


def test_an_image_of_nan():
    stored = QuantisedImage.of(np.full((4, 6), np.nan))
    assert stored.to_json()["w"] == 6
    assert np.isnan(decode(stored.to_json())).all()
    assert np.isnan(stored.values()).all()


def test_more_range_than_levels():
    image = np.concatenate([np.linspace(-1e-3, 1e-3, 1001), [-1e300, 1e300]])[None]
    stored = QuantisedImage.of(image)
    assert stored.step > STEP
    assert (stored.levels.min(), stored.levels.max()) > (0, HIGHEST - 300)
    np.testing.assert_allclose(decode(stored.to_json())[0, -2:], image[0, -2:], rtol=stored.step)


def test_a_faint_image_is_as_precise_as_the_one_to_which_it_is_added():
    image = noisy(0.2, shape=(60, 60))
    stored = QuantisedImage.of(image, noise=1.0)
    assert stored.step == pytest.approx(STEP / stored.soft)
    off = np.abs(decode(stored.to_json()) - image)
    assert np.all(off <= 1.001 * STEP / 2 * (1.0 + np.abs(image - stored.centre) / stored.soft))
    assert QuantisedImage.of(image, noise=1e9).step == COARSEST
    assert QuantisedImage.of(image, noise=1e-9).step == STEP


def test_sizes():
    """An image of noise needs 9 bits per pixel: the entropy of normal numbers at a hundredth of their width."""
    stored = QuantisedImage.of(np.random.default_rng(1).normal(size=(320, 320)))
    assert len(stored.packed) < 320 * 320 * 9.2 / 8


def test_flags_are_kept_exactly():
    rng = np.random.default_rng(2)
    known = ("JUMP_DET", "DO_NOT_USE", "REFERENCE_PIXEL", "HOT")
    flags = sum((np.uint32(FLAGS[name]) * (rng.random((30, 40)) < 0.1) for name in known), np.uint32(0))
    stored = FlagImage.of(flags.astype(np.uint32), FLAGS)
    assert stored.names == tuple(name for name in FLAGS if name in known)
    for name in FLAGS:
        np.testing.assert_array_equal(stored.mask(name), (flags.astype(np.uint32) & np.uint32(FLAGS[name])) != 0)
    image = stored.to_json()
    bits = unpack(base64.b64decode(image["data"]), (image["h"], image["w"]))
    assert image["names"][0] == "DO_NOT_USE"
    np.testing.assert_array_equal((bits & 1) != 0, stored.mask("DO_NOT_USE"))


def test_of_many_flags_the_frequent_are_kept():
    names = list(FLAGS)
    flags = np.zeros((32, 33), np.uint32)
    for number, name in enumerate(names):
        flags[: number + 1, number] |= np.uint32(FLAGS[name])
    stored = FlagImage.of(flags, FLAGS)
    assert stored.names == tuple(names[-16:])
    assert FlagImage.of(np.zeros((3, 4), np.uint32), FLAGS).names == ()


def test_a_block_has_the_flags_of_its_pixels():
    flags = np.zeros((5, 7), np.uint32)
    flags[4, 6], flags[1, 1], flags[0, 0] = FLAGS["HOT"], FLAGS["HOT"], FLAGS["DEAD"]
    binned = FlagImage.of(flags, FLAGS).binned(2)
    assert binned.to_json()["binning"] == 2
    expected = np.zeros((3, 4), bool)
    expected[2, 3] = expected[0, 0] = True
    np.testing.assert_array_equal(binned.mask("HOT"), expected)
    np.testing.assert_array_equal(np.argwhere(binned.mask("DEAD")), [[0, 0]])


def test_headers_round_trip():
    image = QuantisedImage.of(noisy(), unit="DN", binning=3)
    again = QuantisedImage.from_header(image.header(), image.packed)
    assert again.to_json() == image.to_json()
    flags = FlagImage.of(np.full((4, 6), FLAGS["HOT"], np.uint32), FLAGS).binned(2)
    assert FlagImage.from_header(flags.header(), flags.packed).to_json() == flags.to_json()


def test_low_bytes_come_first():
    levels = np.array([[1, 258], [65535, 0]], np.uint16)
    assert zlib.decompress(pack(levels)) == bytes([1, 2, 255, 0, 0, 1, 255, 0])
    np.testing.assert_array_equal(unpack(pack(levels), (2, 2)), levels)
