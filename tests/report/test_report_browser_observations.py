"""Observations, trends, views and ramps of a report in a browser."""

import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.cases.browsers import ActionChains, By, Keys, all_css, choose, click, css, drain, open_page, settle, until
from tests.cases.report_pages import FLAGS, difference_of_rolls, make_row, shown, write_page

N_EXPOSURES = 10
EXPOSURE = "jw01386001001_02101_00001_nrcalong"
#: what the four digits of a chart may differ from a value
FOUR_DIGITS = 1e-3


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page"), n=N_EXPOSURES)


@pytest.fixture
def opened(browser, page):
    path, _ = page
    open_page(browser, path.as_uri())
    yield browser
    complaints, requests = drain(browser)
    assert complaints == []
    assert {url.split("#")[0] for url in requests} <= {path.as_uri()}


def open_exposure(browser, page, ending=""):
    path, drawn = page
    open_page(browser, f"{path.as_uri()}#{EXPOSURE}{ending}")
    until(browser, "return document.querySelectorAll('tr.detail .images canvas').length >= 4")
    settle(browser)
    return drawn[0]


def view(browser, key):
    click(browser, css(browser, f'tr.detail [data-view="{key}"]'))


def in_window(browser, selector):
    """Whether the top of an element is within the window."""
    script = (
        "const top = document.querySelector(arguments[0])?.getBoundingClientRect().top; return top >= 0 && top < 700"
    )
    return browser.execute_script(script, selector)


def first_profile(browser, within):
    """Read the text of the first point of the rows' profile by its key."""
    chart = css(browser, f'{within} svg[aria-label^="Median of each row"]')
    browser.execute_script("arguments[0].focus({preventScroll: true})", chart)
    chart.send_keys(Keys.RIGHT)
    return css(browser, f"{within} .charts .chart-text").text


def test_exposures_of_an_observation_in_time_order(opened):
    sets = all_css(opened, "#observations .set")
    assert [one.find_element(By.TAG_NAME, "strong").text for one in sets] == [
        "HIP 65426 · NRCALONG F444W · program 01386",
        "HIP 65426 · NRCALONG F356W · program 01386",
    ]
    assert "1 outlier" in sets[1].text
    click(opened, sets[1].find_element(By.TAG_NAME, "summary"))
    lines = [
        [cell.text for cell in line.find_elements(By.TAG_NAME, "td")]
        for line in sets[1].find_elements(By.CSS_SELECTOR, ".members tbody tr")
    ]
    assert [line[1] for line in lines] == sorted(line[1] for line in lines)
    rows = {row["exposure"]: row for row in map(make_row, range(5, 10))}
    for name, _, roll, role, target, dither, filters, exptime, outlier in lines:
        row = rows[name]
        assert roll == f"{row['roll']:g} °"
        assert (role, target, dither) == (row["role"], row["target"], row["dither"] or "–")
        assert filters == "F356W MASKA335R"
        assert exptime == "5 min 7 s"
        assert outlier == ("◆ background, jump rate" if row["outliers"] else "")
    # a name opens the exposure in the table
    button = sets[1].find_elements(By.CSS_SELECTOR, ".members button")[1]
    name = button.text
    click(opened, button)
    assert css(opened, "tr.row.open .name").text.replace("▶", "").strip() == name
    assert in_window(opened, "tr.row.open")
    assert opened.switch_to.active_element == css(opened, "tr.row.open .name")


def test_quicklooks(opened, page):
    after, removed = difference_of_rolls(page[1])
    click(opened, css(opened, ".set summary"))
    rolls, star = all_css(opened, ".set[open] .quicklooks > details")
    assert not rolls.find_elements(By.TAG_NAME, "canvas")
    click(opened, rolls.find_element(By.TAG_NAME, "summary"))
    until(opened, "return document.querySelectorAll('.quicklook canvas[data-panel]').length === 3")
    assert "Mean of 2 exposures less mean of 2 exposures." in rolls.text
    text = first_profile(opened, ".quicklook")
    expected = [np.nanmedian(shown(image)[0]) for image in (after, after + removed)]
    words = text.replace("−", "-").replace(",", "").split()
    values = [float(word) for word, unit in zip(words, words[1:], strict=False) if unit == "DN/s"]
    assert values == pytest.approx(expected, rel=FOUR_DIGITS, abs=1e-6)
    click(opened, star.find_element(By.TAG_NAME, "summary"))
    until(opened, "return document.querySelectorAll('.quicklook canvas[data-panel]').length === 4")
    assert "The reference is scaled by 0.9." in star.text
    # closed ones give their memory back
    click(opened, rolls.find_element(By.TAG_NAME, "summary"))
    assert len(all_css(opened, ".quicklook canvas[data-panel]")) == 1
    click(opened, rolls.find_element(By.TAG_NAME, "summary"))
    until(opened, "return document.querySelectorAll('.quicklook canvas[data-panel]').length === 4")


def test_trends(opened):
    click(opened, css(opened, "#trends summary"))
    charts = all_css(opened, "#trends [data-trend]")
    keys = ["background", "read_noise", "row_noise", "saturated_radius", "jump_rate"]
    assert [chart.get_dom_attribute("data-trend") for chart in charts] == keys
    rows = sorted(map(make_row, range(N_EXPOSURES)), key=lambda row: row["start"])
    for key, chart in zip(keys, charts, strict=True):
        points = chart.find_elements(By.CSS_SELECTOR, "circle.point")
        values = [row[key] for row in rows if row[key] is not None]
        assert len(points) == len(values)
        places = [float(point.get_attribute("cx")) for point in points]
        assert places == sorted(places)
        heights = [-float(point.get_attribute("cy")) for point in points]
        slope = np.polyfit(values, heights, 1)[0] if len(set(values)) > 1 else 0
        # a straight line, to the tenth of a unit to which points are placed
        np.testing.assert_allclose(np.subtract(heights, heights[0]), slope * np.subtract(values, values[0]), atol=0.2)
        assert slope > 0 or len(set(values)) == 1
        marked = [row["exposure"] for row in rows if key in row["outliers"]]
        assert len(chart.find_elements(By.CSS_SELECTOR, "circle.marked")) == len(marked)
    assert {text.text for text in all_css(opened, "#trends .legend li")} == {
        "NRCALONG F356W", "NRCALONG F444W", "outlier"
    }  # fmt: skip
    # one detector and filter alone
    choice = css(opened, "#trends select")
    choose(opened, choice, "NRCALONG F444W")
    assert len(all_css(opened, '[data-trend="background"] circle.point')) == 5
    assert not all_css(opened, '[data-trend="background"] circle.marked')
    choose(opened, choice, "all detectors and filters")
    # a point names its exposure, and opens it
    marked = css(opened, '[data-trend="background"] circle.marked')
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", marked)
    ActionChains(opened).move_to_element(marked).perform()
    settle(opened)
    name = make_row(5)["exposure"]
    text = css(opened, '[data-trend="background"] .chart-text').text
    assert text == f"{name}: 8.1 DN/s, outlier"
    title = css(opened, '[data-trend="background"] rect.hit title').get_attribute("textContent")
    assert title == text
    ActionChains(opened).click().perform()
    settle(opened)
    assert css(opened, "tr.row.open .name").text.replace("▶", "").strip() == name


def test_the_help_has_stable_anchors(browser, page):
    for key in ("rows-of-difference", "map-of-jumps", "median-of-integrations", "flags-at-core"):
        open_page(browser, f"{page[0].as_uri()}#see-{key}")
        assert css(browser, "#help").get_dom_attribute("open") is not None
        assert css(browser, f"#see-{key}").is_displayed()
        open_exposure(browser, page)
        assert css(browser, f'tr.detail [data-view="{key}"]').is_enabled()


def test_view_median_of_each_row_of_a_difference(browser, page):
    open_exposure(browser, page)
    view(browser, "rows-of-difference")
    until(browser, "return document.querySelectorAll('.quicklook canvas[data-panel]').length === 3")
    until(browser, "return document.querySelector('.quicklook .profiles')?.getBoundingClientRect().top < 700")
    assert in_window(browser, ".quicklook .profiles")
    labels = [item.text for item in all_css(browser, ".quicklook .profiles .legend li")]
    assert labels == ["after 1/f", "before 1/f", "1/f removed"]


@pytest.mark.parametrize("way", ["button", "address"])
def test_view_map_of_jumps(browser, page, way):
    if way == "button":
        open_exposure(browser, page)
        view(browser, "map-of-jumps")
    else:
        open_exposure(browser, page, "&view=map-of-jumps")
    until(browser, "return !document.querySelector('tr.detail [data-flag=HOT] input').checked")
    checked = {name: css(browser, f'[data-flag="{name}"] input').is_selected() for name in FLAGS}
    assert checked == {name: name == "JUMP_DET" for name in FLAGS}
    panels = all_css(browser, "tr.detail .image-place figure.image")
    visible = [panel.get_dom_attribute("data-panel") for panel in panels if panel.is_displayed()]
    assert visible == ["rate", "flags"]
    assert in_window(browser, "tr.detail .image-set")


def test_view_median_of_each_integration(browser, page):
    open_exposure(browser, page)
    view(browser, "median-of-integrations")
    assert in_window(browser, '[data-strip="median"]')
    assert browser.switch_to.active_element == css(browser, '[data-strip="median"] svg')


def test_view_flags_around_the_core(browser, page):
    drawn = open_exposure(browser, page)
    view(browser, "flags-at-core")
    settle(browser)
    assert float(css(browser, "tr.detail .zoom-factor").text.removeprefix("× ")) == pytest.approx(120 / 64, abs=0.01)
    # the middle of the region is that of the star
    canvas = css(browser, 'tr.detail canvas[data-panel="flags"]')
    ActionChains(browser).move_to_element(canvas).perform()
    settle(browser)
    text = css(browser, "tr.detail .readout").text
    x, y = (int(part.split()[1].rstrip(",")) for part in text.split(" (")[0].split(", "))
    brightest = np.argwhere(drawn.rate > np.nanpercentile(drawn.rate, 98))
    assert [y, x] == pytest.approx(np.median(brightest, axis=0), abs=3)


def test_views_that_lack_their_data_say_so(browser, tmp_path):
    def strip(row, detail, blocks):
        detail["integrations"] = None
        blocks.clear()

    path, _ = write_page(tmp_path, n=1, change=strip, with_tiles=False)
    open_page(browser, path.as_uri())
    titles = {
        button.get_dom_attribute("data-view"): button.get_attribute("title")
        for button in all_css(browser, "[data-view]")
    }
    assert titles == {
        "rows-of-difference": "needs two rolls of this target in the report",
        "map-of-jumps": "needs the rate product",
        "median-of-integrations": "needs the rateints product",
        "flags-at-core": "needs the rate product",
    }
    assert not any(button.is_enabled() for button in all_css(browser, "[data-view]"))
    until(browser, "return document.querySelector('.image-place').textContent.includes('no images')")
    assert drain(browser)[0] == []


def test_a_served_page_shows_the_ramp(browser, tmp_path):
    """The page asks for the ramp of the pixel below the token, and its tiles come from the same server."""
    path, _ = write_page(tmp_path / "TOKEN", n=1, serve="/TOKEN")
    (tmp_path / "TOKEN" / "ramp").write_text("<!doctype html><p>the ramp</p>")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, "": "text/html"}

        def log_message(self, *arguments):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        open_page(browser, f"http://127.0.0.1:{server.server_port}/TOKEN/report.html")
        until(browser, "return document.querySelectorAll('tr.detail .images canvas').length >= 4")
        rate = css(browser, 'tr.detail canvas[data-panel="rate"]')
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", rate)
        settle(browser)  # a scroll after the click would keep the page from scrolling to the ramp
        click(browser, rate)
        until(browser, "return document.querySelector('.pixel iframe')")
        # it lies below the images: nobody would notice it if the page did not scroll there
        place = "document.querySelector('.pixel').getBoundingClientRect()"
        until(browser, f"return {place}.top < innerHeight - 40 && {place}.bottom > 40")
        click(browser, css(browser, '[data-loads="integrations"]'))
        until(browser, "return document.querySelector('.player')?.dataset.shown === '0'")
        click(browser, css(browser, '[aria-label="Next integration"]'))
        click(browser, css(browser, 'tr.detail canvas[data-panel="rate"]'))
        browser.switch_to.frame(css(browser, ".pixel iframe"))
        until(browser, "return document.body.textContent.includes('the ramp')")
        browser.switch_to.default_content()
        ramps = [path for path in asked if "/ramp" in path]
        assert re.fullmatch(rf"/TOKEN/ramp\?exposure={EXPOSURE}&x=(59|60)&y=(47|48)", ramps[0])
        assert ramps[-1].endswith("&int=1")
        assert f"/TOKEN/report_tiles/{EXPOSURE}_tiles.js" in asked
        complaints, requests = drain(browser)
        assert complaints == []
        assert {json.dumps(url).split("/")[2] for url in requests} == {f"127.0.0.1:{server.server_port}"}
    finally:
        browser.get("about:blank")
        server.shutdown()
        thread.join()
        server.server_close()
