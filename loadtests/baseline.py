"""The trained Keras model called in process: what every variant is compared with.

``python -m loadtests.baseline MODEL ROWS`` measures it as a server is measured, and prints a
profile as JSON. Generous to Keras: a traced ``tf.function`` instead of ``model.predict`` (which
adds some 65 ms to every call), no network; callers wait in the queue of a thread pool.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from loadtests import arrivals, openloop
from loadtests.observed import Observed
from loadtests.openloop import Lost
from loadtests.pricing import measure, rates
from loadtests.profile import Conditions, Level, Profile, Subject
from loadtests.slo import Slo
from service import hardware

NAME = "keras"
WARM_UP_CALLS = 20
_ALONE_S = 2.0
_LEVEL_S = 2.0
# Of the budget; the rest is for the levels.
_SEARCH_SHARE = 0.6
# Calls whose turn comes later than this are given up.
_PATIENCE_LIMITS = 10
_SEED = 1
_PRIORITY = -10


@dataclass(frozen=True)
class InProcess:
    """A model as a function, and threads that call it.

    Attributes:
        call: one row, shape [1, ...], in; the model's answer out.
        rows: to be sent in turn, shape [rows, ...].
        pool: of the threads.
        slo: what must hold.
    """

    call: Callable[[Any], np.ndarray[Any, Any]]
    rows: np.ndarray[Any, Any]
    pool: ThreadPoolExecutor
    slo: Slo

    def alone(self, seconds: float) -> Observed:
        """One caller who waits for each answer."""
        seen = Observed(seconds, limit_s=self.slo.limit_s)
        begun = ended = time.perf_counter()
        while ended - begun < seconds:
            started = ended
            self.call(self._row(seen.offered))
            ended = time.perf_counter()
            seen.offered += 1
            seen.answered(ended - started)
        seen.seconds = ended - begun
        return seen

    def run(
        self, rate: float, seconds: float, *, seed: int, patience_s: float, lost: Lost | None = None
    ) -> Observed:
        """An open loop: Poisson arrivals, whatever became of those before; see ``openloop.drive``.

        A call whose turn comes after the caller's patience is given up.
        """
        seen = Observed(seconds, limit_s=self.slo.limit_s)
        times = arrivals.schedule("poisson", rate=rate, seconds=seconds, seed=seed)

        async def call(left_s: float) -> str:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self.pool, self.call, self._row(seen.offered))
            try:
                await asyncio.wait_for(future, left_s)
            except TimeoutError:
                return "DEADLINE_EXCEEDED"
            return ""

        with asyncio.Runner(loop_factory=openloop.precise) as runner:
            runner.run(openloop.drive(times, call, seen, deadline_s=patience_s, lost=lost))
        return seen

    def _row(self, number: int) -> np.ndarray[Any, Any]:
        at = number % len(self.rows)
        return self.rows[at : at + 1]


def main(argv: list[str] | None = None) -> int:
    """Measure, and print the profile; it has no price yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path, help=".npz with rows under x and labels under y")
    parser.add_argument("--limit-ms", type=float, default=100.0)
    parser.add_argument("--success", type=float, default=0.999)
    parser.add_argument("--budget-s", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args(argv)
    with np.load(options.rows) as archive:
        rows, labels = archive["x"], archive["y"]
    call = _traced(options.model, rows.shape[1:])
    decided = np.array([call(rows[at : at + 1]).argmax() for at in range(len(rows))])
    slo = Slo(99, options.limit_ms / 1e3, options.success)
    with ThreadPoolExecutor(options.threads) as pool:
        # They have begun, as TensorFlow's have, at the usual priority; only sends go first.
        list(pool.map(time.sleep, [0.01] * options.threads))
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
        profile = _measured(InProcess(call, rows, pool, slo), options.budget_s, Subject(
            server=f"Keras {metadata.version('keras')} in process",
            model=options.model.stem,
            variant=NAME,
            sha256=hashlib.sha256(options.model.read_bytes()).hexdigest(),
            accuracy=float(np.mean(decided == labels)),
            accuracy_change=0.0,
            bytes=options.model.stat().st_size,
        ))  # fmt: skip
    print(json.dumps(profile.to_dict()))
    return 0


def _measured(model: InProcess, budget_s: float, subject: Subject) -> Profile:
    clock = measure.Clock(time.perf_counter() + _SEARCH_SHARE * budget_s)
    alone, patience_s = model.alone(_ALONE_S), _PATIENCE_LIMITS * model.slo.limit_s
    found, searched = measure.follow(
        rates.search(
            model.slo, first=1 / (alone.latency.at(50) or 1e-4), budget_s=clock.left_s
        ),
        model.slo,
        clock,
        run=lambda trial, number: model.run(
            trial.rate, trial.seconds, seed=_SEED + number, patience_s=patience_s,
            lost=model.slo.lost,
        ),
        settle=lambda: None,  # whoever waited has gone by the end of a run
    )  # fmt: skip
    wanted = [(x, patience_s) for x in measure.SHARES]
    wanted += [(x, model.slo.limit_s) for x in measure.OVERLOADS]
    seconds = max(_LEVEL_S, (budget_s - _ALONE_S) * (1 - _SEARCH_SHARE) / len(wanted))
    rate = found.rate or 0.0
    levels = tuple(
        Level(x * rate, model.run(x * rate, seconds, seed=_SEED, patience_s=each_s))
        for x, each_s in (wanted if rate else ())
    )
    found = measure.raised(found, levels, model.slo)
    return Profile(
        name=NAME,
        subject=subject,
        conditions=_conditions(model.slo),
        slo=model.slo,
        rate=found.rate,
        generator_bound=found.generator_bound,
        ended=found.why,
        searched=tuple(searched),
        alone=alone,
        levels=levels,
    )


def _conditions(slo: Slo) -> Conditions:
    return Conditions(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        hardware=hardware.fingerprint(),
        cpus=hardware.cpus(),
        price=None,
        shared=True,
        rows=1,
        payload="held-out rows",
        deadline_ms=1e3 * _PATIENCE_LIMITS * slo.limit_s,
        seed=_SEED,
        generator=f"farthing {metadata.version('farthing')}",
    )


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


if __name__ == "__main__":
    sys.exit(main())
