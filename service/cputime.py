"""CPU seconds of the front end: of all threads of this process but those that compute.

Those that compute are the executors' (they say so: ``computes``), the pools of ONNX Runtime, and a
thread that loads a model, for as long as it does (``computing``). A pool's threads are none of
Python's and have no name of their own, but that of the thread that made them, which may be gone;
gRPC's have one. All of this is as global as the threads are.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from weakref import WeakKeyDictionary, WeakSet

from service import log

_PROC = Path("/proc/self")
# A thread names itself soon after its birth; whoever has not by then will not.
_LOOKS = 5

_runners: WeakSet[Thread] = WeakSet()
# CPU seconds that a thread spent on loading, and had used when it began with that.
_loading: WeakKeyDictionary[Thread, float] = WeakKeyDictionary()
_since: WeakKeyDictionary[Thread, float] = WeakKeyDictionary()
# What the threads were called that computed, or loaded: what they made is called so too.
_makers: set[bytes] = set()
# Threads that said that they end, with all the CPU seconds that they had used.
_ended: deque[tuple[int, float]] = deque()


def computes() -> None:
    """The calling thread runs models, and does nothing else; for executors to begin with."""
    _runners.add(threading.current_thread())
    _remember_name()


def ends() -> None:
    """The calling thread, one of the front end's, ends now: what it used is not to be lost."""
    _ended.append((threading.get_native_id(), time.thread_time()))


@contextmanager
def computing() -> Iterator[None]:
    """What the calling thread uses within is not the front end's."""
    thread, begun = threading.current_thread(), time.thread_time()
    _since[thread] = begun
    _remember_name()
    try:
        yield
    finally:
        _loading[thread] = _loading.get(thread, 0.0) + time.thread_time() - begun
        del _since[thread]


def _remember_name() -> None:
    """Keep the calling thread's name, which Python gives to the kernel since 3.14."""
    with suppress(OSError):
        _makers.add((_PROC / "task" / str(threading.get_native_id()) / "comm").read_bytes())


class FrontEnd:
    """Adds up what the front end's threads use, those that have ended since included.

    What a thread used after it was last looked at, and before it ended, is not known, unless it
    says that it ends (``ends``). Where the kernel does not tell the CPU seconds of each thread, it
    is those of the main thread, which is the event loop's.
    """

    def __init__(self, proc: Path = _PROC) -> None:
        """Begin at zero; all that its threads have used so far counts with the first look.

        Args:
            proc: what the kernel says of this process.
        """
        self._tasks = str(proc / "task")
        _ended.clear()  # nobody knows what they did before this
        self._told = _tells(proc)
        if not self._told:
            log.warning("the kernel does not tell what threads use: of the front end, only the "
                        "event loop's counts")  # fmt: skip
        self._total = 0.0
        self._seen: dict[int, float] = {}
        self._named: set[int] = set()
        self._looks: dict[int, int] = {}
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """CPU seconds so far."""
        with self._lock:
            if self._told:
                # Where files are short, nothing is known of this moment; the next look sees it all.
                with suppress(OSError, ValueError, IndexError):
                    self._look()
            else:
                self._note(threading.main_thread(), 0, _main_s())
            return self._total

    def _look(self) -> None:
        own = {thread.native_id: thread for thread in threading.enumerate()}
        names: set[bytes] | None = None
        found = [int(name) for name in os.listdir(self._tasks)]
        while _ended:
            tid, used_s = _ended.popleft()
            self._note(None, tid, used_s)
        for tid in found:
            thread = own.get(tid)
            if thread in _runners:
                continue
            if not thread and tid not in self._named:
                if self._looks.get(tid, 0) >= _LOOKS:
                    continue
                if names is None:  # read once, since there may be hundreds of threads
                    names = _makers | {self._name_of(other) for other in own if other}
                if not self._has_name(tid, names):
                    continue
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                self._note(thread, tid, int(self._read(tid, "schedstat").split()[0]) / 1e9)
        for tid in self._seen.keys() - set(found):  # the kernel gives the number to another
            del self._seen[tid]
            self._named.discard(tid)
        for tid in self._looks.keys() - set(found):
            del self._looks[tid]

    def _note(self, thread: Thread | None, tid: int, used_s: float) -> None:
        if thread is not None:
            used_s = min(used_s, _since.get(thread, used_s)) - _loading.get(thread, 0.0)
        before_s = self._seen.get(tid, 0.0)
        # The kernel tells of a running thread a little late.
        if used_s > before_s:
            self._total += used_s - before_s
            self._seen[tid] = used_s

    def _has_name(self, tid: int, names: set[bytes]) -> bool:
        """Whether a thread that is none of Python's has a name that none of Python's has or had."""
        self._looks[tid] = self._looks.get(tid, 0) + 1
        name = self._name_of(tid)
        if not name or name in names:
            return False
        self._named.add(tid)
        return True

    def _name_of(self, tid: int) -> bytes:
        with suppress(FileNotFoundError, ProcessLookupError):
            return self._read(tid, "comm")
        return b""

    def _read(self, tid: int, name: str) -> bytes:
        # Without a file object: this is done on the event loop, for a dozen threads.
        file = os.open(f"{self._tasks}/{tid}/{name}", os.O_RDONLY)
        try:
            return os.read(file, 100)
        finally:
            os.close(file)


def _tells(proc: Path) -> bool:
    """Whether the kernel tells the CPU seconds of each thread: some say 0, or leave it out."""
    try:
        told = [(task / "schedstat").read_text() for task in (proc / "task").iterdir()]
        return any(int(one.split()[0]) for one in told)
    except (OSError, ValueError, IndexError):
        return False


def _main_s() -> float:
    ident = threading.main_thread().ident
    if ident is None or not hasattr(time, "pthread_getcpuclockid"):
        return 0.0
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


def age_s(stat: Path = _PROC / "stat") -> float:
    """Seconds since this process began, within 10 ms; 0 where the kernel does not say.

    Args:
        stat: of this process.
    """
    try:
        # The second field is the program's name in brackets, which may hold anything.
        fields = stat.read_text().rpartition(")")[2].split()
        began_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began_s)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
