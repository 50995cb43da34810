"""ONNX Runtime's telemetry: off in every process of ours; on without us, or this proves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import models

BARE = "import onnxruntime as ort; ort.InferenceSession({path!r})"
OURS = (
    "from pathlib import Path; from service.session import Session, SessionOptions; "
    "Session(Path({path!r}), SessionOptions())"
)
CONVERTER = "import converter.variants, onnxruntime as ort; ort.InferenceSession({path!r})"


def written_at_home(code: str, tmp_path: Path) -> list[str]:
    """The files that a process leaves behind in its home; telemetry keeps a device id there."""
    home = tmp_path / "home"
    home.mkdir()
    model = models.double(tmp_path / "model.onnx")
    # On a CI machine the telemetry is off by itself.
    unwanted = {"CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "TF_BUILD", "GITHUB_ACTIONS"}
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    subprocess.run(
        [sys.executable, "-c", code.format(path=str(model))],
        env=environment | {"HOME": str(home)}, check=True, timeout=120, capture_output=True,
    )  # fmt: skip
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


def test_bare_onnxruntime_leaves_a_device_id(tmp_path: Path) -> None:
    assert any("deviceid" in name for name in written_at_home(BARE, tmp_path))


@pytest.mark.parametrize("code", [OURS, CONVERTER], ids=["service", "converter"])
def test_our_processes_leave_nothing(tmp_path: Path, code: str) -> None:
    assert written_at_home(code, tmp_path) == []
