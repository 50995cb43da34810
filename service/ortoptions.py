"""What ``config.pbtxt`` says to ONNX Runtime, as fields of ``session.SessionOptions``.

The keys and their values are those of Triton's ONNX Runtime backend (its README, "Model Config
Options", and src/onnxruntime.cc).
"""

from __future__ import annotations

import re
from typing import Any

from service.configfields import LATENCY_TARGET, no_effect, unusable
from service.gpuoptions import PARAMETERS
from service.proto import inference_pb2 as pb

_MAX_THREADS = 1024
_THREADS = {"intra_op_thread_count": "threads", "inter_op_thread_count": "inter_op_threads"}
_SWITCHES = {
    "enable_mem_arena": "mem_arena",
    "enable_mem_pattern": "mem_pattern",
    "session.intra_op.allow_spinning": "spin",
}
# ONNX Runtime has many more, and some of them write files: a list of what is let through.
_ENTRIES = {
    "session.disable_aot_function_inlining",
    "session.disable_double_qdq_remover",
    "session.disable_prepacking",
    "session.disable_quant_qdq",
    "session.enable_quant_qdq_cleanup",
    "session.force_spinning_stop",
    "session.inter_op.allow_spinning",
    "session.qdqisint8allowed",
    "session.set_denormal_as_zero",
    "session.strict_shape_type_inference",
    "session.use_deterministic_compute",
    "session.use_device_allocator_for_initializers",
    "session.x64quantprecision",
}
_MODE, _SHRINKAGE = "execution_mode", "memory.enable_memory_arena_shrinkage"
_SHARED = "share_session_between_instances"
_LEVELS = {-1: "ORT_ENABLE_BASIC", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
_NUMBER, _DEVICE = re.compile(r"[0-9]{1,9}"), re.compile(r"(cpu|gpu):[0-9]{1,3}")


def read(config: pb.ModelConfig, *, on_gpu: bool = False) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of ``SessionOptions`` -> values, for those that are said; and warnings.

    Args:
        config: as it was read.
        on_gpu: whether the model runs on a GPU; what counts only there is ``gpuoptions``'.

    Raises:
        ModelUnusable: a value is not one that the key takes, or two keys contradict each other.
    """
    options, warnings = _parameters(
        {
            key: parameter.string_value
            for key, parameter in config.parameters.items()
            if key != LATENCY_TARGET and not (on_gpu and key in PARAMETERS)
        },
        on_gpu=on_gpu,
    )
    level = config.optimization.graph.level
    if level in _LEVELS:
        options["graph_level"] = _LEVELS[level]
    elif level:
        warnings.append(no_effect(f"optimization.graph.level {level}", "all optimizations are on"))
    if options.get("parallel") and "inter_op_threads" not in options:
        options["inter_op_threads"] = 0  # as many as there are CPUs; our default is one
    if options.get("run_config") and not options.get("mem_arena", True):
        raise unusable(f"parameters {_SHRINKAGE} contradicts enable_mem_arena 0")
    return options, tuple(warnings)


def _parameters(given: dict[str, str], *, on_gpu: bool) -> tuple[dict[str, Any], list[str]]:
    options: dict[str, Any] = {}
    warnings: list[str] = []
    for key, value in sorted(given.items()):
        if key in _THREADS:
            if count := _count(key, value):
                options[_THREADS[key]] = count
        elif key in _SWITCHES:
            options[_SWITCHES[key]] = _boolean(key, value)
        elif key in _ENTRIES:
            entry = (key, "1" if _boolean(key, value) else "0")
            options["config"] = (*options.get("config", ()), entry)
        elif key == _MODE:
            if value not in ("0", "1"):
                raise _wrong(key, value, "0 (sequential) or 1 (parallel)")
            options["parallel"] = value == "1"
        elif key == _SHRINKAGE:
            if shrunk := _shrunk(value, warnings, on_gpu=on_gpu):
                options["run_config"] = ((key, shrunk),)
        elif key == _SHARED:
            if not _boolean(key, value):
                warnings.append(no_effect(f"parameters {key}", "all instances share one session"))
        else:
            why = "the model runs on the CPU" if key in PARAMETERS else "no such parameter is known"
            warnings.append(no_effect(f"parameters {key!r}", why))
    return options, warnings


def _count(key: str, value: str) -> int:
    """Threads; 0 for the server's own choice."""
    if not _NUMBER.fullmatch(value) or int(value) > _MAX_THREADS:
        raise _wrong(key, value, f"0 to {_MAX_THREADS}")
    return int(value)


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise _wrong(key, value, "1 or 0")
    return _BOOLEANS[value.lower()]


def _shrunk(value: str, warnings: list[str], *, on_gpu: bool) -> str:
    """The devices whose arena is shrunk after each run, of those that the model runs on."""
    devices = [device for device in value.split(";") if device]
    if not all(_DEVICE.fullmatch(device) for device in devices):
        raise _wrong(_SHRINKAGE, value, "a list such as cpu:0;gpu:0")
    if on_gpu:  # on whichever it runs
        return ";".join(dict.fromkeys(re.sub("gpu:.*", "gpu:0", device) for device in devices))
    if set(devices) - {"cpu:0"}:
        warnings.append(no_effect(f"parameters {_SHRINKAGE} of others than cpu:0",
                                  "the model runs on the CPU"))  # fmt: skip
    return "cpu:0" if "cpu:0" in devices else ""


def _wrong(key: str, value: str, takes: str) -> Exception:
    return unusable(f"parameters {key} is {value!r}; it takes {takes}")
