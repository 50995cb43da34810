"""The ladders: what each variant tries, in which order, and what the files hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from converter.samples import Samples
from converter.search import Candidate, Score
from converter.variants import GPU, VARIANTS, VariantFailed
from converter.workshop import Workshop
from service.session import Session, SessionOptions
from tests.converter import nets
from tests.converter.conftest import Converted, Material
from tests.converter.nets import node

SOME = Score(9, 30, 0.5, 2.0, good=False)
GOOD = Score(0, 30, 0.1, 2.0, good=True)


def graph(path: Path) -> onnx.GraphProto:
    return onnx.load(path).graph


def operators(path: Path) -> set[str]:
    return {node.op_type for node in graph(path).node}


def rows(count: int = 40) -> Samples:
    return Samples({"x": nets.images(count)}, None)


def shop(directory: Path, source: Path, samples: Samples | None) -> Workshop:
    directory.mkdir(parents=True, exist_ok=True)
    return Workshop(source, directory, samples)


def climbed(
    name: str, made: Workshop, judge: Callable[[Candidate], Score] = lambda _: SOME
) -> list[tuple[Candidate, Score]]:
    """All candidates of a ladder, and how they were said to do."""
    ladder = VARIANTS[name].ladder(made)
    tried = []
    candidate = next(ladder)
    while True:
        Session(candidate.path, SessionOptions(threads=1))
        score = judge(candidate)
        tried.append((candidate, score))
        try:
            candidate = ladder.send(score)
        except StopIteration:
            return tried


def chain(path: Path, layers: int = 8) -> Path:
    """So many matrix products of 64 x 64, with something between."""
    nodes = []
    for index in range(layers):
        nodes.append(node("MatMul", f"{f'a{index}' if index else 'x'} w{index}", f"m{index}"))
        nodes.append(node("Tanh", f"m{index}", f"a{index + 1}" if index < layers - 1 else "y"))
    weights = {f"w{index}": nets.normal(64, 64, seed=index) for index in range(layers)}
    return nets.build(path, nodes, {"x": ["batch", 64]}, {"y": ["batch", 64]}, weights)


def test_only_fp16_is_meant_for_another_device() -> None:
    assert {name for name, build in VARIANTS.items() if build.device == GPU} == {"fp16"}


def test_all_but_dynamic_int8_need_calibration_rows() -> None:
    assert {name for name, build in VARIANTS.items() if not build.needs} == {"int8-dynamic"}


@pytest.mark.parametrize("name", ["fp16", "int8-static", "pruned"])
def test_a_ladder_without_its_rows_fails(material: Material, tmp_path: Path, name: str) -> None:
    with pytest.raises(VariantFailed, match="--calibration"):
        climbed(name, shop(tmp_path, material.source, None))


def test_dynamic_int8_needs_no_rows(material: Material, tmp_path: Path) -> None:
    ladder = VARIANTS["int8-dynamic"].ladder(shop(tmp_path, material.source, None))
    assert operators(next(ladder).path) >= {"MatMulInteger", "Conv"}


def test_pruned_int8_starts_from_what_was_accepted(material: Material, tmp_path: Path) -> None:
    made = shop(tmp_path, material.source, rows())
    with pytest.raises(VariantFailed, match="variant pruned, which does not do well"):
        climbed("pruned-int8", made)
    made.pruned = nets.images_net(tmp_path / "pruned.onnx", channels=64)
    first = next(VARIANTS["pruned-int8"].ladder(made))
    kernels = [tensor for tensor in graph(first.path).initializer if len(tensor.dims) == 4]
    assert {tensor.dims[0] for tensor in kernels} == {64}


@pytest.mark.parametrize("name", ["int8-dynamic", "int8-static"])
def test_small_nets_have_nothing_to_gain_from_int8(tmp_path: Path, name: str) -> None:
    path = nets.images_net(tmp_path / "net.onnx", channels=16)
    with pytest.raises(VariantFailed, match="have 11 kB, too little to gain"):
        climbed(name, shop(tmp_path / "shop", path, rows()))


def test_dynamic_int8_of_convolutions_alone_fails(tmp_path: Path) -> None:
    path = nets.build(
        tmp_path / "net.onnx", [node("Conv", "x k", "y")],
        {"x": ["batch", 64, 8, 8]}, {"y": ["batch", 64, 6, 6]}, {"k": nets.normal(64, 64, 3, 3)},
    )  # fmt: skip
    with pytest.raises(VariantFailed, match="none of MatMul, Gemm, Gather"):
        climbed("int8-dynamic", shop(tmp_path / "shop", path, None))


def test_fp16_computes_in_halves_between_float32_ends(converted: Converted) -> None:
    half = graph(converted.directory / "model.fp16.onnx")
    ends = {value.type.tensor_type.elem_type for value in (*half.input, *half.output)}
    assert ends == {TensorProto.FLOAT}
    assert {tensor.data_type for tensor in half.initializer} == {TensorProto.FLOAT16}


def test_what_overflows_halves_on_real_rows_stays_in_fp32(tmp_path: Path) -> None:
    path = nets.build(
        tmp_path / "net.onnx",
        [node("MatMul", "x w1", "h"), node("Mul", "h large", "l"), node("Mul", "l small", "s"),
         node("MatMul", "s w2", "y")],
        {"x": ["batch", 8]}, {"y": ["batch", 4]},
        {"w1": nets.normal(8, 8), "w2": nets.normal(8, 4),
         "large": np.array(1e5, np.float32), "small": np.array(1e-5, np.float32)},
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    (one,) = climbed("fp16", shop(tmp_path / "shop", path, Samples({"x": x}, None)))
    candidate, _ = one
    assert {name.split("_")[0] for name in candidate.excluded} >= {"Mul"}
    assert candidate.how == f"{len(candidate.excluded)} nodes beyond fp16's range kept in fp32"
    before, after = nets.answers(path, x=x)["y"], nets.answers(candidate.path, x=x)["y"]
    np.testing.assert_allclose(after, before, atol=0.02)
    # By itself the CPU would not show it, so look: nothing large is ever cast to a half.
    kept = {node.name: node for node in graph(candidate.path).node}
    large = next(node for node in kept.values() if node.op_type == "Mul")
    assert large.name in candidate.excluded


def test_published_variants_keep_names_types_and_free_batch(converted: Converted) -> None:
    for name in converted.contract.published:
        path = converted.directory / str(converted.contract.variant(name).file)
        session = Session(path, SessionOptions(threads=1))
        assert session.inputs == converted.contract.inputs
        assert session.outputs == converted.contract.outputs
        assert session.batched


def test_static_int8_is_tried_plain_then_equalized_then_by_percentile(
    material: Material, tmp_path: Path
) -> None:
    unequal = nets.images_net(tmp_path / "net.onnx", times=1e3)
    tried = [one for one, _ in climbed("int8-static", shop(tmp_path / "shop", unequal, rows()))]
    assert [one.how for one in tried[:3]] == [
        "per channel, MinMax", "equalized, MinMax", "Percentile"
    ]  # fmt: skip
    assert not any(one.probe or one.step or one.excluded for one in tried[:3])
    assert all(len(one.ranges_sha256) == 64 for one in tried if not one.probe)
    assert len({one.ranges_sha256 for one in tried[:3]}) == 3


def test_where_nothing_can_be_equalized_that_is_not_tried(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    made = shop(tmp_path / "shop", chain(tmp_path / "net.onnx"), Samples({"x": x}, None))
    tried = [one.how for one, _ in climbed("int8-static", made)]
    assert tried[:2] == ["per channel, MinMax", "Percentile"]


def test_regions_are_excluded_from_the_nearest_of_what_was_tried(tmp_path: Path) -> None:
    near = {"equalized, MinMax": Score(5, 30, 0.01, 2.0, good=False)}
    unequal = nets.images_net(tmp_path / "net.onnx", times=1e3)
    tried = climbed(
        "int8-static", shop(tmp_path / "shop", unequal, rows()), lambda c: near.get(c.how, SOME)
    )
    assert tried[-1][0].how.startswith("equalized, MinMax, ")


def scored(harmful: set[str]) -> Callable[[Candidate], Score]:
    """Good is what leaves these regions in fp32; each of them alone moves the answers far."""

    def judge(candidate: Candidate) -> Score:
        if candidate.probe:
            name = candidate.how.rpartition(": ")[2]
            return Score(1, 30, 5.0 if name in harmful else 0.1, 0.0, good=False)
        return GOOD if harmful <= set(candidate.excluded) else SOME

    return judge


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_as_few_regions_as_it_takes_stay_in_fp32(tmp_path: Path, count: int) -> None:
    path = chain(tmp_path / "net.onnx")
    harmful = {f"MatMul_{2 * index}" for index in range(8 - count, 8)}
    tried = climbed("int8-dynamic", shop(tmp_path / "shop", path, None), scored(harmful))
    plain, last = tried[0][0], tried[-1][0]
    assert (plain.excluded, plain.how) == ((), "dynamic")
    assert set(last.excluded) == harmful
    assert last.how == f"dynamic, {count} regions in fp32"
    assert not last.step and not last.probe
    assert sum(one.probe for one, _ in tried) == 8
    assert len(tried) <= 1 + 8 + 3 + 3 + 4 + 1  # plain, ranking, doubling, bisection, back, last
    left = [one for one in graph(last.path).node if one.op_type == "MatMul"]
    assert len(left) == count


def test_a_region_that_was_excluded_for_nothing_is_tried_in_int8_again(tmp_path: Path) -> None:
    path = chain(tmp_path / "net.onnx", layers=8)

    def judge(candidate: Candidate) -> Score:
        # Ranked second, and harmless: only the first and the third must stay.
        if candidate.probe:
            order = ["MatMul_0", "MatMul_2", "MatMul_4"]
            name = candidate.how.rpartition(": ")[2]
            far = 5.0 - order.index(name) if name in order else 0.1
            return Score(1, 30, far, 0.0, good=False)
        return GOOD if {"MatMul_0", "MatMul_4"} <= set(candidate.excluded) else SOME

    tried = climbed("int8-dynamic", shop(tmp_path / "shop", path, None), judge)
    assert set(tried[-1][0].excluded) == {"MatMul_0", "MatMul_4"}


def test_probes_leave_no_files(tmp_path: Path) -> None:
    made = shop(tmp_path / "shop", chain(tmp_path / "net.onnx"), None)
    tried = climbed("int8-dynamic", made)
    assert not [one.path for one, _ in tried if one.probe and one.path.exists()]
    assert all(one.path.exists() for one, _ in tried if not one.probe)


def test_pruning_cuts_less_until_it_holds(tmp_path: Path) -> None:
    path = nets.dense(tmp_path / "net.onnx", hidden=160)
    x = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32)
    tried = climbed("pruned", shop(tmp_path / "shop", path, Samples({"x": x}, None)))
    sizes = [one.path.stat().st_size for one, _ in tried]
    assert len(sizes) == 3 and sizes[0] < sizes[1] < sizes[2] < path.stat().st_size
    assert "channels cut" in tried[0][0].how


@pytest.mark.parametrize("name", ["fp16", "int8-dynamic", "int8-static", "pruned"])
def test_files_are_written_into_the_workshop_and_the_reference_left_as_it_was(
    material: Material, tmp_path: Path, name: str
) -> None:
    (tmp_path / "model").mkdir()
    reference = tmp_path / "model" / "model.onnx"
    reference.write_bytes(material.source.read_bytes())
    made = shop(tmp_path / "shop", reference, rows())
    candidate = next(VARIANTS[name].ladder(made))
    assert candidate.path.parent == made.directory
    assert [path.name for path in reference.parent.iterdir()] == ["model.onnx"]
    assert reference.read_bytes() == material.source.read_bytes()
