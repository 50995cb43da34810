"""While work of a GPU is recorded no other thread calls CUDA: who would waits, and so does it.

ONNX Runtime records in CUDA's mode "global": to allocate, to free, to open another process's memory
or to ask whether something is done fails then on every thread of the process, and spoils the
recording (CUDA Runtime API, ``cudaThreadExchangeStreamCaptureMode``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Many who call, or one who records; who is inside may call again."""

    def __init__(self) -> None:
        """Start with nobody inside."""
        self._calling, self._recording, self._wanted = 0, False, 0
        self._changed = threading.Condition()
        self._mine = threading.local()

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Whatever calls CUDA is done within; waits while another thread records."""
        if self._within:
            yield
            return
        with self._changed:
            # A recording goes first, or those who call all the time would keep it out.
            self._changed.wait_for(lambda: not (self._recording or self._wanted))
            self._calling += 1
        self._mine.within = True
        try:
            yield
        finally:
            self._mine.within = False
            with self._changed:
                self._calling -= 1
                self._changed.notify_all()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A recording, once all others have left; not within ``calling``."""
        if self._within:
            raise RuntimeError("who calls CUDA already would wait for itself")
        with self._changed:
            self._wanted += 1
            self._changed.wait_for(lambda: not (self._recording or self._calling))
            self._wanted, self._recording = self._wanted - 1, True
        self._mine.within = True
        try:
            yield
        finally:
            self._mine.within = False
            with self._changed:
                self._recording = False
                self._changed.notify_all()

    @property
    def _within(self) -> bool:
        return getattr(self._mine, "within", False)


_GATE = Gate()
calling, recording = _GATE.calling, _GATE.recording
