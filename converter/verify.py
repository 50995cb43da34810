"""What a variant is worth: its answers on held-out rows, beside the trained model's own.

It is measured through ``service.session``: what is judged is what is served.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converter.compare import (
    Array,
    Arrays,
    NotJudged,
    decisions,
    distances,
    largest_difference,
    look_like_scores,
)
from converter.exporters.trained import PROBE_BATCHES, first_line, random_rows
from converter.proof import rows_to_prove, upper_bound
from converter.recipe import Bounds
from converter.samples import Samples
from service.errors import FarthingError
from service.session import Session

# The outcomes: ``Variant.outcome``.
HOLDS, UNPROVEN, FAILS = "holds", "not proven", "fails"

# Of fp32 by itself: so many rows in random batches, of which so many may move so far.
_COMPANY_ROWS, _COMPANY_SHARE, _COMPANY_DISTANCE = 64, 0.05, 0.05


class LabelsDoNotFit(FarthingError):
    """Labels that say nothing about this model."""


@dataclass(frozen=True)
class Verdict:
    """How a candidate did on the held-out rows.

    Attributes:
        outcome: ``holds``, ``fails`` or ``not proven``.
        reason: one sentence.
        figures: the proof.
    """

    outcome: str
    reason: str
    figures: dict[str, float]


def predict(session: Session, rows: Samples, batch: int = 32) -> Arrays:
    """Answers for all rows: output name -> array of shape [rows, ...]."""
    parts = [_answered(session, rows.slice(at, at + batch)) for at in range(0, len(rows), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def predict_in_company(session: Session, rows: Samples, seed: int = 0) -> Arrays:
    """The same in random batches of random sizes, as a server forms them; in the rows' order.

    Dynamic quantization scales a batch by its largest number: an answer depends on who shares it.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    parts, start = [], 0
    while start < len(rows):
        some = order[start : start + int(random.integers(1, 33))]
        parts.append(_answered(session, {n: array[some] for n, array in rows.feeds.items()}))
        start += len(some)
    back = np.argsort(order)
    return {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}


def _answered(session: Session, feeds: Arrays) -> Arrays:
    try:
        return session.run(feeds)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise FarthingError(f"the model fails on some of the rows: {first_line(error)}") from error


def check_runs(reference: Session, rows: Samples | None) -> None:
    """Make sure that a model runs at one row, and at an even and an odd number of them.

    Args:
        reference: fp32.
        rows: what to run it on; random rows where there are none.

    Raises:
        FarthingError: it does not, or its outputs do not follow the batch.
    """
    for count in PROBE_BATCHES if reference.batched else (1,):
        feeds = random_rows(reference.inputs, count)
        if rows is not None:
            feeds = {n: np.resize(a, (count, *a.shape[1:])) for n, a in rows.feeds.items()}
        try:
            answers = reference.run(feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise FarthingError(f"the model fails at batch {count}: {first_line(error)}") from error
        for name, array in answers.items():
            if reference.batched and array.shape[:1] != (count,):
                raise FarthingError(
                    f"the model answers a batch of {count} with an output '{name}' of shape "
                    f"{list(array.shape)}, so its rows cannot be told apart"
                )


def check_company(reference: Session, rows: Samples | None, answers: Arrays | None = None) -> None:
    """Refuse a model whose answer to a row depends on the other rows of the batch.

    Args:
        reference: fp32.
        rows: the first of them are looked at; random rows where there are none.
        answers: what it answers them in their order, where that is known.

    Raises:
        FarthingError: more than noise does.
    """
    if not reference.batched:
        return
    rows = rows or Samples(random_rows(reference.inputs, _COMPANY_ROWS), None)
    few = rows.part(np.arange(min(_COMPANY_ROWS, len(rows))))
    answers = predict(reference, few) if answers is None else answers
    alone = {name: array[: len(few)] for name, array in answers.items()}
    moved = distances(predict_in_company(reference, few), alone) > _COMPANY_DISTANCE
    if moved.mean() > _COMPANY_SHARE:
        raise FarthingError(
            f"the answers to {int(moved.sum())} of {len(few)} rows depend on which rows "
            "share their batch, so a server that forms batches would answer wrongly; export the "
            "model with a fixed first dimension of 1"
        )


def metric_for(bounds: Bounds, reference: Arrays, labels: Array | None) -> str:
    """The metric that ``auto`` stands for.

    Raises:
        NotJudged: the metric that was asked for cannot be had.
    """
    asked = bounds.metric
    if asked == "distance":
        return asked
    try:
        decisions(reference, list(reference))
    except NotJudged:
        if asked == "auto":
            return "distance"
        raise
    classes = labels is not None and (labels.dtype.kind not in "f" or (labels % 1 == 0).all())
    if asked == "auto" and not classes and not look_like_scores(reference):
        return "distance"  # embeddings, regression: their largest number decides nothing
    if asked == "accuracy" and labels is None:
        raise NotJudged("the metric accuracy needs labels under 'y' in the held-out rows")
    return "agreement" if asked == "agreement" or labels is None else "accuracy"


def newly_wrong(
    outputs: Arrays, reference: Arrays, labels: Array | None, metric: str, tolerance: float
) -> tuple[Array, Array]:
    """Which rows a candidate spoils, and which it mends.

    A row is newly wrong where the trained model's first output is right and the candidate's is not,
    or where any further output decides differently. By the metric ``distance``: where the answer
    moved by more than the tolerance.

    Args:
        outputs: the candidate's answers, of shape [rows, ...].
        reference: the trained model's, in its order of outputs.
        labels: of shape [rows], for the metric ``accuracy``.
        metric: ``accuracy``, ``agreement`` or ``distance``.
        tolerance: see ``Bounds``.

    Returns:
        Two boolean arrays of shape [rows].
    """
    if metric == "distance":
        moved = distances(outputs, reference) > tolerance
        return moved, np.zeros_like(moved)
    mine, theirs = (
        decisions(answers, list(reference), reference) for answers in (outputs, reference)
    )
    truth = labels if metric == "accuracy" and labels is not None else theirs[:, 0]
    right, was_right = mine[:, 0] == truth, theirs[:, 0] == truth
    differs = (mine[:, 1:] != theirs[:, 1:]).any(axis=1)
    return (was_right & ~right) | differs, ~was_right & right & ~differs


def judge_accuracy(
    outputs: Arrays, reference: Arrays, labels: Array | None, bounds: Bounds
) -> Verdict:
    """Compare a candidate's answers with the trained model's own, on held-out rows.

    Args:
        outputs: the candidate's answers for the held-out rows, each row once.
        reference: the framework's answers for the same rows, in the framework's order of outputs.
        labels: shape [rows], for the first output, or None.
        bounds: what it has to hold.

    Returns:
        ``holds`` only if the exact bound of the newly wrong rows is within ``max_drop``; too few
        rows leave a good candidate ``not proven``.

    Raises:
        NotJudged: the outputs decide nothing, and the metric asks for decisions.
    """
    metric = metric_for(bounds, reference, labels)
    wrong, mended = newly_wrong(outputs, reference, labels, metric, bounds.tolerance)
    rows, events = len(wrong), int(wrong.sum())
    bound = 100 * upper_bound(events, rows)
    figures = {
        "rows": float(rows),
        "newly_wrong": float(events),
        "newly_right": float(mended.sum()),
        "drop_points": 100 * (events - int(mended.sum())) / rows,
        "drop_bound_points": bound,
        "largest_difference": largest_difference(outputs, reference),
    } | _beside(metric, outputs, reference, labels)
    what = "newly wrong"
    if metric == "distance":
        what = f"moved by more than {100 * bounds.tolerance:g} % of the outputs' spread"
    said = f"{events} of {rows} held-out rows {what}, a drop of at most {bound:.2f} points"
    if bound <= bounds.max_drop:
        return Verdict(HOLDS, said, figures)
    said += f", where {bounds.max_drop:g} is allowed"
    if 100 * events / rows > bounds.max_drop:
        return Verdict(FAILS, f"loses too much: {said}", figures)
    needed = rows_to_prove(events, bounds.max_drop)
    needs = f"needs {needed}" if needed else "and no number of rows could prove it"
    return Verdict(UNPROVEN, f"not proven with {rows} rows, {needs}: {said}", figures)


def _beside(
    metric: str, outputs: Arrays, reference: Arrays, labels: Array | None
) -> dict[str, float]:
    """What else is worth knowing: the metric itself, and how far the answers moved."""
    if metric == "distance":
        moved = distances(outputs, reference)
        return {"mean_distance": float(np.minimum(moved, np.finfo(np.float32).max).mean())}
    mine, theirs = (
        decisions(answers, list(reference), reference) for answers in (outputs, reference)
    )
    figures = {"agreement": float(np.mean((mine == theirs).all(axis=1)))}
    if labels is not None:
        figures["accuracy"] = float(np.mean(mine[:, 0] == labels))
    return figures


def check_labels(reference: Arrays, labels: Array) -> None:
    """Refuse labels that say nothing about this model.

    Where the reference is hardly ever right, nothing can be newly wrong, and any candidate would
    hold.

    Raises:
        LabelsDoNotFit: they are no numbers, or the reference is not better than always naming the
            most frequent one.
        NotJudged: the outputs decide nothing.
    """
    if labels.dtype.kind not in "iufb":
        raise LabelsDoNotFit(
            "the labels under 'y' are text; give the indices of the classes, from 0"
        )
    decided = decisions(reference, list(reference))[:, 0]
    accuracy = float(np.mean(decided == labels))
    _, counts = np.unique(labels, return_counts=True)
    commonest = counts.max() / len(labels)
    if accuracy < commonest or accuracy == 0:
        raise LabelsDoNotFit(
            f"the trained model is right on {accuracy:.1%} of the held-out rows, where always "
            f"naming the commonest label is right on {commonest:.1%}: the labels do not fit it; "
            "they are the indices of the classes, from 0, in the order of the rows"
        )
