"""Integrations in a browser: their images from a script beside the page, and the charts along them."""

import re

import numpy as np
import pytest

from tests.cases.browsers import (
    ActionChains,
    By,
    Keys,
    all_css,
    click,
    css,
    drain,
    open_page,
    replace,
    settle,
    until,
    until_equal,
)
from tests.cases.report_pages import N_INTEGRATIONS, PLANTED, SHAPE, shown, write_page

EXPOSURE = "jw01386001001_02101_00001_nrcalong"
TILES = f"report_tiles/{EXPOSURE}_tiles.js"
#: what the readout's four digits may differ from a value
FOUR_DIGITS = 1e-3


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page"), n=5)


@pytest.fixture
def opened(browser, page):
    """The first exposure, open; at the end its tiles may have been requested too, and nothing went wrong."""
    path, drawn = page
    open_page(browser, f"{path.as_uri()}#{EXPOSURE}")
    until(browser, "return document.querySelectorAll('tr.detail .images canvas').length >= 4")
    browser.drawn = drawn[0]
    yield browser
    complaints, requests = drain(browser)
    assert complaints == []
    assert {url.split("#")[0] for url in requests} <= {path.as_uri(), (path.parent / TILES).as_uri()}


def load(browser):
    click(browser, css(browser, '[data-loads="integrations"]'))
    until_equal(browser, state, "0")


def state(browser):
    """Return which integration is drawn, with '-difference' for its difference to the median."""
    script = "return document.querySelector('tr.detail .player')?.dataset.shown"
    return browser.execute_script(script)


def value_at(browser, y, x):
    """Read the value of a pixel of the array from the line above the integration."""
    canvas = next(one for one in all_css(browser, "tr.detail .player canvas[data-panel]") if one.is_displayed())
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    width, height = browser.execute_script("return [arguments[0].clientWidth, arguments[0].clientHeight]", canvas)
    size = min(width / SHAPE[1], height / SHAPE[0])
    offset = round((x + 0.5 - SHAPE[1] / 2) * size), round(-(y + 0.5 - SHAPE[0] / 2) * size)
    ActionChains(browser).move_to_element_with_offset(canvas, *offset).perform()
    settle(browser)
    text = css(browser, "tr.detail .player .readout").text
    assert text.startswith(f"x {x}, y {y} ")
    return float(re.search(r": (\S+) DN/s", text)[1].replace("−", "-"))


def strip(browser, name):
    return css(browser, f'tr.detail [data-strip="{name}"]')


def slide(browser, number):
    """Move the slider as its keys do."""
    slider = css(browser, 'tr.detail .player input[type="range"]')
    browser.execute_script("arguments[0].focus({preventScroll: true})", slider)
    slider.send_keys(Keys.HOME, *[Keys.RIGHT] * number)
    until_equal(browser, state, str(number))


def test_nothing_is_loaded_before_it_is_asked_for(opened, page):
    _, requests = drain(opened)
    assert {url.split("#")[0] for url in requests} == {page[0].as_uri()}
    load(opened)
    _, requests = drain(opened)
    assert requests == {(page[0].parent / TILES).as_uri()}


def test_the_slider_shows_the_values_of_each_integration(opened):
    load(opened)
    for number in (0, 3, N_INTEGRATIONS - 1):
        slide(opened, number)
        assert f"integration {number} of 0 to {N_INTEGRATIONS - 1}" in css(opened, "tr.detail .player").text
        for y, x in ((20, 33), (60, 70)):
            assert value_at(opened, y, x) == pytest.approx(
                shown(opened.drawn.integrations[number])[y, x], rel=FOUR_DIGITS, abs=1e-6
            )
    click(opened, css(opened, '[aria-label="Next integration"]'))
    until_equal(opened, state, "0")
    click(opened, css(opened, '[aria-label="Previous integration"]'))
    until_equal(opened, state, str(N_INTEGRATIONS - 1))


def test_the_difference_to_the_median_shows_a_source_of_one_integration(opened):
    number, y, x, brightness = PLANTED
    load(opened)
    slide(opened, number)
    click(opened, css(opened, "tr.detail .player .check input"))
    until_equal(opened, state, f"{number}-difference")
    seen = np.array([shown(one) for one in opened.drawn.integrations])
    known = np.nan_to_num(seen)  # at some pixels all are NaN
    expected = seen[number] - np.median(known, axis=0)
    assert expected[y, x] == pytest.approx(brightness, abs=2)  # noise of 0.3 DN/s, and of the quantised level
    assert value_at(opened, y, x) == pytest.approx(expected[y, x], rel=FOUR_DIGITS)
    assert value_at(opened, 50, 20) == pytest.approx(expected[50, 20], rel=FOUR_DIGITS, abs=1e-5)
    click(opened, css(opened, '[aria-label="Previous integration"]'))
    until_equal(opened, state, f"{number - 1}-difference")
    assert abs(value_at(opened, y, x)) < 5
    click(opened, css(opened, "tr.detail .player .check input"))
    until_equal(opened, state, str(number - 1))


def test_play_and_blink(opened):
    def seen_states(n):
        script = """
        const [n, done] = arguments;
        const seen = [];
        new MutationObserver((_, observer) => {
          seen.push(Number(document.querySelector("tr.detail .player").dataset.shown));
          if (seen.length === n) { observer.disconnect(); done(seen); }
        }).observe(document.querySelector("tr.detail .player"), { attributeFilter: ["data-shown"] });
        """
        return opened.execute_async_script(script, n)

    load(opened)
    play, blink = (opened.find_element(By.XPATH, f"//button[text()='{name}']") for name in ("Play", "Blink"))
    click(opened, play)
    assert play.get_attribute("aria-pressed") == "true"
    states = seen_states(4)
    assert [(b - a) % N_INTEGRATIONS for a, b in zip(states, states[1:], strict=False)] == [1, 1, 1]
    click(opened, play)
    assert play.get_attribute("aria-pressed") == "false"
    slide(opened, 2)
    field = css(opened, 'tr.detail [aria-label="Blink with integration"]')
    replace(field, "5")
    click(opened, blink)
    assert set(seen_states(4)) == {2, 5}
    click(opened, play)  # the one stops the other
    assert blink.get_attribute("aria-pressed") == "false"
    click(opened, play)


def test_zoom_is_that_of_the_exposure(opened):
    load(opened)
    click(opened, css(opened, 'tr.detail .image-place button[aria-label="Zoom in"]'))
    canvas = css(opened, 'tr.detail canvas[data-panel="integration"]')
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    width = canvas.size["width"]
    ActionChains(opened).move_to_element_with_offset(canvas, -width // 2 + 3, 0).perform()
    settle(opened)
    x = int(re.match(r"x (\d+)", css(opened, "tr.detail .player .readout").text)[1])
    assert x == pytest.approx(SHAPE[1] // 4, abs=1)


def test_strips(opened):
    medians = [float(np.nanmedian(one)) for one in opened.drawn.integrations]
    points = strip(opened, "median").find_elements(By.CSS_SELECTOR, "circle.point")
    assert len(points) == N_INTEGRATIONS
    heights = [-float(point.get_attribute("cy")) for point in points]
    assert np.argsort(heights, kind="stable").tolist() == np.argsort(medians, kind="stable").tolist()
    # what is not significant is blank, what is has an error bar
    assert len(strip(opened, "shift_x").find_elements(By.CSS_SELECTOR, "circle.point")) == 1
    bar = strip(opened, "shift_x").find_element(By.CSS_SELECTOR, "line.error")
    assert abs(float(bar.get_attribute("y1")) - float(bar.get_attribute("y2"))) > 5
    assert not strip(opened, "median").find_elements(By.CSS_SELECTOR, "line.error")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[3])
    ActionChains(opened).move_to_element(points[3]).perform()
    settle(opened)
    title = strip(opened, "median").find_element(By.CSS_SELECTOR, "rect.hit title").get_attribute("textContent")
    assert title == f"integration 3: {float(f'{medians[3]:.4g}'):g} DN/s".replace("-", "−")
    # a click loads the tiles and shows the integration; a ramp is then of this one
    ActionChains(opened).click().perform()
    until_equal(opened, state, "3")
    canvas = css(opened, 'tr.detail canvas[data-panel="rate"]')
    click(opened, canvas)
    assert " --int 3 " in css(opened, "tr.detail .pixel code").text
    # and by keys
    chart = strip(opened, "row_noise").find_element(By.TAG_NAME, "svg")
    opened.execute_script("arguments[0].focus({preventScroll: true})", chart)
    ActionChains(opened).send_keys(Keys.RIGHT, Keys.RIGHT, Keys.ENTER).perform()
    until_equal(opened, state, "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "could not be loaded. Keep this file beside the page"),
        ("gpucoronTiles('another', {images: []})", f"does not hold the integrations of {EXPOSURE}"),
    ],
)
def test_tiles_that_are_not_there(browser, tmp_path, content, message):
    path, _ = write_page(tmp_path, n=1)
    tiles = tmp_path / TILES
    kept = tiles.read_text()
    if content is None:
        tiles.unlink()
    else:
        tiles.write_text(content)
    open_page(browser, path.as_uri())
    click(browser, css(browser, '[data-loads="integrations"]'))
    until(browser, "return document.querySelector('.integration .problem')")
    assert message in css(browser, ".integration .problem").text
    tiles.write_text(kept)
    click(browser, browser.find_element(By.XPATH, "//button[text()='Try again']"))
    until_equal(browser, state, "0")
    drain(browser)  # the browser logs the missing file


def test_scripts_from_elsewhere_are_refused(browser, tmp_path):
    def elsewhere(row, detail, blocks):
        detail["tiles"] = "http://127.0.0.1:9/tiles.js"

    path, _ = write_page(tmp_path, n=1, change=elsewhere, write_own_tiles=False)
    open_page(browser, path.as_uri())
    click(browser, css(browser, '[data-loads="integrations"]'))
    until(browser, "return document.querySelector('.integration .problem')")
    complaints, _ = drain(browser)
    assert any("Content Security Policy" in complaint for complaint in complaints)
