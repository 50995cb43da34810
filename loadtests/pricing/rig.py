"""A running server as something to measure: one caller, all sizes of batch, open loops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests import arrivals, client, openloop, priority
from loadtests.histogram import samples_for
from loadtests.observed import Observed
from loadtests.openloop import Lost, Stream
from loadtests.pricing import runs, scrape
from loadtests.pricing.questions import Questions, asked
from loadtests.pricing.scrape import Scrape
from loadtests.slo import Slo
from service.errors import InvalidSetting
from service.proto import inference_pb2 as pb
from service.rows import BadRows

Told = Callable[[str], None]

_WARM_UP = 20
_SETTLED_IN_A_ROW = 3
_CALL_S = 10.0
# Calls that metrics must count, and for how long that is waited for.
_COUNTED, _COUNTED_S = 5, 2.0
_MOST_ROWS = 64


@dataclass(frozen=True)
class Work:
    """What is asked of whom.

    Attributes:
        targets: ``host:port`` of each replica.
        model: its name.
        version: empty for the server's pick.
        rows: in each request.
        rows_file: .npz to send from; None for drawn rows.
        deadline_s: of each call; 0 for ten times the SLO's limit, at least a second.
        metrics: URL of each replica's metrics, if they are farthing's.
        shared: whether the generator runs on the server's cores.
    """

    targets: tuple[str, ...]
    model: str
    version: str = ""
    rows: int = 1
    rows_file: Path | None = None
    deadline_s: float = 0.0
    metrics: tuple[str, ...] = ()
    shared: bool = True

    @property
    def local(self) -> int:
        """How many of the targets are on this machine."""
        return sum(priority.shares(target) for target in self.targets)

    def placed(self) -> Work:
        """The same, with cores taken for shared if any target is on this machine."""
        return replace(self, shared=self.local > 0)

    @property
    def payload(self) -> str:
        """What is sent, in words."""
        return f"rows of {self.rows_file.name}" if self.rows_file else "drawn rows"

    def deadline_for(self, slo: Slo) -> float:
        """Seconds."""
        return self.deadline_s or max(1.0, 10 * slo.limit_s)


@dataclass(frozen=True)
class Taken:
    """What the servers have counted so far."""

    statistics: Sequence[pb.ModelStatistics]
    metrics: Scrape

    def phases(self, before: Taken) -> dict[str, float] | None:
        """Phase -> mean seconds; farthing's own where they are told, else the protocol's."""
        return self.metrics.means(before.metrics) or runs.phases(before.statistics, self.statistics)

    def sizes(self, before: Taken) -> dict[int, tuple[int, float]]:
        """Rows of a run -> how many, and mean seconds."""
        return runs.sizes(before.statistics, self.statistics)


class Rig:
    """Replicas that serve one model, and the requests for it."""

    def __init__(self, work: Work, slo: Slo, replicas: Sequence[Questions], *, seed: int) -> None:
        """Build the requests.

        Raises:
            BadRows: the rows do not fit the model.
        """
        self.work, self.slo = work, slo
        self._replicas, self._seed, self._usual_s = replicas, seed, slo.limit_s
        self._messages = replicas[0].messages(rows=work.rows, rows_file=work.rows_file)

    def server(self) -> pb.ServerMetadataResponse | None:
        """Of the first replica."""
        return self._replicas[0].server()

    def config(self) -> pb.ModelConfig | None:
        """Of the first replica."""
        return self._replicas[0].config()

    def taken(self) -> Taken:
        """What the servers have counted so far."""
        told = [replica.statistics() for replica in self._replicas]
        return Taken([each for each in told if each], self.scraped())

    def scraped(self) -> Scrape:
        """What the metrics alone tell now."""
        return scrape.read(self.work.metrics, model=self.work.model)

    def check_metrics(self, most_s: float) -> None:
        """See that the metrics count what the targets answer; nothing without metrics.

        Args:
            most_s: for all calls.

        Raises:
            InvalidSetting: they are another server's, or count a target twice.
        """
        for target, replica in zip(self.work.targets, self._replicas, strict=True):
            if not self.work.metrics:
                return
            before = self._answered()
            seen = replica.alone(
                self._messages, calls=_COUNTED, most_s=most_s / len(self._replicas), limit_s=0.0
            )
            ends = time.perf_counter() + _COUNTED_S
            while (counted := self._answered() - before) < seen.answers:
                if time.perf_counter() > ends:
                    break
                time.sleep(0.05)
            # A call before these may be counted late.
            if not seen.answers <= counted <= seen.answers + 1:
                raise InvalidSetting(
                    f"{target} answered {seen.answers} calls while {', '.join(self.work.metrics)} "
                    f"counted {counted} for '{self.work.model}'; give --metrics the URL of each "
                    "target once, and let nobody else call it"
                )

    def _answered(self) -> int:
        return self.scraped().answered

    def alone(self, most_s: float) -> Observed:
        """One caller at the first replica, with as many calls as a p99 needs, if there is time."""
        first = self._replicas[0]
        first.alone(self._messages, calls=_WARM_UP, most_s=most_s / 4, limit_s=0.0)
        calls = samples_for(99, 10)
        seen = first.alone(self._messages, calls=calls, most_s=most_s, limit_s=self.slo.limit_s)
        seen.shared = self.work.shared
        self._usual_s = seen.latency.at(50) or self.slo.limit_s
        if not seen.answers:
            codes = ", ".join(sorted(seen.endings))
            raise client.TargetFailed(
                f"{self.work.targets[0]} answered no call to '{self.work.model}': {codes}"
            )
        return seen

    def sizes(self, most_rows: int, most_s: float) -> None:
        """Ask for 1, 2, 4 ... rows at once, so that runs of each size have been seen."""
        limit = min(max(1, most_rows), _MOST_ROWS)
        sizes = sorted({limit, *(2**n for n in range(limit.bit_length()))})
        for rows in sizes:
            try:
                messages = self._replicas[0].messages(rows=rows, rows_file=self.work.rows_file)
            except BadRows:  # the file has no more
                return
            self._replicas[0].alone(messages, calls=50, most_s=most_s / len(sizes), limit_s=0.0)

    def run(
        self,
        rate: float,
        seconds: float,
        *,
        number: int,
        watch: Callable[[Observed], None],
        lost: Lost | None = None,
        impatient: bool = False,
    ) -> Observed:
        """One open loop of Poisson arrivals.

        Args:
            rate: calls per second.
            seconds: how long.
            number: of the run: each draws arrivals of its own.
            watch: is shown what comes, while it comes.
            lost: ends it early.
            impatient: whether callers give up at the SLO's limit.
        """
        seed = self._seed + number
        stream = Stream(
            targets=self.work.targets,
            messages=self._messages,
            times=arrivals.schedule("poisson", rate=rate, seconds=seconds, seed=seed),
            seconds=seconds,
            deadline_s=self.slo.limit_s if impatient else self.work.deadline_for(self.slo),
            limit_s=self.slo.limit_s,
            shared=self.work.shared,
            seed=seed,
            lost=lost,
        )
        try:
            return openloop.run(stream, watch)
        except TimeoutError:
            raise client.TargetFailed(
                f"{', '.join(self.work.targets)}: what answered before does not any more"
            ) from None

    def settle(self, most_s: float) -> None:
        """Wait until one call alone is as quick as it was; overload leaves a queue.

        Args:
            most_s: but no longer than this.
        """
        ends = time.perf_counter() + most_s
        quick_s = max(2 * self._usual_s, self._usual_s + 0.005)
        for replica in self._replicas:
            row = 0
            while row < _SETTLED_IN_A_ROW and time.perf_counter() < ends:
                begun = time.perf_counter()
                code = replica.call(self._messages[0], timeout_s=_CALL_S)
                row = 0 if code or time.perf_counter() - begun > quick_s else row + 1
                if not row:
                    time.sleep(0.05)


@contextmanager
def connected(work: Work, slo: Slo, *, seed: int, most_s: float = 30.0) -> Iterator[Rig]:
    """A rig while the context lasts.

    Args:
        work: what is asked of whom.
        slo: what must hold.
        seed: of the arrivals.
        most_s: seconds that the first answer of each target is waited for, 30 at most.

    Raises:
        TargetFailed: a target does not answer, or does not serve such requests.
        BadRows: the rows do not fit the model.
    """
    with ExitStack() as stack:
        replicas = []
        for target in work.targets:
            caller = stack.enter_context(client.connected(target))
            caller.check(
                work.model, version=work.version, rows_file=work.rows_file, rows=work.rows,
                most_s=most_s,
            )  # fmt: skip
            replica = asked(target, model=work.model, version=work.version)
            replicas.append(stack.enter_context(replica))
        yield Rig(work, slo, replicas, seed=seed)
