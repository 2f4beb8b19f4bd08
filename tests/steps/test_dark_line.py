"""A dark that is too short, extrapolated along a line: compared with polynomial fits, and with known noise."""

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.backends import get_backend
from gpucoron.backends.results import Slopes
from gpucoron.dq import DO_NOT_USE, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.parameters import resolve
from gpucoron.simulate import Effects
from gpucoron.steps import STEPS, apply_rateints_outliers, dark_current, experimental_jumpramp, ramp_fit
from gpucoron.steps.dark_line import FEWEST_GROUPS, fit_line, groups_of_line
from tests.cases.backends import usable_backend

SHAPE = (64, 64)
NOISE = 2.0  # DN in a group of the dark
#: group time of MIRI's coronagraphs, s
GROUP_TIME = 0.24


@pytest.mark.parametrize(("n_groups", "used"), [(2, 2), (4, 4), (5, 5), (10, 5), (20, 5), (21, 6), (100, 25)])
def test_the_line_goes_through_the_last_quarter(n_groups, used):
    assert list(groups_of_line(n_groups)) == list(range(n_groups - used, n_groups))


@pytest.mark.parametrize("n_groups", [3, 5, 10, 30])
def test_it_is_a_polynomial_fit(n_groups):
    rng = np.random.default_rng(1)
    dark = (rng.normal(100, NOISE, (n_groups, 3, 4)) + np.arange(n_groups)[:, None, None]).astype(np.float32)
    dark[-2, 0, 0] = np.nan
    dark[-1, 0, 1] = np.inf
    line = fit_line(dark, xp=np)
    for row, column in np.ndindex(3, 4):
        last = list(groups_of_line(n_groups))
        good = [group for group in last if np.isfinite(dark[group, row, column])]
        if len(good) < 3:
            continue
        values = dark[good, row, column].astype(float)
        center = np.mean(good)
        (slope, mean), residual, *_ = np.polyfit(np.array(good) - center, values, 1, full=True)
        variance = residual[0] / (len(good) - 2)
        np.testing.assert_allclose(line.slope[row, column], slope, rtol=1e-9)
        np.testing.assert_allclose(line.at(50)[row, column], mean + slope * (50 - center), rtol=1e-9)
        np.testing.assert_allclose(line.mean[row, column], mean, rtol=1e-12)
        assert line.center[row, column] == center
        spread = np.sum((np.array(good) - center) ** 2)
        np.testing.assert_allclose(line.slope_variance[row, column], variance / spread, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(line.mean_variance[row, column], variance / len(good), rtol=1e-6, atol=1e-9)


def test_too_few_values_are_continued_as_by_jwst():
    dark = np.arange(24, dtype=np.float32).reshape(6, 2, 2) ** 2
    dark[1:4, 0, 0] = np.nan  # two of five are left
    dark[1:5, 0, 1] = np.nan  # one is left
    line = fit_line(dark, xp=np)
    assert line.at(8)[0, 0] == dark[5, 0, 0] + 3 * (dark[5, 0, 0] - dark[4, 0, 0])
    assert np.isnan(line.at(8)[0, 1])
    assert line.slope_variance[0, 0] == line.mean_variance[0, 0] == line.slope_variance[0, 1] == 0
    assert (line.slope_variance[1] > 0).all()
    # two groups of a dark are too few for all
    two = fit_line(dark[:2], xp=np)
    np.testing.assert_array_equal(two.at(3)[1], 3 * dark[1, 1] - 2 * dark[0, 1])
    assert not two.slope_variance.any()


def make_exposure(nints, ngroups, backend, nframes=1, groupgap=0, *, rate=50.0, **facts):
    """Make ramps without noise, with a rate in DN/s."""
    group = np.arange(ngroups, dtype=np.float32)[:, None, None]
    data = np.broadcast_to(rate * GROUP_TIME * (group + 1), (nints, ngroups, *SHAPE)).astype(np.float32)
    defaults = {
        "instrument": "NIRCAM", "nframes": nframes, "groupgap": groupgap, "integration_start": None,
        "group_time": GROUP_TIME, "frame_time": GROUP_TIME / (nframes + groupgap),
    }  # fmt: skip
    return Exposure(
        data=backend.to_device(data),
        groupdq=backend.to_device(np.zeros(data.shape, np.uint8)),
        pixeldq=backend.to_device(np.zeros(SHAPE, np.uint32)),
        facts=Facts(**{**defaults, **facts}),
    )


#: groups and integrations of the dark (0: no such axis); integrations, groups, frames per group and gap of the exposure
CASES = {
    "ten of forty": (10, 0, 3, 40, 1, 0),
    "thirty of forty": (30, 0, 2, 40, 1, 0),
    "thirty of forty, faint": (30, 0, 2, 40, 1, 0),
    "MIRI's two integrations": (10, 2, 4, 40, 1, 0),
    "averaged groups": (20, 0, 2, 12, 4, 1),
}
#: 4096 pixels of at least three degrees of freedom: their mean square is known to 2 %
TOLERANCES = dict.fromkeys(CASES, 0.06)
#: the fit of a bright ramp gives most weight to its ends, and the error assumes equal weights: up to 16 % were found
TOLERANCES["thirty of forty"] = 0.2


def reduce_with(case, backend, how, fit="OLS_C", flags=0):
    """Subtract a dark of pure noise and fit: rate and rateints, on the host.

    ``how`` is the extrapolation: by the 'line', 'jwst', or by the 'truth', which is zero.
    """
    dark_groups, dark_nints, nints, ngroups, nframes, groupgap = CASES[case]
    rng = np.random.default_rng(3)
    shape = (dark_nints, dark_groups, *SHAPE) if dark_nints else (dark_groups, *SHAPE)
    dark = rng.normal(0, NOISE, shape).astype(np.float32)
    if how == "truth":
        beyond = ngroups * (nframes + groupgap) - dark_groups
        dark = np.concatenate([dark, np.zeros((*shape[:-3], beyond, *SHAPE), np.float32)], axis=-3)
    dark = backend.to_device(dark)
    dq = np.zeros((dark_nints, 1, *SHAPE) if dark_nints else SHAPE, np.uint32)
    reference = Reference(
        data=dark, dq=backend.to_device(dq), facts={"nframes": 1, "groupgap": 0, "average_dark_current": None}
    )
    exposure = make_exposure(nints, ngroups, backend, nframes, groupgap, rate=0.5 if "faint" in case else 50.0)
    if flags:
        exposure.groupdq[:, dark_groups:, :2] |= exposure.groupdq.dtype.type(flags)
    algorithm = "OLS_C" if fit == "experimental" else fit
    steps = {"dark_current": {"continue_by_line": how == "line"}, "ramp_fit": {"algorithm": algorithm}}
    settings = resolve(STEPS, steps=steps)
    dark_current.run(exposure, {"dark": reference}, settings["dark_current"], backend)
    images = [backend.to_device(np.full(SHAPE, value, np.float32)) for value in (5.5, 20.0)]
    gain, readnoise = (Reference(data=image) for image in images)
    references = {"gain": gain, "readnoise": readnoise}
    if fit == "experimental":
        experimental_jumpramp.run(exposure, references, STEPS["experimental_jumpramp"].settings(use=True), backend)
    else:
        ramp_fit.run(exposure, references, settings["ramp_fit"], backend)
    return [
        Slopes(**{name: backend.to_host(array) for name, array in vars(slopes).items()})
        for slopes in (exposure.rate, exposure.rateints)
    ]


def assert_the_error_is_the_scatter(case, backend, fit="OLS_C"):
    """Compare with the same dark, extrapolated by the truth."""
    found, truth = (reduce_with(case, backend, how, fit) for how in ("line", "truth"))
    jwsts = reduce_with(case, get_backend("numpy"), "jwst", fit)
    for ours, expected, theirs in zip(found, truth, jwsts, strict=True):
        scatter = np.sqrt(np.mean((ours.rate - expected.rate) ** 2))
        added = np.sqrt(np.mean(ours.var_rnoise.astype(float) - expected.var_rnoise))
        assert abs(scatter / added - 1) < TOLERANCES[case], (scatter, added)
        np.testing.assert_allclose(ours.err**2, ours.var_poisson + ours.var_rnoise, rtol=1e-5)
        assert np.sqrt(np.mean((theirs.rate - expected.rate) ** 2)) > 3 * scatter
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_error_is_the_scatter(case, backend):
    """The error is the same in all integrations that share a dark, so that their mean has all of it."""
    rate, rateints = assert_the_error_is_the_scatter(case, backend)
    if case == "ten of forty":
        assert np.mean(rate.var_rnoise) > 0.9 * np.mean(rateints.var_rnoise[0])


@pytest.mark.parametrize("fit", ["LIKELY", "experimental"])
def test_it_is_so_for_every_fit(fit, backend):
    assert_the_error_is_the_scatter("MIRI's two integrations", backend, fit)


@pytest.mark.parametrize("flags", [SATURATED, DO_NOT_USE])
def test_ramps_that_end_within_the_dark_are_as_before(flags, backend):
    ours, jwsts = (reduce_with("ten of forty", backend, how, flags=flags) for how in ("line", "jwst"))
    for one, other in zip(ours, jwsts, strict=True):
        for name in vars(one):
            np.testing.assert_array_equal(getattr(one, name)[..., :2, :], getattr(other, name)[..., :2, :])
        assert (one.err[..., 2:, :] != other.err[..., 2:, :]).all()


@pytest.mark.parametrize("name", ["numpy", "native"])
def test_chunks_of_rows_give_the_same(name, request):
    whole, chunks = (usable_backend(name, request.config, **options) for options in ({}, {"max_memory": 200_000}))
    for one, other in zip(*(reduce_with("ten of forty", which, "line") for which in (whole, chunks)), strict=True):
        for field in vars(one):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def noisy_dark(case, folder):
    """Add noise to a case's dark reference; return the path of the copy."""
    (path,) = case.cache.path.rglob("*dark*.fits")
    with fits.open(path) as hdus:
        dark = hdus["SCI"].data
        hdus["SCI"].data = (dark + np.random.default_rng(0).normal(0, NOISE, dark.shape)).astype(np.float32)
        hdus.writeto(folder / "dark.fits")
    return str(folder / "dark.fits")


@pytest.mark.parametrize("n_groups", [2, 10])
def test_pixels_without_a_line_are_named(n_groups, exposures, tmp_path, caplog):
    case = exposures("MIRI", "MASK1550", "FASTR1", 20, 1, options={"dark_groups": n_groups}, shape=(16, 16))
    path = noisy_dark(case, tmp_path)
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].data[..., -min(3, n_groups) :, 2:4, 5] = np.nan  # of the last five groups, two are left
    steps = {"dark_current": {"override_dark": path}, "jump": {"skip": True}}
    found = []
    for continue_by_line in (False, True):
        steps["dark_current"]["continue_by_line"] = continue_by_line
        with case.cache.activate():
            _run, models, _paths = gpucoron.reduce_file(
                case.path, tmp_path, steps=steps, backend="numpy", save_results=False
            )
        found.append(models["rate"].err)
        if not continue_by_line:
            assert "continue_by_line" not in caplog.text
    same = found[0] == found[1]
    if n_groups == 2:
        assert "no line can be fitted to the 2 groups of the dark" in caplog.text
        assert "along a line" not in caplog.text
        assert same.all()
    else:
        assert "no line can be fitted to 2 pixels of the dark" in caplog.text
        assert same[2:4, 5].all()
        same[2:4, 5] = False
        assert not (same & (found[0] > 0)).any()  # a pixel without a slope has no error


def test_an_exposure_of_known_truth(exposures, tmp_path, caplog, monkeypatch):
    """Compared with the perfect dark; and a refitted pixel keeps the error."""
    arguments = {"shape": (32, 32), "effects": Effects(cosmic_rays=0)}
    case = exposures("MIRI", "MASK1550", "FASTR1", 40, 12, options={"dark_groups": 10}, **arguments)
    perfect = exposures("MIRI", "MASK1550", "FASTR1", 40, 12, **arguments)
    options = {"backend": "cpu", "save_results": False, "rate_int_outliers": True}
    with perfect.cache.activate():
        _run, truth, _paths = gpucoron.reduce_file(perfect.path, tmp_path, **options)
    with case.cache.activate():
        steps = {"dark_current": {"override_dark": noisy_dark(case, tmp_path), "continue_by_line": True}}
        run, models, _paths = gpucoron.reduce_file(case.path, tmp_path, steps=steps, **options)
        monkeypatch.setattr(apply_rateints_outliers, "MANY_PIXELS", -1)
        _run, again, _paths = gpucoron.reduce_file(case.path, tmp_path, steps=steps, **options)
    (outliers,) = (record for record in run.records if record.name == "apply_rateints_outliers")
    assert outliers.flagged["pixels fitted again"] > 0
    assert f"continued by 30 groups along a line through its last {FEWEST_GROUPS}" in caplog.text
    for name in ("rate", "rateints"):
        np.testing.assert_array_equal(models[name].err, again[name].err)
        found, expected = models[name], truth[name]
        # MIRI's first integration settles: there the dark is not a line
        late = slice(None) if name == "rate" else slice(1, None)
        off, added = (found.data - expected.data)[late], (found.err**2 - expected.err**2)[late]
        good = np.isfinite(off) & (found.dq[late] & DO_NOT_USE == 0) & (expected.dq[late] & DO_NOT_USE == 0)
        # 1000 pixels, three degrees of freedom
        assert abs(np.sqrt(np.mean(off[good] ** 2) / np.mean(added[good])) - 1) < 0.12
