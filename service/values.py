"""A run on arrays of the host, which go to ONNX Runtime, and come back, as it can take them.

BF16 has no dtype in numpy. Its arrays hold the bits, and travel as OrtValues; models without it
take the plain way.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
from service import runtime  # noqa: F401  # isort: skip

import numpy as np
import onnxruntime as ort

from service.staging import BF16_IN_ONNX

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Plain:
    """A run on arrays of the host, where ONNX Runtime copies what a GPU needs.

    Attributes:
        names: of all outputs.
        bf16_inputs: names of those that are BF16.
        bf16_outputs: likewise.
        options: of the run.
    """

    names: list[str]
    bf16_inputs: frozenset[str]
    bf16_outputs: frozenset[str]
    options: Any

    def run(
        self, session: Any, feeds: Arrays, options: Any = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """One array for each output.

        Args:
            session: of ONNX Runtime.
            feeds: one array for each input.
            options: instead of those of all runs.
        """
        if self.bf16_outputs:
            return self._run_on_values(session, feeds, options or self.options)
        if self.bf16_inputs:
            feeds = {n: _bf16_value(a) if n in self.bf16_inputs else a for n, a in feeds.items()}
        outputs = session.run(self.names, feeds, options or self.options)
        return dict(zip(self.names, outputs, strict=True))

    def _run_on_values(
        self, session: Any, feeds: Arrays, options: Any
    ) -> dict[str, np.ndarray[Any, Any]]:
        values = {
            name: _bf16_value(array)
            if name in self.bf16_inputs
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        outputs = session.run_with_ort_values(self.names, values, options)
        return {
            name: _bf16_bits(value) if name in self.bf16_outputs else value.numpy()
            for name, value in zip(self.names, outputs, strict=True)
        }


def _bf16_value(bits: np.ndarray[Any, Any]) -> Any:
    # ONNX Runtime takes the address as it is: of a strided view it would read what lies between.
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
        np.asarray(bits, dtype="<u2", order="C"), BF16_IN_ONNX
    )


def _bf16_bits(value: Any) -> np.ndarray[Any, Any]:
    shape: Sequence[int] = value.shape()
    size = 2 * math.prod(shape)
    # A copy, since the memory is the value's; ``value.numpy()`` knows no BF16.
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(data, dtype="<u2").reshape(shape)
