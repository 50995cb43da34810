"""The table's steps in the order of their weight, each inside what is left of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.bench import endings, servers, steps
from loadtests.bench.gpu import bare, graphs, served
from loadtests.bench.gpu.bare import Bare, Rate
from loadtests.bench.gpu.places import EXHAUSTIVE, Place, Way
from loadtests.bench.gpu.record import Goal, Record, Row
from loadtests.bench.gpu.scales import OVERLOAD_GOALS, Scale
from loadtests.bench.gpu.served import Load, Rig, Seen
from service.errors import FarthingError

_GOALS_OF = "resnet50 fp16"
WIRE, SHARED = "over the wire", "by shared memory"
_SERVED_GOAL = "resnet50 fp16 {}, best closed loop over the best of bare ONNX Runtime"
SERVED_GOALS = {way: _SERVED_GOAL.format(way) for way in (WIRE, SHARED)}
FASTER_GOAL = "resnet50 served, fp16 over fp32, the best closed loop of each"
_CONVOLVES = "resnet50"
_OVERLOAD_GOAL = "resnet50 fp16, good answers at {:g}x its capacity, over the most at any load"


class Unbelieved(FarthingError):
    """What further steps are computed from is void."""


@dataclass(frozen=True)
class Options:
    """What is measured beside the usual.

    Attributes:
        nhwc: bare fp16 without the provider's ``prefer_nhwc`` too, with which it is served.
        lanes: served with so many instances, beside the default.
    """

    nhwc: bool = False
    lanes: tuple[int, ...] = ()


@dataclass
class Budget:
    """The time that all of it may take.

    Attributes:
        seconds: in all, from when it was made.
        clock: now, in seconds.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    @property
    def left_s(self) -> float:
        """What is left of it."""
        return self.seconds - (self.clock() - self.begun)


@dataclass
class Measuring:
    """One check's table, as far as the time goes.

    Attributes:
        place: where.
        scale: how much.
        record: where it is kept.
        budget: how long.
        directory: for graphs, logs and messages.
        ceilings: rows per second of bare ONNX Runtime's best batch, by model.
        reached: rows per second of the best closed loop that may be believed, by model and way.
    """

    place: Place
    scale: Scale
    record: Record
    budget: Budget
    directory: Path
    ceilings: dict[str, float] = field(default_factory=dict)
    reached: dict[tuple[str, str], float] = field(default_factory=dict)

    def run(self, options: Options) -> None:
        """Measure all of it, what goals are about first."""
        self.record.judge(
            *(Goal(name, 0.9) for name in SERVED_GOALS.values()),
            Goal(FASTER_GOAL, 1.8),
            *(
                Goal(_OVERLOAD_GOAL.format(times), OVERLOAD_GOALS[times])
                for times in self.scale.multiples
                if times in OVERLOAD_GOALS
            ),
        )
        self._model(_GOALS_OF, self.scale.closed, thorough=True)
        nearest, *others = self.scale.others
        self._model(nearest, self.scale.closed_few)
        self._compared()
        self._beside(", without CUDA graphs", "--cuda-graphs", "off")
        for model in others:
            self._model(model, self.scale.closed_few)
        self._options(options)

    def graph(self, model: str) -> Path:
        """The graph of ``resnet50 fp16`` and so on, written once."""
        kind, precision = model.split()
        path = servers.place(self.directory / model.replace(" ", "-"))
        if path.exists():
            return path
        steps.begun(f"{model}: writing the graph")
        if kind == "bert":
            return graphs.encoder(path, precision, self.scale.text)
        return graphs.resnet(path, precision, self.scale.image)

    def _model(self, model: str, loads: tuple[Load, ...], *, thorough: bool = False) -> None:
        bare_s, served_s, overload_s = self.scale.estimates_s

        def serve() -> None:
            with self._rig(model) as rig:
                for load in loads:
                    self._reached(model, self._load(model, rig, load))
                if thorough:
                    self._judged_served(model)
                    self._step(f"{model}, open loops", served_s / 2, lambda: self._open(model, rig))
                    self._step(f"{model}, overload", overload_s, lambda: self._overload(model, rig))

        self._step(f"{model}, bare", bare_s, lambda: self._bare(model))
        self._step(f"{model}, served", served_s, serve)

    def _bare(self, model: str, *, other: bool = False) -> None:
        """All batch sizes, in the layout that the server takes, or in the other one."""
        graph, seconds = self.graph(model), self.scale.bare_s
        way = Way(nhwc=(model == _GOALS_OF) != other, tf32="fp16" in model)
        session, said = Bare(graph, self.place, way), ", prefer_nhwc" if way.nhwc else ""
        rows, rates = graphs.rows(graph, max(self.scale.batches)), dict[int, Rate]()

        def told(what: str, rate: Rate) -> Rate:
            self.record.add(self._of_bare(model, f"bare, {what}{said}", rate))
            return rate

        for size in self.scale.batches:
            rates[size] = told(f"batch {size}", session.rate(rows[:size], seconds=seconds))
        best = bare.best(rates)
        found = [rates[best]]
        if model.startswith(_CONVOLVES):
            searched = Bare(graph, self.place, replace(way, search=EXHAUSTIVE))
            rate = searched.rate(rows[:best], seconds=seconds)
            found.append(told(f"batch {best}, exhaustive search", rate))
            # What cuDNN's planning costs whenever the number of rows changes; no ceiling.
            other_size = best - 1 or 2
            rate = session.rate(rows[:best], rows[:other_size], seconds=seconds)
            told(f"batches {best} and {other_size} by turns", rate)
            if found[1].rows_per_s > found[0].rows_per_s:
                session = searched
        two = session.rate(rows[:best], seconds=seconds, threads=2)
        found.append(told(f"batch {best}, 2 callers", two))
        ceiling = max(rate.rows_per_s for rate in found)
        self.ceilings[model] = max(ceiling, self.ceilings.get(model, 0.0))

    def _of_bare(self, model: str, what: str, rate: Rate) -> Row:
        joules = rate.joules_per_row
        return Row(
            model, what, rate.rows_per_s, p50_ms=rate.median_ms,
            joules_per_1000=None if joules is None else 1e3 * joules,
            usd_per_million=self.place.usd_per_million(rate.rows_per_s),
        )  # fmt: skip

    def _rig(self, model: str, *options: str) -> AbstractContextManager[Rig]:
        scale = self.scale
        most = ("--max-batch", str(max(scale.batches)))
        return served.rig(
            self.graph(model), self.place, options=(*most, *options),
            generators=scale.generators, ahead_s=scale.ahead_s, warm_s=scale.warm_s,
            most_rows=scale.most_rows,
        )  # fmt: skip

    def _load(self, model: str, rig: Rig, load: Load, said: str = "") -> Seen:
        seen = rig.seen(load)
        self.record.add(self._of_served(model, f"{load}{said}", seen))
        return seen

    def _of_served(self, model: str, what: str, seen: Seen) -> Row:
        joules, ceiling, calls = seen.joules_per_row, self.ceilings.get(model), seen.calls
        refused = calls.offered - calls.answers
        notes = [calls.void] if calls.void else []
        if refused and not seen.load.rate:
            notes.append(f"{refused} calls failed: {endings.others(calls)}")
        return Row(
            model, what, calls.told(seen.rows_per_s),
            over_bare=calls.told(seen.rows_per_s / ceiling) if ceiling else None,
            p50_ms=calls.percentile_ms(50), p99_ms=calls.percentile_ms(99),
            joules_per_1000=None if joules is None else 1e3 * joules,
            usd_per_million=self.place.usd_per_million(seen.rows_per_s),
            note="; ".join(notes),
        )  # fmt: skip

    def _reached(self, model: str, seen: Seen) -> None:
        """Keep the best; a run that may not be believed is none."""
        if not seen.calls.void and seen.rows_per_s:
            key = model, SHARED if seen.load.shared else WIRE
            self.reached[key] = max(seen.rows_per_s, self.reached.get(key, 0.0))

    def _judged_served(self, model: str) -> None:
        for way, goal in SERVED_GOALS.items():
            if model in self.ceilings and (model, way) in self.reached:
                ratio = self.reached[model, way] / self.ceilings[model]
                self.record.judge(Goal(goal, 0.9, ratio))

    def _compared(self) -> None:
        of = [
            {way: self.reached.get((f"resnet50 {precision}", way)) for way in (WIRE, SHARED)}
            for precision in ("fp16", "fp32")
        ]
        ways = [way for way in (WIRE, SHARED) if all(each[way] for each in of)]
        if ways:  # the same for both
            half, whole = (max(each[way] or 0.0 for way in ways) for each in of)
            self.record.judge(Goal(FASTER_GOAL, 1.8, half / whole))

    def _open(self, model: str, rig: Rig) -> None:
        most = self.reached.get((model, WIRE))
        if most is None:
            raise Unbelieved("no closed loop over the wire may be believed")
        for share in self.scale.open_shares:
            rate = share * most
            self._load(model, rig, Load(rate=rate, seconds=self.scale.open_s, deadline_s=1.0))

    def _overload(self, model: str, rig: Rig) -> None:
        """Rates beyond what can be served, with deadlines: what is still answered in time."""
        load = self.scale.overload
        seen = self._load(model, rig, load)
        if seen.calls.void or not seen.rows_per_s:
            raise Unbelieved("the run that tells its capacity may not be believed")
        capacity = seen.rows_per_s
        levels = {}
        for times in self.scale.multiples:
            level = replace(load, callers=0, rate=times * capacity)
            levels[times] = self._load(model, rig, level, f", {times:g}x")
        most = max((each.good_rows_per_s for each in levels.values() if not each.calls.void),
                   default=0.0)  # fmt: skip
        for times, seen in levels.items():
            if times in OVERLOAD_GOALS and most and not seen.calls.void:
                name, least = _OVERLOAD_GOAL.format(times), OVERLOAD_GOALS[times]
                self.record.judge(Goal(name, least, seen.good_rows_per_s / most))

    def _options(self, options: Options) -> None:
        """What was asked for beside the usual, of the model that goals are about."""
        model, bare_s = _GOALS_OF, self.scale.estimates_s[0]

        def other_layout() -> None:
            self._bare(model, other=True)
            self._judged_served(model)

        if options.nhwc:
            self._step(f"{model}, bare without prefer_nhwc", bare_s, other_layout)
        for count in options.lanes:
            self._beside(f", {count} lanes", "--instances", str(count))

    def _beside(self, said: str, *given: str) -> None:
        """The model that goals are about, served with these options."""
        model, (_, served_s, _) = _GOALS_OF, self.scale.estimates_s

        def serve() -> None:
            with self._rig(model, *given) as rig:
                for load in self.scale.compared:
                    self._load(model, rig, load, said)

        self._step(f"{model}{said}", served_s / 2, serve)

    def _step(self, what: str, needed_s: float, do: Callable[[], None]) -> None:
        """Do it if the time is there; what fails is told, and the next step begins."""
        if self.budget.left_s < needed_s:
            self.record.omit(what, "the time was used up")
            return
        try:
            do()
        except FarthingError as error:
            self.record.omit(what, str(error))
        except Exception as error:  # ONNX Runtime's and gRPC's have no class in common
            self.record.omit(what, f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
