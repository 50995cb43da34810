"""What answers decide, and how far they are apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter import compare
from converter.compare import NotJudged


def decided(outputs: compare.Arrays) -> np.ndarray:
    """The decisions of an only output."""
    return compare.decisions(outputs, list(outputs))[:, 0]


def test_softmax_decides_by_its_largest_entry() -> None:
    outputs = {"p": np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], np.float32)}
    assert decided(outputs).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_single_number_decides_at_one_half(shape: tuple[int, ...]) -> None:
    outputs = {"p": np.array([0.2, 0.5, 0.9], np.float32).reshape(shape)}
    assert decided(outputs).tolist() == [0, 0, 1]


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_whole_numbers_are_decisions_themselves(shape: tuple[int, ...]) -> None:
    outputs = {"label": np.array([7, 0, 3], np.int64).reshape(shape)}
    assert decided(outputs).tolist() == [7, 0, 3]


def test_truths_are_decisions_themselves() -> None:
    assert decided({"yes": np.array([True, False])}).tolist() == [1, 0]


def test_every_output_decides_in_its_own_column() -> None:
    outputs = {"a": np.array([1, 2]), "b": np.array([5, 6])}
    assert compare.decisions(outputs, ["b", "a"]).tolist() == [[5, 1], [6, 2]]


@pytest.mark.parametrize("shape", [(2,), (2, 1), (2, 4)])
def test_nan_decides_what_nothing_agrees_with(shape: tuple[int, ...]) -> None:
    scores = np.full(shape, 0.25, np.float32)
    scores[0] = np.nan
    assert decided({"p": scores}).tolist() == [-1, 0]


BEST = {
    "p_values": np.array([[0.6, 0.3], [0.5, 0.4]], np.float32),
    "p_indices": np.array([[7, 2], [4, 9]], np.int64),
}


def test_of_the_best_classes_the_first_decides_once() -> None:
    assert compare.decisions(BEST, list(BEST)).tolist() == [[7], [4]]


def test_other_outputs_decide_beside_the_best_classes() -> None:
    outputs = {**BEST, "n": np.array([1, 2])}
    assert compare.decisions(outputs, list(outputs)).tolist() == [[7, 1], [4, 2]]


def test_an_output_without_values_in_its_name_is_not_silenced_by_indices_beside_it() -> None:
    outputs = {"p": np.array([3, 4]), "p_indices": np.array([[7, 2], [4, 9]])}
    assert compare.decisions(outputs, list(outputs)).tolist() == [[3, 7], [4, 4]]


@pytest.mark.parametrize(
    "output",
    [
        np.linspace(100, 200, 30, dtype=np.float32),
        np.linspace(-3, 3, 30, dtype=np.float32).reshape(30, 1),
        np.zeros((30, 8, 8, 3), np.float32),
        np.zeros((30, 4), np.int64),
        np.array(["a"] * 30, object),
    ],
    ids=["regression", "logit", "segmentation", "many whole numbers", "texts"],
)
def test_outputs_that_decide_nothing_are_not_judged(output: np.ndarray) -> None:
    with pytest.raises(NotJudged, match="output 'y'"):
        decided({"y": output})


def test_close_forgives_the_noise_of_float32_and_no_more() -> None:
    wanted = {"y": np.array([[1.0, 100.0]], np.float32)}
    assert compare.close({"y": wanted["y"] * (1 + 5e-4)}, wanted)
    assert not compare.close({"y": wanted["y"] * (1 + 5e-3)}, wanted)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.ones((2, 1), np.float32), np.ones((1, 2), np.float32)),
        (np.array([np.nan], np.float32), np.array([1.0], np.float32)),
        (np.array(["a"], object), np.array(["b"], object)),
    ],
)
def test_other_whole_numbers_shapes_nan_or_strings_are_not_close(
    mine: np.ndarray, theirs: np.ndarray
) -> None:
    assert compare.close({"y": theirs}, {"y": theirs})
    assert not compare.close({"y": mine}, {"y": theirs})


def test_close_looks_at_every_output() -> None:
    same, other = np.ones(2, np.float32), np.zeros(2, np.float32)
    assert not compare.close({"a": same, "b": other}, {"a": same, "b": same})


def test_a_share_of_the_rows_may_be_tolerated_and_no_more() -> None:
    wanted = {"y": np.zeros((20, 3), np.float32), "n": np.zeros(20, int)}
    given = {name: array.copy() for name, array in wanted.items()}
    given["y"][4], given["n"][7] = 1, 1
    assert not compare.close(given, wanted)
    assert not compare.close(given, wanted, tolerated=0.04)
    assert compare.close(given, wanted, tolerated=0.05)
    assert not compare.close({**given, "n": given["n"][:9]}, wanted, tolerated=0.5)


def test_distance_is_in_units_of_the_outputs_spread() -> None:
    # Rows at -3, 0 and 3: their root mean square distance from the mean is sqrt(6).
    wanted = {"y": np.array([[-3.0], [0.0], [3.0]], np.float32)}
    moved = {"y": wanted["y"] + np.array([[0.0], [1.0], [-2.0]], np.float32)}
    np.testing.assert_allclose(
        compare.distances(moved, wanted), np.array([0, 1, 2]) / np.sqrt(6), rtol=1e-6
    )


def test_distance_of_a_vector_is_euclidean() -> None:
    wanted = {"e": np.array([[-5.0, 0.0], [5.0, 0.0]], np.float32)}
    moved = {"e": wanted["e"] + np.array([3.0, 4.0], np.float32)}
    assert compare.distances(moved, wanted).tolist() == [1.0, 1.0]


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_distance_knows_no_units(scale: float, shift: float) -> None:
    random = np.random.default_rng(0)
    wanted = random.normal(size=(20, 3, 2))
    moved = wanted + 0.1 * random.normal(size=wanted.shape)
    np.testing.assert_allclose(
        compare.distances({"y": scale * moved + shift}, {"y": scale * wanted + shift}),
        compare.distances({"y": moved}, {"y": wanted}),
        rtol=1e-6,
    )


def test_the_worst_output_counts() -> None:
    wanted = {"a": np.array([0.0, 2.0], np.float32), "b": np.array([0.0, 2.0], np.float32)}
    moved = {"a": wanted["a"], "b": wanted["b"] + np.array([0.0, 3.0], np.float32)}
    assert compare.distances(moved, wanted).tolist() == [0.0, 3.0]


def test_nan_is_infinitely_far_in_its_own_row_only() -> None:
    wanted = {"y": np.array([[1.0, 1.0], [2.0, 2.0]], np.float32)}
    moved = {"y": np.array([[1.0, 1.0], [np.nan, 2.0]], np.float32)}
    assert compare.distances(moved, wanted).tolist() == [0.0, np.inf]


def test_another_shape_is_infinitely_far() -> None:
    wanted = {"y": np.ones((2, 3), np.float32)}
    moved = {"y": np.ones((2, 4), np.float32)}
    assert compare.distances(moved, wanted).tolist() == [np.inf, np.inf]


def test_other_whole_numbers_are_infinitely_far() -> None:
    wanted = {"n": np.array([[1, 2], [3, 4]])}
    moved = {"n": np.array([[1, 2], [3, 5]])}
    assert compare.distances(moved, wanted).tolist() == [0.0, np.inf]


def test_answers_that_are_all_the_same_may_not_move_at_all() -> None:
    wanted = {"y": np.ones((4, 2), np.float32)}
    moved = {"y": wanted["y"] + np.array([[0], [0], [1e-3], [0]], np.float32)}
    found = compare.distances(moved, wanted)
    assert found[[0, 1, 3]].tolist() == [0, 0, 0]
    assert found[2] > 1e20


def test_largest_difference_does_not_wrap_unsigned_numbers() -> None:
    mine = {"a": np.array([0], np.uint8), "b": np.array(["x"], object)}
    theirs = {"a": np.array([200], np.uint8), "b": np.array(["y"], object)}
    assert compare.largest_difference(mine, theirs) == 200
    assert compare.largest_difference({"b": mine["b"]}, {"b": theirs["b"]}) == 0


@pytest.mark.parametrize(
    "mine", [np.array([1, np.nan]), np.array([1, -np.inf]), np.ones(3)], ids=["nan", "inf", "shape"]
)
def test_what_is_no_number_differs_by_float32s_end(mine: np.ndarray) -> None:
    largest = compare.largest_difference({"y": mine.astype(np.float32)}, {"y": np.ones(2)})
    assert largest == np.finfo(np.float32).max


def test_infinity_in_the_reference_does_not_blind_the_distance() -> None:
    reference = {"y": np.array([[1.0, -np.inf], [2.0, 3.0], [4.0, 5.0]])}
    nothing = {"y": np.zeros((3, 2))}
    assert (compare.distances(nothing, reference) > 0.5).all()
    assert (compare.distances(reference, reference) == 0).all()


def test_embeddings_and_logits_do_not_look_like_scores() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(20, 8))
    assert not compare.look_like_scores({"y": vectors})
    odds = np.exp(vectors)
    assert compare.look_like_scores({"y": odds / odds.sum(axis=1, keepdims=True)})
    assert compare.look_like_scores({"y": np.arange(20)})


def test_a_probability_that_rounds_past_one_is_still_a_decision() -> None:
    reference = {"p": np.array([[0.9], [0.1]])}
    decided = compare.decisions({"p": np.array([[1.004], [0.1]])}, ["p"], reference)
    np.testing.assert_array_equal(decided, [[1], [0]])
