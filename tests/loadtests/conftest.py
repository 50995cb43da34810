"""A report made by hand: 8 CPUs for $0.8 an hour, of which 4 are used, so $0.4 an hour."""

from __future__ import annotations

import datetime
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from loadtests.observed import Observed
from loadtests.prices import Price
from loadtests.results import Conditions, Report, Row
from service.manifest import Manifest, TensorSpec, Variant

REASON = 'loses <b>too</b> much & "more": 5 of 400'


def measured(rate: float, *, calls: int = 500, failures: dict[str, int] | None = None) -> Observed:
    """So many calls of 1 ms, 2 ms, ... at this rate."""
    seen = Observed(calls / rate if rate else 1.0)
    for number in range(1, calls + 1):
        seen.answered(number / 1e3)
    seen.endings.update(failures or {})
    seen.offered = seen.endings.total()
    return seen


@pytest.fixture
def report() -> Report:
    """keras 100/s and 10 MB, fp32 200/s and 4 MB, int8-static 400/s and 1 MB, int8-dynamic none."""
    x = TensorSpec("x", "FP32", (-1, 4))
    variants = (
        Variant("fp32", True, "it is the reference", "model.onnx", "a" * 64, 4_000_000),
        Variant("int8-static", True, "fast", "model.int8-static.onnx", "b" * 64, 1_000_000),
        Variant("int8-dynamic", False, REASON, bytes=1_500_000, figures={"accuracy": 0.9}),
    )
    price = Price("shop.large", 0.8, 8, "here", "on demand", datetime.date(2026, 1, 31), "a list")
    baseline = {
        "accuracy": 0.98, "bytes": 10_000_000, "requests_per_s": 100.0,
        "latencies_ms": np.arange(1.0, 459.0).tolist(),
    }  # fmt: skip
    rows = [
        Row.baseline(baseline),
        Row.served(variants[0], 0.98, measured(50), measured(200, failures={"UNAVAILABLE": 2})),
        Row.served(variants[1], 0.97, measured(90), measured(400)),
        Row.not_published(variants[2]),
    ]
    trained = {"rows": {"train": 900, "calibration": 200, "held_out": 600}}
    contract = Manifest("digits", True, (x,), (x,), variants)
    conditions = Conditions(price, 4, False, trained, contract, 8, 5.0)
    return Report(rows, conditions, "int8-static", "it is the fastest that holds")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The front door sets its own."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    for number, handler in before.items():
        signal.signal(number, handler)
