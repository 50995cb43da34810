"""Triton's ``config.pbtxt``, read into our options.

What is understood but not done here is named in a warning; what contradicts itself, or the model,
rules the model out. The rules are Triton's (core, src/model_config_utils.cc) unless said otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from service import configfields, gpuoptions, modeltensors, ortoptions, policies, warmup
from service.batching import QueuePolicy
from service.configfields import no_effect, unusable
from service.errors import InvalidInput, ModelUnusable
from service.gpuoptions import OnGpu
from service.manifest import MODEL_FILE, Manifest, TensorSpec
from service.policies import VersionPolicy
from service.proto import inference_pb2 as pb
from service.warmup import Warmup

BACKEND, PLATFORM = "onnxruntime", "onnxruntime_onnx"
_MAX_BYTES = 2**20
_MAX_LABEL_BYTES = 16 * 2**20
_MAX_BATCH, _MAX_INSTANCES = 4096, 256  # as the knobs of the same names


@dataclass(frozen=True)
class Options:
    """How one model is to be served; the defaults stand for a model without ``config.pbtxt``.

    Attributes:
        name: the model's.
        max_batch: rows in one run; 0 if tensors have no batch dimension, None if nothing is said.
        instances: runs at the same time; None if nothing is said.
        versions: which are served.
        filename: of the model in each version's directory.
        inputs: as callers send them, with the batch dimension; None if none are named.
        outputs: likewise.
        reshapes: tensor -> the model's own shape, with the batch dimension, where it differs.
        labels: output -> file with the texts of its classes, beside ``config.pbtxt``.
        priority_levels: priorities are 1 (first) to this; 0 where there are none.
        default_priority: of requests that bring none.
        queue: how requests may wait.
        queues: priority -> how its requests may wait, where that differs.
        latency_target_ms: when an answer is worthless; None if nothing is said.
        session: fields of ``SessionOptions`` that are said.
        warmups: samples to run before callers come.
        warnings: sentences about what has no effect where the model runs on the CPU.
        gpu: what is said for GPUs alone.
        config: what all this was read from; None without ``config.pbtxt``.
        requested: whether a load request brought it; then it is taken as it is, and what was tuned
            has no effect.
    """

    name: str
    max_batch: int | None = None
    instances: int | None = None
    versions: VersionPolicy = field(default_factory=VersionPolicy)
    filename: str = MODEL_FILE
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    reshapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    priority_levels: int = 0
    default_priority: int = 0
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    queues: Mapping[int, QueuePolicy] = field(default_factory=dict)
    latency_target_ms: float | None = None
    session: Mapping[str, Any] = field(default_factory=dict)
    warmups: tuple[Warmup, ...] = ()
    warnings: tuple[str, ...] = ()
    gpu: OnGpu = field(default_factory=OnGpu)
    config: pb.ModelConfig | None = None
    requested: bool = False


def read(path: Path) -> pb.ModelConfig:
    """The message in a ``config.pbtxt``.

    Raises:
        ModelUnusable: it is unreadable, too large, or not the text form of a ModelConfig; a field
            that Triton does not have is no ModelConfig's.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        text = path.read_bytes().decode("utf-8")
        return text_format.Parse(text, pb.ModelConfig())
    except (OSError, ValueError, text_format.ParseError) as error:
        raise ModelUnusable(
            f"{path} is not a model configuration in Triton's text format: {error}",
            told="its config.pbtxt is not a model configuration in Triton's text format",
        ) from error


def from_json(text: str) -> pb.ModelConfig:
    """The message in JSON, as clients send it with a load request.

    Raises:
        InvalidInput: it is too large, or not the JSON form of a ModelConfig.
    """
    if len(text) > _MAX_BYTES:
        raise InvalidInput(f"the config is longer than {_MAX_BYTES} characters; send a shorter one")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidInput("the config is not a JSON object; send a ModelConfig as JSON")
    if (config := _parsed(text)) is not None:
        return config
    for name, value in fields.items():
        if _parsed(json.dumps({name: value})) is None:
            raise InvalidInput(
                f"the config's field '{name[:64]}' is none of ModelConfig's, or its value is not "
                "of that field's kind"
            )
    raise InvalidInput("the config's fields contradict each other, or are there twice")


def _parsed(text: str) -> pb.ModelConfig | None:
    from google.protobuf import json_format

    try:
        return json_format.Parse(text, pb.ModelConfig())
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def options(config: pb.ModelConfig, directory_name: str) -> Options:
    """What a configuration comes to.

    Args:
        config: as it was read.
        directory_name: the model's name in the repository.

    Raises:
        ModelUnusable: it contradicts itself, or asks for what this server cannot do.
    """
    warnings = configfields.warnings(config)
    name = config.name or directory_name
    if name != directory_name:
        raise unusable(f"name is '{name}', and the model's directory is '{directory_name}'")
    _check_backend(config)
    batched = config.max_batch_size > 0
    queueing = policies.queueing(config)
    session, session_warnings = ortoptions.read(config)
    max_batch, batch_warnings = _max_batch(config)
    instances, instance_warnings = _instances(config)
    inputs = modeltensors.specs("input", config.input, batched=batched)
    outputs = modeltensors.specs("output", config.output, batched=batched)
    return Options(
        name=name,
        max_batch=max_batch,
        instances=instances,
        versions=policies.version_policy(config),
        filename=_bare(config.default_model_filename or MODEL_FILE, "default_model_filename"),
        inputs=inputs,
        outputs=outputs,
        reshapes=dict([
            *modeltensors.reshapes("input", config.input, batched=batched),
            *modeltensors.reshapes("output", config.output, batched=batched),
        ]),
        labels={
            output.name: _bare(output.label_filename, f"label_filename of '{output.name}'")
            for output in config.output
            if output.label_filename
        },
        priority_levels=queueing.levels,
        default_priority=queueing.default_level,
        queue=queueing.policy,
        queues=queueing.policies,
        latency_target_ms=policies.latency_target_ms(config),
        session=session,
        warmups=warmup.read(config.model_warmup),
        warnings=(*warnings, *batch_warnings, *instance_warnings, *session_warnings),
        gpu=_on_gpu(config, batch_warnings),
        config=config,
    )  # fmt: skip


def _check_backend(config: pb.ModelConfig) -> None:
    if config.backend not in ("", BACKEND):
        raise unusable(f"backend is '{config.backend}'; this server runs {BACKEND} only")
    if config.platform not in ("", PLATFORM):
        raise unusable(f"platform is '{config.platform}'; this server runs {PLATFORM} only")


def _on_gpu(config: pb.ModelConfig, batch_warnings: tuple[str, ...]) -> OnGpu:
    said = gpuoptions.read(config)
    session, warnings = ortoptions.read(config, on_gpu=True)
    return replace(said, session=session, warnings=(*said.warnings, *batch_warnings, *warnings))


def _max_batch(config: pb.ModelConfig) -> tuple[int | None, tuple[str, ...]]:
    size = config.max_batch_size
    if size < 0:
        raise unusable(f"max_batch_size is {size}; it takes 0 (no batch dimension) or more")
    if size > _MAX_BATCH:
        told = no_effect(f"max_batch_size {size}", f"a run takes at most {_MAX_BATCH} rows")
        return _MAX_BATCH, (told,)
    # The text form cannot tell 0 from nothing. Where tensors are named, 0 says how to read their
    # dims; where none are, Triton too goes by the model.
    return (size if size or config.input or config.output else None), ()


def _instances(config: pb.ModelConfig) -> tuple[int | None, tuple[str, ...]]:
    kinds = pb.ModelInstanceGroup.Kind
    total = 0
    warnings: dict[str, None] = {}
    for group in config.instance_group:
        if group.count < 0:
            raise unusable(f"instance_group has count {group.count}; it takes 1 or more")
        if group.gpus and group.kind in (kinds.KIND_CPU, kinds.KIND_MODEL):
            raise unusable(f"instance_group has gpus, and kind {kinds.Name(group.kind)}")
        if group.kind == kinds.KIND_GPU:
            told = no_effect("instance_group.kind KIND_GPU", "its instances run on the CPU")
            warnings[told] = None
        total += group.count
    if total > _MAX_INSTANCES:
        raise unusable(f"instance_group asks for {total} instances; at most {_MAX_INSTANCES} run")
    return total or None, tuple(warnings)


def _bare(filename: str, what: str) -> str:
    """The name of a file in the model's own directory."""
    if filename.startswith(".") or any(sign in filename for sign in "/\\\0"):
        raise unusable(f"{what} is {filename!r}; give the name of a file, without directories")
    return filename


def fitted(options: Options, contract: Manifest) -> Options:
    """The options, with the reshapes that only the model tells of: to its scalars."""
    own = {spec.name: spec for spec in (*contract.inputs, *contract.outputs)}
    scalars = {
        spec.name: ()
        for spec in (*(options.inputs or ()), *(options.outputs or ()))
        if spec.name in own and modeltensors.is_scalar(spec, own[spec.name])
    }
    return replace(options, reshapes={**scalars, **options.reshapes})


def applied(
    options: Options, contract: Manifest, optional: tuple[TensorSpec, ...] = ()
) -> Manifest:
    """The contract as callers see it: with the configuration's tensors where it names some.

    Args:
        options: of the model.
        contract: of the model's file.
        optional: further inputs, which the graph has values for.

    Raises:
        ModelUnusable: the configuration's tensors are not the model's, naming the difference.
    """
    if options.max_batch and not contract.batched:
        fixed = [s for s in (*contract.inputs, *contract.outputs) if s.shape[:1] != (-1,)]
        reason = f"the first dimension of '{fixed[0].name}' is not free" if fixed else "it has none"
        raise unusable(
            f"max_batch_size is {options.max_batch}, and the model has no batch dimension: "
            f"{reason}; set max_batch_size to 0"
        )
    shapes = options.reshapes
    inputs, outputs = contract.inputs, contract.outputs
    if options.inputs is not None:
        inputs = modeltensors.settled("input", options.inputs, (*inputs, *optional), shapes)
    if options.outputs is not None:
        outputs = modeltensors.settled("output", options.outputs, outputs, shapes)
    return replace(contract, inputs=inputs, outputs=outputs)


def read_labels(path: Path) -> tuple[str, ...]:
    """The texts of an output's classes, one a line.

    Raises:
        ModelUnusable: the file is missing, too large or not UTF-8.
    """
    try:
        if path.stat().st_size > _MAX_LABEL_BYTES:
            raise ValueError(f"it is larger than {_MAX_LABEL_BYTES} bytes")
        lines = path.read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
    except (OSError, ValueError) as error:
        raise ModelUnusable(
            f"{path} cannot be read as labels, one a line: {error}",
            told=f"the labels in '{path.name}' cannot be read",
        ) from error
    return tuple(lines[:-1] if lines[-1] == "" else lines)
