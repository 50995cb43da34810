"""Lanes on ONNX Runtime's CPU provider: what a GPU would be asked, with the host's memory."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from service import staging
from service.buffers import NotRecorded
from service.cuda import CudaFailed
from service.lanes import Lanes, Staged
from service.session import Session, SessionOptions
from tests import models
from tests.memory import HostMemory
from tests.service import onhost

PATIENCE_S = 20
Array = np.ndarray[Any, Any]


@pytest.fixture
def double(tmp_path: Path) -> Path:
    return models.double(tmp_path / "double.onnx")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.classifier(tmp_path_factory.mktemp("net") / "net.onnx", channels=4)


def rows(count: int, first: float = 0.0) -> dict[str, Array]:
    return {"x": np.arange(first, first + 4 * count, dtype=np.float32).reshape(count, 4)}


def random(rng: np.random.Generator, count: int) -> dict[str, Array]:
    return {"x": rng.normal(size=(count, 3, 24, 24)).astype(np.float32)}


def staged(lanes: Lanes, *parts: dict[str, Array]) -> Staged:
    found = lanes.stage(parts)
    assert found is not None
    return found


def test_callers_rows_go_through_one_run_in_their_order(double: Path) -> None:
    place = onhost.place(double)
    lanes = onhost.laid(double, place)
    outputs = lanes.run(staged(lanes, rows(2), rows(1, 50), rows(3, 100)))
    wanted = np.concatenate([rows(2)["x"], rows(1, 50)["x"], rows(3, 100)["x"]]) * 2
    np.testing.assert_array_equal(outputs["y"], wanted)
    assert len(place.session.runs) == 1


def test_what_is_staged_lies_in_pinned_memory_and_is_copied_once_each_way(double: Path) -> None:
    memory = HostMemory()
    lanes = onhost.laid(double, onhost.place(double, memory))
    feeds = staged(lanes, rows(3))
    lanes.run(feeds)
    (host_in, to), (back, device) = [(c[1], c[0]) for c in memory.copied]
    assert [copied[2] for copied in memory.copied] == [48, 48]
    assert host_in == feeds["x"].ctypes.data
    assert to in memory.held and device not in memory.held and back not in (host_in, to)
    assert {copied[3] for copied in memory.copied} <= memory.streams


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=24),
       st.booleans(), st.integers(1, 3), st.integers(1, 2))  # fmt: skip
def test_many_threads_get_bit_for_bit_what_a_plain_run_answers(
    net: Path, calls: list[list[int]], graphs: bool, each: int, gpus: int
) -> None:
    plain, rng = Session(net, SessionOptions(threads=1)), np.random.default_rng(7)
    memories = [HostMemory() for _ in range(gpus)]
    places = [onhost.place(net, memory) for memory in memories]
    lanes = onhost.laid(net, *places, each=each, max_rows=9, graphs=graphs)
    asked = [[random(rng, count) for count in counts] for counts in calls]

    def call(parts: list[dict[str, Array]]) -> tuple[Array, int]:
        found = staged(lanes, *parts)
        outputs = lanes.run(found)
        return outputs["scores"], found.rows

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(call, asked))
    plan = lanes.plan
    assert plan is not None
    for parts, (answer, count) in zip(asked, answers, strict=True):
        together = np.concatenate([part["x"] for part in parts])
        padded = np.zeros((plan.padded(count), 3, 24, 24), np.float32)
        padded[:count] = together
        wanted = plain.run({"x": padded})["scores"][:count]
        assert answer.tobytes() == wanted.tobytes()
    lanes.close()
    onhost.settled(*places)
    assert not any(memory.held or memory.streams for memory in memories)


def test_runs_on_one_gpu_compute_one_at_a_time_on_one_thread(double: Path) -> None:
    place, inside, most = onhost.place(double), [0], [0]

    def enter() -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        inside[0] -= 1

    place.session.before = enter
    lanes = onhost.laid(double, place, each=4)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: lanes.run(rows(2)), range(64)))
    assert most == [1] and len({thread for thread, _, _ in place.session.runs}) == 1


def test_the_next_batch_is_copied_while_one_computes(double: Path) -> None:
    copied, computing, go_on = threading.Event(), threading.Event(), threading.Event()

    class Watched(HostMemory):
        def copies(self, moves: Any, stream: int = 0) -> None:
            super().copies(moves, stream)
            if computing.is_set():
                copied.set()

    place = onhost.place(double, Watched())
    lanes = onhost.laid(double, place, each=2)

    def hold() -> None:
        if not computing.is_set():
            computing.set()
            assert go_on.wait(PATIENCE_S)

    place.session.before = hold
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lanes.run, rows(2))
        assert computing.wait(PATIENCE_S)
        second = threads.submit(lanes.run, rows(3, 30))
        assert copied.wait(PATIENCE_S), "the second batch waited for the first to compute"
        assert len(place.session.runs) == 1 and not first.done()
        go_on.set()
        np.testing.assert_array_equal(first.result(PATIENCE_S)["y"], rows(2)["x"] * 2)
        np.testing.assert_array_equal(second.result(PATIENCE_S)["y"], rows(3, 30)["x"] * 2)


def test_answers_stay_as_they_are_when_their_lane_goes_on(double: Path) -> None:
    lanes = onhost.laid(double, onhost.place(double), each=1)
    first = lanes.run(rows(4))["y"]
    lanes.run(rows(4, 900))
    np.testing.assert_array_equal(first, rows(4)["x"] * 2)
    assert first.flags.owndata


def test_runs_are_spread_over_the_gpus(double: Path) -> None:
    places = [onhost.place(double), onhost.place(double)]
    lanes = onhost.laid(double, *places, each=2)
    held = [staged(lanes, rows(1)) for _ in range(4)]
    for feeds in held[:2]:
        lanes.run(feeds)
    assert [len(place.session.runs) for place in places] == [1, 1]
    held.extend(staged(lanes, rows(1)) for _ in range(2))
    for feeds in held[2:]:
        lanes.run(feeds)
    assert [len(place.session.runs) for place in places] == [3, 3]


def test_the_gpu_with_the_fewest_runs_is_next(double: Path) -> None:
    one, two = places = [onhost.place(double), onhost.place(double)]
    lanes = onhost.laid(double, *places, each=2)
    first, second, third, fourth = (staged(lanes, rows(1)) for _ in range(4))  # by turns
    for feeds in (first, second, fourth):
        feeds.let_go()
    lanes.run(rows(1))
    assert (len(one.session.runs), len(two.session.runs)) == (0, 1)
    lanes.run(third)
    assert (len(one.session.runs), len(two.session.runs)) == (1, 1)


def ended_on(place: Any) -> list[int]:
    """The thread on which the place's session ends, once it has."""
    found: list[int] = []
    weakref.finalize(place.session, lambda: found.append(threading.get_ident()))
    return found


class TestGraphs:
    def test_while_one_gpu_records_another_waits(self, double: Path) -> None:
        one, two = onhost.place(double), onhost.place(double)
        recorder = onhost.laid(double, one, each=1, max_rows=2, graphs=True)
        others = onhost.laid(double, two)
        inside, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            if not inside.is_set():
                inside.set()
                assert go_on.wait(PATIENCE_S)

        one.session.before = hold
        with ThreadPoolExecutor(3) as threads:
            records = threads.submit(recorder.run, rows(2))
            assert inside.wait(PATIENCE_S)
            later = threads.submit(others.run, rows(3))
            plain = threads.submit(others.run, rows(30))  # has no room in a lane
            laying = threads.submit(onhost.laid, double, onhost.place(double))  # allocates
            time.sleep(0.05)
            assert not two.session.runs and not two.memory.copied
            assert not plain.done() and not laying.done()
            go_on.set()
            for one_of, count in ((records, 2), (later, 3), (plain, 30)):
                wanted = rows(count)["x"] * 2
                np.testing.assert_array_equal(one_of.result(PATIENCE_S)["y"], wanted)
            laying.result(PATIENCE_S).close()

    def test_a_replay_keeps_nobody_waiting(self, double: Path) -> None:
        one, two = onhost.place(double), onhost.place(double)
        recorder = onhost.laid(double, one, each=1, max_rows=2, graphs=True)
        others = onhost.laid(double, two)
        recorder.run(rows(2))
        inside, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            inside.set()
            assert go_on.wait(PATIENCE_S)

        one.session.before = hold
        with ThreadPoolExecutor(2) as threads:
            replays = threads.submit(recorder.run, rows(2))
            assert inside.wait(PATIENCE_S)
            assert threads.submit(others.run, rows(3)).result(PATIENCE_S)
            go_on.set()
            replays.result(PATIENCE_S)

    def test_a_recording_that_failed_is_tried_as_one_again(self, double: Path) -> None:
        place = onhost.place(double)
        lanes = onhost.laid(double, place, each=1, max_rows=2, graphs=True)

        def fail() -> None:
            raise RuntimeError("CUDA failure 900")

        place.session.before = fail
        for _ in range(2):
            with pytest.raises(NotRecorded, match="900"):
                lanes.run(rows(2))
        place.session.before = lambda: None
        np.testing.assert_array_equal(lanes.run(rows(2))["y"], rows(2)["x"] * 2)

    def test_sizes_double_up_to_sixteen_and_then_come_closer(self) -> None:
        sizes = staging.sizes_up_to(128)
        assert sizes == (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128)
        assert [staging.sizes_up_to(most) for most in (1, 3, 20)] == [
            (1,), (1, 2, 3), (1, 2, 4, 8, 16, 20)
        ]  # fmt: skip
        large = staging.sizes_up_to(4096)
        assert large[-1] == 4096 and len(large) < 40
        assert all(b <= 1.5 * a for a, b in itertools.pairwise(large) if a >= 16)

    def test_rows_are_padded_with_zeros_to_their_bucket_and_cut_again(self, double: Path) -> None:
        place = onhost.place(double)
        lanes = onhost.laid(double, place, each=1, max_rows=6, graphs=True)
        lanes.run(rows(6, 70))  # what must not be seen later
        feeds = staged(lanes, rows(3))
        np.testing.assert_array_equal(feeds["x"][3], np.zeros(4))
        outputs = lanes.run(feeds)
        np.testing.assert_array_equal(outputs["y"], rows(3)["x"] * 2)
        (_, graph, binding) = place.session.runs[-1]
        assert binding.get_outputs()[0].shape() == [4, 4]
        assert graph > 0

    def test_each_lane_records_one_graph_for_each_bucket_and_replays_it(self, double: Path) -> None:
        place = onhost.place(double)
        lanes = onhost.laid(double, place, each=2, max_rows=6, graphs=True)
        assert lanes.plan is not None and lanes.plan.buckets == (1, 2, 4, 6)
        for count in (1, 2, 4, 6):
            for outputs in lanes.warm_up(rows(count), count):
                np.testing.assert_array_equal(outputs["y"], rows(count)["x"] * 2)
        recorded = {graph: id(binding) for _, graph, binding in place.session.runs}
        assert len(recorded) == 8 == len(set(recorded.values()))
        place.session.runs.clear()
        for count in (1, 2, 3, 4, 5, 6) * 3:
            lanes.run(rows(count))
        # The same addresses under the same name, or a replay would answer another batch.
        assert all(recorded[graph] == id(binding) for _, graph, binding in place.session.runs)

    def test_two_gpus_may_use_the_same_names(self, double: Path) -> None:
        places = [onhost.place(double), onhost.place(double)]
        lanes = onhost.laid(double, *places, each=1, max_rows=2, graphs=True)
        lanes.warm_up(rows(2), 2)
        assert [[graph for _, graph, _ in place.session.runs] for place in places] == [[2], [2]]

    def test_without_graphs_nothing_is_padded_or_recorded(self, double: Path) -> None:
        place = onhost.place(double)
        onhost.laid(double, place).run(rows(3))
        (_, graph, binding) = place.session.runs[0]
        assert (graph, binding.get_outputs()[0].shape()) == (-1, [3, 4])


class TestNoLaneIsLost:
    @pytest.fixture
    def place(self, double: Path) -> Any:
        return onhost.place(double)

    @pytest.fixture
    def lanes(self, double: Path, place: Any) -> Iterator[Lanes]:
        lanes = onhost.laid(double, place, each=1)
        yield lanes
        np.testing.assert_array_equal(lanes.run(rows(2))["y"], rows(2)["x"] * 2)
        lanes.close()
        onhost.settled(place)
        assert not place.memory.held and not place.memory.streams

    def test_by_a_run_that_fails(self, lanes: Lanes, place: Any) -> None:
        def fail() -> None:
            raise RuntimeError("cudaErrorIllegalAddress")

        place.session.before = fail
        for _ in range(3):
            with pytest.raises(RuntimeError, match="IllegalAddress"):
                lanes.run(rows(1))
        place.session.before = lambda: None

    def test_by_a_copy_that_fails(self, lanes: Lanes, place: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place.memory, "copies", self.refused)
            with pytest.raises(CudaFailed):
                lanes.run(rows(1))

    def test_by_rows_that_do_not_gather(self, lanes: Lanes) -> None:
        class Odd(np.ndarray[Any, Any]):
            def __array_function__(self, *_: Any) -> Any:
                raise MemoryError

        with pytest.raises(MemoryError):
            lanes.stage([{"x": np.zeros((1, 4), np.float32).view(Odd)}])

    def test_by_feeds_that_nobody_runs(self, lanes: Lanes) -> None:
        del_me: Staged | None = staged(lanes, rows(1))
        assert del_me is not None
        del del_me

    def test_by_feeds_that_are_run_twice(self, lanes: Lanes) -> None:
        feeds = staged(lanes, rows(1))
        lanes.run(feeds)
        with pytest.raises(RuntimeError, match="have run"):
            lanes.run(feeds)

    def test_by_garbage_collection_which_waits_for_no_lock(self, lanes: Lanes) -> None:
        held = [staged(lanes, rows(1))]
        with ThreadPoolExecutor(1) as threads, lanes._free:
            threads.submit(held.clear).result(PATIENCE_S)

    @staticmethod
    def refused(moves: Any, stream: int = 0) -> None:
        raise CudaFailed("the CUDA runtime answers cudaErrorUnknown")


class TestClosing:
    def test_gives_back_at_once_what_is_idle_and_the_rest_after_its_run(self, double: Path) -> None:
        memory = HostMemory()
        place = onhost.place(double, memory)
        lanes = onhost.laid(double, place, each=2)
        feeds = staged(lanes, rows(2))
        assert len(memory.held) == 2
        lanes.close()
        onhost.settled(place)
        assert len(memory.held) == len(memory.streams) == 1
        np.testing.assert_array_equal(lanes.run(feeds)["y"], rows(2)["x"] * 2)
        onhost.settled(place)
        assert not memory.held and not memory.streams

    def test_ends_the_waiting_for_a_lane(self, double: Path) -> None:
        lanes = onhost.laid(double, onhost.place(double), each=1)
        feeds = staged(lanes, rows(2))
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(lanes.run, rows(1))
            lanes.close()
            with pytest.raises(RuntimeError, match="closed"):
                waiting.result(PATIENCE_S)
        feeds.let_go()

    def test_ends_the_session_on_the_gpus_thread_with_the_last_run(self, double: Path) -> None:
        place = onhost.place(double)
        lanes = onhost.laid(double, place)
        lanes.run(rows(1))
        ended = ended_on(place)
        feeds = staged(lanes, rows(2))
        lanes.close()
        onhost.settled(place)
        assert not ended, "it was ended under a run that had begun"
        np.testing.assert_array_equal(lanes.run(feeds)["y"], rows(2)["x"] * 2)
        assert ended == [place.turn.submit(threading.get_ident).result(PATIENCE_S)]
        lanes.close()  # again is nothing

    def test_ends_it_there_even_if_somebody_keeps_a_runs_exception(self, double: Path) -> None:
        place = onhost.place(double)
        lanes = onhost.laid(double, place)
        kept: list[BaseException] = []

        def fail() -> None:
            raise RuntimeError("CUDA failure 700")

        place.session.before = fail
        for feeds in (rows(1), {"x": np.zeros((1, 4), np.float64)}):  # the second the plain way
            with pytest.raises(Exception, match=r"700|Unexpected") as failed:
                lanes.run(feeds)
            kept.append(failed.value)
        ended = ended_on(place)
        lanes.close()
        assert ended == [place.turn.submit(threading.get_ident).result(PATIENCE_S)]
        assert len(kept) == 2

    def test_gives_all_memory_back_on_the_gpus_thread(self, double: Path) -> None:
        where: list[int] = []

        class Watched(HostMemory):
            def freed(self, pointer: int) -> None:
                where.append(threading.get_ident())
                super().freed(pointer)

            def unpinned(self, host: Array) -> None:
                where.append(threading.get_ident())
                super().unpinned(host)

        place = onhost.place(double, Watched())
        lanes = onhost.laid(double, place, each=2)
        assert len(place.memory.locked) == 2
        lanes.close()
        onhost.settled(place)
        assert where == [place.turn.submit(threading.get_ident).result(PATIENCE_S)] * 4
        assert not place.memory.locked and not place.memory.held and not place.memory.streams


class TestWhatDoesNotFit:
    def test_takes_the_plain_way(self, double: Path) -> None:
        place = onhost.place(double)
        lanes = onhost.laid(double, place, max_rows=2)
        assert lanes.stage([rows(3)]) is None and lanes.stage([rows(2), rows(1)]) is None
        np.testing.assert_array_equal(lanes.run(rows(3))["y"], rows(3)["x"] * 2)
        assert not place.session.runs and not place.memory.copied

    def test_is_optional_inputs(self, tmp_path: Path) -> None:
        path = models.optional_factor(tmp_path / "m.onnx")
        lanes = onhost.laid(path, onhost.place(path))
        fed = rows(2) | {"factor": np.full((2, 4), 5, np.float32)}
        assert lanes.stage([fed]) is None
        np.testing.assert_array_equal(lanes.run(fed)["y"], rows(2)["x"] * 5)
        np.testing.assert_array_equal(lanes.run(rows(2))["y"], rows(2)["x"] * 2)

    def test_is_another_dtype(self, double: Path) -> None:
        lanes = onhost.laid(double, onhost.place(double))
        assert lanes.stage([{"x": np.zeros((1, 4), np.float64)}]) is None

    def test_is_a_graph_with_free_inner_dimensions(self, tmp_path: Path) -> None:
        path = models.valid_convolution(tmp_path / "m.onnx")
        session = Session(path, SessionOptions())

        seen = {"y": (1, 1, 3, 3)}
        assert staging.plan(session.inputs, session.outputs, seen=seen, rows=1, max_rows=4,
                            graphs=True) is None  # fmt: skip

    def test_waits_for_a_lane_too(self, double: Path) -> None:
        place = onhost.place(double)
        lanes = Lanes([place], 1, onhost.no_plan)  # without buffers
        assert lanes.stage([rows(1)]) is None
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda n: lanes.run(rows(1, n))["y"][0, 0], range(8)))
        assert answers == [2.0 * n for n in range(8)]


def test_bf16_and_small_types_go_through_lanes(tmp_path: Path) -> None:
    path = models.bf16(tmp_path / "bf16.onnx")
    lanes = onhost.laid(path, onhost.place(path))
    bits = np.array([[0x3F80, 0x4000, 0x4040, 0x4080]], dtype="<u2")
    outputs = lanes.run({"x": bits})
    np.testing.assert_array_equal(outputs["same"], bits)
    np.testing.assert_array_equal(outputs["wide"], [[1, 2, 3, 4]])
    kinds = {"BOOL": TensorProto.BOOL, "FP16": TensorProto.FLOAT16, "INT64": TensorProto.INT64}
    path = models.identities(tmp_path / "same.onnx", **kinds)
    lanes = onhost.laid(path, onhost.place(path), max_rows=3)
    feeds = {
        "in_BOOL": np.array([[1, 0, 1, 1]] * 3, bool),
        "in_FP16": np.arange(12, dtype="<f2").reshape(3, 4),
        "in_INT64": -np.arange(12, dtype="<i8").reshape(3, 4),
    }
    for name, array in lanes.run(feeds).items():
        np.testing.assert_array_equal(array, feeds[name.replace("out", "in")])
        assert array.dtype == feeds[name.replace("out", "in")].dtype


def test_strided_rows_are_gathered_as_they_read(double: Path) -> None:
    wide = np.arange(24, dtype=np.float32).reshape(3, 8)
    lanes = onhost.laid(double, onhost.place(double))
    np.testing.assert_array_equal(lanes.run({"x": wide[:, ::2]})["y"], wide[:, ::2] * 2)


@pytest.mark.parametrize("graphs", [True, False])
def test_an_output_that_is_an_input_is_answered_from_the_rows_sent(
    tmp_path: Path, graphs: bool
) -> None:
    path = models.passed_on(tmp_path / "m.onnx")
    lanes = onhost.laid(path, onhost.place(path), graphs=graphs)
    for count in (3, 2):
        outputs = lanes.run(staged(lanes, rows(1, 7), rows(count - 1, 50)))
        sent = np.concatenate([rows(1, 7)["x"], rows(count - 1, 50)["x"]])
        np.testing.assert_array_equal(outputs["x"], sent)
        np.testing.assert_array_equal(outputs["y"], sent * 2)
        assert outputs["x"].flags.owndata


class TestSizes:
    def test_an_output_that_only_a_run_can_size_is_made_by_onnx_runtime(
        self, tmp_path: Path
    ) -> None:
        path = models.not_batched(tmp_path / "m.onnx")
        fixed = models.double(tmp_path / "fixed.onnx", batch=2)
        assert onhost.planned(path, None, 1) is None  # its input has as many as a caller likes
        plan = onhost.planned(fixed, None, 1, graphs=True)
        assert plan is not None and (plan.loose, plan.buckets) == ((), (1,))
        lanes = Lanes([onhost.place(fixed)], 1, onhost.no_plan)
        lanes.lay(plan)
        np.testing.assert_array_equal(lanes.run(rows(2))["y"], rows(2)["x"] * 2)

    def test_several_callers_never_share_a_run_of_fixed_size(self, tmp_path: Path) -> None:
        fixed = models.double(tmp_path / "fixed.onnx", batch=2)
        plan = onhost.planned(fixed, None, 1)
        assert plan is not None
        assert (plan.rows([rows(2)]), plan.rows([rows(2)] * 2)) == (1, None)

    def test_memory_that_the_host_lacks_keeps_nothing_either(self, double: Path) -> None:
        class Small(HostMemory):
            def device(self, nbytes: int) -> int:
                if self.held:
                    raise MemoryError
                return super().device(nbytes)

        place = onhost.place(double, Small())
        with pytest.raises(MemoryError):
            onhost.laid(double, place, each=2)
        onhost.settled(place)
        assert not place.memory.held and not place.memory.streams and not place.memory.locked

    def test_what_cannot_be_given_back_keeps_nothing_else(self, double: Path) -> None:
        class Fallen(HostMemory):
            def ended(self, stream: int) -> None:
                raise CudaFailed("the CUDA runtime answers cudaErrorIllegalAddress")

        place = onhost.place(double, Fallen())
        onhost.laid(double, place, each=2).close()
        onhost.settled(place)
        assert not place.memory.held and not place.memory.locked

    @pytest.mark.parametrize(("each", "most"), [(1, 511), (3, 511), (3, 1023), (3, 1535)])
    def test_a_full_gpu_is_a_sentence_and_nothing_is_kept(
        self, double: Path, each: int, most: int
    ) -> None:
        memory = HostMemory(most_bytes=most)  # a lane takes 512
        place = onhost.place(double, memory)
        with pytest.raises(CudaFailed, match="memory"):
            onhost.laid(double, place, each=each, max_rows=16)
        onhost.settled(place)
        assert not memory.held and not memory.streams

    def test_lanes_of_a_gigabyte_are_not_made(self, double: Path) -> None:
        assert onhost.planned(double, 1, 2**26) is None
        assert onhost.planned(double, 1, 2**24) is not None
