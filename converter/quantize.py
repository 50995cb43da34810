"""int8 by ``onnxruntime.quantization``: pre-processed once, calibrated once, quantized often.

The choices (types by CPU, which operators, always pre-process) and what goes wrong otherwise are
measured in CONTRIBUTING.md's design notes.
"""

from __future__ import annotations

import hashlib
import io
import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
import service.session  # noqa: F401  # isort: skip

import numpy as np
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

from converter import graphs
from converter.samples import Samples
from service import hardware
from service.errors import FarthingError

_CALIBRATION_BATCH = 16
_BATCH_BYTES = 2_000_000
_HISTOGRAM_BYTES = 5_000_000
_HISTOGRAM_ROWS = 64
# Convolutions stay in fp32: as ConvInteger they run 4 to 10 times slower on x86.
DYNAMIC_OPERATORS = ("MatMul", "Gemm", "Gather")
# Of a transformer only these: with all operators quantized, agreement falls to 80 %.
_PRODUCTS = ("Conv", "MatMul", "Gemm")
_CALIBRATORS = {
    "MinMax": CalibrationMethod.MinMax,
    "Percentile": CalibrationMethod.Percentile,
}

_FOR_TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    "DedicatedQDQPair": True,
}


class UnknownNode(FarthingError):
    """An exclusion that names no node: it would silently do nothing."""


def prepare(reference: Path, target: Path) -> Path:
    """The reference with shapes inferred, operators fused and every node named.

    Without it MobileNetV2 gains 1.23x from int8 instead of 2.39x.
    """
    reference, target = reference.resolve(), target.resolve()
    # Where it fails it leaves a copy of the graph in the current directory.
    with _quiet(), chdir(target.parent):
        try:
            quant_pre_process(reference, target)
        except Exception:  # "Incomplete symbolic shape inference" is a bare Exception
            quant_pre_process(reference, target, skip_symbolic_shape=True)
    model = onnx.load(target)
    name_nodes(model)
    graphs.write(model, target)
    return target


def name_nodes(model: onnx.ModelProto) -> None:
    """Give nodes without a name one, since exclusion goes by names."""
    taken = {node.name for node in model.graph.node}
    for index, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
            taken.add(node.name)


class Static:
    """Static int8 of one prepared graph, with ranges from calibration rows.

    QDQ per channel. On x86 activations are unsigned (U8S8: 3.3x on ResNet50 where the default S8S8
    gives 1.5x); without VNNI the range is reduced, since 8 x 8 bit products saturate there.
    TensorRT takes signed, symmetric numbers only, weights and biases as floats behind which the
    pairs stand (onnxruntime-inference-examples, quantization/nlp/bert/trt).

    Attributes:
        prepared: the graph, as ``prepare`` left it.
    """

    def __init__(
        self,
        prepared: Path,
        calibration: Samples,
        calibrator: str = "MinMax",
        *,
        symmetric: bool = False,
    ) -> None:
        """Hold a graph and rows.

        Args:
            prepared: see ``prepare``.
            calibration: rows that set the ranges; read once.
            calibrator: ``MinMax`` or ``Percentile`` (Entropy fails on transformers' constants).
            symmetric: for TensorRT, not for this CPU.
        """
        self._symmetric = symmetric
        self.prepared = prepared
        self._calibration = calibration
        if calibrator != "MinMax":  # it keeps every activation of every row in memory
            few = min(_HISTOGRAM_ROWS, max(4, _HISTOGRAM_BYTES // _row_bytes(calibration)))
            self._calibration = calibration.part(np.arange(min(few, len(calibration))))
        self._method = _CALIBRATORS[calibrator]
        self._ranges = prepared.with_suffix(f".{calibrator}.json")
        model = onnx.load(prepared, load_external_data=False)
        self._nodes = {node.name for node in model.graph.node}
        kinds = [node.op_type for node in model.graph.node]
        products = kinds.count("MatMul") + kinds.count("Gemm")
        self._operators = list(_PRODUCTS) if products > kinds.count("Conv") else None

    def write(self, target: Path, *, only: Sequence[str] = (), without: Sequence[str] = ()) -> None:
        """Quantize.

        Args:
            target: the file to write.
            only: names of the nodes to quantize; all, if empty.
            without: names of nodes to leave in fp32.

        Raises:
            UnknownNode: a name is no node's.
        """
        check_names(self._nodes, (*only, *without))
        x86 = platform.machine() in ("x86_64", "AMD64") and not self._symmetric
        with _quiet():
            quantize_static(
                self.prepared,
                target,
                _Reader(self._calibration, even=self._method != CalibrationMethod.MinMax),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=self._operators,
                activation_type=QuantType.QUInt8 if x86 else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=x86 and not hardware.has_vnni(),
                nodes_to_quantize=list(only) or None,
                nodes_to_exclude=list(without) or None,
                calibrate_method=self._method,
                calibration_cache_path=self._ranges,
                extra_options={"CalibPercentile": 99.99}
                | (_FOR_TENSORRT if self._symmetric else {}),
            )

    def ranges_sha256(self) -> str:
        """Digest of the ranges, once something was written."""
        return hashlib.sha256(self._ranges.read_bytes()).hexdigest()


def write_dynamic(
    prepared: Path, target: Path, *, only: Sequence[str] = (), without: Sequence[str] = ()
) -> None:
    """int8 weights for matrix products, activations scaled at run time; needs no data.

    Args:
        prepared: see ``prepare``.
        target: the file to write.
        only: names of the nodes to quantize; all, if empty.
        without: names of nodes to leave in fp32.

    Raises:
        UnknownNode: a name is no node's.
    """
    model = onnx.load(prepared, load_external_data=False)
    check_names({node.name for node in model.graph.node}, (*only, *without))
    with _quiet():
        quantize_dynamic(
            prepared,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
            nodes_to_quantize=list(only) or None,
            nodes_to_exclude=list(without) or None,
        )


def check_names(nodes: set[str], named: Sequence[str]) -> None:
    """Refuse names that match no node: the quantizer ignores them without a word.

    Raises:
        UnknownNode: with the first of them.
    """
    unknown = set(named) - nodes
    if unknown:
        raise UnknownNode(f"the graph has no node '{min(unknown)}', so excluding it does nothing")


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer warns the root logger about what we do on purpose, and prints."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(before)


def _row_bytes(rows: Samples) -> int:
    return max(1, sum(array[:1].nbytes for array in rows.feeds.values()))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows in batches, as onnxruntime.quantization asks for them."""

    def __init__(self, rows: Samples, *, even: bool) -> None:
        # All activations of a batch are kept at once, some 100 MB a row of ResNet50.
        most = max(1, min(_CALIBRATION_BATCH, _BATCH_BYTES // _row_bytes(rows)))
        whole, size = len(rows), min(most, len(rows))
        if even:  # the histogram calibrators fail on a last, smaller batch
            divisor = max(n for n in range(1, most + 1) if len(rows) % n == 0)
            size = divisor if divisor >= most // 2 else size
            whole -= whole % size
        self._batches: Iterator[dict[str, Any]] = (
            rows.slice(start, min(start + size, whole)) for start in range(0, whole, size)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
