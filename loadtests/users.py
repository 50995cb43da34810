"""The Locust file: users that call a v2 server over a real gRPC channel, closed or open loop.

Always a process of its own: importing locust patches the whole process, and every gRPC server or
asyncio channel in it hangs from then on. Run by ``loadtests.load``, or by hand:
``python -m loadtests.swarm --host HOST:PORT --model NAME``, with Locust's own options and page.
``locust -f loadtests/users.py`` does too, but its sends come up to a millisecond late.
"""

from __future__ import annotations

import atexit
import os
import random
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import gevent
import grpc
import grpc.experimental.gevent
from locust import User, events, task
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from loadtests import priority
from loadtests.arrivals import SHAPES
from loadtests.channels import METHOD
from loadtests.swarm.head import Head
from loadtests.swarm.worker import Worker
from service.errors import FarthingError

grpc.experimental.gevent.init_gevent()

_THINKING = ("exponential", "fixed")
# Of this process until its end: it is all generator.
_PRIORITY = ExitStack()
# gRPC waits for the answers of each channel in one of gevent's native threads, made on demand. With
# fewer than channels (gevent has ten unless told) calls wait for each other in the generator.
_THREADS = 10_100
# How long a user without a share of its own waits before it looks again whether it is to stop.
_IDLE_S = 1.0
# A worker after an interrupt, unless its master ended it by then.
_LEAVES_S = 3.0


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: Any) -> None:
    add = parser.add_argument
    add("--model", default="", help="The model to call.")
    add("--model-version", default="", help="Its version; empty: the server's pick.")
    add("--rows-file", default="", help=".npz with rows to send; else they are drawn.")
    add("--rows", type=int, default=1, help="Rows in each request.")
    add("--deadline-ms", type=float, default=0.0, help="gRPC deadline of a call; 0: none.")
    add("--warmup-s", type=float, default=1.0, help="Seconds that do not count.")
    add("--seconds", type=float, default=10.0, help="Seconds that count, then; then it ends.")
    add("--limit-ms", type=float, default=0.0, help="A later answer is late; 0: none is.")
    add("--arrivals", default="", choices=["", *SHAPES, "replay"],
        help="Open loop: calls come when they are due, whatever became of others; users are "
        "connections. Empty: closed loop, each user waits for its answer.")  # fmt: skip
    add("--rate", type=float, default=10.0, help="Open loop: calls per second, at the highest.")
    add("--seed", type=int, default=1, help="Open loop: of the arrivals.")
    add("--trace", default="", help="Open loop: the file of a replay.")
    add("--think-ms", type=float, default=0.0, help="Closed: a user's pause after an answer.")
    add("--thinking", default=_THINKING[0], choices=_THINKING,
        help="Closed: pauses are drawn around --think-ms, or are just as long.")  # fmt: skip
    add("--results", default="", include_in_web_ui=False, help="File for the figures, as JSON.")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: Any, **_: Any) -> None:
    runner = environment.runner
    worker = None if isinstance(runner, MasterRunner) else Worker(environment)
    head = None if isinstance(runner, WorkerRunner) else Head(environment, worker)
    if worker:
        InferenceUser.worker = worker
        gevent.get_hub().threadpool.maxsize = _THREADS
        _PRIORITY.enter_context(priority.first())
        atexit.register(_PRIORITY.close)

    if worker and not head and environment.parsed_options.processes:
        gevent.signal_handler(signal.SIGINT, _leave)

    def reset(**_: Any) -> None:
        for each in (worker, head):
            if each:
                each.reset()

    environment.events.test_start.add_listener(reset)
    if head:
        environment.events.quitting.add_listener(head.cut)
        if environment.parsed_options.headless:
            environment.events.quit.add_listener(head.say)


def _leave() -> None:
    """End, but not before the master could: Ctrl-C goes to all, and it hears what workers saw."""
    gevent.sleep(_LEAVES_S)
    os.kill(os.getpid(), signal.SIGTERM)


class InferenceUser(User):
    """One caller: closed, it sends, waits for the answer, thinks, and sends again.

    In an open loop it is a connection, over which its share of the one schedule goes out.
    """

    worker: Worker

    def on_start(self) -> None:
        """Open this user's own channel, and say that it could send."""
        self._number = id(self)
        self._channel = self.worker.channel()
        try:
            self._messages = self.worker.messages(self._channel)
        except (grpc.RpcError, grpc.FutureTimeoutError, FarthingError) as error:
            self.worker.failed(error)
            raise StopUser from None
        self._infer: Any = self._channel.unary_unary(METHOD)
        self._share = self.worker.ready(f"{id(self):x}-{random.getrandbits(32):x}")

    def on_stop(self) -> None:
        """Close it."""
        self._channel.close()

    def wait_time(self) -> float:
        """Seconds to think."""
        options: Any = self.environment.parsed_options
        if options.arrivals:
            return 0.0
        mean_s = options.think_ms / 1e3
        if options.thinking == "fixed" or not mean_s:
            return float(mean_s)
        return random.expovariate(1 / mean_s)

    @task
    def infer(self) -> None:
        """One inference, or a whole share of them."""
        options: Any = self.environment.parsed_options
        if not options.arrivals:
            self._number += 1
            timeout_s = options.deadline_ms / 1e3 or None
            self._told(*self.worker.close(lambda: self._call(timeout_s)))
            return
        with suppress(gevent.Timeout):
            times = self._share.get(timeout=_IDLE_S)
            self._share = gevent.event.AsyncResult()  # there is no second one
            self.worker.drive(times, self._start, self._told)

    def _call(self, timeout_s: float | None) -> str:
        try:
            self._infer(self._message(self._number), timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)
        return ""

    def _start(self, number: int, timeout_s: float | None, ended: Callable[[str], None]) -> None:
        future = self._infer.future(self._message(number), timeout=timeout_s)

        def done(_: object) -> None:
            code = future.code()
            ended("" if code is grpc.StatusCode.OK else code.name)

        future.add_done_callback(done)

    def _message(self, number: int) -> bytes:
        return self._messages[number % len(self._messages)]

    def _told(self, taken_s: float, code: str) -> None:
        """Tell Locust, whose figures are rounded."""
        self.environment.events.request.fire(
            request_type="grpc",
            name="ModelInfer",
            response_time=taken_s * 1e3,
            response_length=0,
            exception=RuntimeError(code) if code else None,
            context={},
        )
