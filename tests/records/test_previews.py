"""Previews: what is missing comes from the products; previews of version 1; numbers of simulated exposures."""

import numpy as np
import pytest
from astropy.io import fits

from gpucoron.dq import JUMP_DET
from gpucoron.engine import StepRecord, reduce_file
from gpucoron.errors import InputError
from gpucoron.records.previews import (
    Preview,
    load_preview,
    preview_of_product,
    preview_of_run,
    preview_path,
    write_preview,
)
from gpucoron.report import write_report
from tests.cases.decoded import decode
from tests.cases.parsed_page import Page
from tests.cases.records import make_preview, make_record, make_scene, write_manifest, write_product


def write_version_1(path):
    """Write a preview as version 0.1.0 did: thumbnails of up to 128 pixels, and shares."""
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        rate=rng.integers(0, 256, (107, 107)).astype(np.uint8),
        rate_range=np.array([-1.0, 40.0]),
        flags=rng.integers(0, 256, (3, 107, 107)).astype(np.uint8),
        noise=rng.integers(0, 256, (107, 107)).astype(np.uint8),
        noise_limit=np.array(0.05),
        noise_unit=np.array("DN/s"),
        jump_fraction=np.linspace(0, 0.01, 5, dtype=np.float32),
        saturated_fraction=np.zeros(5, np.float32),
        flag_fractions=np.array([0.01, 0.02, 0.03]),
        binning=np.array(3),
    )


@pytest.fixture(scope="module")
def reduced(exposures, tmp_path_factory):
    """Runs of small exposures: instrument -> (run, folder, stem)."""
    runs = {}
    for instrument, setting in {"NIRCAM": ("SUB320A335R", "RAPID"), "MIRI": ("MASK1550", "FASTR1")}.items():
        case = exposures(instrument, *setting, 8, 3, shape=(96, 128))
        folder = tmp_path_factory.mktemp(instrument)
        with case.cache.activate():
            run, _, _ = reduce_file(case.path, folder, profile="spaceklip", backend="cpu")
        runs[instrument] = run, folder, case.path.name.removesuffix("_uncal.fits")
    return runs


@pytest.mark.parametrize("instrument", ["NIRCAM", "MIRI"])
def test_products_give_all_but_what_the_ramps_show(reduced, instrument):
    run, folder, stem = reduced[instrument]
    ours = preview_of_run(run)
    theirs = preview_of_product(folder / f"{stem}_rate.fits", folder / f"{stem}_rateints.fits")
    np.testing.assert_array_equal(ours.rate.levels, theirs.rate.levels)
    assert ours.flags.names == theirs.flags.names
    np.testing.assert_array_equal(ours.flags.bits, theirs.flags.bits)
    for name, values in ours.integrations.items():
        if name != "read_noise":
            assert theirs.integrations[name] == pytest.approx(values)
    assert all(value > 0 for value in ours.integrations["read_noise"])
    assert theirs.integrations["read_noise"] == [None] * 3
    assert theirs.exposure["read_noise"] is None
    for name in ("background", "row_noise", "saturated_radius", "jump_rate", "histogram"):
        assert theirs.exposure[name] == ours.exposure[name]
    header = fits.getheader(folder / f"{stem}_rate.fits")
    pitch = {"NIRCAM": 18e-4, "MIRI": 25e-4}[instrument]
    assert ours.exposure["jump_rate"] == pytest.approx(header["PRIMECRS"] / 1000 / pitch**2)
    assert (ours.removed is not None) == (instrument == "NIRCAM")


def test_noise_before_gain_scale_is_scaled_too(reduced):
    run, _, _ = reduced["NIRCAM"]
    run.exposure.meta.meta.exposure.gain_factor = 2.5
    run.records.append(StepRecord("gain_scale", "COMPLETE", 0.0))
    try:
        stored = preview_of_run(run).removed
    finally:
        run.records.pop()
    expected = 2.5 * run.exposure.removed_1overf
    # half a level
    close = 0.501 * stored.step * (np.abs(expected - stored.centre) + stored.soft)
    assert np.all(np.abs(stored.values() - expected) < close)


def test_flags_are_counted_again_after_another_step(reduced):
    run, _, _ = reduced["NIRCAM"]
    groupdq = run.exposure.groupdq.copy()
    before = run.flag_counts
    assert run.flag_counts is before
    run.records.append(StepRecord("jump", "COMPLETE", 0.0))
    try:
        run.exposure.groupdq |= JUMP_DET
        assert run.flag_counts.samples_with(JUMP_DET) == groupdq.size > before.samples_with(JUMP_DET)
    finally:
        run.records.pop()
        run.exposure.groupdq[...] = groupdq
    assert run.flag_counts.samples_with(JUMP_DET) == before.samples_with(JUMP_DET)


def test_a_preview_of_version_1_is_completed_by_the_products(tmp_path):
    record = make_record(0)
    exposure = record["exposure"]
    rate, dq = make_scene((96, 120))
    write_product(tmp_path, exposure, rate, dq, INSTRUME="NIRCAM", PRIMECRS=0.05)
    write_product(tmp_path, exposure, np.stack([rate] * 3), np.stack([dq] * 3), suffix="rateints")
    write_manifest(tmp_path, [record])
    write_version_1(preview_path(tmp_path, exposure))
    old = load_preview(preview_path(tmp_path, exposure))
    assert not old.is_complete
    assert {kind: image.shape for kind, image in old.thumbs().items()} == {
        "rate": (54, 54), "flags": (3, 54, 54), "noise": (54, 54),
    }  # fmt: skip
    page = Page(write_report(tmp_path))
    row, detail = page.rows[exposure], page.detail(exposure)
    assert set(detail["thumbs"]) == {"rate", "flags", "noise"}
    assert detail["groups"]["jump"] == pytest.approx(list(np.linspace(0, 0.01, 5)), rel=1e-3)
    assert row["jump"] == 0.01
    shown = decode(page.images(exposure)["rate"])
    np.testing.assert_array_equal(np.isnan(shown), np.isnan(rate))
    assert "removed" not in page.images(exposure)
    assert len(detail["integrations"]["median"]) == 3
    assert row["jump_rate"] == pytest.approx(0.05 / 1000 / 18e-4**2, rel=1e-4)
    # without the products, the thumbnails remain
    for product in tmp_path.glob("*.fits"):
        product.unlink()
    page = Page(write_report(tmp_path))
    assert set(page.detail(exposure)["thumbs"]) == {"rate", "flags", "noise"}
    assert page.images(exposure) == {}


def test_a_preview_is_read_as_it_was_written(tmp_path):
    preview = make_preview()
    write_preview(preview, tmp_path / "x.npz")
    found = load_preview(tmp_path / "x.npz")
    for kind in ("rate", "flags", "removed"):
        assert getattr(found, kind).to_json() == getattr(preview, kind).to_json()
    for name in ("rate_thumb", "flags_thumb", "noise_thumb", "jump_fraction", "saturated_fraction", "flag_fractions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(preview, name))
    assert (found.exposure, found.integrations) == (preview.exposure, preview.integrations)


def test_a_preview_without_anything(tmp_path):
    write_preview(Preview(), tmp_path / "x.npz")
    assert not load_preview(tmp_path / "x.npz").is_complete
    np.savez(tmp_path / "y.npz", other=np.zeros(3))
    with pytest.raises(InputError, match="y.npz: not a readable preview"):
        load_preview(tmp_path / "y.npz")


def test_a_damaged_product_is_named(tmp_path):
    rate = write_product(tmp_path, "x", *make_scene())
    (tmp_path / "x_rateints.fits").write_text("no")
    with pytest.raises(InputError, match="x_rateints.fits: not a readable rateints product"):
        preview_of_product(rate, tmp_path / "x_rateints.fits")
    with pytest.raises(InputError, match="y_rate.fits: not a readable rate product"):
        preview_of_product(tmp_path / "y_rate.fits")
