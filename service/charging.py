"""Who pays for a GPU while it computes: said where a run begins, asked for where it computes.

The two are on different threads: a batch waits on one for its turn on the GPU, whose own thread
runs it. Only that time is charged, so that neither waiting nor copying looks like a busy GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
# Told how many GPUs are taken from now on.
Charge = Callable[[int], None]

_PAYS: ContextVar[Charge | None] = ContextVar("pays", default=None)


@contextmanager
def to(charge: Charge) -> Iterator[None]:
    """What the calling thread has computed within is put on this account."""
    token = _PAYS.set(charge)
    try:
        yield
    finally:
        _PAYS.reset(token)


def charged(compute: Callable[P, R]) -> Callable[P, R]:
    """The same, for another thread to call, which puts its time on the calling thread's account."""
    charge = _PAYS.get()
    if charge is None:
        return compute

    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        charge(1)
        try:
            return compute(*args, **kwargs)
        finally:
            charge(0)

    return computed
