"""System shared memory, made and filled by Triton's own client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto
from tritonclient.utils import serialize_byte_tensor, shared_memory

from tests import models
from tests.system.callers import refused, tensor
from tests.system.servers import Served, serving

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
SIZE = 256


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "double" / "1" / "model.onnx")
    kinds = {"F": TensorProto.FLOAT, "I": TensorProto.INT64, "T": TensorProto.STRING}
    models.identities(root / "three" / "1" / "model.onnx", **kinds)
    with serving(root, "--control", "shared-memory") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected
        connected.unregister_system_shared_memory()


@dataclass(frozen=True)
class Region:
    name: str
    key: str
    handle: Any

    def put(self, *arrays: np.ndarray, offset: int = 0) -> None:
        shared_memory.set_shared_memory_region(self.handle, list(arrays), offset)

    def get(self, dtype: Any, shape: list[int], offset: int = 0) -> np.ndarray:
        # A copy: a view would keep the region from being closed.
        found = shared_memory.get_contents_as_numpy(self.handle, dtype, shape, offset)
        return np.array(found)


@pytest.fixture
def region(client: triton.InferenceServerClient) -> Iterator[Region]:
    key = f"farthing-{uuid4().hex}"
    handle = shared_memory.create_shared_memory_region("region", key, SIZE, create_only=True)
    client.register_system_shared_memory("region", f"/{key}", SIZE)
    yield Region("region", key, handle)
    shared_memory.destroy_shared_memory_region(handle)


def placed(name: str, shape: list[int], datatype: str, nbytes: int, offset: int = 0) -> Any:
    given = triton.InferInput(name, shape, datatype)
    return given.set_shared_memory("region", nbytes, offset)


def wanted(name: str, nbytes: int | None = None, offset: int = 0) -> triton.InferRequestedOutput:
    output = triton.InferRequestedOutput(name)
    if nbytes is not None:
        output.set_shared_memory("region", nbytes, offset)
    return output


def test_input_and_output_may_both_lie_in_shared_memory(
    client: triton.InferenceServerClient, region: Region
) -> None:
    region.put(ROWS)
    answer = client.infer(
        "double", [placed("x", [2, 4], "FP32", 32)], outputs=[wanted("y", 64, offset=128)]
    )
    np.testing.assert_array_equal(region.get(np.float32, [2, 4], 128), ROWS * 2)
    told = answer.get_output("y").parameters
    assert told["shared_memory_region"].string_param == "region"
    assert told["shared_memory_offset"].int64_param == 128
    assert told["shared_memory_byte_size"].int64_param == 32
    assert list(answer.get_response().raw_output_contents) == [b""]


def test_an_answer_may_take_the_place_of_its_request(
    client: triton.InferenceServerClient, region: Region
) -> None:
    region.put(ROWS)
    for times in (2, 4, 8):
        client.infer("double", [placed("x", [2, 4], "FP32", 32)], outputs=[wanted("y", 32)])
        np.testing.assert_array_equal(region.get(np.float32, [2, 4]), ROWS * times)


def test_raw_tensors_and_shared_ones_may_be_mixed(
    client: triton.InferenceServerClient, region: Region
) -> None:
    whole = np.arange(4, dtype=np.int64).reshape(1, 4) - 2
    texts = np.array([[b"", b"two", "drei€".encode(), b"4"]], np.object_)
    region.put(whole, offset=8)
    answer = client.infer(
        "three",
        # The raw contents' index must not count the input between them.
        [tensor("in_F", ROWS[:1]), placed("in_I", [1, 4], "INT64", 32, 8), tensor("in_T", texts)],
        outputs=[wanted("out_F"), wanted("out_I", 32, 64), wanted("out_T")],
    )
    np.testing.assert_array_equal(answer.as_numpy("out_F"), ROWS[:1])
    np.testing.assert_array_equal(region.get(np.int64, [1, 4], 64), whole)
    np.testing.assert_array_equal(answer.as_numpy("out_T"), texts)


def test_texts_may_lie_in_shared_memory(
    client: triton.InferenceServerClient, region: Region
) -> None:
    texts = np.array([["eins", "", "drei€", "vier"]], np.object_)
    packed = serialize_byte_tensor(texts)
    region.put(packed)
    answer = client.infer(
        "three",
        [tensor("in_F", ROWS[:1]), tensor("in_I", np.zeros((1, 4), np.int64)),
         placed("in_T", [1, 4], "BYTES", len(packed.item()))],
        outputs=[wanted("out_T", 128, 128)],
    )  # fmt: skip
    got = region.get(np.object_, [1, 4], 128)
    assert [[text.decode() for text in row] for row in got] == texts.tolist()
    assert answer.get_output("out_T").datatype == "BYTES"


def test_status_tells_of_each_region(client: triton.InferenceServerClient, region: Region) -> None:
    client.register_system_shared_memory("second", region.key, 16, offset=32)
    assert client.get_system_shared_memory_status(as_json=True)["regions"] == {
        "region": {"name": "region", "key": f"/{region.key}", "byte_size": str(SIZE)},
        "second": {"name": "second", "key": region.key, "offset": "32", "byte_size": "16"},
    }
    assert set(client.get_system_shared_memory_status("second").regions) == {"second"}


def test_a_regions_offset_counts(client: triton.InferenceServerClient, region: Region) -> None:
    region.put(ROWS, offset=96)
    client.unregister_system_shared_memory("region")
    client.register_system_shared_memory("region", region.key, 64, offset=64)
    answer = client.infer("double", [placed("x", [2, 4], "FP32", 32, 32)])
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 2)


def test_an_unregistered_region_is_refused(
    client: triton.InferenceServerClient, region: Region
) -> None:
    client.unregister_system_shared_memory("region")
    with refused("INVALID_ARGUMENT", "register it first"):
        client.infer("double", [placed("x", [2, 4], "FP32", 32)])
    with refused("INVALID_ARGUMENT", "register it first"):
        client.get_system_shared_memory_status("region")
    client.register_system_shared_memory("region", region.key, SIZE)
    client.unregister_system_shared_memory()
    assert not client.get_system_shared_memory_status().regions


def test_a_name_is_registered_once(client: triton.InferenceServerClient, region: Region) -> None:
    with refused("INVALID_ARGUMENT", "already registered"):
        client.register_system_shared_memory("region", region.key, 8)


@pytest.mark.parametrize(
    ("key", "nbytes", "offset"),
    [
        (None, SIZE + 1, 0), (None, 1, SIZE), (None, 2**63 - 1, 1), (None, 2**64 - 1, 2),
        (None, 0, 0), ("../../etc/passwd", 8, 0), ("/etc/passwd", 8, 0), ("nothing-there", 8, 0),
        ("", 8, 0), (".", 8, 0), ("a\x00b", 8, 0),
    ],
)  # fmt: skip
def test_what_lies_outside_is_not_registered(
    client: triton.InferenceServerClient, region: Region, key: str | None, nbytes: int, offset: int
) -> None:
    with refused("INVALID_ARGUMENT") as refusal:
        key = region.key if key is None else key
        client.register_system_shared_memory("other", key, nbytes, offset)
    assert "/dev/shm" not in refusal.value.message()
    assert set(client.get_system_shared_memory_status().regions) == {"region"}


@pytest.mark.parametrize(
    ("given", "output", "says"),
    [
        (placed("x", [2, 4], "FP32", 32, SIZE - 31), None, "do not lie within"),
        (placed("x", [2, 4], "FP32", 32, 2**63 - 1), None, "do not lie within"),
        (placed("x", [2, 4], "FP32", 31), None, "31 bytes"),
        (placed("x", [2, 4], "FP32", -1), None, "0 or more"),
        (placed("x", [2, 4], "FP32", 32), wanted("y", 31, 128), "31 bytes"),
        (placed("x", [2, 4], "FP32", 32), wanted("y", 32, SIZE - 16), "do not lie within"),
    ],
)
def test_a_slot_that_does_not_fit_is_refused_and_nothing_is_written(
    client: triton.InferenceServerClient, region: Region, given: Any, output: Any, says: str
) -> None:
    region.put(np.full(SIZE, 7, np.uint8))
    with refused("INVALID_ARGUMENT", says):
        client.infer("double", [given], outputs=[output] if output else None)
    assert set(region.get(np.uint8, [SIZE])) == {7}


def test_regions_come_and_go_while_they_are_used(
    client: triton.InferenceServerClient, region: Region
) -> None:
    region.put(ROWS)
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            client.unregister_system_shared_memory("region")
            client.register_system_shared_memory("region", region.key, SIZE)

    other = threading.Thread(target=come_and_go)
    other.start()
    answered = 0
    try:
        for _ in range(100):
            try:
                answer = client.infer("double", [placed("x", [2, 4], "FP32", 32)])
            except triton.InferenceServerException as refusal:
                assert "register it first" in refusal.message()
                continue
            np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 2)
            answered += 1
    finally:
        done.set()
        other.join(20)
    assert answered
