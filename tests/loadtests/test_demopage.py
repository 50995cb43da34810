"""The report's two files."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtests import demopage as writer
from loadtests.results import Report
from tests.loadtests.conftest import REASON


class Page(HTMLParser):
    """What a browser would fetch, and the text outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for key, value in attrs if key in ("src", "href", "data")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["script"]:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


@pytest.fixture
def written(report: Report, tmp_path: Path) -> tuple[str, dict]:
    """The page's source, and the data."""
    page, data = writer.write(report, tmp_path)
    assert (page, data) == (tmp_path / "report.html", tmp_path / "report.json")
    return page.read_text(encoding="utf-8"), json.loads(data.read_text(encoding="utf-8"))


def parsed(source: str) -> Page:
    page = Page()
    page.feed(source)
    page.close()
    return page


def test_the_data_equal_the_rows(report: Report, written: tuple[str, dict]) -> None:
    data = written[1]
    assert data["verdict"] == report.verdict()
    for given, row in zip(data["rows"], report.rows, strict=True):
        assert (given["name"], given["accuracy"]) == (row.name, row.accuracy)
        assert (given["bytes"], given["requests_per_s"]) == (row.bytes, row.requests_per_s)
        assert given["usd_per_million"] == report.usd_per_million(row)
        latency = {float(at): value for at, value in (given["latency_ms"] or {}).items()}
        assert latency == (row.latency_ms or {})
    assert data["rows"][3]["refused"] == REASON


def test_the_page_needs_no_network(written: tuple[str, dict]) -> None:
    page = parsed(written[0])
    assert page.fetched == []
    assert not {"link", "iframe", "object", "img"} & set(page.tags)
    assert page.tags.count("script") >= 4  # the plots' library and three plots
    assert "@import" not in written[0].split("</style>")[0]


def test_the_plots_library_is_in_the_page_once(written: tuple[str, dict]) -> None:
    assert 3_000_000 < len(written[0]) < 8_000_000


def test_the_page_tells_every_variant_and_the_verdict(
    report: Report, written: tuple[str, dict]
) -> None:
    text = parsed(written[0]).text
    assert report.verdict() in text
    for row in report.rows:
        assert row.name in text
    for sentence in report.conditions.sentences():
        assert sentence in text


def test_the_reason_of_a_refusal_is_text_and_no_markup(written: tuple[str, dict]) -> None:
    assert f"refused: {REASON}" in parsed(written[0]).text
    assert html.escape(REASON) in written[0]
    assert "<b>" not in written[0].split("<script")[0]


def test_the_chosen_variant_is_marked(written: tuple[str, dict]) -> None:
    assert '<tr class="chosen"><td>int8-static</td>' in written[0]
    assert written[0].count('class="chosen"') == 1


def test_a_row_is_told_in_the_units_of_its_headings(report: Report) -> None:
    cells = writer.cells(report, report.row("int8-static"))
    assert cells == ("97.00%", "1.00", "250.11", "495.10", "400", "0.2778", "0.25x")
    assert len(writer.headings(8)) == len(cells)
    assert "8 callers" in writer.headings(8)[4]


def test_what_is_not_known_is_a_dash(report: Report) -> None:
    assert writer.cells(report, report.row("int8-dynamic"))[2:] == ("-",) * 5
    assert writer.cells(report, report.row("keras"))[3] == "-"
