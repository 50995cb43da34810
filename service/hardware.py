"""What this process may use: CPUs by quota and affinity, their flags, and a name for it all."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

# The flags that decide how fast int8 runs, and so which variant wins.
_TELLING_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs this process may keep busy, at least 1.

    The smaller of the CPU affinity mask and the cgroup's quota (v2 ``cpu.max``, v1
    ``cpu.cfs_quota_us``), rounded down: ONNX Runtime sizes its pools from the host instead, and a
    pool larger than the quota is throttled.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup)
    return max(1, min(allowed, int(quota)) if quota else allowed)


def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the cgroup grants, in fractions; None without a quota."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit in ("max", "-1"):
        return None
    return float(limit) / float(period)


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory this process may use: the machine's, or the cgroup's limit where that is smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(total, int((cgroup / name).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return total


@cache
def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n", 1)[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_name() -> str:
    """The CPU's own name for itself, e.g. ``AMD EPYC``."""
    return _cpuinfo().get("model name", platform.machine())


def cpu_flags() -> tuple[str, ...]:
    """Those CPU flags that decide how fast quantized models run."""
    flags = set(_cpuinfo().get("flags", _cpuinfo().get("Features", "")).split())
    return tuple(flag for flag in _TELLING_FLAGS if flag in flags)


def has_vnni() -> bool:
    """Whether int8 dot products run in one instruction, on x86."""
    return bool({"avx_vnni", "avx512_vnni", "amx_int8"} & set(cpu_flags()))


def fingerprint() -> str:
    """A readable name for this kind of CPU; equal names should favour equal variants.

    Without the number of CPUs, so that a model converted on a large machine knows the small
    replica that it is served on.
    """
    info = _cpuinfo()
    family = f"{info.get('cpu family', '')}/{info.get('model', '')}".strip("/")
    parts = (platform.machine(), cpu_name(), family, " ".join(cpu_flags()))
    return ", ".join(part for part in parts if part)
