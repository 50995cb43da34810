"""A GPU that fell over: no run of this process will succeed again, so that it must be started anew.

CUDA keeps some errors until the process ends, and answers each later call with them (CUDA Runtime
API, ``cudaError_t``: "the process must be terminated and relaunched"). Unproven: it never met a
GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from threading import Lock

from service import log, recording
from service.cuda import CudaFailed, Memory

# ONNX Runtime tells the number, ``cuda`` the name.
_LASTING = re.compile(
    r"CUDA failure (214|700|702|71[0-9])\b|cudaError(ECCUncorrectable|IllegalAddress|LaunchTimeout|"
    r"Assert|HardwareStackError|IllegalInstruction|MisalignedAddress|InvalidAddressSpace|InvalidPc|"
    r"LaunchFailure)\b"
)


class Guard:
    """Hears of runs that failed, from any thread; tells once that a GPU has fallen over."""

    def __init__(self) -> None:
        """Hear nothing before ``arm``."""
        self._lock = Lock()
        self._probe: Callable[[], str] | None = None
        self._fell: Callable[[], object] | None = None

    def arm(self, probe: Callable[[], str], fell: Callable[[], object]) -> None:
        """Hear from now on, until one fell.

        Args:
            probe: what the GPUs themselves say: the error, or nothing. A caller's own text may
                stand in an exception, so that alone proves nothing.
            fell: called once, on the thread of the run that failed.
        """
        with self._lock:
            self._probe, self._fell = probe, fell

    def disarm(self) -> None:
        """Hear nothing any more."""
        with self._lock:
            self._probe = self._fell = None

    def heard(self, error: BaseException) -> None:
        """Look at why a run failed."""
        if self._probe is None or not _LASTING.search(str(error)):
            return
        with self._lock:
            probe, fell = self._probe, self._fell
            if probe is None or fell is None or not (said := probe()):
                return
            self._probe = self._fell = None
        log.warning("a GPU fell over, and no run will succeed before this process is started anew: "
                    "it says so to liveness probes", reason=said)  # fmt: skip
        fell()


def asked(gpus: Sequence[Memory]) -> str:
    """What the first GPU answers that answers with an error; empty where none does."""
    for gpu in gpus:
        try:
            with recording.calling():
                stream = gpu.stream()
                gpu.copies([], stream)
                gpu.ended(stream)
        except CudaFailed as error:
            return str(error)
    return ""


GUARD = Guard()
