"""What the tests with Triton's own client share: tensors, refusals, and the metrics beside them."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.system.servers import Served

_SAMPLE = re.compile(r"(?m)^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Refusal = pytest.ExceptionInfo[InferenceServerException]


def tensor(name: str, array: np.ndarray[Any, Any], shape: list[int] | None = None) -> Any:
    """An input for tritonclient, synchronous or not."""
    given = triton.InferInput(name, shape or list(array.shape), np_to_triton_dtype(array.dtype))
    return given.set_data_from_numpy(array)


@contextmanager
def refused(status: str, says: str = "") -> Iterator[Refusal]:
    """Expect this status, and a sentence that says this."""
    with pytest.raises(InferenceServerException, match=re.escape(says) or None) as refusal:
        yield refusal
    assert refusal.value.status() == f"StatusCode.{status}", refusal.value


def figures(served: Served, **labels: str) -> dict[str, float]:
    """Sample name -> value, summed over the samples that have these labels."""
    text = urllib.request.urlopen(served.metrics, timeout=20).read().decode()
    found: dict[str, float] = {}
    # Not by the client library's parser, which changes the names of counters like Triton's.
    for name, given, value in _SAMPLE.findall(text):
        if labels.items() <= dict(_LABEL.findall(given)).items():
            found[name] = found.get(name, 0.0) + float(value)
    return found


def until(condition: Callable[[], bool]) -> None:
    """Ask until this holds; each time of asking takes a while by itself."""
    for _ in range(5000):
        if condition():
            return
    raise AssertionError("the condition never held")


async def gathered(answers: Any) -> list[Any]:
    """All that an asynchronous iterator gives, within 60 s."""
    async with asyncio.timeout(60):
        return [answer async for answer in answers]
