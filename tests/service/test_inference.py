"""What a call whose caller left is counted as, which only the time that it had can tell."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from service.inference import Inference
from service.parameters import Limits
from tests.fakes import ManualClock
from tests.service.followed import row
from tests.service.scraped import LABELS, Server


def leave(server: Server, *, given_s: float | None, left_s: float) -> None:
    """One call whose caller had so much time, and left after so much."""

    def left(*_: Any) -> None:
        clock.advance(left_s)
        raise asyncio.CancelledError

    clock = ManualClock()
    model = SimpleNamespace(
        tally=server.book.tally(LABELS), labels=LABELS, target_s=None,
        manifest=SimpleNamespace(name=LABELS[0], batched=True),
        batcher=SimpleNamespace(expect=left),
    )  # fmt: skip
    repository: Any = SimpleNamespace(model=lambda name, version: model)
    inference = Inference(repository, server.metrics, limits=Limits(64, 256, 2**20), clock=clock)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(inference(row(), given_s))


@pytest.mark.parametrize(
    ("given_s", "left_s", "reason"),
    [
        (None, 100.0, "cancelled"),
        (10.0, 8.9, "cancelled"),
        (10.0, 9.1, "deadline_exceeded"),
        # gRPC's clocks differ by milliseconds, whatever the deadline is
        (0.05, 0.0405, "cancelled"),
        (0.05, 0.0455, "deadline_exceeded"),
        (0.02, 0.0145, "cancelled"),
        (0.02, 0.0155, "deadline_exceeded"),
        # of a deadline that is no longer than that, half
        (0.005, 0.0, "cancelled"),
        (0.005, 0.0024, "cancelled"),
        (0.005, 0.0026, "deadline_exceeded"),
        (0.0, 0.0, "deadline_exceeded"),
        (-0.001, 0.0, "deadline_exceeded"),
    ],
)
def test_a_caller_whose_time_was_up_has_not_cancelled_and_one_who_left_before_has(
    server: Server, given_s: float | None, left_s: float, reason: str
) -> None:
    leave(server, given_s=given_s, left_s=left_s)
    status = {"cancelled": "CANCELLED", "deadline_exceeded": "DEADLINE_EXCEEDED"}[reason]
    assert server.value("farthing_requests_total", status=status, reason=reason) == 1
    good = server.value("farthing_goodput_requests_total", good="false")
    assert good == (reason == "deadline_exceeded")
