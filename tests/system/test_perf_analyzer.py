"""Triton's own load generator against the server: it gets answers, and the server's own times."""

from __future__ import annotations

import csv
import os
import platform
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import models
from tests.system.callers import figures
from tests.system.servers import Served, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="its wheel is for x86-64 only"),
]

# A wheel with the binary in it, and the library that it wants even without a GPU.
WHEELS = ("tritonclient==2.48.0", "nvidia-cuda-runtime-cu12==12.9.79")
BINARY = "tritonclient-2.48.0.data/data/bin/perf_analyzer"
LIBRARIES = "nvidia/cuda_runtime/lib"
TIMES = ("Server Queue", "Server Compute Input", "Server Compute Infer", "Server Compute Output")
UP_TO_16 = ("--concurrency-range", "1:16")


@dataclass(frozen=True)
class Analyzer:
    """The unpacked binary, and where its library is."""

    directory: Path

    def run(self, served: Served, report: Path, *options: str) -> tuple[list[dict[str, int]], str]:
        """Put load on the server; a row of the report for each concurrency, and what it said.

        The windows are too short for steady figures, so any are taken for steady.
        """
        command = [
            str(self.directory / BINARY), "-i", "grpc", "-u", served.grpc,
            "--measurement-interval", "200", "--stability-percentage", "900", "--max-trials", "4",
            "-v", "-f", str(report), *options,
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=200, check=False,
            env=os.environ | {"LD_LIBRARY_PATH": str(self.directory / LIBRARIES)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        with report.open(newline="") as file:
            rows = [
                {key: int(float(value)) for key, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
        return sorted(rows, key=lambda row: row["Concurrency"]), done.stdout + done.stderr


@pytest.fixture(scope="module")
def analyzer(tmp_path_factory: pytest.TempPathFactory) -> Analyzer:
    directory = tmp_path_factory.mktemp("perf_analyzer")
    # Of its own, since the environment holds another tritonclient.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest",
               str(directory), *WHEELS]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    for wheel in directory.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            wanted = [n for n in archive.namelist() if n == BINARY or n.startswith(LIBRARIES)]
            archive.extractall(directory, wanted)
    (directory / BINARY).chmod(stat.S_IRWXU)
    return Analyzer(directory)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("models")
    models.double(root / "double" / "1" / "model.onnx")
    models.not_batched(root / "sum" / "1" / "model.onnx")
    with serving(root, "--control", "shared-memory") as server:
        yield server


@pytest.mark.parametrize("streaming", [(), ("--streaming",)], ids=["unary", "streaming"])
@pytest.mark.parametrize("model", [("double",), ("sum", "--shape", "x:4")], ids=["rows", "no rows"])
def test_it_reports_the_servers_times_at_each_concurrency(
    analyzer: Analyzer,
    served: Served,
    tmp_path: Path,
    model: tuple[str, ...],
    streaming: tuple[str, ...],
) -> None:
    name = model[0]
    before = figures(served, model=name)
    rows, said = analyzer.run(served, tmp_path / "csv", "-m", *model, *UP_TO_16, *streaming)
    assert [row["Concurrency"] for row in rows] == list(range(1, 17))
    for row in rows:
        assert row["Inferences/Second"] > 0
        assert all(time in row for time in TIMES)
        assert row["Server Compute Infer"] > 0
    # Runs of ``double`` stay on the event loop, where there is no queue.
    assert rows[-1]["Server Queue"] > 0 or name == "double"
    assert said.count("Avg request latency") == 16
    assert "rror" not in said
    after = figures(served, model=name)
    assert after["nv_inference_count"] > before["nv_inference_count"]
    assert after["nv_inference_request_failure"] == before["nv_inference_request_failure"]


def test_several_rows_a_request_are_counted_as_rows(
    analyzer: Analyzer, served: Served, tmp_path: Path
) -> None:
    before = figures(served, model="double")
    rows, _ = analyzer.run(
        served, tmp_path / "csv", "-m", "double", "-b", "4", "--concurrency-range", "4"
    )
    assert [row["Concurrency"] for row in rows] == [4]
    after = figures(served, model="double")
    requests, counted = (
        after[f"nv_inference_{what}"] - before[f"nv_inference_{what}"]
        for what in ("request_success", "count")
    )
    assert counted == 4 * requests > 0


def test_it_may_send_through_shared_memory(
    analyzer: Analyzer, served: Served, tmp_path: Path
) -> None:
    options = ("-m", "double", "--shared-memory", "system", "--concurrency-range", "4")
    rows, _ = analyzer.run(served, tmp_path / "csv", *options)
    assert rows[0]["Inferences/Second"] > 0
    assert rows[0]["Server Compute Infer"] > 0
