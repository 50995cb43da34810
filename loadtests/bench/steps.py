"""What a suite is doing at the moment, for the one line that people watch meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Tell = Callable[[str], None]

_tell: ContextVar[Tell | None] = ContextVar("tell", default=None)


def begun(what: str) -> None:
    """Say what begins now; nobody need be listening."""
    tell = _tell.get()
    if tell is not None:
        tell(what)


@contextmanager
def told(tell: Tell) -> Iterator[None]:
    """Tell this listener, and no other, of the steps of this thread until the context ends."""
    before = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(before)
