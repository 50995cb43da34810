"""Pure: which of ONNX Runtime's providers runs a graph on a device, with which options."""

from __future__ import annotations
