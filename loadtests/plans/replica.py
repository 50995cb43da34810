"""Pure: what a profile tells of one server, as far as its queue and its bill depend on it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from loadtests.profile import Profile
from service.errors import InvalidSetting

# Of a run, where nothing was measured that tells: standard deviation over mean.
SPREAD = 0.15
_DRAWS = 200
# A run never takes less of its mean: the draws are of sums of delays, not of luck.
_LEAST = 0.5
_QUEUE_ROWS = 256


@dataclass(frozen=True)
class Replica:
    """One server of one model, with its callers' requests.

    Attributes:
        runs: (rows, mean seconds of a run of so many), ascending in both.
        noise: what a run of ``rows`` took over its mean, and how often; the mean is 1.
        serving_s: CPU seconds of the front end for each request.
        way_s: seconds of the way there and back, beside that.
        rows: in each request.
        deadline_s: of each request, from its schedule on.
        cores: that it has, and that a run takes all of, with all instances.
        instances: runs at the same time.
        queue_rows: rows that may wait.
    """

    runs: tuple[tuple[int, float], ...]
    noise: tuple[tuple[float, int], ...] = ((1.0, 1),)
    serving_s: float = 0.0
    way_s: float = 0.0
    rows: int = 1
    deadline_s: float = 10.0
    cores: float = 1.0
    instances: int = 1
    queue_rows: int = _QUEUE_ROWS

    @property
    def max_rows(self) -> int:
        """Rows of a run, at most."""
        return self.runs[-1][0]

    def mean_s(self, rows: int) -> float:
        """Seconds of a run of so many rows: what was measured, and on the line between."""
        at = bisect_left(self.runs, rows, key=lambda run: run[0])
        if at == len(self.runs):
            most, seconds = self.runs[-1]
            return seconds * rows / most
        high, high_s = self.runs[at]
        if at == 0 or high == rows:
            return high_s
        low, low_s = self.runs[at - 1]
        return low_s + (rows - low) / (high - low) * (high_s - low_s)

    def run_s(self, rows: int, factor: float) -> float:
        """Seconds of one run.

        A stall lasts as long whatever it meets, and a longer run meets more of them: of independent
        delays the spread grows with the root of the time.

        Args:
            rows: of it.
            factor: one of ``noise``.
        """
        mean, base = self.mean_s(rows), self.mean_s(min(self.rows, self.max_rows))
        return mean * max(_LEAST, 1 + (factor - 1) * sqrt(min(1.0, base / mean)))


def measured(profile: Profile) -> Replica:
    """The replica that a profile was taken of.

    Raises:
        InvalidSetting: the profile is void, of several replicas or of another server, or it does
            not say what its runs take.
    """
    if profile.lacking:
        raise InvalidSetting(
            f"the profile '{profile.name}' is void: it lacks {', '.join(profile.lacking)}"
        )
    if profile.conditions.replicas != 1:
        raise InvalidSetting(
            f"the profile '{profile.name}' is of {profile.conditions.replicas} replicas together; "
            "measure one of them alone, so that a plan can say how many it takes"
        )
    if not profile.subject.server.startswith("farthing"):
        raise InvalidSetting(
            f"the profile '{profile.name}' is of {profile.subject.server}; plan simulates "
            "farthing's own scheduler, so it can only say of farthing how many replicas it takes"
        )
    if not profile.runs:
        raise InvalidSetting(
            f"the profile '{profile.name}' does not say what its runs take, so it cannot be "
            "simulated; measure it on a server that counts them in ModelStatistics"
        )
    runs, rows = _rising(profile), profile.conditions.rows
    bare = Replica(runs=runs)
    offered = sum(level.seen.offered for level in profile.levels)
    known = tells_serving(profile)
    serving_s = (profile.bill or {}).get("serving", 0.0) / offered if known else 0.0
    alone = profile.alone
    run_s = bare.mean_s(min(rows, bare.max_rows))
    mean_s = alone.latency.mean if alone and len(alone.latency) else None
    return Replica(
        runs=runs,
        noise=_noise(profile, mean_s),
        serving_s=serving_s,
        way_s=max(0.0, mean_s - run_s - serving_s) if mean_s else 0.0,
        rows=rows,
        deadline_s=profile.conditions.deadline_ms / 1e3 or 3600.0,
        cores=profile.conditions.cpus,
        instances=profile.conditions.instances,
    )


def tells_serving(profile: Profile) -> bool:
    """Whether a profile tells what the front end takes of the CPU for a request."""
    return "serving" in (profile.bill or {}) and any(level.seen.offered for level in profile.levels)


def _rising(profile: Profile) -> tuple[tuple[int, float], ...]:
    """Mean seconds by rows; where more rows took less, noise is shared out by the runs counted."""
    pools: list[tuple[list[int], int, float]] = []
    for rows, (count, mean_s) in sorted(profile.runs.items()):
        pool = ([rows], max(1, count), max(1e-6, mean_s))
        while pools and pools[-1][2] > pool[2]:
            before, often, seconds = pools.pop()
            total = often + pool[1]
            pool = (before + pool[0], total, (often * seconds + pool[1] * pool[2]) / total)
        pools.append(pool)
    return tuple((rows, mean_s) for sizes, _, mean_s in pools for rows in sizes)


def _noise(profile: Profile, mean_s: float | None) -> tuple[tuple[float, int], ...]:
    """Of one caller's calls, where there were some; else of a stated spread."""
    if profile.alone is not None and mean_s:
        return tuple((seconds / mean_s, count) for seconds, count in profile.alone.latency.values())
    return spread(SPREAD)


def spread(deviation: float) -> tuple[tuple[float, int], ...]:
    """Noise of a mean of 1 and a standard deviation of so much."""
    normal = NormalDist(1.0, deviation)
    shares: Sequence[float] = [(k + 0.5) / _DRAWS for k in range(_DRAWS)]
    return tuple((normal.inv_cdf(share), 1) for share in shares) if deviation else ((1.0, 1),)
