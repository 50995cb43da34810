"""Trained models in their own frameworks -> ONNX; everything here runs in a child process.

``python -m converter.exporters DIRECTORY`` reads ``request.json`` there, and leaves the graph and
the framework's own answers beside it. The parent (``converter.sources``) believes neither: it
checks the graph, loads it and compares the answers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of trained model.

    Attributes:
        module: the module of this package whose ``load(request)`` gives it as ``Trained``.
        routes: ways to ONNX, in the order in which they are tried.
        extra: what brings its framework.
    """

    module: str
    routes: tuple[str, ...]
    extra: str


_TRACED = ("torch.export", "TorchScript")

KINDS = {
    "keras": Kind("keras_model", ("ExportArchive", "from_function"), "keras"),
    "keras-2": Kind("keras2_model", ("tf-keras signature",), "keras2"),
    "saved-model": Kind("saved_model", ("tf2onnx",), "keras"),
    "tflite": Kind("tflite_model", ("tf2onnx",), "keras"),
    "torch-program": Kind("torch_program", _TRACED, "torch"),
    "torchscript": Kind("torch_script", ("TorchScript",), "torch"),
    "torch-factory": Kind("torch_factory", _TRACED, "torch"),
    "huggingface": Kind("huggingface", _TRACED, "hf"),
    "sklearn": Kind("sklearn_model", ("skl2onnx",), "sklearn"),
}
