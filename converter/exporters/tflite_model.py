"""A TFLite file -> ONNX, where tf2onnx can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from converter.exporters import tf_graph
from converter.exporters.trained import Arrays, NotExportable, Request, Trained, first_line
from service.manifest import TensorSpec

# Of TFLite's integer kernels, against the same weights in float32.
_NOISE = 0.05
_QUANTIZED = (
    "holds int8 weights already, and the export computes with them in float32; from the float "
    "model more can be had"
)


def load(request: Request) -> Trained:
    """A ``.tflite`` file; its tensors are called as its signature says, where it has one.

    Raises:
        NotExportable: TFLite's interpreter cannot load it.
    """
    try:
        interpreter = tf.lite.Interpreter(model_path=str(request.source))
        interpreter.allocate_tensors()
    except Exception as error:  # a damaged file raises nearly anything
        raise NotExportable(f"TFLite cannot load {request.source}: {first_line(error)}") from error
    named = _names(interpreter)
    inputs = tuple(_spec(detail, named) for detail in interpreter.get_input_details())
    outputs = tuple(_name(detail, named) for detail in interpreter.get_output_details())

    def answer(feeds: Arrays) -> dict[str, Any]:
        for detail, spec in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.resize_tensor_input(detail["index"], feeds[spec.name].shape)
        interpreter.allocate_tensors()
        for detail, spec in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(detail["index"], feeds[spec.name])
        interpreter.invoke()
        details = zip(interpreter.get_output_details(), outputs, strict=True)
        return {name: interpreter.get_tensor(detail["index"]) for detail, name in details}

    def write(target: Path) -> None:
        tf_graph.write_tflite(request.source, target)
        tf_graph.rename(target, inputs, outputs)

    quantized = any(
        detail["quantization_parameters"]["scales"].size
        for detail in interpreter.get_tensor_details()
    )
    return Trained(
        inputs,
        outputs,
        answer,
        write,
        tf_graph.tools(),
        notes=(_QUANTIZED,) if quantized else (),
        noise=_NOISE if quantized else 0.0,
    )


def _names(interpreter: Any) -> dict[str, str]:
    """Tensor -> its name in the signature, where the file has exactly one."""
    if len(interpreter.get_signature_list()) != 1:
        return {}
    runner = interpreter.get_signature_runner()
    details = {**runner.get_input_details(), **runner.get_output_details()}
    return {str(detail["name"]): name for name, detail in details.items()}


def _name(detail: dict[str, Any], named: dict[str, str]) -> str:
    tensor = str(detail["name"])
    # ``serving_default_x:0`` is what the converter makes of ``x``.
    return named.get(tensor, tensor.removeprefix("serving_default_").partition(":")[0])


def _spec(detail: dict[str, Any], named: dict[str, str]) -> TensorSpec:
    name = _name(detail, named)
    shape = tuple(int(size) for size in detail["shape_signature"])
    return TensorSpec(name, tf_graph.datatype(name, detail["dtype"].__name__), shape)
