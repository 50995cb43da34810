"""One generator of calls as a process of its own: a GPU outruns what one interpreter can send."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests import openloop
from loadtests.bench import generator
from loadtests.observed import Observed


@dataclass(frozen=True)
class Order:
    """What one generator is to send.

    Attributes:
        target: ``host:port``.
        message: file of one encoded request.
        seconds: how long.
        callers: each with one call at a time; 0 for an open loop.
        rate: calls per second of an open loop.
        deadline_s: of each call.
        begin_at: when, by ``time.monotonic``, which all processes of a machine share.
        warm_s: seconds of the same callers before, which do not count.
        seed: of the schedule.
    """

    target: str
    message: str
    seconds: float
    callers: int = 0
    rate: float = 0.0
    deadline_s: float = 60.0
    begin_at: float = 0.0
    warm_s: float = 0.0
    seed: int = 1

    def to_text(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))


def sent(order: Order) -> Observed:
    """Send what was ordered, from its moment on, and tell how it ended."""
    message = Path(order.message).read_bytes()
    time.sleep(max(0.0, order.begin_at - time.monotonic()))
    if not order.callers:
        stream = generator.stream(
            order.target, message, order.rate,
            seconds=order.seconds, deadline_s=order.deadline_s, seed=order.seed,
        )  # fmt: skip
        return openloop.run(stream)
    seen = Observed(0.0)
    for seconds in (order.warm_s, order.seconds):
        if seconds:
            seen = generator.closed(
                order.target, message, callers=order.callers, seconds=seconds,
                deadline_s=order.deadline_s,
            )  # fmt: skip
    return seen


if __name__ == "__main__":
    print(json.dumps(sent(Order(**json.loads(sys.argv[1]))).counted()))
