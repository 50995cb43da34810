"""Log lines as JSON objects on standard error, one a line, each with its request's ids."""

from __future__ import annotations

import json
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("farthing")
_REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
# Of the trace, and of the span in it that is ours; empty where there is none.
_TRACE: ContextVar[tuple[str, str]] = ContextVar("trace", default=("", ""))
# A client's own text: longer ones are cut, whoever let them in.
_LONGEST_ID = 256
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Levels:
    """What is written.

    Attributes:
        info: events.
        warning: what someone should look at.
        error: exceptions.
        verbose: from 1 on, every inference, whatever is sampled.
    """

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose: int = 0


_levels = Levels()


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if identity := _REQUEST_ID.get():
            line["request_id"] = identity
        trace_id, span_id = _TRACE.get()
        if trace_id:
            line["trace_id"] = trace_id
        if span_id:
            line["span_id"] = span_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _heard(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.ERROR:
        return _levels.error
    return _levels.warning if record.levelno >= logging.WARNING else _levels.info


def configure(level: str) -> None:
    """Send farthing's log to standard error from this level up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    LOGGER.handlers = [handler]
    others = logging.StreamHandler(sys.stderr)  # what they have to say, in the same form
    others.setFormatter(_JsonLines())
    others.addFilter(_worth_saying)
    for other in ("grpc", "asyncio"):
        logging.getLogger(other).handlers = [others]
        logging.getLogger(other).propagate = False
    LOGGER.filters = [_heard]
    LOGGER.propagate = False
    lowest = logging.getLevelNamesMapping()[level.upper()]
    change(Levels(info=lowest <= logging.INFO, warning=lowest <= logging.WARNING))


def change(levels: Levels) -> None:
    """Write these from now on."""
    global _levels  # noqa: PLW0603  # as global as the logger that it belongs to
    _levels = levels
    # Before any record is made, so that silence costs nothing.
    LOGGER.setLevel(logging.INFO if levels.info else logging.WARNING)


def levels() -> Levels:
    """What is written now."""
    return _levels


@contextmanager
def silent() -> Iterator[None]:
    """Write nothing within: for who opens models to look at them, and says himself what matters."""
    LOGGER.disabled = True
    try:
        yield
    finally:
        LOGGER.disabled = False


@contextmanager
def request(identity: str) -> Iterator[None]:
    """Put this request's id on all lines that are written within; an empty one on none.

    After an exception it stays on the task's lines, since who catches that logs it further out.
    """
    token = _REQUEST_ID.set(identity[:_LONGEST_ID])
    yield
    _REQUEST_ID.reset(token)


def trace(trace_id: str, span_id: str = "") -> None:
    """Put these ids, in hex, on all lines that the calling task writes from now on."""
    _TRACE.set((trace_id, span_id))


def info(message: str, **fields: Any) -> None:
    """Log an event with its fields."""
    LOGGER.info(message, extra={"fields": fields})


def warning(message: str, **fields: Any) -> None:
    """Log something that someone should look at."""
    LOGGER.warning(message, extra={"fields": fields})


@dataclass
class Sparing:
    """Lets so many lines through a minute, and counts the others.

    Attributes:
        most: lines a minute.
        clock: seconds.
    """

    most: int
    clock: Callable[[], float] = time.monotonic
    _minute: float = float("-inf")
    _written: int = 0
    _left_out: int = 0

    def left_out(self) -> int | None:
        """How many were left out since the last line; None where this one is to be, too."""
        now = self.clock()
        if now - self._minute >= _MINUTE_S:
            self._minute, self._written = now, 0
        if self._written >= self.most:
            self._left_out += 1
            return None
        self._written += 1
        count, self._left_out = self._left_out, 0
        return count


# A model that fails on a caller's rows does so as often as that caller likes, at 3 KB a time.
_exceptions = Sparing(60)
# Apart, so that a library's flood leaves out none of ours.
_libraries = Sparing(60)


def exception(message: str, **fields: Any) -> None:
    """Log the exception being handled, with its traceback; at most sixty of them a minute."""
    left_out = _exceptions.left_out()
    if left_out is not None:
        told = {"left_out": left_out} if left_out else {}
        LOGGER.exception(message, extra={"fields": {**fields, **told}})


def _worth_saying(record: logging.LogRecord) -> bool:
    """Whether a library's line is written: at most sixty a minute.

    gRPC logs an error with a traceback of its internals for each caller that leaves just before
    its answer. Under overload these are most callers, and nothing is wrong with the server: a log
    that nobody reads fast enough would hold up the event loop.
    """
    kind = record.exc_info[0] if record.exc_info else None
    if kind is not None and kind.__name__ == "ExecuteBatchError":
        return False
    left_out = _libraries.left_out()
    if left_out:
        record.fields = {"left_out": left_out}
    return left_out is not None


@dataclass(frozen=True)
class Access:
    """The access log: a line for a share of the inferences, drawn by lot.

    By lot, since every tenth of a pattern that repeats may be always the same caller's.

    Attributes:
        share: of inferences, 0 to 1.
        draw: a number from 0 up to 1.
    """

    share: float
    draw: Callable[[], float] = random.random

    def wanted(self) -> bool:
        """Whether this inference is to be written; ask once, and before making its fields."""
        if not _levels.info:
            return False
        return _levels.verbose > 0 or (self.share > 0 and self.draw() < self.share)

    def write(self, status: str, **fields: Any) -> None:
        """Log one inference under the status it ended with."""
        info("inference", status=status, **fields)
