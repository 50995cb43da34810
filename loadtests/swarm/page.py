"""Figures that are not rounded: /farthing and /farthing.json beside Locust's pages; and as text."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="3"><title>farthing: load</title>
<style>
:root {{ color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }}
body {{ max-width: 40rem; margin: 2rem auto; padding: 0 1rem }}
td {{ padding: .2rem 1rem .2rem 0 }} td + td {{ text-align: right }}
</style>
<h1>{title}</h1><p><strong>{verdict}</strong></p><table>{rows}</table>
<p><a href="farthing.json">all of it as JSON</a></p></html>
"""


def add(app: Any, figures: Callable[[], dict[str, Any]]) -> None:
    """Add both pages to Locust's Flask application.

    Args:
        app: the application.
        figures: gives what ``Tally.to_dict`` gives, at any moment.
    """
    app.add_url_rule("/farthing", "farthing", lambda: page(figures()))
    app.add_url_rule("/farthing.json", "farthing_json", figures)


def page(figures: dict[str, Any]) -> str:
    """The page of one run."""
    return _PAGE.format(
        title=escape(_title(figures)),
        verdict=escape(_verdict(figures)),
        rows="".join(f"<tr><td>{escape(k)}<td>{escape(v)}" for k, v in _rows(figures).items()),
    )


def text(figures: dict[str, Any]) -> str:
    """The same for a terminal."""
    rows = _rows(figures)
    wide = max(map(len, rows))
    lines = [f"  {what:{wide}}  {value:>20}" for what, value in rows.items()]
    return "\n".join([f"farthing, exact: {_title(figures)}", _verdict(figures), *lines])


def _title(figures: dict[str, Any]) -> str:
    kind = "closed loop"
    if figures["arrivals"]:
        rate = "" if figures["arrivals"] == "replay" else f", {figures['rate']:g}/s"
        kind = f"open loop, {figures['arrivals']}{rate}, seed {figures['seed']}"
    counts = ((figures["users"], "user", "users"), (figures["processes"], "process", "processes"))
    return ", ".join([kind, *(f"{n} {one if n == 1 else many}" for n, one, many in counts)])


def _rows(figures: dict[str, Any]) -> dict[str, str]:
    seen = figures["observed"]
    void = "void" if seen["void"] else ""
    return {
        "seconds": f"{seen['seconds']:.1f}",
        "calls offered": str(seen["offered"]),
        **{f"ended: {code}": str(number) for code, number in sorted(seen["endings"].items())},
        "good answers per second": void or f"{seen['good_per_s']:.1f}",
        **{f"latency {p}": void or _ms(value) for p, value in seen["latency_ms"].items()},
        **{f"sent late, {p}": _ms(value) for p, value in seen["lag_ms"].items()},
    }


def _verdict(figures: dict[str, Any]) -> str:
    if figures["failure"]:
        return f"Failed: {figures['failure']}."
    if figures["observed"]["void"]:
        return f"VOID: {figures['observed']['void']}."
    return "Done." if figures["ended"] else "Under way, or not begun."


def _ms(value: float | None) -> str:
    return "too few calls to say" if value is None else f"{value:.2f} ms"
