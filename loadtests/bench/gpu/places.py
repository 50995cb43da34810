"""Where the check runs: a GPU, or the CPU in its place, so that all but the GPU is tested."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from service import machine, nvml
from service.devices import CPU, CUDA, Device


def _unmeasured() -> float | None:
    return None


HEURISTIC, EXHAUSTIVE = "HEURISTIC", "EXHAUSTIVE"


@dataclass(frozen=True)
class Way:
    """How CUDA's provider is asked to run a graph.

    Attributes:
        nhwc: convolutions have their channels last.
        tf32: fp32 may be rounded for tensor cores. The server says no of graphs in fp32 and says
            nothing of graphs in fp16, whose convolutions may lose their tensor cores by it.
        search: of cuDNN's algorithms.
    """

    nhwc: bool = False
    tf32: bool = False
    search: str = HEURISTIC


@dataclass(frozen=True)
class Place:
    """A device, and what meters it.

    Attributes:
        device: where all of it runs.
        name: e.g. ``NVIDIA H200``.
        joules: what the device has used since its driver was loaded; None where nothing tells.
        usd_per_hour: its price; 0 where none is given.
        state: whether others use it now, and whether its clocks are lowered; empty if unknown.
    """

    device: Device = CPU
    name: str = "CPU in a GPU's place"
    joules: Callable[[], float | None] = field(default=_unmeasured)
    usd_per_hour: float = 0.0
    state: Callable[[], str] = lambda: ""

    def providers(self, way: Way) -> list[Any]:
        """ONNX Runtime's providers for bare runs."""
        if not self.device.is_gpu:
            return ["CPUExecutionProvider"]
        options = {
            "device_id": str(self.device.index),
            "use_tf32": str(int(way.tf32)),
            "cudnn_conv_algo_search": way.search,
            "prefer_nhwc": str(int(way.nhwc)),
        }
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]

    def serve(self) -> tuple[str, ...]:
        """What `farthing serve` is told about it."""
        return ("--device", str(self.device)) if self.device.is_gpu else ()

    def usd_per_million(self, rows_per_s: float) -> float | None:
        """Dollars of a million rows at this rate; None without a price."""
        if not self.usd_per_hour or rows_per_s <= 0:
            return None
        return self.usd_per_hour / 3600 / rows_per_s * 1e6


def gpu(index: int, usd_per_hour: float) -> Place:
    """That GPU, metered by NVIDIA's management library where that answers.

    Raises:
        InvalidSetting: ONNX Runtime cannot run a node on it, and what is missing.
    """
    (one,) = machine.found(str(Device(CUDA, index))).gpus
    compute = ".".join(map(str, one.compute))
    name = f"{one.name}, {one.memory_bytes / 2**30:.0f} GiB, compute {compute}"
    place = Place(Device(CUDA, index), name, usd_per_hour=usd_per_hour)
    with suppress(nvml.NvmlFailed):
        (card,) = nvml.cards([(one.index, one.uuid)])
        place = replace(place, joules=lambda: card.read().energy_j, state=lambda: told(card.read()))
    return place


def told(reading: nvml.Reading) -> str:
    """What of a card's state may show in figures."""
    parts = []
    if reading.busy is not None:
        parts.append(f"{reading.busy:.0%} busy")
    if reading.memory_used_bytes is not None:
        parts.append(f"{reading.memory_used_bytes / 2**30:.1f} GiB in use")
    if reading.celsius is not None:
        parts.append(f"{reading.celsius:.0f} °C")
    if reading.power_limit_w is not None:
        parts.append(f"limited to {reading.power_limit_w:.0f} W")
    if reading.slowed:
        parts.append(f"clocks lowered by {' and '.join(reading.slowed)}")
    return ", ".join(parts)


def toy(usd_per_hour: float) -> Place:
    """The CPU in a GPU's place, with an invented meter of 100 watts, so that its figures show."""
    return Place(joules=lambda: 100 * time.monotonic(), usd_per_hour=usd_per_hour)
