"""Images of an exposure in a browser: values, flags, zoom, colours, profiles, the marked pixel; against the arrays."""

import re

import numpy as np
import pytest

from gpucoron.dq import DO_NOT_USE, HOT, REFERENCE_PIXEL
from tests.cases import report_pages
from tests.cases.browsers import (
    ActionChains,
    By,
    Keys,
    all_css,
    choose,
    click,
    css,
    drain,
    open_page,
    replace,
    set_width,
    settle,
    until,
)
from tests.cases.report_pages import FLAGS, SHAPE, shown, write_page

#: a pixel with a value and no flags, and where the star is bright: row, column
PIXEL = (20, 33)
#: what the readout's four digits may differ from a value
FOUR_DIGITS = 1e-3


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page"), n=5)


@pytest.fixture
def opened(browser, page):
    """The first exposure, open with its images; at the end nothing else was requested and nothing went wrong."""
    path, drawn = page
    open_page(browser, path.as_uri() + "#jw01386001001_02101_00001_nrcalong")
    until(browser, "return document.querySelectorAll('tr.detail .images canvas').length >= 4")
    settle(browser)
    browser.drawn = drawn[0]
    yield browser
    set_width(browser, None)
    complaints, requests = drain(browser)
    assert complaints == []
    assert {url.split("#")[0] for url in requests} <= {path.as_uri()}


def canvas(browser, panel):
    return css(browser, f'tr.detail canvas[data-panel="{panel}"]')


def offset(browser, panel, y, x):
    """Return where a pixel of the array is: offset from the middle of the canvas in CSS pixels, at zoom 1."""
    element = canvas(browser, panel)
    width, height = browser.execute_script("return [arguments[0].clientWidth, arguments[0].clientHeight]", element)
    size = min(width / SHAPE[1], height / SHAPE[0])
    return round((x + 0.5 - SHAPE[1] / 2) * size), round(-(y + 0.5 - SHAPE[0] / 2) * size)


def point(browser, panel, y, x):
    """Move the pointer to a pixel of the array, at zoom 1; return the pointer's actions."""
    element = canvas(browser, panel)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    actions = ActionChains(browser).move_to_element_with_offset(element, *offset(browser, panel, y, x))
    actions.perform()
    settle(browser)
    return actions


def readout(browser):
    return css(browser, "tr.detail .readout").text


def number(text, label):
    """Read the number behind a label of a readout."""
    return float(re.search(rf"{re.escape(label)}: (\S+)", text)[1].replace("−", "-"))


def colour(browser, panel, y, x):
    """Return the colour of a pixel of the array on its canvas, at zoom 1."""
    dx, dy = offset(browser, panel, y, x)
    script = """
    const [canvas, dx, dy] = arguments;
    const copy = document.createElement("canvas");
    Object.assign(copy, { width: canvas.width, height: canvas.height });
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(canvas, 0, 0);
    const ratio = canvas.width / canvas.clientWidth;
    const at = [(canvas.clientWidth / 2 + dx) * ratio, (canvas.clientHeight / 2 + dy) * ratio].map(Math.floor);
    return [...context.getImageData(...at, 1, 1).data].slice(0, 3);
    """
    return browser.execute_script(script, canvas(browser, panel), dx, dy)


def zoom(browser):
    return float(css(browser, "tr.detail .zoom-factor").text.removeprefix("× "))


def check(browser, selector):
    click(browser, css(browser, f"tr.detail {selector} input"))
    settle(browser)


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()
    settle(browser)


@pytest.mark.parametrize("panel", ["rate", "flags", "before", "removed"])
def test_the_readout_says_the_values_under_the_pointer(opened, panel):
    y, x = PIXEL
    point(opened, panel, y, x)
    text = readout(opened)
    rate, removed = (shown(getattr(opened.drawn, name))[y, x] for name in ("rate", "removed"))
    assert text.startswith(f"x {x}, y {y} (detector {449 + x}, {1 + y})")
    assert number(text, "rate") == pytest.approx(rate, rel=FOUR_DIGITS)
    assert number(text, "1/f removed") == pytest.approx(removed, rel=FOUR_DIGITS)
    assert number(text, "rate before 1/f") == pytest.approx(rate + removed, rel=FOUR_DIGITS)
    # the step of the quantisation
    assert number(text, "rate") == pytest.approx(opened.drawn.rate[y, x], rel=0.02, abs=0.01)
    assert "DN/s" in text
    assert "flags: none" in text


def test_the_readout_names_flags_and_missing_values(opened):
    y, x = np.argwhere((opened.drawn.dq & HOT != 0) & (opened.drawn.dq & DO_NOT_USE != 0))[7]
    point(opened, "rate", y, x)
    names = [name for name, value in FLAGS.items() if opened.drawn.dq[y, x] & value]
    assert f"flags: {', '.join(names)}" in readout(opened)
    y, x = np.argwhere(~np.isfinite(opened.drawn.rate))[3]
    point(opened, "flags", y, x)
    assert f"x {x}, y {y} " in readout(opened)
    assert "rate: no value" in readout(opened)


def test_flags_are_switched_one_by_one(opened):
    counts = {name: np.count_nonzero(opened.drawn.dq & value) for name, value in FLAGS.items()}
    for name, count in counts.items():
        assert f"{name} {count:,}" in css(opened, f'tr.detail [data-flag="{name}"]').text.replace("\n", " ")
    y, x = np.argwhere(opened.drawn.dq == FLAGS["JUMP_DET"])[5]
    jump, good = [57, 135, 229], [18, 22, 28]
    assert colour(opened, "flags", y, x) == jump
    check(opened, '[data-flag="JUMP_DET"]')
    assert colour(opened, "flags", y, x) == good
    check(opened, '[data-flag="JUMP_DET"]')
    assert colour(opened, "flags", y, x) == jump
    without = colour(opened, "rate", y, x)
    assert without != jump
    check(opened, '[data-flag="over"]')
    assert colour(opened, "rate", y, x) == colour(opened, "removed", y, x) == jump
    group = css(opened, "tr.detail .flags-shown")
    click(opened, group.find_element(By.XPATH, ".//button[text()='none']"))
    assert colour(opened, "rate", y, x) == without
    assert colour(opened, "flags", y, x) == good
    click(opened, group.find_element(By.XPATH, ".//button[text()='all']"))
    assert colour(opened, "rate", y, x) == jump


def test_zoom_and_region_are_the_same_in_all_panels(opened):
    y, x = PIXEL
    point(opened, "rate", y, x)
    dx, dy = offset(opened, "rate", y, x)
    ActionChains(opened).scroll_from_origin(_origin(canvas(opened, "rate"), dx, dy), 0, -120).perform()
    settle(opened)
    assert zoom(opened) == pytest.approx(1.25)
    # the pixel under the pointer stays there, in the other panels too
    assert readout(opened).startswith(f"x {x}, y {y} ")
    element = canvas(opened, "removed")
    ActionChains(opened).move_to_element_with_offset(element, dx, dy).perform()
    settle(opened)
    assert readout(opened).startswith(f"x {x}, y {y} ")
    zoom_in, fit = (css(opened, f"tr.detail button[{name}]") for name in ('aria-label="Zoom in"', 'title*="whole"'))
    click(opened, zoom_in)
    assert zoom(opened) == pytest.approx(2.5)
    click(opened, css(opened, 'tr.detail button[aria-label="Zoom out"]'))
    assert zoom(opened) == pytest.approx(1.25)
    click(opened, fit)
    assert zoom(opened) == 1
    click(opened, zoom_in)
    ActionChains(opened).double_click(canvas(opened, "flags")).perform()
    settle(opened)
    assert zoom(opened) == 1


def test_the_wheel_scrolls_the_page_on_until_the_pointer_moves(opened):
    """A page that is scrolled under the pointer brings images there, which must not catch the wheel."""
    y, x = PIXEL
    point(opened, "rate", y, x)
    dx, dy = offset(opened, "rate", y, x)
    opened.execute_script("document.getElementById('scroll').scrollBy(0, 8)")
    settle(opened)
    ActionChains(opened).scroll_from_origin(_origin(canvas(opened, "rate"), dx, dy), 0, -120).perform()
    settle(opened)
    assert zoom(opened) == 1
    point(opened, "rate", y, x + 2)
    ActionChains(opened).scroll_from_origin(_origin(canvas(opened, "rate"), dx, dy), 0, -120).perform()
    settle(opened)
    assert zoom(opened) == pytest.approx(1.25)


def test_a_drag_moves_the_region_and_marks_nothing(opened):
    for _ in range(2):
        click(opened, css(opened, 'tr.detail button[aria-label="Zoom in"]'))
    element = canvas(opened, "rate")
    size = opened.execute_script("return arguments[0].clientWidth", element) / SHAPE[1] * 4
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(opened).move_to_element(element).click_and_hold().move_by_offset(40, -24).release().perform()
    settle(opened)
    ActionChains(opened).move_to_element(canvas(opened, "before")).perform()
    settle(opened)
    x, y = map(int, re.match(r"x (\d+), y (\d+)", readout(opened)).groups())
    # dragged to the right and up: what was to the left and below comes to the middle
    assert x == pytest.approx(SHAPE[1] / 2 - 40 / size, abs=1)
    assert y == pytest.approx(SHAPE[0] / 2 - 24 / size, abs=1)
    assert not css(opened, "tr.detail .pixel").is_displayed()


def test_everything_by_keys(opened):
    opened.execute_script("arguments[0].focus({preventScroll: true})", canvas(opened, "rate"))
    press(opened, "+", "+")
    assert zoom(opened) == 4
    press(opened, "-")
    assert zoom(opened) == 2
    # Shift and arrows move the cursor from the middle
    actions = ActionChains(opened).key_down(Keys.SHIFT).send_keys(Keys.RIGHT, Keys.RIGHT, Keys.UP).key_up(Keys.SHIFT)
    actions.perform()
    settle(opened)
    x, y = SHAPE[1] // 2 + 2, SHAPE[0] // 2 + 1
    assert readout(opened).startswith(f"x {x}, y {y} ")
    press(opened, Keys.ENTER)
    assert f"Pixel x {x}, y {y}" in css(opened, "tr.detail .pixel").text
    # without Shift they move the region by a tenth of what is seen
    press(opened, Keys.LEFT, "0")
    assert zoom(opened) == 1


def test_stretch_limits_and_colours(opened):
    def labels():
        marks = all_css(opened, 'tr.detail figure[data-panel="rate"] .marks span')
        return [float(mark.text.replace("−", "-")) for mark in marks[:5]]

    group = css(opened, "tr.detail .scale")
    low, high = (group.find_element(By.CSS_SELECTOR, f'[data-limit="{name}"]') for name in ("low", "high"))
    seen = shown(opened.drawn.rate)
    both = np.array([seen, seen + shown(opened.drawn.removed)])
    click(opened, group.find_element(By.XPATH, ".//button[text()='min–max']"))
    assert labels()[0] == pytest.approx(np.nanmin(both), rel=0.01)
    assert labels()[-1] == pytest.approx(np.nanmax(both), rel=0.01)
    click(opened, group.find_element(By.XPATH, ".//button[text()='99.5 %']"))
    # of the sorted pixels, the nearest to the percentile
    limits = np.nanpercentile(both, [0.25, 99.75], axis=(1, 2), method="nearest")
    assert float(low.get_attribute("value")) == pytest.approx(limits[0].min(), rel=0.01)
    assert float(high.get_attribute("value")) == pytest.approx(limits[1].max(), rel=0.01)
    for field, value in ((low, "-2"), (high, "10")):
        replace(field, value)
    settle(opened)
    stretch, colours = group.find_elements(By.TAG_NAME, "select")
    choose(opened, stretch, "linear")
    assert labels() == [-2, 1, 4, 7, 10]
    choose(opened, colours, "grey")
    y, x = np.argwhere(opened.drawn.dq == 0)[30]
    grey = 255 * np.clip((seen[y, x] + 2) / 12, 0, 1)
    # 256 shades
    assert colour(opened, "rate", y, x) == pytest.approx([grey] * 3, abs=1.5)
    choose(opened, stretch, "log")
    assert labels()[0] == -2
    assert labels()[2] < 0
    # a range upside down is refused
    replace(low, "50")
    assert float(low.get_attribute("value")) == -2


def test_pixels_are_sharp_at_every_pixel_ratio(opened):
    set_width(opened, 1400, ratio=2)
    for _ in range(4):
        click(opened, css(opened, 'tr.detail button[aria-label="Zoom in"]'))
    element = canvas(opened, "flags")
    assert opened.execute_script("return arguments[0].width / arguments[0].clientWidth", element) == 2
    script = """
    const [canvas] = arguments;
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return [...new Set(Array.from({ length: data.length / 4 }, (_, at) => [...data.slice(4 * at, 4 * at + 3)].join()))];
    """
    # the colours of flags and good pixels alone: nothing is interpolated between them
    allowed = {"18,22,28", "57,135,229", "235,104,52", "150,154,163"}
    found = set(opened.execute_script(script, element)) - {"0,0,0"}
    assert len(found) > 1
    assert len(found - allowed) <= 1, found  # HOT


def test_panels_can_be_left_out(opened):
    width = canvas(opened, "rate").size["width"]
    check(opened, '[data-shows="before"]')
    check(opened, '[data-shows="removed"]')
    assert not canvas(opened, "before").is_displayed()
    assert canvas(opened, "rate").size["width"] > 1.3 * width


def test_profiles_are_medians_of_usable_pixels(opened):
    usable = np.where(opened.drawn.dq & (DO_NOT_USE | REFERENCE_PIXEL), np.nan, shown(opened.drawn.rate))
    removed = shown(opened.drawn.removed)
    texts = _walk(opened, "Median of each row")
    assert len(texts) == SHAPE[0]
    for row in (0, 17, SHAPE[0] - 1):
        assert texts[row].startswith(f"row {row}: ")
        assert _values(texts[row]) == pytest.approx(
            [np.nanmedian(usable[row]), np.nanmedian((usable + removed)[row])], rel=FOUR_DIGITS
        )
    # of the region in view: the middle quarter of each side
    for _ in range(2):
        click(opened, css(opened, 'tr.detail button[aria-label="Zoom in"]'))
    choose(opened, css(opened, "tr.detail .profiles select"), "the region in view")
    y0, x0 = (3 * size // 8 for size in SHAPE)
    part = usable[y0 : y0 + SHAPE[0] // 4, x0 : x0 + SHAPE[1] // 4]
    texts = _walk(opened, "Median of each column")
    assert len(texts) == part.shape[1]
    assert texts[3].startswith(f"column {x0 + 3}: ")
    assert _values(texts[3])[0] == pytest.approx(np.nanmedian(part[:, 3]), rel=FOUR_DIGITS)
    # the third line can be switched on
    click(opened, all_css(opened, "tr.detail .profiles .legend input")[2])
    assert len(_values(_walk(opened, "Median of each row")[0])) == 3


def test_histogram(opened):
    good = (opened.drawn.dq & DO_NOT_USE == 0) & np.isfinite(opened.drawn.rate)
    counts, edges = np.histogram(opened.drawn.rate[good] / 0.3, np.arange(-8, 20.5, 0.5))
    text = _walk(opened, "Histogram")[16]
    assert f"from {edges[16]:g} to 0.5: {counts[16]} pixels" in text.replace("−", "-")
    middle = np.median(opened.drawn.rate[good] / 0.3)
    gauss = 0.5 * counts.sum() * np.exp(-0.5 * (0.25 - middle) ** 2) / np.sqrt(2 * np.pi)
    # the median is known to half a bin
    assert float(text.split("Gaussian: ")[1]) == pytest.approx(gauss, rel=0.2)


def test_a_click_marks_a_pixel_and_gives_its_command(opened):
    y, x = PIXEL
    point(opened, "rate", y, x).click().perform()
    settle(opened)
    panel = css(opened, "tr.detail .pixel")
    command = "gpucoron ramp /data/jw01386001001_02101_00001_nrcalong_uncal.fits 33 20 --profile spaceklip"
    assert panel.find_element(By.TAG_NAME, "code").text == command
    field = panel.find_element(By.CSS_SELECTOR, "input[type=number]")
    field.send_keys("4\n")
    settle(opened)
    command = command.replace("33 20", "33 20 --int 4")
    assert panel.find_element(By.TAG_NAME, "code").text == command
    copy = panel.find_element(By.XPATH, ".//button[text()='Copy']")
    click(opened, copy)
    until(opened, "return /Copied|Selected/.test(arguments[0].textContent)", copy)
    assert opened.execute_script("return String(getSelection())") == command
    # without the pointer the readout keeps the marked pixel
    ActionChains(opened).move_to_element(css(opened, "tr.detail .profiles h2")).perform()
    settle(opened)
    assert readout(opened).startswith(f"x {x}, y {y} ")
    click(opened, panel.find_element(By.XPATH, ".//button[text()='Close']"))
    assert not panel.is_displayed()
    assert "Move the pointer" in readout(opened)


def test_links_references_and_the_command_again(opened):
    panel = css(opened, "tr.detail")
    links = {link.text: link.get_dom_attribute("href") for link in panel.find_elements(By.CSS_SELECTOR, ".links a")}
    assert links["log"] == "gpucoron.log"
    assert links["rate"] == "jw01386001001_02101_00001_nrcalong_rate.fits"
    assert "jwst_nircam_superbias_0001.fits" in css(opened, "tr.detail .references").text
    commands = [code.text for code in panel.find_elements(By.CSS_SELECTOR, ".command code")]
    assert "gpucoron run /data/jw01386001001_02101_00001_nrcalong_uncal.fits -o stage1 --profile spaceklip" in commands
    # without an address of the documentation, the names of steps are text
    assert not panel.find_elements(By.CSS_SELECTOR, ".steps a")


def test_steps_link_to_the_documentation(browser, tmp_path):
    def edit(row, detail, blocks):
        detail["links"].append(["odd", "javascript:alert(1)"])

    path, _ = write_page(tmp_path, n=1, docs="https://docs.example.org/gpucoron", change=edit)
    open_page(browser, path.as_uri())
    link = css(browser, ".steps .step a")
    assert link.get_attribute("href") == "https://docs.example.org/gpucoron/steps/jump.html"
    assert "odd" not in [link.text for link in all_css(browser, ".links a")]


def test_damaged_images_and_old_browsers_are_told(browser, tmp_path):
    def damage(row, detail, blocks):
        blocks["rate"] = blocks["rate"] | {"h": 95}

    path, _ = write_page(tmp_path, n=1, change=damage)
    open_page(browser, path.as_uri())
    until(browser, "return document.querySelector('.problem')")
    assert "is damaged. Write the report again" in css(browser, ".problem").text
    path, _ = write_page(tmp_path, n=1)
    added = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.DecompressionStream"}
    )
    try:
        open_page(browser, path.as_uri())
        until(browser, "return document.querySelector('.problem')")
        assert "This browser cannot decompress the images" in css(browser, ".problem").text
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_averaged_images_are_loaded_at_full_resolution(browser, tmp_path):
    drawn = report_pages.draw_exposure(0)

    def average(row, detail, blocks):
        full = dict(blocks)
        for name in ("rate", "removed"):
            values = getattr(drawn, name)
            blocks[name] = report_pages.image(values.reshape(48, 2, 60, 2).mean(axis=(1, 3))) | {"binning": 2}
        del blocks["flags"]
        report_pages.write_tiles(tmp_path / detail["tiles"], row["exposure"], drawn, full=full)

    path, _ = write_page(tmp_path, n=1, change=average, write_own_tiles=False)
    open_page(browser, path.as_uri())
    y, x = PIXEL
    until(browser, "return document.querySelector('tr.detail canvas[data-panel=rate]')")
    point(browser, "rate", y, x)
    block = shown(drawn.rate.reshape(48, 2, 60, 2).mean(axis=(1, 3)))[y // 2, x // 2]
    assert readout(browser).startswith(f"x {x}, y {y} ")
    assert number(readout(browser), "rate") == pytest.approx(block, rel=FOUR_DIGITS)
    click(browser, css(browser, 'tr.detail button[title*="full resolution"]'))
    until(browser, "return document.querySelector('tr.detail canvas[data-panel=flags]')")
    point(browser, "rate", y, x)
    assert number(readout(browser), "rate") == pytest.approx(shown(drawn.rate)[y, x], rel=FOUR_DIGITS)


def _origin(element, dx, dy):
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    return ScrollOrigin.from_element(element, dx, dy)


def _walk(browser, label):
    """Walk through a chart by arrow keys and return the text of every point."""
    script = """
    const chart = [...document.querySelectorAll("tr.detail svg")]
      .find((one) => one.getAttribute("aria-label").startsWith(arguments[0]));
    const texts = [];
    for (;;) {
      chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
      const text = chart.parentElement.querySelector(".chart-text").textContent;
      if (text === texts.at(-1)) return texts;
      texts.push(text);
    }
    """
    return browser.execute_script(script, label)


def _values(text):
    return [float(value.replace("−", "-")) for value in re.findall(r"(\S+) DN/s", text)]
