"""What ONNX Runtime says of GPUs here, whatever is here."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service import trial
from service.devices import Device

CUDA, TENSORRT = Device("cuda", 1), Device("tensorrt", 0)


def test_graph_that_is_tried_is_onnx_and_needs_cudnn() -> None:
    graph = onnx.load_model_from_string(trial.graph())
    onnx.checker.check_model(graph, full_check=True)
    assert [node.op_type for node in graph.graph.node] == ["Conv", "Relu"]


def test_graph_that_is_tried_answers_as_is_expected_of_a_gpu() -> None:
    session = ort.InferenceSession(trial.graph(), providers=["CPUExecutionProvider"])
    rows = np.array([-1, 2], np.float32).reshape(2, 1, 1, 1)
    assert session.run(None, {"x": rows})[0].ravel().tolist() == [0, 4]


@pytest.mark.parametrize("kind", ["cuda", "tensorrt"])
def test_gpu_that_is_not_there_is_told_in_one_sentence(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = trial.missing(Device(kind, 999))
    assert said and "\n" not in said
    # With good wheels and a GPU the number alone is wrong.
    assert ("cannot be loaded (" in said and "; pip install '" in said) or f"{kind}:999" in said
    assert not capfd.readouterr().out  # where `serve` writes one line of JSON


@pytest.mark.parametrize(
    ("device", "said", "loading", "sentence"),
    [
        (CUDA, "", "libcudnn.so.9: cannot open",
         "CUDA's provider cannot be loaded (libcudnn.so.9: cannot open); "
         "pip install 'farthing[gpu]'"),
        (TENSORRT, "Please install TensorRT libraries", "libnvinfer.so.10: cannot open",
         "TensorRT's provider cannot be loaded (libnvinfer.so.10: cannot open); "
         "pip install 'tensorrt-cu13>=10,<11'"),
        (CUDA, "CUDA failure 2: out of memory ; GPU=1", "",
         "the memory of cuda:1 is full; nvidia-smi shows who holds it"),
        (CUDA, "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", "",
         "the memory of cuda:1 is full; nvidia-smi shows who holds it"),
        (CUDA, "CUDA failure 209: no kernel image is available", "",
         "cuda:1 cannot run a node (CUDA failure 209: no kernel image is available); "
         "look at nvidia-smi and dmesg"),
        (CUDA, "", "",
         "cuda:1 cannot run a node (ONNX Runtime does not say why); look at nvidia-smi and dmesg"),
    ],
)  # fmt: skip
def test_only_what_pip_mends_is_told_to_be_mended_by_pip(
    device: Device, said: str, loading: str, sentence: str
) -> None:
    assert trial.failed(device, said, loading) == sentence
