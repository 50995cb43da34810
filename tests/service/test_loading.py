"""What lies in a repository and is passed over is told once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from service import layout
from service.loading import Loader
from service.settings import Settings
from service.statistics import Book
from tests import models


def test_skipped_entry_is_logged_when_it_is_new_and_not_at_every_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader = Loader(Settings(repository=tmp_path), Book(), time.monotonic)
    models.double(tmp_path / "m" / "1" / "model.onnx")
    first = models.double(tmp_path / "my net" / "1" / "model.onnx")
    loader.look()
    loader.look()
    assert caplog.messages == layout.skipped(tmp_path) != []
    models.double(tmp_path / "net" / "v1" / "model.onnx")
    loader.look()
    assert len(caplog.messages) == 2 and "'v1' is no version" in caplog.messages[1]
    first.parent.rename(tmp_path / ".away")
    loader.look()
    (tmp_path / ".away").rename(first.parent)
    loader.look()
    assert len(caplog.messages) == 3 and "my net" in caplog.messages[2]
