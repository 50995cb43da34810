"""The trained Keras model called in process: what every variant is compared with.

``python -m loadtests.baseline MODEL ROWS`` prints figures as JSON. Generous to Keras: a traced
``tf.function`` instead of ``model.predict`` (which adds some 65 ms to every call), no network, no
protocol, no queue.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP_CALLS = 20


def main(argv: list[str] | None = None) -> int:
    """Measure one row a call: latency with one caller, calls per second with several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path, help=".npz with rows under x and labels under y")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--users", type=int, default=8)
    options = parser.parse_args(argv)
    with np.load(options.rows) as archive:
        rows, labels = archive["x"], archive["y"]
    call = _traced(options.model, rows.shape[1:])
    decided = np.array([call(rows[at : at + 1]).argmax() for at in range(len(rows))])
    alone = _measure(call, rows, options.seconds)
    share = (call, rows, options.seconds)
    with ThreadPoolExecutor(options.users) as pool:
        together = [
            f.result() for f in [pool.submit(_measure, *share) for _ in range(options.users)]
        ]
    figures = {
        "accuracy": float(np.mean(decided == labels)),
        "bytes": options.model.stat().st_size,
        "latencies_ms": [round(value, 4) for value in alone],
        "requests_per_s": sum(len(part) for part in together) / options.seconds,
    }
    print(json.dumps(figures))
    return 0


def _traced(path: Path, shape: tuple[int, ...]) -> Callable[[Any], np.ndarray[Any, Any]]:
    import keras
    import tensorflow as tf

    model = keras.models.load_model(path, compile=False)
    function = tf.function(
        lambda x: model(x, training=False),
        input_signature=[tf.TensorSpec((1, *shape), tf.float32)],
        autograph=False,
    )

    def call(row: Any) -> np.ndarray[Any, Any]:
        return np.asarray(function(tf.constant(row)).numpy())

    for _ in range(WARM_UP_CALLS):
        call(np.zeros((1, *shape), np.float32))
    return call


def _measure(call: Callable[[Any], Any], rows: Any, seconds: float) -> list[float]:
    """Milliseconds of each call that ends within so many seconds, one after the other."""
    latencies: list[float] = []
    begun = time.perf_counter()
    while True:
        at = len(latencies) % len(rows)
        started = time.perf_counter()
        call(rows[at : at + 1])
        ended = time.perf_counter()
        if ended - begun > seconds:
            return latencies
        latencies.append((ended - started) * 1e3)


if __name__ == "__main__":
    sys.exit(main())
