"""A plain client of the v2 wire, for questions that need no load generator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from loadtests import outside
from loadtests.payloads import requests_for
from service.datatypes import BY_NAME
from service.errors import FarthingError, InvalidSetting
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub

_TIMEOUT_S = 30.0


class TargetFailed(FarthingError):
    """The server that should be measured does not answer as it must."""


def address(text: str) -> str:
    """The same, if it is ``host:port``.

    Raises:
        InvalidSetting: it is not.
    """
    if not re.fullmatch(r"[^/\s,]+:\d{1,5}", text):
        raise InvalidSetting(f"--target is '{text}'; it takes HOST:PORT, without http://")
    return text


class Client:
    """Calls one server."""

    def __init__(self, stub: Any, target: str) -> None:
        """Wrap a GRPCInferenceService stub."""
        self._stub = stub
        self._target = target

    def check(
        self,
        model: str,
        *,
        version: str = "",
        rows_file: Path | None = None,
        rows: int = 1,
        most_s: float = _TIMEOUT_S,
    ) -> None:
        """Make sure that the server answers such requests, by sending one.

        Args:
            model: its name.
            version: empty for the server's pick.
            rows_file: .npz to send from; None for drawn rows.
            rows: in the request.
            most_s: seconds to wait for the answer, 30 at most.

        Raises:
            TargetFailed: it does not answer, does not know the model, or refuses the request.
            BadRows: the file does not fit the model.
        """
        try:
            requests = requests_for(
                self._stub, model, version=version, rows_file=rows_file, rows=rows
            )
            self._stub.ModelInfer(requests[0], timeout=min(most_s, _TIMEOUT_S))
        except grpc.RpcError as error:
            raise self._failed(model, error) from None

    def answers(self, model: str, rows: np.ndarray[Any, Any], chunk: int) -> np.ndarray[Any, Any]:
        """The first output for all rows of a model's only input.

        Args:
            model: its name.
            rows: shape [rows, ...], in the input's dtype.
            chunk: rows in each request, at most the server's batch limit.

        Returns:
            An array of shape [rows, ...].

        Raises:
            TargetFailed: the server did not answer.
        """
        try:
            return self._answers(model, rows, chunk)
        except grpc.RpcError as error:
            raise self._failed(model, error) from None

    def _failed(self, model: str, error: grpc.RpcError) -> TargetFailed:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return TargetFailed(
                f"nothing answers at {self._target}; is it up, and is that its gRPC port?"
            )
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TargetFailed(
                f"{self._target} did not answer a call to '{model}' in the time that it was given"
            )
        said = outside.plain(str(error.details()))
        return TargetFailed(f"{self._target} does not serve model '{model}': {said}")

    def _answers(self, model: str, rows: np.ndarray[Any, Any], chunk: int) -> np.ndarray[Any, Any]:
        metadata = self._stub.ModelMetadata(pb.ModelMetadataRequest(name=model))
        tensor = metadata.inputs[0]
        parts = []
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            request = pb.ModelInferRequest(model_name=model)
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=part.shape)
            request.raw_input_contents.append(part.tobytes())
            response = self._stub.ModelInfer(request, timeout=_TIMEOUT_S)
            output = response.outputs[0]
            array = np.frombuffer(response.raw_output_contents[0], BY_NAME[output.datatype].dtype)
            parts.append(array.reshape(list(output.shape)))
        return np.concatenate(parts)


@contextmanager
def connected(target: str) -> Iterator[Client]:
    """A client for ``host:port`` while the context lasts."""
    with grpc.insecure_channel(target) as channel:
        yield Client(GRPCInferenceServiceStub(channel), target)
