"""A server in this process whose inferences are followed into memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from service import ports, repository
from service.health import Health
from service.inference import Inference
from service.log import Access
from service.metrics import Metrics
from service.otel import OpenTelemetry
from service.parameters import Limits
from service.ports import Asked
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from service.servicer import Shared
from service.settings import Settings
from service.statistics import Book
from service.tokens import Tokens

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "vendor=1"))
UNSAMPLED = (("traceparent", f"00-{TRACE}-{CALLER}-00"),)


class Followed:
    """What follows, and what it has seen."""

    def __init__(self, share: float = 0.0, draw: float = 0.5) -> None:
        self.exporter = InMemorySpanExporter()
        self.spans = OpenTelemetry(
            self.exporter, Resource({"service.name": "ours"}), share=share, draw=lambda: draw
        )

    def seen(self, name: str = "") -> list[ReadableSpan]:
        self.spans.flush()
        found = self.exporter.get_finished_spans()
        return sorted((s for s in found if s.name.endswith(name)), key=lambda s: s.end_time or 0)

    def only(self, name: str) -> ReadableSpan:
        (one,) = self.seen(name)
        return one


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@asynccontextmanager
async def serving(
    models: Path, followed: Followed, book: Book | None = None, **options: Any
) -> AsyncIterator[GRPCInferenceServiceStub]:
    settings = Settings(repository=models, host="127.0.0.1", **options)
    loaded = repository.load(settings, book=book)
    metrics = Metrics(CollectorRegistry(), loaded.book, models=lambda: list(loaded))
    inference = Inference(loaded, metrics, limits=Limits(64, 256, 2**20), access=Access(1.0))
    shared = Shared(loaded, inference, metrics, "1.2.3", spans=followed.spans)
    tokens = Tokens.read(Path(settings.tokens)) if settings.tokens else None
    port = ports.bind(
        Asked("--grpc-port", "--host", "127.0.0.1", 0, frozenset()),
        settings, shared=shared, health=Health(), tokens=tokens,
    )  # fmt: skip
    await port.server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.number}") as channel:
            yield GRPCInferenceServiceStub(channel)
    finally:
        await port.server.stop(None)
        await loaded.drain(20)
        await asyncio.to_thread(followed.spans.close)


def row(model: str = "double", rows: int = 1, value: float = 1.0) -> pb.ModelInferRequest:
    data = np.full((rows, 4), value, np.float32)
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[data.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=data.shape)
    return request
