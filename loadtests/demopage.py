"""The report: one HTML file that needs no network, and the same figures as JSON."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io

from loadtests.results import BASELINE, Report, Row

_INK = "#7d8590"  # readable on white and on black
_COLOURS = {BASELINE: "#8c8c8c", "fp32": "#4c78a8", "fp16": "#b279a2", "int8-static": "#54a24b"}
_OTHER = "#e4a14b"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>farthing: {title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0;
  --paper: #fff; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --paper: #0d1117; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.5rem; margin: 0 0 .5rem; }}  h2 {{ font-size: 1.1rem; margin: 2.5rem 0 .25rem; }}
.verdict {{ font-size: 1.15rem; border-left: 4px solid #54a24b; padding: .25rem 0 .25rem 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }}
th:first-child, td:first-child, td.why {{ text-align: left; }}
td.why {{ white-space: normal; color: var(--soft); min-width: 16rem; }}
tr.chosen {{ font-weight: 600; }}  th {{ color: var(--soft); font-weight: 500; }}
p, li {{ color: var(--soft); }}  .verdict {{ color: var(--ink); }}
</style></head><body>
<h1>{title}</h1>
<p class="verdict">{verdict}</p>
<div class="wide" tabindex="0" role="region" aria-label="Figures">{table}</div>
<h2>Conditions of this run</h2>
<ul>{conditions}</ul>
{plots}
</body></html>
"""


def write(report: Report, directory: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json``.

    Returns:
        Their paths.
    """
    page, data = directory / "report.html", directory / "report.json"
    data.write_text(json.dumps(report.to_dict(), indent=2, default=str) + "\n", encoding="utf-8")
    page.write_text(_html(report), encoding="utf-8")
    return page, data


def cells(report: Report, row: Row) -> tuple[str, ...]:
    """A row as text: accuracy, MB, p50, p99, requests/s, $/million, ratio; the terminal's too."""
    dollars, ratio = report.usd_per_million(row), report.ratio(row)
    return (
        _text(row.accuracy, "{:.2%}"),
        _text(row.bytes and row.bytes / 1e6, "{:.2f}"),
        _text(row.p50_ms, "{:.2f}"),
        _text(row.p99_ms, "{:.2f}"),
        _text(row.requests_per_s, "{:.0f}"),
        _text(dollars, "{:.4f}"),
        _text(ratio, "{:.2f}x"),
    )


def headings(users: int) -> tuple[str, ...]:
    """What ``cells`` are, in two lines each."""
    return (
        "accuracy\nheld out", "file\nMB", "p50 ms\n1 caller", "p99 ms\n1 caller",
        f"req/s\n{users} callers", "$ per\nmillion", "$ over\nkeras",
    )  # fmt: skip


def _text(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _html(report: Report) -> str:
    figures = [
        ("What a million requests cost", _dollars(report)),
        ("Accuracy against cost", _accuracy(report)),
        ("Latency with one caller", _latency(report)),
    ]
    plots = []
    for index, (heading, figure) in enumerate(figures):
        # The script goes into the page once, with the first plot.
        drawn = plotly.io.to_html(
            figure, full_html=False, include_plotlyjs=index == 0,
            config={"displayModeBar": False, "responsive": True},
        )  # fmt: skip
        plots.append(f"<h2>{html.escape(heading)}</h2>{drawn}")
    return _PAGE.format(
        title="digits, from Keras to a priced server",
        verdict=html.escape(report.verdict()),
        table=_table(report),
        conditions="".join(f"<li>{html.escape(s)}</li>" for s in report.conditions.sentences()),
        plots="\n".join(plots),
    )


def _table(report: Report) -> str:
    names = ("variant", *headings(report.conditions.users), "")
    head = "".join(f"<th>{html.escape(name).replace(chr(10), '<br>')}</th>" for name in names)
    body = []
    for row in report.rows:
        values = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(report, row))
        why = f"refused: {row.refused}" if row.refused else ""
        why = why or ("served" if row.name == report.chosen else "")
        kind = ' class="chosen"' if row.name == report.chosen else ""
        body.append(
            f"<tr{kind}><td>{html.escape(row.name)}</td>{values}"
            f'<td class="why">{html.escape(why)}</td></tr>'
        )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _figure(x_title: str, y_title: str, **layout: Any) -> Any:
    figure = go.Figure()
    figure.update_layout(
        height=360, margin={"l": 60, "r": 20, "t": 20, "b": 50}, font={"color": _INK, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        xaxis={"title": {"text": x_title}, "gridcolor": "rgba(125,133,144,.25)"},
        yaxis={"title": {"text": y_title}, "gridcolor": "rgba(125,133,144,.25)"},
        **layout,
    )  # fmt: skip
    return figure


def _measured(report: Report) -> list[Row]:
    return [row for row in report.rows if row.requests_per_s]


def _colour(row: Row) -> str:
    return _COLOURS.get(row.name, _OTHER)


def _dollars(report: Report) -> Any:
    rows = _measured(report)
    figure = _figure("", "$ per million requests", showlegend=False)
    figure.add_bar(
        x=[row.name for row in rows],
        y=[report.usd_per_million(row) for row in rows],
        marker_color=[_colour(row) for row in rows],
        text=[f"${report.usd_per_million(row):.4f}" for row in rows],
    )
    return figure


def _accuracy(report: Report) -> Any:
    figure = _figure("$ per million requests", "held-out accuracy, %", showlegend=False)
    figure.update_xaxes(rangemode="tozero")
    lowest = min(row.accuracy or 0.0 for row in _measured(report))
    figure.update_yaxes(range=[100 * lowest - 1.5, 100.4], tickvals=_ticks(100 * lowest - 1.5))
    for index, row in enumerate(_measured(report)):
        # Above and below in turn: neighbours often cost nearly the same.
        position = "top center" if index % 2 else "bottom center"
        figure.add_scatter(
            x=[report.usd_per_million(row)], y=[100 * (row.accuracy or 0.0)], name=row.name,
            text=[row.name], mode="markers+text", textposition=position,
            marker={"color": _colour(row), "size": 14},
        )  # fmt: skip
    return figure


def _ticks(low: float) -> list[float]:
    """Round percentages from above ``low`` up to 100, some five of them."""
    step = next(s for s in (0.5, 1, 2, 5, 10, 20) if (100 - low) / s <= 6)
    return [100 - step * n for n in range(int((100 - low) / step) + 1)]


def _latency(report: Report) -> Any:
    figure = _figure("milliseconds", "% of calls answered", legend={"orientation": "h", "y": 1.1})
    figure.update_xaxes(type="log")
    for row in _measured(report):
        latency = row.latency_ms or {}
        figure.add_scatter(
            x=list(latency.values()), y=list(latency), name=row.name, mode="lines+markers",
            line={"color": _colour(row)},
        )  # fmt: skip
    return figure
