"""The check itself, inside the environment that was made for it: tests/gpu, then the table."""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from loadtests import processes
from loadtests.bench import steps
from loadtests.bench.gpu import places, scales
from loadtests.bench.gpu.arguments import ROOT, read
from loadtests.bench.gpu.measuring import Budget, Measuring, Options
from loadtests.bench.gpu.places import Place
from loadtests.bench.gpu.record import PAGE, Record, figures
from service import hardware
from service.errors import FarthingError

_PACKAGES = ("onnxruntime-gpu", "onnxruntime", "nvidia-cudnn-cu13", "nvidia-cublas", "grpcio")
_COLUMNS = 100
_FAILED, _MISSING, _INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests, then measure; see ``arguments``.

    Returns:
        0; 1 if a test failed or something could not be measured; 2 if something is missing; 130
        if it was interrupted.
    """
    given = read(argv)
    console = Console(width=_COLUMNS)
    try:
        price = given.price_usd_per_hour
        place = places.toy(price) if given.toy else places.gpu(given.gpu, price)
    except FarthingError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return _MISSING
    record, budget = Record(machine(place), given.out), Budget(given.budget_s)
    record.write()
    passed = True
    try:
        if "tests" in given.only:
            passed = _tested(record, given, min(given.tests_s, budget.left_s))
            console.print(f"tests/gpu: {record.tests}", markup=False)
        if "table" in given.only:
            _measured(given, Measuring(place, _scale(given), record, budget, Path()), console)
    except KeyboardInterrupt:
        console.print("interrupted: what was measured until now is kept")
        return _INTERRUPTED
    _tell(record, console)
    console.print(f"written to {given.out / PAGE}", markup=False, soft_wrap=True)
    return 0 if passed and not record.left_out else _FAILED


def machine(place: Place) -> list[str]:
    """Lines about where it ran."""
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    price, state = place.usd_per_hour, place.state()
    memory_gib = psutil.virtual_memory().total / 2**30
    return [
        f"device: {place.name}; driver {_driver()}",
        *([f"before: {state}"] if state else []),
        f"host: {hardware.cpus()} CPUs, {memory_gib:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}",
        f"versions: {', '.join(versions)}",
        f"revision: {_revision()}",
        f"price: {f'{price:g} USD per hour' if price else 'not given'}",
        "energy: of the whole GPU, its idle power included"
        if place.joules() is not None
        else "energy: not measured",
    ]


def _driver(told: Path = Path("/proc/driver/nvidia/version")) -> str:
    try:
        found = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", told.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else "unknown"


def _revision() -> str:
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _scale(given: argparse.Namespace) -> scales.Scale:
    return scales.TOY if given.toy else scales.full(hardware.cpus())


def _tested(record: Record, given: argparse.Namespace, seconds: float) -> bool:
    """Run tests/gpu, a toy's as far as they go on the CPU; whether all that ran passed."""
    lines, code = _streamed(_tests(given), seconds)
    record.details = [line for line in lines if line.startswith(("FAILED ", "ERROR ", "SKIPPED "))]
    record.tests = lines[-1].strip("= ") if lines else f"pytest ended with {code}"
    if code is None:
        record.tests = f"ended after {seconds:.0f} s, before they were through"
    record.write()
    return code == 0


def _tests(given: argparse.Namespace) -> list[str]:
    return [
        sys.executable, "-u", "-m", "pytest", "-m", "gpu", "tests/gpu", "-v", "--no-header",
        # Warnings of whatever else is installed there are no failures of ours.
        "--tb=short", "-o", "filterwarnings=default", "-p", "no:cacheprovider",
        "-p", "no:randomly", *(("--stand-in",) if given.toy else (f"--gpu={given.gpu}",)),
    ]  # fmt: skip


def _streamed(command: Sequence[str], seconds: float) -> tuple[list[str], int | None]:
    """Run a command and show what it says; its lines and its code, or None if it took too long."""
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip())
        finally:
            over = not timer.is_alive()
            timer.cancel()
    return [line for line in lines if line], None if over else process.returncode


def _measured(given: argparse.Namespace, measuring: Measuring, console: Console) -> None:
    options = Options(nhwc=given.compare_nhwc, lanes=given.lanes)

    def tell(step: str) -> None:
        console.print(f"{measuring.budget.left_s:5.0f} s left; {step}", markup=False)

    with (
        tempfile.TemporaryDirectory(prefix="farthing-gpu-check-") as directory,
        steps.told(tell),
    ):
        measuring.directory = Path(directory)
        measuring.run(options)


def _tell(record: Record, console: Console) -> None:
    table = Table(title="on a GPU", title_justify="left")
    headings = ("model", "what", "rows/s", "over bare", "p50 ms", "p99 ms", "J/1000", "$/million")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for row in record.rows:
        table.add_row(row.model, row.what, *figures(row))
    console.print(table)
    for goal in record.goals.values():
        measured = "" if goal.figure is None else f"{goal.figure:.2f} "
        console.print(f"{goal.ending}: {goal.name}: {measured}(>= {goal.least:g})", markup=False)
    for line in record.left_out:
        console.print(f"not measured: {line}", markup=False)


if __name__ == "__main__":
    processes.end_with_make()
    sys.exit(main())
