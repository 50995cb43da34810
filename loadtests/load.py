"""One closed-loop run of Locust against a server, as a child process."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadtests import processes
from loadtests.processes import ChildFailed

# With fewer calls a p99 is not printed: that none of 459 calls was slower than a limit is what
# shows, at 99 % confidence, that fewer than 1 % are (binomial; MLPerf's rules). Likewise for p99.9.
P99_SAMPLES = 459
P999_SAMPLES = 4603


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        target: ``host:port``.
        model: its name; ``version`` empty for the server's pick.
        users: callers; each waits for its answer before it sends again.
        seconds: how long to measure, after the warm-up.
        warmup_s: seconds that are not counted.
        rows: rows in each request.
        rows_file: .npz to send from, or None for drawn rows.
        deadline_ms: gRPC deadline of every call; 0 for none.
        cpus: CPUs to pin the generator to, or None.
    """

    target: str
    model: str
    version: str = ""
    users: int = 1
    seconds: float = 5.0
    warmup_s: float = 1.0
    rows: int = 1
    rows_file: Path | None = None
    deadline_ms: float = 0.0
    cpus: frozenset[int] | None = None


@dataclass(frozen=True)
class Measured:
    """What came back: all calls that ended in the window after the warm-up.

    Attributes:
        users: callers.
        seconds: the window's length.
        latencies_ms: of the successful calls, shape [calls].
        failures: gRPC status -> calls that ended with it.
        rows: rows in each request.
    """

    users: int
    seconds: float
    latencies_ms: np.ndarray[Any, Any]
    failures: dict[str, int] = field(default_factory=dict)
    rows: int = 1

    @property
    def offered(self) -> int:
        """All calls, the failed ones among them."""
        return len(self.latencies_ms) + sum(self.failures.values())

    @property
    def rate(self) -> float:
        """Successful requests per second."""
        return len(self.latencies_ms) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, percent: float) -> float | None:
        """A percentile of the successful calls' latency, or None where there were none."""
        return float(np.percentile(self.latencies_ms, percent)) if len(self.latencies_ms) else None

    def summary(self) -> dict[str, Any]:
        """Plain figures for JSON."""
        return {
            "users": self.users,
            "rows_per_request": self.rows,
            "seconds": self.seconds,
            "offered": self.offered,
            "succeeded": len(self.latencies_ms),
            "failures": self.failures,
            "requests_per_s": self.rate,
            **{f"p{p:g}_ms": self.percentile_ms(p) for p in (50, 90, 99, 99.9)},
            "p99_has_enough_samples": len(self.latencies_ms) >= P99_SAMPLES,
        }


def run(plan: Plan, *, log: Path) -> Measured:
    """Run Locust headless for the plan's time.

    Raises:
        ChildFailed: Locust could not run, or the target did not answer at all.
    """
    with tempfile.TemporaryDirectory(prefix="farthing-load-") as directory:
        results = Path(directory) / "results.json"
        # Locust ends with 1 where a call failed; those are figures, not an error of the run.
        processes.finish(_command(plan, results), log=log, cpus=plan.cpus, allowed=(0, 1))
        if not results.exists():
            raise ChildFailed(f"the load generator wrote no result; its log is {log}")
        raw = json.loads(results.read_text(encoding="utf-8"))
    measured = Measured(
        users=plan.users,
        seconds=raw["seconds"],
        latencies_ms=np.array(raw["latencies_ms"], dtype=np.float64),
        failures=raw["failures"],
        rows=plan.rows,
    )
    if not measured.offered:
        raise ChildFailed(
            f"no call to '{plan.model}' at {plan.target} was made; is the server up, and does it "
            "serve that model?"
        )
    return measured


def _command(plan: Plan, results: Path) -> list[str]:
    command = [
        sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("users.py")),
        "--headless", "--only-summary", "--loglevel", "ERROR",
        "--host", plan.target, "--model", plan.model, "--model-version", plan.version,
        "--users", str(plan.users), "--spawn-rate", str(plan.users),
        "--run-time", f"{math.ceil(plan.seconds + plan.warmup_s)}s", "--stop-timeout", "5",
        "--warmup-s", str(plan.warmup_s), "--seconds", str(plan.seconds),
        "--rows", str(plan.rows), "--deadline-ms", str(plan.deadline_ms),
        "--results", str(results),
    ]  # fmt: skip
    return command + (["--rows-file", str(plan.rows_file)] if plan.rows_file else [])
