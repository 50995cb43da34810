"""What one server tells of itself over the v2 wire, and one call at a time to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from loadtests import outside
from loadtests.channels import ANY_SIZE, METHOD
from loadtests.client import TargetFailed
from loadtests.observed import Observed
from loadtests.payloads import requests_for
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub

if TYPE_CHECKING:
    _Infer = grpc.UnaryUnaryMultiCallable[bytes, bytes]

_ANSWER_S = 10.0


class Questions:
    """Asks one server; what it does not have is None, since only the v2 wire can be relied on."""

    def __init__(self, channel: grpc.Channel, *, model: str, version: str) -> None:
        """Ask about this model."""
        self._stub: Any = GRPCInferenceServiceStub(channel)
        self._infer: _Infer = channel.unary_unary(METHOD)
        self._model, self._version = model, version

    def server(self) -> pb.ServerMetadataResponse | None:
        """Name and version."""
        found: pb.ServerMetadataResponse | None = self._asked(
            self._stub.ServerMetadata, pb.ServerMetadataRequest()
        )
        return found

    def config(self) -> pb.ModelConfig | None:
        """What the model runs with."""
        request = pb.ModelConfigRequest(name=self._model, version=self._version)
        found = self._asked(self._stub.ModelConfig, request)
        return found.config if found else None

    def statistics(self) -> pb.ModelStatistics | None:
        """What the model has done so far; of its versions the one that was asked for, or first."""
        request = pb.ModelStatisticsRequest(name=self._model, version=self._version)
        found = self._asked(self._stub.ModelStatistics, request)
        return found.model_stats[0] if found and found.model_stats else None

    def messages(self, *, rows: int, rows_file: Path | None) -> list[bytes]:
        """Encoded requests.

        Raises:
            BadRows: as of ``payloads.requests_for``.
            TargetFailed: the server does not answer any more.
        """
        try:
            requests = requests_for(
                self._stub, self._model, version=self._version, rows_file=rows_file, rows=rows
            )
        except grpc.RpcError as error:
            said = outside.plain(str(error.details()))
            raise TargetFailed(
                f"the server does not tell of model '{self._model}' any more: {said}"
            ) from None
        return [request.SerializeToString() for request in requests]

    def call(self, message: bytes, *, timeout_s: float) -> str:
        """One inference; gRPC's code, or nothing if it was answered."""
        try:
            self._infer(message, timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)
        return ""

    def alone(
        self, messages: Sequence[bytes], *, calls: int, most_s: float, limit_s: float
    ) -> Observed:
        """One caller who waits for his answers, with no others beside him.

        Args:
            messages: sent in turn.
            calls: how many.
            most_s: no more are sent after so many seconds.
            limit_s: later answers are late.
        """
        seen = Observed(0.0, limit_s=limit_s)
        begun = now = time.perf_counter()
        while seen.offered < calls and now - begun < most_s:
            message = messages[seen.offered % len(messages)]
            seen.offered += 1
            code = self.call(message, timeout_s=_ANSWER_S)
            ended = time.perf_counter()
            if code:
                seen.failed(code)
            else:
                seen.answered(ended - now)
            now = time.perf_counter()
        seen.seconds = now - begun
        return seen

    def _asked(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=_ANSWER_S)
        except grpc.RpcError:
            return None


@contextmanager
def asked(target: str, *, model: str, version: str = "") -> Iterator[Questions]:
    """Questions to ``host:port`` while the context lasts.

    Raises:
        TargetFailed: it does not answer.
    """
    with grpc.insecure_channel(target, options=ANY_SIZE) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_S)
        except grpc.FutureTimeoutError:
            raise TargetFailed(
                f"nothing answers at {target}; is it up, and is that its gRPC port?"
            ) from None
        yield Questions(channel, model=model, version=version)
