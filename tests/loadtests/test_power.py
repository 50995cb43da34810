"""Which stretch of a load its energy is taken from."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from loadtests.energy import Card
from loadtests.pricing.power import Look, Meanwhile, drawn
from loadtests.pricing.scrape import Scrape
from service.errors import InvalidSetting


def looks(idle: int, loaded: int, after: int = 2) -> list[Look]:
    """A second each: 20 W without answers, and 100 W with 50 of them a second."""
    energy_j, answers, found = 0.0, 0, list[Look]()
    for second in range(idle + loaded + after):
        busy = idle <= second < idle + loaded
        energy_j += 100.0 if busy else 20.0
        answers += 50 if busy else 0
        card = Card("NVIDIA T4", float(second), float(answers > 0), energy_j, counted=True)
        phases = {"request": (1.0, float(answers))} if answers else {}
        found.append((1000.0 + second, Scrape(phases=phases, gpus={"a": card})))
    return found


@pytest.mark.parametrize("warmup_s", [0.0, 3.0])
def test_start_and_end_of_the_generator_and_its_warm_up_are_left_out(warmup_s: float) -> None:
    found = drawn(looks(idle=4, loaded=20), warmup_s)
    assert found is not None
    assert (found.watts, found.calls_per_s, found.idle_watts) == (100.0, 50.0, None)
    assert found.joules_per_1000 == pytest.approx(2000.0)
    assert found.seconds == 18.0 - warmup_s


@pytest.mark.parametrize(
    "seen", [[], looks(5, 0), looks(3, 11), looks(3, 1)], ids=["none", "idle", "brief", "a second"]
)
def test_less_than_ten_seconds_of_answers_says_nothing(seen: list[Look]) -> None:
    assert drawn(seen, 0.0) is None


def test_server_that_began_anew_says_nothing() -> None:
    seen = [
        (at, replace(scrape, starts=(1.0 if at < 1010.0 else 500.0,)))
        for at, scrape in looks(2, 20)
    ]
    assert drawn(seen, 0.0) is None


def test_it_looks_while_the_load_lasts() -> None:
    often, told = threading.Event(), looks(1, 1)[0][1]

    def scraped() -> Scrape:
        if meanwhile:
            often.set()
        return told

    meanwhile: list[Meanwhile] = []
    meanwhile.append(Meanwhile(scraped))
    with meanwhile[0]:
        assert often.wait(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "scraping"]


def test_server_without_energy_is_asked_once_and_one_that_is_silent_is_told_of_at_once() -> None:
    with Meanwhile(Scrape) as meanwhile:
        assert not [thread for thread in threading.enumerate() if thread.name == "scraping"]
    assert len(meanwhile.looks) == 1

    def silent() -> Scrape:
        raise InvalidSetting("it does not answer with metrics")

    with pytest.raises(InvalidSetting):
        Meanwhile(silent)
