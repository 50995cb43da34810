"""What this process may use: CPUs by quota and affinity, their flags, and a name for it all."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# The flags that decide how fast int8 runs, and so which variant wins.
_TELLING_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


# Where the kernel says which control groups this process is in.
_MEMBERSHIP = Path("/proc/self/cgroup")


def cpus(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = _MEMBERSHIP) -> int:
    """Whole CPUs this process may keep busy, at least 1.

    The smaller of the CPU affinity mask (which a cpuset narrows) and the cgroups' quota (v2
    ``cpu.max``, v1 ``cpu.cfs_quota_us``), rounded down: ONNX Runtime sizes its pools from the host
    instead, and a pool larger than the quota is throttled.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroup, membership)
    return max(1, min(allowed, int(quota)) if quota else allowed)


def cores(cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = _MEMBERSHIP) -> float:
    """CPUs that this process may keep busy; as ``cpus``, but in fractions, and below 1 too."""
    allowed = float(len(os.sched_getaffinity(0)))
    return min(allowed, cpu_quota(cgroup, membership) or allowed)


def cpu_quota(
    cgroup: Path = Path("/sys/fs/cgroup"), membership: Path = _MEMBERSHIP
) -> float | None:
    """CPUs that the cgroups grant, in fractions; None without a quota.

    The least of this process's own group and of all that it lies in. In a container the own group
    is what is mounted as the root; under systemd it is some levels below.

    Args:
        cgroup: where the groups are mounted.
        membership: lines of ``hierarchy:controllers:path``.
    """
    groups = list(dict.fromkeys(_groups(cgroup, membership)))
    found = [quota for group in groups if (quota := _quota_v2(group)) is not None]
    if not any((group / "cpu.max").exists() for group in groups):
        mounted = cgroup / "cpu"
        groups = list(dict.fromkeys(_groups(mounted, membership)))
        found = [quota for group in groups if (quota := _quota_v1(group)) is not None]
    return min(found, default=None)


def _groups(mounted: Path, membership: Path) -> Iterator[Path]:
    yield mounted
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = [part for part in path.split("/") if part]
        if ".." not in parts:  # above what this container sees
            yield from (mounted.joinpath(*parts[:n]) for n in range(1, len(parts) + 1))


def _quota_v2(group: Path) -> float | None:
    try:
        limit, period = (group / "cpu.max").read_text().split()
        return None if limit == "max" else float(limit) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        limit = float((group / "cpu.cfs_quota_us").read_text())
        period = float((group / "cpu.cfs_period_us").read_text())
        return None if limit < 0 else limit / period
    except (OSError, ValueError, ZeroDivisionError):
        return None


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
