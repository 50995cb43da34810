"""The arithmetic of the gate: bounds, decisions, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from converter import verify
from converter.samples import Samples
from service.session import Session, SessionOptions
from tests import models


def scores(decided: np.ndarray, classes: int = 3) -> verify.Arrays:
    """Softmax-like answers that decide so."""
    return {"scores": np.eye(classes, dtype=np.float32)[decided]}


def answers(rows: int, wrong: int = 0) -> tuple[verify.Arrays, verify.Arrays]:
    """A candidate's answers and the reference's, different in the first so many rows."""
    theirs = np.arange(rows) % 3
    mine = theirs.copy()
    mine[:wrong] = (mine[:wrong] + 1) % 3
    return scores(mine), scores(theirs)


@pytest.mark.parametrize(
    ("events", "trials", "bound"),
    [(0, 400, 0.0075), (0, 598, 0.0050), (1, 600, 0.0079), (0, 1, 0.95)],
)
def test_upper_bound_is_what_the_tables_say(events: int, trials: int, bound: float) -> None:
    assert verify.upper_bound(events, trials) == pytest.approx(bound, abs=1e-4)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
def test_upper_bound_equals_the_beta_quantile(case: tuple[int, int]) -> None:
    events, trials = case
    exact = scipy.stats.beta.ppf(0.95, events + 1, trials - events)
    assert verify.upper_bound(events, trials) == pytest.approx(exact, rel=1e-6)


def test_upper_bound_is_one_where_every_trial_was_an_event() -> None:
    assert verify.upper_bound(7, 7) == 1.0
    assert verify.upper_bound(0, 0) == 1.0


def test_more_confidence_widens_the_bound() -> None:
    assert verify.upper_bound(3, 500, 0.99) > verify.upper_bound(3, 500, 0.95) > 3 / 500


def decided(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """The decisions of an only output."""
    return verify.decisions(outputs, list(outputs))[:, 0]


@pytest.mark.parametrize("labelled", [True, False])
def test_equal_decisions_on_enough_rows_hold(labelled: bool) -> None:
    mine, theirs = answers(400)
    labels = decided(theirs) if labelled else None
    verdict = verify.judge_accuracy(mine, theirs, labels, max_drop=0.75)
    assert verdict.holds
    assert "0 of 400" in verdict.reason
    assert verdict.figures["drop_bound_points"] == pytest.approx(0.746, abs=1e-3)
    assert verdict.figures.get("accuracy") == (1.0 if labelled else None)


@pytest.mark.parametrize("labelled", [True, False])
def test_too_many_newly_wrong_rows_lose_too_much(labelled: bool) -> None:
    mine, theirs = answers(400, wrong=9)
    labels = decided(theirs) if labelled else None
    verdict = verify.judge_accuracy(mine, theirs, labels, max_drop=2)
    assert not verdict.holds
    assert verdict.reason.startswith("loses too much: 9 of 400")
    assert verdict.figures["newly_wrong"] == 9
    assert verdict.figures["drop_points"] == pytest.approx(2.25)
    assert verdict.figures["agreement"] == pytest.approx(391 / 400)


def test_a_good_candidate_on_few_rows_is_not_proven_and_says_how_many_would_do() -> None:
    mine, theirs = answers(100)
    verdict = verify.judge_accuracy(mine, theirs, None, max_drop=1)
    assert not verdict.holds
    assert verdict.reason.startswith("not proven: 0 of 100")
    assert "299 rows could prove it" in verdict.reason
    assert verify.upper_bound(0, 299) <= 0.01 < verify.upper_bound(0, 298)


def test_no_drop_at_all_cannot_be_proven_by_any_number_of_rows() -> None:
    mine, theirs = answers(400)
    verdict = verify.judge_accuracy(mine, theirs, None, max_drop=0)
    assert not verdict.holds
    assert "no number of rows could prove it" in verdict.reason


def test_rows_that_were_wrong_before_are_not_newly_wrong() -> None:
    mine, theirs = answers(400, wrong=5)
    labels = decided(mine)
    figures = verify.judge_accuracy(mine, theirs, labels, max_drop=1).figures
    assert (figures["newly_wrong"], figures["newly_right"]) == (0, 5)
    assert figures["drop_points"] == pytest.approx(-1.25)
    assert figures["accuracy"] == 1.0


def test_gains_elsewhere_do_not_pay_for_newly_wrong_rows() -> None:
    theirs, labels = np.zeros(400, int), np.zeros(400, int)
    labels[:20] = 1
    mine = labels.copy()
    mine[-20:] = 1
    verdict = verify.judge_accuracy(scores(mine), scores(theirs), labels, max_drop=1)
    assert verdict.figures["drop_points"] == 0
    assert not verdict.holds


def test_answers_that_are_not_numbers_never_hold() -> None:
    theirs = {"p": np.full((400, 1), 0.1, np.float32)}
    mine = {"p": np.full((400, 1), np.nan, np.float32)}
    assert not verify.judge_accuracy(mine, theirs, None, max_drop=1).holds


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


def test_every_output_decides_in_its_own_column() -> None:
    outputs = {"a": np.array([1, 2]), "b": np.array([5, 6])}
    assert verify.decisions(outputs, ["b", "a"]).tolist() == [[5, 1], [6, 2]]


def rigged(decision: int) -> np.ndarray:
    """Scores of 400 rows that all decide the same."""
    return scores(np.full(400, decision))["scores"]


def test_outputs_are_compared_by_name_in_whatever_order_they_come() -> None:
    alpha, zeta = rigged(0), rigged(1)
    reference = {"zeta": zeta, "alpha": alpha}
    verdict = verify.judge_accuracy(
        {"alpha": alpha, "zeta": zeta}, reference, np.ones(400, int), max_drop=1
    )
    assert verdict.holds
    assert verdict.figures["accuracy"] == 1.0


def test_a_second_output_that_decides_differently_is_newly_wrong() -> None:
    first, second = rigged(0), rigged(1)
    broken = np.where(np.arange(400)[:, None] < 20, np.nan, second)
    verdict = verify.judge_accuracy(
        {"a": first, "b": broken}, {"a": first, "b": second}, None, max_drop=1
    )
    assert (verdict.holds, verdict.figures["newly_wrong"]) == (False, 20)


@pytest.mark.parametrize(
    "output",
    [
        np.linspace(100, 200, 30, dtype=np.float32),
        np.linspace(-3, 3, 30, dtype=np.float32).reshape(30, 1),
        np.zeros((30, 8, 8, 3), np.float32),
        np.zeros((30, 4), np.int64),
    ],
    ids=["regression", "logit", "segmentation", "many whole numbers"],
)
def test_outputs_that_decide_nothing_are_not_judged(output: np.ndarray) -> None:
    with pytest.raises(verify.NotJudged, match="output 'y'"):
        verify.judge_accuracy({"y": output}, {"y": output}, None, max_drop=1)


def test_labels_on_which_the_model_is_hardly_right_are_refused() -> None:
    labels = np.arange(400) % 4
    with pytest.raises(verify.LabelsDoNotFit, match="labels do not fit"):
        verify.check_labels(scores((labels + 1) % 4, 4), labels)
    verify.check_labels(scores(labels, 4), labels)


def test_labels_that_are_text_are_refused() -> None:
    with pytest.raises(verify.LabelsDoNotFit, match="labels under 'y' are text"):
        verify.check_labels(scores(np.array([0, 1])), np.array(["a", "b"]))


def test_close_forgives_the_noise_of_float32_and_no_more() -> None:
    wanted = {"y": np.array([[1.0, 100.0]], np.float32)}
    assert verify.close({"y": wanted["y"] * (1 + 5e-4)}, wanted)
    assert not verify.close({"y": wanted["y"] * (1 + 5e-3)}, wanted)


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
    assert verify.close({"y": theirs}, {"y": theirs})
    assert not verify.close({"y": mine}, {"y": theirs})


def test_close_looks_at_every_output() -> None:
    same, other = np.ones(2, np.float32), np.zeros(2, np.float32)
    assert not verify.close({"a": same, "b": other}, {"a": same, "b": same})


def test_largest_difference_does_not_wrap_unsigned_numbers() -> None:
    mine = {"a": np.array([0], np.uint8), "b": np.array(["x"], object)}
    theirs = {"a": np.array([200], np.uint8), "b": np.array(["y"], object)}
    assert verify.largest_difference(mine, theirs) == 200
    assert verify.largest_difference({"b": mine["b"]}, {"b": theirs["b"]}) == 0


def test_predictions_of_a_last_short_batch_are_kept(tmp_path) -> None:
    session = Session(models.double(tmp_path / "double.onnx"), SessionOptions(threads=1))
    x = np.arange(28, dtype=np.float32).reshape(7, 4)
    predicted = verify.predict(session, Samples({"x": x}, None), batch=3)
    np.testing.assert_array_equal(predicted["y"], 2 * x)


def test_speed_is_measured_at_both_batches_even_from_one_row(tmp_path) -> None:
    session = Session(models.double(tmp_path / "double.onnx"), SessionOptions(threads=1))
    figures = verify.speed_up(session, session, {"x": np.ones((1, 4), np.float32)})
    assert set(figures) == {
        "speedup_batch_1", "speedup_batch_1_low", "ms_batch_1",
        "speedup_batch_8", "speedup_batch_8_low", "ms_batch_8",
    }  # fmt: skip
    assert verify.least_speed_up(figures) <= figures["speedup_batch_1"]
    assert all(value > 0 for value in figures.values())
