"""One book of what was done: exact to the nanosecond, and what Triton's clients compute with."""

from __future__ import annotations

import asyncio
from threading import Thread

import pytest

from service import statistics
from service.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidInput,
    Overloaded,
    ServingError,
)
from service.figures import Figures
from service.phases import Phases
from service.proto import inference_pb2 as pb
from service.statistics import Book, Tally
from tests.fakes import ManualClock

LABELS = ("digits", "1", "fp32")
TODAY_MS = 1_790_000_000_123
ONE = Phases(
    decode_s=0.001, queued_s=0.002, assembly_s=0.003, run_s=0.004, encode_s=0.005, whole_s=0.016,
    rows=2, batch_rows=8,
)  # fmt: skip


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tally(clock: ManualClock) -> Tally:
    return Tally(clock, lambda: TODAY_MS)


def answer(tally: Tally) -> pb.ModelStatistics:
    return statistics.to_proto("digits", "1", tally.figures())


def test_answered_request_is_counted_once_with_the_time_of_each_phase(tally: Tally) -> None:
    tally.succeeded(ONE)
    stats = answer(tally).inference_stats
    assert (stats.success.count, stats.success.ns) == (1, 16_000_000)
    assert (stats.queue.count, stats.queue.ns) == (1, 2_000_000)
    assert (stats.compute_input.count, stats.compute_input.ns) == (1, 4_000_000)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (1, 4_000_000)
    assert (stats.compute_output.count, stats.compute_output.ns) == (1, 5_000_000)
    assert (stats.fail.count, stats.fail.ns) == (0, 0)
    assert tally.figures().rows == 2


def test_parts_never_exceed_the_whole_since_clients_subtract_them(tally: Tally) -> None:
    tally.succeeded(Phases(0.3, 0.1, 0.1, 0.1, 0.1, whole_s=0.2, rows=1, batch_rows=1))
    stats = answer(tally).inference_stats
    parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
    assert stats.success.ns == sum(part.ns for part in parts) > 0


def test_clock_that_went_backwards_is_counted_as_no_time(tally: Tally) -> None:
    tally.succeeded(Phases(-0.1, -0.1, -0.1, -0.1, -0.1, whole_s=-0.1, rows=1, batch_rows=1))
    tally.failed("INTERNAL", "internal", -0.1)
    stats = answer(tally).inference_stats
    assert (stats.success.count, stats.success.ns, stats.fail.ns) == (1, 0, 0)


def test_rows_per_run_is_the_ratio_of_inferences_to_executions(tally: Tally) -> None:
    tally.executed(8, 0.001, 0.002)
    tally.executed(4, 0.001, 0.002)
    stats = answer(tally)
    assert (stats.inference_count, stats.execution_count) == (12, 2)


def test_run_whose_callers_had_left_is_counted_too(tally: Tally) -> None:
    tally.executed(3, 0.0, 0.5)
    stats = answer(tally)
    assert (stats.inference_count, stats.inference_stats.success.count) == (3, 0)
    assert tally.figures().busy_s == 0.5


def test_batch_sizes_are_told_apart_smallest_first(tally: Tally) -> None:
    for rows in (8, 1, 8):
        tally.executed(rows, 0.001, 0.002)
    tally.succeeded(ONE)
    one, eight = answer(tally).batch_stats
    assert (one.batch_size, one.compute_infer.count, one.compute_infer.ns) == (1, 1, 2_000_000)
    assert (eight.batch_size, eight.compute_infer.count, eight.compute_infer.ns) == (
        8,
        2,
        4_000_000,
    )
    assert (eight.compute_input.count, eight.compute_input.ns) == (2, 2_000_000)
    # Encoding is each request's own; its time belongs to the size of the run that it shared.
    assert (eight.compute_output.count, eight.compute_output.ns) == (2, 5_000_000)


def test_failures_are_told_apart_by_status_and_reason(tally: Tally) -> None:
    tally.failed("UNAVAILABLE", "draining", 0.001)
    tally.failed("UNAVAILABLE", "model_not_ready", 0.002)
    tally.failed("UNAVAILABLE", "draining", 0.003)
    failures = tally.figures().failures
    assert failures["UNAVAILABLE", "draining"].count == 2
    assert failures["UNAVAILABLE", "model_not_ready"].ns == 2_000_000
    assert answer(tally).inference_stats.fail == pb.StatisticDuration(count=3, ns=6_000_000)


@pytest.mark.parametrize("kind", ["answered", "failed"])
def test_last_inference_is_remembered_in_milliseconds(tally: Tally, kind: str) -> None:
    assert answer(tally).last_inference == 0
    if kind == "answered":
        tally.succeeded(ONE)
    else:
        tally.failed("INTERNAL", "internal", 0.1)
    assert answer(tally).last_inference == TODAY_MS


def test_epoch_is_the_present() -> None:
    assert 1_700_000_000_000 < statistics.epoch_ms() < 10_000_000_000_000


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidInput("bad"), ("INVALID_ARGUMENT", "invalid_input")),
        (Overloaded("full", retry_after_ms=1), ("RESOURCE_EXHAUSTED", "overloaded")),
        (
            Overloaded("full", retry_after_ms=1, reason="queue_rows"),
            ("RESOURCE_EXHAUSTED", "queue_rows"),
        ),
        (DeadlineExceeded("late"), ("DEADLINE_EXCEEDED", "deadline_exceeded")),
        (Draining("going"), ("UNAVAILABLE", "draining")),
        (InferenceFailed("broken"), ("INTERNAL", "inference_failed")),
        (RuntimeError("a bug with /a/path in it"), ("INTERNAL", "internal")),
        (asyncio.CancelledError(), ("CANCELLED", "cancelled")),
    ],
)
def test_error_has_a_status_and_a_reason(error: BaseException, expected: tuple[str, str]) -> None:
    assert statistics.ending(error) == expected


def test_no_two_kinds_of_error_share_status_and_reason() -> None:
    kinds = [kind for kind in ServingError.__subclasses__() if kind.__module__ == "service.errors"]
    assert len(kinds) > 8
    assert len({statistics.ending(kind.__new__(kind)) for kind in kinds}) == len(kinds)


def test_busy_ratio_is_of_the_last_ten_full_seconds(tally: Tally, clock: ManualClock) -> None:
    clock.advance(5)
    tally.executed(1, 0.5, 2.0)
    assert tally.busy_ratio(1) == pytest.approx(0.25)
    assert tally.busy_ratio(5) == pytest.approx(0.05)
    clock.advance(9.5)
    assert tally.busy_ratio(1) == pytest.approx(0.1), "what lies further back is forgotten"
    clock.advance(60)
    assert tally.busy_ratio(1) == 0


def test_busy_ratio_does_not_depend_on_who_reads_it(tally: Tally, clock: ManualClock) -> None:
    for _ in range(200):
        clock.advance(0.1)
        tally.executed(1, 0.0, 0.05)
        tally.busy_ratio(1)
    assert tally.busy_ratio(1) == tally.busy_ratio(1) == pytest.approx(0.5)


def test_run_that_took_longer_than_the_window_fills_it(tally: Tally, clock: ManualClock) -> None:
    clock.advance(100)
    tally.executed(1, 0.0, 40.0)
    assert tally.busy_ratio(1) == pytest.approx(1.0)
    tally.executed(1, 0.0, 40.0)
    assert tally.busy_ratio(1) == 1.0, "never more than all of the time"
    assert tally.figures().busy_s == 80.0


def test_figures_are_a_copy(tally: Tally) -> None:
    tally.executed(1, 0.1, 0.1)
    tally.failed("INTERNAL", "internal", 0.1)
    before = tally.figures()
    tally.executed(1, 0.1, 0.1)
    tally.succeeded(ONE)
    tally.failed("INTERNAL", "internal", 0.1)
    assert (before.execution_count, before.success.count, before.fail.count) == (1, 0, 1)
    assert (before.batches[1].infer.count, 8 in before.batches) == (1, False)


def test_figures_add_up() -> None:
    one, two = Tally(today_ms=lambda: 5), Tally(today_ms=lambda: 3)
    for tally in (one, two):
        tally.executed(8, 0.001, 0.002)
        tally.succeeded(ONE)
        tally.failed("INTERNAL", "internal", 0.001)
    two.executed(2, 0.0, 0.5)
    both = one.figures() + two.figures()
    assert (both.success.count, both.success.ns, both.fail.count) == (2, 32_000_000, 2)
    assert (both.rows, both.inference_count, both.execution_count) == (4, 18, 3)
    assert {rows: size.infer.count for rows, size in both.batches.items()} == {8: 2, 2: 1}
    assert (both.last_inference_ms, both.busy_s) == (5, pytest.approx(0.506))
    assert both.compute.output.ns == 10_000_000
    assert one.figures() + Figures() == one.figures()


def test_model_that_is_loaded_again_goes_on_with_its_tally() -> None:
    book = Book()
    book.tally(LABELS).executed(1, 0.0, 0.1)
    book.tally(LABELS).executed(1, 0.0, 0.1)
    assert book.tally(LABELS) is book.tally(LABELS)
    assert book.figures()[LABELS].execution_count == 2


def test_version_is_the_sum_of_the_variants_it_was_served_in() -> None:
    book = Book()
    book.tally(LABELS).succeeded(ONE)
    book.tally(("digits", "1", "int8")).succeeded(ONE)
    book.tally(("digits", "2", "int8")).succeeded(ONE)
    totals = statistics.by_version(book.figures())
    assert {labels: total.success.count for labels, total in totals.items()} == {
        ("digits", "1"): 2, ("digits", "2"): 1,
    }  # fmt: skip


def test_nothing_done_yet_is_an_answer_too() -> None:
    stats = statistics.to_proto("digits", "3", Figures())
    assert (stats.name, stats.version, stats.inference_count) == ("digits", "3", 0)
    assert stats.inference_stats.HasField("success") and not stats.batch_stats


def test_reader_on_another_thread_never_sees_half_a_request(tally: Tally) -> None:
    seen: list[Figures] = []

    def read() -> None:
        for _ in range(300):
            seen.append(tally.figures())

    reader = Thread(target=read)
    reader.start()
    for rows in range(1, 2000):
        tally.succeeded(Phases(0.0, 0.001, 0.0, 0.0, 0.0, 0.001, rows=1, batch_rows=rows))
    reader.join()
    assert all(
        figures.success.count
        == figures.queue.count
        == figures.rows
        == sum(figures.seconds["request"].counts)
        and figures.success.ns == figures.queue.ns
        for figures in seen
    )
