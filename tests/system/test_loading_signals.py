"""A signal while models are being loaded ends the server at once, also inside ONNX Runtime."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import models

# Loading takes longer on any machine, and is not waited for.
PROMPTLY_S = 15.0
# The main thread, that which loads, and one that ONNX Runtime makes to load with.
LOADING_THREADS = 3


def until_loading(process: subprocess.Popen[str]) -> None:
    """Wait until ONNX Runtime is at work."""
    seen, until = psutil.Process(process.pid), time.monotonic() + 60
    while process.poll() is None and seen.num_threads() < LOADING_THREADS:
        assert time.monotonic() < until, "it never began to load"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_ends_the_server_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    models.long_to_load(tmp_path / "models" / "folding" / "1" / "model.onnx")
    with subprocess.Popen(
        [sys.executable, "-m", "farthing", "serve", str(tmp_path / "models"), "--host",
         "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0", "--threads", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads are none that load
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
