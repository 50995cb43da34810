"""Requests for any model: drawn, or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests.payloads import DISTINCT, requests_for
from service.datatypes import BY_NAME, DATATYPES, from_bf16
from service.proto import inference_pb2 as pb
from service.rows import BadRows

ROWS = np.arange(1, 11, dtype=np.float32).reshape(5, 2)


class Stub:
    """A server that only describes its model."""

    def __init__(self, **inputs: tuple[str, list[int]]) -> None:
        self._answer = pb.ModelMetadataResponse(name="m")
        for name, (datatype, shape) in inputs.items():
            self._answer.inputs.add(name=name, datatype=datatype, shape=shape)
        self.asked: list[tuple[str, str]] = []

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, timeout: float
    ) -> pb.ModelMetadataResponse:
        self.asked.append((request.name, request.version))
        return self._answer


PIXELS = {"pixels": ("FP32", [-1, 2])}


def arrays(request: pb.ModelInferRequest) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs of a request, as a server reads them."""
    read = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            flat: Any = np.array(words(raw), dtype=object)
        else:
            flat = np.frombuffer(raw, BY_NAME[tensor.datatype].dtype)
        read[tensor.name] = flat.reshape(list(tensor.shape))
    return read


def words(raw: bytes) -> list[bytes]:
    """Strings, each after its length in four bytes."""
    found, at = [], 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        found.append(raw[at + 4 : end])
        at = end
    return found


def saved(directory: Path, **content: np.ndarray) -> Path:
    np.savez(directory / "rows.npz", **content)
    return directory / "rows.npz"


def refusal(stub: Stub, path: Path, rows: int = 1) -> str:
    """Why this file is refused: one sentence that names it."""
    with pytest.raises(BadRows) as error:
        requests_for(stub, "m", rows_file=path, rows=rows)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("shape", [[-1, 3], [-1, 1], [-1]])
def test_drawn_requests_fit_the_model(shape: list[int]) -> None:
    for datatype in (row.name for row in DATATYPES):
        requests = requests_for(Stub(x=(datatype, shape)), "m")
        assert len(requests) == DISTINCT
        for request in requests:
            assert request.inputs[0].datatype == datatype
            assert arrays(request)["x"].shape == (1, *shape[1:])


@pytest.mark.parametrize("shape", [[-1, 3], [-1, 1], [-1]])
@pytest.mark.parametrize("datatype", ["BOOL", "INT64", "FP32", "BYTES"])
def test_drawn_requests_are_never_all_zeros(datatype: str, shape: list[int]) -> None:
    for request in requests_for(Stub(x=(datatype, shape)), "m"):
        assert any(arrays(request)["x"].reshape(-1))


def test_drawn_requests_differ_from_each_other() -> None:
    requests = requests_for(Stub(**PIXELS), "m")
    assert len({request.raw_input_contents[0] for request in requests}) == DISTINCT


def test_drawn_requests_are_the_same_every_time() -> None:
    assert requests_for(Stub(**PIXELS), "m") == requests_for(Stub(**PIXELS), "m")


def test_a_free_dimension_is_given_a_size() -> None:
    request = requests_for(Stub(ids=("INT64", [-1, -1, 3])), "m")[0]
    rows, free, fixed = arrays(request)["ids"].shape
    assert (rows, fixed) == (1, 3)
    assert free > 1


def test_every_input_is_drawn() -> None:
    stub = Stub(a=("FP16", [-1, 4]), b=("BYTES", [-1, 2]), c=("BOOL", [-1, 9]))
    for request in requests_for(stub, "m", rows=3):
        assert {name: x.shape for name, x in arrays(request).items()} == {
            "a": (3, 4), "b": (3, 2), "c": (3, 9)
        }  # fmt: skip


def test_a_model_without_a_batch_gets_its_own_shape() -> None:
    (request,) = requests_for(Stub(x=("FP32", [2, 3])), "m", rows=5)
    assert arrays(request)["x"].shape == (2, 3)


def test_a_model_of_a_single_number_gets_one() -> None:
    (request,) = requests_for(Stub(x=("FP32", [])), "m")
    assert arrays(request)["x"].shape == ()


def test_requests_name_the_model_and_version() -> None:
    stub = Stub(**PIXELS)
    request = requests_for(stub, "m", version="3")[0]
    assert (request.model_name, request.model_version) == ("m", "3")
    assert stub.asked == [("m", "3")]


@pytest.mark.parametrize("key", ["pixels", "x"])
def test_rows_of_a_file_are_found_by_name_or_as_x(tmp_path: Path, key: str) -> None:
    requests = requests_for(Stub(**PIXELS), "m", rows_file=saved(tmp_path, **{key: ROWS}))
    sent = np.concatenate([arrays(request)["pixels"] for request in requests])
    np.testing.assert_array_equal(sent, ROWS)


def test_rows_of_a_file_take_the_models_dtype(tmp_path: Path) -> None:
    path = saved(tmp_path, x=ROWS.astype(np.float64), y=np.arange(5))
    request = requests_for(Stub(**PIXELS), "m", rows_file=path)[4]
    np.testing.assert_array_equal(arrays(request)["pixels"], ROWS[4:])


@pytest.mark.parametrize(("rows", "requests"), [(1, 5), (2, 2), (5, 1)])
def test_each_request_has_the_rows_that_are_asked_for(
    tmp_path: Path, rows: int, requests: int
) -> None:
    made = requests_for(Stub(**PIXELS), "m", rows_file=saved(tmp_path, x=ROWS), rows=rows)
    assert [len(arrays(request)["pixels"]) for request in made] == [rows] * requests
    np.testing.assert_array_equal(arrays(made[-1])["pixels"][-1], ROWS[rows * requests - 1])


def test_a_file_with_fewer_rows_than_a_request_takes_is_refused(tmp_path: Path) -> None:
    refusal(Stub(**PIXELS), saved(tmp_path, x=ROWS), rows=6)


def test_text_of_a_file_is_sent_as_utf_8(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.array([["grün", "a"], ["b", ""]]))
    requests = requests_for(Stub(text=("BYTES", [-1, 2])), "m", rows_file=path)
    sent = [arrays(request)["text"].tolist() for request in requests]
    assert sent == [[["grün".encode(), b"a"]], [[b"b", b""]]]


def test_numbers_of_a_file_are_sent_as_bits_of_bf16(tmp_path: Path) -> None:
    stub = Stub(half=("BF16", [-1, 2]))
    requests = requests_for(stub, "m", rows_file=saved(tmp_path, x=ROWS))
    sent = np.concatenate([from_bf16(arrays(request)["half"]) for request in requests])
    np.testing.assert_array_equal(sent, ROWS)
    assert "holds NaN" in refusal(stub, saved(tmp_path, x=ROWS * np.nan))


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    stub = Stub(**PIXELS, ids=("INT32", [-1, 3]))
    assert "has no array 'ids'" in refusal(stub, saved(tmp_path, pixels=ROWS))


@pytest.mark.parametrize(
    "array",
    [np.ones((5, 3)), np.ones(5), np.array([["a", "b"]]), np.empty((0, 2)), np.array(1.0)],
    ids=["width", "rank", "text", "empty", "scalar"],
)
def test_rows_that_do_not_fit_the_model_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    refusal(Stub(**PIXELS), saved(tmp_path, x=array))


def test_inputs_with_unequal_rows_are_refused(tmp_path: Path) -> None:
    stub = Stub(a=("FP32", [-1, 2]), b=("FP32", [-1, 2]))
    refusal(stub, saved(tmp_path, a=ROWS, b=ROWS[:3]))


@pytest.mark.parametrize("content", [b"", b"1,2\n", b"\x93NUMPY\x01\x00"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.npz"
    path.write_bytes(content)
    assert "is not an .npz file" in refusal(Stub(**PIXELS), path)


def test_a_single_array_or_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    assert "is not an .npz file" in refusal(Stub(**PIXELS), tmp_path / "rows.npy")
    whole = bytearray(saved(tmp_path, x=ROWS).read_bytes())
    whole[-60:-20] = bytes(40)
    (tmp_path / "rows.npz").write_bytes(whole)
    assert "is not an .npz file" in refusal(Stub(**PIXELS), tmp_path / "rows.npz")


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BYTES"])
@pytest.mark.parametrize(
    "shape",
    [
        [-1, 100_000, 100_000], [-1, -7], [-2, 4], [-1, 0], [0], [2**62], [-1, *[2**60] * 30],
        [-1] * 20, [1] * 100,
    ],
    ids=str,
)  # fmt: skip
def test_nothing_is_drawn_for_shapes_that_no_request_can_have(
    datatype: str, shape: list[int]
) -> None:
    with pytest.raises(BadRows, match=r"input 'x' is of shape .* at most 1024 MiB") as error:
        requests_for(Stub(x=(datatype, shape)), "m")
    assert len(str(error.value)) < 500


def test_inputs_that_are_too_large_together_or_by_their_rows_are_refused() -> None:
    small = {"a": ("FP32", [-1, 1024])}
    assert len(arrays(requests_for(Stub(**small), "m", rows=64)[0])["a"]) == 64
    with pytest.raises(BadRows, match="at most 1024 MiB"):
        requests_for(Stub(**small), "m", rows=2**18)
    many = {f"x{n}": ("FP32", [-1, 2**26]) for n in range(3)}
    with pytest.raises(BadRows, match="at most 1024 MiB"):
        requests_for(Stub(**many), "m")


def test_what_a_server_calls_its_inputs_is_said_without_what_a_terminal_obeys() -> None:
    with pytest.raises(BadRows) as error:
        requests_for(Stub(**{"x\x1b[2J": ("NO\nPE", [-1])}), "m")
    assert str(error.value).isprintable() and "NO PE" in str(error.value)
