"""The report in a real browser: headless Chromium opens it, sorts, filters, opens rows; there is no network access."""

import pytest

from gpucoron.report import write_report
from tests.cases.browsers import (
    By,
    Keys,
    WebDriverWait,
    choose,
    click,
    css,
    drain,
    open_page,
    settle,
)
from tests.cases.records import TRACEBACK, make_failure, make_preview, make_record, write_manifest, write_preview
from tests.cases.waiting import HANG

N_EXPOSURES = 500
BROKEN = "x_uncal.fits: truncated: 81920 bytes; <b>download</b> it again"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a batch of 500 exposures: one failed, one without a rate, all others with a preview."""
    folder = tmp_path_factory.mktemp("batch")
    records = [make_record(number) for number in range(N_EXPOSURES)]
    records[7] = make_failure(7, BROKEN)
    records[20] = make_record(20, status="no rate", outputs={})
    previews = [make_preview(seed) for seed in range(4)]
    for number, record in enumerate(records):
        if record["status"] == "done":
            write_preview(folder, record["exposure"], previews[number % 4])
    write_manifest(folder, records)
    return write_report(folder)


@pytest.fixture
def opened(browser, page):
    """The page, open and ready; at the end the browser must have logged no errors and requested nothing else."""
    open_page(browser, page.as_uri())
    yield browser
    complaints, requests = drain(browser)
    assert complaints == []
    assert requests <= {page.as_uri()}


def column(browser, name):
    """Read a column of the existing rows, by the text of its header."""
    headers = [cell.text.split("\n")[0].strip(" ▲▼") for cell in browser.find_elements(By.CSS_SELECTOR, "thead th")]
    script = "return [...document.querySelectorAll('tr.row')].map((row) => row.cells[arguments[0]].textContent)"
    return browser.execute_script(script, headers.index(name))


def count(browser):
    return browser.find_element(By.ID, "count").text


def header(browser, name):
    buttons = browser.find_elements(By.CSS_SELECTOR, "thead button")
    return next(button for button in buttons if button.text.strip(" ▲▼\n") == name)


def show_columns(browser, *names):
    """Choose columns that are hidden at first."""
    click(browser, css(browser, "#columns summary"))
    for name in names:
        click(browser, css(browser, f'#columns [data-column="{name}"] input'))
    click(browser, css(browser, "#columns summary"))


def sorting(browser):
    return [
        (cell.text.strip(" ▲▼\n"), cell.get_attribute("aria-sort"))
        for cell in browser.find_elements(By.CSS_SELECTOR, "thead th[aria-sort]")
    ]


def search(browser, text):
    field = browser.find_element(By.ID, "search")
    field.clear()
    field.send_keys(text)


def test_500_exposures_open_and_answer(browser, page):
    open_page(browser, page.as_uri())
    assert count(browser) == f"{N_EXPOSURES} exposures"
    for act, shows in (
        (lambda: None, lambda: True),
        (lambda: header(browser, "Time").click(), lambda: sorting(browser) == [("Time", "descending")]),
        (lambda: search(browser, "hr 8799"), lambda: f" of {N_EXPOSURES} exposures" in count(browser)),
        (
            lambda: browser.find_element(By.CSS_SELECTOR, "tr.row .name").click(),
            lambda: browser.find_elements(By.CSS_SELECTOR, "tr.detail"),
        ),
    ):
        act()
        # after two frames, all effects of the action are visible
        settle(browser)
        assert shows()
        # fewer rows are made than there are exposures, so that the page opens and reacts at once
        assert 20 < len(browser.find_elements(By.CSS_SELECTOR, "tr.row")) < N_EXPOSURES / 2
    complaints, requests = drain(browser)
    assert complaints == []
    assert page.as_uri() in requests
    assert requests == {page.as_uri()}


def test_scrolling_reaches_every_exposure(opened):
    def all_rows(driver):
        driver.execute_script("const box = document.getElementById('scroll'); box.scrollTo(0, box.scrollHeight)")
        return len(driver.find_elements(By.CSS_SELECTOR, "tr.row")) == N_EXPOSURES

    WebDriverWait(opened, HANG, poll_frequency=0.1).until(all_rows)
    assert len(set(column(opened, "Exposure"))) == N_EXPOSURES
    assert opened.execute_script("return [...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert len(opened.find_elements(By.CSS_SELECTOR, ".thumbs img")) == 3 * (N_EXPOSURES - 2)


def test_sorting_by_mouse_and_keyboard(opened):
    assert sorting(opened) == [("Observed", "ascending")]
    header(opened, "Time").click()
    times = [float(text.removesuffix(" s")) for text in column(opened, "Time")]
    assert sorting(opened) == [("Time", "descending")]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1] or len(set(times)) == 1
    jumps = header(opened, "Jumps")
    opened.execute_script("arguments[0].focus()", jumps)
    jumps.send_keys(Keys.ENTER)
    jumps.send_keys(Keys.SPACE)
    assert sorting(opened) == [("Jumps", "ascending")]
    shares = [float(text.removesuffix(" %")) for text in column(opened, "Jumps")]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert opened.switch_to.active_element == header(opened, "Jumps")


def test_unknown_values_are_sorted_last(opened):
    show_columns(opened, "memory")
    search(opened, "nrca2 00001_nrca2 jw01386001")
    for _ in range(2):
        header(opened, "Memory").click()
        assert column(opened, "Memory")[-1] == "–"
        assert column(opened, "Memory")[0] != "–"


def test_filters(opened):
    show_columns(opened, "subarray")
    search(opened, "F1550C hr")
    assert count(opened) == f"{N_EXPOSURES // 3} of {N_EXPOSURES} exposures"
    assert set(column(opened, "Detector")) == {"MIRIMAGEMIRI"}
    search(opened, "truncated")
    assert count(opened) == f"1 of {N_EXPOSURES} exposures"
    search(opened, "no such thing")
    assert not opened.find_element(By.ID, "exposures").is_displayed()
    opened.find_element(By.ID, "reset").click()
    assert count(opened) == f"{N_EXPOSURES} exposures"
    label = next(label for label in opened.find_elements(By.CSS_SELECTOR, "#statuses label") if "No rate" in label.text)
    label.click()
    assert column(opened, "Status") == ["△ No rate"]
    opened.find_element(By.CSS_SELECTOR, "#statuses label").click()
    choose(opened, opened.find_element(By.ID, "subarray"), "MASK1550")
    assert set(column(opened, "Subarray")) == {"MASK15504 × 40 × 224 × 288"}


def test_opening_a_row(opened):
    first = opened.find_element(By.CSS_SELECTOR, "tr.row .name")
    assert first.get_attribute("aria-expanded") == "false"
    opened.execute_script("arguments[0].focus()", first)
    first.send_keys(Keys.ENTER)
    assert first.get_attribute("aria-expanded") == "true"
    panel = opened.find_element(By.CSS_SELECTOR, "tr.detail")
    assert panel.is_displayed()
    printed = panel.text
    for expected in (
        "subtract_1overf",
        "19,319 jumps",
        "jump.rejection_threshold",
        "jwst_1464.pmap",
        "Switched off: ipc",
    ):
        assert expected in printed
    bars = {
        row.find_element(By.CSS_SELECTOR, ".step").text: row.find_element(By.CSS_SELECTOR, ".bar > div").size["width"]
        for row in panel.find_elements(By.CSS_SELECTOR, ".steps tbody tr:not(.quiet)")
    }
    assert bars["jump"] == max(bars.values())
    assert bars["ramp_fit"] / bars["jump"] == pytest.approx(0.34 / 0.61, abs=0.02)
    assert {"read", "plan", "write"} < set(bars)
    chart = panel.find_element(By.CSS_SELECTOR, 'svg[aria-label^="Fraction"]')
    assert "at most" in chart.get_attribute("aria-label")
    assert len(chart.find_elements(By.CSS_SELECTOR, "polyline")) == 2
    # an open row stays open when the table is sorted
    header(opened, "Target").click()
    header(opened, "Exposure").click()
    assert opened.find_element(By.CSS_SELECTOR, "tr.row .name").get_attribute("aria-expanded") == "true"
    opened.find_element(By.CSS_SELECTOR, "tr.row .name").click()
    assert not opened.find_elements(By.CSS_SELECTOR, "tr.detail")


def test_a_failure(opened):
    search(opened, "truncated")
    assert opened.find_element(By.CSS_SELECTOR, ".why").text == BROKEN
    opened.find_element(By.CSS_SELECTOR, "tr.row .name").click()
    failure = opened.find_element(By.CSS_SELECTOR, ".failure")
    assert BROKEN in failure.text
    failure.find_element(By.CSS_SELECTOR, "summary").click()
    assert failure.find_element(By.CSS_SELECTOR, "pre").text == TRACEBACK
    assert not opened.find_elements(By.CSS_SELECTOR, "main b")


def test_an_address_names_an_exposure(browser, page):
    expected = make_record(402)["exposure"]
    open_page(browser, f"{page.as_uri()}#{expected}")
    opened = browser.find_element(By.CSS_SELECTOR, "tr.row.open .name")
    assert opened.text.replace("▶", "").strip() == expected
    assert 0 <= browser.execute_script("return arguments[0].getBoundingClientRect().top", opened) < 1000
    assert drain(browser)[0] == []
