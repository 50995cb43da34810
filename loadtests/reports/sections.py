"""Pure: the themes of a report, each with a sentence that says what to see in its plot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtests.reports.columns import TABLES, Column, three_digits
from loadtests.reports.wording import listed

Figures = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One theme.

    Attributes:
        theme: the plot's key.
        heading: above it.
        see: what to see there.
        table: the key of its figures' table.
        columns: of that table.
    """

    theme: str
    heading: str
    see: str
    table: str
    columns: tuple[Column, ...]


def sections(figures: Figures) -> list[Section]:
    """All themes, in order."""
    return [
        Section(theme, heading, see(figures), table, TABLES[table])
        for theme, heading, see, table in _THEMES
    ]


def _accuracy(figures: Figures) -> str:
    front = [each["name"] for each in figures["tables"]["variants"] if each.get("on_front")]
    if not front:
        return "Nothing here may be priced, so there is nothing to draw; the table says why."
    left_out = any(
        each.get("usd_per_million") is None or each["generator_bound"]
        for each in figures["tables"]["variants"]
    )
    rest = " What was refused, is void or a bound is not drawn." if left_out else ""
    said = "Left is cheaper, up is more accurate. "
    if len(front) == 1:
        return f"{said}Nothing is cheaper than {front[0]}, and nothing more accurate.{rest}"
    return (
        f"{said}{listed(front)} are on the front: whatever is cheaper than one of them is less "
        f"accurate, and whatever is more accurate costs more.{rest}"
    )


def _latency(figures: Figures) -> str:
    slo = figures["slo"]
    said = (
        "Solid is the 99th percentile of the answers, dotted the median. Each line rises where "
        f"calls begin to queue; the dashed one is the SLO's limit of {1e3 * slo['limit_s']:g} ms."
    )
    held = _record(figures, figures["chosen"])
    if held and held["rate"]:
        said += f" {held['name']} holds the SLO up to {three_digits(held['rate'])} calls/s."
    return said + _broken(figures) + _left_out(figures, "latency", "p50_ms")


def _broken(figures: Figures) -> str:
    """The runs that broke the SLO at no more than the rate that is said to hold it."""
    rates = {each["name"]: each.get("rate") or 0.0 for each in figures["tables"]["variants"]}
    said = [
        f"{each['name']} at {three_digits(each['rate'])}/s ({each['breaks_slo']})"
        for each in figures["tables"]["latency"]
        if each["breaks_slo"] and each["rate"] <= rates[each["name"]]
    ]
    if not said:
        return ""
    return f" Yet the SLO broke in runs at no more than the rate that held: {listed(said)}."


def _distribution(figures: Figures) -> str:
    return (
        "Each variant at the highest rate at which it held the SLO: the further right, the rarer "
        "and slower the answers. A line ends where its answers are too few to say more."
    )


def _goodput(figures: Figures) -> str:
    said = (
        "Beyond its capacity a server should stay at its peak; one that works on what nobody "
        "waits for any more falls."
    )
    names = {each["name"] for each in figures["tables"]["goodput"]}
    kept = {name: value for name in names if (value := _kept(figures, name)) is not None}
    rest = _calm(figures) + _left_out(figures, "goodput", "good_per_s")
    if not kept:
        return said + rest
    # Of equals the first by name, so that the sentence is the same each time.
    worst, best = (each(sorted(kept), key=lambda name: kept[name]) for each in (min, max))
    told = figures["chosen"] if figures["chosen"] in kept else best
    said += f" At its highest load {told} still gives {100 * kept[told]:.0f} % of its peak"
    said += f", {worst} {100 * kept[worst]:.0f} %." if worst != told else "."
    return said + rest


def _calm(figures: Figures) -> str:
    """Whom no valid run shows under overload."""
    rates = {each["name"]: each.get("rate") for each in figures["tables"]["variants"]}
    runs = figures["tables"]["goodput"]
    above = {
        each["name"]
        for each in runs
        if each["good_per_s"] is not None and each["rate"] > (rates[each["name"]] or math.inf)
    }
    names = [name for name in dict.fromkeys(each["name"] for each in runs) if name not in above]
    if not above:
        return " There is no valid run above the rate, so overload was not seen."
    return f" There is no valid run above the rate of {listed(names)}." if names else ""


def _left_out(figures: Figures, table: str, key: str) -> str:
    """How many runs are not drawn, since nothing may be said of them."""
    records = figures["tables"][table]
    void = sum(bool(each["void"]) and each[key] is None for each in records)
    return f" {void} of {len(records)} runs are void, and not drawn." if void else ""


def _kept(figures: Figures, name: str) -> float | None:
    """The goodput at the highest load over that at its peak; None if there was no overload."""
    runs: list[tuple[float, float]] = [
        (each["offered_per_s"], each["good_per_s"])
        for each in figures["tables"]["goodput"]
        if each["name"] == name and each["good_per_s"] is not None
    ]
    peak = max((good for _, good in runs), default=0.0)
    if not peak or max(runs)[0] < 1.2 * peak:
        return None
    return max(runs)[1] / peak


def _phases(figures: Figures) -> str:
    said = (
        "The mean milliseconds of an answered request inside the server, over the runs below the "
        f"SLO's rate: overload is not in it.{_quick(figures, 'phases', 'ms')}"
    )
    largest = _largest(figures, "phases", "ms")
    if largest:
        name, part, of_all = largest
        said += f" Most of {name}'s is {part}: {100 * of_all:.0f} %."
    return said


def _bill(figures: Figures) -> str:
    said = (
        "Each core-second of the server while the rates above were run, overload too, and in the "
        "pauses between them: busy with answers, serving (its front end), idle, waste (late, "
        "cancelled, failed) and warm-up; idle is paid for, too; unseen are CPUs that are paid for "
        "and in no server's ledger. It covers all the levels, most of them below the SLO's "
        "rate, so more of it is idle than at that rate without a pause, as $ per million is."
        f"{_quick(figures, 'bill', 'core_s')}"
    )
    largest = _largest(figures, "bill", "core_s")
    if largest:
        name, part, of_all = largest
        said += f" Most of {name}'s bill is {part}: {100 * of_all:.0f} %."
    return said


def _quick(figures: Figures, table: str, key: str) -> str:
    """Whose runs after the search were left out; empty where there is none."""
    known = {each["name"] for each in figures["tables"][table] if each[key] is not None}
    names = [name for name in figures["quick"] if name in known]
    if not names:
        return ""
    verb = "was" if len(names) == 1 else "were"
    return f" {listed(names)} {verb} measured without these runs: there it is the search."


def _sizes(figures: Figures) -> str:
    return "Small files load and travel faster; memory decides how many models share a machine."


def _largest(figures: Figures, table: str, key: str) -> tuple[str, str, float] | None:
    """Of the chosen variant, or else the first that has any: its largest part, and the share."""
    part = "phase" if table == "phases" else "line"
    known = [each for each in figures["tables"][table] if each[key] is not None]
    names = [each["name"] for each in known]
    name = figures["chosen"] if figures["chosen"] in names else next(iter(names), None)
    mine = [each for each in known if each["name"] == name]
    whole = sum(each[key] for each in mine)
    if not whole:
        return None
    largest = max(mine, key=lambda each: each[key])
    return str(name), str(largest[part]).replace("_", " "), largest[key] / whole


def _record(figures: Figures, name: str | None) -> dict[str, Any] | None:
    return next((each for each in figures["tables"]["variants"] if each["name"] == name), None)


_THEMES: tuple[tuple[str, str, Callable[[Figures], str], str], ...] = (
    ("accuracy", "Accuracy against cost", _accuracy, "variants"),
    ("latency", "Latency against rate", _latency, "latency"),
    ("distribution", "The distribution of the latency", _distribution, "distribution"),
    ("goodput", "Goodput under overload", _goodput, "goodput"),
    ("phases", "Where the time goes", _phases, "phases"),
    ("bill", "Where the money goes", _bill, "bill"),
    ("sizes", "Size and memory", _sizes, "sizes"),
)
