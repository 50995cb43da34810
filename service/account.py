"""One model's part of a ledger: what its runs go into, and who pays while a GPU computes them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from service import charging
from service.figures import Labels
from service.ledger import Ledger
from service.tickets import Ticket

_NOTHING = nullcontext()


@dataclass(frozen=True)
class Account:
    """The part of a ledger that one model's runs go into.

    Attributes:
        ledger: of the process.
        labels: model, version and variant.
        threads: of one run; 0 on a GPU's ledger, whose thread charges what it computes.
    """

    ledger: Ledger
    labels: Labels
    threads: int

    @property
    def beside(self) -> int:
        """What stacking rows for a run takes: one thread; of a GPU nothing."""
        return self.ledger.unit.beside

    def paying(self, ticket: Ticket) -> AbstractContextManager[None]:
        """Within, what a GPU computes for the calling thread is that ticket's."""
        return _NOTHING if self.beside else charging.to(partial(self.ledger.begin, ticket))

    def ticket(self, rows: int) -> Ticket:
        """For one run of so many rows."""
        return Ticket(self.labels, rows)


def told_of(ledger: Ledger, core_s: float) -> dict[str, float]:
    """What a caller is told of his share of a run: its seconds, and what is known to follow.

    A period's scaling comes later, so a busy server's bill is less; of energy the power now counts.
    """
    figures = {
        f"farthing-{ledger.unit.name}-seconds": core_s,
        "farthing-cost-usd": ledger.usd(core_s),
        "farthing-joules": ledger.meter.of(core_s),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}
