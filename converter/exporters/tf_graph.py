"""A TensorFlow signature -> ONNX by tf2onnx, with what its version 1.17 needs mended.

What is mended: exact GELU (tensorflow-onnx issue 2463: ``tf.nn.gelu`` lowers to Erfc, for which
there is no handler), memory (each of some 24 passes leaves a cyclic copy of the whole graph: 7.0 GB
at ResNet50's peak, 2.6 GB with a collection after each), and numpy 2 (``numpy.product`` is gone,
which only models over 2 GB meet).
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
import tf2onnx.convert
from tf2onnx import optimizer, utils
from tf2onnx.handler import tf_op

from converter.exporters.trained import NotExportable, RouteFailed, first_line
from service.manifest import TensorSpec

OPSET = 17
_DATATYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL", "string": "BYTES",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip


@tf_op("Erfc")
class _Erfc:
    """erfc(x) = 1 - erf(x) = 1 + erf(-x)."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        """Replace one Erfc."""
        source, outputs = node.input[0], node.output
        dtypes, shapes = [ctx.get_dtype(source)], [ctx.get_shape(source)]
        kept = [outputs[0]]
        one = ctx.make_const(
            utils.make_name(node.name), np.array(1, utils.map_onnx_to_numpy_type(dtypes[0]))
        )
        ctx.remove_node(node.name)
        negative = ctx.make_node("Neg", [source], dtypes=dtypes, shapes=shapes)
        erf = ctx.make_node("Erf", negative.output, dtypes=dtypes, shapes=shapes)
        ctx.make_node(
            "Add", [erf.output[0], one.output[0]], outputs=kept, dtypes=dtypes, shapes=shapes
        )


def datatype(name: str, dtype: str) -> str:
    """The wire's name of a TensorFlow dtype.

    Raises:
        NotExportable: there is none.
    """
    if dtype not in _DATATYPES:
        raise NotExportable(f"input '{name}' is {dtype}, which the wire does not have")
    return _DATATYPES[dtype]


def spec(name: str, tensor: Any) -> TensorSpec:
    """The spec of a ``tf.TensorSpec`` under another name.

    Raises:
        NotExportable: it says nothing of its shape, or its dtype is not on the wire.
    """
    if tensor.shape.rank is None:
        raise NotExportable(
            f"input '{name}' may have any number of dimensions; give its tf.TensorSpec a shape, "
            "with None where a size is free"
        )
    shape = tuple(-1 if size is None else int(size) for size in tensor.shape)
    return TensorSpec(name, datatype(name, tensor.dtype.name), shape)


def write_saved_model(directory: Path, signature: str, target: Path) -> None:
    """One signature of a SavedModel -> ONNX.

    Raises:
        RouteFailed: tf2onnx does not know an operator, named in the sentence, or fails.
    """
    _convert(["--saved-model", str(directory), "--signature_def", signature], target)


def write_tflite(source: Path, target: Path) -> None:
    """A TFLite file -> ONNX; raises as above."""
    _convert(["--tflite", str(source)], target)


def write_function(function: Any, target: Path) -> None:
    """A traced ``tf.function`` -> ONNX, without a SavedModel between; raises as above."""
    with _mended():
        tf2onnx.convert.from_function(
            function, function.input_signature, opset=OPSET, output_path=str(target)
        )


def _convert(arguments: list[str], target: Path) -> None:
    before = sys.argv
    sys.argv = ["tf2onnx", *arguments, "--opset", str(OPSET), "--output", str(target)]
    try:
        with _mended():
            tf2onnx.convert.main()
    finally:
        sys.argv = before


class _Heard(logging.Handler):
    """Keeps what tf2onnx only logs: operators that it leaves as they are."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.complaints: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        # A rewriter that fails is skipped, which does no harm.
        if not text.startswith("rewriter"):
            self.complaints.append(text[:200])


@contextmanager
def _mended() -> Iterator[None]:
    """Let tf2onnx work, mended and believed in nothing: an unknown operator it only logs."""
    _mend()
    heard = _Heard()
    logger = logging.getLogger("tf2onnx")
    logger.addHandler(heard)
    try:
        yield
    except SystemExit as error:
        raise RouteFailed(f"tf2onnx ended with {error.code}") from error
    except Exception as error:  # it raises anything
        raise RouteFailed(f"tf2onnx failed: {first_line(error)}") from error
    finally:
        logger.removeHandler(heard)
    if heard.complaints:
        raise RouteFailed(f"tf2onnx cannot convert it: {heard.complaints[0]}")


@cache
def _mend() -> None:
    """Once in a process."""
    if not hasattr(np, "product"):
        np.product = np.prod  # type: ignore[attr-defined]
    # Free each optimizer pass's copy of the graph before the next makes its own.
    for name, factory in list(optimizer._optimizers.items()):
        optimizer._optimizers[name] = _collecting(factory)


def _collecting(factory: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        made = factory()
        optimize = made.optimize

        def collected(*values: Any, **named: Any) -> Any:
            try:
                return optimize(*values, **named)
            finally:
                gc.collect()

        made.optimize = collected
        return made

    return make


def tools() -> dict[str, str]:
    """Versions of what took part."""
    return {"tensorflow": str(tf.__version__), "tf2onnx": metadata.version("tf2onnx")}


def rename(path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> None:
    """Give a graph's inputs and outputs, matched by name or else by order, the framework's names.

    tf2onnx leaves its own marks on some: ``serving_default_x:0``, ``StatefulPartitionedCall:0``.
    """
    model = onnx.load(path)
    wanted = [spec.name for spec in inputs]
    names: dict[str, str] = {}
    for values, kept in ((model.graph.input, wanted), (model.graph.output, list(outputs))):
        found = [value.name for value in values]
        if set(found) != set(kept) and len(found) == len(kept):
            names |= dict(zip(found, _matched(found, kept), strict=True))
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, path)


def _matched(found: list[str], wanted: list[str]) -> list[str]:
    plain = [name.removeprefix("serving_default_").partition(":")[0] for name in found]
    return plain if set(plain) == set(wanted) else wanted
