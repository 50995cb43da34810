"""What config.pbtxt says for GPUs: heeded there, named in a warning, or refused."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format

from service import modelconfig
from service.devices import CPU, Device
from service.errors import ModelUnusable
from service.gpuoptions import OnGpu
from service.modelconfig import Options
from service.precedence import placed
from service.proto import inference_pb2 as pb

GPU = Device("cuda", 0)


def read(text: str) -> Options:
    return modelconfig.options(text_format.Parse(text, pb.ModelConfig()), "m")


def on_gpu(text: str) -> OnGpu:
    return read(text).gpu


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def accelerator(name: str, **parameters: str) -> str:
    pairs = "".join(f' parameters {{ key: "{k}" value: "{v}" }}' for k, v in parameters.items())
    inside = f'gpu_execution_accelerator {{ name: "{name}"{pairs} }}'
    return f"optimization {{ execution_accelerators {{ {inside} }} }}"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("", {}),
        ("{ count: 2 }", {"instances": 2}),
        ("{ kind: KIND_CPU count: 2 }", {"cpu_only": True}),
        ("{ kind: KIND_GPU }", {"asked": True}),
        (
            "{ kind: KIND_GPU count: 1 gpus: [ 1 ] }, { count: 2 gpus: [ 0, 1 ] }",
            {"asked": True, "instances": 3, "gpus": (1, 0)},
        ),
    ],
)
def test_instance_groups_say_where_the_model_runs(groups: str, expected: dict[str, Any]) -> None:
    assert on_gpu(f"instance_group [ {groups} ]") == OnGpu(**expected)


def test_instances_on_the_cpu_beside_those_on_gpus_are_told_to_have_no_effect() -> None:
    found = on_gpu("instance_group [ { kind: KIND_CPU count: 4 }, { kind: KIND_GPU count: 1 } ]")
    assert (found.instances, found.cpu_only) == (1, False)
    assert ["KIND_CPU has no effect" in warning for warning in found.warnings] == [True]


@pytest.mark.parametrize(
    ("text", "provider"),
    [
        (parameter("cudnn_conv_algo_search", "1"), {"cudnn_conv_algo_search": "HEURISTIC"}),
        (parameter("gpu_mem_limit", "4294967200"), {"gpu_mem_limit": "4294967200"}),
        (parameter("arena_extend_strategy", "0"), {"arena_extend_strategy": "kNextPowerOfTwo"}),
        (parameter("do_copy_in_default_stream", "1"), {}),
        (parameter("use_tf32", "true"), {"use_tf32": "1"}),
        (parameter("prefer_nhwc", "0"), {"prefer_nhwc": "0"}),
        (accelerator("cuda", cudnn_conv_use_max_workspace="0"),
         {"cudnn_conv_use_max_workspace": "0"}),
        (accelerator("cuda", gpu_mem_limit="9") + parameter("gpu_mem_limit", "5"),
         {"gpu_mem_limit": "9"}),
        (accelerator("tensorrt", precision_mode="FP16", max_workspace_size_bytes="7"),
         {"trt_fp16_enable": "1", "trt_max_workspace_size": "7"}),
        (accelerator("tensorrt", precision_mode="FP32", trt_builder_optimization_level="5"),
         {"trt_builder_optimization_level": "5"}),
    ],
)  # fmt: skip
def test_options_of_providers_are_heeded_without_a_warning(
    text: str, provider: dict[str, str]
) -> None:
    found = on_gpu(text)
    assert (found.provider, found.warnings) == (provider, ())
    assert found.tensorrt == found.asked == ("tensorrt" in text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (parameter("do_copy_in_default_stream", "0"), "do_copy_in_default_stream"),
        (accelerator("cuda", enable_cuda_graph="1"), "enable_cuda_graph"),
        (accelerator("cuda", has_user_compute_stream="1"), "has_user_compute_stream"),
        # It would write where it is told to, and load code.
        (accelerator("tensorrt", trt_engine_cache_path="/etc"), "--trt-cache"),
        (accelerator("tensorrt", trt_extra_plugin_lib_paths="/x.so"), "trt_extra_plugin_lib_paths"),
        (accelerator("tensorrt", trt_dump_subgraphs="1"), "trt_dump_subgraphs"),
        (accelerator("migraphx"), "neither tensorrt nor cuda"),
        ("optimization { cuda { busy_wait_events: true } }", "busy_wait_events"),
        ("optimization { input_pinned_memory { enable: false } }", "input_pinned_memory"),
        ("optimization { gather_kernel_buffer_threshold: 1 }", "gather_kernel"),
        ("max_batch_size: 5000", "4096"),
        (parameter("share_session_between_instances", "false"), "share_session"),
        (parameter("of_nobody", "1"), "of_nobody"),
    ],
)
def test_what_has_no_effect_on_a_gpu_is_named_in_one_warning_and_reaches_no_provider(
    text: str, word: str
) -> None:
    found = on_gpu(text)
    (warning,) = found.warnings
    assert word in warning and "has no effect here" in warning
    assert not found.provider


@pytest.mark.parametrize(
    "text",
    [
        "optimization { cuda { graphs: true } }",
        "optimization { input_pinned_memory { enable: true } }",
        accelerator("tensorrt"),
        "instance_group { kind: KIND_GPU gpus: [ 0 ] }",
        parameter("gpu_mem_limit", "5"),
    ],
)
def test_what_counts_on_a_gpu_is_warned_of_on_the_cpu_only(text: str) -> None:
    assert read(text).warnings and not on_gpu(text).warnings


def test_graphs_are_recorded_where_the_config_says_so() -> None:
    assert on_gpu("optimization { cuda { graphs: true } }").cuda_graphs is True
    assert on_gpu("").cuda_graphs is None


@pytest.mark.parametrize(("said", "shrunk"), [("gpu:0", "gpu:0"), ("cpu:0;gpu:3", "cpu:0;gpu:0")])
def test_arena_of_the_gpu_is_shrunk_where_the_config_says_so(said: str, shrunk: str) -> None:
    key = "memory.enable_memory_arena_shrinkage"
    found = on_gpu(parameter(key, said))
    assert found.session == {"run_config": ((key, shrunk),)} and not found.warnings


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (parameter("cudnn_conv_algo_search", "3"), r"search is '3'; it takes 0 \(EXHAUSTIVE\) or"),
        (parameter("gpu_mem_limit", "4 GB"), "gpu_mem_limit is '4 GB'; it takes a number of bytes"),
        (parameter("use_tf32", "maybe"), "use_tf32 is 'maybe'; it takes 1 or 0"),
        (accelerator("tensorrt", precision_mode="FP8"), "precision_mode is 'FP8'; it takes FP32"),
        (accelerator("tensorrt", trt_tactic_sources="a b"), "trt_tactic_sources is 'a b'"),
    ],
)
def test_value_that_an_option_does_not_take_is_refused_on_a_gpu_and_warned_of_on_the_cpu(
    text: str, words: str
) -> None:
    found = read(text)
    with pytest.raises(ModelUnusable, match=words):
        placed(found, (GPU,))
    assert placed(found, (CPU,)) == (CPU,) and found.warnings
    on_cpu = read(text + " instance_group { kind: KIND_CPU count: 1 }")
    assert placed(on_cpu, (GPU,)) == (CPU,)


@pytest.mark.parametrize(
    ("said", "means"),
    [("0", "another of cuDNN's heuristics"), ("DEFAULT", "may be extremely slow")],
)
def test_search_that_means_something_else_by_now_is_heeded_with_a_warning(
    said: str, means: str
) -> None:
    found = on_gpu(parameter("cudnn_conv_algo_search", said))
    assert found.provider["cudnn_conv_algo_search"] in ("EXHAUSTIVE", "DEFAULT")
    (warning,) = found.warnings
    assert means in warning and "1 (HEURISTIC)" in warning
