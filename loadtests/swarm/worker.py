"""One process that generates load inside Locust: gevent's driver of an open loop, and its part.

Only ever in a child: whoever imports this has gevent in the process.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gevent
import grpc
from gevent.event import AsyncResult
from gevent.lock import RLock

from loadtests.channels import OF_ITS_OWN
from loadtests.payloads import requests_for
from loadtests.swarm.order import LEAD_S, Order
from loadtests.swarm.part import Part
from service.errors import FarthingError
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub

_CONNECT_S = 5.0
_POLL_S = 0.02
# Is given the call's number, seconds until its deadline (None for none), and what to tell its end:
# gRPC's code, empty for an answer.
Start = Callable[[int, float | None, Callable[[str], None]], None]
# Is given seconds taken, and gRPC's code.
Told = Callable[[float, str], None]


class Worker:
    """What this process generates, told by a head that is here or elsewhere."""

    def __init__(self, environment: Any) -> None:
        """Take what the head says from Locust's messages."""
        self._environment = environment
        self._runner = environment.runner
        self._shares = dict[str, AsyncResult]()
        self._building = RLock()
        self._messages: list[bytes] = []
        self._driving = 0
        self.order = Order()
        self.part = Part(self.order)
        self._runner.register_message("farthing_begin", self._begin)
        self._runner.register_message("farthing_end", self._end, concurrent=True)
        environment.events.report_to_master.add_listener(self._report)

    def reset(self) -> None:
        """Forget the run before: another one starts."""
        self.order = Order.of(self._environment.parsed_options)
        self.part = Part(self.order)
        self._shares.clear()
        self._messages = []

    def channel(self) -> grpc.Channel:
        """A channel to the host of the run."""
        return grpc.insecure_channel(str(self._environment.host), OF_ITS_OWN)

    def messages(self, channel: grpc.Channel) -> Sequence[bytes]:
        """Encoded requests, the same for all users of this process; returns when a channel is up.

        Raises:
            grpc.FutureTimeoutError: nothing answers there.
            grpc.RpcError: it does not know the model.
            BadRows: the file does not fit the model.
        """
        grpc.channel_ready_future(channel).result(timeout=_CONNECT_S)
        options = self._environment.parsed_options
        with self._building:
            if not self._messages:
                requests = requests_for(
                    GRPCInferenceServiceStub(channel),
                    options.model,
                    version=options.model_version,
                    rows_file=Path(options.rows_file) if options.rows_file else None,
                    rows=options.rows,
                )
                self._messages = [request.SerializeToString() for request in requests]
            return self._messages

    def ready(self, user: str) -> AsyncResult:
        """Say that a user could send now; its share comes when all can."""
        self._shares[user] = AsyncResult()
        self._runner.send_message("farthing_ready", {"user": user})
        return self._shares[user]

    def failed(self, error: Exception) -> None:
        """Say that a user cannot send, in a sentence."""
        host, model = self._environment.host, self._environment.parsed_options.model
        if isinstance(error, FarthingError):
            why = str(error)
        elif isinstance(error, grpc.RpcError):
            why = f"{host} does not serve model '{model}': {error.details()}"
        else:
            why = f"nothing answers at {host}; is it up, and is that its gRPC port?"
        self._runner.send_message("farthing_failed", {"why": why})

    def drive(self, times: Sequence[float], start: Start, told: Told) -> None:
        """Start all calls of a share, each when it is due, and wait for none.

        Args:
            times: seconds from where the run begins to count, ascending.
            start: starts the call of this number.
            told: is shown each end.
        """
        self._driving += 1
        try:
            for number, moment in enumerate(times):
                due = self.part.begins + moment
                gevent.sleep(max(0.0, due - time.perf_counter()))
                if due >= self.part.begins + self.part.seen.seconds:  # it was cut
                    return
                self._send(number, due, start, told)
        finally:
            self._driving -= 1

    def _send(self, number: int, due: float, start: Start, told: Told) -> None:
        part, deadline_s = self.part, self.order.deadline_s
        counted = part.counts(due)

        def ended(code: str) -> None:
            taken_s = time.perf_counter() - due
            if counted:
                part.ended(taken_s, code)
            told(taken_s, code)

        now = time.perf_counter()
        if counted:
            part.sent(now - due)
        start(number, due + deadline_s - now if deadline_s else None, ended)

    def close(self, call: Callable[[], str]) -> tuple[float, str]:
        """One call of a closed user: its clock starts when it is sent.

        Returns:
            Seconds taken, and gRPC's code, empty for an answer.
        """
        part, begun = self.part, time.perf_counter()
        counted = part.counts(begun)
        code = call()
        taken_s = time.perf_counter() - begun
        if counted:
            part.ended(taken_s, code)
        return taken_s, code

    def _begin(self, msg: Any, **_: Any) -> None:
        # What is there now stays: a full collection takes as long as many sends may be late.
        gc.collect()
        gc.freeze()
        self.part.begins = time.perf_counter() + LEAD_S + self.order.warmup_s
        for user, times in msg.data["shares"].items():
            self._shares[user].set(times)

    def _end(self, msg: Any, **_: Any) -> None:
        """Wait for what is still to be sent, unless the run is cut; then for answers; tell all."""
        part, now = self.part, time.perf_counter()
        if msg.data["cut"]:
            part.cut(now)
        ends = max(now, part.begins + part.seen.seconds)
        gevent.sleep(ends - now)
        while (self._driving or part.outstanding) and time.perf_counter() < ends + msg.data[
            "waits_s"
        ]:
            gevent.sleep(_POLL_S)
        part.seal()
        self._runner.send_message("farthing_seen", {"part": part.seen.counted()})

    def _report(self, data: dict[str, Any], **_: Any) -> None:
        if self.part.seen.offered and not self.part.sealed:
            data["farthing"] = self.part.counted(time.perf_counter())
