"""What lies in a repository and is passed over is told once."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
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


@pytest.fixture
def somebody() -> Iterator[int]:
    """Who we are is not root, who may read everything; the user's id."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield os.geteuid()
    finally:
        os.seteuid(before)


def test_file_that_may_not_be_read_is_told_with_whom_it_is_kept_from(somebody: int) -> None:
    # Not in a directory of pytest's, which may be root's alone.
    with tempfile.TemporaryDirectory() as root:
        path = models.double(Path(root) / "m" / "1" / "model.onnx")
        path.chmod(0)
        loaded = Loader(Settings(repository=Path(root)), Book(), time.monotonic).load("m", {})
    assert str(loaded.failures["1"]) == (
        f"{path} cannot be read: Permission denied; let the user with the id {somebody} read it"
    )
    assert loaded.failures["1"].told == "its files cannot be read"
