"""SIGINT at any moment: no process, no half-published model, no bound port is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.system.conftest import Digits
from tests.system.servers import serving

PATIENCE_S = 120.0


@contextmanager
def session(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own, so that all its descendants can be found."""
    log = (cwd / "output.txt").open("wb")
    with log, subprocess.Popen(
        [sys.executable, "-m", "farthing", *arguments],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            for left in members(process.pid):
                left.kill()


def members(session_id: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session_id and process.status() != "zombie":
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wchan(pid: int) -> str:
    """Where in the kernel a process waits."""
    return Path(f"/proc/{pid}/wchan").read_text()


def wait_for(session_id: int, words: str) -> psutil.Process:
    """Until a process of the session has these words in its command line."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for process in members(session_id):
            try:
                if words in " ".join(process.cmdline()):
                    return process
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)
    raise AssertionError(f"no process '{words}' was started")


def ends_without_a_trace(process: subprocess.Popen[bytes], cwd: Path) -> None:
    try:
        assert process.wait(30) == 130
    except subprocess.TimeoutExpired:
        waiting = [
            (left.pid, left.cmdline()[1:5], left.status(), wchan(left.pid), left.num_threads())
            for left in members(process.pid)
        ]
        raise AssertionError(
            f"still there: {waiting}; {(cwd / 'output.txt').read_text()}"
        ) from None
    assert members(process.pid) == []
    assert "Traceback" not in (cwd / "output.txt").read_text()


@pytest.mark.parametrize("made_of_it", ["ImportError", "RuntimeError", "KeyboardInterrupt"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_which_an_import_makes_another_error_is_one_all_the_same(
    tmp_path: Path, number: signal.Signals, made_of_it: str
) -> None:
    (tmp_path / "interrupted.py").write_text(
        "import os\n"
        f"try:\n    os.kill(os.getpid(), {int(number)}); os.wait()\n"
        f"except KeyboardInterrupt as error:\n    raise {made_of_it}('not made') from error\n"
    )
    code = (
        "import sys, farthing\n"
        "farthing._VERBS['serve'] = ('interrupted', 'serve', 'cpu', '')\n"
        "sys.exit(farthing.main(['serve']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "")


def test_an_interrupt_is_forgotten_by_the_next_verb() -> None:
    code = (
        "import contextlib, os, signal, sys, farthing\n"
        "farthing.main(['--version'])\n"
        "with contextlib.suppress(KeyboardInterrupt):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(farthing.main(['compare', 'none.json', 'none.json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "none.json" in done.stderr


@pytest.mark.parametrize("to_all", [True, False], ids=["to the group", "to the parent alone"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_the_repository_untouched(
    digits: Digits, tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    model = str(digits.data / "model.keras")
    with session("convert", model, "--name", "n", "--out", "models", cwd=tmp_path) as process:
        wait_for(process.pid, "converter.exporters")
        (os.killpg if to_all else os.kill)(process.pid, number)
        ends_without_a_trace(process, tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("processes", "to_all"), [("1", False), ("2", True)], ids=["parent alone", "group of workers"]
)
def test_an_interrupted_load_leaves_no_generator(
    double_repository: Path, tmp_path: Path, processes: str, to_all: bool
) -> None:
    with serving(double_repository) as server:
        options = ("--target", server.grpc, "--model", "double", "--seconds", "60", "--users", "2")
        with session("load", *options, "--processes", processes, cwd=tmp_path) as process:
            wait_for(process.pid, "loadtests.swarm")
            time.sleep(4.0)  # into the run: nobody else sees when all of them send
            begun = time.monotonic()
            (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
            ends_without_a_trace(process, tmp_path)
            assert time.monotonic() - begun < 8
        assert "interrupted; nothing was written" in (tmp_path / "output.txt").read_text()
        assert server.end()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_tune_leaves_the_repository_as_it_was(
    double_repository: Path, tmp_path: Path, number: signal.Signals
) -> None:
    version = double_repository / "double" / "1"
    with session("tune", "models", "--model", "double", cwd=tmp_path) as process:
        running = psutil.Process(process.pid)
        deadline = time.monotonic() + PATIENCE_S
        # Its instances are threads, and ONNX Runtime's are there before them.
        while running.num_threads() < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, number)
        ends_without_a_trace(process, tmp_path)
    assert [path.name for path in version.iterdir()] == ["model.onnx"]


def test_a_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    with session("demo", "--quick", "--directory", "demo", cwd=tmp_path) as process:
        trainer = wait_for(process.pid, "converter.zoo.digits")
        process.kill()
        process.wait(10)
        psutil.wait_procs([trainer], timeout=20)
        assert members(process.pid) == []


def test_make_interrupted_alone_ends_the_demo_too(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(
        f"demo:\n\t@{sys.executable} -m farthing demo --quick --directory demo\n"
    )
    log = (tmp_path / "output.txt").open("wb")
    with (
        log,
        subprocess.Popen(
            ["make", "demo"], start_new_session=True, stdout=log, stderr=log, cwd=tmp_path
        ) as make,
    ):
        wait_for(make.pid, "converter.zoo.digits")
        make.send_signal(signal.SIGINT)
        assert make.wait(30) != 0
        assert members(make.pid) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "during",
    ["converter.zoo.digits", "converter.exporters", "loadtests.baseline", "farthing serve",
     "loadtests.swarm"],
)  # fmt: skip
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, during: str) -> None:
    with session("demo", "--quick", "--directory", "demo", cwd=tmp_path) as process:
        wait_for(process.pid, during)
        time.sleep(1.0)  # into the step, not onto its edge
        os.killpg(process.pid, signal.SIGINT)
        ends_without_a_trace(process, tmp_path)
    models = tmp_path / "demo" / "models"
    assert not models.exists() or not [p for p in models.iterdir() if p.name.startswith(".")]
