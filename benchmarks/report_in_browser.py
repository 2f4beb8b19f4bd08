"""Measure a report in headless Chromium: load time, time to the images of an exposure, memory.

python benchmarks/report_in_browser.py PAGE

The heap is that of JavaScript after a garbage collection, without images and the text of the page. Resident memory is
that of all processes of the browser, without what they share.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000")
#: opens the first exposure and waits until its images are drawn; returns milliseconds
OPEN = """
const done = arguments[0];
const start = performance.now();
document.querySelector("tr.row .name").click();
const wait = () => {
  const isDrawn = document.querySelector("tr.detail .images canvas[data-panel]")?.width > 300;
  requestAnimationFrame(isDrawn ? () => done(performance.now() - start) : wait);
};
wait();
"""
SORT = """
const done = arguments[0];
const start = performance.now();
document.querySelectorAll("thead button")[0].click();
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
"""
#: s until a page that does not become ready is given up
LIMIT = 300


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    print_figures(measure_in_browser(options.page))


def print_figures(figures):
    """Print the figures of a page as a table."""
    print(f"{'':42s} {'seconds':>8s} {'heap, MB':>9s} {'resident, MB':>13s}")
    for name, one in figures.items():
        print(f"{name:42s} {one['seconds']:8.3f} {one['heap'] / 1e6:9.1f} {one['resident'] / 1e6:13.0f}")


def measure_in_browser(page):
    """Open a page and measure; return name -> seconds, heap and resident memory in bytes, or {} without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not (chromium and shutil.which("chromedriver")):
        return {}
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(prefix="gpucoron-bench-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.set_script_timeout(LIMIT)
            driver.set_page_load_timeout(LIMIT)
            figures = {"empty page": {"seconds": 0.0, **_memory(driver)}}
            start = time.perf_counter()
            driver.get(Path(page).resolve().as_uri())
            WebDriverWait(driver, LIMIT, poll_frequency=0.02).until(
                lambda one: one.execute_script("return document.documentElement.dataset.ready") == "yes"
            )
            figures["page loaded"] = {"seconds": time.perf_counter() - start, **_memory(driver)}
            figures["sorted by another column"] = _act(driver, SORT)
            figures["images of an exposure"] = _act(driver, OPEN)
            driver.execute_script("document.querySelector('tr.row.open .name').click()")
            for _ in range(9):
                driver.execute_async_script(OPEN)
                driver.execute_script("document.querySelector('tr.row.open .name').click()")
            figures["after ten exposures, closed again"] = {"seconds": 0.0, **_memory(driver)}
        finally:
            driver.quit()
    return figures


def _act(driver, script):
    seconds = driver.execute_async_script(script) / 1000
    return {"seconds": seconds, **_memory(driver)}


def _memory(driver):
    """Return the heap of the page and the resident memory of the browser, in bytes."""
    import psutil

    driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
    driver.execute_cdp_cmd("Performance.enable", {})
    metrics = {one["name"]: one["value"] for one in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
    processes = psutil.Process(driver.service.process.pid).children(recursive=True)
    # the sum of resident memory would count what the processes share several times
    resident = sum(process.memory_full_info().uss for process in processes if process.is_running())
    return {"heap": metrics["JSHeapUsedSize"], "resident": resident}


if __name__ == "__main__":
    main()
