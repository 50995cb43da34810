"""What comes together of GPUs' figures, by a clock of the test's own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import pytest

from service.gpuwatch import Watch
from service.nvml import Reading
from tests.cards import FakeCard
from tests.fakes import ManualClock

COUNTING = Reading(busy=0.5, power_w=200.0, energy_j=1000.0)


def test_energy_is_the_cards_own_counter_since_the_first_look() -> None:
    clock, card = ManualClock(), FakeCard(COUNTING)
    watch = Watch([card], clock)
    clock.advance(2.0)
    card.now = replace(COUNTING, energy_j=1400.0)
    watch.look()
    (seen,) = watch.seen()
    assert (seen.energy_j, seen.counted, seen.seconds, watch.joules()) == (400.0, True, 2.0, 400.0)


def test_counter_that_begins_anew_takes_nothing_back() -> None:
    clock, card = ManualClock(), FakeCard(COUNTING)
    watch = Watch([card], clock)
    for energy_j in (1400.0, 5.0, 25.0):
        clock.advance(1.0)
        card.now = replace(COUNTING, energy_j=energy_j)
        watch.look()
    assert watch.joules() == 420.0


def test_power_is_integrated_where_there_is_no_counter_and_that_is_said() -> None:
    clock, card = ManualClock(), FakeCard(Reading(power_w=100.0))
    watch = Watch([card], clock)
    clock.advance(2.0)
    card.now = Reading(power_w=300.0)
    watch.look()
    (seen,) = watch.seen()
    assert (seen.energy_j, seen.counted) == (400.0, False)
    assert watch.tells_energy


def test_busy_time_is_the_share_of_the_time_that_passed() -> None:
    clock, card = ManualClock(), FakeCard(COUNTING)
    watch = Watch([card], clock)
    for busy in (0.25, 1.0):
        clock.advance(2.0)
        card.now = replace(COUNTING, busy=busy)
        watch.look()
    (seen,) = watch.seen()
    assert (seen.busy_s, seen.seconds) == (2.5, 4.0)


def test_power_of_several_is_their_sum_or_not_told() -> None:
    other = FakeCard(Reading(power_w=50.0), index=1, uuid="GPU-1")
    watch = Watch([FakeCard(COUNTING), other])
    assert watch.watts() == 250.0
    other.now = Reading()
    watch.look()
    assert watch.watts() is None


def test_nothing_is_told_without_gpus_or_of_one_that_tells_nothing() -> None:
    none, silent = Watch(), Watch([FakeCard(Reading())])
    assert (none.seen(), none.watts(), none.joules(), none.tells_energy) == ((), None, 0.0, False)
    (seen,) = silent.seen()
    assert (seen.busy_s, seen.energy_j, silent.tells_energy) == (None, None, False)


def test_each_missing_figure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "farthing")
    card = FakeCard(COUNTING)
    watch = Watch([card])
    watch.look()
    card.now = replace(COUNTING, busy=None)
    watch.look()
    card.now = COUNTING
    watch.look()
    card.now = replace(COUNTING, busy=None)
    watch.look()
    told = [record.fields["figures"] for record in caplog.records]  # type: ignore[attr-defined]
    assert len(told) == 2
    assert "celsius" in told[0]
    assert told[1] == ["busy"]


def test_thread_looks_until_it_is_stopped() -> None:
    looked = threading.Event()

    class Looked(FakeCard):
        def read(self) -> Reading:
            if self.looks:
                looked.set()
            return super().read()

    before = watching()  # other tests' servers watch too
    watch = Watch([Looked(COUNTING)])
    watch.start()
    assert looked.wait(20)
    watch.stop()
    assert watching() <= before


def watching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "gpu-watch"}


@dataclass
class Broken(FakeCard):
    """Cannot be looked at while ``broken``."""

    broken: bool = True

    def read(self) -> Reading:
        if self.broken:
            raise AttributeError("no such function")
        return super().read()


def test_card_that_cannot_be_looked_at_is_said_once_and_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    odd, good = Broken(COUNTING), FakeCard(COUNTING, index=1, uuid="GPU-1")
    watch = Watch([odd, good], clock)
    for energy_j in (1100.0, 1200.0):
        clock.advance(1.0)
        good.now = replace(COUNTING, energy_j=energy_j)
        watch.look()
    assert [seen.energy_j for seen in watch.seen()] == [None, 200.0]
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["a GPU could not be looked at"]


def test_look_that_failed_is_made_up_for_by_the_next() -> None:
    clock = ManualClock()
    card = Broken(COUNTING, broken=False)
    watch = Watch([card], clock)
    clock.advance(1.0)
    card.broken = True
    watch.look()
    clock.advance(1.0)
    card.broken, card.now = False, replace(COUNTING, energy_j=1500.0)
    watch.look()
    (seen,) = watch.seen()
    assert (seen.energy_j, seen.seconds) == (500.0, 2.0)


def test_thread_outlives_a_look_that_fails() -> None:
    again = threading.Event()

    class Failing(FakeCard):
        def read(self) -> Reading:
            self.looks += 1
            if self.looks > 3:
                again.set()
            raise TypeError("None")

    watch = Watch([Failing(COUNTING)])
    watch.start()
    assert again.wait(20)
    watch.stop()
