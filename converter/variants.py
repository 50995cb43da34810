"""fp32 ONNX -> cheaper candidates. What they are worth is decided elsewhere, by measuring.

Each function requires a checked fp32 graph, writes one file, and ensures nothing more. The choices
(types by CPU, which operators, always pre-process) and what goes wrong otherwise are measured in
CONTRIBUTING.md's design notes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
import service.session  # noqa: F401  # isort: skip

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from converter.samples import Samples
from service import hardware
from service.errors import FarthingError

_CALIBRATION_BATCH = 32
_DYNAMIC_OPERATORS = ("MatMul", "Gemm", "Gather")


class VariantFailed(FarthingError):
    """A candidate could not be built, with the reason."""


@dataclass(frozen=True)
class Build:
    """How to make one variant.

    Attributes:
        make: (fp32 file, file to write, calibration rows or None) -> None.
        needs_calibration: whether it cannot be made without calibration rows.
        device: where it is meant to be fast; speed is only gated on that device.
    """

    make: Callable[[Path, Path, Samples | None], None]
    needs_calibration: bool = False
    device: str = "cpu"


def to_fp16(reference: Path, target: Path, calibration: Samples | None) -> None:
    """Weights and arithmetic in half precision; inputs and outputs stay as they are."""
    onnx.save(convert_float_to_float16(onnx.load(reference), keep_io_types=True), target)


def to_int8_dynamic(reference: Path, target: Path, calibration: Samples | None) -> None:
    """int8 weights for matrix products, activations scaled at run time; needs no data.

    Convolutions stay in fp32: as ConvInteger they run 4 to 10 times slower on x86.
    """
    with _prepared(reference, target) as prepared:
        quantize_dynamic(
            prepared,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(_DYNAMIC_OPERATORS),
        )


def to_int8_static(reference: Path, target: Path, calibration: Samples | None) -> None:
    """int8 weights and activations with ranges from calibration rows, as QDQ per channel.

    On x86 activations are unsigned (U8S8: 3.3x on ResNet50 where the default S8S8 gives 1.5x);
    without VNNI the range is reduced, since 8 x 8 bit products saturate there.

    Raises:
        VariantFailed: no calibration rows.
    """
    if calibration is None:
        raise VariantFailed("needs calibration rows")
    x86 = platform.machine() in ("x86_64", "AMD64")
    with _prepared(reference, target) as prepared:
        quantize_static(
            prepared,
            target,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8 if x86 else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=x86 and not hardware.has_vnni(),
            calibrate_method=CalibrationMethod.MinMax,
        )


VARIANTS: dict[str, Build] = {
    "fp16": Build(to_fp16, device="gpu"),
    "int8-dynamic": Build(to_int8_dynamic),
    "int8-static": Build(to_int8_static, needs_calibration=True),
}


@contextmanager
def _prepared(reference: Path, target: Path) -> Iterator[Path]:
    """The reference with shapes inferred and operators fused, as the quantizers need it.

    Without it MobileNetV2 gains 1.23x from int8 instead of 2.39x.
    """
    path = target.with_suffix(".prepared.onnx")
    try:
        try:
            quant_pre_process(reference, path)
        except Exception:  # "Incomplete symbolic shape inference" is a bare Exception
            quant_pre_process(reference, path, skip_symbolic_shape=True)
        yield path
    finally:
        path.unlink(missing_ok=True)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows in batches, as onnxruntime.quantization asks for them."""

    def __init__(self, rows: Samples) -> None:
        self._batches: Iterator[dict[str, Any]] = (
            rows.slice(start, start + _CALIBRATION_BATCH)
            for start in range(0, len(rows), _CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
