"""``config.pbtxt`` comes to options, or to one sentence that says what to mend."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf import text_format

from service import modelconfig
from service.batching import QueuePolicy
from service.errors import ModelUnusable
from service.gpuoptions import OnGpu
from service.manifest import TensorSpec
from service.modelconfig import Options
from service.policies import VersionPolicy
from service.proto import inference_pb2 as pb

WHOLE = """
name: "digits"
backend: "onnxruntime"
platform: "onnxruntime_onnx"
max_batch_size: 8
version_policy { specific { versions: [ 3, 1 ] } }
default_model_filename: "digits.onnx"
input [ { name: "pixels" data_type: TYPE_UINT8 dims: [ 32, -1 ] },
        { name: "age" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "digits.txt" } ]
instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 } ]
dynamic_batching {
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { default_timeout_microseconds: 2500 max_queue_size: 7 }
  priority_queue_policy [ { key: 1 value { max_queue_size: 3 } } ]
}
optimization { graph { level: 1 } }
parameters { key: "intra_op_thread_count" value { string_value: "3" } }
parameters { key: "execution_mode" value { string_value: "1" } }
parameters { key: "inter_op_thread_count" value { string_value: "2" } }
parameters { key: "enable_mem_arena" value { string_value: "True" } }
parameters { key: "enable_mem_pattern" value { string_value: "0" } }
parameters { key: "memory.enable_memory_arena_shrinkage" value { string_value: "cpu:0" } }
parameters { key: "session.set_denormal_as_zero" value { string_value: "1" } }
parameters { key: "session.intra_op.allow_spinning" value { string_value: "1" } }
parameters { key: "latency_target_ms" value { string_value: "2.5" } }
"""


def parsed(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def options(text: str) -> Options:
    """What the text comes to on a CPU, without the text itself."""
    found = modelconfig.options(parsed(text), "digits")
    assert found.config == parsed(text)
    return replace(found, config=None, gpu=OnGpu())


def test_everything_that_is_heeded_arrives_without_a_warning() -> None:
    assert options(WHOLE) == Options(
        name="digits",
        max_batch=8,
        instances=3,
        versions=VersionPolicy("specific", versions=(3, 1)),
        filename="digits.onnx",
        inputs=(
            TensorSpec("pixels", "UINT8", (-1, 32, -1)),
            TensorSpec("age", "FP32", (-1, 1)),
        ),
        outputs=(TensorSpec("scores", "FP32", (-1, 10)),),
        reshapes={"age": (-1,)},
        labels={"scores": "digits.txt"},
        priority_levels=3,
        default_priority=2,
        queue=QueuePolicy(timeout_s=0.0025, max_requests=7),
        queues={1: QueuePolicy(max_requests=3)},
        latency_target_ms=2.5,
        session={
            "threads": 3,
            "inter_op_threads": 2,
            "parallel": True,
            "mem_arena": True,
            "mem_pattern": False,
            "spin": True,
            "graph_level": "ORT_ENABLE_EXTENDED",
            "config": (("session.set_denormal_as_zero", "1"),),
            "run_config": (("memory.enable_memory_arena_shrinkage", "cpu:0"),),
        },
    )


@pytest.mark.parametrize("text", ["", 'name: "digits"', "dynamic_batching { } optimization { }"])
def test_what_is_not_said_is_as_without_a_config(text: str) -> None:
    assert options(text) == Options(name="digits")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size: 4", 4),
        ("", None),
        ('input { name: "x" data_type: TYPE_FP32 dims: 3 }', 0),
        ('output { name: "y" data_type: TYPE_FP32 dims: 3 }', 0),
        ("max_batch_size: 100000", 4096),
    ],
)
def test_zero_rows_mean_no_batch_only_where_tensors_are_named(
    text: str, expected: int | None
) -> None:
    assert options(text).max_batch == expected


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [4]),
        ("version_policy { latest { num_versions: 2 } }", [3, 4]),
        ("version_policy { latest { num_versions: 9 } }", [1, 3, 4]),
        ("version_policy { all { } }", [1, 3, 4]),
        ("version_policy { specific { versions: [ 3, 2, 1 ] } }", [1, 3]),
    ],
)
def test_version_policy_picks_among_those_on_disk(policy: str, served: list[int]) -> None:
    assert options(policy).versions.pick([4, 1, 3]) == served
    assert options(policy).versions.pick([]) == []


@pytest.mark.parametrize(
    ("level", "name"),
    [(-1, "ORT_ENABLE_BASIC"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL"), (0, None)],
)
def test_graph_levels_are_those_of_tritons_backend(level: int, name: str | None) -> None:
    session = options(f"optimization {{ graph {{ level: {level} }} }}").session
    assert session.get("graph_level") == name


def test_parallel_execution_without_a_count_takes_every_cpu() -> None:
    text = 'parameters { key: "execution_mode" value { string_value: "1" } }'
    assert options(text).session == {"parallel": True, "inter_op_threads": 0}


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


INPUT = 'input {{ name: "x" data_type: TYPE_FP32 {} }}'

# What is wrong -> a word that the sentence must hold.
WRONG = {
    'name: "letters"': "letters",
    "max_batch_size: -1": "max_batch_size",
    'backend: "python"': "python",
    'platform: "tensorrt_plan"': "tensorrt_plan",
    'backend: "onnxruntime" platform: "pytorch_libtorch"': "pytorch_libtorch",
    'platform: "ensemble" ensemble_scheduling { }': "ensemble",
    "model_transaction_policy { decoupled: true }": "decoupled",
    'model_operations { op_library_filename: "libevil.so" }': "op_library_filename",
    'model_repository_agents { agents { name: "checksum" } }': "agents",
    "sequence_batching { direct { } }": "sequence_batching asks for state",
    'sequence_batching { state { input_name: "s" } }': "sequence_batching asks for state",
    'batch_input { target_name: "n" }': "batch_input",
    "version_policy { latest { } }": "num_versions",
    "version_policy { specific { } }": "specific",
    "version_policy { specific { versions: -1 } }": "specific",
    'default_model_filename: "../other/model.onnx"': "default_model_filename",
    'default_model_filename: "/etc/passwd"': "default_model_filename",
    'default_model_filename: ".."': "default_model_filename",
    'default_model_filename: "a\\\\b"': "default_model_filename",
    'default_model_filename: "a\\000b"': "default_model_filename",
    "instance_group { count: -2 }": "count",
    "instance_group { count: 200 } instance_group { count: 57 }": "257",
    "instance_group { kind: KIND_CPU gpus: 0 }": "gpus",
    'instance_group { profile: "1" }': "profile",
    "instance_group { kind: 77 }": "77",
    "dynamic_batching { default_priority_level: 1 }": "priority_levels",
    "dynamic_batching { priority_levels: 2 }": "default_priority_level",
    "dynamic_batching { priority_levels: 2 default_priority_level: 3 }": "default_priority_level",
    "dynamic_batching { priority_queue_policy { key: 1 } }": "priority_queue_policy",
    "dynamic_batching { priority_levels: 1 default_priority_level: 1 "
    "priority_queue_policy { key: 2 } }": "priority_queue_policy",
    "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }": "preferred_batch_size",
    "max_batch_size: 4 dynamic_batching { preferred_batch_size: 0 }": "preferred_batch_size",
    "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }": (
        "preserve_ordering"
    ),
    "dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY "
    "default_timeout_microseconds: 1 } }": "preserve_ordering",
    "input { data_type: TYPE_FP32 dims: 1 }": "name",
    'input { name: "x" dims: 1 }': "data_type",
    'input { name: "x" data_type: 99 dims: 1 }': "data_type",
    INPUT.format(""): "dims",
    INPUT.format("dims: 0"): "dimension 0",
    INPUT.format("dims: -2"): "dimension -2",
    INPUT.format("dims: [ 4611686018427387904, 4 ]"): "elements",
    INPUT.format("dims: 4 reshape { shape: [ 2, 3 ] }"): "reshape",
    INPUT.format("dims: [ 2, -1 ] reshape { shape: [ -1, 2 ] }"): "reshape",
    INPUT.format("dims: 1 reshape { shape: 0 }"): "reshape",
    INPUT.format("dims: 4 format: FORMAT_NHWC"): "format",
    INPUT.format("dims: 4 allow_ragged_batch: true"): "allow_ragged_batch",
    INPUT.format("dims: 4 is_shape_tensor: true"): "is_shape_tensor",
    INPUT.format("dims: 1") + INPUT.format("dims: 2"): "twice",
    'output { name: "y" data_type: TYPE_FP32 dims: 2 label_filename: "../l" }': "label_filename",
    parameter("intra_op_thread_count", "many"): "intra_op_thread_count",
    parameter("intra_op_thread_count", "-1"): "intra_op_thread_count",
    parameter("inter_op_thread_count", "1025"): "1025",
    parameter("execution_mode", "2"): "execution_mode",
    parameter("enable_mem_arena", "yes"): "enable_mem_arena",
    parameter("memory.enable_memory_arena_shrinkage", "all"): "shrinkage",
    parameter("memory.enable_memory_arena_shrinkage", "cpu:0")
    + parameter("enable_mem_arena", "0"): "contradicts",
    'model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 } } }': "zero_data",
    'model_warmup { name: "w" count: 4000000000 }': "count",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_contradicts_itself_is_refused_by_name(text: str) -> None:
    with pytest.raises(ModelUnusable, match=WRONG[text]) as refused:
        options(text)
    assert refused.value.told == str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("max_batch_size: 5000", "4096"),
        ("instance_group { kind: KIND_GPU count: 2 gpus: [ 0, 1 ] }", "KIND_GPU"),
        ("optimization { graph { level: 3 } }", "level 3"),
        (parameter("gpu_mem_limit", "4294967200"), "gpu_mem_limit"),
        # It would write a file wherever it is told to.
        (parameter("session.optimized_model_filepath", "/tmp/x"), "optimized_model_filepath"),
        (parameter("memory.enable_memory_arena_shrinkage", "gpu:0"), "cpu:0"),
        (parameter("share_session_between_instances", "false"), "session"),
    ],
)
def test_what_has_no_effect_is_named_in_a_warning(text: str, word: str) -> None:
    (warning,) = [w for w in options(text).warnings if word in w]
    assert "has no effect here" in warning


@pytest.mark.parametrize("said", ["0.000001", "100", "3600000", "3600000.0"])
def test_latency_target_is_milliseconds(said: str) -> None:
    assert options(parameter("latency_target_ms", said)).latency_target_ms == float(said)


@pytest.mark.parametrize(
    "said",
    ["", "0", "0.0", "-1", "3600000.1", "3600001", "1e3", "1_000", "nan", "inf", " 5", "5 ms", ".5",
     "\\n5", "9" * 400],
)  # fmt: skip
def test_latency_target_that_is_none_is_refused_with_what_it_takes(said: str) -> None:
    with pytest.raises(ModelUnusable, match=r"latency_target_ms.*3600000") as refused:
        options(parameter("latency_target_ms", said))
    assert "\n" not in str(refused.value)


def test_a_parameter_that_is_unknown_reaches_no_session() -> None:
    assert options(parameter("session.optimized_model_filepath", "/tmp/x")).session == {}
