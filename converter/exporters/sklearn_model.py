"""A scikit-learn estimator, pickled or dumped by joblib -> ONNX by skl2onnx, in float32."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import skl2onnx
from onnx.helper import tensor_dtype_to_np_dtype
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.utils.validation import check_is_fitted

from converter import samples
from converter.exporters.sklearn_columns import Columns, columns_of
from converter.exporters.trained import (
    Arrays,
    NotExportable,
    Request,
    RouteFailed,
    Trained,
    first_line,
)
from service.manifest import TensorSpec
from service.session import Session, SessionOptions

_OPSETS = {"": 17, "ai.onnx.ml": 3}
_LABEL, _PROBABILITIES = "label", "probabilities"
_COMPARED_ROWS = 1000
# So many times the rows wanted, to have as many that are no tie.
_SPARE, _TIE = 4, 1e-3


def load(request: Request) -> Trained:
    """A fitted estimator, converted by skl2onnx already: its outputs are known only then.

    Raises:
        NotExportable: it is not trusted, not to be read, not fitted, or predicts several targets.
        RouteFailed: skl2onnx does not convert it.
    """
    estimator, notes = _read(request)
    columns = columns_of(estimator, request)
    kept = _outputs(estimator, request.source)
    graph = _converted(estimator, columns, kept, request)
    used = {value.name for value in graph.graph.input}
    inputs = tuple(spec for spec in columns.inputs if spec.name in used)
    results = {value.name: value.type.tensor_type for value in graph.graph.output}

    def answer(given: Arrays) -> Arrays:
        rows = columns.arranged(given)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {name: _result(estimator, name, rows, kind) for name, kind in results.items()}

    model = Trained(
        inputs=inputs,
        outputs=tuple(results),
        answer=answer,
        write=lambda path: onnx.save(graph, path),
        tools={name: metadata.version(name) for name in ("scikit-learn", "skl2onnx")},
        notes=(*notes, *_notes(estimator, kept)),
        sample=partial(_decided_rows, estimator, columns, inputs),
    )
    return _with_flips(model, columns, request)


def _read(request: Request) -> tuple[Any, list[str]]:
    if not request.trust:
        raise NotExportable(
            f"{request.source} is a pickle, and so code, which runs when it is opened; --trust "
            "does that, for files whose origin you know"
        )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator = joblib.load(request.source)
    except ImportError:
        raise
    except Exception as error:  # a pickle runs anything
        raise NotExportable(f"joblib cannot load {request.source}: {first_line(error)}") from error
    if not isinstance(estimator, BaseEstimator):
        raise NotExportable(
            f"{request.source} holds a {type(estimator).__name__}, not a scikit-learn estimator"
        )
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise NotExportable(
            f"the {type(estimator).__name__} in {request.source} is not fitted; call fit on it, "
            "then dump it again"
        ) from error
    versions = {
        warning.message.original_sklearn_version
        for warning in caught
        if isinstance(warning.message, InconsistentVersionWarning)
    }
    return estimator, [
        f"it was trained with scikit-learn {version} and is read with another version"
        for version in sorted(versions)
    ]


def _outputs(estimator: Any, source: Path) -> tuple[str, ...]:
    """Names of the outputs that are kept; an empty one stands for skl2onnx's own name."""
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        raise NotExportable(f"{source} predicts several targets at once; save one model for each")
    if classes is not None and classes.dtype.kind == "f" and (classes != classes.round()).any():
        raise NotExportable(
            f"the classes of {source} are fractions ({classes[0]} ...); fit it on whole numbers or "
            "strings"
        )
    if hasattr(estimator, "predict") and not is_regressor(estimator):
        both = is_classifier(estimator) and hasattr(estimator, "predict_proba")
        return (_LABEL, _PROBABILITIES) if both else (_LABEL,)
    if hasattr(estimator, "predict") or hasattr(estimator, "transform"):
        return ("",)
    raise NotExportable(
        f"the {type(estimator).__name__} in {source} neither predicts nor transforms"
    )


def _converted(estimator: Any, columns: Columns, kept: Sequence[str], request: Request) -> Any:
    types = [
        (spec.name, (StringTensorType if spec.datatype == "BYTES" else FloatTensorType)(
            [None, *spec.shape[1:]]
        ))
        for spec in columns.inputs
    ]  # fmt: skip
    convert = partial(
        skl2onnx.convert_sklearn, estimator, initial_types=types, target_opset=_OPSETS
    )
    try:
        if _PROBABILITIES in kept:  # else a sequence of maps
            model = convert(options={id(estimator): {"zipmap": False}})
        else:
            try:
                model = convert()
            except NameError:  # skl2onnx gives a Pipeline's LinearSVC an option it does not have
                model = convert(options={type(estimator[-1]): {"raw_scores": True}})
    except Exception as error:  # a converter for each estimator, each with its own
        raise RouteFailed(
            f"skl2onnx does not convert {request.source}: {first_line(error)}"
        ) from error
    graph = model.graph
    names = {value.name: spec.name for value, spec in zip(graph.input, columns.inputs, strict=True)}
    names |= {value.name: name for value, name in zip(graph.output, kept, strict=False) if name}
    del graph.output[len(kept) :]
    _prune(graph, {value.name for value in graph.output})
    _rename(graph, names)
    for node in graph.node:
        if node.op_type == "StringNormalizer":
            # ONNX Runtime's default, en_US, is not on every machine.
            others = [attribute for attribute in node.attribute if attribute.name != "locale"]
            del node.attribute[:]
            node.attribute.extend([*others, onnx.helper.make_attribute("locale", "C")])
    read = {name for node in graph.node for name in node.input}
    for value in [value for value in graph.input if value.name not in read]:
        graph.input.remove(value)
    return model


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename tensors; what has one of the new names already gives way."""
    inner = {name for node in graph.node for name in (*node.input, *node.output)} - set(names)
    names |= {name: f"{name}_inner" for name in inner & set(names.values())}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _prune(graph: Any, wanted: set[str]) -> None:
    """Take out what leads to no output."""
    for node in reversed(list(graph.node)):
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            wanted.update(node.input)


def _result(estimator: Any, name: str, rows: Any, kind: Any) -> Any:
    """One output, of the dtype and rank that it has in the graph."""
    if name == _PROBABILITIES:
        result = estimator.predict_proba(rows)
    elif hasattr(estimator, "predict"):
        result = estimator.predict(rows)
    else:
        result = estimator.transform(rows)
    array = np.asarray(result.toarray() if hasattr(result, "toarray") else result)
    if len(kind.shape.dim) == 2 and array.ndim == 1:
        array = array[:, np.newaxis]
    return array.astype(tensor_dtype_to_np_dtype(kind.elem_type))


def _notes(estimator: Any, kept: Sequence[str]) -> Iterator[str]:
    classes = getattr(estimator, "classes_", None)
    if classes is not None and classes.dtype.kind in "OU":
        yield "its classes are strings: 'label' is BYTES"
    if kept == (_LABEL,):
        yield (
            f"{type(estimator).__name__} has no probabilities, so 'label' is the only output; "
            "CalibratedClassifierCV gives a classifier some"
        )


def _decided_rows(
    estimator: Any, columns: Columns, inputs: tuple[TensorSpec, ...], rows: int
) -> Arrays:
    """Rows that the estimator takes, first those that are no tie: a forest's trees often split."""
    feeds = columns.sample(inputs, _SPARE * rows)
    if not hasattr(estimator, "predict_proba"):
        return {name: array[:rows] for name, array in feeds.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probabilities = np.sort(estimator.predict_proba(columns.arranged(feeds)), axis=1)
    tied = probabilities[:, -1] - probabilities[:, -2:-1].sum(axis=1) < _TIE
    chosen = np.argsort(tied, kind="stable")[:rows]
    return {name: array[chosen] for name, array in feeds.items()}


def _with_flips(model: Trained, columns: Columns, request: Request) -> Trained:
    """Say how many rows are decided differently: a float32 threshold is not a float64 one."""
    if request.evaluate is not None:
        rows = samples.read(request.evaluate, model.inputs).slice(0, _COMPARED_ROWS)
        which = "held-out"
    else:
        rows, which = dict(columns.sample(model.inputs, _COMPARED_ROWS)), "random"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        model.write(path)
        try:
            answers = Session(path, SessionOptions(threads=1)).run(rows)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise RouteFailed(
                f"ONNX Runtime does not run what skl2onnx made of {request.source}: "
                f"{first_line(error)}"
            ) from error
    first = model.outputs[0]
    given, wanted = answers[first], np.asarray(model.answer(rows)[first])
    if wanted.dtype.kind == "f":
        same = np.isclose(given, wanted, rtol=1e-3, atol=1e-5)
    else:
        same = given == wanted
    flips = len(wanted) - int(same.reshape(len(wanted), -1).all(axis=1).sum())
    if not flips:
        return model
    note = (
        f"{flips} of {len(wanted)} {which} rows get another answer than in scikit-learn: they lie "
        "on the edge of a decision, which falls in float64 there and in float32 in ONNX"
    )
    return replace(model, notes=(*model.notes, note))
