"""Whether ONNX Runtime runs nodes on a GPU here, tried once; or the sentence what is missing.

Where a provider's library cannot be loaded, ONNX Runtime hands out a session on the CPU instead,
and tells the reason to standard error alone: so the provider is asked for, and the answer read.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
from service.runtime import SILENT, preload  # isort: skip

import numpy as np
import onnxruntime as ort

from service.devices import CUDA, TENSORRT, Device
from service.providers import NAMES, TENSORRT_WHEEL, full

# CUDA's provider loads it when a node first needs it; without it convolutions are slow, or fail.
_CUDNN = "libcudnn.so.9"
_WHEELS = {CUDA: "pip install 'farthing[gpu]'", TENSORRT: TENSORRT_WHEEL}


def offered() -> tuple[str, ...]:
    """Kinds of devices that the installed wheel was built for, e.g. ``cuda``."""
    built = ort.get_available_providers()
    return tuple(kind for kind, provider in NAMES.items() if provider in built)


def wheel() -> str:
    """The installed ONNX Runtime, as messages name it."""
    return f"onnxruntime {ort.__version__}"


def missing(device: Device) -> str:
    """What keeps ONNX Runtime from running nodes on this GPU; empty where nothing does."""
    preload()
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    asked = NAMES[device.kind]
    try:
        session = ort.InferenceSession(
            graph(), options, providers=[(asked, {"device_id": str(device.index)})],
            enable_fallback=0,
        )  # fmt: skip
        if asked not in session.get_providers():
            return failed(device, "", _loading(device.kind))
        if lacks := _unloaded(_CUDNN):
            return failed(device, "", lacks)
        (answer,) = session.run(None, {"x": np.array([-1, 2], np.float32).reshape(2, 1, 1, 1)})
        right = answer.ravel().tolist() == [0, 4]
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        return failed(device, str(error).strip().split("\n", 1)[0], _loading(device.kind))
    return "" if right else f"{device} computes wrong numbers; look at nvidia-smi and dmesg"


def failed(device: Device, said: str, loading: str) -> str:
    """What to mend where a trial came to nothing.

    Args:
        device: that was tried.
        said: by ONNX Runtime; empty where it kept silent.
        loading: what the system's loader says of the libraries; empty where it loads them.
    """
    if loading:
        kind = "TensorRT's" if device.kind == TENSORRT else "CUDA's"
        return f"{kind} provider cannot be loaded ({loading}); {_WHEELS[device.kind]}"
    if full(said):
        return f"the memory of {device} is full; nvidia-smi shows who holds it"
    said = said or "ONNX Runtime does not say why"
    return f"{device} cannot run a node ({said}); look at nvidia-smi and dmesg"


def _loading(kind: str) -> str:
    """Why a provider's library cannot be loaded, by the system's own loader; empty where it can.

    Only where ONNX Runtime has tried before: whoever loads the provider's library first leaves it
    without its host.
    """
    if ort.__file__ is None:
        return "ONNX Runtime's files are gone"
    package = Path(ort.__file__).parent / "capi"
    shared, own = (package / f"libonnxruntime_providers_{name}.so" for name in ("shared", kind))
    return _unloaded(str(shared), ctypes.RTLD_GLOBAL) or _unloaded(str(own))


def _unloaded(library: str, mode: int = ctypes.DEFAULT_MODE) -> str:
    try:
        ctypes.CDLL(library, mode)
    except OSError as error:
        return str(error)
    return ""


def graph() -> bytes:
    """An ONNX file, y = Relu(Conv(x, 2)) of any number of float32 (as onnx.proto has it)."""
    floats = b"\x08\x01"  # elem_type, and data_type of a weight behind its own tag: FLOAT
    one = _field(1, b"\x08\x01")  # dim { dim_value: 1 }
    shape = _field(2, _field(1, _field(2, b"n")) + 3 * one)  # the first: dim { dim_param }
    kind = _field(2, _field(1, floats + shape))  # type { tensor_type }
    two = np.array([2], "<f4").tobytes()
    weight = 4 * b"\x08\x01" + b"\x10\x01" + _field(8, b"w") + _field(9, two)
    conv = _field(1, b"x") + _field(1, b"w") + _field(2, b"c") + _field(4, b"Conv")
    relu = _field(1, b"c") + _field(2, b"y") + _field(4, b"Relu")
    ends = _field(11, _field(1, b"x") + kind) + _field(12, _field(1, b"y") + kind)
    graph = _field(1, conv) + _field(1, relu) + _field(2, b"trial") + _field(5, weight) + ends
    return b"\x08\x08" + _field(8, b"\x10\x0d") + _field(7, graph)  # IR version 8, operators' 13


def _field(number: int, content: bytes) -> bytes:
    """One whose content has less than 16,384 bytes."""
    low, high = len(content) & 127, len(content) >> 7
    length = bytes((low | 128, high)) if high else bytes((low,))
    return bytes((number << 3 | 2,)) + length + content
