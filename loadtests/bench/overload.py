"""The suites of overload: good answers per second, at and far beyond what the server can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench import calls, endings, generator, nets, resnet50, servers
from loadtests.bench.results import Figure
from loadtests.observed import Observed
from loadtests.openloop import Stream

_DEADLINE_S = 0.4
_SECONDS = 10.0
_CALLERS = 8
_GOALS = {2: 0.97, 5: 0.95, 10: 0.88}
_GOALS_RESNET = {2: 0.92, 5: 0.75}


@dataclass(frozen=True)
class Level:
    """What one load did to a server.

    Attributes:
        outcome: how the calls ended.
        runs: rows that the server ran meanwhile.
        late: answers that it says it gave after their deadline.
    """

    outcome: Observed
    runs: float
    late: float


def overload(directory: Path) -> list[Figure]:
    """Poisson arrivals with 400 ms deadlines, on a conv net of some 30 rows a second."""
    servers.conv_30(directory)
    message = calls.request(servers.MODEL, calls.random_row(3, nets.SIDE, nets.SIDE))
    return _suite(directory, message, _GOALS)


def overload_resnet(directory: Path) -> list[Figure]:
    """The same with ResNet50 (random weights) and its 600 KB float input."""
    resnet50.write(servers.place(directory))
    message = calls.request(servers.MODEL, calls.random_row(*resnet50.SHAPE))
    return _suite(directory, message, _GOALS_RESNET)


def _suite(directory: Path, message: bytes, goals: dict[int, float]) -> list[Figure]:
    constant = calls.answer(calls.random_row(10))
    with (
        servers.farthing(directory / "models") as server,
        servers.noop(constant, directory) as floor,
    ):
        seen = generator.closed(server.target, message, callers=_CALLERS, seconds=_SECONDS)
        capacity = seen.answers_per_s
        seen = generator.closed(floor.target, message, callers=2 * _CALLERS, seconds=3.0)
        ceiling = seen.answers_per_s
        (unhindered,) = generator.open_loop(_stream(floor, message, max(goals) * capacity))
        levels = {
            times: _level(server, _stream(server, message, times * capacity))
            for times in (0.8, 1.0, *goals)
        }
    return [
        Figure(f"capacity, closed loop of {_CALLERS} callers", f"{capacity:.1f}/s"),
        Figure("the generator's own ceiling, to the no-op", f"{ceiling:.0f}/s"),
        Figure(
            f"its late sends at {max(goals)}x, to the no-op",
            endings.marked(share(unhindered.sent_late, unhindered.offered), unhindered),
        ),
        *_told(levels, goals),
    ]


def _stream(server: servers.Server, message: bytes, rate: float) -> Stream:
    return generator.stream(server.target, message, rate, seconds=_SECONDS, deadline_s=_DEADLINE_S)


def _level(server: servers.Server, stream: Stream) -> Level:
    names = ("nv_inference_count", "farthing_late_answers_total")
    before = [server.metric(name) for name in names]
    (outcome,) = generator.open_loop(stream)
    runs, late = (server.metric(name) - was for name, was in zip(names, before, strict=True))
    return Level(outcome, runs, late)


def _told(levels: Mapping[float, Level], goals: dict[int, float]) -> list[Figure]:
    peak = max(level.outcome.good_per_s for level in levels.values())
    figures = []
    for times, level in levels.items():
        outcome = level.outcome
        rate = outcome.good_per_s
        goal = f">= {goals[int(times)]}" if times in goals else ""
        text = endings.marked(f"{rate:.1f}/s = {rate / peak:.2f}", outcome)
        figures.append(Figure(f"good answers at {times:g}x", text, goal))
        if times in goals:
            figures.append(Figure(f"the others at {times:g}x", endings.others(outcome)))
    return [*figures, *lateness(levels)]


def lateness(levels: Mapping[float, Level]) -> list[Figure]:
    """What came too late over all loads: as the server counts it, and as its callers do.

    The server ends a request at its deadline, so it counts next to none; a row that was run all
    the same, or whose answer was late on its way, is seen only by who compares runs with answers.
    """
    runs = sum(level.runs for level in levels.values())
    good = sum(level.outcome.good for level in levels.values())
    answers = sum(level.outcome.answers for level in levels.values())
    late = sum(level.late for level in levels.values())
    return [
        Figure(
            "answers after their deadline, by the server's count", share(late, answers), "< 0.5 %"
        ),
        Figure(
            "rows run without a good answer, of all rows run", share(runs - good, runs), "< 0.5 %"
        ),
    ]


def share(part: float, whole: float) -> str:
    """A share in percent."""
    return f"{100 * part / whole:.2f} %" if whole else "of none"
