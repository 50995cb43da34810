"""The Locust file: closed users that call a v2 server over a real gRPC channel.

The only room of locust and gevent, and always a process of its own: importing locust patches the
whole process, and every gRPC server or asyncio channel in it hangs from then on. Run by
``loadtests.load``, or by hand: ``locust -f loadtests/users.py --host HOST:PORT --model NAME``.
"""

from __future__ import annotations

import json
import time
from array import array
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental.gevent
from locust import User, events, task
from locust.env import Environment

from loadtests.payloads import requests_for
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub

grpc.experimental.gevent.init_gevent()

_OPTIONS = (
    # A channel of its own for each user, as separate applications would have.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


class Recorder:
    """Every call that ends in the window; Locust's own figures are rounded to milliseconds."""

    def __init__(self) -> None:
        self.begins = 0.0
        self.ends = 0.0
        self.latencies_s = array("d")
        self.failures: dict[str, int] = {}

    def open(self, warmup_s: float, seconds: float) -> None:
        """Let the window begin after the warm-up, and last so long."""
        self.begins = time.perf_counter() + warmup_s
        self.ends = self.begins + seconds

    def add(self, started: float, ended: float, failure: str | None) -> None:
        """Count one call, if it ended in the window."""
        if not self.begins <= ended <= self.ends:
            return
        if failure is None:
            self.latencies_s.append(ended - started)
        else:
            self.failures[failure] = self.failures.get(failure, 0) + 1

    def to_json(self) -> str:
        """Seconds of the window, latencies, and failures by status."""
        return json.dumps(
            {
                "seconds": self.ends - self.begins,
                "latencies_ms": [round(value * 1e3, 4) for value in self.latencies_s],
                "failures": self.failures,
            }
        )


_RECORDER = Recorder()
_REQUESTS: list[Any] = []


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: Any) -> None:
    parser.add_argument("--model", default="", help="Model to call; empty: ask for the metadata.")
    parser.add_argument("--model-version", default="", help="Empty: the server's pick.")
    parser.add_argument("--rows-file", default="", help=".npz with rows to send.")
    parser.add_argument("--rows", type=int, default=1, help="Rows in each request.")
    parser.add_argument("--deadline-ms", type=float, default=0.0, help="gRPC deadline; 0: none.")
    parser.add_argument("--warmup-s", type=float, default=1.0, help="Seconds not to be counted.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Seconds that count, then.")
    parser.add_argument("--results", default="", help="File for the result as JSON.")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Environment, **_: Any) -> None:
    options: Any = environment.parsed_options
    with grpc.insecure_channel(str(environment.host), _OPTIONS) as channel:
        _REQUESTS[:] = requests_for(
            GRPCInferenceServiceStub(channel),
            options.model,
            version=options.model_version,
            rows_file=Path(options.rows_file) if options.rows_file else None,
            rows=options.rows,
        )
    _RECORDER.open(options.warmup_s, options.seconds)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _write(environment: Environment, **_: Any) -> None:
    options: Any = environment.parsed_options
    if options.results:
        Path(options.results).write_text(_RECORDER.to_json(), encoding="utf-8")


class InferenceUser(User):
    """One caller: sends, waits for the answer, sends the next."""

    def on_start(self) -> None:
        """Open this user's own channel."""
        options: Any = self.environment.parsed_options
        self._timeout_s = options.deadline_ms / 1e3 or None
        self._channel = grpc.insecure_channel(str(self.environment.host), _OPTIONS)
        self._infer = GRPCInferenceServiceStub(self._channel).ModelInfer
        self._next = id(self) % len(_REQUESTS)

    def on_stop(self) -> None:
        """Close it."""
        self._channel.close()

    @task
    def infer(self) -> None:
        """One inference, reported to Locust and to the recorder."""
        self._next = (self._next + 1) % len(_REQUESTS)
        error: grpc.RpcError | None = None
        started = time.perf_counter()
        try:
            self._infer(_REQUESTS[self._next], timeout=self._timeout_s)
        except grpc.RpcError as raised:
            error = raised
        ended = time.perf_counter()
        _RECORDER.add(started, ended, error.code().name if error is not None else None)
        self.environment.events.request.fire(
            request_type="grpc",
            name="ModelInfer",
            response_time=(ended - started) * 1e3,
            response_length=0,
            exception=error,
            context={},
        )
