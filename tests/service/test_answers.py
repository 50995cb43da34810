"""The outputs that a request wants: which, as they are or classified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferRequestedOutput, InferResult
from tritonclient.grpc import service_pb2 as triton

from service import answers
from service.errors import InvalidInput, Unsupported
from service.manifest import TensorSpec
from service.parameters import Limits
from service.proto import inference_pb2 as pb

OUTPUTS = [TensorSpec(name, "FP32", (-1, 3)) for name in ("scores", "labels", "boxes")]


def asking(*names: str) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for name in names:
        request.outputs.add(name=name)
    return request


def test_request_that_names_no_output_gets_all() -> None:
    wanted = answers.requested_outputs(asking(), OUTPUTS)
    assert wanted == [answers.Wanted(spec) for spec in OUTPUTS]


def test_only_requested_outputs_are_encoded_in_the_requests_order() -> None:
    wanted = answers.requested_outputs(asking("boxes", "scores"), OUTPUTS)
    response, row = pb.ModelInferResponse(), np.zeros((1, 3), np.float32)
    answers.encode(response, {"scores": row, "labels": row, "boxes": row + 1}, wanted)
    assert [output.name for output in response.outputs] == ["boxes", "scores"]
    assert list(response.raw_output_contents) == [(row + 1).tobytes(), row.tobytes()]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(["masks"], "no output 'masks'"), (["boxes", "boxes"], "'boxes' is asked for twice")],
)
def test_unknown_or_repeated_output_is_refused(names: list[str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refused:
        answers.requested_outputs(asking(*names), OUTPUTS)
    assert refused.value.status == "INVALID_ARGUMENT"


def asking_classes(count: Any, name: str = "scores") -> pb.ModelInferRequest:
    """As Triton's client asks."""
    output = InferRequestedOutput(name, class_count=count)
    message = triton.ModelInferRequest(outputs=[output._get_tensor()])
    return pb.ModelInferRequest.FromString(message.SerializeToString())


def test_classes_are_answered_as_texts_that_tritons_client_reads() -> None:
    wanted = answers.requested_outputs(asking_classes(2), OUTPUTS)
    response = pb.ModelInferResponse()
    scores = np.array([[1, 3, 2], [6, 5, 4]], np.float32)
    labels = {"scores": ("cat", "dog"), "boxes": ("none",)}
    answers.encode(response, {"scores": scores}, wanted, labels=labels, batched=True)
    result = InferResult(triton.ModelInferResponse.FromString(response.SerializeToString()))
    assert result.get_output("scores").datatype == "BYTES"
    assert result.as_numpy("scores").tolist() == [
        [b"3.000000:1:dog", b"2.000000:2"], [b"6.000000:0:cat", b"5.000000:1:dog"],
    ]  # fmt: skip


def test_classes_of_a_model_without_a_batch_have_one_dimension() -> None:
    wanted, response = (
        answers.requested_outputs(asking_classes(1), OUTPUTS),
        pb.ModelInferResponse(),
    )
    scores = np.array([[1, 3, 2]], np.float32)
    answers.encode(response, {"scores": scores}, wanted, batched=False)
    assert list(response.outputs[0].shape) == [1]
    assert response.raw_output_contents[0][4:] == b"3.000000:1"


def parameter(name: str, **value: Any) -> pb.ModelInferRequest:
    request = asking("scores")
    request.outputs[0].parameters[name].CopyFrom(pb.InferParameter(**value))
    return request


@pytest.mark.parametrize(
    "value",
    [{"int64_param": 0}, {"int64_param": -1}, {"string_param": "3"}, {"bool_param": True},
     {"double_param": 2.0}, {}],
)  # fmt: skip
def test_classes_that_are_no_positive_number_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="'classification'"):
        answers.requested_outputs(parameter("classification", **value), OUTPUTS)


def test_classes_of_strings_are_refused() -> None:
    outputs = [TensorSpec("scores", "BYTES", (-1, 3))]
    with pytest.raises(InvalidInput, match="'scores' holds strings"):
        answers.requested_outputs(asking_classes(1), outputs)


def test_parameters_of_other_protocols_are_passed_over() -> None:
    wanted = answers.requested_outputs(parameter("binary_data", bool_param=True), OUTPUTS)
    assert wanted == [answers.Wanted(OUTPUTS[0])]


def test_shared_memory_that_is_switched_off_is_refused_with_the_switch() -> None:
    request = parameter("shared_memory_region", string_param="r")
    with pytest.raises(Unsupported, match="--control shared-memory"):
        answers.requested_outputs(request, OUTPUTS)


def test_more_or_longer_names_of_outputs_than_the_limit_are_refused() -> None:
    with pytest.raises(InvalidInput, match="3 outputs; this server takes at most 2"):
        answers.requested_outputs(asking("a", "b", "c"), OUTPUTS, limits=Limits(max_tensors=2))
    with pytest.raises(InvalidInput, match="name of an output is longer than the 5 bytes"):
        answers.requested_outputs(asking("scores"), OUTPUTS, limits=Limits(max_name=5))
