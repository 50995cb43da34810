"""Where a generator runs: before the servers where it may, and not on every core."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_PRIORITY = -10


def spared(cpus: frozenset[int]) -> frozenset[int]:
    """Those that a generator takes: all but one where there are more than two.

    On two it would only take from itself: then the priority has to do.
    """
    return cpus - {min(cpus)} if len(cpus) > 2 else cpus


@contextmanager
def first() -> Iterator[None]:
    """Let this thread, and those it starts, go before the servers where we may decide that.

    They leave a core free where there are more than two. A generator that shares its cores with a
    server is late when the server has them, and a late send says nothing about the server.
    """
    with ExitStack() as stack:
        before = os.getpriority(os.PRIO_PROCESS, 0)
        try:
            os.setpriority(os.PRIO_PROCESS, 0, min(before, _PRIORITY))
            stack.callback(os.setpriority, os.PRIO_PROCESS, 0, before)
        except PermissionError:  # not ours to decide
            pass
        cpus = os.sched_getaffinity(0)
        taken = spared(frozenset(cpus))
        if taken != cpus:
            os.sched_setaffinity(0, taken)
            stack.callback(os.sched_setaffinity, 0, cpus)
        yield


def shares(target: str) -> bool:
    """Whether a server at ``host:port`` is on this machine, as far as its address tells."""
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host in ("localhost", socket.gethostname())
