"""Sends spans to a collector: OTLP over gRPC, by OpenTelemetry's exporter, which is kept quiet.

``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES`` and the exporter's own variables (headers,
certificates, compression) are read by the SDK; where and what to send is our settings' alone.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from service import log
from service.errors import InvalidSetting
from service.otel import OpenTelemetry
from service.spans import Spans

# A collector that has not taken a message by then does not get it.
_EXPORT_S = 5


class Telling(SpanExporter):
    """Sends spans by another exporter; says once that it cannot, and once that it can again."""

    def __init__(self, inner: SpanExporter, endpoint: str) -> None:
        """Send to this endpoint."""
        self._inner, self._endpoint = inner, endpoint
        self._lost: int | None = None  # since when it cannot
        self._sending = self._closed = False
        self._crowded = log.Sparing(1)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send these, or lose them."""
        if self._closed:
            return SpanExportResult.FAILURE
        self._sending = True
        try:
            result, why = self._inner.export(spans), _heard.last
        except Exception as error:
            result, why = SpanExportResult.FAILURE, type(error).__name__
        self._sending = False
        if not self._closed:  # else it was cut off, which has been said
            self._tell(len(spans), None if result is SpanExportResult.SUCCESS else why)
        return result

    def shutdown(self) -> None:
        """Send nothing more, and cut off what is under way."""
        if self._closed:
            return
        self._closed = True
        if self._sending and self._lost is None:
            log.warning("the collector does not take spans; the last ones are lost",
                        endpoint=self._endpoint)  # fmt: skip
        self._inner.shutdown()

    def _tell(self, count: int, why: str | None) -> None:
        if why is not None:
            if self._lost is None:
                self._lost = 0
                log.warning("the collector does not take spans; they are lost until it does",
                            endpoint=self._endpoint, reason=why)  # fmt: skip
            self._lost += count
            return
        if self._lost is not None:
            log.info("the collector takes spans again", endpoint=self._endpoint, lost=self._lost)
            self._lost, _heard.crowded = None, False
        if _heard.crowded and self._crowded.left_out() is not None:
            log.warning("there are more spans than can be sent, and some are lost; trace a smaller "
                        "share", endpoint=self._endpoint)  # fmt: skip
        _heard.crowded = False


class _Heard(logging.Handler):
    """What the SDK has to say: many lines, some with stack traces; only the last is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.crowded = "", False

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()[:300]
        self.crowded = self.crowded or self.last.startswith("Queue full")


_heard = _Heard()


def start(endpoint: str, *, share: float, version: str) -> Spans:
    """Follow inferences and send their spans to a collector.

    Args:
        endpoint: http://HOST:PORT, or https, of OTLP over gRPC.
        share: of calls whose callers say nothing, 0 to 1.
        version: of this server.

    Raises:
        InvalidSetting: what the SDK reads from the environment cannot be used.
    """
    logger = logging.getLogger("opentelemetry")
    logger.handlers, logger.propagate = [_heard], False
    ours = {"service.name": "farthing", "service.version": version,
            "host.name": socket.gethostname()}  # fmt: skip
    try:
        exporter = Telling(OTLPSpanExporter(endpoint, timeout=_EXPORT_S), endpoint)
        # In this order, so that what an operator says wins over what we think.
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        return OpenTelemetry(exporter, resource, share=share, version=version)
    except Exception as error:  # of many kinds
        raise InvalidSetting(f"spans cannot be sent as the OTEL_ variables say: {error}") from error
