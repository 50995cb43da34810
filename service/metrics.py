"""Every metric, declared once, on a registry that is passed in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from service.batching import Answer
from service.errors import ServingError

_SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_MODEL = ("model", "version", "variant")


class Metrics:
    """What Prometheus sees; labels are model, version and variant, never a caller's own text."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register all metrics on this registry."""
        self.registry = registry
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "farthing_requests", "Answered inferences, by gRPC status.", (*_MODEL, "status"),
            registry=registry,
        )  # fmt: skip
        self.rows = Counter(
            "farthing_rows", "Rows of successful inferences.", _MODEL, registry=registry
        )
        self.request_seconds = Histogram(
            "farthing_request_seconds", "From the decoded call to the encoded answer.", _MODEL,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.queue_seconds = Histogram(
            "farthing_queue_seconds", "From arrival to the start of the run.", _MODEL,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.run_seconds = Histogram(
            "farthing_run_seconds", "The run that a request shared.", _MODEL,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.batch_rows = Histogram(
            "farthing_batch_rows", "Rows of the run that a request shared.", _MODEL,
            buckets=_ROWS, registry=registry,
        )  # fmt: skip
        self.waiting_rows = Gauge(
            "farthing_waiting_rows", "Rows in the queue now.", _MODEL, registry=registry
        )
        self.running = Gauge(
            "farthing_running", "Instances that are busy now.", _MODEL, registry=registry
        )
        self.load_seconds = Gauge(
            "farthing_model_load_seconds", "What loading and warming up took.", _MODEL,
            registry=registry,
        )  # fmt: skip

    @contextmanager
    def request(self, labels: tuple[str, str, str]) -> Iterator[None]:
        """Count one inference under the status it ends with, and time it."""
        started, status = perf_counter(), "OK"
        try:
            yield
        except ServingError as error:
            status = error.status
            raise
        except Exception:
            status = "INTERNAL"
            raise
        except BaseException:  # the caller left, or its deadline passed
            status = "CANCELLED"
            raise
        finally:
            self.requests.labels(*labels, status).inc()
            self.request_seconds.labels(*labels).observe(perf_counter() - started)

    def answered(self, labels: tuple[str, str, str], rows: int, answer: Answer) -> None:
        """Record where a successful inference spent its time."""
        self.rows.labels(*labels).inc(rows)
        self.queue_seconds.labels(*labels).observe(answer.queued_s)
        self.run_seconds.labels(*labels).observe(answer.run_s)
        self.batch_rows.labels(*labels).observe(answer.batch_rows)
