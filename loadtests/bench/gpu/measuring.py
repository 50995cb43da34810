"""The table's steps in the order of their weight, each inside what is left of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from loadtests.bench import endings, servers, steps
from loadtests.bench.gpu import bare, graphs, served
from loadtests.bench.gpu.bare import Bare, Rate
from loadtests.bench.gpu.places import Place
from loadtests.bench.gpu.record import Goal, Record, Row
from loadtests.bench.gpu.scales import OVERLOAD_GOALS, Scale
from loadtests.bench.gpu.served import Load, Rig, Seen
from service.errors import FarthingError

_GOALS_OF = "resnet50 fp16"
SERVED_GOAL = "resnet50 fp16, best closed loop over the wire, over bare ONNX Runtime's best batch"
FASTER_GOAL = "resnet50 served, fp16 over fp32"
_OVERLOAD_GOAL = "resnet50 fp16, good answers at {:g}x its capacity, over the most at any load"


@dataclass(frozen=True)
class Options:
    """What is measured beside the usual.

    Attributes:
        nhwc: bare fp16 without the provider's ``prefer_nhwc`` too, with which it is served.
        graphs: served with CUDA graphs, beside without.
        lanes: served with so many instances, beside the default.
    """

    nhwc: bool = False
    graphs: bool = False
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
        reached: rows per second of the best closed loop over the wire, by model.
    """

    place: Place
    scale: Scale
    record: Record
    budget: Budget
    directory: Path
    ceilings: dict[str, float] = field(default_factory=dict)
    reached: dict[str, float] = field(default_factory=dict)

    def run(self, options: Options) -> None:
        """Measure all of it, what goals are about first."""
        self.record.judge(
            Goal(SERVED_GOAL, 0.9),
            Goal(FASTER_GOAL, 1.8),
            *(
                Goal(_OVERLOAD_GOAL.format(times), OVERLOAD_GOALS[times])
                for times in self.scale.multiples
                if times in OVERLOAD_GOALS
            ),
        )
        self._model(_GOALS_OF, self.scale.closed, thorough=True)
        for model in self.scale.others:
            self._model(model, self.scale.closed_few)
            self._compared()
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
                seen = [self._load(model, rig, load) for load in loads]
                over_wire = [each.rows_per_s for each in seen if not each.load.shared]
                self.reached[model] = max(over_wire)
                if thorough:
                    self._judged_served(model)
                    self._step(f"{model}, open loops", served_s / 2, lambda: self._open(model, rig))
                    self._step(f"{model}, overload", overload_s, lambda: self._overload(model, rig))

        self._step(f"{model}, bare", bare_s, lambda: self._bare(model))
        self._step(f"{model}, served", served_s, serve)

    def _bare(self, model: str, *, other: bool = False) -> None:
        """All batch sizes, in the layout that the server takes, or in the other one."""
        graph = self.graph(model)
        nhwc = (model == _GOALS_OF) != other
        session = Bare(graph, self.place, nhwc=nhwc)
        said = ", prefer_nhwc" if nhwc else ""
        rows, rates = graphs.rows(graph, max(self.scale.batches)), dict[int, Rate]()
        for batch in self.scale.batches:
            rates[batch] = session.rate(rows[:batch], seconds=self.scale.bare_s)
            self.record.add(self._of_bare(model, f"bare, batch {batch}{said}", rates[batch]))
        best = bare.best(rates)
        two = session.rate(rows[:best], seconds=self.scale.bare_s, threads=2)
        self.record.add(self._of_bare(model, f"bare, batch {best}, 2 callers{said}", two))
        ceiling = max(rates[best].rows_per_s, two.rows_per_s)
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

    def _judged_served(self, model: str) -> None:
        if model in self.ceilings and model in self.reached:
            ratio = self.reached[model] / self.ceilings[model]
            self.record.judge(Goal(SERVED_GOAL, 0.9, ratio))

    def _compared(self) -> None:
        half, whole = (self.reached.get(f"resnet50 {each}") for each in ("fp16", "fp32"))
        if half and whole:
            self.record.judge(Goal(FASTER_GOAL, 1.8, half / whole))

    def _open(self, model: str, rig: Rig) -> None:
        for share in self.scale.open_shares:
            rate = share * self.reached[model]
            self._load(model, rig, Load(rate=rate, seconds=self.scale.open_s, deadline_s=1.0))

    def _overload(self, model: str, rig: Rig) -> None:
        """Rates beyond what can be served, with deadlines: what is still answered in time."""
        load = self.scale.overload
        capacity = self._load(model, rig, load).rows_per_s
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
        model, (bare_s, served_s, _) = _GOALS_OF, self.scale.estimates_s

        def other_layout() -> None:
            self._bare(model, other=True)
            self._judged_served(model)

        if options.nhwc:
            self._step(f"{model}, bare without prefer_nhwc", bare_s, other_layout)
        settings: list[tuple[str, tuple[str, ...]]]
        settings = [(f", {n} lanes", ("--instances", str(n))) for n in options.lanes]
        settings += [(", CUDA graphs", ("--cuda-graphs",))] if options.graphs else []
        for said, given in settings:
            self._step(f"{model}{said}", served_s, partial(self._also, model, said, given))

    def _also(self, model: str, said: str, given: tuple[str, ...]) -> None:
        with self._rig(model, *given) as rig:
            for load in self.scale.closed_few:
                self._load(model, rig, load, said)

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
