"""Parameters of a request: what is taken, passed over and refused."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc._utils import _get_inference_request

from service.errors import InvalidInput
from service.parameters import Limits, Parameters, parameters
from service.proto import inference_pb2 as pb


def request(**given: dict[str, Any]) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest()
    for name, value in given.items():
        made.parameters[name].CopyFrom(pb.InferParameter(**value))
    return made


def from_triton(**more: Any) -> pb.ModelInferRequest:
    """As Triton's client writes it."""
    given = {"model_name": "m", "inputs": [], "model_version": "", "request_id": "",
             "outputs": None, "sequence_id": 0, "sequence_start": False, "sequence_end": False,
             "priority": 0, "timeout": None, "parameters": None, **more}  # fmt: skip
    return pb.ModelInferRequest.FromString(_get_inference_request(**given).SerializeToString())


def test_request_without_parameters_leaves_all_to_the_model() -> None:
    assert parameters(pb.ModelInferRequest()) == Parameters(0, None) == parameters(from_triton())


def test_priority_and_timeout_of_tritons_client_arrive() -> None:
    given = parameters(from_triton(priority=3, timeout=1500, parameters={"mine": "x"}))
    assert given == Parameters(priority=3, timeout_s=0.0015)


@pytest.mark.parametrize("sequence", [7, "seven"])
def test_sequences_are_taken_without_effect(sequence: int | str) -> None:
    given = from_triton(sequence_id=sequence, sequence_start=True, sequence_end=True)
    assert parameters(given) == Parameters()


def test_timeout_of_zero_is_none() -> None:
    assert parameters(request(timeout={"uint64_param": 0})).timeout_s is None


def test_stream_may_ask_for_an_empty_final_response() -> None:
    name = "triton_enable_empty_final_response"
    assert parameters(request(**{name: {"bool_param": True}})) == Parameters()


WRONG: list[tuple[str, dict[str, Any]]] = [
    *((name, value)
      for name in ("priority", "timeout")
      for value in ({"int64_param": -1}, {"string_param": "1"}, {"double_param": 1.0},
                    {"bool_param": True}, {})),
    ("sequence_id", {"double_param": 1.0}),
    ("sequence_start", {"int64_param": 1}),
    ("sequence_end", {"string_param": "true"}),
    ("triton_enable_empty_final_response", {"int64_param": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_parameter_of_another_type_or_range_is_refused(name: str, value: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"parameter '{name}' is .* it takes "):
        parameters(request(**{name: value}))


@pytest.mark.parametrize("name", ["triton_final_response", "triton_", "triton_" + "x" * 200])
def test_reserved_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is reserved; leave it out") as refused:
        parameters(request(**{name: {"bool_param": True}}))
    assert len(str(refused.value)) < 150


def test_unknown_names_are_passed_over() -> None:
    assert parameters(request(mine={"double_param": 1.0}, binary_data_output={})) == Parameters()


def test_too_many_or_too_long_parameters_are_refused() -> None:
    limits = Limits(max_tensors=2, max_name=16)
    with pytest.raises(InvalidInput, match="3 parameters; this server takes at most 2"):
        parameters(request(a={}, b={}, c={}), limits=limits)
    with pytest.raises(InvalidInput, match="a parameter is longer than the 16 bytes"):
        parameters(request(**{"x" * 17: {}}), limits=limits)
    with pytest.raises(InvalidInput, match="a sequence is longer than the 16 bytes"):
        parameters(request(sequence_id={"string_param": "x" * 17}), limits=limits)
