"""One event, one line, one JSON object."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service import log


@pytest.fixture(autouse=True)
def restored_logger() -> Iterator[None]:
    handlers, level, propagate = log.LOGGER.handlers, log.LOGGER.level, log.LOGGER.propagate
    yield
    log.LOGGER.handlers, log.LOGGER.propagate = handlers, propagate
    log.LOGGER.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert out == "", "standard output belongs to the ready line"
    return [json.loads(line) for line in err.splitlines()]


def test_event_is_one_json_line_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info")
    log.info("two\nlines", model="digits", rows=3, path=Path("m.onnx"))
    (line,) = lines(capsys)
    when = datetime.fromisoformat(line.pop("time"))
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)
    assert line == {
        "level": "info", "message": "two\nlines", "model": "digits", "rows": 3, "path": "m.onnx",
    }  # fmt: skip


def test_exception_keeps_its_traceback_on_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info")
    try:
        raise ValueError("the detail")
    except ValueError:
        log.exception("failed", method="ModelInfer")
    (line,) = lines(capsys)
    assert (line["level"], line["method"]) == ("error", "ModelInfer")
    assert "Traceback" in line["exception"] and "the detail" in line["exception"]


@pytest.mark.parametrize(
    ("level", "heard"),
    [("debug", ["info", "warning"]), ("info", ["info", "warning"]), ("warning", ["warning"]),
     ("error", [])],
)  # fmt: skip
def test_events_below_the_level_are_not_written(
    capsys: pytest.CaptureFixture[str], level: str, heard: list[str]
) -> None:
    log.configure(level)
    log.info("an event")
    log.warning("look at this")
    assert [line["level"] for line in lines(capsys)] == heard


def test_configuring_twice_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info")
    log.configure("info")
    log.info("once")
    assert len(lines(capsys)) == 1


def test_event_does_not_reach_the_root_logger(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log.configure("info")
    log.info("ours alone")
    logging.getLogger("another").warning("theirs")
    assert [record.name for record in caplog.records] == ["another"]
    assert [line["message"] for line in lines(capsys)] == ["ours alone"]
