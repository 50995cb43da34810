"""What ModelMetadata and ModelConfig tell of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from service.datatypes import BY_NAME
from service.manifest import TensorSpec
from service.model import Model
from service.modelconfig import BACKEND, PLATFORM
from service.proto import inference_pb2 as pb


def metadata_of(model: Model, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    """A model's tensors; shapes have the batch dimension, -1 where a dimension is free."""
    return pb.ModelMetadataResponse(
        name=model.manifest.name,
        versions=versions,
        platform=PLATFORM,
        inputs=[_metadata(spec) for spec in model.manifest.inputs],
        outputs=[_metadata(spec) for spec in model.manifest.outputs],
    )


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )


def config_of(model: Model) -> pb.ModelConfig:
    """What a model runs with: its config.pbtxt, filled in with what it left open.

    Its parameters tell the variant, its digest, how and why it was chosen, what was measured, and
    the threads, as ONNX Runtime's parameters do.
    """
    contract, variant = model.manifest, model.variant
    config = pb.ModelConfig()
    if model.options.config is not None:
        config.CopyFrom(model.options.config)
    config.name = contract.name
    config.platform = PLATFORM
    config.backend = BACKEND
    config.max_batch_size = model.max_rows if contract.batched else 0
    config.default_model_filename = str(variant.file)
    if not config.HasField("version_policy"):
        config.version_policy.latest.num_versions = 1
    devices, lanes = model.running.session.devices, model.running.session.lanes
    if devices[0].is_gpu:
        del config.instance_group[:]
        gpus = [device.index for device in devices]
        config.instance_group.add(name=contract.name, kind="KIND_GPU", count=lanes, gpus=gpus)
    elif sum(group.count for group in config.instance_group) != model.instances:
        del config.instance_group[:]
        config.instance_group.add(name=contract.name, kind="KIND_CPU", count=model.instances)
    skip = 1 if contract.batched else 0
    if not config.input:
        config.input.extend(pb.ModelInput(**_tensor(s, skip), optional=s.optional)
                            for s in contract.inputs)  # fmt: skip
    if not config.output:
        config.output.extend(pb.ModelOutput(**_tensor(s, skip)) for s in contract.outputs)
    _as_callers_send(config.input, contract.inputs, skip)
    _as_callers_send(config.output, contract.outputs, skip)
    if contract.batched and not config.HasField("dynamic_batching"):
        config.dynamic_batching.SetInParent()
    figures = {**variant.figures, **model.chosen.figures}
    session = model.running.session
    told = {
        "intra_op_thread_count": str(session.threads),
        "session.intra_op.allow_spinning": "1" if session.spin else "0",
        "variant": variant.name,
        "variant_sha256": variant.sha256 or "",
        "variant_bytes": str(variant.bytes or 0),
        "variant_choice": model.chosen.how,
        "variant_reason": model.why,
        **{f"variant_{name}": f"{value:g}" for name, value in figures.items()},
    }
    for name, text in told.items():
        config.parameters[name].string_value = text
    return config


def _as_callers_send(
    tensors: Iterable[pb.ModelInput | pb.ModelOutput], specs: Sequence[TensorSpec], skip: int
) -> None:
    """The dims of a manifest, where config.pbtxt reshapes tensors for Triton and not for us."""
    shapes = {spec.name: list(spec.shape[skip:]) for spec in specs}
    for tensor in tensors:
        if shapes.get(tensor.name, tensor.dims) != tensor.dims:
            tensor.dims[:] = shapes[tensor.name]
            tensor.ClearField("reshape")


def _tensor(spec: TensorSpec, skip: int) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": BY_NAME[spec.datatype].config_name,
        "dims": spec.shape[skip:],
    }
