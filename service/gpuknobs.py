"""The knobs of GPUs, which ``settings`` takes from here: how each is declared."""

from __future__ import annotations

from typing import Any

from service.devices import AUTO, asked
from service.knobs import knob

DEVICE: Any = knob(
    AUTO,
    "Where models run: auto, cpu, cuda or tensorrt, the last two also with GPUs, such as cuda:0 or "
    "cuda:0,1; without, on all that this process sees. auto takes CUDA where the gpu wheel, the "
    "driver and a GPU are there, else the CPU, where it also puts a model that a GPU cannot run, "
    "with a warning. What is named and cannot be had stops the server.",
    also=asked,
)
CPU_FALLBACK: Any = knob(
    "shapes",
    "Which nodes of a model may run on the CPU where it runs on a GPU: shapes, none or any. shapes "
    "lets through those that compute only the sizes of tensors, which CUDA's provider puts there "
    "itself; any lets a slow model through too, and the log counts its nodes.",
    choices=("shapes", "none", "any"),
)
GPU_MEM_MIB: Any = knob(
    0,
    "MiB of each GPU's memory that ONNX Runtime's arena may take for one model, 0 to 10000000; 0 "
    "is as much as it needs. Less than that fails at the start or at its largest run; without a "
    "limit one model may leave nothing to the others. What lies beside the arena comes on top: "
    "batches in flight, recorded graphs, cuDNN's and cuBLAS' own. TensorRT's is only its workspace "
    "while it builds.",
    low=0,
    high=10_000_000,
)
CUDA_GRAPHS: Any = knob(
    AUTO,
    "Record a model's work once for each of 1, 2, 4, 8, 16, 24, ... rows, and replay it: auto, on "
    "or off. Rows are padded to the next of these numbers; the start is slower, and each takes "
    "memory. auto takes what `farthing tune` found, else config.pbtxt's optimization.cuda.graphs, "
    "else records graphs with Conv and fixed sizes: cuDNN plans each Conv anew whenever the number "
    "of rows changes (onnxruntime issue 23006), and replays do not. Not with TensorRT. What cannot "
    "be recorded runs without. Unproven.",
    choices=(AUTO, "on", "off"),
)
TRT_CACHE: Any = knob(
    "",
    "Directory for the engines that TensorRT builds and the times it measured. Empty keeps none: "
    "each start builds them again, which takes minutes. Another GPU or TensorRT builds its own.",
)
# Names of those that count on GPUs only.
ONLY = ("cpu_fallback", "gpu_mem_mib", "cuda_graphs", "trt_cache")
