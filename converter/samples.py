"""Calibration and held-out rows: checked against the model, disjoint, hashed."""

from __future__ import annotations

import hashlib
import importlib
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from converter.exporters.trained import first_line
from service import rows
from service.manifest import TensorSpec
from service.rows import BadRows

_FEW_ROWS = 30


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

    def part(self, rows: np.ndarray[Any, Any]) -> Samples:
        """Some of the rows, by their indices."""
        labels = None if self.labels is None else self.labels[rows]
        return Samples({name: array[rows] for name, array in self.feeds.items()}, labels)

    def row_digests(self) -> list[str]:
        """A digest of each row's inputs."""
        digests = [hashlib.sha256() for _ in range(len(self))]
        for name in sorted(self.feeds):
            for digest, row in zip(digests, map(np.asarray, self.feeds[name]), strict=True):
                text = row.dtype.kind in "OU"
                digest.update(repr(row.tolist()).encode() if text else row.tobytes())
        return [digest.hexdigest() for digest in digests]

    def distinct(self) -> np.ndarray[Any, Any]:
        """Index of the first of each different row, in order.

        A row that is repeated proves no more than once.
        """
        seen: dict[str, int] = {}
        for index, digest in enumerate(self.row_digests()):
            seen.setdefault(digest, index)
        return np.array(list(seen.values()))

    def describe(self) -> dict[str, Any]:
        """Count and digest, for the manifest."""
        whole = hashlib.sha256("".join(self.row_digests()).encode())
        if self.labels is not None:
            whole.update(self.labels.tobytes())
        return {"rows": len(self), "sha256": whole.hexdigest(), "labels": self.labels is not None}


def read(path: Path, inputs: Sequence[TensorSpec]) -> Samples:
    """Rows for these inputs from an .npz file; see ``service.rows.read``.

    Raises:
        BadRows: it is no such file, or its arrays do not fit the inputs.
    """
    return Samples(*rows.read(path, inputs))


def check_disjoint(calibration: Samples, held_out: Samples) -> None:
    """Refuse held-out rows that the calibration has seen.

    Raises:
        BadRows: with the number of shared rows.
    """
    shared = set(calibration.row_digests()) & set(held_out.row_digests())
    if shared:
        raise BadRows(
            f"{len(shared)} rows are in the calibration and in the held-out file; what has been "
            "seen proves nothing, so take them out of one"
        )


def divided(calibration: Samples) -> tuple[Samples, Samples]:
    """Rows that set ranges, and rows on which candidates are compared: every third.

    Of fewer than 30 rows all serve for both.
    """
    rows = np.arange(len(calibration))
    if len(rows) < _FEW_ROWS:
        return calibration, calibration
    return calibration.part(rows[rows % 3 != 0]), calibration.part(rows[rows % 3 == 0])


def on_disk(rows: str | None, path: Path) -> Path | None:
    """Where the rows lie: an .npz file as it is, ``pkg.mod:rows`` streamed into the path.

    Args:
        rows: a file's path, or the name of a function (or iterable) that gives batches:
            dictionaries of arrays of shape [rows, ...], one for each input, labels under ``y``.
        path: where to write.

    Raises:
        BadRows: there is no such function, it fails, or its batches do not fit together.
    """
    if rows is None or Path(rows).is_file():
        return None if rows is None else Path(rows)
    module, _, name = rows.partition(":")
    here = str(Path.cwd())  # where the user's own modules lie
    sys.path.insert(0, here)
    try:
        _write_found(module, name, path, rows)
    finally:
        sys.path.remove(here)
    return path


def _write_found(module: str, name: str, path: Path, rows: str) -> None:
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is the user's own code
        raise BadRows(f"{rows} cannot be imported: {first_line(error)}") from error
    try:
        write(found() if callable(found) else found, path, rows)
    except BadRows:
        raise
    except Exception as error:  # as above
        what = f"{type(error).__name__}: {first_line(error)}"
        raise BadRows(f"{rows} failed with {what}") from error


def write(batches: Iterable[Mapping[str, Any]], path: Path, what: str = "the rows") -> None:
    """Stream batches into an .npz file, one at a time in memory (of texts all).

    Raises:
        BadRows: a batch is no dictionary of arrays, or differs from the first in more than rows.
    """
    columns: dict[str, _Column] = {}
    with ExitStack() as stack:
        for batch in batches:
            if not isinstance(batch, Mapping) or (columns and set(batch) != set(columns)):
                raise BadRows(f"{what} must give dictionaries of arrays with always the same names")
            for name, value in batch.items():
                array = _plain(value, f"{what}: '{name}'")
                if name not in columns:
                    raw = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
                    columns[name] = _Column(array, raw)
                if not columns[name].fits(array):
                    raise BadRows(f"{what}: '{name}' is not of one shape and dtype in all batches")
                columns[name].append(array)
        if not any(column.rows for column in columns.values()):
            raise BadRows(f"{what} gave no rows")
        arrays: dict[str, Any] = {name: column.array() for name, column in columns.items()}
        np.savez(path, **arrays)


def _plain(value: object, what: str) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    if array.ndim == 0:
        raise BadRows(f"{what} is a single value, and must have one row for each")
    if array.dtype.kind == "S" or all(isinstance(one, str | bytes) for one in array.ravel()[:1]):
        array = array.astype(np.str_)
    if array.dtype.kind == "O":
        raise BadRows(f"{what} holds neither numbers nor texts")
    return array


class _Column:
    """One array that grows by batches, in a file; texts, whose lengths differ, in memory."""

    def __init__(self, first: np.ndarray[Any, Any], raw: IO[bytes]) -> None:
        self.rows = 0
        self._shape, self._dtype = first.shape[1:], first.dtype
        self._raw = raw
        self._texts: list[np.ndarray[Any, Any]] | None = [] if first.dtype.kind == "U" else None

    def fits(self, array: np.ndarray[Any, Any]) -> bool:
        same = array.dtype == self._dtype if self._texts is None else array.dtype.kind == "U"
        return bool(same) and array.shape[1:] == self._shape

    def append(self, array: np.ndarray[Any, Any]) -> None:
        self.rows += len(array)
        if self._texts is None:
            self._raw.write(array.tobytes())
        else:
            self._texts.append(array)

    def array(self) -> np.ndarray[Any, Any]:
        if self._texts is not None:
            return np.concatenate(self._texts)
        shape = (self.rows, *self._shape)
        self._raw.flush()
        return np.memmap(self._raw, self._dtype, "r", shape=shape) if self.rows else np.empty(shape)
