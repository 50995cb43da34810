"""What ModelStatistics tells of a stretch of time."""

from __future__ import annotations

import pytest

from loadtests.pricing import runs
from service.proto import inference_pb2 as pb


def statistics(*, sizes: dict[int, tuple[int, float]], queued: tuple[int, float] = (0, 0.0)):
    """Sizes: rows -> (runs, seconds of each of input, infer and output in all)."""
    made = pb.ModelStatistics(name="net")
    for rows, (count, seconds) in sizes.items():
        size = made.batch_stats.add(batch_size=rows)
        for part in (size.compute_input, size.compute_infer, size.compute_output):
            part.count, part.ns = count, int(1e9 * seconds)
    made.inference_stats.queue.count = queued[0]
    made.inference_stats.queue.ns = int(1e9 * queued[1])
    return made


BEFORE = statistics(sizes={1: (10, 0.1)}, queued=(10, 1.0))
AFTER = statistics(sizes={1: (30, 0.3), 4: (5, 0.2)}, queued=(30, 2.0))


def test_runs_are_those_between_by_size_with_the_mean_of_their_whole_time() -> None:
    assert runs.sizes([BEFORE], [AFTER]) == {
        1: (20, pytest.approx(3 * 0.2 / 20)),
        4: (5, pytest.approx(3 * 0.2 / 5)),
    }


def test_sizes_that_did_not_run_between_are_left_out() -> None:
    assert runs.sizes([AFTER], [AFTER]) == {}


def test_replicas_add_up() -> None:
    assert runs.sizes([BEFORE, BEFORE], [AFTER, AFTER])[4] == (10, pytest.approx(3 * 0.4 / 10))


def test_phases_are_means_of_what_was_answered_between() -> None:
    assert runs.phases([BEFORE], [AFTER]) == {"queue": pytest.approx(0.05)}


def test_a_server_without_statistics_has_neither() -> None:
    assert runs.sizes([], []) == {}
    assert runs.phases([], []) is None
