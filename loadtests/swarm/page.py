"""Pages beside Locust's own, with figures that are not rounded: /farthing and /farthing.json."""

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
    seen = figures["observed"]
    kind = f"open loop, {figures['arrivals']}" if figures["arrivals"] else "closed loop"
    void = "void" if seen["void"] else ""
    rows = {
        "calls offered": seen["offered"],
        **{f"ended: {code}": number for code, number in sorted(seen["endings"].items())},
        "good answers per second": void or f"{seen['good_per_s']:.1f}",
        **{f"latency {p}": void or _ms(value) for p, value in seen["latency_ms"].items()},
        **{f"sent late, {p}": _ms(value) for p, value in seen["lag_ms"].items()},
    }
    return _PAGE.format(
        title=escape(f"{kind}, {figures['users']} users, {figures['processes']} processes"),
        verdict=escape(_verdict(figures)),
        rows="".join(f"<tr><td>{escape(k)}<td>{escape(str(v))}" for k, v in rows.items()),
    )


def _verdict(figures: dict[str, Any]) -> str:
    if figures["failure"]:
        return f"Failed: {figures['failure']}."
    if figures["observed"]["void"]:
        return f"VOID: {figures['observed']['void']}."
    return "Done." if figures["ended"] else "Under way, or not begun."


def _ms(value: float | None) -> str:
    return "too few calls to say" if value is None else f"{value:.2f} ms"
