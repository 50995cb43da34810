"""Settings of one version, opened as the server opens them and run as it runs them, measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from loadtests.tuning import search
from loadtests.tuning.search import Steps
from loadtests.tuning.trials import Group, Measured, Outcome, Results, Setting
from service import batching, choice, opening
from service.errors import ModelUnusable
from service.layout import Place
from service.manifest import Manifest
from service.modelconfig import Options
from service.opened import Opened
from service.settings import Settings
from service.tuned import Tuned

Arrays = dict[str, np.ndarray[Any, Any]]

_MOST_ROUNDS = 15
# While the rounds differ more than they should, and there is time.
_MOST_NOISY_ROUNDS = 60
# A shorter turn would measure how threads begin.
_TURN_S = 0.04
# Threads that spin go on doing so for tens of milliseconds, and would slow down the next turn.
_CALM_S = 0.06
_SPARSE_REQUESTS = 8


@dataclass(frozen=True)
class Clocks:
    """Where time comes from.

    Attributes:
        now: seconds, monotonic.
        cpu: CPU seconds of this process, all threads.
        sleep: lets seconds pass.
    """

    now: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Rig:
    """One version, and its sessions of the group that is being measured.

    Several settings share a session where they differ only in what happens outside of it.

    Attributes:
        place: where the model lies.
        version: of those there.
        options: what its config.pbtxt says.
        clocks: of the measurement.
    """

    place: Place
    version: int
    options: Options
    clocks: Clocks = field(default_factory=Clocks)
    _contract: Manifest | None = None
    _open: dict[tuple[str, int, bool], Opened] = field(default_factory=dict)
    _feeds: dict[int, Arrays] = field(default_factory=dict)

    def defaults(self) -> tuple[Setting, list[str]]:
        """What a server runs with that was told nothing; and the variants there are for a CPU.

        Raises:
            ModelUnusable: it cannot be served.
        """
        opened, running = opening.open_version(
            self.place, self.version, self.options, settings=Settings(),
            clock=self.clocks.now, heed_tuned=False,
        )  # fmt: skip
        opened.session.close()
        self._contract = opened.contract
        rows = running.max_batch if opened.contract.batched else 0
        session, name = running.session, opened.chosen.variant.name
        setting = Setting(name, rows, running.instances, session.threads, session.spin)
        return setting, [variant.name for variant in choice.for_cpu(opened.contract)]

    def held(self) -> Tuned | None:
        """What servers take now of what was tuned for this hardware, after ``defaults``."""
        assert self._contract is not None
        variants = [self._contract.variant(name) for name in self._contract.published]
        return opening.tuned_here(self.place.version_directory(self.version), variants).entry

    def measure(self, group: Group, ends: float) -> Results:
        """Measure a group, all its settings in each round.

        Args:
            group: its first setting at least can be run.
            ends: when no further round begins, once there are enough.

        Raises:
            ModelUnusable: the first setting cannot be opened or run.
        """
        self._keep(group)
        looks = self._looks(group, ends)
        turns = {setting: ceil(_TURN_S / seconds) for setting, seconds in looks.items()}
        rates: dict[Setting, list[float]] = {setting: [] for setting in looks}
        run_s: dict[Setting, list[float]] = {setting: [] for setting in looks}
        calm_s = _CALM_S if any(setting.spin for setting in looks) else 0.0
        longest = 0.0
        for round_ in range(_MOST_NOISY_ROUNDS):
            begun = self.clocks.now()
            if round_ >= search.FEWEST_ROUNDS and begun + longest > ends:
                break
            if round_ >= _MOST_ROUNDS and not any(
                Measured(tuple(found), ()).noisy for found in rates.values()
            ):
                break
            # To and fro, so that none always comes after the same one.
            for setting in list(looks)[:: -1 if round_ % 2 else 1]:
                if calm_s:
                    self.clocks.sleep(calm_s)
                rate, seconds = self._turn(setting, turns[setting])
                rates[setting].append(rate)
                run_s[setting] += seconds
            longest = max(longest, self.clocks.now() - begun)
        return {
            setting: Measured(
                tuple(rates[setting]),
                tuple(run_s[setting]),
                self._sparse(setting) if group.knob == search.SPIN else None,
            )
            for setting in looks
        }

    def close(self) -> None:
        """Give the memory back."""
        for opened in self._open.values():
            opened.session.close()
        self._open.clear()

    def sha256(self, variant: str) -> str:
        """Digest of the file of a variant that is open."""
        found = next(o for (name, *_), o in self._open.items() if name == variant)
        return str(found.chosen.variant.sha256)

    def _keep(self, group: Group) -> None:
        needed = {_key(setting) for setting in group.settings}
        for key in set(self._open) - needed:
            self._open.pop(key).session.close()
        self._feeds.clear()

    def _looks(self, group: Group, ends: float) -> dict[Setting, float]:
        """Seconds of a run of each setting that is worth it; the first can't be left out."""
        looks: dict[Setting, float] = {}
        for setting in group.settings:
            try:
                looks[setting] = self._look(setting)
            except ModelUnusable:  # too large, or a variant that cannot be opened here
                if not looks:
                    raise
                if group.growing:
                    break
                continue
            sizes = [(each.rows, seconds) for each, seconds in looks.items()]
            left_s = ends - self.clocks.now()
            if group.growing and not search.go_on(sizes, target_s=group.target_s, left_s=left_s):
                break
        return looks

    def _look(self, setting: Setting) -> float:
        """Seconds of a run, after one that only makes it warm."""
        opened = self._opened(setting)
        opened.session.warm_up_with(opened.inwards(self._rows(opened, setting.rows)))
        _, seconds = self._turn(setting, 1)
        if max(seconds) < _TURN_S:
            seconds += self._turn(setting, 2)[1]
        return max(min(seconds), 1e-6)

    def _turn(self, setting: Setting, runs: int) -> tuple[float, list[float]]:
        """Rows per second of all instances side by side, and seconds of each run.

        With what the server does for each run besides: the way to a thread and back, stacking the
        callers' rows and taking the answers apart. Small batches of small models are dear by that.
        """
        opened, now = self._opened(setting), self.clocks.now
        feeds = self._rows(opened, setting.rows)
        ones = [1] * setting.rows
        parts = [{n: a[i : i + 1] for n, a in feeds.items()} for i, _ in enumerate(ones)]

        def run() -> None:
            if opened.contract.batched:
                batching.run_together(opened.run, parts, ones, now)
            else:
                opened.run(feeds)

        seconds: list[float] = []
        left = setting.instances * runs
        with ThreadPoolExecutor(setting.instances) as pool:
            list(pool.map(time.sleep, [0.0] * setting.instances))  # its threads have begun
            begun: dict[Future[None], float] = {}
            whole = now()
            while left or begun:
                while left and len(begun) < setting.instances:
                    begun[pool.submit(run)] = now()
                    left -= 1
                for done in wait(begun, return_when=FIRST_COMPLETED).done:
                    done.result()
                    seconds.append(now() - begun.pop(done))
            whole = now() - whole
        return setting.rows * len(seconds) / max(whole, 1e-9), seconds

    def _sparse(self, setting: Setting) -> float:
        """CPU seconds of a request of one row that comes alone."""
        opened = self._opened(setting)
        feeds = self._rows(opened, 1)
        self.clocks.sleep(_CALM_S)
        before = self.clocks.cpu()
        for _ in range(_SPARSE_REQUESTS):
            opened.run(feeds)
            self.clocks.sleep(_CALM_S)
        return (self.clocks.cpu() - before) / _SPARSE_REQUESTS

    def _opened(self, setting: Setting) -> Opened:
        key = _key(setting)
        if key not in self._open:
            wanted = Settings(variant=setting.variant, threads=setting.threads, spin=setting.spin)
            self._open[key], _ = opening.open_version(
                self.place, self.version, self.options, settings=wanted, clock=self.clocks.now,
                heed_tuned=False,
            )  # fmt: skip
        return self._open[key]

    def _rows(self, opened: Opened, rows: int) -> Arrays:
        if rows not in self._feeds:
            self._feeds[rows] = opening.rows_like(
                self.place, self.version, self.options, opened.contract, rows
            )
        return self._feeds[rows]


def _key(setting: Setting) -> tuple[str, int, bool]:
    return setting.variant, setting.threads, setting.spin


def run(steps: Steps, rig: Rig, *, ends: float, told: Callable[[str], None]) -> Outcome:
    """A search to its end.

    Args:
        steps: of ``search.search``.
        rig: what it measures.
        ends: when it should be over, on the rig's clock; the fewest rounds are always made.
        told: is told the knob that is being searched.
    """
    try:
        group = next(steps)
        while True:
            told(group.knob)
            now = rig.clocks.now()
            group = steps.send(rig.measure(group, now + search.share(group.knob, ends - now)))
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
