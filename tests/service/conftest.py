"""What the tests of the service share."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service import log
from tests.service.scraped import Server
from tests.service.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A batcher's stand-ins, all runs let go at the end."""
    with ThreadPoolExecutor(4) as executor:
        made = Stage(executor)
        yield made
        made.door.release()
        made.run.release()


@pytest.fixture
def server() -> Server:
    """One server's figures, and what Prometheus sees of them."""
    return Server()


@pytest.fixture(autouse=True)
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test may fail as often as others did before it."""
    monkeypatch.setattr(log, "_exceptions", log.Sparing(60))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the log writes."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    before = log.LOGGER.handlers, log.LOGGER.propagate, log.LOGGER.level, log.levels()
    log.configure("info")
    yield written
    log.LOGGER.handlers, log.LOGGER.propagate = before[0], before[1]
    log.LOGGER.filters = []
    log.change(before[3])
    log.LOGGER.setLevel(before[2])
