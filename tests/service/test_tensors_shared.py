"""Tensors in shared memory, as Triton's client names them, and with wrong names and sizes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc import service_pb2 as triton

from service import answers, tensors
from service.errors import InvalidInput, Unsupported
from service.manifest import TensorSpec
from service.parameters import Limits
from service.proto import inference_pb2 as pb
from service.regions import Regions

X, Z = TensorSpec("x", "FP32", (-1, 3)), TensorSpec("z", "INT8", (-1, 1))
ROW = np.array([[1, 2, 3]], np.float32)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(bytes(4) + ROW.tobytes() + bytes(48))
    return path


@pytest.fixture
def regions(memory: Path) -> Regions:
    made = Regions(memory.parent)
    made.register("r", "data", 0, 64)
    return made


def request(*inputs: InferInput, outputs: tuple[InferRequestedOutput, ...] = ()) -> Any:
    message = triton.ModelInferRequest(
        inputs=[item._get_tensor() for item in inputs],
        outputs=[item._get_tensor() for item in outputs],
        raw_input_contents=[
            content for item in inputs if (content := item._get_content()) is not None
        ],
    )
    return pb.ModelInferRequest.FromString(message.SerializeToString())


def shared(
    name: str = "x", size: int = 12, offset: int = 4, *, region: str = "r", **more: Any
) -> InferInput:
    made = InferInput(name, **{"shape": [1, 3], "datatype": "FP32", **more})
    made.set_shared_memory(region, size, offset)
    return made


def sent() -> InferInput:
    made = InferInput("z", [1, 1], "INT8")
    made.set_data_from_numpy(np.array([[7]], np.int8))
    return made


def refusal(given: pb.ModelInferRequest, regions: Regions, *specs: TensorSpec) -> str:
    with pytest.raises(InvalidInput) as refused:
        tensors.decode(given, specs or [X], batched=True, regions=regions)
    return str(refused.value)


@pytest.mark.parametrize("first", ["shared", "sent"])
def test_raw_contents_belong_to_the_inputs_outside_of_shared_memory(
    regions: Regions, first: str
) -> None:
    inputs = [shared(), sent()] if first == "shared" else [sent(), shared()]
    rows = tensors.decode(request(*inputs), [X, Z], batched=True, regions=regions)
    assert (rows.feeds["x"].tolist(), rows.feeds["z"].tolist()) == ([[1, 2, 3]], [[7]])
    assert (rows.rows, rows.nbytes) == (1, 13)


def test_typed_contents_stand_beside_shared_memory(regions: Regions) -> None:
    given = request(shared())
    given.inputs.add(name="z", datatype="INT8", shape=[1, 1]).contents.int_contents.append(7)
    rows = tensors.decode(given, [X, Z], batched=True, regions=regions)
    assert rows.feeds["z"].tolist() == [[7]]


def test_strings_are_read_from_shared_memory(regions: Regions, memory: Path) -> None:
    memory.write_bytes(struct.pack("<I2s", 2, b"ab") + bytes(58))
    given = request(shared(size=6, offset=0, shape=[1, 1], datatype="BYTES"))
    strings = TensorSpec("x", "BYTES", (-1, 1))
    assert tensors.decode(given, [strings], batched=True, regions=regions).feeds["x"] == [["ab"]]


def test_what_the_client_writes_later_does_not_reach_the_arrays(
    regions: Regions, memory: Path
) -> None:
    rows = tensors.decode(request(shared()), [X], batched=True, regions=regions)
    memory.write_bytes(b"\xff" * 64)
    assert rows.feeds["x"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (shared(region="s"), "no shared memory region 's' is registered"),
        (shared(size=8), "'x' has 8 bytes; shape [1, 3] of FP32 takes 12"),
        (shared(size=16), "'x' has 16 bytes"),
        (shared(offset=60), "'r' has 64 bytes; offset 60 and size 12"),
        (shared(offset=2**63 - 1), f"offset {2**63 - 1} and size 12"),
        (shared(offset=-4), "'shared_memory_offset' is -4"),
        (shared(size=-1), "'shared_memory_byte_size' is -1"),
        (shared(region="r" * 257), "a shared memory region is longer than the 256 bytes"),
        (shared(shape=[1, -3]), "has shape [1, -3]"),
    ],
)
def test_shared_memory_that_does_not_fit_is_refused(
    regions: Regions, given: InferInput, sentence: str
) -> None:
    assert sentence in refusal(request(given), regions)


@pytest.mark.parametrize("missing", ["region", "byte_size"])
def test_half_a_place_in_shared_memory_is_refused(regions: Regions, missing: str) -> None:
    given = request(shared())
    del given.inputs[0].parameters[f"shared_memory_{missing}"]
    assert "'x'" in refusal(given, regions)


def test_place_of_another_type_is_refused(regions: Regions) -> None:
    given = request(shared())
    given.inputs[0].parameters["shared_memory_region"].int64_param = 1
    assert "'shared_memory_region' is of another type" in refusal(given, regions)


def test_contents_beside_shared_memory_are_refused(regions: Regions) -> None:
    given = request(shared())
    given.raw_input_contents.append(ROW.tobytes())
    assert "0 inputs outside of shared memory but 1 raw" in refusal(given, regions)
    given = request(shared())
    given.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    assert "'x' has shared memory and typed contents" in refusal(given, regions)


def test_inputs_that_are_too_large_together_are_refused_unread(
    regions: Regions, memory: Path
) -> None:
    given, specs = request(shared(), shared("y")), [X, TensorSpec("y", "FP32", (-1, 3))]
    memory.write_bytes(b"")  # reading it would be refused for its size
    with pytest.raises(InvalidInput, match="have 24 bytes; this server takes at most 23"):
        tensors.decode(given, specs, batched=True, regions=regions, limits=Limits(max_bytes=23))


def test_switched_off_shared_memory_is_refused_with_the_switch() -> None:
    with pytest.raises(Unsupported, match="--control shared-memory") as refused:
        tensors.decode(request(shared()), [X], batched=True)
    assert refused.value.status == "UNIMPLEMENTED"


def placed(size: int = 12, offset: int = 16) -> InferRequestedOutput:
    made = InferRequestedOutput("x")
    made.set_shared_memory("r", size, offset)
    return made


def test_output_is_written_to_shared_memory_and_said_to_be_there(
    regions: Regions, memory: Path
) -> None:
    given = request(outputs=(placed(size=20), InferRequestedOutput("z")))
    wanted = answers.requested_outputs(given, [Z, X], regions=regions)
    response, seven = pb.ModelInferResponse(), np.array([[7]], np.int8)
    answers.encode(response, {"x": ROW + 1, "z": seven}, wanted)
    assert memory.read_bytes()[16:28] == (ROW + 1).tobytes()
    assert memory.read_bytes()[28:] == bytes(36)
    result = InferResult(triton.ModelInferResponse.FromString(response.SerializeToString()))
    told = result.get_output("x").parameters
    assert told["shared_memory_region"].string_param == "r"
    assert told["shared_memory_offset"].int64_param == 16
    assert told["shared_memory_byte_size"].int64_param == 12
    assert result.as_numpy("z").tolist() == [[7]], "raw contents go by an output's place"


def test_output_that_is_larger_than_its_place_is_refused(regions: Regions, memory: Path) -> None:
    before = memory.read_bytes()
    wanted = answers.requested_outputs(request(outputs=(placed(size=11),)), [X], regions=regions)
    with pytest.raises(InvalidInput, match="12 bytes do not fit into the 11"):
        answers.encode(pb.ModelInferResponse(), {"x": ROW}, wanted)
    assert memory.read_bytes() == before


def test_classes_in_shared_memory_are_refused(regions: Regions) -> None:
    given = request(outputs=(placed(),))
    given.outputs[0].parameters["classification"].int64_param = 1
    with pytest.raises(InvalidInput, match="as classes in shared memory; choose one"):
        answers.requested_outputs(given, [X], regions=regions)
