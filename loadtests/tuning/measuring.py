"""Settings of one version, opened as the server opens them and run as it runs them, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np

from loadtests.tuning import search
from loadtests.tuning.search import Steps
from loadtests.tuning.trials import Group, Measured, Outcome, Results, Setting
from loadtests.tuning.turns import Clocks, side_by_side
from service import batching, choice, machine, opening
from service.devices import CPU, Device
from service.errors import ModelUnusable
from service.layout import Place
from service.machine import Machine
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


@dataclass
class Rig:
    """One version, and its sessions of the group that is being measured.

    Several settings share a session where they differ only in what happens outside of it.

    Attributes:
        place: where the model lies.
        version: of those there.
        options: what its config.pbtxt says.
        clocks: of the measurement.
        settings: of the server, as far as they are given: where it runs.
        here: what it runs on; found by the settings if not given.
    """

    place: Place
    version: int
    options: Options
    clocks: Clocks = field(default_factory=Clocks)
    settings: Settings = field(default_factory=Settings)
    here: Machine | None = None
    _contract: Manifest | None = None
    _devices: tuple[Device, ...] = (CPU,)
    _open: dict[Any, Opened] = field(default_factory=dict)
    _feeds: dict[int, Arrays] = field(default_factory=dict)

    def defaults(self) -> tuple[Setting, list[str]]:
        """What a server runs with that was told nothing; and the variants there are for its device.

        Raises:
            ModelUnusable: it cannot be served.
        """
        opened, running = opening.open_version(
            self.place, self.version, self.options, settings=self.settings,
            clock=self.clocks.now, heed_tuned=False, here=self.here,
        )  # fmt: skip
        opened.session.close()
        self._contract, self._devices = opened.contract, running.session.devices
        rows = running.max_batch if opened.contract.batched else 0
        session, name = running.session, opened.chosen.variant.name
        graphs = session.cuda_graphs if self.device.is_gpu else None
        setting = Setting(name, rows, running.instances, session.threads, session.spin, graphs)
        meant = choice.for_device(opened.contract, self.device.meant)
        return setting, [variant.name for variant in meant]

    @property
    def device(self) -> Device:
        """The first that the model runs on, after ``defaults``."""
        return self._devices[0]

    @property
    def units(self) -> int:
        """How many CPUs, or GPUs, it has, after ``defaults``."""
        return self._machine.units(self._devices)

    @property
    def mark(self) -> str:
        """The fingerprint of what it runs on, after ``defaults``."""
        return self._machine.fingerprint(self._devices)

    @property
    def _machine(self) -> Machine:
        return self.here or machine.found(self.settings.device)

    def held(self) -> Tuned | None:
        """What servers take now of what was tuned for this hardware, after ``defaults``."""
        assert self._contract is not None
        variants = [self._contract.variant(name) for name in self._contract.published]
        directory = self.place.version_directory(self.version)
        return opening.tuned_here(
            directory, variants, fingerprint=self.mark, units=self.units
        ).entry

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
        chosen = (opened.chosen.variant for opened in self._open.values())
        return str(next(each for each in chosen if each.name == variant).sha256)

    def _keep(self, group: Group) -> None:
        needed = {self._key(setting) for setting in group.settings}
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
        rows = setting.rows if opened.contract.batched else None  # tells lanes what to hold
        opened.session.warm_up_with(opened.inwards(self._rows(opened, setting.rows)), rows=rows)
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

        model = opened.runs
        stack = model.stack if isinstance(model, batching.Stacking) else None

        def run() -> None:
            if opened.contract.batched:
                batching.run_together(model, parts, ones, now, stack=stack)
            else:
                opened.run(feeds)

        seconds, whole = side_by_side(run, setting.instances, runs, now)
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
        key = self._key(setting)
        if key not in self._open:
            self._open[key], _ = opening.open_version(
                self.place, self.version, self.options, settings=self._wanted(setting),
                clock=self.clocks.now, heed_tuned=False, here=self.here,
            )  # fmt: skip
        return self._open[key]

    def _key(self, setting: Setting) -> Any:
        """What makes two sessions: on a GPU the batch limit, the instances and graphs too."""
        if self.device.is_gpu:
            return setting
        return setting.variant, setting.threads, setting.spin

    def _wanted(self, setting: Setting) -> Settings:
        wanted = replace(
            self.settings, variant=setting.variant, threads=setting.threads, spin=setting.spin
        )
        if not self.device.is_gpu:
            return wanted
        return replace(
            wanted, max_batch=setting.max_batch, instances=setting.instances,
            cuda_graphs="on" if setting.cuda_graphs else "off",
        )  # fmt: skip

    def _rows(self, opened: Opened, rows: int) -> Arrays:
        if rows not in self._feeds:
            self._feeds[rows] = opening.rows_like(
                self.place, self.version, self.options, opened.contract, rows
            )
        return self._feeds[rows]


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
