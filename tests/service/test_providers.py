"""Which providers run a graph on a device, with which options; what is refused, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from service import providers
from service.devices import CPU, Device
from service.graphs import Facts
from service.sessionoptions import SessionOptions

GPU, TRT = Device("cuda", 3), Device("tensorrt", 1)
ROWS = Facts(frozenset({"Conv"}), False, (("x", (-1, 3, 8, 8)),))
RAGGED = replace(ROWS, inputs=(("x", (-1, 3, -1, -1)),))
FIXED = replace(ROWS, inputs=(("x", (4, 3, 8, 8)),))


def on_gpu(facts: Facts = ROWS, device: Device = GPU, **fields: Any) -> dict[str, str]:
    """The options of the first provider."""
    options = SessionOptions(devices=(device,), **{"max_rows": 8, **fields})
    return providers.planned(device, options, facts, engines="/engines/own")[0][1]


def test_cpu_has_its_provider_alone_and_no_entries() -> None:
    assert providers.planned(CPU, SessionOptions(), ROWS) == [("CPUExecutionProvider", {})]
    for fallback in ("shapes", "none", "any"):  # its provider refuses to start with some
        assert providers.entries(CPU, SessionOptions(cpu_fallback=fallback)) == {}


def test_gpu_has_cudas_and_tensorrt_has_cudas_behind_its_own() -> None:
    plans = [providers.planned(d, SessionOptions(devices=(d,)), ROWS) for d in (GPU, TRT)]
    assert [[name for name, _ in plan] for plan in plans] == [
        ["CUDAExecutionProvider"], ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
    ]  # fmt: skip
    assert [[o["device_id"] for _, o in plan] for plan in plans] == [["3"], ["1", "1"]]


@pytest.mark.parametrize(
    ("facts", "fields", "search"),
    [
        (FIXED, {}, "EXHAUSTIVE"),
        (ROWS, {"max_rows": 1}, "EXHAUSTIVE"),
        (ROWS, {"cuda_graphs": True}, "EXHAUSTIVE"),
        (ROWS, {}, "HEURISTIC"),
        (RAGGED, {"cuda_graphs": True}, "HEURISTIC"),
        (RAGGED, {"max_rows": 1}, "HEURISTIC"),
        (Facts(), {"cuda_graphs": True}, "HEURISTIC"),
    ],
)
def test_algorithms_are_searched_for_where_shapes_come_again(
    facts: Facts, fields: dict[str, Any], search: str
) -> None:
    assert on_gpu(facts, **fields)["cudnn_conv_algo_search"] == search


def test_precision_is_that_which_was_verified_unless_the_config_says_otherwise() -> None:
    assert on_gpu()["use_tf32"] == "0"
    assert on_gpu(provider=(("use_tf32", "1"),))["use_tf32"] == "1"


def test_layout_of_tensor_cores_is_for_convolutions_of_halves() -> None:
    assert on_gpu(replace(ROWS, half=True))["prefer_nhwc"] == "1"
    assert "prefer_nhwc" not in on_gpu()
    assert "prefer_nhwc" not in on_gpu(Facts(frozenset({"MatMul"}), True, ROWS.inputs))


def test_graphs_are_recorded_where_asked_for_and_by_cuda_only() -> None:
    assert on_gpu(cuda_graphs=True)["enable_cuda_graph"] == "1"
    assert "enable_cuda_graph" not in on_gpu()
    plan = providers.planned(TRT, SessionOptions(devices=(TRT,), cuda_graphs=True), ROWS)
    assert not any("graph" in name for _, options in plan for name in options)


def test_memory_is_limited_for_both_providers() -> None:
    limit = (("gpu_mem_limit", "1024"),)
    assert on_gpu(provider=limit)["gpu_mem_limit"] == "1024"
    assert on_gpu(device=TRT, provider=limit)["trt_max_workspace_size"] == "1024"


@pytest.mark.parametrize(("half", "operators"), [(False, {"Conv"}), (True, {"DequantizeLinear"})])
def test_tensorrt_takes_the_types_that_the_graph_has(half: bool, operators: set[str]) -> None:
    found = on_gpu(Facts(frozenset(operators), half, ROWS.inputs), TRT)
    assert found["trt_fp16_enable"] == str(int(half))
    assert found["trt_int8_enable"] == str(int(operators == {"DequantizeLinear"}))


def test_tensorrt_keeps_engines_of_each_file_apart_and_times_together() -> None:
    found = on_gpu(device=TRT, trt_cache="/engines")
    assert found["trt_engine_cache_path"] == "/engines/own"
    assert found["trt_timing_cache_path"] == "/engines"
    assert found["trt_engine_cache_enable"] == found["trt_timing_cache_enable"] == "1"
    bare = providers.planned(TRT, SessionOptions(devices=(TRT,)), ROWS)[0][1]
    assert not any("cache" in name for name in bare)


def test_tensorrt_builds_one_engine_for_all_numbers_of_rows_where_sizes_are_known() -> None:
    found = on_gpu(device=TRT)
    assert [found[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")] == [
        "x:1x3x8x8", "x:8x3x8x8", "x:8x3x8x8",
    ]  # fmt: skip
    for facts, rows in ((RAGGED, 8), (FIXED, 8), (ROWS, 0)):
        assert "trt_profile_min_shapes" not in on_gpu(facts, TRT, max_rows=rows)


def test_options_of_one_provider_do_not_reach_the_other() -> None:
    given = (("trt_sparsity_enable", "1"), ("fuse_conv_bias", "1"))
    plan = providers.planned(TRT, SessionOptions(devices=(TRT,), provider=given), ROWS)
    assert plan[0][1]["trt_sparsity_enable"] == plan[1][1]["fuse_conv_bias"] == "1"
    assert "fuse_conv_bias" not in plan[0][1] and "trt_sparsity_enable" not in plan[1][1]


@pytest.mark.parametrize(("fallback", "alone"), [("shapes", 0), ("any", 0), ("none", 1)])
def test_session_records_where_nodes_run_and_alone_refuses_the_cpu(
    fallback: str, alone: int
) -> None:
    entries = providers.entries(GPU, SessionOptions(devices=(GPU,), cpu_fallback=fallback))
    assert entries.pop("session.record_ep_graph_assignment_info") == "1"
    assert list(entries) == ["session.disable_cpu_ep_fallback"] * alone


SHAPES, WORK = Counter(Shape=3, Gather=2), Counter(Det=1, Shape=2, LSTM=2)


@pytest.mark.parametrize(
    ("nodes", "fallback", "names"),
    [
        (SHAPES, "shapes", ""),
        (SHAPES, "any", ""),
        (SHAPES, "none", "5 nodes to the CPU: 3 Shape, 2 Gather;"),
        (WORK, "shapes", "3 nodes to the CPU: 2 LSTM, 1 Det;"),
        (Counter(LSTM=1), "shapes", "1 node to the CPU: 1 LSTM;"),
        (WORK, "any", ""),
        (Counter(), "none", ""),
    ],
)
def test_nodes_that_may_not_be_on_the_cpu_are_named_and_counted(
    nodes: Counter[str], fallback: str, names: str
) -> None:
    said = providers.refused(nodes, fallback)
    assert (names in said and "--cpu-fallback any" in said) if names else not said


def test_many_operators_are_told_as_a_few() -> None:
    said = providers.counted({f"Op{n:02}": 1 for n in range(20)})
    assert said.startswith("1 Op00, 1 Op01") and said.endswith("and 12 others")


FULL = "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc"


def test_full_memory_is_told_with_what_would_free_some() -> None:
    options = SessionOptions(devices=(GPU,))
    assert "serve fewer models" in providers.memory_full(FULL, options)
    limited = replace(options, provider=(("gpu_mem_limit", "1"),))
    assert "--gpu-mem-mib" in providers.memory_full(FULL, limited)


def test_other_failures_and_those_of_the_cpu_are_not_the_gpus_memory() -> None:
    assert not providers.memory_full("invalid shape", SessionOptions(devices=(GPU,)))
    assert not providers.memory_full(FULL, SessionOptions())
