"""A session that runs through lanes answers as one that does not, and so does its batcher."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import buffers, graphs, layout, log, model, runtime
from service.batcher import Batcher
from service.batching import Limits
from service.choice import Chosen
from service.devices import Device
from service.errors import InferenceFailed, ModelUnusable
from service.lanes import Staged
from service.manifest import Manifest, TensorSpec, Variant
from service.opened import Opened
from service.precedence import Running
from service.session import RunFailed, Session, SessionOptions, kept
from service.settings import Settings
from service.statistics import Book
from service.variants import Opener, Timing, choose
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


class TestRecording:
    def test_that_fails_is_told_once_and_the_model_runs_without(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(log.LOGGER, "propagate", True)
        path = models.double(tmp_path / "m.onnx")
        session, place = Session(path, OPTIONS), onhost.place(path)
        session.run_on([place], graphs=True)

        def fail() -> None:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

        place.session.before = fail
        found = warmed(opened(session))
        assert [record.getMessage() for record in caplog.records] == [
            "its runs cannot be recorded as CUDA graphs, and run without"
        ]
        assert session.options.cuda_graphs is False
        assert place.session is None and not place.memory.held and not place.memory.locked
        np.testing.assert_array_equal(
            found.runs({"x": np.ones((3, 4), np.float32)})["y"], np.full((3, 4), 2)
        )

    @pytest.mark.parametrize(
        ("said", "kind", "build", "recorded"),
        [
            (None, "cuda", models.classifier, True),
            (None, "cuda", models.double, False),  # no Conv
            (None, "cuda", models.valid_convolution, False),  # free inner dimensions
            (None, "tensorrt", models.classifier, False),
            (True, "cuda", models.double, True),
            (False, "cuda", models.classifier, False),
        ],
    )
    def test_is_for_graphs_whose_convolutions_would_be_planned_anew_if_nobody_says_so(
        self, tmp_path: Path, said: bool | None, kind: str, build: Callable[[Path], Path],
        recorded: bool,
    ) -> None:  # fmt: skip
        facts = graphs.facts(build(tmp_path / "m.onnx"))
        options = replace(OPTIONS, cuda_graphs=said)
        assert runtime.recorded(options, facts, Device(kind, 0)) is recorded


class TestFailing:
    def test_of_a_warm_up_gives_the_memory_back(self, tmp_path: Path) -> None:
        path = models.double(tmp_path / "m.onnx")
        session, place = Session(path, OPTIONS), onhost.place(path)
        session.run_on([place])
        session.warm_up(1)
        assert place.memory.held
        with pytest.raises(KeyError), kept(session):
            raise KeyError
        assert place.session is None
        assert not place.memory.held and not place.memory.streams and not place.memory.locked

    def test_of_what_comes_after_opening_gives_it_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = models.double(tmp_path / "m" / "1" / "model.onnx")
        session, place = Session(path, OPTIONS), onhost.place(path)
        session.run_on([place])

        def fail() -> None:
            if len(place.session.runs) > 3:  # when the lanes are laid
                raise RuntimeError("CUDA failure 700")

        place.session.before = fail
        running = Running(MAX_ROWS, 2, session.options)
        found = opened(session), running
        monkeypatch.setattr(model, "open_version", lambda *_, **__: found)
        where = layout.places(tmp_path)["m"]
        with pytest.raises(ModelUnusable, match="CUDA failure 700"):
            model.load(where, 1, where.options(), settings=Settings(repository=tmp_path),
                       book=Book(), clock=time.monotonic)  # fmt: skip
        assert place.session is None
        assert not place.memory.held and not place.memory.streams and not place.memory.locked

    def test_of_a_variant_that_is_tried_gives_it_back(self, tmp_path: Path) -> None:
        path = models.double(tmp_path / "m.onnx")
        places = {"broken": onhost.place(path), "sound": onhost.place(path)}

        class OnHost(Opener):
            def variant(self, variant: Variant) -> Session:
                session = Session(path, OPTIONS)
                session.run_on([places[variant.name]])
                return session

        def fail() -> None:
            raise RuntimeError("CUDA failure 700")

        places["broken"].session.before = fail
        spec = Session(path, OPTIONS)
        variants = tuple(Variant(name, True, "", path.name, name) for name in places)
        contract = Manifest("m", True, spec.inputs, spec.outputs, variants)
        chosen, session = choose(
            contract, "auto", OnHost(tmp_path, OPTIONS), Timing(2, time.monotonic), fingerprint="x"
        )
        broken, sound = places.values()
        assert chosen.variant.name == "sound" and sound.memory.held
        assert broken.session is None
        assert not broken.memory.held and not broken.memory.streams and not broken.memory.locked
        session.close()


def test_a_graph_that_is_refused_ends_on_the_gpus_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, nowhere, ended = models.double(tmp_path / "m.onnx"), Device("cuda", 998), list[int]()

    class Watched:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

        def __del__(self) -> None:
            ended.append(threading.get_ident())

    monkeypatch.setattr(runtime.ort, "InferenceSession", lambda *_, **__: Watched())
    with pytest.raises(ModelUnusable, match="could not make cuda:998's provider") as refused:
        Session(path, replace(OPTIONS, devices=(nowhere,)))
    turn = buffers.turn(998)
    assert ended == [turn.submit(threading.get_ident).result()] and refused.value.args


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
