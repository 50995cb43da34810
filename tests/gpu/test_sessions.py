"""Sessions on a GPU: their provider, their answers, lanes, recorded graphs, refusals."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from loadtests.bench.gpu import graphs, scales
from service import nvml, trial
from service.devices import TENSORRT, Device
from service.errors import ModelUnusable
from service.session import NotOnGpu, Session, SessionOptions

pytestmark = pytest.mark.gpu

KINDS = ("resnet fp32", "resnet fp16", "encoder fp32", "encoder fp16")
MOST = 8


def opened(path: Path, device: Device, **options: Any) -> Session:
    """A session that has been warmed up as the server does it, not recorded unless it is said."""
    options = {"cuda_graphs": False} | options
    session = Session(path, SessionOptions(devices=(device,), **options))
    session.warm_up(1, options.get("max_rows") or MOST)
    return session


def on_cpu(path: Path, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return Session(path, SessionOptions(threads=1)).run({"x": rows})["y"]


def det(path: Path) -> Path:
    """A graph of which one operator has no kernel for CUDA."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Det", ["r"], ["y"])], "det",
        [value("x", TensorProto.FLOAT, ["batch", 2, 2])],
        [value("y", TensorProto.FLOAT, ["batch"])],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def counting(path: Path) -> Path:
    """A graph that waits for the GPU in its midst, as what is recorded must not: y = x + places.

    ``places`` is the sum of the rows and columns of what is not zero.
    """
    value, float_ = helper.make_tensor_value_info, TensorProto.FLOAT
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=float_),
        helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "counting", [value("x", float_, ["batch", 4])], [value("y", float_, ["batch", 4])]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


def test_the_provider_is_the_one_that_was_asked_for(nets: dict[str, Path], device: Device) -> None:
    session = opened(nets["resnet fp32"], device)
    wanted = "CUDAExecutionProvider" if device.is_gpu else "CPUExecutionProvider"
    assert session.copies[0].ort.get_providers()[0] == wanted
    assert session.copies[0].device == device


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, MOST])
def test_answers_are_those_of_a_cpu(
    nets: dict[str, Path], device: Device, kind: str, count: int
) -> None:
    rows = graphs.rows(nets[kind], count)
    expected = on_cpu(nets[kind], rows)
    answered = opened(nets[kind], device).run({"x": rows})["y"]
    assert answered.dtype == np.float32 and answered.shape == expected.shape
    loose = "fp16" in kind
    np.testing.assert_allclose(
        answered, expected, rtol=2e-2 if loose else 1e-3, atol=2e-2 if loose else 1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_lanes_answer_bit_by_bit_as_a_plain_run(
    nets: dict[str, Path], device: Device, kind: str
) -> None:
    plain = opened(nets[kind], device)
    lanes = opened(nets[kind], device, lanes=2, max_rows=MOST)
    for count in (1, 5, MOST):
        rows = graphs.rows(nets[kind], count)
        np.testing.assert_array_equal(lanes.run({"x": rows})["y"], plain.run({"x": rows})["y"])


def test_callers_at_the_same_time_get_their_own_answers(
    nets: dict[str, Path], device: Device
) -> None:
    path = nets["resnet fp32"]
    session = opened(path, device, lanes=2, max_rows=MOST)
    rows = graphs.rows(path, MOST)
    expected = [session.run({"x": rows[number : number + 1]})["y"] for number in range(MOST)]
    wrong: list[tuple[int, float]] = []

    def call(number: int) -> None:
        for _ in range(50):
            answer = session.run({"x": rows[number : number + 1]})["y"]
            if not np.array_equal(answer, expected[number]):
                wrong.append((number, float(np.abs(answer - expected[number]).max())))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(MOST)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_graphs_answer_for_the_rows_of_this_run(
    nets: dict[str, Path], device: Device, kind: str
) -> None:
    session = opened(nets[kind], device, lanes=2, max_rows=MOST, cuda_graphs=True)
    if device.is_gpu:
        assert session.copies[0].graphs, "CUDA's provider would not record this graph"
    rows = graphs.rows(nets[kind], MOST)
    loose = "fp16" in kind
    for count in (MOST, 3, 1, MOST):  # 3 is padded to a bucket of 4
        part = rows[-count:]
        answers = [session.run({"x": part})["y"] for _ in range(4)]
        assert all(np.array_equal(answers[0], each) for each in answers)
        assert answers[0].shape[0] == count
        np.testing.assert_allclose(
            answers[0], on_cpu(nets[kind], part),
            rtol=2e-2 if loose else 1e-3, atol=2e-2 if loose else 1e-4,
        )  # fmt: skip
    backwards = session.run({"x": rows[::-1].copy()})["y"]
    np.testing.assert_allclose(backwards[::-1], answers[0], rtol=2e-2, atol=2e-2)
    assert not np.array_equal(backwards, answers[0])


def test_what_cannot_be_recorded_runs_without_and_answers_for_its_own_rows(
    tmp_path: Path, device: Device
) -> None:
    session = opened(counting(tmp_path / "net.onnx"), device, max_rows=2, cuda_graphs=True)
    for rows, places in (([[0, 1, 0, 0]], 1), ([[0, 0, 0, 1]], 3), ([[1, 1, 1, 1]], 6)):
        fed = np.array(rows, np.float32)
        for _ in range(3):
            np.testing.assert_array_equal(session.run({"x": fed})["y"], fed + places)


def test_an_operator_without_a_kernel_is_refused_by_name_unless_it_is_allowed(
    tmp_path: Path, device: Device
) -> None:
    path, square = det(tmp_path / "det.onnx"), np.array([[[2, 1], [1, 3]]], np.float32)
    if device.is_gpu:
        with pytest.raises(NotOnGpu, match=r"1 Det; allow it with --cpu-fallback any"):
            opened(path, device)
        with pytest.raises(NotOnGpu, match=r"1 Det; allow it with --cpu-fallback any"):
            opened(path, device, cpu_fallback="none")
    session = opened(path, device, cpu_fallback="any")
    assert session.run({"x": square})["y"].tolist() == pytest.approx([5.0])


def test_all_of_the_benched_nets_runs_on_the_gpu(nets: dict[str, Path], device: Device) -> None:
    for path in nets.values():
        opened(path, device, cpu_fallback="none")


def test_a_graph_that_does_not_fit_into_its_share_of_memory_is_told_what_to_do(
    tmp_path: Path, device: Device
) -> None:
    if not device.is_gpu:
        pytest.skip("needs a GPU, for which nothing stands in")
    path = graphs.encoder(tmp_path / "large.onnx", "fp32", graphs.Text(layers=1, words=1000))
    with pytest.raises(ModelUnusable, match="the GPU's memory is full: raise --gpu-mem-mib"):
        opened(path, device, provider=(("gpu_mem_limit", str(2**20)),))


@pytest.mark.parametrize("recorded", [False, True])
def test_a_gpu_has_room_again_when_a_graph_is_closed(
    nets: dict[str, Path], device: Device, request: pytest.FixtureRequest, recorded: bool
) -> None:
    path, most, used = nets["resnet fp32"], 1024, list[int]()
    card = None
    if device.is_gpu:
        gpu = request.getfixturevalue("gpu")
        (card,) = nvml.cards([(gpu.index, gpu.uuid)])
    for _ in range(12):  # lanes of 6 MB, an arena of more, and graphs
        session = opened(path, device, lanes=2, max_rows=most, cuda_graphs=recorded)
        session.run({"x": graphs.rows(path, 2)})
        if card is not None:
            used.append(card.read().memory_used_bytes or 0)
        session.close()
    if card is not None:  # of a card that nobody else takes from meanwhile
        assert 0 < used[-1] < used[2] + 2**26, used


@pytest.mark.parametrize("recorded", [False, True])
def test_a_model_that_comes_and_goes_disturbs_none_that_serves(
    nets: dict[str, Path], device: Device, recorded: bool
) -> None:
    stays, comes = nets["resnet fp32"], nets["encoder fp32"]
    serving = opened(stays, device, lanes=2, max_rows=MOST, cuda_graphs=recorded)
    rows, over = graphs.rows(stays, MOST), threading.Event()
    expected = serving.run({"x": rows})["y"]
    wrong, calls = list[str](), Counter[int]()

    def call(number: int) -> None:
        while not over.is_set():
            calls[number] += 1
            try:
                if not np.array_equal(serving.run({"x": rows})["y"], expected):
                    wrong.append("other answers")
            except Exception as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            other = opened(comes, device, lanes=2, max_rows=16, cuda_graphs=True)
            if device.is_gpu:
                assert other.copies[0].graphs, "it could not be recorded beside one that serves"
            part = graphs.rows(comes, 3)
            np.testing.assert_allclose(
                other.run({"x": part})["y"], on_cpu(comes, part), rtol=1e-3, atol=1e-4
            )
            other.close()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not wrong, (len(wrong), sum(calls.values()), wrong[0])
    assert len(calls) == 3


@pytest.fixture(scope="session")
def resnet50(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet50 in fp16, so large that what it takes can be compared; a toy on the CPU."""
    size = graphs.Image() if device.is_gpu else scales.TOY.image
    return graphs.resnet(tmp_path_factory.mktemp("resnet50") / "net.onnx", "fp16", size)


def median_s(session: Session, *batches: np.ndarray[Any, Any]) -> float:
    """Of a round of these batches, after two that do not count."""
    taken = []
    for _ in range(12):
        begun = time.perf_counter()
        for rows in batches:
            session.run({"x": rows})
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[2:])


def test_recorded_runs_of_changing_sizes_take_no_longer_than_of_one(
    resnet50: Path, device: Device
) -> None:
    rows = graphs.rows(resnet50, 32)
    session = opened(resnet50, device, lanes=1, max_rows=32, cuda_graphs=True)
    session.warm_up(24)
    one, other = median_s(session, rows), median_s(session, rows[:24])
    both = median_s(session, rows, rows[:24])
    if device.is_gpu:
        assert session.copies[0].graphs
        assert both < 1.3 * (one + other), (one, other, both)


def test_fp16_is_served_with_the_tensor_cores_that_use_tf32_may_take_away(
    resnet50: Path, device: Device
) -> None:
    rows = graphs.rows(resnet50, 32)
    taken = {
        said: median_s(opened(resnet50, device, max_rows=32, provider=said), rows)
        for said in ((), (("use_tf32", "0"),), (("use_tf32", "1"),))
    }
    if device.is_gpu:
        assert taken[()] < 1.1 * min(taken.values()), taken


def test_tensorrt_answers_as_a_cpu_or_its_absence_is_told(
    nets: dict[str, Path], device: Device, tmp_path: Path
) -> None:
    if not device.is_gpu:
        pytest.skip("needs a GPU, for which nothing stands in")
    path = nets["resnet fp32"]
    where = Device(TENSORRT, device.index)
    if why := trial.missing(where):
        assert "TensorRT" in why
        pytest.skip(why)
    session = opened(path, where, max_rows=MOST, trt_cache=str(tmp_path / "engines"))
    rows = graphs.rows(path, 4)
    np.testing.assert_allclose(
        session.run({"x": rows})["y"], on_cpu(path, rows), rtol=1e-2, atol=1e-2
    )
    assert list((tmp_path / "engines").rglob("*.engine"))
