"""The classification extension: instead of the numbers, the largest of them and what they mean.

Each becomes ``value:index``, or ``value:index:label`` where the model has labels, as Triton writes
them: six decimals for fractions, whole numbers plain. Of equal numbers the first comes first; NaN
comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.datatypes import from_bf16
from service.errors import InvalidInput

Array = np.ndarray[Any, Any]

# Texts are made one by one while all other callers wait: these take about a tenth of a second.
_MOST_TEXTS = 2**17
_MOST_NUMBERS = 2**23


def classified(
    array: Array, datatype: str, classes: int, *, labels: Sequence[str] = (), batched: bool
) -> Array:
    """The largest numbers of each row, as texts.

    Args:
        array: an output, of any shape; of a batched model the first dimension counts rows.
        datatype: the wire's name of its datatype, any but BYTES.
        classes: how many to name; fewer where a row has fewer.
        labels: a text for each index; an index beyond them, or an empty text, has none.
        batched: whether each row is classified for itself.

    Returns:
        An object array of ``str``, shape [rows, classes] where batched, else [classes].

    Raises:
        InvalidInput: there are too many numbers, or too many are to be named.
    """
    numbers = from_bf16(array) if datatype == "BF16" else array
    # Not -1, which numpy cannot work out where there are no rows.
    width = int(np.prod(array.shape[1:] if batched else array.shape))
    rows = numbers.reshape(-1 if width else len(array) if batched else 1, width)
    count = min(classes, width)
    if count * len(rows) > _MOST_TEXTS or rows.size > _MOST_NUMBERS:
        raise InvalidInput(
            f"{count} classes of {len(rows)} rows of {width} numbers are too many to be named; ask "
            "for fewer, or for the output without 'classification'"
        )
    texts = [[_text(row, index, labels) for index in _largest(row, count)] for row in rows]
    found = np.array(texts, dtype=np.object_).reshape(len(rows), count)
    return found if batched else found[0]


def _largest(row: Array, count: int) -> list[int]:
    """Indices of the largest numbers, the largest first."""
    if count == 0:
        return []
    # ~ turns the order of whole numbers and truth values around without overflow.
    key = -row.astype(np.float64) if row.dtype.kind == "f" else ~row
    candidates = np.arange(len(row))
    if count < len(row) // 8:  # sorting a few of many: not all of them
        candidates = np.flatnonzero(~(key > np.partition(key, count - 1)[count - 1]))
    order = np.argsort(key[candidates], kind="stable")[:count]
    found: list[int] = candidates[order].tolist()
    return found


def _text(row: Array, index: int, labels: Sequence[str]) -> str:
    value = row[index]
    number = f"{float(value):.6f}" if row.dtype.kind == "f" else str(int(value))
    label = labels[index] if index < len(labels) else ""
    return f"{number}:{index}:{label}" if label else f"{number}:{index}"
