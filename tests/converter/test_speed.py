"""Timing beside fp32: what is measured, never how much."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from converter import speed
from service.session import Session, SessionOptions
from tests import models

ROW = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(models.double(tmp_path / "double.onnx"), SessionOptions(threads=1))


def test_speed_is_measured_at_both_batches_even_from_one_row(session: Session) -> None:
    figures = speed.speed_up(session, session, ROW, rounds=speed.FEW_ROUNDS)
    assert set(figures) == {
        "speedup_batch_1", "speedup_batch_1_low", "ms_batch_1",
        "speedup_batch_8", "speedup_batch_8_low", "ms_batch_8",
    }  # fmt: skip
    assert speed.least(figures) <= figures["speedup_batch_1"]
    assert all(value > 0 for value in figures.values())


def test_the_least_of_the_gated_ratios_counts() -> None:
    figures = {
        "speedup_batch_1": 3.0, "speedup_batch_1_low": 2.5,
        "speedup_batch_8": 1.2, "speedup_batch_8_low": 1.1, "ms_batch_1": 0.1,
    }  # fmt: skip
    assert speed.least(figures) == 1.1


class Watched(Session):
    """A session that writes down what it is asked, and in which order."""

    def __init__(self, path: Path, name: str, asked: list[tuple[str, int]]) -> None:
        super().__init__(path, SessionOptions(threads=1))
        self._name, self._asked = name, asked

    def run(self, feeds: speed.Arrays) -> speed.Arrays:
        self._asked.append((self._name, len(feeds["x"])))
        return super().run(feeds)


def test_both_take_turns_at_each_batch(tmp_path: Path) -> None:
    path = models.double(tmp_path / "double.onnx")
    asked: list[tuple[str, int]] = []
    fp32, int8 = (Watched(path, name, asked) for name in ("fp32", "int8"))
    speed.speed_up(fp32, int8, ROW, rounds=4)
    assert {rows for _, rows in asked} == {1, 8}
    for batch in speed.BATCHES:
        names = [name for name, rows in asked if rows == batch]
        turns = 1 + sum(one != other for one, other in pairwise(names))
        assert turns == 2 * (1 + 4)  # a warm-up, then the rounds
