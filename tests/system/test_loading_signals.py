"""A signal while models are being loaded ends the server at once, also inside ONNX Runtime."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import models

# Imports take less, and loading takes many times more.
LOADING_CPU_S = 4.0
PROMPTLY_S = 3.0


def until_loading(process: subprocess.Popen[str]) -> None:
    """Wait until the process has worked for longer than imports take."""
    seen = psutil.Process(process.pid)
    while process.poll() is None and sum(seen.cpu_times()[:2]) < LOADING_CPU_S:
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_ends_the_server_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    models.long_to_load(tmp_path / "models" / "folding" / "1" / "model.onnx")
    with subprocess.Popen(
        [sys.executable, "-m", "farthing", "serve", str(tmp_path / "models"), "--host",
         "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        until_loading(process)
        process.send_signal(number)
        try:
            told, log = process.communicate(timeout=PROMPTLY_S)
        finally:
            process.kill()
    assert (process.returncode, told) == (130, ""), log
    assert "interrupted while loading models" in log
    assert "Traceback" not in log
