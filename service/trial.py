"""Whether ONNX Runtime runs a node on a GPU here, tried once; or the sentence what is missing.

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

from service.devices import TENSORRT, Device
from service.providers import NAMES, TENSORRT_WHEEL

_PACKAGE = Path(ort.__file__).parent / "capi"


def offered() -> tuple[str, ...]:
    """Kinds of devices that the installed wheel was built for, e.g. ``cuda``."""
    built = ort.get_available_providers()
    return tuple(kind for kind, provider in NAMES.items() if provider in built)


def wheel() -> str:
    """The installed ONNX Runtime, as messages name it."""
    return f"onnxruntime {ort.__version__}"


def missing(device: Device) -> str:
    """What keeps ONNX Runtime from running a node on this GPU; empty where nothing does."""
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
            return _unloadable(device.kind)
        (answer,) = session.run(None, {"x": np.array([-1, 2], np.float32)})
        right = answer.tolist() == [0, 2]
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        return _unloadable(device.kind, str(error).strip().split("\n", 1)[0])
    return "" if right else f"{device} computes wrong numbers; look at nvidia-smi and dmesg"


def _unloadable(kind: str, said: str = "") -> str:
    """Why a provider is not there, by the system's own loader.

    Only where ONNX Runtime has tried before: whoever loads the provider's library first leaves it
    without its host.
    """
    shared, own = (_PACKAGE / f"libonnxruntime_providers_{name}.so" for name in ("shared", kind))
    try:
        ctypes.CDLL(str(shared), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(own))
    except OSError as error:
        said = str(error)
    why = said or "ONNX Runtime does not say why"
    if kind == TENSORRT:
        return f"TensorRT's provider cannot be loaded ({why}); {TENSORRT_WHEEL}"
    return f"CUDA's provider cannot be loaded ({why}); pip install 'farthing[gpu]'"


def graph() -> bytes:
    """An ONNX file with one node, y = Relu(x) of any number of float32 (as onnx.proto has it)."""
    shape = _field(2, _field(1, _field(2, b"n")))  # dim { dim_param }
    kind = _field(2, _field(1, b"\x08\x01" + shape))  # type { tensor_type { elem_type: FLOAT } }
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Relu")
    ends = _field(11, _field(1, b"x") + kind) + _field(12, _field(1, b"y") + kind)
    graph = _field(1, node) + _field(2, b"trial") + ends
    return b"\x08\x08" + _field(8, b"\x10\x0d") + _field(7, graph)  # IR version 8, operators' 13


def _field(number: int, content: bytes) -> bytes:
    return bytes((number << 3 | 2, len(content))) + content
