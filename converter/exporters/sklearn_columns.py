"""What a scikit-learn estimator is fed: one array, or the columns of a frame each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from converter.exporters.trained import Arrays, NotExportable, Request, random_rows
from service.manifest import TensorSpec

_ONLY, _TEXT = "x", "text"


@dataclass(frozen=True)
class Column:
    """One column of what the estimator was fitted on.

    Attributes:
        name: the frame's, if there was one.
        text: whether it holds strings.
        categories: the only values that it may have; empty where it may have any.
    """

    name: str
    text: bool = False
    categories: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Columns:
    """All columns, in the order in which the estimator was fitted on them.

    Attributes:
        each: the columns.
        apart: whether each is an input of its own; else all are one input.
        only: that one input's name.
        frame: whether the estimator knows its columns by name.
        flat: whether the estimator takes a sequence of texts.
    """

    each: tuple[Column, ...]
    apart: bool = False
    only: str = _ONLY
    frame: bool = False
    flat: bool = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the graph, float32 or strings."""
        if self.apart:
            return tuple(TensorSpec(c.name, _datatype(c.text), (-1, 1)) for c in self.each)
        text = any(column.text for column in self.each)
        return (TensorSpec(self.only, _datatype(text), (-1, len(self.each))),)

    def sample(self, inputs: tuple[TensorSpec, ...], rows: int) -> Arrays:
        """Random rows for these inputs, of the categories that are known."""
        random, feeds = np.random.default_rng(0), random_rows(inputs, rows)
        for index, column in enumerate(self.each):
            name = column.name if self.apart else self.only
            if column.categories and name in feeds:
                chosen = random.integers(0, len(column.categories), rows)
                values = [column.categories[choice] for choice in chosen]
                feeds[name][:, 0 if self.apart else index] = values
        return feeds

    def arranged(self, feeds: Arrays) -> Any:
        """What ``predict`` takes; numbers in float64, as they were in training."""
        if not self.apart:
            array = _wide(feeds[self.only])
            if self.flat:
                return array[:, 0]
            if not self.frame:
                return array
            arrays = {column.name: array[:, index] for index, column in enumerate(self.each)}
        else:
            # What the estimator drops is no input of the graph, but a column all the same.
            none = np.zeros((len(next(iter(feeds.values()))), 1))
            arrays = {c.name: _wide(feeds.get(c.name, none))[:, 0] for c in self.each}
        import pandas as pd  # an estimator that was not fitted on a frame does not need it

        return pd.DataFrame(arrays)


def columns_of(estimator: Any, request: Request) -> Columns:
    """The columns that a fitted estimator takes.

    Types come from the rows that came along; without them, from what the estimator learned.

    Raises:
        NotExportable: the estimator does not tell.
    """
    front = _front(estimator)
    if hasattr(front, "vocabulary_"):
        return Columns((Column(_TEXT, text=True),), only=_TEXT, flat=True)
    names = getattr(estimator, "feature_names_in_", getattr(front, "feature_names_in_", None))
    if names is not None and isinstance(front, ColumnTransformer):
        learned = dict(_learned(front, [str(name) for name in names]))
        columns = tuple(learned.get(str(name), Column(str(name))) for name in names)
        given = _texts_in(request)
        return Columns(
            tuple(replace(c, text=given.get(c.name, c.text)) for c in columns), apart=True
        )
    count = getattr(estimator, "n_features_in_", getattr(front, "n_features_in_", None))
    if count is None:
        raise NotExportable(
            f"the {type(estimator).__name__} in {request.source} does not tell how many features "
            "it takes; put it into a Pipeline behind a step that does"
        )
    plain = [str(name) for name in names] if names is not None else [f"{i}" for i in range(count)]
    learned = dict(zip(plain, _steps_columns(front, plain), strict=True))
    return Columns(tuple(learned.values()), frame=names is not None)


def _front(estimator: Any) -> Any:
    """The estimator that sees the rows first."""
    if hasattr(estimator, "best_estimator_"):
        return _front(estimator.best_estimator_)
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        return _front(steps[0]) if steps else estimator
    return estimator


def _learned(front: Any, names: list[str]) -> Iterator[tuple[str, Column]]:
    for _, transformer, selected in front.transformers_:
        if isinstance(selected, str):
            chosen = [selected]
        elif all(isinstance(item, str) for item in np.atleast_1d(selected).tolist()):
            chosen = list(selected)
        else:  # positions, a slice or a mask
            chosen = np.asarray(names)[selected].tolist()
        for column in _steps_columns(transformer, chosen):
            if column.text or column.categories:
                yield column.name, column


def _steps_columns(transformer: Any, names: list[str]) -> list[Column]:
    """What a transformer, or a step of it, has learned of its columns."""
    steps = [step for _, step in getattr(transformer, "steps", [("", transformer)])]
    for step in steps:
        if hasattr(step, "vocabulary_"):
            return [Column(name, text=True) for name in names]
        categories = getattr(step, "categories_", None)
        if categories is not None and len(categories) == len(names):
            return [
                Column(name, _is_text(known), _values(known))
                for name, known in zip(names, categories, strict=True)
            ]
    return [Column(name) for name in names]


def _texts_in(request: Request) -> Mapping[str, bool]:
    """Column -> whether it holds strings in the rows that came along."""
    path = request.example or request.evaluate
    if path is None:
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name].dtype.kind in "SU" for name in archive.files}
    except Exception as error:  # a damaged file raises nearly anything
        raise NotExportable(
            f"{path} is not an .npz file of plain arrays; write it with numpy.savez"
        ) from error


def _values(known: Any) -> tuple[Any, ...]:
    # NaN is a category too, but not one that is sent.
    return tuple(v for v in known.tolist() if not (isinstance(v, float) and np.isnan(v)))


def _is_text(known: Any) -> bool:
    return any(isinstance(value, str) for value in known.tolist())


def _wide(array: Any) -> Any:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _datatype(text: bool) -> str:
    return "BYTES" if text else "FP32"
