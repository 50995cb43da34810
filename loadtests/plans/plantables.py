"""What a plan says to people: its tables, its notes, and its verdict in one sentence."""

from __future__ import annotations

import datetime

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.plans.capacity import Scaled
from loadtests.plans.nodes import ASSUMED
from loadtests.plans.plan import Option, Plan
from loadtests.plans.replica import tells_serving

# Less than that is no difference between two plans.
_AS_MUCH = 1.005


def show(console: Console, made: Plan) -> None:
    """Print the tables."""
    console.print(_options(made))
    if any(option.scaled for option in made.options):
        console.print(_scaled(made))


def _options(made: Plan) -> Table:
    asked = made.asked
    table = Table(
        title=escape(
            f"{asked.demand.said}, {asked.slo.said}; {asked.headroom:.0%} headroom, replicas "
            "always there"
        ),
        title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        caption="in time, p99 and CPU are simulated, for what comes in the busiest hour, without "
        "the headroom; CPU not of machines with an accelerator; $ a month is the replicas' share "
        f"of their machines, whole an assumption: {ASSUMED}", caption_justify="left",
    )  # fmt: skip
    table.add_column("profile")
    table.add_column("machine", overflow="fold")
    for heading in ("accuracy\npoints", "one\nholds/s", "replicas", "$ a\nmonth",
                    "whole", "$ per\nmillion", "in time", f"p{asked.slo.percent:g}\nms",
                    "CPU"):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for option in made.options:
        table.add_row(*_cells(option, made), style="bold" if option is made.best else None)
    return table


def _cells(option: Option, made: Plan) -> tuple[str, ...]:
    where, change = option.profile.conditions, option.profile.subject.accuracy_change
    price = where.price
    machine = f"{where.cpus:g} CPU {price.id}" if price else "-"
    head = (
        escape(option.profile.name),
        escape(machine),
        "-" if change is None else f"{change:+z.2f}",
    )
    if option.done is None:
        number = "?" if option.why else "none"
        return (*head, _carried(option) or number, number, *["-"] * 6)
    per_million = option.effective_usd_per_million(made.asked.demand)
    most = "<= " if option.at_most else ""
    judged_ms = option.done.seen.percentile_ms(made.asked.slo.percent)
    return (
        *head,
        _carried(option),
        f"{most}{option.number}",
        f"{most}{money(option.usd_per_month)}",
        _whole(option, None, most),
        "-" if per_million is None else f"{most}{money(per_million)}",
        f"{option.done.in_time:.2%}",
        "-" if judged_ms is None else f"{judged_ms:.1f}",
        "-" if option.accelerated else f"{option.done.used:.0%}",
    )


def _whole(option: Option, one: Scaled | None, most: str = "") -> str:
    """Dollars a month of whole machines."""
    usd = option.whole_usd_per_month(one)
    return "-" if usd is None else f"{most}{money(usd)}"


def _carried(option: Option) -> str:
    """What one holds, and how that is known where it was not just measured; empty if none."""
    if not option.rate:
        return ""
    if option.simulated:
        return f"{option.rate:.1f}\nsimulated,\nnot measured;\n{option.measured:.1f} measured"
    return f">= {option.rate:.1f}" if option.at_least else f"{option.rate:.1f}"


def _scaled(made: Plan) -> Table:
    table = Table(
        title="With autoscaling by CPU utilisation", title_justify="left", box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0), caption=f"replicas serve {made.asked.lag_s:g} s after a higher rate; "
        "over the whole time", caption_justify="left",
    )  # fmt: skip
    table.add_column("profile")
    for heading in ("CPU\ntarget", "replicas", "mean", "$ a\nmonth", "whole", "saves", "in time"):
        table.add_column(heading, justify="right")
    table.add_column("the SLO")
    for option in made.options:
        best = option.best_scaled
        for number, one in enumerate(option.scaled):
            usd = option.scaled_usd_per_month(one)
            saves = 1 - usd / option.usd_per_month
            table.add_row(
                "" if number else escape(option.profile.name), f"{one.target:.0%}",
                f"{one.fleet.least} to {one.fleet.most}", f"{one.fleet.mean:.2f}", money(usd),
                _whole(option, one),
                f"{saves:.0%}" if saves > 0 and not one.failure else "-", f"{one.done.in_time:.2%}",
                escape(one.failure) or "holds", style="bold" if one is best else None,
            )  # fmt: skip
    return table


def notes(made: Plan, today: datetime.date) -> list[str]:
    """What else should be known, a sentence each."""
    found = []
    for one, other, rate in made.break_evens():
        names = f"{_named(one)} is cheaper than {_named(other)}"
        if rate is None:
            found.append(f"At no rate {names} in the long run.")
        else:
            found.append(f"{names} from {rate:,.0f} requests per second on, at any higher rate.")
    for option in made.options:
        price = option.profile.conditions.price
        if price is not None and price.is_old(today):
            found.append(f"The price of {price.id} is of {price.date}, more than a year old.")
        if option.number and option.machines and option.machines.refused:
            found.append(f"{_named(option)}: {option.machines.refused}.")
        if option.why:
            found.append(f"{_named(option)}, for {made.asked.demand.said}: {option.why}.")
        if option.at_least:
            found.append(
                f"{_named(option)}: the {option.rate:.4g}/s of one replica are only a lower bound, "
                "since the generator could not send more on time; with more it may take fewer "
                "replicas and dollars than are said."
            )
        if not tells_serving(option.profile):
            found.append(
                f"The profile '{option.profile.name}' does not tell what the front end takes of "
                "the CPU (it was made with --quick, or without the server's metrics), so that is "
                "missing here."
            )
        if option.accelerated and not made.asked.demand.steady:
            found.append(
                f"{_named(option)} is counted as always there: its accelerator is not seen in CPU "
                "utilisation."
            )
    if made.not_measured:
        found.append(f"Not measured, so not in the verdict: {', '.join(made.not_measured)}.")
    return list(dict.fromkeys(found))


def conditions(made: Plan) -> list[str]:
    """What the figures of each option depend on, a sentence or two each."""
    found = []
    for option in made.options:
        subject, where = option.profile.subject, option.profile.conditions
        price, lag_ms = where.price, option.lag_ms
        late = "too few sends to say how late" if lag_ms is None else f"{lag_ms:.2g} ms late"
        found.append(
            f"{option.profile.name}: {subject.variant}, sha256 {subject.sha256}, accuracy "
            f"{subject.accuracy_change or 0:+zg} points over the trained model; measured on "
            f"{where.date} on {where.hardware}, the generator's p99 {late}; "
            f"{price.said(where.cpus, where.gpus) if price else 'no price'}."
        )
    return found


def verdict(made: Plan) -> str:
    """Which, how many, for how much, and how much cheaper than the next."""
    best, asked = made.best, made.asked
    if best is None and any(option.why for option in made.options):
        return f"Whether {asked.slo.said} holds for {asked.demand.said} can't be said."
    if best is None:
        return f"{asked.slo.said} holds with none of these, however many replicas there are."
    follows = best.best_scaled
    many = "1 replica" if best.number == 1 else f"{best.number} replicas"
    if follows:
        many = (
            f"{follows.fleet.least} to {follows.fleet.most} replicas at {follows.target:.0%} of "
            "their CPU"
        )
    said = (
        f"{_named(best)} serves {asked.demand.said} within the SLO ({asked.slo.said}) with {many} "
        f"for {'at most ' * best.at_most}${money(best.least_usd_per_month)} a month"
    )
    if follows:
        said += f", ${money(best.usd_per_month)} with {best.number} always there"
    return f"{said}{_next(made, best)}.{_on_machines(best)}{_simulated(best)}"


def _on_machines(best: Option) -> str:
    """A sentence with the dollars of whole machines."""
    usd, machines = best.whole_usd_per_month(best.best_scaled), best.machines
    if machines is None:
        return ""
    if usd is None:
        return f" But {machines.refused}."
    each = "one replica" if machines.holds == 1 else f"up to {machines.holds} replicas"
    return f" On whole machines, {each} on each, that is {'at most ' * best.at_most}${money(usd)}."


def _next(made: Plan, best: Option) -> str:
    """How much the next costs, and no ratio to what is only known not to be exceeded."""
    others = [one for one in made.options if one is not best and one.number is not None]
    if not others:
        return ""
    usd = f"${money(others[0].least_usd_per_month)}"
    if unknown := [one for one in others if one.at_most]:
        return f"; whether {_named(unknown[0])} is cheaper can't be said"
    if best.at_most:
        return f"; the next, {_named(others[0])}, costs {usd}"
    ratio = others[0].least_usd_per_month / best.least_usd_per_month
    if ratio < _AS_MUCH:
        return f"; {_named(others[0])} costs as much"
    return f"; the next, {_named(others[0])}, costs {usd}, {ratio:.2f} times as much"


def _simulated(option: Option) -> str:
    """A sentence where what one replica carries was not measured, with what was."""
    if not option.simulated:
        return ""
    return (
        f" That one replica holds {option.rate:.4g}/s is simulated, not measured; measured are "
        f"{option.measured:.4g}/s."
    )


def _named(option: Option) -> str:
    price = option.profile.conditions.price
    return f"{option.profile.name} on {price.id}" if price else option.profile.name


def money(usd: float) -> str:
    """Dollars, to as many digits as say something."""
    return f"{usd:,.0f}" if usd >= 100 else f"{usd:.3g}"
