"""Samples of ``model_warmup`` become feeds of the model, or rule it out."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from service import warmup
from service.datatypes import DATATYPES
from service.errors import ModelUnusable
from service.manifest import Manifest, TensorSpec
from service.proto import inference_pb2 as pb

NOWHERE = Path("/nonexistent")


def contract(*inputs: TensorSpec, batched: bool = True) -> Manifest:
    return Manifest("m", batched, inputs, (), ())


def sample(inputs: str, rest: str = "") -> warmup.Warmup:
    text = f'model_warmup {{ name: "first" {rest} {inputs} }}'
    (found,) = warmup.read(text_format.Parse(text, pb.ModelConfig()).model_warmup)
    return found


def fed(name: str, kind: str, dims: str, data: str) -> str:
    return f'inputs {{ key: "{name}" value {{ data_type: {kind} dims: {dims} {data} }} }}'


X = TensorSpec("x", "FP32", (-1, 2, -1))
ZERO = fed("x", "TYPE_FP32", "[ 2, 3 ]", "zero_data: true")


def test_zeros_are_run_as_often_and_with_as_many_rows_as_is_said() -> None:
    every = list(warmup.feeds(sample(ZERO, "batch_size: 4 count: 3"), contract(X), NOWHERE))
    assert len(every) == 3
    for feeds in every:
        assert feeds["x"].dtype == np.float32
        assert np.array_equal(feeds["x"], np.zeros((4, 2, 3)))


def test_one_row_once_where_nothing_is_said() -> None:
    (feeds,) = warmup.feeds(sample(ZERO), contract(X), NOWHERE)
    assert feeds["x"].shape == (1, 2, 3)


def test_a_model_without_a_batch_gets_its_dims_alone() -> None:
    alone = contract(TensorSpec("x", "FP32", (2, -1)), batched=False)
    (feeds,) = warmup.feeds(sample(ZERO, "batch_size: 1"), alone, NOWHERE)
    assert feeds["x"].shape == (2, 3)


@pytest.mark.parametrize("datatype", DATATYPES, ids=lambda row: row.name)
@pytest.mark.parametrize("data", ["zero_data: true", "random_data: true"])
def test_every_datatype_can_be_made_up(datatype: object, data: str) -> None:
    row = next(row for row in DATATYPES if row is datatype)
    spec = TensorSpec("x", row.name, (-1, 64))
    (feeds,) = warmup.feeds(sample(fed("x", row.config_name, "64", data)), contract(spec), NOWHERE)
    array = feeds["x"]
    assert (array.dtype, array.shape) == (row.dtype, (1, 64))
    if row.name == "BYTES":
        assert set(array.flat) == {b""}
    else:
        assert bool(array.any()) == data.startswith("random")


def test_random_data_is_the_same_at_each_start() -> None:
    random = sample(fed("x", "TYPE_FP32", "[ 2, 3 ]", "random_data: true"))
    (first,), (second,) = (warmup.feeds(random, contract(X), NOWHERE) for _ in range(2))
    assert np.array_equal(first["x"], second["x"])
    assert 0 <= first["x"].min() < first["x"].max() < 1


def test_a_file_holds_one_row_which_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    row = np.arange(6, dtype="<f4").reshape(2, 3)
    # What is behind the row is left, as by Triton.
    (tmp_path / "warmup" / "x.raw").write_bytes(row.tobytes() + b"more")
    from_file = sample(
        fed("x", "TYPE_FP32", "[ 2, 3 ]", 'input_data_file: "x.raw"'), "batch_size: 2"
    )
    (feeds,) = warmup.feeds(from_file, contract(X), tmp_path)
    assert np.array_equal(feeds["x"], [row, row])


def test_texts_in_a_file_have_their_lengths_before_them(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    texts = [b"a", b"", "größe".encode()]
    data = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    (tmp_path / "warmup" / "t").write_bytes(data)
    from_file = sample(fed("t", "TYPE_STRING", "3", 'input_data_file: "t"'), "batch_size: 2")
    (feeds,) = warmup.feeds(from_file, contract(TensorSpec("t", "BYTES", (-1, 3))), tmp_path)
    assert feeds["t"].tolist() == [texts, texts]


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("TYPE_FP32", b"123", "3 bytes; it needs 8"),
        ("TYPE_STRING", b"\x01\x00\x00\x00a", "1 texts; it needs 2"),
        ("TYPE_STRING", b"\x09\x00\x00\x00a", "ends within one"),
        ("TYPE_STRING", b"\xff\xff\xff\xff", "ends within one"),
        ("TYPE_STRING", b"\x00\x00", "ends within one"),
        ("TYPE_FP32", None, "cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_rules_the_model_out(
    kind: str, data: bytes | None, words: str, tmp_path: Path
) -> None:
    (tmp_path / "warmup").mkdir()
    if data is not None:
        (tmp_path / "warmup" / "x").write_bytes(data)
    spec = TensorSpec("x", {"TYPE_FP32": "FP32", "TYPE_STRING": "BYTES"}[kind], (-1, 2))
    with pytest.raises(ModelUnusable, match=words) as refused:
        list(warmup.feeds(sample(fed("x", kind, "2", 'input_data_file: "x"')), contract(spec),
                          tmp_path))  # fmt: skip
    assert str(tmp_path) not in refused.value.told


@pytest.mark.parametrize(
    ("inputs", "rest", "words"),
    [
        ("", "", "lacks the input 'x'"),
        (ZERO + fed("w", "TYPE_FP32", "1", "zero_data: true"), "", "has an input 'w'"),
        (fed("x", "TYPE_FP64", "[ 2, 3 ]", "zero_data: true"), "", "FP64"),
        (fed("x", "TYPE_FP32", "[ 3, 3 ]", "zero_data: true"), "", "dims"),
        (fed("x", "TYPE_FP32", "[ 2 ]", "zero_data: true"), "", "dims"),
        (fed("x", "TYPE_FP32", "[ 2, 1099511627776 ]", "zero_data: true"), "", "larger"),
        (ZERO, "batch_size: 4000000000", "larger"),
    ],
)
def test_a_sample_that_the_model_does_not_take_rules_it_out(
    inputs: str, rest: str, words: str
) -> None:
    with pytest.raises(ModelUnusable, match=words):
        list(warmup.feeds(sample(inputs, rest), contract(X), NOWHERE))


def test_several_rows_need_a_batch_dimension() -> None:
    alone = contract(TensorSpec("x", "FP32", (2, -1)), batched=False)
    with pytest.raises(ModelUnusable, match="batch_size 2"):
        list(warmup.feeds(sample(ZERO, "batch_size: 2"), alone, NOWHERE))


def test_an_optional_input_may_be_left_out() -> None:
    (feeds,) = warmup.feeds(
        sample(ZERO), contract(X, TensorSpec("gain", "FP32", (-1, 1), optional=True)), NOWHERE
    )
    assert set(feeds) == {"x"}


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "..", "", "a/b", "a\\\\b", "\\0"])
def test_files_outside_the_warmup_directory_are_refused(file: str) -> None:
    with pytest.raises(ModelUnusable, match="input_data_file"):
        sample(fed("x", "TYPE_FP32", "[ 2, 3 ]", f'input_data_file: "{file}"'))


@pytest.mark.parametrize("dims", ["0", "-1", "[ 2, -5 ]"])
def test_a_sample_says_every_size(dims: str) -> None:
    with pytest.raises(ModelUnusable, match="dims"):
        sample(fed("x", "TYPE_FP32", dims, "zero_data: true"))
