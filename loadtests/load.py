"""One run of Locust against a server, closed or open loop, as a child process."""

from __future__ import annotations

import json
import math
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from loadtests import priority, processes
from loadtests.observed import Observed
from loadtests.processes import ChildFailed

# Locust ends by itself; should it not, it is stopped after so many seconds more.
_SPARE_S = 90


@dataclass(frozen=True)
class Plan:
    """What to send.

    Attributes:
        target: ``host:port``.
        model: its name; ``version`` empty for the server's pick.
        users: callers, each waits for its answer before it sends again; of an open loop, the
            connections that its calls go out on.
        seconds: how long to measure, after the warm-up.
        warmup_s: seconds that are not counted.
        rows: rows in each request.
        rows_file: .npz to send from, or None for drawn rows.
        deadline_ms: gRPC deadline of every call, in an open loop from its schedule on; 0 for none.
        limit_ms: later answers are late; 0 if none is.
        think_ms: of closed users, the mean pause after an answer; drawn, exponential.
        thinking: ``exponential``, or ``fixed`` for pauses that are all as long.
        arrivals: of an open loop, see ``loadtests.arrivals``; empty for closed users.
        rate: of an open loop, calls per second.
        seed: of the arrivals.
        trace: of a replay.
        processes: that generate; more are needed where one cannot keep the schedule.
        cpus: CPUs to pin the generator to, apart from the server's; None where they share theirs.
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
    limit_ms: float = 0.0
    think_ms: float = 0.0
    thinking: str = "exponential"
    arrivals: str = ""
    rate: float = 0.0
    seed: int = 1
    trace: Path | None = None
    processes: int = 1
    cpus: frozenset[int] | None = None

    @property
    def connections(self) -> int:
        """Users that Locust makes: in each process one at least."""
        return max(self.users, self.processes)


def run(plan: Plan, *, log: Path) -> Observed:
    """Run Locust headless for the plan's time.

    Raises:
        ChildFailed: Locust could not run, or the target did not answer at all.
    """
    with tempfile.TemporaryDirectory(prefix="farthing-load-") as directory:
        results = Path(directory) / "results.json"
        # Locust ends with 1 where a call failed; those are figures, not an error of the run.
        # Here, since a child that is ended could not put it back.
        with priority.session_first():
            processes.finish(_command(plan, results), log=log, cpus=plan.cpus, allowed=(0, 1))
        if not results.exists():
            raise ChildFailed(f"the load generator wrote no result; its log is {log}")
        raw = json.loads(results.read_text(encoding="utf-8"))
    if raw["failure"]:
        raise ChildFailed(raw["failure"])
    seen = Observed.from_dict(raw["observed"])
    seen.shared = plan.cpus is None and priority.shares(plan.target)
    if not seen.offered:
        raise ChildFailed(
            f"no call to '{plan.model}' at {plan.target} was due in the time measured"
        )
    return seen


def _command(plan: Plan, results: Path) -> list[str]:
    command = [
        sys.executable, "-m", "loadtests.swarm",
        "--headless", "--only-summary", "--loglevel", "ERROR",
        "--host", plan.target, "--model", plan.model, "--model-version", plan.version,
        "--users", str(plan.connections), "--spawn-rate", str(plan.connections),
        "--run-time", f"{math.ceil(plan.seconds + plan.warmup_s) + _SPARE_S}s",
        "--warmup-s", str(plan.warmup_s), "--seconds", str(plan.seconds),
        "--rows", str(plan.rows), "--deadline-ms", str(plan.deadline_ms),
        "--limit-ms", str(plan.limit_ms),
        "--think-ms", str(plan.think_ms), "--thinking", plan.thinking,
        "--arrivals", plan.arrivals, "--rate", str(plan.rate), "--seed", str(plan.seed),
        "--results", str(results),
    ]  # fmt: skip
    if plan.rows_file:
        command += ["--rows-file", str(plan.rows_file)]
    if plan.trace:
        command += ["--trace", str(plan.trace)]
    if plan.processes > 1:
        port = str(_free_port())
        command += [
            "--processes", str(plan.processes), "--master-host", "127.0.0.1",
            "--master-bind-host", "127.0.0.1", "--master-port", port, "--master-bind-port", port,
        ]  # fmt: skip
    return command


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
