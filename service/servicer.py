"""The RPC methods, but for the control of the server. What is not here answers UNIMPLEMENTED."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from grpc.aio import ServicerContext

from service import following, statistics
from service.account import told_of
from service.errors import (
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    Unsupported,
)
from service.index import State
from service.inference import Inference
from service.metrics import Metrics
from service.model import Model
from service.modelpages import config_of, metadata_of
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceServicer
from service.repository import Repository
from service.sharedmemory import SharedMemory
from service.spans import Spans
from service.streams import Answering, Streams, refusal
from service.tracing import LogSettings, Traces

Call = ServicerContext[Any, Any]

# Exactly what works here: clients call what they find listed.
EXTENSIONS = (
    "classification",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "statistics",
)
WITH_CONTROL = {
    "repository": ("model_repository", "model_repository(unload_dependents)"),
    "settings": ("trace", "logging"),
    "shared-memory": ("system_shared_memory",),
    "cuda-shared-memory": ("cuda_shared_memory",),
}


@dataclass(frozen=True)
class Shared:
    """What all ports of one server have in common.

    Attributes:
        repository: the models.
        inference: what answers inferences on them.
        metrics: where those are counted.
        version: of this server, for ServerMetadata.
        regions: the shared memory that tensors may lie in; None for none.
        traces: which inferences are traced.
        log_settings: what is logged.
        ready: whether the server takes calls, for ServerReady.
        cost_metadata: whether callers are told what their answers cost.
        spans: who follows inferences; None for nobody.
    """

    repository: Repository
    inference: Inference
    metrics: Metrics
    version: str
    regions: SharedMemory | None = None
    traces: Traces = field(default_factory=Traces)
    log_settings: LogSettings = field(default_factory=LogSettings)
    ready: Callable[[], bool] = lambda: True
    cost_metadata: bool = False
    spans: Spans | None = None


class Servicer(GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, untyped
    """inference.GRPCInferenceService on a repository, without the control RPCs."""

    def __init__(self, shared: Shared, *, allowed: frozenset[str] = frozenset()) -> None:
        """Answer on one port.

        Args:
            shared: with the other ports.
            allowed: the groups of control RPCs that this port answers.
        """
        self._shared = shared
        self._repository = shared.repository
        self._model = shared.inference.model
        self._allowed = allowed
        self._streams = Streams()

    async def close_streams(self) -> None:
        """End open streams once their accepted work is answered."""
        await self._streams.close()

    async def ServerLive(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, call: Call
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._shared.ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        try:
            self._model(request.name, request.version)
        except (ModelNotFound, ModelNotReady):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, call: Call
    ) -> pb.ServerMetadataResponse:
        allowed = [name for word in sorted(self._allowed) for name in WITH_CONTROL[word]]
        return pb.ServerMetadataResponse(
            name="farthing", version=self._shared.version, extensions=(*EXTENSIONS, *allowed)
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, call: Call
    ) -> pb.ModelMetadataResponse:
        model = self._model(request.name, request.version)
        return metadata_of(model, self._repository.versions(model.manifest.name))

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, call: Call
    ) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=config_of(self._model(request.name, request.version)))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, call: Call
    ) -> pb.ModelStatisticsResponse:
        models = list(self._repository)
        if request.name:
            model = self._model(request.name, request.version)  # or it says what is wrong
            models = [m for m in models if m.manifest.name == model.manifest.name]
        if request.version:
            models = [m for m in models if m.version == request.version]
        figures = statistics.by_version(self._repository.book.figures())
        return pb.ModelStatisticsResponse(
            model_stats=[statistics.to_proto(*key, figures[key]) for key in map(_key, models)]
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, call: Call
    ) -> pb.RepositoryIndexResponse:
        if request.repository_name:
            raise Unsupported("this server has one repository; leave 'repository_name' empty")
        return pb.RepositoryIndexResponse(
            models=[
                {"name": s.name, "version": s.version, "state": s.state.value, "reason": s.reason}
                for s in self._repository.index()
                if s.state is State.READY or not request.ready
            ]
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        if not self._shared.cost_metadata:
            return await self._shared.inference(request, call.time_remaining())

        def tell(core_s: float) -> None:
            call.set_trailing_metadata(self._cost(core_s))

        return await self._shared.inference(request, call.time_remaining(), tell)

    def _cost(self, core_s: float) -> tuple[tuple[str, str], ...]:
        """Trailing metadata."""
        told = told_of(self._repository.book.ledger, core_s)
        return tuple((name, f"{each:.6g}") for name, each in told.items())

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[Any], call: Call
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
            return await self._shared.inference(request, call.time_remaining())

        answering: Answering = answer
        if self._shared.spans is not None:
            metadata = call.invocation_metadata() or ()
            answering = following.each(answer, self._shared.spans, metadata)
        strict = _strict(call)
        async with aclosing(
            self._streams.serve(request_iterator, answering, strict=strict)
        ) as responses:
            async for response in responses:
                try:
                    yield response
                except InvalidInput as error:  # the interceptor's: an answer that is too large
                    if strict:
                        raise
                    told = response.infer_response
                    yield refusal(told.id, told.model_name, error)


def _key(model: Model) -> tuple[str, str]:
    return model.manifest.name, model.version


def _strict(call: Call) -> bool:
    """Whether an error is to end the stream, as clients ask with ``triton_grpc_error: true``."""
    metadata = call.invocation_metadata() or ()
    return any(key == "triton_grpc_error" and value == "true" for key, value in metadata)
