"""The only room of NVIDIA's management library: what a GPU does, draws, holds and suffers from.

A card tells what it can: what an old one, a slice of one (MIG) or its driver does not know is None.
What is asked for is small, so that tests put a card of their own in its place (tests/cards.py).
Units of the library are those of its reference: milliwatts, millijoules, percent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from service.errors import FarthingError

# Bits of the library's "clocks event reasons" that cost speed, by what an operator can do about
# them: give it more watts, cool it, or look at its power supply.
_SLOWED = {
    "power": ("SwPowerCap",),
    "heat": ("SwThermalSlowdown", "HwThermalSlowdown"),
    "hardware": ("HwSlowdown", "HwPowerBrakeSlowdown"),
}
SLOWED_BY = tuple(_SLOWED)


class NvmlFailed(FarthingError):
    """The management library is not there, or does not know a GPU."""


@dataclass(frozen=True)
class Reading:
    """One GPU at one moment; None is what it does not tell. All processes that use it are in it.

    Attributes:
        busy: share of the library's last sample (a second or less) in which a kernel ran, 0 to 1.
        memory_bytes: all of its memory.
        memory_used_bytes: of it, by anybody.
        own_bytes: of it, by this process; not told in most containers.
        power_w: that it draws now.
        power_limit_w: at which its clocks are lowered.
        energy_j: since its driver was loaded; Volta and later.
        celsius: of the chip.
        slowed: why its clocks are lowered now, of ``SLOWED_BY``.
        ecc_errors: that were not corrected, since its driver was loaded.
    """

    busy: float | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    own_bytes: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    celsius: float | None = None
    slowed: tuple[str, ...] | None = None
    ecc_errors: int | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of what is not told."""
        names = (each.name for each in fields(self))
        return tuple(name for name in names if getattr(self, name) is None)


class Card(Protocol):
    """One GPU, as somebody who watches it sees it."""

    @property
    def index(self) -> int:
        """As CUDA counts those that this process sees."""

    @property
    def uuid(self) -> str:
        """As nvidia-smi writes it."""

    @property
    def name(self) -> str:
        """E.g. ``NVIDIA H200``; empty where it is not told."""

    def read(self) -> Reading:
        """How it is now; a few calls of less than a millisecond each. Never raises."""


class NvmlCard:
    """A real one."""

    def __init__(self, index: int, uuid: str, handle: Any, library: Any) -> None:
        """Name it, by the library's handle."""
        self.index, self.uuid = index, uuid
        self._handle, self._nvml = handle, library
        self.name = str(self._told(lambda: library.nvmlDeviceGetName(handle)) or "")

    def read(self) -> Reading:
        """How it is now; never raises."""
        nvml, handle = self._nvml, self._handle
        memory = self._told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        return Reading(
            busy=self._told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            memory_bytes=self._told(lambda: int(memory.total)),
            memory_used_bytes=self._told(lambda: int(memory.used)),
            own_bytes=self._told(self._own),
            power_w=self._told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            power_limit_w=self._told(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            energy_j=self._told(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
            celsius=self._told(
                lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
            ),
            slowed=self._told(self._slowed),
            ecc_errors=self._told(
                lambda: int(nvml.nvmlDeviceGetTotalEccErrors(
                    handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                ))
            ),
        )  # fmt: skip

    def _own(self) -> int | None:
        processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        return next((each.usedGpuMemory for each in processes if each.pid == os.getpid()), None)

    def _slowed(self) -> tuple[str, ...]:
        nvml = self._nvml
        bits = nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle)
        return tuple(
            why
            for why, names in _SLOWED.items()
            if any(bits & getattr(nvml, f"nvmlClocksEventReason{name}") for name in names)
        )

    def _told(self, ask: Callable[[], Any]) -> Any:
        """An answer; None where the card, its driver or its kind does not know.

        Nor is an answer that cannot be understood one: drivers give such, and no figure is worth
        the others.
        """
        try:
            return ask()
        except Exception:
            return None


def cards(gpus: Sequence[tuple[int, str]], library: Any = None) -> tuple[NvmlCard, ...]:
    """These GPUs, for as long as the process lives.

    Args:
        gpus: index, as CUDA counts, and uuid of each. CUDA and the library count in other orders,
            so that only the uuid tells which one is meant.
        library: ``pynvml``, or what stands in for it.

    Raises:
        NvmlFailed: the library or the driver is missing, or knows no such GPU, in one sentence.
    """
    nvml = library or _library()
    try:
        nvml.nvmlInit()
        return tuple(NvmlCard(index, uuid, _handle(nvml, uuid), nvml) for index, uuid in gpus)
    except Exception as error:  # of another pynvml than ours too: models run without figures
        raise NvmlFailed(
            f"the GPUs cannot be watched, since NVIDIA's management library says: {error}"
        ) from error


def _handle(nvml: Any, uuid: str) -> Any:
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except (nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
        # CUDA tells a slice's id without the letters that the library wants before it.
        return nvml.nvmlDeviceGetHandleByUUID(uuid.replace("GPU-", "MIG-", 1))


def _library() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise NvmlFailed(
            f"the GPUs cannot be watched, since pynvml cannot be imported ({error}); pip install "
            "'farthing[gpu]'"
        ) from error
    return pynvml
