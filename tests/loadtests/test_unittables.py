"""What `farthing slo` prints: within 100 columns, and void as void."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
from rich.console import Console

from loadtests.pricing import unittables
from loadtests.profile import Level, Profile
from loadtests.screen import WIDTH
from tests.loadtests.profiles import observed, profile


def printed(made: Profile) -> str:
    console = Console(file=io.StringIO(), width=WIDTH)
    unittables.show(console, made)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= WIDTH for line in text.splitlines())
    return " ".join(text.replace("│", " ").split())


def late() -> Level:
    """At 1,234,567 calls per second, of which a third was sent late."""
    seen = observed(0.01)
    for _ in range(500):
        seen.sent(1.0)
    return Level(1_234_567.8, seen)


def test_the_confirmed_run_is_marked_and_failures_have_their_reasons() -> None:
    confirmed, failed = Level(70.0, observed(0.01)), Level(80.0, observed(0.2))
    short = Level(75.0, observed(0.01, calls=20))
    text = printed(profile(searched=((short, ""), (failed, "1000 of 1000 late"), (confirmed, ""))))
    assert "holds: confirmed" in text
    assert "seems to hold" in text
    assert "1000 of 1000 late" in text


def test_too_few_answers_have_no_percentiles() -> None:
    text = printed(profile(searched=((Level(70.0, observed(0.01, calls=100)), ""),), levels=()))
    assert "70.0 10 100 100 10.0 - seems to hold" in text


def test_void_is_printed_as_void_everywhere() -> None:
    text = printed(profile(searched=((late(), "void: long"),), levels=(late(),)))
    assert text.count("void: 33.3% of the sends too late") == 2
    # The rate, how long, and how many were sent; nothing that a late generator saw.
    assert text.count("1234567.8 10 1000 - - - ") == 2
    assert "10.0" not in text and "100.0" not in text


def test_a_hostile_name_is_printed_as_it_is() -> None:
    made = profile(name="[bold]x[/]")
    assert "[bold]x[/]" in printed(made)


def test_the_verdict_names_rate_dollars_and_what_they_rest_on() -> None:
    said = unittables.verdict(profile(ended="at 72/s 30 of 900 answers took over 100 ms"))
    for part in (
        "Highest rate: 70/s", "p99 <= 100 ms", "at 72/s 30 of 900", "$0.1984 per million",
        "1 of the 4 CPUs of cloud-small", "2026-11-01", "made up", "on demand", "a machine",
        "ms late in 99 of 100 sends", "net version 1, fp32, sha256 " + "ab" * 32,
        "accuracy +0 points over the trained model",
        "showed p99 <= 100 ms at 99 % confidence; that 0.999 are answered was seen (1000 of 1000)",
    ):  # fmt: skip
        assert part in said


def test_how_late_the_generator_was_is_not_said_of_too_few_sends() -> None:
    seen = observed(0.01)
    seen.lag = observed(0.01, calls=100).lag
    said = unittables.verdict(profile(searched=((Level(70.0, seen), ""),)))
    assert "sent too few calls to say how late" in said


def test_a_verdict_on_a_void_run_is_void_and_has_no_figure_of_the_server() -> None:
    seen = late().seen
    said = unittables.verdict(profile(searched=((Level(70.0, seen), ""),)))
    assert said == f"void: {seen.void}"


def test_what_a_million_cost_on_several_machines_says_how_many() -> None:
    made = profile()
    made = dataclasses.replace(made, conditions=dataclasses.replace(made.conditions, replicas=2))
    said = unittables.verdict(made)
    assert "$0.3968 per million good answers: 2 machines, each 1 of the 4 CPUs" in said


@pytest.mark.parametrize(
    ("part", "change", "option"),
    [
        ("subject", {"variant": None}, "--variant"),
        ("subject", {"sha256": None}, "--model-file"),
        ("subject", {"accuracy_change": None}, "--accuracy-change"),
        ("conditions", {"price": None}, "--price"),
        ("conditions", {"hardware": ""}, "--hardware"),
    ],
)
def test_a_void_price_names_the_option_that_mends_it(
    part: str, change: dict[str, Any], option: str
) -> None:
    made = profile()
    made = dataclasses.replace(made, **{part: dataclasses.replace(getattr(made, part), **change)})
    said = unittables.verdict(made)
    assert "Highest rate: 70/s" in said and "void: no dollars without" in said
    assert f"({option})" in said and "$" not in said


def test_no_rate_is_void_with_its_reason() -> None:
    said = unittables.verdict(profile(rate=None, ended="the budget of time was spent"))
    assert said.startswith("void: ") and said.endswith("the budget of time was spent")


def test_what_only_the_generator_bounded_is_said_to_be_a_bound() -> None:
    level = Level(140.0, observed(0.02))
    made = profile(rate=140.0, generator_bound=True, levels=(level,), searched=())
    said = unittables.verdict(made)
    assert "Highest rate: >= 140/s" in said and "at most $0.09921 per million" in said
    assert made.at_slo is level, "a level that held is what the rate rests on"
    exact = unittables.verdict(dataclasses.replace(made, generator_bound=False))
    assert ">=" not in exact.splitlines()[0] and "at most $" not in exact
    assert Profile.from_dict(made.to_dict()).generator_bound


@pytest.mark.parametrize(
    ("change", "late"),
    [
        ({}, False),
        ({"rate": None, "generator_bound": True}, True),
        ({"generator_bound": True}, True),
        ({"rate": late().rate, "searched": ((late(), ""),)}, True),
    ],
)
def test_a_generator_that_was_late_is_told_what_to_do(change: dict[str, Any], late: bool) -> None:
    said = unittables.advice(profile(**change), 8.14, 2)
    assert (
        said.startswith("The generator could not send more on time (load 8.1 on 2 cores)") == late
    )
    assert bool(said) == late


def test_it_is_said_why_there_is_no_bill() -> None:
    why = "a server was restarted while it was measured"
    assert f"no bill of the server's CPU: {why}" in printed(profile(bill=None, unbilled=why))
    assert "no bill" not in printed(profile(bill=None))


def test_dollars_are_those_of_the_rate_without_a_pause_whatever_the_bill_shows_idle() -> None:
    said = unittables.verdict(profile())
    assert "/h, at that rate without a pause" in said and "busy" not in said
