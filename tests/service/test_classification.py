"""Classification: the largest numbers of a row, in the text form that Triton's clients split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from service.classification import classified
from service.datatypes import to_bf16
from service.errors import InvalidInput

LABELS = ("cat", "dog", "", "bird")


def texts(
    values: Any, classes: int, *, dtype: Any = np.float32, datatype: str = "FP32", **more: Any
) -> list[Any]:
    return classified(
        np.array(values, dtype), datatype, classes, **{"batched": True, **more}
    ).tolist()


def test_largest_numbers_of_each_row_come_first() -> None:
    assert texts([[0.1, 0.7, 0.2], [3, 1, 2]], 2) == [
        ["0.700000:1", "0.200000:2"], ["3.000000:0", "2.000000:2"],
    ]  # fmt: skip


@pytest.mark.parametrize(("shape", "classes"), [((1, 2**20), 2**40), ((64, 2**18), 1)])
def test_more_than_can_be_named_quickly_is_refused(shape: tuple[int, int], classes: int) -> None:
    with pytest.raises(InvalidInput, match="ask for fewer"):
        classified(np.zeros(shape, np.uint8), "UINT8", classes, batched=True)


def test_labels_stand_behind_the_index_where_there_are_any() -> None:
    (row,) = texts([[5, 4, 3, 2, 1]], 5, labels=LABELS)
    assert row == [
        "5.000000:0:cat",
        "4.000000:1:dog",
        "3.000000:2",
        "2.000000:3:bird",
        "1.000000:4",
    ]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64])
def test_whole_numbers_are_plain_and_ordered_at_their_limits(dtype: Any) -> None:
    limits = np.iinfo(dtype)
    assert texts([[limits.min, 7, limits.max]], 3, dtype=dtype, datatype="INT") == [
        [f"{limits.max}:2", "7:1", f"{limits.min}:0"]
    ]


def test_truth_values_are_one_and_zero() -> None:
    assert texts([[False, True]], 2, dtype=np.bool_, datatype="BOOL") == [["1:1", "0:0"]]


def test_half_precision_numbers_are_numbers() -> None:
    values = np.array([[0.5, 2.0, -1.0]], np.float32)
    wanted = [["2.000000:1", "0.500000:0", "-1.000000:2"]]
    assert texts(to_bf16(values), 3, dtype="<u2", datatype="BF16") == wanted
    assert texts(values, 3, dtype=np.float16, datatype="FP16") == wanted


def test_more_classes_than_there_are_get_all() -> None:
    assert texts([[1, 2]], 2**62) == [["2.000000:1", "1.000000:0"]]


def test_equal_numbers_keep_their_order_and_nan_comes_last() -> None:
    nan, inf = np.nan, np.inf
    assert texts([[nan, 1, inf, 1, -inf]], 5) == [
        ["inf:2", "1.000000:1", "1.000000:3", "-inf:4", "nan:0"]
    ]


def test_all_dimensions_of_a_row_are_counted_through() -> None:
    assert texts([[[1, 2], [4, 3]]], 1) == [["4.000000:2"]]


def test_model_without_a_batch_gives_one_list() -> None:
    assert texts([[1, 2], [4, 3]], 2, batched=False) == ["4.000000:2", "3.000000:3"]
    assert texts(7, 3, batched=False) == ["7.000000:0"]
    assert texts([], 3, batched=False) == []


@pytest.mark.parametrize(("shape", "found"), [((0, 3), (0, 2)), ((2, 0), (2, 0)), ((2,), (2, 1))])
def test_empty_and_flat_outputs_keep_their_rows(
    shape: tuple[int, ...], found: tuple[int, ...]
) -> None:
    array = np.zeros(shape, np.float32)
    assert classified(array, "FP32", 2, batched=True).shape == found


@given(
    hn.arrays(np.float32, st.integers(1, 200), elements=st.integers(-9, 9).map(float)),
    st.integers(1, 200),
)
def test_few_of_many_are_those_of_a_whole_sort(row: Any, classes: int) -> None:
    order = sorted(range(len(row)), key=lambda index: -row[index])[:classes]
    (found,) = classified(row[None], "FP32", classes, batched=True).tolist()
    assert [int(text.split(":")[1]) for text in found] == order
