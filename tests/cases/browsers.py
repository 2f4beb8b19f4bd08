"""A headless Chromium for tests of pages: its start, what it has logged, and what every page must satisfy."""

import json
import shutil

import pytest

from tests.cases.waiting import HANG

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; it comes with the dev extra")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,1000",
)
#: the minimum contrast of WCAG 2 (AA), for every visible element with text
LOW_CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const luminance = (rgb) => rgb.slice(0, 3).map((value) => value / 255)
  .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
  .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const rgb = parse(getComputedStyle(at).backgroundColor);
    if (rgb.length === 3 || rgb[3] > 0) return rgb;
  }
  return [255, 255, 255];
};
const low = [];
let seen = 0;
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility() || element.closest("caption, script, option, title")) continue;
  const style = getComputedStyle(element);
  const colour = element.closest("svg") ? style.fill : style.color;
  const [a, b] = [luminance(parse(colour)), luminance(ground(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  seen += 1;
  if (contrast < 4.5) low.push([element.textContent.slice(0, 40), contrast]);
}
return [seen, low];
"""
#: elements that reach beyond the window and cannot be scrolled into view within a box of their own
CUT_OFF = """
const isScrollable = (element) => {
  for (let at = element.parentElement; at && at !== document.body; at = at.parentElement) {
    if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return true;
  }
  return false;
};
return [...document.querySelectorAll("body *")]
  .filter((element) => element.checkVisibility() && !element.closest("caption, .unseen"))
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5 && !isScrollable(element))
  .map((element) => element.outerHTML.slice(0, 80));
"""


def start_chromium(folder, *flags):
    """Start Chromium with its profile in a folder, or skip the test where it is not installed."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if not (chromium and chromedriver):
        pytest.skip("needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, *flags, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.set_script_timeout(HANG)
    driver.set_page_load_timeout(HANG)
    return driver


def open_page(browser, address):
    """Open a page and wait until its script has run."""
    browser.get("about:blank")
    drain(browser)
    browser.get(address)
    until(browser, "return document.documentElement.dataset.ready === 'yes'")


def drain(browser):
    """Return what the browser has logged since the last call: (errors, requested addresses)."""
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return complaints, {url for url in requests if not url.startswith("data:")}


def until(browser, condition, *arguments):
    """Wait until a script returns something true, and return that."""
    return WebDriverWait(browser, HANG, poll_frequency=0.05).until(
        lambda driver: driver.execute_script(condition, *arguments)
    )


def until_equal(browser, read, expected):
    """Wait until a function of the browser returns a value."""
    WebDriverWait(browser, HANG, poll_frequency=0.05).until(lambda driver: read(driver) == expected)


def settle(browser):
    """Wait for two frames: all effects of an action are then drawn."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def css(browser, selector):
    """Return the first element of a selector."""
    return browser.find_element(By.CSS_SELECTOR, selector)


def all_css(browser, selector):
    """Return the elements of a selector."""
    return browser.find_elements(By.CSS_SELECTOR, selector)


def click(browser, element):
    """Bring an element into the window and click it with the mouse."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element(element).click().perform()
    settle(browser)


def choose(browser, select, text):
    """Choose an option by its text."""
    Select(select).select_by_visible_text(text)
    settle(browser)


def replace(field, text):
    """Type a text in place of what a field holds, and Enter."""
    field.send_keys(Keys.CONTROL, "a", Keys.NULL, text, Keys.ENTER)


def set_media(browser, theme):
    """Choose light or dark; None for the browser's own."""
    features = [] if theme is None else [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def set_width(browser, width, height=1000, ratio=1):
    """Set the size of the window in CSS pixels and the device's pixels for each of them; None for the browser's own."""
    if width is None:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        return
    metrics = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
