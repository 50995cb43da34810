"""Models that come and go while callers call: nobody loses a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from tests import models
from tests.system.servers import Served, serving

CALLERS = 8


def put(root: Path, version: int) -> None:
    """A model that multiplies by its version, whole or not at all."""
    staged = models.double(root / f".{version}" / "model.onnx", factor=float(version))
    (root / "m").mkdir(exist_ok=True)
    staged.parent.rename(root / "m" / str(version))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, 1)
    return tmp_path


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    with serving(root, "--control", "repository", "--poll-s", "0.2") as server:
        yield server


class Callers:
    """Eight callers, each on its own, one request after the other.

    Attributes:
        answers: the version that answered, for each answer, in the order they came.
        least: no version below it may answer what is sent from now on: the newest so far.
    """

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self.client = client
        self.answers: list[float] = []
        self.least = 0.0
        self._stop = False

    async def call(self) -> None:
        tensor = triton.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
        while not self._stop:
            # As it is when this one is sent. What was sent before may be answered much later, and
            # after any number of the others' newer answers.
            least = self.least
            answer = await self.client.infer("m", [tensor], client_timeout=20)
            values = answer.as_numpy("y")
            assert values is not None and len(set(values.flat)) == 1
            version = float(values.flat[0])
            assert version >= least, "an old version took a request that came after the swap"
            self.least = max(self.least, version)
            self.answers.append(version)

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(2000):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the condition never held")

    async def hundred_more(self) -> None:
        wanted = len(self.answers) + 100
        await self.until(lambda: len(self.answers) >= wanted)


@asynccontextmanager
async def calling(served: Served) -> AsyncIterator[Callers]:
    """Whoever of them fails, fails the test."""
    async with triton.InferenceServerClient(served.grpc) as client:
        callers = Callers(client)
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(callers.call())
            try:
                await callers.hundred_more()
                yield callers
                await callers.hundred_more()
            finally:
                callers._stop = True


async def test_reloads_by_request_lose_no_request(served: Served, root: Path) -> None:
    async with calling(served) as callers:
        for version in range(2, 12):
            put(root, version)
            await callers.client.load_model("m")
            # The answer to the load came after the swap: nobody new meets the old version.
            callers.least = float(version)
            await callers.hundred_more()
    assert set(callers.answers) == {float(version) for version in range(1, 12)}


async def test_new_version_found_by_polling_loses_no_request(served: Served, root: Path) -> None:
    async with calling(served) as callers:
        put(root, 7)
        await callers.until(lambda: callers.answers[-1] == 7.0)
    assert set(callers.answers) == {1.0, 7.0}


async def test_broken_versions_lose_no_request(served: Served, root: Path) -> None:
    async with calling(served) as callers:
        whole = (root / "m" / "1" / "model.onnx").read_bytes()
        for version, content in ((2, b""), (3, b"no graph"), (4, whole[: len(whole) // 2])):
            path = root / "m" / str(version) / "model.onnx"
            path.parent.mkdir()
            path.write_bytes(content)
            with pytest.raises(triton.InferenceServerException, match="cannot be loaded"):
                await callers.client.load_model("m")
            await callers.hundred_more()
    assert set(callers.answers) == {1.0}


async def test_config_that_breaks_and_is_mended_loses_no_request(
    served: Served, root: Path
) -> None:
    config = root / "m" / "config.pbtxt"
    async with calling(served) as callers:
        for text in ("max_batch_size: -1", "nonsense {", "max_batch_size: 4"):
            config.write_text(text)
            await asyncio.sleep(0.5)  # two looks at the repository
        limits = (await callers.client.get_model_config("m", as_json=True))["config"]
    assert limits["max_batch_size"] == 4
    assert set(callers.answers) == {1.0}
