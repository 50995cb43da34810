"""The report in a real browser: without an error, at two widths, in both schemes, by keyboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from loadtests.reports import report
from loadtests.reports.columns import TABLES, cell
from loadtests.reports.figures import Refused
from loadtests.reports.report import Written
from tests.loadtests import invented

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="Debian's chromium and chromium-driver are not installed"
    ),
]

THEMES = ["accuracy", "latency", "distribution", "goodput", "phases", "bill", "sizes"]
WIDTHS = [390, 1280]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    family = [*invented.family(800), invented.profile("int8-void", calls=500, late=20)]
    refused = [Refused("int8-dynamic", "it loses <b>too</b> much", 0.9)]
    directory = tmp_path_factory.mktemp("report")
    return report.write(family, directory, baseline="keras", refused=refused)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser: webdriver.Chrome, page: Path, width: int, scheme: str = "light") -> None:
    """Load the page at a width in a colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())


def asked(browser: webdriver.Chrome, script: str) -> Any:
    return browser.execute_script(f"return {script}")


@pytest.mark.parametrize("width", WIDTHS)
def test_it_draws_all_plots_without_an_error_or_a_request(
    browser: webdriver.Chrome, written: Written, width: int
) -> None:
    opened(browser, written.page, width)
    assert browser.get_log("browser") == []
    messages = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    asked_for = {
        each["params"]["request"]["url"].partition(":")[0]
        for each in messages
        if each["method"] == "Network.requestWillBeSent"
    }
    assert asked_for <= {"file", "data"}
    for theme in THEMES:
        assert browser.find_elements(By.CSS_SELECTOR, f"#plot-{theme} .main-svg"), theme


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(
    browser: webdriver.Chrome, written: Written, width: int
) -> None:
    opened(browser, written.page, width)
    asked(browser, "document.querySelectorAll('details').forEach(each => each.open = true)")
    page = "document.documentElement"
    assert asked(browser, f"{page}.scrollWidth <= {page}.clientWidth")
    plots = "[...document.querySelectorAll('.plot .main-svg')]"
    widest = asked(browser, f"Math.max(...{plots}.map(e => e.getBoundingClientRect().right))")
    assert widest <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_no_tick_or_legend_of_a_plot_is_cut_off(
    browser: webdriver.Chrome, written: Written, width: int
) -> None:
    opened(browser, written.page, width)
    texts = "[...document.querySelectorAll('.plot text')].map(e => e.getBoundingClientRect())"
    edges = asked(browser, f"{texts}.filter(e => e.width).map(e => [e.left, e.right])")
    assert len(edges) > 50
    assert min(left for left, _ in edges) >= 0
    assert max(right for _, right in edges) <= width


def test_the_figures_on_the_page_are_those_of_the_json(
    browser: webdriver.Chrome, written: Written
) -> None:
    opened(browser, written.page, 1280)
    data = json.loads(written.data.read_text(encoding="utf-8"))
    for table, records in data["tables"].items():
        if table == "distribution":
            continue
        rows = asked(
            browser,
            f"[...document.querySelector('[aria-label=\"figures: {table}\"] tbody').rows]"
            ".filter(row => row.className != 'note')"
            ".map(row => [...row.cells].map(e => [e.querySelector('data')?.value ?? null,"
            " e.textContent]))",
        )
        columns = [each for each in TABLES[table] if each.key not in ("note", "void")]
        for row, record in zip(rows, records, strict=True):
            for (value, text), column in zip(row, columns, strict=False):
                assert text == cell(record, column)
                number = record.get(column.key)
                if isinstance(number, int | float):
                    assert float(value) == number


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, by WCAG 2."""
    parts = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """By WCAG 2, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_marks_stand_out_in_both_schemes(
    browser: webdriver.Chrome, written: Written, scheme: str
) -> None:
    opened(browser, written.page, 1280, scheme)
    paper = asked(browser, "getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) < 0.05) == (scheme == "dark")
    for selector in ("body", ".see", "summary", "td.void", "tr.refused td"):
        ink = asked(browser, f"getComputedStyle(document.querySelector('{selector}')).color")
        assert contrast(ink, paper) >= 4.5, selector
    for selector in (".xtick text", ".legendtext", ".g-ytitle text"):
        ink = asked(browser, f"getComputedStyle(document.querySelector('{selector}')).fill")
        assert contrast(ink, paper) >= 4.5, selector
    marks = asked(
        browser,
        "[...document.querySelectorAll('#plot-accuracy .points path')]"
        ".map(e => getComputedStyle(e).fill)",
    )
    assert len(marks) >= 5
    assert all(contrast(mark, paper) >= 3 for mark in marks)


def test_the_keyboard_reaches_every_table_and_opens_it(
    browser: webdriver.Chrome, written: Written
) -> None:
    opened(browser, written.page, 390)
    reached = []
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        at = browser.switch_to.active_element
        if at.tag_name == "body":
            break
        if at.tag_name == "summary":
            at.send_keys(Keys.ENTER)
            reached.append("opened")
        else:
            reached.append(at.get_attribute("aria-label"))
    tables = ["latency", "distribution", "goodput", "phases", "bill", "sizes"]
    wanted = ["figures: variants"]
    for table in tables:
        wanted += ["opened", f"figures: {table}"]
    assert reached == wanted
    assert asked(browser, "[...document.querySelectorAll('details')].every(each => each.open)")
