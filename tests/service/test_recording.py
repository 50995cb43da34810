"""While one thread records, nobody else calls CUDA; and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from service.recording import Gate

PATIENCE_S = 20


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


class Inside:
    """A thread within the gate until it is let out."""

    def __init__(
        self, threads: ThreadPoolExecutor, way: AbstractContextManager[None], told: list[str]
    ) -> None:
        self.entered, self._out = threading.Event(), threading.Event()
        self._way, self._told = way, told
        self.over = threads.submit(self._be)

    def _be(self) -> None:
        with self._way:
            self.entered.set()
            self._told.append("in")
            assert self._out.wait(PATIENCE_S)
            self._told.append("out")

    def leave(self) -> None:
        self._out.set()
        self.over.result(PATIENCE_S)


def test_many_call_at_the_same_time(threads: ThreadPoolExecutor) -> None:
    gate = Gate()
    inside = [Inside(threads, gate.calling(), []) for _ in range(3)]
    assert all(one.entered.wait(PATIENCE_S) for one in inside)
    for one in inside:
        one.leave()


@pytest.mark.parametrize("second", ["calling", "recording"])
def test_while_one_records_others_wait_until_it_is_over(
    threads: ThreadPoolExecutor, second: str
) -> None:
    gate, told = Gate(), list[str]()
    first = Inside(threads, gate.recording(), told)
    assert first.entered.wait(PATIENCE_S)
    other = Inside(threads, getattr(gate, second)(), told)
    assert not other.entered.wait(0.05)
    first.leave()
    assert other.entered.wait(PATIENCE_S)
    assert told == ["in", "out", "in"]
    other.leave()


def test_a_recording_waits_for_those_who_call_and_comes_before_those_who_come_later(
    threads: ThreadPoolExecutor,
) -> None:
    gate, told = Gate(), list[str]()
    caller = Inside(threads, gate.calling(), told)
    assert caller.entered.wait(PATIENCE_S)
    records = Inside(threads, gate.recording(), told)
    assert not records.entered.wait(0.05)
    late = Inside(threads, gate.calling(), told)
    assert not late.entered.wait(0.05)
    caller.leave()
    assert records.entered.wait(PATIENCE_S) and not late.entered.is_set()
    records.leave()
    assert late.entered.wait(PATIENCE_S)
    late.leave()


def test_who_is_inside_may_call_again_even_if_another_wants_to_record(
    threads: ThreadPoolExecutor,
) -> None:
    gate = Gate()
    with gate.calling():
        records = Inside(threads, gate.recording(), [])
        assert not records.entered.wait(0.05)
        with gate.calling():
            pass
        assert not records.entered.is_set()
    assert records.entered.wait(PATIENCE_S)
    records.leave()
    with gate.recording(), gate.calling():
        pass


def test_who_calls_may_not_record(threads: ThreadPoolExecutor) -> None:
    gate = Gate()
    with gate.calling(), pytest.raises(RuntimeError, match="wait for itself"), gate.recording():
        pass
    assert threads.submit(lambda: gate.recording().__enter__()).result(PATIENCE_S) is None


@pytest.mark.parametrize("way", ["calling", "recording"])
def test_what_fails_inside_leaves(threads: ThreadPoolExecutor, way: str) -> None:
    gate = Gate()
    with pytest.raises(KeyError), getattr(gate, way)():
        raise KeyError
    recorded = Inside(threads, gate.recording(), [])
    assert recorded.entered.wait(PATIENCE_S)
    recorded.leave()
