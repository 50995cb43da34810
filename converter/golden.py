"""A few reference inputs and answers, by which a server knows on its first run that all is well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter import compare
from converter.compare import Arrays
from service import manifest
from service.manifest import Golden
from service.session import Session, SessionOptions

FILE = "golden.npz"
_MOST_ROWS = 4
_MOST_BYTES = 4_000_000
# Another CPU's kernels round otherwise, int8's by a whole step.
_MARGIN, _RELATIVE = 2.0, 1e-3


def write(
    path: Path,
    feeds: Arrays,
    reference: Session,
    variants: Mapping[str, Path],
    options: SessionOptions | None = None,
) -> Golden:
    """Write the samples, and say how near each variant must come.

    Args:
        path: the file to write.
        feeds: rows; the first few are taken, 4 MB at most but one at least.
        reference: fp32, on a CPU, whatever the variants were judged on.
        variants: those that are published, and their files.
        options: with which those are opened; a CPU's unless said.
    """
    taken = feeds
    if reference.batched:  # else the first dimension counts something else
        row_bytes = sum(array[:1].nbytes for array in feeds.values()) or 1
        rows = max(1, min(_MOST_ROWS, _MOST_BYTES // row_bytes))
        taken = {name: array[:rows] for name, array in feeds.items()}
    answers = reference.run(taken)
    arrays: dict[str, Any] = {f"in:{name}": array for name, array in taken.items()}
    arrays |= {f"out:{name}": array for name, array in answers.items()}
    for name, array in arrays.items():
        if array.dtype.kind == "O":  # texts as such: objects would be pickled
            arrays[name] = array.astype(np.str_)
    np.savez(path, **arrays)
    tolerance = {
        name: _tolerance(_answers(file, options or SessionOptions(), taken), answers)
        for name, file in variants.items()
    }
    count = len(next(iter(taken.values())))
    return Golden(path.name, manifest.sha256_of(path), count, tolerance)


def _answers(file: Path, options: SessionOptions, feeds: Arrays) -> Arrays:
    session = Session(file, options)
    try:
        return dict(session.run(feeds))
    finally:
        if options.devices[0].is_gpu:  # whose memory it holds
            session.close()


def _tolerance(mine: Arrays, wanted: Arrays) -> dict[str, float]:
    return {
        name: _MARGIN * compare.largest_difference({name: mine[name]}, {name: array})
        + _RELATIVE * _largest(array)
        for name, array in wanted.items()
    }


def _largest(array: compare.Array) -> float:
    return float(np.abs(array).max()) if array.dtype.kind == "f" and array.size else 0.0
