"""The fields of ``config.pbtxt`` without an effect here, and those that rule a model out.

All other fields are heeded, by ``modelconfig`` and the modules it reads them with; none is passed
over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import Message

from service.datatypes import DATATYPES
from service.errors import ModelUnusable
from service.proto import inference_pb2 as pb

# Field -> what is done instead.
IGNORED = {
    "cc_model_filenames": "GPUs do not run it, so default_model_filename is taken",
    "dynamic_batching.default_queue_policy.allow_timeout_override": (
        "a request may always bring a shorter timeout, and never a longer one"
    ),
    "dynamic_batching.default_queue_policy.timeout_action": (
        "a request that has waited too long is refused, not put off"
    ),
    "dynamic_batching.max_queue_delay_microseconds": (
        "an idle instance starts at once, and batches form while all are busy"
    ),
    "dynamic_batching.preferred_batch_size": (
        "a run takes as many rows as wait, up to max_batch_size"
    ),
    "dynamic_batching.preserve_ordering": "each answer is sent as soon as it is there",
    "dynamic_batching.priority_queue_policy.allow_timeout_override": (
        "a request may always bring a shorter timeout, and never a longer one"
    ),
    "dynamic_batching.priority_queue_policy.timeout_action": (
        "a request that has waited too long is refused, not put off"
    ),
    "instance_group.gpus": "its instances run on the CPU",
    "instance_group.host_policy": "threads run on all CPUs that the process may use",
    "instance_group.passive": "all instances run",
    "instance_group.rate_limiter": "instances run whenever rows wait",
    "instance_group.secondary_devices": "its instances run on the CPU",
    "metric_tags": "metrics are labelled by model, version and variant",
    "model_metrics": "histograms have the edges that the server's latency target gives them",
    "optimization.cuda": "the model runs on the CPU",
    "optimization.eager_batching": "a batch forms when an instance falls idle",
    "optimization.execution_accelerators": "ONNX Runtime's own CPU kernels run the model",
    "optimization.gather_kernel_buffer_threshold": "the model runs on the CPU",
    "optimization.input_pinned_memory": "the model runs on the CPU",
    "optimization.output_pinned_memory": "the model runs on the CPU",
    "optimization.priority": "models share the CPUs as the system schedules their threads",
    "response_cache.enable": "every request is computed",
    "runtime": "the ONNX Runtime of this process runs the model",
}

# The same where the model runs on a GPU, as far as it differs; nothing where it is heeded there.
ON_GPU = {
    "cc_model_filenames": "one file serves all GPUs, so default_model_filename is taken",
    "instance_group.gpus": "",
    "instance_group.secondary_devices": "its instances run on the GPU itself",
    "optimization.cuda": "",
    "optimization.cuda.busy_wait_events": "threads sleep until a copy or a run is over",
    "optimization.cuda.graph_spec": "runs are recorded for 1, 2, 4, ... rows up to the largest",
    "optimization.cuda.output_copy_stream": "each batch under way has a stream of its own",
    "optimization.execution_accelerators": "",
    "optimization.execution_accelerators.cpu_execution_accelerator": "the model runs on the GPU",
    "optimization.gather_kernel_buffer_threshold": "rows are gathered on the host",
    "optimization.input_pinned_memory": "",
    "optimization.output_pinned_memory": "",
    "optimization.priority": "models share the GPU, one run after the other",
}

# The key in ``parameters`` that is heeded and not ONNX Runtime's.
LATENCY_TARGET = "latency_target_ms"

# Field -> why the model cannot be served with it.
REFUSED = {
    "batch_input": "asks for tensors that this server does not make; serve the model without it",
    "batch_output": "asks for outputs to be divided by size, which this server does not do",
    "ensemble_scheduling": "makes this an ensemble; serve its models, and join them in the client",
    "input.allow_ragged_batch": (
        "hands the model rows of unequal shapes as one, which this server does not do"
    ),
    "input.is_non_linear_format_io": "is for TensorRT, and this server runs ONNX",
    "input.is_shape_tensor": "is for TensorRT, and this server runs ONNX",
    "instance_group.profile": "is for TensorRT, and this server runs ONNX",
    "model_operations.op_library_filename": "asks for code of its own, which is not loaded here",
    "model_repository_agents.agents": "asks for agents, of which this server has none",
    "model_transaction_policy.decoupled": "asks for any number of answers; here there is one",
    "output.is_non_linear_format_io": "is for TensorRT, and this server runs ONNX",
    "output.is_shape_tensor": "is for TensorRT, and this server runs ONNX",
    "sequence_batching": "asks for state between requests, which this server does not keep",
}


def unusable(sentence: str) -> ModelUnusable:
    """The refusal of a configuration; remote callers may read it, so it names no path."""
    return ModelUnusable(f"config: {sentence}", told=f"config: {sentence}")


def warnings(config: pb.ModelConfig, *, on_gpu: bool = False) -> tuple[str, ...]:
    """One sentence for each field that is set and has no effect here.

    Args:
        config: as it was read.
        on_gpu: whether the model runs on a GPU.

    Raises:
        ModelUnusable: a field is set without which the model would not be the same, or to a
            number that is none of its enumeration's.
    """
    found = dict.fromkeys(_paths(config))
    for path in found:
        if path in REFUSED:
            raise unusable(f"{path} {REFUSED[path]}")
    instead = IGNORED | ON_GPU if on_gpu else IGNORED
    return tuple(no_effect(path, instead[path]) for path in found if instead.get(path))


# The enum's number -> the wire's name.
DATATYPE_NAMES = {pb.DataType.Value(row.config_name): row.name for row in DATATYPES}


def no_effect(path: str, instead: str) -> str:
    """The warning about one field."""
    return f"config: {path} has no effect here: {instead}"


def _paths(message: Message, above: str = "") -> Iterator[str]:
    """Dotted names of all fields that are set, in the protocol's order."""
    for field, value in message.ListFields():
        path = above + field.name
        yield path
        if field.enum_type is not None and value not in field.enum_type.values_by_number:
            raise unusable(f"{path} is {value}, which stands for nothing")
        for child in _children(value):
            yield from _paths(child, f"{path}.")


def _children(value: Any) -> Iterator[Message]:
    if isinstance(value, Message):
        yield value
    elif not isinstance(value, str | bytes | int | float):
        items = value.values() if isinstance(value, Mapping) else value
        yield from (item for item in items if isinstance(item, Message))
