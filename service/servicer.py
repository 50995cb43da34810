"""The RPC methods: look up, decode, submit, encode. What is not here answers UNIMPLEMENTED."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from grpc.aio import ServicerContext

from service import answers, log, parameters, statistics, tensors
from service.batching import Answer
from service.errors import (
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServingError,
    Unsupported,
)
from service.index import State
from service.log import Access
from service.metrics import Metrics
from service.model import Model
from service.modelpages import config_of, metadata_of
from service.parameters import Limits
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceServicer
from service.regions import Regions
from service.repository import Repository
from service.statistics import Phases
from service.streams import Streams, refusal
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
}


@dataclass(frozen=True)
class Shared:
    """What all ports of one server have in common.

    Attributes:
        repository: the models.
        metrics: where inferences are counted.
        version: of this server, for ServerMetadata.
        limits: how much one request may name.
        regions: the shared memory that tensors may lie in; None for none.
        traces: which inferences are traced.
        log_settings: what is logged.
        access: which inferences are logged.
        ready: whether the server takes calls, for ServerReady.
        clock: the batchers'.
    """

    repository: Repository
    metrics: Metrics
    version: str
    limits: Limits
    regions: Regions | None = None
    traces: Traces = field(default_factory=Traces)
    log_settings: LogSettings = field(default_factory=LogSettings)
    access: Access = field(default_factory=lambda: Access(0.0))
    ready: Callable[[], bool] = lambda: True
    clock: Callable[[], float] = time.monotonic


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
        return await self._infer(request, call.time_remaining())

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[Any], call: Call
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        async def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
            return await self._infer(request, call.time_remaining())

        strict = _strict(call)
        async with aclosing(
            self._streams.serve(request_iterator, answer, strict=strict)
        ) as responses:
            async for response in responses:
                try:
                    yield response
                except InvalidInput as error:  # the interceptor's: an answer that is too large
                    if strict:
                        raise
                    told = response.infer_response
                    yield refusal(told.id, told.model_name, error)

    async def _infer(
        self, request: pb.ModelInferRequest, remaining_s: float | None
    ) -> pb.ModelInferResponse:
        """One inference.

        Args:
            request: as it came.
            remaining_s: until gRPC's deadline; None without one.

        Raises:
            ServingError: what the caller is told.
        """
        started = self._shared.clock()
        with log.request(request.id):
            try:
                self._shared.limits.check_name(request.id, "the request")
                model = self._model(request.model_name, request.model_version)
            except ServingError as error:
                self._shared.metrics.stray(error)
                raise
            record = self._shared.metrics.record(model.labels)
            try:
                response, phases = await self._run(request, model, started, remaining_s)
            except BaseException as error:
                status, reason = statistics.ending(error)
                record.failed(status, reason, self._shared.clock() - started)
                if self._shared.access.wanted():
                    self._shared.access.write(status, **_named(model), reason=reason)
                raise
            record.succeeded(phases)
            if self._shared.access.wanted():
                self._shared.access.write("OK", **_named(model), **asdict(phases))
            name, version, _ = model.labels
            if self._shared.traces.take(name):
                begun_ns = int(started * 1e9)
                self._shared.traces.write(
                    name, version, request.id, started_ns=begun_ns, spans=phases
                )
            return response

    async def _run(
        self, request: pb.ModelInferRequest, model: Model, started: float, remaining_s: float | None
    ) -> tuple[pb.ModelInferResponse, Phases]:
        contract, limits, regions = model.manifest, self._shared.limits, self._shared.regions
        asked = parameters.parameters(request, limits=limits)
        given = [s for s in (remaining_s, asked.timeout_s) if s is not None]
        deadline = started + min(given) if given else None
        # Under overload most requests are refused, so that is done before they are decoded.
        told = parameters.rows_of(request, batched=contract.batched)
        model.batcher.expect(told, deadline, asked.priority)
        rows = tensors.decode(
            request,
            contract.inputs,
            batched=contract.batched,
            max_rows=model.max_rows,
            limits=limits,
            regions=regions,
        )
        wanted = answers.requested_outputs(
            request, contract.outputs, limits=limits, regions=regions
        )
        decoded = self._shared.clock()
        answer = await model.batcher.submit(
            rows.feeds, rows.rows, deadline, nbytes=rows.nbytes, priority=asked.priority
        )
        answered = self._shared.clock()
        response = pb.ModelInferResponse(
            model_name=contract.name, model_version=model.version, id=request.id
        )
        answers.encode(response, answer.outputs, wanted, labels=model.label_texts,
                       batched=contract.batched, limits=limits)  # fmt: skip
        ended = self._shared.clock()
        return response, _phases(answer, rows.rows, decoded - started, ended - answered,
                                 ended - started)  # fmt: skip

    def _model(self, name: str, version: str) -> Model:
        """The model of a request.

        Raises:
            InvalidInput: a name that is too long.
            ModelNotFound: there is none.
            ModelNotReady: known, but not loaded.
        """
        self._shared.limits.check_name(name, "the model")
        self._shared.limits.check_name(version, "the version")
        return self._repository.model(name, version)


def _phases(answer: Answer, rows: int, decode_s: float, encode_s: float, whole_s: float) -> Phases:
    return Phases(
        decode_s=decode_s,
        queued_s=answer.queued_s,
        assembly_s=answer.assembly_s,
        run_s=answer.run_s,
        encode_s=encode_s,
        whole_s=whole_s,
        rows=rows,
        batch_rows=answer.batch_rows,
    )


def _named(model: Model) -> dict[str, str]:
    return dict(zip(("model", "version", "variant"), model.labels, strict=True))


def _key(model: Model) -> tuple[str, str]:
    return model.manifest.name, model.version


def _strict(call: Call) -> bool:
    """Whether an error is to end the stream, as clients ask with ``triton_grpc_error: true``."""
    metadata = call.invocation_metadata() or ()
    return any(key == "triton_grpc_error" and value == "true" for key, value in metadata)
