"""Whether there is an NVIDIA GPU that CUDA 13 runs on; by the standard library alone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

_LIBRARY = "libcuda.so.1"
_NEEDED = 13000  # as cuDriverGetVersion writes CUDA 13.0, which onnxruntime-gpu 1.31 is built for
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def missing(load: Callable[[str], Any] = ctypes.CDLL) -> str:
    """What is missing of GPU and driver, in one sentence; empty where nothing is.

    Args:
        load: opens a shared library by its name, or raises OSError.
    """
    try:
        library = load(_LIBRARY)
    except OSError:
        return (
            f"there is no NVIDIA driver here ({_LIBRARY} cannot be loaded): install driver 580 or "
            "later on a machine with an NVIDIA GPU, and run a container with --gpus all"
        )
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        return (
            "the NVIDIA driver is here, and no GPU that this process may use: look at nvidia-smi "
            "and at CUDA_VISIBLE_DEVICES"
        )
    if code:
        return f"the NVIDIA driver does not start (cuInit answers {code}): look at nvidia-smi"
    version = _asked(library.cuDriverGetVersion)
    if version < _NEEDED:
        return (
            f"the NVIDIA driver is for CUDA {_written(version)}, and onnxruntime-gpu needs "
            f"{_written(_NEEDED)}: install driver 580 or later"
        )
    if not _asked(library.cuDeviceGetCount):
        return "the NVIDIA driver is here, and no GPU that this process may use"
    return ""


def _asked(function: Any) -> int:
    """What a function of the driver writes through its only argument; 0 where it fails."""
    value = ctypes.c_int(0)
    return int(value.value) if function(ctypes.byref(value)) == 0 else 0


def _written(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
