"""The zoo's data: the same disjoint rows on every call."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from converter.zoo import digits


@pytest.fixture(scope="module")
def split() -> digits.Split:
    return digits.load()


def row_digests(x: np.ndarray) -> list[str]:
    return [hashlib.sha256(row.tobytes()).hexdigest() for row in x]


def test_no_scan_is_in_two_parts_or_twice_in_one(split: digits.Split) -> None:
    parts = (split.train, split.calibration, split.held_out)
    digests = [digest for x, _ in parts for digest in row_digests(x)]
    assert len(set(digests)) == len(digests) > 1700


def test_held_out_and_calibration_have_their_sizes(split: digits.Split) -> None:
    assert len(split.held_out[0]) == len(split.held_out[1]) == 600
    assert len(split.calibration[0]) == len(split.calibration[1]) == 200
    assert len(split.train[0]) == len(split.train[1]) > 900


def test_rows_are_what_the_net_takes(split: digits.Split) -> None:
    for x, y in (split.train, split.calibration, split.held_out):
        assert (x.shape[1:], x.dtype) == ((32, 32, 1), np.float32)
        assert 0 <= x.min() < x.max() <= 1
        assert set(y.tolist()) == set(range(10))


def test_every_call_gives_the_same_split(split: digits.Split) -> None:
    again = digits.load()
    for name in ("train", "calibration", "held_out"):
        (x, y), (x_again, y_again) = getattr(split, name), getattr(again, name)
        assert row_digests(x) == row_digests(x_again)
        assert y.tolist() == y_again.tolist()
