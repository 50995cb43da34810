"""Models come, change and go beside those that serve, and a broken one changes nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import repository
from service.errors import Draining, InvalidInput, ModelNotFound, ModelNotReady, ModelUnusable
from service.index import State
from service.repository import Repository
from service.settings import Settings
from tests import models
from tests.service.stage import until


def load(root: Path, **settings: Any) -> Repository:
    return repository.load(Settings(repository=root, threads=1, **settings))


async def factor(served: Repository, name: str = "m", version: str = "") -> float:
    model = served.model(name, version)
    answer = await model.batcher.submit({"x": np.ones((1, 4), np.float32)}, 1, None)
    return float(answer.outputs["y"][0, 0])


def put(root: Path, version: int, times: float, name: str = "m") -> None:
    models.double(root / name / str(version) / "model.onnx", factor=times)


def spoil(root: Path, version: int, name: str = "m") -> None:
    path = root / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"this is no graph")


def configure(root: Path, text: str, name: str = "m") -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "config.pbtxt").write_text(text)


def states(served: Repository) -> dict[str, tuple[str, str]]:
    return {f"{s.name}/{s.version}": (s.state.value, s.reason) for s in served.index()}


async def until_idle(served: Repository) -> None:
    await until(lambda: all(s.state is not State.UNLOADING for s in served.index()))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    put(tmp_path, 1, 1.0)
    yield tmp_path


async def test_new_version_takes_over_and_the_old_one_is_unloaded(root: Path) -> None:
    served = load(root)
    put(root, 2, 2.0)
    await served.load("m")
    assert (await factor(served), served.versions("m")) == (2.0, ["2"])
    await until_idle(served)
    assert states(served) == {"m/1": ("UNAVAILABLE", "unloaded"), "m/2": ("READY", "")}
    with pytest.raises(ModelNotReady, match="unloaded"):
        served.model("m", "1")


async def test_broken_new_version_leaves_the_old_one_serving(root: Path) -> None:
    served = load(root)
    spoil(root, 2)
    with pytest.raises(InvalidInput, match="version 2 cannot be loaded") as refused:
        await served.load("m")
    assert await factor(served) == 1.0
    assert states(served)["m/1"] == ("READY", "")
    state, reason = states(served)["m/2"]
    assert (state, bool(reason)) == ("UNAVAILABLE", True)
    assert str(root) not in reason + str(refused.value)


async def test_version_that_is_broken_in_place_goes_on_from_memory(root: Path) -> None:
    served = load(root)
    spoil(root, 1)
    with pytest.raises(InvalidInput):
        await served.load("m")
    assert await factor(served) == 1.0
    state, reason = states(served)["m/1"]
    assert state == "READY" and "successor was refused" in reason


async def test_mended_version_is_loaded_at_the_next_try(root: Path) -> None:
    served = load(root)
    spoil(root, 2)
    with pytest.raises(InvalidInput):
        await served.load("m")
    put(root, 2, 2.0)
    await served.load("m")
    assert await factor(served) == 2.0
    assert states(served)["m/2"] == ("READY", "")


async def test_version_that_did_not_change_is_kept_as_it_is(root: Path) -> None:
    configure(root, "version_policy { all {} }")
    served = load(root)
    first = served.model("m", "1")
    put(root, 2, 2.0)
    await served.load("m")
    assert served.model("m", "1") is first
    assert served.versions("m") == ["1", "2"]


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("latest { num_versions: 2 }", ["2", "3"]),
        ("all {}", ["1", "2", "3"]),
        ("specific { versions: [1, 3] }", ["1", "3"]),
    ],
)
async def test_version_policy_decides_what_is_served(
    root: Path, policy: str, versions: list[str]
) -> None:
    put(root, 2, 2.0)
    put(root, 3, 3.0)
    configure(root, f"version_policy {{ {policy} }}")
    served = load(root)
    assert served.versions("m") == versions
    assert [await factor(served, version=v) for v in versions] == [float(v) for v in versions]
    assert await factor(served) == float(versions[-1])


def test_policy_that_asks_for_no_version_there_is_refused(root: Path) -> None:
    configure(root, "version_policy { specific { versions: [7] } }")
    with pytest.raises(ModelUnusable, match="none of the versions"):
        load(root)


async def test_unloaded_model_is_known_and_not_ready(root: Path) -> None:
    served = load(root)
    await served.unload("m")
    await until_idle(served)
    with pytest.raises(ModelNotReady, match="unloaded"):
        served.model("m")
    await served.load("m")
    assert await factor(served) == 1.0


async def test_accepted_work_of_an_unloaded_model_is_answered(root: Path) -> None:
    served = load(root)
    feeds = {"x": np.ones((1, 4), np.float32)}
    batcher = served.model("m").batcher
    callers = [asyncio.create_task(batcher.submit(feeds, 1, None)) for _ in range(50)]
    await asyncio.sleep(0)
    await served.unload("m")
    answers = await asyncio.gather(*callers)
    assert [float(answer.outputs["y"][0, 0]) for answer in answers] == [1.0] * 50


async def test_unknown_model_can_be_neither_loaded_nor_unloaded(root: Path) -> None:
    served = load(root)
    for name in ("absent", "../m", "/etc/passwd", "m/1", ""):
        with pytest.raises(ModelNotFound):
            await served.load(name)
        with pytest.raises(ModelNotFound):
            await served.unload(name)


async def test_poll_finds_what_is_new_changed_and_gone(root: Path) -> None:
    served = load(root, poll_s=1)
    put(root, 1, 5.0, "new")
    put(root, 2, 2.0)
    await served.poll()
    assert (await factor(served, "new"), await factor(served)) == (5.0, 2.0)
    shutil.rmtree(root / "new")
    await served.poll()
    await until_idle(served)
    with pytest.raises(ModelNotFound):
        served.model("new")


async def test_poll_tries_a_broken_model_once_for_each_change(root: Path) -> None:
    served = load(root, poll_s=1)
    spoil(root, 2)
    for _ in range(3):
        await served.poll()
    assert await factor(served) == 1.0
    assert states(served)["m/2"][0] == "UNAVAILABLE"
    put(root, 2, 2.0)
    await served.poll()
    assert await factor(served) == 2.0


async def test_poll_leaves_an_unloaded_model_alone_until_it_changes(root: Path) -> None:
    served = load(root, poll_s=1)
    await served.unload("m")
    await served.poll()
    with pytest.raises(ModelNotReady):
        served.model("m")
    put(root, 2, 2.0)
    await served.poll()
    assert await factor(served) == 2.0


async def test_repository_that_vanishes_leaves_everything_serving(root: Path) -> None:
    served = load(root, poll_s=1)
    shutil.rmtree(root)
    await served.poll()
    assert await factor(served) == 1.0


async def test_listener_hears_of_every_change(root: Path) -> None:
    served = load(root)
    heard: list[tuple[str, bool]] = []
    served.on_change(lambda name, ready: heard.append((name, ready)))
    await served.unload("m")
    await served.load("m")
    assert heard == [("m", True), ("m", False), ("m", True)]


def test_broken_model_stops_the_start_unless_told_otherwise(root: Path) -> None:
    spoil(root, 1, "broken")
    with pytest.raises(ModelUnusable, match="cannot load"):
        load(root)
    served = load(root, exit_on_error=False)
    assert states(served)["m/1"][0] == "READY"
    assert states(served)["broken/1"][0] == "UNAVAILABLE"
    with pytest.raises(ModelNotReady):
        served.model("broken")


async def test_draining_repository_answers_what_it_accepted_and_loads_nothing(root: Path) -> None:
    served = load(root)
    feeds = {"x": np.ones((1, 4), np.float32)}
    caller = asyncio.create_task(served.model("m").batcher.submit(feeds, 1, None))
    await asyncio.sleep(0)
    assert await served.drain(10)
    assert float((await caller).outputs["y"][0, 0]) == 1.0
    with pytest.raises(Draining):
        await served.load("m")


async def test_files_of_a_caller_who_left_are_loaded_or_not_but_never_half(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    served = load(root, control="repository")
    path = models.double(tmp_path_factory.mktemp("sent") / "model.onnx", factor=5.0)
    files = {("5", "model.onnx"): path.read_bytes()}
    first = asyncio.create_task(served.load("m"))
    second = asyncio.create_task(served.load("m", files=files))
    await asyncio.sleep(0)
    second.cancel()
    await first
    await until(lambda: not served._tasks)
    assert await factor(served) == 5.0


async def test_model_loaded_by_request_while_polling_stays(root: Path) -> None:
    served = load(root, poll_s=1, control="repository")
    for name in ("a", "z"):
        put(root, 1, 3.0, name)
    polling = asyncio.create_task(served.poll())
    await until(lambda: any(s.name == "a" for s in served.index()))
    put(root, 1, 4.0, "b")
    await served.load("b")
    await polling
    assert await factor(served, "b") == 4.0


async def test_model_that_was_loading_when_the_drain_began_is_not_served(root: Path) -> None:
    served = load(root)
    put(root, 2, 2.0)
    loading = asyncio.create_task(served.load("m"))
    await until(lambda: any(s.state is State.LOADING for s in served.index()))
    assert await served.drain(20)
    with pytest.raises(Draining):
        await loading
    assert served.versions("m") == ["1"]


async def test_unexpected_error_in_one_load_leaves_the_others_to_load(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = load(root)
    put(root, 2, 2.0)
    with monkeypatch.context() as broken:
        broken.setattr("service.model.load", lambda *_, **__: next(iter(())))
        with pytest.raises(InvalidInput, match="the server's log says why"):
            await served.load("m")
    assert states(served)["m/2"][0] == "UNAVAILABLE"
    await served.load("m")
    assert await factor(served) == 2.0
