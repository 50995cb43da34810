"""fp16 where all of it holds, and where it does not: as few regions in fp32 as it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from converter import search
from converter.halves import fp16, write
from converter.quantize import UnknownNode
from converter.recipe import Bounds, Budget
from converter.samples import Samples
from converter.search import Candidate, Found, Score, Selection
from converter.workshop import Workshop
from service.devices import CPU, CUDA, Device
from service.session import Session, SessionOptions
from tests.converter import nets, pretended
from tests.converter.nets import node
from tests.converter.test_ranges import in_true_fp16

GPU = Device(CUDA)
BOUNDS = Bounds(metric="agreement")


def shop(directory: Path, source: Path, x: np.ndarray, device: Device = GPU) -> Workshop:
    directory.mkdir(parents=True, exist_ok=True)
    return Workshop(source, directory, Samples({"x": x}, None), device=device)


def searched(made: Workshop, x: np.ndarray, *, trials: int = 200) -> Found:
    """The end of the search on the CPU provider, by what its answers to these rows decide."""
    reference = Session(made.reference, SessionOptions(threads=1))
    selection = Selection(reference, Samples({"x": x}, None), BOUNDS)
    return search.best(
        fp16(made),
        lambda candidate: selection.score(candidate, gated=False),
        least_speedup=0.0,
        budget=Budget(seconds=600, trials=trials),
    )


def products(path: Path) -> dict[str, int]:
    """Output of each matrix product -> the element type of its weights."""
    graph = onnx.load(path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {
        each.name.split(".")[1]: kinds[each.input[1]]
        for each in graph.node
        if each.op_type == "MatMul"
    }


@pytest.mark.parametrize("lost", [(0,), (1, 4), (2, 3, 5)])
def test_what_fp16_loses_on_this_very_provider_stays_in_fp32_and_no_more(
    tmp_path: Path, lost: tuple[int, ...]
) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", lost=lost)
    x = pretended.rows(300)
    found = searched(shop(tmp_path / "shop", source, x[:40]), x)
    assert found.score.good and found.told == ""
    assert {name.split(".")[1] for name in found.candidate.excluded} == {f"m{n}" for n in lost}
    count = len(lost)
    assert found.candidate.how == f"fp16, {count} regions in fp32"
    kinds = products(found.candidate.path)
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT} == {
        f"m{n}" for n in lost
    }
    right, mine = (
        nets.answers(path, x=x)["scores"].argmax(axis=1) for path in (source, found.candidate.path)
    )
    assert np.mean(right == mine) > 0.98


def test_all_in_fp16_of_such_a_graph_decides_otherwise_on_a_cpu_too(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", lost=(1, 4))
    x = pretended.rows(300)
    found = searched(shop(tmp_path / "shop", source, x[:40], CPU), x)
    assert (found.trials, found.score.good) == (1, False), "on a CPU the ladder has one rung"
    assert found.told == "nothing more to try"
    assert found.candidate.how == "all in fp16"
    assert found.score.spoiled > 150


def test_what_holds_at_once_is_not_searched_further(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx")
    x = pretended.rows(300)
    found = searched(shop(tmp_path / "shop", source, x[:40]), x)
    assert (found.trials, found.candidate.how, found.candidate.excluded) == (1, "all in fp16", ())


def test_budget_ends_the_search_with_the_best_so_far(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", lost=(1, 4))
    x = pretended.rows(300)
    found = searched(shop(tmp_path / "shop", source, x[:40]), x, trials=4)
    assert (found.trials, found.score.good) == (4, False)
    assert "4 trials was spent" in found.told


def squares(path: Path) -> Path:
    """A mean of squares that leaves fp16's range, as an exported normalization has it."""
    return nets.build(
        path,
        [node("MatMul", "x w0", "m0"), node("Mul", "m0 m0", "sq"),
         node("ReduceMean", "sq", "mean", axes=[1], keepdims=1), node("Sqrt", "mean", "rms"),
         node("Div", "m0 rms", "n"), node("MatMul", "n w1", "scores")],
        {"x": ["batch", 48]}, {"scores": ["batch", 5]},
        {"w0": 60 * nets.normal(48, 48), "w1": nets.normal(48, 5, seed=1)},
    )  # fmt: skip


def halved(source: Path, x: np.ndarray) -> dict[str, Score]:
    """A score in numpy's halves, which overflow as a GPU's do, for what a CPU cannot show."""

    def score(candidate: Candidate) -> Score:
        right = nets.answers(source, x=x)["scores"]
        mine = in_true_fp16(onnx.load(candidate.path), x)
        wrong = ~(mine.argmax(axis=1) == right.argmax(axis=1)) | ~np.isfinite(mine).all(axis=1)
        moved = np.nan_to_num(np.abs(mine - right), nan=1e6, posinf=1e6).mean()
        return Score(int(wrong.sum()), len(x), float(moved), 0.0, good=not wrong.sum() > 2)

    return score


def test_overflow_that_the_calibration_rows_do_not_show_is_found_by_its_answers(
    tmp_path: Path,
) -> None:
    source = squares(tmp_path / "net.onnx")
    quiet, loud = pretended.rows(20) / 100, pretended.rows(60, seed=1) * 5
    made = shop(tmp_path / "shop", source, quiet)
    found = search.best(
        fp16(made), halved(source, loud), least_speedup=0.0, budget=Budget(600, 200)
    )
    assert found.score.good
    assert set(found.candidate.excluded) == {"MatMul_0", "ReduceMean_2"}, "the square, and its mean"
    alone = in_true_fp16(onnx.load(next(fp16(made)).path), loud)
    assert not np.isfinite(alone).all() or (alone == 0).any(), "all in fp16 it overflows"


def test_what_the_scan_found_is_the_seed_of_what_stays_in_fp32(tmp_path: Path) -> None:
    source = squares(tmp_path / "net.onnx")
    loud = pretended.rows(60, seed=1) * 5
    found = search.best(
        fp16(shop(tmp_path / "shop", source, loud)), halved(source, loud), least_speedup=0.0,
        budget=Budget(600, 200),
    )  # fmt: skip
    assert (found.trials, found.score.good) == (1, True)
    assert "beyond fp16's range kept in fp32" in found.candidate.how
    assert found.candidate.excluded


def test_where_nothing_holds_the_search_says_so(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", layers=4)
    never = Score(50, 100, 1.0, 0.0, good=False)
    found = search.best(
        fp16(shop(tmp_path / "shop", source, pretended.rows(20))), lambda _: never,
        least_speedup=0.0, budget=Budget(600, 200),
    )  # fmt: skip
    assert not found.score.good and found.told == "nothing more to try"


def test_a_first_candidate_that_is_too_slow_ends_the_search(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", layers=4)
    slow = Score(50, 100, 1.0, 0.5, good=False)
    found = search.best(
        fp16(shop(tmp_path / "shop", source, pretended.rows(20))), lambda _: slow,
        least_speedup=0.8, budget=Budget(600, 200),
    )  # fmt: skip
    assert found.trials == 1


def test_kept_neighbours_are_joined_in_fp32(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", layers=4)
    names = [each.name for each in onnx.load(source).graph.node]
    write(source, tmp_path / "half.onnx", kept=names[2:6])
    graph = onnx.load(tmp_path / "half.onnx").graph
    casts = [each for each in graph.node if each.op_type == "Cast"]
    assert len(casts) == 4, "two ends of the graph, two of the part that stays"


def test_a_tensor_that_two_kept_nodes_read_is_cast_once(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", lost=(1,))
    readers = [each.name for each in onnx.load(source).graph.node if "a1" in each.input]
    assert len(readers) == 2
    write(source, tmp_path / "half.onnx", kept=readers)
    x = pretended.rows(10)
    assert nets.answers(tmp_path / "half.onnx", x=x)["scores"].shape == (10, 48)


@pytest.mark.parametrize("own", [True, False])
def test_weights_that_others_read_too_are_a_kept_nodes_own_in_fp32(
    tmp_path: Path, own: bool
) -> None:
    source = nets.build(
        tmp_path / "net.onnx",
        [node("MatMul", "x w", "h", name="first"), node("MatMul", "h w", "y", name="second")],
        {"x": ["batch", 48]}, {"y": ["batch", 48]}, {"w": nets.normal(48, 48)},
    )  # fmt: skip
    write(source, tmp_path / "half.onnx", kept=["second"], own_weights=own)
    half = onnx.load(tmp_path / "half.onnx").graph
    kinds = sorted(tensor.data_type for tensor in half.initializer)
    assert kinds == sorted([TensorProto.FLOAT16] + own * [TensorProto.FLOAT])
    nets.answers(tmp_path / "half.onnx", x=pretended.rows(3))


def test_a_name_that_is_no_nodes_is_refused(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", layers=2)
    with pytest.raises(UnknownNode, match="no node 'nothing'"):
        write(source, tmp_path / "half.onnx", kept=["nothing"])


def test_the_first_rung_is_the_same_file_on_every_device(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx")
    x = pretended.rows(20)
    there, here = (
        next(fp16(shop(tmp_path / device.kind, source, x, device))) for device in (GPU, CPU)
    )
    assert there.path.read_bytes() == here.path.read_bytes()
    assert replace(there, path=here.path) == here
