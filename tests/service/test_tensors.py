"""Wire to numpy and back: every datatype, and every way in which a request can be wrong."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import serialize_byte_tensor

from service import answers, tensors
from service.datatypes import BY_NAME, DATATYPES
from service.errors import InvalidInput
from service.manifest import TensorSpec
from service.parameters import Limits
from service.proto import inference_pb2 as pb

Array = np.ndarray[Any, Any]
NUMERIC = [row.name for row in DATATYPES if row.name != "BYTES"]
RAW_ONLY = [row.name for row in DATATYPES if not row.contents]
TYPED = [row.name for row in DATATYPES if row.contents]


def extremes(datatype: str) -> Array:
    """Two rows of three, with the datatype's smallest and largest values."""
    dtype = BY_NAME[datatype].dtype
    if datatype == "BYTES":
        return np.array([["", "a", "bé"], ["\0", "日本", "x" * 300]], np.object_)
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    limits: Any = np.finfo(dtype) if datatype.startswith("FP") else np.iinfo(dtype)
    return np.array([[limits.min, 0, limits.max], [1, 2, 3]], dtype)


def spec(datatype: str = "FP32", *shape: int, name: str = "x") -> TensorSpec:
    return TensorSpec(name, datatype, shape or (-1, 3))


def raw(
    data: bytes, datatype: str = "FP32", shape: tuple[int, ...] = (1, 3), name: str = "x"
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(raw_input_contents=[data])
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    return request


def typed(
    values: list[Any], datatype: str = "FP32", shape: tuple[int, ...] = (1, 3), field: str = ""
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    contents = request.inputs.add(name="x", datatype=datatype, shape=shape).contents
    getattr(contents, field or BY_NAME[datatype].contents).extend(values)
    return request


def decoded(request: pb.ModelInferRequest, *specs: TensorSpec, batched: bool = True) -> Array:
    return tensors.decode(request, specs or [spec()], batched=batched).feeds["x"]


def refusal(request: pb.ModelInferRequest, *specs: TensorSpec, batched: bool = True) -> str:
    with pytest.raises(InvalidInput) as refused:
        tensors.decode(request, specs or [spec()], batched=batched)
    assert refused.value.status == "INVALID_ARGUMENT"
    return str(refused.value)


@pytest.mark.parametrize("datatype", [row.name for row in DATATYPES])
def test_encoded_answer_sent_back_as_raw_input_is_unchanged(datatype: str) -> None:
    array, response = extremes(datatype), pb.ModelInferResponse()
    answers.encode(response, {"x": array}, [answers.Wanted(spec(datatype))])
    (data,), (output,) = response.raw_output_contents, response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("x", datatype, [2, 3])
    back = decoded(raw(data, datatype, (2, 3)), spec(datatype))
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_arrive_unchanged(datatype: str) -> None:
    array = extremes(datatype)
    values = [v.encode() if datatype == "BYTES" else v for v in array.reshape(-1).tolist()]
    back = decoded(typed(values, datatype, (2, 3)), spec(datatype))
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())


@pytest.mark.parametrize("datatype", NUMERIC)
def test_numeric_raw_contents_are_a_view_not_a_copy(datatype: str) -> None:
    array = extremes(datatype)
    back = decoded(raw(array.tobytes(), datatype, (2, 3)), spec(datatype))
    assert not back.flags.owndata
    assert not back.flags.writeable, "a view of bytes cannot be written to; a copy can"


def test_raw_contents_are_little_endian_and_row_major() -> None:
    back = decoded(raw(struct.pack("<3f3f", *range(6)), shape=(2, 3)))
    assert back.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_array_that_is_a_strided_view_is_encoded_row_major() -> None:
    response, array = pb.ModelInferResponse(), np.arange(6, dtype=np.float32).reshape(3, 2).T
    answers.encode(response, {"x": array}, [answers.Wanted(spec())])
    assert response.raw_output_contents[0] == struct.pack("<6f", 0, 2, 4, 1, 3, 5)


@given(st.lists(st.text(), min_size=1))
def test_strings_of_tritons_client_arrive_and_return_unchanged(strings: list[str]) -> None:
    column = np.array(strings, np.object_).reshape(-1, 1)
    sent = serialize_byte_tensor(column).item()
    back = decoded(raw(sent, "BYTES", column.shape), spec("BYTES", -1, 1))
    assert back.tolist() == column.tolist()
    response = pb.ModelInferResponse()
    answers.encode(response, {"x": back}, [answers.Wanted(spec("BYTES", -1, 1))])
    assert response.raw_output_contents[0] == sent


def test_rows_are_the_first_dimension_of_a_batched_model() -> None:
    request = raw(bytes(24), shape=(2, 3))
    assert tensors.decode(request, [spec()], batched=True).rows == 2
    assert tensors.decode(request, [spec()], batched=False).rows == 1


def test_scalar_input_of_a_model_that_is_not_batched_arrives() -> None:
    scalar = TensorSpec("x", "FP32", ())
    assert decoded(raw(struct.pack("<f", 1.5), shape=()), scalar, batched=False) == 1.5


def test_several_inputs_get_their_own_contents_in_any_order() -> None:
    request = raw(bytes(12))
    request.inputs.add(name="z", datatype="INT8", shape=[1, 1])
    request.raw_input_contents.append(b"\x07")
    rows = tensors.decode(request, [spec("INT8", -1, 1, name="z"), spec()], batched=True)
    assert (rows.feeds["z"].tolist(), rows.feeds["x"].tolist()) == ([[7]], [[0, 0, 0]])


def test_memory_of_the_arrays_is_counted() -> None:
    def held(request: pb.ModelInferRequest, *shape: int) -> int:
        specs = [spec(request.inputs[0].datatype, *shape)]
        return tensors.decode(request, specs, batched=True).nbytes

    assert held(raw(bytes(24), shape=(2, 3))) == 24
    assert held(typed([1.0, 2.0, 3.0])) == 12
    longer, shorter = (held(raw(struct.pack("<I", n) + bytes(n), "BYTES", (1, 1)), -1, 1)
                       for n in (1000, 0))  # fmt: skip
    assert longer - shorter == 1000 and shorter > 8
    assert held(typed([b"x" * 1000], "BYTES", (1, 1)), -1, 1) - shorter >= 990


OPTIONAL = TensorSpec("factor", "FP32", (-1, 1), optional=True)


def test_optional_input_may_be_left_out_or_sent() -> None:
    request = raw(bytes(12))
    assert list(tensors.decode(request, [spec(), OPTIONAL], batched=True).feeds) == ["x"]
    request.inputs.add(name="factor", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(bytes(4))
    assert set(tensors.decode(request, [spec(), OPTIONAL], batched=True).feeds) == {"x", "factor"}


def test_request_that_leaves_out_all_there_is_to_count_rows_by_is_refused() -> None:
    assert "no inputs" in refusal(pb.ModelInferRequest(), OPTIONAL)
    assert tensors.decode(pb.ModelInferRequest(), [OPTIONAL], batched=False).feeds == {}


def test_more_inputs_than_the_limit_are_refused_before_their_names_are_read() -> None:
    request = raw(bytes(12))
    for _ in range(2):
        request.inputs.add(name="y" * 10_000)
    with pytest.raises(InvalidInput, match="has 3 inputs; this server takes at most 2"):
        tensors.decode(request, [spec()], batched=True, limits=Limits(max_tensors=2))


@pytest.mark.parametrize("name", ["y" * 17, "ä" * 9])
def test_input_with_a_name_over_the_limit_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="name of an input is longer than the 16 bytes"):
        tensors.decode(raw(b"", name=name), [spec()], batched=True, limits=Limits(max_name=16))
    assert "no input 'yyyy" in refusal(raw(b"", name="y" * 16))


def test_unknown_input_is_refused_with_the_names_there_are() -> None:
    text = refusal(raw(bytes(12), name="image"), spec(), spec(name="mask"))
    assert "'image'" in text and "'x', 'mask'" in text


def test_missing_input_is_refused() -> None:
    assert "'mask' is missing" in refusal(raw(bytes(12)), spec(), spec(name="mask"))


def test_input_given_twice_is_refused() -> None:
    request = raw(bytes(12))
    request.MergeFrom(raw(bytes(12)))
    assert "'x' is given twice" in refusal(request)


@pytest.mark.parametrize("contents", [1, 3])
def test_raw_contents_that_do_not_match_the_inputs_are_refused(contents: int) -> None:
    request = raw(bytes(12))
    request.inputs.add(name="mask", datatype="FP32", shape=[1, 3])
    request.raw_input_contents[:] = [bytes(12)] * contents
    assert f"2 inputs but {contents} raw" in refusal(request, spec(), spec(name="mask"))


def test_raw_and_typed_contents_together_are_refused() -> None:
    request = typed([1.0, 2.0, 3.0])
    request.raw_input_contents.append(bytes(12))
    assert "'x' has raw and typed" in refusal(request)


@pytest.mark.parametrize("given", ["FP64", "fp32", "", "BF16"])
def test_other_datatype_is_refused(given: str) -> None:
    text = refusal(raw(bytes(12), given))
    assert "'x'" in text and "takes FP32" in text


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1), (1, 4), (-1, 3), (), (1, -3)])
def test_shape_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    text = refusal(raw(bytes(12), shape=shape))
    assert f"'x' has shape {list(shape)}" in text and "[-1, 3]" in text


@pytest.mark.parametrize("shape", [(0, 2**62, 2**62), (2**62, 0, 4), (1, 0, 2**63 - 1)])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_empty_tensor_of_an_absurd_shape_is_refused(datatype: str, shape: tuple[int, ...]) -> None:
    text = refusal(raw(b"", datatype, shape), spec(datatype, -1, -1, -1), batched=False)
    assert "'x'" in text


@pytest.mark.parametrize("size", [0, 11, 13, 24])
def test_raw_contents_of_another_size_are_refused(size: int) -> None:
    text = refusal(raw(bytes(size)))
    assert "'x'" in text and f"{size} bytes" in text and "takes 12" in text


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\5\0\0\0abc", id="element longer than the data"),
        pytest.param(b"\xff\xff\xff\xffabc", id="element of 4 GiB"),
        pytest.param(b"\1\0\0\0a\1\0", id="half a length at the end"),
        pytest.param(b"\1\0\0\0a\1\0\0\0b", id="too many elements"),
        pytest.param(b"", id="too few elements"),
        pytest.param(b"\1\0\0\0\xff", id="not UTF-8"),
    ],
)
def test_malformed_strings_are_refused(data: bytes) -> None:
    assert "'x'" in refusal(raw(data, "BYTES", (1, 1)), spec("BYTES", -1, 1))


def test_typed_string_that_is_not_utf8_is_refused() -> None:
    assert "'x'" in refusal(typed([b"\xff"], "BYTES", (1, 1)), spec("BYTES", -1, 1))


@pytest.mark.parametrize("datatype", RAW_ONLY)
def test_typed_half_is_refused_because_the_protocol_has_none(datatype: str) -> None:
    text = refusal(typed([1.0], datatype, field="fp32_contents"), spec(datatype))
    assert f"'x' is {datatype}, which is sent as raw" in text


def test_typed_contents_in_another_field_are_refused() -> None:
    text = refusal(typed([1, 2, 3], field="int_contents"))
    assert "'x'" in text and "int_contents" in text and "use fp32_contents" in text


def test_bool_byte_that_is_neither_is_refused() -> None:
    assert "neither 0 nor 1" in refusal(raw(b"\0\1\2", "BOOL"), spec("BOOL"))


@pytest.mark.parametrize("count", [0, 2, 4])
def test_typed_contents_of_another_length_are_refused(count: int) -> None:
    assert f"'x' has {count} elements" in refusal(typed([1.0] * count))


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("UINT8", 256), ("UINT16", 2**16)],
)
def test_typed_number_that_the_datatype_cannot_hold_is_refused(datatype: str, value: int) -> None:
    text = refusal(typed([value], datatype, (1, 1)), spec(datatype, -1, 1))
    assert f"'x' holds a number that {datatype} cannot" in text


def test_strings_and_typed_numbers_that_would_keep_everybody_waiting_are_refused() -> None:
    request = raw(bytes(4 * (2**20 + 1)), "BYTES", (1, 2**20 + 1))
    assert "at most 1048576" in refusal(request, spec("BYTES", -1, -1))
    request = typed([0] * (2**23 + 1), "INT32", (1, 2**23 + 1))
    assert "as raw contents" in refusal(request, spec("INT32", -1, -1))


def test_inputs_with_different_numbers_of_rows_are_refused() -> None:
    request = raw(bytes(12))
    request.inputs.add(name="mask", datatype="FP32", shape=[2, 3])
    request.raw_input_contents.append(bytes(24))
    assert "[1, 2]" in refusal(request, spec(), spec(name="mask"))


def test_request_without_rows_is_refused() -> None:
    assert "no rows" in refusal(raw(b"", shape=(0, 3)))
