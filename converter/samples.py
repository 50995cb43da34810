"""Calibration and held-out rows: checked against the model, disjoint, hashed."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

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
        BadRows: there is no such function, or its batches do not fit together.
    """
    if rows is None or Path(rows).is_file():
        return None if rows is None else Path(rows)
    module, _, name = rows.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # where the user's own modules lie
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadRows(f"{rows} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)
    write(found() if callable(found) else found, path, rows)
    return path


def write(batches: Iterable[Mapping[str, Any]], path: Path, what: str = "the rows") -> None:
    """Stream batches into an .npz file, one at a time in memory.

    Raises:
        BadRows: a batch is no dictionary of arrays, or differs from the first in more than rows.
    """
    seen: dict[str, np.ndarray[Any, Any]] = {}
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        spools: dict[str, IO[bytes]] = {}
        for batch in batches:
            if not isinstance(batch, Mapping) or (seen and set(batch) != set(seen)):
                raise BadRows(f"{what} must give dictionaries of arrays with always the same names")
            for name, value in batch.items():
                array = np.asarray(value)
                array = array.astype("U64") if array.dtype.kind in "OSU" else array
                first = seen.setdefault(name, array)
                if (array.shape[1:], array.dtype) != (first.shape[1:], first.dtype):
                    raise BadRows(f"{what}: '{name}' is not of one shape and dtype in all batches")
                if name not in spools:
                    raw = path.with_suffix(f".{len(spools)}.raw")
                    spools[name] = stack.enter_context(raw.open("w+b"))
                    raw.unlink()  # gone with the last handle
                spools[name].write(array.tobytes())
                counts[name] = counts.get(name, 0) + len(array)
        if not seen:
            raise BadRows(f"{what} gave no rows")
        arrays: dict[str, Any] = {}
        for name, spool in spools.items():
            shape = (counts[name], *seen[name].shape[1:])
            arrays[name] = np.memmap(spool, seen[name].dtype, "r", shape=shape)
        np.savez(path, **arrays)
