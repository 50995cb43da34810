"""The tensors that a config names are the model's, or the model is refused; likewise labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from service import modelconfig
from service.errors import ModelUnusable
from service.manifest import Manifest, TensorSpec
from service.modelconfig import Options
from service.proto import inference_pb2 as pb

BATCHED = Manifest(
    "m",
    True,
    (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("n", "INT64", (-1, -1))),
    (TensorSpec("y", "FP32", (-1, 4)), TensorSpec("z", "FP32", (-1,))),
    (),
)
SINGLE = Manifest(
    "m",
    False,
    (TensorSpec("x", "FP32", (2, -1)), TensorSpec("t", "FP32", ())),
    (TensorSpec("y", "FP32", ()),),
    (),
)
GAIN = TensorSpec("gain", "FP32", (1,), optional=True)

BATCH = "max_batch_size: 8 "
X = 'input { name: "x" data_type: TYPE_FP32 dims: 4 } '
N = 'input { name: "n" data_type: TYPE_INT64 dims: 7 } '


def options(text: str) -> Options:
    return modelconfig.options(text_format.Parse(text, pb.ModelConfig()), "m")


def test_without_tensors_the_contract_stays() -> None:
    assert modelconfig.applied(options("max_batch_size: 8"), BATCHED) == BATCHED
    assert modelconfig.applied(Options("m"), SINGLE) == SINGLE


def test_callers_see_the_configs_order_and_the_sizes_that_it_fixes() -> None:
    contract = modelconfig.applied(options(BATCH + N + X), BATCHED)
    assert contract.inputs == (
        TensorSpec("n", "INT64", (-1, 7)),
        TensorSpec("x", "FP32", (-1, 4)),
    )
    assert contract.outputs == BATCHED.outputs
    assert contract.batched


def test_outputs_may_be_left_out() -> None:
    text = 'max_batch_size: 8 output { name: "y" data_type: TYPE_FP32 dims: 4 }'
    assert [s.name for s in modelconfig.applied(options(text), BATCHED).outputs] == ["y"]


def test_a_reshaped_tensor_has_one_shape_for_callers_and_another_for_the_model() -> None:
    text = (
        'max_batch_size: 8 output { name: "z" data_type: TYPE_FP32 dims: 1 reshape { } } '
        'output { name: "y" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: 4 } }'
    )
    found = options(text)
    assert [s.shape for s in modelconfig.applied(found, BATCHED).outputs] == [(-1, 1), (-1, 2, 2)]
    assert found.reshapes == {"z": (-1,), "y": (-1, 4)}


def test_without_a_batch_every_dimension_is_said() -> None:
    text = (
        'input { name: "x" data_type: TYPE_FP32 dims: [ 2, -1 ] } '
        'input { name: "t" data_type: TYPE_FP32 dims: [ 1, 1 ] } '
    )
    # The model's scalar is one element to callers, once the options know of it.
    assert modelconfig.applied(options(text), SINGLE).inputs == SINGLE.inputs
    found = modelconfig.fitted(options(text), SINGLE)
    assert found.reshapes == {"t": ()}
    assert modelconfig.applied(found, SINGLE).inputs[1].shape == (1, 1)


def test_an_input_with_a_value_in_the_graph_may_be_optional() -> None:
    text = (
        'input { name: "x" data_type: TYPE_FP32 dims: [ 2, -1 ] } '
        'input { name: "t" data_type: TYPE_FP32 dims: 1 } '
        'input { name: "gain" data_type: TYPE_FP32 dims: 1 optional: true }'
    )
    assert modelconfig.applied(options(text), SINGLE, (GAIN,)).inputs[2] == GAIN
    with pytest.raises(ModelUnusable, match="no input 'gain'"):
        modelconfig.applied(options(text), SINGLE)


def test_rows_too_may_have_an_optional_input_that_follows_the_batch() -> None:
    text = BATCH + X + N + 'input { name: "gain" data_type: TYPE_FP32 dims: 1 optional: true }'
    rows = TensorSpec("gain", "FP32", (-1, 1), optional=True)
    assert modelconfig.applied(options(text), BATCHED, (rows,)).inputs[-1] == rows
    with pytest.raises(ModelUnusable, match="'gain' is said to have shape"):
        modelconfig.applied(options(text), BATCHED, (GAIN,))


WRONG = [
    (BATCH + X, BATCHED, "input 'n' is left out"),
    (BATCH + X + N + 'input { name: "w" data_type: TYPE_FP32 dims: 1 }', BATCHED, "no input 'w'"),
    (BATCH + 'output { name: "w" data_type: TYPE_FP32 dims: 1 }', BATCHED, "no output 'w'"),
    (BATCH + N + 'input { name: "x" data_type: TYPE_FP64 dims: 4 }', BATCHED, "FP64"),
    (BATCH + N + 'input { name: "x" data_type: TYPE_FP32 dims: 5 }', BATCHED, "5"),
    (BATCH + N + 'input { name: "x" data_type: TYPE_FP32 dims: -1 }', BATCHED, "shape"),
    (BATCH + N + 'input { name: "x" data_type: TYPE_FP32 dims: [ 4, 1 ] }', BATCHED, "shape"),
    (BATCH + 'output { name: "z" data_type: TYPE_FP32 dims: 1 }', BATCHED, "shape"),
    (BATCH, SINGLE, "first dimension of 'x' is not free"),
    ('output { name: "y" data_type: TYPE_FP32 dims: 2 }', SINGLE, "shape"),
    (
        'input { name: "x" data_type: TYPE_FP32 dims: [ 2, -1 ] optional: true } '
        'input { name: "t" data_type: TYPE_FP32 dims: 1 }',
        SINGLE,
        "optional",
    ),
]


@pytest.mark.parametrize(("text", "contract", "words"), WRONG, ids=range(len(WRONG)))
def test_tensors_that_are_not_the_models_rule_it_out(
    text: str, contract: Manifest, words: str
) -> None:
    with pytest.raises(ModelUnusable, match=words) as refused:
        modelconfig.applied(options(text), contract)
    assert refused.value.told == str(refused.value)


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"cat\r\ndog", ("cat", "dog")),
        ("größe\n\nx\n".encode(), ("größe", "", "x")),
        (b"a\x0bb\n", ("a\x0bb",)),
        (b"", ()),
    ],
)
def test_labels_are_the_lines_of_their_file(
    data: bytes, labels: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_bytes(data)
    assert modelconfig.read_labels(tmp_path / "labels.txt") == labels


@pytest.mark.parametrize("data", [None, b"\xff\xfe", b"x" * (16 * 2**20 + 1)], ids=range(3))
def test_labels_that_cannot_be_read_rule_the_model_out(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ModelUnusable, match=r"labels\.txt") as refused:
        modelconfig.read_labels(path)
    assert str(tmp_path) not in refused.value.told
