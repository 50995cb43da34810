"""A session that runs through lanes answers as one that does not, and so does its batcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import runtime
from service.batcher import Batcher
from service.batching import Limits
from service.choice import Chosen
from service.devices import Device
from service.errors import InferenceFailed, ModelUnusable
from service.lanes import Staged
from service.manifest import Manifest, TensorSpec, Variant
from service.opened import Opened
from service.session import RunFailed, Session, SessionOptions
from tests import models
from tests.memory import HostMemory
from tests.service import onhost

MAX_ROWS = 8
OPTIONS = SessionOptions(threads=1, lanes=2, max_rows=MAX_ROWS)


def on_host(path: Path, *, graphs: bool = False, gpus: int = 1) -> tuple[Session, list[Any]]:
    """A session "on GPUs", and how it is run there."""
    session = Session(path, OPTIONS)
    places = [onhost.place(path) for _ in range(gpus)]
    session.run_on(places, graphs=graphs)
    return session, [place.session for place in places]


def opened(session: Session, **reshapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Opened:
    """What is loaded; of reshaped tensors, the shapes of the graph and of the callers."""

    def seen(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=reshapes[spec.name][1]) if spec.name in reshapes else spec

    variant = Variant("fp32", True, "", session.path.name, "d")
    contract = Manifest("m", session.batched, tuple(map(seen, session.inputs)),
                        tuple(map(seen, session.outputs)), (variant,))  # fmt: skip
    graphs = {name: shapes[0] for name, shapes in reshapes.items()}
    return Opened(contract, Chosen(variant, "only", ""), session, graphs)


def warmed(found: Opened, max_rows: int = MAX_ROWS) -> Opened:
    found.warm_up(max_rows, (), found.session.path.parent, time.monotonic)
    return found


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def batcher(found: Opened, executor: ThreadPoolExecutor, instances: int = 2) -> Batcher:
    limits = Limits(MAX_ROWS, 10_000, instances=instances, batched=found.contract.batched)
    return Batcher(found.runs, limits, executor=executor, clock=time.monotonic)


class TestWarmUp:
    def test_gives_lanes_their_buffers_and_runs_on_each(self, tmp_path: Path) -> None:
        session, (one, two) = on_host(models.double(tmp_path / "m.onnx"), gpus=2)
        assert session.lanes is not None and session.lanes.plan is None
        session.warm_up(1)
        assert session.lanes.plan is not None
        assert (len(one.runs), len(two.runs)) == (2, 2)

    def test_records_a_graph_for_each_bucket_before_anyone_calls(self, tmp_path: Path) -> None:
        session, (seen,) = on_host(models.double(tmp_path / "m.onnx"), graphs=True)
        warmed(opened(session), 6)
        recorded = {graph for _, graph, _ in seen.runs}
        assert len(recorded) == 8 and -1 not in recorded  # 1, 2, 4 and 8 rows on two lanes
        seen.runs.clear()
        for rows in range(1, 7):
            session.run({"x": np.ones((rows, 4), np.float32)})
        assert {graph for _, graph, _ in seen.runs} <= recorded

    def test_outputs_that_do_not_follow_the_rows_are_refused_as_on_the_cpu(
        self, tmp_path: Path
    ) -> None:
        path = models.not_batched(tmp_path / "m.onnx")
        refusals = []
        for session in (Session(path, OPTIONS), on_host(path)[0]):
            with pytest.raises(ModelUnusable, match="cannot be told apart") as refused:
                session.warm_up(3, batched=True)
            refusals.append(str(refused.value))
        assert refusals[0] == refusals[1]

    def test_a_gpu_without_room_for_the_batch_is_a_sentence(self, tmp_path: Path) -> None:
        path = models.double(tmp_path / "m.onnx")
        session, place = Session(path, OPTIONS), onhost.place(path, HostMemory(most_bytes=600))
        session.run_on([place])
        with pytest.raises(ModelUnusable, match="used up; lower --max-batch or --inst") as refused:
            session.warm_up(1)
        assert str(tmp_path) not in refused.value.told
        onhost.settled(place)
        assert not place.memory.held and not place.memory.streams

    def test_a_run_that_fails_is_told_as_on_the_cpu(self, tmp_path: Path) -> None:
        session, (seen,) = on_host(models.double(tmp_path / "m.onnx"))

        def fail() -> None:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

        seen.before = fail
        with pytest.raises(RunFailed, match="fails to run on 1 rows of zeros: CUDA failure 700"):
            session.warm_up(1)

    def test_what_a_lane_has_no_room_for_is_warmed_up_the_plain_way(self, tmp_path: Path) -> None:
        for build in (models.every_datatype, models.valid_convolution):
            session, (seen,) = on_host(build(tmp_path / "m.onnx"))
            found = opened(session)
            found.warm_up(4, (), tmp_path, time.monotonic)
            assert session.lanes is not None and session.lanes.plan is None and not seen.runs
            assert found.runs == found.run


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("gpus", [1, 2])
async def test_each_caller_gets_his_own_rows(
    tmp_path: Path, threads: ThreadPoolExecutor, gpus: int, graphs: bool
) -> None:
    session, seen = on_host(models.double(tmp_path / "m.onnx"), gpus=gpus, graphs=graphs)
    found = warmed(opened(session))
    served = batcher(found, threads, instances=2 * gpus)
    rng = np.random.default_rng(1)
    asked = [rng.normal(size=(n % 5 + 1, 4)).astype(np.float32) for n in range(200)]
    answers = await asyncio.gather(*(served.submit({"x": x}, len(x), None) for x in asked))
    for x, answer in zip(asked, answers, strict=True):
        np.testing.assert_array_equal(answer.outputs["y"], x * 2)
    assert any(answer.batch_rows > 5 for answer in answers)
    assert all(len({thread for thread, _, _ in one.runs}) == 1 for one in seen)


async def test_a_bad_row_fails_alone_and_no_lane_is_lost(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    session, _ = on_host(models.lookup(tmp_path / "m.onnx"))
    served = batcher(warmed(opened(session)), threads)
    rows = [n % 8 if n % 5 else 99 for n in range(100)]
    answers = await asyncio.gather(
        *(served.submit({"x": np.array([row])}, 1, None) for row in rows), return_exceptions=True
    )
    for row, answer in zip(rows, answers, strict=True):
        if row == 99:
            assert isinstance(answer, InferenceFailed)
        else:
            assert not isinstance(answer, BaseException)
            assert answer.outputs["y"][0, 0] == 4 * row


async def test_callers_who_leave_lose_no_lane(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    session, _ = on_host(models.double(tmp_path / "m.onnx"))
    served = batcher(warmed(opened(session)), threads)
    x = np.ones((2, 4), np.float32)
    for leaving in range(40):
        callers = [asyncio.create_task(served.submit({"x": x}, 2, None)) for _ in range(6)]
        for _ in range(leaving % 4):
            await asyncio.sleep(0)
        for caller in callers[::2]:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    answer = await served.submit({"x": x}, 2, None)
    np.testing.assert_array_equal(answer.outputs["y"], x * 2)


async def test_reshaped_rows_are_gathered_as_the_graph_takes_them(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    session, (seen,) = on_host(models.double(tmp_path / "m.onnx"))
    found = warmed(opened(session, x=((-1, 4), (-1, 2, 2)), y=((-1, 4), (-1, 2, 2))))
    seen.runs.clear()
    served = batcher(found, threads)
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    answers = await asyncio.gather(*(served.submit({"x": x + n}, 2, None) for n in range(9)))
    for n, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.outputs["y"], (x + n) * 2)
    assert seen.runs


def test_a_run_may_come_with_feeds_that_lie_in_no_lane(tmp_path: Path) -> None:
    session, _ = on_host(models.double(tmp_path / "m.onnx"))
    found = warmed(opened(session))
    x = np.ones((MAX_ROWS + 1, 4), np.float32)
    stack = getattr(found.runs, "stack")  # noqa: B009  # mypy knows a Run
    feeds = stack([{"x": x}])
    assert not isinstance(feeds, Staged)
    np.testing.assert_array_equal(found.run(feeds)["y"], x * 2)
    together = stack([{"x": x}, {"x": x}])
    np.testing.assert_array_equal(found.run(together)["y"], np.concatenate([x, x]) * 2)


@pytest.mark.parametrize("build", [models.not_batched, models.found])
def test_sizes_that_only_a_run_tells_are_answered_in_full(
    tmp_path: Path, build: Callable[[Path], Path]
) -> None:
    path = build(tmp_path / "m.onnx")
    plain = Session(path, OPTIONS)
    session, _ = on_host(path)
    session.warm_up(1, batched=False)
    rng = np.random.default_rng(3)
    for rows in (1, 2, 5, 8, 3):
        shape = [rows, *session.inputs[0].shape[1:]]
        x = rng.integers(0, 2, size=shape).astype(np.float32)
        wanted = plain.run({"x": x})
        for name, array in session.run({"x": x}).items():
            np.testing.assert_array_equal(array, wanted[name])


def test_an_output_of_no_fixed_size_comes_with_the_lanes_others(tmp_path: Path) -> None:
    path = models.found(tmp_path / "m.onnx", batch=3)
    plain = Session(path, OPTIONS)
    session, (seen,) = on_host(path, graphs=True)
    session.warm_up(1)
    assert session.lanes is not None and session.lanes.plan is not None
    assert (session.lanes.plan.loose, session.lanes.plan.buckets) == (("where",), ())
    rng = np.random.default_rng(3)
    asked = [rng.integers(0, 2, size=(3, 4)).astype(np.float32) for _ in range(20)]
    answers = [session.run({"x": x}) for x in asked]  # all held, while the lane goes on
    for x, answer in zip(asked, answers, strict=True):
        wanted = plain.run({"x": x})
        assert list(wanted) != [] and set(answer) == set(wanted)
        for name, array in wanted.items():
            np.testing.assert_array_equal(answer[name], array)
    assert {graph for _, graph, _ in seen.runs} == {-1}


def test_closing_gives_the_memory_back(tmp_path: Path) -> None:
    path, memory = models.double(tmp_path / "m.onnx"), HostMemory()
    session, place = Session(path, OPTIONS), onhost.place(path, memory)
    session.run_on([place])
    session.warm_up(1, MAX_ROWS)
    assert len(memory.held) == 2
    session.close()
    onhost.settled(place)
    assert not memory.held and not memory.streams
    with pytest.raises(RuntimeError, match="closed"):
        session.run({"x": np.ones((1, 4), np.float32)})


def test_runs_on_a_gpu_never_stay_on_the_event_loop(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    session, _ = on_host(models.double(tmp_path / "m.onnx"))
    found = opened(session)
    latency = found.warm_up(MAX_ROWS, (), tmp_path, time.monotonic)
    assert found.quick_rows(MAX_ROWS, threads, time.monotonic, latency) == 0


def test_a_session_on_the_cpu_has_no_lanes(tmp_path: Path) -> None:
    session = Session(models.double(tmp_path / "m.onnx"), OPTIONS)
    found = warmed(opened(session))
    assert session.lanes is None and found.runs == found.run


@pytest.mark.parametrize("graphs", [True, False])
def test_a_plain_run_of_a_recorded_session_is_never_recorded(tmp_path: Path, graphs: bool) -> None:
    asked: list[Any] = []

    def plain(session: Any, feeds: Any, options: Any) -> dict[str, Any]:
        asked.append(options)
        return {}

    copy = runtime.Copy(Device("cuda", 3), ort=None, graphs=graphs)
    place = runtime.place(copy, OPTIONS, plain)
    place.plain(None, {})
    ids = [options and options.get_run_config_entry("gpu_graph_id")
           for options in (*asked, place.options(7))]  # fmt: skip
    assert ids == (["-1", "7"] if graphs else [None, None])
    assert place.device == ("cuda", 3)
