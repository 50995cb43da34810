"""Who waits, who is refused and who runs next, without a clock or a thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.batching import Limits, QueuePolicy
from service.errors import InvalidInput, Overloaded
from service.latency import Latency
from service.scheduler import Entry, Queue


class Left(Entry):
    """One whose caller has gone."""

    @property
    def left(self) -> bool:
        return True


def entry(rows: int = 1, *, priority: int = 0, width: int = 2, kind: type[Entry] = Entry,
          **times: float) -> Entry:  # fmt: skip
    feeds = {"x": np.zeros((rows, width), np.float32)}
    made = kind(feeds, rows, feeds["x"].nbytes, priority, times.pop("arrived", 0.0))
    for name, value in times.items():
        setattr(made, name, value)
    return made


def taking(seconds: float, rows: int = 8) -> Latency:
    """What takes that long for so many rows, with its margin, and less for fewer."""
    latency = Latency(margin=1.0)
    latency.observe(1, seconds / rows)
    latency.observe(rows, seconds)
    return latency


def check(queue: Queue[Entry], one: Entry, *, now: float = 0.0, idle: int = 0) -> None:
    queue.check(one, now=now, idle=idle, busy_until=() if idle else (now,))


def waiting(*entries: Entry, **limits: Any) -> Queue[Entry]:
    given = Limits(**{"max_rows": 8, "max_queue_rows": 100, **limits})
    queue: Queue[Entry] = Queue(given, taking(1.0))
    for one in entries:
        queue.put(one)
    return queue


def test_empty_queue_has_no_run() -> None:
    assert waiting().take(0.0) == ([], [])


@pytest.mark.parametrize(
    ("rows", "idle", "busy_until", "seconds"),
    [
        (0, 1, (), 0.0), (0, 1, (17.0,), 0.0), (0, 0, (13.0,), 3.0), (0, 0, (9.0,), 0.0),
        (7, 0, (13.0,), 3.0), (8, 0, (13.0,), 4.0), (20, 0, (13.0, 11.0), 2.0),
        (20, 1, (13.0,), 1.0),
    ],
)  # fmt: skip
def test_newcomers_wait_is_what_lies_before_him(
    rows: int, idle: int, busy_until: tuple[float, ...], seconds: float
) -> None:
    queue = waiting(*[entry() for _ in range(rows)])
    wait_s = queue.wait(now=10.0, idle=idle, busy_until=busy_until)
    assert wait_s == pytest.approx(seconds)


def test_higher_priority_runs_first_and_equals_in_their_order() -> None:
    low, first, second = entry(priority=3), entry(priority=1), entry(priority=1)
    assert waiting(low, first, second, max_rows=2).take(0.0) == ([first, second], [])


def test_lower_priority_fills_what_the_higher_leaves() -> None:
    low, high = entry(2, priority=2), entry(5, priority=1)
    assert waiting(low, high).take(0.0) == ([high, low], [])


@pytest.mark.parametrize(("asked", "level"), [(0, 2), (1, 1), (3, 3), (4, 2), (2**40, 2)])
def test_priority_out_of_range_is_the_models_default(asked: int, level: int) -> None:
    assert waiting(priority_levels=3, default_priority=2).level(asked) == level


def test_priority_means_nothing_to_a_model_without_levels() -> None:
    assert waiting().level(7) == 0


def test_departed_leave_the_queue_without_a_word() -> None:
    gone, stays = entry(kind=Left), entry()
    queue = waiting(gone, stays)
    assert queue.take(0.0) == ([stays], [])
    assert (queue.rows, queue.nbytes, len(queue)) == (0, 0, 0)


@pytest.mark.parametrize("end", ["deadline", "start_by"])
def test_late_are_told_and_never_run(end: str) -> None:
    late, live = entry(**{end: 5.0}), entry(**{end: 5.1})
    assert waiting(late, live).take(5.0) == ([live], [late])


def test_other_shapes_wait_for_a_run_of_their_own() -> None:
    head, other, mate = entry(width=2), entry(width=3), entry(width=2)
    queue = waiting(head, other, mate)
    assert queue.take(0.0) == ([head, mate], [])
    assert queue.take(0.0) == ([other], [])


def test_model_without_a_batch_runs_one_at_a_time() -> None:
    first, second = entry(), entry()
    queue = waiting(first, second, batched=False, max_rows=1)
    assert [queue.take(0.0)[0], queue.take(0.0)[0]] == [[first], [second]]


def test_removed_from_the_middle_is_counted_no_more() -> None:
    first, middle, last = entry(1), entry(2), entry(4)
    queue = waiting(first, middle, last)
    queue.remove(middle)
    queue.remove(middle)
    assert (queue.rows, queue.nbytes, len(queue)) == (5, 5 * 8, 2)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_queue_rows": 4}, "queue_rows"),
        ({"max_queue_bytes": 4 * 8}, "queue_bytes"),
        ({"default_policy": QueuePolicy(max_requests=2)}, "queue_requests"),
    ],
)
def test_full_queue_refuses_with_what_was_full(limits: dict[str, Any], reason: str) -> None:
    queue = waiting(entry(2), entry(2), **limits)
    with pytest.raises(Overloaded, match="try again later") as refused:
        check(queue, entry(1))
    assert (refused.value.reason, refused.value.retry_after_ms) == (reason, 100)


def test_idle_instance_refuses_nobody() -> None:
    check(waiting(max_queue_rows=1, max_queue_bytes=1), entry(8), idle=1)


def test_each_level_has_its_own_bound() -> None:
    queue = waiting(entry(priority=1), priority_levels=2, default_priority=2,
                    policies={1: QueuePolicy(max_requests=1)})  # fmt: skip
    with pytest.raises(Overloaded, match="1 requests are waiting"):
        check(queue, entry(priority=1))
    check(queue, entry(priority=2))


@pytest.mark.parametrize("idle", [1, 0])
def test_more_rows_than_could_ever_run_and_wait_are_refused(idle: int) -> None:
    with pytest.raises(InvalidInput, match=r"at most 18 .*: send fewer, .*--max-queue-rows"):
        check(waiting(max_queue_rows=10), entry(19), idle=idle)


def test_large_request_is_expected_to_take_all_of_its_runs() -> None:
    queue = waiting()
    busy_until = [0.5]  # then two full runs of a second, and one of half of that
    queue.check(entry(20, deadline=3.1), now=0.0, idle=0, busy_until=busy_until)
    with pytest.raises(Overloaded, match="deadline"):
        queue.check(entry(20, deadline=2.9), now=0.0, idle=0, busy_until=busy_until)


def test_large_request_ends_with_the_last_of_its_runs_wherever_that_is() -> None:
    queue = waiting()
    free = [0.9, 0.9]  # one instance for the full run, another for the row behind it
    queue.check(entry(9, deadline=2.0), now=0.0, idle=0, busy_until=free)
    with pytest.raises(Overloaded, match="deadline"):
        queue.check(entry(9, deadline=1.5), now=0.0, idle=0, busy_until=free)


def test_many_lost_heads_are_told_in_one_go() -> None:
    lost = [entry(deadline=0.1, width=n) for n in range(1, 2000)]
    saved = entry(deadline=9.0)
    queue = waiting(*lost, saved, max_queue_rows=10_000)
    assert queue.take(0.05) == ([saved], lost)


def test_earliest_deadline_runs_first() -> None:
    late, soon, never = entry(deadline=9.0), entry(deadline=8.0), entry()
    assert waiting(never, late, soon, max_rows=2).take(0.0)[0] == [never, soon]


def test_request_without_a_deadline_goes_behind_those_in_a_hurry_and_does_not_starve() -> None:
    patient = entry(arrived=0.0)
    hurried = [entry(arrived=0.1 * n, deadline=0.1 * n + 0.5) for n in range(1, 20)]
    order = list(waiting(patient, *hurried))
    assert order[0] is hurried[0]
    assert 0 < order.index(patient) < len(order) - 1


@pytest.mark.parametrize(("deadline", "refused"), [(1.1, True), (1.3, False)])
def test_request_that_would_be_answered_too_late_is_refused(deadline: float, refused: bool) -> None:
    queue = waiting(entry(8, deadline=1.05))  # a run of its own, of a second
    newcomer = entry(1, deadline=deadline)  # another, of an eighth
    if not refused:
        check(queue, newcomer)
        return
    with pytest.raises(Overloaded) as told:
        check(queue, newcomer)
    # Done after 1.127 s, with the way back: so long after its arrival there would be time enough.
    assert (told.value.reason, told.value.retry_after_ms) == ("queue_time", 27)


def test_instances_take_turns_in_the_estimate() -> None:
    queue = waiting(entry(8, deadline=1.05))
    newcomer = entry(8, deadline=1.2)
    queue.check(newcomer, now=0.0, idle=0, busy_until=(0.0, 0.1))
    with pytest.raises(Overloaded):
        queue.check(newcomer, now=0.0, idle=0, busy_until=(0.0, 0.3))


def test_only_what_is_due_earlier_is_waited_for() -> None:
    queue = waiting(*(entry(8, deadline=5.0 + n) for n in range(4)))
    check(queue, entry(8, deadline=1.1))


def test_idle_instance_runs_what_the_estimate_gives_no_chance() -> None:
    hopeless = entry(deadline=0.01)
    queue = waiting()
    queue.check(hopeless, now=0.0, idle=1, busy_until=(99.0,))
    queue.put(hopeless)
    assert queue.take(0.0) == ([hopeless], [])


def test_head_that_cannot_be_saved_is_dropped_and_the_batch_stays_whole() -> None:
    lost = entry(deadline=0.9)
    others = [entry(deadline=2.0 + n) for n in range(8)]
    assert waiting(lost, *others).take(0.0) == (others, [lost])
