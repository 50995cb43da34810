"""Every way in which farthing says no.

    FarthingError                one sentence that says what to mend; at a command line: exit code 2
    ├── InvalidSetting           an option or environment variable that cannot be used
    ├── ModelUnusable            a model file, manifest or repository that cannot be served
    └── ServingError             an answer to a caller; knows its gRPC status
        ├── InvalidInput         INVALID_ARGUMENT     the request itself is wrong
        ├── ModelNotFound        NOT_FOUND            no such model or version
        ├── ModelNotReady        UNAVAILABLE          known, but not loaded, or broken
        ├── Unauthenticated      UNAUTHENTICATED      no token, or a wrong one
        ├── Forbidden            PERMISSION_DENIED    a control RPC that is switched off
        ├── Draining             UNAVAILABLE          this server is going away; ask another
        ├── Overloaded           RESOURCE_EXHAUSTED   refused for load; carries a pushback
        ├── DeadlineExceeded     DEADLINE_EXCEEDED    the caller's time is up
        ├── InferenceFailed      INTERNAL             the model failed on this input
        └── Unsupported          UNIMPLEMENTED        the protocol has it, this server has not

The texts go to strangers: no path, no exception text, nothing internal. Status names are strings,
so that this file needs no gRPC.
"""

from __future__ import annotations

from typing import ClassVar


class FarthingError(Exception):
    """Something the user can mend; ``str(error)`` is the one sentence that says how."""


class InvalidSetting(FarthingError):
    """An option or environment variable that is unknown, malformed or out of range."""


class ModelUnusable(FarthingError):
    """A model that cannot be loaded, with the reason, which may name files of this machine."""

    def __init__(self, message: str, *, told: str = "") -> None:
        """Refuse a model.

        Args:
            message: the sentence for the operator.
            told: the sentence for remote callers, without paths and exception texts.
        """
        super().__init__(message)
        self.told = told or "it cannot be loaded; the server's log says why"


class ServingError(FarthingError):
    """An answer to one caller of the server; ``status`` names a gRPC status code."""

    status: ClassVar[str] = "UNKNOWN"


class InvalidInput(ServingError):
    """The request contradicts itself or the model's contract."""

    status = "INVALID_ARGUMENT"


class ModelNotFound(ServingError):
    """No model, or no version of it, has this name."""

    status = "NOT_FOUND"


class ModelNotReady(ServingError):
    """The model is known, and cannot answer now."""

    status = "UNAVAILABLE"


class Unauthenticated(ServingError):
    """The call carries no token that this server knows."""

    status = "UNAUTHENTICATED"


class Forbidden(ServingError):
    """A control RPC that this server, or this port, does not answer."""

    status = "PERMISSION_DENIED"


class Draining(ServingError):
    """The server is shutting down and takes no new work."""

    status = "UNAVAILABLE"

    def __init__(self, message: str = "the server is shutting down; ask another") -> None:
        """Send the caller elsewhere."""
        super().__init__(message)


class Overloaded(ServingError):
    """Refused at once, because the queue is full."""

    status = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, reason: str = "", retry_after_ms: int = 100) -> None:
        """Refuse with a hint.

        Args:
            message: the sentence for the caller.
            reason: what was full, for metrics: ``calls``, or ``queue_`` and one of ``rows``,
                ``bytes``, ``requests`` and ``time``.
            retry_after_ms: sent as ``grpc-retry-pushback-ms`` (gRPC proposal A6), so that
                well-behaved clients wait that long before they try again.
        """
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        self.reason = reason


class DeadlineExceeded(ServingError):
    """The caller's deadline passed before an answer was there."""

    status = "DEADLINE_EXCEEDED"


class InferenceFailed(ServingError):
    """The model's run failed for this caller's rows."""

    status = "INTERNAL"


class Unsupported(ServingError):
    """A part of the protocol that this server does not implement."""

    status = "UNIMPLEMENTED"
