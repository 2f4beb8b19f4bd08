"""The simulator: its truth agrees with its counts, and its files and references are valid for jwst and CRDS."""

import os
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from gpucoron import dq
from gpucoron.facts import READ_PATTERNS
from gpucoron.simulate import Effects, Scene, simulate
from gpucoron.simulate.camera import convolve_science, ipc_kernel
from gpucoron.simulate.crds import MATCH_KEYS, STEP_CLASSES, open_cache
from gpucoron.simulate.detectors import make_pixels
from gpucoron.simulate.references import ReferenceOptions, write_references

SHAPE = (20, 24)
QUIET = Effects(
    poisson=False, dark=False, read_noise=False, one_over_f=0, ktc=False, nonlinearity=False, ipc=False,
    cosmic_rays=0, bad_pixels=False, reset=False, rscd=False, last_frame=False,
)  # fmt: skip


def nircam(readpatt="RAPID", ngroups=6, nints=2, **kwargs):
    return simulate("NIRCAM", "SUB320A335R", readpatt, ngroups, nints, **{"shape": SHAPE, **kwargs})


def miri(ngroups=8, nints=2, **kwargs):
    return simulate("MIRI", "MASK1550", "FASTR1", ngroups, nints, **{"shape": SHAPE, **kwargs})


def group_times(simulation):
    """Mean time of the frames of each group after the reset, s."""
    middle = simulation.frame_time * (simulation.nframes + 1) / 2
    return middle + simulation.group_time * np.arange(simulation.data.shape[1])


@pytest.mark.parametrize("make", [nircam, miri])
def test_the_seed_decides(make):
    first, again, other = make(seed=3), make(seed=3), make(seed=4)
    np.testing.assert_array_equal(first.data, again.data)
    assert np.mean(first.data != other.data) > 0.5
    np.testing.assert_array_equal(first.truth.rate, other.truth.rate)


@pytest.mark.parametrize("make", [nircam, miri])
def test_segments_are_cut_from_the_whole(make):
    whole = make(nints=5, seed=3)
    segment = make(nints=2, seed=3, first_integration=4, total_nints=5)
    np.testing.assert_array_equal(segment.data, whole.data[3:])
    np.testing.assert_array_equal(segment.truth.ktc, whole.truth.ktc[3:])
    assert "-seg002_" in segment.filename and "-seg" not in whole.filename


def test_pixels_do_not_depend_on_the_cut():
    large = make_pixels("MIRIMAGE", 1, 463, 60, 50)
    small = make_pixels("MIRIMAGE", 11, 470, 20, 30)
    for name in ("gain", "read_noise", "bias", "dark", "full_well", "nonlinearity", "reset", "dq", "lottery"):
        np.testing.assert_array_equal(getattr(small, name), getattr(large, name)[7:37, 10:30], err_msg=name)
    assert large.is_reference[:, :4].all() and not large.is_reference[:, 4:].any()


@pytest.mark.parametrize("readpatt", READ_PATTERNS["NIRCAM"])
def test_quiet_ramps_follow_the_rate(readpatt):
    simulation = nircam(readpatt, ngroups=4, nints=1, effects=QUIET)
    expected = simulation.truth.rate * group_times(simulation)[:, None, None] + simulation.pixels.bias
    unsaturated = np.arange(4)[:, None, None] < simulation.truth.saturated_from[0]
    assert unsaturated.mean() > 0.9
    np.testing.assert_allclose(simulation.data[0][unsaturated], expected[unsaturated], atol=0.52)


def test_charge_is_poisson():
    effects = replace(QUIET, poisson=True, dark=True)
    simulation = nircam(ngroups=2, nints=40, effects=effects, scene=300.0, shape=(16, 16))
    electrons = np.diff(simulation.data.astype(float), axis=1)[:, 0] * simulation.pixels.gain
    expected = 300.0 * simulation.frame_time + simulation.pixels.dark * simulation.frame_time
    pull = (electrons - expected) / np.sqrt(expected + 2 / 12 * simulation.pixels.gain**2)
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)
    assert abs(pull.std() - 1) < 0.02


def test_dark_and_light_are_told_apart():
    simulation = miri(ngroups=3, effects=replace(QUIET, dark=True), nints=2)
    truth = simulation.truth
    steps = np.diff(simulation.data[1].astype(float), axis=0)
    np.testing.assert_allclose(steps[0], (truth.rate + truth.dark_rate) * simulation.group_time, atol=1.1)
    assert not truth.rate[:, :4].any() and not truth.dark_rate[:, :4].any()


def test_read_noise_averages_over_the_frames():
    for readpatt in ("RAPID", "DEEP8"):
        simulation = nircam(readpatt, ngroups=12, effects=replace(QUIET, read_noise=True), scene=0.0)
        scatter = simulation.data.astype(float) - simulation.pixels.bias
        expected = simulation.pixels.read_noise / simulation.pixels.gain / np.sqrt(simulation.nframes)
        assert np.std(scatter / np.hypot(expected, 0.29)) == pytest.approx(1, abs=0.03)


def test_one_over_f_correlates_along_a_row():
    simulation = nircam(ngroups=8, effects=replace(QUIET, one_over_f=1.0), scene=0.0, shape=(64, 64))
    noise = simulation.truth.one_over_f * simulation.pixels.gain
    assert np.std(noise) == pytest.approx(simulation.pixels.kind.pink_noise, rel=0.25)
    rows = noise.mean(axis=-1) - noise.mean(axis=(-1, -2))[..., None]
    white = np.std(noise) / np.sqrt(64)
    assert np.std(rows) > 3 * white
    # Rows are read one after another: neighbours in time are correlated, columns are not.
    assert np.mean(rows[..., 1:] * rows[..., :-1]) > 0.3 * np.mean(rows**2)


def test_ktc_is_one_offset_per_integration():
    with_ktc = nircam(effects=replace(QUIET, ktc=True), nints=3)
    without = nircam(effects=QUIET, nints=3)
    unsaturated = (with_ktc.truth.saturated_from == 6) & (without.truth.saturated_from == 6)
    offset = with_ktc.data.astype(float) - without.data
    np.testing.assert_allclose(
        offset[np.broadcast_to(unsaturated[:, None], offset.shape)],
        np.broadcast_to(with_ktc.truth.ktc[:, None], offset.shape)[np.broadcast_to(unsaturated[:, None], offset.shape)],
        atol=1.05,
    )
    assert with_ktc.truth.ktc.std() == pytest.approx(36.8 / 1.88, rel=0.06)


def test_cosmic_rays_are_where_the_truth_says():
    simulation = nircam(ngroups=6, nints=3, effects=replace(QUIET, cosmic_rays=300.0), scene=1.0)
    hits = simulation.truth.cosmic_rays
    assert len(hits) > 100
    steps = np.diff(simulation.data.astype(float), axis=1)
    steps -= 1.0 * simulation.group_time / simulation.pixels.gain
    total = np.zeros(simulation.data.shape)
    np.add.at(total, (hits["integration"], hits["group"], hits["y"], hits["x"]), hits["electrons"])
    expected = total[:, 1:] / simulation.pixels.gain
    unsaturated = np.arange(1, 6)[:, None, None] < simulation.truth.saturated_from[:, None]
    np.testing.assert_allclose(steps[unsaturated], expected[unsaturated], atol=1.1)
    jumps = simulation.truth.mark_jumps(6)
    np.testing.assert_array_equal(jumps[:, 1:], total[:, 1:] > 0)
    assert not jumps[:, 0].any()


def test_hits_in_a_gap_show_in_the_next_group():
    simulation = nircam("SHALLOW4", ngroups=5, nints=2, effects=replace(QUIET, cosmic_rays=300.0), scene=1.0)
    hits = simulation.truth.cosmic_rays
    in_gap = hits[hits["frame"] % 5 == 4]
    assert len(in_gap) > 5
    np.testing.assert_array_equal(in_gap["group"], in_gap["frame"] // 5 + 1)
    within = hits[hits["frame"] % 5 != 4]
    np.testing.assert_array_equal(within["group"], within["frame"] // 5)


def test_saturation_stops_the_ramp():
    simulation = nircam(ngroups=8, nints=1, effects=QUIET, scene=20_000.0)
    first = simulation.truth.saturated_from[0]
    assert ((first > 1) & (first < 8)).all()
    np.testing.assert_array_equal(simulation.data[0, -1], np.take_along_axis(simulation.data[0], first[None], 0)[0])
    assert (np.diff(simulation.data[0, :2].astype(int), axis=0) > 0).all()


def test_linearity_coefficients_undo_the_bending():
    straight, bent = (nircam(ngroups=6, effects=replace(QUIET, nonlinearity=on), scene=12_000.0) for on in (0, 1))
    pixels = bent.pixels
    raw = bent.data.astype(float) - pixels.bias
    linear = sum(c * raw**k for k, c in enumerate(pixels.to_linear_coefficients().astype(float)))
    # half a DN of rounding in each, for a slope of at most 1.2
    np.testing.assert_allclose(linear, straight.data - pixels.bias, atol=1.2)
    assert np.max(straight.data.astype(float) - bent.data) > 500
    back = sum(c * linear**k for k, c in enumerate(pixels.to_raw_coefficients().astype(float)))
    np.testing.assert_allclose(back, raw, atol=0.1)


@pytest.mark.parametrize("readpatt", ["RAPID", "DEEP8"])
def test_zero_frame_is_the_first_frame(readpatt):
    simulation = nircam(readpatt, ngroups=2, scene=200.0, effects=replace(Effects(), cosmic_rays=0))
    difference = simulation.data[:, 0].astype(float) - simulation.zeroframe
    assert miri().zeroframe is None
    if readpatt == "RAPID":
        np.testing.assert_array_equal(difference, 0)
    else:  # the mean time of eight frames is 3.5 frames later
        expected = 200.0 * 3.5 * simulation.frame_time / simulation.pixels.kind.gain
        assert np.median(difference) == pytest.approx(expected, rel=0.03)


def test_ipc_reaches_the_neighbours_only():
    image = np.zeros((7, 7), np.float32)
    image[3, 3] = 1000
    spread = convolve_science(image, ipc_kernel(0.01), np.zeros((7, 7), bool))
    assert (
        spread[3, 3] == pytest.approx(960) and spread[3, 4] == pytest.approx(10) and spread.sum() == pytest.approx(1000)
    )


def test_companion_has_its_flux():
    scene = Scene(halo=0, background=0, companion_contrast=1e-4, companion_offset=(6.0, -4.0))
    simulation = nircam(scene=scene, shape=(60, 60), effects=QUIET)
    assert simulation.truth.sky.sum() == pytest.approx(1000, rel=1e-3)
    assert np.unravel_index(simulation.truth.sky.argmax(), (60, 60)) in {(25, 35), (26, 36), (25, 36), (26, 35)}
    assert simulation.truth.companion == (35.5, 25.5)


def test_miri_reset_decays_and_depends_on_the_integration():
    steady = miri(ngroups=20, nints=5, effects=QUIET)
    shaken = miri(ngroups=20, nints=5, effects=replace(QUIET, reset=True))
    offset = shaken.data.astype(float) - steady.data
    science = ~steady.pixels.is_reference
    assert np.mean(offset[:, 0][:, science], axis=1) == pytest.approx(
        -30 * (1 - 0.4 ** np.minimum(np.arange(1, 6), 4)), abs=1
    )
    assert not offset[:, 15:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("NIRCAM", "SUB999", "RAPID", 5, 2), "SUB320A335R"),
        (("NIRCAM", "SUB320A335R", "FASTR1", 5, 2), "DEEP8"),
        (("MIRI", "MASK1550", "FASTR1", 0, 2), "from 1 to 32767"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(*arguments)
    with pytest.raises(ValueError, match="exceed total_nints, 3"):
        miri(nints=2, first_integration=3, total_nints=3)
    with pytest.raises(ValueError, match="larger than"):
        miri(shape=(400, 20))


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """One NIRCam and one MIRI exposure in one cache, written by two calls."""
    folder = tmp_path_factory.mktemp("shared")
    simulations = [nircam("SHALLOW4", ngroups=4, seed=1), miri(ngroups=6, nints=2, first_integration=4, total_nints=5)]
    options = ReferenceOptions(nan_fraction=0.05, no_lin_corr_fraction=0.05, no_sat_check_fraction=0.05)
    for simulation in simulations:
        cache = write_references(simulation, folder / "crds", options=options)
    return simulations, [simulation.write(folder) for simulation in simulations], cache


def test_a_zero_frame_can_be_left_out(tmp_path):
    from stdatamodels.jwst.datamodels import RampModel

    with_it, without = (
        simulate("NIRCAM", "SUB320A335R", "DEEP8", 2, 1, shape=(8, 8), zeroframe=kept) for kept in (True, False)
    )
    np.testing.assert_array_equal(without.data, with_it.data)
    assert without.zeroframe is None
    with RampModel(without.write(tmp_path)) as model:
        assert not model.meta.exposure.zero_frame
        assert not model.hasattr("zeroframe")


def test_references_can_be_doubtful(tmp_path):
    from astropy.io import fits

    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", 2, 1, shape=(40, 40))
    options = ReferenceOptions(negative_gain_fraction=0.1, unreliable_fraction=0.1)
    cache = write_references(simulation, tmp_path, options=options)

    def read(reftype, name):
        return fits.getdata(next((cache.path / "references").rglob(f"*_{reftype}_*.fits")), name)

    assert 0.05 < (read("gain", "SCI") < 0).mean() < 0.15
    for reftype, flag in (("mask", dq.UNRELIABLE_SLOPE), ("superbias", dq.UNRELIABLE_BIAS)):
        assert 0.05 < ((read(reftype, "DQ") & flag) > 0).mean() < 0.15


def test_files_open_as_ramps(shared_cache):
    from stdatamodels.jwst.datamodels import RampModel

    for simulation, path, _ in zip(*shared_cache[:2], range(2), strict=True):
        with RampModel(path, strict_validation=True) as model:
            np.testing.assert_array_equal(model.data, simulation.data)
            assert model.meta.exposure.group_time == pytest.approx(simulation.group_time, abs=1e-6)
            assert model.meta.exposure.frame_divisor == simulation.nframes
            assert model.meta.visit.tsovisit is False
            assert model.meta.subarray.xsize == SHAPE[1] and model.meta.subarray.ysize == SHAPE[0]
            assert len(model.group) == simulation.data.shape[0] * simulation.data.shape[1]
            assert model.int_times["integration_number"][0] == simulation.first_integration
            assert (np.diff(model.int_times["int_start_MJD_UTC"]) > 0).all()
            if simulation.zeroframe is None:
                assert (model.meta.exposure.integration_start, model.meta.exposure.integration_end) == (4, 5)
                assert model.meta.exposure.nints == 5
                assert not model.hasattr("zeroframe")
            else:
                np.testing.assert_array_equal(model.zeroframe, simulation.zeroframe)
                assert model.meta.exposure.integration_start is None
                assert model.meta.exposure.zero_frame


def test_crds_finds_every_type(shared_cache, monkeypatch):
    import crds
    from stdatamodels.jwst.datamodels import RampModel

    simulations, paths, cache = shared_cache
    monkeypatch.setenv("CRDS_PATH", "/nowhere")
    monkeypatch.delenv("CRDS_CONTEXT", raising=False)
    absent = {
        "NIRCAM": ["reset", "rscd", "refpix", "pictureframe", "sirskernel"],
        "MIRI": ["superbias", "ipc", "emicorr", "refpix"],
    }
    for simulation, path in zip(simulations, paths, strict=True):
        instrument = simulation.subarray.instrument
        types = [*MATCH_KEYS[instrument], *absent[instrument], "pars-jumpstep", "pars-detector1pipeline"]
        with cache.activate(), RampModel(path) as model:
            found = crds.getreferences(model.get_crds_parameters(), reftypes=list(set(types)), observatory="jwst")
        missing = {reftype for reftype, answer in found.items() if answer.endswith("n/a")}
        assert missing == {*absent[instrument], "pars-jumpstep", "pars-detector1pipeline"}
        assert all(os.path.dirname(found[t]).startswith(str(cache.path)) for t in set(types) - missing)
    assert os.environ["CRDS_PATH"] == "/nowhere" and "CRDS_CONTEXT" not in os.environ
    assert open_cache(cache.path) == cache


def test_caches_do_not_mix(shared_cache, tmp_path):
    import crds
    from stdatamodels.jwst.datamodels import RampModel

    _, paths, cache = shared_cache
    other = write_references(
        nircam("SHALLOW4", ngroups=4), tmp_path, pars={"pars-jumpstep": {"rejection_threshold": 7}}
    )
    with RampModel(paths[0]) as model:
        parameters = model.get_crds_parameters()
    for one in (cache, other, cache):
        with one.activate():
            found = crds.getreferences(parameters, reftypes=["gain", "pars-jumpstep"], observatory="jwst")
        assert found["gain"].startswith(str(one.path))
        assert found["pars-jumpstep"].endswith("n/a") == (one is cache)


def test_contradictions_are_refused(shared_cache):
    cache = shared_cache[2]
    for simulation in (
        nircam(shape=(10, 10)),
        nircam(detector_seed=1),
        nircam(effects=replace(Effects(), nonlinearity=False)),
    ):
        with pytest.raises(ValueError, match="use another cache"):
            write_references(simulation, cache.path)


def test_saturation_reference_grows_over_subarrays(tmp_path):
    """CRDS selects the file by detector only: the file of the second subarray must include the first one."""
    from stdatamodels.jwst.datamodels import SaturationModel

    for name in ("SUB320A430R", "SUB320A335R"):
        write_references(simulate("NIRCAM", name, "RAPID", 2, 1, shape=SHAPE), tmp_path)
    files = sorted((tmp_path / "references" / "jwst" / "nircam").glob("*saturation*"))
    with SaturationModel(files[0]) as alone, SaturationModel(files[1]) as both:
        assert both.data.shape == (SHAPE[0], 814 - 492 + SHAPE[1])
        assert (both.meta.subarray.xstart, alone.meta.subarray.xstart) == (492, 814)
        np.testing.assert_array_equal(both.data[:, 814 - 492 :], alone.data)


@pytest.mark.parity
def test_jwst_cuts_references_with_a_margin(tmp_path):
    from jwst.lib.reffile_utils import get_subarray_model, ref_matches_sci
    from stdatamodels.jwst.datamodels import LinearityModel, MaskModel, RampModel

    simulation = nircam(ngroups=2, nints=1)
    write_references(simulation, tmp_path, options=ReferenceOptions(margin=8, no_lin_corr_fraction=0.1))
    folder = tmp_path / "references" / "jwst" / "nircam"
    with RampModel(simulation.write(tmp_path)) as ramp:
        with MaskModel(next(folder.glob("*mask*"))) as mask:
            assert mask.dq.shape == (SHAPE[0] + 16, SHAPE[1] + 16)
            assert not ref_matches_sci(ramp, mask)
            cut = get_subarray_model(ramp, mask).dq
            np.testing.assert_array_equal(cut, simulation.truth.dq & ~np.uint32(dq.NO_GAIN_VALUE))
        with LinearityModel(next(folder.glob("*linearity*"))) as linearity:
            cut = get_subarray_model(ramp, linearity)
            np.testing.assert_array_equal(cut.coeffs, simulation.pixels.to_linear_coefficients())
            assert 0 < np.mean(cut.dq == dq.NO_LIN_CORR) < 0.3


def correct(simulation, tmp_path, names, **options):
    """Run jwst's steps on a simulation, with its references."""
    from stdatamodels.jwst.datamodels import RampModel

    cache = write_references(simulation, tmp_path / "crds", options=ReferenceOptions(**options))
    with cache.activate(), RampModel(simulation.write(tmp_path)) as ramp:
        for name in names:
            module, step = STEP_CLASSES[name].rsplit(".", 1)
            ramp = getattr(import_module(module), step)().run(ramp)
        assert not (ramp.groupdq & dq.SATURATED).any()
        return ramp.data


@pytest.mark.parity
def test_jwst_recovers_the_quiet_ramp(tmp_path):
    """All systematic effects and no noise: jwst's steps with these references recover rate x time."""
    effects = Effects(poisson=False, read_noise=False, one_over_f=0, ktc=False, cosmic_rays=0, bad_pixels=False)
    simulation = nircam("SHALLOW4", ngroups=5, nints=1, effects=effects, scene=1500.0)
    steps = ("dq_init", "saturation", "ipc", "superbias", "linearity", "dark_current")
    data = correct(simulation, tmp_path, steps, inverse_linearity=True)
    expected = simulation.truth.rate * group_times(simulation)[:, None, None]
    # The outermost pixels lose charge to pixels beyond the subarray, but receive none from them.
    inner = np.s_[..., 3:-3, 3:-3]
    np.testing.assert_allclose(data[0][inner], expected[inner], atol=1.5)


@pytest.mark.parity
def test_jwst_recovers_miris_quiet_ramp(tmp_path):
    effects = Effects(poisson=False, read_noise=False, cosmic_rays=0, bad_pixels=False, rscd=False, last_frame=False)
    simulation = miri(ngroups=20, nints=2, effects=effects, scene=4000.0)
    data = correct(simulation, tmp_path, ("dq_init", "saturation", "reset", "linearity", "dark_current"))
    expected = simulation.truth.rate * group_times(simulation)[:, None, None] + simulation.pixels.bias
    np.testing.assert_allclose(data, np.stack([expected, expected]), atol=1.2)


ROLE_KEYWORDS = ("EXP_TYPE", "IS_PSF", "BKGDTARG", "TARGPROP", "FILTER", "SUBARRAY", "CORONMSK", "PPS_APER")


@pytest.mark.parametrize("make", [nircam, miri])
def test_the_header_has_the_role(make, tmp_path):
    found = {}
    for number, role in enumerate(("SCI", "REF", "TA", "BG"), 1):
        header = fits.getheader(make(ngroups=2, nints=1, role=role, observation=number).write(tmp_path))
        found[role] = tuple(header.get(keyword) for keyword in ROLE_KEYWORDS)
    if make is nircam:
        usual = "F444W", "SUB320A335R", "MASKA335R", "NRCA5_MASK335R"
        kind, acquisition = "NRC_CORON", ("F335M", "SUBNDA335R", "MASKA335R", "NRCA5_TAMASK335R")
    else:
        usual = "F1550C", "MASK1550", "4QPM_1550", "MIRIM_MASK1550"
        kind, acquisition = "MIR_4QPM", ("FND", "MASK1550", None, "MIRIM_MASK1550")
    assert found == {
        "SCI": (kind, False, False, "SIMULATED", *usual),
        "REF": (kind, True, False, "REFERENCE", *usual),
        "TA": (f"{kind[:3]}_TACQ", False, False, "SIMULATED", *acquisition),
        "BG": (kind, False, True, "SIMULATED-BG", *usual),
    }


@pytest.mark.parametrize("make", [nircam, miri])
def test_roll_turns_the_sky(make, tmp_path):
    """The WCS in the header gives the companion the same sky position at every roll."""
    scene = Scene(companion_offset=(5.0, 3.0))
    places = []
    for number, roll in enumerate((-10.0, 0.0, 35.0), 1):
        simulation = make(ngroups=2, nints=1, scene=scene, roll=roll, observation=number)
        header = fits.getheader(simulation.write(tmp_path), "SCI")
        assert header["ROLL_REF"] == header["PA_V3"] == roll % 360
        # square pixels, whereas the two scales in SIAF differ by two per cent
        header["CDELT1"] = header["CDELT2"]
        places.append(WCS(header, naxis=2).pixel_to_world(*simulation.truth.companion))
    for place in places:
        assert place.separation(places[1]).arcsec < 1e-4
    assert places[0].separation(SkyCoord(65.0, -25.0, unit="deg")).arcsec > 0.1


def test_unknown_role():
    with pytest.raises(ValueError, match="no role 'PSF'; known: SCI, REF, TA, BG"):
        nircam(role="PSF")
