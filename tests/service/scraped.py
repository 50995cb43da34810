"""A server's book and its metrics, without a server: what tests write down, and what is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry

from service.figures import Labels
from service.metrics import Metrics
from service.phases import Phases
from service.statistics import Book, Tally
from tests.fakes import ManualClock

LABELS = ("digits", "1", "fp32")
ONE = Phases(
    decode_s=0.001, queued_s=0.25, assembly_s=0.003, run_s=0.5, encode_s=0.004, whole_s=0.76,
    rows=3, batch_rows=8,
)  # fmt: skip


@dataclass
class LiveModel:
    """A model as metrics see it."""

    tally: Tally
    labels: Labels = LABELS
    instances: int = 2
    load_s: float = 1.5
    target_s: float | None = None
    batcher: Any = field(
        default_factory=lambda: SimpleNamespace(
            waiting_rows=7, waiting_bytes=700, waiting_requests=3, running=1, wait_s=0.125
        )
    )
    chosen: Any = field(default_factory=lambda: SimpleNamespace(how="timed", figures={}))
    variant: Any = field(default_factory=lambda: SimpleNamespace(figures={"agreement": 0.99}))


@dataclass
class Server:
    """One server's book, its live models, and what it shows."""

    clock: ManualClock = field(default_factory=ManualClock)
    target_ms: float = 0.0
    ready: bool = True
    models: list[LiveModel] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.book = Book(self.clock, target_s=self.target_ms / 1000)
        self.metrics = Metrics(CollectorRegistry(), self.book, models=lambda: self.models,
                               ready=lambda: self.ready)  # fmt: skip

    def load(self, labels: Labels = LABELS) -> LiveModel:
        self.models.append(LiveModel(self.book.tally(labels), labels))
        return self.models[-1]

    def value(self, name: str, **labels: str) -> float | None:
        given = dict(zip(("model", "version", "variant"), LABELS, strict=True)) | labels
        return self.metrics.registry.get_sample_value(name, given)

    def triton(self, name: str, **labels: str) -> float | None:
        given = {"model": "digits", "version": "1", **labels}
        return self.metrics.registry.get_sample_value(name, given)
