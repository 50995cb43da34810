"""GPUs that tell what a test says, and the management library as far as the service asks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

from service.nvml import Reading

MIB = 2**20
TOLD = Reading(
    busy=0.5, memory_bytes=1024 * MIB, memory_used_bytes=256 * MIB, own_bytes=128 * MIB,
    power_w=250.0, power_limit_w=700.0, energy_j=1000.0, celsius=61.0, slowed=("heat",),
    ecc_errors=2,
)  # fmt: skip


@dataclass
class FakeCard:
    """``service.nvml.Card``: tells what ``now`` holds."""

    now: Reading
    index: int = 0
    uuid: str = "GPU-0"
    name: str = "NVIDIA T4"
    looks: int = 0

    def read(self) -> Reading:
        self.looks += 1
        return self.now


@dataclass
class FakeNvml:
    """The library with one card; what ``lacks`` names is not supported, as on old ones.

    Attributes:
        uuid: that it knows.
        lacks: names of its functions.
        init: raised by nvmlInit, if anything.
    """

    uuid: str = "GPU-0"
    lacks: set[str] = field(default_factory=set)
    init: Exception | None = None
    pid: int = 0
    bits: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)  # constants and errors are the library's own

    def nvmlInit(self) -> None:
        if self.init is not None:
            raise self.init

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != self.uuid:
            raise pynvml.NVMLError_NotFound
        return uuid

    def nvmlDeviceGetName(self, handle: str) -> Any:
        return self._of("nvmlDeviceGetName", "NVIDIA T4")

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return self._of("nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=73, memory=20))

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        memory = SimpleNamespace(total=1024 * MIB, used=256 * MIB, free=768 * MIB)
        return self._of("nvmlDeviceGetMemoryInfo", memory)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> Any:
        mine = SimpleNamespace(pid=self.pid, usedGpuMemory=128 * MIB)
        other = SimpleNamespace(pid=-1, usedGpuMemory=64 * MIB)
        return self._of("nvmlDeviceGetComputeRunningProcesses", [other, mine])

    def nvmlDeviceGetPowerUsage(self, handle: str) -> Any:
        return self._of("nvmlDeviceGetPowerUsage", 250_500)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> Any:
        return self._of("nvmlDeviceGetEnforcedPowerLimit", 700_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> Any:
        return self._of("nvmlDeviceGetTotalEnergyConsumption", 1_234_500)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> Any:
        return self._of("nvmlDeviceGetTemperature", 61)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> Any:
        return self._of("nvmlDeviceGetCurrentClocksEventReasons", self.bits)

    def nvmlDeviceGetTotalEccErrors(self, handle: str, kind: int, counter: int) -> Any:
        return self._of("nvmlDeviceGetTotalEccErrors", 2)

    def _of(self, name: str, value: Any) -> Any:
        if name in self.lacks:
            raise pynvml.NVMLError_NotSupported
        return value
