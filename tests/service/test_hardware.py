"""CPUs by quota and affinity, rounded down and never none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import hardware

ALLOWED = len(os.sched_getaffinity(0))


def v2(directory: Path, text: str) -> Path:
    (directory / "cpu.max").write_text(text)
    return directory


def v1(directory: Path, quota: str, period: str = "100000") -> Path:
    (directory / "cpu").mkdir()
    (directory / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (directory / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    return directory


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [
        (50_000, 100_000, 1),
        (1_000, 100_000, 1),
        (100_000, 100_000, 1),
        (150_000, 100_000, 1),
        (200_000, 100_000, min(2, ALLOWED)),
        (20_000, 10_000, min(2, ALLOWED)),
        (100_000_000, 100_000, ALLOWED),
    ],
)
def test_quota_is_rounded_down_but_never_to_none(
    tmp_path: Path, quota: int, period: int, cpus: int
) -> None:
    (tmp_path / "old").mkdir()
    assert hardware.cpus(v2(tmp_path, f"{quota} {period}\n")) == cpus
    assert hardware.cpus(v1(tmp_path / "old", str(quota), str(period))) == cpus


def test_group_without_a_limit_may_use_its_affinity(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    assert hardware.cpus(v2(tmp_path, "max 100000\n")) == ALLOWED
    assert hardware.cpus(v1(tmp_path / "old", "-1")) == ALLOWED


@pytest.mark.parametrize(
    ("text", "cores"),
    [("50000 100000", 0.5), ("150000 100000", min(1.5, ALLOWED)), ("max 100000", ALLOWED)],
)
def test_cores_that_are_paid_for_are_counted_in_fractions(
    tmp_path: Path, text: str, cores: float
) -> None:
    assert hardware.cores(v2(tmp_path, text)) == cores


def test_machine_without_cgroups_may_use_its_affinity(tmp_path: Path) -> None:
    assert hardware.cpus(tmp_path / "nothing") == ALLOWED


def test_newer_quota_counts_where_both_are_there(tmp_path: Path) -> None:
    v1(tmp_path, "100000000")
    assert hardware.cpus(v2(tmp_path, "50000 100000\n")) == 1


@pytest.mark.parametrize("text", ["", "max"])
def test_unreadable_quota_is_no_quota(tmp_path: Path, text: str) -> None:
    assert hardware.cpus(v2(tmp_path, text)) == ALLOWED


def grouped(directory: Path, *lines: str) -> Path:
    path = directory / "membership"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("own", "above", "quota"),
    [("150000", "max", 1.5), ("max", "50000", 0.5), ("50000", "90000", 0.5), ("max", "max", None)],
)
def test_smallest_quota_of_the_own_group_and_those_above_counts(
    tmp_path: Path, own: str, above: str, quota: float | None
) -> None:
    slice_ = tmp_path / "system.slice"
    (slice_ / "farthing.service").mkdir(parents=True)
    v2(slice_, f"{above} 100000\n")
    v2(slice_ / "farthing.service", f"{own} 100000\n")
    lines = grouped(tmp_path, "0::/system.slice/farthing.service")
    assert hardware.cpu_quota(tmp_path, lines) == quota


def test_older_quota_of_the_own_group_counts(tmp_path: Path) -> None:
    own = tmp_path / "cpu" / "docker" / "abc"
    own.mkdir(parents=True)
    (own / "cpu.cfs_quota_us").write_text("150000\n")
    (own / "cpu.cfs_period_us").write_text("100000\n")
    other = grouped(tmp_path, "5:memory:/docker/abc")
    assert hardware.cpu_quota(tmp_path, other) is None
    lines = grouped(tmp_path, "5:memory:/", "4:cpu,cpuacct:/docker/abc")
    assert hardware.cpu_quota(tmp_path, lines) == 1.5


@pytest.mark.parametrize("line", ["0::/../../elsewhere", "nonsense", "", "0::/not/there"])
def test_group_that_cannot_be_seen_is_passed_over(tmp_path: Path, line: str) -> None:
    v2(tmp_path, "150000 100000\n")
    assert hardware.cpu_quota(tmp_path, grouped(tmp_path, line)) == 1.5


@pytest.mark.skipif(ALLOWED < 2, reason="one CPU cannot be narrowed")
def test_affinity_which_a_cpuset_narrows_counts_beside_the_quota(tmp_path: Path) -> None:
    v2(tmp_path, "10000000 100000\n")
    code = (
        "import os, sys; from pathlib import Path; from service import hardware;"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "print(hardware.cpus(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_fingerprint_is_stable_and_names_the_cpu_and_its_flags() -> None:
    mark = hardware.fingerprint()
    assert mark == hardware.fingerprint()
    assert hardware.cpu_name() in mark
    assert all(flag in mark for flag in hardware.cpu_flags())
    assert "cpus" not in mark, "a small replica must know what a large machine converted"
