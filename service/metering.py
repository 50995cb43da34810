"""What a process draws, split over the lines of its ledger by their seconds of each period."""

from __future__ import annotations

from service.bill import Energy, Line


class Meter:
    """One process's energy, for its ledger, which calls ``each`` and ``pay`` under its lock.

    Attributes:
        lines: labels and what for -> joules so far; none ever falls.
    """

    def __init__(self, energy: Energy | None, cores: float) -> None:
        """Begin from what is told now.

        Args:
            energy: who tells; None where nobody does.
            cores: that draw it, or GPUs.
        """
        self.lines: dict[Line, float] = {}
        self._energy, self._cores = energy, cores
        self._began = self._counted = self.read()

    def read(self) -> float:
        """Joules so far, as they are told; 0 where nobody does."""
        return self._energy.joules() if self._energy else 0.0

    @property
    def drawn(self) -> float | None:
        """Joules of all periods that were closed; None where nobody tells."""
        return self._counted - self._began if self._energy else None

    def each(self, joules: float, had: float) -> float:
        """Joules for each core-second of a period; what came in no time goes to the next one.

        Args:
            joules: that were read for its end.
            had: its core-seconds.
        """
        new = joules - self._counted  # below 0 where another thread read later, and was first
        if had <= 0.0 or new <= 0.0:
            return 0.0
        self._counted = joules
        return new / had

    def pay(self, line: Line, joules: float) -> None:
        """Put so many on a line."""
        if joules:
            self.lines[line] = self.lines.get(line, 0.0) + joules

    def of(self, core_s: float) -> float | None:
        """What so many core-seconds draw, at the power of this moment; None where nobody tells."""
        watts = self._energy.watts() if self._energy else None
        return None if watts is None else watts / self._cores * core_s
