"""What ``config.pbtxt`` says that counts only where the model runs on a GPU.

The keys are those of Triton's ONNX Runtime backend (its README, "ONNX Runtime with TensorRT
optimization" and "... with CUDA Execution Provider optimization"), and ONNX Runtime's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from service import configfields
from service.configfields import no_effect, unusable
from service.errors import ModelUnusable
from service.proto import inference_pb2 as pb

_KINDS = pb.ModelInstanceGroup.Kind
_SEARCHES = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
# Since ONNX Runtime 1.20 none of them times algorithms (core/providers/cuda/nn/conv.cc).
_MEANS_NOW = {
    "EXHAUSTIVE": "another of cuDNN's heuristics, which takes longer to plan",
    "DEFAULT": "cuDNN's fallback, which may be extremely slow",
}
_STRATEGIES = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
_PRECISIONS = {
    "FP32": (), "FP16": ("trt_fp16_enable",), "BF16": ("trt_bf16_enable",),
    "INT8": ("trt_int8_enable",),
}  # fmt: skip
_SEARCH, _LIMIT = "cudnn_conv_algo_search", "gpu_mem_limit"
_STRATEGY, _STREAM = "arena_extend_strategy", "do_copy_in_default_stream"
_SWITCHES = {
    "cudnn_conv1d_pad_to_nc1d",
    "cudnn_conv_use_max_workspace",
    "enable_skip_layer_norm_strict_mode",
    "fuse_conv_bias",
    "prefer_nhwc",
    "use_ep_level_unified_stream",
    "use_tf32",
}
# Keys in ``parameters`` that count only on a GPU; the first four are Triton's.
PARAMETERS = frozenset({_SEARCH, _LIMIT, _STRATEGY, _STREAM, "use_tf32", "prefer_nhwc"})
# TensorRT's provider has more, and some of them write files or load code: what is let through.
_OF_TENSORRT = {
    "trt_auxiliary_streams",
    "trt_build_heuristics_enable",
    "trt_builder_optimization_level",
    "trt_context_memory_sharing_enable",
    "trt_force_sequential_engine_build",
    "trt_layer_norm_fp32_fallback",
    "trt_max_partition_iterations",
    "trt_min_subgraph_size",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_sparsity_enable",
    "trt_tactic_sources",
}
_CACHES = {"trt_engine_cache_enable", "trt_engine_cache_path", "trt_timing_cache_enable",
           "trt_timing_cache_path"}  # fmt: skip
_VALUE, _BYTES = re.compile(r"[A-Za-z0-9_.:,+x-]{1,4096}"), re.compile(r"[0-9]{1,20}")
_BOOLEANS = {"1": "1", "true": "1", "0": "0", "false": "0"}


@dataclass(frozen=True)
class OnGpu:
    """What counts where a model runs on a GPU.

    Attributes:
        cpu_only: it is to run on the CPU, whatever ``--device`` says.
        asked: it is to run on a GPU, and not on the CPU where a GPU cannot run it.
        gpus: it is to run on these; empty for all that the server uses.
        instances: on each of them; None if nothing is said.
        tensorrt: TensorRT is to run it.
        provider: options of the providers, as ONNX Runtime names them.
        cuda_graphs: whether runs are to be recorded; None if nothing is said.
        refusal: why no GPU may run it: a value that its key does not take; else empty.
        session: fields of ``SessionOptions`` that are said, instead of ``Options.session``.
        warnings: what has no effect on a GPU, instead of ``Options.warnings``.
    """

    cpu_only: bool = False
    asked: bool = False
    gpus: tuple[int, ...] = ()
    instances: int | None = None
    tensorrt: bool = False
    provider: Mapping[str, str] = field(default_factory=dict)
    cuda_graphs: bool | None = None
    refusal: str = ""
    session: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read(config: pb.ModelConfig) -> OnGpu:
    """What a configuration says for GPUs; never refuses, since it counts for nothing on a CPU."""
    warnings = [*configfields.warnings(config, on_gpu=True)]
    groups = list(config.instance_group)
    on_gpu = [group for group in groups if group.kind != _KINDS.KIND_CPU]
    if on_gpu and len(on_gpu) < len(groups):
        warnings.append(no_effect("instance_group of KIND_CPU", "the model runs on the GPU"))
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    tensorrt = any(one.name == "tensorrt" for one in accelerators)
    provider, refusal = dict[str, str](), ""
    try:
        provider = _providers(config, warnings)
    except ModelUnusable as error:
        refusal = str(error)
    warnings += _unpinned(config.optimization)
    return OnGpu(
        cpu_only=bool(groups) and not on_gpu,
        asked=tensorrt or any(group.kind == _KINDS.KIND_GPU for group in groups),
        gpus=tuple(dict.fromkeys(index for group in on_gpu for index in group.gpus)),
        instances=sum(group.count for group in on_gpu) or None,
        tensorrt=tensorrt,
        provider=provider,
        cuda_graphs=config.optimization.cuda.graphs or None,
        refusal=refusal,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _providers(config: pb.ModelConfig, warnings: list[str]) -> dict[str, str]:
    """Options of both providers.

    Raises:
        ModelUnusable: a value is not one that its key takes.
    """
    parameters = {key: parameter.string_value for key, parameter in config.parameters.items()}
    provider = _provider({k: v for k, v in parameters.items() if k in PARAMETERS}, warnings)
    for one in config.optimization.execution_accelerators.gpu_execution_accelerator:
        given = dict(one.parameters)
        if one.name == "tensorrt":
            provider |= _tensorrt(given, warnings)
        elif one.name == "cuda":
            provider |= _provider(given, warnings)
        else:
            told = f"optimization.execution_accelerators {one.name[:64]!r}"
            warnings.append(no_effect(told, "it is neither tensorrt nor cuda"))
    return provider


def _unpinned(optimization: pb.ModelOptimizationPolicy) -> Iterator[str]:
    for name in ("input_pinned_memory", "output_pinned_memory"):
        if optimization.HasField(name) and not getattr(optimization, name).enable:
            yield no_effect(f"optimization.{name} without enable", "batches lie in pinned memory")


def _provider(given: Mapping[str, str], warnings: list[str]) -> dict[str, str]:
    """Options of CUDA's provider."""
    found: dict[str, str] = {}
    for key, value in sorted(given.items()):
        if key in (_SEARCH, _STRATEGY):
            words = _SEARCHES if key == _SEARCH else _STRATEGIES
            if value not in words and value not in words.values():
                raise _wrong(key, value, " or ".join(f"{k} ({w})" for k, w in words.items()))
            found[key] = words.get(value, value)
            if key == _SEARCH and found[key] in _MEANS_NOW:
                warnings.append(f"config: parameters {key} {value} ({found[key]}) is now "
                                f"{_MEANS_NOW[found[key]]}; 1 (HEURISTIC) is what runs without it"
                                )  # fmt: skip
        elif key == _LIMIT:
            found[key] = _checked(key, value, _BYTES.fullmatch, "a number of bytes")
        elif key == _STREAM:
            if value not in ("1", "true"):
                told = "what a run reads must be copied before it begins"
                warnings.append(no_effect(f"parameters {key} {value[:64]!r}", told))
        elif key == "enable_cuda_graph":
            told = "optimization.cuda.graphs, or --cuda-graphs, says so"
            warnings.append(no_effect(f"parameters {key}", told))
        elif key in _SWITCHES:
            found[key] = _switch(key, value)
        else:
            warnings.append(no_effect(f"parameters {key[:64]!r}", "no such parameter is known"))
    return found


def _tensorrt(given: Mapping[str, str], warnings: list[str]) -> dict[str, str]:
    """Options of TensorRT's provider."""
    found: dict[str, str] = {}
    for key, value in sorted(given.items()):
        if key == "precision_mode":
            if value not in _PRECISIONS:
                raise _wrong(key, value, ", ".join(_PRECISIONS))
            found |= dict.fromkeys(_PRECISIONS[value], "1")
        elif key == "max_workspace_size_bytes":
            size = _checked(key, value, _BYTES.fullmatch, "a number of bytes")
            found["trt_max_workspace_size"] = size
        elif key in _CACHES:
            warnings.append(no_effect(f"parameters {key}", "--trt-cache says where engines lie"))
        elif key in _OF_TENSORRT:
            found[key] = _checked(key, value, _VALUE.fullmatch, "what TensorRT's provider takes")
        else:
            told = "this server hands no such option to TensorRT"
            warnings.append(no_effect(f"parameters {key[:64]!r}", told))
    return found


def _switch(key: str, value: str) -> str:
    if value.lower() not in _BOOLEANS:
        raise _wrong(key, value, "1 or 0")
    return _BOOLEANS[value.lower()]


def _checked(key: str, value: str, fits: Callable[[str], Any], takes: str) -> str:
    if not fits(value):
        raise _wrong(key, value, takes)
    return value


def _wrong(key: str, value: str, takes: str) -> Exception:
    return unusable(f"parameters {key} is {value[:64]!r}; it takes {takes}")
