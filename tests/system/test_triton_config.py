"""Repositories in Triton's layout, with their config.pbtxt, served as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import serialize_byte_tensor

from tests import models
from tests.system.callers import refused, tensor
from tests.system.servers import Served, farthing, serving

Client = triton.InferenceServerClient

TENSORS = """
input [ { name: "x", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 4 ] } ]
"""
FULL = """
name: "full"
platform: "onnxruntime_onnx"
max_batch_size: 6
default_model_filename: "net.onnx"
version_policy { specific { versions: [ 1, 3 ] } }
input [ { name: "x", data_type: TYPE_FP32, dims: [ 4 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 4 ], label_filename: "labels.txt" } ]
instance_group [ { count: 2, kind: KIND_CPU }, { count: 1, kind: KIND_CPU } ]
dynamic_batching {
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { default_timeout_microseconds: 20000000 max_queue_size: 100 }
  priority_queue_policy { key: 1 value { max_queue_size: 10 } }
}
optimization { graph { level: 1 } }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
parameters { key: "inter_op_thread_count" value { string_value: "2" } }
parameters { key: "execution_mode" value { string_value: "1" } }
parameters { key: "enable_mem_arena" value { string_value: "1" } }
parameters { key: "enable_mem_pattern" value { string_value: "0" } }
parameters { key: "memory.enable_memory_arena_shrinkage" value { string_value: "cpu:0" } }
parameters { key: "session.set_denormal_as_zero" value { string_value: "1" } }
model_warmup [
  { name: "zeros" batch_size: 6 inputs { key: "x" value {
      data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } } },
  { name: "noise" batch_size: 2 count: 3 inputs { key: "x" value {
      data_type: TYPE_FP32 dims: [ 4 ] random_data: true } } },
  { name: "sample" batch_size: 1 inputs { key: "x" value {
      data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "row.bin" } } }
]
"""
RESHAPED = """
max_batch_size: 8
input [ { name: "x", data_type: TYPE_FP32, dims: [ 2, 2 ], reshape { shape: [ 4 ] } } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 1, 4, 1 ], reshape { shape: [ 4 ] } } ]
"""
SCALAR = """
max_batch_size: 0
input [ { name: "x", data_type: TYPE_FP32, dims: [ -1 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 1 ], reshape { shape: [ ] } } ]
"""
WARMED_WITH_TEXTS = """
model_warmup [ { name: "texts" batch_size: 1 inputs { key: "in_T" value {
    data_type: TYPE_STRING dims: [ 4 ] input_data_file: "texts" } } } ]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")

    def write(name: str, config: str, *versions: int, file: str = "model.onnx") -> Path:
        for version in versions:
            models.double(root / name / str(version) / file, factor=float(version))
        (root / name).mkdir(exist_ok=True)
        (root / name / "config.pbtxt").write_text(config)
        return root / name

    full = write("full", FULL, 1, 2, 3, file="net.onnx")
    (full / "labels.txt").write_text("a\nb\nc\nd\n")
    (full / "warmup").mkdir()
    (full / "warmup" / "row.bin").write_bytes(np.ones(4, np.float32).tobytes())
    write("default", TENSORS + "max_batch_size: 4", 1, 2, 10)
    write("latest-two", "version_policy { latest { num_versions: 2 } }", 1, 2, 10)
    write("all", "version_policy { all {} }", 1, 2)
    write("reshaped", RESHAPED, 2)
    models.not_batched(root / "scalar" / "1" / "model.onnx")
    write("scalar", SCALAR)
    models.identities(root / "texts" / "1" / "model.onnx", T=8)
    texts = write("texts", WARMED_WITH_TEXTS)
    (texts / "warmup").mkdir()
    sample = serialize_byte_tensor(np.array([b"a", b"", b"b", b"c"], np.object_))
    (texts / "warmup" / "texts").write_bytes(sample.item())
    with serving(root) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.grpc) as connected:
        yield connected


def rows(count: int) -> np.ndarray:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


def test_the_config_comes_back_as_it_was_written(client: Client) -> None:
    told = client.get_model_config("full").config
    written = text_format.Parse(FULL, model_config_pb2.ModelConfig())
    for field in (
        "name",
        "platform",
        "max_batch_size",
        "default_model_filename",
        "version_policy",
        "input",
        "output",
        "instance_group",
        "dynamic_batching",
        "optimization",
        "model_warmup",
    ):
        assert getattr(told, field) == getattr(written, field), field
    for key, parameter in written.parameters.items():
        assert told.parameters[key] == parameter
    assert told.parameters["variant"].string_value == "as-is"


def test_what_a_config_leaves_open_is_filled_in(client: Client) -> None:
    told = client.get_model_config("latest-two").config
    assert (told.name, told.platform, told.backend) == (
        "latest-two",
        "onnxruntime_onnx",
        "onnxruntime",
    )
    assert (told.max_batch_size, told.default_model_filename) == (16, "model.onnx")
    assert [(one.count, one.kind) for one in told.instance_group] == [
        (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    ]
    assert [(one.name, list(one.dims)) for one in (*told.input, *told.output)] == [
        ("x", [4]),
        ("y", [4]),
    ]


@pytest.mark.parametrize(
    ("model", "versions"),
    [("full", [1, 3]), ("default", [10]), ("latest-two", [2, 10]), ("all", [1, 2])],
)
def test_the_version_policy_decides_what_is_served(
    client: Client, model: str, versions: list[int]
) -> None:
    told = client.get_model_metadata(model).versions
    assert [int(version) for version in told] == versions
    for version in versions:
        answer = client.infer(model, [tensor("x", rows(1))], str(version))
        np.testing.assert_array_equal(answer.as_numpy("y"), rows(1) * version)
    newest = client.infer(model, [tensor("x", rows(1))])
    assert newest.get_response().model_version == str(versions[-1])
    index = client.get_model_repository_index().models
    assert {int(one.version) for one in index if one.name == model} == set(versions)


@pytest.mark.parametrize(("model", "version"), [("full", "2"), ("default", "1"), ("all", "3")])
def test_other_versions_are_not_found(client: Client, model: str, version: str) -> None:
    assert not client.is_model_ready(model, version)
    with refused("NOT_FOUND", "no such version"):
        client.infer(model, [tensor("x", rows(1))], version)


@pytest.mark.parametrize(("model", "limit"), [("full", 6), ("default", 4), ("all", 16)])
def test_max_batch_size_limits_a_run_and_larger_requests_take_several(
    client: Client, model: str, limit: int
) -> None:
    for count in (limit, limit + 1, 2 * limit + 1):
        answer = client.infer(model, [tensor("x", rows(count))]).as_numpy("y")
        np.testing.assert_array_equal(answer, rows(count) * answer[0, 1])  # each has its own factor
    stats = [s for s in client.get_inference_statistics(model).model_stats if s.execution_count]
    assert max(batch.batch_size for one in stats for batch in one.batch_stats) == limit


def test_a_reshaped_model_is_called_with_the_configs_shapes(client: Client) -> None:
    metadata = client.get_model_metadata("reshaped")
    assert list(metadata.inputs[0].shape) == [-1, 2, 2]
    assert list(metadata.outputs[0].shape) == [-1, 1, 4, 1]
    given = rows(3)
    answer = client.infer("reshaped", [tensor("x", given.reshape(3, 2, 2))])
    np.testing.assert_array_equal(answer.as_numpy("y"), (given * 2).reshape(3, 1, 4, 1))
    with refused("INVALID_ARGUMENT", "has shape [3, 4]"):
        client.infer("reshaped", [tensor("x", given)])


def test_a_scalar_is_reshaped_to_one_number(client: Client) -> None:
    answer = client.infer("scalar", [tensor("x", np.array([1, 2, 3.5], np.float32))])
    assert answer.as_numpy("y").tolist() == [6.5]
    assert list(client.get_model_metadata("scalar").outputs[0].shape) == [1]


@pytest.mark.parametrize("priority", [0, 1, 2, 3])
def test_each_priority_level_is_answered(client: Client, priority: int) -> None:
    answer = client.infer("full", [tensor("x", rows(2))], priority=priority)
    np.testing.assert_array_equal(answer.as_numpy("y"), rows(2) * 3)


def test_labels_lie_beside_the_config(client: Client) -> None:
    wanted = [triton.InferRequestedOutput("y", class_count=1)]
    answer = client.infer("full", [tensor("x", rows(1))], outputs=wanted)
    assert answer.as_numpy("y").tolist() == [[b"9.000000:3:d"]]


def test_a_model_warmed_with_texts_serves(client: Client) -> None:
    given = np.array([[b"a", b"b", b"c", b"d"]], np.object_)
    answer = client.infer("texts", [tensor("in_T", given)])
    np.testing.assert_array_equal(answer.as_numpy("out_T"), given)


def test_what_has_no_effect_is_named_in_a_warning(tmp_path: Path) -> None:
    models.double(tmp_path / "double" / "1" / "model.onnx")
    (tmp_path / "double" / "config.pbtxt").write_text(
        TENSORS
        + """
        max_batch_size: 4
        instance_group [ { kind: KIND_GPU gpus: [ 0 ] } ]
        dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 100 }
        response_cache { enable: true }
        parameters { key: "no_such_key" value { string_value: "1" } }
        """
    )
    with serving(tmp_path) as server:
        with Client(server.grpc) as client:
            answer = client.infer("double", [tensor("x", rows(1))])
        np.testing.assert_array_equal(answer.as_numpy("y"), rows(1) * 2)
        _, log = server.end()
    warnings = [line for line in log.splitlines() if '"level": "warning"' in line]
    for field in ("KIND_GPU", "preferred_batch_size", "max_queue_delay_microseconds",
                  "response_cache", "no_such_key"):  # fmt: skip
        assert any(field in line and "has no effect" in line for line in warnings), field


CONTRADICTIONS = {
    "name": 'name: "other"',
    "backend": 'backend: "tensorflow"',
    "negative": "max_batch_size: -1",
    "unknown-field": "no_such_field: 1",
    "no-text": "{{{",
    "tensor": TENSORS.replace('"x"', '"z"'),
    "datatype": TENSORS.replace("TYPE_FP32", "TYPE_INT64"),
    "dims": TENSORS.replace("[ 4 ]", "[ 5 ]") + "max_batch_size: 4",
    "levels": "max_batch_size: 4 dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
    "ensemble": 'ensemble_scheduling { step [ { model_name: "a" } ] }',
    "decoupled": "model_transaction_policy { decoupled: true }",
    "no-labels": TENSORS.replace("dims: [ 4 ] } ]\n", 'dims: [ 4 ], label_filename: "none" } ]\n')
    + "max_batch_size: 4",
    "warmup": 'model_warmup [ { name: "w" inputs { key: "z" value { data_type: TYPE_FP32 '
    "dims: [ 4 ] zero_data: true } } } ]",
    "no-version": "version_policy { specific { versions: [ 7 ] } }",
    "filename": 'default_model_filename: "../1/model.onnx"',
}


def test_what_contradicts_itself_is_refused_with_its_reason_in_the_index(tmp_path: Path) -> None:
    models.double(tmp_path / "good" / "1" / "model.onnx")
    for name, config in CONTRADICTIONS.items():
        models.double(tmp_path / name / "1" / "model.onnx")
        (tmp_path / name / "config.pbtxt").write_text(config)
    with serving(tmp_path, "--no-exit-on-error") as server, Client(server.grpc) as client:
        index = {one.name: one for one in client.get_model_repository_index().models}
        assert index.pop("good").state == "READY"
        assert {name: one.state for name, one in index.items()} == dict.fromkeys(
            CONTRADICTIONS, "UNAVAILABLE"
        )
        for one in index.values():
            assert one.reason
            assert str(tmp_path) not in one.reason
        assert client.infer("good", [tensor("x", rows(1))]).as_numpy("y").shape == (1, 4)
    done = farthing("serve", str(tmp_path), "--grpc-port", "0", "--metrics-port", "0")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
