"""Where a generator runs: before the servers where it may, and not on every core."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

_PRIORITY = -10
_AUTOGROUP = Path("/proc/self/autogroup")


def spared(cpus: frozenset[int]) -> frozenset[int]:
    """Those that a generator takes: all but one where there are more than two.

    On two it would only take from itself: then the priority has to do.
    """
    return cpus - {min(cpus)} if len(cpus) > 2 else cpus


@contextmanager
def first() -> Iterator[None]:
    """Let this process go before the servers where we may decide that.

    It leaves a core free where there are more than two. A generator that shares its cores with a
    server is late when the server has them, and a late send says nothing about the server. That
    goes for all threads: one that is preempted with the interpreter's lock holds up the others.
    """
    before, cpus = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)
    taken = spared(frozenset(cpus))
    with session_first():
        try:
            _each(lambda thread: os.setpriority(os.PRIO_PROCESS, thread, min(before, _PRIORITY)))
            _each(lambda thread: os.sched_setaffinity(thread, taken))
            yield
        finally:
            _each(lambda thread: os.setpriority(os.PRIO_PROCESS, thread, before))
            _each(lambda thread: os.sched_setaffinity(thread, cpus))


@contextmanager
def session_first() -> Iterator[None]:
    """Let this session go before others, where the kernel groups processes by session.

    There (autogroup, usual on desktops) a process' own priority counts only among those of its
    session, and a server that was started in another terminal would get half of the cores.
    """
    try:
        before = int(_AUTOGROUP.read_text().rpartition(" ")[2])
        raised = before > _PRIORITY  # else whoever raised it puts it back
        if raised:
            _AUTOGROUP.write_text(str(_PRIORITY))
    except (OSError, ValueError):  # no such kernel, or it is not ours to decide
        raised = False
    try:
        yield
    finally:
        if raised:
            with suppress(OSError):
                _AUTOGROUP.write_text(str(before))


def shares(target: str) -> bool:
    """Whether a server at ``host:port`` is on this machine, as far as its address tells.

    Its address is one of ours if we could listen there ourselves: loopback, any other of this
    machine's, and 0.0.0.0, which is a server that listens on all of them. Of a name one of its
    addresses must be; a name that nobody knows is another machine's.
    """
    return _is_ours(target.rpartition(":")[0].strip("[]"))


@cache  # a name may take a while, and asks others
def _is_ours(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    return any(_is_bindable(family, address) for family, *_, address in found)


def _is_bindable(family: int, address: tuple[Any, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as taken:
            taken.bind(address)
    except OSError:
        return False
    return True


def _each(change: Callable[[int], None]) -> None:
    """Change all threads of this process; those that start later inherit it."""
    for task in Path("/proc/self/task").iterdir():
        # It ended meanwhile, or it is not ours to decide.
        with suppress(ProcessLookupError, PermissionError):
            change(int(task.name))
