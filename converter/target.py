"""What a conversion is for: the CPU or the GPU that its variants are judged on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from converter import speed
from service import hardware, machine
from service.devices import AUTO, CPU, TENSORRT, Device
from service.manifest import Figures
from service.session import RunFailed, Session, SessionOptions

# On a GPU a single row is the time of launches, which precision hardly changes: there it is enough
# not to be slower, but for noise.
_AS_FAST = 0.95


@dataclass(frozen=True)
class Target:
    """A device, and what is judged there.

    Attributes:
        device: that the variants run on.
        name: of the GPU, e.g. ``NVIDIA H200``; empty on a CPU.
        fingerprint: by which servers find what was recorded on it.
    """

    device: Device
    name: str
    fingerprint: str

    @property
    def options(self) -> SessionOptions:
        """Of each session that is judged."""
        if not self.device.is_gpu:
            return SessionOptions()
        return SessionOptions(
            devices=(self.device,), max_rows=max(speed.GPU_BATCHES),
            cuda_graphs=None,  # recorded where a server that is told nothing records
        )  # fmt: skip

    def session(self, path: Path) -> Session:
        """A graph, ready to run there as servers run it: on a GPU through lanes.

        Raises:
            ModelUnusable: it cannot be loaded there.
        """
        session = Session(path, self.options)
        if self.device.is_gpu:
            with suppress(RunFailed):  # on zeros; real rows then go the plain way
                session.warm_up(max(self.batches))
        return session

    @contextmanager
    def opened(self, path: Path) -> Iterator[Session]:
        """A graph, for as long as it is judged: it holds a GPU's memory.

        Raises:
            ModelUnusable: it cannot be loaded there.
        """
        session = self.session(path)
        try:
            yield session
        finally:
            if self.device.is_gpu:
                session.close()

    @property
    def batches(self) -> tuple[int, ...]:
        """At which variants are timed beside fp32."""
        return speed.GPU_BATCHES if self.device.is_gpu else speed.BATCHES

    @property
    def warm(self) -> int:
        """Runs before each timing."""
        return 3 if self.device.is_gpu else 0

    @property
    def told(self) -> str:
        """What to call it in a sentence."""
        if not self.device.is_gpu:
            return "this CPU"
        through = "TensorRT" if self.device.kind == TENSORRT else "CUDA"
        return f"{self.device} ({self.name}, {through})"

    def least(self, figures: Figures) -> float:
        """The ratio over fp32 that decides: of a GPU that of more than one row."""
        if not self.device.is_gpu:
            return speed.least(figures)
        return min(figures[f"speedup_batch_{batch}_low"] for batch in speed.batches_in(figures)[1:])

    def pays(self, figures: Figures, asked: float) -> bool:
        """Whether something is so many times as fast as fp32 here."""
        if self.device.is_gpu and figures["speedup_batch_1_low"] < min(asked, _AS_FAST):
            return False
        return self.least(figures) >= asked


def this_cpu() -> Target:
    """The CPU that this process runs on."""
    return Target(CPU, "", hardware.fingerprint())


def target_of(device: str = AUTO) -> Target:
    """What ``--device`` comes to here; of several GPUs the first.

    Raises:
        InvalidSetting: it names a GPU that cannot be had, with what is missing.
    """
    here = machine.found(device)
    first, name = here.devices[0], here.gpus[0].name if here.gpus else ""
    return Target(first, name, here.fingerprint([first]))
