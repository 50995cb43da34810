"""Calls as bytes: what generators send over and over, encoded once."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from service.proto import inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/ModelInfer"
LIMITS = (
    ("grpc.max_receive_message_length", 2**27),
    ("grpc.max_send_message_length", 2**27),
)


def request(model: str, rows: np.ndarray[Any, Any], *, tensor: str = "x") -> bytes:
    """One ModelInfer message; float32 rows travel raw.

    Args:
        model: name of the model.
        rows: float32, the first dimension counts rows.
        tensor: name of the model's only input.
    """
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name=tensor, datatype="FP32", shape=rows.shape)
    message.raw_input_contents.append(rows.astype(np.float32).tobytes())
    return message.SerializeToString()


def answer(rows: np.ndarray[Any, Any], *, tensor: str = "y") -> bytes:
    """One ModelInfer answer, for a server that always says the same."""
    message = pb.ModelInferResponse(model_name="net", model_version="1")
    message.outputs.add(name=tensor, datatype="FP32", shape=rows.shape)
    message.raw_output_contents.append(rows.astype(np.float32).tobytes())
    return message.SerializeToString()


def framed(message: bytes) -> bytes:
    """A message as gRPC puts it on HTTP/2: not compressed, its length, itself."""
    return struct.pack(">BI", 0, len(message)) + message


def random_row(*shape: int) -> np.ndarray[Any, Any]:
    """One row of random float32, always the same."""
    return np.random.default_rng(0).random((1, *shape), np.float32)


READY = pb.ModelReadyResponse(ready=True).SerializeToString()


def ready(model: str) -> bytes:
    """The question whether a model is ready; ``READY`` says yes."""
    return pb.ModelReadyRequest(name=model).SerializeToString()
