"""What one inference tells whoever follows it across machines; ``otel`` is who does, if anyone.

A span travels with its request: as ``CURRENT`` in the request's own task, and beside its parts into
the run that it shares with others. Where nobody follows, it is None all the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from service.batching import Ran
from service.figures import Labels
from service.phases import Phases

# As gRPC hands it out; only the values of keys that end in "-bin" are bytes.
Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Joint:
    """One run, as those who shared it are told of it.

    Attributes:
        labels: model, version and variant.
        requests: that had rows in it, followed or not.
        rows: of all of them.
        took_s: from taking the rows until now.
        ran: what came of it, not to be kept; None if the model failed.
    """

    labels: Labels
    requests: int
    rows: int
    took_s: float
    ran: Ran | None


class Span(Protocol):
    """One inference that is followed."""

    def ran(self, run: Joint, sharers: Sequence[Span]) -> None:
        """A run of its rows has ended; call it on one of those who shared it.

        Args:
            run: that run.
            sharers: all of its requests that are followed, this one included.
        """

    def answered(self, labels: Labels, phases: Phases, core_s: float, unit: str = "core") -> None:
        """It was answered.

        Args:
            labels: model, version and variant.
            phases: where it spent its time.
            core_s: core-seconds, or what the unit says: its rows' share of its runs.
            unit: of the ledger, by its name.
        """

    def failed(self, status: str, reason: str, labels: Labels | None = None) -> None:
        """It was not.

        Args:
            status: the name of gRPC's.
            reason: as the metrics have it.
            labels: model, version and variant; None where there is no such model.
        """

    def end(self, status: str | None) -> None:
        """All is over.

        Args:
            status: that the caller was told; None where ``failed`` knows, or else its caller left.
        """


class Spans(Protocol):
    """Who follows inferences, and decides which."""

    def begin(self, metadata: Metadata, method: str) -> Span | None:
        """Begin to follow a call, if its caller does, or else by lot; its log lines carry the ids.

        Args:
            metadata: that came with the call.
            method: of the service, by its short name.
        """

    def close(self) -> None:
        """Send off what has not been, within a few seconds; waits for that."""


CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)
