"""How a call ends that is not answered: its status, one sentence, and nothing before them.

Clients retry, as their service config says, only what has neither headers nor a message: gRPC
calls that a Trailers-Only response. Its servers on asyncio send both, an empty message, to whoever
waits for one answer and gets a status instead, unless the call is aborted.
"""

from __future__ import annotations

from typing import Any

import grpc

from service import log
from service.errors import InferenceFailed, Overloaded, ServingError, Unsupported

# Bytes. Status texts travel as headers, three letters for a byte that is not ASCII, and beyond
# 8 KiB in all the caller loses the status.
_LONGEST = 1000


async def refuse(call: Any, error: ServingError) -> bytes:
    """End a call that has one answer; what is returned goes nowhere."""
    code, text, trailing = _status(error)
    try:
        await call.abort(code, text, trailing)
    except grpc.aio.AbortError as aborted:
        # gRPC keeps it with the call. Through its traceback and context it holds the request, in a
        # cycle that only a full garbage collection finds: a few large ones would fill the memory.
        aborted.__traceback__ = aborted.__context__ = None
    except grpc.aio.BaseError:
        pass  # the caller has left
    return b""


def end(call: Any, error: ServingError) -> None:
    """End a stream, with what was answered before."""
    code, text, trailing = _status(error)
    call.set_code(code)
    call.set_details(text)
    call.set_trailing_metadata(trailing)


def refusing(error: ServingError) -> Any:
    """A method that ends any call at once; as a stream it does not read the request first."""

    async def ended(requests: Any, call: Any) -> None:
        end(call, error)

    return grpc.stream_stream_rpc_method_handler(ended)


def _status(error: ServingError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    pushback = (
        (("grpc-retry-pushback-ms", str(error.retry_after_ms)),)
        if isinstance(error, Overloaded)
        else ()
    )
    return grpc.StatusCode[error.status], told(error), pushback


def told(error: ServingError) -> str:
    """The error's sentence as callers get it: printable and not endless, whatever it quotes."""
    text = str(error)[:_LONGEST]
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text.encode()[:_LONGEST].decode(errors="ignore")


def translated(error: Exception, method: str) -> ServingError:
    """What the caller is told; called while the error is being handled."""
    if isinstance(error, ServingError):
        if error.__cause__ is not None or isinstance(error, InferenceFailed):
            log.exception(str(error), method=method)
        return error
    if isinstance(error, NotImplementedError):  # what the generated base class raises
        return Unsupported("this server does not implement that method")
    log.exception("unexpected error", method=method)
    return InferenceFailed("internal error; the server's log says more")
