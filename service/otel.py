"""OpenTelemetry: the spans of inferences and of the runs that they share.

With ``otlp`` the only room of its packages, imported where ``--otlp-endpoint`` is given. A call
that came with a W3C traceparent is followed if its caller is; of the others a share is drawn by
lot. Names are OpenTelemetry's for RPC, and ``farthing.`` ones. A span tells how a call ended and
what it took, and nothing of what was in it. Spans are sent by a thread of the SDK's.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from threading import Thread

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import log
from service.batching import Ran
from service.figures import Labels
from service.phases import Phases
from service.spans import Joint, Metadata, Span

# The end may wait for so long, and then so long again for a call that is under way to be cut off.
_CLOSE_S, _CUT_S = 2.0, 0.5
# Spans that wait to be sent: about 12 MB. A few in each message, since making one holds the
# interpreter's lock, and with that up calls: about 50 us a span.
_WAITING, _SENT, _EVERY_MS = 4096, 64, 1000
# Links of one run: as many requests as one may have.
_LINKS = 4096
_SERVICE = "inference.GRPCInferenceService"
# What means, on a server, that the server is to blame (OpenTelemetry's conventions for gRPC).
_OURS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_CODES = {name: number for number, name in enumerate(_NAMES)}
# A caller that is not followed says so here; anything else is the library's to understand.
_UNSAMPLED = re.compile(r"00-((?!0{32})[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f][02468ace]")
_W3C = TraceContextTextMapPropagator()
_ROOT = Context()


class _Request:
    """One inference that is followed; ``spans.Span`` says what each method is told."""

    __slots__ = ("_status", "_tracer", "context", "span")

    def __init__(self, tracer: Tracer, span: trace.Span) -> None:
        self._tracer, self.span = tracer, span
        self.context = span.get_span_context()
        self._status = "CANCELLED"  # if nobody says otherwise, its caller left

    def ran(self, run: Joint, sharers: Sequence[Span]) -> None:
        requests = [one for one in dict.fromkeys(sharers) if isinstance(one, _Request)]
        ended_ns = time.time_ns()
        batch = self._tracer.start_span(
            "batch",
            context=_ROOT,  # a trace of its own: it belongs to several
            kind=SpanKind.INTERNAL,
            attributes={
                **_labelled(run.labels),
                "farthing.requests": run.requests,
                "farthing.rows": run.rows,
                **_times(run.ran),
            },
            links=[Link(one.context) for one in requests],
            start_time=ended_ns - int(run.took_s * 1e9),
        )
        if run.ran is None:
            batch.set_status(Status(StatusCode.ERROR, "the model failed"))
        batch.end(ended_ns)
        for one in requests:
            if one.span.is_recording():  # its caller may be gone
                one.span.add_link(batch.get_span_context())

    def answered(self, labels: Labels, phases: Phases, core_s: float, unit: str = "core") -> None:
        self.span.set_attributes(
            {
                **_labelled(labels),
                "farthing.rows": phases.rows,
                "farthing.batch_rows": phases.batch_rows,
                "farthing.decode_s": phases.decode_s,
                "farthing.queue_s": phases.queued_s,
                "farthing.assembly_s": phases.assembly_s,
                "farthing.run_s": phases.run_s,
                "farthing.encode_s": phases.encode_s,
                f"farthing.{unit}_s": core_s,
            }
        )

    def failed(self, status: str, reason: str, labels: Labels | None = None) -> None:
        self._status = status
        named = _labelled(labels) if labels else {}
        self.span.set_attributes({**named, "farthing.reason": reason})

    def end(self, status: str | None) -> None:
        status = status or self._status
        self.span.set_attribute("rpc.grpc.status_code", _CODES.get(status, 2))
        if status != "OK":
            self.span.set_attribute("error.type", status)
        if status in _OURS:
            self.span.set_status(Status(StatusCode.ERROR, status))
        self.span.end()


class OpenTelemetry:
    """Follows inferences; ``spans.Spans`` says how."""

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        *,
        share: float,
        version: str = "",
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Start the thread that sends.

        Args:
            exporter: what sends spans.
            resource: who we are.
            share: of calls whose callers say nothing, 0 to 1.
            version: of this server.
            draw: a number from 0 up to 1.
        """
        self._share, self._draw = share, draw
        self._exporter = exporter
        self._provider = TracerProvider(
            resource=resource,
            sampler=ALWAYS_ON,  # what is not to be followed has no span at all
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_links=_LINKS),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=_WAITING,
                max_export_batch_size=_SENT,
                schedule_delay_millis=_EVERY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("farthing", version)

    def begin(self, metadata: Metadata, method: str) -> Span | None:
        """See ``spans.Spans``."""
        told = {key: text for key, text in metadata if key in ("traceparent", "tracestate")}
        context, parent = _ROOT, trace.INVALID_SPAN_CONTEXT
        if told:
            if unsampled := _UNSAMPLED.fullmatch(str(told.get("traceparent", ""))):
                log.trace(unsampled[1])
                return None
            context = _W3C.extract(told)
            parent = trace.get_current_span(context).get_span_context()
        if parent.is_valid and not parent.trace_flags.sampled:
            log.trace(format(parent.trace_id, "032x"))
            return None
        if not parent.is_valid and not self._draw() < self._share:
            return None
        span = self._tracer.start_span(
            f"{_SERVICE}/{method}",
            context=context,
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": _SERVICE, "rpc.method": method},
        )
        own = span.get_span_context()
        log.trace(format(own.trace_id, "032x"), format(own.span_id, "016x"))
        return _Request(self._tracer, span)

    def flush(self) -> None:
        """Send all that is there; waits for that, however long it takes."""
        self._provider.force_flush()

    def close(self) -> None:
        """See ``spans.Spans``."""
        # The SDK itself would wait for half a minute.
        ending = Thread(target=self._provider.shutdown, name="spans", daemon=True)
        ending.start()
        ending.join(_CLOSE_S)
        if ending.is_alive():
            self._exporter.shutdown()
            ending.join(_CUT_S)


def _labelled(labels: Labels) -> dict[str, str]:
    model, version, variant = labels
    return {"farthing.model": model, "farthing.version": version, "farthing.variant": variant}


def _times(ran: Ran | None) -> dict[str, float]:
    return {"farthing.assembly_s": ran.assembly_s, "farthing.run_s": ran.run_s} if ran else {}
