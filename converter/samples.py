"""Calibration and held-out rows: read from .npz, checked against the model, disjoint, hashed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.datatypes import BY_NAME
from service.errors import FarthingError
from service.manifest import TensorSpec

LABELS = "y"
ONLY_INPUT = "x"


class BadSamples(FarthingError):
    """A file of rows that does not fit the model."""


@dataclass(frozen=True)
class Samples:
    """Rows for a model.

    Attributes:
        feeds: input name -> array of shape [rows, ...], in the input's dtype.
        labels: array of shape [rows], or None.
    """

    feeds: dict[str, np.ndarray[Any, Any]]
    labels: np.ndarray[Any, Any] | None

    def __len__(self) -> int:
        """The number of rows."""
        return len(next(iter(self.feeds.values())))

    def slice(self, start: int, stop: int) -> dict[str, np.ndarray[Any, Any]]:
        """Feeds with the rows from start up to stop."""
        return {name: array[start:stop] for name, array in self.feeds.items()}

    def row_digests(self) -> list[str]:
        """A digest of each row's inputs."""
        digests = [hashlib.sha256() for _ in range(len(self))]
        for name in sorted(self.feeds):
            for digest, row in zip(digests, self.feeds[name], strict=True):
                digest.update(repr(row.tolist()).encode() if row.dtype == object else row.tobytes())
        return [digest.hexdigest() for digest in digests]

    def describe(self) -> dict[str, Any]:
        """Count and digest, for the manifest."""
        whole = hashlib.sha256("".join(self.row_digests()).encode())
        if self.labels is not None:
            whole.update(self.labels.tobytes())
        return {"rows": len(self), "sha256": whole.hexdigest(), "labels": self.labels is not None}


def read(path: Path, inputs: Sequence[TensorSpec]) -> Samples:
    """Rows for these inputs from a file.

    Args:
        path: an .npz with one array for each input under its name (or ``x`` where there is only
            one), and optionally labels under ``y``.
        inputs: the model's inputs, batch dimension first.

    Raises:
        BadSamples: it is no such file, or its arrays do not fit the inputs.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BadSamples(
            f"{path} is not an .npz file of plain arrays; write it with numpy.savez"
        ) from error
    if len(inputs) == 1 and inputs[0].name not in arrays and ONLY_INPUT in arrays:
        arrays[inputs[0].name] = arrays.pop(ONLY_INPUT)
    feeds = {spec.name: _fitted(arrays.get(spec.name), spec, path) for spec in inputs}
    counts = {len(array) for array in feeds.values()}
    labels = arrays.get(LABELS) if LABELS not in feeds else None
    if labels is not None:
        counts.add(len(labels) if labels.ndim else -1)
        labels = labels.reshape(len(labels), -1)[:, 0] if labels.ndim == 2 else labels
    if len(counts) != 1:
        raise BadSamples(f"the arrays in {path} have different numbers of rows: {sorted(counts)}")
    if counts == {0}:
        raise BadSamples(f"{path} holds no rows")
    return Samples(feeds, labels)


def _fitted(array: Any, spec: TensorSpec, path: Path) -> np.ndarray[Any, Any]:
    if array is None:
        raise BadSamples(f"{path} has no array '{spec.name}', which is an input of the model")
    dtype = BY_NAME[spec.datatype].dtype
    if dtype.kind != "O" and not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise BadSamples(f"'{spec.name}' in {path} is {array.dtype}; the model takes {dtype}")
    wanted = spec.shape[1:]
    fits = array.ndim == len(spec.shape) and all(
        size in (-1, given) for given, size in zip(array.shape[1:], wanted, strict=True)
    )
    if not fits:
        raise BadSamples(
            f"'{spec.name}' in {path} has rows of shape {list(array.shape[1:])}; the model takes "
            f"{list(wanted)}"
        )
    fitted = np.ascontiguousarray(array.astype(dtype, copy=False))
    if fitted.dtype.kind == "f" and not np.isfinite(fitted).all():
        raise BadSamples(f"'{spec.name}' in {path} holds NaN or infinity")
    return fitted


def check_disjoint(calibration: Samples, held_out: Samples) -> None:
    """Refuse held-out rows that the calibration has seen.

    Raises:
        BadSamples: with the number of shared rows.
    """
    shared = set(calibration.row_digests()) & set(held_out.row_digests())
    if shared:
        raise BadSamples(
            f"{len(shared)} rows are in the calibration and in the held-out file; what has been "
            "seen proves nothing, so take them out of one"
        )
