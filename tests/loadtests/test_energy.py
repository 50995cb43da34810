"""What answers draw, and when nothing may be said of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from loadtests import energy, profile
from loadtests.energy import Card, Drawn
from loadtests.observed import Observed
from loadtests.pricing import drawing
from loadtests.pricing.scrape import Scrape
from loadtests.reports import changes, report, wording
from loadtests.reports.figures import Study, figures
from loadtests.reports.resampling import Resampler
from tests.loadtests import profiles
from tests.loadtests.profiles import observed

CARD = Card("NVIDIA T4", 100.0, 10.0, 5000.0, counted=True)
DRAWN = Drawn(("NVIDIA T4",), 50.0, 20.0, 1000, 60.0, idle_watts=20.0, busy=0.5, counted=True)


def later(card: Card = CARD, **more: float) -> Card:
    """The same, when so much has come together since."""
    return replace(card, **{name: getattr(card, name) + value for name, value in more.items()})


def test_power_is_energy_over_the_time_that_the_server_looked() -> None:
    found = energy.power({"a": CARD}, {"a": later(seconds=20.0, busy_s=5.0, energy_j=1200.0)})
    assert found == energy.Power(60.0, 0.25)


def test_power_of_several_cards_is_their_sum_and_their_busy_share_the_mean() -> None:
    found = energy.power(
        {"a": CARD, "b": CARD},
        {
            "a": later(seconds=20.0, busy_s=20.0, energy_j=1200.0),
            "b": later(seconds=10.0, busy_s=0.0, energy_j=100.0),
        },
    )
    assert found == energy.Power(70.0, 0.5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({}, {"a": CARD}),
        ({"a": CARD}, {"a": later(seconds=8.9, energy_j=5.0)}),
        ({"a": CARD}, {"a": later(seconds=20.0, energy_j=-5.0)}),
        ({"a": CARD}, {"a": replace(later(seconds=20.0), energy_j=None)}),
        ({"a": replace(CARD, energy_j=None)}, {"a": later(seconds=20.0)}),
    ],
    ids=["no card", "new", "too brief", "fell", "untold now", "untold then"],
)
def test_power_is_not_told_of_less(before: energy.Cards, after: energy.Cards) -> None:
    assert energy.power(before, after) is None


def test_busy_share_is_not_told_where_a_card_does_not() -> None:
    silent = replace(CARD, busy_s=None)
    found = energy.power({"a": silent}, {"a": later(silent, seconds=20.0, energy_j=400.0)})
    assert found == energy.Power(20.0, None)


def test_a_thousand_answers_take_their_share_of_all_and_of_what_is_above_idling() -> None:
    assert DRAWN.joules_per_1000 == pytest.approx(1200.0)
    assert DRAWN.net_joules_per_1000 == pytest.approx(800.0)
    assert DRAWN.said == (
        "1.2e+03 J per 1,000 answers, 800 J of them above idling, at 50 calls/s: 60 W (20 W "
        "without calls) of NVIDIA T4, busy 50 % of the time, by the cards' own counters"
    )


@pytest.mark.parametrize("change", [{"seconds": 9.9}, {"answers": 0}])
def test_less_than_ten_seconds_or_no_answer_is_not_measured(change: dict[str, int]) -> None:
    short = replace(DRAWN, **change)
    assert (short.joules_per_1000, short.net_joules_per_1000) == (None, None)
    assert short.said.startswith("not measured")


def test_without_idling_only_the_whole_is_told() -> None:
    whole = replace(DRAWN, idle_watts=None, busy=None, counted=False)
    assert whole.net_joules_per_1000 is None
    assert whole.said == (
        "1.2e+03 J per 1,000 answers, at 50 calls/s: 60 W of NVIDIA T4, by samples of their power"
    )


@dataclass
class FakeRig:
    """A card that draws 20 W, and 100 W while it has calls; time passes when it is told to."""

    card: Card = CARD
    now: float = 0.0
    settled: int = 0
    runs: list[float] = field(default_factory=list)

    def passes(self, seconds: float, watts: float = 20.0, busy: float = 0.0) -> None:
        self.now += seconds
        if self.card.energy_j is not None:
            self.card = later(
                self.card, seconds=seconds, busy_s=busy * seconds, energy_j=watts * seconds
            )

    def scraped(self) -> Scrape:
        return Scrape(gpus={"a": self.card})

    def run(
        self, rate: float, seconds: float, *, number: int, watch: Callable[[Observed], None]
    ) -> Observed:
        self.runs.append(rate)
        self.passes(seconds, 100.0, 0.75)
        return observed(0.01, calls=int(rate * seconds))

    def settle(self, most_s: float) -> None:
        self.settled += 1


def test_power_with_and_without_calls_is_measured_at_the_rate() -> None:
    rig, told = FakeRig(), list[str]()
    found = drawing.at(50.0, rig, told.append, rest=rig.passes, clock=lambda: rig.now)
    assert found is not None
    assert (found.watts, found.idle_watts, found.busy) == (100.0, 20.0, 0.75)
    assert found.joules_per_1000 == pytest.approx(2000.0)
    assert (rig.settled, rig.runs) == (1, [50.0])
    assert [text[:16] for text in told] == ["the GPUs without", "the GPUs at 50/s"]


def test_server_that_tells_no_energy_is_not_held_up() -> None:
    rig = FakeRig(replace(CARD, energy_j=None))
    assert drawing.at(50.0, rig, lambda _: None, rest=rig.passes, clock=lambda: rig.now) is None
    assert (rig.now, rig.runs) == (0.0, [])


def test_profile_keeps_it_and_one_of_before_is_still_read(tmp_path: Path) -> None:
    made = profiles.profile(energy=DRAWN, bill_unit="gpu")
    profile.write(made, tmp_path / "p.json")
    assert profile.read(tmp_path / "p.json") == made
    raw = json.loads((tmp_path / "p.json").read_text())
    assert raw["energy"]["net_joules_per_1000"] == pytest.approx(800.0)
    for new in ("energy", "bill_unit"):
        del raw[new]
    del raw["conditions"]["gpus"]
    (tmp_path / "old.json").write_text(json.dumps(raw))
    assert profile.read(tmp_path / "old.json") == profiles.profile()


def test_report_tells_it_and_says_where_it_was_not_measured(tmp_path: Path) -> None:
    both = [profiles.profile("cpu"), profiles.profile("gpu", energy=DRAWN)]
    found = figures(Study(both))
    cpu, gpu = found["tables"]["variants"]
    assert (cpu["joules_per_1000"], cpu["gpu_busy"]) == (None, None)
    assert (gpu["joules_per_1000"], gpu["gpu_busy"]) == (pytest.approx(1200.0), 0.5)
    said = {one.of: one.said for one in wording.conditions(both) if one.what == "Energy"}
    assert said == {
        ("cpu",): "not measured: the server tells of no GPU's", ("gpu",): DRAWN.said,
    }  # fmt: skip
    written = report.write(both, tmp_path)
    assert "800 J of them above idling" in written.page.read_text(encoding="utf-8")
    assert "net_joules_per_1000,800" in written.sheet.read_text(encoding="utf-8")


def test_bill_of_gpus_is_of_their_seconds_and_of_the_whole_price() -> None:
    made = profiles.profile(
        price=profiles.price(accelerator="T4", accelerators=1, usd_per_hour=3.6), cpus=4.0,
        bill={"busy": 30.0, "idle": 70.0}, bill_unit="gpu", paid_core_s=100.0, span_s=100.0,
    )  # fmt: skip
    lines = {one["line"]: one for one in figures(Study([made]))["tables"]["bill"]}
    assert set(lines) == {"busy", "idle"}, "no CPU is missing from a ledger of GPUs"
    assert (lines["busy"]["share"], lines["busy"]["usd"]) == (0.3, pytest.approx(0.03))


def test_comparison_tells_it_where_both_have_it_and_fails_nobody_by_it() -> None:
    one = profiles.profile(energy=DRAWN)
    other = profiles.profile(energy=replace(DRAWN, watts=90.0))
    (change,) = [
        each for each in changes.of((one, other), Resampler(3)) if each.figure.startswith("J ")
    ]
    assert (change.verdict, change.said) == (changes.WORSE, "+50.0 %")
    assert not change.is_regression(0.05)
    without = changes.of((one, profiles.profile()), Resampler(3))
    assert not [each for each in without if each.figure.startswith("J ")]


def test_machine_is_named_by_its_gpus_first() -> None:
    two = {"a": CARD, "b": CARD}
    assert energy.hardware("x86_64, Xeon", two) == "2 x NVIDIA T4, x86_64, Xeon"
    assert energy.hardware("x86_64, Xeon", {}) == "x86_64, Xeon"
