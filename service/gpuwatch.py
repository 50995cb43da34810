"""What the process's GPUs have done and drawn since it began to watch them.

A thread looks at each card twice a second, so that no scrape and no call ever waits for a driver.
Busy time is the share that the card tells, times the time since the last look. Energy is the
card's own counter; where it has none, the power it tells, integrated (``counted`` says which). Both
are of the whole card, whoever else uses it. ``seconds`` is the time that they cover: of two
scrapes, energy over ``seconds`` is the mean power, exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

from service import log
from service.nvml import Card, Reading

PERIOD_S = 0.5


@dataclass(frozen=True)
class Seen:
    """One GPU: how it was at the last look, and what came together until then.

    Attributes:
        index: as CUDA counts those that this process sees.
        uuid: as nvidia-smi writes it.
        name: e.g. ``NVIDIA H200``; empty where it is not told.
        now: the last reading.
        seconds: from the first look to the last.
        busy_s: of them, in which a kernel of anybody ran; None where it is not told.
        energy_j: that it drew in them; None where it is not told.
        counted: whether the energy is the card's own counter, not its power integrated.
    """

    index: int
    uuid: str
    name: str
    now: Reading
    seconds: float = 0.0
    busy_s: float | None = None
    energy_j: float | None = None
    counted: bool = False


@dataclass
class _Sum:
    """What came together of one card."""

    now: Reading
    began: float
    at: float
    busy_s: float = 0.0
    energy_j: float = 0.0
    missing: set[str] = field(default_factory=set)

    def add(self, reading: Reading, at: float) -> None:
        before, passed_s = self.now, at - self.at
        self.now, self.at = reading, at
        self.busy_s += passed_s * (reading.busy or 0.0)
        if reading.energy_j is not None and before.energy_j is not None:
            # It starts anew when the driver does.
            self.energy_j += max(0.0, reading.energy_j - before.energy_j)
        elif reading.energy_j is None and reading.power_w is not None:
            then_w = reading.power_w if before.power_w is None else before.power_w
            self.energy_j += passed_s * (then_w + reading.power_w) / 2


class Watch:
    """Looks at GPUs; any thread may ask what was seen. ``bill.Energy`` of a ledger."""

    def __init__(
        self, cards: Sequence[Card] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the first look, so that what follows has something to be compared with."""
        self._cards, self._clock, self._lock, self._over = cards, clock, Lock(), Event()
        self._sums: list[_Sum] = []
        self._failed: set[int] = set()
        self._thread: Thread | None = None
        for card in cards:
            now = clock()
            self._sums.append(_Sum(self._read(card) or Reading(), now, now))
        self._tell_missing()

    def start(self) -> None:
        """Look at them from now on, on a thread of its own; without GPUs nothing."""
        if self._cards and self._thread is None:
            self._thread = Thread(target=self._go_on, name="gpu-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """No more; waits for the look that is under way, but not for a driver that hangs."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(2 * PERIOD_S)

    def look(self) -> None:
        """Look at each once."""
        for card, total in zip(self._cards, self._sums, strict=True):
            reading, at = self._read(card), self._clock()
            if reading is None:
                continue  # the next look covers the time since the last that succeeded
            with self._lock:
                total.add(reading, at)
        self._tell_missing()

    def seen(self) -> tuple[Seen, ...]:
        """Each GPU, as of the last look."""
        with self._lock:
            return tuple(map(_seen, self._cards, self._sums))

    def joules(self) -> float:
        """That all of them drew since the first look; 0 where none tells."""
        with self._lock:
            return sum(total.energy_j for total in self._sums)

    def watts(self) -> float | None:
        """That all of them draw now; None where one does not tell."""
        with self._lock:
            told = [total.now.power_w for total in self._sums]
        known = [watts for watts in told if watts is not None]
        return sum(known) if known and len(known) == len(told) else None

    @property
    def tells_energy(self) -> bool:
        """Whether all of them tell energy, or power."""
        seen = self.seen()
        return bool(seen) and all(each.energy_j is not None for each in seen)

    def _go_on(self) -> None:
        while not self._over.wait(PERIOD_S):
            self.look()

    def _read(self, card: Card) -> Reading | None:
        """How it is; None where it could not be looked at, which is said once.

        A card never raises. One that does all the same must not end the thread: all figures would
        stand still, unnoticed.
        """
        try:
            return card.read()
        except Exception as error:
            if card.index not in self._failed:
                self._failed.add(card.index)
                log.warning("a GPU could not be looked at", gpu=card.index, reason=repr(error))
            return None

    def _tell_missing(self) -> None:
        """Say once of each card and figure that it is not told."""
        for card, total in zip(self._cards, self._sums, strict=True):
            new = sorted(set(total.now.missing) - total.missing)
            total.missing.update(new)
            if new:
                log.info("a GPU does not tell these figures", gpu=card.index, figures=new)


def _seen(card: Card, total: _Sum) -> Seen:
    now = total.now
    told = now.energy_j is not None or now.power_w is not None
    return Seen(
        index=card.index,
        uuid=card.uuid,
        name=card.name,
        now=now,
        seconds=total.at - total.began,
        busy_s=None if now.busy is None else total.busy_s,
        energy_j=total.energy_j if told or total.energy_j else None,
        counted=now.energy_j is not None,
    )
