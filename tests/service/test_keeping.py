"""What a server's ledger counts, by what it runs on; and that it serves where nothing is told."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from service import hardware, keeping
from service.bill import CORE, GPU
from service.cuda import Gpu
from service.nvml import Card, NvmlFailed, Reading
from service.settings import Settings
from tests.cards import FakeCard

TWO = tuple(Gpu(at, "NVIDIA H200", f"GPU-{at}", 2**37, (9, 0)) for at in (0, 2))
TOLD = Reading(busy=0.5, power_w=100.0, energy_j=7.0)


def told(gpus: Sequence[tuple[int, str]]) -> list[FakeCard]:
    return [FakeCard(TOLD, index, uuid) for index, uuid in gpus]


def silent(gpus: Sequence[tuple[int, str]]) -> list[FakeCard]:
    return [FakeCard(Reading(), index, uuid) for index, uuid in gpus]


def missing(gpus: Sequence[tuple[int, str]]) -> list[Card]:
    raise NvmlFailed("no library")


def test_on_cpus_core_seconds_are_counted_and_nothing_is_watched() -> None:
    book = keeping.book(Settings(), (), missing)
    bill = book.ledger.read()
    assert (bill.unit, bill.cores, bill.drawn_j) == (CORE, hardware.cores(), None)
    assert book.gpus() == ()


def test_on_gpus_their_seconds_and_energy_are_counted_and_no_front_end() -> None:
    book = keeping.book(Settings(price_usd_per_hour=6.0, price_id="two"), TWO, told)
    bill = book.ledger.read()
    assert (bill.unit, bill.cores, bill.of("serving")) == (GPU, 2.0, 0.0)
    assert bill.drawn_j is not None
    assert book.ledger.meter.of(1.0) == 100.0
    assert [(seen.index, seen.uuid) for seen in book.gpus()] == [(0, "GPU-0"), (2, "GPU-2")]
    assert book.ledger.usd(3600.0) == 3.0


def test_gpus_that_tell_no_energy_have_none_in_the_ledger() -> None:
    assert keeping.book(Settings(), TWO, silent).ledger.read().drawn_j is None


def test_missing_library_costs_the_figures_and_one_line_not_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = keeping.book(Settings(), TWO, missing)
    assert (book.gpus(), book.ledger.read().cores) == ((), 2.0)
    assert [record.message for record in caplog.records] == [
        "models run, but there are no figures of the GPUs"
    ]
