"""The command, the picture and the page of a traced pixel."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest

import gpucoron
from gpucoron.cli import main
from gpucoron.errors import ParameterError
from gpucoron.report.ramp import fits as ramp_fits
from gpucoron.report.ramp import ramp_page, trace_ramp, write_ramp
from gpucoron.report.ramp.describe import as_text, group_rows, integration_rows, merge_groups
from gpucoron.simulate import Effects

SHAPE = (32, 36)


@pytest.fixture(scope="module")
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 8, 3, seed=4, shape=SHAPE, effects=Effects(cosmic_rays=30.0))


@pytest.fixture(scope="module")
def trace(case):
    """A pixel with a jump in an integration other than the first."""
    from gpucoron.engine import reduce_file

    with case.cache.activate():
        run, _models, _paths = reduce_file(case.path, ".", save_results=False)
        later = (run.exposure.groupdq[1:] & 4 != 0).any(axis=(0, 1))
        first = (run.exposure.groupdq[0] & 4 != 0).any(axis=0)
        rows, columns = np.nonzero(later & ~first)
        return trace_ramp(case.path, columns[0], rows[0])


class Text(HTMLParser):
    """Collects the text of a page, and all addresses in it."""

    def __init__(self, page):
        super().__init__()
        self.text, self.addresses, self.tags = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("href", "src", "xlink:href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_holds_everything(trace):
    page = Text(ramp_page(trace))
    text = " ".join(page.text)
    chosen = trace.choose_integration()
    assert chosen > 0
    assert f"pixel {trace.x} {trace.y}" in text
    assert f"{trace.detector[0]} {trace.detector[1]}" in text
    for step in trace.steps:
        assert step.name in page.text
    for _group, flag, _step, cause in group_rows(trace, chosen):
        assert flag in text
        assert cause in text
    assert {"OLS_C", "LIKELY"} <= set(page.text)
    assert "svg" in page.tags


def test_the_page_needs_no_other_file(trace):
    page = Text(ramp_page(trace))
    assert "script" not in page.tags
    assert all(address.startswith(("#", "data:")) for address in page.addresses)


def test_text_from_files_is_escaped(trace):
    page = ramp_page(replace(trace, target="<img src=x onerror=alert(1)>"))
    assert "<img" not in page
    assert "&lt;img" in page


def test_the_integration_is_the_one_asked_for(trace):
    for integration in range(trace.nints):
        assert f"integration {integration} of {trace.nints}" in as_text(trace, integration)
        fit = next(fit for fit in trace.fits if fit.integration == integration)
        assert f"{fit.rate:.5g} ±" in as_text(trace, integration)
    with pytest.raises(ParameterError, match="3 integrations, counted from 0: 0 to 2"):
        ramp_page(trace, 3)


def test_the_page_lists_all_integrations(trace):
    rows = integration_rows(trace)
    assert [row[0] for row in rows] == [0, 1, 2]
    text = " ".join(Text(ramp_page(trace)).text)
    for integration, rate, ols, likely, flags in rows:
        fits = {fit.algorithm: fit for fit in trace.fits if fit.integration == integration}
        assert rate.startswith(f"{fits['OLS_C'].rate:.5g} ± ")
        for name, shown in (("OLS_C", ols), ("LIKELY", likely)):
            assert shown == f"{fits[name].chisq:.4g} / {fits[name].ndof}"
        n_jumps = np.count_nonzero(trace.corrected.groupdq[integration])
        assert flags == (f"JUMP_DET {n_jumps}" if n_jumps else "none")
        assert rate in text


def test_groups_with_the_same_cause_are_merged():
    rows = [
        (0, "DO_NOT_USE", "rscd", "a"),
        (1, "DO_NOT_USE", "rscd", "a"),
        (3, "DO_NOT_USE", "rscd", "a"),
        (3, "X", "b", "c"),
    ]
    assert merge_groups(rows) == [
        ("0 to 1", "DO_NOT_USE", "rscd", "a"), ("3", "DO_NOT_USE", "rscd", "a"), ("3", "X", "b", "c"),
    ]  # fmt: skip


def test_groups_that_are_not_a_number(trace):
    """They have no flag, and yet the fit cannot use them."""
    steps = []
    for step in trace.steps:
        before = steps[-1].after if steps else step.before
        data = step.after.data.copy()
        if step.name == "linearity" or (steps and np.isnan(before.data).any()):
            data[0, 3:5] = np.nan
        steps.append(replace(step, before=before, after=replace(step.after, data=data)))
    spoiled = replace(trace, steps=tuple(steps))
    found = [row for row in merge_groups(group_rows(spoiled, 0)) if row[1] == "NaN"]
    assert found == [("3 to 4", "NaN", "linearity", "the counts are not a number")]
    assert "set groups to NaN" in as_text(spoiled, 0)


def test_a_segment_names_the_integration_of_the_exposure(trace):
    assert "of the whole exposure" not in as_text(trace, 1)
    segment = replace(trace, facts=replace(trace.facts, integration_start=4))
    assert "integration 1 of 3, counted from 0 (number 5 of the whole exposure, counted from 1)" in as_text(segment, 1)


def test_plot_ramp(case, trace, tmp_path):
    from PIL import Image

    with case.cache.activate():
        figure = gpucoron.plot_ramp(case.path, trace.x, trace.y, output=tmp_path / "ramp.png")
    raw, ramp, residuals, flags = figure.axes[:4]
    chosen = trace.choose_integration()
    np.testing.assert_array_equal(raw.lines[0].get_ydata(), trace.raw.data[chosen])
    good = trace.corrected.groupdq[chosen] == 0
    np.testing.assert_array_equal(ramp.lines[0].get_ydata(), trace.corrected.data[chosen][good])
    assert [label.get_text() for label in flags.get_yticklabels()] == ["JUMP_DET"]
    ols = next(fit for fit in trace.fits if fit.integration == chosen)
    times = np.arange(len(good)) * trace.facts.group_time
    np.testing.assert_allclose(
        residuals.lines[1].get_ydata(), trace.corrected.data[chosen] - ols.expected(times), rtol=1e-12
    )
    assert Image.open(tmp_path / "ramp.png").format == "PNG"


def test_residuals_are_about_the_rate(trace):
    """In each segment of two groups or more the residuals have no offset, and the line has the slope of the rate."""
    times = np.arange(trace.raw.data.shape[1]) * trace.facts.group_time
    for fit in trace.fits:
        expected = fit.expected(times)
        for part in fit.segments:
            at = slice(part.first, part.last + 1)
            left = trace.corrected.data[fit.integration, at] - expected[at]
            # a mean of some hundred DN in float32
            assert abs(left.mean()) < 1e-3
            np.testing.assert_allclose(np.diff(expected[at]), fit.rate * trace.facts.group_time, rtol=1e-6, atol=1e-6)


def test_the_command(case, trace, tmp_path, capsys):
    place = [str(case.path), str(trace.x), str(trace.y)]
    with case.cache.activate():
        assert main(["ramp", *place]) == 0
        printed = capsys.readouterr().out
        assert main(["ramp", *place, "--int", "0", "-o", str(tmp_path / "ramp.html")]) == 0
        assert main(["ramp", *place, "--skip", "jump", "--set", "ramp_fit.algorithm=LIKELY"]) == 0
        other = capsys.readouterr().out
    assert printed.strip() == as_text(trace, trace.choose_integration()).strip()
    assert "integration 0 of 3" in (tmp_path / "ramp.html").read_text("utf-8")
    assert re.search(r"^jump +skipped +switched off$", other, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["ramp.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["36", "0"], "no pixel 36 0: x is 0 to 35 and y is 0 to 31, counted from 0"),
        (["0", "-1"], "no pixel 0 -1: x is 0 to 35"),
        (["a", "0"], "no pixel a 0: x is 0 to 35"),
        (["492", "1510"], "as detector coordinates, counted from 1, it would be the pixel 0 8"),
        (["0", "0", "--int", "3"], "--int 3: the exposure has 3 integrations, counted from 0: 0 to 2"),
        (["0", "0", "--int", "1.5"], "--int 1.5: the exposure has 3 integrations"),
        (["0", "0", "-o", "ramp.pdf"], "ramp.pdf: give a name that ends in .png or .html"),
        (["0", "0", "-o", "nowhere/ramp.png"], "nowhere/ramp.png: there is no folder nowhere"),
        (["0", "0", "--set", "jump.treshold=4"], "no parameter of jump 'treshold'"),
    ],
)
def test_errors_of_the_command(case, capsys, arguments, message):
    with case.cache.activate():
        assert main(["ramp", str(case.path), *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not printed.out


def test_a_product_has_no_ramps(case, capsys, tmp_path):
    product = tmp_path / "x_rateints.fits"
    product.touch()
    assert main(["ramp", str(product), "0", "0"]) == 2
    assert "x_uncal.fits" in capsys.readouterr().err


def test_a_reference_pixel_has_no_rate(exposures, capsys):
    case = exposures("MIRI", "MASK1550", "FASTR1", 8, 1, seed=1, shape=SHAPE)
    with case.cache.activate():
        assert main(["ramp", str(case.path), "3", "5"]) == 2
        assert main(["ramp", str(case.path), "4", "5"]) == 0
    assert "3 5 is a reference pixel" in capsys.readouterr().err


def test_nothing_is_half_written(trace, tmp_path, monkeypatch):
    path = tmp_path / "ramp.html"
    path.write_text("old")
    monkeypatch.setattr("gpucoron.report.ramp.plot.ramp_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_ramp(trace, path)
    assert path.read_text() == "old"


def test_chisq_is_that_of_noise():
    """Chi-square of ramps with photon and read noise is on average the number of degrees of freedom."""
    from gpucoron.facts import Facts

    random, facts = np.random.default_rng(1), Facts("NIRCAM", frame_time=2.0, group_time=2.0, nframes=1, groupgap=0)
    rate, gain, readnoise, ngroups, n_ramps = 30.0, 2.0, 8.0, 9, 4000
    photons = random.poisson(rate * 2.0 * gain, (n_ramps, ngroups)).cumsum(axis=1) / gain
    ramps = photons + random.normal(0, readnoise / np.sqrt(2), (n_ramps, ngroups))
    used = np.ones(ngroups - 1, bool)
    values = [ramp_fits._chisq(ramp, used, rate, 0.0, gain, readnoise, facts) for ramp in ramps]
    # about the true rate no degree of freedom is lost; five times the error of the mean
    assert abs(np.mean(values) - used.sum()) < 5 * np.std(values) / np.sqrt(n_ramps)
    assert np.var(values) == pytest.approx(2 * used.sum(), rel=0.15)  # the variance of chi-square


def test_chisq_of_likely_is_that_of_the_product(case, trace):
    from gpucoron.engine import plan, run_steps
    from gpucoron.io.exposure import Exposure

    with case.cache.activate():
        run = run_steps(plan(Exposure.read(case.path), steps={"ramp_fit": {"algorithm": "LIKELY"}}))
    total = sum(fit.chisq for fit in trace.fits if fit.algorithm == "LIKELY")
    # the product uses the covariance of the rate before the last iteration
    assert total == pytest.approx(float(run.exposure.likelihood_chisq[trace.y, trace.x]), rel=1e-2)


def test_the_png_is_drawn_without_a_display(trace, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    from gpucoron.report.ramp.picture import draw

    file = BytesIO()
    draw(trace, 0).savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
