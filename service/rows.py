"""Rows for a model from an .npz file: one array for each input under its name, labels under ``y``.

The converter judges by such files and the load tests send from them; both read them here, so that
one file serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.datatypes import BY_NAME, to_bf16
from service.errors import FarthingError
from service.manifest import TensorSpec

LABELS = "y"
ONLY_INPUT = "x"

Array = np.ndarray[Any, Any]


class BadRows(FarthingError):
    """A file of rows that does not fit the model."""


def read(path: Path, inputs: Sequence[TensorSpec]) -> tuple[dict[str, Array], Array | None]:
    """Rows for these inputs.

    Args:
        path: an .npz with one array for each input under its name (or ``x`` where there is only
            one), and optionally labels under ``y``.
        inputs: the model's inputs, batch dimension first.

    Returns:
        Input name -> array of shape [rows, ...] in the input's dtype; and the labels, of shape
        [rows], or None.

    Raises:
        BadRows: it is no such file, or its arrays do not fit the inputs.
    """
    arrays = _arrays(path)
    if len(inputs) == 1 and inputs[0].name not in arrays and ONLY_INPUT in arrays:
        arrays[inputs[0].name] = arrays.pop(ONLY_INPUT)
    feeds = {spec.name: _fitted(arrays.get(spec.name), spec, path) for spec in inputs}
    labels = None if LABELS in feeds else _labels(arrays.get(LABELS), path)
    counts = {len(array) for array in feeds.values()}
    if labels is not None:
        counts.add(len(labels))
    if len(counts) != 1:
        raise BadRows(f"the arrays in {path} have different numbers of rows: {sorted(counts)}")
    if counts == {0}:
        raise BadRows(f"{path} holds no rows")
    return feeds, labels


def _arrays(path: Path) -> dict[str, Array]:
    try:
        # Opened here: numpy leaves a file that is cut off open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged file raises nearly anything
        raise BadRows(
            f"{path} is not an .npz file of plain arrays; write it with numpy.savez"
        ) from error


def _labels(labels: Array | None, path: Path) -> Array | None:
    if labels is None:
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise BadRows(
            f"the labels in {path} have shape {list(labels.shape)}; give one class for each row"
        )
    return labels


def _fitted(array: Array | None, spec: TensorSpec, path: Path) -> Array:
    if array is None:
        raise BadRows(f"{path} has no array '{spec.name}', which is an input of the model")
    half = spec.datatype == "BF16"  # whose own arrays hold bits
    dtype = BY_NAME["FP32" if half else spec.datatype].dtype
    text = array.dtype.kind in "SU"
    # Ids are often kept as floats: those that are whole numbers will do.
    fits = np.can_cast(array.dtype, dtype, casting="same_kind") or (
        array.dtype.kind == "f" and dtype.kind in "iu" and bool((array == np.round(array)).all())
    )
    if text != (spec.datatype == "BYTES") or not (text or fits):
        raise BadRows(f"'{spec.name}' in {path} is {array.dtype}; the model takes {spec.datatype}")
    if len(array.shape) != len(spec.shape) or any(
        wanted not in (-1, given)
        for given, wanted in zip(array.shape[1:], spec.shape[1:], strict=True)
    ):
        raise BadRows(
            f"'{spec.name}' in {path} has rows of shape {list(array.shape[1:])}; the model takes "
            f"{list(spec.shape[1:])}"
        )
    if text:
        return array.astype(np.str_).astype(np.object_)
    with np.errstate(invalid="ignore"):  # a float beyond the integers; looked at below
        fitted = np.ascontiguousarray(array.astype(dtype, copy=False))
    if fitted.dtype.kind in "iu" and (fitted != array).any():
        raise BadRows(f"'{spec.name}' in {path} holds numbers that {spec.datatype} cannot")
    if fitted.dtype.kind == "f" and not np.isfinite(fitted).all():
        raise BadRows(f"'{spec.name}' in {path} holds NaN or infinity")
    return to_bf16(fitted) if half else fitted
