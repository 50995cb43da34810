"""Pure: which of ONNX Runtime's providers run a graph on a device, with which options; refusals.

The options are those of ONNX Runtime's documentation ("CUDA Execution Provider", "TensorRT
Execution Provider"); unproven: they have never met a GPU.
"""

from __future__ import annotations

from collections import Counter

from service.devices import CUDA, TENSORRT, Device
from service.graphs import Facts
from service.sessionoptions import SessionOptions
from service.sizes import Named, Nodes

CPU_PROVIDER = "CPUExecutionProvider"
NAMES = {CUDA: "CUDAExecutionProvider", TENSORRT: "TensorrtExecutionProvider"}
SHAPES, NONE, ANY = "shapes", "none", "any"
_OF_TENSORRT = "trt_"
Planned = list[tuple[str, dict[str, str]]]

# CUDA's provider leaves some to the CPU that it has kernels for, where all they are given is there
# already: the sizes that Shape tells, and what was made of them (core/framework/
# fallback_cpu_capability.cc). The same operators on rows are there for want of a kernel, as fp16's
# Clip of opset 11 is (docs/OperatorKernels.md); so what a node is given decides.
SHAPE_OPERATORS = frozenset(
    """
    Abs Add And Cast Ceil Clip Concat Constant ConstantOfShape CumSum Div Equal Expand Flatten Floor
    Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Max Min Mod Mul
    Neg NonZero Not Or Pow Range ReduceMax ReduceMin ReduceProd ReduceSum Reshape Round
    ScatterElements ScatterND Shape Sign Size Slice Split Sqrt Squeeze Sub Sum Tile Transpose Trilu
    Unsqueeze Where
    """.split()  # noqa: SIM905  # a list of them would take sixty lines
)
# Of these it has kernels for numbers of all types (the same table): of nodes that the file does not
# have, since ONNX Runtime made them itself, no others are let through.
_OF_ALL_TYPES = frozenset(
    {
        "Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity",
        "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# As CUDA, cuBLAS, cuDNN and ONNX Runtime's own arena say it.
_FULL = (
    "out of memory", "cudaErrorMemoryAllocation", "ALLOC_FAILED", "Failed to allocate memory",
    "Available memory of",
)  # fmt: skip


def planned(device: Device, options: SessionOptions, facts: Facts, *, engines: str = "") -> Planned:
    """The providers of a session, the first first, with their options.

    Args:
        device: where it runs.
        options: of the session.
        facts: of its graph.
        engines: directory for the engines of this very file; empty keeps none.
    """
    if not device.is_gpu:
        return [(CPU_PROVIDER, {})]
    cuda = (NAMES[CUDA], _cuda(device, options, facts))
    if device.kind == CUDA:
        return [cuda]
    return [(NAMES[TENSORRT], _tensorrt(device, options, facts, engines)), cuda]


def _cuda(device: Device, options: SessionOptions, facts: Facts) -> dict[str, str]:
    result = {
        "device_id": str(device.index),
        "arena_extend_strategy": "kSameAsRequested",  # else a model takes up to twice its memory
        # None times algorithms any more; of cuDNN's heuristics this one plans the fastest
        # (core/providers/cuda/nn/conv.cc; EXHAUSTIVE planned 9 times as long, and ran slower, on an
        # H200: sgl-project/sglang-omni pull request 2176).
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    # 10 bits of a number where fp32 was verified with 23. Of graphs with halves it would take the
    # tensor cores from fp16's convolutions too (conv.cc deselects them whatever the type).
    if not facts.half:
        result["use_tf32"] = "0"
    if facts.half and facts.convolves:
        result["prefer_nhwc"] = "1"  # the layout that tensor cores take
    if graphs_on(device, options):
        result["enable_cuda_graph"] = "1"
    own = {k: v for k, v in options.provider if not k.startswith(_OF_TENSORRT)}
    return result | own


def _tensorrt(
    device: Device, options: SessionOptions, facts: Facts, engines: str
) -> dict[str, str]:
    # TF32 is on, by TensorRT's own default; ONNX Runtime has no option for it there.
    result = {
        "device_id": str(device.index),
        # Not to make fp32 less exact: TensorRT refuses graphs of these types without.
        "trt_fp16_enable": str(int(facts.half)),
        "trt_int8_enable": str(int(facts.quantized)),
    }
    if engines:
        result |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": engines}
    if options.trt_cache:
        result |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": options.trt_cache}
    if facts.fixed_rows and not facts.fixed and options.max_rows:
        # One engine for all numbers of rows; else TensorRT builds anew whenever more come.
        for end, rows in (("min", 1), ("opt", options.max_rows), ("max", options.max_rows)):
            result[f"trt_profile_{end}_shapes"] = _profile(facts, rows)
    said = dict(options.provider)
    if "gpu_mem_limit" in said:
        result["trt_max_workspace_size"] = said["gpu_mem_limit"]
    return result | {k: v for k, v in said.items() if k.startswith(_OF_TENSORRT)}


def _profile(facts: Facts, rows: int) -> str:
    shapes = ((name, (rows if shape[0] == -1 else shape[0], *shape[1:]))
              for name, shape in facts.inputs if shape)  # fmt: skip
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes)


def graphs_on(device: Device, options: SessionOptions) -> bool:
    """Whether runs there are recorded and replayed, which only CUDA's own provider does here."""
    return bool(options.cuda_graphs) and device.kind == CUDA


def entries(device: Device, options: SessionOptions) -> dict[str, str]:
    """Entries of the session's configuration, by which no node leaves a GPU in silence."""
    if not device.is_gpu:  # the CPU's provider refuses to start with the first of them
        return {}
    alone = {"session.disable_cpu_ep_fallback": "1"} if options.cpu_fallback == NONE else {}
    return alone | {"session.record_ep_graph_assignment_info": "1"}


def refused(on_cpu: Counter[Named], fallback: str, nodes: Nodes) -> str:
    """Why a session may not run with these nodes on the CPU; empty where it may.

    Args:
        on_cpu: those that are there.
        fallback: what may be there: ``shapes``, ``none`` or ``any``.
        nodes: of the file, by which those that compute shapes are known.
    """
    left = Counter() if fallback == ANY else on_cpu
    if fallback == SHAPES:
        left = Counter({one: count for one, count in (on_cpu - _shapes(nodes)).items()
                        if one in nodes.all or one[1] not in _OF_ALL_TYPES})  # fmt: skip
    if not left:
        return ""
    said = f"{left.total()} node{'' if left.total() == 1 else 's'}"
    return f"the GPU's provider leaves {said} to the CPU: {counted(left)}; {REMEDY}"


def _shapes(nodes: Nodes) -> Counter[Named]:
    return Counter({one: n for one, n in nodes.sizes.items() if one[1] in SHAPE_OPERATORS})


REMEDY = (
    "allow it with --cpu-fallback any, or serve the model on the CPU with kind: KIND_CPU in "
    "config.pbtxt's instance_group"
)


# What ONNX Runtime 1.31 looks for is libnvinfer.so.10.
TENSORRT_WHEEL = "pip install 'tensorrt-cu13>=10,<11'"


def counted(nodes: Counter[Named]) -> str:
    """Operators and their numbers, the most first, e.g. ``3 NonZero, 1 TopK``."""
    totals: Counter[str] = Counter()
    for (_, operator), count in nodes.items():
        totals[operator] += count
    ordered = sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))
    most = ", ".join(f"{count} {name}" for name, count in ordered[:8])
    return most + (f" and {len(ordered) - 8} others" if len(ordered) > 8 else "")


def full(said: str) -> bool:
    """Whether an exception's text says that a GPU's memory is full."""
    return any(word in said for word in _FULL)


def memory_full(said: str, options: SessionOptions) -> str:
    """What to do about an exception's text that says that a GPU's memory is full; else empty."""
    if not full(said) or not options.devices[0].is_gpu:
        return ""
    if "gpu_mem_limit" in dict(options.provider):
        mend = "raise --gpu-mem-mib (or gpu_mem_limit in config.pbtxt), or lower --max-batch"
    else:
        mend = "lower --max-batch or --instances, or serve fewer models on it; nvidia-smi shows "
        mend += "who holds it"
    return f"the GPU's memory is full: {mend}"
