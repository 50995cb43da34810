"""Tensors that contradict themselves or the model: each is refused in a sentence of its own."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

from service.proto import inference_pb2 as pb
from service.proto.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.system import strangers
from tests.system.servers import serving
from tests.system.strangers import good, infer_refusal


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    root = strangers.repository(tmp_path_factory.mktemp("models"))
    with (
        serving(root, "--no-exit-on-error") as server,
        grpc.insecure_channel(server.grpc) as connected,
    ):
        yield connected


def strings(data: bytes, *, shape: tuple[int, ...] = (1, 3)) -> pb.ModelInferRequest:
    """A request for ``kinds`` whose BYTES are these; all others are zeros."""
    sizes = {"BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "UINT32": 4,
             "INT32": 4, "FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8}  # fmt: skip
    request = pb.ModelInferRequest(model_name="kinds")
    for name, size in sizes.items():
        request.inputs.add(name=f"in_{name}", datatype=name, shape=[1, 3])
        request.raw_input_contents.append(bytes(3 * size))
    request.inputs.add(name="in_BYTES", datatype="BYTES", shape=shape)
    request.raw_input_contents.append(data)
    return request


def typed(datatype: str, field: str, values: list[object]) -> pb.ModelInferRequest:
    """A request for ``kinds`` with one typed input, looked at before the others are missed."""
    request = pb.ModelInferRequest(model_name="kinds")
    tensor = request.inputs.add(name=f"in_{datatype}", datatype=datatype, shape=[1, len(values)])
    getattr(tensor.contents, field).extend(values)
    return request


@pytest.mark.parametrize(
    "shape",
    [
        [-1, 4], [1, -1], [1, -4], [-1, -4], [1], [4], [], [1, 4, 1], [4, 1], [2**62, 4],
        [2**32, 2**32], [2**63 - 1, 2], [0, 4], [0, 2**40], [1, 2**61], [1] * 40,
    ],
)  # fmt: skip
def test_a_shape_that_is_none_or_not_the_models(channel: grpc.Channel, shape: list[int]) -> None:
    request = good()
    request.inputs[0].shape[:] = shape
    told = infer_refusal(channel, request)
    assert "rows" in told or "shape" in told


@pytest.mark.parametrize("size", [0, 1, 15, 17, 32, 10**6])
def test_a_shape_whose_product_disagrees_with_the_bytes(channel: grpc.Channel, size: int) -> None:
    request = good()
    request.raw_input_contents[0] = bytes(size)
    assert "takes 16" in infer_refusal(channel, request)


@pytest.mark.parametrize("datatype", ["FP64", "INT64", "fp32", "", "FLOAT", "BYTES", "X" * 5000])
def test_a_datatype_that_is_not_the_models(channel: grpc.Channel, datatype: str) -> None:
    request = good()
    request.inputs[0].datatype = datatype
    assert "the model takes FP32" in infer_refusal(channel, request)


def add_input(request: pb.ModelInferRequest) -> None:
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))


def add_unknown(request: pb.ModelInferRequest) -> None:
    request.inputs.add(name="z", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(bytes(16))


def add_typed(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.fp32_contents.extend([1.0] * 4)


def add_empty_typed(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.SetInParent()


def add_outputs(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="y")
    request.outputs.add(name="y")


def typed_elsewhere(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.int64_contents.extend([1] * 4)


def typed_too_few(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1.0] * 3)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (add_input, "given twice"),
        (add_unknown, "has no input 'z'"),
        (add_typed, "raw and typed"),
        (add_empty_typed, "raw and typed"),
        (add_outputs, "asked for twice"),
        (lambda r: r.outputs.add(name="z"), "has no output 'z'"),
        (lambda r: r.inputs.pop(), "is missing"),
        (lambda r: r.raw_input_contents.pop(), "0 elements"),
        (lambda r: r.raw_input_contents.append(bytes(16)), "2 raw contents"),
        (typed_elsewhere, "use fp32_contents"),
        (typed_too_few, "3 elements"),
    ],
)
def test_inputs_and_outputs_twice_unknown_missing_or_mixed(
    channel: grpc.Channel, spoil: Callable[[pb.ModelInferRequest], object], told: str
) -> None:
    request = good()
    spoil(request)
    assert told in infer_refusal(channel, request)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "0 whole BYTES elements"),
        (struct.pack("<I", 0) * 2, "2 whole BYTES elements"),
        (struct.pack("<I", 0) * 4, "4 whole BYTES elements"),
        (struct.pack("<I", 0) * 3 + b"\0", "3 whole BYTES elements"),
        (struct.pack("<I", 2**32 - 1) + b"abc", "longer than the data"),
        (struct.pack("<I", 5) + b"abc", "longer than the data"),
        (b"\1\0", "0 whole BYTES elements"),
        (struct.pack("<I", 0) * 10**6, "whole BYTES elements"),
        ((struct.pack("<I", 2) + b"\xff\xfe") * 3, "not UTF-8"),
    ],
)
def test_strings_whose_lengths_lie(channel: grpc.Channel, data: bytes, told: str) -> None:
    assert told in infer_refusal(channel, strings(data))


def test_nul_in_a_string_comes_back_as_it_was(channel: grpc.Channel) -> None:
    data = (struct.pack("<I", 3) + b"a\0b") * 3
    request = strings(data)
    request.outputs.add(name="out_BYTES")
    answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    assert answer.raw_output_contents[0] == data


@pytest.mark.parametrize(
    ("datatype", "field", "value"),
    [
        ("INT8", "int_contents", 128), ("INT8", "int_contents", -129),
        ("UINT8", "uint_contents", 256), ("INT16", "int_contents", 2**15),
        ("UINT16", "uint_contents", 2**16),
    ],
)  # fmt: skip
def test_a_number_that_its_datatype_cannot_hold(
    channel: grpc.Channel, datatype: str, field: str, value: int
) -> None:
    request = typed(datatype, field, [value] * 3)
    full = strings(struct.pack("<I", 0) * 3)
    for tensor in full.inputs:  # the same request, with typed contents throughout
        if tensor.name != f"in_{datatype}":
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1, 3])
    told = infer_refusal(channel, request)
    assert f"a number that {datatype} cannot" in told


def test_a_bool_that_is_neither(channel: grpc.Channel) -> None:
    request = strings(struct.pack("<I", 0) * 3)
    request.raw_input_contents[0] = b"\0\1\2"
    assert "neither 0 nor 1" in infer_refusal(channel, request)


def test_halves_have_no_typed_form(channel: grpc.Channel) -> None:
    full = strings(struct.pack("<I", 0) * 3)
    del full.raw_input_contents[:]
    order = sorted(full.inputs, key=lambda tensor: tensor.name != "in_FP16")
    request = pb.ModelInferRequest(model_name="kinds", inputs=order)
    request.inputs[0].contents.fp32_contents.extend([1.0] * 3)
    assert "raw contents" in infer_refusal(channel, request)


def test_nan_and_infinity_are_numbers_like_others(channel: grpc.Channel) -> None:
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    given = np.array([np.nan, np.inf, -np.inf, -0.0], "<f4")
    request = good()
    request.raw_input_contents[0] = given.tobytes()
    answer = infer(request, timeout=20)
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], "<f4"), given * 2)
    # As classes they have an order too, whatever it is.
    request.outputs.add(name="y").parameters["classification"].int64_param = 4
    answer = infer(request, timeout=20)
    classes = answer.raw_output_contents[0]
    assert answer.outputs[0].shape == [1, 4]
    assert all(word in classes for word in (b"nan:0", b"inf:1", b"-inf:2"))


def test_a_row_that_the_model_fails_on_fails_alone(channel: grpc.Channel) -> None:
    told = infer_refusal(channel, strangers.numbers("picky", 7), "INTERNAL")
    assert told == "the model failed on this input"
    infer = GRPCInferenceServiceStub(channel).ModelInfer
    calls = [infer.future(strangers.numbers("picky", n % 4), timeout=20) for n in range(40)]
    codes = [call.code().name for call in calls]
    assert codes == ["INTERNAL" if n % 4 == 3 else "OK" for n in range(40)]
