"""The RPC methods: look up, decode, submit, encode. What is not here answers UNIMPLEMENTED."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from grpc import StatusCode
from grpc.aio import ServicerContext

from service import tensors
from service.datatypes import BY_NAME
from service.errors import InvalidInput, ModelNotFound
from service.manifest import TensorSpec
from service.metrics import Metrics
from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceServicer
from service.repository import Model, Repository

Call = ServicerContext[Any, Any]

# Exactly what works here: clients call what they find listed.
EXTENSIONS = ("binary_tensor_data", "model_configuration")


class Servicer(GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, untyped
    """inference.GRPCInferenceService on a repository."""

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        version: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve these models.

        Args:
            repository: models that are ready.
            metrics: where inferences are counted.
            version: of this server, for ServerMetadata.
            clock: the batchers' clock.
        """
        self._repository = repository
        self._metrics = metrics
        self._version = version
        self._clock = clock

    async def ServerLive(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, call: Call
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(
            ready=not any(model.batcher.draining for model in self._repository)
        )

    async def ModelReady(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        try:
            self._repository.model(request.name, request.version)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, call: Call
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="farthing", version=self._version, extensions=EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, call: Call
    ) -> pb.ModelMetadataResponse:
        model = self._repository.model(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.manifest.name,
            versions=self._repository.versions(model.manifest.name),
            platform="onnxruntime_onnx",
            inputs=[_metadata(spec) for spec in model.manifest.inputs],
            outputs=[_metadata(spec) for spec in model.manifest.outputs],
        )

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, call: Call
    ) -> pb.ModelConfigResponse:
        model = self._repository.model(request.name, request.version)
        return pb.ModelConfigResponse(config=_config(model))

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        model = self._repository.model(request.model_name, request.model_version)
        contract = model.manifest
        with self._metrics.request(model.labels):
            deadline = self._deadline(request, call)
            rows = tensors.decode(
                request, contract.inputs, batched=contract.batched, max_rows=model.max_rows
            )
            wanted = tensors.requested_outputs(request, contract.outputs)
            answer = await model.batcher.submit(rows.feeds, rows.rows, deadline)
            response = pb.ModelInferResponse(
                model_name=contract.name, model_version=model.version, id=request.id
            )
            tensors.encode(response, answer.outputs, wanted)
            self._metrics.answered(model.labels, rows.rows, answer)
            return response

    async def ModelStreamInfer(self, request_iterator: Any, call: Call) -> None:
        await call.abort(StatusCode.UNIMPLEMENTED, "this server does not implement streams yet")

    def _deadline(self, request: pb.ModelInferRequest, call: Call) -> float | None:
        """The earlier of gRPC's deadline and the ``timeout`` parameter, on the batchers' clock."""
        seconds: list[float | None] = [call.time_remaining()]
        if "timeout" in request.parameters:
            microseconds = _whole_number(request.parameters["timeout"])
            # 0 is what clients send for "none".
            seconds.append(microseconds / 1e6 if microseconds else None)
        given = [value for value in seconds if value is not None]
        return self._clock() + min(given) if given else None


def _whole_number(parameter: pb.InferParameter) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(parameter, kind) < 0:
        raise InvalidInput("parameter 'timeout' is not a whole number of microseconds")
    return int(getattr(parameter, kind))


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )


def _config(model: Model) -> pb.ModelConfig:
    contract, variant = model.manifest, model.variant
    skip = 1 if contract.batched else 0
    config = pb.ModelConfig(
        name=contract.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=model.max_rows if contract.batched else 0,
        default_model_filename=variant.file,
        version_policy=pb.ModelVersionPolicy(latest={"num_versions": 1}),
        instance_group=[{"name": contract.name, "count": model.instances, "kind": "KIND_CPU"}],
        input=[
            {"name": s.name, "data_type": BY_NAME[s.datatype].config_name, "dims": s.shape[skip:]}
            for s in contract.inputs
        ],
        output=[
            {"name": s.name, "data_type": BY_NAME[s.datatype].config_name, "dims": s.shape[skip:]}
            for s in contract.outputs
        ],
        parameters={
            name: pb.ModelParameter(string_value=value)
            for name, value in (
                ("variant", variant.name),
                ("variant_sha256", variant.sha256 or ""),
                ("variant_reason", model.why),
            )
        },
    )
    if contract.batched:
        config.dynamic_batching.SetInParent()
    return config
