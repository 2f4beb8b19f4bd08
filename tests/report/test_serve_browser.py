"""A served report in a browser: a clicked pixel of a real exposure shows its ramp, and nothing else is asked for."""

import re
import threading

import pytest

from gpucoron.cli import main
from gpucoron.report.serve import serving
from tests.cases.browsers import ActionChains, By, Keys, all_css, click, css, drain, open_page, settle, until


@pytest.fixture
def served(browser, exposures, tmp_path):
    """The browser, with the page of an exposure that is open and served from a folder; and that server."""
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(24, 32))
    with case.cache.activate():
        assert main(["run", str(case.path), "-o", str(tmp_path), "-q"]) == 0
        with serving(tmp_path) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                open_page(browser, f"{server.url}#{case.path.name.removesuffix('_uncal.fits')}")
                until(browser, "return document.querySelectorAll('tr.detail .images canvas').length >= 2")
                settle(browser)
                yield browser, server
            finally:
                browser.get("about:blank")
                server.shutdown()
                thread.join()


def test_a_clicked_pixel_shows_its_ramp(served):
    browser, server = served
    canvas = css(browser, 'tr.detail canvas[data-panel="rate"]')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(browser).move_to_element_with_offset(canvas, 20, -15).click().perform()
    x, y = map(int, re.search(r"Pixel x (\d+), y (\d+)", css(browser, "tr.detail .pixel").text).groups())
    until(browser, "return document.querySelector('tr.detail iframe')?.contentDocument?.body?.textContent.trim()")
    browser.switch_to.frame(css(browser, "tr.detail iframe"))
    text = css(browser, "body").text
    assert re.search(rf"\b{x}\b", text)
    assert re.search(rf"\b{y}\b", text)
    for step in ("saturation", "linearity", "ramp_fit"):
        assert step in text
    browser.switch_to.default_content()
    # the integrations come from the server too
    click(browser, css(browser, '[data-loads="integrations"]'))
    until(browser, "return document.querySelector('tr.detail .player')?.dataset.shown === '0'")
    complaints, requests = drain(browser)
    assert complaints == []
    assert {address for address in requests if not address.startswith(server.url)} == set()
    assert any("/ramp?exposure=" in address for address in requests)
    assert any(address.endswith("_tiles.js") for address in requests)


def test_links_lead_to_the_log_and_the_products(served):
    browser, server = served
    links = {link.text: link.get_attribute("href") for link in all_css(browser, "tr.detail .links a")}
    assert {"log", "rate", "rateints"} <= links.keys()
    assert all(address.startswith(f"{server.url}files/") for address in links.values())
    browser.get(links["log"])
    assert "Step jump done" in browser.find_element(By.TAG_NAME, "body").text


def test_the_reason_for_no_ramp_is_shown_in_its_place(served):
    browser, server = served
    server.found.records.clear()  # as if the exposure were gone
    canvas = css(browser, 'tr.detail canvas[data-panel="rate"]')
    browser.execute_script("arguments[0].focus({preventScroll: true})", canvas)
    ActionChains(browser).send_keys("+", Keys.ENTER).perform()
    until(browser, "return document.querySelector('tr.detail iframe')?.contentDocument?.body?.textContent.trim()")
    browser.switch_to.frame(css(browser, "tr.detail iframe"))
    assert "this report has no such exposure" in css(browser, "body").text
    browser.switch_to.default_content()
