"""One event, one line, one JSON object."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service import log
from service.log import Levels
from tests.fakes import ManualClock


@pytest.fixture(autouse=True)
def restored_logger() -> Iterator[None]:
    logger, levels = log.LOGGER, log.levels()
    handlers, filters, level = logger.handlers, logger.filters, logger.level
    propagate = logger.propagate
    yield
    log.change(levels)
    logger.handlers, logger.filters, logger.propagate = handlers, filters, propagate
    logger.setLevel(level)


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
    [("info", ["info", "warning"]), ("warning", ["warning"]), ("error", [])],
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


def test_request_id_is_on_every_line_of_its_request(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info")
    with log.request("abc"):
        log.info("an event", rows=1)
        log.warning("look at this")
    log.info("afterwards")
    first, second, third = lines(capsys)
    assert (first["request_id"], first["rows"], second["request_id"]) == ("abc", 1, "abc")
    assert "request_id" not in third


def test_request_without_an_id_has_none_on_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info")
    with log.request(""):
        log.info("an event")
    (line,) = lines(capsys)
    assert "request_id" not in line


async def test_requests_at_the_same_time_keep_their_own_ids(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure("info")
    both = asyncio.Barrier(2)

    async def serve(identity: str) -> None:
        with log.request(identity):
            await both.wait()
            log.info(identity)

    await asyncio.gather(serve("a"), serve("b"))
    assert sorted((line["message"], line["request_id"]) for line in lines(capsys)) == [
        ("a", "a"), ("b", "b"),
    ]  # fmt: skip


async def test_who_catches_a_requests_exception_logs_it_under_its_id(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure("info")

    async def serve() -> None:
        try:
            with log.request("abc"):
                raise ValueError("the detail")
        except ValueError:
            log.exception("failed")

    await asyncio.create_task(serve())
    log.info("another task")
    failed, another = lines(capsys)
    assert (failed["message"], failed["request_id"]) == ("failed", "abc")
    assert "request_id" not in another


def test_request_id_cannot_forge_a_line_nor_fill_the_disk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure("info")
    with log.request('"}\n{"level": "error"' + "x" * 10_000):
        log.info("an event")
    (line,) = lines(capsys)
    assert line["level"] == "info" and len(line["request_id"]) == 256


@pytest.mark.parametrize(
    ("levels", "heard"),
    [
        (Levels(), ["info", "warning", "error"]),
        (Levels(info=False), ["warning", "error"]),
        (Levels(warning=False), ["info", "error"]),
        (Levels(error=False), ["info", "warning"]),
        (Levels(info=False, warning=False, error=False), []),
    ],
)
def test_each_level_is_switched_by_itself_while_running(
    capsys: pytest.CaptureFixture[str], levels: Levels, heard: list[str]
) -> None:
    log.configure("error")
    log.change(levels)
    log.info("an event")
    log.warning("look at this")
    try:
        raise ValueError("the detail")
    except ValueError:
        log.exception("failed")
    assert [line["level"] for line in lines(capsys)] == heard
    assert log.levels() == levels


def test_access_log_takes_its_share_by_lot(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info")
    draws = iter([0.0, 0.24, 0.25, 0.9])
    access = log.Access(0.25, draw=lambda: next(draws))
    assert [access.wanted() for _ in range(4)] == [True, True, False, False]
    with log.request("abc"):
        access.write("OK", model="digits", rows=3, whole_ms=1.5)
    (line,) = lines(capsys)
    del line["time"]
    assert line == {
        "level": "info", "message": "inference", "request_id": "abc", "status": "OK",
        "model": "digits", "rows": 3, "whole_ms": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("share", "levels", "wanted"),
    [
        (0.0, Levels(), False),
        (1.0, Levels(), True),
        (0.0, Levels(verbose=1), True),
        (1.0, Levels(info=False), False),
        (1.0, Levels(info=False, verbose=1), False),
    ],
)
@pytest.mark.parametrize("drawn", [0.0, 0.999999])
def test_access_log_of_all_or_none_is_no_matter_of_luck(
    share: float, levels: Levels, wanted: bool, drawn: float
) -> None:
    log.change(levels)
    assert log.Access(share, draw=lambda: drawn).wanted() is wanted


def test_silence_ends_with_the_block(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.suppress(ValueError), log.silent():
        log.warning("unheard")
        raise ValueError
    log.warning("heard")
    assert "unheard" not in caplog.messages and "heard" in caplog.messages


def test_no_more_than_so_many_lines_a_minute_and_the_next_tells_how_many_were_left_out() -> None:
    clock = ManualClock()
    sparing = log.Sparing(2, clock)
    assert [sparing.left_out() for _ in range(5)] == [0, 0, None, None, None]
    clock.advance(59.0)
    assert sparing.left_out() is None
    clock.advance(1.0)
    assert [sparing.left_out() for _ in range(3)] == [4, 0, None]


def test_callers_cannot_fill_the_disk_with_failures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.configure("info")
    clock = ManualClock()
    monkeypatch.setattr(log, "_exceptions", log.Sparing(3, clock))

    def fail(times: int) -> None:
        for _ in range(times):
            try:
                raise ValueError("the detail")
            except ValueError:
                log.exception("failed")

    fail(100)
    clock.advance(60.0)
    fail(1)
    written = lines(capsys)
    assert len(written) == 4
    assert [line.get("left_out") for line in written] == [None, None, None, 97]


def test_callers_who_leave_make_no_errors_of_grpcs_and_other_lines_of_it_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_libraries", log.Sparing(2, ManualClock()))
    log.configure("info")
    library = logging.getLogger("grpc._cython.cygrpc")
    left = type("ExecuteBatchError", (Exception,), {})
    for error in (left("nobody is there"), ValueError("a fault"), left(), KeyError(), KeyError()):
        try:
            raise error
        except Exception:
            library.exception("raised in core")
    told = lines(capsys)
    assert ["ValueError" in line["exception"] for line in told] == [True, False]
    assert not any("ExecuteBatchError" in line["exception"] for line in told)
    try:
        raise ValueError("ours")
    except ValueError:
        log.exception("failed")
    (own,) = lines(capsys)
    assert own["message"] == "failed"
