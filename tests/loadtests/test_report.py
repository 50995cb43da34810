"""The report's three files, and its verb."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import farthing
from loadtests.profile import Profile
from loadtests.profile import write as save
from loadtests.reports import report
from loadtests.reports.columns import TABLES, cell, three_digits
from loadtests.reports.figures import Refused
from loadtests.reports.report import Written
from service.errors import InvalidSetting
from tests.loadtests import invented
from tests.loadtests.invented import profile

HOSTILE = '</script><img src=x onerror="alert(1)">&amp;{{ 7 * 7 }}'
_VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What a browser would make of a page: balance, fetches, and the text outside of scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.scripts: dict[str, str] = {}
        self.cells: list[list[tuple[str, str]]] = []
        self._script = ""
        self._value = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if tag not in ("data", "meta"):
            keys = ("src", "href", "data", "srcset", "action")
            self.fetched += [given[key] for key in keys if key in given]
        if tag == "script":
            self._script = given.get("id", "code")
        elif tag == "tr":
            self.cells.append([])
        elif tag == "data":
            self._value = given["value"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        if tag == "data":
            self._value = ""

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif self.open[-1:] != ["style"]:
            self.text += data
            if self.open[-1:] in (["td"], ["th"], ["data"], ["p"]) and self.cells:
                self.cells[-1].append((self._value, data))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A family, a void profile, a refused variant and a hostile name."""
    family = [*invented.family(1000), profile("int8-void", calls=600, late=20)]
    family.append(replace(profile("hostile", calls=500), name=HOSTILE))
    return report.write(
        family, tmp_path_factory.mktemp("report"), baseline="keras", title=f"All of {HOSTILE}",
        refused=[Refused("int8-dynamic", "it loses <b>too</b> much & more", 0.9, 1_500_000)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(written: Written) -> Page:
    return Page(written.page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(written: Written) -> dict[str, Any]:
    return json.loads(written.data.read_text(encoding="utf-8"))


def test_the_page_is_balanced_and_its_ids_are_unique(page: Page) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("h1") == 1


def test_the_page_fetches_nothing(written: Written, page: Page) -> None:
    assert page.fetched == ["data:,"]
    assert not {"iframe", "object", "img", "base"} & set(page.tags)
    assert "@import" not in written.page.read_text(encoding="utf-8").split("</style>")[0]


def test_the_page_holds_plotly_once(written: Written) -> None:
    assert 3e6 < written.page.stat().st_size < 8e6


def test_a_hostile_name_is_text_and_no_markup(page: Page) -> None:
    assert HOSTILE in page.text
    assert "49" not in page.text.split("Conditions")[0]
    assert HOSTILE not in page.scripts["figures"]
    assert "it loses <b>too</b> much & more" in page.text
    assert json.loads(page.scripts["figures"])["title"] == f"All of {HOSTILE}"


def test_the_order_is_verdict_conditions_table_plots(page: Page, data: dict[str, Any]) -> None:
    headings = [
        data["title"], data["verdict"], "Conditions of this run", "The variants",
        "Accuracy against cost", "Latency against rate", "The distribution of the latency",
        "Goodput under overload", "Where the time goes", "Where the money goes", "Size and memory",
    ]  # fmt: skip
    places = [page.text.index(text) for text in headings]
    assert places == sorted(places)


def test_the_page_holds_the_figures_of_the_json(page: Page, data: dict[str, Any]) -> None:
    shown = json.loads(page.scripts["figures"])
    assert shown == {key: value for key, value in data.items() if key != "profiles"}


def test_every_figure_of_the_json_is_on_the_page_in_full(page: Page, data: dict[str, Any]) -> None:
    rows = [[(value, text) for value, text in row] for row in page.cells]
    for table, records in data["tables"].items():
        if table == "distribution":
            continue
        columns = [column for column in TABLES[table] if column.key not in ("note", "void")]
        for record in records:
            wanted = [
                ("" if isinstance(v := record.get(c.key), str | None) else str(v), cell(record, c))
                for c in columns
            ]
            assert any(row[: len(wanted)] == wanted for row in rows), (table, wanted)


def test_the_distribution_has_a_column_for_each_variant(page: Page, data: dict[str, Any]) -> None:
    records = [each for each in data["tables"]["distribution"] if each["percent"] == 95]
    row = next(row for row in page.cells if row[0] == ("", "p95"))
    assert row[1:] == [(str(each["ms"]), three_digits(each["ms"])) for each in records]


def test_void_is_printed_with_its_reason(page: Page) -> None:
    place = next(n for n, row in enumerate(page.cells) if row[0] == ("", "int8-void"))
    row, below = page.cells[place : place + 2]
    assert row[1:3] == [("", "void"), ("", "void")]
    assert below[0][1].startswith("void: it lacks a generator that kept its schedule")


def test_what_strangers_do_not_tell_is_a_dash(page: Page) -> None:
    assert [("", "triton"), *[("", "-")] * 4] in [row[:5] for row in page.cells]


def test_the_plots_have_one_colour_for_a_variant(page: Page) -> None:
    plots = json.loads(page.scripts["plots"])
    themes = ["accuracy", "latency", "distribution", "goodput"]
    colours = {
        trace["marker"]["color"]
        for theme in themes
        for trace in plots[theme]["data"]
        if trace["name"] == "int8-static"
    }
    assert len(colours) == 1
    names = {"keras", "fp32", "int8-static", "int8-mixed", "triton"}
    all_of = {t["marker"]["color"] for t in plots["accuracy"]["data"] if t["name"] in names}
    assert len(all_of) == len(names)


def test_plotly_is_given_no_markup_of_others(page: Page) -> None:
    traces = json.loads(page.scripts["plots"])["goodput"]["data"]
    assert all("<" not in trace["name"] for trace in traces)
    assert any(trace["name"].startswith("&lt;/script&gt;") for trace in traces)


def test_a_plot_that_would_be_empty_is_left_out(tmp_path: Path) -> None:
    stranger = replace(profile("triton", calls=50), bill=None, phases=None)
    page = Page(report.write([stranger], tmp_path).page.read_text(encoding="utf-8"))
    assert not {"plot-bill", "plot-phases"} & set(page.ids)
    assert "plot-goodput" in page.ids
    assert page.text.count("There is nothing to draw") == 2


def test_a_report_in_which_all_is_void_is_written_all_the_same(tmp_path: Path) -> None:
    one = profile(calls=50)
    void = replace(one, rate=None, searched=(), levels=(), alone=None)
    done = report.write([void], tmp_path, baseline="fp32")
    assert "Nothing here may be priced" in Page(done.page.read_text(encoding="utf-8")).text


def test_the_sheet_has_every_figure_once(written: Written, data: dict[str, Any]) -> None:
    rows = list(csv.DictReader(written.sheet.read_text(encoding="utf-8").splitlines()))
    keys = [(row["table"], row["name"], row["at"], row["figure"]) for row in rows]
    assert len(keys) == len(set(keys))
    found = {key: row["value"] for key, row in zip(keys, rows, strict=True)}
    for record in data["tables"]["goodput"]:
        key = ("goodput", record["name"], str(record["rate"]), "good_per_s")
        value = record["good_per_s"]
        assert found[key] == ("" if value is None else str(value))
    assert found["variants", "fp32", "", "sha256"] == data["tables"]["variants"][1]["sha256"]


def test_the_sheet_has_all_conditions(written: Written, data: dict[str, Any]) -> None:
    rows = list(csv.DictReader(written.sheet.read_text(encoding="utf-8").splitlines()))
    found = {(r["name"], r["figure"]): r["value"] for r in rows if r["table"] == "conditions"}
    wanted = {
        (name, each["what"]): each["said"]
        for each in data["conditions"]
        for name in each["of"] or [""]
    }
    assert found == wanted
    price = found["", "Price"]
    assert all(part in price for part in ("shop-large", "north-1", "on demand", "2026-09-24"))
    assert "sha256" in found["fp32", "Model"]


def test_the_json_holds_no_figure_that_is_no_number(data: dict[str, Any]) -> None:
    def numbers(value: Any) -> list[float]:
        if isinstance(value, dict):
            return [n for each in value.values() for n in numbers(each)]
        if isinstance(value, list):
            return [n for each in value for n in numbers(each)]
        return [value] if isinstance(value, float) else []

    assert all(math.isfinite(number) for number in numbers(data))


def test_a_report_gives_its_profiles_back(written: Written, tmp_path: Path) -> None:
    names = [each.name for each in report.read_all(written.data)]
    assert names[:3] == ["keras", "fp32", "int8-static"]
    save(profile(calls=20), tmp_path / "one.json")
    assert [each.name for each in report.read_all(tmp_path / "one.json")] == ["fp32"]
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InvalidSetting, match="neither a profile nor a report"):
        report.read_all(tmp_path / "other.json")


def saved(directory: Path, *profiles: Profile) -> list[str]:
    """Their files."""
    paths = [directory / f"{number}.json" for number in range(len(profiles))]
    for path, each in zip(paths, profiles, strict=True):
        save(each, path)
    return [str(path) for path in paths]


def test_the_verb_writes_all_three_and_compares_with_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = saved(tmp_path, profile("keras", calls=600), profile("fp32", calls=600))
    assert farthing.main(["report", *files, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    assert "$ per" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "report.json", "report.csv"}
    assert json.loads((tmp_path / "out" / "report.json").read_text())["baseline"] == "keras"


def test_the_verb_ends_with_1_where_nothing_may_be_priced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = saved(tmp_path, replace(profile(calls=600), rate=None))
    assert farthing.main(["report", *files, "--out", str(tmp_path / "out"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["chosen"] is None


def test_the_verb_refuses_what_is_no_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert farthing.main(["report", str(tmp_path / "a.json")]) == 2
    assert "is no profile" in capsys.readouterr().err


def test_the_table_fits_a_screen_whatever_the_names(written: Written) -> None:
    screen = io.StringIO()
    report.show(Console(width=100, file=screen), written.figures)
    text = screen.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "refused: it loses <b>too</b> much & more" in text


def test_a_figure_below_0_is_no_text_in_the_csv() -> None:
    record = {"name": "net", "accuracy_change": -0.5}
    text = report.sheet({"conditions": [], "tables": {"variants": [record]}})
    assert text.splitlines()[1] == "variants,net,,accuracy_change,-0.5"


@pytest.mark.parametrize("name", ['=HYPERLINK("http://e","c")', "+1", "-1+2", "@SUM(A1)"])
def test_a_name_is_no_formula_in_the_csv(tmp_path: Path, name: str) -> None:
    written = report.write([profile(name)], tmp_path)
    rows = list(csv.DictReader(written.sheet.read_text(encoding="utf-8").splitlines()))
    names = {row["name"] for row in rows} - {""}
    assert names == {f"'{name}"}
    assert {row["name"] for row in json.loads(written.data.read_text())["tables"]["variants"]} == {
        name
    }


def test_bounds_are_told_as_such_in_the_row_on_the_page_and_in_the_csv(tmp_path: Path) -> None:
    one = invented.bounded("strong", calls=500)
    written = report.write([profile("keras", calls=500), one], tmp_path, baseline="keras")
    least, most = (
        f">= {three_digits(one.rate or 0)}",
        f"<= ${three_digits(one.usd_per_million or 0)}",
    )
    screen = io.StringIO()
    report.show(Console(width=100, file=screen), written.figures)
    page = Page(written.page.read_text(encoding="utf-8"))
    texts = [text for row in page.cells for _, text in row]
    for told in (" ".join(screen.getvalue().split()), texts):
        assert least in told
        assert most in told
    assert "* strong: bounds only: the generator failed" in " ".join(screen.getvalue().split())
    assert any(text.startswith("bounds only: the generator failed") for text in texts)
    rows = list(csv.DictReader(written.sheet.read_text(encoding="utf-8").splitlines()))
    assert {
        row["name"]: row["value"] for row in rows if row["figure"] == "generator_bound"
    } == {"keras": "False", "strong": "True"}  # fmt: skip
    drawn = json.loads(page.scripts["plots"])["accuracy"]["data"]
    assert [trace["name"] for trace in drawn] == ["keras"]
