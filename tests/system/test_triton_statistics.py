"""ModelStatistics, by Triton's own client: it agrees with what was sent, and with /metrics."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests import models
from tests.system.callers import figures, refused, tensor
from tests.system.servers import Served, serving

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
Client = triton.InferenceServerClient


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    for name in ("counted", "failing", "crowded", "quiet", "two"):
        models.double(root / name / "1" / "model.onnx")
    models.double(root / "two" / "2" / "model.onnx")
    (root / "two" / "config.pbtxt").write_text("version_policy { all {} }")
    with serving(root) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.grpc) as connected:
        yield connected


def told(client: Client, name: str, version: str = "1") -> Any:
    (statistics,) = client.get_inference_statistics(name, version).model_stats
    return statistics


def assert_agrees(served: Served, statistics: Any) -> None:
    """With the counters of /metrics, Triton's and ours; nothing may be running."""
    shown = figures(served, model=statistics.name, version=statistics.version)
    stats = statistics.inference_stats
    assert shown["nv_inference_request_success"] == stats.success.count
    assert shown["nv_inference_request_failure"] == stats.fail.count
    assert shown["farthing_requests_total"] == stats.success.count + stats.fail.count
    assert shown["nv_inference_count"] == statistics.inference_count
    assert shown["nv_inference_exec_count"] == statistics.execution_count
    assert shown["nv_inference_request_duration_us"] == stats.success.ns // 1000
    assert shown["nv_inference_queue_duration_us"] == stats.queue.ns // 1000
    for phase in ("input", "infer", "output"):
        ns = getattr(stats, f"compute_{phase}").ns
        assert shown[f"nv_inference_compute_{phase}_duration_us"] == ns // 1000
    assert shown["nv_inference_pending_request_count"] == 0
    if stats.success.count:
        assert shown["farthing_request_seconds_count"] == stats.success.count
        parts = [stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output]
        assert stats.success.ns >= sum(part.ns for part in parts)


def test_each_answer_and_its_rows_are_counted(served: Served, client: Client) -> None:
    before = told(client, "counted")
    for _ in range(5):
        client.infer("counted", [tensor("x", ROWS)])
    after = told(client, "counted")
    assert after.inference_stats.success.count - before.inference_stats.success.count == 5
    assert after.inference_count - before.inference_count == 10
    assert after.execution_count - before.execution_count == 5
    assert after.last_inference > before.last_inference
    (batch,) = after.batch_stats
    assert batch.batch_size == 2
    assert batch.compute_infer.count == after.execution_count
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        duration = getattr(after.inference_stats, part)
        assert duration.count == after.inference_stats.success.count
        assert duration.ns > 0 or part == "queue"  # in which nobody was
    assert_agrees(served, after)


def test_what_fails_is_counted_as_failed(served: Served, client: Client) -> None:
    client.infer("failing", [tensor("x", ROWS)])
    before = told(client, "failing")
    with refused("INVALID_ARGUMENT"):
        client.infer("failing", [tensor("z", ROWS)])
    with refused("DEADLINE_EXCEEDED"):
        client.infer("failing", [tensor("x", ROWS)], timeout=1)
    after = told(client, "failing")
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 2
    assert after.inference_stats.success.count == before.inference_stats.success.count
    assert_agrees(served, after)
    shown = figures(served, model="failing", reason="REJECTED")
    assert shown["nv_inference_request_failure"] >= 1
    shown = figures(served, model="failing", status="INVALID_ARGUMENT", reason="invalid_input")
    assert shown["farthing_requests_total"] >= 1


def test_figures_agree_after_a_crowd(served: Served, client: Client) -> None:
    def call(number: int) -> None:
        rows = np.ones((1 + number % 3, 4), np.float32)
        np.testing.assert_array_equal(
            client.infer("crowded", [tensor("x", rows)]).as_numpy("y"), rows * 2
        )

    before = told(client, "crowded")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(120)))
    after = told(client, "crowded")
    assert after.inference_stats.success.count - before.inference_stats.success.count == 120
    assert after.inference_count - before.inference_count == 240
    runs = {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats}
    assert sum(runs.values()) == after.execution_count
    assert sum(rows * count for rows, count in runs.items()) == after.inference_count
    assert_agrees(served, after)


def test_a_model_that_nobody_called_has_zeros(served: Served, client: Client) -> None:
    statistics = told(client, "quiet")
    assert (statistics.inference_count, statistics.execution_count) == (0, 0)
    assert statistics.last_inference == 0
    assert list(statistics.batch_stats) == []
    assert_agrees(served, statistics)


def test_versions_are_counted_apart(client: Client) -> None:
    before = told(client, "two", "1").inference_count
    other = told(client, "two", "2").inference_count
    client.infer("two", [tensor("x", ROWS)], model_version="1")
    assert told(client, "two", "1").inference_count == before + 2
    assert told(client, "two", "2").inference_count == other
    both = client.get_inference_statistics("two").model_stats
    assert [(one.name, one.version) for one in both] == [("two", "1"), ("two", "2")]


def test_without_a_name_all_models_are_told(client: Client) -> None:
    found = {(one.name, one.version) for one in client.get_inference_statistics().model_stats}
    assert found == {
        ("counted", "1"), ("failing", "1"), ("crowded", "1"), ("quiet", "1"), ("two", "1"),
        ("two", "2"),
    }  # fmt: skip
