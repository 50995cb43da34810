"""Fields are counted as protobuf would make them, without making them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.encoded import has_more_fields
from service.proto import inference_pb2 as pb


def test_every_element_of_a_repeated_field_counts() -> None:
    request = pb.ModelInferRequest(model_name="m" * 300, raw_input_contents=[b"", bytes(70_000)])
    for number in range(20):
        request.inputs.add(name=f"input{number}", shape=[1, 2, 3])
        request.parameters[f"parameter{number}"].int64_param = number
    data = request.SerializeToString()
    assert has_more_fields(data, 42)
    assert not has_more_fields(data, 43)


def test_numbers_that_are_packed_count_once() -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(shape=range(1000))
    assert not has_more_fields(tensor.SerializeToString(), 1)


def test_fields_of_every_kind_are_stepped_over() -> None:
    varint, fixed64, text, fixed32 = b"\x08\x96\x01", b"\x09" + bytes(8), b"\x0a\x01a", b"\x0d1234"
    group = b"\x0b\x08\x01\x0c"  # its start, one field and its end
    data = varint + fixed64 + text + fixed32 + group
    assert has_more_fields(data, 6)
    assert not has_more_fields(data, 7)


def test_millions_of_empty_messages_are_too_many() -> None:
    assert has_more_fields(b"\x2a\x00" * 2_000_000, 16384)


@pytest.mark.parametrize("data", [b"\x0f" * 9, b"\xff" * 99, b"\x0a\xff\xff\xff\x7f1234", b"\x08"])
def test_bytes_that_are_no_message_are_left_to_the_parser(data: bytes) -> None:
    assert not has_more_fields(data, 1)


@given(st.binary(max_size=200), st.integers(0, 50))
def test_no_bytes_raise(data: bytes, most: int) -> None:
    assert has_more_fields(data, most) in (True, False)


def test_fields_of_submessages_count_where_the_type_is_known() -> None:
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x")
    for number in range(30):
        tensor.parameters[str(number)].bool_param = True
    data, message = request.SerializeToString(), pb.ModelInferRequest.DESCRIPTOR
    everything = 1 + 1 + 30 * 4  # the input, its name, and for each an entry, key, value and choice
    assert not has_more_fields(data, everything, message)
    assert has_more_fields(data, everything - 1, message)
    assert not has_more_fields(data, 1)


def test_elements_of_a_tensor_are_no_fields() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add().contents.bytes_contents.extend([b""] * 1000)
    assert not has_more_fields(request.SerializeToString(), 2, pb.ModelInferRequest.DESCRIPTOR)


@given(st.binary(max_size=200), st.integers(0, 50))
def test_no_bytes_raise_where_the_type_is_known(data: bytes, most: int) -> None:
    assert has_more_fields(data, most, pb.ModelInferRequest.DESCRIPTOR) in (True, False)
