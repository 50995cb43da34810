"""What was seen of the process's GPUs, under our names and under Triton's.

What a card does not tell has no sample: a zero would be believed. Figures are of the whole card,
whoever else uses it; only a model's own share is in the ledger's metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.core import UnknownMetricFamily as Untyped

from service.gpuwatch import Seen
from service.nvml import SLOWED_BY

_GPU = ("gpu", "uuid")
_Value = Callable[[Seen], float | None]
_GAUGES: dict[str, tuple[str, _Value]] = {
    "farthing_gpu_busy_ratio": (
        "Share of the last second or less in which any process ran on the GPU, 0 to 1. 1 says "
        "that it never rested, not that no more would fit.",
        lambda seen: seen.now.busy,
    ),
    "farthing_gpu_memory_bytes": ("All of its memory.", lambda seen: seen.now.memory_bytes),
    "farthing_gpu_memory_used_bytes": (
        "Of it, used by anybody.", lambda seen: seen.now.memory_used_bytes,
    ),
    "farthing_gpu_own_memory_bytes": (
        "Of it, used by this process; absent in most containers, which do not see it.",
        lambda seen: seen.now.own_bytes,
    ),
    "farthing_gpu_power_watts": ("What it draws now.", lambda seen: seen.now.power_w),
    "farthing_gpu_power_limit_watts": (
        "Where its clocks are lowered.", lambda seen: seen.now.power_limit_w,
    ),
    "farthing_gpu_temperature_celsius": ("Of the chip.", lambda seen: seen.now.celsius),
    "farthing_gpu_ecc_errors": (
        "Errors of its memory that were not corrected, since its driver was loaded.",
        lambda seen: seen.now.ecc_errors,
    ),
}  # fmt: skip
_COUNTERS: dict[str, tuple[str, _Value]] = {
    "farthing_gpu_watched_seconds": (
        "Seconds that the next two cover. It stands still where the driver does not answer.",
        lambda seen: seen.seconds,
    ),
    "farthing_gpu_busy_seconds": (
        "Seconds in which any process ran on the GPU, as sampled.", lambda seen: seen.busy_s,
    ),
}  # fmt: skip
# Names, units and the one label are Triton's, and so is the missing _total.
_TRITON: dict[str, tuple[str, _Value]] = {
    "nv_gpu_utilization": ("Share of the time that it was busy.", lambda seen: seen.now.busy),
    "nv_gpu_memory_total_bytes": ("All of its memory.", lambda seen: seen.now.memory_bytes),
    "nv_gpu_memory_used_bytes": ("Of it, used.", lambda seen: seen.now.memory_used_bytes),
    "nv_gpu_power_usage": ("Watts that it draws.", lambda seen: seen.now.power_w),
    "nv_gpu_power_limit": ("Watts that it may draw.", lambda seen: seen.now.power_limit_w),
}
_TRITON_ENERGY = "nv_energy_consumption"


def metrics(seen: Sequence[Seen]) -> Iterator[Metric]:
    """All of them; nothing where no GPU is watched."""
    if not seen:
        return
    for name, (text, value) in _GAUGES.items():
        yield _filled(GaugeMetricFamily(name, text, labels=_GPU), seen, value)
    for name, (text, value) in _COUNTERS.items():
        yield _filled(CounterMetricFamily(name, text, labels=_GPU), seen, value)
    yield _energy(seen)
    about = GaugeMetricFamily("farthing_gpu_info", "1; what it is.", labels=(*_GPU, "name"))
    for each in seen:
        about.add_metric((*_labels(each), each.name), 1.0)
    yield about
    yield _slowed(seen)
    for name, (text, value) in _TRITON.items():
        gauge = GaugeMetricFamily(name, text, labels=("gpu_uuid",))
        for each in seen:
            if (figure := value(each)) is not None:
                gauge.add_metric((each.uuid,), figure)
        yield gauge
    joules = Untyped(_TRITON_ENERGY, "Joules since the server started.", labels=("gpu_uuid",))
    for each in seen:
        if each.energy_j is not None:
            joules.add_metric((each.uuid,), each.energy_j)
    yield joules


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, seen: Sequence[Seen], value: _Value
) -> Metric:
    for each in seen:
        if (figure := value(each)) is not None:
            family.add_metric(_labels(each), figure)
    return family


def _energy(seen: Sequence[Seen]) -> Metric:
    joules = CounterMetricFamily(
        "farthing_gpu_energy_joules",
        "Energy since the server began to watch: by the card's own counter (how: counter), or "
        "where it has none by its power, sampled twice a second (how: power).",
        labels=(*_GPU, "how"),
    )
    for each in seen:
        if each.energy_j is not None:
            how = "counter" if each.counted else "power"
            joules.add_metric((*_labels(each), how), each.energy_j)
    return joules


def _slowed(seen: Sequence[Seen]) -> Metric:
    slowed = GaugeMetricFamily(
        "farthing_gpu_slowed",
        "1 while its clocks are lowered by its power limit, by heat, or by its hardware.",
        labels=(*_GPU, "reason"),
    )
    for each in seen:
        for reason in SLOWED_BY if each.now.slowed is not None else ():
            slowed.add_metric((*_labels(each), reason), float(reason in (each.now.slowed or ())))
    return slowed


def _labels(seen: Seen) -> tuple[str, str]:
    return str(seen.index), seen.uuid
