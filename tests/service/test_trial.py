"""What ONNX Runtime says of GPUs here, whatever is here."""

from __future__ import annotations

import onnx
import pytest

from service import trial
from service.devices import Device


def test_graph_that_is_tried_is_onnx_with_one_node() -> None:
    graph = onnx.load_model_from_string(trial.graph())
    onnx.checker.check_model(graph, full_check=True)
    assert [node.op_type for node in graph.graph.node] == ["Relu"]


@pytest.mark.parametrize("kind", ["cuda", "tensorrt"])
def test_gpu_that_is_not_there_is_told_with_a_package_to_install(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = trial.missing(Device(kind, 999))
    assert "cannot be loaded (" in said and "; pip install '" in said and "\n" not in said
    assert not capfd.readouterr().out  # where `serve` writes one line of JSON
