"""Queue policies and priorities of a config.pbtxt, seen by callers of a busy model."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from tests import models
from tests.system.callers import figures, refused, tensor, until
from tests.system.servers import Served, serving

IMAGES = np.ones((8, 3, 24, 24), np.float32)
LEVELS = """
max_batch_size: 8
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy { max_queue_size: 2 }
}
"""
IMPATIENT = """
max_batch_size: 8
dynamic_batching { default_queue_policy { default_timeout_microseconds: 1000 } }
"""
Endings = queue.SimpleQueue[tuple[str, Any]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    for name, config in (("levels", LEVELS), ("impatient", IMPATIENT)):
        models.classifier(root / name / "1" / "model.onnx", channels=512)
        (root / name / "config.pbtxt").write_text(config)
    with serving(root, "--threads", "1") as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.grpc) as connected:
        yield connected


def call(
    client: triton.InferenceServerClient, model: str, name: str, endings: Endings, priority: int = 0
) -> None:
    """Ask, and go on; ``endings`` gets the name and the error or None."""
    client.async_infer(
        model, [tensor("x", IMAGES)], lambda result, error: endings.put((name, error)),
        priority=priority,
    )  # fmt: skip


def test_the_first_priority_overtakes_and_a_full_level_refuses(
    served: Served, client: triton.InferenceServerClient
) -> None:
    endings: Endings = queue.SimpleQueue()

    def waiting() -> float:
        return figures(served, model="levels")["nv_inference_pending_request_count"]

    call(client, "levels", "running", endings)
    until(lambda: figures(served, model="levels")["farthing_running"] == 1)
    for number, name in enumerate(("second, one", "second, two"), 1):
        call(client, "levels", name, endings)
        until(lambda number=number: waiting() == number)  # type: ignore[misc]
    with refused("RESOURCE_EXHAUSTED"):
        client.infer("levels", [tensor("x", IMAGES)], priority=2)
    call(client, "levels", "first", endings, priority=1)
    until(lambda: waiting() == 3)
    got = [endings.get(timeout=60) for _ in range(4)]
    assert got == [
        ("running", None), ("first", None), ("second, one", None), ("second, two", None)
    ]  # fmt: skip


def test_a_request_waits_no_longer_than_its_models_policy(
    served: Served, client: triton.InferenceServerClient
) -> None:
    endings: Endings = queue.SimpleQueue()
    call(client, "impatient", "running", endings)
    until(lambda: figures(served, model="impatient")["farthing_running"] == 1)
    with refused("DEADLINE_EXCEEDED", "queue policy"):
        client.infer("impatient", [tensor("x", IMAGES)])
    assert endings.get(timeout=60) == ("running", None)
