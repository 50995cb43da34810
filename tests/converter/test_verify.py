"""The gate: the metric that is taken, what a candidate spoils, and which of three outcomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import compare, verify
from converter.compare import NotJudged
from converter.proof import upper_bound
from converter.recipe import Bounds
from converter.samples import Samples
from service.errors import FarthingError
from service.session import Session, SessionOptions
from tests import models
from tests.converter import nets

NO_DROP, SOME = Bounds(max_drop=0), Bounds(max_drop=1)


def scores(decided: np.ndarray, classes: int = 3) -> compare.Arrays:
    """Softmax-like answers that decide so."""
    return {"scores": np.eye(classes, dtype=np.float32)[decided]}


def answers(rows: int, wrong: int = 0) -> tuple[compare.Arrays, compare.Arrays]:
    """A candidate's answers and the reference's, different in the first so many rows."""
    theirs = np.arange(rows) % 3
    mine = theirs.copy()
    mine[:wrong] = (mine[:wrong] + 1) % 3
    return scores(mine), scores(theirs)


def decided(outputs: compare.Arrays) -> np.ndarray:
    return compare.decisions(outputs, list(outputs))[:, 0]


LABELS = np.array([0, 1, 2])
SCORES = scores(LABELS)
NUMBERS = {"y": np.linspace(-3, 300, 3, dtype=np.float32)}


@pytest.mark.parametrize(
    ("asked", "reference", "labels", "taken"),
    [
        ("auto", SCORES, LABELS, "accuracy"),
        ("auto", SCORES, None, "agreement"),
        ("auto", NUMBERS, None, "distance"),
        ("auto", NUMBERS, LABELS, "distance"),
        ("accuracy", SCORES, LABELS, "accuracy"),
        ("agreement", SCORES, LABELS, "agreement"),
        ("distance", SCORES, LABELS, "distance"),
        ("distance", NUMBERS, None, "distance"),
    ],
)
def test_the_metric_that_can_be_had_is_taken(
    asked: str, reference: compare.Arrays, labels: np.ndarray | None, taken: str
) -> None:
    assert verify.metric_for(Bounds(metric=asked), reference, labels) == taken


def test_accuracy_without_labels_is_refused() -> None:
    with pytest.raises(NotJudged, match="needs labels under 'y'"):
        verify.metric_for(Bounds(metric="accuracy"), SCORES, None)


@pytest.mark.parametrize("asked", ["accuracy", "agreement"])
def test_a_metric_of_decisions_is_refused_where_nothing_is_decided(asked: str) -> None:
    with pytest.raises(NotJudged, match="output 'y'"):
        verify.metric_for(Bounds(metric=asked), NUMBERS, LABELS)


@pytest.mark.parametrize("labelled", [True, False])
def test_equal_decisions_on_enough_rows_hold(labelled: bool) -> None:
    mine, theirs = answers(400)
    labels = decided(theirs) if labelled else None
    verdict = verify.judge_accuracy(mine, theirs, labels, Bounds(max_drop=0.75))
    assert verdict.outcome == "holds"
    assert verdict.reason.startswith("0 of 400")
    assert verdict.figures["drop_bound_points"] == pytest.approx(0.746, abs=1e-3)
    assert verdict.figures.get("accuracy") == (1.0 if labelled else None)


@pytest.mark.parametrize("labelled", [True, False])
def test_too_many_newly_wrong_rows_lose_too_much(labelled: bool) -> None:
    mine, theirs = answers(400, wrong=9)
    labels = decided(theirs) if labelled else None
    verdict = verify.judge_accuracy(mine, theirs, labels, Bounds(max_drop=2))
    assert verdict.outcome == "fails"
    assert verdict.reason.startswith("loses too much: 9 of 400 held-out rows newly wrong")
    assert verdict.reason.endswith("where 2 is allowed")
    assert verdict.figures["newly_wrong"] == 9
    assert verdict.figures["drop_points"] == pytest.approx(2.25)
    assert verdict.figures["agreement"] == pytest.approx(391 / 400)


def test_a_good_candidate_on_few_rows_is_not_proven_and_says_how_many_would_do() -> None:
    mine, theirs = answers(100)
    verdict = verify.judge_accuracy(mine, theirs, None, SOME)
    assert verdict.outcome == "not proven"
    assert verdict.reason.startswith("not proven with 100 rows, needs 299: 0 of 100")
    assert upper_bound(0, 299) <= 0.01 < upper_bound(0, 298)


def test_a_few_newly_wrong_rows_within_the_drop_are_not_proven_either() -> None:
    mine, theirs = answers(400, wrong=3)
    verdict = verify.judge_accuracy(mine, theirs, None, SOME)
    assert verdict.outcome == "not proven"
    assert verdict.reason.startswith("not proven with 400 rows, needs 773: 3 of 400")


def test_no_drop_at_all_cannot_be_proven_by_any_number_of_rows() -> None:
    mine, theirs = answers(400)
    verdict = verify.judge_accuracy(mine, theirs, None, NO_DROP)
    assert verdict.outcome == "not proven"
    assert verdict.reason.startswith("not proven with 400 rows, and no number of rows could prove")


def test_rows_that_were_wrong_before_are_not_newly_wrong() -> None:
    mine, theirs = answers(400, wrong=5)
    labels = decided(mine)
    figures = verify.judge_accuracy(mine, theirs, labels, SOME).figures
    assert (figures["newly_wrong"], figures["newly_right"]) == (0, 5)
    assert figures["drop_points"] == pytest.approx(-1.25)
    assert figures["accuracy"] == 1.0


def test_by_agreement_labels_decide_nothing() -> None:
    mine, theirs = answers(400, wrong=5)
    bounds = Bounds(max_drop=1, metric="agreement")
    figures = verify.judge_accuracy(mine, theirs, decided(mine), bounds).figures
    assert figures["newly_wrong"] == 5
    assert figures["accuracy"] == 1.0


def test_gains_elsewhere_do_not_pay_for_newly_wrong_rows() -> None:
    theirs, labels = np.zeros(400, int), np.zeros(400, int)
    labels[:20] = 1
    mine = labels.copy()
    mine[-20:] = 1
    verdict = verify.judge_accuracy(scores(mine), scores(theirs), labels, SOME)
    assert verdict.figures["drop_points"] == 0
    assert verdict.outcome == "fails"


@pytest.mark.parametrize("metric", ["auto", "distance"])
def test_answers_that_are_not_numbers_never_hold(metric: str) -> None:
    theirs = {"p": np.full((400, 1), 0.1, np.float32)}
    mine = {"p": np.full((400, 1), np.nan, np.float32)}
    verdict = verify.judge_accuracy(mine, theirs, None, Bounds(metric=metric))
    assert verdict.outcome == "fails"
    assert all(np.isfinite(value) for value in verdict.figures.values())  # JSON has no NaN


def rigged(decision: int) -> np.ndarray:
    """Scores of 400 rows that all decide the same."""
    return scores(np.full(400, decision))["scores"]


def test_outputs_are_compared_by_name_in_whatever_order_they_come() -> None:
    alpha, zeta = rigged(0), rigged(1)
    reference = {"zeta": zeta, "alpha": alpha}
    given = {"alpha": alpha, "zeta": zeta}
    verdict = verify.judge_accuracy(given, reference, np.ones(400, int), SOME)
    assert verdict.outcome == "holds"
    assert verdict.figures["accuracy"] == 1.0


def test_a_second_output_that_decides_differently_is_newly_wrong() -> None:
    first, second = rigged(0), rigged(1)
    broken = np.where(np.arange(400)[:, None] < 20, np.nan, second)
    verdict = verify.judge_accuracy(
        {"a": first, "b": broken}, {"a": first, "b": second}, None, SOME
    )
    assert (verdict.outcome, verdict.figures["newly_wrong"]) == ("fails", 20)


def moved(rows: int, by: float, count: int) -> tuple[compare.Arrays, compare.Arrays]:
    """Numbers with a spread of 1, and the same with the first few rows moved."""
    theirs = np.where(np.arange(rows) % 2, 101.0, 99.0).astype(np.float32)[:, np.newaxis]
    mine = theirs.copy()
    mine[:count] += by
    return {"y": mine}, {"y": theirs}


@pytest.mark.parametrize(("by", "outcome"), [(0.04, "holds"), (0.06, "fails")])
def test_by_distance_a_row_is_lost_where_it_moved_beyond_the_tolerance(
    by: float, outcome: str
) -> None:
    verdict = verify.judge_accuracy(*moved(400, by, 400), None, Bounds(tolerance=0.05))
    assert verdict.outcome == outcome
    assert "moved by more than 5 % of the outputs' spread" in verdict.reason
    assert verdict.figures["mean_distance"] == pytest.approx(by, rel=1e-3)
    assert not {"agreement", "accuracy"} & set(verdict.figures)


def test_by_distance_each_row_counts_once_and_exactly() -> None:
    verdict = verify.judge_accuracy(*moved(400, 10, 3), None, Bounds(max_drop=2))
    assert verdict.figures["newly_wrong"] == 3
    assert verdict.outcome == "holds"
    bound = 100 * upper_bound(3, 400)
    assert verdict.figures["drop_bound_points"] == pytest.approx(bound)


def test_outputs_that_decide_nothing_are_not_judged_by_decisions() -> None:
    with pytest.raises(NotJudged):
        verify.judge_accuracy(NUMBERS, NUMBERS, None, Bounds(metric="agreement"))


def test_labels_on_which_the_model_is_hardly_right_are_refused() -> None:
    labels = np.arange(400) % 4
    with pytest.raises(verify.LabelsDoNotFit, match="labels do not fit"):
        verify.check_labels(scores((labels + 1) % 4, 4), labels)
    verify.check_labels(scores(labels, 4), labels)


def test_labels_are_compared_with_the_best_of_the_best_classes() -> None:
    labels = np.arange(40) % 4
    indices = np.stack([labels, (labels + 1) % 4], axis=1)
    values = np.tile(np.array([0.7, 0.2], np.float32), (40, 1))
    verify.check_labels({"p_values": values, "p_indices": indices}, labels)
    with pytest.raises(verify.LabelsDoNotFit):
        verify.check_labels({"p_values": values, "p_indices": indices[:, ::-1]}, labels)


def test_labels_that_are_text_are_refused() -> None:
    with pytest.raises(verify.LabelsDoNotFit, match="labels under 'y' are text"):
        verify.check_labels(scores(np.array([0, 1])), np.array(["a", "b"]))


def test_predictions_of_a_last_short_batch_are_kept(tmp_path: Path) -> None:
    session = Session(models.double(tmp_path / "double.onnx"), SessionOptions(threads=1))
    x = np.arange(28, dtype=np.float32).reshape(7, 4)
    predicted = verify.predict(session, Samples({"x": x}, None), batch=3)
    np.testing.assert_array_equal(predicted["y"], 2 * x)


@pytest.mark.parametrize("rows", [1, 7, 150])
@pytest.mark.parametrize("seed", [0, 1])
def test_in_company_each_row_gets_its_own_answer(tmp_path: Path, rows: int, seed: int) -> None:
    session = Session(models.double(tmp_path / "double.onnx"), SessionOptions(threads=1))
    x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
    predicted = verify.predict_in_company(session, Samples({"x": x}, None), seed)
    np.testing.assert_array_equal(predicted["y"], 2 * x)


def test_company_is_mixed_and_of_many_sizes(tmp_path: Path) -> None:
    sizes: list[int] = []
    neighbours = 0

    class Watched(Session):
        def run(self, feeds: compare.Arrays) -> compare.Arrays:
            nonlocal neighbours
            sizes.append(len(feeds["x"]))
            neighbours += int((np.diff(feeds["x"][:, 0]) == 4).sum())
            return super().run(feeds)

    session = Watched(models.double(tmp_path / "double.onnx"), SessionOptions(threads=1))
    x = np.arange(1600, dtype=np.float32).reshape(400, 4)
    verify.predict_in_company(session, Samples({"x": x}, None))
    assert sum(sizes) == 400
    assert len(set(sizes)) > 5 and max(sizes) <= 32
    assert neighbours < 40


def test_fp32_alone_may_differ_in_company_by_noise_only(tmp_path: Path) -> None:
    rows = Samples({"x": np.random.default_rng(0).random((400, 4), np.float32) + 0.1}, None)
    sound, crowd = (
        Session(path, SessionOptions(threads=1))
        for path in (models.double(tmp_path / "a.onnx"), nets.crowd(tmp_path / "b.onnx"))
    )
    verify.check_company(sound, rows, verify.predict(sound, rows))
    with pytest.raises(FarthingError, match="of 64 rows depend on which rows"):
        verify.check_company(crowd, rows, verify.predict(crowd, rows))


def test_a_model_runs_at_one_row_and_at_an_even_and_an_odd_number(tmp_path: Path) -> None:
    sizes = []

    class Watched(Session):
        def run(self, feeds: compare.Arrays) -> compare.Arrays:
            sizes.append(len(feeds["x"]))
            return super().run(feeds)

    session = Watched(models.double(tmp_path / "double.onnx"), SessionOptions(threads=1))
    verify.check_runs(session, None)
    verify.check_runs(session, Samples({"x": np.ones((3, 4), np.float32)}, None))
    assert sizes == [1, 2, 7] * 2


def test_an_answer_that_depends_on_who_shares_the_batch_does_not_hold(tmp_path: Path) -> None:
    session = Session(nets.crowd(tmp_path / "crowd.onnx"), SessionOptions(threads=1))
    rows = Samples({"x": np.random.default_rng(0).random((400, 4), np.float32) + 0.1}, None)
    alone = verify.predict(session, rows, batch=400)
    company = verify.predict_in_company(session, rows)
    assert verify.judge_accuracy(alone, alone, None, SOME).outcome == "holds"
    assert verify.judge_accuracy(company, alone, None, SOME).outcome == "fails"
