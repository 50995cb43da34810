"""The plots of a report, from its figures; a variant has its colour and symbol on all of them."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

# As light as each other, so that all can be told from white and from black (3:1 at least); hues
# that the colour-blind can tell apart, and a symbol each beside them.
_COLOURS = ("#d55e00", "#2e7fc1", "#00916a", "#a855a0", "#a87900", "#1a8fa3", "#c0506a")
_SYMBOLS = ("diamond", "circle", "square", "triangle-up", "cross", "star", "hexagon")
_GREY = "#808080"
_STACK = {
    "busy": "#00796b", "serving": "#5c6bc0", "warm_up": "#a87900", "waste": "#c62f4b",
    "idle": "#7d8590",
    "decode": "#a87900", "queue": "#7d8590", "assembly": "#a855a0", "run": "#00796b",
    "encode": "#5c6bc0", "rest": "#8d6e63", "unsettled": "#8d6e63",
    "compute_input": "#a87900", "compute_infer": "#00796b", "compute_output": "#5c6bc0",
}  # fmt: skip
_GRID = "rgba(125,133,144,.28)"
_LONGEST = 22


@dataclass(frozen=True)
class Look:
    """How a variant is drawn."""

    label: str
    colour: str
    symbol: str


def library() -> str:
    """The script that draws; it needs no network."""
    return str(get_plotlyjs())


def plots(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Theme -> a plot as plotly's plain values; a theme without figures has none."""
    tables, looks = figures["tables"], _looks(figures)
    drawn = {
        "accuracy": _accuracy(tables["variants"], looks),
        "latency": _latency(tables["latency"], looks, slo=figures["slo"]),
        "distribution": _distribution(tables["distribution"], looks),
        "goodput": _goodput(tables["goodput"], looks),
        "phases": _stacked(tables["phases"], looks, part="phase", value="ms", unit="ms, mean"),
        "bill": _stacked(tables["bill"], looks, part="line", value="share", unit="% of the bill"),
        "sizes": _sizes(tables["sizes"], looks),
    }
    return {theme: plot.to_plotly_json() for theme, plot in drawn.items() if plot.data}


def _looks(figures: dict[str, Any]) -> dict[str, Look]:
    looks: dict[str, Look] = {}
    others = 0
    for record in figures["tables"]["variants"]:
        name = record["name"]
        short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        label = html.escape(short, quote=False)  # plotly reads some markup in texts
        if name == figures["baseline"]:
            looks[name] = Look(label, _GREY, "x")
        elif not record["refused"]:
            looks[name] = Look(
                label, _COLOURS[others % len(_COLOURS)], _SYMBOLS[others % len(_SYMBOLS)]
            )
            others += 1
    return looks


def _plot(x_title: str, y_title: str, *, height: int = 380) -> Any:
    plot = go.Figure()
    _styled(plot, height)
    plot.update_xaxes(title_text=x_title)
    plot.update_yaxes(title_text=y_title)
    return plot


def _styled(plot: Any, height: int) -> None:
    plot.update_layout(
        template="none", height=height, margin={"l": 58, "r": 14, "t": 10, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13, "color": _GREY},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", dragmode=False,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        hoverlabel={"font": {"size": 13}}, bargap=0.35,
    )  # fmt: skip
    # Fixed: on a phone, a finger on a plot scrolls the page.
    plot.update_xaxes(
        gridcolor=_GRID, zeroline=False, fixedrange=True, automargin=True, tickangle=0
    )
    plot.update_yaxes(gridcolor=_GRID, zeroline=False, fixedrange=True, automargin=True)
    plot.update_xaxes(title_font_size=13, title_standoff=10, ticklabelstandoff=5)
    plot.update_yaxes(title_font_size=13, title_standoff=8)


def _of(records: Iterable[dict[str, Any]], name: str, *keys: str) -> list[dict[str, Any]]:
    """What may be drawn of a variant: records in which all of these are known."""
    return [
        each
        for each in records
        if each["name"] == name and all(each.get(key) is not None for key in keys)
    ]


def _line(look: Look, name: str, **other: Any) -> dict[str, Any]:
    return {
        "name": look.label, "legendgroup": name, "mode": "lines+markers",
        "line": {"color": look.colour, "width": 2},
        "marker": {"color": look.colour, "symbol": look.symbol, "size": 8},
    } | other  # fmt: skip


def _logarithmic(axis: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with as many ticks as a phone has room for."""
    known = [value for value in values if value > 0]
    if not known:
        return
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    decades = math.log10(max(known) / min(known))
    steps = (1, 2, 5) if decades < 1.4 else (1, 3) if decades < 3 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    axis(type="log", tickvals=ticks, ticktext=[f"{tick:,g}" for tick in ticks])


def _accuracy(records: list[dict[str, Any]], looks: dict[str, Look]) -> Any:
    plot = _plot("$ per million good answers", "held-out accuracy, %")
    plot.update_xaxes(rangemode="tozero", tickprefix="$", nticks=6)
    known = [
        each
        for name in looks
        for each in _of(records, name, "usd_per_million", "accuracy")
        if not each["generator_bound"]
    ]
    front = sorted(
        (each for each in known if each["on_front"]), key=lambda each: each["usd_per_million"]
    )
    if len(front) > 1:
        plot.add_scatter(
            x=[each["usd_per_million"] for each in front],
            y=[100 * each["accuracy"] for each in front],
            name="Pareto front", mode="lines", hoverinfo="skip",
            line={"color": _GREY, "dash": "dot", "shape": "hv", "width": 2},
        )  # fmt: skip
    for each in known:
        look = looks[each["name"]]
        plot.add_scatter(
            x=[each["usd_per_million"]], y=[100 * each["accuracy"]], name=look.label,
            mode="markers", marker={"color": look.colour, "symbol": look.symbol, "size": 14},
            hovertemplate="$%{x:.4g} per million, %{y:.2f} %",
        )  # fmt: skip
    if known:
        values = [100 * each["accuracy"] for each in known]
        room = max(0.15 * (max(values) - min(values)), 0.2)
        plot.update_yaxes(range=[min(values) - room, max(values) + room], nticks=6)
    return plot


def _latency(records: list[dict[str, Any]], looks: dict[str, Look], *, slo: dict[str, Any]) -> Any:
    plot = _plot("offered, calls/s", "latency, ms")
    values, rates = [1e3 * slo["limit_s"]], []
    for name, look in looks.items():
        for key, dash in (("p99_ms", "solid"), ("p50_ms", "dot")):
            runs = _of(records, name, key)
            if not runs:
                continue
            plot.add_scatter(
                x=[run["rate"] for run in runs], y=[run[key] for run in runs],
                **_line(look, name, line={"color": look.colour, "width": 2, "dash": dash}),
                showlegend=key == "p99_ms",
                hovertemplate=f"{key[:3]} %{{y:.4g}} ms at %{{x:.4g}} calls/s",
            )  # fmt: skip
            values += [run[key] for run in runs]
            rates += [run["rate"] for run in runs]
    if rates:
        plot.add_scatter(
            x=[min(rates), max(rates)], y=[1e3 * slo["limit_s"]] * 2, mode="lines",
            name="the SLO's limit", hoverinfo="skip",
            line={"color": _GREY, "dash": "dash", "width": 1.5},
        )  # fmt: skip
    _logarithmic(plot.update_yaxes, values)
    _logarithmic(plot.update_xaxes, rates)
    return plot


def _distribution(records: list[dict[str, Any]], looks: dict[str, Look]) -> Any:
    plot = _plot("percentile of the answers", "latency, ms")
    values = []
    for name, look in looks.items():
        points = _of(records, name, "ms")
        if not points:
            continue
        values += [point["ms"] for point in points]
        plot.add_scatter(
            x=[100 / (100 - point["percent"]) for point in points],
            y=[point["ms"] for point in points], customdata=[p["percent"] for p in points],
            **_line(look, name, marker={"color": look.colour, "symbol": look.symbol, "size": 6}),
            hovertemplate="p%{customdata:g}: %{y:.4g} ms",
        )  # fmt: skip
    ticks = (1, 50, 75, 90, 95, 99, 99.5, 99.9)
    plot.update_xaxes(
        type="log", range=[-0.03, 3.08], tickvals=[100 / (100 - tick) for tick in ticks],
        ticktext=[f"{tick:g}" for tick in ticks],
    )  # fmt: skip
    _logarithmic(plot.update_yaxes, values)
    return plot


def _goodput(records: list[dict[str, Any]], looks: dict[str, Look]) -> Any:
    plot = _plot("offered, calls/s", "good, answers/s")
    offered: list[float] = []
    good: list[float] = []
    for name, look in looks.items():
        runs = _of(records, name, "offered_per_s", "good_per_s")
        # A logarithm has no place for none at all; the table has it.
        runs = [run for run in runs if run["good_per_s"] > 0]
        if not runs:
            continue
        offered += [run["offered_per_s"] for run in runs]
        good += [run["good_per_s"] for run in runs]
        plot.add_scatter(
            x=[run["offered_per_s"] for run in runs], y=[run["good_per_s"] for run in runs],
            **_line(look, name), hovertemplate="%{y:.4g} good of %{x:.4g} offered, per second",
        )  # fmt: skip
    if offered:
        ends = [min(offered), max(offered)]
        plot.add_scatter(
            x=ends, y=ends, name="ideal: all good", mode="lines", hoverinfo="skip",
            line={"color": _GREY, "dash": "dash", "width": 1.5},
        )  # fmt: skip
    _logarithmic(plot.update_xaxes, offered)
    _logarithmic(plot.update_yaxes, good + offered)
    return plot


def _rows(plot: Any, names: Sequence[str], looks: dict[str, Look], **where: Any) -> None:
    """One row of bars for each variant, the first at the top."""
    plot.update_yaxes(
        tickvals=list(range(len(names))), ticktext=[looks[name].label for name in names],
        range=[len(names) - 0.5, -0.5], showgrid=False, title_text="", **where,
    )  # fmt: skip


def _stacked(
    records: list[dict[str, Any]], looks: dict[str, Look], *, part: str, value: str, unit: str
) -> Any:
    """Bars of parts, which have a colour each; shares as percentages."""
    # What is not settled yet may have been more at the start: a little less than nothing.
    known = [each for each in records if each[part] is not None and (each[value] or 0.0) > 0]
    names = [name for name in looks if any(each["name"] == name for each in known)]
    plot = _plot(unit, "", height=150 + 44 * len(names))
    plot.update_layout(barmode="stack", legend_traceorder="normal")
    scale = 100 if value == "share" else 1
    parts = sorted({each[part] for each in known}, key=_place)
    longest = max((sum(e[value] for e in known if e["name"] == n) for n in names), default=1) or 1
    for index, one in enumerate(parts):
        mine = {each["name"]: each[value] for each in known if each[part] == one}
        colour = _STACK.get(one, _COLOURS[index % len(_COLOURS)])
        said = "%{x:.0f} %" if value == "share" else "%{x:.3g}"
        plot.add_bar(
            orientation="h", name=html.escape(one.replace("_", " "), quote=False),
            y=[names.index(name) for name in mine], x=[scale * mine[name] for name in mine],
                        texttemplate=[said if v > 0.09 * longest else "" for v in mine.values()],
            textposition="inside", insidetextanchor="middle", textangle=0,
            insidetextfont={"color": "#fff", "size": 12}, constraintext="none",
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{x:.3g} " + ("%" if value == "share" else "ms"),
        )  # fmt: skip
    _rows(plot, names, looks)
    return plot


def _place(part: str) -> tuple[int, str]:
    known = list(_STACK)
    return (known.index(part) if part in known else len(known), part)


def _sizes(records: list[dict[str, Any]], looks: dict[str, Look]) -> Any:
    names = [name for name in looks if any(each["name"] == name for each in records)]
    plot = make_subplots(rows=2, cols=1, vertical_spacing=0.22)
    _styled(plot, 190 + 60 * len(names))
    for row, key, title in ((1, "bytes", "file, MB"), (2, "memory_bytes", "resident memory, MB")):
        known = [each for name in names for each in _of(records, name, key)]
        for each in known:
            plot.add_bar(
                orientation="h", y=[names.index(each["name"])], x=[each[key] / 1e6],
                marker={"color": looks[each["name"]].colour}, showlegend=False,
                texttemplate="%{x:.3g}", textposition="auto", insidetextfont={"color": "#fff"},
                hovertemplate="%{x:.4g} MB<extra></extra>", row=row, col=1,
            )  # fmt: skip
        plot.update_xaxes(title_text=title, rangemode="tozero", row=row, col=1)
        _rows(plot, names, looks, row=row, col=1)
    plot.update_layout(bargap=0.3, barmode="overlay")
    return plot
