"""The table of a report in a browser: new columns, outliers, the choice of columns, narrow windows, contrast."""

import pytest

from tests.cases.browsers import (
    CUT_OFF,
    LOW_CONTRAST,
    By,
    Keys,
    all_css,
    click,
    css,
    drain,
    open_page,
    set_media,
    set_width,
    settle,
    until,
)
from tests.cases.report_pages import OUTLIERS, make_row, write_page

N_EXPOSURES = 20
ROWS = [make_row(number) for number in range(N_EXPOSURES)]
#: header of a column -> key of the rows
NUMBERS = {
    "Roll": "roll",
    "Exp. time": "exptime",
    "Background": "background",
    "Read noise": "read_noise",
    "Row noise": "row_noise",
    "Sat. radius": "saturated_radius",
    "Jump rate": "jump_rate",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path, _ = write_page(tmp_path_factory.mktemp("page"), n=N_EXPOSURES)
    return path


@pytest.fixture
def opened(browser, page):
    open_page(browser, page.as_uri())
    yield browser
    set_width(browser, None)
    set_media(browser, None)
    assert drain(browser)[0] == []


def names(browser):
    """Return the exposures in the order of the table."""
    return [element.text.replace("▶", "").strip() for element in all_css(browser, "tr.row .name")]


def headers(browser):
    return [cell.text.strip(" ▲▼\n") for cell in all_css(browser, "#exposures > thead th")]


def open_parts(browser):
    """Open the help, the trends and the first quick-look of the first observation."""
    for part in ("#help", "#observations", "#trends", ".set", ".quicklooks"):
        click(browser, css(browser, f"{part} summary"))
    until(browser, "return document.querySelectorAll('.quicklook canvas[data-panel]').length === 3")


def sort(browser, name):
    button = next(one for one in all_css(browser, "thead button") if one.text.strip(" ▲▼\n") == name)
    click(browser, button)


def test_the_order_is_that_of_time(opened):
    expected = [row["exposure"] for row in sorted(ROWS, key=lambda row: row["start"])]
    assert names(opened) == expected
    assert expected != sorted(expected)
    assert css(opened, 'thead th[aria-sort="ascending"]').text.startswith("Observed")


def test_without_times_the_order_is_that_of_the_names(browser, tmp_path):
    path, _ = write_page(tmp_path, n=6, change=lambda row, detail, blocks: row.update(start=""))
    open_page(browser, path.as_uri())
    assert names(browser) == sorted(names(browser))
    assert "Observed" not in headers(browser)
    click(browser, css(browser, "#trends summary"))
    assert "exposure in order of name" in css(browser, "#trends").text


@pytest.mark.parametrize("name", NUMBERS)
def test_sorting_by_the_columns_of_numbers(opened, name):
    key = NUMBERS[name]
    values = {row["exposure"]: row[key] for row in ROWS}
    for reverse in (True, False):
        sort(opened, name)
        seen = [values[exposure] for exposure in names(opened)]
        known = [value for value in seen if value is not None]
        assert seen[: len(known)] == sorted(known, reverse=reverse)  # unknown ones are last


def test_columns_of_text(opened):
    row = ROWS[9]
    line = next(line for line in all_css(opened, "tr.row") if row["exposure"] in line.text)
    for text in ("01386 / 2", "reference", "1 of 9", "HIP 68245", "20 °", "1.2"):
        assert text in line.text
    sort(opened, "Role")
    roles = {row["exposure"]: row["role"] for row in ROWS}
    assert [roles[name] for name in names(opened)] == sorted(roles.values())
    opened.find_element(By.ID, "search").send_keys("reference")
    assert len(names(opened)) == N_EXPOSURES // 5


def test_outliers_are_marked_and_explained(opened):
    cells = all_css(opened, "td.outlier")
    assert len(cells) == sum(map(len, OUTLIERS.values()))
    for cell in cells:
        assert cell.text.startswith("◆")
    title = cells[0].get_attribute("title")
    median = sorted(row["background"] for row in ROWS if row["filter"] == "F356W")[5 - 1 : 5 + 1]
    assert title.startswith(
        "outlier: background 8.1 DN/s; the median of the 10 exposures with NRCALONG F356W MASKA335R"
    )
    assert f"is {sum(median) / 2:.3g} DN/s, more than 5 σ away" in title
    good = css(opened, "td.number:not(.outlier)")
    assert cells[0].value_of_css_property("color") != good.value_of_css_property("color")
    box = css(opened, "#outliers")
    assert f"Outliers only ({len(OUTLIERS)})" in box.find_element(By.XPATH, "..").text
    click(opened, box)
    assert names(opened) == [make_row(number)["exposure"] for number in OUTLIERS]
    click(opened, box)
    assert len(names(opened)) == N_EXPOSURES


@pytest.mark.parametrize("kind", ["input", "change"])
def test_filters_listen_to_each_event(opened, kind):
    """Some ways to fill a form report only one of the two events."""
    script = """
    const [kind, id, property, value] = arguments;
    const field = document.getElementById(id);
    field[property] = value;
    field.dispatchEvent(new Event(kind, { bubbles: true }));
    """
    opened.execute_script(script, kind, "search", "value", "F444W science")
    assert len(names(opened)) == 8
    opened.execute_script(script, kind, "outliers", "checked", True)
    assert opened.find_element(By.ID, "empty").is_displayed()
    click(opened, opened.find_element(By.ID, "reset"))
    assert len(names(opened)) == N_EXPOSURES
    opened.execute_script(script, kind, "search", "value", "F444W science")
    assert len(names(opened)) == 8


def test_leaving_the_search_keeps_the_rows(opened):
    """The field reports a change when it loses the focus; a click that takes the focus must still reach its row."""
    opened.find_element(By.ID, "search").send_keys("F444W")
    first = css(opened, "tr.row .name")
    first.click()
    assert first.get_attribute("aria-expanded") == "true"


def test_columns_are_chosen(opened):
    assert "Memory" not in headers(opened)
    chooser = css(opened, "#columns")
    click(opened, chooser.find_element(By.TAG_NAME, "summary"))
    click(opened, css(opened, '[data-column="memory"] input'))
    click(opened, css(opened, '[data-column="role"] input'))
    assert "Memory" in headers(opened)
    assert "Role" not in headers(opened)
    cells = all_css(opened, "tr.row")[0].find_elements(By.TAG_NAME, "td")
    assert len(cells) == len(headers(opened))
    click(opened, chooser.find_element(By.XPATH, ".//button[text()='Usual']"))
    assert "Memory" not in headers(opened)
    assert "Role" in headers(opened)
    click(opened, chooser.find_element(By.XPATH, ".//button[text()='All']"))
    assert {"Memory", "Finished", "Subarray", "Role"} < set(headers(opened))
    css(opened, '[data-column="role"] input').send_keys(Keys.ESCAPE)
    assert chooser.get_dom_attribute("open") is None
    # an open row spans the columns that are shown
    click(opened, css(opened, "tr.row .name"))
    assert int(css(opened, "tr.detail > td").get_dom_attribute("colspan")) == len(headers(opened))


#: visible elements of the details that reach beyond the right edge of a box
BEYOND = """
const right = arguments[0].getBoundingClientRect().right + 1;
return [...document.querySelectorAll("tr.detail .panel *")]
  .filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > right)
  .map((element) => element.outerHTML.slice(0, 100));
"""


@pytest.mark.parametrize("width", [1000, 1400])
def test_nothing_is_cut_off(opened, width):
    set_width(opened, width)
    open_parts(opened)
    for name in all_css(opened, "tr.row .name")[:2]:
        click(opened, name)
    until(opened, "return document.querySelectorAll('tr.detail .images canvas').length >= 8")
    click(opened, css(opened, 'tr.detail canvas[data-panel="rate"]'))
    settle(opened)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    assert opened.execute_script(CUT_OFF) == []
    # the details fit into the box of the table; its columns are reached by scrolling, and the names stay
    box = css(opened, "#scroll")
    assert opened.execute_script(BEYOND, box) == []
    opened.execute_script("arguments[0].scrollTo(0, 0)", box)
    opened.execute_script("arguments[0].focus()", box)
    opened.execute_script("arguments[0].scrollLeft = arguments[0].scrollWidth", box)
    settle(opened)
    last = all_css(opened, "#exposures > thead th")[-1].rect
    assert last["x"] + last["width"] <= box.rect["x"] + box.rect["width"] + 1
    first = css(opened, "tr.row td").rect
    assert first["x"] == pytest.approx(box.rect["x"], abs=2)
    click(opened, css(opened, "#columns summary"))
    assert opened.execute_script(CUT_OFF) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_of_every_part(opened, theme):
    set_media(opened, theme)
    open_parts(opened)
    row = next(row for row in all_css(opened, "tr.row") if make_row(0)["exposure"] in row.text)
    click(opened, row.find_element(By.CSS_SELECTOR, ".name"))
    until(opened, "return document.querySelectorAll('tr.detail .images canvas').length >= 4")
    click(opened, css(opened, '[data-loads="integrations"]'))
    until(opened, "return document.querySelector('.player')")
    click(opened, css(opened, 'tr.detail canvas[data-panel="rate"]'))
    click(opened, css(opened, "#columns summary"))
    seen, low = opened.execute_script(LOW_CONTRAST)
    assert seen > 500
    assert low == []


def test_the_focus_is_seen_and_reaches_every_control(opened):
    """Tab goes through the controls above the table in order; each shows that it has the focus."""
    opened.execute_script("document.querySelector('#help summary').focus()")
    seen = []
    for _ in range(12):
        active = opened.switch_to.active_element
        seen.append(active.get_dom_attribute("id") or active.tag_name)
        style = opened.execute_script(
            "const style = getComputedStyle(document.activeElement); return [style.outlineStyle, style.outlineWidth]"
        )
        if len(seen) > 1:  # a focus by script is not shown
            assert style != ["none", "0px"]
            assert style[0] != "none"
        active.send_keys(Keys.TAB)
    assert {"search", "outliers", "scroll"} < set(seen)
