"""A profile on the screen: the runs of its search, those around its rate, and the verdict."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.observed import Observed
from loadtests.profile import Level, Profile, Subject

# What would mend what a price lacks.
_MENDS = {
    "a price": "--price",
    "the hardware": "--hardware",
    "the variant": "--variant",
    "the model's digest": "--model-file",
    "the accuracy change": "--accuracy-change",
}


def show(console: Console, found: Profile) -> None:
    """Print all runs of a profile; failures and void runs with their reasons."""
    subject = found.subject
    title = f"{subject.model}, {found.name}, on {subject.server or 'a server without a name'}"
    console.print(_searched(found, f"{title}: {found.slo.said}"))
    if found.levels:
        console.print(_levels(found))
    if found.unbilled:
        console.print(escape(f"no bill of the server's CPU: {found.unbilled}"), highlight=False)


def verdict(found: Profile) -> str:
    """The highest rate and what a million answers cost there; or void, and what it lacks.

    Of a search that the generator ended both are bounds: what the server can do was not found.
    """
    slo = found.slo.said
    if found.rate is None:
        return f"void: {slo} was confirmed at no rate: {found.ended}"
    at = found.at_slo
    if at is not None and at.seen.void:
        return f"void: {at.seen.void}"
    least, most = (">= ", "at most ") if found.generator_bound else ("", "")
    rate = f"Highest rate: {least}{found.rate:.4g}/s at {slo} ({found.ended})."
    if at is not None and (unshown := found.slo.only_seen(at.seen)):
        rate += f"\nThat run showed {found.slo.held_to} at 99 % confidence; {unshown}."
    if found.usd_per_million is None:
        return f"{rate}\nvoid: no dollars without {mended(found.lacking)}."
    paid = found.conditions.price_said
    cost = f"{rate}\n{most}${found.usd_per_million:.4g} per million good answers: {paid}."
    drawn = f"\nEnergy: {found.energy.said}." if found.energy else ""
    return (
        f"{cost}{drawn}\nOf {_model(found.subject)}.\nOn {found.conditions.hardware}; "
        f"{_generator(found)}."
    )


def advice(found: Profile, load: float, cores: float) -> str:
    """What to do where the generator ended the search; empty where it did not.

    Args:
        found: the profile.
        load: of the generator's machine, as the kernel averages it over a minute.
        cores: of that machine.
    """
    late = found.generator_bound or (found.at_slo is not None and bool(found.at_slo.seen.void))
    if not late:
        return ""
    return (
        f"The generator could not send more on time (load {load:.1f} on {cores:g} cores): stop "
        "what else runs there, or run it on another machine, and measure again."
    )


def mended(lacking: list[str]) -> str:
    """What a price lacks, with the options that give it."""
    return ", ".join(f"{what} ({_MENDS[what]})" if what in _MENDS else what for what in lacking)


def _model(subject: Subject) -> str:
    """Which one it was, and what it lost by being made cheaper."""
    version = f" version {subject.version}" if subject.version else ""
    return (
        f"{subject.model}{version}, {subject.variant}, sha256 {subject.sha256}, accuracy "
        f"{subject.accuracy_change:+g} points over the trained model"
    )


def _generator(found: Profile) -> str:
    """Whether it kept its schedule."""
    lag_ms = found.at_slo.seen.lag_ms(99) if found.at_slo else None
    where = "on the server's cores" if found.conditions.shared else "on cores of its own"
    if lag_ms is None:
        return f"the generator, {where}, sent too few calls to say how late"
    return f"the generator, {where}, was at most {lag_ms:.2g} ms late in 99 of 100 sends"


def _searched(found: Profile, title: str) -> Table:
    percent = f"p{found.slo.percent:g} ms"
    table = _table(title, "calls/s", "for s", "sent", "in time", "p50 ms", percent)
    table.add_column("the SLO", overflow="fold")
    for level, failure in found.searched:
        seen = level.seen
        held = "seems to hold" if found.slo.failure(seen) else "holds"
        if level is found.at_slo and held == "holds":
            held = "holds: confirmed"
        said = _void(seen) or failure or held
        table.add_row(*_cells(level, found.slo.percent), escape(said))
    return table


def _levels(found: Profile) -> Table:
    table = _table(
        "At shares and multiples of that rate",
        "calls/s", "for s", "sent", "in time", "p50 ms", f"p{found.slo.percent:g} ms",
        "good/s", "$ per million",
    )  # fmt: skip
    table.add_column("", overflow="fold")
    for level in found.levels:
        seen = level.seen
        dollars = found.effective_usd_per_million(level)
        table.add_row(
            *_cells(level, found.slo.percent), _tenths(seen.told(seen.good_per_s)),
            "-" if dollars is None else f"{dollars:.4g}",
            escape(_void(seen) or _endings(seen)),
        )  # fmt: skip
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cells(level: Level, percent: float) -> tuple[str, ...]:
    seen = level.seen
    return (
        f"{level.rate:.1f}", f"{seen.seconds:.0f}", str(seen.offered),
        "-" if seen.void else str(seen.good),
        _tenths(seen.percentile_ms(50)), _tenths(seen.percentile_ms(percent)),
    )  # fmt: skip


def _void(seen: Observed) -> str:
    """Shorter than ``Observed.void``, for a table that would grow long by it."""
    if seen.unsent or seen.lost:
        return "void: a generator was lost"
    return f"void: {seen.late_share:.1%} of the sends too late" if seen.void else ""


def _endings(seen: Observed) -> str:
    """Of the calls that were not answered in time."""
    return ", ".join(f"{n} {code}" for code, n in seen.endings.most_common() if code != "good")


def _tenths(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}"
