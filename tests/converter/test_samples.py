"""Rows from files: read, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from converter import samples
from converter.samples import Samples
from service.manifest import TensorSpec
from service.rows import BadRows

X = TensorSpec("pixels", "FP32", (-1, 2))
IDS = TensorSpec("ids", "INT32", (-1, -1))
ROWS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def read(path: Path, *inputs: TensorSpec, **arrays: object) -> Samples:
    """What is read back from a file with these arrays."""
    np.savez(path / "rows.npz", **arrays)
    return samples.read(path / "rows.npz", inputs or (X,))


def refusal(path: Path, *inputs: TensorSpec) -> str:
    """Why this file is refused: one sentence that names it."""
    with pytest.raises(BadRows) as error:
        samples.read(path, inputs or (X,))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def refused(path: Path, *inputs: TensorSpec, **arrays: object) -> str:
    np.savez(path / "rows.npz", **arrays)
    return refusal(path / "rows.npz", *inputs)


@pytest.mark.parametrize("key", ["pixels", "x"])
def test_the_only_input_is_found_by_its_name_or_as_x(tmp_path: Path, key: str) -> None:
    rows = read(tmp_path, **{key: ROWS})
    np.testing.assert_array_equal(rows.feeds["pixels"], ROWS)
    assert (len(rows), rows.labels) == (3, None)


def test_an_inputs_own_name_goes_before_x(tmp_path: Path) -> None:
    rows = read(tmp_path, pixels=ROWS, x=ROWS + 1)
    np.testing.assert_array_equal(rows.feeds["pixels"], ROWS)


def test_several_inputs_are_read_by_name_in_the_models_order(tmp_path: Path) -> None:
    rows = read(tmp_path, X, IDS, ids=np.ones((3, 7), np.int32), pixels=ROWS)
    assert list(rows.feeds) == ["pixels", "ids"]
    assert rows.feeds["ids"].shape == (3, 7)


def test_x_stands_for_none_of_several_inputs(tmp_path: Path) -> None:
    assert "'pixels'" in refused(tmp_path, X, IDS, x=ROWS, ids=np.ones((3, 7), np.int32))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_labels_are_read_under_y_one_for_each_row(tmp_path: Path, shape: tuple[int]) -> None:
    rows = read(tmp_path, x=ROWS, y=np.array([2, 0, 1]).reshape(shape))
    assert rows.labels is not None
    assert rows.labels.tolist() == [2, 0, 1]


def test_an_input_called_y_is_no_labels(tmp_path: Path) -> None:
    rows = read(tmp_path, TensorSpec("y", "FP32", (-1, 2)), y=ROWS)
    assert rows.labels is None
    np.testing.assert_array_equal(rows.feeds["y"], ROWS)


@pytest.mark.parametrize("labels", [np.eye(3), np.zeros((3, 2, 2)), np.array(1)])
def test_labels_that_are_not_one_for_each_row_are_refused(
    tmp_path: Path, labels: np.ndarray
) -> None:
    refused(tmp_path, x=ROWS, y=labels)


def test_doubles_are_taken_for_floats(tmp_path: Path) -> None:
    assert read(tmp_path, x=ROWS.astype(np.float64)).feeds["pixels"].dtype == np.float32


def test_slices_hold_the_same_rows_of_every_input(tmp_path: Path) -> None:
    rows = read(tmp_path, X, IDS, pixels=ROWS, ids=np.array([[1], [2], [3]]))
    part = rows.slice(1, 3)
    assert part["pixels"].tolist() == [[3, 4], [5, 6]]
    assert part["ids"].tolist() == [[2], [3]]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"PK\x03\x04 cut off here", b"\x80\x04K"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    assert "is not an .npz file" in refusal(tmp_path / "rows.npz")


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    assert "is not an .npz file" in refusal(tmp_path / "rows.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_refused(tmp_path: Path, save) -> None:
    path = tmp_path / "rows.npz"
    save(path, x=np.random.default_rng(0).integers(0, 9, (2000, 2)).astype(np.float32))
    damaged = bytearray(path.read_bytes())
    damaged[300:340] = b"\xff" * 40
    path.write_bytes(damaged)
    assert "is not an .npz file" in refusal(path)


def test_a_file_that_is_cut_off_does_not_stay_open(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    path.write_bytes(b"PK\x03\x04 cut off here")
    with pytest.raises(BadRows):
        samples.read(path, (X,))
    assert str(path) not in [file.path for file in psutil.Process().open_files()]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    objects = np.array([{"any": "thing"}], dtype=object)
    assert "is not an .npz file of plain arrays" in refused(tmp_path, x=objects)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    assert "has no array 'ids'" in refused(tmp_path, X, IDS, pixels=ROWS)


@pytest.mark.parametrize("array", [np.ones((3, 5)), np.ones(3), np.ones((3, 2, 1)), np.array(1.0)])
def test_rows_of_another_shape_are_refused_with_both(tmp_path: Path, array: np.ndarray) -> None:
    assert "takes [2]" in refused(tmp_path, x=array)


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        (IDS, np.full((3, 2), 0.5, np.float32)),
        (X, np.array([["a", "b"]] * 3)),
        (X, np.ones((3, 2), np.complex64)),
        (TensorSpec("flag", "BOOL", (-1, 2)), np.ones((3, 2), np.int64)),
    ],
)
def test_another_kind_of_number_is_refused(
    tmp_path: Path, spec: TensorSpec, array: np.ndarray
) -> None:
    assert f"is {array.dtype}" in refused(tmp_path, spec, x=array)


def test_whole_numbers_too_large_for_the_input_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, IDS, x=np.array([[2**32 + 1]]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_with_nan_or_infinity_are_refused(tmp_path: Path, value: float) -> None:
    assert "NaN or infinity" in refused(tmp_path, x=np.array([[1.0, value]]))


def test_inputs_with_unequal_rows_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, X, IDS, pixels=ROWS, ids=np.ones((2, 4), np.int32))
    assert "[2, 3]" in said


def test_labels_for_other_rows_are_refused(tmp_path: Path) -> None:
    assert "[2, 3]" in refused(tmp_path, x=ROWS, y=np.array([0, 1]))


def test_no_rows_are_refused(tmp_path: Path) -> None:
    assert "no rows" in refused(tmp_path, x=np.empty((0, 2), np.float32))


def test_rows_seen_in_calibration_are_refused_with_their_number() -> None:
    calibration = Samples({"x": ROWS}, None)
    with pytest.raises(BadRows, match=r"^2 rows are in the calibration"):
        samples.check_disjoint(calibration, Samples({"x": ROWS[[2, 0]]}, np.array([0, 1])))


def test_rows_that_share_only_one_of_two_inputs_are_disjoint() -> None:
    calibration = Samples({"a": ROWS, "b": ROWS}, None)
    samples.check_disjoint(calibration, Samples({"a": ROWS, "b": ROWS + 1}, None))


def test_descriptions_are_the_same_for_the_same_data(tmp_path: Path) -> None:
    first = read(tmp_path, x=ROWS, y=np.arange(3)).describe()
    assert first == read(tmp_path, pixels=ROWS, y=np.arange(3)).describe()
    assert (first["rows"], first["labels"], len(first["sha256"])) == (3, True, 64)


def test_descriptions_tell_rows_order_and_labels_apart() -> None:
    labels = np.arange(3)
    digests = {
        rows.describe()["sha256"]
        for rows in (
            Samples({"x": ROWS}, None),
            Samples({"x": ROWS}, labels),
            Samples({"x": ROWS}, labels + 1),
            Samples({"x": ROWS[::-1]}, None),
            Samples({"x": ROWS + 1}, None),
        )
    }
    assert len(digests) == 5


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_text_is_read_and_described(tmp_path: Path, shape: tuple[int, ...]) -> None:
    text = np.array(["grün", "b", "b"]).reshape([3, *shape[1:]])
    rows = read(tmp_path, TensorSpec("text", "BYTES", shape), x=text)
    assert rows.feeds["text"].reshape(-1).tolist() == ["grün", "b", "b"]
    one, two, three = rows.row_digests()
    assert one != two == three


def test_an_input_without_further_dimensions_is_described(tmp_path: Path) -> None:
    one, two = read(tmp_path, TensorSpec("n", "FP32", (-1,)), x=np.array([1.0, 2.0])).row_digests()
    assert one != two


def test_a_part_holds_the_rows_that_were_asked_for_with_their_labels() -> None:
    part = Samples({"x": ROWS}, np.array([7, 8, 9])).part(np.array([2, 0]))
    assert part.feeds["x"].tolist() == [[5, 6], [1, 2]]
    assert part.labels is not None and part.labels.tolist() == [9, 7]
    assert Samples({"x": ROWS}, None).part(np.array([1])).labels is None


def test_a_row_that_is_repeated_counts_once() -> None:
    rows = Samples({"x": ROWS[[0, 1, 0, 2, 1]], "n": np.array([1, 1, 1, 1, 2])}, None)
    assert rows.distinct().tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("count", [30, 31, 100, 301])
def test_every_third_row_is_kept_back_to_compare_candidates_on(count: int) -> None:
    rows = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    ranges, selection = samples.divided(Samples({"x": rows}, np.arange(count)))
    assert selection.feeds["x"].tolist() == rows[::3].tolist()
    assert selection.labels is not None and selection.labels.tolist() == list(range(0, count, 3))
    both = np.concatenate([ranges.feeds["x"], selection.feeds["x"]])
    assert sorted(both[:, 0].tolist()) == rows[:, 0].tolist()
    assert not set(ranges.row_digests()) & set(selection.row_digests())


@pytest.mark.parametrize("count", [1, 29])
def test_few_rows_serve_for_both(count: int) -> None:
    rows = Samples({"x": np.ones((count, 2), np.float32)}, None)
    assert samples.divided(rows) == (rows, rows)


def test_ids_kept_as_floats_are_taken_if_they_are_whole_numbers(tmp_path: Path) -> None:
    ids = (TensorSpec("ids", "INT32", (-1, 2)),)
    np.savez(tmp_path / "whole.npz", ids=np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
    rows = samples.read(tmp_path / "whole.npz", ids)
    assert rows.feeds["ids"].dtype == np.int32
    np.testing.assert_array_equal(rows.feeds["ids"], [[1, 2], [3, 4]])


@pytest.mark.parametrize("value", [0.5, np.nan, 1e30])
def test_floats_that_are_no_whole_numbers_of_the_input_are_refused(
    tmp_path: Path, value: float
) -> None:
    ids = (TensorSpec("ids", "INT32", (-1, 1)),)
    np.savez(tmp_path / "broken.npz", ids=np.array([[value]]))
    with pytest.raises(BadRows):
        samples.read(tmp_path / "broken.npz", ids)
