"""Calibration and held-out rows: checked against the model, disjoint, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service import rows
from service.manifest import TensorSpec
from service.rows import BadRows


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
