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
from service.sizes import Named, Nodes

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


@pytest.mark.parametrize("facts", [FIXED, ROWS, RAGGED, Facts()])
@pytest.mark.parametrize("fields", [{}, {"max_rows": 1}, {"cuda_graphs": True}])
def test_plans_of_convolutions_are_those_that_are_made_fastest(
    facts: Facts, fields: dict[str, Any]
) -> None:
    assert on_gpu(facts, **fields)["cudnn_conv_algo_search"] == "HEURISTIC"
    asked = (("cudnn_conv_algo_search", "EXHAUSTIVE"),)
    assert on_gpu(facts, **fields, provider=asked)["cudnn_conv_algo_search"] == "EXHAUSTIVE"


def test_precision_is_that_which_was_verified_unless_the_config_says_otherwise() -> None:
    assert on_gpu()["use_tf32"] == "0"
    assert on_gpu(provider=(("use_tf32", "1"),))["use_tf32"] == "1"


def test_halves_keep_the_tensor_cores_which_the_option_would_take_from_them_too() -> None:
    halves = replace(ROWS, half=True)
    assert "use_tf32" not in on_gpu(halves)
    assert on_gpu(halves, provider=(("use_tf32", "0"),))["use_tf32"] == "0"


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


SIZES = Counter({("a", "Shape"): 1, ("", "Shape"): 2, ("", "Mul"): 2})
FILE = Nodes(SIZES + Counter({("m", "Mul"): 1, ("", "Mul"): 3, ("t", "Tanh"): 1}), SIZES)


def left(nodes: dict[Named, int], fallback: str = "shapes") -> str:
    return providers.refused(Counter(nodes), fallback, FILE)


@pytest.mark.parametrize(
    "nodes",
    [
        {("", "Shape"): 2, ("", "Mul"): 2},
        {("a", "Shape"): 1},
        {("made by an optimizer", "Gather"): 3},
    ],
)
def test_nodes_that_compute_shapes_may_be_on_the_cpu_unless_none_may(
    nodes: dict[Named, int],
) -> None:
    assert not left(nodes) and not left(nodes, "any")
    assert f"{sum(nodes.values())} nodes" in left(nodes, "none").replace("1 node ", "1 nodes ")


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ({("m", "Mul"): 1}, "1 node to the CPU: 1 Mul;"),
        ({("", "Mul"): 4, ("t", "Tanh"): 1}, "3 nodes to the CPU: 2 Mul, 1 Tanh;"),
        # Nobody knows what they are given, and CUDA's provider has no kernel for some numbers.
        ({("made by an optimizer", "Clip"): 1}, "1 node to the CPU: 1 Clip;"),
        ({("made by an optimizer", "LSTM"): 1, ("a", "Shape"): 1}, "1 node to the CPU: 1 LSTM;"),
    ],
)
def test_nodes_on_the_cpu_that_compute_on_rows_are_named_and_counted(
    nodes: dict[Named, int], names: str
) -> None:
    assert names in left(nodes) and "--cpu-fallback any" in left(nodes)
    assert not left(nodes, "any")


def test_what_computes_sizes_by_an_operator_that_never_does_so_is_refused() -> None:
    one = Counter({("r", "LSTM"): 1})
    assert "1 LSTM" in providers.refused(one, "shapes", Nodes(one, one))


def test_many_operators_are_told_as_a_few() -> None:
    said = providers.counted(Counter({("", f"Op{n:02}"): 1 for n in range(20)}))
    assert said.startswith("1 Op00, 1 Op01") and said.endswith("and 12 others")
    assert providers.counted(Counter({("a", "Mul"): 1, ("b", "Mul"): 2})) == "3 Mul"


FULL = "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc"


def test_full_memory_is_told_with_what_would_free_some() -> None:
    options = SessionOptions(devices=(GPU,))
    assert "serve fewer models" in providers.memory_full(FULL, options)
    limited = replace(options, provider=(("gpu_mem_limit", "1"),))
    assert "--gpu-mem-mib" in providers.memory_full(FULL, limited)


def test_other_failures_and_those_of_the_cpu_are_not_the_gpus_memory() -> None:
    assert not providers.memory_full("invalid shape", SessionOptions(devices=(GPU,)))
    assert not providers.memory_full(FULL, SessionOptions())
