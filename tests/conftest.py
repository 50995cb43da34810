"""What many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import models


@pytest.fixture
def double_repository(tmp_path: Path) -> Path:
    """A repository with one bare ONNX model, ``double``."""
    models.double(tmp_path / "models" / "double" / "1" / "model.onnx")
    return tmp_path / "models"
