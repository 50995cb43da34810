"""Pruning on nets of ten lines: what is cut, what is left alone, and what the fit makes good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.pruning import channels, cutting, plain
from converter.samples import Samples
from service.session import Session, SessionOptions

Array = np.ndarray[Any, Any]


@dataclass
class Net:
    """A net as it is built: ``x`` [batch, 3, 8, 8] or as given, to ``y``."""

    input_shape: Sequence[int] = (3, 8, 8)
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    chance: Any = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, operator: str, *inputs: str, to: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [to], **attributes))
        return to

    def weight(self, name: str, *shape: int, rank: int = 0) -> str:
        """Random; of a low rank, so that channels can be told from each other."""
        fan_in = int(np.prod(shape[1:])) or 1
        values = self.chance.normal(size=shape) / np.sqrt(fan_in)
        if rank:
            mixing = self.chance.normal(size=(shape[0], rank)) / np.sqrt(rank)
            values = np.tensordot(mixing, values[:rank], axes=1)
        self.weights[name] = values.astype(np.float32)
        return name

    def conv(self, source: str, to: str, before: int, after: int, **more: Any) -> str:
        kernel, rank = more.pop("kernel", 3), more.pop("rank", 0)
        weight = self.weight(
            f"{to}.w", after, before // more.get("group", 1), kernel, kernel, rank=rank
        )
        bias = self.weight(f"{to}.b", after)
        more.setdefault("pads", [kernel // 2] * 4)
        return self.add("Conv", source, weight, bias, to=to, **more)

    def head(self, source: str, width: int) -> None:
        """Mean over places, then ten scores."""
        self.add("GlobalAveragePool", source, to="pooled")
        self.add("Flatten", "pooled", to="flat")
        self.add(
            "Gemm", "flat", self.weight("head.w", width, 10), self.weight("head.b", 10), to="y"
        )

    def save(self, path: Path, output_shape: Sequence[int] = (10,)) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *self.input_shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *output_shape])],
            [numpy_helper.from_array(values, name) for name, values in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path


def rows(net: Net, count: int = 40, seed: int = 1) -> Samples:
    shape = (count, *net.input_shape)
    return Samples({"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}, None)


def prune(net: Net, tmp_path: Path, output_shape: Sequence[int] = (10,), **more: Any) -> Any:
    """The weights of the pruned net by name, after it was checked to keep its contract."""
    reference = net.save(tmp_path / "reference.onnx", output_shape)
    target = tmp_path / "pruned.onnx"
    cutting.prune(reference, target, rows(net), **more)
    onnx.checker.check_model(str(target), full_check=True)
    before, after = onnx.load(reference).graph, onnx.load(target).graph
    assert (before.input, before.output) == (after.input, after.output)
    assert answers(target, net).shape == (40, *output_shape)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in after.initializer}


def answers(path: Path, net: Net, seed: int = 2) -> Array:
    return Session(path, SessionOptions(threads=1)).run(rows(net, seed=seed).feeds)["y"]


def chain() -> Net:
    net = Net()
    net.add("Relu", net.conv("x", "c1", 3, 32), to="r1")
    net.add("Relu", net.conv("r1", "c2", 32, 64), to="r2")
    net.head("r2", 64)
    return net


def test_a_chain_loses_channels_where_they_are_made_and_where_they_are_read(tmp_path: Path) -> None:
    weights = prune(chain(), tmp_path, fraction=0.5)
    assert weights["c1.w"].shape == (16, 3, 3, 3)
    assert weights["c1.b"].shape == (16,)
    assert weights["c2.w"].shape == (32, 16, 3, 3)
    assert weights["head.w"].shape == (32, 10)


def test_the_facts_count_what_was_cut(tmp_path: Path) -> None:
    net = chain()
    facts = cutting.prune(
        net.save(tmp_path / "a.onnx"), tmp_path / "b.onnx", rows(net), fraction=0.5
    )
    assert (facts.groups, facts.channels_before, facts.channels_after) == (2, 96, 48)
    before = 64 * 9 * (3 * 32 + 32 * 64) + 64 * 10
    after = 64 * 9 * (3 * 16 + 16 * 32) + 32 * 10
    assert (facts.multiply_adds_before, facts.multiply_adds_after) == (before, after)
    assert "48 of 96 channels cut in 2 groups" in str(facts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_both_sides_of_a_residual_add_lose_the_same_channels(tmp_path: Path) -> None:
    net = Net()
    net.add("Relu", net.conv("x", "stem", 3, 32), to="s")
    net.add("Relu", net.conv("s", "inner", 32, 32), to="i")
    net.add("Add", net.conv("i", "outer", 32, 32), "s", to="sum")
    net.add("Relu", "sum", to="r")
    net.conv("r", "down", 32, 64, strides=[2, 2])
    net.conv("r", "side", 32, 64, kernel=1, strides=[2, 2])
    net.add("Add", "down", "side", to="sum2")
    net.head("sum2", 64)
    reference = net.save(tmp_path / "reference.onnx")
    tied = channels.trace(plain.in_plain_form(onnx.load(reference)))
    assert sorted(map(len, tied.groups)) == [32, 32, 64]
    assert {mixer.result: mixer.shortcut for mixer in tied.mixers} == {
        "stem": None, "inner": None, "outer": "s", "down": None, "side": "down", "y": None,
    }  # fmt: skip
    weights = prune(net, tmp_path, fraction=0.5)
    assert weights["stem.w"].shape[0] == weights["outer.w"].shape[0] == 16
    assert weights["down.w"].shape == (32, 16, 3, 3)
    assert weights["side.w"].shape == (32, 16, 1, 1)


def test_a_depthwise_convolution_follows_what_it_reads(tmp_path: Path) -> None:
    net = Net()
    net.conv("x", "c1", 3, 32)
    net.conv("c1", "depth", 32, 32, group=32)
    net.add("Clip", "depth", to="r")
    net.head(net.conv("r", "point", 32, 64, kernel=1), 64)
    weights = prune(net, tmp_path, fraction=0.5)
    assert weights["depth.w"].shape == (16, 1, 3, 3)
    assert weights["depth.b"].shape == (16,)
    assert weights["point.w"].shape == (32, 16, 1, 1)


def test_squeeze_and_excitation_loses_channels_with_what_it_scales(tmp_path: Path) -> None:
    net = Net()
    net.conv("x", "c1", 3, 32)
    net.add("GlobalAveragePool", "c1", to="p")
    net.conv("p", "narrow", 32, 8, kernel=1)
    net.add("Sigmoid", net.conv("narrow", "wide", 8, 32, kernel=1), to="gate")
    net.head(net.add("Mul", "c1", "gate", to="scaled"), 32)
    weights = prune(net, tmp_path, fraction=0.5)
    assert weights["narrow.w"].shape == (8, 16, 1, 1)
    assert weights["wide.w"].shape == (16, 8, 1, 1)


def test_concatenated_channels_are_cut_from_the_reader_at_their_place(tmp_path: Path) -> None:
    net = Net()
    net.conv("x", "a", 3, 32)
    net.conv("x", "b", 3, 16)
    net.add("Concat", "a", "x", "b", to="all", axis=1)
    net.head(net.conv("all", "c", 51, 32), 32)
    weights = prune(net, tmp_path, fraction=0.5)
    assert weights["a.w"].shape[0] == 16
    assert weights["b.w"].shape[0] == 8
    assert weights["c.w"].shape == (16, 16 + 3 + 8, 3, 3)


def test_transposes_and_a_flatten_between_layouts_are_followed(tmp_path: Path) -> None:
    net = Net(input_shape=(8, 8, 3))
    net.add("Transpose", "x", to="nchw", perm=[0, 3, 1, 2])
    net.add("Relu", net.conv("nchw", "c1", 3, 32, strides=[4, 4]), to="r")
    net.add("Transpose", "r", to="nhwc", perm=[0, 2, 3, 1])
    net.weights["shape"] = np.array([-1, 2 * 2 * 32])
    net.add("Reshape", "nhwc", "shape", to="flat")
    net.weight("w", 128, 10)
    kept = net.weights["w"].reshape(2, 2, 32, 10)
    net.add("MatMul", "flat", "w", to="product")
    net.add("Add", "product", net.weight("b", 10), to="y")
    # Only the first sixteen say anything, so they must stay, in their places.
    kept[:, :, 16:] = 0
    weights = prune(net, tmp_path, fraction=0.5)
    np.testing.assert_array_equal(weights["c1.w"], net.weights["c1.w"][:16])
    np.testing.assert_allclose(weights["w"].reshape(2, 2, 16, 10), kept[:, :, :16], atol=1e-4)


def test_hidden_units_between_matrix_products_are_cut(tmp_path: Path) -> None:
    net = Net(input_shape=(5, 12))
    net.add("MatMul", "x", net.weight("up", 12, 64), to="h")
    net.add("Add", "h", net.weight("up.b", 64), to="hb")
    net.add("Relu", "hb", to="r")
    net.add("MatMul", "r", net.weight("down", 64, 12), to="d")
    net.add("Add", "d", "x", to="y")
    weights = prune(net, tmp_path, output_shape=(5, 12), fraction=0.5)
    assert weights["up"].shape == (12, 32)
    assert weights["up.b"].shape == (32,)
    assert weights["down"].shape == (32, 12)


def test_a_batch_norm_of_its_own_is_folded_and_the_answers_stay(tmp_path: Path) -> None:
    net = Net()
    net.conv("x", "c1", 3, 32)
    for name in ("gamma", "beta", "mean"):
        net.weight(name, 32)
    net.weights["variance"] = np.linspace(0.5, 2, 32, dtype=np.float32)
    net.add("BatchNormalization", "c1", "gamma", "beta", "mean", "variance", to="n", epsilon=0.1)
    net.head(net.add("Relu", "n", to="r"), 32)
    reference = net.save(tmp_path / "reference.onnx")
    folded = plain.in_plain_form(onnx.load(reference))
    onnx.save(folded, tmp_path / "plain.onnx")
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    np.testing.assert_allclose(
        answers(tmp_path / "plain.onnx", net), answers(reference, net), rtol=1e-4, atol=1e-5
    )
    assert prune(net, tmp_path, fraction=0.5)["c1.w"].shape[0] == 16


def test_vectors_that_exporters_share_do_not_tie_layers(tmp_path: Path) -> None:
    net = chain()
    net.conv("r1", "c3", 32, 64)
    net.nodes[-1].input[2] = "c2.b"
    net.nodes.append(net.nodes.pop(-2))  # the head stays last
    net.nodes[-1].input[0] = "flat"
    reference = net.save(tmp_path / "reference.onnx")
    names = [node.input[2] for node in plain.in_plain_form(onnx.load(reference)).graph.node
             if node.op_type == "Conv"]  # fmt: skip
    assert len(set(names)) == len(names) == 3


def test_what_an_unknown_operator_reads_is_left_alone(tmp_path: Path) -> None:
    net = Net()
    net.conv("x", "c1", 3, 32)
    net.add("LRN", "c1", to="normal", size=5)
    net.add("Relu", net.conv("normal", "c2", 32, 32), to="r")
    net.head(net.conv("r", "c3", 32, 32), 32)
    weights = prune(net, tmp_path, fraction=0.5)
    assert weights["c1.w"].shape == (32, 3, 3, 3)
    assert weights["c2.w"].shape == (16, 32, 3, 3)
    assert weights["c3.w"].shape == (16, 16, 3, 3)


def test_a_grouped_convolution_is_left_alone(tmp_path: Path) -> None:
    net = Net()
    net.conv("x", "c1", 3, 32)
    net.conv("c1", "grouped", 32, 32, group=4)
    net.head(net.conv("grouped", "c3", 32, 32), 32)
    weights = prune(net, tmp_path, fraction=0.5)
    assert weights["c1.w"].shape == (32, 3, 3, 3)
    assert weights["grouped.w"].shape == (32, 8, 3, 3)
    assert weights["c3.w"].shape == (16, 32, 3, 3)


@pytest.mark.parametrize("widths", [(3, 16), (3, 8, 16)])
def test_channels_of_an_output_are_never_cut(tmp_path: Path, widths: tuple[int, ...]) -> None:
    net = Net()
    source = "x"
    for number, (before, after) in enumerate(pairwise(widths)):
        source = net.conv(source, f"c{number}", before, after)
    net.add("Relu", source, to="y")
    reference = net.save(tmp_path / "reference.onnx", (16, 8, 8))
    with pytest.raises(cutting.NothingToPrune):
        cutting.prune(reference, tmp_path / "pruned.onnx", rows(net))
    assert not (tmp_path / "pruned.onnx").exists()


def test_a_graph_without_hidden_channels_is_refused_in_one_sentence(tmp_path: Path) -> None:
    net = Net(input_shape=(4,))
    net.add("Gemm", "x", net.weight("w", 4, 10), to="y")
    with pytest.raises(cutting.NothingToPrune, match="no channels can be cut: all of them reach"):
        cutting.prune(net.save(tmp_path / "a.onnx"), tmp_path / "b.onnx", rows(net))


def test_a_fraction_below_a_step_is_refused_in_one_sentence(tmp_path: Path) -> None:
    net = chain()
    with pytest.raises(cutting.NothingToPrune, match=r"5% of the widest group of channels, 64,"):
        cutting.prune(net.save(tmp_path / "a.onnx"), tmp_path / "b.onnx", rows(net), fraction=0.05)


@pytest.mark.parametrize(
    ("width", "fraction", "kept"),
    [(144, 0.3, 96), (128, 0.3, 96), (64, 0.3, 48), (32, 0.5, 16), (24, 0.3, 16), (16, 0.3, 8),
     (8, 0.9, 8), (3, 0.5, 3), (64, 0.99, 16), (2048, 0.3, 1440)],
)  # fmt: skip
def test_widths_stay_multiples_of_the_blocks(width: int, fraction: float, kept: int) -> None:
    assert cutting.kept_width(width, fraction) == kept


def test_the_fit_makes_good_what_the_cut_broke(tmp_path: Path) -> None:
    net = Net()
    # Sixteen different channels, mixed into 32: half of them can be told from the others.
    net.conv("x", "c1", 3, 32, rank=16)
    net.add("Tanh", net.conv("c1", "c2", 32, 32), to="r")
    net.head("r", 32)
    reference = net.save(tmp_path / "reference.onnx")
    model = plain.in_plain_form(onnx.load(reference))
    tied = channels.trace(model)
    stays = np.ones(tied.count, bool)
    stays[tied.groups[0][::2]] = stays[tied.groups[1][::2]] = False
    onnx.save(cutting.cut(model, tied, stays), tmp_path / "cut.onnx")
    cutting.prune(reference, tmp_path / "pruned.onnx", rows(net, 200), fraction=0.5)
    before = answers(reference, net)
    cut, fitted = (
        float(np.square(answers(tmp_path / name, net) - before).mean())
        for name in ("cut.onnx", "pruned.onnx")
    )
    assert fitted < 0.1 * cut


def test_a_channel_that_others_predict_goes_before_one_they_do_not(tmp_path: Path) -> None:
    net = Net()
    net.conv("x", "c1", 3, 16, kernel=1)
    # Eight channels twice: whichever goes, its twin must stay.
    net.weights["c1.w"][8:] = net.weights["c1.w"][:8]
    net.weights["c1.b"][8:] = net.weights["c1.b"][:8]
    net.add("Relu", "c1", to="r")
    net.head("r", 16)
    reference = net.save(tmp_path / "reference.onnx")
    weights = prune(net, tmp_path, fraction=0.5)
    assert len(np.unique(weights["c1.w"], axis=0)) == 8
    np.testing.assert_allclose(
        answers(tmp_path / "pruned.onnx", net), answers(reference, net), atol=1e-2
    )


def test_a_graph_with_a_fixed_batch_is_read_in_its_steps(tmp_path: Path) -> None:
    net = chain()
    model = onnx.load(net.save(tmp_path / "reference.onnx"))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "reference.onnx")
    cutting.prune(tmp_path / "reference.onnx", tmp_path / "pruned.onnx", rows(net, 7), fraction=0.5)
    session = Session(tmp_path / "pruned.onnx", SessionOptions(threads=1))
    assert session.run(rows(net, 3).feeds)["y"].shape == (3, 10)


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    net = chain()
    reference = net.save(tmp_path / "reference.onnx")
    files = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    for file in files:
        cutting.prune(reference, file, rows(net), fraction=0.5)
    assert files[0].read_bytes() == files[1].read_bytes()
